//! The tables that policies may look keys up in, from a file of the operator's.

use std::collections::HashMap;
use std::path::Path;

use crate::PolicyError;
use crate::guest::Tables;

/// Longest file, bytes.
const MOST: u64 = 64 << 20;

/// Reads the tables; none when no file is named.
pub(crate) fn load(path: &Path) -> Result<Tables, PolicyError> {
    if path.as_os_str().is_empty() {
        return Ok(Tables::new());
    }
    let failed = |source| PolicyError::File {
        what: "cannot read the tables of policies in",
        path: path.to_owned(),
        source,
    };
    let invalid = |reason: String| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
    if std::fs::metadata(path).map_err(failed)?.len() > MOST {
        return Err(invalid(format!("it is longer than {MOST} bytes")));
    }
    let text = std::fs::read(path).map_err(failed)?;
    let tables: HashMap<String, HashMap<String, i64>> =
        serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    let mut read = Tables::new();
    for (name, table) in tables {
        let mut entries = HashMap::with_capacity(table.len());
        for (key, value) in table {
            let number = key.parse().map_err(|_| {
                invalid(format!("the key `{key}` of table `{name}` is no number from 0 to {}", u64::MAX))
            })?;
            entries.insert(number, value);
        }
        read.insert(name, entries);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_numbers_and_errors_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tables.json");
        assert!(load(Path::new("")).unwrap().is_empty());
        std::fs::write(&path, r#"{"costs": {"18446744073709551615": -3, "0": 7}}"#).unwrap();
        let tables = load(&path).unwrap();
        assert_eq!((tables["costs"][&u64::MAX], tables["costs"][&0]), (-3, 7));
        std::fs::write(&path, r#"{"costs": {"x1": 1}}"#).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("`x1`") && error.contains("tables.json"), "{error}");
        assert!(load(&folder.path().join("none")).is_err());
    }
}

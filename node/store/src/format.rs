//! The on-disk format of a store, which has a number: the file `format` in `data_dir`.
//!
//! A node that finds a higher number than it knows opens nothing. So that the version before can still be
//! gone back to, a format is read by one version and written by the next: [`WRITES`] follows [`READS`].
//!
//! The number goes up when an older version would misread, lose or reject what a newer one writes: a record
//! of another shape, a chunk with another seal, a setting of RocksDB that older ones do not know. A table
//! more needs no other number: versions that do not know it leave it alone.

use std::fs;
use std::io;
use std::path::Path;

use skerry_core::files;

use crate::StoreError;

/// What this version writes.
const WRITES: u32 = 1;
/// The latest that it can read.
const READS: u32 = 1;
const FILE: &str = "format";

/// Looks whether this version may open the store of a folder, and says that it wrote to it. Blocks for the disk.
///
/// # Errors
/// When a newer version wrote to it, or the number cannot be read or written; nothing was changed then.
pub(crate) fn check(data_dir: &Path) -> Result<(), StoreError> {
    let path = data_dir.join(FILE);
    let failed = |reason: String| StoreError::FormatFile { path: path.clone(), reason };
    let found = match fs::read_to_string(&path) {
        // Nothing was written yet, or by a version that did not number what is format 1.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error.to_string())),
        Ok(text) => {
            let number = text.trim().parse::<u32>();
            Some(number.map_err(|_| {
                failed(format!("{:?} is no number", text.chars().take(40).collect::<String>()))
            })?)
        }
    };
    match found {
        Some(found) if found > READS => {
            Err(StoreError::Format { path: data_dir.to_owned(), found, known: READS })
        }
        Some(found) if found >= WRITES => Ok(()),
        // Before anything of it is written.
        _ => {
            files::replace(&path, format!("{WRITES}\n").as_bytes()).map_err(|error| failed(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_reads_what_is_written() {
        const { assert!(WRITES <= READS) };
    }

    #[test]
    fn a_store_is_given_the_number_that_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        check(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{WRITES}\n"));
        check(folder.path()).unwrap();
        fs::write(&path, "0").unwrap();
        check(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{WRITES}\n"));
    }

    #[test]
    fn a_newer_one_and_what_is_no_number_are_refused_and_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        for (text, words) in [
            (
                format!("{}\n", READS + 1),
                format!("has format {}, and this version reads up to {READS}", READS + 1),
            ),
            ("\u{1}one".into(), "is no number".into()),
        ] {
            fs::write(folder.path().join(FILE), &text).unwrap();
            let error = check(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&words), "{error}");
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), text);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}

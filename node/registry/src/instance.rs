//! The number of a machine: random, made at its first start and kept in its data folder, so that a restart is
//! told from a second machine with the same id.

use std::path::Path;
use std::{fs, io};

use crate::{hex, random};

/// In the node's `data_dir`.
const FILE: &str = "instance";

/// The number of the machine with this data folder. One that cannot be kept is another one at the next
/// start: the node is then let in once the process before counts as gone.
///
/// # Errors
/// When the system gives no random numbers.
pub(crate) fn of(data_dir: &Path) -> io::Result<u64> {
    let path = data_dir.join(FILE);
    if let Some(kept) = fs::read_to_string(&path).ok().and_then(|text| hex::decode(text.trim())) {
        return Ok(u64::from_be_bytes(kept));
    }
    let number: [u8; 8] = random::bytes()?;
    let new = data_dir.join(format!("{FILE}.new"));
    let written = fs::write(&new, hex::encode(&number) + "\n").and_then(|()| fs::rename(&new, &path));
    if let Err(error) = written {
        log::warn!("the number of this machine cannot be kept in {}: {error}", path.display());
    }
    Ok(u64::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_with_the_data_folder() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let number = of(one.path()).unwrap();
        assert_eq!(of(one.path()).unwrap(), number);
        assert_ne!(of(other.path()).unwrap(), number);
        // What a crash left of it is no number.
        fs::write(one.path().join(FILE), "12").unwrap();
        let again = of(one.path()).unwrap();
        assert_ne!(again, number);
        assert_eq!(of(one.path()).unwrap(), again);
        // Without a folder it is another one each time.
        let none = one.path().join("none");
        assert_ne!(of(&none).unwrap(), of(&none).unwrap());
    }
}

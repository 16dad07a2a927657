//! Files that a power cut leaves whole, and files of strangers that are read within bounds.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Writes a file so that a reader, and the next boot after a power cut, finds all of it or what was there.
/// With a group the file belongs to it; its folder must be there.
///
/// # Errors
/// When it cannot be written; what was there is still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    replace_owned(path, bytes, mode, None, group)
}

/// As [`replace`], for a user too: it is theirs from its beginning.
///
/// # Errors
/// As for [`replace`].
pub fn replace_owned(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    user: Option<u32>,
    group: Option<u32>,
) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file has a folder and a name"));
    };
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    let part = folder.join(part);
    // Of an attempt that a power cut ended.
    let _ = fs::remove_file(&part);
    let written = write_new(&part, bytes, mode, (user, group)).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written?;
    // The new name is on the disk when its folder is.
    File::open(folder)?.sync_all()
}

fn write_new(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    (user, group): (Option<u32>, Option<u32>),
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if user.is_some() || group.is_some() {
        fchown(&file, user, group)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes a folder and those above it; it alone gets the mode and the group.
///
/// # Errors
/// When it cannot be made.
pub fn make_dir(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let folder = File::open(path)?;
    if group.is_some() {
        fchown(&folder, None, group)?;
    }
    folder.set_permissions(Permissions::from_mode(mode))
}

/// Removes a file that need not be there.
///
/// # Errors
/// When it is still there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a file of at most so many bytes.
///
/// # Errors
/// `InvalidData` when it is longer, else what the system says.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {most} bytes")));
    }
    Ok(bytes)
}

/// A file that need not be there, as text; what is no UTF-8 becomes replacement characters.
pub fn text(path: &Path, most: u64) -> Option<String> {
    read(path, most).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(folder.path().join(".a.part"), "left behind").unwrap();
        replace(&path, b"one", 0o640, None).unwrap();
        replace(&path, b"two", 0o640, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        // A folder in the way: nothing is left behind.
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/c"), "").unwrap();
        assert!(replace(&folder.path().join("b"), b"three", 0o600, None).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(text(&path, 4), None);
        assert!(read(Path::new("/dev/zero"), 1000).is_err());
    }
}

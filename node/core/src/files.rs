//! Files that a power cut leaves whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file that is whole or not there, and waits for the disk. Beside it, under its name with the
/// ending `new`, a power cut may leave a part.
///
/// # Errors
/// When it cannot be written; what was there is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    // The name is on disk with its folder.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

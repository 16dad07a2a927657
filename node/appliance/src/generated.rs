//! Files that are made from the configuration and read by systemd until the machine is switched off.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::files;

/// Begins every file that is made: who finds it should know where to change it.
pub const HEADER: &str = "# Made from /etc/skerry/skerry.toml by skerry-box.\n";

/// Largest file that is compared with what it should be, bytes.
const MOST: u64 = 1 << 20;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Its path, below the folder that [`write()`] is given.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl Generated {
    /// A file with the [`HEADER`].
    pub fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        Self { path: path.into(), text: format!("{HEADER}{text}") }
    }
}

/// Makes the files below a folder what they should be: writes those that differ, and removes those of `ours`
/// that are made no more. `ours` are all paths that were ever made here, with `*` for a part of a name.
///
/// Returns whether anything changed.
///
/// # Errors
/// When one cannot be written or removed; those before it stand.
pub fn write(folder: &Path, made: &[Generated], ours: &[&str]) -> io::Result<bool> {
    let mut changed = false;
    for file in made {
        let path = folder.join(&file.path);
        if files::read(&path, MOST).is_ok_and(|bytes| bytes == file.text.as_bytes()) {
            continue;
        }
        if let Some(folder) = path.parent() {
            files::make_dir(folder, 0o755, None)?;
        }
        files::replace(&path, file.text.as_bytes(), 0o644, None)?;
        changed = true;
    }
    let wanted: BTreeSet<PathBuf> = made.iter().map(|file| folder.join(&file.path)).collect();
    for pattern in ours {
        let pattern = folder.join(pattern);
        let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name()) else { continue };
        let name = name.to_string_lossy();
        let (prefix, suffix) = name.split_once('*').unwrap_or((&name, ""));
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let found = entry.file_name();
            let found = found.to_string_lossy();
            let rest = found.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            let matches = rest.is_some_and(|rest| rest.is_empty() || name.contains('*'));
            if matches && !wanted.contains(&entry.path()) {
                std::fs::remove_file(entry.path())?;
                changed = true;
            }
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_what_they_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let ours = ["10-skerry-*.network", "a.d/50-skerry.conf"];
        let made =
            [Generated::new("10-skerry-a.network", "a\n"), Generated::new("a.d/50-skerry.conf", "b\n")];
        assert!(write(folder.path(), &made, &ours).unwrap());
        assert!(!write(folder.path(), &made, &ours).unwrap());
        assert_eq!(std::fs::read_to_string(at("a.d/50-skerry.conf")).unwrap(), format!("{HEADER}b\n"));
        // Files of others stay.
        for path in ["10-skerry-b.network", "20-other.network", "a.d/50-skerry.conf.d", "a.d/60-other.conf"] {
            std::fs::write(at(path), "").unwrap();
        }
        assert!(write(folder.path(), &made[..1], &ours).unwrap());
        assert!(at("10-skerry-a.network").exists() && at("20-other.network").exists());
        assert!(at("a.d/60-other.conf").exists() && at("a.d/50-skerry.conf.d").exists());
        assert!(!at("10-skerry-b.network").exists() && !at("a.d/50-skerry.conf").exists());
        assert!(!write(folder.path(), &made[..1], &ours).unwrap());
        assert!(!write(&at("nowhere"), &[], &ours).unwrap());
    }
}

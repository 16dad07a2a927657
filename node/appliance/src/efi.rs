//! Variables of the firmware, as efivarfs shows them: four bytes of attributes, then the value.
//!
//! Texts are UTF-16, little-endian (UEFI 2.10 §2.3.1). Where there is no such file system the machine was
//! not booted by UEFI, and no variable is there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;

use crate::files;
use crate::layout::Layout;

/// Whose variables: systemd-boot and the boot loader interface.
pub const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Whose variables: systemd.
pub const SYSTEMD: &str = "8cf2644b-4b0b-428f-9387-6d876050dc67";

/// Non-volatile, seen by boot services and at run time.
const ATTRIBUTES: u32 = 0x7;
/// Longest value that is read, bytes.
const MOST: u64 = 8 << 10;

fn path(layout: &Layout, name: &str, vendor: &str) -> PathBuf {
    layout.at(format!("sys/firmware/efi/efivars/{name}-{vendor}"))
}

/// Whether the variable is there.
pub fn exists(layout: &Layout, name: &str, vendor: &str) -> bool {
    path(layout, name, vendor).exists()
}

/// A variable that is a text, without its end.
pub fn text(layout: &Layout, name: &str, vendor: &str) -> Option<String> {
    let bytes = files::read(&path(layout, name, vendor), MOST).ok()?;
    let units = bytes.get(4..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Some(String::from_utf16_lossy(&units))
}

/// Sets a variable to a text.
///
/// # Errors
/// When the machine was not booted by UEFI, or its firmware refuses.
pub fn set_text(layout: &Layout, name: &str, vendor: &str, text: &str) -> io::Result<()> {
    let path = path(layout, name, vendor);
    unlock(&path)?;
    let mut value = ATTRIBUTES.to_le_bytes().to_vec();
    value.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    // The firmware takes a value in one piece.
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
    match file.write(&value)? {
        written if written == value.len() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the firmware took half of a value")),
    }
}

/// Removes a variable, if it is there.
///
/// # Errors
/// When the firmware refuses.
pub fn forget(layout: &Layout, name: &str, vendor: &str) -> io::Result<()> {
    let path = path(layout, name, vendor);
    unlock(&path)?;
    files::remove(&path)
}

/// Takes away what the kernel keeps variables from being removed by mistake with.
fn unlock(path: &Path) -> io::Result<()> {
    let Ok(file) = fs::File::open(path) else { return Ok(()) };
    let flags = rustix::fs::ioctl_getflags(&file).unwrap_or(IFlags::empty());
    if flags.contains(IFlags::IMMUTABLE) {
        rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_and_read() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        assert!(set_text(&layout, "FactoryReset", SYSTEMD, "yes").is_err());
        fs::create_dir_all(root.path().join("sys/firmware/efi/efivars")).unwrap();
        assert!(!exists(&layout, "FactoryReset", SYSTEMD));
        set_text(&layout, "FactoryReset", SYSTEMD, "yes").unwrap();
        let bytes = fs::read(path(&layout, "FactoryReset", SYSTEMD)).unwrap();
        assert_eq!(bytes, b"\x07\0\0\0y\0e\0s\0\0\0");
        assert_eq!(text(&layout, "FactoryReset", SYSTEMD).as_deref(), Some("yes"));
        forget(&layout, "FactoryReset", SYSTEMD).unwrap();
        assert!(!exists(&layout, "FactoryReset", SYSTEMD));
        forget(&layout, "FactoryReset", SYSTEMD).unwrap();
    }

    #[test]
    fn a_value_that_is_none_is_no_text() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        fs::create_dir_all(root.path().join("sys/firmware/efi/efivars")).unwrap();
        for (bytes, read) in
            [(&b""[..], None), (b"\x07\0\0", None), (b"\x07\0\0\0", Some("")), (b"\x07\0\0\0a\0b", Some("a"))]
        {
            fs::write(path(&layout, "A", LOADER), bytes).unwrap();
            assert_eq!(text(&layout, "A", LOADER).as_deref(), read, "{bytes:?}");
        }
    }
}

//! The machine id (machine-id(5)): made on the box, never in the image, and the same after every update.
//!
//! It is kept on `/var`, since the root is read-only. `skerry-box machine-id` runs in the initrd, once `/var`
//! is mounted below `/sysroot`: it writes the id to `/run/machine-id`, which moves on to the real system, and
//! mounts that file, read-only, over the empty `/sysroot/etc/machine-id`. systemd does just that for a root
//! that it cannot write to, but with an id that changes; here it finds a valid one and asks no other source.
//! A bind mount of the file on `/var` would do too, and would keep `/var` busy until the very end of a
//! shutdown; `systemd.machine_id=` is no way, since the command line is signed and the same for all boxes.

use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount_bind, mount_remount};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::files;

/// Where the id is kept, below the root.
const KEPT: &str = "var/lib/skerry-box/machine-id";

/// Whether a text is an id as systemd writes one: 32 lower-case hex digits, not all of them zero.
pub fn is_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|byte| byte != b'0')
}

/// The id of the box whose root is `sysroot`, made when there is none; it is written to `run` too.
///
/// # Errors
/// When it can be neither read nor kept.
pub fn settle(sysroot: &Path, run: &Path) -> io::Result<String> {
    let kept = sysroot.join(KEPT);
    let known = files::text(&kept, 64).map(|text| text.trim().to_owned()).filter(|text| is_id(text));
    let id = match known {
        Some(id) => id,
        None => {
            let id = make()?;
            if let Some(folder) = kept.parent() {
                files::make_dir(folder, 0o711, None)?;
            }
            files::replace(&kept, format!("{id}\n").as_bytes(), 0o444, None)?;
            id
        }
    };
    files::replace(&run.join("machine-id"), format!("{id}\n").as_bytes(), 0o444, None)?;
    Ok(id)
}

/// Gives the id in `run` to the system below `sysroot`.
///
/// # Errors
/// When it cannot be mounted: `/sysroot/etc/machine-id` must be there, empty.
pub fn hand_over(sysroot: &Path, run: &Path) -> io::Result<()> {
    let target = sysroot.join("etc/machine-id");
    mount_bind(run.join("machine-id"), &target)?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount_remount(&target, flags, "")?)
}

/// 128 random bits, of which six say that they are random (RFC 9562 §5.4), as systemd's are.
fn make() -> io::Result<String> {
    let mut bytes = [0; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty())?;
    if filled != bytes.len() {
        return Err(io::Error::other("the kernel gave no random bytes"));
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_id_is_made_once() {
        let root = tempfile::tempdir().unwrap();
        let (sysroot, run) = (root.path().join("sysroot"), root.path().join("run"));
        fs::create_dir_all(&run).unwrap();
        let id = settle(&sysroot, &run).unwrap();
        assert!(is_id(&id) && &id[12..13] == "4" && matches!(&id[16..17], "8" | "9" | "a" | "b"), "{id}");
        assert_eq!(fs::read_to_string(run.join("machine-id")).unwrap(), format!("{id}\n"));
        fs::remove_file(run.join("machine-id")).unwrap();
        assert_eq!(settle(&sysroot, &run).unwrap(), id);
        assert_ne!(make().unwrap(), make().unwrap());
    }

    #[test]
    fn what_is_no_id_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let kept = root.path().join(KEPT);
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        let uninitialized = "0".repeat(32);
        for text in ["", "uninitialized\n", "0123", uninitialized.as_str(), &"A".repeat(32), &"a".repeat(100)]
        {
            fs::remove_file(&kept).ok();
            fs::write(&kept, text).unwrap();
            let id = settle(root.path(), root.path()).unwrap();
            assert!(is_id(&id) && !text.contains(&id), "{text}");
        }
    }
}

//! An update on a stick, copied to where systemd-sysupdate checks it.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use crate::facts::Image;
use crate::fat::Volume;
use crate::layout::Layout;
use crate::{disk, files, process, rollback};

/// The folder of a stick that updates are in.
const FOLDER: &str = "update";
/// What is signed, and its signature.
const SUMS: [&str; 2] = ["SHA256SUMS", "SHA256SUMS.gpg"];
/// Longest of both, bytes.
const MOST_SUMS: u64 = 1 << 20;
/// Longest version, bytes: its kernel image and its partitions, which are 200 MB at most.
const MOST: u64 = 1 << 30;
/// Whom systemd-sysupdate believes, too.
const KEYRING: &str = "usr/lib/systemd/import-pubring.gpg";
/// How long a signature may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first stick that has updates, and its device.
pub(super) fn find(layout: &Layout) -> Option<(Volume, String)> {
    disk::stick(layout, &format!("{FOLDER}/{}", SUMS[0]))
}

/// Copies the newest version that is newer than what runs and did not fail; gives it, `None` without one. Its list
/// is believed when it is signed, so that nobody else fills the disk; of the files nothing is believed yet.
pub(super) fn take(
    layout: &Layout,
    stick: &Volume,
    image: &Image,
    to: &Path,
) -> Result<Option<String>, String> {
    files::make_dir(to, 0o700, None).map_err(|error| format!("cannot make {}: {error}", to.display()))?;
    for name in SUMS {
        copy(stick, name, to, MOST_SUMS)?;
    }
    signed(layout, to)?;
    let sums = files::text(&to.join(SUMS[0]), MOST_SUMS).unwrap_or_default();
    let failed = rollback::failed(layout, &image.version).map(|failed| failed.version);
    let all: Vec<(&str, &str)> = sums.lines().filter_map(|line| listed(line, &image.id)).collect();
    let fresh = all
        .iter()
        .map(|(version, _)| *version)
        .filter(|version| rollback::newer(version, &image.version) && failed.as_deref() != Some(*version));
    let newest = fresh.reduce(|one, other| if rollback::newer(other, one) { other } else { one });
    let Some(newest) = newest else { return Ok(None) };
    let mut left = MOST;
    for (_, name) in all.iter().filter(|(version, _)| *version == newest) {
        left -= copy(stick, name, to, left)?;
    }
    Ok(Some(newest.to_owned()))
}

/// Version and name of a file in a line `HEX *NAME`: of a kernel image, or of a partition of an image for
/// this machine. Whole images and what else stands beside them are not needed.
fn listed<'a>(line: &'a str, image_id: &str) -> Option<(&'a str, &'a str)> {
    let (_, name) = line.split_once(' ')?;
    let name = name.strip_prefix(['*', ' '])?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    if name.len() > 200 || !name.bytes().all(plain) {
        return None;
    }
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm64",
        other => other,
    };
    let rest = name.strip_prefix(image_id)?.strip_prefix('_')?;
    let (version, kind) = rest.split_once(&format!("_{machine}."))?;
    let wanted = kind == "efi" || kind.starts_with("root-") && kind.ends_with(".raw");
    (wanted && !version.is_empty()).then_some((version, name))
}

/// Whether the list is one of who signs versions of this image.
fn signed(layout: &Layout, folder: &Path) -> Result<(), String> {
    let home = folder.join("gnupg");
    files::make_dir(&home, 0o700, None).map_err(|error| error.to_string())?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (list, signature) = (text(&folder.join(SUMS[0])), text(&folder.join(SUMS[1])));
    let (home_text, keyring) = (text(&home), text(&layout.at(KEYRING)));
    let arguments =
        ["--batch", "--no-options", "--no-default-keyring", "--trust-model=always", "--homedir", &home_text];
    let arguments = [&arguments[..], &["--keyring", &keyring, "--verify", &signature, &list]].concat();
    let ended =
        process::run(&layout.at("usr/bin/gpg"), &arguments, PATIENCE).map_err(|error| error.to_string())?;
    let _ = fs::remove_dir_all(&home);
    if ended.status.success() {
        return Ok(());
    }
    log::warn!("{}", ended.stderr.trim());
    Err(format!("{FOLDER}/{} is not signed by who signs versions of this image", SUMS[0]))
}

/// How many bytes it has.
fn copy(stick: &Volume, name: &str, to: &Path, most: u64) -> Result<u64, String> {
    let path = format!("{FOLDER}/{name}");
    let copied = File::create_new(to.join(name))
        .map_err(|error| error.to_string())
        .and_then(|mut file| stick.copy(&path, &mut file, most).map_err(|error| error.to_string()));
    match copied {
        Ok(Some(length)) => Ok(length),
        Ok(None) => Err(format!("{path} is missing")),
        Err(words) => Err(format!("{path}: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_image_are_told_from_others() {
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86-64" };
        let version = |name: &str| {
            let line = format!("{} {name}", "a".repeat(64));
            listed(&line, "skerry").map(|(version, _)| version.to_owned())
        };
        let root = format!("root-{machine}.0f.raw");
        for (name, found) in [
            (format!("*skerry_2_{machine}.efi"), Some("2")),
            (format!(" skerry_0.2.1_{machine}.{root}"), Some("0.2.1")),
            (format!("*skerry_2_{machine}.raw"), None),
            (format!("*skerry_2_{machine}.manifest"), None),
            (format!("*skerry__{machine}.efi"), None),
            (format!("*other_2_{machine}.efi"), None),
            ("*skerry_2_m68k.efi".to_owned(), None),
            (format!("*../skerry_2_{machine}.efi"), None),
            (format!("*skerry_2/../_{machine}.efi"), None),
            (format!("skerry_2_{machine}.efi"), None),
            (String::new(), None),
        ] {
            assert_eq!(version(&name).as_deref(), found, "{name}");
        }
    }
}

//! Back to the version before: `skerry-box rollback`, and what is told of it afterwards.
//!
//! A version that is on [`crate::trial`] and whose health check fails is left at once: it has a word for the
//! next boot, gives up its tries, and reboots. One that cannot do that, since it panics, hangs or does not
//! come so far, loses a try with each boot. Only a trial ends like that: a box never reboots because of its
//! network.

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::facts::Image;
use crate::layout::Layout;
use crate::{facts, files, status, trial};

/// A version that the box came back from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    /// Version of the image.
    pub version: String,
    /// What was wrong with it.
    pub reason: String,
    /// When it was left, seconds since 1970; 0 where nothing told.
    pub at: u64,
}

/// Leaves a word for the next boot. Whoever calls it reboots then.
///
/// # Errors
/// When the word cannot be left; the reboot is right all the same.
pub fn note(layout: &Layout, reason: &str) -> io::Result<Failed> {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let failed = Failed { version: facts::image(layout).version, reason: status::clean(reason, 400), at };
    files::make_dir(&layout.state(), 0o711, None)?;
    files::replace(&note_path(layout), &serde_json::to_vec(&failed)?, 0o600, None)?;
    Ok(failed)
}

/// Forgets the word when what runs is not older than what it tells of: after a boot that proved good.
pub fn forget(layout: &Layout) {
    let running = facts::image(layout).version;
    if left(layout).is_some_and(|failed| !newer(&failed.version, &running)) {
        let _ = std::fs::remove_file(note_path(layout));
    }
}

/// The newest version that is newer than the one that runs and that did not prove good: by the word that it
/// left, or by the tries that are used up, where it could not leave any.
pub fn failed(layout: &Layout, running: &str) -> Option<Failed> {
    if running.is_empty() {
        return None;
    }
    let left = left(layout);
    let used_up = trial::entries(layout, &facts::image(layout)).into_iter().filter(|entry| !entry.may_boot());
    let silent = used_up.map(|entry| match &left {
        Some(failed) if failed.version == entry.version => failed.clone(),
        _ => Failed { version: entry.version, reason: "it did not come up".into(), at: 0 },
    });
    let all = silent.chain(left.clone()).filter(|failed| newer(&failed.version, running));
    all.reduce(|one, other| if newer(&other.version, &one.version) { other } else { one })
}

/// The newest installed version that is newer than the one that runs, may be booted, and was not kept yet.
///
/// While one that was kept may be booted, the loader prefers it to older ones: whoever runs an older one chose that
/// in the boot menu, and is not to be overruled.
pub fn waiting(layout: &Layout, image: &Image) -> Option<String> {
    let all = trial::entries(layout, image).into_iter();
    let fresh =
        all.filter(|entry| entry.is_new() && entry.may_boot() && newer(&entry.version, &image.version));
    let newest =
        fresh.map(|entry| entry.version).reduce(|one, other| if newer(&other, &one) { other } else { one });
    let failed = failed(layout, &image.version);
    newest.filter(|version| failed.is_none_or(|failed| failed.version != *version))
}

fn left(layout: &Layout) -> Option<Failed> {
    let text = files::text(&note_path(layout), 16 << 10)?;
    serde_json::from_str::<Failed>(&text).ok().filter(|failed| !failed.version.is_empty())
}

fn note_path(layout: &Layout) -> PathBuf {
    layout.state().join("rolled-back.json")
}

/// Whether one version comes after another: runs of digits count as numbers, other runs as texts.
pub fn newer(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (runs(one), runs(other));
    loop {
        let order = match (one.next(), other.next()) {
            (None, _) => return false,
            (Some(_), None) => return true,
            (Some(one), Some(other)) => match (one.parse::<u64>(), other.parse::<u64>()) {
                (Ok(one), Ok(other)) => one.cmp(&other),
                _ => one.cmp(other),
            },
        };
        if order != Ordering::Equal {
            return order == Ordering::Greater;
        }
    }
}

/// A version in runs of digits and of what is none.
fn runs(version: &str) -> impl Iterator<Item = &str> {
    let mut rest = version;
    std::iter::from_fn(move || {
        let digit = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::trial::tests::{machine, run};

    #[test]
    fn versions_are_in_order() {
        for (one, other) in
            [("2", "1"), ("10", "9"), ("0.1.10", "0.1.9"), ("1.1", "1"), ("2026.2", "2025.11"), ("1b", "1a")]
        {
            assert!(newer(one, other) && !newer(other, one), "{one} {other}");
        }
        assert!(!newer("3", "3") && !newer("", "1") && newer("1", ""));
        assert!(!newer("99999999999999999999999", "99999999999999999999999"));
    }

    #[test]
    fn a_version_that_failed_is_told_until_a_newer_one_runs() {
        let (_root, layout) = machine("3", &[]);
        note(&layout, "not ready\x1b[2J").unwrap();
        // The next try of the same version is none that it came back to.
        assert_eq!(failed(&layout, "3"), None);
        run(&layout, "2");
        let told = failed(&layout, "2").unwrap();
        assert_eq!((told.version.as_str(), told.reason.as_str()), ("3", "not ready [2J"));
        forget(&layout);
        assert!(failed(&layout, "2").is_some());
        run(&layout, "4");
        assert_eq!(failed(&layout, "4"), None);
        forget(&layout);
        assert_eq!(left(&layout), None);
    }

    #[test]
    fn a_version_that_could_say_nothing_is_told_by_its_tries() {
        let (_root, layout) = machine("2", &["skerry_2+9.efi", "skerry_3+0-9.efi", "skerry_4+2-1.efi", "x"]);
        let told = failed(&layout, "2").unwrap();
        assert_eq!((told.version.as_str(), told.reason.as_str()), ("3", "it did not come up"));
        // The box went on to 4, and 3 is of no interest.
        assert_eq!(failed(&layout, "4"), None);
        assert_eq!(failed(&layout, ""), None);
        fs::create_dir_all(layout.state()).unwrap();
        fs::write(note_path(&layout), b"{\"version\": 7}").unwrap();
        assert_eq!(failed(&layout, "2").unwrap().version, "3");
    }

    #[test]
    fn what_is_installed_waits_unless_it_failed() {
        let (_root, layout) =
            machine("2", &["skerry_1.efi", "skerry_2+9.efi", "skerry_3+0-3.efi", "skerry_9.efi.tmp"]);
        let waits = || waiting(&layout, &facts::image(&layout));
        assert_eq!(waits(), None);
        fs::write(layout.at("boot/EFI/Linux/skerry_4+3.efi"), "").unwrap();
        assert_eq!(waits().as_deref(), Some("4"));
        // It failed, and its tries could not be taken: systemd-boot tries it again, the updater does not.
        run(&layout, "4");
        note(&layout, "not ready").unwrap();
        run(&layout, "2");
        assert_eq!(waits(), None);
    }

    #[test]
    fn a_newer_version_that_was_kept_was_not_chosen() {
        for kept in ["skerry_3.efi", "skerry_3+9.efi", "skerry_3+4-5.efi"] {
            let (_root, layout) = machine("2", &["skerry_2+8-1.efi", kept]);
            let waits = || waiting(&layout, &facts::image(&layout));
            assert_eq!(waits(), None, "{kept}");
            fs::write(layout.at("boot/EFI/Linux/skerry_4+2-1.efi"), "").unwrap();
            assert_eq!(waits().as_deref(), Some("4"), "{kept}");
        }
    }
}

//! Tries: how often each version may still be booted, by the name of its kernel image on the EFI system
//! partition (systemd.io/AUTOMATIC_BOOT_ASSESSMENT).
//!
//! systemd-boot takes a try from `skerry_3+3.efi` before it boots it, which is `skerry_3+2-1.efi` then, and
//! boots the version before when none is left. A new version has three, and is on trial: `skerry-box trial`
//! notes that in the initrd, by what the loader says of this very boot, and the note stays until the version
//! is kept.
//!
//! A version that proved good is kept: every boot that comes to its end gives it [`KEPT`] tries again. So one
//! whose root does not verify any more, which ends in a panic or a reset, is left too. Nine, since a supply
//! that fails whenever the box boots costs them as well. While there is no other version to boot, nothing is
//! counted.
//!
//! Names change by rename(2), and never into one that is there, whose clusters may be the same ones after a
//! power cut. The folder's entries are few enough for one sector of it, so that a cut leaves the old name or
//! the new one. If it left none of them, the other version would boot.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::facts::{self, Image};
use crate::layout::Layout;
use crate::{efi, files};

/// Tries of a version that proved good; those of a new one are fewer, which is how the two are told apart.
pub const KEPT: u32 = 9;

/// Where systemd-boot and systemd-sysupdate keep kernel images, as the root may have mounted them.
const FOLDERS: [&str; 2] = ["efi/EFI/Linux", "boot/EFI/Linux"];

/// Tries that are left, and tries that were made.
type Tries = (u32, u32);

/// A kernel image on the EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its version.
    pub version: String,
    path: PathBuf,
    /// `None` while they are not counted.
    tries: Option<Tries>,
}

impl Entry {
    /// Whether the loader may boot it while there is another one.
    pub fn may_boot(&self) -> bool {
        self.tries.is_none_or(|(left, _)| left > 0)
    }

    /// Whether it was not kept yet, by how often it may be tried in all.
    pub fn is_new(&self) -> bool {
        self.tries.is_some_and(are_of_a_trial)
    }

    /// Where it would be with these tries.
    fn with(&self, image: &Image, tries: Option<Tries>) -> PathBuf {
        let counter = match tries {
            None => String::new(),
            Some((left, 0)) => format!("+{left}"),
            Some((left, made)) => format!("+{left}-{made}"),
        };
        self.path.with_file_name(format!("{}_{}{counter}.efi", image.id, self.version))
    }

    fn rename(&self, to: &Path) -> io::Result<()> {
        if to.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there", to.display())));
        }
        fs::rename(&self.path, to)?;
        // The folder first, and what else the file system has not written yet.
        let folder = File::open(to.parent().unwrap_or(to))?;
        folder.sync_all()?;
        Ok(rustix::fs::syncfs(&folder)?)
    }
}

/// The kernel images of this image.
pub fn entries(layout: &Layout, image: &Image) -> Vec<Entry> {
    let found = FOLDERS.iter().flat_map(|folder| fs::read_dir(layout.at(folder)).into_iter().flatten());
    let prefix = format!("{}_", image.id);
    let entries = found.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let stem = name.strip_suffix(".efi")?.strip_prefix(&prefix)?;
        let (version, tries) = match stem.rsplit_once('+') {
            Some((version, counter)) => (version, Some(tries(counter)?)),
            None => (stem, None),
        };
        Some(Entry { version: version.to_owned(), path: entry.path(), tries })
    });
    entries.collect()
}

/// Whether a version that was kept would have more of them.
fn are_of_a_trial((left, made): Tries) -> bool {
    left.saturating_add(made) < KEPT
}

/// `2-1`, or `3` of which none was made.
fn tries(counter: &str) -> Option<Tries> {
    let (left, made) = counter.split_once('-').unwrap_or((counter, "0"));
    Some((left.parse().ok()?, made.parse().ok()?))
}

/// Notes whether this boot is one of a version that is new; in the initrd. What somebody set in the boot menu for
/// good is good for one boot: a default that is always taken would keep versions that have tries from theirs, and a
/// menu that waits for ever would keep the box from booting.
///
/// # Errors
/// When it cannot be noted.
pub fn begin(layout: &Layout) -> io::Result<bool> {
    for set in ["LoaderEntryDefault", "LoaderConfigTimeout"] {
        if let Err(error) = efi::forget(layout, set, efi::LOADER) {
            log::warn!("{set} of the boot menu stays: {error}");
        }
    }
    let booted = efi::text(layout, "LoaderBootCountPath", efi::LOADER).unwrap_or_default();
    let counter = booted.strip_suffix(".efi").and_then(|stem| stem.rsplit_once('+'));
    let new = counter.and_then(|(_, counter)| tries(counter)).is_some_and(are_of_a_trial);
    if new {
        files::make_dir(&layout.runtime(), 0o755, None)?;
        files::replace(&mark(layout), booted.as_bytes(), 0o644, None)?;
    }
    Ok(new)
}

/// Whether the version that runs is new, and was not found good yet.
pub fn on_trial(layout: &Layout) -> bool {
    mark(layout).exists()
}

/// What [`begin`] leaves; units ask for it too.
pub fn mark(layout: &Layout) -> PathBuf {
    layout.runtime().join("trial")
}

/// Whether another version than the one that runs can be booted; also where nobody can tell.
pub fn has_other(layout: &Layout) -> bool {
    let image = facts::image(layout);
    let entries = entries(layout, &image);
    entries.is_empty() || others(&entries, &image)
}

fn others(entries: &[Entry], image: &Image) -> bool {
    entries.iter().any(|entry| entry.version != image.version && entry.may_boot())
}

/// Keeps the version that runs, which ends its trial. Gives the tries that it has now; `None` where they are not
/// counted.
///
/// # Errors
/// When its kernel image is not found or not renamed; a trial goes on then.
pub fn keep(layout: &Layout) -> io::Result<Option<u32>> {
    let image = facts::image(layout);
    if image.version.is_empty() {
        return Ok(None);
    }
    let entries = entries(layout, &image);
    let wanted = others(&entries, &image).then_some((KEPT, 0));
    let mut running = entries.iter().filter(|entry| entry.version == image.version).peekable();
    let Some(first) = running.peek().copied() else {
        let words = format!("no kernel image of version {} is on the boot partition", image.version);
        return Err(io::Error::new(io::ErrorKind::NotFound, words));
    };
    if !running.any(|entry| entry.tries == wanted) {
        first.rename(&first.with(&image, wanted))?;
    }
    files::remove(&mark(layout))?;
    Ok(wanted.map(|(left, _)| left))
}

/// Gives up the version that runs: the loader boots another one from now on.
///
/// # Errors
/// When its kernel image is not found or not renamed; it may be booted again then, as long as it has tries.
pub fn give_up(layout: &Layout) -> io::Result<()> {
    let image = facts::image(layout);
    let entries = entries(layout, &image);
    let mut running = entries.iter().filter(|entry| entry.version == image.version).peekable();
    if running.peek().is_none() {
        let words = format!("no kernel image of version {} is on the boot partition", image.version);
        return Err(io::Error::new(io::ErrorKind::NotFound, words));
    }
    for entry in running.filter(|entry| entry.may_boot()) {
        let made = entry.tries.map_or(1, |(_, made)| made.max(1));
        let mut names = (made..).map(|made| entry.with(&image, Some((0, made))));
        let free = names.find(|name| !name.exists()).unwrap_or_default();
        entry.rename(&free)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A box that runs this version, with these kernel images on its EFI system partition.
    pub(crate) fn machine(version: &str, names: &[&str]) -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        for folder in ["etc", "boot/EFI/Linux", "sys/firmware/efi/efivars", "run"] {
            fs::create_dir_all(layout.at(folder)).unwrap();
        }
        run(&layout, version);
        for name in names {
            fs::write(layout.at("boot/EFI/Linux").join(name), name).unwrap();
        }
        (root, layout)
    }

    /// Another version runs.
    pub(crate) fn run(layout: &Layout, version: &str) {
        let text = format!("IMAGE_ID=skerry\nIMAGE_VERSION={version}\n");
        fs::write(layout.at("etc/os-release"), text).unwrap();
    }

    fn names(layout: &Layout) -> Vec<String> {
        let found = fs::read_dir(layout.at("boot/EFI/Linux")).unwrap().flatten();
        let mut names: Vec<_> = found.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What systemd-boot says of this boot.
    fn booted(layout: &Layout, name: &str) -> bool {
        let _ = fs::remove_file(mark(layout));
        efi::set_text(layout, "LoaderBootCountPath", efi::LOADER, &format!("\\EFI\\Linux\\{name}")).unwrap();
        begin(layout).unwrap()
    }

    #[test]
    fn names_tell_versions_and_tries() {
        let all =
            ["skerry_1.efi", "skerry_2+9.efi", "skerry_3+0-3.efi", "skerry_4+2-1.efi", "skerry_5+3-0.efi"];
        let none =
            ["other_9+3.efi", "skerry_+.efi", "skerry_6+a.efi", "skerry_7+1-.efi", "skerry_8.efi.tmp", "x"];
        let (_root, layout) = machine("1", &[&all[..], &none[..]].concat());
        let mut found = entries(&layout, &facts::image(&layout));
        found.sort_by(|one, other| one.version.cmp(&other.version));
        let found: Vec<_> =
            found.iter().map(|entry| (entry.version.as_str(), entry.tries, entry.may_boot())).collect();
        assert_eq!(
            found,
            [
                ("1", None, true),
                ("2", Some((9, 0)), true),
                ("3", Some((0, 3)), false),
                ("4", Some((2, 1)), true),
                ("5", Some((3, 0)), true),
            ]
        );
    }

    #[test]
    fn a_new_version_is_on_trial_and_a_kept_one_is_not() {
        let (_root, layout) = machine("2", &[]);
        assert!(!begin(&layout).unwrap() && !on_trial(&layout));
        for name in ["skerry_2+2-1.efi", "skerry_2+0-3.efi", "skerry_2+0-1.efi"] {
            assert!(booted(&layout, name) && on_trial(&layout), "{name}");
        }
        for name in
            ["skerry_2.efi", "skerry_2+8-1.efi", "skerry_2+0-9.efi", "skerry_2+0-12.efi", "skerry_2+x.efi"]
        {
            assert!(!booted(&layout, name) && !on_trial(&layout), "{name}");
        }
    }

    #[test]
    fn what_is_set_in_the_boot_menu_is_good_for_one_boot() {
        let (_root, layout) = machine("1", &["skerry_1.efi", "skerry_2+9.efi"]);
        for set in ["LoaderEntryDefault", "LoaderConfigTimeout"] {
            efi::set_text(&layout, set, efi::LOADER, "skerry_1.efi").unwrap();
        }
        begin(&layout).unwrap();
        for set in ["LoaderEntryDefault", "LoaderConfigTimeout"] {
            assert!(!efi::exists(&layout, set, efi::LOADER), "{set}");
        }
    }

    #[test]
    fn a_version_that_proved_good_has_all_its_tries_again() {
        let (_root, layout) = machine("2", &["skerry_1.efi", "skerry_2+2-1.efi"]);
        booted(&layout, "skerry_2+2-1.efi");
        assert_eq!(keep(&layout).unwrap(), Some(KEPT));
        assert_eq!(names(&layout), ["skerry_1.efi", "skerry_2+9.efi"]);
        // What the loader said of this boot is still there, and the trial is over.
        assert!(!on_trial(&layout));
        assert_eq!(keep(&layout).unwrap(), Some(KEPT));
        fs::rename(layout.at("boot/EFI/Linux/skerry_2+9.efi"), layout.at("boot/EFI/Linux/skerry_2+4-5.efi"))
            .unwrap();
        assert_eq!(keep(&layout).unwrap(), Some(KEPT));
        assert_eq!(names(&layout), ["skerry_1.efi", "skerry_2+9.efi"]);
        assert_eq!(
            fs::read_to_string(layout.at("boot/EFI/Linux/skerry_2+9.efi")).unwrap(),
            "skerry_2+2-1.efi"
        );
    }

    #[test]
    fn nothing_is_counted_without_another_version_to_boot() {
        for other in [&["skerry_3+0-1.efi"][..], &["other_1.efi"], &[]] {
            let (_root, layout) = machine("2", &[&["skerry_2+8-1.efi"][..], other].concat());
            assert_eq!(keep(&layout).unwrap(), None);
            assert!(names(&layout).contains(&"skerry_2.efi".to_owned()), "{other:?}");
            assert!(!has_other(&layout));
        }
        // As it was flashed.
        let (_root, layout) = machine("1", &["skerry_1.efi"]);
        assert_eq!((keep(&layout).unwrap(), names(&layout)), (None, vec!["skerry_1.efi".to_owned()]));
    }

    #[test]
    fn a_version_that_is_given_up_is_booted_no_more() {
        let (_root, layout) = machine("3", &["skerry_2+9.efi", "skerry_3+2-1.efi"]);
        assert!(has_other(&layout));
        give_up(&layout).unwrap();
        assert_eq!(names(&layout), ["skerry_2+9.efi", "skerry_3+0-1.efi"]);
        give_up(&layout).unwrap();
        assert_eq!(names(&layout), ["skerry_2+9.efi", "skerry_3+0-1.efi"]);
    }

    #[test]
    fn a_boot_partition_that_is_not_there_ends_no_trial() {
        let (_root, layout) = machine("3", &[]);
        booted(&layout, "skerry_3+2-1.efi");
        assert!(keep(&layout).is_err() && give_up(&layout).is_err());
        // It may have another version: a trial that fails reboots.
        assert!(on_trial(&layout) && has_other(&layout));
    }

    #[test]
    fn two_names_of_one_kernel_stay_two() {
        // What a power cut can leave; to put one onto the other would free the clusters of both.
        let (_root, layout) = machine("2", &["skerry_1.efi", "skerry_2+8-1.efi", "skerry_2+9.efi"]);
        keep(&layout).unwrap();
        assert_eq!(names(&layout), ["skerry_1.efi", "skerry_2+8-1.efi", "skerry_2+9.efi"]);
        assert!(give_up(&layout).is_ok());
        assert_eq!(names(&layout), ["skerry_1.efi", "skerry_2+0-1.efi", "skerry_2+0-2.efi"]);
    }
}

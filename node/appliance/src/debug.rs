//! The debug extension: `skerry-box debug`, a shell for developers on a box that has none.
//!
//! It is an image of its own (systemd-sysext(8)), made and signed by `image/tools/extension`. Four things
//! have to come together: an image of the box that was made to take one, by having the certificate; the
//! configuration, which says until when; a clock that is set; and a stick that has it. When the time is over
//! it goes, and all that was started from it.

use std::fs::File;
use std::thread;
use std::time::Duration;

use crate::config::Settings;
use crate::layout::Layout;
use crate::status::{self, Wrong};
use crate::{disk, files, process};

/// Whoever signed an extension has a certificate here. A release has none, and systemd takes no extension then.
const CERTIFICATE: &str = "usr/lib/verity.d/skerry-debug.crt";
/// The extension, on a stick and in force.
const NAME: &str = "skerry-debug.raw";
const FOLDER: &str = "run/extensions";
/// Longest that is taken, bytes.
const MOST: u64 = 64 << 20;
/// Longest time ahead that a configuration may ask for, seconds.
const LONGEST: u64 = 14 * 86_400;
/// Nothing is taken that is not signed, whatever systemd takes by default.
const POLICY: &str = "--image-policy=root=signed+absent:usr=signed+absent";
/// Its shells, where there is such a terminal.
const SHELLS: [&str; 2] = ["skerry-debug-shell@tty2.service", "skerry-debug-shell@hvc0.service"];
/// Between two looks for a stick, at the clock and at the configuration.
const PERIOD: Duration = Duration::from_secs(20);
/// How long systemd may take.
const SYSTEM: Duration = Duration::from_secs(90);

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    /// Nothing any more.
    Over,
    /// To wait for the clock.
    Later,
    /// To have it merged, until then.
    Now(String),
}

/// Has the extension merged for as long as it may be.
///
/// # Errors
/// When the image or the configuration does not allow it, or systemd does not end it.
pub fn run(layout: &Layout, clock: impl Fn() -> u64) -> Result<(), String> {
    // One that was killed left it open, whatever is due by now.
    if layout.at(FOLDER).join(NAME).exists()
        && let Err(words) = close(layout)
    {
        log::error!("{words}");
    }
    let mut merged = false;
    loop {
        let words = match due(layout, clock()) {
            Ok(Due::Over) => return end(layout, merged, Ok(())),
            Err(words) => return end(layout, merged, Err(words)),
            Ok(Due::Later) => "debugging waits for the clock to be set".to_owned(),
            Ok(Due::Now(until)) => {
                let found = if merged { Ok(true) } else { merge(layout) };
                merged = found == Ok(true);
                match found {
                    Ok(true) => format!("a shell is open on tty2 and hvc0 until {until}"),
                    Ok(false) => format!("debugging waits for {NAME} on a stick labelled {}", disk::LABEL),
                    Err(words) => words,
                }
            }
        };
        tell(layout, Some(words));
        thread::sleep(PERIOD);
    }
}

fn end(layout: &Layout, merged: bool, ended: Result<(), String>) -> Result<(), String> {
    let closed = if merged { close(layout) } else { Ok(()) };
    let ended = closed.and(ended);
    tell(layout, ended.as_ref().err().cloned());
    ended
}

/// An open shell is shown as something that is wrong.
fn tell(layout: &Layout, words: Option<String>) {
    let wrong: Vec<Wrong> = words.iter().map(Wrong::new).collect();
    let known = status::read(layout).into_iter().filter(|known| known.unit == "debug");
    if known.map(|known| known.words).eq(wrong.iter().map(|wrong| wrong.words.clone())) {
        return;
    }
    words.iter().for_each(|words| log::warn!("{words}"));
    if let Err(error) = status::report(layout, "debug", wrong) {
        log::warn!("cannot tell how debugging is: {error}");
    }
}

fn due(layout: &Layout, now: u64) -> Result<Due, String> {
    if !layout.is_provisioned() {
        return Ok(Due::Over);
    }
    let settings = Settings::load(&layout.config()).map_err(|error| error.to_string())?;
    let until = &settings.appliance.debug_until;
    if until.seconds() == 0 {
        return Ok(Due::Over);
    }
    if !layout.at(CERTIFICATE).exists() {
        return Err("box.debug_until: this image was not made to take debug extensions".into());
    }
    if !layout.at("run/systemd/timesync/synchronized").exists() {
        return Ok(Due::Later);
    }
    match until.seconds().checked_sub(now) {
        None | Some(0) => Ok(Due::Over),
        Some(left) if left > LONGEST => Err("box.debug_until: is more than two weeks ahead".into()),
        Some(_) => Ok(Due::Now(until.text().to_owned())),
    }
}

/// Whether a stick had it.
fn merge(layout: &Layout) -> Result<bool, String> {
    let Some((stick, place)) = disk::stick(layout, NAME) else { return Ok(false) };
    let folder = layout.at(FOLDER);
    let path = folder.join(NAME);
    let copied = files::make_dir(&folder, 0o755, None)
        .and_then(|()| File::create(&path))
        .map_err(|error| format!("{}: {error}", path.display()))
        .and_then(|mut file| stick.copy(NAME, &mut file, MOST).map_err(|error| error.to_string()));
    copied.map_err(|words| format!("stick {place}: {words}"))?;
    let merged = order(layout, "systemd-sysext", &[POLICY, "refresh"])
        .and_then(|()| order(layout, "systemctl", &[&["start"][..], &SHELLS].concat()));
    if merged.is_err() {
        let _ = close(layout);
    }
    merged.map(|()| true)
}

fn close(layout: &Layout) -> Result<(), String> {
    // They are of the extension: without it there are none.
    let stopped = order(layout, "systemctl", &[&["stop"][..], &SHELLS].concat());
    let stopped = stopped.or_else(|words| if words.contains("not loaded") { Ok(()) } else { Err(words) });
    order(layout, "systemd-sysext", &["unmerge"])?;
    // Last: by this file the next start knows that something may still be open.
    files::remove(&layout.at(FOLDER).join(NAME)).map_err(|error| error.to_string()).and(stopped)
}

fn order(layout: &Layout, program: &str, arguments: &[&str]) -> Result<(), String> {
    let ended = process::run(&layout.at("usr/bin").join(program), arguments, SYSTEM)
        .map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let words = status::clean(&ended.stderr, 300);
    Err(format!("{program} {}: {words}", arguments.last().unwrap_or(&"")))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::disk::tests::add;
    use crate::fat;
    use crate::fat::Volume;

    /// Writes down what it is asked.
    const PROGRAM: &str = "#!/bin/sh\nroot=$(cd \"${0%/*}/../..\" && pwd)\n\
        echo \"${0##*/} $*\" >>\"$root/asked\"\n\
        case \"$*\" in *refresh) [ ! -e \"$root/broken\" ] || { echo no signature >&2; exit 1; };; esac\n";
    const UNTIL: &str = "2026-12-01T18:00:00Z";
    const SECONDS: u64 = 1_796_148_000;

    fn machine(until: &str) -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        for folder in ["etc/skerry", "usr/bin", "usr/lib/verity.d", "run/systemd/timesync", "dev"] {
            fs::create_dir_all(layout.at(folder)).unwrap();
        }
        for name in ["systemctl", "systemd-sysext"] {
            let path = layout.at("usr/bin").join(name);
            fs::write(&path, PROGRAM).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for path in [CERTIFICATE, "run/systemd/timesync/synchronized"] {
            fs::write(layout.at(path), "").unwrap();
        }
        fs::write(layout.config(), format!("[box]\ndebug_until = \"{until}\"\n")).unwrap();
        (root, layout)
    }

    fn plug(layout: &Layout) {
        const LENGTH: u64 = 1 << 20;
        add(layout, "pci0/usb1/1-1", "sdb", LENGTH / 512, &[]);
        let path = layout.at("dev/sdb");
        let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        file.set_len(LENGTH).unwrap();
        fat::tests::format(&file, 0, LENGTH, "SKERRY");
        let volume = Volume::open(&file, 0, LENGTH, true).unwrap();
        volume.write(NAME, b"extension").unwrap();
        volume.close().unwrap();
    }

    fn asked(layout: &Layout) -> Vec<String> {
        let text = fs::read_to_string(layout.at("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn it_is_due_until_its_time_where_all_allow_it() {
        let (_root, layout) = machine(UNTIL);
        assert_eq!(due(&layout, SECONDS - 1), Ok(Due::Now(UNTIL.into())));
        assert_eq!(due(&layout, SECONDS), Ok(Due::Over));
        assert!(due(&layout, SECONDS - LONGEST - 1).unwrap_err().contains("two weeks"));
        fs::remove_file(layout.at("run/systemd/timesync/synchronized")).unwrap();
        assert_eq!(due(&layout, SECONDS - 1), Ok(Due::Later));
        fs::remove_file(layout.at(CERTIFICATE)).unwrap();
        assert!(due(&layout, SECONDS - 1).unwrap_err().contains("not made to take"));
        let (_root, layout) = machine("");
        assert_eq!(due(&layout, SECONDS), Ok(Due::Over));
    }

    #[test]
    fn a_signed_one_of_a_stick_is_merged_and_ended() {
        let (_root, layout) = machine(UNTIL);
        assert_eq!(merge(&layout), Ok(false));
        plug(&layout);
        assert_eq!(merge(&layout), Ok(true));
        let path = layout.at(FOLDER).join(NAME);
        assert_eq!(fs::read(&path).unwrap(), b"extension");
        close(&layout).unwrap();
        assert!(!path.exists());
        let shells = SHELLS.join(" ");
        assert_eq!(
            asked(&layout),
            [
                format!("systemd-sysext {POLICY} refresh"),
                format!("systemctl start {shells}"),
                format!("systemctl stop {shells}"),
                "systemd-sysext unmerge".into(),
            ]
        );
    }

    #[test]
    fn one_that_systemd_does_not_take_leaves_nothing() {
        let (_root, layout) = machine(UNTIL);
        plug(&layout);
        fs::write(layout.at("broken"), "").unwrap();
        assert_eq!(merge(&layout), Err("systemd-sysext refresh: no signature".into()));
        assert!(!layout.at(FOLDER).join(NAME).exists());
    }

    #[test]
    fn what_one_that_was_killed_left_open_is_shut() {
        let (_root, layout) = machine("");
        let path = layout.at(FOLDER).join(NAME);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(run(&layout, || SECONDS), Ok(()));
        assert!(!path.exists());
        assert_eq!(asked(&layout).last().map(String::as_str), Some("systemd-sysext unmerge"));
    }

    #[test]
    fn a_box_that_allows_none_is_left_alone() {
        for until in ["", "1970-01-02T00:00:00Z"] {
            let (_root, layout) = machine(until);
            plug(&layout);
            let looks = Cell::new(0);
            let clock = || {
                looks.set(looks.get() + 1);
                SECONDS
            };
            assert_eq!((run(&layout, clock), looks.get()), (Ok(()), 1));
            assert!(asked(&layout).is_empty() && status::read(&layout).is_empty());
        }
    }
}

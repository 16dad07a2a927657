//! The watched folder: what is put there is taken.
//!
//! A file counts once it is whole: closed after it was written, moved there, or linked. The folder may
//! come later than the node, and go and come back; until it does it is looked for, ever less often.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::{Errno, ioctl_fionread};

use crate::PolicyError;
use crate::policies::Policies;

/// Several files that come together are taken together: after a pause in which none comes.
const PAUSE: Duration = Duration::from_millis(200);
/// So many pauses at most, in a folder that is never quiet.
const MOST_PAUSES: u32 = 5;
/// Pause before a folder that is gone is looked for; twice as long each time.
const FIRST_LOOK: Duration = Duration::from_millis(250);
/// Longest such pause.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// Takes what is in the folder now, and from now on what comes there.
pub(crate) fn begin(policies: &Policies) -> Result<(), PolicyError> {
    let folder = policies.0.config.watch_dir.clone();
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    let weak = Arc::downgrade(&policies.0);
    let watched = weak.clone();
    let look = move || {
        if let Some(policies) = weak.upgrade().map(Policies) {
            policies.caught("a look into the policies' folder", || policies.scan());
        }
    };
    std::thread::Builder::new()
        .name("policy-watch".into())
        .spawn(move || watch(&folder, || watched.strong_count() > 0, look))
        .map_err(|error| PolicyError::Engine(error.to_string()))?;
    Ok(())
}

/// Looks into the folder at first and whenever something has come there, for as long as it is `wanted`.
fn watch(folder: &Path, wanted: impl Fn() -> bool, look: impl Fn()) {
    let (mut pause, mut told) = (FIRST_LOOK, false);
    while wanted() {
        let lost = match open(folder) {
            Ok(watch) => {
                if told {
                    log::info!(path:% = folder.display(); "the policies' folder is watched again");
                }
                (pause, told) = (FIRST_LOOK, false);
                match until_lost(&watch, &wanted, &look) {
                    Ok(true) => "it was removed or moved".to_owned(),
                    Ok(false) => return,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        if !told {
            log::error!(path:% = folder.display(); "the policies' folder is not watched until it can be: {lost}");
            told = true;
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(LAST_LOOK);
    }
}

fn open(folder: &Path) -> Result<OwnedFd, Errno> {
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    let whole = WatchFlags::CLOSE | WatchFlags::MOVED_TO;
    let linked = WatchFlags::CREATE | WatchFlags::OPEN | WatchFlags::DELETE | WatchFlags::MOVED_FROM;
    let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watch, folder, whole | linked | gone | WatchFlags::ONLYDIR)?;
    Ok(watch)
}

/// True when the folder is there no more, false when it is not wanted any more.
fn until_lost(watch: &OwnedFd, wanted: impl Fn() -> bool, look: impl Fn()) -> Result<bool, Errno> {
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut room);
    let (mut names, mut news) = (Names::default(), true);
    loop {
        if !wanted() {
            return Ok(false);
        }
        if news {
            look();
        }
        let Some(mut whole) = note(&mut events, &mut names)? else { return Ok(true) };
        // Others come with it, until a pause brings none.
        for _ in 0..MOST_PAUSES {
            std::thread::sleep(PAUSE);
            if events.is_buffer_empty() && ioctl_fionread(watch)? == 0 {
                break;
            }
            while !events.is_buffer_empty() || ioctl_fionread(watch)? > 0 {
                let Some(other) = note(&mut events, &mut names)? else { return Ok(true) };
                whole |= other;
            }
        }
        news = names.linked() || whole;
    }
}

/// Waits for the next event and takes note of it: whether a file is whole by it, `None` when the folder
/// is there no more.
fn note(events: &mut inotify::Reader<'_, &OwnedFd>, names: &mut Names) -> Result<Option<bool>, Errno> {
    let event = loop {
        match events.next() {
            Err(Errno::INTR) => {}
            event => break event?,
        }
    };
    if event.events().intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
        return Ok(None);
    }
    let name = event.file_name().map(|name| name.to_bytes()).unwrap_or_default();
    Ok(Some(names.whole(event.events(), name)))
}

/// Tells by a folder's events which files are whole. A name that comes is that of a file whose writer
/// has opened it, and will close it; or that of a link to one, which nobody opens.
#[derive(Default)]
struct Names {
    /// Names that came, and whether they were opened since.
    came: HashMap<Vec<u8>, bool>,
}

impl Names {
    /// Takes note of an event. Whether a file is whole by it.
    fn whole(&mut self, events: ReadFlags, name: &[u8]) -> bool {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // Nobody knows what was missed.
            self.came.clear();
            return true;
        }
        if events.contains(ReadFlags::ISDIR) {
            return false;
        }
        if events.contains(ReadFlags::CREATE) {
            self.came.insert(name.to_vec(), false);
        } else if events.contains(ReadFlags::OPEN) {
            if let Some(opened) = self.came.get_mut(name) {
                *opened = true;
            }
        } else {
            let came = self.came.remove(name).is_some();
            // Whoever only reads may have been the first to open a link.
            let read = came && events.contains(ReadFlags::CLOSE_NOWRITE);
            return read || events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO);
        }
        false
    }

    /// Whether some names are links. A writer opens a file as it is made, so it has by now.
    fn linked(&mut self) -> bool {
        let came = self.came.len();
        self.came.retain(|_, opened| *opened);
        self.came.len() < came
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{self, Receiver};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// The names in a folder, each time it is looked into.
    fn watched(folder: &Path) -> Receiver<Vec<String>> {
        let (looks, seen) = mpsc::channel();
        let folder = folder.to_owned();
        let look = move |folder: &Path| {
            let names = fs::read_dir(folder).into_iter().flatten().flatten();
            let _ = looks.send(names.map(|name| name.file_name().into_string().unwrap()).collect());
        };
        std::thread::spawn(move || watch(&folder, || true, || look(&folder)));
        seen
    }

    #[track_caller]
    fn sees(seen: &Receiver<Vec<String>>, name: &str) {
        while !seen.recv_timeout(SOON).expect(name).contains(&name.to_owned()) {}
    }

    #[test]
    fn a_folder_that_goes_and_comes_back_is_watched_again() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("policies");
        let seen = watched(&folder);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("first"), "").unwrap();
        sees(&seen, "first");
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("second"), "").unwrap();
        sees(&seen, "second");
        // By now it is watched, and not just looked into.
        fs::write(folder.join("third"), "").unwrap();
        sees(&seen, "third");
        fs::rename(&folder, home.path().join("aside")).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("fourth"), "").unwrap();
        sees(&seen, "fourth");
    }

    #[test]
    fn what_is_linked_there_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let (folder, file) = (home.path().join("policies"), home.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "whole").unwrap();
        let seen = watched(&folder);
        assert!(seen.recv_timeout(SOON).unwrap().is_empty(), "at first");
        fs::hard_link(&file, folder.join("hard")).unwrap();
        sees(&seen, "hard");
        std::os::unix::fs::symlink(&file, folder.join("soft")).unwrap();
        sees(&seen, "soft");
    }

    #[test]
    fn a_file_counts_once_it_is_whole() {
        type Read = ReadFlags;
        let (writes, reads) = (Read::CLOSE_WRITE, Read::CLOSE_NOWRITE);
        let mut names = Names::default();
        let mut saw = |events: &[Read]| {
            let whole = events.iter().map(|event| names.whole(*event, b"a")).collect::<Vec<_>>();
            (whole, names.linked(), names.came.len())
        };
        // Written: for a while, or at once.
        assert_eq!(saw(&[Read::CREATE, Read::OPEN]), (vec![false, false], false, 1));
        assert_eq!(saw(&[]), (vec![], false, 1));
        assert_eq!(saw(&[writes]), (vec![true], false, 0));
        assert_eq!(saw(&[Read::CREATE, Read::OPEN, writes]), (vec![false, false, true], false, 0));
        assert_eq!(saw(&[Read::OPEN, writes]), (vec![false, true], false, 0));
        assert_eq!(saw(&[Read::MOVED_TO]), (vec![true], false, 0));
        // Linked, and perhaps read.
        assert_eq!(saw(&[Read::CREATE]), (vec![false], true, 0));
        assert_eq!(saw(&[Read::CREATE, Read::OPEN, reads]), (vec![false, false, true], false, 0));
        // Neither: read, gone before it counted, no file.
        assert_eq!(saw(&[Read::OPEN, reads]), (vec![false, false], false, 0));
        assert_eq!(saw(&[Read::CREATE, Read::OPEN, Read::DELETE]), (vec![false; 3], false, 0));
        assert_eq!(saw(&[Read::CREATE | Read::ISDIR]), (vec![false], false, 0));
        assert_eq!(saw(&[Read::QUEUE_OVERFLOW]), (vec![true], false, 0));
    }
}

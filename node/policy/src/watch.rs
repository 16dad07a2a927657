//! The watched folder: what is put there is taken.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::fs::inotify;

use crate::PolicyError;
use crate::policies::{Inner, Policies};

/// Several files that come together are taken together.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes what is in the folder now, and from now on what is written or moved there.
pub(crate) fn begin(policies: &Policies) -> Result<(), PolicyError> {
    let folder = &policies.0.config.watch_dir;
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    let failed = |error: rustix::io::Errno| PolicyError::File {
        what: "cannot watch",
        path: folder.clone(),
        source: error.into(),
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(failed)?;
    let what = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, folder, what).map_err(failed)?;
    let weak: Weak<Inner> = Arc::downgrade(&policies.0);
    let run = move || {
        let mut room = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut room);
        loop {
            let Some(inner) = weak.upgrade() else { return };
            Policies(inner).scan();
            loop {
                if let Err(error) = events.next() {
                    return log::error!("the policies' folder is watched no more: {error}");
                }
                if events.is_buffer_empty() {
                    break;
                }
            }
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new()
        .name("policy-watch".into())
        .spawn(run)
        .map_err(|error| PolicyError::Engine(error.to_string()))?;
    Ok(())
}

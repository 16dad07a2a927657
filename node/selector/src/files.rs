//! The files that tell where clients are: read at the start, and again when they change. One that
//! cannot be taken is complained of, and what was read before stays.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::inotify;
use serde_json::{Value, json};

use crate::config::SelectorConfig;
use crate::error::{FileError, SelectorError};
use crate::locate::Locator;
use crate::metrics::Metrics;
use crate::mmdb::Database;
use crate::route::Selector;
use crate::zone::{Kind, Zones};

/// Several files that come together are read together.
const PAUSE: Duration = Duration::from_millis(200);

/// What a file is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Zones,
    DeepZones,
    /// Its place in `selector.mmdb_files`.
    Database(usize),
}

impl Content {
    /// The key that names it, without its table.
    fn key(self) -> &'static str {
        match self {
            Self::Zones => "coverage_zone_file",
            Self::DeepZones => "deep_coverage_zone_file",
            Self::Database(_) => "mmdb_files",
        }
    }
}

/// What tells that a file is another one, or has other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` when there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// One file.
struct Watched {
    path: PathBuf,
    content: Content,
    /// What was there when it was last tried; the outer `None` is never.
    tried: Option<Option<Stamp>>,
    /// Why what it has now is not in use.
    error: Option<String>,
    /// What is in use of it, for the status.
    taken: Option<Value>,
}

/// All files.
pub(crate) struct Files(Mutex<Vec<Watched>>);

impl Files {
    pub(crate) fn new(config: &SelectorConfig) -> Self {
        let zones = [
            (&config.coverage_zone_file, Content::Zones),
            (&config.deep_coverage_zone_file, Content::DeepZones),
        ];
        let databases = config.mmdb_files.iter().zip((0..).map(Content::Database));
        let named = zones.into_iter().filter(|(path, _)| !path.as_os_str().is_empty()).chain(databases);
        let watched = named.map(|(path, content)| Watched {
            path: path.clone(),
            content,
            tried: None,
            error: None,
            taken: None,
        });
        Self(Mutex::new(watched.collect()))
    }

    /// Reads what changed since it was last read.
    pub(crate) fn look(&self, locator: &Locator, metrics: &Metrics) {
        let mut files = self.0.lock();
        for file in files.iter_mut() {
            // Before the file is read: what changes meanwhile is seen the next time.
            let stamp = Stamp::of(&file.path);
            if file.tried == Some(stamp) {
                continue;
            }
            file.tried = Some(stamp);
            match file.take(locator, metrics) {
                Ok(taken) => {
                    log::info!(path:% = file.path.display(); "taken as selector.{}", file.content.key());
                    file.taken = Some(taken);
                    file.error = None;
                }
                Err(error) => {
                    let stays =
                        if file.taken.is_some() { "what was read before stays" } else { "it is left out" };
                    log::error!("selector.{}: {error}; {stays}", file.content.key());
                    metrics.file_failures.with_label_values(&[file.content.key()]).inc();
                    file.error = Some(error.to_string());
                }
            }
        }
        for content in [Content::Zones, Content::DeepZones, Content::Database(0)] {
            let mut alike = files.iter().filter(|file| file.content.key() == content.key()).peekable();
            if alike.peek().is_some() {
                let current = alike.all(|file| file.error.is_none());
                metrics.file_current.with_label_values(&[content.key()]).set(i64::from(current));
            }
        }
    }

    /// Every file, for the status.
    pub(crate) fn status(&self) -> Value {
        let each = |file: &Watched| {
            json!({
                "path": file.path.display().to_string(),
                "key": file.content.key(),
                "in_use": file.taken,
                "error": file.error,
            })
        };
        self.0.lock().iter().map(each).collect()
    }

    /// Folders of the files.
    fn folders(&self) -> Vec<PathBuf> {
        let files = self.0.lock();
        let folder = |file: &Watched| match file.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut folders: Vec<PathBuf> = files.iter().map(folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

impl Watched {
    /// Reads the file and puts it to use; tells what it has.
    fn take(&self, locator: &Locator, metrics: &Metrics) -> Result<Value, FileError> {
        let kind = match self.content {
            Content::Zones => Kind::Coverage,
            Content::DeepZones => Kind::Deep,
            Content::Database(place) => {
                let database = Database::read(&self.path)?;
                let taken = json!({ "kind": database.kind(), "built": database.built() });
                locator.take_database(place, database);
                return Ok(taken);
            }
        };
        let zones = Zones::read(&self.path, kind)?;
        let prefixes = i64::try_from(zones.prefixes()).unwrap_or(i64::MAX);
        metrics.prefixes.with_label_values(&[self.content.key()]).set(prefixes);
        let taken =
            json!({ "zones": zones.list().len(), "prefixes": zones.prefixes(), "bytes": zones.bytes() });
        match kind {
            Kind::Coverage => locator.take_zones(zones),
            Kind::Deep => locator.take_deep_zones(zones),
        }
        Ok(taken)
    }
}

/// Reads files again when they change, as long as the selector lives.
///
/// # Errors
/// When a folder cannot be watched.
pub(crate) fn watch(selector: &Arc<Selector>) -> Result<(), SelectorError> {
    let folders = selector.files.folders();
    if folders.is_empty() {
        return Ok(());
    }
    let failed = |path: &Path, source: std::io::Error| SelectorError::Watch { path: path.to_owned(), source };
    let first = folders[0].clone();
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(|error| failed(&first, error.into()))?;
    let what = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO;
    for folder in &folders {
        inotify::add_watch(&watch, folder, what).map_err(|error| failed(folder, error.into()))?;
    }
    let weak: Weak<Selector> = Arc::downgrade(selector);
    let run = move || {
        let mut room = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut room);
        loop {
            let Some(selector) = weak.upgrade() else { return };
            selector.look();
            drop(selector);
            loop {
                if let Err(error) = events.next() {
                    return log::error!("the selector's files are watched no more: {error}");
                }
                if events.is_buffer_empty() {
                    break;
                }
            }
            std::thread::sleep(PAUSE);
        }
    };
    let spawned = std::thread::Builder::new().name("selector-watch".into()).spawn(run);
    spawned.map(drop).map_err(|error| failed(&first, error))
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::locate::Source;

    fn zones(name: &str) -> String {
        format!(r#"{{"coverageZones": {{"{name}": {{"network": ["192.0.2.0/24"]}}}}}}"#)
    }

    #[test]
    fn a_changed_file_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zones.json");
        let config = SelectorConfig { coverage_zone_file: path.clone(), ..SelectorConfig::default() };
        let locator = Locator::new(&config.regions, "");
        let (files, metrics) = (Files::new(&config), Metrics::new(&Registry::new()).unwrap());
        let region = || {
            let place = locator.place("192.0.2.1".parse().unwrap());
            (place.source == Source::Zone).then(|| place.region.name.to_string())
        };
        let failures = || metrics.file_failures.with_label_values(&["coverage_zone_file"]).get();
        let current = || metrics.file_current.with_label_values(&["coverage_zone_file"]).get();

        files.look(&locator, &metrics);
        assert_eq!((region(), failures(), current()), (None, 1, 0));
        // The same trouble is told once.
        files.look(&locator, &metrics);
        assert_eq!(failures(), 1);

        // Written anew beside it and moved there, as careful programs do.
        let replace = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
            files.look(&locator, &metrics);
        };
        replace(&zones("a"));
        assert_eq!((region().as_deref(), failures(), current()), (Some("a"), 1, 1));
        replace(&zones("a")[..30]);
        assert_eq!((region().as_deref(), failures(), current()), (Some("a"), 2, 0));
        assert!(files.status()[0]["error"].as_str().unwrap().contains("zones.json"));
        std::fs::remove_file(&path).unwrap();
        files.look(&locator, &metrics);
        assert_eq!((region().as_deref(), failures()), (Some("a"), 3));
        replace(&zones("b"));
        assert_eq!((region().as_deref(), failures(), current()), (Some("b"), 3, 1));
    }

    #[test]
    fn folders_are_those_of_the_files() {
        let config = SelectorConfig {
            coverage_zone_file: "zones.json".into(),
            mmdb_files: vec!["/etc/skerry/a.mmdb".into(), "/etc/skerry/b.mmdb".into()],
            ..SelectorConfig::default()
        };
        assert_eq!(Files::new(&config).folders(), [Path::new("/etc/skerry"), Path::new(".")]);
        assert!(Files::new(&SelectorConfig::default()).folders().is_empty());
    }
}

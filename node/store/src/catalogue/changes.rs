//! What has changed lately of what is held: who keeps a list of it need not read all of it again.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Catalogue;
use crate::ChunkId;

/// Changes that are remembered.
const MOST: usize = 4096;

/// A record that is new, another than before, or gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// That of a resource.
    Resource(ChunkId),
    /// That of a torrent, by its first info-hash.
    Torrent([u8; 20]),
}

/// The last changes, and how many there were in all.
#[derive(Default)]
pub(super) struct Changes {
    count: watch::Sender<u64>,
    last: Mutex<VecDeque<Changed>>,
}

impl Changes {
    /// Tells of records that were written, or taken off.
    pub(super) fn tell(&self, changed: impl IntoIterator<Item = Changed>) {
        let mut last = self.last.lock();
        let before = *self.count.borrow();
        let mut count = before;
        for one in changed {
            if last.len() == MOST {
                last.pop_front();
            }
            last.push_back(one);
            count += 1;
        }
        // With the lock, so that the count is always that of the changes.
        if count > before {
            self.count.send_replace(count);
        }
    }
}

impl Catalogue {
    /// Counts every change of what is held; for who reports it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.count.subscribe()
    }

    /// How many changes there were, and those since there were `seen` of them, the oldest first; `None` when
    /// they are not remembered any more, or nothing was seen yet. Records that are read after this are at
    /// least as new.
    pub fn changed_since(&self, seen: Option<u64>) -> (u64, Option<Vec<Changed>>) {
        let changes = &self.0.changes;
        let last = changes.last.lock();
        let count = *changes.count.borrow();
        let missed = seen.and_then(|seen| usize::try_from(count.checked_sub(seen)?).ok());
        let from = missed.and_then(|missed| last.len().checked_sub(missed));
        (count, from.map(|from| last.range(from..).copied().collect()))
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::{Store, StoreConfig};

    #[test]
    fn changes_are_told_as_long_as_they_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), &StoreConfig::default(), &Registry::new()).unwrap();
        let catalogue = Catalogue::open(store).unwrap();
        let torrent = |number: usize| Changed::Torrent([number as u8; 20]);
        let mut news = catalogue.changes();
        let (seen, all) = catalogue.changed_since(None);
        assert!(all.is_none(), "whoever has seen nothing reads everything");
        assert_eq!(catalogue.changed_since(Some(seen)), (seen, Some(Vec::new())));

        let changes = &catalogue.0.changes;
        changes.tell([]);
        assert!(!news.has_changed().unwrap());
        changes.tell([torrent(1), torrent(2)]);
        assert_eq!(*news.borrow_and_update(), seen + 2);
        assert_eq!(catalogue.changed_since(Some(seen)), (seen + 2, Some(vec![torrent(1), torrent(2)])));
        assert_eq!(catalogue.changed_since(Some(seen + 1)).1, Some(vec![torrent(2)]));
        // Of another catalogue.
        assert_eq!(catalogue.changed_since(Some(seen + 3)).1, None);

        changes.tell((3..=MOST + 1).map(torrent));
        assert_eq!(catalogue.changed_since(Some(seen)).1, None);
        assert_eq!(catalogue.changed_since(Some(seen + 1)).1.unwrap().len(), MOST);
    }
}

//! What resources there are in the fleet, and where each can be fetched: told by the nodes that hold
//! them, and kept in pages by the first byte of the resource's id. Bounded.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skerry_registry::demand::Resource;
use skerry_registry::error::KvError;
use skerry_registry::kv::{Kv, Life};
use skerry_store::catalogue::CameFrom;

/// Resources of one page, at most. With the longest sources it is still smaller than the largest record.
const MOST_OF_PAGE: usize = 512;
/// Where pages stand in the registry.
const PREFIX: &str = "preload/known/";

/// A resource, and where it can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its id.
    pub resource: Resource,
    /// A target of a site that gives it.
    pub from: CameFrom,
    /// Its length, bytes; at least 1.
    pub length: u64,
    /// When a node got it first, milliseconds since 1970: about when it was published.
    pub first_ms: u64,
    /// When a node last fetched it from there, milliseconds since 1970.
    pub added_ms: u64,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Table {
    by_source: HashMap<CameFrom, Arc<Known>>,
    by_resource: HashMap<Resource, Arc<Known>>,
    pages: HashMap<u8, HashSet<CameFrom>>,
}

impl Table {
    /// Those that are on record.
    pub(crate) fn load(kv: &dyn Kv, now_ms: u64) -> Result<Self, KvError> {
        let mut table = Self::default();
        kv.list(PREFIX, now_ms, &mut |key, entry| match postcard::from_bytes::<Vec<Known>>(&entry.value) {
            Ok(page) => page.into_iter().for_each(|known| drop(table.learn(known))),
            Err(error) => {
                log::warn!(key; "sources of resources are left out, since they cannot be read: {error}")
            }
        })?;
        Ok(table)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_resource.len()
    }

    pub(crate) fn resource(&self, resource: &Resource) -> Option<&Arc<Known>> {
        self.by_resource.get(resource)
    }

    pub(crate) fn source(&self, from: &CameFrom) -> Option<&Arc<Known>> {
        self.by_source.get(from)
    }

    /// Takes one; tells the pages that are to be written. Of two contents of one source, the one that
    /// was fetched later counts.
    pub(crate) fn learn(&mut self, mut known: Known) -> BTreeSet<u8> {
        let mut changed = BTreeSet::new();
        if let Some(before) = self.by_source.get(&known.from).cloned() {
            if before.resource == known.resource {
                known.first_ms = known.first_ms.min(before.first_ms);
                known.added_ms = known.added_ms.max(before.added_ms);
                if known == *before {
                    return changed;
                }
            } else if known.added_ms <= before.added_ms {
                return changed;
            } else {
                changed.insert(self.forget(&before));
            }
        }
        let page = known.resource[0];
        let sources = self.pages.entry(page).or_default();
        if !sources.contains(&known.from) && sources.len() >= MOST_OF_PAGE {
            let added = |from: &CameFrom| self.by_source.get(from).map_or(0, |known| known.added_ms);
            let oldest = sources.iter().min_by_key(|from| (added(from), *from)).cloned();
            let oldest = oldest.and_then(|from| self.by_source.get(&from).cloned());
            if let Some(oldest) = oldest {
                changed.insert(self.forget(&oldest));
            }
        }
        changed.insert(page);
        let known = Arc::new(known);
        self.pages.entry(page).or_default().insert(known.from.clone());
        self.by_source.insert(known.from.clone(), known.clone());
        // Of several sources of one resource the first that was told stays, so that lists do.
        let first = self.by_resource.entry(known.resource).or_insert_with(|| known.clone());
        if first.from == known.from {
            *first = known;
        }
        changed
    }

    fn forget(&mut self, known: &Known) -> u8 {
        let page = known.resource[0];
        self.by_source.remove(&known.from);
        if let Some(sources) = self.pages.get_mut(&page) {
            sources.remove(&known.from);
        }
        if self.by_resource.get(&known.resource).is_some_and(|first| first.from == known.from) {
            self.by_resource.remove(&known.resource);
            let others = self.pages.get(&page).into_iter().flatten();
            let mut others = others.filter_map(|from| self.by_source.get(from));
            if let Some(other) = others.find(|other| other.resource == known.resource).cloned() {
                self.by_resource.insert(known.resource, other);
            }
        }
        page
    }

    /// Writes pages down.
    pub(crate) fn keep(&self, pages: &BTreeSet<u8>, kv: &dyn Kv, now_ms: u64) -> Result<(), KvError> {
        for page in pages {
            let sources = self.pages.get(page).into_iter().flatten();
            let mut records: Vec<&Known> =
                sources.filter_map(|from| self.by_source.get(from)).map(|known| &**known).collect();
            records.sort_unstable_by_key(|known| &known.from);
            let value = postcard::to_stdvec(&records).expect("numbers and texts can always be written");
            kv.put(&format!("{PREFIX}{page:02x}"), &value, Life::forever(now_ms))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skerry_registry::kv::{MOST_VALUE, MemoryKv};

    use super::*;
    use crate::item::{MOST_PATH, MOST_SITE};

    fn known(first: u8, second: u8, path: &str, added_ms: u64) -> Known {
        let mut resource = [0; 32];
        (resource[0], resource[1]) = (first, second);
        let from = CameFrom { site: "a".into(), target: path.into() };
        Known { resource, from, length: 10, first_ms: added_ms, added_ms }
    }

    #[test]
    fn the_last_fetch_of_a_source_counts() {
        let mut table = Table::default();
        let (old, new) = (known(1, 1, "/x", 5), known(2, 1, "/x", 9));
        assert_eq!(table.learn(new.clone()), BTreeSet::from([2]));
        assert!(table.learn(old.clone()).is_empty());
        assert_eq!(table.source(&new.from).unwrap().resource, new.resource);
        let newer = known(1, 1, "/x", 10);
        assert_eq!(table.learn(newer), BTreeSet::from([1, 2]));
        assert!(table.resource(&new.resource).is_none() && table.resource(&old.resource).is_some());
        // An older word of the same content only tells that it is older.
        assert_eq!(table.learn(known(1, 1, "/x", 3)), BTreeSet::from([1]));
        let told = table.resource(&old.resource).unwrap();
        assert_eq!((told.first_ms, told.added_ms, table.len()), (3, 10, 1));
        assert!(table.learn(known(1, 1, "/x", 4)).is_empty());
    }

    #[test]
    fn of_several_sources_the_first_stays_while_it_gives_it() {
        let mut table = Table::default();
        table.learn(known(1, 1, "/x", 5));
        table.learn(known(1, 1, "/y", 6));
        let resource = known(1, 1, "", 0).resource;
        assert_eq!(table.resource(&resource).unwrap().from.target, "/x");
        table.learn(known(2, 2, "/x", 7));
        assert_eq!(table.resource(&resource).unwrap().from.target, "/y");
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn pages_are_bounded_and_fit_into_a_record() {
        let kv = MemoryKv::new();
        let mut table = Table::default();
        let mut changed = BTreeSet::new();
        for number in 0..MOST_OF_PAGE as u64 + 5 {
            let mut long = known(7, 0, &format!("/{number}{}", "x".repeat(MOST_PATH - 8)), 100 + number);
            long.from.site = "s".repeat(MOST_SITE);
            long.resource[1..9].copy_from_slice(&number.to_le_bytes());
            changed.extend(table.learn(long));
        }
        assert_eq!((table.len(), &changed), (MOST_OF_PAGE, &BTreeSet::from([7])));
        table.keep(&changed, &kv, 1).unwrap();
        assert!(kv.get("preload/known/07", 1).unwrap().unwrap().value.len() < MOST_VALUE);
        kv.put("preload/known/08", &[0xff; 9], Life::forever(1)).unwrap();
        let again = Table::load(&kv, 1).unwrap();
        assert_eq!(again.len(), MOST_OF_PAGE);
        assert_eq!(again.by_source, table.by_source);
    }
}

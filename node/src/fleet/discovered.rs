//! What strangers may hear that this node holds: every torrent that it can serve and that is not private.
//!
//! The list is kept from one time to the next. Only what has changed is looked at again, and what can go
//! without a word, when its chunks are evicted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use skerry_discovery::{Torrents, Unlisted};
use skerry_store::catalogue::Changed;
use skerry_store::{Catalogue, ChunkId, StoreError};
use tokio::sync::watch;

/// Records read at once.
const PAGE: usize = 500;

/// The torrents of the catalogue, for the DHT and the local network.
pub struct Discovered {
    catalogue: Catalogue,
    /// Whether what is gone is fetched again when a peer asks for it.
    refill: bool,
    list: Mutex<List>,
}

/// Torrents, each by its first info-hash.
#[derive(Default)]
struct List {
    /// Changes of the catalogue that it has heard of; `None` before it was read.
    seen: Option<u64>,
    /// Those that are public.
    torrents: BTreeMap<[u8; 20], Known>,
    /// Those that are served as long as the record of a resource stays as it is, by that.
    settled: HashMap<ChunkId, Vec<[u8; 20]>>,
    /// All others, which are looked at every time.
    open: BTreeSet<[u8; 20]>,
}

/// A torrent.
struct Known {
    /// As they travel; none of a private one.
    info_hashes: Vec<[u8; 20]>,
    /// The file that was there when it was last looked for one.
    there: Option<ChunkId>,
}

impl List {
    fn hear(&mut self, changed: Changed) {
        match changed {
            Changed::Resource(id) => self.open.extend(self.settled.remove(&id).unwrap_or_default()),
            Changed::Torrent(key) => {
                self.torrents.remove(&key);
                self.open.insert(key);
            }
        }
    }
}

impl Discovered {
    /// Over what the catalogue holds; `refill` as the super-peer has it.
    pub fn new(catalogue: Catalogue, refill: bool) -> Self {
        Self { catalogue, refill, list: Mutex::default() }
    }

    /// Brings the list up to date. What cannot be looked at now stays open.
    fn update(&self, list: &mut List) -> Result<(), StoreError> {
        let (seen, changed) = self.catalogue.changed_since(list.seen);
        match changed {
            Some(changed) => changed.into_iter().for_each(|one| list.hear(one)),
            None => *list = List { open: self.all()?, ..List::default() },
        }
        list.seen = Some(seen);
        let open: Vec<[u8; 20]> = list.open.iter().copied().collect();
        open.into_iter().try_for_each(|key| self.look(list, key))
    }

    /// Every torrent that is on record.
    fn all(&self) -> Result<BTreeSet<[u8; 20]>, StoreError> {
        let (mut all, mut from) = (BTreeSet::new(), Vec::new());
        loop {
            let page = self.catalogue.torrents(&from, PAGE)?;
            all.extend(&page);
            match page.last() {
                Some(last) if page.len() == PAGE => from = [&last[..], &[0]].concat(),
                _ => return Ok(all),
            }
        }
    }

    fn look(&self, list: &mut List, key: [u8; 20]) -> Result<(), StoreError> {
        let mut known = match list.torrents.remove(&key) {
            Some(known) => known,
            None => self.read(&key)?,
        };
        if known.info_hashes.is_empty() {
            list.open.remove(&key);
            return Ok(());
        }
        let served = self.served(&key, known.there)?;
        known.there = served.map(|(id, _)| id);
        if let Some((id, true)) = served {
            list.open.remove(&key);
            let settled = list.settled.entry(id).or_default();
            if !settled.contains(&key) {
                settled.push(key);
            }
        }
        list.torrents.insert(key, known);
        Ok(())
    }

    fn read(&self, key: &[u8; 20]) -> Result<Known, StoreError> {
        let torrent = self.catalogue.torrent(key)?;
        let info = torrent.as_ref().map(|torrent| torrent.metainfo.info());
        let public = info.filter(|info| !info.private());
        let hashes = public.into_iter().flat_map(|info| info.hashes().map(|hash| hash.wire()));
        Ok(Known { info_hashes: hashes.collect(), there: None })
    }

    /// A file of a torrent that a peer could be sent something of, the one `before` if that still is, and
    /// whether it stays so until its record changes.
    fn served(&self, key: &[u8; 20], before: Option<ChunkId>) -> Result<Option<(ChunkId, bool)>, StoreError> {
        if let Some(id) = before
            && let Some(stays) = self.there(&id)?
        {
            return Ok(Some((id, stays)));
        }
        let Some(torrent) = self.catalogue.torrent(key)? else { return Ok(None) };
        for id in torrent.files.iter().flatten() {
            if let Some(stays) = self.there(id)? {
                return Ok(Some((*id, stays)));
            }
        }
        Ok(None)
    }

    /// Whether a resource that is there stays; `None` when nothing of it is.
    fn there(&self, id: &ChunkId) -> Result<Option<bool>, StoreError> {
        let Some(held) = self.catalogue.resource(id)? else { return Ok(None) };
        if held.pin.is_some() || (self.refill && held.from.is_some()) {
            return Ok(Some(true));
        }
        Ok(self.catalogue.presence(&held)?.contains(&true).then_some(false))
    }

    fn list(&self, take: &mut dyn FnMut([u8; 20]) -> bool) -> Result<(), StoreError> {
        let mut list = self.list.lock();
        self.update(&mut list)?;
        let served = list.torrents.values().filter(|known| known.there.is_some());
        let _ = served.flat_map(|known| &known.info_hashes).all(|hash| take(*hash));
        Ok(())
    }
}

impl Torrents for Discovered {
    fn each(&self, take: &mut dyn FnMut([u8; 20]) -> bool) -> Result<(), Unlisted> {
        self.list(take).map_err(|error| Unlisted(error.into()))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.catalogue.changes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use prometheus::Registry;
    use skerry_store::catalogue::Torrent;
    use skerry_store::digest::Ingest;
    use skerry_store::meta::Table;
    use skerry_store::{Held, Store, StoreConfig};
    use skerry_wire::Sha1Hash;
    use skerry_wire::metainfo::{Builder, Hashes, Kind, NewFile};

    use super::*;

    const CHUNK: usize = 1 << 18;

    fn catalogue(folder: &Path) -> Catalogue {
        let config = StoreConfig {
            chunk_bytes: CHUNK as u32,
            memory_tier_bytes: 0,
            reserve_bytes: 0,
            ..StoreConfig::default()
        };
        Catalogue::open(Store::open(folder, &config, &Registry::new()).unwrap()).unwrap()
    }

    /// A resource of one chunk on record, pinned when it has a pin.
    fn hold(catalogue: &Catalogue, fill: u8, pin: Option<&str>) -> Held {
        Held::clone(&catalogue.add(stored(catalogue, fill, pin)).unwrap())
    }

    /// Its chunk alone.
    fn stored(catalogue: &Catalogue, fill: u8, pin: Option<&str>) -> Held {
        let (store, bytes) = (catalogue.store(), Bytes::from(vec![fill; CHUNK]));
        let mut ingest = Ingest::new(CHUNK as u32);
        let id = ingest.push(&bytes);
        let located = match pin {
            Some(pin) => {
                store.open_parts_blocking(pin).unwrap();
                store.pin_part_blocking(pin, 0, id, &bytes).unwrap()
            }
            None => store.put_blocking(id, &bytes).unwrap(),
        };
        Held {
            resource: ingest.finish(),
            generations: vec![located.generation],
            name: format!("film-{fill}"),
            media_type: String::new(),
            from: None,
            pin: pin.map(str::to_owned),
            added_ms: 0,
        }
    }

    /// A torrent of version 1 of one resource.
    fn torrent(held: &Held, private: bool) -> Vec<u8> {
        let file = NewFile { path: vec![held.name.clone()], length: held.resource.length };
        let mut builder = Builder::new(Kind::V1, held.name.clone(), CHUNK as u32, vec![file]);
        builder.private = private;
        let pieces = held.resource.sha1_pieces.iter().map(|hash| Sha1Hash(*hash)).collect();
        builder.build(&Hashes { pieces, files: Vec::new() }).unwrap().to_bytes()
    }

    fn hashes(torrents: &[&Torrent]) -> Vec<[u8; 20]> {
        let infos = torrents.iter().map(|torrent| torrent.metainfo.info());
        let mut all: Vec<[u8; 20]> = infos.flat_map(|info| info.hashes().map(|hash| hash.wire())).collect();
        all.sort_unstable();
        all
    }

    fn listed(discovered: &Discovered) -> Vec<[u8; 20]> {
        let mut all = Vec::new();
        discovered
            .each(&mut |hash| {
                all.push(hash);
                true
            })
            .unwrap();
        all.sort_unstable();
        all
    }

    #[test]
    fn torrents_that_are_held_and_not_private_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = catalogue(folder.path());
        let discovered = Discovered::new(catalogue.clone(), false);
        assert!(listed(&discovered).is_empty());

        let (first, second) = (hold(&catalogue, 1, Some("first")), hold(&catalogue, 2, None));
        let hybrid = catalogue.add_torrent_of(&first, Kind::Hybrid).unwrap();
        let public = catalogue.add_torrent(&torrent(&second, false), vec![Some(second.id())]).unwrap();
        let private = catalogue.add_torrent(&torrent(&first, true), vec![Some(first.id())]).unwrap();
        assert!(private.metainfo.info().private());
        assert_eq!(listed(&discovered), hashes(&[&hybrid, &public]));
        assert_eq!(listed(&discovered).len(), 3);

        let mut count = 0;
        let stopped = discovered.each(&mut |_| {
            count += 1;
            count < 2
        });
        assert!(stopped.is_ok() && count == 2);
        assert_eq!(listed(&discovered).len(), 3);

        assert!(catalogue.remove(&second.id()).unwrap());
        assert_eq!(listed(&discovered), hashes(&[&hybrid]));
        let first_hash = hybrid.metainfo.info().hashes().next().unwrap().wire();
        assert!(catalogue.remove_torrent(&first_hash).unwrap());
        assert!(listed(&discovered).is_empty());
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = catalogue(folder.path());
        let discovered = Discovered::new(catalogue.clone(), false);
        let (first, second) = (hold(&catalogue, 1, Some("first")), hold(&catalogue, 2, Some("second")));
        let one = catalogue.add_torrent_of(&first, Kind::Hybrid).unwrap();
        assert_eq!(listed(&discovered), hashes(&[&one]));
        // Behind the catalogue's back: whoever reads all the torrents misses it.
        let key = one.metainfo.info().hashes().next().unwrap().wire();
        catalogue.store().meta().delete(Table::Torrents, &key).unwrap();
        let two = catalogue.add_torrent_of(&second, Kind::Hybrid).unwrap();
        assert_eq!(listed(&discovered), hashes(&[&one, &two]));
        // It has changed when its file does.
        assert!(catalogue.remove(&first.id()).unwrap());
        assert_eq!(listed(&discovered), hashes(&[&two]));
    }

    #[test]
    fn what_is_evicted_is_missed_though_nobody_tells_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let catalogue = catalogue(folder.path());
        let discovered = Discovered::new(catalogue.clone(), false);
        // Of another's chunk that may go at any time.
        let loose = Held { pin: None, ..stored(&catalogue, 1, Some("loose")) };
        let loose = catalogue.add(loose).unwrap();
        let torrent = catalogue.add_torrent_of(&loose, Kind::V1).unwrap();
        assert_eq!(listed(&discovered), hashes(&[&torrent]));
        catalogue.store().unpin_parts_blocking("loose").unwrap();
        assert!(listed(&discovered).is_empty());
        // And listed again with its return.
        stored(&catalogue, 1, Some("loose"));
        assert_eq!(listed(&discovered), hashes(&[&torrent]));
    }
}

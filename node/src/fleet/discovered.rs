//! What strangers may hear that this node holds: every torrent that it can serve and that is not private.

use std::collections::HashMap;

use parking_lot::Mutex;
use skerry_discovery::{Torrents, Unlisted};
use skerry_store::{Catalogue, ChunkId, StoreError};
use tokio::sync::watch;

/// Records read at once.
const PAGE: usize = 500;

/// The torrents of the catalogue, for the DHT and the local network.
pub struct Discovered {
    catalogue: Catalogue,
    /// Whether what is gone is fetched again when a peer asks for it.
    refill: bool,
    /// What was read of torrents, by their first info-hash: their info-hashes stand for it, so it stays.
    known: Mutex<HashMap<[u8; 20], Known>>,
}

/// A torrent.
struct Known {
    /// As they travel; none of a private one.
    info_hashes: Vec<[u8; 20]>,
    /// The file that was there when it was last looked for one.
    there: Option<ChunkId>,
}

impl Discovered {
    /// Over what the catalogue holds; `refill` as the super-peer has it.
    pub fn new(catalogue: Catalogue, refill: bool) -> Self {
        Self { catalogue, refill, known: Mutex::default() }
    }

    fn read(&self, key: &[u8; 20]) -> Result<Known, StoreError> {
        let torrent = self.catalogue.torrent(key)?;
        let info = torrent.as_ref().map(|torrent| torrent.metainfo.info());
        let public = info.filter(|info| !info.private());
        let hashes = public.into_iter().flat_map(|info| info.hashes().map(|hash| hash.wire()));
        Ok(Known { info_hashes: hashes.collect(), there: None })
    }

    /// Whether there is anything of a torrent that a peer could be sent.
    fn is_served(&self, key: &[u8; 20], known: &mut Known) -> Result<bool, StoreError> {
        if let Some(id) = known.there
            && self.is_there(&id)?
        {
            return Ok(true);
        }
        known.there = None;
        let Some(torrent) = self.catalogue.torrent(key)? else { return Ok(false) };
        for id in torrent.files.iter().flatten() {
            if self.is_there(id)? {
                known.there = Some(*id);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_there(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let Some(held) = self.catalogue.resource(id)? else { return Ok(false) };
        let is_whole = held.pin.is_some() || (self.refill && held.from.is_some());
        Ok(is_whole || self.catalogue.presence(&held)?.contains(&true))
    }

    fn list(&self, take: &mut dyn FnMut([u8; 20]) -> bool) -> Result<(), StoreError> {
        let mut known = self.known.lock();
        let mut still = HashMap::new();
        let mut from = Vec::new();
        loop {
            let page = self.catalogue.torrents(&from, PAGE)?;
            for key in &page {
                let mut torrent = match known.remove(key) {
                    Some(torrent) => torrent,
                    None => self.read(key)?,
                };
                let is_told = !torrent.info_hashes.is_empty() && self.is_served(key, &mut torrent)?;
                let goes_on = !is_told || torrent.info_hashes.iter().all(|hash| take(*hash));
                still.insert(*key, torrent);
                if !goes_on {
                    *known = still;
                    return Ok(());
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => from = [&last[..], &[0]].concat(),
                _ => break,
            }
        }
        *known = still;
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
    use bytes::Bytes;
    use prometheus::Registry;
    use skerry_store::digest::Ingest;
    use skerry_store::{Held, Store, StoreConfig};
    use skerry_wire::Sha1Hash;
    use skerry_wire::metainfo::{Builder, Hashes, Kind, NewFile};

    use super::*;

    const CHUNK: usize = 1 << 18;

    /// A resource of one chunk on record, pinned when it has a pin.
    fn hold(catalogue: &Catalogue, fill: u8, pin: Option<&str>) -> Held {
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
        let held = Held {
            resource: ingest.finish(),
            generations: vec![located.generation],
            name: format!("film-{fill}"),
            media_type: String::new(),
            from: None,
            pin: pin.map(str::to_owned),
            added_ms: 0,
        };
        Held::clone(&catalogue.add(held).unwrap())
    }

    /// A torrent of version 1 of one resource.
    fn torrent(held: &Held, private: bool) -> Vec<u8> {
        let file = NewFile { path: vec![held.name.clone()], length: held.resource.length };
        let mut builder = Builder::new(Kind::V1, held.name.clone(), CHUNK as u32, vec![file]);
        builder.private = private;
        let pieces = held.resource.sha1_pieces.iter().map(|hash| Sha1Hash(*hash)).collect();
        builder.build(&Hashes { pieces, files: Vec::new() }).unwrap().to_bytes()
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
        let config = StoreConfig {
            chunk_bytes: CHUNK as u32,
            memory_tier_bytes: 0,
            reserve_bytes: 0,
            ..StoreConfig::default()
        };
        let store = Store::open(folder.path(), &config, &Registry::new()).unwrap();
        let catalogue = Catalogue::open(store).unwrap();
        let discovered = Discovered::new(catalogue.clone(), false);
        assert!(listed(&discovered).is_empty());

        let (first, second) = (hold(&catalogue, 1, Some("first")), hold(&catalogue, 2, None));
        let hybrid = catalogue.add_torrent_of(&first, Kind::Hybrid).unwrap();
        let public = catalogue.add_torrent(&torrent(&second, false), vec![Some(second.id())]).unwrap();
        let private = catalogue.add_torrent(&torrent(&first, true), vec![Some(first.id())]).unwrap();
        assert!(private.metainfo.info().private());
        let hashes = |torrents: &[&skerry_store::catalogue::Torrent]| {
            let infos = torrents.iter().map(|torrent| torrent.metainfo.info());
            let mut all: Vec<[u8; 20]> =
                infos.flat_map(|info| info.hashes().map(|hash| hash.wire())).collect();
            all.sort_unstable();
            all
        };
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
}

//! The catalogue: what the node holds as resources and torrents, beside the cache's objects.
//!
//! A record says what a resource is (its chunks in order) and where it came from; the chunks
//! themselves may be gone when they are not pinned, and are then fetched again from there, if that
//! is allowed ([`Refill`]). Torrents are views of resources: their metainfo, and which resource each
//! of their files is, so that a file of two torrents is stored once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use skerry_core::role::BoxFuture;
use skerry_wire::Sha1Hash;
use skerry_wire::metainfo::{Builder, FileHash, Hashes, Kind, Metainfo, NewFile};
use tokio::sync::watch;

use crate::digest::Resource;
use crate::meta::{Change, Table};
use crate::{ChunkId, Located, Store, StoreError};

/// Memory for records that were looked at lately, bytes each for resources and torrents.
const RECORDS: u64 = 64 << 20;
/// Chunks that are fetched again at once.
const REFILLS: usize = 16;

/// Before the names to pin under that nobody goes on with after a restart: what the catalogue finds
/// under one when it is opened, and is no resource's, is let go of.
pub const ONCE: &str = "once ";

/// A resource on record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Its chunks and digests.
    pub resource: Resource,
    /// The generation that each chunk was written to, as a hint; `None` when it is pinned.
    pub generations: Vec<Option<u64>>,
    /// A file name for it.
    pub name: String,
    /// Its media type (RFC 9110 §8.3), or empty.
    pub media_type: String,
    /// Where it can be fetched again.
    pub from: Option<CameFrom>,
    /// The name that its chunks are pinned under, and no other resource's.
    pub pin: Option<String>,
    /// Milliseconds since 1970.
    pub added_ms: u64,
}

/// A target of a site.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CameFrom {
    /// The site's name.
    pub site: String,
    /// Path and query.
    pub target: String,
}

impl Held {
    /// The resource id.
    pub fn id(&self) -> ChunkId {
        self.resource.pieces_root
    }

    /// Where chunk `index` is; `None` beyond the last.
    pub fn located(&self, index: usize) -> Option<Located> {
        let id = self.resource.chunks.get(index)?.kept_as(self.chunk_length(index) as usize);
        Some(Located { id, generation: self.generations.get(index).copied().flatten() })
    }

    /// Bytes of chunk `index`.
    pub fn chunk_length(&self, index: usize) -> u32 {
        let full = u64::from(self.resource.chunk_length);
        self.resource.length.saturating_sub(full * index as u64).min(full) as u32
    }

    fn weight(&self) -> u64 {
        512 + 80 * self.resource.chunks.len() as u64
    }
}

/// A torrent on record.
#[derive(Debug)]
pub struct Torrent {
    /// What it says, with its exact info dictionary.
    pub metainfo: Metainfo,
    /// The resource of each of its files; `None` for padding and for empty files.
    pub files: Vec<Option<ChunkId>>,
}

#[derive(Serialize, Deserialize)]
struct TorrentRecord {
    metainfo: Vec<u8>,
    files: Vec<Option<ChunkId>>,
}

/// How far a fetch of a resource is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that came, or were there already.
    pub received: AtomicU64,
    /// Bytes of the whole, once they are known; else 0.
    pub length: AtomicU64,
}

/// Fetches a chunk that is not held any more.
pub trait Refill: Send + Sync {
    /// The bytes of chunk `index`; `None` when they cannot be had. Who asks checks them.
    fn chunk(&self, held: Arc<Held>, index: usize) -> BoxFuture<'static, Option<Bytes>>;
}

/// The catalogue; cheap to clone.
#[derive(Clone)]
pub struct Catalogue(Arc<Inner>);

struct Inner {
    store: Store,
    held: Cache<ChunkId, Arc<Held>, Weigh>,
    torrents: Cache<[u8; 20], Arc<Torrent>, Weigh>,
    refill: RwLock<Option<Arc<dyn Refill>>>,
    refills: tokio::sync::Semaphore,
    changed: watch::Sender<u64>,
    /// Resources on record and in memory are changed by one thread at a time, and records are read into
    /// memory by it.
    changes: Mutex<()>,
    /// Resources on record, and their bytes.
    count: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<ChunkId, Arc<Held>> for Weigh {
    fn weight(&self, _: &ChunkId, held: &Arc<Held>) -> u64 {
        held.weight()
    }
}

impl Weighter<[u8; 20], Arc<Torrent>> for Weigh {
    fn weight(&self, _: &[u8; 20], torrent: &Arc<Torrent>) -> u64 {
        1024 + 3 * torrent.metainfo.info().bytes().len() as u64 + 40 * torrent.files.len() as u64
    }
}

impl Catalogue {
    /// The catalogue of a store. Blocks: it counts the records, and lets go of what holds that a crash
    /// broke off have pinned ([`ONCE`]).
    pub fn open(store: Store) -> Result<Self, StoreError> {
        let (mut count, mut bytes, mut unread) = (0, 0, 0);
        let mut pins = HashSet::new();
        store.meta().scan(Table::Resources, b"", |_, value| {
            match postcard::from_bytes::<Held>(value) {
                Ok(held) => {
                    count += 1;
                    bytes += held.resource.length;
                    pins.extend(held.pin);
                }
                Err(_) => unread += 1,
            }
            true
        })?;
        // A record that cannot be read may be of any of them.
        let names = if unread == 0 { store.inner().part_names(ONCE)? } else { Vec::new() };
        for name in names.iter().filter(|name| !pins.contains(*name)) {
            log::info!(pin:% = name; "what a hold that was broken off has pinned is let go of");
            store.inner().unpin_parts(name)?;
        }
        Ok(Self(Arc::new(Inner {
            store,
            held: Cache::with_weighter(1024, RECORDS, Weigh),
            torrents: Cache::with_weighter(1024, RECORDS, Weigh),
            refill: RwLock::new(None),
            refills: tokio::sync::Semaphore::new(REFILLS),
            changed: watch::Sender::new(0),
            changes: Mutex::new(()),
            count: AtomicU64::new(count),
            bytes: AtomicU64::new(bytes),
        })))
    }

    /// The store it is the catalogue of.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Lets chunks that are gone be fetched again.
    pub fn refill_from(&self, refill: Arc<dyn Refill>) {
        *self.0.refill.write() = Some(refill);
    }

    /// Counts every change of what is held; for who reports it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Resources on record, and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.0.count.load(Relaxed), self.0.bytes.load(Relaxed))
    }

    /// A resource by its id. Blocks for a short read of the disk when it was not looked at lately.
    pub fn resource(&self, id: &ChunkId) -> Result<Option<Arc<Held>>, StoreError> {
        if let Some(held) = self.0.held.get(id) {
            return Ok(Some(held));
        }
        let _one_at_a_time = self.0.changes.lock();
        self.load(id)
    }

    /// As [`Catalogue::resource`], for who holds the lock.
    fn load(&self, id: &ChunkId) -> Result<Option<Arc<Held>>, StoreError> {
        if let Some(held) = self.0.held.get(id) {
            return Ok(Some(held));
        }
        let Some(value) = self.0.store.meta().get(Table::Resources, &id.0)? else { return Ok(None) };
        let held: Arc<Held> = Arc::new(postcard::from_bytes(&value).map_err(|_| StoreError::Record)?);
        self.0.held.insert(*id, held.clone());
        Ok(Some(held))
    }

    /// Resources from an id on, in the order of their ids, at most `most`.
    pub fn list(&self, from: &[u8], most: usize) -> Result<Vec<Arc<Held>>, StoreError> {
        let mut found = Vec::new();
        self.each(from, |held| {
            found.push(Arc::new(held));
            found.len() < most
        })?;
        Ok(found)
    }

    /// Calls `each` with the resources from an id on, in the order of their ids, while it says true: a
    /// record may be as long as some MiB. Blocks.
    pub fn each(&self, from: &[u8], mut each: impl FnMut(Held) -> bool) -> Result<(), StoreError> {
        self.0.store.meta().scan_from(Table::Resources, from, |_, value| {
            postcard::from_bytes::<Held>(value).ok().is_none_or(&mut each)
        })
    }

    /// Puts a resource on record, in place of what was known of it; what is pinned stays so. Blocks for
    /// the disk.
    pub fn add(&self, mut held: Held) -> Result<Arc<Held>, CatalogueError> {
        let id = held.id();
        let one_at_a_time = self.0.changes.lock();
        let before = self.load(&id)?;
        if let Some(before) = &before {
            // 64 bytes may have the id of what they are the two hashes of (BEP 52 tells them apart by this).
            if before.resource.length != held.resource.length {
                return Err(CatalogueError::Clash(id));
            }
            if held.pin.is_none() && before.pin.is_some() {
                held.resource = before.resource.clone();
                held.generations = before.generations.clone();
                held.pin = before.pin.clone();
            }
        }
        let value = postcard::to_stdvec(&held).map_err(|_| StoreError::Record)?;
        self.0.store.meta().write(&[Change::Put(Table::Resources, id.0.to_vec(), value)], true)?;
        let held = Arc::new(held);
        self.0.held.insert(id, held.clone());
        drop(one_at_a_time);
        match before {
            // What held the bytes before lets go of them.
            Some(before) => {
                if let Some(pin) = before.pin.as_ref().filter(|pin| Some(*pin) != held.pin.as_ref()) {
                    self.let_go(pin);
                }
            }
            None => {
                self.0.count.fetch_add(1, Relaxed);
                self.0.bytes.fetch_add(held.resource.length, Relaxed);
            }
        }
        self.0.changed.send_modify(|count| *count += 1);
        Ok(held)
    }

    /// Takes a resource off the record and lets go of its chunks; false when it is not known. Blocks.
    pub fn remove(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let one_at_a_time = self.0.changes.lock();
        let Some(held) = self.load(id)? else { return Ok(false) };
        self.0.store.meta().write(&[Change::Delete(Table::Resources, id.0.to_vec())], true)?;
        self.0.held.remove(id);
        drop(one_at_a_time);
        self.0.count.fetch_sub(1, Relaxed);
        self.0.bytes.fetch_sub(held.resource.length, Relaxed);
        if let Some(pin) = &held.pin {
            self.let_go(pin);
        }
        self.0.changed.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// Lets go of what no resource has pinned any more. The record has changed already: a failure costs
    /// space, and nothing else.
    fn let_go(&self, pin: &str) {
        if let Err(error) = self.0.store.unpin_parts_blocking(pin) {
            log::warn!(pin:% = pin; "the space of unpinned chunks is not free yet: {error}");
        }
    }

    /// Puts a torrent on record whose files are `files`, by their resources. Blocks for the disk.
    pub fn add_torrent(
        &self,
        metainfo: &[u8],
        files: Vec<Option<ChunkId>>,
    ) -> Result<Arc<Torrent>, CatalogueError> {
        let parsed = Metainfo::parse(metainfo)?;
        let names = names(&parsed);
        let Some((first, _)) = names.first() else { return Err(CatalogueError::NoHash) };
        let key = first.to_vec();
        let record = TorrentRecord { metainfo: metainfo.to_vec(), files };
        let value = postcard::to_stdvec(&record).map_err(|_| StoreError::Record)?;
        let mut changes = vec![Change::Put(Table::Torrents, key.clone(), value)];
        for (hash, keyed) in &names {
            changes.push(Change::Put(Table::InfoHashes, hash.to_vec(), key.clone()));
            changes.push(Change::Put(Table::InfoHashes, keyed.to_vec(), hash.to_vec()));
        }
        self.0.store.meta().write(&changes, true)?;
        let torrent = Arc::new(Torrent { metainfo: parsed, files: record.files });
        for (hash, _) in names {
            self.0.torrents.insert(hash, torrent.clone());
        }
        self.0.changed.send_modify(|count| *count += 1);
        Ok(torrent)
    }

    /// The torrent of one resource, with the resource's chunks as its pieces: the same info-hashes on
    /// every node that gives it the same name. Blocks for the disk the first time.
    pub fn add_torrent_of(&self, held: &Held, kind: Kind) -> Result<Arc<Torrent>, CatalogueError> {
        let metainfo = torrent_of(held, kind)?;
        let first = metainfo.info().hashes().next().map(|hash| hash.wire());
        if let Some(torrent) = first.map(|hash| self.torrent(&hash)).transpose()?.flatten() {
            return Ok(torrent);
        }
        self.add_torrent(&metainfo.to_bytes(), vec![Some(held.id())])
    }

    /// A torrent by an info-hash as it stands in a handshake (BEP 3; the first 20 bytes of a v2 one,
    /// BEP 52). Blocks for a short read of the disk when it was not looked at lately.
    pub fn torrent(&self, info_hash: &[u8; 20]) -> Result<Option<Arc<Torrent>>, StoreError> {
        if let Some(torrent) = self.0.torrents.get(info_hash) {
            return Ok(Some(torrent));
        }
        let meta = self.0.store.meta();
        let Some(key) = meta.get(Table::InfoHashes, info_hash)? else { return Ok(None) };
        let Some(value) = meta.get(Table::Torrents, &key)? else { return Ok(None) };
        let record: TorrentRecord = postcard::from_bytes(&value).map_err(|_| StoreError::Record)?;
        let metainfo = Metainfo::parse(&record.metainfo).map_err(|_| StoreError::Record)?;
        let torrent = Arc::new(Torrent { metainfo, files: record.files });
        self.0.torrents.insert(*info_hash, torrent.clone());
        Ok(Some(torrent))
    }

    /// The info-hash behind `HASH('req2', SKEY)` of an encrypted handshake.
    pub fn behind(&self, keyed: &[u8; 20]) -> Result<Option<[u8; 20]>, StoreError> {
        let found = self.0.store.meta().get(Table::InfoHashes, &keyed_key(keyed))?;
        Ok(found.and_then(|hash| hash.try_into().ok()))
    }

    /// Takes a torrent off the record; its resources stay. Blocks.
    pub fn remove_torrent(&self, info_hash: &[u8; 20]) -> Result<bool, StoreError> {
        let Some(torrent) = self.torrent(info_hash)? else { return Ok(false) };
        let names = names(&torrent.metainfo);
        let mut changes = Vec::new();
        if let Some((first, _)) = names.first() {
            changes.push(Change::Delete(Table::Torrents, first.to_vec()));
        }
        for (hash, keyed) in names {
            changes.push(Change::Delete(Table::InfoHashes, hash.to_vec()));
            changes.push(Change::Delete(Table::InfoHashes, keyed.to_vec()));
            self.0.torrents.remove(&hash);
        }
        self.0.store.meta().write(&changes, true)?;
        self.0.changed.send_modify(|count| *count += 1);
        Ok(true)
    }

    /// Every torrent's first info-hash, in their order, at most `most` from `from` on.
    pub fn torrents(&self, from: &[u8], most: usize) -> Result<Vec<[u8; 20]>, StoreError> {
        let mut found = Vec::new();
        self.0.store.meta().scan_from(Table::Torrents, from, |key, _| {
            found.extend(<[u8; 20]>::try_from(key).ok());
            found.len() < most
        })?;
        Ok(found)
    }

    /// Which chunks of a resource are held, as far as can be told without reading them. Blocks.
    pub fn presence(&self, held: &Held) -> Result<Vec<bool>, StoreError> {
        let chunks = held.resource.chunks.len();
        if held.pin.is_some() {
            return Ok(vec![true; chunks]);
        }
        let located = (0..chunks).filter_map(|index| held.located(index));
        located.map(|chunk| self.0.store.may_hold(&chunk)).collect()
    }

    /// A chunk of a resource: from memory, from the disk, or, when it is gone, fetched again from where
    /// it came and checked. `None` when it cannot be had.
    pub async fn chunk(&self, held: &Arc<Held>, index: usize) -> Result<Option<Bytes>, StoreError> {
        let Some(located) = held.located(index) else { return Ok(None) };
        let length = held.chunk_length(index) as usize;
        let whole = move |bytes: &Bytes| bytes.len() == length;
        if let Some(bytes) = self.0.store.read(located).await?.filter(whole) {
            return Ok(Some(bytes));
        }
        let Some(refill) = self.0.refill.read().clone().filter(|_| held.from.is_some()) else {
            return Ok(None);
        };
        let _turn = self.0.refills.acquire().await.map_err(|_| StoreError::Closing)?;
        // Another may have fetched it meanwhile.
        if let Some(bytes) = self.0.store.read(located).await?.filter(whole) {
            return Ok(Some(bytes));
        }
        let Some(bytes) = refill.chunk(held.clone(), index).await else { return Ok(None) };
        let (store, held) = (self.0.store.clone(), held.clone());
        let checked = move || {
            let id = ChunkId::of(&bytes);
            if !whole(&bytes) || id.kept_as(bytes.len()) != located.id {
                log::warn!(resource:% = held.id(), chunk = index; "the origin has other bytes now");
                return Ok(None);
            }
            // What finds no room can be given all the same; the store has told of it.
            let _ = match &held.pin {
                Some(pin) => store.pin_part_blocking(pin, index as u64, id, &bytes),
                None => store.put_blocking(id, &bytes),
            };
            Ok(Some(bytes))
        };
        tokio::task::spawn_blocking(checked).await.map_err(|_| StoreError::Closing)?
    }
}

/// A resource or a torrent cannot be taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogueError {
    /// Its metainfo makes no sense.
    #[error("the torrent cannot be read: {0}")]
    Metainfo(#[from] skerry_wire::metainfo::Error),
    /// It has no info-hash of either kind.
    #[error("the torrent has no info-hash")]
    NoHash,
    /// Other content has the same id.
    #[error("resource {0} is on record with another length")]
    Clash(ChunkId),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The torrent of a resource.
fn torrent_of(held: &Held, kind: Kind) -> Result<Metainfo, skerry_wire::metainfo::Error> {
    let resource = &held.resource;
    let file = NewFile { path: vec![held.name.clone()], length: resource.length };
    let pieces = resource.chunks.iter().map(|chunk| chunk.0).collect();
    let hashes = Hashes {
        pieces: resource.sha1_pieces.iter().map(|hash| Sha1Hash(*hash)).collect(),
        files: vec![FileHash::of_pieces(pieces, resource.length, resource.chunk_length)],
    };
    Builder::new(kind, held.name.clone(), resource.chunk_length, vec![file]).build(&hashes)
}

/// The info-hashes of a torrent as peers name them, each with its keyed form's key.
fn names(metainfo: &Metainfo) -> Vec<([u8; 20], Vec<u8>)> {
    let named = metainfo.info().hashes().map(|hash| hash.wire());
    named.map(|hash| (hash, keyed_key(&skerry_wire::mse::req2(&hash)))).collect()
}

/// Keyed forms stand beside plain ones, told apart by their length.
fn keyed_key(keyed: &[u8; 20]) -> Vec<u8> {
    [b"k".as_slice(), keyed].concat()
}

#[cfg(test)]
mod tests;

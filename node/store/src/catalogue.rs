//! The catalogue: what the node holds as resources and torrents, beside the cache's objects.
//!
//! A record says what a resource is (its chunks in order) and where it came from (`sources`); the chunks
//! themselves may be gone when they are not pinned, and are then fetched again from there, if that
//! is allowed (`chunks`). It stays as long as one of those who have it pinned wants it (`owners`). Torrents
//! are views of resources: their metainfo, and which resource each of their files is, so that a file of two
//! torrents is stored once (`torrents`).

mod changes;
mod chunks;
mod owners;
mod sources;
mod torrents;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

pub use self::changes::Changed;
use self::changes::Changes;
pub use self::chunks::Refill;
use self::owners::Owners;
pub use self::sources::{Answer, Source};
use self::torrents::Made;
pub use self::torrents::Torrent;
use crate::digest::Resource;
use crate::meta::{Change, Table};
use crate::{ChunkId, Located, Store, StoreError};

/// Memory for records that were looked at lately, bytes each for resources and torrents.
const RECORDS: u64 = 64 << 20;
/// Chunks that are fetched again at once.
const REFILLS: usize = 16;

/// Before the names to pin under that nobody goes on with after a restart: what the catalogue finds
/// under one when it is opened, and is no resource's, is let go of. They have one owner: of two for one
/// resource the newer takes the older's place.
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
    /// A name that its chunks are pinned under, and no other resource's. There may be more of them:
    /// [`Catalogue::owners`] has all.
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

/// How far a fetch of a resource is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that came, or were there already.
    pub received: AtomicU64,
    /// Bytes of the whole, once they are known; else 0.
    pub length: AtomicU64,
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
    changes: Changes,
    /// Who wants what. Resources on record and in memory are changed by one thread at a time, which has
    /// this, and records are read into memory by it.
    owners: Mutex<Owners>,
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
    /// broke off have pinned ([`ONCE`]), and of torrents of nothing.
    pub fn open(store: Store) -> Result<Self, StoreError> {
        let (mut count, mut bytes, mut unread) = (0, 0, 0);
        let mut owners = Owners::default();
        let mut on_record: Vec<ChunkId> = Vec::new();
        store.meta().scan(Table::Resources, b"", |key, value| {
            on_record.extend(key.try_into().map(ChunkId));
            match postcard::from_bytes::<Held>(value) {
                Ok(held) => {
                    count += 1;
                    bytes += held.resource.length;
                    held.pin.iter().for_each(|pin| owners.found(held.id(), pin));
                }
                Err(_) => unread += 1,
            }
            true
        })?;
        owners.read(&store)?;
        // A record that cannot be read may be of any of them.
        let names = if unread == 0 { store.inner().part_names(ONCE)? } else { Vec::new() };
        for name in names.iter().filter(|name| owners.pinned_by(name).is_none()) {
            log::info!(pin:% = name; "what a hold that was broken off has pinned is let go of");
            store.inner().unpin_parts(name)?;
        }
        let catalogue = Self(Arc::new(Inner {
            store,
            held: Cache::with_weighter(1024, RECORDS, Weigh),
            torrents: Cache::with_weighter(1024, RECORDS, Weigh),
            refill: RwLock::new(None),
            refills: tokio::sync::Semaphore::new(REFILLS),
            changes: Changes::default(),
            owners: Mutex::new(owners),
            count: AtomicU64::new(count),
            bytes: AtomicU64::new(bytes),
        }));
        catalogue.settle();
        if let Err(error) = catalogue.sweep_torrents(&on_record) {
            log::warn!("torrents of what is not held stay on record: {error}");
        }
        Ok(catalogue)
    }

    /// The store it is the catalogue of.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Lets chunks that are gone be fetched again.
    pub fn refill_from(&self, refill: Arc<dyn Refill>) {
        *self.0.refill.write() = Some(refill);
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
        let _one_at_a_time = self.0.owners.lock();
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

    /// Puts a resource on record, in place of what was known of it. What is pinned stays so: the name that
    /// it comes with joins those that it has. What else was pinned under that name is let go of, a part of
    /// another version as well as a resource of its own. One that was let go of while it came pins nothing.
    /// Blocks for the disk.
    pub fn add(&self, held: Held) -> Result<Arc<Held>, CatalogueError> {
        self.put_on_record(held, Vec::new())
    }

    /// As [`Catalogue::add`], with its torrents: hybrid, v1 and v2. Every node that holds it serves all
    /// three, so that the tracker can name any of them. All of it is on record then, or nothing of it.
    pub fn add_with_torrents(&self, held: Held) -> Result<Arc<Held>, CatalogueError> {
        let torrents = Made::all_of(&held)?;
        self.put_on_record(held, torrents)
    }

    fn put_on_record(&self, mut held: Held, mut torrents: Vec<Made>) -> Result<Arc<Held>, CatalogueError> {
        let id = held.id();
        let mut owners = self.0.owners.lock();
        if let Some(pin) = &held.pin
            && !self.0.store.inner().has_parts(pin)?
        {
            log::warn!(pin:% = pin, resource:% = id; "it was let go of meanwhile, and the chunks are the cache's");
            held.pin = None;
        }
        let pin = held.pin.clone();
        let before = self.load(&id)?;
        if let Some(before) = &before {
            // 64 bytes may have the id of what they are the two hashes of (BEP 52 tells them apart by this).
            if before.resource.length != held.resource.length {
                return Err(CatalogueError::Clash(id));
            }
            if held.pin.is_none() && before.pin.is_some() {
                let is_cut_otherwise = before.resource.chunk_length != held.resource.chunk_length;
                held.resource = before.resource.clone();
                held.generations = before.generations.clone();
                held.pin = before.pin.clone();
                // Pieces are as long as chunks.
                if is_cut_otherwise && !torrents.is_empty() {
                    torrents = Made::all_of(&held)?;
                }
            }
        }
        let names_before = before.as_ref().map(|before| owners.of(before)).unwrap_or_default();
        let (names, mut gone) = owners::joined(&names_before, before.as_deref(), &held);
        held.pin = names.first().cloned();
        let value = postcard::to_stdvec(&held).map_err(|_| StoreError::Record)?;
        let mut changes = owners::changes(&id, &names_before, &names);
        changes.extend(self.source_of(&held)?);
        let torrents = self.only_new(torrents, &mut changes)?;
        changes.push(Change::Put(Table::Resources, id.0.to_vec(), value));
        self.0.store.meta().write(&changes, true)?;
        let mut changed = vec![Changed::Resource(id)];
        changed.extend(torrents.iter().map(|torrent| Changed::Torrent(torrent.key)));
        torrents.into_iter().for_each(|torrent| _ = self.remember(torrent));
        let held = Arc::new(held);
        self.0.held.insert(id, held.clone());
        let other = pin.as_ref().and_then(|pin| owners.pinned_by(pin)).filter(|other| *other != id);
        owners.set(id, &names_before, &names);
        if before.is_none() {
            self.0.count.fetch_add(1, Relaxed);
            self.0.bytes.fetch_add(held.resource.length, Relaxed);
        }
        if let (Some(pin), Some(other)) = (&pin, other) {
            match self.part(&mut owners, &other, |name| name == pin) {
                Ok(Some(parted)) => {
                    changed.extend(parted.changed(other));
                    gone.extend(parted.gone);
                }
                Ok(None) => {}
                Err(error) => log::warn!(resource:% = other; "it stays on record: {error}"),
            }
        }
        let is_less = pin.is_some_and(|pin| self.keep_only(&pin, &held));
        // What held the bytes before lets go of them.
        gone.iter().for_each(|name| self.let_go(name));
        drop(owners);
        if is_less || !gone.is_empty() {
            self.collect();
        }
        self.0.changes.tell(changed);
        Ok(held)
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

#[cfg(test)]
mod tests;

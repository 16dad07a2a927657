//! A resource as it comes from peers: pinned chunk by chunk, in any order, and put on record when all of it
//! is there.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use parking_lot::Mutex;
use skerry_download::{Sink, piece_count};
use skerry_store::catalogue::Progress;
use skerry_store::digest::Ingest;
use skerry_store::{Catalogue, ChunkId, Held, Located, Store, StoreError};
use skerry_wire::Sha256Hash;
use skerry_wire::metainfo::Metainfo;
use skerry_wire::peer::Bitfield;

use super::{Order, Unfilled, blocking, is_of};

/// A resource that is put together chunk by chunk, in any order.
pub(super) struct Filling {
    store: Store,
    order: Order,
    chunk_length: u32,
    progress: Arc<Progress>,
    /// What each chunk is kept as, once it is there.
    ids: Mutex<Vec<Option<ChunkId>>>,
}

impl Filling {
    /// Nothing of it yet; its chunks can be pinned from here on.
    pub(super) async fn new(store: Store, order: Order, progress: Arc<Progress>) -> Result<Self, StoreError> {
        let (parts, pin, length) = (store.clone(), order.pin.clone(), order.length);
        blocking(move || room(&parts, &pin, length)).await??;
        let chunk_length = store.config().chunk_bytes;
        Ok(Self { store, order, chunk_length, progress, ids: Mutex::default() })
    }

    /// Bytes of a chunk.
    fn length(&self, index: u32) -> usize {
        let start = u64::from(self.chunk_length) * u64::from(index);
        self.order.length.saturating_sub(start).min(self.chunk_length.into()) as usize
    }

    /// The ids of the chunks, as far as a torrent tells them: a last one that is shorter has another id than
    /// its piece, unless it is the only one.
    fn ids(&self, torrent: &Metainfo) -> Vec<Option<ChunkId>> {
        let root = Sha256Hash(self.order.resource.0);
        let count = piece_count(torrent);
        let layer = torrent.layer(&root).unwrap_or_default();
        let id = |index: u32| match count {
            1 => Some(self.order.resource),
            _ if self.length(index) < self.chunk_length as usize => None,
            _ => layer.get(index as usize).copied().map(ChunkId),
        };
        (0..count).map(id).collect()
    }

    /// Pins a chunk.
    async fn pin(&self, index: u32, bytes: Bytes) -> Result<(), StoreError> {
        let (store, pin, length) = (self.store.clone(), self.order.pin.clone(), bytes.len() as u64);
        let work = move || store.pin_part_blocking(&pin, index.into(), ChunkId::of(&bytes), &bytes);
        let located = blocking(work).await??;
        if let Some(id) = self.ids.lock().get_mut(index as usize) {
            *id = Some(located.id);
        }
        self.progress.received.fetch_add(length, Relaxed);
        Ok(())
    }

    /// What the store has of a chunk.
    async fn read(&self, index: u32, id: ChunkId) -> Option<Bytes> {
        let located = Located { id, generation: None };
        let read = self.store.read(located).await.ok().flatten();
        read.filter(|bytes| bytes.len() == self.length(index))
    }

    /// Reads every chunk once, and puts the resource on record.
    pub(super) async fn record(&self, catalogue: &Catalogue, name: String) -> Result<Arc<Held>, Unfilled> {
        let ids = self.ids.lock().clone();
        let mut ingest = Ingest::new(self.chunk_length);
        for (index, id) in (0..).zip(&ids) {
            let bytes = match id {
                Some(id) => self.read(index, *id).await,
                None => None,
            };
            let bytes = bytes.ok_or_else(|| Unfilled::Other(format!("chunk {index} is gone again")))?;
            let work = move || {
                ingest.push(&bytes);
                ingest
            };
            ingest = blocking(work).await?;
        }
        let resource = ingest.finish();
        let (catalogue, store) = (catalogue.clone(), self.store.clone());
        if resource.pieces_root != self.order.resource {
            // Whatever it is, nobody wants it; an older version that is on record under the name stays.
            let pin = self.order.pin.clone();
            blocking(move || catalogue.abandon(&pin)).await??;
            return Err(Unfilled::Other("what peers gave is not the resource".into()));
        }
        let held = Held {
            generations: vec![None; resource.chunks.len()],
            resource,
            name,
            media_type: String::new(),
            from: Some(self.order.from.clone()),
            pin: Some(self.order.pin.clone()),
            added_ms: crate::fleet::now_ms(),
        };
        let add = move || {
            store.flush_pins_blocking()?;
            catalogue.add_with_torrents(held)
        };
        Ok(blocking(add).await??)
    }
}

impl Sink for Filling {
    type Error = Unfilled;

    async fn begin(&self, torrent: &Metainfo) -> Result<Bitfield, Unfilled> {
        is_of(torrent, &self.order, self.chunk_length)?;
        let ids = self.ids(torrent);
        let mut have = Bitfield::new(ids.len() as u32);
        *self.ids.lock() = vec![None; ids.len()];
        self.progress.length.store(self.order.length, Relaxed);
        self.progress.received.store(0, Relaxed);
        // What is there from a fetch that broke off, or from something else.
        for (index, id) in (0..).zip(ids) {
            let Some(id) = id.map(|id| id.kept_as(self.length(index))) else { continue };
            if let Some(bytes) = self.read(index, id).await {
                self.pin(index, bytes).await?;
                have.set(index);
            }
        }
        Ok(have)
    }

    async fn piece(&self, piece: u32, data: Bytes) -> Result<(), Unfilled> {
        self.pin(piece, data).await.map_err(Unfilled::Store)
    }
}

/// Opens a name to pin parts under, if all of the content can be pinned.
fn room(store: &Store, pin: &str, length: u64) -> Result<(), StoreError> {
    let (quota, room) = (store.config().pinned_bytes, store.pinnable());
    let asked = length.saturating_sub(store.pinned_in_parts_blocking(pin)?);
    if asked > room {
        return Err(StoreError::PinnedFull { used: quota.saturating_sub(room), quota, asked });
    }
    store.open_parts_blocking(pin)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use skerry_store::StoreConfig;
    use skerry_store::catalogue::CameFrom;

    use super::*;

    const CHUNK: u32 = 1 << 18;
    const PIN: &str = "preload";

    /// One chunk as all that came from peers for a resource.
    async fn filled(catalogue: &Catalogue, resource: ChunkId, bytes: Bytes) -> Result<Arc<Held>, Unfilled> {
        let from = CameFrom { site: "default".into(), target: "/film".into() };
        let order = Order { resource, length: bytes.len() as u64, from, pin: PIN.into() };
        let filling = Filling::new(catalogue.store().clone(), order, Arc::default()).await?;
        *filling.ids.lock() = vec![None];
        filling.pin(0, bytes).await?;
        filling.record(catalogue, "film".into()).await
    }

    #[tokio::test]
    async fn what_is_not_the_resource_goes_and_an_older_version_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            chunk_bytes: CHUNK,
            memory_tier_bytes: 0,
            reserve_bytes: 0,
            ..StoreConfig::default()
        };
        let store = Store::open(folder.path(), &config, &Registry::new()).unwrap();
        let catalogue = Catalogue::open(store.clone()).unwrap();
        let pinned = || store.pinned_in_parts_blocking(PIN).unwrap();
        let chunk = |fill: u8| Bytes::from(vec![fill; CHUNK as usize]);
        let other = ChunkId([7; 32]);
        assert!(matches!(filled(&catalogue, other, chunk(1)).await, Err(Unfilled::Other(_))));
        assert_eq!((pinned(), catalogue.totals().0), (0, 0));

        let mut ingest = Ingest::new(CHUNK);
        ingest.push(&chunk(1));
        let old = filled(&catalogue, ingest.finish().pieces_root, chunk(1)).await.unwrap();
        assert!(matches!(filled(&catalogue, other, chunk(2)).await, Err(Unfilled::Other(_))));
        assert_eq!((pinned(), catalogue.pinned_by(PIN)), (CHUNK.into(), Some(old.id())));
        assert!(store.read(old.located(0).unwrap()).await.unwrap().is_some());
    }
}

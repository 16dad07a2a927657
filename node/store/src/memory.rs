//! The memory tier: hot chunks as shared buffers, bounded in bytes, S3-FIFO admission
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023; by `quick_cache`).

use std::hash::{BuildHasher, Hasher};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::ChunkId;

/// Book-keeping of an entry, counted on top of its bytes.
const OVERHEAD: u64 = 192;
/// A shard must hold several of the largest chunks.
const SHARD: u64 = 64 << 20;

/// A chunk in memory.
#[derive(Debug, Clone)]
pub struct Hot {
    /// Its bytes, shared with every response that sends them.
    pub bytes: Bytes,
    /// The generation it was last written to; `None` for pinned chunks.
    pub generation: Option<u64>,
}

/// Hot chunks. Reads are lock-free but for a shared read lock of one shard.
#[derive(Debug)]
pub struct MemoryTier(Cache<ChunkId, Hot, Weigh, FirstBytes>);

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<ChunkId, Hot> for Weigh {
    fn weight(&self, _: &ChunkId, hot: &Hot) -> u64 {
        hot.bytes.len() as u64 + OVERHEAD
    }
}

impl MemoryTier {
    /// A tier of at most `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let shards = (bytes / SHARD).next_power_of_two().clamp(1, 16) as usize;
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity((bytes / 65_536).clamp(64, 1 << 20) as usize)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        Self(Cache::with_options(options, Weigh, FirstBytes, DefaultLifecycle::default()))
    }

    /// The chunk, when it is hot.
    pub fn get(&self, id: &ChunkId) -> Option<Bytes> {
        self.0.get(id).map(|hot| hot.bytes)
    }

    /// Offers a chunk; the admission policy may decline it.
    pub fn insert(&self, id: ChunkId, bytes: Bytes, generation: Option<u64>) {
        self.0.insert(id, Hot { bytes, generation });
    }

    /// Forgets a chunk.
    pub fn remove(&self, id: &ChunkId) {
        self.0.remove(id);
    }

    /// Bytes held, book-keeping included.
    pub fn bytes(&self) -> u64 {
        self.0.weight()
    }

    /// Chunks held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hot chunks whose only copy on disk is in `generation`.
    pub fn of_generation(&self, generation: u64) -> Vec<(ChunkId, Bytes)> {
        let mine = |hot: &Hot| hot.generation == Some(generation);
        self.0.iter().filter(|(_, hot)| mine(hot)).map(|(id, hot)| (id, hot.bytes)).collect()
    }
}

/// Chunk ids are hashes already: their first eight bytes will do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FirstBytes;

/// State of [`FirstBytes`].
#[derive(Debug, Default)]
pub(crate) struct FirstBytesHasher(u64);

impl BuildHasher for FirstBytes {
    type Hasher = FirstBytesHasher;

    fn build_hasher(&self) -> FirstBytesHasher {
        FirstBytesHasher(0)
    }
}

impl Hasher for FirstBytesHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_never_grows_over_its_bound_and_keeps_what_is_read() {
        let tier = MemoryTier::new(8 << 20);
        let hot = ChunkId::of(b"hot");
        tier.insert(hot, Bytes::from(vec![1; 1 << 20]), Some(1));
        for index in 0..100_u32 {
            assert!(tier.get(&hot).is_some(), "dropped after {index}");
            tier.insert(ChunkId::of(&index.to_le_bytes()), Bytes::from(vec![0; 1 << 20]), Some(2));
            assert!(tier.bytes() <= 8 << 20);
        }
        assert_eq!(tier.of_generation(1).len(), 1);
    }
}

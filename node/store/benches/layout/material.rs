//! What is stored: chunks and keys that can be made again from their number, in this process and in
//! the child, so that every byte read can be checked and no list of keys has to be kept.

use fastrand::Rng;

/// Bytes of a chunk.
pub(crate) const CHUNK: usize = 1 << 20;
/// Chunks are windows of a pool of so many random bytes.
const POOL: usize = 64 << 20;
const SEED: u64 = 0x5ce7_7159;

/// A chunk's key: 32 random bytes.
pub(crate) type Key = [u8; 32];

/// The source of all chunks. Chunk `n` is the `n`th that is put.
pub(crate) struct Material {
    pool: Vec<u8>,
    /// Chunks that make up the capacity.
    pub(crate) capacity: u64,
}

impl Material {
    /// `capacity` in bytes.
    pub(crate) fn new(capacity: u64) -> Self {
        let mut pool = vec![0; POOL + CHUNK];
        Rng::with_seed(SEED).fill(&mut pool);
        Self { pool, capacity: capacity / CHUNK as u64 }
    }

    pub(crate) fn key(&self, chunk: u64) -> Key {
        let mut key = [0; 32];
        rng(chunk).fill(&mut key);
        key
    }

    pub(crate) fn bytes(&self, chunk: u64) -> &[u8] {
        let start = rng(!chunk).usize(..POOL);
        &self.pool[start..start + CHUNK]
    }

    /// As many random bytes as a chunk has, 64 times.
    pub(crate) fn pool(&self) -> &[u8] {
        &self.pool[..POOL]
    }
}

fn rng(number: u64) -> Rng {
    Rng::with_seed(SEED ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

//! What is stored: objects of one chunk, which can be made again from their number, in this process
//! and in its children.

use bytes::Bytes;
use fastrand::Rng;
use skerry_store::meta::{Change, Table};
use skerry_store::{ChunkId, Located, Store};

use crate::Result;

/// Bytes of a chunk as the node cuts them.
pub(crate) const CHUNK: usize = 1 << 20;
/// Bytes of a chunk where it takes many.
pub(crate) const SMALL: usize = 1 << 10;
/// Bytes of an object's record, with its key.
pub(crate) const RECORD: usize = 300;
/// Chunks are windows of a pool of so many random bytes; as many are different.
const POOL: u64 = 64 << 20;
/// Odd, so that it comes to every byte of the pool.
const STRIDE: u64 = 0x9e37_79b1;
const SEED: u64 = 0x5ce7_7159;

/// The source of all objects.
pub(crate) struct Material {
    pool: Bytes,
    length: usize,
}

impl Material {
    /// Chunks of `length` bytes.
    pub(crate) fn new(length: usize) -> Self {
        let mut pool = vec![0; POOL as usize + length];
        Rng::with_seed(SEED).fill(&mut pool);
        Self { pool: pool.into(), length }
    }

    /// The chunk of object `number`; it shares the pool's memory.
    pub(crate) fn chunk(&self, number: u64) -> Bytes {
        let start = (number.wrapping_mul(STRIDE) % POOL) as usize;
        self.pool.slice(start..start + self.length)
    }

    /// Puts object `number`, whose chunk has this id, as the cache does: the chunk, then a record.
    pub(crate) fn put(&self, store: &Store, number: u64, id: ChunkId) -> Result<Located> {
        let located = store.put_blocking(id, &self.chunk(number))?;
        let key = key(number);
        let mut record = postcard::to_stdvec(&located)?;
        let filler = RECORD - key.len() - record.len();
        record.extend_from_slice(&self.pool[number as usize % SMALL..][..filler]);
        store.meta().write(&[Change::Put(Table::Objects, key, record)], false)?;
        Ok(located)
    }

    /// As many random bytes as fit into a file to copy.
    pub(crate) fn pool(&self) -> &[u8] {
        &self.pool[..POOL as usize]
    }
}

/// Where the record of object `number` says that its chunk is.
pub(crate) fn find(store: &Store, number: u64) -> Result<Option<Located>> {
    let Some(record) = store.meta().get(Table::Objects, &key(number))? else { return Ok(None) };
    Ok(Some(postcard::take_from_bytes(&record)?.0))
}

/// A site and a target, in no order.
fn key(number: u64) -> Vec<u8> {
    let folder = number.wrapping_mul((STRIDE << 32) | STRIDE);
    format!("default\0/files/{folder:016x}/{number:012}.bin").into_bytes()
}

//! The chunk store: every byte the node holds, once, whatever door it came through.
//!
//! Chunk bytes live in one RocksDB database, as blobs in a ring of generations that are dropped
//! whole ([`ring`]), and in a column family of their own when they are pinned. Metadata lives in
//! another ([`meta`]), with its log. Hot chunks are shared buffers in a memory tier bounded in
//! bytes ([`memory`]). A chunk is named by its own hash ([`chunk`]) and its seal is checked whenever
//! it comes from disk, so a flipped bit, a torn write or a lost memtable is a miss and nothing else.
//!
//! [`Store`] is the door: its methods are called from reactor threads and do their disk and hash
//! work on the runtime's blocking threads.

pub mod catalogue;
pub mod chunk;
pub mod config;
pub mod digest;
pub mod error;
mod evict;
mod format;
pub mod memory;
pub mod meta;
pub mod metrics;
mod pins;
pub mod ring;
pub mod role;
pub mod store;
pub mod verify;

pub use catalogue::{Catalogue, Held};
pub use chunk::ChunkId;
pub use config::StoreConfig;
pub use error::StoreError;
pub use role::StoreRole;
pub use store::{Located, ReadAhead, Store};

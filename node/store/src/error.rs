//! What the store can refuse or fail at.

use std::path::PathBuf;

use crate::ChunkId;

/// A failure of the store.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// RocksDB's own failure: the disk, or a file that is damaged.
    #[error("chunk store: {0}")]
    Database(#[from] rust_rocksdb::Error),
    /// The database could not be opened.
    #[error("cannot open the store in {}: {source}", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// What RocksDB said.
        source: rust_rocksdb::Error,
    },
    /// A newer version wrote to it.
    #[error(
        "the store in {} has format {found}, and this version reads up to {known}; nothing was changed: run the version that wrote to it or a newer one, or name another `node.data_dir`",
        path.display()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// The format that it has.
        found: u32,
        /// The latest that this version reads.
        known: u32,
    },
    /// The number of its format cannot be read or written.
    #[error("{}: {reason}; it has the number of the store's format, and without it nothing is opened", path.display())]
    FormatFile {
        /// The file.
        path: PathBuf,
        /// What the system said, or what is there.
        reason: String,
    },
    /// Its folder could not be made.
    #[error("cannot make {}: {reason}; it is set by `node.data_dir`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// No room for more pinned bytes.
    #[error(
        "the pinned quota is full: {used} of {quota} bytes are pinned and {asked} more were asked for; unpin something or raise `store.pinned_bytes`"
    )]
    PinnedFull {
        /// Bytes pinned now.
        used: u64,
        /// `store.pinned_bytes`.
        quota: u64,
        /// Bytes of the refused chunk.
        asked: u64,
    },
    /// Pinned bytes leave no room for the cache.
    #[error(
        "only pinned bytes are left: {pinned} of {capacity} bytes; unpin something or raise `store.capacity_bytes`"
    )]
    OnlyPinned {
        /// Bytes pinned now.
        pinned: u64,
        /// `store.capacity_bytes`.
        capacity: u64,
    },
    /// The disk itself is full.
    #[error("the disk is full: {free} bytes are free and `store.reserve_bytes` keeps {reserve}")]
    DiskFull {
        /// Bytes free now.
        free: u64,
        /// `store.reserve_bytes`.
        reserve: u64,
    },
    /// A chunk that should be pinned is not held.
    #[error("chunk {0} is not held")]
    Missing(ChunkId),
    /// A metadata record cannot be read; it is dropped.
    #[error("a record of the metadata database cannot be read")]
    Record,
    /// A blocking task ended early, since the node stops.
    #[error("the store is closing")]
    Closing,
}

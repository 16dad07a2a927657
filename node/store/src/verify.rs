//! Reads every chunk on disk and checks its hash; safe while the node serves.

use std::ops::ControlFlow;

use rust_rocksdb::{DBRawIteratorWithThreadMode, ErrorKind, ReadOptions};

use crate::ring::Db;
use crate::{ChunkId, Store, StoreError};

/// How far a verification has come, and what it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Chunks read.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes there were to read when it began.
    pub total_bytes: u64,
    /// Chunks that failed and were removed.
    pub failed: u64,
    /// Whether this is the end.
    pub done: bool,
}

impl Store {
    /// Reads every chunk; those that cannot be read or fail their hash are reported in the log,
    /// counted and removed. `report` is called after every chunk and may stop it. Blocks.
    pub fn verify_blocking(
        &self,
        mut report: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Progress, StoreError> {
        let inner = self.inner();
        let pinned = inner.ring.pinned.load(std::sync::atomic::Ordering::Relaxed);
        let mut progress =
            Progress { total_bytes: inner.ring.cached_bytes() + pinned, ..Progress::default() };
        for name in inner.ring.families() {
            let Some(family) = inner.ring.db.cf_handle(&name) else { continue };
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            // Keys come without their blobs, so that one damaged blob does not end the walk.
            options.set_allow_unprepared_value(true);
            let mut keys: DBRawIteratorWithThreadMode<'_, Db> =
                inner.ring.db.raw_iterator_cf_opt(&family, options);
            keys.seek_to_first();
            while keys.valid() {
                if let Some(id) = keys.key().and_then(|key| <[u8; 32]>::try_from(key).ok()).map(ChunkId) {
                    let reason = match inner.ring.db.get_pinned_cf(&family, id.0) {
                        Ok(Some(bytes)) => {
                            progress.bytes += bytes.len() as u64;
                            (ChunkId::of(&bytes) != id).then(|| "it fails its hash".to_owned())
                        }
                        Ok(None) => None,
                        Err(error) if error.kind() == ErrorKind::Corruption => Some(error.to_string()),
                        Err(error) => return Err(error.into()),
                    };
                    progress.chunks += 1;
                    if let Some(reason) = reason {
                        progress.failed += 1;
                        inner.damaged(&name, &id, &reason)?;
                    }
                    if report(&progress).is_break() {
                        return Ok(progress);
                    }
                }
                keys.next();
            }
            keys.status()?;
        }
        progress.done = true;
        let _ = report(&progress);
        Ok(progress)
    }
}

//! Reads every chunk on disk and checks its hash; safe while the node serves.

use std::ops::ControlFlow;

use crate::ring::Found;
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
        for family in inner.ring.families() {
            let mut stopped = false;
            family.ids(|id| {
                let reason = match family.get(&id)? {
                    Found::Sound(bytes) => {
                        progress.bytes += bytes.len() as u64;
                        (ChunkId::of(&bytes) != id).then(|| "it fails its hash".to_owned())
                    }
                    Found::Absent => None,
                    Found::Damaged(reason) => Some(reason),
                };
                progress.chunks += 1;
                if let Some(reason) = reason {
                    progress.failed += 1;
                    inner.damaged(&family, &id, &reason)?;
                }
                stopped = report(&progress).is_break();
                Ok(!stopped)
            })?;
            if stopped {
                return Ok(progress);
            }
        }
        progress.done = true;
        let _ = report(&progress);
        Ok(progress)
    }
}

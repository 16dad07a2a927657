//! Reads every chunk on disk and checks its hash; safe while the node serves.

use std::ops::ControlFlow;

use crate::ring::{Family, Found};
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
        if self.verify_family(inner.ring.pinned_family(), &mut progress, &mut report)?.is_break() {
            return Ok(progress);
        }
        for number in inner.ring.numbers() {
            // One at a time: a family that is held keeps its disk space when it is evicted.
            let Some(family) = inner.ring.generation(number) else { continue };
            if self.verify_family(&family, &mut progress, &mut report)?.is_break() {
                return Ok(progress);
            }
        }
        progress.done = true;
        let _ = report(&progress);
        Ok(progress)
    }

    fn verify_family(
        &self,
        family: &Family,
        progress: &mut Progress,
        report: &mut impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut flow = ControlFlow::Continue(());
        family.ids(|id| {
            let reason = match family.get(&id) {
                Ok(Found::Sound(bytes)) => {
                    progress.bytes += bytes.len() as u64;
                    (ChunkId::of(&bytes).kept_as(bytes.len()) != id).then(|| "it fails its hash".to_owned())
                }
                Ok(Found::Absent) => None,
                Ok(Found::Damaged(reason)) => Some(reason),
                // A sector that the disk does not give back.
                Err(error) => Some(error.to_string()),
            };
            progress.chunks += 1;
            if let Some(reason) = reason {
                progress.failed += 1;
                self.inner().damaged(family, &id, &reason)?;
            }
            flow = report(progress);
            Ok(flow.is_continue())
        })?;
        Ok(flow)
    }
}

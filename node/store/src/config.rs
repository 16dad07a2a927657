//! `[store]`.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// `[store]`: the chunk store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Disk bytes for chunks, pinned and cached together.
    pub capacity_bytes: u64,
    /// How many of them pinned chunks may take; cache traffic never evicts those.
    pub pinned_bytes: u64,
    /// Memory for hot chunks.
    pub memory_tier_bytes: u64,
    /// Chunk length of new resources: a power of two from 262144 to 16777216.
    pub chunk_bytes: u32,
    /// Free bytes that the store leaves on its disk; below them fills pass through uncached.
    pub reserve_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 10 << 30,
            pinned_bytes: 5 << 30,
            memory_tier_bytes: 256 << 20,
            chunk_bytes: 1 << 20,
            reserve_bytes: 256 << 20,
        }
    }
}

impl StoreConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !self.chunk_bytes.is_power_of_two() || !(1 << 18..=1 << 24).contains(&self.chunk_bytes) {
            return Err(("store.chunk_bytes", "must be a power of two from 262144 to 16777216".into()));
        }
        if self.pinned_bytes > self.capacity_bytes {
            return Err(("store.pinned_bytes", "must not be larger than `store.capacity_bytes`".into()));
        }
        if self.capacity_bytes < 64 << 20 {
            return Err(("store.capacity_bytes", "must be at least 67108864".into()));
        }
        Ok(())
    }
}

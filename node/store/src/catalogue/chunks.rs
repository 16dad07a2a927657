//! The chunks of resources: which are there, and those that are not any more.

use std::sync::Arc;

use bytes::Bytes;
use skerry_core::role::BoxFuture;

use super::{Catalogue, Held};
use crate::{ChunkId, StoreError};

/// Fetches a chunk that is not held any more.
pub trait Refill: Send + Sync {
    /// The bytes of chunk `index`; `None` when they cannot be had. Who asks checks them, and keeps them;
    /// what has been kept of them by then is not kept again.
    fn chunk(&self, held: Arc<Held>, index: usize) -> BoxFuture<'static, Option<Bytes>>;
}

impl Catalogue {
    /// Which chunks of a resource are held, as far as can be told without reading them. Blocks.
    pub fn presence(&self, held: &Held) -> Result<Vec<bool>, StoreError> {
        let chunks = held.resource.chunks.len();
        if held.pin.is_some() {
            return Ok(vec![true; chunks]);
        }
        let located = (0..chunks).filter_map(|index| held.located(index));
        located.map(|chunk| self.0.store.may_hold(&chunk)).collect()
    }

    /// A chunk of a resource: from memory, from the disk, or, when it is gone, fetched again from where
    /// it came and checked. `None` when it cannot be had.
    pub async fn chunk(&self, held: &Arc<Held>, index: usize) -> Result<Option<Bytes>, StoreError> {
        let Some(located) = held.located(index) else { return Ok(None) };
        let length = held.chunk_length(index) as usize;
        let whole = move |bytes: &Bytes| bytes.len() == length;
        if let Some(bytes) = self.0.store.read(located).await?.filter(whole) {
            return Ok(Some(bytes));
        }
        let Some(refill) = self.0.refill.read().clone().filter(|_| held.from.is_some()) else {
            return Ok(None);
        };
        let _turn = self.0.refills.acquire().await.map_err(|_| StoreError::Closing)?;
        // Another may have fetched it meanwhile.
        if let Some(bytes) = self.0.store.read(located).await?.filter(whole) {
            return Ok(Some(bytes));
        }
        let Some(bytes) = refill.chunk(held.clone(), index).await else { return Ok(None) };
        let (catalogue, held) = (self.clone(), held.clone());
        let checked = move || {
            let id = ChunkId::of(&bytes);
            if !whole(&bytes) || id.kept_as(bytes.len()) != located.id {
                log::warn!(resource:% = held.id(), chunk = index; "the origin has other bytes now");
                return Ok(None);
            }
            // The name may be another version's by now.
            let pin = held.pin.as_deref().filter(|pin| catalogue.pinned_by(pin) == Some(held.id()));
            let store = catalogue.store();
            // What finds no room can be given all the same; the store has told of it.
            let _ = match pin {
                Some(pin) => store.pin_part_blocking(pin, index as u64, id, &bytes),
                None => store.put_again_blocking(id, &bytes),
            };
            Ok(Some(bytes))
        };
        tokio::task::spawn_blocking(checked).await.map_err(|_| StoreError::Closing)?
    }
}

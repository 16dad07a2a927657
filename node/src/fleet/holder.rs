//! What the preloader asks of the rest of the node, and what it hears of clients.

use std::sync::Arc;

use skerry_cache::Cache;
use skerry_cache::hold::{HoldError, Wanted};
use skerry_core::api::Demand;
use skerry_core::bucket::Bucket;
use skerry_core::role::BoxFuture;
use skerry_preload::popularity::Counts;
use skerry_preload::{HeldSummary, HoldFailure, Holder, Item, Popularity};
use skerry_registry::client::Membership;
use skerry_store::catalogue::{CatalogueError, Progress};
use skerry_store::{Catalogue, ChunkId, StoreError};

use super::Neighbours;

/// Holds through the cache, on record in the catalogue.
pub struct ThroughCache {
    /// Fetches.
    pub cache: Arc<Cache>,
    /// Keeps the record.
    pub catalogue: Catalogue,
    /// Asked before the origin is.
    pub neighbours: Arc<Neighbours>,
}

impl Holder for ThroughCache {
    fn hold(
        &self,
        item: &Item,
        progress: Arc<Progress>,
        rate: Arc<Bucket>,
    ) -> BoxFuture<'static, Result<ChunkId, HoldFailure>> {
        let (cache, catalogue) = (self.cache.clone(), self.catalogue.clone());
        let wanted = Wanted { from: item.source(), name: None, pin: Some(item.pin()) };
        let (neighbours, resource, pin) = (self.neighbours.clone(), item.resource, item.pin());
        Box::pin(async move {
            if let Some(id) = resource {
                let from = wanted.from.clone();
                let held = neighbours.hold(&catalogue, id, from, &pin, &progress, &rate).await;
                if let Some(held) = held {
                    return Ok(held.id());
                }
            }
            let held = cache.hold(&catalogue, wanted, &progress, rate).await;
            held.map(|held| held.id()).map_err(failure)
        })
    }

    fn release(&self, resource: ChunkId) -> BoxFuture<'static, Result<(), StoreError>> {
        let catalogue = self.catalogue.clone();
        blocking(move || catalogue.remove(&resource).map(drop))
    }

    fn abandon(&self, item: &Item) -> BoxFuture<'static, Result<(), StoreError>> {
        let (store, pin) = (self.catalogue.store().clone(), item.pin());
        blocking(move || store.unpin_parts_blocking(&pin))
    }

    fn held(&self) -> Result<Vec<HeldSummary>, StoreError> {
        let mut all = Vec::new();
        self.catalogue.each(b"", |held| {
            all.push(HeldSummary {
                resource: held.id(),
                from: held.from.clone(),
                length: held.resource.length,
                complete: held.pin.is_some(),
                pin: held.pin.clone(),
                added_ms: held.added_ms,
            });
            true
        })?;
        Ok(all)
    }

    fn pinnable(&self) -> u64 {
        self.catalogue.store().pinnable()
    }
}

fn blocking(
    work: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> BoxFuture<'static, Result<(), StoreError>> {
    Box::pin(async move { tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closing)? })
}

fn failure(error: HoldError) -> HoldFailure {
    let words = error.to_string();
    match error {
        HoldError::Store(
            StoreError::PinnedFull { .. } | StoreError::DiskFull { .. } | StoreError::OnlyPinned { .. },
        )
        | HoldError::Catalogue(CatalogueError::Store(
            StoreError::PinnedFull { .. } | StoreError::DiskFull { .. } | StoreError::OnlyPinned { .. },
        )) => HoldFailure::NoRoom(words),
        HoldError::NoSite(_) | HoldError::Target(_) | HoldError::NotKept(_) | HoldError::Status(_) => {
            HoldFailure::Refused(words)
        }
        _ => HoldFailure::Broken(words),
    }
}

/// Counts for the fleet.
pub struct ToFleet(pub Arc<Membership>);

impl Counts for ToFleet {
    fn asked(&self, resource: &ChunkId, requests: u32) {
        self.0.asked(&resource.to_string(), requests);
    }
}

/// What clients ask for, as the cache and the super-peer hear it.
pub struct Heard(pub Arc<Popularity>);

impl Demand for Heard {
    fn asked_for(&self, site: &str, target: &str, bytes: u64) {
        self.0.asked_for(site, target, bytes);
    }

    fn asked(&self, resource: &[u8; 32], bytes: u64) {
        self.0.asked(&ChunkId(*resource), bytes);
    }
}

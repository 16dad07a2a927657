//! What the preloader asks of the rest of the node, and what it hears of clients.

use std::sync::Arc;

use skerry_cache::Cache;
use skerry_cache::hold::{HoldError, Wanted};
use skerry_core::api::Demand;
use skerry_core::bucket::Bucket;
use skerry_core::role::BoxFuture;
use skerry_preload::item::is_pin;
use skerry_preload::popularity::Counts;
use skerry_preload::{HeldSummary, HoldFailure, Holder, Item, Popularity};
use skerry_registry::client::Membership;
use skerry_store::catalogue::{CatalogueError, Progress};
use skerry_store::{Catalogue, ChunkId, StoreError};

use super::Neighbours;
use super::from_peers::{FromPeers, Order, Unfilled};

/// Holds through the cache, on record in the catalogue.
pub struct ThroughCache {
    /// Fetches.
    pub cache: Arc<Cache>,
    /// Keeps the record.
    pub catalogue: Catalogue,
    /// Asked before the origin is.
    pub neighbours: Arc<Neighbours>,
    /// Asked when the origin fails, if they are to be.
    pub peers: Option<Arc<FromPeers>>,
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
        let (peers, length, from) = (self.peers.clone(), item.length, item.source());
        Box::pin(async move {
            if let Some(id) = resource {
                let from = wanted.from.clone();
                let held = neighbours.hold(&catalogue, id, from, &pin, &progress, &rate).await;
                if let Some(held) = held {
                    return Ok(held.id());
                }
            }
            let failed = match cache.hold(&catalogue, wanted, &progress, rate.clone()).await {
                Ok(held) => return Ok(held.id()),
                Err(error) => error,
            };
            let order = resource.filter(|_| length > 0 && is_out(&failed));
            let order = order.map(|resource| Order { resource, length, from, pin });
            let (Some(peers), Some(order)) = (peers, order) else { return Err(failure(failed)) };
            match peers.hold(&catalogue, order, progress, rate).await {
                Ok(held) => Ok(held.id()),
                Err(Unfilled::Store(error)) if has_no_room(&error) => {
                    Err(HoldFailure::NoRoom(error.to_string()))
                }
                Err(unfilled) => Err(HoldFailure::Broken(format!("{failed}; from peers: {unfilled}"))),
            }
        })
    }

    fn release(&self, item: &Item) -> BoxFuture<'static, Result<(), StoreError>> {
        let (catalogue, pin) = (self.catalogue.clone(), item.pin());
        Box::pin(async move {
            let release = move || match catalogue.pinned_by(&pin) {
                Some(id) => catalogue.release(&id, |name| name == pin).map(drop),
                None => catalogue.abandon(&pin),
            };
            tokio::task::spawn_blocking(release).await.map_err(|_| StoreError::Closing)?
        })
    }

    fn held(&self) -> Result<Vec<HeldSummary>, StoreError> {
        let mut all = Vec::new();
        self.catalogue.each(b"", |held| {
            let pins = self.catalogue.owners(&held);
            let pin = pins.iter().find(|name| is_pin(name)).or(pins.first()).cloned();
            all.push(HeldSummary {
                resource: held.id(),
                from: held.from.clone(),
                length: held.resource.length,
                complete: held.pin.is_some(),
                pin,
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

fn failure(error: HoldError) -> HoldFailure {
    let words = error.to_string();
    match error {
        HoldError::Store(error) | HoldError::Catalogue(CatalogueError::Store(error))
            if has_no_room(&error) =>
        {
            HoldFailure::NoRoom(words)
        }
        HoldError::NoSite(_) | HoldError::Target(_) | HoldError::NotKept(_) | HoldError::Status(_) => {
            HoldFailure::Refused(words)
        }
        _ => HoldFailure::Broken(words),
    }
}

fn has_no_room(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::PinnedFull { .. } | StoreError::DiskFull { .. } | StoreError::OnlyPinned { .. }
    )
}

/// Whether it is the origin that fails: it cannot be reached, breaks off, or says that it is out of order.
fn is_out(error: &HoldError) -> bool {
    match error {
        HoldError::Broken(_) => true,
        HoldError::Status(status) => status.is_server_error(),
        _ => false,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use bytes::Bytes;
    use http::StatusCode;
    use prometheus::Registry;
    use skerry_cache::{CacheConfig, Parts};
    use skerry_store::digest::Ingest;
    use skerry_store::{Held, Store, StoreConfig};
    use tokio::runtime::Handle;

    use super::*;

    fn holder(folder: &Path) -> ThroughCache {
        let registry = Registry::new();
        let config = StoreConfig { reserve_bytes: 0, ..StoreConfig::default() };
        let store = Store::open(folder, &config, &registry).unwrap();
        let cache = Cache::new(Parts {
            config: CacheConfig::default(),
            sites: BTreeMap::new(),
            node_name: "edge".into(),
            store: store.clone(),
            registry: &registry,
            background: Handle::current(),
            access_log: false,
        });
        ThroughCache {
            cache: cache.unwrap(),
            catalogue: Catalogue::open(store).unwrap(),
            neighbours: Arc::new(Neighbours::new(None, "edge".into())),
            peers: None,
        }
    }

    fn item(path: &str) -> Item {
        Item { resource: None, site: "default".into(), path: path.into(), length: 0, priority: 0 }
    }

    /// Pins the same bytes for an item, as they come, and as a resource if they are `whole`.
    fn pin(holder: &ThroughCache, item: &Item, whole: bool) -> ChunkId {
        let (store, bytes) = (holder.catalogue.store(), Bytes::from_static(b"the same"));
        let mut ingest = Ingest::new(store.config().chunk_bytes);
        let id = ingest.push(&bytes);
        store.open_parts_blocking(&item.pin()).unwrap();
        store.pin_part_blocking(&item.pin(), 0, id, &bytes).unwrap();
        let resource = ingest.finish();
        let id = resource.pieces_root;
        if whole {
            let held = Held {
                resource,
                generations: vec![None],
                name: "film".into(),
                media_type: String::new(),
                from: Some(item.source()),
                pin: Some(item.pin()),
                added_ms: 0,
            };
            holder.catalogue.add(held).unwrap();
        }
        id
    }

    #[tokio::test]
    async fn what_one_item_lets_go_of_another_of_the_same_content_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let holder = holder(folder.path());
        let (one, two, part) = (item("/one"), item("/two"), item("/part"));
        let id = pin(&holder, &one, true);
        assert_eq!(pin(&holder, &two, true), id);
        pin(&holder, &part, false);
        let owners = || holder.catalogue.resource(&id).unwrap().map(|held| holder.catalogue.owners(&held));
        assert_eq!(owners(), Some(vec![one.pin(), two.pin()]));
        holder.release(&part).await.unwrap();
        holder.release(&one).await.unwrap();
        assert_eq!(owners(), Some(vec![two.pin()]));
        let pinned = |item: &Item| holder.catalogue.store().pinned_in_parts_blocking(&item.pin()).unwrap();
        assert_eq!([&one, &two, &part].map(pinned), [0, 8, 0]);
        holder.release(&two).await.unwrap();
        assert_eq!((owners(), pinned(&two)), (None, 0));
    }

    #[test]
    fn peers_are_asked_when_the_origin_is_out_and_not_when_it_refuses() {
        for status in [500, 502, 503, 504] {
            assert!(is_out(&HoldError::Status(StatusCode::from_u16(status).unwrap())), "{status}");
        }
        assert!(is_out(&HoldError::Broken("the connection was lost".into())));
        for refusal in [
            HoldError::Status(StatusCode::NOT_FOUND),
            HoldError::Status(StatusCode::FORBIDDEN),
            HoldError::NotKept("no-store".into()),
            HoldError::NoSite("a".into()),
            HoldError::Store(StoreError::Closing),
        ] {
            assert!(!is_out(&refusal), "{refusal}");
        }
    }

    #[test]
    fn what_finds_no_room_waits_for_room() {
        let full = || StoreError::PinnedFull { used: 2, quota: 2, asked: 1 };
        assert!(matches!(failure(HoldError::Store(full())), HoldFailure::NoRoom(_)));
        let recorded = HoldError::Catalogue(CatalogueError::Store(full()));
        assert!(matches!(failure(recorded), HoldFailure::NoRoom(_)));
        assert!(matches!(failure(HoldError::Store(StoreError::Closing)), HoldFailure::Broken(_)));
        let refused = HoldError::Status(StatusCode::NOT_FOUND);
        assert!(matches!(failure(refused), HoldFailure::Refused(_)));
    }
}

//! The preloader's wiring: planner on the control node, filler on every node of a fleet.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus::Registry;
use skerry_cache::Cache;
use skerry_policy::Policies;
use skerry_preload::{Filler, Lists, LocalLists, Planner, Popularity, PreloadRole, RemoteLists};
use skerry_registry::client::Membership;
use skerry_registry::{InProcess, RegistryRole, Transport};
use skerry_selector::Selector;
use skerry_store::Catalogue;
use skerry_superpeer::SuperPeer;
use tokio::runtime::Handle;

use super::{FromPeers, Guide, Heard, Neighbours, ThroughCache, ToFleet};
use crate::config::Config;

/// How often the node looks what it can take.
const DESCRIBED: Duration = Duration::from_secs(5);

/// What the preloader is made from.
pub struct Preloading<'a> {
    /// The node's.
    pub config: &'a Config,
    /// Where metrics are registered.
    pub registry: &'a Registry,
    /// Where it runs.
    pub background: &'a Handle,
    /// The fleet that the node is in, if it is in one.
    pub fleet: &'a RegistryRole,
    /// The control node's map.
    pub selector: Option<&'a Arc<Selector>>,
    /// A member's way to the control node.
    pub transport: Option<Arc<dyn Transport>>,
    /// Fetches.
    pub cache: &'a Arc<Cache>,
    /// Serves peers, if it does.
    pub superpeer: Option<&'a Arc<SuperPeer>>,
    /// Keeps the record.
    pub catalogue: &'a Catalogue,
    /// Decide.
    pub policies: &'a Policies,
}

/// The preloader of a node that is in a fleet.
pub fn preloader(parts: Preloading<'_>) -> anyhow::Result<Option<Arc<PreloadRole>>> {
    let Preloading {
        config,
        registry,
        background,
        fleet,
        selector,
        transport,
        cache,
        superpeer,
        catalogue,
        policies,
    } = parts;
    let Some(membership) = fleet.membership() else { return Ok(None) };
    let metrics = skerry_preload::Metrics::new(registry)?;
    let (clock, steady) = (skerry_preload::clock::system(), skerry_preload::clock::steady());
    let planner = match fleet.control() {
        Some(control) => Some(Arc::new(Planner::open(
            skerry_preload::planner::Parts {
                view: control.clone(),
                policies: policies.clone(),
                kv: control.kv().clone(),
                plan_seconds: config.preload.plan_seconds,
                seed: fastrand::u64(..),
                metrics: metrics.clone(),
            },
            steady(),
        )?)),
        None => None,
    };
    let peers = config.preload.from_peers.then(|| {
        let trackers = match config.superpeer.trackers.as_slice() {
            [] => config.selector.trackers.clone(),
            named => named.to_vec(),
        };
        Arc::new(FromPeers::new(trackers, to_control(fleet, &config.node.name, transport.as_ref())))
    });
    let name = config.node.name.clone();
    let (lists, guide): (Arc<dyn Lists>, Option<Guide>) = match (&planner, transport) {
        (Some(planner), _) => {
            fleet.endpoint().publish_lists(planner.clone());
            let lists = Arc::new(LocalLists::new(planner.clone(), name.clone(), steady));
            (lists, selector.cloned().map(Guide::Here))
        }
        (None, Some(transport)) => {
            (Arc::new(RemoteLists::new(transport.clone(), &name)), Some(Guide::There(transport)))
        }
        (None, None) => return Ok(None),
    };
    let popularity = Arc::new(Popularity::new(&metrics));
    let heard = Arc::new(Heard(popularity.clone()));
    cache.tell_demand(heard.clone());
    if let Some(superpeer) = superpeer {
        superpeer.tell_demand(heard);
    }
    let parts = skerry_preload::filler::Parts {
        config: config.preload.clone(),
        quota_bytes: config.store.pinned_bytes,
        holder: Arc::new(ThroughCache {
            cache: cache.clone(),
            catalogue: catalogue.clone(),
            neighbours: Arc::new(Neighbours::new(guide, name)),
            peers,
        }),
        lists,
        journal: Arc::new(catalogue.store().clone()),
        popularity,
        counts: Arc::new(ToFleet(membership.clone())),
        metrics,
        clock,
        seed: fastrand::u64(..),
    };
    let filler = Arc::new(Filler::start(parts, background)?);
    background.spawn(describe(Arc::downgrade(&filler), membership.clone()));
    Ok(Some(Arc::new(PreloadRole::new(planner, filler))))
}

/// The way to the control node, from itself as well.
fn to_control(
    fleet: &RegistryRole,
    id: &str,
    transport: Option<&Arc<dyn Transport>>,
) -> Option<Arc<dyn Transport>> {
    match fleet.control() {
        Some(_) => Some(Arc::new(InProcess::new(fleet.endpoint().clone(), id))),
        None => transport.cloned(),
    }
}

/// Says with every beat what the filler can take: its windows open and close.
async fn describe(filler: Weak<Filler>, membership: Arc<Membership>) {
    let mut ticks = tokio::time::interval(DESCRIBED);
    loop {
        ticks.tick().await;
        let Some(filler) = filler.upgrade() else { return };
        let (capacity, window) = (filler.capacity_bytes(), filler.window_bytes());
        membership.describe(|node| {
            node.capacity_bytes = capacity;
            node.preload_window_bytes = window;
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Method, StatusCode};
    use skerry_registry::message::TorrentsAnswer;
    use skerry_registry::{Node, Parts, RegistryConfig};

    use super::*;

    #[tokio::test]
    async fn the_control_node_can_ask_itself_which_torrents_nodes_have_named() {
        let folder = tempfile::tempdir().unwrap();
        let open = |control| {
            let config = RegistryConfig { control, ..RegistryConfig::default() };
            let (node, registry, data_dir) = (Node::default(), Registry::new(), folder.path());
            let parts = Parts { config: &config, node, id: "a", data_dir, registry: &registry };
            RegistryRole::open(parts).unwrap()
        };
        assert!(to_control(&open(false), "a", None).is_none());
        let transport = to_control(&open(true), "a", None).unwrap();
        let path = format!("/.skerry/v1/nodes/torrents/{}", "07".repeat(32));
        let reply = transport.send(Method::GET, &path, Bytes::new()).await.unwrap();
        assert_eq!(reply.status, StatusCode::OK);
        assert!(serde_json::from_slice::<TorrentsAnswer>(&reply.body).unwrap().info_hashes.is_empty());
    }
}

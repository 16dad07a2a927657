//! The only list of roles that a node runs.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use skerry_cache::hold::FromOrigin;
use skerry_cache::resources::Resources;
use skerry_cache::{Cache, Parts};
use skerry_core::Role;
use skerry_core::api::{Api, Apis};
use skerry_discovery::Discovery;
use skerry_policy::{Policies, PolicyRole};
use skerry_preload::PreloadRole;
use skerry_registry::{RegistryRole, Transport};
use skerry_selector::{Owners, Selector, SelectorRole};
use skerry_store::{Catalogue, Store, StoreRole};
use skerry_superpeer::SuperPeer;
use skerry_tracker::{Tracker, TrackerRole};
use tokio::runtime::Handle;

use crate::appliance::BoxRole;
use crate::config::Config;
use crate::fleet::{self, FromFleet, Https, Recheck, tell_holdings, tell_policies};

/// What a node runs.
pub struct Roles {
    /// Every byte the node holds.
    pub store: Store,
    /// Answers the public listeners.
    pub cache: Arc<Cache>,
    /// Decide what goes where.
    pub policies: Policies,
    /// Serves peers, when it is to.
    pub superpeer: Option<Arc<SuperPeer>>,
    /// Tells peers of each other, when it is to.
    pub tracker: Option<Arc<Tracker>>,
    /// The fleet, and this node in it.
    pub registry: Arc<RegistryRole>,
    appliance: Arc<BoxRole>,
    policy: Arc<PolicyRole>,
    discovery: Option<Arc<Discovery>>,
    selector: Option<Arc<SelectorRole>>,
    preload: Option<Arc<PreloadRole>>,
    tracker_role: Option<Arc<TrackerRole>>,
    resources: Arc<Resources>,
}

impl Roles {
    /// Opens the store and builds the roles over it; `background` runs what belongs to no connection,
    /// and `peers` are the addresses of the peer wire.
    pub fn new(
        config: &Config,
        registry: &Registry,
        background: &Handle,
        peers: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        let store = Store::open(&config.node.data_dir, &config.store, registry)?;
        let cache = Cache::new(Parts {
            config: config.cache.clone(),
            sites: config.sites.clone(),
            node_name: config.node.name.clone(),
            store: store.clone(),
            registry,
            background: background.clone(),
            access_log: config.log.access,
        })?;
        let folder = config.node.data_dir.join("policies");
        // This very program, also when its file was replaced by another version meanwhile.
        let worker = "/proc/self/exe".into();
        let policies = Policies::new(config.policy.clone(), &folder, Some(worker), registry)?;
        let policy = Arc::new(PolicyRole::new(policies.clone()));
        let catalogue = Catalogue::open(store.clone())?;
        if config.superpeer.refill {
            catalogue.refill_from(Arc::new(FromOrigin(cache.clone())));
        }
        let trackers = match config.superpeer.trackers.as_slice() {
            [] => config.selector.trackers.clone(),
            named => named.to_vec(),
        };
        let resources = Resources::new(cache.clone(), catalogue.clone(), trackers);
        let superpeer = match config.superpeer.enabled {
            true => Some(SuperPeer::new(config.superpeer.clone(), catalogue.clone(), registry)?),
            false => None,
        };
        let discovery = match config.discovery.enabled() && config.superpeer.enabled {
            true => Some(Discovery::start(skerry_discovery::Parts {
                config: &config.discovery,
                listening: peers,
                torrents: Arc::new(fleet::Discovered::new(catalogue.clone(), config.superpeer.refill)),
                registry,
                background,
            })?),
            false => None,
        };
        let fleet_role = Arc::new(RegistryRole::open(skerry_registry::Parts {
            config: &config.fleet(),
            node: fleet::description(config, peers),
            id: &config.node.name,
            data_dir: &config.node.data_dir,
            registry,
        })?);
        // The tracker needs its map even where it routes nobody.
        let selector = match config.selector.enabled || config.tracker.enabled {
            true => Some(Selector::new(skerry_selector::Parts {
                config: config.selector.clone(),
                node: config.node.name.clone(),
                fleet: fleet_role.fleet().clone(),
                policies: policies.clone(),
                registry,
            })?),
            false => None,
        };
        let tracker = match selector.clone().filter(|_| config.tracker.enabled) {
            Some(selector) => Some(Arc::new(Tracker::new(skerry_tracker::Parts {
                config: config.tracker.clone(),
                super_peers: Arc::new(FromFleet::new(
                    fleet_role.fleet().clone(),
                    selector,
                    fleet_role.control().cloned(),
                )),
                policies: Some(policies.clone()),
                registry,
            })?)),
            None => None,
        };
        let tracker_role = tracker.clone().map(TrackerRole::new).transpose()?.map(Arc::new);
        let recheck = Recheck::start(catalogue.clone(), background);
        fleet_role.endpoint().publish_listener(Arc::new(recheck));
        let mut apis: Vec<Arc<dyn Api>> = vec![resources.clone(), fleet_role.endpoint().clone()];
        apis.extend(selector.clone().filter(|_| config.selector.enabled).map(|api| api as Arc<dyn Api>));
        cache.publish(Apis::new(apis));
        if let Some(selector) =
            selector.clone().filter(|_| config.selector.enabled && config.selector.redirect)
        {
            cache.send_on(selector);
        }
        if let Some(selector) = selector.clone().filter(|_| config.selector.enabled) {
            resources.send_on(Arc::new(Owners(selector)));
        }
        let map = selector.clone();
        let selector = selector.map(SelectorRole::new).transpose()?.map(Arc::new);
        let transport = match config.registry.control_url.is_empty() {
            true => None,
            false => Some(Https::new(&config.registry)? as Arc<dyn Transport>),
        };
        fleet_role.start(background, transport.clone());
        let preload = fleet::preloader(fleet::Preloading {
            config,
            registry,
            background,
            fleet: &fleet_role,
            selector: map.as_ref(),
            transport,
            cache: &cache,
            superpeer: superpeer.as_ref(),
            catalogue: &catalogue,
            policies: &policies,
        })?;
        if let Some(membership) = fleet_role.membership() {
            background.spawn(tell_holdings(catalogue, membership.clone()));
            background.spawn(tell_policies(Arc::downgrade(&policy), membership.clone()));
        }
        Ok(Self {
            store,
            cache,
            policies,
            superpeer,
            tracker,
            appliance: Arc::new(BoxRole::new(registry)?),
            policy,
            discovery,
            registry: fleet_role,
            selector,
            preload,
            tracker_role,
            resources,
        })
    }

    /// Every role, as the admin listener and the drain see them.
    pub fn list(&self) -> Vec<Arc<dyn Role>> {
        let store = Arc::new(StoreRole(self.store.clone()));
        let mut list: Vec<Arc<dyn Role>> = vec![
            store,
            self.cache.clone(),
            self.resources.clone(),
            self.policy.clone(),
            self.registry.clone(),
            self.appliance.clone(),
        ];
        list.extend(self.superpeer.clone().map(|role| role as Arc<dyn Role>));
        list.extend(self.discovery.clone().map(|role| role as Arc<dyn Role>));
        list.extend(self.preload.clone().map(|role| role as Arc<dyn Role>));
        list.extend(self.selector.clone().map(|role| role as Arc<dyn Role>));
        list.extend(self.tracker_role.clone().map(|role| role as Arc<dyn Role>));
        list
    }
}

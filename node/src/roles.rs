//! The only list of roles that a node runs.

use std::sync::Arc;

use prometheus::Registry;
use skerry_cache::{Cache, Parts};
use skerry_core::Role;
use skerry_policy::{Policies, PolicyRole};
use skerry_store::{Store, StoreRole};
use tokio::runtime::Handle;

use crate::config::Config;

/// What a node runs.
pub struct Roles {
    /// Every byte the node holds.
    pub store: Store,
    /// Answers the public listeners.
    pub cache: Arc<Cache>,
    /// Decide what goes where.
    pub policies: Policies,
    policy: Arc<PolicyRole>,
}

impl Roles {
    /// Opens the store and builds the roles over it; `background` runs what belongs to no connection.
    pub fn new(config: &Config, registry: &Registry, background: &Handle) -> anyhow::Result<Self> {
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
        Ok(Self { store, cache, policies, policy })
    }

    /// Every role, as the admin listener and the drain see them.
    pub fn list(&self) -> Vec<Arc<dyn Role>> {
        vec![Arc::new(StoreRole(self.store.clone())), self.cache.clone(), self.policy.clone()]
    }
}

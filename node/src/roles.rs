//! The only list of roles that a node runs.

use std::sync::Arc;

use prometheus::Registry;
use skerry_cache::{Cache, Parts};
use skerry_core::Role;
use skerry_store::{Store, StoreRole};
use tokio::runtime::Handle;

use crate::config::Config;

/// What a node runs.
pub struct Roles {
    /// Every byte the node holds.
    pub store: Store,
    /// Answers the public listeners.
    pub cache: Arc<Cache>,
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
        Ok(Self { store, cache })
    }

    /// Every role, as the admin listener and the drain see them.
    pub fn list(&self) -> Vec<Arc<dyn Role>> {
        vec![Arc::new(StoreRole(self.store.clone())), self.cache.clone()]
    }
}

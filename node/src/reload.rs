//! SIGHUP: what of a changed configuration is taken up at once, and what waits for a restart.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;
use skerry_cache::Cache;
use skerry_core::admin::Remote;
use skerry_core::notify;
use skerry_core::tls::Reloadable;
use skerry_policy::Policies;

use crate::cli::explain;
use crate::config::{self, Config};

/// Tables that are taken up whole.
const TABLES: [&str; 2] = ["cache", "sites"];
/// Keys of other tables that are taken up. Those of certificates count while TLS is served.
const KEYS: [&str; 8] = [
    "log.level",
    "public.tls_certificate_file",
    "public.tls_key_file",
    "public.tls_client_ca_file",
    "admin.tls_certificate_file",
    "admin.tls_key_file",
    "admin.tls_client_ca_file",
    "admin.operators",
];

/// Takes up the configuration again and again.
pub struct Reload {
    /// The file.
    pub path: PathBuf,
    /// What the node was started with.
    pub started: Config,
    /// Served certificate, if any.
    pub certificate: Option<Reloadable>,
    /// Who may administrate over TLS, if that is served.
    pub remote: Option<Remote>,
    /// The role whose sites can change.
    pub cache: Arc<Cache>,
    /// Look into their folder and their tables again.
    pub policies: Policies,
}

impl Reload {
    /// Reads the file and takes up what can be; a broken file changes nothing.
    pub fn again(&self) {
        notify::reloading();
        match self.apply() {
            Ok(waiting) if waiting.is_empty() => log::info!("the configuration was read again"),
            Ok(waiting) => {
                log::warn!(
                    "the configuration was read again; a restart is needed for {}",
                    waiting.join(", ")
                );
            }
            Err(error) => log::error!("the configuration stays as it was: {}", explain(&error)),
        }
        notify::ready("serving");
    }

    fn apply(&self) -> anyhow::Result<Vec<String>> {
        let new = config::load(&self.path)?;
        if let Some(certificate) = &self.certificate {
            certificate.reload(&new.public)?;
        }
        if let Some(remote) = &self.remote {
            remote.reload(new.administration())?;
        }
        self.cache.reload(new.cache.clone(), new.sites.clone())?;
        // It may compile for a while.
        let policies = self.policies.clone();
        std::thread::Builder::new().name("policy-scan".into()).spawn(move || policies.scan())?;
        if let Ok(level) = log::LevelFilter::from_str(&new.log.level) {
            log::set_max_level(level);
        }
        Ok(waiting(&self.started, &new))
    }
}

/// The changed keys that a running node does not take up.
fn waiting(started: &Config, new: &Config) -> Vec<String> {
    let tables = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(tables)) => tables,
        _ => serde_json::Map::new(),
    };
    let (started, new) = (tables(started), tables(new));
    let mut changed = Vec::new();
    for (table, keys) in new.iter().filter(|(table, _)| !TABLES.contains(&table.as_str())) {
        for (key, value) in keys.as_object().into_iter().flatten() {
            let whole = format!("{table}.{key}");
            if started.get(table).and_then(|keys| keys.get(key)) != Some(value)
                && !KEYS.contains(&whole.as_str())
            {
                changed.push(whole);
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_a_restart_is_named() {
        let started = Config::default();
        let mut new = started.clone();
        assert!(waiting(&started, &new).is_empty());
        new.cache.negative_seconds = 5;
        new.log.level = "debug".into();
        new.public.tls_key_file = "key.pem".into();
        new.admin.operators = vec!["alice".into()];
        assert!(waiting(&started, &new).is_empty());
        new.node.workers = 7;
        new.store.memory_tier_bytes = 1;
        assert_eq!(waiting(&started, &new), ["node.workers", "store.memory_tier_bytes"]);
        let mut new = started.clone();
        new.admin.tls_listen = vec![std::net::SocketAddr::from(([0, 0, 0, 0], 9443))];
        assert_eq!(waiting(&started, &new), ["admin.tls_listen"]);
    }
}

//! The whole configuration file: one table for every room, read and checked in one step.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use skerry_appliance::config::{BoxConfig, INTERFACES_SAMPLE, NetworkConfig, UpdateConfig};
use skerry_appliance::toml::{self, Wrong};
use skerry_cache::{CacheConfig, SiteConfig};
use skerry_core::Error;
use skerry_core::admin::AdminConfig;
use skerry_core::config::{self, LogConfig, NodeConfig, PublicConfig};
use skerry_discovery::DiscoveryConfig;
use skerry_policy::PolicyConfig;
use skerry_preload::PreloadConfig;
use skerry_registry::RegistryConfig;
use skerry_selector::SelectorConfig;
use skerry_store::StoreConfig;
use skerry_superpeer::SuperPeerConfig;
use skerry_tracker::TrackerConfig;

/// A day is more than any drain needs.
const LONGEST_DRAIN: u64 = 86_400;
const MOST_WORKERS: usize = 1024;

/// `skerry.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[node]`.
    pub node: NodeConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[public]`.
    pub public: PublicConfig,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[cache]`.
    pub cache: CacheConfig,
    /// `[policy]`.
    pub policy: PolicyConfig,
    /// `[superpeer]`.
    pub superpeer: SuperPeerConfig,
    /// `[discovery]`.
    pub discovery: DiscoveryConfig,
    /// `[preload]`.
    pub preload: PreloadConfig,
    /// `[registry]`.
    pub registry: RegistryConfig,
    /// `[selector]`.
    pub selector: SelectorConfig,
    /// `[tracker]`.
    pub tracker: TrackerConfig,
    /// `[network]`, of an appliance.
    pub network: NetworkConfig,
    /// `[update]`, of an appliance.
    pub update: UpdateConfig,
    /// `[box]`, of an appliance.
    #[serde(rename = "box")]
    pub appliance: BoxConfig,
    /// `[sites.NAME]`, by host name; `default` takes every other host.
    pub sites: BTreeMap<String, SiteConfig>,
}

/// Reads and checks a file. Errors name the file, the line and the key.
pub fn load(path: &Path) -> Result<Config, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| Error::ReadConfig { path: path.to_owned(), source })?;
    parse(&text, path).map_err(|Wrong { file, line, words, .. }| Error::Config {
        path: file,
        line,
        message: words,
    })
}

fn parse(text: &str, path: &Path) -> Result<Config, Wrong> {
    let config: Config = toml::parse(text, path)?;
    config.check().map_err(|(key, reason)| toml::wrong(text, path, &key, &reason))?;
    Ok(config)
}

/// The defaults as a commented file, with one site to begin with.
pub fn default_text() -> String {
    let config = Config::default();
    let tables = [
        config::commented("node", &config.node),
        config::commented("log", &config.log),
        config::commented("public", &config.public),
        config::commented("admin", &config.admin),
        config::commented("store", &config.store),
        config::commented("cache", &config.cache),
        config::commented("policy", &config.policy),
        config::commented("policy.breaker", &config.policy.breaker),
        config::commented("policy.rollout", &config.policy.rollout),
        config::commented("policy.decisions", &config.policy.decisions),
        config::commented("superpeer", &config.superpeer),
        config::commented("discovery", &config.discovery),
        config::commented("tracker", &config.tracker),
        config::commented("selector", &config.selector),
        config::commented("preload", &config.preload),
        config::commented("registry", &config.registry) + skerry_registry::config::LINKS_SAMPLE,
        config::commented("network", &config.network) + INTERFACES_SAMPLE,
        config::commented("update", &config.update),
        config::commented("box", &config.appliance),
        config::commented("sites.default", &sample_site()),
    ];
    let mut text = String::from(
        "# skerry.toml: every key with its default. Only [sites.default] has to be written; a key\n\
         # that is left out keeps its default, and an unknown one is an error.\n",
    );
    for table in tables {
        text.push('\n');
        text.push_str(&table);
    }
    text.push_str(
        "# Every key of [cache] but `object_memory_bytes` may stand here too, for this site alone.\n\
         # More sites are more tables, by the host name that picks them: [sites.\"cdn.example.org\"].\n",
    );
    text
}

/// The site of the printed defaults: somewhere to write the real origin.
fn sample_site() -> SiteConfig {
    let text = "origin = \"http://127.0.0.1:9000\"";
    toml::parse(text, Path::new("")).expect("a site needs an origin and nothing else")
}

impl Config {
    /// `[admin]`, where it names no certificate or authority with those that a node of a fleet has.
    pub fn administration(&self) -> AdminConfig {
        let own = &self.registry;
        self.admin.clone().or_of_node(&own.certificate_file, &own.key_file, &own.ca_file)
    }

    /// `[registry]`, where a link that names no interface has the one that names the link.
    pub fn fleet(&self) -> RegistryConfig {
        let mut registry = self.registry.clone();
        for link in registry.links.iter_mut().filter(|link| link.interface.is_empty()) {
            let found = self.network.interface_of(&link.name, Path::new(skerry_registry::interfaces::FOLDER));
            link.interface = found.unwrap_or_default();
        }
        registry
    }

    /// What cannot be said by types; the error is a whole key and a reason.
    fn check(&self) -> Result<(), (String, String)> {
        self.check_node().map_err(owned)?;
        if log::LevelFilter::from_str(&self.log.level).is_err() {
            let reason = format!("is `{}`; it must be error, warn, info, debug or trace", self.log.level);
            return Err(owned(("log.level", reason)));
        }
        self.public.check().map_err(owned)?;
        self.administration().check().map_err(owned)?;
        self.store.check().map_err(owned)?;
        self.cache.check().map_err(owned)?;
        self.policy.check().map_err(owned)?;
        self.superpeer.check().map_err(owned)?;
        self.discovery.check().map_err(owned)?;
        self.tracker.check().map_err(owned)?;
        self.selector.check().map_err(owned)?;
        self.preload.check().map_err(owned)?;
        self.registry.check().map_err(owned)?;
        self.check_fleet().map_err(owned)?;
        self.network.check()?;
        self.update.check()?;
        for (name, site) in &self.sites {
            site.check().map_err(|(key, reason)| (format!("sites.{name}.{key}"), reason))?;
            site.over(&self.cache).check().map_err(|(key, reason)| {
                let key = key.rsplit_once('.').map_or(key, |(_, key)| key);
                (format!("sites.{name}.{key}"), reason)
            })?;
        }
        if self.sites.is_empty() {
            let reason = "is missing: a node needs a site; write `[sites.default]` and below it \
                          `origin = \"https://origin.example\"`";
            return Err(("sites.default".into(), reason.into()));
        }
        Ok(())
    }

    /// What one role needs of another.
    fn check_fleet(&self) -> Result<(), (&'static str, String)> {
        let is_member = self.registry.control || !self.registry.control_url.is_empty();
        let control = "needs `registry.control`: nodes are known on the control node alone";
        if self.selector.enabled && !self.registry.control {
            return Err(("selector.enabled", control.into()));
        }
        if self.tracker.enabled && !self.tracker.open && !self.registry.control {
            return Err(("tracker.open", format!("is false, and so {control}")));
        }
        if self.preload.enabled && !is_member {
            let reason = "needs a fleet: `registry.control`, or `registry.control_url` of another node";
            return Err(("preload.enabled", reason.into()));
        }
        let dht = self.discovery.dht_listen.port();
        let shared = |address: &SocketAddr| address.is_ipv4() && dht > 0 && address.port() == dht;
        if self.discovery.dht
            && self.superpeer.enabled
            && self.superpeer.utp
            && self.superpeer.listen.iter().any(shared)
        {
            return Err(("discovery.dht_listen", "has a port of `superpeer.listen`, which is uTP's".into()));
        }
        if is_member && !skerry_registry::identity::is_id(&self.node.name) {
            return Err(("node.name", "must be at most 64 bytes in a fleet".into()));
        }
        if self.registry.insecure_loopback && self.public.proxy_protocol {
            let reason = "cannot be with `public.proxy_protocol`: anybody can write that they are here";
            return Err(("registry.insecure_loopback", reason.into()));
        }
        Ok(())
    }

    fn check_node(&self) -> Result<(), (&'static str, String)> {
        // It is a token in `Via` and `Cache-Status` (RFC 9110 §7.6.3, RFC 9211 §2).
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !self.node.name.starts_with(|first: char| first.is_ascii_alphabetic())
            || !self.node.name.bytes().all(word)
        {
            return Err((
                "node.name",
                "must begin with a letter; digits, `-`, `.` and `_` may follow".into(),
            ));
        }
        if self.node.data_dir.as_os_str().is_empty() {
            return Err(("node.data_dir", "must name a folder".into()));
        }
        if self.node.workers > MOST_WORKERS {
            return Err(("node.workers", format!("must be at most {MOST_WORKERS}")));
        }
        if self.node.drain_seconds > LONGEST_DRAIN {
            return Err(("node.drain_seconds", format!("must be at most {LONGEST_DRAIN}")));
        }
        Ok(())
    }
}

fn owned((key, reason): (&'static str, String)) -> (String, String) {
    (key.into(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let folder = std::env::temp_dir().join(format!("skerry-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{:?}.toml", std::thread::current().id()));
        std::fs::write(&file, text).unwrap();
        let error = load(&file).unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        error
    }

    #[test]
    fn the_printed_defaults_are_the_defaults_and_are_right() {
        let parsed = parse(&default_text(), Path::new("default")).unwrap();
        let sites = BTreeMap::from([("default".to_owned(), sample_site())]);
        assert_eq!(parsed, Config { sites, ..Config::default() });
    }

    #[test]
    fn an_unknown_key_is_named_with_line_and_nearest() {
        let text = "[node]\nname = \"a\"\n\n[public]\nlissten = []\n";
        let error = refusal(text);
        assert!(
            error.ends_with(":5: unknown key `public.lissten`; the nearest known key is `listen`"),
            "{error}"
        );
        let link = "[[registry.links]]\nname = \"a\"\nurl = \"http://a\"\n";
        let error = refusal(&format!("{link}{}", link.replace("url", "ulr")));
        assert!(error.contains(":6: unknown key `registry.links[1].ulr`"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let error = refusal("[node]\nworkers = \"two\"\n");
        assert!(error.contains(":2: `node.workers`: "), "{error}");
    }

    #[test]
    fn a_node_without_a_site_is_told_what_to_write() {
        let error = refusal("[node]\nname = \"a\"\n");
        assert!(error.contains("`sites.default` is missing") && error.contains("origin = "), "{error}");
    }

    #[test]
    fn a_wrong_value_of_a_site_is_found_in_its_table() {
        let site = "[cache]\nheuristic_fraction = 0.5\n[sites.\"cdn.example.org\"]\norigin = \"http://a\"\n";
        let error = refusal(&format!("{site}heuristic_fraction = 7.0\n"));
        assert!(error.contains(":5: `sites.cdn.example.org.heuristic_fraction`"), "{error}");
    }

    #[test]
    fn a_name_that_is_no_token_is_refused() {
        let site = "[sites.default]\norigin = \"http://a\"\n";
        for name in ["", "two words", "7up", "a,b", "é"] {
            let error = refusal(&format!("[node]\nname = \"{name}\"\n{site}"));
            assert!(error.contains(":2: `node.name`"), "{error}");
        }
    }

    #[test]
    fn a_member_administrates_by_its_own_certificate() {
        let site = "[sites.default]\norigin = \"http://a\"\n[admin]\ntls_listen = [\"0.0.0.0:9443\"]\n";
        let error = refusal(site);
        assert!(error.contains("`admin.tls_certificate_file` must name a file"), "{error}");
        let member = "[registry]\ncontrol_url = \"https://control\"\ncertificate_file = \"n.pem\"\n\
                      key_file = \"n.key\"\nca_file = \"ca.pem\"\n";
        let admin = parse(&format!("{site}{member}"), Path::new("a")).unwrap().administration();
        assert_eq!(admin.tls_certificate_file, Path::new("n.pem"));
        assert_eq!((admin.tls_key_file, admin.tls_client_ca_file), ("n.key".into(), "ca.pem".into()));
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        let error = refusal("[log]\nlevel = \"loud\"\n[sites.default]\norigin = \"http://a\"\n");
        assert!(error.contains(":2: `log.level` is `loud`"), "{error}");
    }
}

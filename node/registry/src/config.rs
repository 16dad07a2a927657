//! `[registry]` and `[[registry.links]]`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::message::{self, MOST_INTERVAL, MOST_LINKS, MOST_NAME, MOST_PREFIXES};
use crate::prefix::Prefix;

/// Longest life of a certificate, days.
const MOST_DAYS: u64 = 3650;
/// Most that one node may be let hold: what it may send at once is enough to write such a list anew.
const MOST_HOLDINGS: usize = 2_000_000;
/// Longest name of an interface, bytes (`IFNAMSIZ` less its end).
const MOST_INTERFACE: usize = 15;

/// How links are written, to stand below the printed `[registry]`.
pub const LINKS_SAMPLE: &str = "\
# A table for every address of this node on one operator's network:
# [[registry.links]]
# name = \"north\"
# url = \"https://edge-7.example:8443\"
# isp = \"Example Telecom\"
# asns = [64500]
# prefixes = [\"192.0.2.0/24\", \"2001:db8::/32\"]
# capacity_kbps = 1000000
# interface = \"eth0\"
";

/// `[registry]`: what this node is to the fleet. Neither the control node nor a member, it stands alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// This is the fleet's control node: it keeps the registry, below `node.data_dir`.
    pub control: bool,
    /// The control node of the fleet that this node is a member of: https://HOST:PORT.
    pub control_url: String,
    /// Region that this node stands in. The one that it was enrolled for counts more.
    pub region: String,
    /// Time between heartbeats; a node that is silent for two of them gets no clients.
    pub heartbeat_seconds: u64,
    /// This node's certificate by the fleet's authority, with the authority's, PEM. A member renews it, and its
    /// key: it must be able to write into their folder.
    pub certificate_file: PathBuf,
    /// Private key of that certificate, PEM.
    pub key_file: PathBuf,
    /// Certificate of the fleet's authority, PEM.
    pub ca_file: PathBuf,
    /// Private key of the fleet's authority, PEM; on the control node, which then can enrol nodes.
    pub ca_key_file: PathBuf,
    /// How long certificates of nodes are good. A member renews its own when a third of that is left.
    pub certificate_days: u64,
    /// Holdings of one node that the control node takes down, at most; each info-hash of one counts as another.
    pub max_node_holdings: usize,
    /// The same of all nodes together. Each takes up to 250 bytes of memory.
    pub max_fleet_holdings: usize,
    /// Take whoever calls from this machine at their word, without a certificate. For trying things out.
    pub insecure_loopback: bool,
    /// `[[registry.links]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkConfig>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            control: false,
            control_url: String::new(),
            region: String::new(),
            heartbeat_seconds: 10,
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            ca_key_file: PathBuf::new(),
            certificate_days: 365,
            max_node_holdings: 200_000,
            max_fleet_holdings: 10_000_000,
            insecure_loopback: false,
            links: Vec::new(),
        }
    }
}

/// `[[registry.links]]`: one address of this node on one operator's network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Its name, one on the node.
    pub name: String,
    /// Where clients reach it: http://HOST:PORT or https://HOST:PORT.
    pub url: String,
    /// Name of the operator.
    #[serde(default)]
    pub isp: String,
    /// Autonomous systems that it is best for. With no prefixes either it is for anybody.
    #[serde(default)]
    pub asns: Vec<u32>,
    /// Clients' prefixes that it is best for.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
    /// What it can carry; 0 asks the interface.
    #[serde(default)]
    pub capacity_kbps: u64,
    /// Network interface whose counters say what it carries. Empty, it is that of the `[[network.interfaces]]`
    /// that names this link, and without one nothing is measured.
    #[serde(default)]
    pub interface: String,
}

impl RegistryConfig {
    /// What cannot be said by types; the error is a key and a reason.
    ///
    /// # Errors
    /// When something cannot be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.control && !self.control_url.is_empty() {
            let reason = "names a control node, and `registry.control` says that this is it";
            return Err(("registry.control_url", reason.into()));
        }
        if !(1..=MOST_INTERVAL).contains(&self.heartbeat_seconds) {
            return Err(("registry.heartbeat_seconds", format!("must be from 1 to {MOST_INTERVAL}")));
        }
        if !(1..=MOST_DAYS).contains(&self.certificate_days) {
            return Err(("registry.certificate_days", format!("must be from 1 to {MOST_DAYS}")));
        }
        if !(1..=MOST_HOLDINGS).contains(&self.max_node_holdings) {
            return Err(("registry.max_node_holdings", format!("must be from 1 to {MOST_HOLDINGS}")));
        }
        if self.max_fleet_holdings < self.max_node_holdings {
            return Err((
                "registry.max_fleet_holdings",
                "must be at least `registry.max_node_holdings`".into(),
            ));
        }
        if self.region.len() > MOST_NAME || self.region.chars().any(char::is_control) {
            let reason = format!("must be at most {MOST_NAME} bytes without control characters");
            return Err(("registry.region", reason));
        }
        self.check_member()?;
        if !is_empty(&self.ca_key_file) && !self.control {
            let reason = "is for the control node alone; no other node should have this key";
            return Err(("registry.ca_key_file", reason.into()));
        }
        if !is_empty(&self.ca_key_file) && is_empty(&self.ca_file) {
            return Err(("registry.ca_file", "must name a file, since `registry.ca_key_file` does".into()));
        }
        self.check_links().map_err(|reason| ("registry.links", reason))
    }

    fn check_member(&self) -> Result<(), (&'static str, String)> {
        if self.control_url.is_empty() {
            return Ok(());
        }
        message::check_url(&self.control_url).map_err(|reason| ("registry.control_url", reason.into()))?;
        if !self.control_url.starts_with("https://") {
            if self.insecure_loopback && is_local(&self.control_url) {
                return Ok(());
            }
            let reason = "must begin with https://: nodes know each other by certificates, but for \
                          `registry.insecure_loopback` on one machine";
            return Err(("registry.control_url", reason.into()));
        }
        for (key, path) in [
            ("registry.certificate_file", &self.certificate_file),
            ("registry.key_file", &self.key_file),
            ("registry.ca_file", &self.ca_file),
        ] {
            if is_empty(path) {
                let reason = "must name a file, since `registry.control_url` is set; `skerry node enrol` \
                              makes it";
                return Err((key, reason.into()));
            }
        }
        Ok(())
    }

    fn check_links(&self) -> Result<(), String> {
        if self.links.len() > MOST_LINKS {
            return Err(format!("has {} links; there may be {MOST_LINKS}", self.links.len()));
        }
        for (place, link) in self.links.iter().enumerate() {
            let name = &link.name;
            link.check().map_err(|reason| format!("has a link `{name}` whose {reason}"))?;
            if self.links[..place].iter().any(|other| other.name == *name) {
                return Err(format!("has two links `{name}`"));
            }
        }
        Ok(())
    }
}

impl LinkConfig {
    fn check(&self) -> Result<(), String> {
        for (key, text) in [("name", &self.name), ("isp", &self.isp)] {
            if text.len() > MOST_NAME || text.chars().any(char::is_control) {
                return Err(format!("`{key}` must be at most {MOST_NAME} bytes without control characters"));
            }
        }
        if self.name.is_empty() {
            return Err("`name` is empty".into());
        }
        message::check_url(&self.url).map_err(|reason| format!("`url` {reason}"))?;
        if self.asns.len() > MOST_PREFIXES || self.prefixes.len() > MOST_PREFIXES {
            return Err(format!("`asns` or `prefixes` has more than {MOST_PREFIXES} entries"));
        }
        let interface = &self.interface;
        if interface == "lo" {
            return Err("`interface` is the loopback, which carries no clients".into());
        }
        if interface.len() > MOST_INTERFACE
            || matches!(interface.as_str(), "." | "..")
            || interface.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
        {
            return Err("`interface` is no name of a network interface".into());
        }
        Ok(())
    }
}

/// Whether a URL's host is this machine.
fn is_local(url: &str) -> bool {
    let uri: Option<http::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use skerry_core::config;

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Whole {
        registry: RegistryConfig,
    }

    fn parse(text: &str) -> RegistryConfig {
        toml::from_str::<Whole>(text).unwrap().registry
    }

    fn refused(text: &str) -> &'static str {
        parse(&format!("[registry]\n{text}")).check().unwrap_err().0
    }

    #[test]
    fn the_printed_defaults_are_the_defaults_and_are_right() {
        let text = config::commented("registry", &RegistryConfig::default());
        assert_eq!(parse(&text), RegistryConfig::default());
        assert_eq!(RegistryConfig::default().check(), Ok(()));
        for field in RegistryConfig::FIELD_NAMES.iter().filter(|field| **field != "links") {
            assert!(text.contains(&format!("\n{field} = ")), "{field} is missing");
        }
        let sample: String = LINKS_SAMPLE.lines().skip(1).map(|line| format!("{}\n", &line[2..])).collect();
        let config = parse(&format!("{text}\n{sample}"));
        assert_eq!(config.check(), Ok(()));
        assert_eq!((config.links.len(), config.links[0].prefixes.len()), (1, 2));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, key) in [
            ("control = true\ncontrol_url = \"https://a\"", "registry.control_url"),
            ("control_url = \"http://a\"", "registry.control_url"),
            ("control_url = \"http://192.0.2.1\"\ninsecure_loopback = true", "registry.control_url"),
            ("control_url = \"a\"", "registry.control_url"),
            ("control_url = \"https://a\"", "registry.certificate_file"),
            ("heartbeat_seconds = 0", "registry.heartbeat_seconds"),
            ("certificate_days = 0", "registry.certificate_days"),
            ("max_node_holdings = 0", "registry.max_node_holdings"),
            ("max_node_holdings = 2000001", "registry.max_node_holdings"),
            ("max_fleet_holdings = 1000", "registry.max_fleet_holdings"),
            ("region = \"a\\nb\"", "registry.region"),
            ("ca_key_file = \"a\"", "registry.ca_key_file"),
            ("control = true\nca_key_file = \"a\"", "registry.ca_file"),
        ] {
            assert_eq!(refused(text), key, "{text}");
        }
        let near = "control_url = \"http://127.0.0.1:8080\"\ninsecure_loopback = true";
        assert_eq!(parse(&format!("[registry]\n{near}")).check(), Ok(()));
    }

    #[test]
    fn links_are_checked() {
        let link = |text: &str| refused(&format!("[[registry.links]]\nname = \"a\"\n{text}"));
        for text in [
            "url = \"a\"",
            "url = \"http://a\"\ninterface = \"lo\"",
            "url = \"http://a\"\ninterface = \"../etc\"",
            "url = \"http://a\"\ninterface = \"..\"",
            "url = \"http://a\"\nisp = \"\\u0007\"",
            "url = \"http://a\"\n[[registry.links]]\nname = \"a\"\nurl = \"http://b\"",
        ] {
            assert_eq!(link(text), "registry.links", "{text}");
        }
    }
}

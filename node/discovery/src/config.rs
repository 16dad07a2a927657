//! `[discovery]`.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// Nodes to begin with, and interfaces, at most.
const MOST_NAMED: usize = 64;
/// Bytes of an interface's name (IFNAMSIZ, without its zero).
const LONGEST_INTERFACE: usize = 15;
/// Bytes of a host's name (RFC 1035 §2.3.4).
const LONGEST_HOST: usize = 253;

/// `[discovery]`: peers without a tracker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Whether torrents are announced in the DHT (BEP 5), and peers looked up there; private ones never
    /// are. The DHT is IPv4 alone.
    pub dht: bool,
    /// UDP address of the DHT, IPv4. Not the port of `superpeer.listen`.
    pub dht_listen: SocketAddrV4,
    /// Nodes of the DHT that the way in is asked of, as host:port. Empty: router.bittorrent.com:6881,
    /// dht.transmissionbt.com:6881, dht.libtorrent.org:25401 and relay.pkarr.org:6881.
    pub dht_bootstrap: Vec<String>,
    /// Answer other nodes of the DHT from the start on. When false the node only asks (BEP 43), until it
    /// has seen for a quarter of an hour that it can be reached from outside.
    pub dht_server: bool,
    /// Requests of other nodes of the DHT that are answered in a second, of one address a tenth of them.
    pub dht_max_requests_per_second: u32,
    /// Whether torrents are announced on the local network (BEP 14), and peers heard there; private ones
    /// never are.
    pub lsd: bool,
    /// Interfaces of the local network, by name. Empty: all but loopback and point-to-point ones.
    pub lsd_interfaces: Vec<String>,
    /// How long a round of announces in the DHT takes; clients forget a peer after half an hour.
    pub announce_seconds: u64,
    /// Announces in the DHT in a second, at most. When there are too many torrents for that, rounds take
    /// longer.
    pub max_announces_per_second: u32,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            dht: false,
            dht_listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 6882),
            dht_bootstrap: Vec::new(),
            dht_server: false,
            dht_max_requests_per_second: 200,
            lsd: false,
            lsd_interfaces: Vec::new(),
            announce_seconds: 1500,
            max_announces_per_second: 5,
        }
    }
}

impl DiscoveryConfig {
    /// Whether there is anything to do.
    pub fn enabled(&self) -> bool {
        self.dht || self.lsd
    }

    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.dht_listen.ip().is_multicast() || self.dht_listen.ip().is_broadcast() {
            return Err(("discovery.dht_listen", "must be an address of this machine, or 0.0.0.0".into()));
        }
        if self.dht_bootstrap.len() > MOST_NAMED {
            return Err(("discovery.dht_bootstrap", format!("must be at most {MOST_NAMED} nodes")));
        }
        if let Some(wrong) = self.dht_bootstrap.iter().find(|node| !is_node(node)) {
            let reason = format!("has `{wrong}`, which is not host:port; hosts are names or IPv4 addresses");
            return Err(("discovery.dht_bootstrap", reason));
        }
        if self.lsd_interfaces.len() > MOST_NAMED {
            return Err(("discovery.lsd_interfaces", format!("must be at most {MOST_NAMED} interfaces")));
        }
        if let Some(wrong) = self.lsd_interfaces.iter().find(|name| !is_interface(name)) {
            let reason = format!("has `{wrong}`, which no interface can be called");
            return Err(("discovery.lsd_interfaces", reason));
        }
        if !(60..=86_400).contains(&self.announce_seconds) {
            return Err(("discovery.announce_seconds", "must be from 60 to 86400".into()));
        }
        if !(1..=100).contains(&self.max_announces_per_second) {
            return Err(("discovery.max_announces_per_second", "must be from 1 to 100".into()));
        }
        if !(1..=100_000).contains(&self.dht_max_requests_per_second) {
            return Err(("discovery.dht_max_requests_per_second", "must be from 1 to 100000".into()));
        }
        Ok(())
    }

    /// How long a round in the DHT takes.
    pub(crate) fn round(&self) -> Duration {
        Duration::from_secs(self.announce_seconds)
    }

    /// The least time from one announce in the DHT to the next.
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_secs(1) / self.max_announces_per_second.max(1)
    }
}

fn is_node(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.split_once(':').is_some_and(|(host, port)| {
        (1..=LONGEST_HOST).contains(&host.len())
            && host.bytes().all(word)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// What the kernel takes for a name; it is a part of a path, too.
fn is_interface(name: &str) -> bool {
    (1..=LONGEST_INTERFACE).contains(&name.len())
        && ![".", ".."].contains(&name)
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_do_nothing() {
        assert_eq!(DiscoveryConfig::default().check(), Ok(()));
        assert!(!DiscoveryConfig::default().enabled());
    }

    #[test]
    fn the_nodes_to_begin_with_are_those_that_are_told_of() {
        let told = DiscoveryConfig::get_field_docs("dht_bootstrap").unwrap();
        for node in mainline::DEFAULT_BOOTSTRAP_NODES {
            assert!(is_node(node) && told.contains(node), "{node} is not in: {told}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let key = |change: fn(&mut DiscoveryConfig)| {
            let mut config = DiscoveryConfig::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(key(|config| config.dht_listen = "224.0.0.1:1".parse().unwrap()), "discovery.dht_listen");
        assert_eq!(key(|config| config.announce_seconds = 59), "discovery.announce_seconds");
        assert_eq!(key(|config| config.max_announces_per_second = 0), "discovery.max_announces_per_second");
        assert_eq!(
            key(|config| config.dht_max_requests_per_second = 0),
            "discovery.dht_max_requests_per_second"
        );
        for wrong in ["", "host", "host:", ":6881", "host:0", "host:65536", "[::1]:6881", "a b:1", "a:1:2"] {
            let config =
                DiscoveryConfig { dht_bootstrap: vec![wrong.to_owned()], ..DiscoveryConfig::default() };
            assert_eq!(config.check().unwrap_err().0, "discovery.dht_bootstrap", "{wrong}");
        }
        for wrong in ["", ".", "..", "a/b", "../../etc", "an-interface-too-long", "two words"] {
            let config =
                DiscoveryConfig { lsd_interfaces: vec![wrong.to_owned()], ..DiscoveryConfig::default() };
            assert_eq!(config.check().unwrap_err().0, "discovery.lsd_interfaces", "{wrong}");
        }
    }

    #[test]
    fn hosts_and_interfaces_are_taken() {
        let config = DiscoveryConfig {
            dht_bootstrap: vec!["dht.example.org:6881".into(), "127.0.0.1:1".into()],
            lsd_interfaces: vec!["eth0".into(), "br-lan.7".into()],
            ..DiscoveryConfig::default()
        };
        assert_eq!(config.check(), Ok(()));
    }
}

//! The node's tables, as far as the box reads them. The defaults are the node's, which a test of it compares.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeTable {
    /// Name of the node.
    pub name: String,
    /// Folder of everything durable.
    pub data_dir: PathBuf,
    /// Threads that serve; 0 is one for every processor.
    pub workers: usize,
    /// How long running bodies may take to finish when it is told to stop.
    pub drain_seconds: u64,
}

impl Default for NodeTable {
    fn default() -> Self {
        Self { name: "skerry".into(), data_dir: "/var/lib/skerry".into(), workers: 0, drain_seconds: 30 }
    }
}

/// `[public]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PublicTable {
    /// Addresses for HTTP in the clear.
    pub listen: Vec<SocketAddr>,
    /// Addresses for HTTP over TLS.
    pub tls_listen: Vec<SocketAddr>,
    /// Connections open at once.
    pub max_connections: usize,
}

impl Default for PublicTable {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            tls_listen: Vec::new(),
            max_connections: 10_000,
        }
    }
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AdminTable {
    /// Address of metrics, health and the like, in the clear.
    pub listen: SocketAddr,
    /// Addresses of the same over TLS, for operators elsewhere.
    pub tls_listen: Vec<SocketAddr>,
}

impl Default for AdminTable {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9180)), tls_listen: Vec::new() }
    }
}

/// `[policy]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PolicyTable {
    /// `[policy.decisions]`.
    pub decisions: DecisionsTable,
}

/// `[policy.decisions]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DecisionsTable {
    /// Folder that decisions are recorded in; empty records none.
    pub record_dir: PathBuf,
}

/// `[superpeer]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SuperPeerTable {
    /// Whether the node serves peers.
    pub enabled: bool,
    /// Addresses of the peer wire.
    pub listen: Vec<SocketAddr>,
    /// Whether uTP is spoken on the same ports.
    pub utp: bool,
}

impl Default for SuperPeerTable {
    fn default() -> Self {
        let listen = vec![SocketAddr::from(([0; 4], 6881)), SocketAddr::from(([0; 16], 6881))];
        Self { enabled: false, listen, utp: false }
    }
}

/// `[discovery]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DiscoveryTable {
    /// Whether the node is in the DHT.
    pub dht: bool,
    /// UDP address of the DHT.
    pub dht_listen: SocketAddr,
    /// Whether neighbours are heard and told.
    pub lsd: bool,
}

impl Default for DiscoveryTable {
    fn default() -> Self {
        Self { dht: false, dht_listen: SocketAddr::from(([0; 4], 6882)), lsd: false }
    }
}

/// `[tracker]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TrackerTable {
    /// Whether the node is a tracker.
    pub enabled: bool,
    /// Addresses of HTTP and, on the same ports, of the UDP tracker protocol.
    pub listen: Vec<SocketAddr>,
}

impl Default for TrackerTable {
    fn default() -> Self {
        Self { enabled: false, listen: vec![SocketAddr::from(([127, 0, 0, 1], 6969))] }
    }
}

/// `[registry]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RegistryTable {
    /// Whether this is the control node of a fleet.
    pub control: bool,
    /// The control node of the fleet that this node is a member of.
    pub control_url: String,
    /// `[[registry.links]]`.
    pub links: Vec<LinkTable>,
}

/// `[[registry.links]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LinkTable {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub url: String,
    /// The interface that it is measured at.
    pub interface: String,
}

/// `[sites.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SiteTable {
    /// Where misses go.
    pub origin: String,
}

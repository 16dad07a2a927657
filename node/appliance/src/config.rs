//! `skerry.toml` as the box reads it: its own tables, strictly; and of the node's what says who may connect
//! to it and where it connects to. The node checks the rest, and knows these tables too.

mod address;
mod appliance;
mod endpoint;
mod moment;
mod network;
mod node;
mod update;

pub use address::Cidr;
pub use appliance::{BoxConfig, DiskEncryption};
pub use endpoint::Endpoint;
pub use moment::Moment;
pub use network::{INTERFACES_SAMPLE, InterfaceConfig, NetworkConfig, VlanConfig};
pub use node::{
    AdminTable, DecisionsTable, DiscoveryTable, LinkTable, NodeTable, PolicyTable, PublicTable,
    RegistryTable, SiteTable, SuperPeerTable, TrackerTable,
};
pub use update::UpdateConfig;

pub(crate) use network::{Addressing, is_hostname};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::toml::{self, Wrong};

/// Ports below this one are opened for the node by systemd, since it has no privileges (ip(7),
/// `ip_unprivileged_port_start`).
pub const PRIVILEGED: u16 = 1024;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error(transparent)]
    Wrong(#[from] Wrong),
}

/// What of `skerry.toml` concerns the box. The tables of the node are read as far as they do, and what else
/// stands in them is none of its business.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `[node]`.
    pub node: NodeTable,
    /// `[public]`.
    pub public: PublicTable,
    /// `[admin]`.
    pub admin: AdminTable,
    /// `[policy]`.
    pub policy: PolicyTable,
    /// `[superpeer]`.
    pub superpeer: SuperPeerTable,
    /// `[tracker]`.
    pub tracker: TrackerTable,
    /// `[discovery]`.
    pub discovery: DiscoveryTable,
    /// `[registry]`.
    pub registry: RegistryTable,
    /// `[sites.NAME]`.
    pub sites: BTreeMap<String, SiteTable>,
    /// `[network]`.
    pub network: NetworkConfig,
    /// `[update]`.
    pub update: UpdateConfig,
    /// `[box]`.
    #[serde(rename = "box")]
    pub appliance: BoxConfig,
}

/// What is spoken on a port, as far as a packet filter can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// Connections over UDP (BEP 29).
    Utp,
    /// Datagrams that stand for themselves.
    Udp,
}

/// One address that the node listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// What systemd and the node call it: `public`, `tls`, `admin`, `admin-tls`, `peers`, `tracker` or `dht`.
    pub name: &'static str,
    /// The key that it stands in.
    pub key: &'static str,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its address and port.
    pub address: SocketAddr,
}

impl Settings {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or what the box needs of it is wrong.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Ok(Self::parse(&text, path)?)
    }

    /// Parses and checks a text; `file` only names it in errors.
    ///
    /// # Errors
    /// When what the box needs of it is wrong.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Wrong> {
        let settings: Self = toml::parse(text, file)?;
        settings.check().map_err(|(key, reason)| toml::wrong(text, file, &key, &reason))?;
        Ok(settings)
    }

    /// What cannot be said by types; the error is a whole key and a reason.
    fn check(&self) -> Result<(), (String, String)> {
        self.network.check()?;
        self.update.check()?;
        self.check_links()?;
        for listener in self.listeners() {
            let port = listener.address.port();
            if listener.protocol != Protocol::Tcp && (1..PRIVILEGED).contains(&port) {
                let reason = format!(
                    "has port {port}: of those below {PRIVILEGED} the node can take TCP alone, from systemd"
                );
                return Err((listener.key.to_owned(), reason));
            }
        }
        Ok(())
    }

    /// Interfaces and links name each other.
    fn check_links(&self) -> Result<(), (String, String)> {
        for (key, name, interface) in self.network.links() {
            let Some(link) = self.registry.links.iter().find(|link| link.name == name) else {
                return Err((
                    key,
                    format!("names the link `{name}`, and no [[registry.links]] has that name"),
                ));
            };
            if !link.interface.is_empty() && interface.is_some_and(|interface| interface != link.interface) {
                let reason = format!("names the link `{name}`, whose interface is `{}`", link.interface);
                return Err((key, reason));
            }
        }
        Ok(())
    }

    /// Every address that the node listens on, of the roles that are switched on.
    pub fn listeners(&self) -> Vec<Listener> {
        use Protocol::{Tcp, Udp, Utp};
        let Self { public, admin, superpeer, tracker, discovery, .. } = self;
        let one = std::slice::from_ref;
        let tables: [(&'static str, &'static str, Protocol, bool, &[SocketAddr]); 9] = [
            ("public", "public.listen", Tcp, true, &public.listen),
            ("tls", "public.tls_listen", Tcp, true, &public.tls_listen),
            ("admin", "admin.listen", Tcp, true, one(&admin.listen)),
            ("admin-tls", "admin.tls_listen", Tcp, true, &admin.tls_listen),
            ("peers", "superpeer.listen", Tcp, superpeer.enabled, &superpeer.listen),
            ("peers", "superpeer.listen", Utp, superpeer.enabled && superpeer.utp, &superpeer.listen),
            ("tracker", "tracker.listen", Tcp, tracker.enabled, &tracker.listen),
            ("tracker", "tracker.listen", Udp, tracker.enabled, &tracker.listen),
            ("dht", "discovery.dht_listen", Udp, discovery.dht, one(&discovery.dht_listen)),
        ];
        let on = tables.into_iter().filter(|(_, _, _, on, _)| *on);
        on.flat_map(|(name, key, protocol, _, addresses)| {
            addresses.iter().map(move |address| Listener { name, key, protocol, address: *address })
        })
        .collect()
    }

    /// Whether the node is in a fleet.
    pub fn is_member(&self) -> bool {
        self.registry.control || !self.registry.control_url.is_empty()
    }

    /// Whether the node looks for BitTorrent peers, which may listen anywhere.
    pub fn meets_peers(&self) -> bool {
        self.superpeer.enabled || self.discovery.dht || self.discovery.lsd
    }
}

#[cfg(test)]
mod tests;

//! The node in its fleet: what it tells of itself, how it reaches the control node, and what the
//! tracker hears of the others.

mod discovered;
mod from_peers;
mod holder;
mod holdings;
mod neighbours;
mod preloader;
mod reports;
mod super_peers;
mod transport;
mod versions;

pub use discovered::Discovered;
pub use from_peers::FromPeers;
pub use holder::{Heard, ThroughCache, ToFleet};
pub use holdings::tell_holdings;
pub use neighbours::{Guide, Neighbours};
pub use preloader::{Preloading, preloader};
pub use reports::Recheck;
pub use super_peers::FromFleet;
pub use transport::Https;
pub use versions::tell_policies;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use skerry_registry::{Node, PeerPort};

use crate::config::Config;
use crate::{VERSION, appliance};

/// Now, milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What this node says of itself, with the addresses that its peer wire listens on.
pub fn description(config: &Config, peers: &[SocketAddr]) -> Node {
    let roles = [
        ("cache", true),
        ("superpeer", config.superpeer.enabled),
        ("tracker", config.tracker.enabled),
        ("selector", config.selector.enabled),
    ];
    Node {
        roles: roles.iter().filter(|(_, is_on)| *is_on).map(|(role, _)| (*role).to_owned()).collect(),
        peers: config.superpeer.enabled.then(|| PeerPort {
            addresses: announced(&config.superpeer.announce, peers),
            protocols: protocols(config.superpeer.utp),
        }),
        version: VERSION.to_owned(),
        image: appliance::image_version(),
        ring: config.update.ring.clone(),
        capacity_bytes: config.store.pinned_bytes,
        ..Node::default()
    }
}

/// What the peer wire is spoken over.
fn protocols(utp: bool) -> Vec<String> {
    ["tcp", "utp"].into_iter().take(1 + usize::from(utp)).map(str::to_owned).collect()
}

/// The addresses that peers are told of: those configured, port 0 standing for the one that is listened
/// on; else those listened on that name an address.
fn announced(configured: &[SocketAddr], listening: &[SocketAddr]) -> Vec<SocketAddr> {
    if configured.is_empty() {
        return listening.iter().filter(|address| !address.ip().is_unspecified()).copied().collect();
    }
    let port_of = |address: &SocketAddr| {
        let same = listening.iter().find(|other| other.is_ipv4() == address.is_ipv4());
        same.or(listening.first()).map_or(0, SocketAddr::port)
    };
    let with_port = |address: &SocketAddr| match address.port() {
        0 => SocketAddr::new(address.ip(), port_of(address)),
        _ => *address,
    };
    configured.iter().map(with_port).filter(|address| address.port() > 0).collect()
}

#[cfg(test)]
mod tests {
    use skerry_appliance::config::UpdateConfig;

    use super::*;

    #[test]
    fn peers_are_told_of_addresses_that_lead_here() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let listening = [at("0.0.0.0:6881"), at("[::1]:7000")];
        assert_eq!(announced(&[], &listening), [at("[::1]:7000")]);
        let configured = [at("192.0.2.1:0"), at("[2001:db8::1]:0"), at("192.0.2.2:9")];
        let told = [at("192.0.2.1:6881"), at("[2001:db8::1]:7000"), at("192.0.2.2:9")];
        assert_eq!(announced(&configured, &listening), told);
    }

    #[test]
    fn the_fleet_is_told_what_a_node_runs_and_with_whom_it_is_updated() {
        let update = UpdateConfig { ring: "early".into(), ..UpdateConfig::default() };
        let node = description(&Config { update, ..Config::default() }, &[]);
        assert_eq!(
            (node.ring.as_str(), node.version.as_str(), node.image),
            ("early", VERSION, appliance::image_version())
        );
    }
}

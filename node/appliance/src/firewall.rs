//! The packet filter, made of the node's configuration: a table of its own in nftables that lets in what the
//! node listens for and out what it has to reach, and nothing else.
//!
//! The table is replaced in one transaction. Rules of others in the same kernel stay; but what this table
//! drops, theirs cannot accept, so a server that runs more than a node names the ports of that in
//! `network.inbound_ports`, or does without.
//!
//! On the loopback everything passes. Whoever sends datagrams to a tracker or to the DHT leaves no entry in the
//! kernel's table of connections, which thousands a second would fill: these ports are filtered without it.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::config::{Endpoint, Protocol, Settings};
use crate::generated::HEADER;

pub use load::load;

/// Sources that are remembered for each limit. When there are more, the rest is not limited.
const SOURCES: usize = 65_536;
/// Seconds for which one is.
const REMEMBERED: u32 = 10;
/// Of what the node takes, one address may have a quarter open, but at least so many connections.
const LEAST_OPEN: usize = 256;
/// Groups of local service discovery (BEP 14), and their port.
const LSD: (&str, &str, u16) = ("239.192.152.143", "ff15::efc0:988f", 6771);

/// Users of this machine, by number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Users {
    /// Whom the node runs as. Unknown, its ports are open to everybody on the machine.
    pub node: Option<u32>,
}

/// The rules of a box that is configured, as `nft -f` takes them. `fleet_port` is that of the control node that
/// it is about to become a node of.
pub fn ruleset(settings: &Settings, users: Users, fleet_port: Option<u16>) -> String {
    Rules { settings, users, configured: true, fleet_port }.print()
}

/// The rules of a box that is not: nobody comes in, and its own programs may ask for a configuration, at
/// whatever port the fleet has.
pub fn closed() -> String {
    let mut settings = Settings::default();
    settings.public.listen.clear();
    Rules { settings: &settings, users: Users::default(), configured: false, fleet_port: None }.print()
}

struct Rules<'a> {
    settings: &'a Settings,
    users: Users,
    configured: bool,
    fleet_port: Option<u16>,
}

/// Ports by the address that they are on; an unspecified one stands for every address of its kind.
type Ports = BTreeMap<IpAddr, BTreeSet<u16>>;

impl Rules<'_> {
    fn print(&self) -> String {
        let mut text = format!(
            "{HEADER}# An empty table first, so that there is one to delete.\n\
             table inet skerry\ndelete table inet skerry\n\ntable inet skerry {{\n"
        );
        text.push_str("\tcounter flood {}\n\tcounter dropped_in {}\n\tcounter dropped_out {}\n\n");
        for name in self.sets() {
            let kind = if name.ends_with('4') { "ipv4_addr" } else { "ipv6_addr" };
            _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}\n\t\tsize {SOURCES}");
            // Those of open connections are forgotten with the connections.
            if name.starts_with("open") {
                text.push_str("\t\tflags dynamic\n\t}\n\n");
            } else {
                _ = writeln!(text, "\t\tflags dynamic,timeout\n\t\ttimeout {REMEMBERED}s\n\t}}\n");
            }
        }
        self.early(&mut text);
        self.arriving(&mut text);
        self.input(&mut text);
        self.output(&mut text);
        text.push_str(
            "\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n",
        );
        text
    }

    /// Sets of sources: of new connections, of open ones, of datagrams.
    fn sets(&self) -> Vec<String> {
        let config = &self.settings.network;
        let tcp = !self.ports(Protocol::Tcp).is_empty() || !config.inbound_ports.is_empty();
        let utp = !self.ports(Protocol::Utp).is_empty();
        let mut sets = Vec::new();
        if (tcp || utp) && config.max_connections_per_second > 0 {
            sets.push("new");
        }
        if tcp {
            sets.push("open");
        }
        if !self.ports(Protocol::Udp).is_empty() && config.max_datagrams_per_second > 0 {
            sets.push("datagrams");
        }
        sets.into_iter().flat_map(|name| [format!("{name}4"), format!("{name}6")]).collect()
    }

    /// Before connections are looked up: floods end here, and datagrams need no look-up.
    fn early(&self, text: &mut String) {
        let config = &self.settings.network;
        let sets = self.sets();
        text.push_str(
            "\tchain early {\n\t\ttype filter hook prerouting priority raw; policy accept;\n\t\tiif lo accept\n",
        );
        if sets.iter().any(|name| name == "new4") {
            text.push_str("\t\ttcp flags & (fin | syn | rst | ack) == syn jump beginning\n");
        }
        for rule in matches("udp", &self.ports(Protocol::Utp)) {
            if config.max_connections_per_second > 0 {
                // BEP 29: type 4 (SYN), version 1.
                _ = writeln!(text, "\t\t{rule} @th,64,8 0x41 jump beginning");
            }
            _ = writeln!(text, "\t\t{rule} notrack accept");
        }
        for rule in matches("udp", &self.ports(Protocol::Udp)) {
            let limited =
                if config.max_datagrams_per_second > 0 { "jump datagrams" } else { "notrack accept" };
            _ = writeln!(text, "\t\t{rule} {limited}");
        }
        text.push_str("\t}\n\n");
        let limits = [
            ("beginning", "new", config.max_connections_per_second, ""),
            ("datagrams", "datagrams", config.max_datagrams_per_second, "\t\tnotrack accept\n"),
        ];
        for (chain, set, rate, rest) in limits {
            if !sets.iter().any(|name| name.strip_suffix('4') == Some(set)) {
                continue;
            }
            let limit = format!("limit rate over {rate}/second burst {} packets", rate.saturating_mul(2));
            _ = writeln!(
                text,
                "\tchain {chain} {{\n\
                 \t\tupdate @{set}4 {{ ip saddr {limit} }} counter name flood drop\n\
                 \t\tupdate @{set}6 {{ ip6 saddr & ffff:ffff:ffff:ffff:: {limit} }} counter name flood drop\n\
                 {rest}\t}}\n"
            );
        }
        let ports = self.untracked();
        if !ports.is_empty() {
            _ = writeln!(
                text,
                "\tchain early_out {{\n\t\ttype filter hook output priority raw; policy accept;\n\t\toif lo accept\n\
                 \t\tudp sport {} notrack\n\t}}\n",
                set(&ports)
            );
        }
    }

    /// Where new connections to the node's ports end up.
    fn arriving(&self, text: &mut String) {
        if !self.sets().iter().any(|name| name == "open4") {
            return;
        }
        let most = (self.settings.public.max_connections / 4).max(LEAST_OPEN);
        _ = writeln!(
            text,
            "\tchain arriving {{\n\
             \t\ttcp flags & (fin | syn | rst | ack) != syn counter name dropped_in drop\n\
             \t\tadd @open4 {{ ip saddr ct count over {most} }} counter name flood reject with tcp reset\n\
             \t\tadd @open6 {{ ip6 saddr & ffff:ffff:ffff:ffff:: ct count over {most} }} counter name flood \
             reject with tcp reset\n\
             \t\taccept\n\t}}\n"
        );
    }

    fn input(&self, text: &mut String) {
        let config = &self.settings.network;
        text.push_str(
            "\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\tiif lo accept\n\
             \t\tct state vmap { established : accept, related : accept, invalid : drop }\n\
             \t\ticmp type { destination-unreachable, time-exceeded, parameter-problem } accept\n\
             \t\ticmp type echo-request limit rate 50/second accept\n",
        );
        // RFC 4890 §4.4: without these there is no IPv6. Neighbours are on the same link (RFC 4861 §6.1), and so
        // is who asks for groups (RFC 2710 §3).
        text.push_str(
            "\t\ticmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept\n\
             \t\ticmpv6 type echo-request limit rate 50/second accept\n\
             \t\tip6 hoplimit 255 icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept\n\
             \t\tip6 saddr fe80::/10 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, \
             mld2-listener-report } accept\n",
        );
        if self.asks_dhcp() {
            text.push_str(
                "\t\tudp sport 67 udp dport 68 accept\n\
                 \t\tip6 saddr fe80::/10 udp sport 547 udp dport 546 accept\n",
            );
        }
        for rule in matches("tcp", &self.ports(Protocol::Tcp)) {
            _ = writeln!(text, "\t\t{rule} goto arriving");
        }
        if !config.inbound_ports.is_empty() {
            let ports: BTreeSet<u16> = config.inbound_ports.iter().copied().collect();
            _ = writeln!(text, "\t\ttcp dport {} goto arriving", set(&ports));
        }
        for protocol in [Protocol::Utp, Protocol::Udp] {
            for rule in matches("udp", &self.ports(protocol)) {
                _ = writeln!(text, "\t\t{rule} accept");
            }
        }
        if self.settings.discovery.lsd {
            let (group, group6, port) = LSD;
            _ = write!(
                text,
                "\t\tip protocol igmp accept\n\
                 \t\tip daddr {group} udp dport {port} limit rate 200/second accept\n\
                 \t\tip6 daddr {group6} udp dport {port} limit rate 200/second accept\n"
            );
        }
        text.push_str("\t\tcounter name dropped_in\n\t}\n\n");
    }

    fn output(&self, text: &mut String) {
        let config = &self.settings.network;
        text.push_str(
            "\tchain output {\n\t\ttype filter hook output priority filter; policy drop;\n\t\toif lo accept\n\
             \t\tct state established,related accept\n\
             \t\ticmp type { destination-unreachable, time-exceeded, parameter-problem } accept\n\
             \t\ticmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, \
             nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld-listener-done, \
             mld2-listener-report } accept\n",
        );
        if self.asks_dhcp() {
            text.push_str(
                "\t\tudp sport 68 udp dport 67 accept\n\
                 \t\tudp sport 546 udp dport 547 accept\n",
            );
        }
        // DNS and NTP, of whatever program resolves names and sets the clock here.
        match split(&config.dns) {
            (servers, servers6) if servers.is_empty() && servers6.is_empty() => {
                text.push_str("\t\tmeta l4proto { tcp, udp } th dport 53 accept\n");
            }
            families => {
                for (family, servers) in [("ip", families.0), ("ip6", families.1)] {
                    if !servers.is_empty() {
                        let servers = set(&servers);
                        _ = writeln!(
                            text,
                            "\t\t{family} daddr {servers} meta l4proto {{ tcp, udp }} th dport 53 accept"
                        );
                    }
                }
            }
        }
        text.push_str("\t\tudp dport 123 accept\n");
        let node = self.users.node.map(|user| format!("meta skuid {user} ")).unwrap_or_default();
        let ports = self.node_reaches();
        if !ports.is_empty() {
            _ = writeln!(text, "\t\t{node}tcp dport {} accept", set(&ports));
        }
        if self.configured && self.settings.meets_peers() {
            // Peers choose their ports, as do trackers.
            _ = writeln!(text, "\t\t{node}meta l4proto {{ tcp, udp }} th dport 1024-65535 accept");
        }
        let ports = self.untracked();
        if !ports.is_empty() {
            _ = writeln!(text, "\t\t{node}udp sport {} accept", set(&ports));
        }
        if self.settings.discovery.lsd {
            let (group, group6, port) = LSD;
            _ = write!(
                text,
                "\t\tip protocol igmp accept\n\
                 \t\t{node}ip daddr {group} udp dport {port} accept\n\
                 \t\t{node}ip6 daddr {group6} udp dport {port} accept\n"
            );
        }
        // The box's own programs: updates, and the control node.
        if !self.configured {
            text.push_str("\t\tmeta skuid 0 meta l4proto tcp accept\n");
        } else {
            let ports = self.box_reaches();
            if !ports.is_empty() {
                _ = writeln!(text, "\t\tmeta skuid 0 tcp dport {} accept", set(&ports));
            }
        }
        text.push_str("\t\tcounter name dropped_out reject with icmpx admin-prohibited\n\t}\n\n");
    }

    /// Whether a card is given its addresses by DHCP.
    fn asks_dhcp(&self) -> bool {
        let config = &self.settings.network;
        config.interfaces.is_empty() || config.all().any(|(_, one)| one.asks)
    }

    /// The ports of a protocol that others may reach.
    fn ports(&self, protocol: Protocol) -> Ports {
        let mut ports = Ports::new();
        for listener in self.settings.listeners() {
            let (address, port) = (listener.address.ip(), listener.address.port());
            if listener.protocol == protocol && !address.is_loopback() && port > 0 {
                ports.entry(address).or_default().insert(port);
            }
        }
        ports
    }

    /// UDP ports whose datagrams leave no entry in the table of connections.
    fn untracked(&self) -> BTreeSet<u16> {
        [Protocol::Utp, Protocol::Udp]
            .into_iter()
            .flat_map(|one| self.ports(one).into_values().flatten())
            .collect()
    }

    /// TCP ports that the node connects to: of origins, of the control node, and of the other nodes, which
    /// listen where this one does unless `network.outbound_ports` says more.
    fn node_reaches(&self) -> BTreeSet<u16> {
        let settings = self.settings;
        let mut ports: BTreeSet<u16> = settings.network.outbound_ports.iter().copied().collect();
        let origins = settings.sites.values().map(|site| site.origin.as_str());
        let links = settings.registry.links.iter().map(|link| link.url.as_str());
        let named =
            origins.chain(links).chain([settings.registry.control_url.as_str(), &settings.network.proxy]);
        ports.extend(named.filter_map(port_of));
        if settings.is_member() {
            let public = settings.public.listen.iter().chain(&settings.public.tls_listen);
            ports.extend(public.filter(|address| !address.ip().is_loopback()).map(SocketAddr::port));
        }
        ports.remove(&0);
        ports
    }

    /// TCP ports that the programs of the box connect to.
    fn box_reaches(&self) -> BTreeSet<u16> {
        let settings = self.settings;
        let named = [&settings.update.source, &settings.registry.control_url, &settings.network.proxy];
        named.into_iter().filter_map(|url| port_of(url)).chain(self.fleet_port).collect()
    }
}

/// The port that a URL leads to; `file:///` leads to none.
pub(crate) fn port_of(url: &str) -> Option<u16> {
    let endpoint = Endpoint::parse(url).ok()?;
    matches!(endpoint.scheme.as_str(), "http" | "https" | "s3").then_some(endpoint.port)
}

/// What picks the packets to these ports, a rule for each address.
fn matches<'a>(protocol: &'a str, ports: &'a Ports) -> impl Iterator<Item = String> + 'a {
    ports.iter().map(move |(address, ports)| {
        let ports = set(ports);
        match address {
            IpAddr::V4(address) if address.is_unspecified() => {
                format!("meta nfproto ipv4 {protocol} dport {ports}")
            }
            IpAddr::V6(address) if address.is_unspecified() => {
                format!("meta nfproto ipv6 {protocol} dport {ports}")
            }
            IpAddr::V4(address) => format!("ip daddr {address} {protocol} dport {ports}"),
            IpAddr::V6(address) => format!("ip6 daddr {address} {protocol} dport {ports}"),
        }
    })
}

/// Addresses by their kind.
fn split(addresses: &[IpAddr]) -> (BTreeSet<String>, BTreeSet<String>) {
    let of = |v4: bool| {
        addresses.iter().filter(|address| address.is_ipv4() == v4).map(ToString::to_string).collect()
    };
    (of(true), of(false))
}

/// An anonymous set.
fn set<T: ToString>(values: &BTreeSet<T>) -> String {
    let values: Vec<_> = values.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", values.join(", "))
}

#[cfg(test)]
mod tests;

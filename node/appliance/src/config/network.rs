//! `[network]` and `[[network.interfaces]]`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::address::Cidr;
use super::endpoint::{self, Endpoint};

/// Longest name of a machine, bytes (`HOST_NAME_MAX`).
const MOST_HOSTNAME: usize = 64;
/// Longest name of an interface, bytes (`IFNAMSIZ` less its end).
const MOST_INTERFACE: usize = 15;
const MOST_INTERFACES: usize = 32;
const MOST_ADDRESSES: usize = 16;
/// DNS servers and time servers, each.
const MOST_SERVERS: usize = 8;
const MOST_PORTS: usize = 64;
/// Smallest packet that IPv6 may be asked to fit (RFC 8200 §5), and the largest that cards take, bytes.
const MTU: std::ops::RangeInclusive<u32> = 1280..=9216;

/// How interfaces are written, to stand below the printed `[network]`.
pub const INTERFACES_SAMPLE: &str = "\
# A table for every network card that is used; the others stay off. Without any table, every card asks DHCP.
# [[network.interfaces]]
# name = \"enp1s0\"
# mac = \"\"
# addresses = [\"192.0.2.7/24\", \"2001:db8::7/64\"]
# gateway = \"192.0.2.1\"
# gateway6 = \"2001:db8::1\"
# link = \"\"
# mtu = 0
# And below it one for every VLAN that the card carries:
# [[network.interfaces.vlan]]
# id = 100
# addresses = [\"198.51.100.7/24\"]
# gateway = \"198.51.100.1\"
# link = \"\"
";

/// `[network]`: what a box is in its networks. Read by the appliance's image, and by a server whose firewall
/// is made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Name of the machine; empty takes `node.name`.
    pub hostname: String,
    /// Name servers; without any, those that DHCP and router advertisements name.
    pub dns: Vec<IpAddr>,
    /// Time servers; without any, those that DHCP names, and Debian's.
    pub ntp: Vec<String>,
    /// Proxy that updates and s3:// origins are reached by: http://HOST:PORT; empty is none.
    pub proxy: String,
    /// TCP ports of other programs that stay open to all: 22 on a server that is reached by SSH.
    pub inbound_ports: Vec<u16>,
    /// TCP ports that the node may connect to beside those that its configuration names: those of the links of
    /// other nodes, and of s3:// endpoints other than 443.
    pub outbound_ports: Vec<u16>,
    /// Connections per second that one address may open, an IPv6 /64 counting as one; 0 is no limit.
    pub max_connections_per_second: u32,
    /// Datagrams per second that the UDP ports take from one address, counted likewise; 0 is no limit.
    pub max_datagrams_per_second: u32,
    /// `[[network.interfaces]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceConfig>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            dns: Vec::new(),
            ntp: Vec::new(),
            proxy: String::new(),
            inbound_ports: Vec::new(),
            outbound_ports: Vec::new(),
            max_connections_per_second: 500,
            max_datagrams_per_second: 2000,
            interfaces: Vec::new(),
        }
    }
}

/// `[[network.interfaces]]`: one network card.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct InterfaceConfig {
    /// Its name, as enp1s0; or else `mac`.
    pub name: String,
    /// Its hardware address, as 02:00:5e:10:00:01; or else `name`.
    pub mac: String,
    /// Addresses with the lengths of their prefixes: 192.0.2.7/24. Without any it asks DHCP and takes router
    /// advertisements, unless it carries VLANs.
    pub addresses: Vec<Cidr>,
    /// Its way out for IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// Its way out for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Name of the `[[registry.links]]` that clients come by on it; empty is none.
    pub link: String,
    /// Largest packet, bytes; 0 is the card's own.
    pub mtu: u32,
    /// `[[network.interfaces.vlan]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<VlanConfig>,
}

/// `[[network.interfaces.vlan]]`: a tagged network on a card (IEEE 802.1Q).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct VlanConfig {
    /// Its tag, from 1 to 4094.
    pub id: u16,
    /// As those of the card. Without any it asks DHCP.
    pub addresses: Vec<Cidr>,
    /// Its way out for IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// Its way out for IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Name of the `[[registry.links]]` that clients come by on it; empty is none.
    pub link: String,
    /// Largest packet, bytes; 0 is the card's.
    pub mtu: u32,
}

/// What cards and VLANs have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addressing<'a> {
    pub(crate) addresses: &'a [Cidr],
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) gateway6: Option<Ipv6Addr>,
    pub(crate) link: &'a str,
    pub(crate) mtu: u32,
    /// Whether DHCP and router advertisements are asked.
    pub(crate) asks: bool,
}

type Wrong = (String, String);

impl NetworkConfig {
    /// What cannot be said by types; the error is a whole key and a reason.
    ///
    /// # Errors
    /// When something cannot be.
    pub fn check(&self) -> Result<(), Wrong> {
        let wrong = |key: &str, reason: String| Err((format!("network.{key}"), reason));
        if !self.hostname.is_empty() && !is_hostname(&self.hostname) {
            let reason = format!("must be a name of at most {MOST_HOSTNAME} letters, digits and hyphens");
            return wrong("hostname", reason);
        }
        for (key, count, most) in [
            ("dns", self.dns.len(), MOST_SERVERS),
            ("ntp", self.ntp.len(), MOST_SERVERS),
            ("inbound_ports", self.inbound_ports.len(), MOST_PORTS),
            ("outbound_ports", self.outbound_ports.len(), MOST_PORTS),
            ("interfaces", self.interfaces.len(), MOST_INTERFACES),
        ] {
            if count > most {
                return wrong(key, format!("has {count} entries; there may be {most}"));
            }
        }
        if let Some(odd) = self.dns.iter().find(|server| server.is_unspecified() || server.is_multicast()) {
            return wrong("dns", format!("has `{odd}`, which is no server's address"));
        }
        let is_server = |server: &&String| endpoint::is_host(server) || server.parse::<IpAddr>().is_ok();
        if let Some(odd) = self.ntp.iter().find(|server| !is_server(server)) {
            return wrong("ntp", format!("has `{odd}`, which is no server's name or address"));
        }
        if !self.proxy.is_empty() {
            match Endpoint::parse(&self.proxy) {
                Ok(proxy) if proxy.scheme == "http" => {}
                Ok(_) => {
                    let reason = "must begin with http://; what goes through it has TLS of its own";
                    return wrong("proxy", reason.into());
                }
                Err(reason) => return wrong("proxy", reason.into()),
            }
        }
        for (key, ports) in [("inbound_ports", &self.inbound_ports), ("outbound_ports", &self.outbound_ports)]
        {
            if ports.contains(&0) {
                return wrong(key, "has port 0, which is none".into());
            }
        }
        let mut known = BTreeSet::new();
        for (index, interface) in self.interfaces.iter().enumerate() {
            interface.check(index, &mut known)?;
        }
        self.check_uplinks()
    }

    /// Of several ways out, each but one must be told from the others by its addresses.
    fn check_uplinks(&self) -> Result<(), Wrong> {
        let ways = self.all().filter(|(_, one)| one.is_uplink()).count();
        let mut asking = self.all().filter(|(_, one)| one.asks);
        if let (Some((first, _)), Some((second, _))) = (asking.next(), asking.next())
            && ways > 1
        {
            let reason = format!(
                "is empty, and so is `{first}.addresses`: of several ways out one can be by DHCP, the others \
                 need `addresses` and a gateway"
            );
            return Err((format!("{second}.addresses"), reason));
        }
        Ok(())
    }

    /// Every card and VLAN, with its key.
    pub(crate) fn all(&self) -> impl Iterator<Item = (String, Addressing<'_>)> {
        self.interfaces.iter().enumerate().flat_map(|(index, interface)| {
            let key = format!("network.interfaces[{index}]");
            let below = key.clone();
            let vlans = interface.vlan.iter().enumerate();
            let vlans = vlans.map(move |(index, vlan)| (format!("{below}.vlan[{index}]"), vlan.addressing()));
            std::iter::once((key, interface.addressing())).chain(vlans)
        })
    }

    /// Name of the interface that clients of a `[[registry.links]]` come by: the card or VLAN that names the link.
    /// A card that is known by its hardware address is looked up in `cards`, which is `/sys/class/net`; `None`
    /// where nothing names the link, or there is no such card.
    pub fn interface_of(&self, link: &str, cards: &Path) -> Option<String> {
        self.interfaces.iter().enumerate().find_map(|(index, interface)| {
            if interface.link == link {
                let known = (!interface.name.is_empty()).then(|| interface.name.clone());
                return known.or_else(|| card(cards, &interface.mac));
            }
            let vlan = interface.vlan.iter().find(|vlan| vlan.link == link)?;
            Some(interface.vlan_name(index, vlan.id))
        })
    }

    /// The links that cards name: the key, the link's name, and the name of the card if it is known by it.
    pub(super) fn links(&self) -> Vec<(String, &str, Option<String>)> {
        let mut links = Vec::new();
        for (index, interface) in self.interfaces.iter().enumerate() {
            let key = format!("network.interfaces[{index}]");
            let name = (!interface.name.is_empty()).then(|| interface.name.clone());
            links.push((format!("{key}.link"), interface.link.as_str(), name));
            for (place, vlan) in interface.vlan.iter().enumerate() {
                let name = interface.vlan_name(index, vlan.id);
                links.push((format!("{key}.vlan[{place}].link"), vlan.link.as_str(), Some(name)));
            }
        }
        links.retain(|(_, link, _)| !link.is_empty());
        links
    }
}

/// The card with a hardware address. What lies on cards has theirs, but no device of its own.
fn card(cards: &Path, mac: &str) -> Option<String> {
    let found = std::fs::read_dir(cards).ok()?.flatten().find(|card| {
        let address = std::fs::read_to_string(card.path().join("address")).unwrap_or_default();
        address.trim().eq_ignore_ascii_case(mac) && card.path().join("device").exists()
    })?;
    found.file_name().into_string().ok()
}

impl InterfaceConfig {
    pub(crate) fn addressing(&self) -> Addressing<'_> {
        let Self { addresses, gateway, gateway6, link, mtu, vlan, .. } = self;
        let asks = addresses.is_empty() && vlan.is_empty();
        Addressing { addresses, gateway: *gateway, gateway6: *gateway6, link, mtu: *mtu, asks }
    }

    /// What the interface of one of its VLANs is called. A card that is known by its hardware address has no
    /// name to begin with, and its place in the list stands for it.
    pub(crate) fn vlan_name(&self, index: usize, id: u16) -> String {
        if self.name.is_empty() { format!("card{index}.{id}") } else { format!("{}.{id}", self.name) }
    }

    fn check(&self, index: usize, known: &mut BTreeSet<String>) -> Result<(), Wrong> {
        let wrong = |key: &str, reason: String| Err((format!("network.interfaces[{index}].{key}"), reason));
        if self.name.is_empty() == self.mac.is_empty() {
            return wrong(
                "name",
                "must be written, or else `mac`: one of the two says which card it is".into(),
            );
        }
        if !self.name.is_empty() && !is_interface(&self.name) {
            return wrong("name", format!("is `{}`, which is no name of a network card", self.name));
        }
        if !self.mac.is_empty() && !is_mac(&self.mac) {
            return wrong("mac", format!("is `{}`; write it as 02:00:5e:10:00:01", self.mac));
        }
        let (key, id) = if self.mac.is_empty() { ("name", &self.name) } else { ("mac", &self.mac) };
        if !known.insert(id.to_ascii_lowercase()) {
            return wrong(key, format!("is `{id}`, as that of another card"));
        }
        if let Err((key, reason)) = self.addressing().check(known) {
            return wrong(key, reason);
        }
        for (place, vlan) in self.vlan.iter().enumerate() {
            let at = |key: &str| format!("vlan[{place}].{key}");
            if !(1..=4094).contains(&vlan.id) {
                return wrong(&at("id"), "must be from 1 to 4094".into());
            }
            if self.vlan[..place].iter().any(|other| other.id == vlan.id) {
                return wrong(&at("id"), format!("is {}, as that of another VLAN of the card", vlan.id));
            }
            let name = self.vlan_name(index, vlan.id);
            if name.len() > MOST_INTERFACE {
                let reason = format!(
                    "makes the interface `{name}`, and a name has at most {MOST_INTERFACE} bytes: tell the card \
                     by its `mac`"
                );
                return wrong(&at("id"), reason);
            }
            if let Err((key, reason)) = vlan.addressing().check(known) {
                return wrong(&at(key), reason);
            }
        }
        Ok(())
    }
}

impl VlanConfig {
    pub(crate) fn addressing(&self) -> Addressing<'_> {
        let Self { addresses, gateway, gateway6, link, mtu, .. } = self;
        let asks = addresses.is_empty();
        Addressing { addresses, gateway: *gateway, gateway6: *gateway6, link, mtu: *mtu, asks }
    }
}

impl Addressing<'_> {
    /// Whether it leads further than to its own network.
    pub(crate) fn is_uplink(&self) -> bool {
        self.asks || self.gateway.is_some() || self.gateway6.is_some()
    }

    fn check(&self, known: &mut BTreeSet<String>) -> Result<(), (&'static str, String)> {
        if self.addresses.len() > MOST_ADDRESSES {
            return Err(("addresses", format!("has more than {MOST_ADDRESSES} entries")));
        }
        for cidr in self.addresses {
            let address = cidr.address;
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(("addresses", format!("has `{cidr}`, which no card can have")));
            }
            // Two machines at the ends of a line need no address of the network (RFC 3021, RFC 6164).
            let line = if address.is_ipv4() { 31 } else { 127 };
            if cidr.length < line && cidr.network().address == address {
                return Err((
                    "addresses",
                    format!("has `{cidr}`, which is a network; write the card's address"),
                ));
            }
            if !known.insert(address.to_string()) {
                return Err(("addresses", format!("has `{address}`, which another card has too")));
            }
        }
        for (key, gateway) in
            [("gateway", self.gateway.map(IpAddr::from)), ("gateway6", self.gateway6.map(IpAddr::from))]
        {
            if let Some(gateway) = gateway {
                self.check_gateway(gateway).map_err(|reason| (key, reason))?;
            }
        }
        if self.mtu != 0 && !MTU.contains(&self.mtu) {
            return Err(("mtu", format!("must be 0 or from {} to {}", MTU.start(), MTU.end())));
        }
        Ok(())
    }

    /// A gateway is reached over an address of its kind. One of a single address reaches it directly, whatever
    /// it is, and every IPv6 interface has a link-local network.
    fn check_gateway(&self, gateway: IpAddr) -> Result<(), String> {
        let mut same =
            self.addresses.iter().filter(|cidr| cidr.address.is_ipv4() == gateway.is_ipv4()).peekable();
        if same.peek().is_none() {
            return Err(format!("is `{gateway}`, and `addresses` has none of its kind"));
        }
        if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() {
            return Err(format!("is `{gateway}`, which is no router's address"));
        }
        let is_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
        if self.addresses.iter().any(|cidr| cidr.address == gateway) {
            return Err(format!("is `{gateway}`, the card's own address"));
        }
        if !is_local && !same.any(|cidr| cidr.is_host() || cidr.holds(gateway)) {
            return Err(format!("is `{gateway}`, which is in no network of `addresses`"));
        }
        Ok(())
    }
}

/// Whether a text can be the name of a machine (RFC 1123 §2.1).
pub(crate) fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= MOST_HOSTNAME && text.split('.').all(label)
}

/// Whether a text is the name of one interface, and no pattern of several.
fn is_interface(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MOST_INTERFACE).contains(&text.len())
        && text.bytes().all(plain)
        && !matches!(text, "." | ".." | "lo" | "all" | "default")
}

/// Whether a text is the hardware address of one card.
fn is_mac(text: &str) -> bool {
    let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    let first = text.get(..2).and_then(|first| u8::from_str_radix(first, 16).ok());
    text.split(':').count() == 6 && text.split(':').all(pair) && first.is_some_and(|first| first & 1 == 0)
}

#[cfg(test)]
mod tests;

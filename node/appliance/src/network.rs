//! `[network]` as systemd has it: networkd's files, name servers, time servers, the machine's name, the proxy in
//! the environment of services, and whom the source of updates is believed by.
//!
//! Of several uplinks each has a routing table: what leaves from an address of one goes by its gateway, so that
//! clients are answered on the line that they came by. What the node begins itself leaves by the first one that
//! has a carrier.

use std::fmt::Write;
use std::net::IpAddr;

use crate::config::{Addressing, Cidr, Endpoint, InterfaceConfig, NetworkConfig, Settings, is_hostname};
use crate::generated::Generated;

/// Folder of all that is made here.
pub const FOLDER: &str = "/run";
/// All paths below [`FOLDER`] that were ever made.
pub const OURS: [&str; 6] = [
    "systemd/network/10-skerry-*",
    OTHERS,
    "systemd/resolved.conf.d/50-skerry.conf",
    "systemd/timesyncd.conf.d/50-skerry.conf",
    "skerry-box/environment",
    AUTHORITIES,
];
/// After those of the cards that are configured, before the one of the image that has all cards ask DHCP.
const OTHERS: &str = "systemd/network/20-skerry-others.network";
/// What stands in place of the system's authorities where updates are fetched (skerry-update.service).
const AUTHORITIES: &str = "skerry-box/authorities/ca-certificates.crt";

/// Routing table of the first uplink that needs one; `main` is 254.
const FIRST_TABLE: usize = 101;
/// Rules that come before the one that asks `main`, 32766.
const SUPPRESS_PRIORITY: usize = 900;
const FROM_PRIORITY: usize = 1000;
/// Between the metrics of two uplinks; the lowest is used.
const METRIC_STEP: usize = 100;

/// The files, to be written below [`FOLDER`] before networkd, resolved and timesyncd start, or reload.
pub fn files(settings: &Settings) -> Vec<Generated> {
    let config = &settings.network;
    let mut files = cards(config);
    files.push(Generated::new("systemd/resolved.conf.d/50-skerry.conf", &resolve(config)));
    if !config.ntp.is_empty() {
        let text = format!("[Time]\nNTP={}\n", config.ntp.join(" "));
        files.push(Generated::new("systemd/timesyncd.conf.d/50-skerry.conf", &text));
    }
    if let Ok(proxy) = Endpoint::parse(&config.proxy) {
        files.push(Generated::new("skerry-box/environment", &environment(&proxy)));
    }
    if !settings.update.authorities.is_empty() {
        files.push(Generated::new(AUTHORITIES, &settings.update.authorities));
    }
    files
}

/// What the machine is to be called; `None` leaves it its name.
pub fn hostname(settings: &Settings) -> Option<&str> {
    let named = [settings.network.hostname.as_str(), settings.node.name.as_str()];
    // A node's name may have an underscore, a machine's may not.
    named.into_iter().find(|name| !name.is_empty()).filter(|name| is_hostname(name))
}

/// Where an uplink stands among all of them.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// From 0, those by DHCP first.
    order: usize,
    /// Whether there are others.
    several: bool,
}

fn cards(config: &NetworkConfig) -> Vec<Generated> {
    if config.interfaces.is_empty() {
        let any = InterfaceConfig::default();
        let text = network("Type=ether\nKind=!*\n", any.addressing(), &[], None, config);
        return vec![Generated::new("systemd/network/10-skerry-any.network", &text)];
    }
    // A cable in a card that nobody named leads nowhere.
    let others = "[Match]\nType=ether\nKind=!*\n\n[Link]\nActivationPolicy=always-down\n";
    let mut files = vec![Generated::new(OTHERS, others)];
    // By DHCP there is at most one, and it comes first: nothing is known of its address, so it has `main`.
    let uplinks: Vec<_> = config.all().filter(|(_, one)| one.is_uplink()).collect();
    let asking = uplinks.iter().filter(|(_, one)| one.asks);
    let order: Vec<&str> =
        asking.chain(uplinks.iter().filter(|(_, one)| !one.asks)).map(|(key, _)| key.as_str()).collect();
    let place = |key: &str| {
        let order_of = order.iter().position(|other| *other == key);
        order_of.map(|place| Place { order: place, several: order.len() > 1 })
    };
    for (index, interface) in config.interfaces.iter().enumerate() {
        let key = format!("network.interfaces[{index}]");
        let (name, matches) = if interface.name.is_empty() {
            let mac = interface.mac.to_ascii_lowercase();
            // VLANs of the card have its address too, and are of a kind.
            (mac.replace(':', ""), format!("MACAddress={mac}\nType=ether\nKind=!*\n"))
        } else {
            (interface.name.clone(), format!("Name={}\n", interface.name))
        };
        let vlans: Vec<_> = interface.vlan.iter().map(|vlan| interface.vlan_name(index, vlan.id)).collect();
        let text = network(&matches, interface.addressing(), &vlans, place(&key), config);
        files.push(Generated::new(format!("systemd/network/10-skerry-{name}.network"), &text));
        for (at, (vlan, name)) in interface.vlan.iter().zip(&vlans).enumerate() {
            let text = format!("[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={}\n", vlan.id);
            files.push(Generated::new(format!("systemd/network/10-skerry-{name}.netdev"), &text));
            let place = place(&format!("{key}.vlan[{at}]"));
            let text = network(&format!("Name={name}\n"), vlan.addressing(), &[], place, config);
            files.push(Generated::new(format!("systemd/network/10-skerry-{name}.network"), &text));
        }
    }
    files
}

/// One `.network` file (systemd.network(5)).
fn network(
    matches: &str,
    one: Addressing<'_>,
    vlans: &[String],
    place: Option<Place>,
    config: &NetworkConfig,
) -> String {
    let mut text = format!("[Match]\n{matches}");
    let trunk = one.addresses.is_empty() && !one.asks;
    if one.mtu > 0 || !one.is_uplink() {
        text.push_str("\n[Link]\n");
        if one.mtu > 0 {
            _ = writeln!(text, "MTUBytes={}", one.mtu);
        }
        if !one.is_uplink() {
            text.push_str("RequiredForOnline=no\n");
        }
    }
    text.push_str("\n[Network]\n");
    if !one.link.is_empty() {
        // Names of links are free text, but for control characters, which the node refuses.
        let link: String = one.link.chars().filter(|character| !character.is_control()).collect();
        _ = writeln!(text, "Description=link {link}");
    }
    let (asks, local) = (if one.asks { "yes" } else { "no" }, if trunk { "no" } else { "ipv6" });
    _ = writeln!(text, "DHCP={asks}\nIPv6AcceptRA={asks}\nLinkLocalAddressing={local}");
    text.push_str("IPv6PrivacyExtensions=no\nLLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no\n");
    for address in one.addresses {
        _ = writeln!(text, "Address={address}");
    }
    for vlan in vlans {
        _ = writeln!(text, "VLAN={vlan}");
    }
    if one.asks {
        asking(&mut text, place, config);
    }
    if let Some(place) = place {
        routes(&mut text, one, place);
    }
    text
}

/// What is taken from DHCP and router advertisements: not what is configured.
fn asking(text: &mut String, place: Option<Place>, config: &NetworkConfig) {
    let (dns, ntp) = (!config.dns.is_empty(), !config.ntp.is_empty());
    let metric = place.filter(|place| place.several).map(|place| metric(place.order));
    for section in ["DHCPv4", "DHCPv6", "IPv6AcceptRA"] {
        _ = writeln!(text, "\n[{section}]");
        if dns {
            text.push_str("UseDNS=no\n");
        }
        if section != "IPv6AcceptRA" {
            text.push_str("UseHostname=no\n");
            if ntp {
                text.push_str("UseNTP=no\n");
            }
        }
        if let Some(metric) = metric.filter(|_| section != "DHCPv6") {
            _ = writeln!(text, "RouteMetric={metric}");
        }
    }
}

fn routes(text: &mut String, one: Addressing<'_>, place: Place) {
    let table = FIRST_TABLE + place.order;
    let gateways = [one.gateway.map(IpAddr::from), one.gateway6.map(IpAddr::from)];
    for gateway in gateways.into_iter().flatten() {
        let same = |cidr: &&Cidr| cidr.address.is_ipv4() == gateway.is_ipv4();
        // Such a router is reached without a network that both are in.
        let on_link = !one.addresses.iter().filter(same).any(|cidr| cidr.holds(gateway));
        let mut route = |rest: &str| {
            _ = writeln!(text, "\n[Route]\nGateway={gateway}");
            if on_link {
                text.push_str("GatewayOnLink=yes\n");
            }
            text.push_str(rest);
        };
        if !place.several {
            route("");
            continue;
        }
        route(&format!("Metric={}\n", metric(place.order)));
        route(&format!("Table={table}\n"));
        for cidr in one.addresses.iter().filter(same) {
            let from = cidr.address;
            _ = writeln!(text, "\n[RoutingPolicyRule]\nFrom={from}\nTable={table}\nPriority={FROM_PRIORITY}");
        }
    }
    if place.several && !one.asks {
        // Networks that this machine is in are reached directly, whatever the source.
        _ = writeln!(
            text,
            "\n[RoutingPolicyRule]\nFamily=both\nTable=254\nSuppressPrefixLength=0\nPriority={SUPPRESS_PRIORITY}"
        );
    }
}

fn metric(order: usize) -> usize {
    (order + 1) * METRIC_STEP
}

/// resolved.conf(5). No servers of anybody else are asked when there are none, and nothing is shouted.
fn resolve(config: &NetworkConfig) -> String {
    let mut text = String::from("[Resolve]\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n");
    if !config.dns.is_empty() {
        let servers: Vec<_> = config.dns.iter().map(ToString::to_string).collect();
        _ = writeln!(text, "DNS={}\nDomains=~.", servers.join(" "));
    }
    text
}

/// As curl and what follows it have it.
fn environment(proxy: &Endpoint) -> String {
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    let url = format!("http://{host}:{}", proxy.port);
    let mut text = String::new();
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        _ = writeln!(text, "{name}={url}");
    }
    for name in ["no_proxy", "NO_PROXY"] {
        _ = writeln!(text, "{name}=localhost,127.0.0.0/8,::1");
    }
    text
}

#[cfg(test)]
mod tests;

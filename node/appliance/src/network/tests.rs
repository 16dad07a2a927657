use std::path::Path;

use super::*;
use crate::generated::HEADER;

fn made(text: &str) -> Vec<Generated> {
    files(&Settings::parse(text, Path::new("x.toml")).unwrap())
}

/// What a file below `systemd` says, without its header.
fn file<'a>(files: &'a [Generated], path: &str) -> &'a str {
    let path = format!("systemd/{path}");
    let file = files.iter().find(|file| file.path == Path::new(&path)).unwrap_or_else(|| panic!("no {path}"));
    file.text.strip_prefix(HEADER).unwrap()
}

const QUIET: &str = "IPv6PrivacyExtensions=no\nLLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no\n";

#[test]
fn without_cards_every_one_asks_dhcp() {
    let files = made("");
    let expected = format!(
        "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\n{QUIET}\
         \n[DHCPv4]\nUseHostname=no\n\n[DHCPv6]\nUseHostname=no\n\n[IPv6AcceptRA]\n"
    );
    assert_eq!(file(&files, "network/10-skerry-any.network"), expected);
    let resolve = "[Resolve]\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n";
    assert_eq!(file(&files, "resolved.conf.d/50-skerry.conf"), resolve);
    assert_eq!(files.len(), 2);
}

#[test]
fn one_static_card_has_its_addresses_and_gateways() {
    let files = made(
        "[network]\ndns = [\"192.0.2.53\", \"2001:db8::53\"]\nntp = [\"ntp.example\"]\nproxy = \"http://[::1]:3128\"\n\
         [[registry.links]]\nname = \"north\"\n[[network.interfaces]]\nname = \"enp1s0\"\nmtu = 9000\nlink = \"north\"\n\
         addresses = [\"192.0.2.7/24\", \"2001:db8::7/64\"]\ngateway = \"192.0.2.1\"\ngateway6 = \"fe80::1\"\n",
    );
    let expected = format!(
        "[Match]\nName=enp1s0\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDescription=link north\nDHCP=no\n\
         IPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n{QUIET}Address=192.0.2.7/24\nAddress=2001:db8::7/64\n\
         \n[Route]\nGateway=192.0.2.1\n\n[Route]\nGateway=fe80::1\nGatewayOnLink=yes\n"
    );
    assert_eq!(file(&files, "network/10-skerry-enp1s0.network"), expected);
    assert_eq!(file(&files, "timesyncd.conf.d/50-skerry.conf"), "[Time]\nNTP=ntp.example\n");
    assert!(
        file(&files, "resolved.conf.d/50-skerry.conf").ends_with("DNS=192.0.2.53 2001:db8::53\nDomains=~.\n")
    );
    let environment = &files.last().unwrap().text;
    assert!(environment.contains("\nhttps_proxy=http://[::1]:3128\n"), "{environment}");
}

#[test]
fn the_authorities_of_updates_are_those_of_the_configuration() {
    let pem = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
    let files = made(&format!("[update]\nauthorities = \"\"\"\n{pem}\"\"\"\n"));
    let file = files.last().unwrap();
    assert_eq!(file.path, Path::new("skerry-box/authorities/ca-certificates.crt"));
    assert_eq!(file.text, format!("{HEADER}{pem}"));
}

#[test]
fn each_of_several_uplinks_has_a_table_of_its_own() {
    let files = made(
        "[[network.interfaces]]\nname = \"a\"\naddresses = [\"192.0.2.7/24\", \"10.0.0.7/8\"]\n\
         gateway = \"192.0.2.1\"\n[[network.interfaces]]\nmac = \"02:00:5E:10:00:01\"\n\
         [[network.interfaces]]\nname = \"c\"\n[[network.interfaces.vlan]]\nid = 7\n\
         addresses = [\"2001:db8::7/128\"]\ngateway6 = \"2001:db9::1\"\n\
         [[network.interfaces]]\nname = \"d\"\naddresses = [\"198.51.100.7/24\"]\n",
    );
    let rest = "\n[RoutingPolicyRule]\nFamily=both\nTable=254\nSuppressPrefixLength=0\nPriority=900\n";
    let first = file(&files, "network/10-skerry-a.network");
    let routes = "\n[Route]\nGateway=192.0.2.1\nMetric=200\n\n[Route]\nGateway=192.0.2.1\nTable=102\n\
                  \n[RoutingPolicyRule]\nFrom=192.0.2.7\nTable=102\nPriority=1000\n\
                  \n[RoutingPolicyRule]\nFrom=10.0.0.7\nTable=102\nPriority=1000\n";
    assert!(first.ends_with(&format!("Address=10.0.0.7/8\n{routes}{rest}")), "{first}");
    // The one by DHCP is known by no address: it has the main table, and comes first.
    let second = file(&files, "network/10-skerry-02005e100001.network");
    assert!(second.starts_with("[Match]\nMACAddress=02:00:5e:10:00:01\nType=ether\nKind=!*\n"), "{second}");
    assert!(second.ends_with(
        "\n[DHCPv4]\nUseHostname=no\nRouteMetric=100\n\n[DHCPv6]\nUseHostname=no\n\n[IPv6AcceptRA]\nRouteMetric=100\n"
    ));
    let trunk = file(&files, "network/10-skerry-c.network");
    assert!(
        trunk.contains("\nRequiredForOnline=no\n") && trunk.contains("\nLinkLocalAddressing=no\n"),
        "{trunk}"
    );
    assert!(trunk.ends_with("\nVLAN=c.7\n"), "{trunk}");
    assert_eq!(
        file(&files, "network/10-skerry-c.7.netdev"),
        "[NetDev]\nName=c.7\nKind=vlan\n\n[VLAN]\nId=7\n"
    );
    let vlan = file(&files, "network/10-skerry-c.7.network");
    let routes = "\n[Route]\nGateway=2001:db9::1\nGatewayOnLink=yes\nMetric=300\n\
                  \n[Route]\nGateway=2001:db9::1\nGatewayOnLink=yes\nTable=103\n\
                  \n[RoutingPolicyRule]\nFrom=2001:db8::7\nTable=103\nPriority=1000\n";
    assert!(vlan.ends_with(&format!("Address=2001:db8::7/128\n{routes}{rest}")), "{vlan}");
    let last = file(&files, "network/10-skerry-d.network");
    assert!(last.ends_with("\nAddress=198.51.100.7/24\n") && last.contains("RequiredForOnline=no"), "{last}");
}

#[test]
fn a_card_that_nobody_named_stays_off() {
    let files = made("[[network.interfaces]]\nname = \"zz\"\n");
    let others = "[Match]\nType=ether\nKind=!*\n\n[Link]\nActivationPolicy=always-down\n";
    assert_eq!(file(&files, "network/20-skerry-others.network"), others);
    // networkd takes the first file by name that fits a card; the last one is the image's own.
    let named = files[1].path.to_str().unwrap();
    let image = "../../image/mkosi.extra/usr/lib/systemd/network/80-wired.network";
    assert!(named < OTHERS && OTHERS < &image["../../image/mkosi.extra/usr/lib/".len()..], "{named}");
    // Tests run in the folder of their package.
    assert!(Path::new(image).exists());
    assert!(made("").iter().all(|file| file.path != Path::new(OTHERS)));
}

#[test]
fn what_is_configured_is_not_taken_from_dhcp() {
    let files = made("[network]\ndns = [\"192.0.2.53\"]\nntp = [\"192.0.2.123\"]\n");
    let any = file(&files, "network/10-skerry-any.network");
    assert_eq!((any.matches("UseDNS=no\n").count(), any.matches("UseNTP=no\n").count()), (3, 2));
}

#[test]
fn no_text_of_the_configuration_becomes_another_line() {
    let files = made(
        "[[registry.links]]\nname = \"a\\nb\"\n[[network.interfaces]]\nname = \"a\"\nlink = \"a\\nb\"\n\
         [network]\nhostname = \"a\"\n",
    );
    assert!(file(&files, "network/10-skerry-a.network").contains("\nDescription=link ab\n"));
}

#[test]
fn the_machine_has_the_name_of_the_node() {
    let name = |text: &str| {
        let settings = Settings::parse(text, Path::new("x.toml")).unwrap();
        hostname(&settings).map(str::to_owned)
    };
    assert_eq!(name("").as_deref(), Some("skerry"));
    assert_eq!(name("[node]\nname = \"edge-7.north\"\n").as_deref(), Some("edge-7.north"));
    assert_eq!(name("[node]\nname = \"edge_7\"\n"), None);
    assert_eq!(name("[node]\nname = \"edge_7\"\n[network]\nhostname = \"b\"\n").as_deref(), Some("b"));
}

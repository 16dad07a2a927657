use std::path::Path;

use super::*;

fn settings(text: &str) -> Settings {
    Settings::parse(text, Path::new("x.toml")).unwrap()
}

const FLEET: &str = r#"
[public]
listen = ["0.0.0.0:80", "[::]:80"]
tls_listen = ["192.0.2.7:443", "[2001:db8::7]:443"]
[superpeer]
enabled = true
utp = true
[tracker]
enabled = true
listen = ["0.0.0.0:6969", "[::]:6969"]
[discovery]
dht = true
lsd = true
[registry]
control_url = "https://control.example:8443"
[update]
source = "https://updates.example/skerry/"
[network]
dns = ["192.0.2.53", "2001:db8::53"]
proxy = "http://proxy.example:3128"
inbound_ports = [22]
[[network.interfaces]]
name = "enp1s0"
addresses = ["192.0.2.7/24", "2001:db8::7/64"]
[sites.default]
origin = "http://origin.example:9000"
[sites."files.example"]
origin = "file:///srv"
"#;

/// What the chain `input` lets in of a protocol: addresses, or the kind of an unspecified one, and ports.
fn admitted(rules: &str, protocol: &str) -> BTreeSet<(String, u16)> {
    let chain = rules.split("\tchain input {").nth(1).unwrap().split("\t}\n").next().unwrap();
    let mut admitted = BTreeSet::new();
    for line in chain.lines().map(str::trim) {
        let Some((address, rest)) = line.split_once(&format!("{protocol} dport {{ ")) else { continue };
        let address = address.trim().rsplit(' ').next().unwrap_or_default();
        let (ports, rest) = rest.split_once(" }").unwrap();
        assert!([" accept", " goto arriving"].contains(&rest), "{line}");
        admitted.extend(ports.split(", ").map(|port| (address.to_owned(), port.parse().unwrap())));
    }
    admitted
}

fn kind(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => "ipv4".into(),
        IpAddr::V6(address) if address.is_unspecified() => "ipv6".into(),
        address => address.to_string(),
    }
}

#[test]
fn a_fleet_node_has_these_rules() {
    assert_eq!(ruleset(&settings(FLEET), Users { node: Some(994) }, None), include_str!("fleet.nft"));
}

#[test]
fn an_unconfigured_box_lets_nobody_in() {
    assert_eq!(closed(), include_str!("closed.nft"));
    assert!(admitted(&closed(), "tcp").is_empty() && admitted(&closed(), "udp").is_empty());
}

#[test]
fn exactly_the_listeners_are_let_in() {
    let addresses = ["0.0.0.0", "[::]", "192.0.2.7", "[2001:db8::7]", "127.0.0.1", "[::1]"];
    let keys = ["public.listen", "public.tls_listen", "superpeer.listen", "tracker.listen"];
    for turn in 0..addresses.len().pow(2) * 8 {
        let (utp, dht, tracker) = (turn & 1 == 1, turn & 2 == 2, turn & 4 == 4);
        let mut text = format!(
            "superpeer.enabled = true\nsuperpeer.utp = {utp}\ndiscovery.dht = {dht}\ntracker.enabled = {tracker}\n"
        );
        for (place, key) in keys.iter().enumerate() {
            let (one, other) = ((turn / 8 + place) % addresses.len(), (turn / 48 + place) % addresses.len());
            let port = 6000 + 10 * place;
            text.push_str(&format!(
                "{key} = [\"{}:{port}\", \"{}:{}\"]\n",
                addresses[one],
                addresses[other],
                port + 1
            ));
        }
        let settings = settings(&text);
        let rules = ruleset(&settings, Users::default(), None);
        let expected = |tcp: bool| -> BTreeSet<_> {
            let listeners = settings.listeners().into_iter();
            listeners
                .filter(|one| (one.protocol == Protocol::Tcp) == tcp && !one.address.ip().is_loopback())
                .map(|one| (kind(one.address.ip()), one.address.port()))
                .collect()
        };
        assert_eq!(admitted(&rules, "tcp"), expected(true), "{text}");
        assert_eq!(admitted(&rules, "udp"), expected(false), "{text}");
    }
}

#[test]
fn only_what_is_configured_is_reached() {
    let line = |text: &str, of: &str| -> Option<String> {
        let rules = ruleset(&settings(text), Users { node: Some(994) }, None);
        rules.lines().map(str::trim).find(|line| line.starts_with(of)).map(str::to_owned)
    };
    let node = "meta skuid 994 tcp dport";
    assert_eq!(line("", node), None);
    let sites = "[sites.a]\norigin = \"https://a\"\n[sites.b]\norigin = \"s3://b\"\n[sites.c]\norigin = \"http://c:81\"\n";
    assert_eq!(line(sites, node).as_deref(), Some("meta skuid 994 tcp dport { 81, 443 } accept"));
    let more =
        "[network]\noutbound_ports = [9000]\n[[registry.links]]\nname = \"a\"\nurl = \"https://a:8443\"\n";
    assert_eq!(line(more, node).as_deref(), Some("meta skuid 994 tcp dport { 8443, 9000 } accept"));
    // Of the other nodes it is only known where this one listens.
    let member = "registry.control = true\npublic.listen = [\"0.0.0.0:8080\", \"127.0.0.1:8081\"]\n";
    assert_eq!(line(member, node).as_deref(), Some("meta skuid 994 tcp dport { 8080 } accept"));
    let update = "update.source = \"https://updates.example:8444/\"\n";
    assert_eq!(line(update, "meta skuid 0").as_deref(), Some("meta skuid 0 tcp dport { 8444 } accept"));
    assert_eq!(line(update, "meta skuid 994 meta"), None);
    // A box that has a configuration and a token reaches the control node that the token is for.
    let enrols = ruleset(&settings(update), Users::default(), Some(9443));
    assert!(enrols.contains("meta skuid 0 tcp dport { 8444, 9443 } accept\n"), "{enrols}");
    let peers = "superpeer.enabled = true\n";
    assert!(line(peers, "meta skuid 994 meta l4proto { tcp, udp } th dport 1024-65535").is_some());
}

#[test]
fn limits_can_be_switched_off_and_bring_no_empty_set() {
    let off = "max_connections_per_second = 0\nmax_datagrams_per_second = 0\ninbound_ports";
    let text = FLEET.replace("inbound_ports", off);
    let rules = ruleset(&settings(&text), Users::default(), None);
    assert!(
        !rules.contains("limit rate over") && !rules.contains("set new4") && !rules.contains("beginning")
    );
    assert!(rules.contains("udp dport { 6882, 6969 } notrack accept\n"), "{rules}");
    // Without uTP, a tracker or the DHT there is nothing that is not tracked.
    let plain = ruleset(&settings("public.listen = [\"0.0.0.0:80\"]"), Users::default(), None);
    assert!(
        !plain.contains("notrack") && !plain.contains("datagrams") && plain.contains("ct count over 2500")
    );
    assert!(!plain.contains("igmp"));
    let few = ruleset(
        &settings("public.listen = [\"0.0.0.0:80\"]\npublic.max_connections = 8"),
        Users::default(),
        None,
    );
    assert!(few.contains("ct count over 256 "));
}

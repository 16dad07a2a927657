use super::*;

fn parse(text: &str) -> NetworkConfig {
    toml::from_str(text).unwrap()
}

/// The key that is named for a card with these lines.
fn refused(text: &str) -> String {
    parse(&format!("[[interfaces]]\n{text}")).check().unwrap_err().0
}

#[test]
fn the_defaults_and_the_printed_sample_are_right() {
    assert_eq!(NetworkConfig::default().check(), Ok(()));
    let lines = INTERFACES_SAMPLE.lines().map(|line| line.trim_start_matches("# "));
    let sample: String = lines
        .filter(|line| line.starts_with('[') || line.contains(" = "))
        .map(|line| format!("{}\n", line.replace("network.", "")))
        .collect();
    let config = parse(&sample);
    assert_eq!(config.check(), Ok(()));
    assert_eq!((config.interfaces.len(), config.interfaces[0].vlan.len()), (1, 1));
    for field in InterfaceConfig::FIELD_NAMES.iter().chain(VlanConfig::FIELD_NAMES) {
        assert!(sample.contains(field), "{field} is missing");
    }
}

#[test]
fn a_card_is_told_by_its_name_or_its_hardware_address() {
    assert_eq!(refused(""), "network.interfaces[0].name");
    assert_eq!(refused("name = \"a\"\nmac = \"02:00:5e:10:00:01\""), "network.interfaces[0].name");
    for name in ["en*", "lo", "a b", "a/b", "!a", "sixteen-letters-", "..", "a\\n[Match]"] {
        assert_eq!(refused(&format!("name = \"{name}\"")), "network.interfaces[0].name", "{name}");
    }
    for mac in ["02:00:5e:10:00", "02-00-5e-10-00-01", "03:00:5e:10:00:01", "02:00:5e:10:00:0g", "é2:00"] {
        assert_eq!(refused(&format!("mac = \"{mac}\"")), "network.interfaces[0].mac", "{mac}");
    }
    let twice = "mac = \"02:00:5e:10:00:aa\"\n[[interfaces]]\nmac = \"02:00:5E:10:00:AA\"";
    assert_eq!(refused(twice), "network.interfaces[1].mac");
}

#[test]
fn addresses_and_gateways_fit_each_other() {
    let card = |text: &str| refused(&format!("name = \"a\"\n{text}"));
    for text in
        ["\"0.0.0.0/8\"", "\"127.0.0.1/8\"", "\"224.0.0.1/24\"", "\"192.0.2.0/24\"", "\"2001:db8::/64\""]
    {
        assert_eq!(card(&format!("addresses = [{text}]")), "network.interfaces[0].addresses", "{text}");
    }
    let twice = "addresses = [\"192.0.2.7/24\", \"192.0.2.7/25\"]";
    assert_eq!(card(twice), "network.interfaces[0].addresses");
    for (text, key) in [
        ("gateway = \"192.0.2.1\"", "gateway"),
        ("addresses = [\"192.0.2.7/24\"]\ngateway = \"198.51.100.1\"", "gateway"),
        ("addresses = [\"192.0.2.7/24\"]\ngateway = \"192.0.2.7\"", "gateway"),
        ("addresses = [\"192.0.2.7/24\"]\ngateway6 = \"fe80::1\"", "gateway6"),
        ("addresses = [\"2001:db8::7/64\"]\ngateway6 = \"2001:db9::1\"", "gateway6"),
        ("mtu = 1279", "mtu"),
        ("mtu = 9217", "mtu"),
    ] {
        assert_eq!(card(text), format!("network.interfaces[0].{key}"), "{text}");
    }
    for text in [
        "addresses = [\"192.0.2.6/31\"]\ngateway = \"192.0.2.7\"",
        "addresses = [\"192.0.2.7/32\"]\ngateway = \"198.51.100.1\"",
        "addresses = [\"2001:db8::7/64\"]\ngateway6 = \"fe80::1\"\nmtu = 9000",
    ] {
        assert_eq!(parse(&format!("[[interfaces]]\nname = \"a\"\n{text}")).check(), Ok(()), "{text}");
    }
}

#[test]
fn vlans_are_checked_like_cards() {
    let vlan = |text: &str| refused(&format!("name = \"enp1s0\"\n[[interfaces.vlan]]\n{text}"));
    assert_eq!(vlan("id = 0"), "network.interfaces[0].vlan[0].id");
    assert_eq!(vlan("id = 4095"), "network.interfaces[0].vlan[0].id");
    assert_eq!(vlan("id = 7\n[[interfaces.vlan]]\nid = 7"), "network.interfaces[0].vlan[1].id");
    assert_eq!(vlan("id = 7\nmtu = 1"), "network.interfaces[0].vlan[0].mtu");
    assert_eq!(
        refused("name = \"enp129s0f0np0\"\n[[interfaces.vlan]]\nid = 100"),
        "network.interfaces[0].vlan[0].id"
    );
    let card = parse("[[interfaces]]\nmac = \"02:00:5e:10:00:01\"\n[[interfaces.vlan]]\nid = 4094");
    assert_eq!(card.check(), Ok(()));
    assert_eq!(card.interfaces[0].vlan_name(0, 4094), "card0.4094");
}

#[test]
fn of_several_ways_out_one_may_be_by_dhcp() {
    let two = "name = \"a\"\n[[interfaces]]\nname = \"b\"\n";
    assert_eq!(refused(two), "network.interfaces[1].addresses");
    assert_eq!(
        refused("name = \"a\"\n[[interfaces]]\nname = \"b\"\n[[interfaces.vlan]]\nid = 7"),
        "network.interfaces[1].vlan[0].addresses"
    );
    let other = format!("[[interfaces]]\n{two}addresses = [\"192.0.2.7/24\"]\ngateway = \"192.0.2.1\"");
    assert_eq!(parse(&other).check(), Ok(()));
}

#[test]
fn the_rest_is_checked_too() {
    let refused = |text: &str| parse(text).check().unwrap_err().0;
    for (text, key) in [
        ("hostname = \"a_b\"", "hostname"),
        ("hostname = \"-a\"", "hostname"),
        ("hostname = \"a..b\"", "hostname"),
        ("dns = [\"0.0.0.0\"]", "dns"),
        ("dns = [\"ff02::1\"]", "dns"),
        ("ntp = [\"a b\"]", "ntp"),
        ("ntp = [\"a\\n[Time]\"]", "ntp"),
        ("proxy = \"https://a\"", "proxy"),
        ("proxy = \"a:3128\"", "proxy"),
        ("inbound_ports = [0]", "inbound_ports"),
        ("outbound_ports = [0]", "outbound_ports"),
    ] {
        assert_eq!(refused(text), format!("network.{key}"), "{text}");
    }
    let many = ["\"192.0.2.1\""; MOST_SERVERS + 1].join(",");
    assert_eq!(refused(&format!("dns = [{many}]")), "network.dns");
    let right = "hostname = \"edge-7.example\"\ndns = [\"2001:db8::53\"]\nntp = [\"ntp.example\", \"::1\"]\n\
                 proxy = \"http://proxy.example:3128\"\ninbound_ports = [22]";
    assert_eq!(parse(right).check(), Ok(()));
}

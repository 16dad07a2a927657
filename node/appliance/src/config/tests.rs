use super::*;

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(text, Path::new("x.toml")).map_err(|wrong| wrong.to_string())
}

#[test]
fn the_tables_of_the_node_are_read_as_far_as_needed() {
    let settings = parse(
        "[node]\nname = \"edge-7\"\nworkers = 2\n[public]\nlisten = [\"0.0.0.0:80\"]\nproxy_protocol = true\n\
         [store]\nchunk_bytes = 1\n[sites.default]\norigin = \"https://a\"\n[sites.\"b.example\"]\n",
    )
    .unwrap();
    assert_eq!((settings.node.name.as_str(), settings.node.drain_seconds), ("edge-7", 30));
    assert_eq!(settings.sites["default"].origin, "https://a");
    assert_eq!(settings.public.max_connections, 10_000);
}

#[test]
fn what_is_wrong_is_told_with_line_and_key() {
    let error = parse("[network]\nhostnme = \"a\"\n").unwrap_err();
    assert_eq!(error, "x.toml:2: unknown key `network.hostnme`; the nearest known key is `hostname`");
    let error = parse("[[network.interfaces]]\nname = \"a\"\naddresses = [\"192.0.2.7\"]\n").unwrap_err();
    assert!(
        error.starts_with("x.toml:3: `network.interfaces[0].addresses`: an address is written"),
        "{error}"
    );
    let error = parse("[[network.interfaces]]\nname = \"a\"\n\n[[network.interfaces]]\nname = \"a\"\n");
    assert_eq!(error.unwrap_err(), "x.toml:5: `network.interfaces[1].name` is `a`, as that of another card");
    assert!(parse("[box]\ndisk_encryption = \"rot13\"\n").unwrap_err().starts_with("x.toml:2: "));
    assert!(parse("[box]\ndisk_encryption = \"tpm2\"\n").is_ok());
    let error = parse("[box]\ndebug_until = \"tomorrow\"\n").unwrap_err();
    assert!(error.starts_with("x.toml:2: `box.debug_until`: a moment is written as"), "{error}");
    let settings = parse("[box]\ndebug_until = \"1970-01-02T00:00:00Z\"\n").unwrap();
    assert_eq!(settings.appliance.debug_until.seconds(), 86_400);
}

#[test]
fn cards_and_links_name_each_other() {
    let link = "[[registry.links]]\nname = \"north\"\ninterface = \"enp1s0\"\n";
    let card = |text: &str| parse(&format!("{link}[[network.interfaces]]\n{text}"));
    assert!(card("name = \"enp1s0\"\nlink = \"north\"\n").is_ok());
    assert!(card("mac = \"02:00:5e:10:00:01\"\nlink = \"north\"\n").is_ok());
    let error = card("name = \"enp1s0\"\nlink = \"south\"\n").unwrap_err();
    assert!(error.starts_with("x.toml:6: `network.interfaces[0].link` names the link `south`"), "{error}");
    let error = card("name = \"enp2s0\"\nlink = \"north\"\n").unwrap_err();
    assert!(error.contains("whose interface is `enp1s0`"), "{error}");
    let error =
        card("name = \"enp1s0\"\n[[network.interfaces.vlan]]\nid = 7\nlink = \"north\"\n").unwrap_err();
    assert!(error.starts_with("x.toml:8: `network.interfaces[0].vlan[0].link`"), "{error}");
}

#[test]
fn the_interface_of_a_link_is_the_card_that_names_it() {
    let cards = tempfile::tempdir().unwrap();
    let card = |name: &str, mac: &str, device: bool| {
        let folder = cards.path().join(name);
        std::fs::create_dir_all(if device { folder.join("device") } else { folder.clone() }).unwrap();
        std::fs::write(folder.join("address"), format!("{mac}\n")).unwrap();
    };
    card("bond0", "02:00:5e:10:00:0a", false);
    card("enp9s0", "02:00:5e:10:00:0a", true);
    let names = ["north", "south", "west", "east"];
    let links: String = names.map(|name| format!("[[registry.links]]\nname = \"{name}\"\n")).concat();
    let settings = parse(&format!(
        "{links}[[network.interfaces]]\nname = \"enp1s0\"\nlink = \"north\"\naddresses = [\"192.0.2.1/24\"]\n\
         [[network.interfaces]]\nmac = \"02:00:5e:10:00:0A\"\nlink = \"south\"\naddresses = [\"192.0.2.2/24\"]\n\
         [[network.interfaces.vlan]]\nid = 7\nlink = \"west\"\naddresses = [\"192.0.2.3/24\"]\n\
         [[network.interfaces]]\nmac = \"02:00:5e:10:00:0b\"\nlink = \"east\"\n"
    ));
    let network = settings.unwrap().network;
    let found = names.map(|name| network.interface_of(name, cards.path()));
    let found = found.each_ref().map(Option::as_deref);
    assert_eq!(found, [Some("enp1s0"), Some("enp9s0"), Some("card1.7"), None]);
    assert_eq!(network.interface_of("nobody's", cards.path()), None);
}

#[test]
fn every_listener_of_a_role_that_is_on_is_known() {
    let settings = parse(
        "[public]\nlisten = [\"0.0.0.0:80\", \"[::]:80\"]\ntls_listen = [\"0.0.0.0:443\"]\n\
         [superpeer]\nenabled = true\n[tracker]\nlisten = [\"0.0.0.0:1\"]\n",
    )
    .unwrap();
    let told = |settings: &Settings| -> Vec<_> {
        let listeners = settings.listeners().into_iter();
        listeners.map(|one| (one.name, one.protocol, one.address.to_string())).collect()
    };
    let expected = [
        ("public", Protocol::Tcp, "0.0.0.0:80"),
        ("public", Protocol::Tcp, "[::]:80"),
        ("tls", Protocol::Tcp, "0.0.0.0:443"),
        ("admin", Protocol::Tcp, "127.0.0.1:9180"),
        ("peers", Protocol::Tcp, "0.0.0.0:6881"),
        ("peers", Protocol::Tcp, "[::]:6881"),
    ];
    assert_eq!(
        told(&settings),
        expected.map(|(name, protocol, address)| (name, protocol, address.to_owned()))
    );
    let udp =
        "superpeer.enabled = true\nsuperpeer.utp = true\ntracker.enabled = true\ndiscovery.dht = true\n";
    let told = told(&parse(udp).unwrap());
    for (name, protocol, address) in [
        ("peers", Protocol::Utp, "[::]:6881"),
        ("tracker", Protocol::Tcp, "127.0.0.1:6969"),
        ("tracker", Protocol::Udp, "127.0.0.1:6969"),
        ("dht", Protocol::Udp, "0.0.0.0:6882"),
    ] {
        assert!(told.contains(&(name, protocol, address.to_owned())), "{name} {address}");
    }
    let error = parse("[tracker]\nenabled = true\nlisten = [\"0.0.0.0:69\"]\n").unwrap_err();
    assert!(error.starts_with("x.toml:3: `tracker.listen` has port 69"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Settings::load(Path::new("/nowhere/skerry.toml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nowhere/skerry.toml: "), "{error}");
}

//! What systemd, networkd and nftables say of the units and of what is made of a configuration for them.
//!
//! The units are taken as they stand, with the programs under test in place of installed ones. Packets are tried
//! between network namespaces, which takes root.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use skerry_appliance::config::Settings;
use skerry_appliance::firewall::{self, Users};
use skerry_appliance::layout::Layout;
use skerry_appliance::{generated, network, sockets, trial};
use skerry_tests::netns::{Netns, Network};
use skerry_tests::process;

/// From where tests run: the folder of their package.
const SYSTEMD: &str = "../systemd";

/// How the kernel image of a new version is named on a box.
const TRANSFER: &str = "../image/mkosi.extra/usr/lib/sysupdate.d/90-kernel.transfer";

/// Where networkd is; it has no other way to check its files.
const NETWORKD: &str = "/usr/lib/systemd/systemd-networkd";

/// What the units ask for that a systemd older than this does without, and says so.
const SINCE: [(&str, u32); 3] =
    [("ImportCredential", 254), ("RestartSteps", 254), ("RestartMaxDelaySec", 254)];

/// What the node's unit leaves open, with its reasons in the unit; nothing else may cost anything.
const OPEN: [&str; 6] = [
    // A folder of its own would have to hold the libraries, and the authorities of https origins.
    "RootDirectory=/RootImage=",
    "RestrictAddressFamilies=~AF_UNIX",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "PrivateNetwork=",
    "IPAddressDeny=",
    // The clock of the machine, to be read: ProtectClock= brings it.
    "DeviceAllow=",
];

fn settings(text: &str) -> Settings {
    Settings::parse(text, Path::new("skerry.toml")).expect("a right configuration")
}

/// Units in a folder of their own, which start the programs that are tested here.
struct Staged(tempfile::TempDir);

impl Staged {
    fn new() -> Self {
        let staged = Self(tempfile::tempdir().expect("a folder"));
        staged.take(Path::new(SYSTEMD), Path::new(""));
        let listening = settings("public.listen = [\"0.0.0.0:80\", \"[::]:80\"]\nsuperpeer.enabled = true\n");
        generated::write(staged.0.path(), &sockets::units(&listening), &[]).expect("a folder to write to");
        staged
    }

    /// Units of this folder, and drop-ins of those below.
    fn take(&self, from: &Path, below: &Path) {
        for entry in fs::read_dir(from).expect("the units are there").flatten() {
            let (path, name) = (entry.path(), below.join(entry.file_name()));
            let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
            let drop_in = end == "d" && path.to_string_lossy().contains(".service.");
            if drop_in {
                self.take(&path, &name);
            } else if ["service", "socket", "timer"].contains(&end) || !below.as_os_str().is_empty() {
                let programs = [("/usr/bin/skerry", node()), ("/usr/lib/skerry/skerry-box", program())];
                let text = fs::read_to_string(&path).expect("a unit is text");
                let text = programs.iter().fold(text, |text, (installed, tested)| {
                    text.replace(&format!("{installed} "), &format!("{} ", tested.display()))
                });
                let target = self.0.path().join(name);
                fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
                fs::write(target, text).expect("a file in it");
            }
        }
    }

    fn units(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path()).expect("the folder").flatten().map(|entry| entry.path());
        let mut units: Vec<_> = entries.filter(|path| path.is_file()).collect();
        units.sort();
        units
    }

    fn analyze(&self, arguments: &[&str], unit: &Path) -> Output {
        Command::new("systemd-analyze")
            .args(arguments)
            .arg(unit)
            // An empty last one stands for those of the system.
            .env("SYSTEMD_UNIT_PATH", format!("{}:", self.0.path().display()))
            .output()
            .expect("systemd-analyze of systemd runs")
    }
}

/// The node's program.
fn node() -> PathBuf {
    process::binary()
}

/// `skerry-box`, which is built beside the node.
fn program() -> PathBuf {
    process::binary().with_file_name("skerry-box")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn systemd_version() -> u32 {
    let output = Command::new("systemctl").arg("--version").output().expect("systemctl runs");
    let version = text(&output.stdout).split_whitespace().nth(1).and_then(|word| word.parse().ok());
    version.expect("systemd and a number")
}

#[test]
fn systemd_has_nothing_to_say_about_the_units() {
    let (staged, version) = (Staged::new(), systemd_version());
    let newer =
        |line: &str| SINCE.iter().any(|(key, since)| *since > version && line.contains(&format!("'{key}'")));
    let units = staged.units();
    assert!(units.len() >= 16, "{units:?}");
    for unit in units {
        let output = staged.analyze(&["verify", "--man=no"], &unit);
        let words = text(&output.stderr) + &text(&output.stdout);
        let complaints: Vec<_> =
            words.lines().filter(|line| line.contains("skerry") && !newer(line)).collect();
        assert!(complaints.is_empty(), "{}:\n{}", unit.display(), complaints.join("\n"));
    }
}

#[test]
fn the_node_is_exposed_to_what_it_serves_alone() {
    let staged = Staged::new();
    for (unit, tenths, open) in
        [("skerry.service", "15", &OPEN[..]), ("skerry-compile@.service", "5", &OPEN[..])]
    {
        let unit = staged.0.path().join(unit);
        let threshold = format!("--threshold={tenths}");
        let output = staged.analyze(&["security", "--offline=yes", "--no-pager", &threshold], &unit);
        assert!(output.status.success(), "{}", text(&output.stdout));
        let output = staged.analyze(&["security", "--offline=yes", "--no-pager", "--json=short"], &unit);
        let table: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a table as JSON");
        let rows = table.as_array().expect("rows");
        assert!(rows.len() > 60, "{}", rows.len());
        for row in rows {
            let cost = row["exposure"].as_str().and_then(|cost| cost.parse::<f64>().ok()).unwrap_or(0.0);
            let name = row["name"].as_str().expect("a name");
            assert!(cost == 0.0 || open.contains(&name), "{}: {row}", unit.display());
        }
    }
}

#[test]
fn programs_know_what_the_units_ask_of_them() {
    let mut asked = 0;
    for unit in Staged::new().units() {
        let lines = fs::read_to_string(&unit).expect("a unit is text");
        for line in lines.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            let mut words = line.split_whitespace();
            let program = words.next().expect("a program");
            let output = Command::new(program).args(words).arg("--help").output().expect("the program runs");
            assert!(output.status.success(), "{line}: {}", text(&output.stderr));
            asked += 1;
        }
    }
    assert!(asked >= 11, "{asked}");
}

#[test]
fn nothing_but_a_trial_reboots_a_box() {
    let layout = Layout::default();
    let conditions = [
        ("skerry-rollback.service", format!("\nConditionPathExists={}\n", trial::mark(&layout).display())),
        ("skerry.service", format!("\nConditionPathExists=!{}\n", layout.refused().display())),
    ];
    let unit = |name: &str| fs::read_to_string(Path::new(SYSTEMD).join(name)).expect("a unit is text");
    for (name, condition) in conditions {
        assert!(unit(name).contains(&condition), "{name}: {condition}");
    }
    for path in Staged::new().units() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a unit is text");
        assert_eq!(text.contains("Action=reboot"), name == "skerry-rollback.service", "{name}");
    }
    // Both rename a kernel image.
    for name in ["skerry-keep.service", "skerry-rollback.service"] {
        assert!(unit(name).contains("\nReadWritePaths=-/efi -/boot\n"), "{name}");
    }
    // What is new is told from what was kept by its tries.
    let transfer = fs::read_to_string(TRANSFER).expect("a transfer is text");
    let tries = transfer.lines().find_map(|line| line.strip_prefix("TriesLeft=")?.parse::<u32>().ok());
    assert!(tries.is_some_and(|tries| (1..trial::KEPT).contains(&tries)), "{tries:?}");
}

#[test]
fn make_installs_what_a_server_needs() {
    let clone = Path::new(SYSTEMD).parent().expect("a clone");
    let target = node().ancestors().nth(2).expect("where cargo builds to").to_owned();
    let below = tempfile::tempdir().expect("a folder");
    let install = |prefix: &str| {
        let output = Command::new("make")
            .current_dir(clone)
            // It was built before it is tested.
            .args(["--no-print-directory", "--assume-old=build", "install"])
            .arg(format!("PREFIX={prefix}"))
            .arg(format!("DESTDIR={}", below.path().display()))
            .arg(format!("SKERRY_BIN={}", node().display()))
            .arg(format!("CARGO_TARGET_DIR={}", target.display()))
            .output()
            .expect("make runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    install("/usr");
    let installed = |path: &str| below.path().join(path);
    for program in ["usr/bin/skerry", "usr/lib/skerry/skerry-box"] {
        let output = Command::new(installed(program)).arg("--version").output().expect("it runs");
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
    }
    for unit in Staged::new().units().iter().filter_map(|path| path.file_name()?.to_str()) {
        // Those that are made of a configuration are made on the server.
        if Path::new(SYSTEMD).join(unit).exists() {
            let text = fs::read_to_string(installed("usr/lib/systemd/system").join(unit));
            assert_eq!(text.ok(), fs::read_to_string(Path::new(SYSTEMD).join(unit)).ok(), "{unit}");
        }
    }
    for file in ["sysusers.d/skerry.conf", "tmpfiles.d/skerry.conf", "systemd/system-preset/80-skerry.preset"]
    {
        assert!(installed("usr/lib").join(file).is_file(), "{file}");
    }
    let config = installed("etc/skerry/skerry.toml");
    fs::write(&config, "[sites.default]\norigin = \"http://192.0.2.1\"\n").expect("a configuration");
    install("/usr");
    assert!(
        fs::read_to_string(&config).expect("it stays").contains("192.0.2.1"),
        "a configuration was replaced"
    );

    install("/opt/skerry");
    let unit = fs::read_to_string(installed("opt/skerry/lib/systemd/system/skerry.service")).expect("a unit");
    assert!(
        unit.contains("ExecStart=/opt/skerry/bin/skerry run") && !unit.contains("/usr/bin/skerry"),
        "{unit}"
    );
}

/// Puts rules in force in a namespace, or panics with what nft says of them.
fn load(netns: &Netns, rules: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), rules).expect("a file that can be written");
    let output = netns.inside(|| Command::new("nft").arg("-f").arg(file.path()).output());
    let output = output.expect("nft of nftables runs");
    assert!(output.status.success(), "{}\n{rules}", text(&output.stderr));
}

/// The box, and a neighbour on the same wire.
struct Wire {
    neighbour: Netns,
    machine: Netns,
    _network: Network,
}

const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MACHINE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

impl Wire {
    fn new() -> Self {
        let mut network = Network::empty();
        let (neighbour, machine) = (network.namespace("neighbour"), network.namespace("box"));
        let switch = neighbour.switch("wire");
        switch.address("192.0.2.1/24");
        switch.plug(&machine, "eth0", "192.0.2.7/24", 1000);
        Self { neighbour, machine, _network: network }
    }
}

fn listen(netns: &Netns, ports: &[u16]) -> Vec<TcpListener> {
    let bind = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).expect("a free port");
    netns.inside(|| ports.iter().map(bind).collect())
}

/// Waits until these of the ports, and no others, are reached: what is lost is sent again after a second.
#[track_caller]
fn are_reached(expected: &[u16], from: &Netns, address: Ipv4Addr, ports: &[u16]) {
    let answers = |port: &&u16| {
        let patience = Duration::from_millis(if expected.contains(port) { 10_000 } else { 500 });
        TcpStream::connect_timeout(&SocketAddr::from((address, **port)), patience).is_ok()
    };
    let reached: Vec<u16> = from.inside(|| ports.iter().filter(answers).copied().collect());
    assert_eq!(reached, expected);
}

#[test]
fn only_what_is_configured_comes_in_and_goes_out() {
    let wire = Wire::new();
    let here = [22, 80, 443, 8080, 9180];
    let there = [25, 80, 443, 9000];
    let _serving = (listen(&wire.machine, &here), listen(&wire.neighbour, &there));
    let comes_in = |expected: &[u16]| are_reached(expected, &wire.neighbour, MACHINE, &here);
    let goes_out = |expected: &[u16]| are_reached(expected, &wire.machine, NEIGHBOUR, &there);
    comes_in(&here);
    goes_out(&there);

    // Whoever runs this test is the node.
    let users = Users { node: Some(0) };
    let text = "public.listen = [\"0.0.0.0:80\", \"127.0.0.1:8080\"]\npublic.tls_listen = [\"192.0.2.7:443\"]\n\
                network.inbound_ports = [22]\nsites.default.origin = \"http://192.0.2.1:9000\"\n";
    load(&wire.machine, &firewall::ruleset(&settings(text), users, None));
    comes_in(&[22, 80, 443]);
    goes_out(&[9000]);
    are_reached(&here, &wire.machine, Ipv4Addr::LOCALHOST, &here);
    // Of somebody else nothing goes out.
    load(&wire.machine, &firewall::ruleset(&settings(text), Users { node: Some(4_000_000) }, None));
    comes_in(&[22, 80, 443]);
    goes_out(&[]);

    // Without a configuration nobody comes in, and the box may ask for one.
    load(&wire.machine, &firewall::closed());
    comes_in(&[]);
    goes_out(&there);
}

#[test]
fn a_flood_of_one_source_ends_at_its_limits_and_others_come_in() {
    let wire = Wire::new();
    let rules = |network: &str| {
        let text = format!("public = {{ listen = [\"0.0.0.0:80\"], max_connections = 1024 }}\n{network}\n");
        load(&wire.machine, &firewall::ruleset(&settings(&text), Users { node: Some(0) }, None));
    };
    let [listener] = &listen(&wire.machine, &[80])[..] else { panic!("one listener") };
    let listener = listener.try_clone().expect("a listener");
    // What is taken stays open.
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>());
    let connect = |times: usize, patience: Duration| -> Vec<TcpStream> {
        let to = SocketAddr::from((MACHINE, 80));
        let once = |_| TcpStream::connect_timeout(&to, patience).ok();
        wire.neighbour.inside(|| (0..times).filter_map(once).collect())
    };
    // What is lost to nothing but a busy machine is sent again within this time; what is refused is told at once.
    let long = Duration::from_secs(10);
    let flooded = || {
        let output = wire
            .machine
            .inside(|| Command::new("nft").args(["list", "counter", "inet", "skerry", "flood"]).output());
        let words = text(&output.expect("nft of nftables runs").stdout);
        let packets = words.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        packets.and_then(|packets| packets.parse::<u64>().ok()).expect("a counter")
    };
    // From now on it comes as 192.0.2.2, or as itself.
    let come_as = |address: &str| {
        for order in [
            format!("address replace {address}/32 dev wire"),
            format!("route replace 192.0.2.7/32 dev wire src {address}"),
        ] {
            let output =
                wire.neighbour.command("ip").args(order.split(' ')).output().expect("ip of iproute2 runs");
            assert!(output.status.success(), "ip {order}: {}", text(&output.stderr));
        }
    };

    rules("network.max_connections_per_second = 1");
    let begun = std::time::Instant::now();
    // What is dropped is not sent again within this time (RFC 6298, section 2.1: 1 s).
    let through = connect(12, Duration::from_millis(300)).len();
    let most = 2 + 1 + begun.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&through), "{through} of 12 within {:?}", begun.elapsed());
    let before = flooded();
    assert!(before as usize >= 12 - most, "{before} of 12 were dropped within {:?}", begun.elapsed());
    come_as("192.0.2.2");
    assert_eq!((connect(2, long).len(), flooded() - before), (2, 0), "another source");

    // A quarter of what the node takes.
    rules("network.max_connections_per_second = 0");
    let before = flooded();
    let open = connect(270, long);
    assert_eq!((open.len(), flooded() - before), (256, 14));
    come_as("192.0.2.3");
    assert_eq!(connect(1, long).len(), 1, "another source");
    drop(open);
}

#[test]
fn nft_takes_the_rules_of_every_role() {
    let mut network = Network::empty();
    let netns = network.namespace("rules");
    for roles in 0..32 {
        let on = |bit: u32| (roles >> bit) & 1 == 1;
        let (limit, dns) = (if on(4) { 0 } else { 100 }, if on(0) { "" } else { "\"192.0.2.53\", \"::1\"" });
        let text = format!(
            "public.listen = [\"0.0.0.0:80\", \"[::]:80\", \"192.0.2.7:81\", \"[2001:db8::7]:81\"]\n\
             superpeer = {{ enabled = {}, utp = {} }}\ntracker = {{ enabled = {}, listen = [\"[::]:6969\"] }}\n\
             discovery = {{ dht = {}, lsd = {} }}\nregistry.control_url = \"https://control.example:8443\"\n\
             network = {{ dns = [{dns}], max_connections_per_second = {limit}, max_datagrams_per_second = {limit} }}\n",
            on(0),
            on(1),
            on(2),
            on(3),
            on(1),
        );
        let node = on(2).then_some(994);
        load(&netns, &firewall::ruleset(&settings(&text), Users { node }, None));
    }
}

/// Runs networkd for some seconds where it finds these files alone, and no device manager.
const RUN_NETWORKD: &str = r#"
set -e
mount --make-rprivate /
mount -o remount,bind,ro /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif
chown systemd-network:systemd-network /run/systemd/netif
cp "$1"/* /run/systemd/network/
exec timeout 15 "$2"
"#;

#[test]
fn networkd_takes_its_files_without_a_word() {
    let wire = Wire::new();
    let folder = tempfile::tempdir().expect("a folder");
    let configured = r#"
[network]
dns = ["192.0.2.53"]
ntp = ["ntp.example"]
[[network.interfaces]]
name = "eth0"
mtu = 1400
addresses = ["192.0.2.77/24", "2001:db8::7/64"]
gateway = "192.0.2.1"
gateway6 = "fe80::1"
[[network.interfaces]]
mac = "02:00:5e:10:00:01"
[[network.interfaces.vlan]]
id = 7
addresses = ["198.51.100.7/32"]
gateway = "203.0.113.1"
[[network.interfaces]]
name = "eth2"
"#;
    let files = network::files(&settings(configured));
    generated::write(folder.path(), &files, &[]).expect("a folder to write to");
    let files = folder.path().join("systemd/network");
    let output = wire
        .machine
        .command("unshare")
        .args(["--mount", "sh", "-c", RUN_NETWORKD, "sh"])
        .args([files.as_os_str(), NETWORKD.as_ref()])
        .envs([("SYSTEMD_LOG_TARGET", "console"), ("SYSTEMD_LOG_LEVEL", "info")])
        .output()
        .expect("unshare of util-linux runs");
    let words = text(&output.stdout) + &text(&output.stderr);
    // What it does not understand is told by file and line.
    let complaints: Vec<_> = words.lines().filter(|line| line.starts_with("/run/systemd/network/")).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let shown = |arguments: &[&str]| {
        let output = wire.machine.command("ip").args(arguments).output().expect("ip of iproute2 runs");
        text(&output.stdout)
    };
    let card = shown(&["address", "show", "dev", "eth0"]);
    for part in ["inet 192.0.2.77/24", "inet6 2001:db8::7/64", "mtu 1400"] {
        assert!(card.contains(part), "{part} is missing:\n{card}\n{words}");
    }
    let rules = shown(&["rule", "show"]);
    assert!(
        rules.contains("from 192.0.2.77 lookup 102") && rules.contains("suppress_prefixlength 0"),
        "{rules}"
    );
    let table = shown(&["route", "show", "table", "102"]);
    assert!(table.contains("default via 192.0.2.1 dev eth0"), "{table}");
    assert!(shown(&["route", "show"]).contains("default via 192.0.2.1 dev eth0 proto static metric 200"));
    let table = shown(&["-6", "route", "show", "table", "102"]);
    assert!(table.contains("default via fe80::1 dev eth0"), "{table}");
}

//! A fleet: five nodes in three regions, in network namespaces, on links that have a rate.
//!
//! In each region two operators, `alpha` and `beta`, have a network behind the region's router; routers
//! and origin meet at an exchange. A node has a link to either operator; a client is on one of them.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::download::Downloader;
use crate::netns::{Cable, Netns, Network};
use crate::node::{Node, NodeBuilder};
use crate::origin::Origin;
use crate::process;

/// The regions, and the third byte of alpha's addresses in each. Beta's is one more.
const REGIONS: [(&str, u8); 3] = [("north", 10), ("south", 20), ("west", 30)];

/// The operators.
const OPERATORS: [&str; 2] = ["alpha", "beta"];

/// The nodes, and the region of each. The first is the control node.
pub const NODES: [(&str, &str); 5] = [
    ("north-1", "north"),
    ("north-2", "north"),
    ("south-1", "south"),
    ("west-1", "west"),
    ("west-2", "west"),
];

/// The control node, where nodes reach it.
pub const CONTROL: &str = "https://198.18.10.11:8443";

/// The control node's public listener.
pub const SELECTOR: &str = "198.18.10.11:8080";

/// The tracker.
pub const TRACKER: &str = "http://198.18.10.11:6969/announce";

const ORIGIN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);

/// Last bytes of addresses: of routers, of the first node, of clients.
const ROUTER: usize = 1;
const FIRST: usize = 11;
const CLIENT: usize = 100;

/// What links carry, Mbit/s: a node's, a client's, a region's and the origin's.
const NODE: u32 = 40;
const LAST_MILE: u32 = 60;
const UPLINK: u32 = 100;
const ORIGINS: u32 = 200;

/// A host in an operator's network of a region.
#[track_caller]
fn address(region: &str, operator: &str, host: usize) -> Ipv4Addr {
    let net = REGIONS.iter().find(|(name, _)| *name == region).expect("a region").1;
    let place = OPERATORS.iter().position(|name| *name == operator).expect("an operator");
    Ipv4Addr::new(198, 18, net + place as u8, host as u8)
}

/// A client's address.
#[track_caller]
pub fn client_address(region: &str, operator: &str) -> Ipv4Addr {
    address(region, operator, CLIENT)
}

/// Where a node serves clients of an operator.
#[track_caller]
pub fn link(node: &str, operator: &str) -> SocketAddr {
    let place = NODES.iter().position(|(name, _)| *name == node).expect("a node");
    SocketAddr::from((address(NODES[place].1, operator, FIRST + place), 8080))
}

/// Where a node serves peers.
#[track_caller]
pub fn peer(node: &str) -> SocketAddr {
    SocketAddr::new(link(node, "alpha").ip(), 6881)
}

/// What a command printed. Panics unless it succeeded.
#[track_caller]
pub fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node and the machine that it runs on.
pub struct Machine {
    name: &'static str,
    netns: Netns,
    cables: [Cable; 2],
    node: Node,
}

impl Machine {
    /// Starts the node and waits until it is ready.
    pub fn start(&mut self) {
        let node = &mut self.node;
        self.netns.inside(|| node.start());
    }

    /// Ends the node with SIGKILL.
    pub fn kill(&mut self) {
        self.node.kill();
    }

    /// Cuts both cables.
    pub fn cut(&self) {
        self.cables.iter().for_each(Cable::cut);
    }

    /// Makes both whole again.
    pub fn mend(&self) {
        self.cables.iter().for_each(Cable::mend);
    }

    /// A document of the admin listener.
    pub fn told(&self, path: &str) -> Value {
        let answer = self.netns.inside(|| self.node.admin_get(path));
        assert_eq!(answer.status, 200, "{path} of {}: {}", self.name, answer.text());
        serde_json::from_slice(&answer.body).expect("the answer is JSON")
    }

    /// Tells the admin listener something, which it must take.
    pub fn post(&self, path: &str, body: &Value) {
        let answer = self.netns.inside(|| self.node.admin_post(path, body));
        assert_eq!(answer.status / 100, 2, "{path} of {}: {}", self.name, answer.text());
    }

    /// Runs a command of the binary here, against this node.
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.netns.inside(|| self.node.command(arguments))
    }

    /// The id of a file that the node holds.
    pub fn resource(&self, path: &str) -> Option<String> {
        let told = self.told("/resources");
        let held = told["resources"].as_array()?.iter().find(|held| held["path"] == path)?;
        held["id"].as_str().map(str::to_owned)
    }

    /// How the node stands with the control node.
    pub fn membership(&self) -> Value {
        self.told("/status")["registry"]["membership"].take()
    }
}

/// A file of a node's identity. The control node's are beside the authority's.
fn identity(folder: &Path, node: &str, file: &str) -> String {
    let folder = if node == NODES[0].0 { folder.join("ca") } else { folder.join(node) };
    folder.join(file).to_string_lossy().into_owned()
}

fn configured(place: usize, origin: &Origin, folder: &Path) -> NodeBuilder {
    let (name, region) = NODES[place];
    let file = |file| identity(folder, name, file);
    let announced = SocketAddr::new(peer(name).ip(), 0);
    let trackers = json!([TRACKER]);
    let links = OPERATORS.map(|operator| {
        let (url, capacity) = (link(name, operator), NODE * 1000);
        let prefix = address(region, operator, 0);
        format!(
            "{{ name = {operator:?}, interface = {operator:?}, isp = {operator:?}, url = \"http://{url}\", \
             prefixes = [\"{prefix}/24\"], capacity_kbps = {capacity} }}"
        )
    });
    let node = Node::in_front_of(origin)
        .text("node", "name", name)
        .set("public", "listen", json!(["0.0.0.0:8080"]))
        .set("superpeer", "enabled", true)
        .set("superpeer", "listen", json!(["0.0.0.0:6881"]))
        .set("superpeer", "announce", json!([announced]))
        .set("superpeer", "trackers", &trackers)
        .text("registry", "region", region)
        .set("registry", "heartbeat_seconds", 1)
        .text("registry", "ca_file", &file("ca.pem"))
        .set("registry", "links", format!("[{}]", links.join(", ")))
        .set("preload", "enabled", true)
        .set("preload", "interval_seconds", 1)
        .set("preload", "plan_seconds", 10);
    if place > 0 {
        return node
            .text("registry", "control_url", CONTROL)
            .text("registry", "certificate_file", &file("node.pem"))
            .text("registry", "key_file", &file("node.key"));
    }
    node.set("registry", "control", true)
        .text("registry", "ca_key_file", &file("ca.key"))
        .set("public", "tls_listen", json!(["0.0.0.0:8443"]))
        .text("public", "tls_certificate_file", &file("node.pem"))
        .text("public", "tls_key_file", &file("node.key"))
        .text("public", "tls_client_ca_file", &file("ca.pem"))
        .set("tracker", "enabled", true)
        .set("tracker", "listen", json!(["0.0.0.0:6969"]))
        .set("selector", "enabled", true)
        .set("selector", "trackers", &trackers)
        .text("selector", "coverage_zone_file", &folder.join("zones.json").to_string_lossy())
}

/// All of it. What is in the namespaces ends before they do.
pub struct Fleet {
    /// As [`NODES`] has them.
    pub nodes: Vec<Machine>,
    /// One for each operator of each region.
    pub clients: HashMap<(&'static str, &'static str), Arc<Downloader>>,
    /// What connects each region to the others, and to the origin.
    pub uplinks: HashMap<&'static str, Cable>,
    /// In front of which all nodes are.
    pub origin: Origin,
    folder: TempDir,
    _network: Network,
}

impl Fleet {
    /// Lays the cables and switches one node on after the other, the control node first. The others are
    /// let in by tokens.
    #[track_caller]
    pub fn switched_on() -> Self {
        let mut network = Network::empty();
        let exchange = network.namespace("exchange").switch("exchange");
        let source = network.namespace("origin");
        exchange.plug(&source, "uplink", &format!("{ORIGIN}/24"), ORIGINS);
        let (mut uplinks, mut switches, mut clients) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (region, net) in REGIONS {
            let router = network.namespace(region);
            router.forward();
            let uplink = exchange.plug(&router, "uplink", &format!("198.18.0.{net}/24"), UPLINK);
            uplinks.insert(region, uplink);
            for (_, far) in REGIONS.into_iter().filter(|(other, _)| *other != region) {
                router.route(&format!("198.18.{far}.0/23"), &format!("198.18.0.{far}"));
            }
            source.route(&format!("198.18.{net}.0/23"), &format!("198.18.0.{net}"));
            for operator in OPERATORS {
                let host = |host| address(region, operator, host).to_string();
                let switch = router.switch(operator);
                switch.address(&format!("{}/24", host(ROUTER)));
                let client = network.namespace(&format!("{region}-{operator}"));
                switch.plug(&client, "eth0", &format!("{}/24", host(CLIENT)), LAST_MILE);
                client.route("default", &host(ROUTER));
                let selector = SELECTOR.parse().expect("an address");
                clients.insert((region, operator), Downloader::new(&client, selector));
                switches.insert((region, operator), switch);
            }
        }
        let origin = source.inside(|| Origin::start_on(ORIGIN.into()));
        let folder = tempfile::tempdir().expect("a folder for the fleet");
        let mut nodes = Vec::new();
        for (place, (name, region)) in NODES.into_iter().enumerate() {
            let netns = network.namespace(name);
            let cables = OPERATORS.map(|operator| {
                let address = address(region, operator, FIRST + place);
                switches[&(region, operator)].plug(&netns, operator, &format!("{address}/24"), NODE)
            });
            netns.route("default", &address(region, "alpha", ROUTER).to_string());
            let node = configured(place, &origin, folder.path()).within(&netns).write();
            nodes.push(Machine { name, netns, cables, node });
        }
        let mut fleet = Self { nodes, clients, uplinks, origin, folder, _network: network };
        fleet.found();
        for (place, (name, region)) in NODES.into_iter().enumerate() {
            if place > 0 {
                fleet.enrol(name, region);
            }
            fleet.nodes[place].start();
        }
        fleet
    }

    /// Makes the authority, and the map of the regions.
    fn found(&self) {
        self.authority("ca", NODES[0].0, &link(NODES[0].0, "alpha").ip().to_string());
        let zones = REGIONS.into_iter().map(|(region, net)| {
            let zone = json!({
                "network": [format!("198.18.{net}.0/23")],
                "coordinates": { "latitude": 50, "longitude": net },
            });
            (region.to_owned(), zone)
        });
        let zones = json!({ "coverageZones": zones.collect::<Map<String, Value>>() });
        fs::write(self.path("zones.json"), zones.to_string()).expect("the zones are written");
    }

    /// Makes an authority in a folder of the fleet's, with a certificate for a node of that name.
    #[track_caller]
    pub fn authority(&self, folder: &str, node: &str, name: &str) {
        let init = ["node", "ca-init", &self.text(folder), "--control", node, "--name", name];
        done(&process::run(&init));
    }

    fn enrol(&self, node: &'static str, region: &str) {
        let told = done(&self.control().command(&["node", "token", node, "--region", region, "--json"]));
        let told: Value = serde_json::from_str(&told).expect("the command prints JSON");
        let text = |key: &str| told[key].as_str().expect("the token is told").to_owned();
        fs::write(self.path("token"), text("token")).expect("the token is written");
        let fingerprint = text("ca_fingerprint");
        done(&self.bring_token(node, node, &fingerprint));
        let again = self.bring_token(node, "again", &fingerprint);
        assert_eq!(again.status.code(), Some(1), "a token lets in but once");
    }

    fn bring_token(&self, node: &'static str, folder: &str, fingerprint: &str) -> Output {
        let (token, folder) = (self.text("token"), self.text(folder));
        let enrol = ["node", "enrol", "--control", CONTROL, "--token-file", &token, "--dir", &folder];
        let arguments = [&enrol[..], &["--ca-fingerprint", fingerprint]].concat();
        self.node(node).netns.inside(|| process::run(&arguments))
    }

    /// A path in the fleet's folder: `ca` has the authority and the control node's identity, a folder of
    /// the name of each other node has that node's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// [`Fleet::path`] as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// The control node.
    pub fn control(&self) -> &Machine {
        &self.nodes[0]
    }

    /// A node.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Machine {
        self.nodes.iter().find(|machine| machine.name == name).expect("a node")
    }

    /// A client.
    pub fn client(&self, region: &'static str, operator: &'static str) -> &Arc<Downloader> {
        &self.clients[&(region, operator)]
    }

    /// How many nodes the control node sees standing so: `live`, `silent`, `left`.
    pub fn standing(&self, standing: &str) -> usize {
        let told = self.control().told("/registry/nodes");
        let nodes = told["nodes"].as_array().expect("a list of nodes");
        nodes.iter().filter(|node| node["standing"] == standing).count()
    }

    /// How many nodes have all of a resource, as clients are told.
    pub fn holders(&self, resource: &str) -> usize {
        let Ok(route) = self.client("south", "beta").route(resource) else { return 0 };
        route.nodes.iter().filter(|node| node.held_permille == Some(1000)).count()
    }
}

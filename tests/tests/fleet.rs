//! Five nodes in three regions, on shaped links. Switched on, they register, hold what an operator lists, and
//! serve it to the clients near them. Then a node is cut off, the control node, and a region, and every
//! node is killed once: clients move on within two heartbeats, every byte that they get is right, and all
//! of it heals without a hand.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use skerry_tests::download::{Download, Downloaded, Downloader};
use skerry_tests::fleet::{self, CONTROL, Fleet, Machine, NODES, SELECTOR, TRACKER, link};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Order, libtorrent};
use skerry_tests::reply::Reply;
use skerry_tests::{content, raw, wait};

const FILM: &str = "/film.bin";
/// No whole number of chunks; a client fetches it in three or four seconds.
const LENGTH: usize = 16_000_001;
const SEED: u64 = 41;

/// What one node comes to hold while it is on its own.
const TRAILER: &str = "/trailer.bin";

/// Two heartbeats, and a second for the machine that the tests run on.
const MOVED_ON: Duration = Duration::from_secs(3);

/// A request that was on its way when a link was cut is given up after 10 seconds.
const NOTICED: Duration = Duration::from_secs(20);

const HEALED: Duration = Duration::from_secs(40);
const PRELOADED: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

/// What every node holds.
struct Film {
    id: String,
    body: Vec<u8>,
    digest: String,
}

impl Film {
    #[track_caller]
    fn is(&self, what: &str, got: &[u8]) {
        content::assert_same(what, got, &self.body);
        assert_eq!(content::sha256_base64(got), self.digest, "{what}");
    }

    /// It came whole and right, and never stood still for long.
    #[track_caller]
    fn came(&self, what: &str, got: &Downloaded) {
        self.is(what, &got.body);
        assert!(got.longest_pause < MOVED_ON, "{what}: {:?}, from {:?}", got.longest_pause, got.from);
    }
}

#[track_caller]
fn heals(fleet: &Fleet, film: &Film) {
    let healed = || fleet.standing("live") == NODES.len() && fleet.holders(&film.id) == NODES.len();
    wait::until("the fleet to heal", HEALED, healed);
}

/// Waits until a client is sent to a region before all others: until links that were busy are free again.
#[track_caller]
fn is_sent_to(client: &Downloader, film: &Film, region: &str) {
    wait::until("a client to be sent to its region", SOON, || {
        let route = client.route(&film.id);
        route.is_ok_and(|route| route.nodes.first().is_some_and(|first| first.id.starts_with(region)))
    });
}

/// Waits until a client is not sent any more to a node, or to those of a region.
#[track_caller]
fn is_not_sent_to(client: &Downloader, film: &Film, nodes: &str) {
    wait::until("clients to be sent elsewhere", MOVED_ON, || {
        let route = client.route(&film.id);
        route.is_ok_and(|route| !route.nodes.iter().any(|node| node.id.starts_with(nodes)))
    });
}

/// Begins a download, and lets a quarter of it come.
#[track_caller]
fn begins(client: &Arc<Downloader>, film: &Film) -> Download {
    let before = client.received();
    let download = client.begin(&film.id, LENGTH);
    wait::until("a quarter of the film", SOON, || client.received() - before > LENGTH / 4);
    download
}

fn all_register(fleet: &Fleet) {
    wait::until("all nodes to register", SOON, || {
        let list = fleet::done(&fleet.control().command(&["node", "list"]));
        NODES.into_iter().all(|(name, region)| {
            let row = |line: &str| line.starts_with(name) && line.contains(region) && line.contains("live");
            list.lines().any(row)
        })
    });
}

/// The status of the answer to a heartbeat in the name of `south-1`; 000 when there is none.
fn knock(fleet: &Fleet, url: &str, identity: Option<&str>) -> String {
    let mut curl = Command::new("curl");
    // Over HTTP/2, curl 7.88 may lose an answer that comes before it has sent the body.
    curl.args(["--silent", "--http1.1", "--noproxy", "*", "--max-time", "10", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--cacert", &fleet.text("ca/ca.pem")]);
    if let Some(folder) = identity {
        let file = |name: &str| fleet.text(&format!("{folder}/{name}"));
        curl.args(["--cert", &file("node.pem"), "--key", &file("node.key")]);
    }
    curl.args(["--data", r#"{"node": {"id": "south-1"}, "boot": 1, "batch": 1}"#, url]);
    let output = fleet.client("south", "beta").netns().inside(|| curl.output()).expect("curl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn strangers_get_nothing_in(fleet: &Fleet) {
    let nodes = format!("{CONTROL}/.skerry/v1/nodes");
    assert_eq!(knock(fleet, &nodes, None), "403");
    assert_eq!(knock(fleet, &format!("{nodes}/south-1/holdings"), None), "403");
    assert_eq!(knock(fleet, &format!("http://{SELECTOR}/.skerry/v1/nodes"), None), "403");
    assert_eq!(knock(fleet, &nodes, Some("north-2")), "403", "a node speaks for itself alone");
    fleet.authority("foreign", "south-1", "foreign.test");
    assert_eq!(knock(fleet, &nodes, Some("foreign")), "000", "a certificate of somebody else's authority");
    // What they said of it is not on record.
    let told = fleet.control().told("/registry/nodes/south-1");
    assert_eq!(told["node"]["links"].as_array().map(Vec::len), Some(2), "{told}");
}

fn all_hold_what_an_operator_lists(fleet: &Fleet) -> Film {
    for (path, seed, length) in [(FILM, SEED, LENGTH), (TRAILER, SEED + 1, LENGTH / 8)] {
        let reply = Reply::generated(seed, length as u64).etag("one").ranges().validates().fresh();
        fleet.origin.reply(path, reply);
    }
    fleet.control().post("/preload/resources", &json!({ "path": FILM }));
    let id = wait::value("the film on the control node", PRELOADED, || fleet.control().resource(FILM));
    wait::until("all nodes to report the film", PRELOADED, || fleet.holders(&id) == NODES.len());
    let body = content::bytes(SEED, 0, LENGTH);
    Film { id, digest: content::sha256_base64(&body), body }
}

fn clients_are_sent_to_their_region_and_operator(fleet: &Fleet, film: &Film) {
    for (&(region, operator), client) in &fleet.clients {
        let route = wait::value("a client to be sent to its region and operator", SOON, || {
            let route = client.route(&film.id).ok()?;
            let first = route.nodes.first()?;
            let is_near = first.id.starts_with(region) && first.link.isp == operator;
            (is_near && route.nodes.len() == NODES.len()).then_some(route)
        });
        assert_eq!(route.region.as_deref(), Some(region));
        assert_eq!(route.isp.as_ref().map(|isp| isp.name.as_str()), Some(operator));
        assert_eq!(route.nodes[0].link.address(), link(&route.nodes[0].id, operator));
        assert_eq!(route.trackers, [TRACKER]);
    }
}

fn the_film_is_served_by_http(fleet: &Fleet, film: &Film) {
    let download = fleet.client("south", "beta").begin(&film.id, LENGTH);
    wait::until("what the link carries to be told", SOON, || {
        let told = fleet.control().told("/registry/nodes/south-1");
        let used = |place: usize| told["node"]["links"][place]["used_kbps"].as_u64().unwrap_or(0);
        // Alpha, the first, carries heartbeats.
        used(1) > 10_000 && used(0) < 5_000
    });
    let got = download.end();
    film.came("by HTTP", &got);
    assert_eq!(got.from, [("south-1".to_owned(), LENGTH)]);
}

/// To a client that uploads nothing, and knows nothing but the torrent.
fn the_film_is_served_by_bittorrent(fleet: &Fleet, film: &Film) {
    let netns = fleet.client("south", "beta").netns();
    let get = |to: SocketAddr, target: &str| {
        let answer = netns.inside(|| raw::fetch(to, "GET", target, &[], b"")).expect("an answer");
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.body
    };
    let target = format!("/.skerry/v1/resources/{}.torrent", film.id);
    let torrent = Torrent::read(get(link("south-1", "beta"), &target));
    assert_eq!(torrent.trackers(), [TRACKER]);

    let order = Order::torrent(&torrent).found_by(TRACKER).uploads_nothing();
    let order = order.bound_to(fleet::client_address("south", "beta").into());
    let outcome = netns.inside(|| Client::Libtorrent.fetch(&order));
    outcome.has("film.bin", &film.body);
    film.is("by BitTorrent", &outcome.file("film.bin").expect("the film"));
    let report = outcome.report();
    assert_eq!((report.hash_failures, report.bytes_up), (0, 0));
    let peers = NODES.map(|(name, _)| fleet::peer(name));
    for peer in report.peers.iter().filter(|peer| peer.down > 0) {
        assert!(peers.contains(&peer.address), "{peer:?}");
    }

    // Who wants but one neighbour is told of the one in the region.
    let hash = libtorrent::show(&torrent).info_hash_v1.expect("a hybrid torrent");
    let hash: String = hash.as_bytes().chunks(2).map(|pair| format!("%{}", pair.escape_ascii())).collect();
    let (tracker, path) = TRACKER["http://".len()..].split_once('/').expect("a path");
    let announce = format!(
        "/{path}?info_hash={hash}&peer_id=-XX0000-0123456789ab&port=6881&uploaded=0&downloaded=0&left=1\
         &numwant=1&compact=1"
    );
    let answer = get(tracker.parse().expect("an address"), &announce);
    let SocketAddr::V4(near) = fleet::peer("south-1") else { panic!("no IPv6 here") };
    let told = [b"5:peers6:".as_slice(), &near.ip().octets(), &near.port().to_be_bytes()].concat();
    assert!(answer.windows(told.len()).any(|bytes| bytes == told), "{}", answer.escape_ascii());
}

fn clients_move_on_when_a_node_is_cut_off(fleet: &Fleet, film: &Film) {
    let (client, node) = (fleet.client("south", "beta"), fleet.node("south-1"));
    is_sent_to(client, film, "south");
    let download = begins(client, film);
    node.cut();
    is_not_sent_to(client, film, "south");
    let got = download.end();
    film.came("from one node and another", &got);
    assert!(got.from.len() > 1 && got.from[0].0 == "south-1", "{:?}", got.from);
    node.mend();
    heals(fleet, film);
    is_sent_to(client, film, "south");
}

fn nodes_serve_without_their_control_node(fleet: &Fleet, film: &Film) {
    let (client, node) = (fleet.client("south", "beta"), fleet.node("south-1"));
    let reports = || fleet.control().told("/registry/reports")["reports"].take();
    let silent = || fleet.standing("silent") == NODES.len() - 1;
    fleet.control().cut();
    wait::until("the control node to miss all others", MOVED_ON, silent);
    let report = json!({ "resource": film.id, "chunk": 3, "source": "south-1", "reason": "a test" });
    let (to, report) = (link("south-1", "beta"), report.to_string());
    let post = || raw::fetch(to, "POST", "/.skerry/v1/reports", &[], report.as_bytes());
    let answer = client.netns().inside(post).expect("an answer");
    assert_eq!(answer.status, 202, "{}", answer.text());
    node.post("/resources", &json!({ "path": TRAILER }));
    let downloads = ["south", "west"].map(|region| fleet.client(region, "beta").begin(&film.id, LENGTH));
    for download in downloads {
        film.came("without the control node", &download.end());
    }
    wait::until("a node to see that it is on its own", NOTICED, || {
        let told = node.membership();
        let waits = |what: &str| told["waiting"][what].as_u64() > Some(0);
        told["reachable"] == false && waits("reports") && waits("holdings")
    });
    assert_eq!(reports(), json!([]));

    fleet.control().mend();
    heals(fleet, film);
    wait::until("what waited to be told", NOTICED, || {
        fleet.nodes.iter().map(Machine::membership).all(|told| {
            let waits = |what: &str| told["waiting"][what].as_u64() > Some(0);
            told["reachable"] == true && !waits("reports") && !waits("holdings")
        })
    });
    let reports = reports();
    assert_eq!(reports[0]["report"]["resource"], film.id, "{reports}");
    let trailer = node.resource(TRAILER).expect("it holds the trailer");
    wait::until("the trailer to be on record", SOON, || fleet.holders(&trailer) > 0);
}

fn what_one_node_holds_fills_the_others(fleet: &Fleet) {
    // What a path leads to is told apart from what a node holds.
    wait::until("the planner to know the trailer", PRELOADED, || {
        fleet.control().told("/preload")["planner"]["known_resources"] == 2
    });
    let asked = fleet.origin.count(TRAILER);
    fleet.origin.reply(TRAILER, Reply::status(503));
    fleet.control().post("/preload/resources", &json!({ "path": TRAILER }));
    let holder = fleet.nodes.iter().find_map(|node| node.resource(TRAILER)).expect("one has the trailer");
    wait::until("all nodes to report the trailer", PRELOADED, || fleet.holders(&holder) == NODES.len());
    assert_eq!(fleet.origin.count(TRAILER), asked, "the origin was asked again");
}

fn a_region_that_is_cut_off_serves_its_own(fleet: &Fleet, film: &Film) {
    let (near, far) = (fleet.client("west", "beta"), fleet.client("south", "beta"));
    is_sent_to(near, film, "west");
    fleet.uplinks["west"].cut();
    is_not_sent_to(far, film, "west");
    let (within, beyond) = (near.begin(&film.id, LENGTH), far.begin(&film.id, LENGTH));
    let got = within.end();
    film.came("within the region", &got);
    assert!(got.from.iter().all(|(node, _)| node.starts_with("west")), "{:?}", got.from);
    film.came("beyond it", &beyond.end());
    fleet.uplinks["west"].mend();
    heals(fleet, film);
    is_sent_to(near, film, "west");
}

fn a_node_that_was_killed_comes_back(fleet: &mut Fleet, film: &Film, place: usize) {
    let (name, region) = NODES[place];
    let client = Arc::clone(fleet.client(region, "beta"));
    is_sent_to(&client, film, region);
    let download = begins(&client, film);
    fleet.nodes[place].kill();
    if place == 0 {
        wait::until("the selector to be gone", MOVED_ON, || client.route(&film.id).is_err());
    } else {
        is_not_sent_to(&client, film, name);
    }
    film.came("while a node is down", &download.end());
    fleet.nodes[place].start();
    heals(fleet, film);
}

fn nothing_was_wrong(fleet: &Fleet) {
    for machine in &fleet.nodes {
        let told = machine.told("/status");
        assert_eq!(told["store"]["verify_failures"], 0, "{told}");
    }
    // What a node has got it keeps, and serves.
    let sent = fleet.origin.bytes_sent(FILM);
    assert!(sent <= (NODES.len() * LENGTH) as u64, "{sent} bytes came from the origin");
}

#[test]
fn a_fleet_serves_on_and_heals_by_itself() {
    let mut fleet = Fleet::switched_on();
    all_register(&fleet);
    strangers_get_nothing_in(&fleet);
    let film = all_hold_what_an_operator_lists(&fleet);
    clients_are_sent_to_their_region_and_operator(&fleet, &film);
    the_film_is_served_by_http(&fleet, &film);
    the_film_is_served_by_bittorrent(&fleet, &film);
    clients_move_on_when_a_node_is_cut_off(&fleet, &film);
    nodes_serve_without_their_control_node(&fleet, &film);
    what_one_node_holds_fills_the_others(&fleet);
    a_region_that_is_cut_off_serves_its_own(&fleet, &film);
    for place in 0..NODES.len() {
        a_node_that_was_killed_comes_back(&mut fleet, &film, place);
    }
    nothing_was_wrong(&fleet);
}

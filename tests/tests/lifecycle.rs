//! How a node ends: readiness drops, idle connections close, running bodies finish or are named.

use std::time::{Duration, Instant};

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::{Connection, Response};
use skerry_tests::reply::{Gate, Reply};
use skerry_tests::wait;

/// A client that is in the middle of the content of `path`.
fn reading(node: &Node, path: &str) -> (Connection, Response) {
    let mut connection = Connection::open(node.public());
    connection.request("GET", path, &[], b"").expect("a request is sent");
    let mut answer = connection.head().expect("a head");
    assert_eq!(answer.status, 200);
    assert!(connection.take(&mut answer, 10_000).expect("some content"));
    (connection, answer)
}

#[test]
fn sigterm_lets_a_running_body_finish_and_closes_what_is_idle() {
    let body = content::bytes(91, 0, 1_000_000);
    let gate = Gate::closed();
    let origin = Origin::start();
    origin.reply("/running", Reply::ok(body.clone()).fresh().hold_after(400_000, &gate));
    origin.reply("/quick", Reply::ok("quick").fresh());
    let mut node = Node::in_front_of(&origin).set("node", "drain_seconds", 30).start();

    let mut idle = Connection::open(node.public());
    idle.request("GET", "/quick", &[], b"").expect("a request is sent");
    assert_eq!(idle.response("GET").expect("an answer").text(), "quick");
    let (mut running, mut answer) = reading(&node, "/running");
    assert_eq!(node.admin_get("/readyz").status, 200);

    node.signal("TERM");
    wait::until("readiness to drop", Duration::from_secs(10), || node.admin_get("/readyz").status == 503);
    assert_eq!(node.admin_get("/healthz").status, 200, "draining is not dying");
    assert!(idle.closes_within(Duration::from_secs(20)), "an idle connection is still open");

    gate.open();
    running.body("GET", &mut answer).expect("the rest");
    assert!(answer.complete);
    content::assert_same("the running body", &answer.body, &body);
    let started = Instant::now();
    assert_eq!(node.ended().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "the node waited for nobody");
}

#[test]
fn a_body_that_does_not_finish_is_cut_and_named() {
    let body = content::bytes(92, 0, 1_000_000);
    let origin = Origin::start();
    origin.reply("/stuck", Reply::ok(body.clone()).fresh().hold_after(400_000, &Gate::closed()));
    let mut node = Node::in_front_of(&origin).set("node", "drain_seconds", 1).start();
    let (mut running, mut answer) = reading(&node, "/stuck");

    let started = Instant::now();
    node.signal("TERM");
    assert_eq!(node.ended().code(), Some(0));
    assert!(started.elapsed() > Duration::from_millis(800), "it had a second");
    assert!(started.elapsed() < Duration::from_secs(15), "the end took {:?}", started.elapsed());
    running.body("GET", &mut answer).expect("the end of the connection");
    assert!(!answer.complete);
    content::assert_prefix("what was sent", &answer.body, &body);
    node.must_log(&["/stuck"]);
}

/// What has come of a body when the node ends is there after a restart, also the part that is no whole chunk:
/// the origin is asked for the rest alone.
#[test]
fn what_has_come_of_a_body_outlasts_a_restart() {
    let body = content::bytes(93, 0, 2_500_000);
    let origin = Origin::start();
    let reply = Reply::ok(body.clone()).etag("one").ranges().fresh();
    let stuck = reply.clone().hold_after(1_500_000, &Gate::closed());
    origin.serve("/stuck", move |request| if request.number == 0 { stuck.clone() } else { reply.clone() });
    let mut node = Node::in_front_of(&origin).set("node", "drain_seconds", 1).start();
    let (running, _) = reading(&node, "/stuck");
    wait::until("all that the origin sends", Duration::from_secs(10), || {
        let metrics = node.admin_get("/metrics").text();
        let come = metrics.lines().find(|line| line.starts_with("skerry_cache_origin_bytes_total"));
        come.is_some_and(|line| line.ends_with(" 1500000"))
    });

    node.restart();
    drop(running);
    let answer = node.get("/stuck");
    content::assert_same("what came before the restart and after it", &answer.body, &body);
    let requests = origin.requests_for("/stuck");
    assert_eq!(requests[1].header("range"), Some("bytes=1500000-"));
    assert_eq!(requests.len(), 2);
}

/// Whoever got through before the drain is answered, also when its balancer or its handshake is slow.
#[test]
fn a_connection_that_is_still_being_set_up_is_answered_in_the_drain() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let mut node = Node::in_front_of(&origin)
        .set("public", "proxy_protocol", true)
        .set("node", "drain_seconds", 30)
        .start();
    // PROXY protocol v2: the balancer speaks for itself.
    let (first, rest) = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".split_at(7);
    let mut late = Connection::open(node.public());
    late.send(first).expect("half a header is sent");
    wait::until("the connection to be taken", Duration::from_secs(10), || {
        node.metric("skerry_connections_open", &[("listener", "public")]) == 1.0
    });

    node.signal("TERM");
    wait::until("readiness to drop", Duration::from_secs(10), || node.admin_get("/readyz").status == 503);
    std::thread::sleep(Duration::from_millis(200));
    late.send(rest).expect("the other half is sent");
    late.request("GET", "/a", &[], b"").expect("a request is sent");
    let answer = late.response("GET").expect("an answer");
    assert_eq!((answer.text(), answer.header("connection")), ("content".to_owned(), Some("close")));
    let started = Instant::now();
    assert_eq!(node.ended().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "the node waited for nobody");
}

#[test]
fn a_node_without_clients_ends_at_once() {
    let origin = Origin::start();
    let mut node = Node::in_front_of(&origin).set("node", "drain_seconds", 300).start();
    let started = Instant::now();
    assert_eq!(node.stop().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(60), "the end took {:?}", started.elapsed());
}

#[test]
fn ctrl_c_ends_a_node_like_sigterm() {
    let origin = Origin::start();
    let mut node = Node::in_front_of(&origin).start();
    node.signal("INT");
    assert_eq!(node.ended().code(), Some(0));
}

#[test]
fn a_drain_may_be_asked_for_over_http() {
    let origin = Origin::start();
    let mut node = Node::in_front_of(&origin).start();
    let answer = node.try_admin("POST", "/drain", b"").expect("an answer");
    assert_eq!(answer.status / 100, 2);
    assert_eq!(node.ended().code(), Some(0));
}

#[test]
fn a_reload_with_a_broken_configuration_changes_nothing() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let node = Node::in_front_of(&origin).start();
    let good = std::fs::read_to_string(node.config()).expect("the configuration");
    let broken = good.replace("memory_tier_bytes", "memory_teir_bytes");
    std::fs::write(node.config(), broken).expect("the configuration");

    node.signal("HUP");
    wait::until("the complaint", Duration::from_secs(10), || node.logged(&["memory_teir_bytes"]));
    assert_eq!(node.get("/a").text(), "content");
    assert_eq!(node.admin_get("/readyz").status, 200);
}

#[test]
fn a_reload_takes_up_another_origin() {
    let (first, second) = (Origin::start(), Origin::start());
    for (origin, name) in [(&first, "first"), (&second, "second")] {
        origin.serve_rest(move |_| Reply::ok(name).cache_control("no-store"));
    }
    let node = Node::in_front_of(&first).start();
    assert_eq!(node.get("/a").text(), "first");
    let text = std::fs::read_to_string(node.config()).expect("the configuration");
    std::fs::write(node.config(), text.replace(&first.url(), &second.url())).expect("the configuration");

    node.signal("HUP");
    wait::until("the other origin", Duration::from_secs(10), || node.get("/a").text() == "second");
}

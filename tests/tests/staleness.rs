//! When a stale object is served, and when it must not be (RFC 9111 §4.2.4, RFC 5861).

use std::time::{Duration, Instant};

use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::reply::{Gate, Reply};
use skerry_tests::wait;

/// After so long an object with `max-age=2` is stale, whichever way its age was rounded.
const STALE: Duration = Duration::from_millis(3100);

/// Fills `/a` and lets it become stale.
fn fill(node: &Node) {
    assert_eq!(node.get("/a").text(), "version 0");
    node.hit("/a");
    wait::clock(Instant::now(), STALE);
}

/// An origin that numbers what it answers at `/a`.
fn numbering_origin(control: &'static str) -> Origin {
    let origin = Origin::start();
    origin
        .serve("/a", move |request| Reply::ok(format!("version {}", request.number)).cache_control(control));
    origin
}

#[test]
fn while_revalidating_the_stale_object_is_served_at_once() {
    let gate = Gate::closed();
    let origin = Origin::start();
    let held = gate.clone();
    origin.serve("/a", move |request| {
        let reply = Reply::ok(format!("version {}", request.number))
            .cache_control("max-age=2, stale-while-revalidate=600");
        if request.number == 1 { reply.hold_head(&held) } else { reply }
    });
    let node = Node::in_front_of(&origin).start();
    fill(&node);

    // The origin does not answer, and still nobody waits.
    for _ in 0..3 {
        assert_eq!(node.get("/a").text(), "version 0");
    }
    wait::until("the revalidation", Duration::from_secs(10), || origin.count("/a") == 2);
    gate.open();
    wait::until("the new version", Duration::from_secs(10), || node.get("/a").text() == "version 1");
}

#[test]
fn stale_while_revalidate_may_be_set_for_origins_that_name_none() {
    let origin = numbering_origin("max-age=2");
    let node = Node::in_front_of(&origin).set("cache", "stale_while_revalidate_seconds", 600).start();
    fill(&node);
    assert_eq!(node.get("/a").text(), "version 0");
    wait::until("the new version", Duration::from_secs(10), || node.get("/a").text() != "version 0");
}

#[test]
fn without_permission_a_stale_object_is_not_served() {
    let origin = numbering_origin("max-age=2");
    let node = Node::in_front_of(&origin).start();
    fill(&node);
    let answer = node.get("/a");
    assert_eq!(answer.text(), "version 1");
    assert_eq!(answer.cache_status_value("fwd").as_deref(), Some("stale"));
}

#[test]
fn an_error_of_the_origin_is_covered_by_stale_if_error() {
    let origin = Origin::start();
    origin.serve("/a", |request| {
        if request.number == 0 {
            Reply::ok("version 0").cache_control("max-age=2, stale-if-error=600")
        } else {
            Reply::status(503)
        }
    });
    let node = Node::in_front_of(&origin).start();
    fill(&node);
    let answer = node.get("/a");
    assert_eq!((answer.status, answer.text().as_str()), (200, "version 0"));
    assert!(answer.number("age").is_some_and(|age| age >= 1));
}

#[test]
fn a_dead_origin_is_covered_by_stale_if_error() {
    let mut origin = numbering_origin("max-age=2, stale-if-error=600");
    let node = Node::in_front_of(&origin).start();
    fill(&node);
    origin.stop();
    for _ in 0..3 {
        let answer = node.get("/a");
        assert_eq!((answer.status, answer.text().as_str()), (200, "version 0"));
    }
}

#[test]
fn an_origin_that_stalls_is_covered_by_stale_if_error() {
    let origin = Origin::start();
    origin.serve("/a", |request| {
        let reply = Reply::ok("version 0").cache_control("max-age=2, stale-if-error=600");
        if request.number == 0 { reply } else { reply.hold_head(&Gate::closed()) }
    });
    let node = Node::in_front_of(&origin).set("cache", "response_timeout_seconds", 3).start();
    fill(&node);
    let answer = node.get("/a");
    assert_eq!((answer.status, answer.text().as_str()), (200, "version 0"));
}

#[test]
fn stale_if_error_may_be_set_for_origins_that_name_none() {
    let mut origin = numbering_origin("max-age=2");
    let node = Node::in_front_of(&origin).set("cache", "stale_if_error_seconds", 600).start();
    fill(&node);
    origin.stop();
    assert_eq!(node.get("/a").text(), "version 0");
}

#[test]
fn must_revalidate_forbids_stale_even_if_the_origin_is_dead() {
    let mut origin = numbering_origin("max-age=2, must-revalidate, stale-if-error=600");
    let node = Node::in_front_of(&origin).start();
    fill(&node);
    origin.stop();
    // RFC 9111 §5.2.2.2: an error, and it should be 504.
    node.get("/a").problem(504);
}

#[test]
fn a_client_that_asks_for_a_fresh_answer_gets_one() {
    let origin = numbering_origin("max-age=3600");
    let node = Node::in_front_of(&origin).start();
    assert_eq!(node.get("/a").text(), "version 0");
    node.hit("/a");
    let fresh = node.get_with("/a", &[("Cache-Control", "no-cache")]);
    assert_eq!(fresh.text(), "version 1");
    assert_eq!(fresh.cache_status_value("fwd").as_deref(), Some("request"));
}

//! `kill -9` in the middle of fills: the node comes back, no byte it serves is wrong, and what was
//! acknowledged as pinned is there even when the origin is not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw;
use skerry_tests::reply::Reply;
use skerry_tests::wait;

const ROUNDS: u64 = 50;
const OBJECTS: u64 = 24;
const READERS: usize = 4;
const PIN_BYTES: usize = 300_000;

/// The content of the object with that number: from 20 kB to 3 MB.
fn object(number: u64) -> Vec<u8> {
    let length = 20_000 + (number * number * 7_919 * 13) % 3_000_000;
    content::bytes(number, 0, length as usize)
}

fn pinned_object(round: u64) -> Vec<u8> {
    content::bytes(10_000 + round, 0, PIN_BYTES)
}

/// Asks for the pin until the node has acknowledged it: the fill may be settling.
fn pin(node: &Node, path: &str) {
    let body = json!({"url": format!("http://{}{path}", raw::HOST)});
    wait::until(&format!("the pin of {path}"), Duration::from_secs(10), || {
        node.admin_post("/store/pin", &body).status / 100 == 2
    });
}

fn assert_pin_is_served(node: &Node, round: u64) {
    let path = format!("/pin/{round}");
    let answer = node.get(&path);
    assert_eq!(answer.status, 200, "{path} was lost: {}", answer.text());
    content::assert_same(&path, &answer.body, &pinned_object(round));
}

/// Reads objects at random until the node is gone, half of them under addresses that are new in
/// this round, so that kills always fall into fills. Counts what was read whole.
fn read_until_killed(
    address: SocketAddr,
    round: u64,
    objects: &[Vec<u8>],
    killed: &AtomicBool,
    whole: &AtomicUsize,
) {
    while !killed.load(Ordering::Acquire) {
        let number = fastrand::usize(..objects.len());
        let target =
            if fastrand::bool() { format!("/o/{number}") } else { format!("/o/{number}?round={round}") };
        let Ok(answer) = raw::fetch(address, "GET", &target, &[], b"") else {
            continue;
        };
        assert_eq!(answer.status, 200);
        content::assert_prefix("a read before the kill", &answer.body, &objects[number]);
        if answer.complete {
            content::assert_same("a whole read", &answer.body, &objects[number]);
            whole.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn fifty_kills_in_the_middle_of_fills_cost_no_byte_and_no_pin() {
    let objects: Arc<[Vec<u8>]> = (0..OBJECTS).map(object).collect();
    let mut origin = Origin::start();
    for (number, body) in objects.iter().enumerate() {
        let reply = Reply::ok(body.clone()).etag(&format!("o{number}")).ranges().fresh();
        // Slow enough that kills fall into fills.
        origin.reply(&format!("/o/{number}"), reply.drip(64 * 1024, Duration::from_millis(1)));
    }
    for round in 0..ROUNDS {
        let reply = Reply::ok(pinned_object(round)).etag(&format!("p{round}")).fresh();
        // Whoever loses a pin does not get it a second time.
        origin.serve(&format!("/pin/{round}"), move |request| {
            if request.number == 0 { reply.clone() } else { Reply::status(503) }
        });
    }
    let mut node = Node::in_front_of(&origin).set("store", "chunk_bytes", 256 * 1024).write();
    let seed = fastrand::get_seed();
    eprintln!("the timing of this run comes from seed {seed}");

    let mut slowest = Duration::ZERO;
    let whole = Arc::new(AtomicUsize::new(0));
    for round in 0..ROUNDS {
        let started = Instant::now();
        node.start();
        slowest = slowest.max(started.elapsed());
        for earlier in round.saturating_sub(2)..round {
            assert_pin_is_served(&node, earlier);
        }
        let number = fastrand::usize(..objects.len());
        let answer = node.get(&format!("/o/{number}"));
        content::assert_same("after the kill", &answer.body, &objects[number]);
        node.get(&format!("/pin/{round}"));
        pin(&node, &format!("/pin/{round}"));

        let killed = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (objects, killed, whole) =
                    (Arc::clone(&objects), Arc::clone(&killed), Arc::clone(&whole));
                let address = node.public();
                thread::spawn(move || read_until_killed(address, round, &objects, &killed, &whole))
            })
            .collect();
        // The moment of the kill is what this scenario varies.
        thread::sleep(Duration::from_millis(fastrand::u64(0..250)));
        node.kill();
        killed.store(true, Ordering::Release);
        for reader in readers {
            reader.join().expect("every byte that was read is right");
        }
    }
    eprintln!(
        "the slowest start took {slowest:?}, {} objects were read whole",
        whole.load(Ordering::Relaxed)
    );
    assert!(whole.load(Ordering::Relaxed) > 0, "no fill got anywhere, so none was interrupted");

    node.start();
    for (number, body) in objects.iter().enumerate() {
        let answer = node.get(&format!("/o/{number}"));
        assert_eq!(answer.status, 200);
        content::assert_same("after the last kill", &answer.body, body);
    }
    origin.stop();
    for round in 0..ROUNDS {
        assert_pin_is_served(&node, round);
    }
}

#[test]
fn a_pin_that_was_taken_back_is_no_pin() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok(content::bytes(41, 0, 100_000)).etag("one").fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");
    pin(&node, "/a");
    let pinned = || node.metric("skerry_store_bytes", &[("class", "pinned")]);
    wait::until("the pinned bytes to be counted", Duration::from_secs(20), || pinned() >= 100_000.0);

    let body = json!({"url": format!("http://{}/a", raw::HOST)});
    assert_eq!(node.admin_post("/store/unpin", &body).status / 100, 2);
    wait::until("the pinned bytes to be given back", Duration::from_secs(20), || pinned() == 0.0);
}

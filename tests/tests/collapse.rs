//! Many clients and one cold object: one request to the origin, bytes for everybody as they arrive,
//! nobody held by a neighbour, and no memory that grows with the number of readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use skerry_tests::client;
use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::process::allow_open_files;
use skerry_tests::raw::{self, Connection};
use skerry_tests::reply::{Gate, Reply};
use skerry_tests::wait;

#[test]
fn a_thousand_clients_cause_one_origin_request_and_read_along() {
    const CLIENTS: usize = 1000;
    allow_open_files(8192);
    let body: Arc<[u8]> = content::bytes(21, 0, 1_500_000).into();
    let gate = Gate::closed();
    let origin = Origin::start();
    let reply = Reply::ok(body.to_vec()).etag("one").fresh();
    origin.reply("/cold", reply.hold_after(400_000, &gate));
    let node = Node::in_front_of(&origin).set("store", "chunk_bytes", 256 * 1024).start();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let started = Arc::new(AtomicUsize::new(0));
    let url = node.url("/cold");
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (url, body, started) = (url.clone(), Arc::clone(&body), Arc::clone(&started));
            runtime.spawn(async move {
                // A client of its own, and so a connection of its own.
                let client = client::client();
                client::check(&client, &url, &body, move || {
                    started.fetch_add(1, Ordering::Relaxed);
                })
                .await
            })
        })
        .collect();

    // The origin has not sent the rest, and all of them have something already.
    wait::until("the first byte to reach every client", Duration::from_secs(60), || {
        started.load(Ordering::Relaxed) == CLIENTS
    });
    assert!(origin.bytes_sent("/cold") <= 400_000);
    gate.open();
    for task in tasks {
        runtime.block_on(task).expect("a client ends").expect("a client gets every byte");
    }
    assert_eq!(origin.count("/cold"), 1);
    content::assert_same("the hit", &node.hit("/cold").body, &body);
    assert_eq!(origin.count("/cold"), 1);
}

#[test]
fn a_reader_that_does_not_read_holds_neither_the_others_nor_memory() {
    const LENGTH: usize = 64 << 20;
    const MOST_MEMORY: u64 = 200_000_000;
    let body: Arc<[u8]> = content::bytes(22, 0, LENGTH).into();
    let origin = Origin::start();
    origin.reply("/film", Reply::generated(22, LENGTH as u64).etag("one").fresh());
    let node = Node::in_front_of(&origin).set("public", "write_timeout_seconds", 300).start();

    let mut stuck = Connection::open(node.public());
    stuck.request("GET", "/film", &[], b"").expect("a request is sent");
    let mut late = stuck.head().expect("a head");
    assert_eq!(late.status, 200);

    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (address, body) = (node.public(), Arc::clone(&body));
            thread::spawn(move || {
                let answer = raw::fetch(address, "GET", "/film", &[], b"").expect("an answer");
                content::assert_same("a reader beside it", &answer.body, &body);
            })
        })
        .collect();
    let mut most = 0;
    wait::until("the others to finish", Duration::from_secs(120), || {
        most = node.memory_bytes().max(most);
        readers.iter().all(thread::JoinHandle::is_finished)
    });
    for reader in readers {
        reader.join().expect("a reader gets every byte");
    }
    assert!(most < MOST_MEMORY, "the node took {most} bytes");
    assert_eq!(origin.count("/film"), 1);

    // It was only slow: what it has missed comes from the store.
    stuck.body("GET", &mut late).expect("the rest arrives");
    assert!(late.complete);
    content::assert_same("the slow reader", &late.body, &body);
    assert_eq!(origin.count("/film"), 1);
}

#[test]
fn the_fill_goes_on_when_the_client_that_caused_it_leaves() {
    let body = content::bytes(23, 0, 900_000);
    let gate = Gate::closed();
    let origin = Origin::start();
    let reply = Reply::ok(body.clone()).etag("one").fresh();
    origin.reply("/cold", reply.hold_after(300_000, &gate));
    let node = Node::in_front_of(&origin).start();

    let mut first = Connection::open(node.public());
    first.request("GET", "/cold", &[], b"").expect("a request is sent");
    let mut begun = first.head().expect("a head");
    assert!(first.take(&mut begun, 1000).expect("some content"));
    let mut second = Connection::open(node.public());
    second.request("GET", "/cold", &[], b"").expect("a request is sent");
    let mut whole = second.head().expect("a head");
    assert!(second.take(&mut whole, 1000).expect("some content"));

    drop(first);
    gate.open();
    second.body("GET", &mut whole).expect("the rest");
    assert!(whole.complete);
    content::assert_same("the one that stayed", &whole.body, &body);
    assert_eq!(origin.count("/cold"), 1);
}

#[test]
fn what_may_not_be_shared_is_not_shared_in_flight_either() {
    let gate = Gate::closed();
    let origin = Origin::start();
    let held = gate.clone();
    origin.serve("/mine", move |request| {
        let reply = Reply::ok(format!("for {}", request.header("x-user").unwrap_or("nobody")));
        reply.cache_control("private").hold_head(&held)
    });
    let node = Node::in_front_of(&origin).start();
    let users = ["anna", "ben", "carla"];
    let address = node.public();
    let clients = users.map(|user| {
        thread::spawn(move || {
            raw::fetch(address, "GET", "/mine", &[("X-User", user)], b"").expect("an answer")
        })
    });
    wait::until("the origin to be asked", Duration::from_secs(10), || origin.count("/mine") > 0);
    gate.open();
    for (user, client) in users.iter().zip(clients) {
        let answer = client.join().expect("a client ends");
        assert_eq!(answer.text(), format!("for {user}"));
    }
    assert_eq!(origin.count("/mine"), 3);
}

//! The node's own tracker leads to it.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_tests::peers::{Client, Family, Fetch, Order, address, libtorrent};
use skerry_tests::{raw, wait};

use crate::served::{NAME, Served, film};

/// Fetches with nothing but the address of the node's own tracker.
fn fetches_by_the_nodes_tracker(scheme: &str) {
    let served = Served::with(&[address(Family::V4)], |node| {
        node.set("registry", "control", true).set("tracker", "enabled", true).set(
            "tracker",
            "listen",
            "[\"127.0.0.1:0\"]",
        )
    });
    let held = served.hold(NAME, &film());
    let tracker = served.node.tracker()[0];
    let begun: Vec<Fetch> = [Client::Aria2, Client::Transmission, Client::Libtorrent]
        .into_iter()
        .map(|client| {
            let torrent = served.torrent(&held);
            let info_hash = libtorrent::show(&torrent).info_hash_v1.expect("no torrent of version 2 alone");
            wait::until("the node to announce itself", Duration::from_secs(30), || {
                seeded(tracker, &info_hash)
            });
            client.start(&Order::torrent(&torrent).found_by(&format!("{scheme}://{tracker}/announce")))
        })
        .collect();
    for fetch in begun {
        fetch.end().has(NAME, &film());
    }
}

/// Whether a tracker knows somebody who has all of a torrent (BEP 48).
fn seeded(tracker: SocketAddr, info_hash: &str) -> bool {
    let escaped: String =
        info_hash.as_bytes().chunks(2).map(|pair| format!("%{}", pair.escape_ascii())).collect();
    let answer = raw::fetch(tracker, "GET", &format!("/scrape?info_hash={escaped}"), &[], b"");
    answer.is_ok_and(|answer| answer.text().contains("8:completei1e"))
}

#[test]
fn peers_find_the_node_by_its_tracker_over_http() {
    fetches_by_the_nodes_tracker("http");
}

#[test]
fn peers_find_the_node_by_its_tracker_over_udp() {
    fetches_by_the_nodes_tracker("udp");
}

//! Every client gets everything: over both kinds of address, however it encrypts, and for nothing.

use std::net::Ipv4Addr;

use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Encryption, Family, Fetch, Order};

use crate::served::{LENGTH, NAME, Served, addresses, film};

/// Fetches the same resource as a hybrid with every kind of encryption, and by its torrent of version 1, at once.
fn fetches(client: Client, family: Family, encryptions: &[Encryption]) {
    let served = Served::on(&addresses(client));
    let held = served.hold(NAME, &film());
    let mut peers = served.node.peers().to_vec();
    peers.retain(|peer| peer.is_ipv4() == (family == Family::V4));
    assert_eq!(peers.len(), 1, "{:?}", served.node.peers());

    let start = |torrent: &Torrent, encryption: Encryption| {
        (encryption, client.start(&Order::torrent(torrent).with_peers(&peers).encryption(encryption)))
    };
    let hybrid = served.torrent(&held);
    let mut begun: Vec<(Encryption, Fetch)> =
        encryptions.iter().map(|encryption| start(&hybrid, *encryption)).collect();
    begun.push(start(&served.torrent_of(&held, "?version=1"), encryptions[0]));
    let all = LENGTH * begun.len();
    for (encryption, fetch) in begun {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        if client == Client::Libtorrent {
            let report = outcome.report();
            assert_eq!(report.hash_failures, 0);
            assert_eq!(report.peers.len(), 1, "{:?}", report.peers);
            let peer = &report.peers[0];
            assert_eq!(peer.address, peers[0]);
            assert_eq!(peer.rc4, encryption == Encryption::Rc4);
            assert_eq!(peer.encrypted_handshake, encryption != Encryption::Off);
        }
    }
    let sent = served.metric("skerry_superpeer_sent_bytes_total", &[]);
    assert!(sent >= all as f64, "{sent} bytes were sent");
}

#[test]
fn libtorrent_fetches_over_ipv4() {
    fetches(Client::Libtorrent, Family::V4, &[Encryption::Off, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn libtorrent_fetches_over_ipv6() {
    fetches(Client::Libtorrent, Family::V6, &[Encryption::Off, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn aria2_fetches_over_ipv4() {
    fetches(Client::Aria2, Family::V4, &[Encryption::Any, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn aria2_fetches_over_ipv6() {
    fetches(Client::Aria2, Family::V6, &[Encryption::Any, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn transmission_fetches_over_ipv4() {
    fetches(Client::Transmission, Family::V4, &[Encryption::Off, Encryption::Rc4]);
}

#[test]
fn transmission_fetches_over_ipv6() {
    fetches(Client::Transmission, Family::V6, &[Encryption::Off, Encryption::Rc4]);
}

#[test]
fn a_peer_that_begins_encrypted_gets_in_plain_where_encryption_is_refused() {
    let client = Client::Aria2;
    let served = Served::with(&addresses(client), |node| node.text("superpeer", "encryption", "refuse"));
    let held = served.hold(NAME, &film());
    let order = Order::torrent(&served.torrent(&held)).with_peers(served.node.peers());
    client.fetch(&order).has(NAME, &film());
    assert!(served.metric("skerry_superpeer_refused_total", &[("cause", "encryption")]) > 0.0);
}

#[test]
fn who_uploads_nothing_gets_everything() {
    let served = Served::on(&addresses(Client::Transmission));
    let held = served.hold(NAME, &film());
    let fetches: Vec<Fetch> = [Client::Aria2, Client::Transmission, Client::Libtorrent]
        .into_iter()
        .map(|client| {
            let order = Order::torrent(&served.torrent(&held));
            client.start(&order.with_peers(served.node.peers()).uploads_nothing())
        })
        .collect();
    for fetch in fetches {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        assert_eq!(outcome.bytes_up, Some(0), "{:?}", outcome.client);
    }
}

#[test]
fn peers_that_upload_nothing_take_turns_where_there_is_room_for_one() {
    let served = Served::with(&[Ipv4Addr::LOCALHOST.into()], |node| node.set("superpeer", "max_unchoked", 1));
    let held = served.hold(NAME, &film());
    let order = Order::torrent(&served.torrent(&held)).with_peers(served.node.peers()).uploads_nothing();
    let fetches: Vec<Fetch> = (0..3).map(|_| Client::Libtorrent.start(&order)).collect();
    for fetch in fetches {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        assert_eq!(outcome.bytes_up, Some(0));
    }
}

//! Who is let go: for what is not held, or not any more, and beyond what one address may have.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use skerry_tests::peers::libtorrent::{self, Version};
use skerry_tests::peers::{Client, Encryption, Order};
use skerry_tests::{content, raw, wait};
use socket2::{Domain, Socket, Type};

use crate::served::{CHUNK, Held, NAME, Served, addresses, film};

/// How long the node may take to close a connection that it wants nothing of.
const CLOSED: Duration = Duration::from_secs(5);

/// An address that is not the node's.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Connects from an address and says hello for what is held; fails where the node does not say the same.
fn greet(served: &Served, held: &Held, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&served.node.peers()[0].into())?;
    let mut peer = TcpStream::from(socket);
    let byte = |at| u8::from_str_radix(&held.info_hash_v1[at..at + 2], 16).expect("hex digits");
    let hash: Vec<u8> = (0..40).step_by(2).map(byte).collect();
    let hello = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &hash, b"-XX0001-abcdefghijkl"];
    peer.write_all(&hello.concat())?;
    let mut answer = [0; 68];
    peer.read_exact(&mut answer)?;
    assert_eq!(answer[28..48], hash[..]);
    Ok(peer)
}

#[test]
fn what_is_not_held_is_closed_before_any_data() {
    let served = Served::on(&addresses(Client::Libtorrent));
    served.hold(NAME, &film());
    let unknown = || served.metric("skerry_superpeer_refused_total", &[("cause", "unknown")]);
    assert_eq!(unknown(), 0.0);

    for (count, peer) in (1u32..).zip(served.node.peers()) {
        let mut connection = raw::Connection::open(*peer);
        let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[7; 20], b"-XX0000-0123456789ab"];
        connection.send(&handshake.concat()).expect("a handshake is sent");
        assert_eq!(connection.look(CLOSED), raw::State::Closed);
        wait::until("the count", CLOSED, || unknown() == f64::from(count));
    }

    // An encrypted handshake names it by a hash of it (BEP 8).
    let foreign = served.disk("foreign.bin");
    std::fs::write(&foreign, content::bytes(42, 0, 100_000)).expect("the content is written");
    for version in [Version::V1, Version::V2] {
        let (torrent, _) = libtorrent::create(&foreign, version, CHUNK);
        for encryption in [Encryption::Off, Encryption::Rc4] {
            let before = unknown();
            let order = Order::torrent(&torrent).with_peers(&served.node.peers()[..1]);
            let order = order.encryption(encryption).within(Duration::from_secs(5));
            let outcome = Client::Libtorrent.fetch(&order);
            assert!(!outcome.complete);
            assert_eq!(outcome.report().bytes_down, 0);
            assert!(unknown() > before, "{version:?}, {encryption:?}");
        }
    }
    assert_eq!(served.metric("skerry_superpeer_sent_bytes_total", &[]), 0.0);
}

#[test]
fn what_is_removed_is_not_served_any_longer_to_who_is_connected() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let mut peer = greet(&served, &held, OTHER).expect("it is held");

    let removed = raw::fetch(served.node.admin(), "DELETE", &format!("/resources/{}", held.id), &[], b"");
    let removed = removed.expect("an answer");
    assert_eq!(removed.status, 200, "{}", removed.text());
    peer.set_read_timeout(Some(2 * CLOSED)).expect("a time limit");
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("the node closes the connection");
}

#[test]
fn one_address_has_only_so_many_connections_and_keeps_no_other_out() {
    let served = Served::with(&[Ipv4Addr::LOCALHOST.into()], |node| {
        node.set("superpeer", "max_connections_per_address", 2)
    });
    let held = served.hold(NAME, &film());
    let greet = |from| greet(&served, &held, from);
    let [first, _second] = [(); 2].map(|()| greet(Ipv4Addr::LOCALHOST).expect("there is a place"));
    for count in 1..4_u32 {
        assert_eq!(raw::Connection::open(served.node.peers()[0]).look(CLOSED), raw::State::Closed);
        wait::until("the count", CLOSED, || {
            served.metric("skerry_superpeer_refused_total", &[("cause", "full")]) == f64::from(count)
        });
    }
    let _other = greet(OTHER).expect("there is a place for others");
    drop(first);
    wait::until("a place to come free", CLOSED, || greet(Ipv4Addr::LOCALHOST).is_ok());
}

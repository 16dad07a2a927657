//! Torrents of every version, the node's own and others', and the command that makes them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::peers::libtorrent::{self, Described, Version};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Order};
use skerry_tests::{content, process};

use crate::served::{CHUNK, Held, LENGTH, NAME, Served, addresses, film};

#[test]
fn the_nodes_torrent_is_what_libtorrent_makes_of_the_content() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let torrent = served.torrent(&held);
    let (made, described) = libtorrent::create(&served.disk(NAME), Version::Hybrid, CHUNK);
    assert_eq!(torrent.info().escape_ascii().to_string(), made.info().escape_ascii().to_string());

    let read = libtorrent::show(&torrent);
    assert_eq!(read.info_hash_v1.as_ref(), Some(&held.info_hash_v1));
    assert_eq!(read.info_hash_v2.as_ref(), Some(&held.info_hash_v2));
    assert_eq!(read.files, described.files);
    assert_eq!(read.files[0].root.as_ref(), Some(&held.id));
    assert_eq!(read.web_seeds.len(), 1, "{:?}", read.web_seeds);
    assert!(!read.private);
}

#[test]
fn every_version_of_a_torrent_is_served() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let own = served.torrent(&held);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = served.made(NAME, version, &[&held]);
        let order = Order::torrent(&torrent).with_peers(served.node.peers());
        Client::Libtorrent.fetch(&order).has(NAME, &film());
    }
    // A hybrid is one torrent by two names.
    let second = Order::torrent(&own).with_peers(served.node.peers()).by_second_version();
    Client::Libtorrent.fetch(&second).has(NAME, &film());
}

#[test]
fn a_magnet_link_is_enough() {
    let served = Served::on(&addresses(Client::Transmission));
    let held = served.hold(NAME, &film());
    let peers = served.node.peers();
    let (_, first) = served.made(NAME, Version::V1, &[&held]);
    let (_, second) = served.made(NAME, Version::V2, &[]);
    let own = libtorrent::show(&served.torrent(&held));
    let mut begun = Vec::new();
    for described in [&first, &second, &own] {
        begun.push(Client::Libtorrent.start(&Order::magnet(&described.magnet()).with_peers(peers)));
    }
    for client in [Client::Aria2, Client::Transmission] {
        begun.push(client.start(&Order::magnet(&first.magnet()).with_peers(peers)));
    }
    for fetch in begun {
        fetch.end().has(NAME, &film());
    }
}

#[test]
fn a_package_is_served_out_of_its_files() {
    const FILES: [(&str, usize); 4] = [
        ("package/a", 5),
        ("package/picture.bin", 3_000_000),
        ("package/sound/left.bin", 700_001),
        ("package/z", 0),
    ];
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let bodies = FILES.map(|(path, length)| (path, content::bytes(length as u64, 0, length)));
    let held: Vec<Held> = bodies[..3].iter().map(|(path, body)| served.hold(path, body)).collect();
    std::fs::write(served.disk(bodies[3].0), b"").expect("an empty file");

    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = served.made("package", version, &held.iter().collect::<Vec<&Held>>());
        let outcome = Client::Libtorrent.fetch(&Order::torrent(&torrent).with_peers(served.node.peers()));
        for (path, body) in &bodies {
            outcome.has(path, body);
        }
    }
}

#[test]
fn a_torrent_of_other_content_than_what_is_held_is_refused() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let mut other = film();
    other[LENGTH / 2] ^= 1;
    std::fs::write(served.disk("other.bin"), other).expect("the content is written");
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = libtorrent::create(&served.disk("other.bin"), version, CHUNK);
        served.add(&torrent, &[&held]).problem(409);
        let order = Order::torrent(&torrent).with_peers(served.node.peers()).within(Duration::from_secs(2));
        let outcome = Client::Libtorrent.fetch(&order);
        assert!(!outcome.complete);
        assert_eq!(outcome.report().bytes_down, 0);
    }
}

#[test]
fn what_was_held_and_added_is_served_after_a_restart() {
    let mut served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let own = served.torrent(&held);
    let (first, _) = served.made(NAME, Version::V1, &[&held]);
    served.node.restart();
    for torrent in [own, first] {
        let order = Order::torrent(&torrent).with_peers(served.node.peers());
        Client::Libtorrent.fetch(&order).has(NAME, &film());
    }
}

/// Runs `skerry torrent` to a success and reads what it prints.
#[track_caller]
fn torrent_command(arguments: &[&str]) -> Value {
    let output = process::run(&[&["torrent"][..], arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the command prints JSON")
}

#[test]
fn the_torrent_command_and_libtorrent_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(disk("package/sound")).expect("a folder");
    for (path, length) in
        [("film.bin", LENGTH), ("package/a", 5), ("package/b.bin", 300_000), ("package/z", 0)]
    {
        std::fs::write(disk(path), content::bytes(7, 0, length)).expect("the content is written");
    }
    std::fs::write(disk("package/sound/left.bin"), content::bytes(8, 0, 20_000)).expect("more content");
    let text = |path: &Path| path.to_string_lossy().into_owned();

    for name in ["film.bin", "package"] {
        for (version, flag) in [(Version::V1, "--v1"), (Version::V2, "--v2"), (Version::Hybrid, "--hybrid")] {
            let (path, out) = (text(&disk(name)), text(&disk("made.torrent")));
            let tracker = "http://tracker.test/announce";
            let told = torrent_command(&[
                "create",
                &path,
                flag,
                "--piece-length",
                "32768",
                "--tracker",
                tracker,
                "--output",
                &out,
            ]);
            let ours = Torrent::read(std::fs::read(&out).expect("the torrent is there"));
            let (theirs, described) = libtorrent::create(&disk(name), version, 32768);
            assert_eq!(told["info_hash_v1"], json!(described.info_hash_v1), "{name}, {version:?}");
            assert_eq!(told["info_hash_v2"], json!(described.info_hash_v2), "{name}, {version:?}");
            let read = libtorrent::show(&ours);
            assert_eq!(read, Described { trackers: vec![tracker.to_owned()], ..described });

            std::fs::write(&out, theirs.bytes()).expect("the torrent is written");
            assert_eq!(torrent_command(&["verify", &out, &path])["sound"], true);
        }
    }
    let mut damaged = std::fs::read(disk("package/b.bin")).expect("the content is there");
    damaged[200_000] ^= 1;
    std::fs::write(disk("package/b.bin"), damaged).expect("the content is written");
    let output = process::run(&["torrent", "verify", &text(&disk("made.torrent")), &text(&disk("package"))]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stdout));
}

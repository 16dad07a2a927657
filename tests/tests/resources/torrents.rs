//! Torrents of what is held: those that are given to the node, and those that it makes.

use std::fs;

use serde_json::{Value, json};
use skerry_tests::node::Node;
use skerry_tests::{content, process, raw};

use crate::{CHUNK, FILM, film, hold, origin_of, path, text, told};

/// A torrent of a file with these bytes, and what the command that makes it tells.
#[track_caller]
fn made(node: &Node, name: &str, bytes: &[u8], options: &[&str]) -> (Vec<u8>, Value) {
    let folder = tempfile::tempdir_in(node.folder()).expect("a folder");
    let [file, torrent] = [name, "made.torrent"].map(|name| folder.path().join(name));
    fs::write(&file, bytes).expect("the content is written");
    let mut arguments = vec!["torrent", "create", "--json"];
    arguments.extend_from_slice(options);
    let (file, output) = (file.display().to_string(), torrent.display().to_string());
    arguments.extend_from_slice(&["--output", &output, &file]);
    let made = process::run(&arguments);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let told = serde_json::from_slice(&made.stdout).expect("the command tells JSON");
    (fs::read(&torrent).expect("the torrent is read"), told)
}

#[test]
fn torrents_of_what_is_held_are_taken_and_no_others() {
    const PIECE: usize = 64 << 10;
    let body = film(94);
    let origin = origin_of("/film.bin", &body);
    let node = Node::in_front_of(&origin).start();
    let held = hold(&node, &json!({"path": "/film.bin"}));
    let id = text(&held["id"]);
    let (_, own) = made(&node, "film.bin", &body, &["--piece-length", &CHUNK.to_string()]);
    assert_eq!(own["files"][0]["pieces_root"], held["id"]);
    for hash in ["info_hash_v1", "info_hash_v2"] {
        assert_eq!(own[hash], held[hash], "the node's own torrent has another {hash}");
    }

    let of =
        |bytes: &[u8], kind| made(&node, "film.bin", bytes, &[kind, "--piece-length", &PIECE.to_string()]);
    let post = |query: &str, torrent: &[u8]| {
        node.try_admin("POST", &format!("/torrents{query}"), torrent).expect("an answer")
    };
    let named = format!("?resource={id}");
    for (kind, query) in [("--v2", ""), ("--hybrid", ""), ("--v1", named.as_str())] {
        let (torrent, own) = of(&body, kind);
        let taken = told(&post(query, &torrent));
        for hash in ["info_hash_v1", "info_hash_v2"] {
            assert_eq!(taken[hash], own[hash], "{kind}");
        }
    }

    let refused = |query: &str, torrent: &[u8], status, words: &str| {
        let problem = post(query, torrent).problem(status);
        assert!(text(&problem["detail"]).contains(words), "{problem}");
    };
    let (v1, _) = of(&body, "--v1");
    refused("", &v1, 400, "?resource=ID");
    refused("?resource=xyz", &v1, 400, "64 hex digits");
    refused("?file=xyz", &v1, 400, "resource=ID");
    refused(&format!("?resource={}", "0".repeat(64)), &v1, 409, "not held");
    let mut other = body.clone();
    other[3 * PIECE + 100] ^= 1;
    refused(&named, &of(&other, "--v1").0, 409, "piece 3 ");
    refused(&named, &of(&body[..FILM - 1], "--v1").0, 409, "bytes");
    for kind in ["--v2", "--hybrid"] {
        refused("", &of(&other, kind).0, 409, "not held");
    }
    // One whose versions are of different content.
    let (mut torn, _) = of(&body, "--hybrid");
    let key = b"6:pieces";
    let at = torn.windows(key.len()).position(|window| window == key).expect("v1 pieces");
    let colon = torn[at + key.len()..].iter().position(|byte| *byte == b':').expect("a length");
    torn[at + key.len() + colon + 1] ^= 1;
    refused("", &torn, 409, "piece 0 ");
    for garbage in [&b"garbage"[..], b"", b"d4:infod4:name1:xee", &v1[..v1.len() / 2]] {
        refused("", garbage, 400, "cannot be read");
    }
}

#[test]
fn nodes_make_the_same_torrent_of_the_same_resource() {
    let body = film(95);
    let origin = origin_of("/film.bin", &body);
    let node = || {
        let tracker = "[\"http://tracker.test:6969/announce\"]";
        Node::in_front_of(&origin).set("superpeer", "trackers", tracker).start()
    };
    let nodes = [node(), node()];
    let asked = json!({"path": "/film.bin"});
    let held = nodes.each_ref().map(|node| hold(node, &asked));
    assert_eq!(held[0], held[1]);

    let shown = nodes.each_ref().map(|node| {
        let answer = node.get(&(path(&held[0]) + ".torrent"));
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-bittorrent")));
        let file = node.folder().join("film.torrent");
        fs::write(&file, &answer.body).expect("the torrent is written");
        let output = process::run(&["torrent", "show", "--json", &file.display().to_string()]);
        let shown: Value = serde_json::from_slice(&output.stdout).expect("the command tells JSON");
        let seed = text(&shown["web_seeds"][0]);
        let seed = node.get(seed.trim_start_matches(&format!("http://{}", raw::HOST)));
        content::assert_same("its web seed", &seed.body, &body);
        shown
    });
    assert_eq!(shown[0], shown[1]);
    assert_eq!(shown[0]["trackers"], json!([["http://tracker.test:6969/announce"]]));
    assert_eq!(shown[0]["length"], FILM);
    for hash in ["info_hash_v1", "info_hash_v2"] {
        assert_eq!(shown[0][hash], held[0][hash]);
    }

    // The name is a part of a torrent, and not of a resource; a path is no name.
    let renamed = hold(&nodes[0], &json!({"path": "/film.bin", "name": "../other"}));
    assert_eq!((&renamed["id"], &renamed["name"]), (&held[0]["id"], &json!(".._other")));
    assert_ne!(renamed["info_hash_v2"], held[0]["info_hash_v2"]);
}

//! A flipped bit on disk: found when it is read, counted, dropped and fetched again. What a client
//! gets is right, or a clean abort.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::process;
use skerry_tests::reply::Reply;
use skerry_tests::wait;

const LENGTH: usize = 300_000;

/// Some bytes of the middle of the content, far from the edges of any power of two.
const MIDDLE: std::ops::Range<usize> = 150_000..150_032;

/// A node that has stored `/a` and ended in order, so that the content is in files.
fn stopped_node_with_an_object(origin: &Origin) -> (Node, Vec<u8>) {
    let body = content::bytes(51, 0, LENGTH);
    origin.reply("/a", Reply::ok(body.clone()).etag("one").ranges().fresh());
    let mut node = Node::in_front_of(origin).start();
    node.get("/a");
    node.hit("/a");
    // Whoever asks gets it before it is on the disk.
    wait::until("the content is written", Duration::from_secs(10), || {
        node.metric("skerry_store_written_bytes_total", &[]) >= LENGTH as f64
    });
    assert!(node.stop().success());
    (node, body)
}

/// Flips one bit of every copy of `needle` in the store's data files. Panics when there is none.
fn flip_a_bit(data_dir: &Path, needle: &[u8]) {
    let mut flipped = 0;
    for file in data_files(data_dir) {
        let bytes = fs::read(&file).expect("a data file is read");
        let copies = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
        for (at, _) in copies {
            let mut file = OpenOptions::new().write(true).open(&file).expect("a data file opens");
            file.seek(SeekFrom::Start(at as u64)).expect("a position in the file");
            file.write_all(&[bytes[at] ^ 0x10]).expect("a byte is written");
            flipped += 1;
        }
    }
    assert!(flipped > 0, "the content is in no .blob or .sst file below {}", data_dir.display());
}

fn data_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the data directory") {
        let path = entry.expect("an entry of the data directory").path();
        if path.is_dir() {
            files.extend(data_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "blob" || ending == "sst") {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_flipped_bit_is_never_served() {
    let origin = Origin::start();
    let (mut node, body) = stopped_node_with_an_object(&origin);
    flip_a_bit(node.data_dir(), &body[MIDDLE]);
    node.start();

    let answer = node.get("/a");
    assert_eq!(answer.status, 200);
    if answer.complete {
        content::assert_same("the first answer", &answer.body, &body);
    } else {
        content::assert_prefix("the first answer", &answer.body, &body);
    }
    wait::until("the failure to be counted", Duration::from_secs(10), || {
        node.metric("skerry_store_verify_failures_total", &[]) >= 1.0
    });
    wait::until("a whole answer", Duration::from_secs(10), || {
        let answer = node.get("/a");
        if answer.status == 200 {
            content::assert_prefix("a later answer", &answer.body, &body);
        }
        answer.status == 200 && answer.complete
    });
    content::assert_same("the hit", &node.hit("/a").body, &body);
    assert!(origin.count("/a") >= 2, "what was dropped is fetched again");
}

#[test]
fn a_range_beside_the_flipped_bit_is_right_too() {
    let origin = Origin::start();
    let (mut node, body) = stopped_node_with_an_object(&origin);
    flip_a_bit(node.data_dir(), &body[MIDDLE]);
    node.start();
    for (first, last) in [(0, 99), (149_990, 150_050), (299_000, 299_999)] {
        let range = format!("bytes={first}-{last}");
        wait::until(&range, Duration::from_secs(10), || {
            let part = node.get_with("/a", &[("Range", range.as_str())]);
            if part.status >= 500 {
                return false;
            }
            let expected = if part.status == 206 { &body[first..=last] } else { &body[..] };
            content::assert_prefix(&range, &part.body, expected);
            part.complete
        });
    }
}

#[test]
fn verify_finds_the_flipped_bit_while_the_node_runs() {
    let origin = Origin::start();
    let (mut node, body) = stopped_node_with_an_object(&origin);
    flip_a_bit(node.data_dir(), &body[MIDDLE]);
    node.start();

    let first = node.command(&["store", "verify"]);
    assert_eq!(first.status.code(), Some(3), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(node.metric("skerry_store_verify_failures_total", &[]) >= 1.0);
    let second = node.command(&["store", "verify"]);
    assert_eq!(second.status.code(), Some(0), "{}", String::from_utf8_lossy(&second.stderr));

    let answer = node.get("/a");
    content::assert_same("after the repair", &answer.body, &body);
    assert_eq!(origin.count("/a"), 2, "what was dropped is fetched again");
}

#[test]
fn verify_finds_the_flipped_bit_while_the_node_is_down() {
    let origin = Origin::start();
    let (mut node, body) = stopped_node_with_an_object(&origin);
    flip_a_bit(node.data_dir(), &body[MIDDLE]);

    let data_dir = node.data_dir().to_string_lossy().into_owned();
    let verify = ["store", "verify", "--data-dir", data_dir.as_str()];
    assert_eq!(process::run(&verify).status.code(), Some(3));
    assert_eq!(process::run(&verify).status.code(), Some(0));

    node.start();
    content::assert_same("after the repair", &node.get("/a").body, &body);
    assert_eq!(origin.count("/a"), 2, "what was dropped is fetched again");
}

#[test]
fn verify_of_a_sound_store_finds_nothing_and_says_how_much_it_read() {
    let origin = Origin::start();
    let (mut node, _) = stopped_node_with_an_object(&origin);
    node.start();
    let output = node.command(&["store", "verify", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().expect("a last line");
    let summary: serde_json::Value = serde_json::from_str(last).expect("the last line is JSON");
    assert!(summary.is_object(), "{summary}");
    assert_eq!(origin.count("/a"), 1);
}

//! An `s3://` origin in front of a server that is in use as one: OpenStack Swift with its S3 API,
//! which checks every signature and takes nothing from the library that the node uses.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::{content, process, raw, wait};
use tempfile::TempDir;

/// After so long an object with `max-age=1` is stale, whichever way its age was rounded.
const STALE: Duration = Duration::from_millis(2100);

/// Of the user `skerry:node`.
const SECRET: &str = "the-secret-key";

/// Runs Swift's four servers in one process and the current folder, each on a port of its own, and
/// prints the port of the S3 API and that of Swift's own API, which here asks nobody who he is.
const SERVERS: &str = r#"
import os
import sys

import eventlet
import eventlet.hubs
import eventlet.wsgi

eventlet.monkey_patch()

from swift.common import utils, wsgi
from swift.common.ring import RingBuilder

utils.HASH_PATH_SUFFIX = b"skerry"
here = os.getcwd()


def listen():
    listener = eventlet.listen(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


def serve(listener, config):
    app = wsgi.loadapp(wsgi.ConfigString(config))
    eventlet.spawn(eventlet.wsgi.server, listener, app, utils.NullLogger(),
                   protocol=wsgi.SwiftHttpProtocol, capitalize_response_headers=False)


os.mkdir("disk")
for kind in ("account", "container", "object"):
    listener, port = listen()
    rings = RingBuilder(part_power=0, replicas=1, min_part_hours=0)
    rings.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1,
                   "ip": "127.0.0.1", "port": port, "device": "disk"})
    rings.rebalance()
    rings.get_ring().save(f"{kind}.ring.gz")
    serve(listener, f"""
[DEFAULT]
swift_dir = {here}
devices = {here}
mount_check = false
fallocate_reserve = 0
log_level = ERROR
[app:main]
use = egg:swift#{kind}
""")

ports = []
for doors in ("s3api tempauth", ""):
    listener, port = listen()
    ports.append(port)
    serve(listener, f"""
[DEFAULT]
swift_dir = {here}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors {doors} proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_skerry_node = {sys.argv[1]} .admin
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
""")

print(*ports, flush=True)
eventlet.hubs.trampoline(sys.stdin.fileno(), read=True)
"#;

/// Swift with an empty bucket named `bucket`. It ends when this is dropped.
struct Swift {
    child: Child,
    s3: SocketAddr,
    open: SocketAddr,
    _folder: TempDir,
}

impl Swift {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for Swift");
        let mut child = Command::new(python())
            .args(["-W", "ignore", "-c", SERVERS, SECRET])
            .current_dir(folder.path())
            // Its end is the server's, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("python runs Swift");
        let mut ports = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped"))
            .read_line(&mut ports)
            .expect("Swift writes text");
        let mut addresses = ports
            .split_ascii_whitespace()
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port is a number"))));
        let (Some(s3), Some(open)) = (addresses.next(), addresses.next()) else {
            panic!("Swift did not start");
        };
        let swift = Self { child, s3, open, _folder: folder };
        swift.put("bucket", b"");
        swift
    }

    /// Stores an object and returns its entity tag, or makes a bucket of a path of one segment.
    #[track_caller]
    fn put(&self, path: &str, bytes: &[u8]) -> String {
        let target = format!("/v1/AUTH_skerry/{path}");
        let answer = raw::fetch(self.open, "PUT", &target, &[], bytes).expect("Swift answers");
        assert_eq!(answer.status, 201, "PUT {target}: {}", answer.text());
        format!("\"{}\"", answer.header("etag").unwrap_or_default().trim_matches('"'))
    }

    /// A node whose origin is the folder `site` of the bucket.
    fn node(&self) -> NodeBuilder {
        self.node_with_secret(SECRET)
    }

    fn node_with_secret(&self, secret: &str) -> NodeBuilder {
        Node::with_origin("s3://bucket/site")
            .env("AWS_ENDPOINT_URL", &format!("http://{}", self.s3))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "skerry:node")
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("NO_PROXY", "127.0.0.1")
    }

    fn stop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Swift {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The Python that Swift is installed for.
fn python() -> PathBuf {
    let folder = std::env::var_os("SKERRY_SWIFT").map_or_else(
        || {
            // The binary is in TARGET/release, and Swift beside TARGET.
            let binary = process::binary();
            binary.ancestors().nth(3).expect("a folder above the target folder").join("swift")
        },
        PathBuf::from,
    );
    let python = folder.join("bin/python");
    assert!(
        python.is_file(),
        "Swift is not in {}: install `swift` from PyPI in a virtual environment there, \
         or name its folder in SKERRY_SWIFT",
        folder.display()
    );
    python
}

#[test]
fn objects_are_served_and_kept() {
    let swift = Swift::start();
    let body = content::bytes(91, 0, 300_000);
    let tag = swift.put("bucket/site/film.mp4", &body);
    swift.put("bucket/site/sub/a%20b%2Bc%C3%BC.txt", b"an odd name");
    swift.put("bucket/site/empty", b"");
    swift.put("bucket/secret.txt", b"beside the site");
    let node = swift.node().start();

    let miss = node.get("/film.mp4");
    assert_eq!(miss.status, 200, "{}", miss.text());
    content::assert_same("the miss", &miss.body, &body);
    assert_eq!(miss.cache_status_value("fwd").as_deref(), Some("uri-miss"));
    let hit = node.hit("/film.mp4");
    content::assert_same("the hit", &hit.body, &body);
    for answer in [&miss, &hit] {
        assert_eq!(answer.header("etag"), Some(tag.as_str()));
        assert_eq!(answer.header("content-type"), Some("video/mp4"));
        assert_eq!(answer.number("content-length"), Some(300_000));
        assert!(answer.header("last-modified").is_some());
    }
    let unchanged = node.get_with("/film.mp4", &[("If-None-Match", tag.as_str())]);
    assert_eq!(unchanged.status, 304);

    assert_eq!(node.get("/sub/a%20b%2Bc%C3%BC.txt").text(), "an odd name");
    let empty = node.get("/empty");
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    let head = node.fetch("HEAD", "/film.mp4", &[], b"").expect("an answer");
    assert_eq!((head.status, head.number("content-length")), (200, Some(300_000)));

    node.get("/missing.mp4").problem(404);
    node.get("/sub").problem(404);
    for target in ["/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "/sub/..%2f..%2fsecret.txt"] {
        assert!(matches!(node.get(target).status, 400 | 404), "{target}");
    }
}

#[test]
fn a_part_of_a_large_object_is_fetched_alone_and_completed() {
    let swift = Swift::start();
    let body = content::bytes(92, 0, 3_500_000);
    let tag = swift.put("bucket/site/film.bin", &body);
    let node = swift.node().start();

    let fields = [("Range", "bytes=1500000-2599999")];
    let part = node.get_with("/film.bin", &fields);
    assert_eq!(part.status, 206, "{}", part.text());
    assert_eq!(part.header("content-range"), Some("bytes 1500000-2599999/3500000"));
    assert_eq!(part.header("etag"), Some(tag.as_str()));
    content::assert_same("a part", &part.body, &body[1_500_000..2_600_000]);
    content::assert_same("the part, kept", &node.hit_with("/film.bin", &fields).body, &part.body);

    let tail = node.get_with("/film.bin", &[("Range", "bytes=-1000")]);
    assert_eq!(tail.status, 206);
    content::assert_same("the tail", &tail.body, &body[3_499_000..]);
    assert_eq!(node.get_with("/film.bin", &[("Range", "bytes=9000000-")]).status, 416);

    // What is missing comes from the bucket, in slices of exactly this version.
    content::assert_same("the whole", &node.get("/film.bin").body, &body);
    content::assert_same("the whole, kept", &node.hit("/film.bin").body, &body);
}

#[test]
fn a_stale_object_is_validated_and_a_changed_one_replaced() {
    let swift = Swift::start();
    let tag = swift.put("bucket/site/page.html", b"<h1>page</h1>");
    let node = swift.node().set("cache", "file_fresh_seconds", 1).start();
    assert_eq!(node.get("/page.html").text(), "<h1>page</h1>");
    node.hit("/page.html");

    wait::clock(Instant::now(), STALE);
    let validated = node.get("/page.html");
    assert_eq!((validated.status, validated.text().as_str()), (200, "<h1>page</h1>"));
    assert_eq!(validated.cache_status_value("fwd").as_deref(), Some("stale"));
    assert_eq!(validated.cache_status_value("fwd-status").as_deref(), Some("304"));

    let changed = swift.put("bucket/site/page.html", b"<h1>another page</h1>");
    assert_ne!(changed, tag);
    wait::clock(Instant::now(), STALE);
    let replaced = node.get("/page.html");
    assert_eq!(replaced.text(), "<h1>another page</h1>");
    assert_eq!(replaced.header("etag"), Some(changed.as_str()));
    assert_eq!(replaced.cache_status_value("fwd-status").as_deref(), Some("200"));
}

#[test]
fn a_bucket_that_is_gone_is_an_error_in_time_and_no_loss_of_what_is_kept() {
    let mut swift = Swift::start();
    let body = content::bytes(93, 0, 2_500_000);
    swift.put("bucket/site/kept.bin", &body);
    swift.put("bucket/site/cold.bin", &body);
    let node = swift
        .node()
        .set("cache", "connect_timeout_seconds", 2)
        .set("cache", "response_timeout_seconds", 2)
        .start();
    wait::until("the server to answer in time", Duration::from_secs(30), || {
        node.get("/kept.bin").status == 200
    });
    content::assert_same("what is kept", &node.hit("/kept.bin").body, &body);

    swift.stop();
    let started = Instant::now();
    let cold = node.get("/cold.bin");
    assert!(matches!(cold.status, 502 | 504), "{}", cold.text());
    cold.problem(cold.status);
    assert!(started.elapsed() < Duration::from_secs(10), "it took {:?}", started.elapsed());
    content::assert_same("the hit", &node.hit("/kept.bin").body, &body);
}

#[test]
fn wrong_credentials_are_a_502_that_says_so() {
    let swift = Swift::start();
    swift.put("bucket/site/page.html", b"<h1>page</h1>");
    let node = swift.node_with_secret("another key").start();
    let started = Instant::now();
    let problem = node.get("/page.html").problem(502);
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("403"), "{problem}");
    assert!(started.elapsed() < Duration::from_secs(20), "asked again in vain for {:?}", started.elapsed());
    node.must_log(&["the origin fails", "403"]);
}

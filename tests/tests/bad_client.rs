//! Clients that are slow, greedy, ambiguous or out to smuggle.

use std::time::{Duration, Instant};

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::{self, Connection, State};
use skerry_tests::reply::Reply;
use skerry_tests::wait;

/// An origin that answers everything with the target that was asked for.
fn echo() -> Origin {
    let origin = Origin::start();
    origin.serve_rest(|request| Reply::ok(request.target.clone()).cache_control("no-store"));
    origin
}

/// Sends exact bytes and returns the status of the answer; `None` when the node just closed.
fn status_of(node: &Node, bytes: &[u8]) -> Option<u16> {
    raw::exchange(node.public(), bytes).ok().map(|response| response.status)
}

#[test]
fn headers_one_byte_at_a_time_are_cut_at_the_timeout() {
    let origin = echo();
    let node = Node::in_front_of(&origin).set("public", "header_timeout_seconds", 3).start();
    let started = Instant::now();
    let mut slow = Connection::open(node.public());
    slow.send(b"GET /slow HTTP/1.1\r\nHost: edge.test\r\nX-Slow: ").expect("a beginning");
    loop {
        assert!(started.elapsed() < Duration::from_secs(20), "the slow client is still there");
        if slow.send(b"a").is_err() {
            break;
        }
        match slow.look(Duration::from_millis(50)) {
            State::Quiet => {}
            State::Closed => break,
            State::Data => {
                assert_eq!(slow.response("GET").expect("an answer").status, 408);
                break;
            }
        }
    }
    assert!(started.elapsed() > Duration::from_secs(2), "it was cut after {:?}", started.elapsed());
    assert_eq!(origin.count("/slow"), 0);
    assert_eq!(node.get("/other").status, 200);
}

#[test]
fn an_idle_connection_is_closed_at_the_timeout() {
    let origin = echo();
    let node = Node::in_front_of(&origin).set("public", "idle_timeout_seconds", 1).start();
    let mut idle = Connection::open(node.public());
    idle.request("GET", "/a", &[], b"").expect("a request is sent");
    assert_eq!(idle.response("GET").expect("an answer").status, 200);
    assert!(idle.closes_within(Duration::from_secs(10)));
}

#[test]
fn a_client_that_never_reads_is_cut_at_the_timeout() {
    const LENGTH: u64 = 64 << 20;
    let origin = Origin::start();
    origin.reply("/film", Reply::generated(71, LENGTH).etag("one").fresh());
    let node = Node::in_front_of(&origin).set("public", "write_timeout_seconds", 1).start();
    let mut stuck = Connection::open(node.public());
    wait::until("the connection to be taken", Duration::from_secs(10), || stuck.is_held_by(node.public()));
    let before = Instant::now();
    stuck.request("GET", "/film", &[], b"").expect("a request is sent");
    wait::until("the connection to be given up", Duration::from_secs(30), || {
        !stuck.is_held_by(node.public())
    });
    assert!(before.elapsed() > Duration::from_millis(500));

    let answer = stuck.response("GET");
    if let Ok(answer) = answer {
        assert!(!answer.complete);
        content::assert_prefix(
            "what was on the way",
            &answer.body,
            &content::bytes(71, 0, answer.body.len()),
        );
    }
    // Others are served on.
    let part = node.get_with("/film", &[("Range", "bytes=0-99")]);
    content::assert_prefix("a part", &part.body[..100], &content::bytes(71, 0, 100));
}

#[test]
fn a_slow_upload_is_no_silence_of_the_origin() {
    let origin = echo();
    let node = Node::in_front_of(&origin).set("cache", "response_timeout_seconds", 3).start();
    let mut slow = Connection::open(node.public());
    slow.send(b"POST /a HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 100\r\n\r\n")
        .expect("a header is sent");
    // Longer in all than the origin may be silent.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(400));
        slow.send(b"ten bytes.").expect("a piece is sent");
    }
    assert_eq!(slow.response("POST").expect("an answer").status, 200);
}

#[test]
fn ten_thousand_ranges_are_answered_small() {
    const LENGTH: usize = 200_000;
    let body = content::bytes(72, 0, LENGTH);
    let origin = Origin::start();
    origin.reply("/a", Reply::ok(body.clone()).etag("one").ranges().fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");
    node.hit("/a");

    let everything = "0-,".repeat(9_999) + "0-";
    let bytes = "0-0,".repeat(9_999) + "0-0";
    let spread: Vec<String> = (0..10_000).map(|at| format!("{}-{}", at * 20, at * 20)).collect();
    let before = node.memory_bytes();
    for ranges in [everything, bytes, spread.join(",")] {
        let range = format!("bytes={ranges}");
        // What is larger than a header section may be is answered, or closed upon while it is sent.
        let Ok(answer) = node.fetch("GET", "/a", &[("Range", range.as_str())], b"") else {
            assert!(range.len() > 64 * 1024);
            continue;
        };
        match answer.status {
            200 => content::assert_same("the whole", &answer.body, &body),
            206 => assert!(answer.body.len() <= 2 * LENGTH, "{} bytes", answer.body.len()),
            400 | 416 | 431 => assert!(answer.body.len() < 10_000),
            status => panic!("answered {status}"),
        }
    }
    let grown = node.memory_bytes().saturating_sub(before);
    assert!(grown < 50 << 20, "the node keeps {grown} bytes more");
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn length_and_transfer_coding_together_smuggle_nothing() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n";
    let chunked = "0\r\n\r\n";
    let heads = [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Content-Length: 49\r\ntransfer-encoding: CHUNKED\r\n",
    ];
    for head in heads {
        let mut connection = Connection::open(node.public());
        let request = format!("POST /outer HTTP/1.1\r\nHost: edge.test\r\n{head}\r\n{chunked}{smuggled}");
        connection.send(request.as_bytes()).expect("a request is sent");
        let answer = connection.response("POST").expect("an answer");
        // RFC 9112 §6.1: refused, or read by the transfer coding alone; closed either way.
        assert!(matches!(answer.status, 200 | 400), "{head:?} was answered {}", answer.status);
        assert!(connection.closes_within(Duration::from_secs(20)), "after {head:?}");
    }
    for seen in origin.requests() {
        let length = seen.header("content-length").unwrap_or("0");
        assert_eq!(length, "0", "a length that was overruled went on to the origin");
    }
    assert_eq!(origin.count("/smuggled"), 0);
}

#[test]
fn ambiguous_framing_is_refused() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let heads = [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length :5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: gzip\r\n",
    ];
    for head in heads {
        let request = format!("POST /body HTTP/1.1\r\nHost: edge.test\r\n{head}\r\nhello");
        let mut connection = Connection::open(node.public());
        connection.send(request.as_bytes()).expect("a request is sent");
        let answer = connection.response("POST").expect("an answer");
        assert!(matches!(answer.status, 400 | 413 | 501), "{head:?} was answered {}", answer.status);
        assert!(connection.closes_within(Duration::from_secs(20)), "after {head:?}");
    }
    assert_eq!(origin.count("/body"), 0);
}

#[test]
fn broken_chunks_are_refused() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    for chunks in ["fffffffffffffffff\r\nx", "-1\r\nx", "zz\r\nx\r\n", "3\r\nabcdef\r\n0\r\n\r\n"] {
        let request =
            format!("POST /body HTTP/1.1\r\nHost: edge.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let status = status_of(&node, request.as_bytes());
        assert!(matches!(status, None | Some(400..=502)), "{chunks:?} was answered {status:?}");
    }
    assert_eq!(node.get("/after").text(), "/after");
}

#[test]
fn lines_are_not_folded_and_not_split_elsewhere() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let refused = [
        // obs-fold (RFC 9112 §5.2), also of the first field.
        "GET /fold HTTP/1.1\r\nHost: edge.test\r\nX-A: one\r\n two\r\n\r\n",
        "GET /fold HTTP/1.1\r\n Host: edge.test\r\n\r\n",
        // A bare CR in a field and in the request line (RFC 9112 §2.2).
        "GET /fold HTTP/1.1\r\nHost: edge.test\r\nX-A: one\rX-B: two\r\n\r\n",
        "GET /fold\r HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        // What is no field name.
        "GET /fold HTTP/1.1\r\nHost: edge.test\r\nX A: one\r\n\r\n",
        "GET /fold HTTP/1.1\r\nHost: edge.test\r\n: one\r\n\r\n",
        "GET /fold HTTP/1.1\r\nHost: edge.test\r\nX-A\r\n\r\n",
        "GET /fold HTTP/1.1\r\nHost: edge.test\r\nX-A: o\0ne\r\n\r\n",
        // What is no request line.
        "GET /fold HTTP/1.1 HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        "GET /fold\0 HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        "G\u{e9}T /fold HTTP/1.1\r\nHost: edge.test\r\n\r\n",
        "GET /fold HTTP/9.9\r\nHost: edge.test\r\n\r\n",
    ];
    for request in refused {
        let status = status_of(&node, request.as_bytes());
        assert!(matches!(status, None | Some(400 | 505)), "{request:?} was answered {status:?}");
    }
    assert_eq!(origin.count("/fold"), 0);
}

#[test]
fn a_bare_line_feed_ends_a_line_or_the_connection() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    // RFC 9112 §2.2 allows both; what counts is that one request is one request.
    for request in
        ["GET /plain HTTP/1.1\nHost: edge.test\n\n", "GET /plain HTTP/1.1\r\nHost: edge.test\nX-A: b\r\n\r\n"]
    {
        let mut connection = Connection::open(node.public());
        connection.send(request.as_bytes()).expect("a request is sent");
        match connection.response("GET") {
            Ok(answer) if answer.status == 200 => assert_eq!(answer.text(), "/plain"),
            Ok(answer) => assert_eq!(answer.status, 400),
            Err(_) => {}
        }
        assert_ne!(connection.look(Duration::from_millis(100)), State::Data, "a second answer");
    }
}

#[test]
fn host_is_one_and_sound() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let refused = [
        "GET /host HTTP/1.1\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: edge.test\r\nHost: edge.test\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: edge.test\r\nHost: other.test\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: edge test\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: edge/test\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: user@edge.test\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: edge.test:port\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: edge.test, other.test\r\n\r\n",
    ];
    for request in refused {
        assert_eq!(status_of(&node, request.as_bytes()), Some(400), "to {request:?}");
    }
    assert_eq!(origin.count("/host"), 0);
    let served = [
        "GET /host HTTP/1.1\r\nHost: edge.test:8080\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: EDGE.test\r\n\r\n",
        "GET /host HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET /host HTTP/1.0\r\n\r\n",
    ];
    for request in served {
        assert_eq!(status_of(&node, request.as_bytes()), Some(200), "to {request:?}");
    }
}

#[test]
fn the_authority_of_the_absolute_form_goes_before_host() {
    let (default, other) = (Origin::start(), Origin::start());
    default.reply("/who", Reply::ok("default").fresh());
    other.reply("/who", Reply::ok("other").fresh());
    let node = Node::in_front_of(&default).text("sites.\"other.test\"", "origin", &other.url()).start();

    let cases = [
        ("/who", "edge.test", "default"),
        ("/who", "other.test", "other"),
        ("/who", "OTHER.test:8080", "other"),
        ("http://other.test/who", "edge.test", "other"),
        ("http://edge.test/who", "other.test", "default"),
    ];
    for (target, host, expected) in cases {
        let answer = node.get_with(target, &[("Host", host)]);
        assert_eq!(answer.text(), expected, "to {target} with Host: {host}");
    }
    let hit = node.hit_with("/who", &[("Host", "other.test")]);
    assert_eq!(hit.text(), "other", "and the key is that of the authority");
}

#[test]
fn methods_that_a_cache_does_not_know_do_no_harm() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let connect = status_of(&node, b"CONNECT edge.test:443 HTTP/1.1\r\nHost: edge.test:443\r\n\r\n");
    assert!(matches!(connect, Some(400..=599)), "CONNECT was answered {connect:?}");
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "h2c")];
    assert_eq!(node.get_with("/up", &upgrade).status, 200);
    assert_eq!(node.get("/after").status, 200);
}

#[test]
fn header_sections_and_targets_have_a_limit() {
    let origin = echo();
    let node = Node::in_front_of(&origin).set("public", "max_header_bytes", 16_384).start();
    let wide = "w".repeat(60_000);
    let answer = raw::exchange(
        node.public(),
        format!("GET /wide HTTP/1.1\r\nHost: edge.test\r\nX-Wide: {wide}\r\n\r\n").as_bytes(),
    );
    // The node may close before it has read all of it, and the kernel then drops its answer.
    assert!(answer.is_err() || answer.is_ok_and(|answer| matches!(answer.status, 400 | 431)));
    let answer = raw::exchange(
        node.public(),
        format!("GET /wide/{wide} HTTP/1.1\r\nHost: edge.test\r\n\r\n").as_bytes(),
    );
    assert!(answer.is_err() || answer.is_ok_and(|answer| matches!(answer.status, 400 | 414 | 431)));
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(node.get("/small").status, 200);
}

#[test]
fn the_content_of_a_get_is_not_announced_to_the_origin() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let mut connection = Connection::open(node.public());
    let request =
        "GET /outer HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello";
    connection.send(request.as_bytes()).expect("a request is sent");
    connection.response("GET").expect("an answer");
    let seen = origin.requests_for("/outer");
    assert_eq!(seen.len(), 1);
    // A length without its bytes would make the origin read them from somebody's next request.
    assert_eq!(seen[0].header("content-length").unwrap_or("0"), "0");
    assert!(seen[0].header("expect").is_none());
}

#[test]
fn fields_that_no_key_holds_do_not_reach_the_origin() {
    let origin = echo();
    let node = Node::in_front_of(&origin).start();
    let fields =
        [("X-Forwarded-Host", "evil.test"), ("X-Original-URL", "/admin"), ("Forwarded", "host=evil.test")];
    node.get_with("/page", &fields);
    for (name, _) in fields {
        assert!(origin.requests_for("/page")[0].header(&name.to_lowercase()).is_none(), "{name} got through");
    }
}

//! Origins that stall, break off, lie, shout or lead round in circles.

use std::time::{Duration, Instant};

use skerry_tests::content;
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::raw::Response;
use skerry_tests::reply::{Gate, Reply};
use skerry_tests::wait;

/// A node that loses patience with its origin after some seconds.
fn impatient(origin: &Origin) -> NodeBuilder {
    Node::in_front_of(origin)
        .set("cache", "connect_timeout_seconds", 2)
        .set("cache", "response_timeout_seconds", 2)
        .set("cache", "read_timeout_seconds", 2)
}

/// Panics unless the answer was cut without a wrong byte.
fn assert_cut(answer: &Response, body: &[u8]) {
    assert_eq!(answer.status, 200);
    assert!(!answer.complete, "an answer that is not whole looks whole");
    content::assert_prefix("an answer that was cut", &answer.body, body);
}

#[test]
fn an_origin_that_stalls_before_its_head_is_a_504() {
    let origin = Origin::start();
    origin.reply("/stall", Reply::ok("never").hold_head(&Gate::closed()));
    let node = impatient(&origin).start();
    let started = Instant::now();
    node.get("/stall").problem(504);
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
}

#[test]
fn an_origin_that_stalls_in_its_content_is_a_clean_abort() {
    let body = content::bytes(61, 0, 2_000_000);
    let origin = Origin::start();
    let (good, stalling) = (Reply::ok(body.clone()).etag("one").fresh(), Gate::closed());
    for (path, chunked) in [("/length", false), ("/chunked", true)] {
        let good = if chunked { good.clone().chunked() } else { good.clone() };
        let stalling = stalling.clone();
        origin.serve(path, move |request| {
            if request.number == 0 { good.clone().hold_after(500_000, &stalling) } else { good.clone() }
        });
    }
    let node = impatient(&origin).start();
    for path in ["/length", "/chunked"] {
        let started = Instant::now();
        let answer = node.get(path);
        assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
        // A node may also have taken up the rest with a range of the same entity.
        if answer.complete {
            content::assert_same("a continued answer", &answer.body, &body);
        } else {
            assert_cut(&answer, &body);
        }
        let again = node.get(path);
        assert!(again.complete);
        content::assert_same("the next answer", &again.body, &body);
    }
}

#[test]
fn an_origin_that_breaks_off_is_a_clean_abort() {
    let body = content::bytes(62, 0, 2_000_000);
    let origin = Origin::start();
    let cut = Reply::ok(body.clone()).fresh().cut_after(700_000);
    origin.reply("/length", cut.clone());
    origin.reply("/chunked", cut.chunked());
    let node = Node::in_front_of(&origin).start();
    for path in ["/length", "/chunked"] {
        for _ in 0..2 {
            let answer = node.get(path);
            assert!(!answer.is_hit(), "half an object was stored");
            assert_cut(&answer, &body);
        }
    }
}

#[test]
fn every_waiting_client_sees_the_same_break() {
    let body = content::bytes(63, 0, 2_000_000);
    let gate = Gate::closed();
    let origin = Origin::start();
    let reply = Reply::ok(body.clone()).fresh().hold_after(300_000, &gate);
    origin.reply("/cut", reply.cut_after(700_000));
    let node = Node::in_front_of(&origin).start();
    let address = node.public();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                skerry_tests::raw::fetch(address, "GET", "/cut", &[], b"").expect("an answer")
            })
        })
        .collect();
    wait::until("the origin to be asked", Duration::from_secs(10), || origin.count("/cut") > 0);
    gate.open();
    for client in clients {
        assert_cut(&client.join().expect("a client ends"), &body);
    }
}

#[test]
fn content_beyond_the_claimed_length_is_nobodys() {
    let origin = Origin::start();
    let mut content = vec![b'a'; 1000];
    content.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned");
    origin.reply("/long", Reply::ok(content).claims(1000).fresh());
    origin.reply("/next", Reply::ok("innocent").cache_control("no-store"));
    let node = Node::in_front_of(&origin).start();

    let answer = node.get("/long");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, vec![b'a'; 1000]);
    for _ in 0..10 {
        assert_eq!(node.get("/next").text(), "innocent");
    }
}

#[test]
fn content_short_of_the_claimed_length_is_a_clean_abort() {
    let origin = Origin::start();
    origin.reply("/short", Reply::ok("short").claims(1000).fresh().then_close());
    let node = Node::in_front_of(&origin).start();
    for _ in 0..2 {
        let answer = node.get("/short");
        assert!(!answer.is_hit());
        assert_cut(&answer, b"short");
    }
}

#[test]
fn what_is_not_http_is_a_502() {
    let cases: [(&str, &[u8]); 7] = [
        ("/garbage", b"\x00\x01\x02 this is not HTTP\r\n\r\n"),
        ("/nothing", b""),
        ("/half", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("/status", b"HTTP/1.1 twohundred OK\r\nContent-Length: 0\r\n\r\n"),
        ("/length", b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n0123456789"),
        ("/lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 10\r\n\r\n0123456789"),
        ("/fold", b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX B: 2\r\nContent-Length: 2\r\n\r\nok"),
    ];
    let origin = Origin::start();
    for (path, bytes) in cases {
        origin.reply(path, Reply::raw(bytes));
    }
    origin.reply("/fine", Reply::ok("fine"));
    let node = Node::in_front_of(&origin).start();
    for (path, _) in cases {
        let answer = node.get(path);
        assert_eq!(answer.status, 502, "to {path}");
        answer.problem(502);
    }
    assert_eq!(node.get("/fine").text(), "fine");
}

#[test]
fn interim_answers_reach_the_client_that_waits_and_are_not_kept() {
    let origin = Origin::start();
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: max-age=60\r\n\r\nfinal";
    origin.reply("/hints", Reply::raw([hints.as_slice(), answer.as_slice()].concat()));
    let node = Node::in_front_of(&origin).start();
    let answer = node.get("/hints");
    assert_eq!((answer.status, answer.text().as_str()), (200, "final"));
    let [(103, fields)] = answer.interim.as_slice() else { panic!("{:?}", answer.interim) };
    let link = [("link".to_owned(), "</style.css>; rel=preload".to_owned())];
    assert_eq!(
        fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect::<Vec<_>>(),
        link
    );
    let hit = node.hit("/hints");
    assert_eq!((hit.interim.len(), hit.text().as_str()), (0, "final"));
}

#[test]
fn a_million_header_fields_are_a_502() {
    let mut many = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..1_000_000 {
        many.extend_from_slice(format!("X-{number}: v\r\n").as_bytes());
    }
    many.extend_from_slice(b"Content-Length: 2\r\n\r\nok");
    let mut wide = b"HTTP/1.1 200 OK\r\nX-Wide: ".to_vec();
    wide.resize(20 << 20, b'w');
    wide.extend_from_slice(b"\r\nContent-Length: 2\r\n\r\nok");
    let origin = Origin::start();
    origin.reply("/many", Reply::raw(many));
    origin.reply("/wide", Reply::raw(wide));
    let node = Node::in_front_of(&origin).start();
    let before = node.memory_bytes();
    for path in ["/many", "/wide"] {
        node.get(path).problem(502);
    }
    let grown = node.memory_bytes().saturating_sub(before);
    assert!(grown < 50 << 20, "the node keeps {grown} bytes more");
}

#[test]
fn redirects_are_passed_on_and_not_followed() {
    let origin = Origin::start();
    origin.serve("/loop", |request| {
        Reply::status(302).header("Location", "/loop").header("X-Times", request.number)
    });
    let node = Node::in_front_of(&origin).start();
    let answer = node.get("/loop");
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), Some("/loop"));
    assert_eq!(origin.count("/loop"), 1);
}

#[test]
fn connections_that_the_origin_closes_between_requests_cost_nothing() {
    let origin = Origin::start();
    origin.serve_rest(|request| Reply::ok(request.target.clone()).cache_control("no-store").then_close());
    let node = Node::in_front_of(&origin).start();
    for number in 0..50 {
        let target = format!("/{number}");
        let answer = node.get(&target);
        assert_eq!((answer.status, answer.text()), (200, target));
    }
}

#[test]
fn a_request_that_is_not_safe_is_never_sent_twice() {
    let origin = Origin::start();
    // The origin reads the request and goes away without an answer.
    origin.reply("/order", Reply::raw(""));
    origin.reply("/warm", Reply::ok("warm").cache_control("no-store"));
    let node = Node::in_front_of(&origin).start();
    // A pooled connection is there to be lost.
    node.get("/warm");
    let answer = node.fetch("POST", "/order", &[], b"one pizza").expect("an answer");
    answer.problem(502);
    assert_eq!(origin.count("/order"), 1);
}

#[test]
fn no_more_connections_are_opened_than_the_origin_can_bear() {
    const MOST: usize = 4;
    let gate = Gate::closed();
    let origin = Origin::start();
    let held = gate.clone();
    origin.serve_rest(move |_| Reply::ok("done").cache_control("no-store").hold_head(&held));
    let node = Node::in_front_of(&origin).set("cache", "max_origin_connections", MOST).start();
    let address = node.public();
    let clients: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let target = format!("/{number}");
                skerry_tests::raw::fetch(address, "GET", &target, &[], b"").expect("an answer")
            })
        })
        .collect();
    wait::until("the origin to be busy", Duration::from_secs(10), || origin.requests().len() >= MOST);
    assert_eq!(origin.requests().len(), MOST);
    gate.open();
    for client in clients {
        assert_eq!(client.join().expect("a client ends").status, 200);
    }
}

#[test]
fn an_origin_that_is_down_is_a_502_within_its_timeout() {
    let mut origin = Origin::start();
    let node = impatient(&origin).start();
    origin.stop();
    let started = Instant::now();
    for path in ["/a", "/b", "/c"] {
        let problem = node.get(path).problem(502);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(!detail.is_empty(), "{problem}");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_dead_origin_is_a_problem_document() {
    let mut origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let node = Node::in_front_of(&origin).start();
    origin.stop();

    let answer = node.get("/a");
    answer.problem(502);
    assert_eq!(answer.cache_status_value("fwd").as_deref(), Some("uri-miss"));

    origin.restart();
    wait::until("the origin to be found healthy again", Duration::from_secs(30), || {
        node.get("/a").status == 200
    });
}

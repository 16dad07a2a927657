//! A cached GET as RFC 9110 and RFC 9111 have it: stored once, answered from the store, validated,
//! kept apart by `Vary`, forgotten when an unsafe method says so.

use std::time::{Duration, SystemTime};

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::Response;
use skerry_tests::reply::{Reply, http_date};
use skerry_tests::wait;

#[test]
fn a_miss_is_followed_by_a_hit() {
    let body = content::bytes(1, 0, 300_000);
    let origin = Origin::start();
    origin.reply("/a", Reply::ok(body.clone()).header("Content-Type", "image/png").fresh());
    let node = Node::in_front_of(&origin).start();

    let miss = node.get("/a");
    assert_eq!(miss.status, 200);
    assert!(miss.complete);
    content::assert_same("the miss", &miss.body, &body);
    assert!(!miss.is_hit());
    assert_eq!(miss.cache_status_value("fwd").as_deref(), Some("uri-miss"));
    assert_eq!(miss.cache_status_value("fwd-status").as_deref(), Some("200"));
    assert!(miss.cache_status().contains(&"stored".to_owned()));

    let hit = node.hit("/a");
    assert_eq!(hit.status, 200);
    content::assert_same("the hit", &hit.body, &body);
    assert_eq!(hit.header("content-type"), Some("image/png"));
    assert_eq!(hit.number("content-length"), Some(300_000));
    assert!(hit.number("age").is_some_and(|age| age < 60), "{:?}", hit.headers);
    assert!(hit.header("date").is_some());
    let ttl = hit.cache_status_value("ttl").expect("a hit tells its ttl");
    let ttl: i64 = ttl.parse().expect("a ttl is a number of seconds");
    assert!((3500..=3600).contains(&ttl), "a ttl of {ttl}");
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn age_goes_on_from_what_the_origin_said() {
    let origin = Origin::start();
    origin.reply("/old", Reply::ok("old").header("Age", 100).cache_control("max-age=200"));
    let node = Node::in_front_of(&origin).start();
    node.get("/old");

    let first = node.hit("/old").number("age").expect("a hit has an age");
    assert!((100..150).contains(&first), "an age of {first}");
    wait::until("the age to grow", Duration::from_secs(10), || {
        node.hit("/old").number("age").is_some_and(|age| age > first)
    });
    assert_eq!(origin.count("/old"), 1);
}

#[test]
fn a_response_older_than_its_lifetime_is_not_reused() {
    let origin = Origin::start();
    origin.reply("/stale", Reply::ok("x").header("Age", 100).cache_control("max-age=50"));
    let node = Node::in_front_of(&origin).start();
    for _ in 0..3 {
        assert!(!node.get("/stale").is_hit());
    }
    assert_eq!(origin.count("/stale"), 3);
}

#[test]
fn head_is_answered_from_a_stored_get() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok(vec![b'x'; 5000]).etag("one").fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");
    node.hit("/a");

    let head = node.fetch("HEAD", "/a", &[], b"").expect("an answer to HEAD");
    assert_eq!(head.status, 200);
    assert!(head.is_hit());
    assert_eq!(head.number("content-length"), Some(5000));
    assert_eq!(head.header("etag"), Some("\"one\""));
    assert!(head.body.is_empty());
    assert_eq!(origin.requests_for("/a").len(), 1);
}

#[test]
fn a_client_that_has_the_current_entity_is_answered_304_from_the_store() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").etag("one").fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");
    node.hit("/a");

    for tags in ["\"one\"", "W/\"one\"", "\"zero\", \"one\"", "*"] {
        let answer = node.get_with("/a", &[("If-None-Match", tags)]);
        assert_eq!(answer.status, 304, "to If-None-Match: {tags}");
        assert_eq!(answer.header("etag"), Some("\"one\""));
        assert!(answer.is_hit());
    }
    let changed = node.get_with("/a", &[("If-None-Match", "\"zero\"")]);
    assert_eq!((changed.status, changed.text().as_str()), (200, "content"));
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn a_client_that_names_a_date_is_answered_by_last_modified() {
    let modified = http_date(SystemTime::now() - Duration::from_secs(86_400));
    let earlier = http_date(SystemTime::now() - Duration::from_secs(2 * 86_400));
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").etag("one").header("Last-Modified", &modified).fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");
    node.hit("/a");

    assert_eq!(node.get_with("/a", &[("If-Modified-Since", modified.as_str())]).status, 304);
    assert_eq!(node.get_with("/a", &[("If-Modified-Since", earlier.as_str())]).status, 200);
    // RFC 9110 §13.1.3: a recipient ignores the date when there is an entity tag to compare.
    let both = [("If-Modified-Since", modified.as_str()), ("If-None-Match", "\"zero\"")];
    assert_eq!(node.get_with("/a", &both).status, 200);
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn without_last_modified_the_date_of_the_response_is_compared() {
    let made = SystemTime::now() - Duration::from_secs(100);
    let date = http_date(made);
    let earlier = http_date(made - Duration::from_secs(1000));
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").header("Date", &date).fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");
    node.hit("/a");

    assert_eq!(node.get_with("/a", &[("If-Modified-Since", date.as_str())]).status, 304);
    // RFC 9111 §4.3.2: the stored response may well be newer than what this client has.
    assert_eq!(node.get_with("/a", &[("If-Modified-Since", earlier.as_str())]).status, 200);
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn only_if_cached_never_reaches_the_origin() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let node = Node::in_front_of(&origin).start();
    let only = [("Cache-Control", "only-if-cached")];

    let nothing = node.get_with("/a", &only);
    nothing.problem(504);
    assert_eq!(origin.count("/a"), 0);

    node.get("/a");
    let stored = node.hit_with("/a", &only);
    assert_eq!((stored.status, stored.text().as_str()), (200, "content"));
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn variants_are_kept_apart_by_vary() {
    let origin = Origin::start();
    origin.serve("/greeting", |request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        Reply::ok(format!("in {language}")).header("Vary", "Accept-Language").fresh()
    });
    let node = Node::in_front_of(&origin).start();

    let german = [("Accept-Language", "de")];
    let english = [("Accept-Language", "en")];
    assert_eq!(node.get_with("/greeting", &german).text(), "in de");
    let other = node.get_with("/greeting", &english);
    assert_eq!(other.text(), "in en");
    assert_eq!(other.cache_status_value("fwd").as_deref(), Some("vary-miss"));
    for _ in 0..2 {
        assert_eq!(node.hit_with("/greeting", &german).text(), "in de");
        assert_eq!(node.hit_with("/greeting", &english).text(), "in en");
    }
    assert_eq!(node.get("/greeting").text(), "in none");
    assert_eq!(origin.count("/greeting"), 3);
}

#[test]
fn a_response_that_varies_on_everything_is_never_reused() {
    let origin = Origin::start();
    origin.serve("/any", |request| Reply::ok(request.number.to_string()).header("Vary", "*").fresh());
    let node = Node::in_front_of(&origin).start();
    for number in 0..3 {
        let answer = node.get("/any");
        assert!(!answer.is_hit());
        assert_eq!(answer.text(), number.to_string());
    }
}

#[test]
fn a_304_updates_the_stored_fields() {
    let origin = Origin::start();
    origin.serve("/a", |request| {
        let reply = Reply::ok("content").etag("one").validates();
        if request.number == 0 {
            reply.cache_control("max-age=0").header("X-Version", 1)
        } else {
            reply.cache_control("max-age=3600").header("X-Version", 2)
        }
    });
    let node = Node::in_front_of(&origin).start();
    assert_eq!(node.get("/a").header("x-version"), Some("1"));

    // The fill may still be settling: then there is nothing to validate with yet.
    let validated = node.get("/a");
    assert_eq!((validated.status, validated.text().as_str()), (200, "content"));
    assert_eq!(validated.header("x-version"), Some("2"));

    let hit = node.hit("/a");
    assert_eq!((hit.status, hit.text().as_str()), (200, "content"));
    assert_eq!(hit.header("x-version"), Some("2"));
    assert_eq!(hit.header("cache-control"), Some("max-age=3600"));
    assert_eq!(origin.count("/a"), 2);
}

#[test]
fn a_stale_object_is_validated_with_what_is_known_of_it() {
    let modified = http_date(SystemTime::now() - Duration::from_secs(86_400));
    let origin = Origin::start();
    let reply = Reply::ok("content").etag("one").header("Last-Modified", &modified);
    origin.reply("/a", reply.cache_control("no-cache").validates());
    let node = Node::in_front_of(&origin).start();
    node.get("/a");

    wait::until("a validation", Duration::from_secs(10), || {
        let answer = node.get("/a");
        assert_eq!((answer.status, answer.text().as_str()), (200, "content"));
        answer.cache_status_value("fwd-status").as_deref() == Some("304")
    });
    let validation = origin.requests_for("/a").pop().expect("a request");
    assert_eq!(validation.header("if-none-match"), Some("\"one\""));
    assert_eq!(validation.header("if-modified-since"), Some(modified.as_str()));
}

#[test]
fn an_unsafe_method_that_succeeds_invalidates() {
    let origin = Origin::start();
    origin.serve("/thing", |request| match request.method.as_str() {
        "GET" => Reply::ok(format!("version {}", request.number)).fresh(),
        _ if request.header("x-fail").is_some() => Reply::status(500),
        _ => Reply::status(200),
    });
    let node = Node::in_front_of(&origin).start();
    assert_eq!(node.get("/thing").text(), "version 0");
    node.hit("/thing");

    let failed = node.fetch("POST", "/thing", &[("X-Fail", "1")], b"body").expect("an answer");
    assert_eq!(failed.status, 500);
    assert!(node.get("/thing").is_hit(), "an error invalidates nothing (RFC 9111 §4.4)");

    let done = node.fetch("POST", "/thing", &[], b"body").expect("an answer");
    assert_eq!(done.status, 200);
    assert_eq!(node.get("/thing").text(), "version 3");

    let last = origin.requests_for("/thing");
    assert_eq!(last[2].body, b"body");
}

#[test]
fn the_answer_to_a_post_that_is_the_new_content_answers_later_gets() {
    let origin = Origin::start();
    origin.serve("/thing", |request| {
        let reply = Reply::ok(format!("{} {}", request.method, request.number)).etag("one").fresh();
        match request.header("x-location") {
            Some(location) => reply.header("Content-Location", location),
            None => reply,
        }
    });
    let node = Node::in_front_of(&origin).start();
    let post = |location| {
        let fields = [("X-Location", location), ("Content-Type", "text/plain")];
        node.fetch("POST", "/thing", &fields, b"body").expect("an answer")
    };
    let is_stored = |answer: &Response| answer.cache_status().contains(&"stored".to_owned());
    assert_eq!(node.get("/thing").text(), "GET 0");
    node.hit("/thing");

    let posted = post("/thing");
    assert_eq!((posted.status, posted.text().as_str()), (200, "POST 1"));
    assert_eq!(posted.cache_status_value("fwd").as_deref(), Some("method"));
    assert!(is_stored(&posted));
    let hit = node.get("/thing");
    assert!(hit.is_hit());
    assert_eq!((hit.status, hit.text().as_str()), (200, "POST 1"));
    assert_eq!(hit.header("content-location"), Some("/thing"));
    assert_eq!(node.get_with("/thing", &[("If-None-Match", "\"one\"")]).status, 304);

    // No POST is answered from the store; one that speaks of another URL only invalidates.
    let elsewhere = post("/other");
    assert_eq!(elsewhere.text(), "POST 2");
    assert!(!is_stored(&elsewhere));
    assert_eq!(node.get("/thing").text(), "GET 3");
    assert_eq!(origin.count("/thing"), 4);
}

#[test]
fn the_answer_to_a_post_is_kept_only_where_the_origin_says_so() {
    let origin = Origin::start();
    let long = content::bytes(6, 0, 3_000_000);
    let at = |path: &'static str, reply: Reply| (path, reply.header("Content-Location", path));
    let replies = [
        ("/silent", Reply::ok("x").fresh()),
        at("/undated", Reply::ok("x").etag("one")),
        at("/private", Reply::ok("x").cache_control("private, max-age=60")),
        at("/created", Reply::status(201).fresh()),
        at("/long", Reply::ok(long.clone()).fresh()),
        at("/chunked", Reply::ok("x").chunked().fresh()),
    ];
    for (path, reply) in &replies {
        origin.reply(path, reply.clone());
    }
    let node = Node::in_front_of(&origin).start();
    for (path, _) in &replies {
        let posted = node.fetch("POST", path, &[], b"body").expect("an answer");
        assert!(posted.complete, "{path}");
        if *path == "/long" {
            content::assert_same(path, &posted.body, &long);
        }
        assert!(!posted.cache_status().contains(&"stored".to_owned()), "{path}");
        assert!(!node.get(path).is_hit(), "{path}");
    }
}

#[test]
fn fields_named_in_connection_stay_on_their_hop() {
    let origin = Origin::start();
    origin.reply(
        "/a",
        Reply::ok("content")
            .header("Connection", "X-Hop")
            .header("X-Hop", "secret")
            .header("Keep-Alive", "timeout=5")
            .header("X-End", "stays")
            .fresh(),
    );
    let node = Node::in_front_of(&origin).start();
    let fields = [("Connection", "x-mine"), ("X-Mine", "secret"), ("X-Through", "stays")];

    let miss = node.get_with("/a", &fields);
    let hit = node.hit("/a");
    for answer in [miss, hit] {
        assert_eq!(answer.header("x-hop"), None);
        assert_eq!(answer.header("keep-alive"), None);
        assert_eq!(answer.header("x-end"), Some("stays"));
    }
    let request = origin.requests_for("/a").remove(0);
    assert_eq!(request.header("x-mine"), None);
    assert_eq!(request.header("x-through"), Some("stays"));
    assert!(request.header("via").is_some(), "a proxy names itself (RFC 9110 §7.6.3)");
}

#[test]
fn a_chunked_answer_with_trailers_is_stored_whole() {
    let body = content::bytes(2, 0, 500_000);
    let origin = Origin::start();
    let reply = Reply::ok(body.clone()).drip(50_000, Duration::from_millis(1));
    origin.reply("/chunked", reply.trailer("X-Checksum", "abc").fresh());
    let node = Node::in_front_of(&origin).start();

    let miss = node.get("/chunked");
    let hit = node.hit("/chunked");
    for (name, answer) in [("the miss", miss), ("the hit", hit)] {
        assert!(answer.complete);
        content::assert_same(name, &answer.body, &body);
        assert_eq!(answer.header("x-checksum"), None, "a trailer is no header (RFC 9110 §6.5.1)");
    }
    assert_eq!(origin.count("/chunked"), 1);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_right() {
    let body = content::bytes(3, 0, 200_000);
    let origin = Origin::start();
    origin.reply("/close", Reply::ok(body.clone()).until_close().fresh());
    let node = Node::in_front_of(&origin).start();
    for _ in 0..2 {
        let answer = node.get("/close");
        assert_eq!(answer.status, 200);
        content::assert_same("the content", &answer.body, &body);
    }
}

#[test]
fn not_found_is_kept_when_so_configured() {
    let origin = Origin::start();
    let node = Node::in_front_of(&origin).set("sites.default", "negative_seconds", 60).start();
    assert_eq!(node.get("/none").status, 404);
    assert_eq!(node.hit("/none").status, 404);
    assert_eq!(origin.count("/none"), 1);
}

#[test]
fn not_found_is_asked_again_by_default() {
    let origin = Origin::start();
    let node = Node::in_front_of(&origin).start();
    for _ in 0..2 {
        let answer = node.get("/none");
        assert_eq!(answer.status, 404);
        assert!(!answer.is_hit());
    }
    assert_eq!(origin.count("/none"), 2);
}

#[test]
fn what_must_not_be_stored_is_not() {
    let origin = Origin::start();
    for (path, control) in [("/no-store", "no-store, max-age=60"), ("/private", "private, max-age=60")] {
        origin.serve(path, move |request| Reply::ok(request.number.to_string()).cache_control(control));
    }
    origin.serve("/secret", |request| Reply::ok(request.number.to_string()).fresh());
    let node = Node::in_front_of(&origin).start();
    for number in ["0", "1"] {
        assert_eq!(node.get("/no-store").text(), number);
        assert_eq!(node.get("/private").text(), number);
        let authorized = [("Authorization", "Basic dTpw")];
        assert_eq!(node.get_with("/secret", &authorized).text(), number);
    }
}

#[test]
fn cdn_cache_control_speaks_to_this_node_alone() {
    let origin = Origin::start();
    let kept = Reply::ok("kept").cache_control("no-store");
    origin.reply("/kept", kept.header("CDN-Cache-Control", "max-age=60"));
    let passed = Reply::ok("passed").fresh();
    origin.reply("/passed", passed.header("CDN-Cache-Control", "no-store"));
    let node = Node::in_front_of(&origin).start();

    node.get("/kept");
    let hit = node.hit("/kept");
    assert_eq!(hit.header("cache-control"), Some("no-store"), "the next cache reads its own field");
    node.get("/passed");
    assert!(!node.get("/passed").is_hit());
    assert_eq!((origin.count("/kept"), origin.count("/passed")), (1, 2));
}

#[test]
fn a_query_is_part_of_the_key() {
    let origin = Origin::start();
    origin.serve("/q", |request| Reply::ok(request.target.clone()).fresh());
    let node = Node::in_front_of(&origin).start();
    for target in ["/q?a=1", "/q?a=2", "/q"] {
        assert_eq!(node.get(target).text(), target);
        assert_eq!(node.hit(target).text(), target);
    }
    assert_eq!(origin.count("/q"), 3);
}

#[test]
fn the_digest_of_a_complete_object_is_told_to_who_wants_it() {
    let body = content::bytes(4, 0, 1_500_000);
    let expected = format!("sha-256=:{}:", content::sha256_base64(&body));
    let origin = Origin::start();
    origin.reply("/d", Reply::ok(body).etag("one").ranges().fresh());
    let node = Node::in_front_of(&origin).start();
    node.get("/d");
    node.hit("/d");

    let wants = ("Want-Repr-Digest", "sha-256=1");
    let digest = wait::value("the digest", Duration::from_secs(10), || {
        let answer = node.get_with("/d", &[wants]);
        answer.header("repr-digest").map(str::to_owned)
    });
    assert_eq!(digest, expected);
    let part = node.get_with("/d", &[wants, ("Range", "bytes=0-9")]);
    assert_eq!(part.status, 206);
    assert_eq!(part.header("repr-digest"), Some(expected.as_str()), "RFC 9530 §3: of the whole");
    assert_eq!(node.get("/d").header("repr-digest"), None, "nobody asked");
}

#[test]
fn stored_objects_are_served_while_the_origin_is_down_and_after_a_restart() {
    let body = content::bytes(5, 0, 2_500_000);
    let mut origin = Origin::start();
    origin.reply("/a", Reply::ok(body.clone()).etag("one").fresh());
    let mut node = Node::in_front_of(&origin).start();
    node.get("/a");
    node.hit("/a");

    origin.stop();
    content::assert_same("with the origin down", &node.hit("/a").body, &body);
    node.restart();
    let hit = node.get("/a");
    assert!(hit.is_hit());
    content::assert_same("after a restart", &hit.body, &body);
}

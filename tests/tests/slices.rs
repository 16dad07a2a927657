//! Large objects are cached in slices: a part of one costs a part, and two versions never mix.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::{Connection, Response};
use skerry_tests::reply::{Gate, Reply};
use skerry_tests::wait;

const MIB: u64 = 1 << 20;

#[test]
fn the_last_megabyte_of_50_gb_is_one_small_origin_request() {
    const LENGTH: u64 = 50 << 30;
    let origin = Origin::start();
    origin.reply("/huge", Reply::generated(31, LENGTH).etag("one").ranges().fresh());
    let node = Node::in_front_of(&origin).start();

    let first = LENGTH - MIB;
    let expected = content::bytes(31, first, MIB as usize);
    let range = format!("bytes={first}-{}", LENGTH - 1);
    let fields = [("Range", range.as_str())];
    let started = Instant::now();
    let answer = node.get_with("/huge", &fields);
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    assert_eq!(answer.status, 206);
    content::assert_same("the last megabyte", &answer.body, &expected);
    let content_range = format!("bytes {first}-{}/{LENGTH}", LENGTH - 1);
    assert_eq!(answer.header("content-range"), Some(content_range.as_str()));

    let requests = origin.requests_for("/huge");
    assert_eq!(requests.len(), 1);
    assert!(requests[0].header("range").is_some());
    assert!(origin.bytes_sent("/huge") <= 4 * MIB);

    // The slice is kept, and its total length is known to requests from the end.
    let hit = node.hit_with("/huge", &fields);
    content::assert_same("the slice from the store", &hit.body, &expected);
    let tail = node.get_with("/huge", &[("Range", "bytes=-1000")]);
    assert_eq!(tail.status, 206);
    assert!(tail.is_hit());
    content::assert_same("the tail", &tail.body, &expected[MIB as usize - 1000..]);
    let beyond = node.get_with("/huge", &[("Range", "bytes=60000000000-")]);
    assert_eq!(beyond.status, 416);
    assert!(origin.count("/huge") <= 2);
    assert!(origin.bytes_sent("/huge") <= 4 * MIB);
}

#[test]
fn a_range_from_the_end_of_an_unknown_object_is_small_too() {
    const LENGTH: u64 = 50 << 30;
    let origin = Origin::start();
    origin.reply("/huge", Reply::generated(32, LENGTH).etag("one").ranges().fresh());
    let node = Node::in_front_of(&origin).start();

    let answer = node.get_with("/huge", &[("Range", "bytes=-1048576")]);
    assert_eq!(answer.status, 206);
    let expected = content::bytes(32, LENGTH - MIB, MIB as usize);
    content::assert_same("the last megabyte", &answer.body, &expected);
    assert!(origin.count("/huge") <= 2);
    assert!(origin.bytes_sent("/huge") <= 4 * MIB);
}

#[test]
fn parts_that_were_fetched_make_a_whole() {
    let body = content::bytes(33, 0, 3_500_000);
    let mut origin = Origin::start();
    origin.reply("/film", Reply::ok(body.clone()).etag("one").ranges().fresh());
    let node = Node::in_front_of(&origin).start();
    for range in ["bytes=3000000-", "bytes=1048576-2097151", "bytes=0-1500000", "bytes=2000000-3100000"] {
        let part = node.get_with("/film", &[("Range", range)]);
        assert_eq!(part.status, 206);
        node.hit_with("/film", &[("Range", range)]);
    }
    origin.stop();
    let whole = node.hit("/film");
    assert_eq!(whole.status, 200);
    content::assert_same("the whole", &whole.body, &body);
    assert_eq!(whole.number("content-length"), Some(3_500_000));
}

#[test]
fn a_whole_is_completed_around_what_is_there() {
    let body = content::bytes(34, 0, 8 << 20);
    let origin = Origin::start();
    origin.reply("/film", Reply::ok(body.clone()).etag("one").ranges().fresh());
    let node = Node::in_front_of(&origin).start();
    let middle = [("Range", "bytes=4194304-5242879")];
    node.get_with("/film", &middle);
    node.hit_with("/film", &middle);

    let whole = node.get("/film");
    assert_eq!(whole.status, 200);
    content::assert_same("the whole", &whole.body, &body);
    assert!(origin.bytes_sent("/film") <= 10 * MIB, "what is there is not fetched again");
    content::assert_same("the hit", &node.hit("/film").body, &body);
}

/// An origin that changes `/film` from one version to the next when the flag is set.
fn changing_origin(with_validators: bool) -> (Origin, Arc<AtomicBool>, [Vec<u8>; 2]) {
    let versions = [content::bytes(35, 0, 8 << 20), content::bytes(36, 0, 8 << 20)];
    let replies = [("v1", &versions[0]), ("v2", &versions[1])].map(|(tag, body)| {
        let reply = Reply::ok(body.clone()).ranges().fresh();
        if with_validators { reply.etag(tag) } else { reply }
    });
    let changed = Arc::new(AtomicBool::new(false));
    let origin = Origin::start();
    let seen = Arc::clone(&changed);
    origin.serve("/film", move |_| replies[usize::from(seen.load(Ordering::SeqCst))].clone());
    (origin, changed, versions)
}

/// Panics unless the answer is of one version: complete, or cut without a wrong byte. An error is a
/// way to cut an answer that had not begun.
fn assert_one_version(answer: &Response, versions: &[Vec<u8>; 2]) {
    if answer.status >= 500 {
        return;
    }
    assert_eq!(answer.status, 200);
    let version = match answer.header("etag") {
        Some("\"v1\"") => &versions[0],
        Some("\"v2\"") => &versions[1],
        other => panic!("an entity tag of {other:?}"),
    };
    if answer.complete {
        content::assert_same("a complete answer", &answer.body, version);
    } else {
        content::assert_prefix("an answer that was cut", &answer.body, version);
    }
}

#[test]
fn a_change_between_slices_never_mixes_versions() {
    let (origin, changed, versions) = changing_origin(true);
    let node = Node::in_front_of(&origin).start();
    for range in ["bytes=0-1048575", "bytes=3145728-4194303"] {
        let part = node.get_with("/film", &[("Range", range)]);
        assert_eq!(part.header("etag"), Some("\"v1\""));
        node.hit_with("/film", &[("Range", range)]);
    }
    changed.store(true, Ordering::SeqCst);

    let answer = node.get("/film");
    assert_one_version(&answer, &versions);
    wait::until("the new version", Duration::from_secs(20), || {
        let answer = node.get("/film");
        assert_one_version(&answer, &versions);
        answer.status == 200 && answer.complete && answer.header("etag") == Some("\"v2\"")
    });
    let part = node.get_with("/film", &[("Range", "bytes=0-99")]);
    assert_eq!((part.status, part.header("etag")), (206, Some("\"v2\"")));
    content::assert_same("a part of the new version", &part.body, &versions[1][..100]);
}

#[test]
fn a_part_after_a_change_carries_the_tag_of_its_bytes() {
    let (origin, changed, versions) = changing_origin(true);
    let node = Node::in_front_of(&origin).start();
    let early = [("Range", "bytes=0-1048575")];
    node.get_with("/film", &early);
    node.hit_with("/film", &early);
    changed.store(true, Ordering::SeqCst);

    let Ok(part) = node.fetch("GET", "/film", &[("Range", "bytes=5242880-6291455")], b"") else {
        return; // A clean abort is right as well.
    };
    if part.status >= 500 {
        return;
    }
    let version = usize::from(part.header("etag") == Some("\"v2\""));
    assert_eq!(version, 1, "the origin has only the new version");
    match part.status {
        206 => content::assert_prefix("the part", &part.body, &versions[1][5_242_880..6_291_456]),
        200 => content::assert_prefix("the whole", &part.body, &versions[1]),
        status => panic!("answered {status}"),
    }
}

#[test]
fn parts_without_a_validator_are_never_combined() {
    let (origin, changed, versions) = changing_origin(false);
    let node = Node::in_front_of(&origin).start();
    let part = node.get_with("/film", &[("Range", "bytes=0-1048575")]);
    content::assert_same("a part", &part.body, &versions[0][..MIB as usize]);
    changed.store(true, Ordering::SeqCst);
    let whole = node.get("/film");
    assert!(whole.complete);
    content::assert_same("the whole", &whole.body, &versions[1]);
}

#[test]
fn a_fill_that_breaks_off_is_not_continued_with_another_version() {
    let versions = [content::bytes(37, 0, 8 << 20), content::bytes(38, 0, 8 << 20)];
    let origin = Origin::start();
    let broken = Reply::ok(versions[0].clone()).etag("v1").ranges().fresh().cut_after(3_000_000);
    let next = Reply::ok(versions[1].clone()).etag("v2").ranges().fresh();
    origin.serve("/film", move |request| if request.number == 0 { broken.clone() } else { next.clone() });
    let node = Node::in_front_of(&origin).start();
    assert_one_version(&node.get("/film"), &versions);
    wait::until("the new version", Duration::from_secs(20), || {
        let answer = node.get("/film");
        assert_one_version(&answer, &versions);
        answer.status == 200 && answer.complete && answer.header("etag") == Some("\"v2\"")
    });
}

/// A player that seeks to the end of a film reads its index there before anything is shown.
#[test]
fn the_end_of_a_film_does_not_wait_for_the_film() {
    const LENGTH: u64 = 200 << 20;
    let gate = Gate::closed();
    let origin = Origin::start();
    let held = gate.clone();
    origin.serve("/film", move |request| {
        let film = Reply::generated(33, LENGTH).etag("one").ranges().fresh();
        if request.header("range").is_some() { film } else { film.hold_after(MIB, &held) }
    });
    let node = Node::in_front_of(&origin).start();
    let mut first = Connection::open(node.public());
    first.request("GET", "/film", &[], b"").expect("a request is sent");
    let mut whole = first.head().expect("a head");
    assert!(first.take(&mut whole, 1000).expect("some content"));

    let started = Instant::now();
    let last = node.get_with("/film", &[("Range", "bytes=-1000")]);
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    assert_eq!(last.status, 206);
    content::assert_same("the end", &last.body, &content::bytes(33, LENGTH - 1000, 1000));

    gate.open();
    first.body("GET", &mut whole).expect("the rest");
    assert!(whole.complete);
    assert_eq!(origin.count("/film"), 2);
}

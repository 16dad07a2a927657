//! Ranges of stored objects (RFC 9110 §14): one part, several, from the end, with a condition.

use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::Response;
use skerry_tests::reply::Reply;

const LENGTH: usize = 1_300_000;

fn node_with_a_stored_object(origin: &Origin) -> (Node, Vec<u8>) {
    let body = content::bytes(11, 0, LENGTH);
    let reply = Reply::ok(body.clone()).header("Content-Type", "video/mp4").etag("one");
    origin.reply("/film", reply.ranges().fresh());
    let node = Node::in_front_of(origin).start();
    node.get("/film");
    node.hit("/film");
    (node, body)
}

#[test]
fn one_range_of_a_stored_object_is_a_206() {
    let origin = Origin::start();
    let (node, body) = node_with_a_stored_object(&origin);
    let cases = [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=1048570-1048590", 1_048_570, 1_048_590),
        ("bytes=1299000-", 1_299_000, LENGTH - 1),
        ("bytes=1299000-9999999", 1_299_000, LENGTH - 1),
        ("bytes=-100", LENGTH - 100, LENGTH - 1),
        ("bytes=-9999999", 0, LENGTH - 1),
        ("BYTES=5-6", 5, 6),
    ];
    for (range, first, last) in cases {
        let part = node.get_with("/film", &[("Range", range)]);
        assert_eq!(part.status, 206, "to {range}");
        assert!(part.is_hit());
        content::assert_same(range, &part.body, &body[first..=last]);
        let expected = format!("bytes {first}-{last}/{LENGTH}");
        assert_eq!(part.header("content-range"), Some(expected.as_str()));
        assert_eq!(part.number("content-length"), Some((last - first + 1) as u64));
        assert_eq!(part.header("etag"), Some("\"one\""));
        assert_eq!(part.header("content-type"), Some("video/mp4"));
    }
    assert_eq!(origin.count("/film"), 1);
}

#[test]
fn several_ranges_are_multipart_byteranges() {
    let origin = Origin::start();
    let (node, body) = node_with_a_stored_object(&origin);
    let answer = node.get_with("/film", &[("Range", "bytes=0-9, 1048570-1048590,-5")]);
    assert_eq!(answer.status, 206);
    assert!(answer.complete);
    assert_eq!(answer.header("content-range"), None, "it stands in each part (RFC 9110 §15.3.7.2)");
    assert_eq!(answer.header("accept-ranges").unwrap_or("bytes"), "bytes");

    let expected = [(0, 9), (1_048_570, 1_048_590), (LENGTH - 5, LENGTH - 1)];
    let parts = parts(&answer);
    assert_eq!(parts.len(), expected.len());
    for ((head, bytes), (first, last)) in parts.iter().zip(expected) {
        let head = head.to_ascii_lowercase();
        assert!(head.contains("content-type: video/mp4"), "{head}");
        let range = format!("content-range: bytes {first}-{last}/{LENGTH}");
        assert!(head.contains(&range), "{head}");
        content::assert_same(&range, bytes, &body[first..=last]);
    }
    assert_eq!(origin.count("/film"), 1);
}

/// Head and bytes of each part of a `multipart/byteranges` answer.
fn parts(answer: &Response) -> Vec<(String, Vec<u8>)> {
    let media = answer.header("content-type").expect("a media type");
    let boundary = media
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("not multipart/byteranges: {media}"))
        .trim_matches('"');
    let delimiter = format!("--{boundary}");
    let mut rest = answer.body.as_slice();
    let mut parts = Vec::new();
    rest = after(rest, delimiter.as_bytes());
    loop {
        if rest.starts_with(b"--") {
            return parts;
        }
        let head_end = position(rest, b"\r\n\r\n");
        let head = String::from_utf8_lossy(&rest[..head_end]).into_owned();
        rest = &rest[head_end + 4..];
        let end = position(rest, format!("\r\n{delimiter}").as_bytes());
        parts.push((head, rest[..end].to_vec()));
        rest = after(rest, delimiter.as_bytes());
    }
}

fn position(bytes: &[u8], needle: &[u8]) -> usize {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap_or_else(|| panic!("no {:?} in the rest", String::from_utf8_lossy(needle)))
}

fn after<'a>(bytes: &'a [u8], needle: &[u8]) -> &'a [u8] {
    &bytes[position(bytes, needle) + needle.len()..]
}

#[test]
fn if_range_gives_the_part_only_of_the_entity_it_names() {
    let origin = Origin::start();
    let (node, body) = node_with_a_stored_object(&origin);
    let range = ("Range", "bytes=10-19");

    let same = node.get_with("/film", &[range, ("If-Range", "\"one\"")]);
    assert_eq!(same.status, 206);
    assert_eq!(same.body, body[10..20]);
    for other in ["\"two\"", "W/\"one\""] {
        let whole = node.get_with("/film", &[range, ("If-Range", other)]);
        assert_eq!(whole.status, 200, "to If-Range: {other}");
        content::assert_same("the whole", &whole.body, &body);
    }
}

#[test]
fn a_range_beyond_the_end_is_416() {
    let origin = Origin::start();
    let (node, _) = node_with_a_stored_object(&origin);
    for range in ["bytes=1300000-", "bytes=5000000-6000000", "bytes=-0"] {
        let answer = node.get_with("/film", &[("Range", range)]);
        assert_eq!(answer.status, 416, "to {range}");
        let expected = format!("bytes */{LENGTH}");
        assert_eq!(answer.header("content-range"), Some(expected.as_str()));
        assert!(answer.body.len() < 10_000);
    }
    assert_eq!(origin.count("/film"), 1);
}

#[test]
fn a_range_that_is_not_understood_is_ignored() {
    let origin = Origin::start();
    let (node, body) = node_with_a_stored_object(&origin);
    for range in ["lines=1-2", "bytes", "bytes=", "bytes=x-y", "bytes=9-5"] {
        let whole = node.get_with("/film", &[("Range", range)]);
        assert_eq!(whole.status, 200, "to {range}");
        content::assert_same(range, &whole.body, &body);
    }
    let head = node.fetch("HEAD", "/film", &[("Range", "bytes=0-9")], b"").expect("an answer");
    assert_eq!(head.status, 200, "Range is defined for GET alone (RFC 9110 §14.2)");
    assert_eq!(head.number("content-length"), Some(LENGTH as u64));
}

#[test]
fn a_condition_is_looked_at_before_a_range() {
    let origin = Origin::start();
    let (node, _) = node_with_a_stored_object(&origin);
    let both = [("Range", "bytes=0-9"), ("If-None-Match", "\"one\"")];
    assert_eq!(node.get_with("/film", &both).status, 304);
}

#[test]
fn a_range_of_an_unknown_object_is_right_even_if_the_origin_knows_no_ranges() {
    let body = content::bytes(12, 0, LENGTH);
    let origin = Origin::start();
    origin.reply("/plain", Reply::ok(body.clone()).etag("one").fresh());
    let node = Node::in_front_of(&origin).start();

    let answer = node.get_with("/plain", &[("Range", "bytes=1000-1999")]);
    match answer.status {
        206 => content::assert_same("the part", &answer.body, &body[1000..2000]),
        200 => content::assert_same("the whole", &answer.body, &body),
        status => panic!("answered {status}"),
    }
    let part = node.hit_with("/plain", &[("Range", "bytes=1000-1999")]);
    assert_eq!(part.status, 206);
    content::assert_same("the part", &part.body, &body[1000..2000]);
}

#[test]
fn a_stored_part_is_completed_with_the_rest_alone_only_where_a_tag_ties_them() {
    let body = content::bytes(13, 0, LENGTH);
    let origin = Origin::start();
    let plain = Reply::ok(body.clone()).ranges().fresh();
    origin.reply("/tagged", plain.clone().etag("one"));
    origin.reply("/plain", plain);
    let node = Node::in_front_of(&origin).start();
    let completed = |path| {
        let first = [("Range", "bytes=0-4")];
        node.get_with(path, &first);
        node.hit_with(path, &first);
        let whole = node.get(path);
        assert_eq!(whole.status, 200);
        content::assert_same(path, &whole.body, &body);
        origin.requests_for(path).pop().expect("a request")
    };

    let rest = completed("/tagged");
    assert_eq!(rest.header("range"), Some("bytes=5-"));
    assert_eq!(rest.header("if-range"), Some("\"one\""));
    // RFC 9111 §3.4: without a strong validator parts are not combined, and the rest is of no use.
    assert_eq!(completed("/plain").header("range"), None);
}

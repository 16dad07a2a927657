//! The PROXY protocol, version 2: whom the header in front of a connection names as the client, and
//! what becomes of connections that do not begin with one.
//!
//! Source: "The PROXY protocol", Willy Tarreau, HAProxy, section 2.2 unless another is named.

mod tls;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::raw::{self, Connection, HOST, Response, State};
use skerry_tests::reply::Reply;
use skerry_tests::wait;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The 13th byte: version and command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// The 14th byte: address family and transport.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Types of the options that may follow the addresses.
const AUTHORITY: u8 = 0x02;
const NOOP: u8 = 0x04;
const UNIQUE_ID: u8 = 0x05;
const CUSTOM: u8 = 0xe0;

const CLIENT_V4: &str = "192.0.2.7:4660";
const CLIENT_V6: &str = "[2001:db8::7]:50000";

/// How long the node waits for a whole header.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a look takes that is to find nothing.
const PAUSE: Duration = Duration::from_millis(50);

const SOON: Duration = Duration::from_secs(10);

fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a length of two bytes");
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(length.to_be_bytes());
    header.extend(rest);
    header
}

/// Family and address block of a connection from `client` to the balancer.
fn addresses(client: &str) -> (u8, Vec<u8>) {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, balancer) =
        if client.is_ipv4() { (TCP4, "198.51.100.1:443") } else { (TCP6, "[2001:db8::1]:443") };
    let ends = [client, balancer.parse().expect("an address")];
    let mut block = Vec::new();
    for end in ends {
        match end.ip() {
            IpAddr::V4(ip) => block.extend(ip.octets()),
            IpAddr::V6(ip) => block.extend(ip.octets()),
        }
    }
    for end in ends {
        block.extend(end.port().to_be_bytes());
    }
    (family, block)
}

/// The header of a connection that is forwarded for `client`.
fn forwarded(client: &str, options: &[u8]) -> Vec<u8> {
    let (family, mut block) = addresses(client);
    block.extend(options);
    header(PROXY, family, &block)
}

/// An option: type, length and value.
fn option(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a length of two bytes");
    let mut option = vec![kind];
    option.extend(length.to_be_bytes());
    option.extend(value);
    option
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

/// An origin that answers everything with the target that was asked for.
fn echo() -> Origin {
    let origin = Origin::start();
    origin.serve_rest(|request| Reply::ok(request.target.clone()).cache_control("no-store"));
    origin
}

fn builder(origin: &Origin) -> NodeBuilder {
    Node::in_front_of(origin).set("public", "proxy_protocol", true).set("log", "access", true)
}

/// A connection that begins with `header`, and its answer for `path`.
#[track_caller]
fn begin(node: &Node, header: &[u8], path: &str) -> (Connection, Response) {
    let mut connection = Connection::open(node.public());
    connection.send(header).expect("a header is sent");
    connection.request("GET", path, &[], b"").expect("a request is sent");
    let answer = connection.response("GET").expect("an answer");
    (connection, answer)
}

/// The answer to `client` for `path`, on a connection of its own.
#[track_caller]
fn get_as(node: &Node, client: &str, path: &str) -> Response {
    begin(node, &forwarded(client, b""), path).1
}

/// The client that the access log names for the first request for `path`.
#[track_caller]
fn client_of(node: &Node, path: &str) -> String {
    let words = format!("{path} version=");
    wait::value(&format!("the access log to tell of {path}"), SOON, || {
        let lines = node.stderr();
        let line = lines.iter().find(|line| line.contains(" access ") && line.contains(&words))?;
        let (_, rest) = line.split_once(" client=")?;
        rest.split(' ').next().map(str::to_owned)
    })
}

/// Sends these bytes and a request: closed without a byte in answer, and others are served on.
#[track_caller]
fn assert_refused(node: &Node, what: &str, bytes: &[u8]) {
    let mut connection = Connection::open(node.public());
    // The node may close before it has taken all of it.
    let _ = connection.send(&[bytes, &request("/refused")].concat());
    assert_eq!(connection.look(LIMIT + SOON), State::Closed, "{what}");
    assert_eq!(get_as(node, CLIENT_V4, "/after").text(), "/after", "after {what}");
}

#[track_caller]
fn assert_nothing_is_left_open(node: &Node) {
    wait::until("the node to close every connection", SOON, || {
        node.metric("skerry_connections_open", &[("listener", "public")]) == 0.0
    });
}

#[test]
fn every_request_of_a_connection_has_the_client_that_its_header_names() {
    let origin = echo();
    let node = builder(&origin).start();
    for (name, client) in [("v4", CLIENT_V4), ("v6", CLIENT_V6)] {
        let mut connection = Connection::open(node.public());
        connection.send(&forwarded(client, b"")).expect("a header is sent");
        for (at, method) in ["GET", "GET", "POST", "GET"].into_iter().enumerate() {
            let path = format!("/{name}/{at}");
            connection.request(method, &path, &[], b"").expect("a request is sent");
            assert_eq!(connection.response(method).expect("an answer").text(), path);
            assert_eq!(client_of(&node, &path), client, "{method} {path}");
        }
    }
}

#[test]
fn a_hit_has_a_client_of_its_own() {
    const OTHER: &str = "203.0.113.9:1234";
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let node = builder(&origin).start();
    assert_eq!(get_as(&node, CLIENT_V4, "/a").text(), "content");
    assert_eq!(client_of(&node, "/a"), CLIENT_V4);
    wait::until("a hit", SOON, || get_as(&node, OTHER, "/a").is_hit());
    let client = format!("client={OTHER} ");
    wait::until("the access log", SOON, || node.logged(&[client.as_str(), "path=/a ", "hit"]));
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn a_local_connection_keeps_its_own_address() {
    let origin = echo();
    let node = builder(&origin).start();
    let (family, block) = addresses(CLIENT_V4);
    let cases = [
        header(LOCAL, UNSPEC, b""),
        // Whatever stands in the block is skipped by its length, and the family is ignored.
        header(LOCAL, family, &block),
        header(LOCAL, UNSPEC, &option(CUSTOM, &request("/smuggled"))),
        header(LOCAL, 0x41, b"x"),
    ];
    for (at, header) in cases.iter().enumerate() {
        let path = format!("/local/{at}");
        let (connection, answer) = begin(&node, header, &path);
        assert_eq!(answer.text(), path);
        assert_eq!(client_of(&node, &path), format!("127.0.0.1:{}", connection.local_port()));
    }
    assert_eq!(origin.count("/smuggled"), 0);
}

#[test]
fn an_address_that_is_not_of_tcp_is_ignored() {
    let origin = echo();
    let node = builder(&origin).start();
    // Unspecified; UDP over IPv4 and IPv6; streams and datagrams of UNIX.
    for (family, length) in [(UNSPEC, 0), (UNSPEC, 7), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
        let path = format!("/family/{family:02x}/{length}");
        let (connection, answer) = begin(&node, &header(PROXY, family, &vec![b'1'; length]), &path);
        assert_eq!(answer.text(), path);
        assert_eq!(client_of(&node, &path), format!("127.0.0.1:{}", connection.local_port()));
    }
}

#[test]
fn options_behind_the_addresses_are_skipped() {
    let origin = echo();
    let node = builder(&origin).start();
    let options = [
        option(AUTHORITY, b"other.test"),
        option(UNIQUE_ID, &[0xff; 128]),
        option(CUSTOM, &request("/smuggled")),
        option(NOOP, &[0; 1000]),
        option(NOOP, b""),
    ];
    for (path, client) in [("/v4", CLIENT_V4), ("/v6", CLIENT_V6)] {
        let (_, answer) = begin(&node, &forwarded(client, &options.concat()), path);
        assert_eq!(answer.text(), path);
        assert_eq!(client_of(&node, path), client);
    }
    assert_eq!(origin.count("/smuggled"), 0);
}

#[test]
fn a_header_in_pieces_is_put_together() {
    let origin = echo();
    let node = builder(&origin).start();
    let header = forwarded(CLIENT_V4, &option(NOOP, b"nothing"));
    // Within and behind the signature, the fields, the addresses and the option.
    for cut in [1, 12, 13, 14, 15, 16, 20, 27, 28, 30, header.len() - 1, header.len()] {
        let path = format!("/cut/{cut}");
        let mut connection = Connection::open(node.public());
        connection.send(&header[..cut]).expect("a part is sent");
        assert_eq!(connection.look(PAUSE), State::Quiet, "after {cut} bytes");
        connection.send(&[&header[cut..], &request(&path)].concat()).expect("the rest is sent");
        assert_eq!(connection.response("GET").expect("an answer").text(), path);
        assert_eq!(client_of(&node, &path), CLIENT_V4);
    }
    let mut connection = Connection::open(node.public());
    for byte in [header, request("/bytes")].concat() {
        connection.send(&[byte]).expect("a byte is sent");
    }
    assert_eq!(connection.response("GET").expect("an answer").text(), "/bytes");
    assert_eq!(client_of(&node, "/bytes"), CLIENT_V4);
}

#[test]
fn requests_in_the_segment_of_the_header_are_kept() {
    let origin = echo();
    let node = builder(&origin).start();
    for client in [CLIENT_V4, CLIENT_V6] {
        let mut connection = Connection::open(node.public());
        let bytes = [forwarded(client, &option(NOOP, b"x")), request("/first"), request("/second")].concat();
        connection.send(&bytes).expect("header and requests are sent");
        for path in ["/first", "/second"] {
            assert_eq!(connection.response("GET").expect("an answer").text(), path);
            let client = format!("client={client} ");
            wait::until("the access log", SOON, || node.logged(&[client.as_str(), path]));
        }
    }
}

#[test]
fn a_connection_without_the_header_is_closed_unanswered() {
    let origin = echo();
    let node = builder(&origin).start();
    let good = forwarded(CLIENT_V4, b"");
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_refused(&node, "no header", b"");
    for at in [0, 4, 7, 11] {
        assert_refused(&node, &format!("a signature that is wrong at {at}"), &with(at, b'x'));
    }
    for byte in [0x01, 0x11, 0x31, 0xa1, 0xf1] {
        assert_refused(&node, &format!("version and command {byte:#04x}"), &with(12, byte));
    }
    for line in ["PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n", "PROXY UNKNOWN\r\n"] {
        assert_refused(&node, "a header of version 1", line.as_bytes());
    }
    // A length beyond what is sent, and beyond what a header may need.
    let mut long = good.clone();
    long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    assert_refused(&node, "a length of 65535", &long);
    assert_eq!(origin.count("/refused"), 0);
    assert_nothing_is_left_open(&node);
}

#[test]
fn the_header_that_curl_sends_is_of_version_1_and_refused() {
    let origin = echo();
    let node = builder(&origin).start();
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "30", "--noproxy", "*", "--haproxy-protocol"])
        .arg(node.url("/refused"))
        .output()
        .expect("curl runs");
    // An empty answer, or a connection that is reset while curl writes or reads.
    assert!(matches!(output.status.code(), Some(52 | 55 | 56)), "curl: {}", output.status);
    assert!(output.stdout.is_empty());
    assert_eq!(get_as(&node, CLIENT_V4, "/after").text(), "/after");
    assert_eq!(origin.count("/refused"), 0);
}

/// A receiver has to reject partial headers: here the block is too short for its own family.
#[test]
fn a_length_that_is_too_short_for_the_addresses_is_refused() {
    let origin = echo();
    let node = builder(&origin).start();
    for (client, length) in [(CLIENT_V4, 0), (CLIENT_V4, 11), (CLIENT_V6, 12), (CLIENT_V6, 35)] {
        let (family, block) = addresses(client);
        let what = format!("{length} bytes for the addresses of {client}");
        assert_refused(&node, &what, &header(PROXY, family, &block[..length]));
    }
    assert_eq!(origin.count("/refused"), 0);
    assert_nothing_is_left_open(&node);
}

/// Receivers must drop commands, and reject families and transports, that are not assigned.
#[test]
fn what_the_protocol_does_not_assign_is_refused() {
    let origin = echo();
    let node = builder(&origin).start();
    let (family, block) = addresses(CLIENT_V4);
    for command in [0x22, 0x2f] {
        let what = format!("version and command {command:#04x}");
        assert_refused(&node, &what, &header(command, family, &block));
    }
    for family in [0x13, 0x1f, 0x41, 0xf1] {
        let what = format!("family and transport {family:#04x}");
        assert_refused(&node, &what, &header(PROXY, family, &block));
    }
    assert_eq!(origin.count("/refused"), 0);
    assert_nothing_is_left_open(&node);
}

#[test]
fn a_header_that_breaks_off_costs_nothing() {
    let origin = echo();
    let node = builder(&origin).start();
    let header = forwarded(CLIENT_V4, b"");
    for cut in [0, 1, 12, 15, 16, 27] {
        let mut stream = TcpStream::connect(node.public()).expect("a connection");
        stream.set_read_timeout(Some(raw::TIMEOUT)).expect("a timeout above zero");
        stream.write_all(&header[..cut]).expect("a part is sent");
        stream.shutdown(Shutdown::Write).expect("the end is sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the end of the connection");
        assert!(answer.is_empty(), "{cut} bytes were answered: {answer:?}");
    }
    assert_eq!(get_as(&node, CLIENT_V4, "/after").text(), "/after");
    assert_nothing_is_left_open(&node);
}

#[test]
fn a_header_that_never_ends_is_cut_at_the_timeout() {
    let origin = echo();
    let node = builder(&origin).start();
    let mut silent = Connection::open(node.public());
    // Its length takes in the request, and one byte that never comes.
    let taken_in = request("/taken-in");
    let mut bytes = forwarded(CLIENT_V4, &vec![0; taken_in.len() + 1]);
    bytes.truncate(28);
    bytes.extend(&taken_in);
    let mut waiting = Connection::open(node.public());
    waiting.send(&bytes).expect("a header and a request are sent");

    let mut slow = Connection::open(node.public());
    let started = Instant::now();
    // More bytes than can be sent before the scenario fails.
    for byte in header(PROXY, TCP4, &[0; 2000]) {
        assert!(started.elapsed() < 3 * LIMIT, "the slow client is still there");
        if slow.send(&[byte]).is_err() {
            break;
        }
        match slow.look(PAUSE) {
            State::Quiet => {}
            State::Closed => break,
            State::Data => panic!("half a header was answered"),
        }
    }
    let took = started.elapsed();
    assert!(took > LIMIT - Duration::from_secs(1), "it was cut after {took:?}");
    assert_eq!(silent.look(SOON), State::Closed);
    assert_eq!(waiting.look(SOON), State::Closed);
    assert_eq!(origin.count("/taken-in"), 0);
    wait::until("the node to count them", SOON, || {
        node.metric("skerry_connections_timed_out_total", &[("listener", "public")]) >= 3.0
    });
    assert_eq!(get_as(&node, CLIENT_V4, "/after").text(), "/after");
    assert_nothing_is_left_open(&node);
}

/// Section 5: whether headers are believed is configured, never guessed.
#[test]
fn a_node_that_expects_no_header_believes_none() {
    let origin = echo();
    let node = Node::in_front_of(&origin).set("log", "access", true).start();
    let answer = raw::exchange(node.public(), &[forwarded(CLIENT_V4, b""), request("/believed")].concat());
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    assert_eq!(node.get("/after").text(), "/after");
    assert_eq!(origin.count("/believed"), 0);
    assert!(!node.logged(&["192.0.2.7"]));
}

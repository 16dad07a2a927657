//! Headers of requests as the lane reads them. What it takes, httparse and a reading by lines (RFC 9112,
//! sections 2, 3 and 5) take for the same; what it says of a beginning stands when more comes.
//!
//! The source is included as it is. The crate that it is of would bring a runtime and TLS.
#![no_main]

use http::{HeaderValue, Method, Version};
use httparse::{EMPTY_HEADER, Status};
use libfuzzer_sys::fuzz_target;
use parse::{Parsed, Plain};

#[path = "../../../../../node/core/src/lane/parse.rs"]
mod parse;

/// What a request of the lane carries, where the source looks for it.
enum Body {
    Empty,
}

/// Beginnings of an input that are read; of a short one, all.
const BEGINNINGS: usize = 64;
/// More fields than the lane takes.
const FIELDS: usize = 64;

/// What some bytes are, and the length of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Part,
    Plain(usize),
    Other,
}

fn end(bytes: &[u8]) -> End {
    let mut slots = parse::slots();
    match parse::parse(bytes, &mut slots) {
        Parsed::Part => End::Part,
        Parsed::Plain(_, length) => End::Plain(length),
        Parsed::Other => End::Other,
    }
}

fn method(plain: &Plain<'_>) -> Method {
    if plain.is_head { Method::HEAD } else { Method::GET }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The header says what was read, line by line, and ends with the first empty one.
fn by_lines(header: &[u8], plain: &Plain<'_>) {
    let lines = header.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.skip_while(|line| line.is_empty());
    let mut line = || {
        let line = lines.next().expect("a line");
        assert!(line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()));
        line
    };
    assert!(plain.target.starts_with('/') && !plain.target.contains([' ', '\t']));
    assert_eq!(line(), format!("{} {} HTTP/1.1", method(plain), plain.target).as_bytes());
    for field in plain.fields {
        let line = line();
        let colon = line.iter().position(|byte| *byte == b':').expect("a name");
        assert_eq!((&line[..colon], line[colon + 1..].trim_ascii()), (field.name.as_bytes(), field.value));
        assert!(colon > 0 && field.name.bytes().all(is_token));
    }
    assert!(lines.eq([b""; 2]));
}

/// There is one host, no content, and nothing that hyper should see.
fn is_for_the_lane(plain: &Plain<'_>) {
    let values = |name| {
        let fields = plain.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value).collect::<Vec<_>>()
    };
    assert_eq!(values("host"), [plain.host.as_bytes()]);
    assert!(values("connection").iter().all(|value| value.eq_ignore_ascii_case(b"keep-alive")));
    for other in ["content-length", "transfer-encoding", "te", "expect", "upgrade"] {
        assert!(values(other).is_empty(), "{other}");
    }
}

/// What a handler gets is what was read.
fn request(plain: &Plain<'_>) {
    let headers = plain.headers().expect("fields as RFC 9110 wants them");
    assert_eq!(headers.len(), plain.fields.len());
    for one in plain.fields {
        let same = plain.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(one.name));
        let values = headers.get_all(one.name).iter().map(HeaderValue::as_bytes);
        assert!(values.eq(same.map(|field| field.value)));
    }
    // Some characters are taken in no target; hyper refuses them.
    let Some(request) = plain.request() else { return };
    assert_eq!((request.method(), request.version()), (&method(plain), Version::HTTP_11));
    assert_eq!(request.headers(), &headers);
    // Of a fragment, which does not belong there, a handler hears nothing.
    let target = request.uri().path_and_query().map(|target| target.as_str());
    assert_eq!(target, plain.target.split('#').next());
}

fuzz_target!(|data: &[u8]| {
    let whole = end(data);
    for length in (0..data.len()).step_by(1 + data.len() / BEGINNINGS) {
        let beginning = end(&data[..length]);
        assert!(beginning == End::Part || beginning == whole, "{length}: {beginning:?}, then {whole:?}");
    }

    let mut fields = [EMPTY_HEADER; FIELDS];
    let mut other = httparse::Request::new(&mut fields);
    let read = other.parse(data);
    let mut slots = parse::slots();
    match parse::parse(data, &mut slots) {
        Parsed::Part => assert_eq!(read, Ok(Status::Partial)),
        Parsed::Plain(plain, length) => {
            assert_eq!(read, Ok(Status::Complete(length)));
            assert_eq!(other.method, Some(method(&plain).as_str()));
            assert_eq!((other.path, other.version), (Some(plain.target), Some(1)));
            assert_eq!(other.headers, plain.fields);
            assert_eq!(end(&data[..length]), whole);
            by_lines(&data[..length], &plain);
            is_for_the_lane(&plain);
            request(&plain);
        }
        Parsed::Other => {}
    }
});

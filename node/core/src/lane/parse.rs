//! Which requests are for the lane.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use httparse::{Header, Status};

use crate::Body;

/// Fields of a request in the lane; those with more are hyper's.
const MAX_FIELDS: usize = 48;

pub(super) type Slots<'a> = [MaybeUninit<Header<'a>>; MAX_FIELDS];

pub(super) fn slots<'a>() -> Slots<'a> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// A `GET` or `HEAD` in HTTP/1.1 with an origin-form target and one `Host`, without content.
#[derive(Debug)]
pub struct Plain<'a> {
    pub(super) is_head: bool,
    /// The `Host` field, as it came.
    pub host: &'a str,
    /// Path and query, as they came: the first byte is a slash.
    pub target: &'a str,
    /// Every field, `Host` too.
    pub fields: &'a [Header<'a>],
}

/// What the bytes read so far are.
pub(super) enum Parsed<'a> {
    /// The beginning of a header.
    Part,
    /// A request for the lane, and the length of its header.
    Plain(Plain<'a>, usize),
    /// Not for the lane, or no request at all.
    Other,
}

pub(super) fn parse<'a>(bytes: &'a [u8], slots: &'a mut Slots<'a>) -> Parsed<'a> {
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, slots) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Parsed::Part,
        Err(_) => return Parsed::Other,
    };
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Parsed::Other,
    };
    let (Some(1), Some(target)) = (request.version, request.path.filter(|path| path.starts_with('/'))) else {
        return Parsed::Other;
    };
    let fields: &'a [Header<'a>] = request.headers;
    let mut host = None;
    for field in fields {
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case("host") => {
                let Ok(text) = std::str::from_utf8(field.value) else { return Parsed::Other };
                if host.replace(text).is_some() {
                    return Parsed::Other;
                }
            }
            10 if field.name.eq_ignore_ascii_case("connection")
                && !field.value.eq_ignore_ascii_case(b"keep-alive") =>
            {
                return Parsed::Other;
            }
            2 if field.name.eq_ignore_ascii_case("te") => return Parsed::Other,
            6 if field.name.eq_ignore_ascii_case("expect") => return Parsed::Other,
            7 if field.name.eq_ignore_ascii_case("upgrade") => return Parsed::Other,
            14 if field.name.eq_ignore_ascii_case("content-length") => return Parsed::Other,
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => return Parsed::Other,
            _ => {}
        }
    }
    let Some(host) = host else { return Parsed::Other };
    Parsed::Plain(Plain { is_head, host, target, fields }, length)
}

impl Plain<'_> {
    /// The fields as a map; `None` when one of them is not as RFC 9110 §5 wants it.
    pub fn headers(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.fields.len());
        for field in self.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
        Some(headers)
    }

    /// The request as a handler takes it.
    pub(super) fn request(&self) -> Option<Request<Body>> {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = if self.is_head { Method::HEAD } else { Method::GET };
        *request.uri_mut() = self.target.parse::<Uri>().ok()?;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers()?;
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(text: &str) -> bool {
        matches!(parse(text.as_bytes(), &mut slots()), Parsed::Plain(_, length) if length == text.len())
    }

    #[test]
    fn plain_requests_are_told_from_the_others() {
        for plain in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD /x?y HTTP/1.1\r\nhost: a:1\r\nConnection: Keep-Alive\r\nRange: bytes=0-\r\n\r\n",
        ] {
            assert!(is_plain(plain), "{plain:?}");
        }
        for other in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-A\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(!is_plain(other), "{other:?}");
        }
    }

    #[test]
    fn a_part_of_a_header_is_neither() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 1..text.len() {
            assert!(matches!(parse(&text.as_bytes()[..end], &mut slots()), Parsed::Part), "{end}");
        }
    }

    #[test]
    fn a_request_carries_what_was_read() {
        let text = "HEAD /x?y HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\nrest";
        let mut slots = slots();
        let Parsed::Plain(plain, length) = parse(text.as_bytes(), &mut slots) else { panic!("not plain") };
        let request = plain.request().unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::HEAD, "/x?y"));
        assert_eq!(request.headers().get_all("x").iter().count(), 2);
        assert_eq!(&text[length..], "rest");
    }
}

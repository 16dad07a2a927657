//! `Cache-Status`: what the cache did, told to whoever asks (RFC 9211).

use std::io::{self, Write};

use http::header::{CACHE_STATUS, HeaderMap};
use http::{HeaderValue, StatusCode};

/// The name of this cache in the list.
pub const NAME: &str = "skerry";

/// Long enough for everything but a key or a long detail.
const USUAL_LENGTH: usize = 128;

/// Why a request went to the origin (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fwd {
    /// The cache does not handle such requests.
    Bypass,
    /// The method is forwarded always.
    Method,
    /// Nothing is stored for the target.
    UriMiss,
    /// Something is stored, but for other request fields.
    VaryMiss,
    /// Nothing that could be used is stored.
    Miss,
    /// The request did not want what is stored.
    Request,
    /// What is stored is stale.
    Stale,
    /// What is stored lacks a part that was asked for.
    Partial,
}

impl Fwd {
    /// The token of the parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// How one request was handled. The default says nothing but the name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    /// Answered from the store without asking the origin. Excludes `fwd`.
    pub hit: bool,
    /// Why the origin was asked.
    pub fwd: Option<Fwd>,
    /// What the origin answered, where that is not the status of the response.
    pub fwd_status: Option<StatusCode>,
    /// Seconds of freshness left, negative when stale.
    pub ttl: Option<i64>,
    /// Whether the origin's answer was stored.
    pub stored: bool,
    /// Whether the request shared the origin request of another.
    pub collapsed: bool,
    /// The cache key; left out when it is not printable ASCII.
    pub key: Option<&'a str>,
    /// Anything else, best a token.
    pub detail: Option<&'static str>,
}

impl CacheStatus<'_> {
    /// The list member. A hit costs one allocation, that of the value.
    pub fn to_value(&self) -> HeaderValue {
        let mut buffer = [0_u8; USUAL_LENGTH];
        let mut free = &mut buffer[..];
        if self.write(&mut free).is_ok() {
            let length = USUAL_LENGTH - free.len();
            return value(&buffer[..length]);
        }
        let mut long = Vec::with_capacity(USUAL_LENGTH * 2);
        // Writing to a vector cannot fail; what was written stands in any case.
        let _ = self.write(&mut long);
        value(&long)
    }

    /// Adds the member after those of caches nearer to the origin (RFC 9211 §2).
    pub fn append_to(&self, headers: &mut HeaderMap) {
        headers.append(CACHE_STATUS, self.to_value());
    }

    /// Writes the list member.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(NAME.as_bytes())?;
        if self.hit {
            out.write_all(b"; hit")?;
        }
        if let Some(fwd) = self.fwd {
            out.write_all(b"; fwd=")?;
            out.write_all(fwd.as_str().as_bytes())?;
        }
        if let Some(status) = self.fwd_status {
            out.write_all(b"; fwd-status=")?;
            out.write_all(status.as_str().as_bytes())?;
        }
        if let Some(ttl) = self.ttl {
            out.write_all(b"; ttl=")?;
            write_integer(out, ttl)?;
        }
        if self.stored {
            out.write_all(b"; stored")?;
        }
        if self.collapsed {
            out.write_all(b"; collapsed")?;
        }
        if let Some(key) = self.key.filter(|key| is_printable(key)) {
            out.write_all(b"; key=")?;
            write_string(out, key)?;
        }
        match self.detail {
            Some(detail) if is_token(detail) => {
                out.write_all(b"; detail=")?;
                out.write_all(detail.as_bytes())
            }
            Some(detail) if is_printable(detail) => {
                out.write_all(b"; detail=")?;
                write_string(out, detail)
            }
            _ => Ok(()),
        }
    }
}

fn value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).unwrap_or_else(|_| HeaderValue::from_static(NAME))
}

/// Writes a decimal; the largest integers of structured fields have 15 digits (RFC 8941 §3.3.1).
pub fn write_integer(out: &mut impl Write, integer: i64) -> io::Result<()> {
    const MOST: u64 = 999_999_999_999_999;
    let mut rest = integer.unsigned_abs().min(MOST);
    let mut digits = [0_u8; 16];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789"[usize::try_from(rest % 10).unwrap_or(0)];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if integer < 0 {
        out.write_all(b"-")?;
    }
    out.write_all(&digits[start..])
}

/// A structured String (RFC 8941 §3.3.3); the text must be printable.
fn write_string(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(b"\"")?;
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.write_all(b"\\")?;
        }
        out.write_all(&[byte])?;
    }
    out.write_all(b"\"")
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// A structured Token (RFC 8941 §3.3.4).
fn is_token(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_says_how_long() {
        let status = CacheStatus { hit: true, ttl: Some(376), ..Default::default() };
        assert_eq!(status.to_value(), "skerry; hit; ttl=376");
        let stale = CacheStatus { ttl: Some(-412), ..status };
        assert_eq!(stale.to_value(), "skerry; hit; ttl=-412");
        let zero = CacheStatus { ttl: Some(0), ..status };
        assert_eq!(zero.to_value(), "skerry; hit; ttl=0");
    }

    #[test]
    fn a_forward_says_why() {
        let status = CacheStatus {
            fwd: Some(Fwd::UriMiss),
            fwd_status: Some(StatusCode::OK),
            stored: true,
            collapsed: true,
            ..Default::default()
        };
        assert_eq!(status.to_value(), "skerry; fwd=uri-miss; fwd-status=200; stored; collapsed");
        let tokens = [
            (Fwd::Bypass, "bypass"),
            (Fwd::Method, "method"),
            (Fwd::VaryMiss, "vary-miss"),
            (Fwd::Miss, "miss"),
            (Fwd::Request, "request"),
            (Fwd::Stale, "stale"),
            (Fwd::Partial, "partial"),
        ];
        for (fwd, token) in tokens {
            let value = CacheStatus { fwd: Some(fwd), ..Default::default() }.to_value();
            assert_eq!(value, format!("skerry; fwd={token}"));
        }
    }

    #[test]
    fn details_are_tokens_or_strings() {
        let with = |detail| CacheStatus { detail: Some(detail), ..Default::default() }.to_value();
        assert_eq!(with("no-store"), "skerry; detail=no-store");
        assert_eq!(with("said \"no\""), "skerry; detail=\"said \\\"no\\\"\"");
        assert_eq!(with("2fast"), "skerry; detail=\"2fast\"");
        assert_eq!(with("\u{e9}"), "skerry");
    }

    #[test]
    fn a_key_of_any_length_is_written() {
        let key = "/a\\b".repeat(100);
        let status = CacheStatus { hit: true, key: Some(&key), ..Default::default() };
        let expected = format!("skerry; hit; key=\"{}\"", "/a\\\\b".repeat(100));
        assert_eq!(status.to_value(), expected);
        let odd = CacheStatus { key: Some("/\n"), ..status };
        assert_eq!(odd.to_value(), "skerry; hit");
    }

    #[test]
    fn integers_stay_within_fifteen_digits() {
        let ttl = |ttl| CacheStatus { ttl: Some(ttl), ..Default::default() }.to_value();
        assert_eq!(ttl(i64::MAX), "skerry; ttl=999999999999999");
        assert_eq!(ttl(i64::MIN), "skerry; ttl=-999999999999999");
    }

    #[test]
    fn the_origin_comes_first() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_STATUS, HeaderValue::from_static("shield; hit"));
        CacheStatus { fwd: Some(Fwd::Miss), ..Default::default() }.append_to(&mut headers);
        let values: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(values, ["shield; hit", "skerry; fwd=miss"]);
    }
}

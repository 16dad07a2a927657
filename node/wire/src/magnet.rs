//! Magnet links (BEP 9, BEP 52): a torrent's info-hashes, and where to ask for the rest.
//!
//! `magnet:?xt=urn:btih:<v1>&xt=urn:btmh:<v2>&dn=<name>&tr=<tracker>&ws=<web seed>&x.pe=<peer>`

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;

use crate::hash::{InfoHash, Sha1Hash, Sha256Hash, from_hex};

/// Longest link that is read, bytes.
pub const MAX_MAGNET: usize = 64 << 10;

/// Most trackers, web seeds and peers, each.
pub const MAX_SOURCES: usize = 200;

/// What a value may hold as it is (RFC 3986, "unreserved").
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A SHA-256 multihash begins with its code and its length.
const SHA2_256: &str = "1220";

/// Why a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another scheme, or none.
    #[error("not a magnet link: it does not begin with magnet:?")]
    Scheme,
    /// Over [`MAX_MAGNET`].
    #[error("a magnet link of more than {MAX_MAGNET} bytes")]
    Size,
    /// `urn:btih:` and `urn:btmh:` only, in their own forms.
    #[error("a magnet link's info-hash is neither 40 hex digits, 32 of base32, nor a SHA-256 multihash")]
    Hash,
    /// Two different info-hashes of one version.
    #[error("a magnet link with two info-hashes of the same version")]
    TwoHashes,
    /// No `xt` for BitTorrent.
    #[error("a magnet link without a BitTorrent info-hash")]
    NoHash,
    /// Over [`MAX_SOURCES`].
    #[error("a magnet link with more than {MAX_SOURCES} trackers, web seeds or peers")]
    Sources,
}

/// A magnet link: one info-hash or both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Magnet {
    /// The v1 info-hash.
    pub v1: Option<Sha1Hash>,
    /// The v2 info-hash.
    pub v2: Option<Sha256Hash>,
    /// A name to show until the torrent's own is known.
    pub name: Option<String>,
    /// Trackers.
    pub trackers: Vec<String>,
    /// Web seeds.
    pub web_seeds: Vec<String>,
    /// Peers: `host:port`, an IPv6 address in brackets.
    pub peers: Vec<String>,
}

impl Magnet {
    /// The info-hashes.
    pub fn hashes(&self) -> impl Iterator<Item = InfoHash> {
        let v1 = self.v1.map(InfoHash::V1);
        v1.into_iter().chain(self.v2.map(InfoHash::V2))
    }

    fn add_topic(&mut self, topic: &str) -> Result<(), Error> {
        let lower = topic.to_ascii_lowercase();
        if let Some(hash) = lower.strip_prefix("urn:btih:") {
            let hash = from_hex(hash).or_else(|| from_base32(hash)).map(Sha1Hash).ok_or(Error::Hash)?;
            set(&mut self.v1, hash)
        } else if let Some(hash) = lower.strip_prefix("urn:btmh:") {
            let hash = hash.strip_prefix(SHA2_256).and_then(from_hex).map(Sha256Hash).ok_or(Error::Hash)?;
            set(&mut self.v2, hash)
        } else {
            // Other networks have topics of their own.
            Ok(())
        }
    }
}

fn set<T: PartialEq>(place: &mut Option<T>, hash: T) -> Result<(), Error> {
    match place {
        Some(known) if *known != hash => Err(Error::TwoHashes),
        _ => {
            *place = Some(hash);
            Ok(())
        }
    }
}

impl FromStr for Magnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_MAGNET {
            return Err(Error::Size);
        }
        let (scheme, query) = text.trim().split_once('?').ok_or(Error::Scheme)?;
        if !scheme.eq_ignore_ascii_case("magnet:") {
            return Err(Error::Scheme);
        }
        let mut magnet = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            // Some number their keys: `tr.1`, `tr.2`.
            let (name, number) = key.rsplit_once('.').unwrap_or((&*key, "0"));
            let key = if number.bytes().all(|digit| digit.is_ascii_digit()) { name } else { &*key };
            let usable = !value.is_empty() && !value.contains(char::is_control);
            match key {
                "xt" => magnet.add_topic(&value)?,
                "dn" if usable => magnet.name = Some(value.into_owned()),
                "tr" if usable => magnet.trackers.push(value.into_owned()),
                "ws" if usable => magnet.web_seeds.push(value.into_owned()),
                "x.pe" if is_peer(&value) => magnet.peers.push(value.into_owned()),
                _ => {}
            }
        }
        if magnet.v1.is_none() && magnet.v2.is_none() {
            return Err(Error::NoHash);
        }
        if [&magnet.trackers, &magnet.web_seeds, &magnet.peers].iter().any(|list| list.len() > MAX_SOURCES) {
            return Err(Error::Sources);
        }
        Ok(magnet)
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("magnet:?")?;
        let mut separator = "";
        let mut pair = |key: &str, value: &dyn fmt::Display| {
            let before = std::mem::replace(&mut separator, "&");
            write!(formatter, "{before}{key}={value}")
        };
        if let Some(hash) = self.v1 {
            pair("xt", &format_args!("urn:btih:{hash}"))?;
        }
        if let Some(hash) = self.v2 {
            pair("xt", &format_args!("urn:btmh:{SHA2_256}{hash}"))?;
        }
        let lists = [("tr", &self.trackers), ("ws", &self.web_seeds), ("x.pe", &self.peers)];
        let lists = lists.into_iter().flat_map(|(key, list)| list.iter().map(move |value| (key, value)));
        for (key, value) in self.name.iter().map(|name| ("dn", name)).chain(lists) {
            pair(key, &utf8_percent_encode(value, ESCAPED))?;
        }
        Ok(())
    }
}

/// `host:port`, whatever the host is.
fn is_peer(text: &str) -> bool {
    let host_is_one = |host: &str| match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.len() <= 253 && host.bytes().all(host_byte)
        }
    };
    text.rsplit_once(':')
        .is_some_and(|(host, port)| host_is_one(host) && port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// 20 bytes from 32 digits of RFC 4648's base32, here in lower case.
fn from_base32(text: &str) -> Option<[u8; 20]> {
    let mut hash = [0; 20];
    let (groups, rest) = text.as_bytes().as_chunks::<8>();
    if groups.len() != 4 || !rest.is_empty() {
        return None;
    }
    for (bytes, group) in hash.chunks_exact_mut(5).zip(groups) {
        let mut bits: u64 = 0;
        for digit in group {
            let value = match digit {
                b'a'..=b'z' => digit - b'a',
                b'2'..=b'7' => digit - b'2' + 26,
                _ => return None,
            };
            bits = (bits << 5) | u64::from(value);
        }
        bytes.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The test torrents of BEP 52's authors.
    const V1: &str = "631a31dd0a46257d5078c0dee4e66e26f73e42ac";
    const V2: &str = "d8dd32ac93357c368556af3ac1d95c9d76bd0dff6fa9833ecdac3d53134efabb";

    #[test]
    fn a_hybrid_s_link_is_read_and_written() {
        let text = format!(
            "magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}&dn=a%20b%26c&tr=udp%3A%2F%2Ft.example%3A6969\
             &tr=http%3A%2F%2Fu.example%2Fannounce%3Fx%3D1&ws=http%3A%2F%2Fnode.example%2F&x.pe=192.0.2.1%3A6881\
             &x.pe=%5B2001%3Adb8%3A%3A1%5D%3A1"
        );
        let magnet: Magnet = text.parse().unwrap();
        assert_eq!(magnet.v1.unwrap().to_string(), V1);
        assert_eq!(magnet.v2.unwrap().to_string(), V2);
        assert_eq!(magnet.name.as_deref(), Some("a b&c"));
        assert_eq!(magnet.trackers, ["udp://t.example:6969", "http://u.example/announce?x=1"]);
        assert_eq!(magnet.web_seeds, ["http://node.example/"]);
        assert_eq!(magnet.peers, ["192.0.2.1:6881", "[2001:db8::1]:1"]);
        assert_eq!(magnet.hashes().count(), 2);
        assert_eq!(magnet.to_string(), text);
    }

    #[test]
    fn old_and_odd_forms_are_read() {
        // RFC 4648 base32 of V1, by Python's base64 module.
        let base32 = "MMNDDXIKIYSX2UDYYDPOJZTOE33T4QVM";
        for text in [
            format!("MAGNET:?xt=urn:btih:{base32}"),
            format!("magnet:?xt.1=urn:btih:{}&xl=10&unknown", V1.to_uppercase()),
            format!("magnet:?xt=urn:sha1:YNCKHTQCWBTRNJIV4WNAE52SJUQCZO5C&xt=URN:BTIH:{base32}&dn=&tr="),
            format!(" magnet:?xt=urn:btih:{V1}&xt=urn:btih:{base32}&x.pe=nobody&x.pe=[::1:80&x.pe=a:0\n"),
        ] {
            let magnet: Magnet = text.parse().unwrap();
            let expected = Magnet { v1: Some(V1.parse().unwrap()), ..Magnet::default() };
            assert_eq!(magnet, expected, "{text}");
        }
        let magnet: Magnet =
            format!("magnet:?xt=urn:btih:{V1}&tr.1=http://a/&tr.2=http://b/").parse().unwrap();
        assert_eq!(magnet.trackers, ["http://a/", "http://b/"]);
    }

    #[test]
    fn what_is_no_link_is_refused() {
        let parse = |text: &str| text.parse::<Magnet>().expect_err(text);
        assert_eq!(parse(""), Error::Scheme);
        assert_eq!(parse("http://a/?xt=urn:btih:"), Error::Scheme);
        assert_eq!(parse("magnet:?"), Error::NoHash);
        assert_eq!(parse("magnet:?dn=x&xt=urn:ed2k:31D6CFE0D16AE931B73C59D7E0C089C0"), Error::NoHash);
        for hash in ["btih:", "btih:12", "btmh:", &format!("btmh:{V2}"), &format!("btmh:1320{V2}")] {
            assert_eq!(parse(&format!("magnet:?xt=urn:{hash}")), Error::Hash, "{hash}");
        }
        assert_eq!(parse(&format!("magnet:?xt=urn:btih:{}", "é".repeat(20))), Error::Hash);
        assert_eq!(parse(&format!("magnet:?xt=urn:btih:{}", "1".repeat(32))), Error::Hash);
        let other = "0".repeat(40);
        assert_eq!(parse(&format!("magnet:?xt=urn:btih:{V1}&xt=urn:btih:{other}")), Error::TwoHashes);
        assert_eq!(parse(&format!("magnet:?xt=urn:btih:{V1}{}", "&tr=a".repeat(201))), Error::Sources);
        assert_eq!(parse(&"m".repeat(MAX_MAGNET + 1)), Error::Size);
    }
}

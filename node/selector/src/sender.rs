//! Who a request is for: the connection's other end, unless that is trusted to speak for others
//! (`Forwarded`, RFC 7239; else `X-Forwarded-For`).
//!
//! Where there are both, `Forwarded` counts alone, whether they agree or not and whether it can be read or
//! not: it is the standard, and how two chains belong together cannot be told (RFC 7239 §7.4). Nothing tells
//! either which hop wrote what, so a trusted proxy must replace, or drop, the one that it does not write
//! itself; a client's own goes through it otherwise.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use skerry_registry::prefix::Prefix;

/// Hops that are looked at, from the last.
const MOST_HOPS: usize = 32;

/// Who may speak for others.
pub(crate) struct Trusted(Vec<Prefix>);

impl Trusted {
    pub(crate) fn new(prefixes: Vec<Prefix>) -> Self {
        Self(prefixes)
    }

    /// Whether an address is one of them.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|prefix| prefix.contains(address))
    }

    /// Who asks: seen from the last hop, the first that is not trusted. What cannot be read ends the way
    /// back, since whatever stands before it could be anybody's.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let forwarded = headers.contains_key("forwarded");
        let name = if forwarded { "forwarded" } else { "x-forwarded-for" };
        let values = headers.get_all(name).iter().rev();
        let values = values.map_while(|value| if forwarded { elements(value) } else { Some(entries(value)) });
        let hops = values.flat_map(|hops| hops.into_iter().rev());
        for hop in hops.take(MOST_HOPS) {
            if !self.has(client) {
                break;
            }
            let address = if forwarded { forwarded_for(hop) } else { address(hop) };
            let Some(address) = address else { break };
            client = address.to_canonical();
        }
        client
    }
}

/// Hops of a value of `Forwarded`; `None` when it cannot be read.
fn elements(value: &HeaderValue) -> Option<Vec<&str>> {
    split(value.to_str().ok()?, b',')
}

/// Hops of a value of `X-Forwarded-For`, in which quotes mean nothing. One that is no text is empty: a client
/// may have written it before what its proxy adds.
fn entries(value: &HeaderValue) -> Vec<&str> {
    let hops = value.as_bytes().split(|byte| *byte == b',');
    hops.map(|hop| str::from_utf8(hop).unwrap_or_default()).collect()
}

/// Parts between separators that stand in no quotes. `None` when quotes stay open, or there is a backslash
/// outside of them: a client may have opened quotes so that what its proxy adds is a part of its own words.
fn split(text: &str, separator: u8) -> Option<Vec<&str>> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'\\' => return None,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                // A separator is one byte of ASCII, so both sides are whole characters.
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!quoted).then_some(parts)
}

/// The address of an element's `for` (RFC 7239 §4, §5.2, §6).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = split(element, b';')?;
    let mut pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// An address, with or without a port; IPv6 in brackets when it has one.
fn address(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    if let Ok(address) = node.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = node.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    node.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|prefix| prefix.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Trusted::new(trusted.into()).client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn only_the_trusted_speak_for_others() {
        let header = ("forwarded", "for=192.0.2.1");
        assert_eq!(client("10.0.0.1", &[header]), "192.0.2.1");
        assert_eq!(client("::ffff:10.0.0.1", &[header]), "192.0.2.1");
        assert_eq!(client("203.0.113.1", &[header]), "203.0.113.1");
        assert_eq!(client("203.0.113.1", &[("x-forwarded-for", "192.0.2.1")]), "203.0.113.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_last_that_is_not_trusted_counts() {
        let chain = "192.0.2.66, 192.0.2.1, 10.0.0.7, 2001:db8::7";
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", chain)]), "192.0.2.1");
        let two = [("x-forwarded-for", "192.0.2.66"), ("x-forwarded-for", "192.0.2.1, 10.0.0.7")];
        assert_eq!(client("10.0.0.1", &two), "192.0.2.1");
        let forwarded = "for=192.0.2.66, for=192.0.2.1;proto=https;by=10.0.0.7, For=\"[2001:db8::7]:4711\"";
        assert_eq!(client("10.0.0.1", &[("forwarded", forwarded)]), "192.0.2.1");
    }

    #[test]
    fn forwarded_counts_where_there_are_both() {
        let both = |forwarded, other| {
            let (forwarded, other) = (("forwarded", forwarded), ("x-forwarded-for", other));
            let one = client("10.0.0.1", &[forwarded, other]);
            // In whatever order they stand.
            assert_eq!(client("10.0.0.1", &[other, forwarded]), one);
            one
        };
        assert_eq!(both("for=192.0.2.1", "192.0.2.1"), "192.0.2.1");
        assert_eq!(both("for=192.0.2.1", "192.0.2.66"), "192.0.2.1");
        assert_eq!(both("for=192.0.2.1", "192.0.2.66, 10.0.0.7"), "192.0.2.1");
        // The other does not stand in for what it does not say, or beyond what it says.
        assert_eq!(both("for=unknown", "192.0.2.66"), "10.0.0.1");
        assert_eq!(both("proto=https", "192.0.2.66"), "10.0.0.1");
        assert_eq!(both("for=10.0.0.7", "192.0.2.66"), "10.0.0.7");
    }

    #[test]
    fn forms_of_addresses() {
        for (form, address) in [
            ("for=192.0.2.1:8080", "192.0.2.1"),
            ("for=\"192.0.2.1:8080\"", "192.0.2.1"),
            ("for=\"[2001:db9::1]\"", "2001:db9::1"),
            ("host=\"a,b;c\";for=192.0.2.1", "192.0.2.1"),
            ("by=10.0.0.2; for = 192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[("forwarded", form)]), address, "{form}");
        }
    }

    #[test]
    fn a_client_cannot_hide_what_its_proxy_adds_to_the_same_line() {
        for client_wrote in ["192.0.2.66, \"", "192.0.2.66, \"\\", "192.0.2.66, é"] {
            let value = format!("{client_wrote}, 192.0.2.1");
            assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &value)]), "192.0.2.1", "{value}");
        }
        // Here quotes are read, and nobody knows what was meant.
        for client_wrote in ["for=192.0.2.66;by=\"", "for=192.0.2.66;by=\"\\", "for=192.0.2.66;é"] {
            for proxy_wrote in ["for=192.0.2.1", "for=\"[2001:db9::1]:80\"", "for=192.0.2.1;host=\"a\\\"b\""]
            {
                let value = format!("{client_wrote}, {proxy_wrote}");
                assert_eq!(client("10.0.0.1", &[("forwarded", &value)]), "10.0.0.1", "{value}");
            }
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_way_back() {
        for odd in
            ["for=unknown", "for=_hidden", "", "for", "for=", "for=\"", "for=\"\\\"", ";;,,", "for=[::1"]
        {
            assert_eq!(client("10.0.0.1", &[("forwarded", odd)]), "10.0.0.1", "{odd}");
            let chain = format!("for=192.0.2.1, {odd}");
            if !odd.contains(',') && !odd.contains('"') {
                assert_eq!(client("10.0.0.1", &[("forwarded", &chain)]), "10.0.0.1", "{odd}");
            }
        }
        let long = vec!["10.0.0.7"; 10_000].join(",");
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &long)]), "10.0.0.7");
    }
}

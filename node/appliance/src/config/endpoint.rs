//! The host and port of a URL, and nothing else of it: no crate of a few hundred kilobytes for that.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where a URL leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http`, `https`, `s3` and so on, in small letters.
    pub scheme: String,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// The port that is named, or the scheme's own: 80 or 443.
    pub port: u16,
}

impl Endpoint {
    /// Reads `SCHEME://HOST[:PORT][/...]`. `s3://BUCKET/...` leads to port 443.
    ///
    /// # Errors
    /// When it is no such URL; the reason goes on after the key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "is no URL: write https://HOST or https://HOST:PORT";
        let (scheme, rest) = text.split_once("://").ok_or(WRONG)?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(WRONG);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("has a name or a password in it; secrets do not stand in the configuration");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(WRONG)?;
                host.parse::<Ipv6Addr>().map_err(|_| WRONG)?;
                (host, (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or("")))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if !authority.starts_with('[') && !is_host(host) {
            return Err(WRONG);
        }
        let port: u16 = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().map_err(|_| WRONG)?
            }
            Some(_) => return Err(WRONG),
            None if scheme == "http" => 80,
            None => 443,
        };
        if port == 0 {
            return Err(WRONG);
        }
        Ok(Self { scheme, host: host.to_owned(), port })
    }
}

/// Whether a text is an IPv4 address or a name of the DNS. An underscore is in no host's name, and in some.
pub(super) fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.parse::<Ipv4Addr>().is_ok()
        || text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        for (text, host, port) in [
            ("https://origin.example", "origin.example", 443),
            ("http://origin.example/a?b#c", "origin.example", 80),
            ("HTTPS://192.0.2.1:8443/", "192.0.2.1", 8443),
            ("http://[2001:db8::1]:8080", "2001:db8::1", 8080),
            ("https://[::1]", "::1", 443),
            ("s3://bucket/prefix", "bucket", 443),
            ("https://a_b.example.:1", "a_b.example.", 1),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "origin.example",
            "https://",
            "https:///a",
            "https://a b",
            "https://a:",
            "https://a:0",
            "https://a:65536",
            "https://a:+1",
            "https://[::1",
            "https://[a]",
            "https://[::1]x",
            "https://-a",
            "https://a..b",
            "https://user:word@a",
            "h t://a",
            "https://a\nb",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}

//! Who a request is for: each line of an input is a value of `Forwarded`, then of `X-Forwarded-For`, that a
//! trusted proxy passes on.
//!
//! The sources are included as they are. The selector's crate would bring the runtime of policies.
#![no_main]

/// So that the source finds [`prefix`] where it looks for it.
extern crate self as skerry_registry;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sender::Trusted;

#[allow(dead_code, reason = "more than is wanted here")]
#[path = "../../../../../node/registry/src/prefix.rs"]
mod prefix;
#[path = "../../../../../node/selector/src/sender.rs"]
mod sender;

static TRUSTED: LazyLock<Trusted> = LazyLock::new(|| {
    let prefixes = ["10.0.0.0/8", "2001:db8::/32"].map(|prefix| prefix.parse().expect("a prefix"));
    Trusted::new(prefixes.into())
});

/// Those who are trusted, and one who is not.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PROXY_MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
const NEXT_PROXY: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// Lines of an input that are looked at.
const SOME: usize = 64;
/// Hops that are all followed.
const FEW: usize = 30;

#[derive(Clone, Copy)]
enum Field {
    Forwarded,
    XForwardedFor,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::XForwardedFor => "x-forwarded-for",
        }
    }

    /// What a proxy writes of a client.
    fn hop(self, client: IpAddr) -> String {
        match (self, client) {
            (Self::XForwardedFor, _) => client.to_string(),
            (Self::Forwarded, IpAddr::V4(ip)) => format!("for={ip}"),
            (Self::Forwarded, IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
        }
    }

    fn hop_with_port(self, client: IpAddr) -> String {
        let node = SocketAddr::new(client, 4711);
        match self {
            Self::XForwardedFor => node.to_string(),
            Self::Forwarded => format!("Proto=http;For=\"{node}\";host=\"a\\\",b\""),
        }
    }
}

/// The values as a proxy got them, and what it adds in a line of its own.
fn headers(field: Field, values: &[HeaderValue], added: Option<String>) -> HeaderMap {
    let added = added.map(|added| HeaderValue::try_from(added).expect("a value"));
    let mut headers = HeaderMap::new();
    for value in values.iter().chain(&added) {
        headers.append(field.name(), value.clone());
    }
    headers
}

/// Whether an address is one of those in a text.
fn names(text: &[u8], address: IpAddr) -> bool {
    let is_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
    let runs = text.split(|byte| !is_address(byte)).filter_map(|run| str::from_utf8(run).ok());
    let mut ips = runs.filter_map(|run| {
        let node = run.parse::<SocketAddr>().map(|node| node.ip());
        run.parse::<IpAddr>().or(node).ok()
    });
    ips.any(|ip| ip.to_canonical() == address)
}

fn follow(data: &[u8], values: &[HeaderValue], field: Field) {
    let as_it_came = headers(field, values, None);
    let client = TRUSTED.client(PROXY, &as_it_came);
    assert!(client == PROXY || names(data, client), "{client}");
    assert_eq!(TRUSTED.client(PROXY_MAPPED, &as_it_came), client);
    assert_eq!(TRUSTED.client(STRANGER, &as_it_came), STRANGER);

    // What a proxy says of whom it was asked by counts, whatever it was told. So it does when it writes into the
    // last line; quotes that a client left open end the way there.
    for added in [field.hop(STRANGER), field.hop_with_port(STRANGER)] {
        assert_eq!(TRUSTED.client(PROXY, &headers(field, values, Some(added.clone()))), STRANGER);
        let mut longer = values.to_vec();
        let Some(last) = longer.last_mut() else { break };
        let line = [last.as_bytes(), b", ", added.as_bytes()].concat();
        *last = HeaderValue::try_from(line).expect("a value");
        let said = TRUSTED.client(PROXY, &headers(field, &longer, None));
        assert!(said == STRANGER || said == PROXY && matches!(field, Field::Forwarded), "{said}");
    }
    // One proxy more leads where the others do.
    if data.iter().filter(|byte| matches!(byte, b',' | b'\n')).count() < FEW {
        for added in [field.hop(NEXT_PROXY), field.hop_with_port(NEXT_PROXY)] {
            let further = TRUSTED.client(PROXY, &headers(field, values, Some(added)));
            assert_eq!(further, TRUSTED.client(NEXT_PROXY, &as_it_came));
        }
    }
    for added in [field.hop(client), field.hop_with_port(client)] {
        assert_eq!(TRUSTED.client(PROXY, &headers(field, &[], Some(added))), client);
    }
}

/// Whatever stands in quotes (RFC 9110 §5.6.4) separates nothing.
fn quoted(value: &HeaderValue) {
    let Ok(text) = value.to_str() else { return };
    let text = text.replace('\\', r"\\").replace('"', r#"\""#);
    let line = format!("for=192.0.2.1, host=\"{text}\";for={STRANGER}, {}", Field::Forwarded.hop(NEXT_PROXY));
    assert_eq!(TRUSTED.client(PROXY, &headers(Field::Forwarded, &[], Some(line))), STRANGER);
}

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|byte| *byte == b'\n').take(SOME);
    let values: Vec<_> = lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    follow(data, &values, Field::Forwarded);
    follow(data, &values, Field::XForwardedFor);
    values.iter().for_each(quoted);

    // Where there are both, one counts alone.
    let forwarded = headers(Field::Forwarded, &values, None);
    let mut both = headers(Field::XForwardedFor, &values, Some(STRANGER.to_string()));
    both.extend(forwarded.clone());
    if !values.is_empty() {
        assert_eq!(TRUSTED.client(PROXY, &both), TRUSTED.client(PROXY, &forwarded));
    }
});

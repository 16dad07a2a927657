//! Which addresses peers are known by, and who may be told of them.
//!
//! An announce counts for the address that it comes from. BEP 3 lets a client name another, and BEP 7 once
//! let it name one of the other family; both let anybody send a swarm against a third party, so they are
//! passed over, as the present BEP 7 asks, unless the announce comes from an address that the operator
//! trusts (a proxy, or a box of his own). A private address, whoever named it, is told to peers with
//! private addresses only: to all others it means something else, or nothing.

use std::net::IpAddr;

use skerry_registry::prefix::Prefix;
use skerry_wire::reach::Reach;

/// The address that an announce from `source` counts for.
pub fn announced(source: IpAddr, named: Option<IpAddr>, trusted: &[Prefix]) -> IpAddr {
    let source = source.to_canonical();
    let named = named.map(|named| named.to_canonical()).filter(|named| is_reachable(*named));
    named.filter(|_| is_trusted(source, trusted)).unwrap_or(source)
}

/// Whether the operator trusts an address, which is no IPv4 address in IPv6 form.
pub fn is_trusted(address: IpAddr, trusted: &[Prefix]) -> bool {
    trusted.iter().any(|prefix| prefix.contains(address))
}

/// Whether an address means nothing outside of its own network.
pub fn is_local(address: IpAddr) -> bool {
    Reach::of(address) < Reach::Internet
}

/// Whether a host can have an address at all.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        // `0.0.0.0/8` is this network, `240.0.0.0/4` is reserved (RFC 6890).
        IpAddr::V4(address) => !(address.is_multicast() || matches!(address.octets()[0], 0 | 240..)),
        IpAddr::V6(address) => !(address.is_multicast() || address.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_who_is_trusted_names_another_address() {
        let trusted = ["192.0.2.0/24".parse().unwrap()];
        let other = Some(ip("203.0.113.5"));
        assert_eq!(announced(ip("198.51.100.1"), other, &trusted), ip("198.51.100.1"));
        assert_eq!(announced(ip("192.0.2.9"), other, &trusted), ip("203.0.113.5"));
        assert_eq!(announced(ip("::ffff:192.0.2.9"), other, &trusted), ip("203.0.113.5"));
        assert_eq!(announced(ip("192.0.2.9"), other, &[]), ip("192.0.2.9"));
        for odd in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert_eq!(announced(ip("192.0.2.9"), Some(ip(odd)), &trusted), ip("192.0.2.9"), "{odd}");
        }
    }

    #[test]
    fn local_addresses_are_told_apart() {
        for local in [
            "10.0.0.1",
            "172.31.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(is_local(ip(local)), "{local}");
        }
        for public in ["100.128.0.1", "172.32.0.1", "192.0.2.1", "2001:db8::1", "2606::1"] {
            assert!(!is_local(ip(public)), "{public}");
        }
    }
}

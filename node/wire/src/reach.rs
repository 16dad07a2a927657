//! How far an address is known, which decides who may be told of it.

use std::net::{IpAddr, Ipv4Addr};

/// How far an address is known: what is told to somebody farther away means another host there, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// On its own machine: loopback.
    Machine,
    /// In its own network: private, link-local, and shared between an operator and its customers (RFC 1918,
    /// 3927, 4193, 4291 and 6598).
    Network,
    /// Everywhere.
    Internet,
}

impl Reach {
    /// Of an address; an IPv4 address in IPv6 form reaches as far as the IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        let (is_own, is_near) = match address.to_canonical() {
            IpAddr::V4(ip) => (ip.is_loopback(), ip.is_private() || ip.is_link_local() || is_shared(ip)),
            IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unique_local() || ip.is_unicast_link_local()),
        };
        match (is_own, is_near) {
            (true, _) => Self::Machine,
            (false, true) => Self::Network,
            (false, false) => Self::Internet,
        }
    }
}

/// Between an operator and its customers (RFC 6598).
fn is_shared(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0xc0 == 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let all = [
            (Reach::Machine, &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"][..]),
            (Reach::Network, &["10.0.0.1", "172.31.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1"]),
            (Reach::Network, &["fd00::1", "fe80::1", "::ffff:10.0.0.1"]),
            (Reach::Internet, &["100.128.0.1", "172.32.0.1", "192.0.2.1", "2001:db8::1", "2606::1"]),
        ];
        for (reach, addresses) in all {
            for address in addresses {
                assert_eq!(Reach::of(address.parse().unwrap()), reach, "{address}");
            }
        }
        assert!(Reach::Machine < Reach::Network && Reach::Network < Reach::Internet);
    }
}

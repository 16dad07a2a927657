//! Peers packed as address and port in network byte order (BEP 7, 23).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Length of a packed IPv4 peer, bytes.
pub const V4: usize = 6;
/// Length of a packed IPv6 peer, bytes.
pub const V6: usize = 18;

/// Appends a peer: [`V4`] or [`V6`] bytes.
pub fn push(out: &mut Vec<u8>, peer: SocketAddr) {
    match peer {
        SocketAddr::V4(peer) => out.extend_from_slice(&peer.ip().octets()),
        SocketAddr::V6(peer) => out.extend_from_slice(&peer.ip().octets()),
    }
    out.extend_from_slice(&peer.port().to_be_bytes());
}

/// The peers of a packed IPv4 list; what is left at its end is no peer and is passed over.
pub fn v4(list: &[u8]) -> impl Iterator<Item = SocketAddr> {
    list.as_chunks::<V4>().0.iter().map(|&[a, b, c, d, high, low]| {
        SocketAddr::from(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
    })
}

/// The peers of a packed IPv6 list, in the same way.
pub fn v6(list: &[u8]) -> impl Iterator<Item = SocketAddr> {
    list.as_chunks::<V6>().0.iter().map(|peer| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&peer[..16]);
        let port = u16::from_be_bytes([peer[16], peer[17]]);
        SocketAddr::from(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back() {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        let first: SocketAddr = "192.0.2.1:6881".parse().unwrap();
        let second: SocketAddr = "[2001:db8::1]:51413".parse().unwrap();
        push(&mut four, first);
        push(&mut six, second);
        assert_eq!(four, [192, 0, 2, 1, 0x1a, 0xe1]);
        assert_eq!(six.len(), V6);
        four.push(7);
        assert_eq!(v4(&four).collect::<Vec<_>>(), [first]);
        assert_eq!(v6(&six).collect::<Vec<_>>(), [second]);
        assert_eq!(v6(&four).count() + v4(&[]).count(), 0);
    }
}

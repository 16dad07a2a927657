//! One peer of a swarm, in 24 bytes with an IPv4 address and in 36 with an IPv6 one.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use crate::address::is_local;
use crate::super_peers::Region;

/// An address of one family, in network byte order.
pub trait Address: Copy + Eq + Debug {
    /// Of an address; `None` when it is of the other family.
    fn of(address: IpAddr) -> Option<Self>;
    /// Its bytes.
    fn bytes(&self) -> &[u8];
    /// As the standard library has it.
    fn ip(self) -> IpAddr;
}

impl Address for [u8; 4] {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        self
    }

    fn ip(self) -> IpAddr {
        self.into()
    }
}

impl Address for [u8; 16] {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        }
    }

    fn bytes(&self) -> &[u8] {
        self
    }

    fn ip(self) -> IpAddr {
        self.into()
    }
}

/// What a peer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It downloads.
    Leeching = 0,
    /// It lacks something and downloads nothing (BEP 21).
    Paused = 1,
    /// It has everything.
    Seeding = 2,
}

/// A peer as it announces itself.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Where it takes connections.
    pub endpoint: SocketAddr,
    /// What it is doing.
    pub kind: Kind,
    /// How much it has, permille.
    pub held: u32,
    /// What only client and tracker know: the key, or a digest of the peer's id.
    pub tag: u32,
    /// Where it is.
    pub region: Region,
}

/// A peer as a swarm keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<A> {
    /// Its address.
    pub address: A,
    /// Where it takes connections.
    pub port: u16,
    /// From the lowest bit: 10 bits of what it has in permille, 2 of its kind, 1 for a local address.
    state: u16,
    /// When it was last heard, seconds since the tracker's start.
    pub seen: u32,
    /// What it must say again to be let go.
    pub tag: u32,
    /// Its region; 0 is unknown.
    pub region: u32,
    /// Its operator's autonomous system; 0 is unknown.
    pub isp: u32,
}

const HELD: u16 = (1 << 10) - 1;
const KIND: u32 = 10;
const LOCAL: u16 = 1 << 12;

impl<A: Address> Entry<A> {
    /// Of a peer whose address is `address`.
    pub fn new(peer: &Peer, address: A, seen: u32) -> Self {
        let local = if is_local(peer.endpoint.ip()) { LOCAL } else { 0 };
        Self {
            address,
            port: peer.endpoint.port(),
            state: peer.held.min(1000) as u16 | (peer.kind as u16) << KIND | local,
            seen,
            tag: peer.tag,
            region: peer.region.region,
            isp: peer.region.isp,
        }
    }

    /// How much it has, permille.
    pub fn held(&self) -> u32 {
        u32::from(self.state & HELD)
    }

    /// What it is doing.
    pub fn kind(&self) -> Kind {
        match self.state >> KIND & 3 {
            0 => Kind::Leeching,
            1 => Kind::Paused,
            _ => Kind::Seeding,
        }
    }

    /// Whether its address means nothing outside of its own network.
    pub fn is_local(&self) -> bool {
        self.state & LOCAL != 0
    }

    /// Where it takes connections.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip(), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_small() {
        assert_eq!(size_of::<Entry<[u8; 4]>>(), 24);
        assert_eq!(size_of::<Entry<[u8; 16]>>(), 36);
    }

    #[test]
    fn an_entry_tells_what_the_peer_told() {
        for (kind, held, address) in [
            (Kind::Leeching, 1, "192.0.2.1:1"),
            (Kind::Paused, 999, "10.0.0.1:2"),
            (Kind::Seeding, 1000, "127.0.0.1:3"),
        ] {
            let endpoint: SocketAddr = address.parse().unwrap();
            let peer = Peer { endpoint, kind, held, tag: 7, region: Region { region: 8, isp: 9 } };
            let entry = Entry::new(&peer, <[u8; 4]>::of(endpoint.ip()).unwrap(), 5);
            assert_eq!((entry.kind(), entry.held(), entry.endpoint()), (kind, held, endpoint));
            assert_eq!(entry.is_local(), kind != Kind::Leeching);
            assert_eq!((entry.seen, entry.tag, entry.region, entry.isp), (5, 7, 8, 9));
        }
    }
}

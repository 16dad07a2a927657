//! What clients may report: each what its network may, and all together what a node can look after.
//!
//! Networks (an IPv4 address, an IPv6 /64, and the /48 around it, since who has one of its networks mostly has
//! all of them) are spread over two rows of cells by a keyed hash, each way differently, and a network has spent
//! at most what the cell says that says less (a count-min sketch; Cormode, Muthukrishnan 2005). So memory does
//! not grow with the number of clients (128 KiB), and who shares one cell with a flood is not taken for it. What
//! was spent comes back in every cell alike, as in any [`Allowance`].

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::net::IpAddr;

use super::{Allowance, Pace};
use crate::prefix::Prefix;

/// Reports of all clients.
const ALL: Pace = Pace { burst: 100, per_second: 100 };
/// How many times what an IPv6 /64 may report a /48 may.
const SITE: u64 = 16;
/// Reports of one client, in parts of a report: enough for the damaged chunks of a file, and a small share of
/// what all may.
const ONE: Pace = Pace { burst: 20 * SITE, per_second: 2 * SITE };
/// Cells of a row.
const CELLS: usize = 4096;

/// What is left to clients.
pub(crate) struct Clients {
    all: Allowance,
    /// The first row, then the second.
    cells: Box<[Allowance]>,
    /// A number that clients do not know.
    key: u64,
}

impl Default for Clients {
    fn default() -> Self {
        let cells = vec![Allowance::default(); 2 * CELLS].into();
        Self { all: Allowance::default(), cells, key: RandomState::new().hash_one(CELLS) }
    }
}

impl Clients {
    /// Whether a client may report once more now. On this machine nobody is told apart: behind a proxy
    /// everybody seems to be here.
    pub(crate) fn take(&mut self, client: IpAddr, now_ms: u64) -> bool {
        let client = client.to_canonical();
        let is_fair = client.is_loopback() || networks(client).all(|of| self.take_of(of, now_ms));
        is_fair && self.all.take_whole(ALL, 1, now_ms)
    }

    /// Takes so much of what a network may.
    fn take_of(&mut self, (network, parts): (Prefix, u64), now_ms: u64) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((self.key, network));
        let places = [hash as usize % CELLS, CELLS + (hash >> 32) as usize % CELLS];
        places.map(|place| self.cells[place].take_whole(ONE, parts, now_ms)).contains(&true)
    }
}

/// The networks that a client is in, and what a report costs each, in parts of one.
fn networks(client: IpAddr) -> impl Iterator<Item = (Prefix, u64)> {
    let lengths: &[(u8, u64)] = if client.is_ipv4() { &[(32, SITE)] } else { &[(64, SITE), (48, 1)] };
    lengths.iter().filter_map(move |(length, parts)| Some((Prefix::of(client, *length)?, *parts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn new() -> Clients {
        Clients { key: 7, ..Clients::default() }
    }

    /// How many of so many reports of a client are taken.
    fn taken(clients: &mut Clients, client: &str, reports: usize, now_ms: u64) -> usize {
        let client = client.parse().unwrap();
        (0..reports).filter(|_| clients.take(client, now_ms)).count()
    }

    #[test]
    fn a_client_that_floods_leaves_others_their_reports() {
        let mut clients = new();
        assert_eq!(taken(&mut clients, "192.0.2.1", 10_000, NOW), 20);
        assert_eq!(taken(&mut clients, "::ffff:192.0.2.1", 10, NOW), 0);
        assert_eq!(taken(&mut clients, "192.0.2.2", 5, NOW), 5);
        assert_eq!(taken(&mut clients, "192.0.2.1", 100, NOW + 1000), 2);
        assert_eq!(taken(&mut clients, "192.0.2.1", 100, NOW + 60_000), 20);
    }

    #[test]
    fn the_networks_of_ipv6_count_and_not_its_hosts() {
        let mut clients = new();
        assert_eq!(taken(&mut clients, "2001:db8:1:1::1", 100, NOW), 20);
        assert_eq!(taken(&mut clients, "2001:db8:1:1::2", 100, NOW), 0);
        assert_eq!(taken(&mut clients, "2001:db8:1:2::1", 100, NOW), 20);
        // All of its networks together have no more than sixteen have.
        let site = (3..100).map(|network| {
            let client = format!("2001:db8:1:{network:x}::1").parse().unwrap();
            (0..20).filter(|_| networks(client).all(|of| clients.take_of(of, NOW))).count()
        });
        assert_eq!(site.sum::<usize>(), 14 * 20);
        assert_eq!(taken(&mut clients, "2001:db8:2:1::1", 100, NOW), 20);
    }

    #[test]
    fn all_together_report_no_more_than_a_node_can_look_after() {
        let mut clients = new();
        let all: usize = (0..250).map(|host| taken(&mut clients, &format!("192.0.2.{host}"), 5, NOW)).sum();
        assert_eq!(all, 100);
        // Who is on this machine may be anybody behind a proxy.
        assert_eq!(taken(&mut clients, "127.0.0.1", 1000, NOW + 1000), 100);
        assert_eq!(taken(&mut clients, "::1", 1000, NOW + 2000), 100);
    }

    #[test]
    fn memory_is_bounded_and_hardly_anybody_is_taken_for_somebody_else() {
        let mut clients = new();
        let mut is_taken = |client: [u8; 4]| networks(client.into()).all(|of| clients.take_of(of, NOW));
        for flood in 0..20 {
            assert_eq!((0..100).filter(|_| is_taken([203, 0, 113, flood])).count(), 20);
        }
        // In one row, 20 of these would share a cell with a flood.
        let refused = (0..4096u32).filter(|host| !is_taken((0x0a00_0000 + host).to_be_bytes()));
        assert!(refused.count() <= 3);
        assert_eq!(clients.cells.len() * size_of::<Allowance>(), 128 << 10);
    }
}

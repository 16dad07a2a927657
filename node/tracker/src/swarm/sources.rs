//! How many peers each source has: an IPv4 address, an IPv6 /64, and the /48 around it, since who has one of
//! its networks mostly has all of them.
//!
//! Sources are spread over two rows of cells by a keyed hash, each way differently, and a source has at most
//! what the smaller of its two cells says (a count-min sketch; Cormode, Muthukrishnan 2005). So memory does
//! not grow with the number of sources (2 MiB for 4 million peers), and who shares one cell with a large source is not taken for it.
//! Peers are counted as they come and go, whatever the limit then says of them; nothing has to age.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::index::HashKey;
use super::room;

/// A row has one cell for so many peers: few enough that chance fills none.
const PEERS_PER_CELL: usize = 16;
/// Cells of a row.
const FEWEST_CELLS: usize = 1 << 10;
const MOST_CELLS: usize = 1 << 22;
/// How many times the limit of an IPv6 /64 a /48 has.
const SITE: usize = 16;

/// Peers by source. Without a limit nothing is counted.
pub(super) struct Sources {
    /// The first row, then the second, of a power of two each.
    cells: Box<[AtomicU32]>,
    key: HashKey,
    most: usize,
}

impl Sources {
    /// None yet. A source may have `most` of at most `peers` in all; 0 is no limit.
    pub(super) fn new(most: usize, peers: usize, key: HashKey) -> Self {
        let row = (peers / PEERS_PER_CELL).clamp(FEWEST_CELLS, MOST_CELLS).next_power_of_two();
        let cells = if most == 0 { 0 } else { row * 2 };
        Self { cells: (0..cells).map(|_| AtomicU32::new(0)).collect(), key, most }
    }

    /// Whether one more peer with that address would not be too many. Threads that ask at once may all be
    /// told so.
    pub(super) fn has_room(&self, address: &[u8], held: bool) -> bool {
        let few = |(network, times): (&[u8], usize)| {
            let most = room(self.most.saturating_mul(times), held);
            self.cells_of(network).iter().any(|cell| (cell.load(Relaxed) as usize) < most)
        };
        self.cells.is_empty() || networks(address).all(few)
    }

    /// A peer has come.
    pub(super) fn add(&self, address: &[u8]) {
        self.each(address, |cell| cell.fetch_add(1, Relaxed));
    }

    /// A peer that had come is gone.
    pub(super) fn remove(&self, address: &[u8]) {
        self.each(address, |cell| cell.fetch_sub(1, Relaxed));
    }

    fn each(&self, address: &[u8], change: impl Fn(&AtomicU32) -> u32) {
        if self.cells.is_empty() {
            return;
        }
        for (network, _) in networks(address) {
            for cell in self.cells_of(network) {
                change(cell);
            }
        }
    }

    fn cells_of(&self, network: &[u8]) -> [&AtomicU32; 2] {
        // The length keeps a /48 apart from a /64.
        let hash = self.key.hash(network, network.len() as u16);
        let row = self.cells.len() / 2;
        let place = |hash: u64| hash as usize & (row - 1);
        [&self.cells[place(hash)], &self.cells[row + place(hash >> 32)]]
    }
}

/// The networks that an address counts for, and how many times the limit each has.
fn networks(address: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let lengths: &[(usize, usize)] = if address.len() == 4 { &[(4, 1)] } else { &[(8, 1), (6, SITE)] };
    lengths.iter().map(move |(length, times)| (&address[..*length], *times))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey::new(3, 5);
    const MOST: usize = 100;

    fn sources() -> Sources {
        Sources::new(MOST, 100_000, KEY)
    }

    fn v6(site: u16, network: u16, host: u64) -> [u8; 16] {
        let head = 0x2001_0db8 << 32 | u64::from(site) << 16 | u64::from(network);
        (u128::from(head) << 64 | u128::from(host)).to_be_bytes()
    }

    #[test]
    fn a_source_has_its_limit_and_more_where_room_is_left() {
        let sources = sources();
        let strangers = room(MOST, false);
        assert!(strangers < MOST);
        for number in 0..MOST {
            assert_eq!(sources.has_room(&[192, 0, 2, 1], false), number < strangers);
            assert!(sources.has_room(&[192, 0, 2, 1], true));
            sources.add(&[192, 0, 2, 1]);
        }
        assert!(!sources.has_room(&[192, 0, 2, 1], true));
        assert!(sources.has_room(&[192, 0, 2, 2], false));
        (0..MOST).for_each(|_| sources.remove(&[192, 0, 2, 1]));
        assert!(sources.has_room(&[192, 0, 2, 1], false));
        assert!(sources.cells.iter().all(|cell| cell.load(Relaxed) == 0));
    }

    #[test]
    fn the_networks_of_ipv6_count_and_not_its_hosts() {
        let sources = sources();
        (0..MOST as u64).for_each(|host| sources.add(&v6(1, 1, host)));
        assert!(!sources.has_room(&v6(1, 1, 5000), true));
        assert!(sources.has_room(&v6(1, 2, 0), true));
        for network in 2..=SITE as u16 {
            (0..MOST as u64).for_each(|host| sources.add(&v6(1, network, host)));
        }
        // None of its networks has room left, whichever it is.
        assert!(!sources.has_room(&v6(1, 5000, 0), true));
        assert!(sources.has_room(&v6(2, 1, 0), true));
    }

    #[test]
    fn hardly_anybody_is_taken_for_somebody_else() {
        let sources = sources();
        // Forty large sources, and as many small ones as there are cells in a row.
        for large in 0..40 {
            (0..MOST).for_each(|_| sources.add(&[203, 0, 113, large]));
        }
        for small in 0..8192u32 {
            sources.add(&(0x0a00_0000 + small).to_be_bytes());
        }
        let refused =
            (0..8192u32).filter(|small| !sources.has_room(&(0x0a00_0000 + small).to_be_bytes(), false));
        // In one row, 40 of them would share a cell with a large one.
        assert!(refused.count() <= 3);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let sources = Sources::new(0, 1 << 31, KEY);
        (0..1000).for_each(|_| sources.add(&[192, 0, 2, 1]));
        assert!(sources.cells.is_empty() && sources.has_room(&[192, 0, 2, 1], false));
        sources.remove(&[192, 0, 2, 1]);
    }

    #[test]
    fn memory_is_bounded() {
        for (peers, cells) in [(1, 2 << 10), (4_000_000, 2 << 18), (1 << 31, 2 << 22)] {
            assert_eq!(Sources::new(MOST, peers, KEY).cells.len(), cells);
        }
    }
}

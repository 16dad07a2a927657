//! How many peers each source has, in all swarms and in each: an IPv4 address, an IPv6 /64, and the /48
//! around it, since who has one of its networks mostly has all of them.
//!
//! Sources are spread over two rows of cells by a keyed hash, each way differently, and a source has at most
//! what the smaller of its two cells says (a count-min sketch; Cormode, Muthukrishnan 2005). So memory does
//! not grow with the number of sources (2 MiB for 4 million peers, and as much for what they have in each
//! swarm), and who shares one cell with a large source is not taken for it. Peers are counted as they come
//! and go, whatever the limit then says of them; nothing has to age.

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
/// The longest network that counts, bytes.
const NETWORK: usize = 8;

/// Peers by source.
pub(super) struct Sources {
    key: HashKey,
    overall: Sketch,
    by_swarm: Sketch,
}

/// Counts of one kind. Without a limit nothing is counted.
struct Sketch {
    /// The first row, then the second, of a power of two each.
    cells: Box<[AtomicU32]>,
    most: usize,
}

impl Sources {
    /// None yet. A source may have `most` of at most `peers` in all, and `most_in_swarm` of those in one swarm;
    /// 0 is no limit.
    pub(super) fn new(most: usize, most_in_swarm: usize, peers: usize, key: HashKey) -> Self {
        let (overall, by_swarm) = (Sketch::new(most, peers), Sketch::new(most_in_swarm, peers));
        Self { key, overall, by_swarm }
    }

    /// Whether one more peer with that address would not be too many. Threads that ask at once may all be
    /// told so.
    pub(super) fn has_room(&self, address: &[u8], held: bool) -> bool {
        let Sketch { cells, most } = &self.overall;
        let few = |(network, times): (&[u8], usize)| {
            self.overall.has_less(self.hash(network), room(most.saturating_mul(times), held))
        };
        cells.is_empty() || networks(address).all(few)
    }

    /// The same for a swarm, which has `peers` with addresses of that family.
    pub(super) fn has_room_in(&self, info_hash: &[u8; 20], peers: usize, address: &[u8]) -> bool {
        let Sketch { cells, most } = &self.by_swarm;
        let few = |(network, times): (&[u8], usize)| {
            self.by_swarm.has_less(self.hash_in(info_hash, network), most.saturating_mul(times))
        };
        // Nobody has more than all of them.
        cells.is_empty() || peers < *most || networks(address).all(few)
    }

    /// A peer has come to a swarm.
    pub(super) fn add(&self, info_hash: &[u8; 20], address: &[u8]) {
        self.each(info_hash, address, |cell| cell.fetch_add(1, Relaxed));
    }

    /// A peer that had come is gone.
    pub(super) fn remove(&self, info_hash: &[u8; 20], address: &[u8]) {
        self.each(info_hash, address, |cell| cell.fetch_sub(1, Relaxed));
    }

    fn each(&self, info_hash: &[u8; 20], address: &[u8], change: impl Fn(&AtomicU32) -> u32) {
        for (network, _) in networks(address) {
            if !self.overall.cells.is_empty() {
                self.overall.cells_of(self.hash(network)).into_iter().for_each(|cell| _ = change(cell));
            }
            if !self.by_swarm.cells.is_empty() {
                let cells = self.by_swarm.cells_of(self.hash_in(info_hash, network));
                cells.into_iter().for_each(|cell| _ = change(cell));
            }
        }
    }

    fn hash(&self, network: &[u8]) -> u64 {
        // The length keeps a /48 apart from a /64.
        self.key.hash(network, network.len() as u16)
    }

    fn hash_in(&self, info_hash: &[u8; 20], network: &[u8]) -> u64 {
        let mut bytes = [0; 20 + NETWORK];
        bytes[..20].copy_from_slice(info_hash);
        bytes[20..20 + network.len()].copy_from_slice(network);
        self.hash(&bytes[..20 + network.len()])
    }
}

impl Sketch {
    fn new(most: usize, peers: usize) -> Self {
        let row = (peers / PEERS_PER_CELL).clamp(FEWEST_CELLS, MOST_CELLS).next_power_of_two();
        let cells = if most == 0 { 0 } else { row * 2 };
        Self { cells: (0..cells).map(|_| AtomicU32::new(0)).collect(), most }
    }

    fn has_less(&self, hash: u64, most: usize) -> bool {
        self.cells_of(hash).iter().any(|cell| (cell.load(Relaxed) as usize) < most)
    }

    fn cells_of(&self, hash: u64) -> [&AtomicU32; 2] {
        let row = self.cells.len() / 2;
        let place = |hash: u64| hash as usize & (row - 1);
        [&self.cells[place(hash)], &self.cells[row + place(hash >> 32)]]
    }
}

/// The networks that an address counts for, and how many times the limit each has.
fn networks(address: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let lengths: &[(usize, usize)] = if address.len() == 4 { &[(4, 1)] } else { &[(NETWORK, 1), (6, SITE)] };
    lengths.iter().map(move |(length, times)| (&address[..*length], *times))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey::new(3, 5);
    const MOST: usize = 100;
    const SWARM: [u8; 20] = [7; 20];

    fn sources() -> Sources {
        Sources::new(MOST, 0, 100_000, KEY)
    }

    fn v6(site: u16, network: u16, host: u64) -> [u8; 16] {
        let head = 0x2001_0db8 << 32 | u64::from(site) << 16 | u64::from(network);
        (u128::from(head) << 64 | u128::from(host)).to_be_bytes()
    }

    fn is_empty(sketch: &Sketch) -> bool {
        sketch.cells.iter().all(|cell| cell.load(Relaxed) == 0)
    }

    #[test]
    fn a_source_has_its_limit_and_more_where_room_is_left() {
        let sources = sources();
        let strangers = room(MOST, false);
        assert!(strangers < MOST);
        for number in 0..MOST {
            assert_eq!(sources.has_room(&[192, 0, 2, 1], false), number < strangers);
            assert!(sources.has_room(&[192, 0, 2, 1], true));
            sources.add(&SWARM, &[192, 0, 2, 1]);
        }
        assert!(!sources.has_room(&[192, 0, 2, 1], true));
        assert!(sources.has_room(&[192, 0, 2, 2], false));
        (0..MOST).for_each(|_| sources.remove(&SWARM, &[192, 0, 2, 1]));
        assert!(sources.has_room(&[192, 0, 2, 1], false));
        assert!(is_empty(&sources.overall));
    }

    #[test]
    fn the_networks_of_ipv6_count_and_not_its_hosts() {
        let sources = sources();
        (0..MOST as u64).for_each(|host| sources.add(&SWARM, &v6(1, 1, host)));
        assert!(!sources.has_room(&v6(1, 1, 5000), true));
        assert!(sources.has_room(&v6(1, 2, 0), true));
        for network in 2..=SITE as u16 {
            (0..MOST as u64).for_each(|host| sources.add(&SWARM, &v6(1, network, host)));
        }
        // None of its networks has room left, whichever it is.
        assert!(!sources.has_room(&v6(1, 5000, 0), true));
        assert!(sources.has_room(&v6(2, 1, 0), true));
    }

    #[test]
    fn a_swarm_has_so_many_of_a_source_whoever_else_is_in_it() {
        const IN_SWARM: usize = 60;
        let sources = Sources::new(0, IN_SWARM, 100_000, KEY);
        let (one, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        for _ in 0..IN_SWARM {
            assert!(sources.has_room_in(&SWARM, 10_000, &one));
            sources.add(&SWARM, &one);
        }
        assert!(!sources.has_room_in(&SWARM, 10_000, &one));
        assert!(sources.has_room_in(&SWARM, 10_000, &other) && sources.has_room_in(&[8; 20], 10_000, &one));
        sources.remove(&SWARM, &one);
        assert!(sources.has_room_in(&SWARM, 10_000, &one));
        for network in 0..SITE as u16 {
            (0..IN_SWARM as u64).for_each(|host| sources.add(&SWARM, &v6(1, network, host)));
            assert!(!sources.has_room_in(&SWARM, 10_000, &v6(1, network, 5000)));
        }
        assert!(!sources.has_room_in(&SWARM, 10_000, &v6(1, 5000, 0)));
        assert!(sources.has_room_in(&SWARM, 10_000, &v6(2, 0, 0)));
        // Who is counted in a cell with others is not refused in a swarm that has less than so many.
        assert!(sources.has_room_in(&SWARM, IN_SWARM - 1, &v6(1, 5000, 0)));
    }

    #[test]
    fn hardly_anybody_is_taken_for_somebody_else() {
        let sources = Sources::new(MOST, MOST, 100_000, KEY);
        // Forty large sources, and as many small ones as there are cells in a row.
        for large in 0..40 {
            (0..MOST).for_each(|_| sources.add(&SWARM, &[203, 0, 113, large]));
        }
        let small: Vec<[u8; 4]> = (0..8192u32).map(|small| (0x0a00_0000 + small).to_be_bytes()).collect();
        small.iter().for_each(|small| sources.add(&SWARM, small));
        // In one row, 40 of them would share a cell with a large one.
        assert!(small.iter().filter(|small| !sources.has_room(*small, false)).count() <= 3);
        assert!(small.iter().filter(|small| !sources.has_room_in(&SWARM, 9000, *small)).count() <= 3);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let sources = Sources::new(0, 0, 1 << 31, KEY);
        (0..1000).for_each(|_| sources.add(&SWARM, &[192, 0, 2, 1]));
        assert!(sources.overall.cells.is_empty() && sources.by_swarm.cells.is_empty());
        assert!(sources.has_room(&[192, 0, 2, 1], false));
        assert!(sources.has_room_in(&SWARM, 1000, &[192, 0, 2, 1]));
        sources.remove(&SWARM, &[192, 0, 2, 1]);
    }

    #[test]
    fn memory_is_bounded() {
        for (peers, cells) in [(1, 2 << 10), (4_000_000, 2 << 18), (1 << 31, 2 << 22)] {
            let sources = Sources::new(MOST, MOST, peers, KEY);
            assert_eq!((sources.overall.cells.len(), sources.by_swarm.cells.len()), (cells, cells));
        }
    }
}

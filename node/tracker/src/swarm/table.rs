//! The peers of one swarm and one address family.
//!
//! They stand in one vector: those that download first, then all others, so that either sort can be
//! drawn from without looking at the rest. A swarm of more than a few has an index beside it.

use fastrand::Rng;
use skerry_wire::tracker::Counts;

use super::entry::{Address, Entry, Kind};
use super::index::{HashKey, Index};

/// Up to so many peers are looked through one by one.
const SMALL: usize = 32;
/// A sample is drawn from so many places of the vector, so that the same few peers are not always told
/// together.
const PLACES: usize = 4;
/// How many peers are passed over for each that is drawn, at most, when those cannot be told.
const PASSED_OVER: usize = 8;

/// Invariants: `peers[..leeching]` are those that download, `paused` of the rest are partial seeds; `index`
/// is empty, or holds the position of each peer once.
#[derive(Debug)]
pub(super) struct Table<A> {
    peers: Vec<Entry<A>>,
    leeching: u32,
    paused: u32,
    index: Index,
}

impl<A> Default for Table<A> {
    fn default() -> Self {
        Self { peers: Vec::new(), leeching: 0, paused: 0, index: Index::default() }
    }
}

/// Whom a sample may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Among {
    /// How many, at most.
    pub(super) wanted: usize,
    /// Only those that download.
    pub(super) leeching: bool,
    /// Also those whose addresses mean nothing elsewhere.
    pub(super) local: bool,
    /// Not this one.
    pub(super) but: Option<usize>,
}

impl<A: Address> Table<A> {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn counts(&self) -> Counts {
        let incomplete = self.leeching + self.paused;
        Counts {
            complete: self.peers.len() as u32 - incomplete,
            incomplete,
            downloaders: self.leeching,
            downloaded: 0,
        }
    }

    pub(super) fn get(&self, position: usize) -> &Entry<A> {
        &self.peers[position]
    }

    pub(super) fn find(&self, address: A, port: u16, key: &HashKey) -> Option<usize> {
        if self.index.is_empty() {
            self.peers.iter().position(|peer| peer.port == port && peer.address == address)
        } else {
            self.index.find(&self.peers, address, port, key)
        }
    }

    /// Adds a peer whose endpoint no other has.
    pub(super) fn add(&mut self, peer: Entry<A>, key: &HashKey) {
        if self.peers.len() == self.peers.capacity() {
            // By a quarter: there are very many very small swarms.
            self.peers.reserve_exact((self.peers.len() / 4).max(1));
        }
        let position = self.peers.len();
        self.peers.push(peer);
        if position >= SMALL && self.index.is_full(position) {
            self.index = Index::of(&self.peers, key);
        } else if !self.index.is_empty() {
            self.index.insert(&self.peers, position, key);
        }
        match peer.kind() {
            Kind::Leeching => {
                self.swap(position, self.leeching as usize, key);
                self.leeching += 1;
            }
            Kind::Paused => self.paused += 1,
            Kind::Seeding => {}
        }
    }

    /// Puts a peer in the place of one with the same endpoint, and tells what that was doing.
    pub(super) fn replace(&mut self, position: usize, peer: Entry<A>, key: &HashKey) -> Kind {
        let before = std::mem::replace(&mut self.peers[position], peer).kind();
        let after = peer.kind();
        match (before, after) {
            (Kind::Leeching, Kind::Leeching) => {}
            (Kind::Leeching, _) => {
                self.leeching -= 1;
                self.swap(position, self.leeching as usize, key);
            }
            (_, Kind::Leeching) => {
                self.swap(position, self.leeching as usize, key);
                self.leeching += 1;
            }
            _ => {}
        }
        self.paused += u32::from(after == Kind::Paused);
        self.paused -= u32::from(before == Kind::Paused);
        before
    }

    pub(super) fn remove(&mut self, mut position: usize, key: &HashKey) {
        match self.peers[position].kind() {
            Kind::Leeching => {
                self.leeching -= 1;
                self.swap(position, self.leeching as usize, key);
                position = self.leeching as usize;
            }
            Kind::Paused => self.paused -= 1,
            Kind::Seeding => {}
        }
        let last = self.peers.len() - 1;
        self.swap(position, last, key);
        if !self.index.is_empty() {
            self.index.remove(&self.peers, last, key);
        }
        self.peers.pop();
    }

    /// Removes those that were last heard more than `timeout` seconds before `now`, gives back what memory
    /// is not needed, and tells how many they were; `gone` is told the address of each.
    pub(super) fn expire(&mut self, now: u32, timeout: u32, key: &HashKey, gone: impl Fn(A)) -> usize {
        let before = self.peers.len();
        // Backwards: what takes the place of a removed peer has been looked at.
        for position in (0..before).rev() {
            let Entry { seen, address, .. } = self.peers[position];
            if now.saturating_sub(seen) > timeout {
                self.remove(position, key);
                gone(address);
            }
        }
        let left = self.peers.len();
        if self.peers.capacity() > left * 2 {
            self.peers.shrink_to(left + left / 8);
        }
        if left <= SMALL / 2 {
            self.index = Index::default();
        } else if self.index.slots() > left * 8 {
            self.index = Index::of(&self.peers, key);
        }
        before - left
    }

    /// Draws peers at random and appends them.
    pub(super) fn sample(&self, among: Among, random: &mut Rng, into: &mut Vec<Entry<A>>) {
        let pool = if among.leeching { &self.peers[..self.leeching as usize] } else { &self.peers[..] };
        let begin = into.len();
        let fits = |position: usize, peer: &Entry<A>| {
            among.but != Some(position) && (among.local || !peer.is_local())
        };
        if pool.len() <= among.wanted {
            let peers = pool.iter().enumerate().filter(|(position, peer)| fits(*position, peer));
            return into.extend(peers.map(|(_, peer)| *peer));
        }
        for place in 0..PLACES {
            let (from, to) = (pool.len() * place / PLACES, pool.len() * (place + 1) / PLACES);
            let left = among.wanted - (into.len() - begin);
            let mut wanted = left.div_ceil(PLACES - place);
            if from == to || wanted == 0 {
                continue;
            }
            let start = random.usize(from..to);
            let mut looks = wanted * PASSED_OVER;
            for (begin, end) in [(start, to), (from, start)] {
                let end = end.min(begin + looks);
                looks -= end - begin;
                for (position, peer) in (begin..end).zip(&pool[begin..end]) {
                    if fits(position, peer) {
                        into.push(*peer);
                        wanted -= 1;
                        if wanted == 0 {
                            looks = 0;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        self.peers.capacity() * size_of::<Entry<A>>() + self.index.slots() * size_of::<u32>()
    }

    /// Two peers change places; either may be where it should be already.
    fn swap(&mut self, a: usize, b: usize, key: &HashKey) {
        if a == b {
            return;
        }
        if !self.index.is_empty() {
            self.index.swap(&self.peers, a, b, key);
        }
        self.peers.swap(a, b);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use super::super::entry::Peer;
    use super::*;
    use crate::super_peers::Region;

    const KEY: HashKey = HashKey::new(3, 5);

    fn entry(number: u32, kind: Kind, seen: u32) -> Entry<[u8; 4]> {
        let address = (0x0102_0000 + number / 60_000).to_be_bytes();
        let endpoint = SocketAddr::from((address, (number % 60_000) as u16 + 1));
        Entry::new(&Peer { endpoint, kind, held: 5, tag: number, region: Region::default() }, address, seen)
    }

    fn check(table: &Table<[u8; 4]>, expected: &HashMap<u32, Kind>) {
        assert_eq!(table.len(), expected.len());
        for (number, kind) in expected {
            let wanted = entry(*number, *kind, 0);
            let at = table.find(wanted.address, wanted.port, &KEY).expect("every peer is found");
            assert_eq!((table.get(at).tag, table.get(at).kind()), (*number, *kind));
            assert_eq!(at < table.leeching as usize, *kind == Kind::Leeching);
        }
        let count = |kind| expected.values().filter(|other| **other == kind).count() as u32;
        let counts = table.counts();
        assert_eq!(counts.complete, count(Kind::Seeding));
        assert_eq!(counts.downloaders, count(Kind::Leeching));
        assert_eq!(counts.incomplete, count(Kind::Leeching) + count(Kind::Paused));
        if !table.index.is_empty() {
            let used = table.index.slots() - table.index.free();
            assert_eq!(used, table.len());
        }
    }

    #[test]
    fn it_does_what_a_map_does() {
        let mut random = Rng::with_seed(7);
        let mut table = Table::default();
        let mut expected = HashMap::new();
        let kinds = [Kind::Leeching, Kind::Paused, Kind::Seeding];
        for step in 0..60_000 {
            // Grows, shrinks, and grows again.
            let most = if (20_000..40_000).contains(&step) { 20 } else { 3000 };
            let number = random.u32(0..most);
            let kind = kinds[random.usize(0..3)];
            let new = entry(number, kind, 0);
            match table.find(new.address, new.port, &KEY) {
                Some(at) if random.u32(0..5) < 2 => {
                    table.remove(at, &KEY);
                    expected.remove(&number);
                }
                Some(at) => {
                    let before = table.replace(at, new, &KEY);
                    assert_eq!(expected.insert(number, kind), Some(before));
                }
                None => {
                    table.add(new, &KEY);
                    assert_eq!(expected.insert(number, kind), None);
                }
            }
            if step == 20_000 {
                let most: Vec<u32> = expected.keys().copied().filter(|number| *number >= 10).collect();
                for number in most {
                    let old = entry(number, Kind::Seeding, 0);
                    let at = table.find(old.address, old.port, &KEY).expect("it is there");
                    table.remove(at, &KEY);
                    expected.remove(&number);
                }
                table.expire(0, 0, &KEY, drop);
            }
            if step % 1000 == 0 || step < 200 {
                check(&table, &expected);
            }
        }
        check(&table, &expected);
    }

    #[test]
    fn who_is_silent_goes() {
        let mut table = Table::default();
        for number in 0..1000 {
            let kind = [Kind::Leeching, Kind::Paused, Kind::Seeding][number as usize % 3];
            table.add(entry(number, kind, number % 10), &KEY);
        }
        assert_eq!(table.expire(14, 10, &KEY, drop), 400);
        let kind = |number: u32| [Kind::Leeching, Kind::Paused, Kind::Seeding][number as usize % 3];
        let left: HashMap<u32, Kind> =
            (0..1000).filter(|number| number % 10 >= 4).map(|number| (number, kind(number))).collect();
        check(&table, &left);
        let gone = Cell::new(0);
        assert_eq!(table.expire(100, 10, &KEY, |_| gone.set(gone.get() + 1)), 600);
        assert_eq!(gone.get(), 600);
        assert_eq!((table.len(), table.memory()), (0, 0));
    }

    #[test]
    fn samples_are_bounded_fair_and_without_the_asker() {
        let mut table = Table::default();
        for number in 0..1000 {
            table.add(entry(number, if number < 300 { Kind::Leeching } else { Kind::Seeding }, 0), &KEY);
        }
        let mut random = Rng::with_seed(1);
        let mut drawn = HashMap::<u32, u32>::new();
        let mut sample = Vec::new();
        for _ in 0..4000 {
            sample.clear();
            let among = Among { wanted: 50, leeching: false, local: true, but: Some(500) };
            table.sample(among, &mut random, &mut sample);
            assert_eq!(sample.len(), 50);
            sample.iter().for_each(|peer| *drawn.entry(peer.tag).or_default() += 1);
        }
        assert!(!drawn.contains_key(&table.get(500).tag));
        assert_eq!(drawn.len(), 999);
        assert!(drawn.values().all(|times| (100..=400).contains(times)), "{drawn:?}");
        sample.clear();
        let among = Among { wanted: 200, leeching: true, local: true, but: None };
        table.sample(among, &mut random, &mut sample);
        assert_eq!(sample.len(), 200);
        assert!(sample.iter().all(|peer| peer.kind() == Kind::Leeching));
        sample.clear();
        table.sample(Among { wanted: 0, ..among }, &mut random, &mut sample);
        table.sample(Among { wanted: 9, ..among }, &mut random, &mut sample);
        assert_eq!(sample.len(), 9);
    }
}

//! Where in its table a peer of a large swarm stands: open addressing with linear probing over positions
//! of 4 bytes, so that the peers themselves are kept once.
//!
//! Addresses and ports are chosen by strangers, so the hash is keyed with numbers that they do not know.

use super::entry::{Address, Entry};

const EMPTY: u32 = u32::MAX;
/// An odd number with many bits set, and as many not.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// The key of the hash; one for all swarms.
#[derive(Debug, Clone, Copy)]
pub(super) struct HashKey {
    first: u64,
    second: u64,
}

impl HashKey {
    /// From numbers that nobody can guess.
    pub(super) const fn new(first: u64, second: u64) -> Self {
        // Odd, so that nothing is multiplied away.
        Self { first, second: second | 1 }
    }

    /// Of an address, or the first bytes of one, and a number beside it.
    pub(super) fn hash(&self, address: &[u8], port: u16) -> u64 {
        let mut hash = folded(self.first ^ u64::from(port), self.second);
        for chunk in address.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = folded(hash ^ u64::from_le_bytes(word), self.second ^ MIX);
        }
        hash
    }
}

/// Both halves of a product, mixed.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Positions by endpoint. Empty in a swarm that is small enough to be looked through.
#[derive(Debug, Default)]
pub(super) struct Index(Box<[u32]>);

impl Index {
    /// Of all `peers`.
    pub(super) fn of<A: Address>(peers: &[Entry<A>], key: &HashKey) -> Self {
        let slots = (peers.len() * 2).next_power_of_two();
        let mut index = Self(vec![EMPTY; slots].into());
        for position in 0..peers.len() {
            index.insert(peers, position, key);
        }
        index
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn slots(&self) -> usize {
        self.0.len()
    }

    /// Slots that nobody stands in.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.0.iter().filter(|position| **position == EMPTY).count()
    }

    /// Whether one more beside `peers` peers would make it slow; true of one that is not there yet.
    pub(super) fn is_full(&self, peers: usize) -> bool {
        (peers + 1) * 4 > self.0.len() * 3
    }

    /// Where the peer with that endpoint stands.
    pub(super) fn find<A: Address>(
        &self,
        peers: &[Entry<A>],
        address: A,
        port: u16,
        key: &HashKey,
    ) -> Option<usize> {
        let mut slot = self.home(address.bytes(), port, key);
        loop {
            let position = self.0[slot];
            if position == EMPTY {
                return None;
            }
            let peer = &peers[position as usize];
            if peer.port == port && peer.address == address {
                return Some(position as usize);
            }
            slot = self.after(slot);
        }
    }

    /// Adds the peer at `position`, which is in none of the slots. There must be an empty slot left
    /// besides, since looking for a peer ends there.
    pub(super) fn insert<A: Address>(&mut self, peers: &[Entry<A>], position: usize, key: &HashKey) {
        let mut slot = self.home_of(&peers[position], key);
        while self.0[slot] != EMPTY {
            slot = self.after(slot);
        }
        self.0[slot] = position as u32;
    }

    /// Tells it that two peers are about to change places.
    pub(super) fn swap<A: Address>(&mut self, peers: &[Entry<A>], a: usize, b: usize, key: &HashKey) {
        let (of_a, of_b) = (self.slot_of(peers, a, key), self.slot_of(peers, b, key));
        self.0.swap(of_a, of_b);
    }

    /// Takes out the peer at `position`, which is still there.
    pub(super) fn remove<A: Address>(&mut self, peers: &[Entry<A>], position: usize, key: &HashKey) {
        let mut hole = self.slot_of(peers, position, key);
        let mask = self.0.len() - 1;
        let mut slot = hole;
        // What stands behind moves up, unless it would come to stand before its home.
        loop {
            slot = self.after(slot);
            let position = self.0[slot];
            if position == EMPTY {
                break;
            }
            let home = self.home_of(&peers[position as usize], key);
            if slot.wrapping_sub(home) & mask >= slot.wrapping_sub(hole) & mask {
                self.0[hole] = position;
                hole = slot;
            }
        }
        self.0[hole] = EMPTY;
    }

    fn slot_of<A: Address>(&self, peers: &[Entry<A>], position: usize, key: &HashKey) -> usize {
        let mut slot = self.home_of(&peers[position], key);
        while self.0[slot] != position as u32 {
            slot = self.after(slot);
        }
        slot
    }

    fn home_of<A: Address>(&self, peer: &Entry<A>, key: &HashKey) -> usize {
        self.home(peer.address.bytes(), peer.port, key)
    }

    fn home(&self, address: &[u8], port: u16, key: &HashKey) -> usize {
        key.hash(address, port) as usize & (self.0.len() - 1)
    }

    fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.0.len() - 1)
    }
}

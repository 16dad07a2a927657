//! Super-seeding (BEP 16): a peer is shown one piece at a time, and the next one when another peer has
//! got that piece from it. So each piece leaves this node about once before it is had elsewhere.

use std::collections::HashMap;

use skerry_wire::peer::Bitfield;

/// Which piece each peer was shown last, and how often each piece was.
#[derive(Debug)]
pub(crate) struct Offers {
    shown: Vec<u32>,
    current: HashMap<u64, u32>,
}

impl Offers {
    /// Nothing shown yet of so many pieces.
    pub(crate) fn new(pieces: u32) -> Self {
        Self { shown: vec![0; pieces as usize], current: HashMap::new() }
    }

    /// The piece to show a peer next: of those that are held and that it has not, one that was shown
    /// least. `None` while the one it was shown has not spread, or when it has all.
    pub(crate) fn next(&mut self, peer: u64, held: &Bitfield, has: &Bitfield, start: u32) -> Option<u32> {
        if self.current.contains_key(&peer) {
            return None;
        }
        let pieces = self.shown.len() as u32;
        // From a place of its own for each peer, so that pieces that are alike are not all the first.
        let order = (0..pieces).map(|index| (index + start) % pieces);
        let piece = order
            .filter(|piece| held.get(*piece) && !has.get(*piece))
            .min_by_key(|piece| self.shown[*piece as usize])?;
        self.shown[piece as usize] += 1;
        self.current.insert(peer, piece);
        Some(piece)
    }

    /// A peer has got a piece; returns the peers that have another one coming, since they gave it, or
    /// since there is nobody else to give it to.
    pub(crate) fn spread(&mut self, piece: u32, by: u64, peers: usize) -> Vec<u64> {
        let due: Vec<u64> = self
            .current
            .iter()
            .filter(|(peer, shown)| **shown == piece && (**peer != by || peers < 2))
            .map(|(peer, _)| *peer)
            .collect();
        due.iter().for_each(|peer| _ = self.current.remove(peer));
        due
    }

    /// A peer has gone.
    pub(crate) fn leave(&mut self, peer: u64) {
        self.current.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_shown_to_one_and_the_next_when_another_has_it() {
        let mut offers = Offers::new(4);
        let (none, all) = (Bitfield::new(4), Bitfield::full(4));
        assert_eq!(offers.next(1, &all, &none, 0), Some(0));
        assert_eq!(offers.next(1, &all, &none, 0), None);
        assert_eq!(offers.next(2, &all, &none, 0), Some(1));
        // It has got what it was shown: that is no news of others.
        assert!(offers.spread(0, 1, 2).is_empty());
        assert_eq!(offers.spread(0, 2, 2), [1]);
        assert_eq!(offers.next(1, &all, &none, 0), Some(2));
        offers.leave(2);
        // Who is alone gets one after the other.
        assert_eq!(offers.spread(2, 1, 1), [1]);
        let mut all_but_three = Bitfield::full(4);
        all_but_three.clear(3);
        assert_eq!(offers.next(1, &all, &all_but_three, 0), Some(3));
        assert_eq!(offers.next(3, &all, &all, 0), None);
    }

    #[test]
    fn what_is_not_held_is_not_shown() {
        let mut offers = Offers::new(4);
        let (mut held, none) = (Bitfield::new(4), Bitfield::new(4));
        assert_eq!(offers.next(1, &held, &none, 0), None);
        held.set(2);
        assert_eq!(offers.next(1, &held, &none, 0), Some(2));
    }
}

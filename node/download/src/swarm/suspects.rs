//! Who sent what of pieces that turned out wrong, until they have come right.
//!
//! One who sent all of a wrong piece is guilty. Of several nobody knows who it was: the piece is then
//! fetched from one peer alone, and once it is right, whoever had sent other blocks is. Who had its turn and
//! did not give the piece has another when everybody else had theirs.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

use skerry_wire::peer::BLOCK;

use crate::partial::Whole;
use crate::peer::{Key, Peer};

/// Pieces whose blocks are remembered; of further ones only that they come from one peer.
const MOST: usize = 64;
/// How often the time of a turn is doubled.
const MOST_DOUBLED: u32 = 6;

/// A block as it was sent: by whom, and its digest.
type Sent = (SocketAddr, u64);

/// Pieces that were wrong and are not right yet.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Keyed by this run, so that nobody can make blocks with the digests of others.
    keyed: RandomState,
    pieces: HashMap<u32, Suspect>,
    remembered: usize,
}

#[derive(Debug, Default)]
struct Suspect {
    sent: Vec<Sent>,
    /// Peers that had their turn to give it alone, and whether one of these turns was too short.
    tried: Vec<Key>,
    was_slow: bool,
    /// How often the time of a turn was doubled.
    doubled: u32,
}

impl Suspects {
    /// Whether a piece is to come from one peer alone.
    pub(crate) fn contains(&self, piece: u32) -> bool {
        self.pieces.contains_key(&piece)
    }

    /// Whether a peer had its turn to give a piece alone.
    pub(crate) fn has_tried(&self, piece: u32, peer: Key) -> bool {
        self.pieces.get(&piece).is_some_and(|suspect| suspect.tried.contains(&peer))
    }

    /// Whether a peer waits for another turn with any piece.
    pub(crate) fn keeps_out(&self, peer: Key) -> bool {
        self.pieces.values().any(|suspect| suspect.tried.contains(&peer))
    }

    /// A peer had its turn with a piece.
    pub(crate) fn tried(&mut self, piece: u32, peer: Key) {
        if let Some(suspect) = self.pieces.get_mut(&piece)
            && !suspect.tried.contains(&peer)
        {
            suspect.tried.push(peer);
        }
    }

    /// A turn with a piece was too short: all of them may just be slow.
    pub(crate) fn was_slow(&mut self, piece: u32) {
        self.pieces.get_mut(&piece).into_iter().for_each(|suspect| suspect.was_slow = true);
    }

    /// How long a turn with a piece is, in times of the first one.
    pub(crate) fn patience(&self, piece: u32) -> u32 {
        1 << self.pieces.get(&piece).map_or(0, |suspect| suspect.doubled)
    }

    /// Where none of the peers is left that would give a piece and had no turn, all of them have another.
    /// `turn` tells of a piece who has its turn, and whether that has lasted long enough.
    pub(crate) fn begin_rounds(
        &mut self,
        peers: &BTreeMap<Key, Peer>,
        turn: impl Fn(u32) -> Option<(Key, bool)>,
    ) {
        for (piece, suspect) in &mut self.pieces {
            let Suspect { tried, was_slow, doubled, .. } = suspect;
            tried.retain(|key| peers.contains_key(key));
            let turn = turn(*piece);
            let would = |peer: &&Peer| match turn {
                Some((key, is_over)) if key == peer.key => !is_over,
                _ => peer.room() > 0,
            };
            let may = |peer: &&Peer| peer.serves(*piece) && !tried.contains(&peer.key);
            if !tried.is_empty() && !peers.values().filter(may).any(|peer| would(&peer)) {
                tried.clear();
                *doubled = (*doubled + u32::from(std::mem::take(was_slow))).min(MOST_DOUBLED);
            }
        }
    }

    /// A piece was wrong. Returns who is guilty, if that is plain.
    pub(crate) fn wrong(&mut self, piece: u32, whole: &Whole) -> Option<SocketAddr> {
        let first = *whole.senders.first()?;
        if whole.senders.iter().all(|sender| *sender == first) {
            return Some(first);
        }
        if !self.contains(piece) {
            let sent = if self.remembered < MOST { self.digests(whole) } else { Vec::new() };
            self.remembered += usize::from(!sent.is_empty());
            self.pieces.insert(piece, Suspect { sent, ..Suspect::default() });
        }
        None
    }

    /// A piece is right. Returns who had sent something else.
    pub(crate) fn right(&mut self, piece: u32, whole: &Whole) -> Vec<SocketAddr> {
        let Some(Suspect { sent: before, .. }) = self.pieces.remove(&piece) else { return Vec::new() };
        self.remembered -= usize::from(!before.is_empty());
        let now = self.digests(whole);
        let other = before.iter().zip(&now).filter(|(before, now)| before.1 != now.1);
        let mut guilty: Vec<SocketAddr> = other.map(|(before, _)| before.0).collect();
        guilty.sort_unstable();
        guilty.dedup();
        guilty
    }

    fn digests(&self, whole: &Whole) -> Vec<Sent> {
        let blocks = whole.data.chunks(BLOCK as usize);
        let sent = whole.senders.iter().zip(blocks);
        sent.map(|(sender, block)| (*sender, self.keyed.hash_one(block))).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Blocks that begin so, by peers at these ports.
    fn whole(blocks: &[(u8, u16)]) -> Whole {
        let data: Vec<u8> = blocks.iter().flat_map(|(byte, _)| vec![*byte; BLOCK as usize]).collect();
        Whole { data: Bytes::from(data), senders: blocks.iter().map(|(_, port)| at(*port)).collect() }
    }

    #[test]
    fn who_sent_all_of_it_is_guilty_at_once() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.wrong(1, &whole(&[(1, 7), (2, 7)])), Some(at(7)));
        assert!(!suspects.contains(1));
    }

    #[test]
    fn of_several_those_who_sent_other_blocks_are() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.wrong(1, &whole(&[(1, 7), (9, 8), (3, 9), (9, 8)])), None);
        assert!(suspects.contains(1) && !suspects.contains(2));
        let right = whole(&[(1, 9), (2, 9), (3, 9), (4, 9)]);
        assert_eq!(suspects.right(1, &right), [at(8)]);
        assert!(!suspects.contains(1));
        assert!(suspects.right(1, &right).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut suspects = Suspects::default();
        (0..200).for_each(|piece| _ = suspects.wrong(piece, &whole(&[(1, 7), (2, 8)])));
        assert!((0..200).all(|piece| suspects.contains(piece)));
        assert_eq!(suspects.pieces.values().filter(|suspect| !suspect.sent.is_empty()).count(), MOST);
        (0..200).for_each(|piece| _ = suspects.right(piece, &whole(&[(1, 7), (2, 7)])));
        assert_eq!((suspects.remembered, suspects.pieces.len()), (0, 0));
    }
}

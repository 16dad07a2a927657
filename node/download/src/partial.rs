//! A piece that has begun to come: which blocks are there, who sent them, and who is asked for the rest.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use skerry_wire::peer::{BLOCK, Block};

use crate::peer::Key;
use crate::piece::{block, block_count};

/// A piece on its way.
#[derive(Debug)]
pub(crate) struct Partial {
    piece: u32,
    data: Vec<u8>,
    slots: Vec<Slot>,
    /// Blocks that have not come.
    missing: usize,
    /// Those of them that nobody is asked for, and where to look for the first.
    unasked: usize,
    first: usize,
    senders: Vec<SocketAddr>,
    /// The only peer that may give it, once several have given a wrong one together.
    pub(crate) owner: Option<Owner>,
}

/// Who has to give a piece alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) key: Key,
    /// When it should have given it.
    pub(crate) until: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Peers that are asked for it.
    asked: u8,
    /// Who sent it, as a place in `senders` from 1; 0 while nobody has.
    sender: u16,
}

/// A whole piece, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Its bytes.
    pub(crate) data: Bytes,
    /// Who sent each block.
    pub(crate) senders: Vec<SocketAddr>,
}

impl Partial {
    /// Nothing of a piece of `length` bytes.
    pub(crate) fn new(piece: u32, length: u32, owner: Option<Owner>) -> Self {
        let blocks = block_count(length);
        Self {
            piece,
            data: vec![0; length as usize],
            slots: vec![Slot::default(); blocks],
            missing: blocks,
            unasked: blocks,
            first: 0,
            senders: Vec::new(),
            owner,
        }
    }

    /// Bytes that it takes.
    pub(crate) fn length(&self) -> u64 {
        self.data.len() as u64
    }

    /// Whether there are blocks that nobody is asked for.
    pub(crate) fn has_unasked(&self) -> bool {
        self.unasked > 0
    }

    /// Whether every block is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// A block that nobody is asked for, which is asked for from now on.
    pub(crate) fn next(&mut self) -> Option<Block> {
        let found = self.slots[self.first..].iter().position(|slot| slot.asked == 0 && slot.sender == 0);
        let index = self.first + found?;
        self.slots[index].asked = 1;
        self.unasked -= 1;
        self.first = index + 1;
        Some(self.block(index))
    }

    /// A block that fewer than `most` others are asked for, and this peer is not: `mine` tells. It is asked
    /// for once more.
    pub(crate) fn again(&mut self, most: u8, mine: impl Fn(&Block) -> bool) -> Option<Block> {
        let (piece, length) = (self.piece, self.data.len() as u32);
        let (index, slot) = self.slots.iter_mut().enumerate().find(|(index, slot)| {
            slot.sender == 0 && (1..most).contains(&slot.asked) && !mine(&block(piece, length, *index))
        })?;
        slot.asked += 1;
        Some(self.block(index))
    }

    /// A peer that was asked for a block is not any more.
    pub(crate) fn release(&mut self, begin: u32) {
        let index = (begin / BLOCK) as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.asked > 0) else { return };
        slot.asked -= 1;
        if slot.asked == 0 && slot.sender == 0 {
            self.unasked += 1;
            self.first = self.first.min(index);
        }
    }

    /// Takes a block that was asked for. `false` when it was there. It counts as asked for still, until it
    /// is released.
    pub(crate) fn put(&mut self, begin: u32, bytes: &[u8], from: SocketAddr) -> bool {
        let index = (begin / BLOCK) as usize;
        let room = self.data.get_mut(begin as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        let (Some(room), Some(slot)) = (room, self.slots.get_mut(index)) else { return false };
        if slot.sender != 0 {
            return false;
        }
        room.copy_from_slice(bytes);
        let known = self.senders.iter().position(|sender| *sender == from);
        let place = known.unwrap_or_else(|| {
            self.senders.push(from);
            self.senders.len() - 1
        });
        // A piece has no more than 16384 blocks.
        slot.sender = place as u16 + 1;
        self.missing -= 1;
        if slot.asked == 0 {
            self.unasked -= 1;
        }
        true
    }

    /// Whether others are asked for a block, too.
    pub(crate) fn is_asked(&self, begin: u32) -> bool {
        self.slots.get((begin / BLOCK) as usize).is_some_and(|slot| slot.asked > 0)
    }

    /// The whole piece, once it is complete.
    pub(crate) fn finish(self) -> Whole {
        let sender = |slot: &Slot| self.senders[usize::from(slot.sender.max(1)) - 1];
        Whole { senders: self.slots.iter().map(sender).collect(), data: Bytes::from(self.data) }
    }

    fn block(&self, index: usize) -> Block {
        block(self.piece, self.data.len() as u32, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn begins(blocks: impl Iterator<Item = Block>) -> Vec<u32> {
        blocks.map(|block| block.begin / BLOCK).collect()
    }

    #[test]
    fn blocks_are_asked_for_once_and_again_when_they_are_given_up() {
        let mut partial = Partial::new(3, 2 * BLOCK + 7, None);
        assert_eq!(begins(std::iter::from_fn(|| partial.next())), [0, 1, 2]);
        assert!(!partial.has_unasked());
        partial.release(BLOCK);
        partial.release(BLOCK);
        assert_eq!(partial.next(), Some(Block { piece: 3, begin: BLOCK, length: BLOCK }));
        assert_eq!(partial.next(), None);
    }

    #[test]
    fn a_piece_is_whole_when_every_block_has_come() {
        let mut partial = Partial::new(0, 2 * BLOCK + 1, None);
        let bytes: Vec<u8> = (0..=2 * BLOCK).map(|n| (n >> 6) as u8).collect();
        while let Some(block) = partial.next() {
            let (from, to) = (block.begin as usize, (block.begin + block.length) as usize);
            assert!(!partial.is_complete());
            let sender = at(1 + (block.begin / BLOCK) as u16 % 2);
            assert!(partial.put(block.begin, &bytes[from..to], sender));
            assert!(!partial.put(block.begin, &bytes[from..to], at(9)), "it was there");
            partial.release(block.begin);
        }
        assert!(partial.is_complete() && !partial.has_unasked());
        let whole = partial.finish();
        assert_eq!((&whole.data[..], whole.senders), (&bytes[..], vec![at(1), at(2), at(1)]));
    }

    #[test]
    fn what_comes_late_counts_as_come() {
        let mut partial = Partial::new(0, 2 * BLOCK, None);
        partial.next();
        partial.release(0);
        assert!(partial.put(0, &[1; BLOCK as usize], at(1)));
        assert_eq!(begins(std::iter::from_fn(|| partial.next())), [1]);
        assert!(!partial.put(2 * BLOCK, &[1], at(1)), "there is no such block");
        assert!(!partial.put(BLOCK, &[1; 2 * BLOCK as usize], at(1)), "it is too long");
        partial.release(7 * BLOCK);
    }

    #[test]
    fn at_the_end_several_are_asked_for_one_block() {
        let mut partial = Partial::new(0, 2 * BLOCK, None);
        let first = partial.next().unwrap();
        assert_eq!(partial.again(2, |block| *block == first), None, "the other one is still free");
        assert_eq!(partial.again(2, |_| false), Some(first));
        assert_eq!(partial.again(2, |_| false), None);
        assert_eq!(partial.again(3, |_| false), Some(first));
        assert!(partial.put(0, &[0; BLOCK as usize], at(1)) && partial.is_asked(0));
        assert_eq!(partial.again(9, |_| false), None, "it has come");
    }
}

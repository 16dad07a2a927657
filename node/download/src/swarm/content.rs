//! The third phase: pieces, from whoever has them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use skerry_wire::peer::{Bitfield, Block};

use super::suspects::Suspects;
use crate::error::End;
use crate::partial::{Owner, Partial, Whole};
use crate::peer::{Came, Counted, Has, Key, Peer};
use crate::picker::Picker;
use crate::piece::{Check, Pieces};

/// Peers that are asked for one block when there is nothing else to ask for.
const MOST_ASKED: u8 = 3;
/// Blocks that a peer is asked for at once when others are asked for them too.
const MOST_AGAIN: usize = 16;

/// How long a peer may take for a piece that it has to give alone, at first: this, and its bytes at the slowest rate
/// that is waited for while others have it, bytes per second.
const GRACE: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 16 * 1024;

/// A piece that is to be verified.
#[derive(Debug)]
pub(crate) struct Complete {
    /// Its number.
    pub(crate) piece: u32,
    /// Its bytes.
    pub(crate) data: Bytes,
    /// What they are verified by.
    pub(crate) check: Check,
}

/// What a block has come to.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// Whether it was of use.
    pub(crate) useful: bool,
    /// Whether others are asked for it.
    pub(crate) others: bool,
    /// The piece, when it was the last one.
    pub(crate) complete: Option<Complete>,
}

/// Pieces that are there, on their way, and to be had.
#[derive(Debug)]
pub(crate) struct Content {
    pieces: Pieces,
    picker: Picker,
    have: Bitfield,
    partials: BTreeMap<u32, Partial>,
    /// Those of them with blocks that nobody is asked for.
    open: BTreeSet<u32>,
    /// Pieces that are being verified and stored.
    finishing: HashMap<u32, Whole>,
    suspects: Suspects,
    /// Bytes of pieces that have begun and are not stored, and how many there may be.
    used: u64,
    memory: u64,
}

impl Content {
    /// A torrent of which `have` is there.
    pub(crate) fn new(pieces: Pieces, have: Bitfield, memory: u64, seed: u64) -> Self {
        Self {
            picker: Picker::new(&have, seed),
            pieces,
            have,
            partials: BTreeMap::new(),
            open: BTreeSet::new(),
            finishing: HashMap::new(),
            suspects: Suspects::default(),
            used: 0,
            memory,
        }
    }

    /// The torrent.
    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// What is there.
    pub(crate) fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Whether pieces are being verified or stored.
    pub(crate) fn is_finishing(&self) -> bool {
        !self.finishing.is_empty()
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// A reader waits for `count` pieces from `first` on.
    pub(crate) fn want(&mut self, first: u32, count: u32) {
        let end = first.saturating_add(count).min(self.pieces.count());
        self.picker.want(first.min(end)..end);
    }

    /// Counts what a peer has; to be called again when it says anew what it has, after
    /// [`Content::discount`].
    pub(crate) fn count(&mut self, peer: &mut Peer) {
        let Has::Known(has) = &peer.has else { return };
        if has.complete() {
            peer.counted = Counted::Seed;
        } else {
            has.held().for_each(|piece| self.picker.seen(piece));
            peer.counted = Counted::Pieces;
        }
    }

    /// What a peer has counts no more.
    pub(crate) fn discount(&mut self, peer: &mut Peer) {
        if let (Counted::Pieces, Has::Known(has)) = (peer.counted, &peer.has) {
            has.held().for_each(|piece| self.picker.unseen(piece));
        }
        peer.counted = Counted::Not;
    }

    /// A peer has one more piece.
    pub(crate) fn gain(&mut self, peer: &mut Peer, piece: u32) -> Result<(), End> {
        if peer.gains(piece)? && peer.counted == Counted::Pieces {
            self.picker.seen(piece);
        }
        Ok(())
    }

    /// A peer has one piece fewer.
    pub(crate) fn lose(&mut self, peer: &mut Peer, piece: u32) {
        if !peer.loses(piece) {
            return;
        }
        match peer.counted {
            // No more: now each of its pieces counts.
            Counted::Seed => self.count(peer),
            Counted::Pieces => self.picker.unseen(piece),
            Counted::Not => {}
        }
    }

    /// Whether a peer has anything that lacks.
    pub(crate) fn wants(&self, peer: &Peer) -> bool {
        let Has::Known(has) = &peer.has else { return peer.has_any() };
        // What is being verified may be wrong.
        has.held().any(|piece| !self.have.get(piece))
    }

    /// The next block to ask a peer for; it counts as asked for.
    pub(crate) fn next(&mut self, peer: &mut Peer, now: Duration) -> Option<Block> {
        if peer.choking && peer.allowed.is_empty() {
            return None;
        }
        let (window, partials, asker) = (self.picker.window().clone(), &self.partials, &*peer);
        let may = |piece: &&u32| {
            let owner = partials.get(*piece).and_then(|partial| partial.owner);
            asker.serves(**piece) && owner.is_none_or(|owner| owner.key == asker.key)
        };
        let begun = self.open.iter().filter(may).min_by_key(|piece| !window.contains(*piece)).copied();
        // What a reader waits for comes first, begun or not; else what is begun does.
        let piece = begun.filter(|piece| window.contains(piece));
        let piece = piece.or_else(|| self.begin(peer, true, now)).or(begun);
        match piece.or_else(|| self.begin(peer, false, now)) {
            Some(piece) => self.ask(piece),
            None => self.again(peer),
        }
    }

    /// Begins a piece, if there is memory for it.
    fn begin(&mut self, peer: &mut Peer, waited_for: bool, now: Duration) -> Option<u32> {
        if !self.has_room() || peer.idle == Some(self.picker.freed()) {
            return None;
        }
        let (pieces, suspects, asker) = (&self.pieces, &self.suspects, &*peer);
        let is_kept_out = suspects.keeps_out(peer.key);
        let may = |piece: u32| {
            let tried = is_kept_out && suspects.has_tried(piece, asker.key);
            asker.serves(piece) && pieces.check(piece).is_some() && !tried
        };
        let picked = if waited_for { self.picker.pick_waited_for(may) } else { self.picker.pick(may) };
        if picked.is_none() && !waited_for && !is_kept_out {
            peer.idle = Some(self.picker.freed());
        }
        let piece = picked?;
        let length = self.pieces.length(piece);
        let until = now + self.turn(piece);
        let owner = self.suspects.contains(piece).then_some(Owner { key: peer.key, until });
        self.used += u64::from(length);
        self.partials.insert(piece, Partial::new(piece, length, owner));
        self.open.insert(piece);
        Some(piece)
    }

    /// How long a peer may take for a piece that it has to give alone.
    pub(crate) fn turn(&self, piece: u32) -> Duration {
        let first = GRACE + Duration::from_secs(u64::from(self.pieces.length(piece)) / SLOWEST);
        first * self.suspects.patience(piece)
    }

    /// Whether a piece can be begun: no torrent has one that is longer than the memory.
    fn has_room(&self) -> bool {
        self.used + u64::from(self.pieces.metainfo().info().piece_length()) <= self.memory
    }

    fn ask(&mut self, piece: u32) -> Option<Block> {
        let partial = self.partials.get_mut(&piece)?;
        let block = partial.next();
        if !partial.has_unasked() {
            self.open.remove(&piece);
        }
        block
    }

    /// A block that others are asked for, when there is nothing else to ask for: at the end, or because
    /// slow peers have all of the memory.
    fn again(&mut self, peer: &Peer) -> Option<Block> {
        let stuck = !self.has_room() && self.finishing.is_empty();
        let ends = self.picker.left() == 0 || stuck;
        if !ends || peer.asked().len() >= MOST_AGAIN {
            return None;
        }
        let mine = |block: &Block| peer.asked().contains(block);
        let shared =
            |(piece, partial): &(&u32, &mut Partial)| partial.owner.is_none() && peer.serves(**piece);
        (2..=MOST_ASKED).find_map(|most| {
            let mut partials = self.partials.iter_mut().filter(shared);
            partials.find_map(|(_, partial)| partial.again(most, mine))
        })
    }

    /// A peer is not asked for a block any more. Returns whether it is to be asked for no other of the piece.
    pub(crate) fn release(&mut self, peer: Key, block: &Block) -> bool {
        let Some(partial) = self.partials.get_mut(&block.piece) else { return false };
        partial.release(block.begin);
        if partial.has_unasked() {
            self.open.insert(block.piece);
        }
        // All of it must come from one peer, and this one may never go on.
        let is_lost = partial.owner.is_some_and(|owner| owner.key == peer) && !partial.is_complete();
        if is_lost {
            self.drop_partial(block.piece);
        }
        is_lost
    }

    fn drop_partial(&mut self, piece: u32) {
        if let Some(partial) = self.partials.remove(&piece) {
            if let Some(owner) = partial.owner {
                self.suspects.tried(piece, owner.key);
            }
            self.used -= partial.length();
            self.open.remove(&piece);
            self.picker.free(piece);
        }
    }

    /// Takes a block that came.
    pub(crate) fn take(&mut self, peer: &Peer, came: Came, piece: u32, begin: u32, data: &[u8]) -> Arrival {
        let Some(partial) = self.partials.get_mut(&piece) else { return Arrival::default() };
        // What comes late may be of a piece that another peer has to give alone.
        let may = partial.owner.is_none_or(|owner| owner.key == peer.key);
        let useful = may && came != Came::Unasked && partial.put(begin, data, peer.address);
        if came == Came::Asked {
            partial.release(begin);
        }
        if !partial.has_unasked() {
            self.open.remove(&piece);
        }
        let others = useful && partial.is_asked(begin);
        let complete = if partial.is_complete() { self.complete(piece) } else { None };
        Arrival { useful, others, complete }
    }

    fn complete(&mut self, piece: u32) -> Option<Complete> {
        let whole = self.partials.remove(&piece)?.finish();
        self.open.remove(&piece);
        // It was begun, so there is one.
        let check = self.pieces.check(piece)?;
        let data = whole.data.clone();
        self.finishing.insert(piece, whole);
        Some(Complete { piece, data, check })
    }

    /// A piece was right, and is stored: its length, and who had sent wrong blocks of it before.
    pub(crate) fn stored(&mut self, piece: u32) -> (u64, Vec<SocketAddr>) {
        let Some(whole) = self.finishing.remove(&piece) else { return (0, Vec::new()) };
        let length = whole.data.len() as u64;
        self.used -= length;
        self.have.set(piece);
        (length, self.suspects.right(piece, &whole))
    }

    /// A piece was wrong, and is to be had again: its length, and who is guilty, if that is plain.
    pub(crate) fn wrong(&mut self, piece: u32) -> (u64, Option<SocketAddr>) {
        let Some(whole) = self.finishing.remove(&piece) else { return (0, None) };
        let length = whole.data.len() as u64;
        self.used -= length;
        self.picker.free(piece);
        (length, self.suspects.wrong(piece, &whole))
    }

    /// A peer gives nothing, or is gone: whoever takes its place begins what it had to give alone anew.
    pub(crate) fn disown(&mut self, peer: Key) {
        let is_owned = |partial: &Partial| partial.owner.is_some_and(|owner| owner.key == peer);
        let owned = self.partials.iter().filter(|(_, partial)| is_owned(partial));
        let owned: Vec<u32> = owned.map(|(piece, _)| *piece).collect();
        owned.into_iter().for_each(|piece| self.drop_partial(piece));
    }

    /// Peers take turns with pieces that one has to give alone, where others would give them too: a block now
    /// and then does not keep a piece for hours.
    pub(crate) fn take_turns(&mut self, peers: &mut BTreeMap<Key, Peer>, now: Duration) {
        let partials = &self.partials;
        let owner = |piece: u32| partials.get(&piece).and_then(|partial| partial.owner);
        self.suspects.begin_rounds(peers, |piece| owner(piece).map(|it| (it.key, it.until <= now)));
        let owned = partials.iter().filter_map(|(piece, partial)| Some((*piece, partial.owner?)));
        let late: Vec<(u32, Owner)> = owned.filter(|(_, owner)| owner.until <= now).collect();
        for (piece, Owner { key, .. }) in late {
            let would = |peer: &Peer| {
                peer.key != key && peer.serves(piece) && !self.suspects.has_tried(piece, peer.key)
            };
            if peers.values().any(would) {
                self.suspects.was_slow(piece);
                peers.get_mut(&key).into_iter().for_each(|peer| peer.cancel_all(piece, now));
                self.drop_partial(piece);
            }
        }
    }
}

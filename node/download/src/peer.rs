//! One peer, as this side sees it: what it has, what it is asked for, how it behaves.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use skerry_wire::peer::extension::Extensions;
use skerry_wire::peer::{Bitfield, Block, Handshake, MAX_ALLOWED_FAST, Message, Reserved};

use crate::error::End;
use crate::flow::Flow;

/// Number of a connection.
pub(crate) type Key = u64;

/// Blocks that were asked for and given up, and may come all the same.
const MOST_LATE: usize = 512;
/// Blocks that nobody asked for, before a peer is sent away. An honest one sends none.
const MOST_UNASKED: u32 = 8;
/// Words of no use between two blocks, before a peer is sent away; and one for every piece.
const MOST_NOISE: u32 = 8192;
/// Pieces that a peer may name before it is known how many there are, besides its bitfield.
const MOST_EARLY: usize = 8192;

/// What a peer has.
#[derive(Debug)]
pub(crate) enum Has {
    /// As it was told before anybody knew how many pieces there are.
    Early {
        /// All of them.
        all: bool,
        /// A bitfield.
        bits: Vec<u8>,
        /// Further ones.
        more: Vec<u32>,
    },
    /// As it is.
    Known(Bitfield),
}

/// Whether a picker knows of what a peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// No.
    Not,
    /// It has everything, which counts for no piece.
    Seed,
    /// Each of its pieces.
    Pieces,
}

/// Which block came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// One that the peer is asked for.
    Asked,
    /// One that it was asked for, and is not any more.
    Late,
    /// One that it never was.
    Unasked,
}

/// A connection past TCP.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: Key,
    pub(crate) address: SocketAddr,
    /// The info-hash that it was asked for by.
    pub(crate) wire: [u8; 20],
    /// Whether its handshake has come.
    pub(crate) greeted: bool,
    /// Whether both sides speak the fast extension (BEP 6).
    pub(crate) fast: bool,
    /// Whether it may answer requests for hashes (BEP 52).
    pub(crate) gives_hashes: bool,
    pub(crate) theirs: Extensions,
    pub(crate) metadata_length: Option<u32>,
    pub(crate) has: Has,
    /// Whether it has said what it has.
    told: bool,
    pub(crate) counted: Counted,
    /// Whether it serves no requests.
    pub(crate) choking: bool,
    /// Whether it was told that it has something of use.
    pub(crate) interested: bool,
    /// Pieces that it serves even while it is choking.
    pub(crate) allowed: Vec<u32>,
    /// The picker's count when there was nothing to begin with this peer: what it says again does not make it
    /// worth another look.
    pub(crate) idle: Option<u64>,
    asked: VecDeque<Block>,
    /// Requests that were taken back and are not answered yet.
    late: VecDeque<Block>,
    /// Those of `asked` that had been taken back before, and whose first request has been refused since.
    answered: Vec<Block>,
    /// Whether it was seen to answer what was taken back.
    answers_cancels: bool,
    /// Pieces that it was asked for and refused while it was not choking.
    pub(crate) refused: BTreeSet<u32>,
    pub(crate) flow: Flow,
    /// Whether it was asked and gave nothing for too long.
    pub(crate) snubbed: bool,
    /// When it came, last said something, was last told something, and last gave a block or was first
    /// asked for one.
    pub(crate) joined: Duration,
    pub(crate) heard: Duration,
    said: Duration,
    pub(crate) gave: Duration,
    /// Whether any block of it was of use.
    pub(crate) useful: bool,
    /// When it last told of other peers.
    pub(crate) exchanged: Option<Duration>,
    unasked: u32,
    noise: u32,
    /// The beginning of a message whose end has not come.
    pub(crate) inbox: Vec<u8>,
    out: Vec<u8>,
}

impl Peer {
    /// A peer that is sent a handshake.
    pub(crate) fn new(
        key: Key,
        address: SocketAddr,
        wire: [u8; 20],
        peer_id: [u8; 20],
        now: Duration,
    ) -> Self {
        Self {
            key,
            address,
            wire,
            greeted: false,
            fast: false,
            gives_hashes: false,
            theirs: Extensions::default(),
            metadata_length: None,
            has: Has::Early { all: false, bits: Vec::new(), more: Vec::new() },
            told: false,
            counted: Counted::Not,
            choking: true,
            interested: false,
            allowed: Vec::new(),
            idle: None,
            asked: VecDeque::new(),
            late: VecDeque::new(),
            answered: Vec::new(),
            answers_cancels: false,
            refused: BTreeSet::new(),
            flow: Flow::new(now),
            snubbed: false,
            joined: now,
            heard: now,
            said: now,
            gave: now,
            useful: false,
            exchanged: None,
            unasked: 0,
            noise: 0,
            inbox: Vec::new(),
            out: Handshake { reserved: Reserved::OURS, info_hash: wire, peer_id }.encode().to_vec(),
        }
    }

    /// Queues a message.
    pub(crate) fn say(&mut self, message: &Message<'_>, now: Duration) {
        self.said = now;
        message.put(&mut self.out);
    }

    /// Says something when nothing was said for `limit`.
    pub(crate) fn keep_alive(&mut self, limit: Duration, now: Duration) {
        if self.greeted && now.saturating_sub(self.said) >= limit {
            self.say(&Message::KeepAlive, now);
        }
    }

    /// What is to be sent; empty when there is nothing.
    pub(crate) fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Tells it that it has something of use, once.
    pub(crate) fn show_interest(&mut self, now: Duration) {
        if !self.interested {
            self.interested = true;
            self.say(&Message::Interested, now);
        }
    }

    /// Whether it has a piece.
    pub(crate) fn has(&self, piece: u32) -> bool {
        matches!(&self.has, Has::Known(pieces) if pieces.get(piece))
    }

    /// Whether a piece would be served.
    pub(crate) fn serves(&self, piece: u32) -> bool {
        self.has(piece) && (!self.choking || self.allowed.contains(&piece))
    }

    /// Whether it has anything at all.
    pub(crate) fn has_any(&self) -> bool {
        match &self.has {
            Has::Early { all, bits, more } => *all || !more.is_empty() || bits.iter().any(|byte| *byte != 0),
            Has::Known(pieces) => pieces.count() > 0,
        }
    }

    /// It has everything, or nothing, or what a bitfield says; told once, at the beginning.
    pub(crate) fn tells(&mut self, message: &Message<'_>) -> Result<(), End> {
        self.idle = None;
        if std::mem::replace(&mut self.told, true) {
            return Err(End::ToldTwice);
        }
        match (&mut self.has, message) {
            (Has::Early { all, .. }, Message::HaveAll) => *all = true,
            (Has::Early { bits, .. }, Message::Bitfield(told)) => *bits = told.to_vec(),
            (Has::Known(pieces), Message::HaveAll) => *pieces = Bitfield::full(pieces.pieces()),
            (Has::Known(pieces), Message::Bitfield(told)) => {
                *pieces = Bitfield::parse(told, pieces.pieces())?;
            }
            _ => {}
        }
        Ok(())
    }

    /// It has one more piece: whether that is new.
    pub(crate) fn gains(&mut self, piece: u32) -> Result<bool, End> {
        match &mut self.has {
            Has::Early { more, .. } => {
                if more.len() < MOST_EARLY {
                    more.push(piece);
                }
                Ok(false)
            }
            Has::Known(pieces) if piece >= pieces.pieces() => Err(End::Range),
            Has::Known(pieces) => {
                let is_new = pieces.set(piece);
                if is_new {
                    self.idle = None;
                }
                Ok(is_new)
            }
        }
    }

    /// It has a piece no more: whether that is new.
    pub(crate) fn loses(&mut self, piece: u32) -> bool {
        match &mut self.has {
            Has::Early { more, .. } => {
                more.retain(|other| *other != piece);
                false
            }
            Has::Known(pieces) => pieces.clear(piece),
        }
    }

    /// It is known now how many pieces there are.
    pub(crate) fn settle(&mut self, pieces: u32) -> Result<(), End> {
        let Has::Early { all, bits, more } = &self.has else { return Ok(()) };
        let mut known = match (*all, bits.is_empty()) {
            (true, _) => Bitfield::full(pieces),
            (false, true) => Bitfield::new(pieces),
            (false, false) => Bitfield::parse(bits, pieces)?,
        };
        for piece in more {
            if *piece >= pieces {
                return Err(End::Range);
            }
            known.set(*piece);
        }
        self.has = Has::Known(known);
        Ok(())
    }

    /// It serves a piece even while it is choking.
    pub(crate) fn allows(&mut self, piece: u32) {
        if self.fast && self.allowed.len() < MAX_ALLOWED_FAST && !self.allowed.contains(&piece) {
            self.allowed.push(piece);
            self.idle = None;
        }
    }

    /// It serves requests.
    pub(crate) fn unchokes(&mut self) {
        if std::mem::take(&mut self.choking) {
            self.idle = None;
        }
    }

    /// Asks for a block.
    pub(crate) fn ask(&mut self, block: Block, now: Duration) {
        if self.asked.is_empty() {
            self.gave = now;
        }
        self.asked.push_back(block);
        self.say(&Message::Request(block), now);
    }

    /// Blocks that it is asked for.
    pub(crate) fn asked(&self) -> &VecDeque<Block> {
        &self.asked
    }

    /// How many more blocks to ask it for.
    pub(crate) fn room(&self) -> usize {
        let depth = if self.snubbed { 1 } else { self.flow.depth() };
        depth.saturating_sub(self.asked.len())
    }

    /// A block has come.
    pub(crate) fn came(&mut self, piece: u32, begin: u32, length: usize) -> Result<Came, End> {
        let same = |block: &Block| block.piece == piece && block.begin == begin;
        let (block, came) = match self.asked.iter().position(same) {
            Some(at) => {
                (self.asked.remove(at).inspect(|block| self.answered.retain(|it| it != block)), Came::Asked)
            }
            None => (self.late.iter().position(same).and_then(|at| self.late.remove(at)), Came::Late),
        };
        let Some(block) = block else {
            self.unasked += 1;
            return if self.unasked > MOST_UNASKED { Err(End::Unasked) } else { Ok(Came::Unasked) };
        };
        if block.length as usize != length {
            return Err(End::Length);
        }
        self.noise = 0;
        Ok(came)
    }

    /// It will not serve a block: whether it is asked for it. Every request has an answer, one that was taken
    /// back too (BEP 6), and that comes before the answer to the same request made again.
    pub(crate) fn rejects(&mut self, block: &Block) -> bool {
        if !remove(&mut self.late, block) {
            return self.forget(block);
        }
        if self.asked.contains(block) {
            self.answered.push(*block);
        } else {
            self.answers_cancels = true;
        }
        false
    }

    /// Takes a request back, if there is one.
    pub(crate) fn cancel(&mut self, block: &Block, now: Duration) -> bool {
        let is_asked = self.asked.contains(block);
        if is_asked {
            self.take_back(*block, true, now);
        }
        is_asked
    }

    /// Takes back all requests of a piece.
    pub(crate) fn cancel_all(&mut self, piece: u32, now: Duration) {
        let asked: Vec<Block> = self.asked.iter().filter(|block| block.piece == piece).copied().collect();
        asked.into_iter().for_each(|block| self.take_back(block, true, now));
    }

    /// Gives up all that it is asked for; with `aloud` it is told so.
    pub(crate) fn give_up(&mut self, aloud: bool, now: Duration) -> Vec<Block> {
        let given_up: Vec<Block> = self.asked.iter().copied().collect();
        given_up.iter().for_each(|block| self.take_back(*block, aloud, now));
        given_up
    }

    fn take_back(&mut self, block: Block, aloud: bool, now: Duration) {
        // Some do not answer what was taken back: then it was this request that was answered.
        let is_answered = !self.answers_cancels && self.answered.contains(&block);
        self.forget(&block);
        if !is_answered {
            if self.late.len() == MOST_LATE {
                self.late.pop_front();
            }
            self.late.push_back(block);
        }
        if aloud {
            self.say(&Message::Cancel(block), now);
        }
    }

    /// It is not asked for a block any more: whether it was.
    fn forget(&mut self, block: &Block) -> bool {
        self.answered.retain(|other| other != block);
        remove(&mut self.asked, block)
    }

    /// It has said something that is of no use.
    pub(crate) fn noise(&mut self) -> Result<(), End> {
        self.noise += 1;
        let pieces = if let Has::Known(pieces) = &self.has { pieces.pieces() } else { 0 };
        if self.noise > MOST_NOISE.saturating_add(pieces) { Err(End::Noise) } else { Ok(()) }
    }
}

/// Takes a block off a list: whether it was there.
fn remove(blocks: &mut VecDeque<Block>, block: &Block) -> bool {
    let at = blocks.iter().position(|other| other == block);
    at.and_then(|at| blocks.remove(at)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn peer() -> Peer {
        Peer::new(1, SocketAddr::from(([192, 0, 2, 1], 6881)), [7; 20], *b"-SK0100-abcdefghijkl", NOW)
    }

    fn block(begin: u32) -> Block {
        Block { piece: 1, begin, length: 100 }
    }

    #[test]
    fn blocks_are_those_that_were_asked_for() {
        let mut peer = peer();
        (0..3).for_each(|begin| peer.ask(block(begin), NOW));
        assert_eq!(peer.came(1, 1, 100).unwrap(), Came::Asked);
        assert_eq!(peer.came(1, 1, 100).unwrap(), Came::Unasked);
        assert!(peer.cancel(&block(2), NOW) && !peer.cancel(&block(2), NOW));
        assert_eq!(peer.came(1, 2, 100).unwrap(), Came::Late);
        assert!(matches!(peer.came(1, 0, 99), Err(End::Length)));
        assert!(peer.asked().is_empty());
    }

    #[test]
    fn who_sends_what_nobody_asked_for_is_sent_away() {
        let mut peer = peer();
        let sent = (0..).take_while(|begin| peer.came(9, *begin, 100).is_ok()).count();
        assert_eq!(sent, MOST_UNASKED as usize);
        let said = (0..).take_while(|_: &u32| peer.noise().is_ok()).count();
        assert_eq!(said, MOST_NOISE as usize);
    }

    #[test]
    fn what_it_has_is_told_once_and_may_grow() {
        let mut peer = peer();
        assert!(peer.gains(9).is_ok() && peer.has_any());
        peer.tells(&Message::Bitfield(&[0b0100_0000, 0])).unwrap();
        assert!(matches!(peer.tells(&Message::HaveAll), Err(End::ToldTwice)));
        assert!(!peer.has(1), "nobody knows yet how many there are");
        peer.settle(10).unwrap();
        assert_eq!([0, 1, 9].map(|piece| peer.has(piece)), [false, true, true]);
        assert!(peer.gains(0).unwrap() && !peer.gains(0).unwrap());
        assert!(matches!(peer.gains(10), Err(End::Range)));
        assert!(peer.loses(0) && !peer.has(0));
    }

    #[test]
    fn what_it_says_again_is_not_worth_another_look() {
        let mut peer = peer();
        (peer.fast, peer.has) = (true, Has::Known(Bitfield::new(10)));
        let looked = Some(7);
        let says: [fn(&mut Peer); 3] =
            [|peer| _ = peer.gains(3).unwrap(), |peer| peer.allows(3), |peer| peer.unchokes()];
        for say in says {
            peer.idle = looked;
            say(&mut peer);
            assert_eq!(peer.idle, None);
            peer.idle = looked;
            say(&mut peer);
            assert_eq!(peer.idle, looked);
        }
    }

    #[test]
    fn what_does_not_fit_the_torrent_ends_it() {
        let mut early = peer();
        early.gains(10).unwrap();
        assert!(matches!(early.settle(10), Err(End::Range)));
        let mut long = peer();
        long.tells(&Message::Bitfield(&[0xff; 3])).unwrap();
        assert!(matches!(long.settle(10), Err(End::Protocol(_))));
        let mut all = peer();
        all.tells(&Message::HaveAll).unwrap();
        all.settle(10).unwrap();
        assert!(all.has(9) && !all.has(10));
    }

    #[test]
    fn early_words_are_bounded() {
        let mut peer = peer();
        (0..100_000).for_each(|piece| assert!(!peer.gains(piece).unwrap()));
        let Has::Early { more, .. } = &peer.has else { panic!("it is early") };
        assert_eq!(more.len(), MOST_EARLY);
        peer.fast = true;
        (0..1000).for_each(|piece| peer.allows(piece));
        assert_eq!(peer.allowed.len(), MAX_ALLOWED_FAST);
        for _ in 0..10 {
            (0..200).for_each(|begin| peer.ask(block(begin), NOW));
            assert_eq!(peer.give_up(false, NOW).len(), 200);
        }
        assert_eq!(peer.late.len(), MOST_LATE);
    }
}

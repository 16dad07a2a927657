//! The state machine of a download: bytes and time in, bytes and events out.
//!
//! It owns the peers and the addresses, and goes through three phases: the info dictionary
//! ([`metadata`]), the piece layers ([`layers`]), the pieces ([`content`]). Who drives it makes the
//! connections that [`Swarm::dial`] names, tells what happens on them, and does what [`Swarm::poll`]
//! says. Times count from any start, and never go back.

mod content;
mod failures;
mod hear;
mod layers;
mod metadata;
mod suspects;
#[cfg(test)]
mod tests;
mod time;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use skerry_wire::metainfo::Metainfo;
use skerry_wire::peer::Bitfield;

use self::content::{Complete, Content};
use self::layers::Layers;
use self::metadata::Metadata;
use crate::book::{Approach, Book, Origin};
use crate::error::{End, Failure};
use crate::options::Options;
use crate::peer::{Key, Peer};
use crate::piece::Pieces;
use crate::target::{self, Target};

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send this.
    Send(Key, Vec<u8>),
    /// Close a connection; nothing is to be told of it any more.
    Close(Key),
    /// See which pieces are there, then [`Swarm::begun`].
    Begin(Box<Metainfo>),
    /// Verify a piece and store it, then [`Swarm::stored`] or [`Swarm::wrong`].
    Piece(Complete),
    /// Everything is there and stored.
    Done,
    /// It cannot go on.
    Failed(Failure),
}

/// A connection to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dial {
    /// Its number.
    pub(crate) key: Key,
    /// Where to.
    pub(crate) address: SocketAddr,
    /// How.
    pub(crate) approach: Approach,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Bytes of all pieces; `None` until they are known.
    pub(crate) length: Option<u64>,
    /// Bytes that are verified and stored, those that were there before included.
    pub(crate) stored: u64,
    /// Bytes of blocks that came, useful or not.
    pub(crate) received: u64,
    /// Bytes of blocks that were there already or not asked for, and of pieces that were wrong.
    pub(crate) wasted: u64,
    /// Peers past their handshake.
    pub(crate) peers: usize,
    /// Bytes per second from all of them.
    pub(crate) rate: u64,
}

#[derive(Debug)]
enum Phase {
    Info(Metadata),
    Layers(Box<Layers>),
    /// The sink looks what is there.
    Beginning(Box<Pieces>),
    Content(Box<Content>),
}

/// A download without sockets and clocks.
#[derive(Debug)]
pub(crate) struct Swarm {
    options: Options,
    target: Target,
    peer_id: [u8; 20],
    seed: u64,
    book: Book,
    dialing: BTreeMap<Key, Dial>,
    peers: BTreeMap<Key, Peer>,
    last_key: Key,
    phase: Phase,
    private: bool,
    /// Where the reader is.
    reader: Option<u32>,
    totals: Totals,
    outputs: VecDeque<Output>,
    /// There is something to ask for that others may be asked for.
    freed: bool,
    over: bool,
    /// When something that was wanted came last, and when there was anybody to ask.
    fruitful: Duration,
    company: Duration,
    /// Whether there is nobody, and nobody to be tried who has not failed.
    alone: bool,
}

impl Swarm {
    /// A download of `target`. `seed` is a random number.
    pub(crate) fn new(
        target: Target,
        options: Options,
        peer_id: [u8; 20],
        seed: u64,
    ) -> Result<Self, Failure> {
        let wires = joined(target.wires(), &options.aliases);
        if wires.is_empty() {
            return Err(Failure::Nameless);
        }
        let known = if let Target::Torrent(metainfo) = &target { Some((**metainfo).clone()) } else { None };
        let mut swarm = Self {
            book: Book::new(wires, options.encryption, seed),
            options,
            target,
            peer_id,
            seed,
            dialing: BTreeMap::new(),
            peers: BTreeMap::new(),
            last_key: 0,
            phase: Phase::Info(Metadata::default()),
            private: false,
            reader: None,
            totals: Totals::default(),
            outputs: VecDeque::new(),
            freed: false,
            over: false,
            fruitful: Duration::ZERO,
            company: Duration::ZERO,
            alone: true,
        };
        if let Some(metainfo) = known {
            swarm.know(metainfo, Duration::ZERO)?;
        }
        Ok(swarm)
    }

    /// Info-hashes to ask for peers by.
    pub(crate) fn wires(&self) -> &[[u8; 20]] {
        &self.book.wires
    }

    /// How far it is.
    pub(crate) fn totals(&self) -> Totals {
        let greeted = || self.peers.values().filter(|peer| peer.greeted);
        let rate = greeted().map(|peer| peer.flow.rate()).sum();
        Totals { peers: greeted().count(), rate, ..self.totals }
    }

    /// Whether more peers are needed at once.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// The torrent, once everything is there.
    pub(crate) fn into_metainfo(self) -> Option<Metainfo> {
        match self.phase {
            Phase::Content(content) => Some(content.pieces().metainfo().clone()),
            _ => None,
        }
    }

    /// Peers were found by an info-hash.
    pub(crate) fn found(&mut self, peers: Vec<SocketAddr>, wire: &[u8; 20]) {
        self.book.add(peers, wire, Origin::Told);
    }

    /// A connection to be made now; to be called until there is none.
    pub(crate) fn dial(&mut self, now: Duration) -> Option<Dial> {
        let is_full = self.peers.len() + self.dialing.len() >= self.options.connections;
        if self.over || is_full || self.dialing.len() >= self.options.half_open {
            return None;
        }
        let (address, approach) = self.book.next(now)?;
        self.last_key += 1;
        let dial = Dial { key: self.last_key, address, approach };
        self.dialing.insert(dial.key, dial);
        Some(dial)
    }

    /// A connection was made.
    pub(crate) fn joined(&mut self, key: Key, now: Duration) {
        let Some(dial) = self.dialing.remove(&key) else { return };
        if self.book.is_banned(&dial.address) {
            self.outputs.push_back(Output::Close(key));
            return;
        }
        let peer = Peer::new(key, dial.address, dial.approach.wire, self.peer_id, now);
        self.peers.insert(key, peer);
        self.settle(now);
    }

    /// A connection could not be made, or was closed.
    pub(crate) fn closed(&mut self, key: Key, end: End, now: Duration) {
        if let Some(dial) = self.dialing.remove(&key) {
            log::debug!(peer:% = dial.address; "no connection: {end}");
            match end {
                End::Connect(_) => self.book.failed(dial.address, now),
                _ => self.book.turned_away(dial.address, now),
            }
        } else if let Some(peer) = self.peers.remove(&key) {
            self.part(peer, &end, now);
        }
        self.settle(now);
    }

    /// The sink has looked: these pieces are there.
    pub(crate) fn begun(&mut self, have: Bitfield, now: Duration) {
        let pieces = match std::mem::replace(&mut self.phase, Phase::Info(Metadata::default())) {
            Phase::Beginning(pieces) => pieces,
            other => {
                self.phase = other;
                return;
            }
        };
        let have = if have.pieces() == pieces.count() { have } else { Bitfield::new(pieces.count()) };
        self.totals.length = Some(pieces.total());
        self.totals.stored = have.held().map(|piece| u64::from(pieces.length(piece))).sum();
        let mut content = Content::new(*pieces, have, self.options.memory_bytes, self.seed);
        for peer in self.peers.values_mut().filter(|peer| peer.greeted) {
            content.count(peer);
            if content.wants(peer) {
                peer.show_interest(now);
            }
        }
        self.phase = Phase::Content(Box::new(content));
        (self.fruitful, self.freed) = (now, true);
        self.show_window();
        self.look_whether_done();
        self.settle(now);
    }

    /// A piece was right, and is stored.
    pub(crate) fn stored(&mut self, piece: u32, now: Duration) {
        let Phase::Content(content) = &mut self.phase else { return };
        let (length, guilty) = content.stored(piece);
        self.totals.stored += length;
        (self.fruitful, self.freed) = (now, true);
        guilty.into_iter().for_each(|address| self.ban(address, now));
        self.look_whether_done();
        self.settle(now);
    }

    /// A piece was wrong.
    pub(crate) fn wrong(&mut self, piece: u32, now: Duration) {
        let Phase::Content(content) = &mut self.phase else { return };
        let (length, guilty) = content.wrong(piece);
        log::debug!(piece; "a piece was wrong");
        self.totals.wasted += length;
        self.freed = true;
        if let Some(address) = guilty {
            self.ban(address, now);
        }
        self.settle(now);
    }

    /// A reader is at a piece and goes on from there.
    pub(crate) fn want_from(&mut self, piece: u32) {
        self.reader = Some(piece);
        self.show_window();
    }

    fn show_window(&mut self) {
        if let (Phase::Content(content), Some(piece)) = (&mut self.phase, self.reader) {
            content.want(piece, self.options.window);
        }
    }

    /// The next thing to be done.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The info dictionary is there.
    fn know(&mut self, metainfo: Metainfo, now: Duration) -> Result<(), Failure> {
        let info = metainfo.info();
        let (length, limit) = (info.piece_length(), self.options.memory_bytes);
        if u64::from(length) > limit {
            return Err(Failure::PieceLength { length, limit });
        }
        self.private = info.private();
        if self.private {
            self.leave_hearsay(now);
        }
        self.book.wires = joined(std::mem::take(&mut self.book.wires), &target::of_info(info));
        self.fruitful = now;
        let pieces = crate::sink::piece_count(&metainfo);
        let lacks = metainfo.missing_layers().next().is_some();
        if lacks {
            self.phase = Phase::Layers(Box::new(Layers::new(metainfo, now)?));
        } else {
            self.ready(metainfo);
        }
        let peers = std::mem::take(&mut self.peers);
        for (key, mut peer) in peers {
            match peer.settle(pieces) {
                Ok(()) => _ = self.peers.insert(key, peer),
                Err(end) => self.part(peer, &end, now),
            }
        }
        Ok(())
    }

    /// All is there that pieces are verified by, or all that there will be.
    fn ready(&mut self, metainfo: Metainfo) {
        let copy = Box::new(metainfo.clone());
        if let Some(pieces) = Pieces::new(metainfo) {
            self.phase = Phase::Beginning(Box::new(pieces));
            self.outputs.push_back(Output::Begin(copy));
        }
    }

    /// A peer is gone.
    fn part(&mut self, mut peer: Peer, end: &End, now: Duration) {
        log::debug!(peer:% = peer.address; "ended: {end}");
        match &mut self.phase {
            Phase::Info(metadata) => metadata.left(peer.key),
            Phase::Layers(layers) => layers.left(peer.key),
            Phase::Beginning(_) => {}
            Phase::Content(content) => {
                let given_up = peer.give_up(false, now);
                given_up.iter().for_each(|block| _ = content.release(peer.key, block));
                content.disown(peer.key);
                content.discount(&mut peer);
            }
        }
        let is_stranger = matches!(end, End::Closed | End::Io(_) | End::Silent | End::OtherTorrent);
        if end.bans() {
            self.book.ban(peer.address);
        } else if !peer.greeted && is_stranger {
            self.book.turned_away(peer.address, now);
        } else if peer.useful {
            self.book.left(peer.address, now);
        } else {
            self.book.failed(peer.address, now);
        }
        self.freed = true;
        self.outputs.push_back(Output::Close(peer.key));
    }

    fn ban(&mut self, address: SocketAddr, now: Duration) {
        if !self.book.is_banned(&address) {
            log::info!(peer:% = address; "banned: {}", End::Wrong);
        }
        self.book.ban(address);
        let at = self.peers.values().find(|peer| peer.address == address).map(|peer| peer.key);
        if let Some(peer) = at.and_then(|key| self.peers.remove(&key)) {
            self.part(peer, &End::Wrong, now);
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !std::mem::replace(&mut self.over, true) {
            self.outputs.push_back(Output::Failed(failure));
        }
    }

    fn look_whether_done(&mut self) {
        if let Phase::Content(content) = &self.phase
            && content.have().complete()
            && !std::mem::replace(&mut self.over, true)
        {
            self.outputs.push_back(Output::Done);
        }
    }

    /// Asks whoever has room, and hands out what is to be sent.
    fn settle(&mut self, now: Duration) {
        if std::mem::take(&mut self.freed) && !self.over {
            let mut peers: Vec<&mut Peer> = self.peers.values_mut().collect();
            peers.sort_by_key(|peer| hear::rank(&self.phase, peer));
            peers.into_iter().for_each(|peer| hear::tend(&mut self.phase, peer, now));
        }
        for peer in self.peers.values_mut() {
            let out = peer.take_out();
            if !out.is_empty() {
                self.outputs.push_back(Output::Send(peer.key, out));
            }
        }
    }
}

/// The first list, and what of the other is not in it.
fn joined(mut wires: Vec<[u8; 20]>, more: &[[u8; 20]]) -> Vec<[u8; 20]> {
    for wire in more {
        if !wires.contains(wire) {
            wires.push(*wire);
        }
    }
    wires
}

//! What a peer says, and what it is asked then.

use std::net::SocketAddr;
use std::time::Duration;

use skerry_wire::metainfo::{Info, Metainfo};
use skerry_wire::peer::extension::{self, ExtensionHandshake, Extensions};
use skerry_wire::peer::metadata::Message as Part;
use skerry_wire::peer::pex::Pex;
use skerry_wire::peer::{Block, Decoder, HANDSHAKE_LENGTH, Handshake, Message, Reserved};
use skerry_wire::{InfoHash, Sha1Hash};

use super::metadata::Metadata;
use super::{Output, Phase, Swarm};
use crate::book::Origin;
use crate::error::{End, Failure};
use crate::peer::{Came, Has, Key, Peer};
use crate::sink;
use crate::target::Target;

/// The longest message of an extension that anybody has a reason to send, bytes.
const MOST_EXTENDED: usize = 32 * 1024;
/// Pieces that a bitfield may be about before it is known how many there are.
const MOST_EARLY: u32 = 1 << 20;
/// How often a peer may tell of others (BEP 11 says once a minute).
const EXCHANGE: Duration = Duration::from_secs(30);
/// What this side calls itself.
const CLIENT: &str = concat!("Skerry ", env!("CARGO_PKG_VERSION"));

/// Who is asked first: who has failed least, and then longest ago.
pub(super) fn rank(phase: &Phase, peer: &Peer) -> (u32, Duration) {
    match phase {
        Phase::Info(metadata) => metadata.failures.of(peer.key),
        Phase::Layers(layers) => layers.failures.of(peer.key),
        _ if peer.snubbed => (1, peer.gave),
        _ => (0, Duration::ZERO),
    }
}

/// Asks a peer for what may be asked for.
pub(super) fn tend(phase: &mut Phase, peer: &mut Peer, now: Duration) {
    if !peer.greeted {
        return;
    }
    match phase {
        Phase::Info(metadata) => metadata.tend(peer, now),
        Phase::Layers(layers) => layers.tend(peer, now),
        Phase::Beginning(_) => {}
        Phase::Content(content) => {
            while peer.room() > 0 {
                let Some(block) = content.next(peer, now) else { break };
                peer.ask(block, now);
            }
        }
    }
}

impl Swarm {
    /// Bytes came from a peer. For `waited` it will not be read, since the rate is limited.
    pub(crate) fn receive(&mut self, key: Key, bytes: &[u8], waited: Duration, now: Duration) {
        let Some(mut peer) = self.peers.remove(&key) else { return };
        // It cannot give anything while it is not listened to.
        peer.gave += waited;
        peer.heard = now + waited;
        match self.take_in(&mut peer, bytes, now) {
            Ok(()) => {
                if !self.over {
                    tend(&mut self.phase, &mut peer, now);
                }
                self.peers.insert(key, peer);
            }
            Err(end) => self.part(peer, &end, now),
        }
        self.settle(now);
    }

    fn take_in(&mut self, peer: &mut Peer, bytes: &[u8], now: Duration) -> Result<(), End> {
        let mut inbox = std::mem::take(&mut peer.inbox);
        if inbox.is_empty() {
            let used = self.take_messages(peer, bytes, now)?;
            peer.inbox.extend_from_slice(&bytes[used..]);
        } else {
            inbox.extend_from_slice(bytes);
            let used = self.take_messages(peer, &inbox, now)?;
            inbox.drain(..used);
            peer.inbox = inbox;
        }
        Ok(())
    }

    /// Takes the whole messages at the beginning of `bytes`; how many bytes they are.
    fn take_messages(&mut self, peer: &mut Peer, bytes: &[u8], now: Duration) -> Result<usize, End> {
        let mut used = 0;
        if !peer.greeted {
            let Some(handshake) = Handshake::parse(bytes)? else { return Ok(0) };
            used = HANDSHAKE_LENGTH;
            self.greet(peer, &handshake, now)?;
        }
        loop {
            let pieces = if let Has::Known(pieces) = &peer.has { pieces.pieces() } else { MOST_EARLY };
            let decoder = Decoder::new(pieces).with_extended(MOST_EXTENDED);
            let Some((message, length)) = decoder.decode(&bytes[used..])? else { return Ok(used) };
            used += length;
            self.hear(peer, &message, now)?;
        }
    }

    fn greet(&mut self, peer: &mut Peer, handshake: &Handshake, now: Duration) -> Result<(), End> {
        let Handshake { reserved, info_hash, peer_id } = handshake;
        if *peer_id == self.peer_id {
            return Err(End::Ourselves);
        }
        if *info_hash != peer.wire && !self.upgrades(&peer.wire, info_hash) {
            return Err(End::OtherTorrent);
        }
        peer.greeted = true;
        peer.fast = reserved.contains(Reserved::FAST);
        peer.gives_hashes = reserved.contains(Reserved::V2) || !self.is_v1(info_hash);
        if reserved.contains(Reserved::EXTENSION) {
            let ours = Extensions::OURS;
            let ours = Extensions {
                ut_metadata: ours.ut_metadata.filter(|_| matches!(self.phase, Phase::Info(_))),
                ut_pex: ours.ut_pex.filter(|_| self.exchanges()),
                ..ours
            };
            let hello = ExtensionHandshake {
                extensions: ours,
                client: Some(CLIENT.to_owned()),
                ..ExtensionHandshake::default()
            };
            let payload = hello.encode();
            peer.say(&Message::Extended { id: extension::HANDSHAKE, payload: &payload }, now);
        }
        if peer.fast {
            peer.say(&Message::HaveNone, now);
        }
        if let Some(pieces) = self.piece_count() {
            peer.settle(pieces)?;
        }
        if let Phase::Content(content) = &mut self.phase {
            content.count(peer);
        }
        Ok(())
    }

    /// Whether a handshake for one info-hash may be answered with another: one of v1 with that of v2 of the
    /// same torrent (BEP 52), as this side's reserved bits offer. The answer need not offer it again, and
    /// libtorrent's does not. Where v1's alone is known, by a magnet link or an alias, nobody can tell which
    /// the other is.
    fn upgrades(&self, asked: &[u8; 20], answered: &[u8; 20]) -> bool {
        let is_asked = |hash: InfoHash| hash.wire() == *asked;
        let is_v2 = |hash: &InfoHash| matches!(hash, InfoHash::V2(_));
        let knows_all = match &self.target {
            Target::Torrent(metainfo) => metainfo.info().hashes().any(is_asked),
            Target::Named(hashes) => hashes.iter().copied().any(is_asked) && hashes.iter().any(is_v2),
            Target::Wire(_) => false,
        };
        self.book.wires.contains(answered) || !knows_all
    }

    fn piece_count(&self) -> Option<u32> {
        match &self.phase {
            Phase::Info(_) => None,
            Phase::Layers(layers) => Some(sink::piece_count(layers.metainfo())),
            Phase::Beginning(pieces) => Some(pieces.count()),
            Phase::Content(content) => Some(content.pieces().count()),
        }
    }

    /// Whether an info-hash is known to be of v1: who knows the torrent by it alone may not know what a
    /// request for hashes is.
    fn is_v1(&self, wire: &[u8; 20]) -> bool {
        let v1 = InfoHash::V1(Sha1Hash(*wire));
        match &self.target {
            Target::Torrent(metainfo) => metainfo.info().hashes().any(|hash| hash == v1),
            Target::Named(hashes) => hashes.contains(&v1),
            Target::Wire(_) => false,
        }
    }

    fn exchanges(&self) -> bool {
        self.options.exchange && !self.private
    }

    fn hear(&mut self, peer: &mut Peer, message: &Message<'_>, now: Duration) -> Result<(), End> {
        match *message {
            Message::KeepAlive => return peer.noise(),
            Message::Choke => {
                peer.choking = true;
                // Who refuses all that it was asked for and then chokes has what it had.
                for piece in std::mem::take(&mut peer.refused) {
                    if let Phase::Content(content) = &mut self.phase {
                        content.gain(peer, piece)?;
                    }
                }
                // With the fast extension each request is answered, or refused on its own.
                if !peer.fast {
                    self.give_up(peer, now);
                }
            }
            Message::Unchoke => peer.unchokes(),
            Message::Have(piece) => return self.gain(peer, piece, now),
            Message::Bitfield(_) | Message::HaveAll | Message::HaveNone => {
                return self.told(peer, message, now);
            }
            Message::Piece { piece, begin, data } => return self.take_block(peer, piece, begin, data, now),
            Message::Reject(block) => return self.rejected(peer, &block, now),
            Message::AllowedFast(piece) => peer.allows(piece),
            Message::Extended { id, payload } => return self.hear_extended(peer, id, payload, now),
            Message::Hashes { request, hashes } => {
                let Phase::Layers(layers) = &mut self.phase else { return peer.noise() };
                if layers.hear(peer, &request, hashes, now)? {
                    peer.useful = true;
                    self.finish_layers();
                }
            }
            Message::HashReject(request) => {
                let Phase::Layers(layers) = &mut self.phase else { return peer.noise() };
                self.freed = true;
                return layers.refuse(peer, &request, now);
            }
            // Nothing is served here, and nothing is wanted of strangers.
            Message::Interested
            | Message::NotInterested
            | Message::Request(_)
            | Message::Cancel(_)
            | Message::Port(_)
            | Message::Suggest(_)
            | Message::HashRequest(_)
            | Message::Unknown(_) => {}
        }
        peer.noise()
    }

    fn give_up(&mut self, peer: &mut Peer, now: Duration) {
        let given_up = peer.give_up(false, now);
        if let Phase::Content(content) = &mut self.phase {
            given_up.iter().for_each(|block| _ = content.release(peer.key, block));
        }
        self.freed = true;
    }

    fn gain(&mut self, peer: &mut Peer, piece: u32, now: Duration) -> Result<(), End> {
        let lacks = match &mut self.phase {
            Phase::Content(content) => {
                content.gain(peer, piece)?;
                !content.have().get(piece)
            }
            _ => {
                peer.gains(piece)?;
                true
            }
        };
        if lacks {
            peer.show_interest(now);
        }
        peer.noise()
    }

    fn told(&mut self, peer: &mut Peer, message: &Message<'_>, now: Duration) -> Result<(), End> {
        let is_wanted = match &mut self.phase {
            Phase::Content(content) => {
                content.discount(peer);
                peer.tells(message)?;
                content.count(peer);
                content.wants(peer)
            }
            _ => {
                peer.tells(message)?;
                peer.has_any()
            }
        };
        if is_wanted {
            peer.show_interest(now);
        }
        Ok(())
    }

    fn take_block(
        &mut self,
        peer: &mut Peer,
        piece: u32,
        begin: u32,
        data: &[u8],
        now: Duration,
    ) -> Result<(), End> {
        let length = data.len() as u64;
        self.totals.received += length;
        let came = peer.came(piece, begin, data.len())?;
        let content = match &mut self.phase {
            Phase::Content(content) if came != Came::Unasked => content,
            _ => {
                self.totals.wasted += length;
                return Ok(());
            }
        };
        peer.flow.came(length);
        (peer.gave, peer.snubbed) = (peer.gave.max(now), false);
        let arrival = content.take(peer, came, piece, begin, data);
        if arrival.useful {
            peer.useful = true;
            self.fruitful = now;
        } else {
            self.totals.wasted += length;
        }
        if arrival.others {
            let block = Block { piece, begin, length: data.len() as u32 };
            for other in self.peers.values_mut() {
                if other.cancel(&block, now) {
                    content.release(other.key, &block);
                }
            }
            self.freed = true;
        }
        self.outputs.extend(arrival.complete.map(Output::Piece));
        Ok(())
    }

    fn rejected(&mut self, peer: &mut Peer, block: &Block, now: Duration) -> Result<(), End> {
        if !peer.rejects(block) {
            return peer.noise();
        }
        if let Phase::Content(content) = &mut self.phase {
            if content.release(peer.key, block) {
                peer.cancel_all(block.piece, now);
            }
            // It would be asked for it again and again.
            if peer.choking {
                peer.allowed.retain(|piece| *piece != block.piece);
            } else if peer.has(block.piece) {
                content.lose(peer, block.piece);
                peer.refused.insert(block.piece);
            }
        }
        self.freed = true;
        peer.noise()
    }

    fn hear_extended(&mut self, peer: &mut Peer, id: u8, payload: &[u8], now: Duration) -> Result<(), End> {
        let ours = Extensions::OURS;
        if id == extension::HANDSHAKE {
            let hello = ExtensionHandshake::parse(payload)?;
            peer.theirs.update(&hello.extensions);
            peer.metadata_length = hello.metadata_length.or(peer.metadata_length);
            if let Some(requests) = hello.requests {
                peer.flow.limit(requests);
            }
        } else if Some(id) == ours.ut_metadata {
            let Phase::Info(metadata) = &mut self.phase else { return peer.noise() };
            if let Some(info) = metadata.hear(peer, &Part::parse(payload)?, now)? {
                return self.learn(peer, &info, now);
            }
            return Ok(());
        } else if Some(id) == ours.ut_pex && self.exchanges() {
            let is_due = peer.exchanged.is_none_or(|at| now.saturating_sub(at) >= EXCHANGE);
            if is_due {
                peer.exchanged = Some(now);
                let told = Pex::parse(payload)?;
                let addresses = told.added.iter().map(|contact| contact.address);
                self.book.add(addresses, &peer.wire, Origin::Peer(peer.address.ip()));
            }
        } else if Some(id) == ours.lt_donthave {
            let piece = extension::parse_dont_have(payload)?;
            peer.refused.remove(&piece);
            match &mut self.phase {
                Phase::Content(content) => content.lose(peer, piece),
                _ => _ = peer.loses(piece),
            }
        }
        peer.noise()
    }

    /// An info dictionary has come whole.
    fn learn(&mut self, peer: &mut Peer, info: &[u8], now: Duration) -> Result<(), End> {
        if !self.target.is(info) {
            return Err(End::Hashes);
        }
        peer.useful = true;
        let is_hearsay = self.book.is_hearsay(&peer.address);
        let known = Info::parse(info).map_err(Failure::from).and_then(|info| {
            let metainfo = Metainfo::without_layers(info);
            let pieces = sink::piece_count(&metainfo);
            self.know(metainfo, now).map(|()| pieces)
        });
        self.freed = true;
        match known {
            Ok(_) if self.private && is_hearsay => Err(End::Private),
            Ok(pieces) => peer.settle(pieces),
            Err(failure) => {
                self.fail(failure);
                Ok(())
            }
        }
    }

    /// Lets go of those that only peers told of: who is in a private torrent its trackers say (BEP 27).
    pub(super) fn leave_hearsay(&mut self, now: Duration) {
        let is_hearsay = |address: &SocketAddr| self.book.is_hearsay(address);
        let peers = self.peers.values().filter(|peer| is_hearsay(&peer.address)).map(|peer| peer.key);
        let dials = self.dialing.values().filter(|dial| is_hearsay(&dial.address)).map(|dial| dial.key);
        let (peers, dials): (Vec<Key>, Vec<Key>) = (peers.collect(), dials.collect());
        for key in peers {
            if let Some(peer) = self.peers.remove(&key) {
                self.part(peer, &End::Private, now);
            }
        }
        for key in dials {
            self.dialing.remove(&key);
            self.outputs.push_back(Output::Close(key));
        }
        self.book.forget_told_by_peers();
    }

    /// The last hashes have come.
    fn finish_layers(&mut self) {
        self.freed = true;
        match std::mem::replace(&mut self.phase, Phase::Info(Metadata::default())) {
            Phase::Layers(layers) => match layers.finish() {
                Ok(metainfo) => self.ready(metainfo),
                Err(failure) => self.fail(failure),
            },
            other => self.phase = other,
        }
    }
}

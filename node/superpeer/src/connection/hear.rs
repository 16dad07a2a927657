//! What a peer says, and what it is told.

use std::net::SocketAddr;
use std::time::Instant;

use skerry_wire::peer::extension::{self, ExtensionHandshake, Extensions};
use skerry_wire::peer::pex::{self, Pex};
use skerry_wire::peer::{Bitfield, Block, Message, metadata};

use super::{Connection, EXCHANGE, End, MOST_HASHES, MOST_METADATA, MOST_TOLD, Shown};
use crate::allowed::{self, Allowed};

impl Connection {
    pub(super) fn hear(&mut self, message: &Message<'_>) -> Result<(), End> {
        match *message {
            Message::Request(block) => {
                self.active = self.heard;
                self.asked(block)?;
            }
            Message::Cancel(block) => {
                if let Some(at) = self.requests.iter().position(|waiting| *waiting == block) {
                    self.requests.remove(at);
                    self.reject(block, "cancelled");
                }
            }
            Message::Interested => {
                self.seat.wants(true, Instant::now());
                if !self.seat.peer.is_served() {
                    self.allow();
                }
            }
            Message::NotInterested => self.seat.wants(false, Instant::now()),
            Message::HaveAll => self.is_seed = true,
            Message::Bitfield(bits) => {
                let has = Bitfield::parse(bits, self.swarm.layout().piece_count())?;
                self.is_seed = has.complete();
                self.had = has.count();
                if let Some(shown) = &mut self.shown {
                    shown.has = has;
                }
            }
            Message::Have(piece) => {
                self.had = self.had.saturating_add(1);
                if let Some(shown) = &mut self.shown
                    && shown.has.set(piece)
                {
                    self.swarm.spread(piece, &self.seat.peer);
                }
            }
            Message::Extended { id, payload } => self.hear_extended(id, payload)?,
            Message::HashRequest(request) => {
                self.active = self.heard;
                if self.hashes.len() < MOST_HASHES {
                    self.hashes.push_back(request);
                } else {
                    self.say(&Message::HashReject(request));
                }
            }
            // Who sends what was not asked for is to be closed (BEP 6); here nothing is asked for.
            Message::Piece { .. } => return Err(End::Unasked),
            // The rest tells of what a seed does not need to know.
            _ => {}
        }
        Ok(())
    }

    fn asked(&mut self, block: Block) -> Result<(), End> {
        if !self.served && !self.is_allowed(&block) {
            self.reject(block, "choked");
        } else if !self.swarm.has(block.piece) {
            self.refuse_gone(block)?;
        } else if self.shown.as_ref().is_some_and(|shown| !shown.shown.get(block.piece)) {
            self.reject(block, "gone");
        } else if self.requests.len() >= self.node.config.max_requests {
            // Who cannot be refused would wait for ever for what is more.
            if !self.fast {
                return Err(End::Requests);
            }
            self.reject(block, "full");
        } else {
            self.requests.push_back(block);
        }
        Ok(())
    }

    /// Refuses a request; those without the fast extension are not told (BEP 3).
    pub(super) fn reject(&mut self, block: Block, cause: &str) {
        self.invalid += u32::from(cause == "invalid");
        if cause != "cancelled" {
            self.node.metrics.rejected.with_label_values(&[cause]).inc();
        }
        if self.fast {
            self.say(&Message::Reject(block));
        }
    }

    /// Refuses a request for what is not held. Who has no word for that would ask again and again; it is
    /// closed, so that it can see what is held when it comes back.
    pub(super) fn refuse_gone(&mut self, block: Block) -> Result<(), End> {
        self.reject(block, "gone");
        if self.fast || self.theirs.lt_donthave.is_some() { Ok(()) } else { Err(End::Gone) }
    }

    /// Refuses what waits, so that it is asked of others, but for what is allowed (BEP 6).
    pub(super) fn refuse_waiting(&mut self) {
        for block in std::mem::take(&mut self.requests) {
            if self.is_allowed(&block) {
                self.requests.push_back(block);
            } else {
                self.reject(block, "choked");
            }
        }
    }

    /// Whether a block may be had by a peer that is not served; then it counts as given.
    fn is_allowed(&mut self, block: &Block) -> bool {
        self.allowed.as_mut().is_some_and(|allowed| allowed.take(block))
    }

    /// Tells a peer that has next to nothing, and has to wait for a place, what it may have meanwhile.
    fn allow(&mut self) {
        let is_new = self.had <= allowed::PIECES as u32 && !self.is_seed && self.allowed.is_none();
        if !is_new || !self.fast || self.shown.is_some() || self.closing {
            return;
        }
        let (swarm, address) = (&self.swarm, self.seat.peer.address.ip());
        let layout = swarm.layout();
        let held = |piece| swarm.has(piece).then(|| layout.piece_length(piece));
        let allowed = Allowed::new(address, &swarm.info_hash, layout.piece_count(), held);
        for piece in allowed.pieces() {
            self.say(&Message::AllowedFast(*piece));
        }
        self.allowed = Some(allowed);
    }

    fn hear_extended(&mut self, id: u8, payload: &[u8]) -> Result<(), End> {
        let ours = Extensions::OURS;
        if id == extension::HANDSHAKE {
            let handshake = ExtensionHandshake::parse(payload)?;
            self.theirs.update(&handshake.extensions);
            if let Some(upload_only) = handshake.upload_only {
                self.is_upload_only = upload_only;
            }
            if let Some(port) = handshake.port {
                let listens = SocketAddr::new(self.seat.peer.address.ip().to_canonical(), port);
                self.swarm.listens(&self.seat.peer, listens);
            }
        } else if Some(id) == ours.ut_metadata
            && let metadata::Message::Request { piece } = metadata::Message::parse(payload)?
        {
            self.active = self.heard;
            if self.metadata.len() < MOST_METADATA {
                self.metadata.push_back(piece);
            } else {
                self.say_metadata(&metadata::Message::Reject { piece });
            }
        }
        Ok(())
    }

    /// Tells a part of the info dictionary (BEP 9).
    pub(super) fn tell_metadata(&mut self, piece: u32) {
        let swarm = self.swarm.clone();
        self.say_metadata(&metadata::Message::answer(swarm.torrent.metainfo.info().bytes(), piece));
    }

    fn say_metadata(&mut self, message: &metadata::Message<'_>) {
        if let Some(id) = self.theirs.ut_metadata {
            self.say(&Message::Extended { id, payload: &message.encode() });
        }
    }

    /// The extension handshake (BEP 10).
    pub(super) fn introduce(&mut self) {
        let info = self.swarm.torrent.metainfo.info();
        let mut extensions = Extensions::OURS;
        if info.private() || !self.node.config.exchange_peers {
            extensions.ut_pex = None;
        }
        let length = info.bytes().len();
        let handshake = ExtensionHandshake {
            extensions,
            metadata_length: u32::try_from(length).ok().filter(|_| length <= metadata::MAX_LENGTH),
            port: None,
            requests: Some(self.node.config.max_requests as u32),
            upload_only: Some(true),
            client: Some(concat!("Skerry/", env!("CARGO_PKG_VERSION")).to_owned()),
            your_ip: Some(self.seat.peer.address.ip().to_canonical()),
        };
        self.say(&Message::Extended { id: extension::HANDSHAKE, payload: &handshake.encode() });
    }

    /// What is held, in the shortest words that the peer understands.
    pub(super) fn tell_pieces(&mut self) {
        let have = self.swarm.have();
        if self.swarm.is_super_seeding() {
            let none = Bitfield::new(have.pieces());
            if self.fast {
                self.say(&Message::HaveNone);
            }
            self.shown = Some(Box::new(Shown { has: none.clone(), shown: none }));
            return self.show();
        }
        match (have.complete(), self.fast) {
            (true, true) => self.say(&Message::HaveAll),
            (false, true) if have.count() == 0 => self.say(&Message::HaveNone),
            _ => self.say(&Message::Bitfield(have.as_bytes())),
        }
    }

    /// Tells that a piece is not held any more (BEP 54), or is again.
    pub(super) fn tell_change(&mut self, piece: u32, is_held: bool) {
        let is_shown = self.shown.as_ref().is_none_or(|shown| shown.shown.get(piece));
        if is_held && is_shown {
            self.say(&Message::Have(piece));
        } else if !is_held && let Some(id) = self.theirs.lt_donthave {
            self.say(&Message::Extended { id, payload: &extension::dont_have(piece) });
        }
    }

    /// Shows the peer another piece, when one is due (BEP 16).
    pub(super) fn show(&mut self) {
        let Some(shown) = &mut self.shown else { return };
        let Some(piece) = self.swarm.offer(&self.seat.peer, &shown.has) else { return };
        shown.shown.set(piece);
        self.say(&Message::Have(piece));
    }

    /// Tells the peer of others (BEP 11).
    pub(super) fn exchange(&mut self, now: Instant) {
        let due = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= EXCHANGE);
        let is_private = self.swarm.torrent.metainfo.info().private();
        let Some(id) = self.theirs.ut_pex.filter(|_| due && !is_private && self.node.config.exchange_peers)
        else {
            return;
        };
        self.told_at = Some(now);
        let others = self.swarm.others(&self.seat.peer, MOST_TOLD);
        let dropped: Vec<SocketAddr> = self
            .told_peers
            .iter()
            .filter(|told| !others.contains(told))
            .copied()
            .take(pex::MAX_TOLD)
            .collect();
        dropped.iter().for_each(|address| _ = self.told_peers.remove(address));
        let added: Vec<pex::Contact> = others
            .into_iter()
            .filter(|address| !self.told_peers.contains(address))
            .take(pex::MAX_TOLD)
            .map(|address| pex::Contact { address, flags: 0 })
            .collect();
        added.iter().for_each(|contact| _ = self.told_peers.insert(contact.address));
        if added.is_empty() && dropped.is_empty() {
            return;
        }
        let payload = Pex { added, dropped }.encode();
        self.say(&Message::Extended { id, payload: &payload });
    }
}

//! A torrent that is being served: what of it is held, where its bytes are, and who wants them.

mod hashes;
mod withdrawn;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use skerry_core::bucket::Bucket;
use skerry_store::catalogue::{Changed, Torrent};
use skerry_store::{Catalogue, ChunkId, Held, StoreError};
use skerry_wire::Sha256Hash;
use skerry_wire::merkle::Tree;
use skerry_wire::metainfo::Layout;
use skerry_wire::peer::{Bitfield, Block};
use skerry_wire::reach::Reach;

use self::withdrawn::Withdrawn;
use crate::config::SuperPeerConfig;
use crate::load::Wanted;
use crate::offers::Offers;
use crate::places::Peer;

/// Zeros that stand for padding.
static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// A torrent with peers, by one of its info-hashes.
pub(crate) struct Swarm {
    /// As it stands in handshakes.
    pub(crate) info_hash: [u8; 20],
    /// The torrent.
    pub(crate) torrent: Arc<Torrent>,
    /// Whether the handshake named the v2 info-hash: its pieces are numbered and measured so.
    is_v2: bool,
    /// The resources of its files.
    files: Vec<Option<Arc<Held>>>,
    /// Length of their longest chunk, bytes.
    pub(crate) longest_chunk: usize,
    /// The catalogue's count of changes up to which there was none of this torrent or its files since they
    /// were looked up.
    seen: AtomicU64,
    have: RwLock<Bitfield>,
    /// Pieces that could not be given; locked before `have`. Each connection knows how many of the changes
    /// it has told.
    withdrawn: Mutex<Withdrawn>,
    /// Peers, and where each can be connected to.
    members: Mutex<HashMap<u64, Member>>,
    /// Bytes per second of this torrent.
    pub(crate) rate: Bucket,
    /// Over the piece layers that were asked for.
    trees: Mutex<HashMap<Sha256Hash, Arc<Tree>>>,
    /// When pieces are shown one by one.
    offers: Option<Mutex<Offers>>,
}

struct Member {
    peer: Arc<Peer>,
    listens: Option<SocketAddr>,
}

/// Where the bytes of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one chunk of one file.
    Chunk {
        /// The file.
        file: usize,
        /// The chunk of its resource.
        chunk: usize,
        /// Where in the chunk, bytes.
        offset: u32,
    },
    /// In several, or in padding.
    Scattered,
}

impl Swarm {
    /// A swarm of a torrent whose content is in `catalogue`; `None` when nothing of it is held. What can
    /// be fetched again counts as held, if it is to be. `seen` is the catalogue's count of changes before
    /// `torrent` was looked up. Blocks.
    pub(crate) fn open(
        info_hash: [u8; 20],
        torrent: Arc<Torrent>,
        catalogue: &Catalogue,
        config: &SuperPeerConfig,
        seen: u64,
    ) -> Result<Option<Arc<Self>>, StoreError> {
        let info = torrent.metainfo.info();
        let is_v2 = info.hash_v1().is_none_or(|hash| hash.0 != info_hash);
        let Some(layout) = view(&torrent, is_v2) else { return Ok(None) };
        let starts: HashMap<usize, u64> = layout.file_starts().collect();
        let mut have = Bitfield::full(layout.piece_count());
        let mut files = Vec::new();
        for (file, id) in torrent.files.iter().enumerate() {
            let held = id.map(|id| catalogue.resource(&id)).transpose()?.flatten();
            match &held {
                Some(held) if config.refill && held.from.is_some() => {}
                Some(held) => {
                    let presence = catalogue.presence(held)?;
                    let absent = presence.iter().enumerate().filter(|(_, is_held)| !**is_held);
                    let pieces = absent.flat_map(|(chunk, _)| {
                        let start = starts.get(&file).copied();
                        start.map_or(0..0, |start| pieces_of_chunk(layout, start, held, chunk))
                    });
                    pieces.for_each(|piece| _ = have.clear(piece));
                }
                None => layout.pieces_of(file).for_each(|piece| _ = have.clear(piece)),
            }
            files.push(held);
        }
        if have.count() == 0 {
            return Ok(None);
        }
        let lengths = files.iter().flatten().map(|held| held.chunk_length(0) as usize);
        let longest_chunk = lengths.max().unwrap_or(0);
        let offers = config.super_seeding.then(|| Mutex::new(Offers::new(have.pieces())));
        Ok(Some(Arc::new(Self {
            info_hash,
            is_v2,
            files,
            longest_chunk,
            seen: AtomicU64::new(seen),
            withdrawn: Mutex::new(Withdrawn::new(have.pieces())),
            have: RwLock::new(have),
            members: Mutex::default(),
            rate: Bucket::new(config.rate_bytes_per_torrent),
            trees: Mutex::default(),
            offers,
            torrent,
        })))
    }

    /// Whether the catalogue says other things of the content than when this was opened. Blocks.
    pub(crate) fn has_changed(&self, catalogue: &Catalogue) -> Result<bool, StoreError> {
        if catalogue.torrent(&self.info_hash)?.is_none() {
            return Ok(true);
        }
        for (id, before) in self.torrent.files.iter().zip(&self.files) {
            let now = id.map(|id| catalogue.resource(&id)).transpose()?.flatten();
            let pin = |held: &Option<Arc<Held>>| held.as_ref().map(|held| held.pin.clone());
            if pin(&now) != pin(before) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets all peers go.
    pub(crate) fn close(&self) {
        self.members.lock().values().for_each(|member| member.peer.close());
    }

    /// Whether a new peer can join: something is left to serve, and nothing says that there may be other
    /// things by now. While there are peers, what they were told stands.
    pub(crate) fn is_current(&self, catalogue: &Catalogue) -> bool {
        self.have.read().count() > 0 && (self.len() > 0 || self.is_unchanged(catalogue))
    }

    /// Whether the records of the torrent and of its files are those that were looked up, as far as changes are
    /// remembered.
    fn is_unchanged(&self, catalogue: &Catalogue) -> bool {
        let (count, changed) = catalogue.changed_since(Some(self.seen.load(Relaxed)));
        let Some(changed) = changed else { return false };
        let info = self.torrent.metainfo.info();
        let mut resources: HashSet<ChunkId> = HashSet::new();
        for change in changed {
            match change {
                Changed::Torrent(named) if info.hashes().any(|hash| hash.wire() == named) => return false,
                Changed::Torrent(_) => {}
                Changed::Resource(id) => _ = resources.insert(id),
            }
        }
        if !resources.is_empty() && self.torrent.files.iter().flatten().any(|id| resources.contains(id)) {
            return false;
        }
        self.seen.fetch_max(count, Relaxed);
        true
    }

    /// Whether this is a hybrid torrent by its v1 hash.
    pub(crate) fn has_upgrade(&self) -> bool {
        !self.is_v2 && self.torrent.metainfo.info().hash_v2().is_some()
    }

    /// The pieces as the handshake's info-hash numbers them.
    pub(crate) fn layout(&self) -> &Layout {
        view(&self.torrent, self.is_v2).expect("a swarm has the view of its info-hash")
    }

    /// What is held.
    pub(crate) fn have(&self) -> Bitfield {
        self.have.read().clone()
    }

    /// Whether a piece is held.
    pub(crate) fn has(&self, piece: u32) -> bool {
        self.have.read().get(piece)
    }

    /// Where a block is; `None` when the torrent has no such block.
    pub(crate) fn place(&self, block: &Block) -> Option<Place> {
        let real = self.real_length(block)?;
        if real < block.length {
            return Some(Place::Scattered);
        }
        let mut parts = self.layout().blocks(block.piece, block.begin, block.length)?;
        let first = parts.next()?;
        let Some(file) = first.file.filter(|_| first.length == block.length) else {
            return Some(Place::Scattered);
        };
        let Some(held) = self.files.get(file).and_then(Option::as_ref) else { return Some(Place::Scattered) };
        let chunk_length = u64::from(held.resource.chunk_length);
        let offset = first.offset % chunk_length;
        if offset + u64::from(first.length) > chunk_length {
            return Some(Place::Scattered);
        }
        let chunk = (first.offset / chunk_length) as usize;
        Some(Place::Chunk { file, chunk, offset: offset as u32 })
    }

    /// How much of a block is content, bytes; `None` when the torrent has no such block. Some clients
    /// ask for v2 pieces as long as all others where their file ends early (BEP 52 leaves it open), and
    /// want zeros for the rest.
    fn real_length(&self, block: &Block) -> Option<u32> {
        let layout = self.layout();
        let (has, end) = (layout.piece_length(block.piece), block.begin.checked_add(block.length)?);
        if block.length > 0 && end <= has {
            return Some(block.length);
        }
        let fits = self.is_v2 && has > 0 && block.length > 0 && end <= layout.full_piece_length();
        fits.then(|| has.saturating_sub(block.begin))
    }

    /// Where a chunk of a file is kept, and how long it is.
    pub(crate) fn wanted(&self, file: usize, chunk: usize) -> Option<Wanted> {
        let held = self.files.get(file)?.as_ref()?;
        let (located, length) = (held.located(chunk)?, held.chunk_length(chunk) as usize);
        Some(Wanted { file, chunk, located, length })
    }

    /// A chunk of a file.
    pub(crate) async fn chunk(
        &self,
        catalogue: &Catalogue,
        file: usize,
        chunk: usize,
        refill: bool,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(held) = self.files.get(file).and_then(Option::as_ref) else { return Ok(None) };
        if refill {
            return catalogue.chunk(held, chunk).await;
        }
        let Some(located) = held.located(chunk) else { return Ok(None) };
        catalogue.store().read(located).await
    }

    /// A block that lies in more than one chunk, put together. No more than one of them is in memory for it
    /// at a time.
    pub(crate) async fn gather(
        &self,
        catalogue: &Catalogue,
        block: Block,
        refill: bool,
    ) -> Result<Option<Bytes>, StoreError> {
        let mut whole = BytesMut::with_capacity(block.length as usize);
        let Some(real) = self.real_length(&block) else { return Ok(None) };
        let parts = self.layout().blocks(block.piece, block.begin, real).into_iter().flatten();
        let mut at_hand: Option<((usize, usize), Bytes)> = None;
        for part in parts {
            let Some(file) = part.file else {
                for rest in (0..part.length as usize).step_by(ZEROS.len()) {
                    whole.extend_from_slice(&ZEROS[..(part.length as usize - rest).min(ZEROS.len())]);
                }
                continue;
            };
            let Some(held) = self.files.get(file).and_then(Option::as_ref) else { return Ok(None) };
            let chunk_length = u64::from(held.resource.chunk_length);
            let (mut offset, end) = (part.offset, part.offset + u64::from(part.length));
            while offset < end {
                let chunk = (offset / chunk_length) as usize;
                if at_hand.as_ref().is_none_or(|(place, _)| *place != (file, chunk)) {
                    drop(at_hand.take());
                    let bytes = self.chunk(catalogue, file, chunk, refill).await?;
                    at_hand = bytes.map(|bytes| ((file, chunk), bytes));
                }
                let Some((_, bytes)) = &at_hand else { return Ok(None) };
                let from = (offset % chunk_length) as usize;
                let to = bytes.len().min(from + (end - offset) as usize);
                if from >= to {
                    return Ok(None);
                }
                whole.extend_from_slice(&bytes[from..to]);
                offset += (to - from) as u64;
            }
        }
        whole.resize(block.length as usize, 0);
        Ok(Some(whole.freeze()))
    }

    /// Takes a peer in; returns how many changes it need not be told of.
    pub(crate) fn join(&self, peer: &Arc<Peer>) -> usize {
        let told = self.withdrawn.lock().count();
        self.members.lock().insert(peer.number, Member { peer: peer.clone(), listens: None });
        told
    }

    /// A peer has said where it listens.
    pub(crate) fn listens(&self, peer: &Peer, address: SocketAddr) {
        if let Some(member) = self.members.lock().get_mut(&peer.number) {
            member.listens = Some(address);
        }
    }

    /// Lets a peer go.
    pub(crate) fn leave(&self, peer: &Peer) {
        self.members.lock().remove(&peer.number);
        if let Some(offers) = &self.offers {
            offers.lock().leave(peer.number);
        }
    }

    /// Whether peers are shown one piece at a time.
    pub(crate) fn is_super_seeding(&self) -> bool {
        self.offers.is_some()
    }

    /// The piece to show a peer that has `has`, if one is due.
    pub(crate) fn offer(&self, peer: &Peer, has: &Bitfield) -> Option<u32> {
        let start = fastrand::u32(..has.pieces().max(1));
        let offers = self.offers.as_ref()?;
        offers.lock().next(peer.number, &self.have.read(), has, start)
    }

    /// A peer has got a piece: others may have another one coming.
    pub(crate) fn spread(&self, piece: u32, by: &Peer) {
        let Some(offers) = &self.offers else { return };
        let members = self.members.lock();
        let due = offers.lock().spread(piece, by.number, members.len());
        due.iter().filter_map(|number| members.get(number)).for_each(|member| member.peer.wake.notify_one());
    }

    /// Peers connected.
    pub(crate) fn len(&self) -> usize {
        self.members.lock().len()
    }

    /// Where other peers than `peer` listen, at most `most`: no private address is told to who is farther away.
    pub(crate) fn others(&self, peer: &Peer, most: usize) -> Vec<SocketAddr> {
        let members = self.members.lock();
        let others = members.iter().filter(|(number, _)| **number != peer.number);
        let listen = others.filter_map(|(_, member)| member.listens);
        listen.filter(|address| may_hear(peer.address.ip(), address.ip())).take(most).collect()
    }
}

/// Whether who is at `to` may be told of an address: one that it can mean something to.
fn may_hear(to: IpAddr, address: IpAddr) -> bool {
    Reach::of(address) >= Reach::of(to)
}

fn view(torrent: &Torrent, is_v2: bool) -> Option<&Layout> {
    let info = torrent.metainfo.info();
    if is_v2 { info.layout_v2() } else { info.layout_v1() }
}

/// The pieces that hold bytes of a chunk of a file that begins at `start` of the address space.
fn pieces_of_chunk(layout: &Layout, start: u64, held: &Held, chunk: usize) -> std::ops::Range<u32> {
    let piece_length = u64::from(layout.full_piece_length());
    let from = start + u64::from(held.resource.chunk_length) * chunk as u64;
    let to = from + u64::from(held.chunk_length(chunk));
    (from / piece_length) as u32..to.div_ceil(piece_length) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_of_addresses_that_mean_another_host_to_him() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert!(may_hear(ip("10.0.0.7"), ip("10.0.0.8")));
        assert!(may_hear(ip("10.0.0.7"), ip("192.0.2.8")));
        assert!(!may_hear(ip("192.0.2.7"), ip("10.0.0.8")));
        assert!(!may_hear(ip("2001:db8::7"), ip("fe80::8")));
        assert!(!may_hear(ip("10.0.0.7"), ip("127.0.0.1")));
    }
}

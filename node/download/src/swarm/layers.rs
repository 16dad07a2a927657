//! The second phase: the piece layers of a v2 torrent, by requests for hashes (BEP 52).
//!
//! Every answer is proven up to the file's root before it is taken.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use skerry_wire::Sha256Hash;
use skerry_wire::merkle::{self, MAX_HASHES};
use skerry_wire::metainfo::Metainfo;
use skerry_wire::peer::{HashRequest, Message};

use super::failures::Failures;
use crate::error::{End, Failure};
use crate::peer::{Key, Peer};

/// Hashes that are asked for in all, at most: 32 MiB of them.
const MOST: u64 = 1 << 20;
/// Requests that a peer is asked at once.
const DEPTH: usize = 4;
/// How long a peer may take for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests that nobody is asked and that an answer is looked for among, at most: more than were given up.
const MOST_LATE: usize = 512;

/// Layers on their way.
#[derive(Debug)]
pub(crate) struct Layers {
    metainfo: Metainfo,
    /// By their roots.
    files: HashMap<[u8; 32], File>,
    /// Requests that nobody is asked, and how many are not answered.
    open: VecDeque<HashRequest>,
    left: usize,
    asked: HashMap<Key, Vec<(HashRequest, Duration)>>,
    pub(crate) failures: Failures,
    /// When an answer came last, or it began.
    pub(crate) at: Duration,
}

#[derive(Debug)]
struct File {
    /// Height of the tree.
    top: u32,
    layer: Vec<[u8; 32]>,
}

impl Layers {
    /// What lacks of a torrent at a time.
    pub(crate) fn new(metainfo: Metainfo, now: Duration) -> Result<Self, Failure> {
        let info = metainfo.info();
        let piece_length = u64::from(info.piece_length());
        let base = merkle::height(piece_length);
        let (mut files, mut open) = (HashMap::new(), VecDeque::new());
        let mut all = 0_u64;
        for root in metainfo.missing_layers() {
            let Some(file) = info.file_of(root).and_then(|file| info.files().get(file)) else { continue };
            let pieces = file.length.div_ceil(piece_length);
            all = all.saturating_add(pieces);
            if all > MOST {
                return Err(Failure::Layers { pieces: all });
            }
            let (root, pieces, top) = (root.0, pieces as u32, merkle::height(file.length));
            let length = pieces.next_power_of_two().min(MAX_HASHES);
            let proof_layers = (top - base).saturating_sub(1);
            let request = |index| HashRequest { root, base, index, length, proof_layers };
            open.extend((0..pieces).step_by(length as usize).map(request));
            files.insert(root, File { top, layer: vec![[0; 32]; pieces as usize] });
        }
        let (left, asked, failures) = (open.len(), HashMap::new(), Failures::default());
        Ok(Self { metainfo, files, open, left, asked, failures, at: now })
    }

    /// Whether the torrent can be verified by its v1 pieces instead.
    pub(crate) fn is_hybrid(&self) -> bool {
        self.metainfo.info().hash_v1().is_some()
    }

    /// The torrent.
    pub(crate) fn metainfo(&self) -> &Metainfo {
        &self.metainfo
    }

    /// Asks a peer for what may be asked for.
    pub(crate) fn tend(&mut self, peer: &mut Peer, now: Duration) {
        let rests = self.failures.rests(peer.key, now);
        if rests || !peer.gives_hashes || !peer.has_any() {
            return;
        }
        while self.asked.get(&peer.key).map_or(0, Vec::len) < DEPTH {
            let Some(request) = self.open.pop_front() else { return };
            peer.say(&Message::HashRequest(request), now);
            self.asked.entry(peer.key).or_default().push((request, now));
        }
    }

    /// Takes an answer. Returns whether it was the last.
    pub(crate) fn hear(
        &mut self,
        peer: &mut Peer,
        request: &HashRequest,
        hashes: &[u8],
        now: Duration,
    ) -> Result<bool, End> {
        // What comes late is as good, as long as nobody else is asked for it.
        if !self.settle(peer.key, request) && !self.is_open_no_more(request) {
            return peer.noise().map(|()| false);
        }
        // It was asked for, so there is one.
        let Some(file) = self.files.get_mut(&request.root) else { return Ok(false) };
        let hashes = hashes.as_chunks::<32>().0;
        if !merkle::verify_proof(&request.root, file.top, request.wanted(), hashes) {
            self.open.push_front(*request);
            return Err(End::Hashes);
        }
        let room = &mut file.layer[request.index as usize..];
        let count = room.len().min(request.length as usize);
        // The proof has them all.
        room[..count].copy_from_slice(&hashes[..count]);
        self.left -= 1;
        self.at = now;
        Ok(self.left == 0)
    }

    /// A peer will not answer.
    pub(crate) fn refuse(
        &mut self,
        peer: &mut Peer,
        request: &HashRequest,
        now: Duration,
    ) -> Result<(), End> {
        if self.settle(peer.key, request) {
            self.open.push_front(*request);
            self.give_up(peer.key);
            self.failures.add(peer.key, now);
        }
        peer.noise()
    }

    /// Others are asked what a peer was asked.
    fn give_up(&mut self, peer: Key) {
        let given_up = self.asked.remove(&peer).unwrap_or_default();
        given_up.into_iter().rev().for_each(|(request, _)| self.open.push_front(request));
    }

    /// Takes a request from those that nobody is asked: whether it was there.
    fn is_open_no_more(&mut self, request: &HashRequest) -> bool {
        let at = self.open.iter().take(MOST_LATE).position(|other| other == request);
        at.and_then(|at| self.open.remove(at)).is_some()
    }

    /// Takes a request off the list: whether the peer was asked.
    fn settle(&mut self, peer: Key, request: &HashRequest) -> bool {
        let Some(asked) = self.asked.get_mut(&peer) else { return false };
        let before = asked.len();
        asked.retain(|(other, _)| other != request);
        asked.len() < before
    }

    /// Gives up those who are silent.
    pub(crate) fn tick(&mut self, now: Duration) {
        let is_late = |(_, since): &(HashRequest, Duration)| now.saturating_sub(*since) >= PATIENCE;
        let late = self.asked.iter().filter(|(_, asked)| asked.iter().any(is_late));
        let late: Vec<Key> = late.map(|(peer, _)| *peer).collect();
        for peer in late {
            self.give_up(peer);
            self.failures.add(peer, now);
        }
    }

    /// A peer is gone.
    pub(crate) fn left(&mut self, peer: Key) {
        self.give_up(peer);
        self.failures.forget(peer);
    }

    /// The torrent, once the last answer has come.
    pub(crate) fn finish(self) -> Result<Metainfo, Failure> {
        let mut metainfo = self.metainfo;
        for (root, file) in self.files {
            metainfo.add_layer(&Sha256Hash(root), Bytes::from(file.layer.into_flattened()))?;
        }
        Ok(metainfo)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use std::time::Instant;

    use skerry_wire::merkle::Tree;
    use skerry_wire::metainfo::{Builder, FileHash, Hashes, Kind, NewFile};
    use skerry_wire::peer::Decoder;

    use super::super::failures::PAUSE;
    use super::*;
    use crate::piece::tests::{noise, torrent};

    const NOW: Duration = Duration::ZERO;

    fn peer(key: Key) -> Peer {
        let mut peer = Peer::new(key, SocketAddr::from(([192, 0, 2, 1], 1)), [7; 20], [8; 20], NOW);
        peer.take_out();
        peer.gives_hashes = true;
        peer.tells(&Message::HaveAll).unwrap();
        peer
    }

    fn asked(peer: &mut Peer) -> Vec<HashRequest> {
        let (said, decoder) = (peer.take_out(), Decoder::new(0));
        let (mut requests, mut at) = (Vec::new(), 0);
        while let Some((message, length)) = decoder.decode(&said[at..]).unwrap() {
            let Message::HashRequest(request) = message else { panic!("{message:?}") };
            requests.push(request);
            at += length;
        }
        requests
    }

    fn answer(whole: &Metainfo, request: &HashRequest) -> Vec<u8> {
        let layer = whole.layer(&Sha256Hash(request.root)).unwrap().to_vec();
        Tree::new(layer, request.base, 0).hashes(request.wanted()).unwrap().into_flattened()
    }

    fn bare(whole: &Metainfo) -> Layers {
        Layers::new(Metainfo::without_layers(whole.info().clone()), NOW).unwrap()
    }

    #[test]
    fn layers_of_every_length_come_in_proven_parts() {
        for pieces in [2, 3, 512, 513] {
            let whole = torrent(Kind::V2, 16_384, &[noise(1, pieces * 16_384 - 7), noise(2, 40_000)]);
            let (mut layers, mut peer) = (bare(&whole), peer(1));
            let mut is_complete = false;
            while !is_complete {
                layers.tend(&mut peer, NOW);
                let requests = asked(&mut peer);
                assert!((1..=DEPTH).contains(&requests.len()), "{pieces}");
                for request in requests {
                    let hashes = answer(&whole, &request);
                    is_complete = layers.hear(&mut peer, &request, &hashes, NOW).unwrap();
                }
            }
            let got = layers.finish().unwrap();
            assert_eq!(got.missing_layers().next(), None);
            for file in whole.info().files() {
                let root = file.pieces_root.unwrap();
                assert_eq!(got.layer(&root), whole.layer(&root));
            }
        }
    }

    #[test]
    fn a_wrong_answer_is_found_out() {
        let whole = torrent(Kind::V2, 16_384, &[noise(1, 700 * 16_384)]);
        for wrong in 0..3 {
            let (mut layers, mut peer) = (bare(&whole), peer(1));
            layers.tend(&mut peer, NOW);
            let request = asked(&mut peer)[0];
            let mut hashes = answer(&whole, &request);
            match wrong {
                0 => hashes[100] ^= 1,
                1 => hashes.truncate(hashes.len() - 32),
                _ => hashes.clear(),
            }
            assert!(matches!(layers.hear(&mut peer, &request, &hashes, NOW), Err(End::Hashes)));
            layers.left(1);
            let mut other = self::peer(2);
            layers.tend(&mut other, NOW);
            assert!(asked(&mut other).contains(&request));
        }
    }

    #[test]
    fn the_work_grows_with_the_files_and_not_with_their_square() {
        const FILES: u32 = 90_000;
        let mut random = fastrand::Rng::with_seed(1);
        let mut hash = || std::array::from_fn(|_| random.u8(..));
        let files = (0..FILES).map(|_| FileHash::of_pieces(vec![hash(), hash()], 32_768, 16_384));
        let hashes = Hashes { pieces: Vec::new(), files: files.collect() };
        let files = (0..FILES).map(|at| NewFile { path: vec![format!("{at:06}")], length: 32_768 });
        let whole = Builder::new(Kind::V2, "t", 16_384, files.collect()).build(&hashes).unwrap();
        let (mut layers, mut peer) = (bare(&whole), peer(1));
        // The square of it would be billions of looks.
        let begun = Instant::now();
        let mut is_complete = false;
        while !is_complete {
            layers.tend(&mut peer, NOW);
            for request in asked(&mut peer) {
                let hashes = whole.layer(&Sha256Hash(request.root)).unwrap().as_flattened();
                is_complete = layers.hear(&mut peer, &request, hashes, NOW).unwrap();
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(layers.finish().unwrap().missing_layers().next(), None);
    }

    #[test]
    fn others_are_asked_when_one_refuses_is_silent_or_leaves() {
        let whole = torrent(Kind::V2, 16_384, &[noise(1, 100_000)]);
        let mut layers = bare(&whole);
        let (mut one, mut two) = (peer(1), peer(2));
        layers.tend(&mut one, NOW);
        layers.tend(&mut two, NOW);
        let request = asked(&mut one)[0];
        assert!(asked(&mut two).is_empty(), "there is but one request");
        layers.refuse(&mut one, &request, NOW).unwrap();
        layers.tend(&mut one, NOW);
        assert!(asked(&mut one).is_empty());
        layers.tend(&mut two, NOW);
        assert_eq!(asked(&mut two), [request]);
        layers.tick(PATIENCE);
        layers.tend(&mut two, PATIENCE);
        assert!(asked(&mut two).is_empty());
        layers.tend(&mut one, PATIENCE + PAUSE);
        assert_eq!(asked(&mut one), [request]);
        layers.left(1);
        layers.tend(&mut two, PATIENCE + PAUSE);
        assert_eq!(asked(&mut two), [request]);
        assert!(
            !layers.hear(&mut one, &request, &answer(&whole, &request), NOW).unwrap(),
            "not asked any more"
        );
        assert!(layers.hear(&mut two, &request, &answer(&whole, &request), NOW).unwrap());
    }

    #[test]
    fn an_answer_that_comes_late_is_taken_where_nobody_else_is_asked() {
        let whole = torrent(Kind::V2, 16_384, &[noise(1, 100_000)]);
        let (mut layers, mut slow) = (bare(&whole), peer(1));
        layers.tend(&mut slow, NOW);
        let request = asked(&mut slow)[0];
        layers.tick(PATIENCE);
        assert!(layers.hear(&mut slow, &request, &answer(&whole, &request), PATIENCE).unwrap());
        assert_eq!(layers.finish().unwrap().missing_layers().next(), None);
    }
}

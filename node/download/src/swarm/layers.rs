//! The second phase: the piece layers of a v2 torrent, by requests for hashes (BEP 52).
//!
//! Every answer is proven up to the file's root before it is taken.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use skerry_wire::Sha256Hash;
use skerry_wire::merkle::{self, MAX_HASHES};
use skerry_wire::metainfo::Metainfo;
use skerry_wire::peer::{HashRequest, Message};

use crate::error::{End, Failure};
use crate::peer::{Key, Peer};

/// Hashes that are asked for in all, at most: 32 MiB of them.
const MOST: u64 = 1 << 20;
/// Requests that a peer is asked at once.
const DEPTH: usize = 4;
/// How long a peer may take for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a peer that gave none is not asked again.
const PAUSE: Duration = Duration::from_secs(60);

/// Layers on their way.
#[derive(Debug)]
pub(crate) struct Layers {
    metainfo: Metainfo,
    files: Vec<File>,
    asked: HashMap<Key, Vec<(HashRequest, Duration)>>,
    refused: HashMap<Key, Duration>,
    /// When an answer came last, or it began.
    pub(crate) at: Duration,
}

#[derive(Debug)]
struct File {
    root: Sha256Hash,
    /// Height of the tree.
    top: u32,
    layer: Vec<[u8; 32]>,
    /// How many hashes one request is for, and which requests were answered.
    count: u32,
    answered: Vec<bool>,
}

impl Layers {
    /// What lacks of a torrent at a time.
    pub(crate) fn new(metainfo: Metainfo, now: Duration) -> Result<Self, Failure> {
        let info = metainfo.info();
        let piece_length = u64::from(info.piece_length());
        let mut files = Vec::new();
        let mut all = 0_u64;
        for root in metainfo.missing_layers() {
            let Some(file) = info.file_of(root).and_then(|file| info.files().get(file)) else { continue };
            let pieces = file.length.div_ceil(piece_length);
            all = all.saturating_add(pieces);
            if all > MOST {
                return Err(Failure::Layers { pieces: all });
            }
            let count = (pieces as u32).next_power_of_two().min(MAX_HASHES);
            files.push(File {
                root: *root,
                top: merkle::height(file.length),
                layer: vec![[0; 32]; pieces as usize],
                count,
                answered: vec![false; (pieces as u32).div_ceil(count) as usize],
            });
        }
        Ok(Self { metainfo, files, asked: HashMap::new(), refused: HashMap::new(), at: now })
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
        let refused = self.refused.get(&peer.key).is_some_and(|since| now < *since + PAUSE);
        if refused || !peer.gives_hashes || !peer.has_any() {
            return;
        }
        while self.asked.get(&peer.key).map_or(0, Vec::len) < DEPTH {
            let Some(request) = self.next() else { return };
            peer.say(&Message::HashRequest(request), now);
            self.asked.entry(peer.key).or_default().push((request, now));
        }
    }

    /// A request that nobody was asked.
    fn next(&self) -> Option<HashRequest> {
        let base = merkle::height(self.metainfo.info().piece_length().into());
        let is_asked =
            |request: &HashRequest| self.asked.values().flatten().any(|(other, _)| other == request);
        self.files.iter().find_map(|file| {
            let lacks = (0..).zip(&file.answered).filter(|(_, answered)| !**answered);
            let mut requests = lacks.map(|(group, _)| HashRequest {
                root: file.root.0,
                base,
                index: group * file.count,
                length: file.count,
                proof_layers: (file.top - base).saturating_sub(1),
            });
            requests.find(|request| !is_asked(request))
        })
    }

    /// Takes an answer. Returns whether it was the last.
    pub(crate) fn hear(
        &mut self,
        peer: &mut Peer,
        request: &HashRequest,
        hashes: &[u8],
        now: Duration,
    ) -> Result<bool, End> {
        if !self.settle(peer.key, request) {
            return peer.noise().map(|()| false);
        }
        let Some(file) = self.files.iter_mut().find(|file| file.root.0 == request.root) else {
            return Ok(false);
        };
        let hashes = hashes.as_chunks::<32>().0;
        if !merkle::verify_proof(&file.root.0, file.top, request.wanted(), hashes) {
            return Err(End::Hashes);
        }
        let room = &mut file.layer[request.index as usize..];
        let count = room.len().min(file.count as usize);
        // The proof has them all.
        room[..count].copy_from_slice(&hashes[..count]);
        file.answered[(request.index / file.count) as usize] = true;
        self.at = now;
        Ok(self.files.iter().all(|file| file.answered.iter().all(|answered| *answered)))
    }

    /// A peer will not answer.
    pub(crate) fn refuse(
        &mut self,
        peer: &mut Peer,
        request: &HashRequest,
        now: Duration,
    ) -> Result<(), End> {
        if self.settle(peer.key, request) {
            self.asked.remove(&peer.key);
            self.refused.insert(peer.key, now);
        }
        peer.noise()
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
        let refused = &mut self.refused;
        self.asked.retain(|peer, asked| {
            let is_late = asked.iter().any(|(_, since)| now.saturating_sub(*since) >= PATIENCE);
            if is_late {
                refused.insert(*peer, now);
            }
            !is_late
        });
    }

    /// A peer is gone.
    pub(crate) fn left(&mut self, peer: Key) {
        self.asked.remove(&peer);
        self.refused.remove(&peer);
    }

    /// The torrent, with what has come.
    pub(crate) fn finish(self) -> Result<Metainfo, Failure> {
        let mut metainfo = self.metainfo;
        for file in self.files.into_iter().filter(|file| file.answered.iter().all(|answered| *answered)) {
            metainfo.add_layer(&file.root, Bytes::from(file.layer.into_flattened()))?;
        }
        Ok(metainfo)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use skerry_wire::merkle::Tree;
    use skerry_wire::metainfo::Kind;
    use skerry_wire::peer::Decoder;

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
        }
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
}

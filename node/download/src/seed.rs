//! A peer to try things on: it serves a torrent, well or not.

use std::collections::VecDeque;
use std::net::SocketAddr;

use skerry_wire::Sha256Hash;
use skerry_wire::merkle::Tree;
use skerry_wire::metainfo::Metainfo;
use skerry_wire::peer::extension::{self, ExtensionHandshake, Extensions};
use skerry_wire::peer::metadata::Message as Part;
use skerry_wire::peer::{
    Bitfield, Block, Decoder, HANDSHAKE_LENGTH, Handshake, HashRequest, Message, Reserved,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A peer.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) metainfo: Metainfo,
    pub(crate) pieces: Vec<Vec<u8>>,
    /// What it says that it has; everything, when it is `None`.
    pub(crate) has: Option<Bitfield>,
    /// Info-hashes that it knows the torrent by; any, when it is empty.
    pub(crate) wires: Vec<[u8; 20]>,
    /// One byte of each block is wrong.
    pub(crate) lies: bool,
    /// Requests are not answered.
    pub(crate) stalls: bool,
    /// Nobody is served, but for these pieces.
    pub(crate) chokes: Option<Vec<u32>>,
    /// Whether it knows of BEP 6, 9 and 52.
    pub(crate) is_modern: bool,
    pub(crate) greeted: bool,
    pub(crate) inbox: Vec<u8>,
    /// Blocks that it is asked for.
    pub(crate) asked: VecDeque<Block>,
    /// Blocks that it has given.
    pub(crate) given: usize,
}

impl Seed {
    /// One that does everything right.
    pub(crate) fn new(metainfo: Metainfo, pieces: Vec<Vec<u8>>) -> Self {
        Self {
            metainfo,
            pieces,
            has: None,
            wires: Vec::new(),
            lies: false,
            stalls: false,
            chokes: None,
            is_modern: true,
            greeted: false,
            inbox: Vec::new(),
            asked: VecDeque::new(),
            given: 0,
        }
    }

    /// Forgets a connection.
    pub(crate) fn hang_up(&mut self) {
        self.greeted = false;
        self.inbox.clear();
        self.asked.clear();
    }

    /// Answers what came; `None` closes the connection. Blocks are given by [`Seed::give`].
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.inbox.extend_from_slice(bytes);
        if !self.greeted {
            let Some(theirs) = Handshake::parse(&self.inbox).ok()? else { return Some(out) };
            if !self.wires.is_empty() && !self.wires.contains(&theirs.info_hash) {
                return None;
            }
            self.greeted = true;
            self.inbox.drain(..HANDSHAKE_LENGTH);
            self.greet(&theirs, &mut out);
        }
        let inbox = std::mem::take(&mut self.inbox);
        let decoder = Decoder::new(self.pieces.len() as u32);
        let mut used = 0;
        while let Some((message, length)) = decoder.decode(&inbox[used..]).unwrap() {
            used += length;
            self.answer(&message, &mut out);
        }
        self.inbox = inbox[used..].to_vec();
        Some(out)
    }

    fn greet(&self, theirs: &Handshake, out: &mut Vec<u8>) {
        let modern = Reserved::EXTENSION | Reserved::FAST | Reserved::V2;
        let reserved = if self.is_modern { modern } else { Reserved::default() };
        let ours = Handshake { reserved, info_hash: theirs.info_hash, peer_id: *b"-XX0000-abcdefghijkl" };
        out.extend(ours.encode());
        if self.is_modern {
            let hello = ExtensionHandshake {
                extensions: Extensions { ut_metadata: Some(7), ut_pex: Some(8), lt_donthave: Some(9) },
                metadata_length: Some(self.metainfo.info().bytes().len() as u32),
                ..ExtensionHandshake::default()
            };
            Message::Extended { id: extension::HANDSHAKE, payload: &hello.encode() }.put(out);
        }
        let pieces = self.pieces.len() as u32;
        match &self.has {
            None if self.is_modern => Message::HaveAll.put(out),
            None => Message::Bitfield(Bitfield::full(pieces).as_bytes()).put(out),
            Some(has) => Message::Bitfield(has.as_bytes()).put(out),
        }
        let allowed = self.chokes.iter().flatten();
        allowed.for_each(|piece| Message::AllowedFast(*piece).put(out));
    }

    fn answer(&mut self, message: &Message<'_>, out: &mut Vec<u8>) {
        match *message {
            Message::Interested if self.chokes.is_none() => Message::Unchoke.put(out),
            Message::Request(block) => {
                let served = self.chokes.as_ref().is_none_or(|allowed| allowed.contains(&block.piece));
                let has = self.has.as_ref().is_none_or(|has| has.get(block.piece));
                assert!(served && has, "{block:?} is asked for, and not served");
                let length = self.pieces[block.piece as usize].len();
                assert!((block.begin + block.length) as usize <= length, "{block:?}");
                self.asked.push_back(block);
            }
            Message::Cancel(block) => {
                let at = self.asked.iter().position(|asked| *asked == block);
                // Each request has an answer (BEP 6).
                if at.and_then(|at| self.asked.remove(at)).is_some() && self.is_modern {
                    Message::Reject(block).put(out);
                }
            }
            Message::Extended { id: 7, payload } => {
                let Ok(Part::Request { piece }) = Part::parse(payload) else { panic!("no request") };
                let payload = Part::answer(self.metainfo.info().bytes(), piece).encode();
                let id = Extensions::OURS.ut_metadata.unwrap();
                Message::Extended { id, payload: &payload }.put(out);
            }
            Message::HashRequest(request) => match self.hashes(&request) {
                Some(hashes) => Message::Hashes { request, hashes: &hashes }.put(out),
                None => Message::HashReject(request).put(out),
            },
            _ => {}
        }
    }

    fn hashes(&self, request: &HashRequest) -> Option<Vec<u8>> {
        let layer = self.metainfo.layer(&Sha256Hash(request.root))?.to_vec();
        Some(Tree::new(layer, request.base, 0).hashes(request.wanted())?.into_flattened())
    }

    /// Gives at most `most` of the blocks that it is asked for.
    pub(crate) fn give(&mut self, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let count = if self.stalls { 0 } else { most.min(self.asked.len()) };
        for block in self.asked.drain(..count).collect::<Vec<_>>() {
            let (from, to) = (block.begin as usize, (block.begin + block.length) as usize);
            let mut data = self.pieces[block.piece as usize][from..to].to_vec();
            data[0] ^= u8::from(self.lies);
            self.given += 1;
            Message::Piece { piece: block.piece, begin: block.begin, data: &data }.put(&mut out);
        }
        out
    }
}

/// Has a peer listen on loopback, for one connection after the other.
pub(crate) async fn listen(mut seed: Seed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            seed.hang_up();
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let Some(mut out) = seed.hear(&buffer[..count]) else { break };
                out.extend(seed.give(usize::MAX));
                if stream.write_all(&out).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

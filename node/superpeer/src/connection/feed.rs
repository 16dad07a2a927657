//! From requests to blocks in the outbox, and the chunks that they are slices of.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use skerry_wire::peer::{BLOCK, Block, Message};

use super::{AHEAD, Connection, End, LIMITED_BATCH, Loaded, MOST_INVALID};
use crate::outbox::Source;
use crate::swarm::Place;

/// Bytes that are queued at once under the tightest of some rates, 0 being none: few enough that those
/// who share it have their turns soon.
pub(super) fn batch(rates: [u64; 3]) -> usize {
    let tightest = rates.into_iter().filter(|rate| *rate > 0).min();
    tightest.map_or(LIMITED_BATCH, |rate| (rate / 64).clamp(BLOCK.into(), LIMITED_BATCH as u64) as usize)
}

impl Connection {
    pub(super) fn can_fill(&self) -> bool {
        self.loading.is_none() && self.paused_until.is_none() && !self.requests.is_empty()
    }

    /// Whether more can be queued as soon as there is room for it.
    pub(super) fn has_more(&self) -> bool {
        self.can_fill() || !self.metadata.is_empty() || self.loading.is_none() && !self.hashes.is_empty()
    }

    /// Queues what was asked for until the outbox is full or a chunk has to be waited for.
    pub(super) fn fill(&mut self) -> Result<(), End> {
        self.answer();
        if self.invalid > MOST_INVALID {
            return Err(End::Requests);
        }
        let limited = [&self.node.rate, &self.swarm.rate, &self.rate].iter().any(|bucket| bucket.limits());
        if limited && !self.has_waited && self.can_fill() {
            // Else who comes and goes, and comes again, would never wait.
            self.has_waited = true;
            self.charge(0);
        }
        let most = self.node.config.send_buffer_bytes;
        let (most, batch) = if limited { (most.min(LIMITED_BATCH), self.batch) } else { (most, usize::MAX) };
        let mut queued = 0;
        while self.can_fill() && self.outbox.bytes() < most && queued < batch {
            let Some(block) = self.requests.front().copied() else { break };
            match self.swarm.place(&block) {
                None => {
                    self.requests.pop_front();
                    self.reject(block, "invalid");
                }
                Some(Place::Scattered) => {
                    self.requests.pop_front();
                    let (swarm, node) = (self.swarm.clone(), self.node.clone());
                    self.loading = Some(Box::pin(async move {
                        let gathered = swarm.gather(&node.catalogue, block, node.config.refill);
                        Loaded::Block(block, node.load(gathered).await)
                    }));
                }
                Some(Place::Chunk { file, chunk, offset }) => {
                    let Some(bytes) = self.chunk(file, chunk) else {
                        if self.loading.is_some() {
                            break;
                        }
                        // The resource has no such chunk, so nothing will come.
                        self.requests.pop_front();
                        self.gone(block)?;
                        continue;
                    };
                    let source = Source { chunk: (file, chunk), length: bytes.len() };
                    if !self.outbox.takes(source) {
                        break;
                    }
                    self.requests.pop_front();
                    let (from, to) = (offset as usize, (offset + block.length) as usize);
                    if to > bytes.len() {
                        // The torrent has the block: the node is at fault, and another read may do better.
                        log::warn!(file = file, chunk = chunk, bytes = bytes.len(); "a chunk is too short");
                        self.at_hand = None;
                        self.gone(block)?;
                        continue;
                    }
                    self.queue(&block, bytes.slice(from..to), Some(source));
                    queued += block.length as usize;
                }
            }
        }
        if limited && queued > 0 {
            self.charge(queued);
        }
        Ok(())
    }

    /// Queues answers about the torrent itself, while there is room for them.
    fn answer(&mut self) {
        let most = self.node.config.send_buffer_bytes;
        while self.outbox.bytes() < most
            && let Some(piece) = self.metadata.pop_front()
        {
            self.tell_metadata(piece);
        }
        if self.loading.is_none()
            && self.outbox.bytes() < most
            && let Some(request) = self.hashes.pop_front()
        {
            let (swarm, node) = (self.swarm.clone(), self.node.clone());
            self.loading = Some(Box::pin(async move {
                Loaded::Hashes(request, swarm.hashes(&node.catalogue, &node.hashing, request).await)
            }));
        }
    }

    /// Charges the rate limits. No block is queued until what was charged has drained, by whomever.
    fn charge(&mut self, bytes: usize) {
        let now = Instant::now();
        let buckets = [&self.node.rate, &self.swarm.rate, &self.rate];
        let wait = buckets.iter().map(|bucket| bucket.charge(bytes as u64, now)).max();
        self.paused_until = wait.filter(|wait| !wait.is_zero()).map(|wait| now + wait);
    }

    fn queue(&mut self, block: &Block, data: Bytes, source: Option<Source>) {
        self.seat.peer.sent.fetch_add(data.len() as u64, Relaxed);
        self.node.count(data.len() as u64);
        if self.outbox.is_empty() {
            self.moved = Instant::now();
        }
        self.outbox.block(block, data, source, &mut self.outgoing);
        self.said = self.heard.max(self.said);
    }

    /// A chunk that is at hand or in memory; else its load begins.
    fn chunk(&mut self, file: usize, chunk: usize) -> Option<Bytes> {
        if let Some((held_file, held_chunk, bytes)) = &self.at_hand
            && (*held_file, *held_chunk) == (file, chunk)
        {
            return Some(bytes.clone());
        }
        let located = self.swarm.located(file, chunk)?;
        if let Some(bytes) = self.node.catalogue.store().hot(&located.id) {
            self.at_hand = Some((file, chunk, bytes.clone()));
            return Some(bytes);
        }
        let ahead = self.ahead.iter().position(|(f, c, _)| (*f, *c) == (file, chunk));
        let ahead = ahead.and_then(|at| self.ahead.remove(at)).map(|(_, _, read)| read);
        let (swarm, node) = (self.swarm.clone(), self.node.clone());
        self.loading = Some(Box::pin(async move {
            if let Some(read) = ahead
                && let Ok(Some(bytes)) = read.await
            {
                return Loaded::Chunk(file, chunk, Some(bytes));
            }
            let read = swarm.chunk(&node.catalogue, file, chunk, node.config.refill);
            Loaded::Chunk(file, chunk, node.load(read).await)
        }));
        self.read_ahead();
        None
    }

    /// Begins to read the chunks that are asked for next.
    fn read_ahead(&mut self) {
        let mut next = Vec::with_capacity(AHEAD);
        // The first is of the chunk that is being loaded.
        for block in &self.requests {
            let Some(Place::Chunk { file, chunk, .. }) = self.swarm.place(block) else { continue };
            if next.last() != Some(&(file, chunk)) && !next.contains(&(file, chunk)) {
                next.push((file, chunk));
            }
            if next.len() > AHEAD {
                break;
            }
        }
        self.ahead.retain(|(file, chunk, _)| next.contains(&(*file, *chunk)));
        for (file, chunk) in next.into_iter().skip(1) {
            if self.ahead.iter().any(|(f, c, _)| (*f, *c) == (file, chunk)) {
                continue;
            }
            let store = self.node.catalogue.store();
            let Some(located) = self.swarm.located(file, chunk) else { continue };
            if self.ahead.len() < AHEAD
                && store.hot(&located.id).is_none()
                && let Some(read) = store.read_ahead(located)
            {
                self.ahead.push_back((file, chunk, read));
            }
        }
    }

    pub(super) fn loaded(&mut self, loaded: Loaded) -> Result<(), End> {
        match loaded {
            Loaded::Chunk(file, chunk, Some(bytes)) => {
                self.swarm.found(file, chunk);
                self.at_hand = Some((file, chunk, bytes));
            }
            Loaded::Chunk(file, chunk, None) => {
                // Every request for it is in vain.
                let swarm = self.swarm.clone();
                let of_chunk = |block: &Block| matches!(swarm.place(block), Some(Place::Chunk { file: f, chunk: c, .. }) if (f, c) == (file, chunk));
                let (gone, rest): (VecDeque<_>, VecDeque<_>) =
                    self.requests.iter().copied().partition(of_chunk);
                self.requests = rest;
                gone.into_iter().try_for_each(|block| self.gone(block))?;
            }
            // To those without the fast extension, a choke was the end of it.
            Loaded::Block(..) if !self.served && !self.fast => {}
            Loaded::Block(block, Some(bytes)) => {
                let length = bytes.len();
                self.swarm.given(block.piece);
                self.queue(&block, bytes, None);
                self.charge(length);
            }
            Loaded::Block(block, None) => self.gone(block)?,
            Loaded::Hashes(request, Some(hashes)) => {
                self.say(&Message::Hashes { request, hashes: hashes.as_flattened() });
            }
            Loaded::Hashes(request, None) => self.say(&Message::HashReject(request)),
        }
        Ok(())
    }

    /// A block that was held, and cannot be given.
    fn gone(&mut self, block: Block) -> Result<(), End> {
        self.node.lose(&self.swarm, block.piece);
        self.refuse_gone(block)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prometheus::Registry;
    use skerry_store::catalogue::CameFrom;
    use skerry_store::digest::Ingest;
    use skerry_store::{Catalogue, Held, Store, StoreConfig};
    use skerry_wire::InfoHash;
    use skerry_wire::metainfo::Kind;
    use skerry_wire::mse::Cipher;
    use skerry_wire::peer::{Handshake, Reserved};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::SuperPeerConfig;
    use crate::greeting::Greeted;
    use crate::metrics::Metrics;
    use crate::node::Node;
    use crate::wire::Wire;

    /// A peer that speaks BEP 6 and is served, of a torrent of one piece of three blocks.
    async fn connection(folder: &Path) -> (Connection, TcpStream) {
        let registry = Registry::new();
        let config = StoreConfig { memory_tier_bytes: 0, reserve_bytes: 0, ..StoreConfig::default() };
        let catalogue = Catalogue::open(Store::open(folder, &config, &registry).unwrap()).unwrap();
        let mut ingest = Ingest::new(1 << 18);
        ingest.push(&[7; 3 * BLOCK as usize]);
        let held = catalogue.add(Held {
            resource: ingest.finish(),
            generations: vec![None],
            name: "film".into(),
            media_type: String::new(),
            // What can be fetched again counts as held.
            from: Some(CameFrom { site: "default".into(), target: "/film".into() }),
            pin: None,
            added_ms: 0,
        });
        let torrent = catalogue.add_torrent_of(&held.unwrap(), Kind::V2).unwrap();
        let info_hash = InfoHash::V2(torrent.metainfo.info().hash_v2().unwrap()).wire();
        let node = Node::new(SuperPeerConfig::default(), catalogue, Metrics::new(&registry).unwrap());
        let swarm = node.swarm(info_hash, true).await.unwrap().expect("it is held");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let seat = node.places.join(address, Instant::now()).unwrap();
        let greeted = Greeted {
            swarm,
            handshake: Handshake { reserved: Reserved::FAST, info_hash, peer_id: [0; 20] },
            incoming: Cipher::Plain,
            outgoing: Cipher::Plain,
            rest: Vec::new(),
        };
        let mut connection = Connection::new(node, Wire::Tcp(stream), seat, greeted);
        connection.served = true;
        (connection, peer)
    }

    #[tokio::test]
    async fn a_chunk_that_is_too_short_is_no_fault_of_the_peers() {
        let folder = tempfile::tempdir().unwrap();
        let (mut connection, _peer) = connection(folder.path()).await;
        for begin in [0, BLOCK] {
            connection.hear(&Message::Request(Block { piece: 0, begin, length: BLOCK })).unwrap();
        }
        connection.at_hand = Some((0, 0, Bytes::from(vec![7; 2 * BLOCK as usize - 1])));
        connection.fill().unwrap();
        let metrics = &connection.node.metrics;
        let rejected = |cause: &str| metrics.rejected.with_label_values(&[cause]).get();
        assert_eq!((metrics.blocks.get(), rejected("gone"), rejected("invalid")), (1, 1, 0));
        assert_eq!((metrics.withdrawn.get(), connection.invalid), (1, 0));
        assert!(!connection.swarm.has(0), "nobody else is to ask for it now");
        assert!(connection.requests.is_empty() && connection.at_hand.is_none());
    }

    #[test]
    fn a_tight_rate_is_shared_in_small_parts() {
        assert_eq!(batch([0, 0, 0]), LIMITED_BATCH);
        assert_eq!(batch([1 << 30, 0, 0]), LIMITED_BATCH);
        assert_eq!(batch([1 << 30, 2 << 20, 0]), 32_768);
        assert_eq!(batch([1 << 30, 2 << 20, 1]), BLOCK as usize);
    }
}

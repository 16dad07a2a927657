//! From requests to blocks in the outbox, and the chunks that they are slices of.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use skerry_wire::peer::{BLOCK, Block, Message};

use super::{AHEAD, Connection, End, LIMITED_BATCH, Loaded, MOST_INVALID};
use crate::load::Wanted;
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
        let is_tight = self.node.memory.is_tight();
        if is_tight {
            self.ahead.clear();
        }
        let most = self.node.config.send_buffer_bytes;
        let most = if limited || is_tight { most.min(LIMITED_BATCH) } else { most };
        let batch = if limited { self.batch } else { usize::MAX };
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
                    self.at_hand = None;
                    let (swarm, node) = (self.swarm.clone(), self.node.clone());
                    self.loading = Some(Box::pin(async move {
                        let _room = node.memory.room(swarm.longest_chunk, Instant::now()).await;
                        let gathered = swarm.gather(&node.catalogue, block, node.config.refill);
                        Loaded::Block(block, node.load(gathered).await)
                    }));
                }
                Some(Place::Chunk { file, chunk, offset }) => {
                    if !self.has_at_hand(file, chunk) {
                        let Some(wanted) = self.swarm.wanted(file, chunk) else {
                            // The resource has no such chunk, so nothing will come.
                            self.requests.pop_front();
                            self.gone(block)?;
                            continue;
                        };
                        // Who has one chunk on its way lets others have theirs, while memory is short.
                        let is_turn = !is_tight || !self.outbox.ends_with_another(&wanted.located.id);
                        if !is_turn || !self.take_up(wanted) {
                            break;
                        }
                    }
                    let Some((_, _, held)) = &self.at_hand else { break };
                    if !self.outbox.takes(held) {
                        break;
                    }
                    self.requests.pop_front();
                    let bytes = held.bytes();
                    let (from, to) = (offset as usize, (offset + block.length) as usize);
                    if to > bytes.len() {
                        // The torrent has the block: the node is at fault, and another read may do better.
                        log::warn!(file = file, chunk = chunk, bytes = bytes.len(); "a chunk is too short");
                        self.at_hand = None;
                        self.gone(block)?;
                        continue;
                    }
                    let data = bytes.slice(from..to);
                    self.queue(&block, data, true);
                    queued += block.length as usize;
                }
            }
        }
        if limited && queued > 0 {
            self.charge(queued);
        }
        if is_tight && self.requests.is_empty() {
            // What is on its way keeps it, and nothing else does.
            self.at_hand = None;
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
            let (now, reads) = (Instant::now(), self.swarm.reads_for(&request, &self.node.hashing));
            if reads > 0 && !self.node.hashing.allows(&mut self.hashable, reads, self.served, now) {
                return self.say(&Message::HashReject(request));
            }
            let (swarm, node) = (self.swarm.clone(), self.node.clone());
            self.loading =
                Some(Box::pin(async move { Loaded::Hashes(request, swarm.hashes(&node, request).await) }));
        }
    }

    /// Charges the rate limits. No block is queued until what was charged has drained, by whomever.
    fn charge(&mut self, bytes: usize) {
        let now = Instant::now();
        let buckets = [&self.node.rate, &self.swarm.rate, &self.rate];
        let wait = buckets.iter().map(|bucket| bucket.charge(bytes as u64, now)).max();
        self.paused_until = wait.filter(|wait| !wait.is_zero()).map(|wait| now + wait);
    }

    /// Queues a block: a slice of the chunk at hand, or bytes of its own.
    fn queue(&mut self, block: &Block, data: Bytes, is_slice: bool) {
        self.seat.peer.sent.fetch_add(data.len() as u64, Relaxed);
        self.node.count(data.len() as u64);
        self.begin_to_wait();
        let chunk = self.at_hand.as_ref().filter(|_| is_slice).map(|(_, _, chunk)| chunk);
        self.outbox.block(block, data, chunk, &mut self.outgoing);
        self.said = self.heard.max(self.said);
    }

    fn has_at_hand(&self, file: usize, chunk: usize) -> bool {
        self.at_hand.as_ref().is_some_and(|(of, at_hand, _)| (*of, *at_hand) == (file, chunk))
    }

    /// Has a chunk at hand that is in memory. Else its load begins, and false. What was at hand before is
    /// not held while another is waited for.
    fn take_up(&mut self, wanted: Wanted) -> bool {
        let Wanted { file, chunk, located, .. } = wanted;
        self.at_hand = None;
        let held = match self.node.catalogue.store().hot(&located.id) {
            Some(bytes) => self.node.memory.of_tier(located.id, bytes),
            None => self.node.memory.known(&located.id),
        };
        if let Some(held) = held {
            self.at_hand = Some((file, chunk, held));
            return true;
        }
        let ahead = self.ahead.iter().position(|(f, c, _)| (*f, *c) == (file, chunk));
        let ahead = ahead.and_then(|at| self.ahead.remove(at)).map(|(_, _, read)| read);
        let (swarm, node) = (self.swarm.clone(), self.node.clone());
        let load = async move { Loaded::Chunk(file, chunk, node.chunk(&swarm, wanted, ahead).await) };
        self.loading = Some(Box::pin(load));
        self.read_ahead();
        false
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
            let Some(wanted) = self.swarm.wanted(file, chunk) else { continue };
            if self.ahead.len() < AHEAD
                && store.hot(&wanted.located.id).is_none()
                && let Some(read) = self.node.read_ahead(&wanted)
            {
                self.ahead.push_back((file, chunk, read));
            }
        }
    }

    pub(super) fn loaded(&mut self, loaded: Loaded) -> Result<(), End> {
        match loaded {
            Loaded::Chunk(file, chunk, Some(held)) => {
                self.swarm.found(file, chunk);
                self.at_hand = Some((file, chunk, held));
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
                self.queue(&block, bytes, false);
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
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use skerry_store::ChunkId;
    use skerry_wire::mse::Cipher;
    use skerry_wire::peer::{Handshake, HashRequest, Reserved};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::SuperPeerConfig;
    use crate::greeting::Greeted;
    use crate::node::Node;
    use crate::node::tests::{CHUNK, holding};
    use crate::places::STRETCH;
    use crate::wire::Wire;

    /// A peer that speaks BEP 6 and is served.
    async fn connection(node: &Arc<Node>, info_hash: [u8; 20]) -> (Connection, TcpStream) {
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
        let mut connection = Connection::new(node.clone(), Wire::Tcp(stream), seat, greeted);
        connection.served = true;
        (connection, peer)
    }

    fn ask(connection: &mut Connection, piece: u32, begin: u32) {
        connection.hear(&Message::Request(Block { piece, begin, length: BLOCK })).unwrap();
        connection.fill().unwrap();
    }

    /// Whether what is loaded is not there at once.
    fn has_to_wait(connection: &mut Connection) -> bool {
        let loading = connection.loading.as_mut().expect("something is loaded");
        loading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    async fn load(connection: &mut Connection) {
        let loaded = connection.loading.take().expect("something is loaded").await;
        connection.loaded(loaded).unwrap();
        connection.fill().unwrap();
    }

    async fn send(connection: &mut Connection) {
        while !connection.outbox.is_empty() {
            connection.wire.ready(&mut connection.outbox).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_chunk_that_is_too_short_is_no_fault_of_the_peers() {
        let folder = tempfile::tempdir().unwrap();
        let (node, info_hash) = holding(folder.path(), SuperPeerConfig::default(), &[7; 3 * BLOCK as usize]);
        let (mut connection, _peer) = connection(&node, info_hash).await;
        for begin in [0, BLOCK] {
            connection.hear(&Message::Request(Block { piece: 0, begin, length: BLOCK })).unwrap();
        }
        let short = Bytes::from(vec![7; 2 * BLOCK as usize - 1]);
        connection.at_hand = Some((0, 0, node.memory.of_tier(ChunkId([1; 32]), short).unwrap()));
        connection.fill().unwrap();
        let metrics = &connection.node.metrics;
        let rejected = |cause: &str| metrics.rejected.with_label_values(&[cause]).get();
        assert_eq!((metrics.blocks.get(), rejected("gone"), rejected("invalid")), (1, 1, 0));
        assert_eq!((metrics.withdrawn.get(), connection.invalid), (1, 0));
        assert!(!connection.swarm.has(0), "nobody else is to ask for it now");
        assert!(connection.requests.is_empty() && connection.at_hand.is_none());
    }

    #[tokio::test]
    async fn connections_share_a_bound_and_each_goes_on_with_one_chunk() {
        let folder = tempfile::tempdir().unwrap();
        let config = SuperPeerConfig { memory_bytes: CHUNK as u64 * 3 / 2, ..SuperPeerConfig::default() };
        let content = [vec![1_u8; CHUNK], vec![2; CHUNK]].concat();
        let (node, info_hash) = holding(folder.path(), config, &content);
        let (mut first, _peer) = connection(&node, info_hash).await;
        let (mut second, _other) = connection(&node, info_hash).await;
        let (mut third, _last) = connection(&node, info_hash).await;
        ask(&mut first, 0, 0);
        load(&mut first).await;
        assert_eq!(first.outbox.pinned(), CHUNK);

        ask(&mut second, 1, 0);
        assert!(has_to_wait(&mut second) && node.memory.is_tight());
        // Whatever is there already costs nothing more.
        ask(&mut third, 0, BLOCK);
        assert_eq!(third.outbox.pinned(), CHUNK);
        // Who has a chunk on its way does not begin another one.
        ask(&mut first, 1, BLOCK);
        assert!(first.loading.is_none() && first.requests.len() == 1);
        send(&mut first).await;
        send(&mut third).await;
        first.fill().unwrap();
        assert!(third.at_hand.is_none() && first.at_hand.is_none());
        // The other was before it, and keeps it no longer than it takes to send what was asked for.
        assert!(has_to_wait(&mut first));
        load(&mut second).await;
        assert_eq!(second.outbox.pinned(), CHUNK);
        send(&mut second).await;
        load(&mut first).await;
        assert_eq!(first.outbox.pinned(), CHUNK);
        assert!(first.requests.is_empty() && !node.memory.is_tight());
    }

    #[tokio::test]
    async fn a_connection_that_ends_leaves_nothing_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let config = SuperPeerConfig { memory_bytes: 1 << 20, ..SuperPeerConfig::default() };
        let (node, info_hash) = holding(folder.path(), config, &vec![7; CHUNK]);
        let (mut connection, _peer) = connection(&node, info_hash).await;
        ask(&mut connection, 0, 0);
        load(&mut connection).await;
        let held = connection.at_hand.as_ref().map(|(_, _, held)| *held.id()).unwrap();
        connection.copies.resize(1 << 20);
        assert!(node.memory.known(&held).is_some() && node.memory.room_to_spare(1).is_none());
        connection.let_go();
        assert!(node.memory.known(&held).is_none() && node.memory.room_to_spare(CHUNK).is_some());
    }

    #[tokio::test]
    async fn who_is_slow_is_let_go_unless_it_has_caught_up() {
        let folder = tempfile::tempdir().unwrap();
        let (node, info_hash) = holding(folder.path(), SuperPeerConfig::default(), &vec![7; CHUNK]);
        let (mut connection, _peer) = connection(&node, info_hash).await;
        ask(&mut connection, 0, 0);
        load(&mut connection).await;
        for has_caught_up in [false, true] {
            connection.stretch_since = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
            connection.look_at_the_clock().unwrap();
            node.places.cut_slowest(Instant::now());
            if has_caught_up {
                connection.took(STRETCH);
            }
            assert_eq!(matches!(connection.woken(), Err(End::Slow)), !has_caught_up);
        }
    }

    #[tokio::test]
    async fn hashes_within_pieces_cost_a_peer_what_is_read_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let content = [vec![1_u8; CHUNK], vec![2; CHUNK]].concat();
        let (node, info_hash) = holding(folder.path(), SuperPeerConfig::default(), &content);
        let (mut connection, _peer) = connection(&node, info_hash).await;
        connection.served = false;
        let root = connection.swarm.torrent.files[0].unwrap().0;
        // The leaves of a piece are 16, and the last one's uncle is the other piece.
        let leaves = |index| HashRequest { root, base: 0, index, length: 16, proof_layers: 4 };
        let (swarm, hashing) = (connection.swarm.clone(), &node.hashing);
        assert_eq!(swarm.reads_for(&leaves(0), hashing), CHUNK as u64);
        for wrong in [
            HashRequest { base: 4, length: 2, ..leaves(0) },
            HashRequest { length: 1, ..leaves(0) },
            HashRequest { index: 32, ..leaves(0) },
            HashRequest { root: [9; 32], ..leaves(0) },
        ] {
            assert_eq!(swarm.reads_for(&wrong, hashing), 0, "nothing is read for {wrong:?}");
        }
        connection.hear(&Message::HashRequest(leaves(0))).unwrap();
        connection.fill().unwrap();
        let before = connection.outbox.bytes();
        load(&mut connection).await;
        let answer = connection.outbox.bytes() - before;
        assert!(answer >= 17 * 32, "{answer} bytes");
        assert_eq!(swarm.reads_for(&leaves(0), hashing), 0, "they are remembered");

        // A choked peer has used up what it may have read, and is told so; what is remembered is there still.
        while hashing.allows(&mut connection.hashable, 1 << 18, false, Instant::now()) {}
        connection.hear(&Message::HashRequest(leaves(16))).unwrap();
        connection.fill().unwrap();
        assert!(connection.loading.is_none() && connection.hashes.is_empty());
        assert!(connection.outbox.bytes() < before + 2 * answer);
        connection.hear(&Message::HashRequest(leaves(0))).unwrap();
        connection.fill().unwrap();
        assert!(connection.loading.is_some());
    }

    #[test]
    fn a_tight_rate_is_shared_in_small_parts() {
        assert_eq!(batch([0, 0, 0]), LIMITED_BATCH);
        assert_eq!(batch([1 << 30, 0, 0]), LIMITED_BATCH);
        assert_eq!(batch([1 << 30, 2 << 20, 0]), 32_768);
        assert_eq!(batch([1 << 30, 2 << 20, 1]), BLOCK as usize);
    }
}

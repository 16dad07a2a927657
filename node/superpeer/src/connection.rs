//! One peer, from its handshake to its end: what it asks for is looked up, queued and written.
//!
//! A task for each connection, on the thread that accepted it. While a peer is idle the task holds no
//! buffer: what arrives is read into one that all of the thread's connections share. Requests become
//! slices of chunks in the [`Outbox`]; a chunk that is not in memory is loaded, when there is room for it
//! ([`memory`](crate::memory)), while nothing else of the connection moves but what is already on its way.
//! Whatever a peer asks for waits in a queue of its own and bounded length, and is answered as the socket
//! takes the answers.

mod feed;
mod hear;
mod hold;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skerry_core::bucket::Bucket;
use skerry_wire::mse::Cipher;
use skerry_wire::peer::extension::Extensions;
use skerry_wire::peer::{BLOCK, Bitfield, Block, Decoder, Error, HashRequest, Message, Reserved};

use crate::allowed::Allowed;
use crate::greeting::{self, Greeted, Refused};
use crate::hashing::Allowance;
use crate::load::Ahead;
use crate::memory::{Chunk, Room};
use crate::node::Node;
use crate::outbox::Outbox;
use crate::places::Seat;
use crate::swarm::Swarm;
use crate::wire::Wire;

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// With a rate limit, bytes that are queued before it is looked at again, at most; and while memory is short.
const LIMITED_BATCH: usize = 128 * 1024;
/// Chunks that are read before their turn.
const AHEAD: usize = 4;
/// How often time limits are looked at.
const TICK: Duration = Duration::from_secs(5);
/// Who says nothing for two minutes is let go by many; so something is said before.
const KEEP_ALIVE: Duration = Duration::from_secs(100);
/// How often peers are told of others (BEP 11), and how many one is told of at most.
const EXCHANGE: Duration = Duration::from_secs(60);
const MOST_TOLD: usize = 200;
/// Refusals and the like that may wait for a peer beside what it has asked for, bytes.
const MOST_WORDS: usize = 256 * 1024;
/// Requests for hashes that may wait.
const MOST_HASHES: usize = 64;
/// Requests for what the torrent does not have, that a peer may make: some ask for the same at once again.
const MOST_INVALID: u32 = 64;
/// Requests for parts of the info dictionary that may wait: for all of the longest one.
const MOST_METADATA: usize = 512;
/// The longest message that a peer has a reason to send, unless it is its bitfield, bytes. A node that
/// asks for nothing is sent no hashes and no metadata.
const MOST_HEARD: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8; READ]>> = RefCell::new(Box::new([0; READ]));
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer closed it")]
    Closed,
    #[error("nothing was said for too long")]
    Idle,
    #[error("what it asked for was not taken in time")]
    Slow,
    #[error("{0}")]
    Protocol(#[from] skerry_wire::peer::Error),
    #[error("it asked for more than it was told it may")]
    Requests,
    #[error("it asked for what is gone, and has no word for being told so")]
    Gone,
    #[error("it sent a piece that nobody asked for")]
    Unasked,
    #[error("the node closes it")]
    Draining,
    #[error("it wanted nothing, and others want its place")]
    Crowded,
}

impl End {
    /// What it is counted as; `None` for ends that are the peer's.
    fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) | Self::Closed | Self::Draining => None,
            Self::Idle => Some("idle"),
            Self::Slow => Some("slow"),
            Self::Protocol(_) | Self::Unasked => Some("protocol"),
            Self::Requests => Some("requests"),
            Self::Gone => Some("gone"),
            Self::Crowded => Some("crowded"),
        }
    }
}

/// Serves a peer until one side has had enough.
pub(crate) async fn serve(node: Arc<Node>, mut wire: Wire, mut seat: Seat) {
    let limit = Duration::from_secs(node.config.handshake_timeout_seconds);
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(limit, greeting::accept(&node, &mut wire)) => greeted,
        () = seat.peer.closed() => return,
    };
    let greeted = match greeted.unwrap_or(Err(Refused::TimedOut)) {
        Ok(greeted) => greeted,
        Err(refused) => {
            node.metrics.refused.with_label_values(&[refused.cause()]).inc();
            return log::debug!(peer:% = seat.peer.address; "refused: {refused}");
        }
    };
    seat.greeted();
    node.metrics.connections.inc();
    let address = seat.peer.address;
    let mut connection = Connection::new(node.clone(), wire, seat, greeted);
    let end = connection.run().await;
    connection.let_go();
    connection.wire.finish().await;
    node.metrics.connections.dec();
    if let Err(end) = end {
        if let Some(cause) = end.cause() {
            node.metrics.dropped.with_label_values(&[cause]).inc();
        }
        log::debug!(peer:% = address; "ended: {end}");
    }
}

/// What one peer has, and what it was shown of what the node has.
struct Shown {
    has: Bitfield,
    shown: Bitfield,
}

/// What was waited for.
enum Loaded {
    Chunk(usize, usize, Option<Arc<Chunk>>),
    Block(Block, Option<Bytes>),
    Hashes(HashRequest, Option<Vec<[u8; 32]>>),
}

type Loading = Pin<Box<dyn Future<Output = Loaded> + Send>>;

struct Connection {
    node: Arc<Node>,
    swarm: Arc<Swarm>,
    seat: Seat,
    wire: Wire,
    fast: bool,
    decoder: Decoder,
    /// The longest message that is waited for, bytes.
    longest: usize,
    incoming: Cipher,
    outgoing: Cipher,
    /// The beginning of a message whose end has not come.
    inbox: Vec<u8>,
    outbox: Outbox,
    /// While the peer is not served, only what it was allowed is in here.
    requests: VecDeque<Block>,
    hashes: VecDeque<HashRequest>,
    /// Parts of the info dictionary that it has asked for.
    metadata: VecDeque<u32>,
    /// Whether the peer was told that it is served.
    served: bool,
    /// What it was told it may have while it is not served.
    allowed: Option<Allowed>,
    /// Whether it is sent away, as soon as what is on its way is sent.
    closing: bool,
    /// What the peer has and what it was shown, where pieces are shown one by one (BEP 16).
    shown: Option<Box<Shown>>,
    /// Whether the peer has everything, so that the two have nothing to do with each other.
    is_seed: bool,
    /// Whether it wants nothing, though it may not have everything (BEP 21).
    is_upload_only: bool,
    /// About how many pieces it has.
    had: u32,
    theirs: Extensions,
    /// The chunk that was used last.
    at_hand: Option<(usize, usize, Arc<Chunk>)>,
    loading: Option<Loading>,
    ahead: VecDeque<(usize, usize, Ahead)>,
    /// What counts for bytes on their way that are no slices of chunks.
    copies: Room,
    /// What may be read for the hashes that it asks for.
    hashable: Allowance,
    rate: Bucket,
    /// Bytes that are queued at once where a rate is limited.
    batch: usize,
    /// No block is queued before that.
    paused_until: Option<Instant>,
    /// Whether it has waited for what others were sent before it came.
    has_waited: bool,
    /// Changes of what is held that the peer was told of.
    told: usize,
    /// Requests for what the torrent does not have.
    invalid: u32,
    told_peers: HashSet<SocketAddr>,
    told_at: Option<Instant>,
    /// When the peer last asked for something, or had something on its way.
    active: Instant,
    heard: Instant,
    said: Instant,
    /// When the socket last took a byte, or had none to take.
    moved: Instant,
    /// Bytes that it has taken since it last had taken a whole stretch of them, or had none to take; and when
    /// that was.
    stretch: usize,
    stretch_since: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.swarm.leave(&self.seat.peer);
    }
}

impl Connection {
    fn new(node: Arc<Node>, wire: Wire, seat: Seat, greeted: Greeted) -> Self {
        let Greeted { swarm, handshake, incoming, outgoing, rest } = greeted;
        let now = Instant::now();
        let told = swarm.join(&seat.peer);
        node.asked(&swarm);
        let pieces = swarm.layout().piece_count();
        let config = &node.config;
        let rates = [config.rate_bytes, config.rate_bytes_per_torrent, config.rate_bytes_per_peer];
        let mut connection = Self {
            rate: Bucket::new(config.rate_bytes_per_peer),
            batch: feed::batch(rates),
            copies: node.memory.no_room(),
            hashable: Allowance::of_peer(config.rate_bytes_per_peer, now),
            decoder: Decoder::new(pieces).with_extended(MOST_HEARD),
            longest: MOST_HEARD.max(1 + pieces.div_ceil(8) as usize),
            node,
            swarm,
            seat,
            wire,
            fast: handshake.reserved.contains(Reserved::FAST),
            incoming,
            outgoing,
            inbox: rest,
            outbox: Outbox::default(),
            requests: VecDeque::new(),
            hashes: VecDeque::new(),
            metadata: VecDeque::new(),
            served: false,
            allowed: None,
            closing: false,
            is_seed: false,
            is_upload_only: false,
            had: 0,
            theirs: Extensions::default(),
            at_hand: None,
            loading: None,
            ahead: VecDeque::new(),
            paused_until: None,
            has_waited: false,
            shown: None,
            told,
            invalid: 0,
            told_peers: HashSet::new(),
            told_at: None,
            active: now,
            heard: now,
            said: now,
            moved: now,
            stretch: 0,
            stretch_since: now,
        };
        if handshake.reserved.contains(Reserved::EXTENSION) {
            connection.introduce();
        }
        connection.tell_pieces();
        connection
    }

    async fn run(&mut self) -> Result<(), End> {
        // What came with the handshake.
        let rest = std::mem::take(&mut self.inbox);
        self.take_in(&rest)?;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.fill()?;
            let is_blocked = self.flush()?;
            self.count_copies();
            if self.closing && self.outbox.is_empty() {
                return Err(if self.seat.peer.makes_room() { End::Crowded } else { End::Draining });
            }
            if !is_blocked && self.has_more() {
                // The socket took everything: others have their turn, then there is more.
                tokio::task::yield_now().await;
                continue;
            }
            // A socket that is ready each time is no reason not to let others have theirs.
            tokio::task::coop::consume_budget().await;
            let pause = self.paused_until.filter(|_| !self.requests.is_empty());
            tokio::select! {
                ready = self.wire.ready(&mut self.outbox) => {
                    let ready = ready?;
                    self.took(ready.written);
                    if ready.is_readable && self.read()? {
                        tokio::task::yield_now().await;
                    }
                }
                loaded = async { self.loading.as_mut().expect("it is polled when there is one").await },
                    if self.loading.is_some() =>
                {
                    self.loading = None;
                    self.loaded(loaded)?;
                }
                () = self.seat.peer.wake.notified() => self.woken()?,
                () = tokio::time::sleep_until(pause.unwrap_or_else(Instant::now).into()), if pause.is_some() => {
                    self.paused_until = None;
                }
                _ = ticks.tick() => self.look_at_the_clock()?,
            }
        }
    }

    /// Reads what has come, into the thread's buffer, and takes it in; whether there may be more.
    fn read(&mut self) -> Result<bool, End> {
        SCRATCH.with_borrow_mut(|scratch| {
            let count = match self.wire.try_read(&mut scratch[..]) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            self.heard = Instant::now();
            self.incoming.apply(&mut scratch[..count]);
            self.take_in(&scratch[..count])?;
            Ok(count == scratch.len())
        })
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.inbox.is_empty() {
            let used = self.take_messages(bytes)?;
            self.inbox.extend_from_slice(&bytes[used..]);
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.extend_from_slice(bytes);
            let used = self.take_messages(&inbox)?;
            inbox.drain(..used);
            if !inbox.is_empty() {
                self.inbox = inbox;
            }
        }
        Ok(())
    }

    /// Takes the whole messages at the beginning of `bytes`; how many bytes they are.
    fn take_messages(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let mut used = 0;
        while let Some((message, length)) = self.decoder.decode(&bytes[used..])? {
            used += length;
            self.hear(&message)?;
            if self.outbox.bytes() > self.node.config.send_buffer_bytes + self.longest + MOST_WORDS {
                // It asks, and does not take the answers.
                return Err(End::Requests);
            }
        }
        if let [a, b, c, d, id, ..] = bytes[used..] {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > self.longest {
                return Err(Error::Length { id, length }.into());
            }
        }
        Ok(used)
    }

    fn say(&mut self, message: &Message<'_>) {
        self.said = Instant::now();
        self.begin_to_wait();
        self.outbox.say(message, &mut self.outgoing);
    }

    /// Writes until there is nothing to write, or room for more to be queued; true when it is the socket
    /// that takes no more.
    fn flush(&mut self) -> Result<bool, End> {
        while !self.outbox.is_empty() {
            match self.outbox.write(|slices| self.wire.try_write(slices)) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => self.took(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error.into()),
            }
            if self.outbox.bytes() < self.node.config.send_buffer_bytes / 2 && self.has_more() {
                break;
            }
        }
        Ok(false)
    }

    /// Somebody has changed what this connection should know.
    fn woken(&mut self) -> Result<(), End> {
        if self.seat.peer.is_cut() && self.is_slow() {
            return Err(End::Slow);
        }
        if self.seat.peer.is_closing() && !self.closing {
            self.closing = true;
            self.allowed = None;
            self.hashes.clear();
            self.metadata.clear();
            self.refuse_waiting();
        }
        let served = self.seat.peer.is_served() && !self.closing;
        if served != self.served {
            self.served = served;
            if served {
                self.say(&Message::Unchoke);
            } else {
                self.say(&Message::Choke);
                self.refuse_waiting();
            }
        }
        self.show();
        // Who has missed some of what has changed hears all of it when it comes back.
        let changes = self.swarm.changes_since(self.told).ok_or(End::Draining)?;
        self.told += changes.len();
        for (piece, is_held) in changes {
            self.tell_change(piece, is_held);
        }
        Ok(())
    }

    fn look_at_the_clock(&mut self) -> Result<(), End> {
        let (now, config) = (Instant::now(), &self.node.config);
        let since = |moment: Instant| now.saturating_duration_since(moment);
        if !self.outbox.is_empty() && since(self.moved) > Duration::from_secs(config.write_timeout_seconds) {
            return Err(End::Slow);
        }
        if self.outbox.is_empty() && since(self.heard) > Duration::from_secs(config.idle_timeout_seconds) {
            return Err(End::Idle);
        }
        // Two that want nothing have nothing to say to each other.
        if (self.is_seed || self.is_upload_only) && since(self.heard) > TICK {
            return Err(End::Closed);
        }
        let is_busy = !self.outbox.is_empty() || self.loading.is_some() || !self.requests.is_empty();
        if is_busy {
            self.active = now;
        }
        self.seat.peer.active(self.active);
        self.seat.peer.behind(self.behind());
        if !is_busy {
            // Nothing is kept for a peer that wants nothing now.
            self.at_hand = None;
            self.ahead = VecDeque::new();
            self.requests.shrink_to_fit();
            self.hashes.shrink_to_fit();
            self.metadata.shrink_to_fit();
            self.outbox.shrink();
            if since(self.said) > KEEP_ALIVE {
                self.say(&Message::KeepAlive);
            }
        }
        self.exchange(now);
        Ok(())
    }
}

// A block that everybody asks for lies in one chunk: chunks are whole blocks.
const _: () = assert!((1 << 18) % BLOCK == 0);

//! The DHT (BEP 5): what is held is announced there, one torrent after the other, and peers are looked up.
//!
//! The crate `mainline` runs the DHT's node on a thread of its own, which ends when the last handle of it is
//! dropped. It takes the nodes to begin with once, when it starts, and would be alone for good if their
//! names cannot be resolved then; so they are resolved here first, over and over until it works, and again
//! when no node was known for a while. Until then its port is held for it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mainline::async_dht::AsyncDht;
use mainline::errors::PutQueryError;
use mainline::{DEFAULT_BOOTSTRAP_NODES, Dht, Id, RequestFilter, RequestSpecific, ServerSettings};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::DiscoveryConfig;
use crate::error::DiscoveryError;
use crate::limit::Limit;
use crate::metrics::{By, Metrics};
use crate::peers::{Heard, Own, Peers};
use crate::role::at;
use crate::schedule::Schedule;
use crate::torrents::Listed;

/// Announces under way at once. Each asks some hundred nodes, and takes some seconds.
const AT_ONCE: usize = 64;
/// An announce that takes longer is given up.
const LONGEST: Duration = Duration::from_secs(60);
/// Look-ups at once.
const LOOK_UPS: usize = 16;
/// Addresses that one look-up takes, at most.
const MOST_ADDRESSES: usize = 500;
/// How often it is looked how the DHT is, while it knows no node and then.
const LOOKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// After so long without a node, the nodes to begin with are resolved anew.
const LOST: Duration = Duration::from_secs(600);
/// From one attempt to start to the next, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// Names are resolved within.
const RESOLVE: Duration = Duration::from_secs(20);
/// Addresses of nodes to begin with.
const MOST_NODES: usize = 256;
/// Peers that are remembered for others, by torrent: `mainline` takes the memory for all of them with the
/// first.
const MOST_STORED: usize = 100;

/// This node in the DHT.
pub(crate) struct Node {
    config: DiscoveryConfig,
    /// Where it listens, with its real port.
    address: SocketAddrV4,
    /// The port that peers are told of.
    port: Option<u16>,
    peers: Arc<Peers>,
    metrics: Metrics,
    state: Mutex<State>,
    turns: Semaphore,
}

/// How things stand.
#[derive(Default)]
struct State {
    dht: Option<AsyncDht>,
    is_server: bool,
    public: Option<SocketAddrV4>,
    round: Duration,
}

/// What `skerry status` tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) address: SocketAddrV4,
    /// As others see it.
    pub(crate) public: Option<SocketAddrV4>,
    /// Whether it answers others.
    pub(crate) is_server: bool,
    /// How long a round of announces takes.
    pub(crate) round: Duration,
}

impl Node {
    /// Takes the port; nothing is sent yet. [`Node::run`] wants the socket.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) fn bind(
        config: &DiscoveryConfig,
        own: &Own,
        peers: Arc<Peers>,
        metrics: Metrics,
    ) -> Result<(Arc<Self>, UdpSocket), DiscoveryError> {
        let address = config.dht_listen;
        let failed = |source| DiscoveryError::Bind { address, source };
        let socket = UdpSocket::bind(address).map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let node = Arc::new(Self {
            config: config.clone(),
            address: SocketAddrV4::new(*address.ip(), port),
            port: own.port(false, own.loopback),
            peers,
            metrics,
            state: Mutex::default(),
            turns: Semaphore::new(LOOK_UPS),
        });
        Ok((node, socket))
    }

    /// How things stand.
    pub(crate) fn told(&self) -> Told {
        let state = self.state.lock();
        Told { address: self.address, public: state.public, is_server: state.is_server, round: state.round }
    }

    /// Lets go of the DHT: with the last announce that is under way, its thread ends.
    pub(crate) fn stop(&self) {
        *self.state.lock() = State::default();
        self.metrics.dht_nodes.set(0);
    }

    /// Takes part in the DHT for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, socket: UdpSocket, listed: watch::Receiver<Listed>) {
        let mut held = Some(socket);
        let mut retry = RETRY[0];
        loop {
            let nodes = self.resolve().await;
            if nodes.is_empty() {
                self.metrics.error(By::Dht, "bootstrap");
                log::warn!(
                    again_seconds = retry.as_secs();
                    "no node of the DHT to begin with has an IPv4 address; see `discovery.dht_bootstrap`"
                );
            } else if let Some(dht) = self.start(nodes, held.take()).await {
                retry = RETRY[0];
                self.state.lock().dht = Some(dht.clone());
                // On a task of its own: a handle of a DHT whose thread has failed panics.
                let mut serving = JoinSet::new();
                serving.spawn(self.clone().serve(dht, listed.clone()));
                let has_ended = serving.join_next().await;
                self.stop();
                if has_ended.is_some_and(|ended| ended.is_err()) {
                    self.metrics.error(By::Dht, "ended");
                    log::error!("the DHT has failed; it is started again");
                }
            }
            tokio::time::sleep(retry).await;
            retry = (2 * retry).min(RETRY[1]);
        }
    }

    /// The nodes to begin with.
    async fn resolve(&self) -> Vec<SocketAddrV4> {
        let mut names: Vec<String> = self.config.dht_bootstrap.clone();
        if names.is_empty() {
            names.extend(DEFAULT_BOOTSTRAP_NODES.iter().map(|node| (*node).to_owned()));
        }
        let mut asking = JoinSet::new();
        for name in names {
            asking.spawn(async move {
                match timeout(RESOLVE, tokio::net::lookup_host(&name)).await {
                    Ok(Ok(found)) => found.collect::<Vec<SocketAddr>>(),
                    _ => Vec::new(),
                }
            });
        }
        let mut found = Vec::new();
        while let Some(addresses) = asking.join_next().await {
            found.extend(addresses.into_iter().flatten().filter_map(|address| match address {
                SocketAddr::V4(v4) if !v4.ip().is_unspecified() => Some(v4),
                _ => None,
            }));
        }
        found.sort_unstable();
        found.dedup();
        found.truncate(MOST_NODES);
        found
    }

    /// Starts the thread of the DHT, which binds the port anew.
    async fn start(&self, nodes: Vec<SocketAddrV4>, held: Option<UdpSocket>) -> Option<AsyncDht> {
        let mut builder = Dht::builder();
        builder.bind_address(*self.address.ip()).port(self.address.port()).bootstrap(&nodes);
        builder.server_settings(ServerSettings {
            max_peers_per_info_hash: MOST_STORED,
            filter: Box::new(Filter::new(&self.config, self.metrics.dht_refused_requests.clone())),
            ..ServerSettings::default()
        });
        if self.config.dht_server {
            builder.server_mode();
        }
        let built = tokio::task::spawn_blocking(move || {
            drop(held);
            builder.build()
        });
        let reason = match built.await {
            Ok(Ok(dht)) => {
                log::info!(address:% = self.address, nodes = nodes.len(); "taking part in the DHT");
                return Some(dht.as_async());
            }
            Ok(Err(error)) => error.to_string(),
            // It panics when its thread is faster to fail than it is to be asked.
            Err(_) => "its thread has ended".to_owned(),
        };
        self.metrics.error(By::Dht, "start");
        log::error!(address:% = self.address; "the DHT cannot start: {reason}");
        None
    }

    /// Announces what is listed, until no node is known any longer.
    async fn serve(self: Arc<Self>, dht: AsyncDht, mut listed: watch::Receiver<Listed>) {
        let mut schedule = Schedule::new(self.config.round(), self.config.gap(), 1);
        let mut announcing = JoinSet::new();
        let mut nodes = 0;
        let (mut next_look, mut found) = (Instant::now(), Instant::now());
        listed.mark_changed();
        loop {
            // Who takes no peers has nothing to announce.
            let port = self.port.filter(|_| nodes > 0 && announcing.len() < AT_ONCE);
            let due = port.and_then(|port| Some((schedule.due(Instant::now().into_std())?, port)));
            tokio::select! {
                () = tokio::time::sleep_until(next_look) => {
                    nodes = self.look(&dht).await;
                    let now = Instant::now();
                    next_look = now + LOOKS[usize::from(nodes > 0)];
                    if nodes > 0 {
                        found = now;
                    } else if now - found > LOST {
                        log::warn!("no node of the DHT is known any longer; it is begun with anew");
                        return;
                    }
                }
                changed = listed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let held = listed.borrow_and_update().clone();
                    schedule.set(&held);
                    self.state.lock().round = schedule.takes();
                }
                Some(done) = announcing.join_next() => self.count(done.unwrap_or(Err("ended"))),
                port = at(due) => {
                    for info_hash in schedule.take(Instant::now().into_std()) {
                        announcing.spawn(announce(dht.clone(), info_hash, port));
                    }
                }
            }
        }
    }

    /// How many nodes are known; how the DHT is otherwise is noted.
    async fn look(&self, dht: &AsyncDht) -> usize {
        let nodes = dht.to_bootstrap().await.len();
        let info = dht.info().await;
        self.metrics.dht_nodes.set(nodes as i64);
        if let Some(public) = info.public_address() {
            self.peers.seen_at(*public.ip());
        }
        let mut state = self.state.lock();
        state.is_server = info.server_mode();
        state.public = info.public_address();
        nodes
    }

    fn count(&self, done: Result<(), &'static str>) {
        match done {
            Ok(()) => self.metrics.announced(By::Dht, 1),
            Err(cause) => self.metrics.error(By::Dht, cause),
        }
    }

    /// Asks the DHT for the peers of a torrent, and remembers them as they are heard of.
    pub(crate) async fn look_up(self: &Arc<Self>, info_hash: [u8; 20], within: Duration) {
        let Some(dht) = self.state.lock().dht.clone() else { return };
        let deadline = Instant::now() + within;
        let Ok(Ok(_turn)) = timeout_at(deadline, self.turns.acquire()).await else { return };
        self.metrics.look_ups.inc();
        let (node, mut asking) = (self.clone(), JoinSet::new());
        // On a task of its own, as in `run`; it ends when whoever asks does.
        asking.spawn(async move {
            let mut answers = pin!(dht.get_peers(Id::from(info_hash)));
            let mut count = 0;
            while let Ok(Some(addresses)) = timeout_at(deadline, answers.next()).await {
                for address in addresses.into_iter().take(MOST_ADDRESSES - count) {
                    let now = Instant::now().into_std();
                    let heard = node.peers.hear(info_hash, address.into(), By::Dht, now);
                    node.metrics.address(By::Dht, heard != Heard::Refused);
                    count += 1;
                }
                if count >= MOST_ADDRESSES {
                    return;
                }
            }
        });
        let _ = asking.join_next().await;
    }
}

/// Announces one info-hash; the error is a cause.
async fn announce(dht: AsyncDht, info_hash: [u8; 20], port: u16) -> Result<(), &'static str> {
    let announced = async {
        let id = Id::from(info_hash);
        // The tokens come with the answers to `get_peers` (BEP 5). Left to itself, `mainline` would ask for
        // them with the `get` of BEP 44, which not every node knows.
        let mut answers = pin!(dht.get_peers(id));
        while answers.next().await.is_some() {}
        dht.announce_peer(id, Some(port)).await
    };
    match timeout(LONGEST, announced).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(PutQueryError::NoClosestNodes)) => Err("no-nodes"),
        Ok(Err(PutQueryError::ErrorResponse(_))) => Err("refused"),
        Ok(Err(PutQueryError::Timeout)) | Err(_) => Err("timeout"),
    }
}

/// Which requests of other nodes are answered: `mainline` has no limit of its own.
#[derive(Debug, Clone)]
struct Filter {
    limit: Arc<Limit>,
    refused: IntCounter,
}

impl Filter {
    fn new(config: &DiscoveryConfig, refused: IntCounter) -> Self {
        Self { limit: Arc::new(Limit::new(config.dht_max_requests_per_second)), refused }
    }
}

impl RequestFilter for Filter {
    fn allow_request(&self, _: &RequestSpecific, from: SocketAddrV4) -> bool {
        let is_allowed = self.limit.allows(IpAddr::V4(*from.ip()), std::time::Instant::now());
        if !is_allowed {
            self.refused.inc();
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests;

//! What every connection shares: the node's side of the peer wire.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skerry_core::api::Demand;
use skerry_core::bucket::Bucket;
use skerry_store::{Catalogue, StoreError};
use skerry_wire::InfoHash;
use tokio::sync::Semaphore;

use crate::choke::ROUND;
use crate::config::SuperPeerConfig;
use crate::hashing::Hashing;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::places::{Limits, Places};
use crate::swarm::Swarm;

/// Torrents that are opened at once.
const OPENING: usize = 4;
/// Swarms that are kept a while when their last peer has gone.
const LATELY: usize = 64;
/// Changes of the catalogue that come close together are looked at once.
const SETTLE: Duration = Duration::from_secs(1);
/// Encrypted handshakes that are worked on at once: each needs arithmetic with long numbers, and a look into
/// the catalogue on disk.
const UNSEALING: usize = 4;
/// Files of one torrent that are counted as asked for.
const MOST_ASKED: usize = 64;
/// Who takes too much memory is looked at so long after it did, and as often.
const LOOK: Duration = Duration::from_millis(100);

/// The node, as its peers see it.
pub(crate) struct Node {
    /// `[superpeer]`.
    pub(crate) config: SuperPeerConfig,
    /// What is held.
    pub(crate) catalogue: Catalogue,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Who is connected.
    pub(crate) places: Arc<Places>,
    /// Bytes per second to all peers.
    pub(crate) rate: Bucket,
    /// The node's peer id (BEP 20), new at every start.
    pub(crate) peer_id: [u8; 20],
    /// The memory that peers take.
    pub(crate) memory: Arc<Memory>,
    /// The work on hashes.
    pub(crate) hashing: Hashing,
    unsealing: Arc<Semaphore>,
    swarms: Mutex<HashMap<[u8; 20], Weak<Swarm>>>,
    /// Swarms that were opened lately, so that who comes and goes does not have one opened each time.
    lately: Mutex<Vec<Arc<Swarm>>>,
    opening: Arc<Semaphore>,
    /// Swarms with pieces that are withdrawn.
    incomplete: Mutex<Vec<Weak<Swarm>>>,
    /// Hears what peers ask for.
    pub(crate) demand: OnceLock<Arc<dyn Demand>>,
}

impl Node {
    /// A node without peers.
    pub(crate) fn new(config: SuperPeerConfig, catalogue: Catalogue, metrics: Metrics) -> Arc<Self> {
        let mut peer_id = *b"-SK0100-000000000000";
        peer_id[8..].iter_mut().for_each(|byte| *byte = fastrand::alphanumeric() as u8);
        Arc::new(Self {
            places: Places::new(Limits {
                peers: config.max_connections,
                handshakes: config.max_handshakes,
                per_network: config.max_connections_per_address,
                served: config.max_unchoked,
            }),
            rate: Bucket::new(config.rate_bytes),
            memory: Memory::new(config.memory_bytes),
            config,
            catalogue,
            metrics,
            peer_id,
            hashing: Hashing::new(Instant::now()),
            unsealing: Arc::new(Semaphore::new(UNSEALING)),
            swarms: Mutex::default(),
            lately: Mutex::default(),
            opening: Arc::new(Semaphore::new(OPENING)),
            incomplete: Mutex::default(),
            demand: OnceLock::new(),
        })
    }

    /// The swarm of an info-hash; `None` when nothing of it is held. Who names a hybrid torrent by its v1
    /// hash, and `takes_v2`, is given the one of its v2 hash.
    pub(crate) async fn swarm(
        self: &Arc<Self>,
        info_hash: [u8; 20],
        takes_v2: bool,
    ) -> Result<Option<Arc<Swarm>>, StoreError> {
        if let Some(swarm) = self.known(&info_hash).filter(|swarm| !takes_v2 || !swarm.has_upgrade()) {
            return Ok(Some(swarm));
        }
        let node = self.clone();
        blocking(&self.opening, move || node.open(info_hash, takes_v2)).await?
    }

    /// Does the work of an encrypted handshake, which blocks, when it is its turn.
    pub(crate) async fn unseal<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalogue) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let catalogue = self.catalogue.clone();
        blocking(&self.unsealing, move || work(&catalogue)).await
    }

    fn known(&self, info_hash: &[u8; 20]) -> Option<Arc<Swarm>> {
        let swarm = self.swarms.lock().get(info_hash).and_then(Weak::upgrade);
        swarm.filter(|swarm| swarm.is_current(&self.catalogue))
    }

    fn open(&self, info_hash: [u8; 20], takes_v2: bool) -> Result<Option<Arc<Swarm>>, StoreError> {
        let (seen, _) = self.catalogue.changed_since(None);
        let Some(torrent) = self.catalogue.torrent(&info_hash)? else { return Ok(None) };
        let second = torrent.metainfo.info().hash_v2().filter(|_| takes_v2);
        let info_hash = second.map_or(info_hash, |hash| InfoHash::V2(hash).wire());
        // Another connection may have opened it meanwhile.
        if let Some(swarm) = self.known(&info_hash) {
            return Ok(Some(swarm));
        }
        let opened = Swarm::open(info_hash, torrent, &self.catalogue, &self.config, seen)?;
        let Some(opened) = opened else { return Ok(None) };
        let mut swarms = self.swarms.lock();
        let other = swarms.get(&info_hash).and_then(Weak::upgrade);
        if let Some(swarm) = other.filter(|swarm| swarm.is_current(&self.catalogue)) {
            return Ok(Some(swarm));
        }
        swarms.retain(|_, swarm| swarm.strong_count() > 0);
        swarms.insert(info_hash, Arc::downgrade(&opened));
        drop(swarms);
        let mut lately = self.lately.lock();
        if lately.len() < LATELY {
            lately.push(opened.clone());
        }
        Ok(Some(opened))
    }

    /// Lets go of swarms without peers; called now and then.
    pub(crate) fn forget(&self) {
        drop(std::mem::take(&mut *self.lately.lock()));
    }

    /// Looks at the torrents with peers when the catalogue has changed. Where a file has come or gone, or
    /// is kept otherwise, the peers are let go, and hear how things stand when they come back. Runs for
    /// as long as it is polled.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        let mut changes = self.catalogue.changes();
        while changes.changed().await.is_ok() {
            tokio::time::sleep(SETTLE).await;
            changes.mark_unchanged();
            let node = self.clone();
            let look = move || {
                let swarms: Vec<Arc<Swarm>> = node.swarms.lock().values().filter_map(Weak::upgrade).collect();
                for swarm in swarms.iter().filter(|swarm| swarm.len() > 0) {
                    match swarm.has_changed(&node.catalogue) {
                        Ok(true) => swarm.close(),
                        Ok(false) => {}
                        Err(error) => log::warn!("a torrent with peers cannot be looked at: {error}"),
                    }
                }
            };
            if tokio::task::spawn_blocking(look).await.is_err() {
                return;
            }
        }
    }

    /// A piece of a swarm cannot be given.
    pub(crate) fn lose(&self, swarm: &Arc<Swarm>, piece: u32) {
        if swarm.lose(piece, Instant::now()) {
            self.metrics.withdrawn.inc();
            self.note_incomplete(swarm);
        }
    }

    fn note_incomplete(&self, swarm: &Arc<Swarm>) {
        let mut incomplete = self.incomplete.lock();
        if !incomplete.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(swarm))) {
            incomplete.push(Arc::downgrade(swarm));
        }
    }

    /// Offers pieces again whose pause is over. Runs for as long as it is polled.
    pub(crate) async fn bring_back(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(ROUND);
        loop {
            ticks.tick().await;
            let incomplete = std::mem::take(&mut *self.incomplete.lock());
            if incomplete.is_empty() {
                continue;
            }
            let node = self.clone();
            let look = move || {
                for swarm in incomplete.iter().filter_map(Weak::upgrade) {
                    let refill = node.config.refill;
                    let offered = swarm.offer_again(&node.catalogue, refill, Instant::now());
                    if let Err(error) = offered {
                        log::warn!("it cannot be seen whether a piece is back: {error}");
                    }
                    if swarm.is_failing() {
                        node.note_incomplete(&swarm);
                    }
                }
            };
            if tokio::task::spawn_blocking(look).await.is_err() {
                return;
            }
        }
    }

    /// Sees that peers take no more memory than they may. Runs for as long as it is polled.
    pub(crate) async fn bound_memory(self: Arc<Self>) {
        loop {
            self.memory.pressed().await;
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            // The tier takes a look for a use. It is one: the chunk is on its way to somebody.
            if self.memory.look(now, |id| self.catalogue.store().hot(id)) {
                self.places.cut_slowest(now);
            }
        }
    }

    /// Torrents with peers: their info-hashes, and how many peers.
    pub(crate) fn swarms(&self) -> Vec<(String, usize)> {
        let swarms: Vec<Arc<Swarm>> = self.swarms.lock().values().filter_map(Weak::upgrade).collect();
        let peopled = swarms.iter().filter(|swarm| swarm.len() > 0);
        peopled.map(|swarm| (skerry_store::chunk::hex(&swarm.info_hash), swarm.len())).collect()
    }

    /// A peer has come for a torrent: that is a request for each of its files.
    pub(crate) fn asked(&self, swarm: &Swarm) {
        let Some(demand) = self.demand.get() else { return };
        let files = swarm.torrent.metainfo.info().files();
        for (file, id) in files.iter().zip(&swarm.torrent.files).take(MOST_ASKED) {
            if let Some(id) = id {
                demand.asked(&id.0, file.length);
            }
        }
    }

    /// Counts a block.
    pub(crate) fn count(&self, bytes: u64) {
        self.metrics.sent.inc_by(bytes);
        self.metrics.blocks.inc();
    }

    /// What a load gives in time. Its turn at fetching again ends with it: an origin that hangs holds none.
    /// A failure is logged and gives nothing.
    pub(crate) async fn load<T>(
        &self,
        load: impl Future<Output = Result<Option<T>, StoreError>>,
    ) -> Option<T> {
        let limit = Duration::from_secs(self.config.refill_timeout_seconds);
        match tokio::time::timeout(limit, load).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => {
                log::warn!("a chunk cannot be read for a peer: {error}");
                None
            }
            Err(_) => {
                log::warn!(seconds = limit.as_secs(); "a chunk that a peer asks for does not come");
                None
            }
        }
    }
}

/// Runs work that blocks when it is its turn. That ends with the work, whatever becomes of who asked for it.
async fn blocking<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let turn = turns.clone().acquire_owned().await.map_err(|_| StoreError::Closing)?;
    tokio::task::spawn_blocking(move || (work(), turn).0).await.map_err(|_| StoreError::Closing)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use prometheus::Registry;
    use skerry_store::catalogue::CameFrom;
    use skerry_store::digest::Ingest;
    use skerry_store::{Held, Store, StoreConfig};
    use skerry_wire::metainfo::Kind;
    use tokio::sync::OwnedSemaphorePermit;

    use super::*;

    /// Length of a chunk of [`holding`], bytes.
    pub(crate) const CHUNK: usize = 1 << 18;

    /// Puts `content` on record, which can be fetched again.
    fn hold(catalogue: &Catalogue, name: &str, content: &[u8]) -> Arc<Held> {
        let (mut ingest, mut generations) = (Ingest::new(CHUNK as u32), Vec::new());
        for chunk in content.chunks(CHUNK) {
            let id = ingest.push(chunk);
            let located = catalogue.store().put_blocking(id, &Bytes::copy_from_slice(chunk)).unwrap();
            generations.push(located.generation);
        }
        let held = catalogue.add(Held {
            resource: ingest.finish(),
            generations,
            name: name.into(),
            media_type: String::new(),
            // What can be fetched again counts as held.
            from: Some(CameFrom { site: "default".into(), target: format!("/{name}") }),
            pin: None,
            added_ms: 0,
        });
        held.unwrap()
    }

    /// A node without a memory tier that holds `content`, and the info-hash of its v2 torrent, whose pieces
    /// are chunks.
    pub(crate) fn holding(folder: &Path, config: SuperPeerConfig, content: &[u8]) -> (Arc<Node>, [u8; 20]) {
        let registry = Registry::new();
        let store = StoreConfig { memory_tier_bytes: 0, reserve_bytes: 0, ..StoreConfig::default() };
        let catalogue = Catalogue::open(Store::open(folder, &store, &registry).unwrap()).unwrap();
        let held = hold(&catalogue, "film", content);
        let torrent = catalogue.add_torrent_of(&held, Kind::V2).unwrap();
        let info_hash = InfoHash::V2(torrent.metainfo.info().hash_v2().unwrap()).wire();
        (Node::new(config, catalogue, Metrics::new(&registry).unwrap()), info_hash)
    }

    /// All turns at encrypted handshakes.
    pub(crate) fn all_unsealing(node: &Node) -> OwnedSemaphorePermit {
        node.unsealing.clone().try_acquire_many_owned(UNSEALING as u32).unwrap()
    }

    #[test]
    fn an_idle_swarm_is_opened_again_when_its_own_records_have_changed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let (node, info_hash) = holding(folder.path(), SuperPeerConfig::default(), &[7; 1000]);
        let open = || node.open(info_hash, false).unwrap();
        let swarm = open().unwrap();
        assert!(swarm.is_current(&node.catalogue));

        let other = hold(&node.catalogue, "other", &[8; 1000]);
        let others = node.catalogue.add_torrent_of(&other, Kind::Hybrid).unwrap();
        let its_hash = others.metainfo.info().hashes().next().unwrap().wire();
        assert!(node.catalogue.remove_torrent(&its_hash).unwrap());
        assert!(Arc::ptr_eq(&swarm, &open().unwrap()), "nothing of it has changed");

        // The same once more, which may be kept elsewhere by now.
        hold(&node.catalogue, "film", &[7; 1000]);
        assert!(!swarm.is_current(&node.catalogue));
        let again = open().unwrap();
        assert!(!Arc::ptr_eq(&swarm, &again) && again.is_current(&node.catalogue));

        assert!(node.catalogue.remove_torrent(&info_hash).unwrap());
        assert!(!again.is_current(&node.catalogue));
        assert!(open().is_none());
    }
}

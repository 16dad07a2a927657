//! The tracker itself: what an announce comes to, whatever way it came.
//!
//! Everything here takes the time as an argument, counted from the tracker's start, and touches no socket,
//! so that a simulation drives this very code.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use prometheus::Registry;
use skerry_policy::Policies;
use skerry_wire::tracker::{Counts, Event};

use crate::address;
use crate::config::TrackerConfig;
use crate::error::{Refusal, TrackerError};
use crate::metrics::{Cause, Count, Metrics, Tally, Transport};
use crate::schedule::{Asker, Desk, Scheduler, share};
use crate::super_peers::{Held, SuperPeers};
use crate::swarm::{Announce, Families, Found, Full, Kind, Peer, Swarms, Totals};

/// Who holds all of it, permille.
const WHOLE: u32 = 1000;
/// Peers that the verdict has to choose from, however few are wanted.
const FEW_DRAWN: usize = 20;

/// What a tracker is made of.
pub struct Parts<'a> {
    /// `[tracker]`, checked.
    pub config: TrackerConfig,
    /// The fleet.
    pub super_peers: Arc<dyn SuperPeers>,
    /// Decide whom an announce is answered with; `None` leaves it to the built-in verdict.
    pub policies: Option<Policies>,
    /// Where metrics are registered.
    pub registry: &'a Registry,
}

/// A tracker; shared by the threads that serve it.
pub struct Tracker {
    config: TrackerConfig,
    swarms: Swarms,
    super_peers: Arc<dyn SuperPeers>,
    scheduler: Scheduler,
    metrics: Metrics,
    started: Instant,
}

/// One announce, as either protocol tells it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The swarm.
    pub info_hash: [u8; 20],
    /// The peer's own id.
    pub peer_id: [u8; 20],
    /// A number that only client and tracker know; 0 is none.
    pub key: u32,
    /// Where the announce came from.
    pub source: IpAddr,
    /// An address that the client wants to be known by.
    pub named: Option<IpAddr>,
    /// Where it takes connections.
    pub port: u16,
    /// Why it announces itself.
    pub event: Event,
    /// Bytes that it lacks; `None` when it does not say.
    pub left: Option<u64>,
    /// Bytes that it has downloaded since it started.
    pub downloaded: u64,
    /// How many peers it asks for; `None` leaves that to the tracker.
    pub wanted: Option<u32>,
    /// Peers that the answer has room for.
    pub room: usize,
    /// Whether the answer may have peers of both families.
    pub both: bool,
    /// How it came.
    pub transport: Transport,
}

/// What a thread that serves a tracker keeps between announces, and where it finds the answer.
pub struct Worker {
    /// IPv4 peers of the last announce, packed.
    pub peers: Vec<u8>,
    /// IPv6 peers of the last announce, packed.
    pub peers6: Vec<u8>,
    random: Rng,
    found: Found,
    desk: Desk,
    tally: Arc<Tally>,
}

impl Worker {
    /// Counts something.
    pub fn count(&self, count: Count) {
        self.tally.add(count, 1);
    }
}

impl Tracker {
    /// A tracker that knows nobody yet.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(parts: Parts<'_>) -> Result<Self, TrackerError> {
        let Parts { config, super_peers, policies, registry } = parts;
        Ok(Self {
            swarms: Swarms::new(config.limits()),
            scheduler: Scheduler::new(policies, config.max_policy_calls),
            metrics: Metrics::new(registry)?,
            config,
            super_peers,
            started: Instant::now(),
        })
    }

    /// Time since its start: what whoever serves it passes on.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What one more thread keeps. A `seed` makes its choices the same each time.
    pub fn worker(&self, seed: Option<u64>) -> Worker {
        Worker {
            peers: Vec::new(),
            peers6: Vec::new(),
            random: seed.map_or_else(Rng::new, Rng::with_seed),
            found: Found::default(),
            desk: Desk::default(),
            tally: self.metrics.tally(),
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &TrackerConfig {
        &self.config
    }

    /// Takes an announce. Peers are in `worker` afterwards.
    ///
    /// # Errors
    /// When it is refused; nothing has changed then.
    pub fn announce(&self, asked: &Asked, now: Duration, worker: &mut Worker) -> Result<Counts, Refusal> {
        worker.peers.clear();
        worker.peers6.clear();
        if asked.port == 0 {
            worker.count(Count::Error(asked.transport, Cause::Port));
            return Err(Refusal::Port);
        }
        let address = address::announced(asked.source, asked.named, &self.config.trusted);
        let endpoint = SocketAddr::new(address, asked.port);
        let leaves = asked.event == Event::Stopped;
        let wanted = if leaves { 0 } else { self.wanted(asked) };
        let held = self.held(&asked.info_hash, address.is_ipv6(), wanted);
        // Who is held is known.
        if !self.config.open && held.is_none() && !self.super_peers.known(&asked.info_hash) {
            worker.count(Count::Error(asked.transport, Cause::Unknown));
            return Err(Refusal::Unknown);
        }
        let place = if leaves { Default::default() } else { self.super_peers.region(address) };
        let length = held.as_ref().map_or(0, |held| held.length);
        let peer = Peer {
            endpoint,
            kind: kind(asked),
            held: share(asked.left, asked.downloaded, length),
            tag: tag(asked),
            region: place,
        };
        // The verdict chooses from more than are wanted, or from fewer.
        let scheduled = wanted > 0 && (held.is_some() || place.region != 0);
        let announce = Announce {
            info_hash: &asked.info_hash,
            peer,
            leaves,
            completed: asked.event == Event::Completed,
            // Others were refused above.
            held: !self.config.open,
            trusted: false,
            wanted: if scheduled { self.drawn(wanted) } else { wanted },
            wanted_other: if asked.both { wanted } else { 0 },
        };
        if let Some(full) = self.remember(announce, now, worker) {
            worker.count(Count::Full(full));
        }
        let counts = worker.found.counts;
        let downloading = counts.downloaders;
        // Who has but a magnet link cannot know what is left; some clients say that nothing is.
        let knows_nothing = asked.left == Some(0) && asked.downloaded == 0 && asked.event == Event::Started;
        let have = if knows_nothing { 0 } else { peer.held };
        let mut asker = Asker { info_hash: &asked.info_hash, endpoint, place, have, wanted, downloading };
        for v6 in [address.is_ipv6(), address.is_ipv4()] {
            if asker.wanted == 0 {
                break;
            }
            let held = if v6 == address.is_ipv6() {
                held.clone()
            } else if asked.both {
                self.held(&asked.info_hash, v6, asker.wanted)
            } else {
                break;
            };
            asker.wanted -= self.name(&asker, held.as_deref(), v6, now, worker);
        }
        worker.count(Count::Announce(asked.transport, asked.event));
        let super_peers = held.map_or(0, |held| held.rows.iter().filter(|row| row.held == WHOLE).count());
        Ok(Counts { complete: counts.complete.saturating_add(super_peers as u32), ..counts })
    }

    /// Takes an announce into its swarm, and tells which limit was in the way. What lifts limits is asked
    /// for late, since hardly any announce meets one.
    fn remember(&self, mut announce: Announce<'_>, now: Duration, worker: &mut Worker) -> Option<Full> {
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let full = self.swarms.announce(&announce, seconds, &mut worker.random, &mut worker.found)?;
        if full == Full::Torrent {
            return Some(full);
        }
        // A torrent of the fleet's has room for more peers, but not for more of one source.
        let held = full != Full::SourceTorrent && self.super_peers.known(announce.info_hash);
        let trusted = address::is_trusted(announce.peer.endpoint.ip(), &self.config.trusted);
        if (announce.held || !held) && !trusted {
            return Some(full);
        }
        (announce.held, announce.trusted) = (held, trusted);
        self.swarms.announce(&announce, seconds, &mut worker.random, &mut worker.found)
    }

    /// How a swarm does, super-peers with it; all zero when nobody knows it.
    pub fn scrape(&self, info_hash: &[u8; 20]) -> Counts {
        self.with_super_peers(info_hash, self.swarms.scrape(info_hash))
    }

    /// Counts with the super-peers: those that hold all of it are seeds like others.
    fn with_super_peers(&self, info_hash: &[u8; 20], counts: Counts) -> Counts {
        let whole = |v6| {
            let held = self.super_peers.of(info_hash, v6)?;
            Some(held.rows.iter().filter(|row| row.held == WHOLE).count() as u32)
        };
        // The same nodes mostly have an address of either family.
        let super_peers = whole(false).max(whole(true)).unwrap_or(0);
        Counts { complete: counts.complete.saturating_add(super_peers), ..counts }
    }

    /// How a swarm does, by address family; `None` when nobody knows it.
    pub fn families(&self, info_hash: &[u8; 20]) -> Option<Families> {
        self.swarms.families(info_hash)
    }

    /// Who holds what a swarm is about.
    pub fn super_peers(&self, info_hash: &[u8; 20], v6: bool) -> Option<Arc<Held>> {
        self.super_peers.of(info_hash, v6)
    }

    /// How much there is.
    pub fn totals(&self) -> Totals {
        self.swarms.totals()
    }

    /// Bytes that swarms and peers take. Looks at all of them.
    pub fn memory(&self) -> usize {
        self.swarms.memory()
    }

    /// Forgets those who fell silent, in one of [`Swarms::SWEEPS`] parts.
    pub fn sweep(&self, now: Duration) {
        self.swarms.sweep(u32::try_from(now.as_secs()).unwrap_or(u32::MAX));
    }

    /// Brings the metrics up to date, and tells how many announces were answered.
    pub fn settle(&self) -> u64 {
        self.metrics.settle(&self.swarms.totals());
        self.metrics.announces()
    }

    fn wanted(&self, asked: &Asked) -> usize {
        let wanted = asked.wanted.map_or(self.config.wanted, |wanted| wanted as usize);
        wanted.min(self.config.max_wanted).min(asked.room)
    }

    /// Peers that the verdict chooses from: a third more than are wanted.
    fn drawn(&self, wanted: usize) -> usize {
        (wanted + wanted / 3).max(FEW_DRAWN).min(self.config.scheduled_peers)
    }

    fn held(&self, info_hash: &[u8; 20], v6: bool, wanted: usize) -> Option<Arc<Held>> {
        if wanted == 0 { None } else { self.super_peers.of(info_hash, v6) }
    }

    fn name(
        &self,
        asker: &Asker<'_>,
        held: Option<&Held>,
        v6: bool,
        now: Duration,
        worker: &mut Worker,
    ) -> usize {
        let Worker { peers, peers6, random, found, desk, tally } = worker;
        let (scheduler, fleet) = (&self.scheduler, &*self.super_peers);
        if v6 {
            scheduler.name(fleet, asker, held, &found.v6, desk, random, now, tally, peers6)
        } else {
            scheduler.name(fleet, asker, held, &found.v4, desk, random, now, tally, peers)
        }
    }
}

fn kind(asked: &Asked) -> Kind {
    match (asked.left, asked.event) {
        (Some(0), _) => Kind::Seeding,
        (_, Event::Paused) => Kind::Paused,
        _ => Kind::Leeching,
    }
}

/// The key; without one, a digest of the peer's id, which other peers see too.
fn tag(asked: &Asked) -> u32 {
    if asked.key != 0 {
        return asked.key;
    }
    let words = asked.peer_id.as_chunks::<4>().0;
    words.iter().fold(0, |mixed: u32, word| mixed.rotate_left(5) ^ u32::from_le_bytes(*word))
}

#[cfg(test)]
pub(crate) mod tests;

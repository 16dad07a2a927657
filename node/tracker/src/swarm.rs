//! Every swarm, in memory: who announced itself, when, and what it is doing.
//!
//! Swarms are spread over shards by info-hash, each behind a lock that is held for the time of one announce.
//! Peers of the two address families are kept apart, since an answer in UDP has one of them. Time is an
//! argument, in seconds since the tracker's start; nothing here reads a clock. What is kept is bounded in
//! swarms, peers of a swarm, peers of a source (in all and in each swarm) and peers in all; beyond that an
//! announce is answered and not remembered. There is no swarm without a peer, so these limits bound the
//! swarms that a source makes up, too. A part of each limit that is not one swarm's is left to torrents that
//! the fleet holds, so that no stranger fills it.
//!
//! A client that has both families announces itself in both (BEP 7), and there are two entries of it. So
//! each count is that of the family that has more.

mod entry;
mod index;
mod sources;
mod table;

use std::collections::{HashMap, hash_map};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fastrand::Rng;
use parking_lot::Mutex;
use skerry_wire::tracker::Counts;

pub use entry::{Address, Entry, Kind, Peer};
use index::HashKey;
use sources::Sources;
use table::{Among, Table};

/// Locks that swarms are spread over.
const SHARDS: usize = 256;
/// One part in so many of a limit is left to torrents that the fleet holds.
const RESERVED: usize = 8;

/// What is remembered, at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Swarms.
    pub torrents: usize,
    /// Peers of all swarms.
    pub peers: usize,
    /// Peers of one swarm and one address family.
    pub peers_per_torrent: usize,
    /// Peers of one source: an IPv4 address or an IPv6 /64; a /48 has 16 times as many. 0 is no limit.
    pub peers_per_source: usize,
    /// Those of them that are in one swarm. 0 is no limit.
    pub peers_per_source_and_torrent: usize,
    /// Seconds after which a silent peer is forgotten.
    pub timeout: u32,
}

/// Which limit was in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// That of swarms.
    Torrents = 0,
    /// That of peers in all.
    Peers = 1,
    /// That of peers of a swarm.
    Torrent = 2,
    /// That of peers of a source.
    Source = 3,
    /// That of peers of a source in one swarm.
    SourceTorrent = 4,
}

/// One announce.
#[derive(Debug, Clone, Copy)]
pub struct Announce<'a> {
    /// The swarm.
    pub info_hash: &'a [u8; 20],
    /// Who announces itself.
    pub peer: Peer,
    /// It leaves.
    pub leaves: bool,
    /// It has just got everything.
    pub completed: bool,
    /// The fleet holds the torrent: it may have what room is left to those.
    pub held: bool,
    /// The limits of peers of a source are not for this one.
    pub trusted: bool,
    /// Peers of its own family to draw, at most.
    pub wanted: usize,
    /// Peers of the other family to draw, at most.
    pub wanted_other: usize,
}

/// What an announce came to; kept and used again by who asks.
#[derive(Debug, Default)]
pub struct Found {
    /// How the swarm does, the one who asks included.
    pub counts: Counts,
    /// IPv4 peers, drawn at random.
    pub v4: Vec<Entry<[u8; 4]>>,
    /// IPv6 peers, drawn at random.
    pub v6: Vec<Entry<[u8; 16]>>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Swarms.
    pub torrents: usize,
    /// Peers with IPv4 addresses.
    pub v4: usize,
    /// Peers with IPv6 addresses.
    pub v6: usize,
}

/// How one swarm does, by address family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Families {
    /// Peers with IPv4 addresses.
    pub v4: Counts,
    /// Peers with IPv6 addresses.
    pub v6: Counts,
}

#[derive(Debug, Default)]
struct Swarm {
    v4: Table<[u8; 4]>,
    /// Most swarms have none.
    v6: Option<Box<Table<[u8; 16]>>>,
    downloaded: u32,
}

type Shard = HashMap<[u8; 20], Box<Swarm>>;

/// Every swarm.
pub struct Swarms {
    shards: Box<[Mutex<Shard>]>,
    key: HashKey,
    limits: Limits,
    sources: Sources,
    torrents: AtomicUsize,
    v4: AtomicUsize,
    v6: AtomicUsize,
    /// Which shard is swept next.
    next: AtomicUsize,
}

/// What an announce changed in its table.
enum Change {
    Nothing,
    Added,
    Removed,
    Completed,
    Refused(Full),
}

impl Swarms {
    /// Calls of [`Swarms::sweep`] that look at every swarm once.
    pub const SWEEPS: usize = SHARDS;

    /// None yet.
    pub fn new(limits: Limits) -> Self {
        let key = HashKey::new(random_number(), random_number());
        let Limits { peers, peers_per_source, peers_per_source_and_torrent, .. } = limits;
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            key,
            limits,
            sources: Sources::new(peers_per_source, peers_per_source_and_torrent, peers, key),
            torrents: AtomicUsize::new(0),
            v4: AtomicUsize::new(0),
            v6: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }

    /// Draws peers for the one who announces itself, and remembers it, or forgets it when it leaves. Tells
    /// which limit kept it from being remembered.
    pub fn announce(
        &self,
        announce: &Announce<'_>,
        now: u32,
        random: &mut Rng,
        found: &mut Found,
    ) -> Option<Full> {
        found.counts = Counts::default();
        found.v4.clear();
        found.v6.clear();
        let mut shard = self.shard(announce.info_hash).lock();
        let swarm = match shard.entry(*announce.info_hash) {
            hash_map::Entry::Occupied(swarm) => swarm.into_mut(),
            hash_map::Entry::Vacant(_) if announce.leaves => return None,
            hash_map::Entry::Vacant(place) => {
                if self.torrents.load(Relaxed) >= room(self.limits.torrents, announce.held) {
                    return Some(Full::Torrents);
                }
                if let Some(full) = self.full(announce) {
                    return Some(full);
                }
                self.torrents.fetch_add(1, Relaxed);
                place.insert(Box::default())
            }
        };
        let other = among(announce, announce.wanted_other, None);
        let (change, count) = match announce.peer.endpoint.ip() {
            IpAddr::V4(address) => {
                if let Some(table) = swarm.v6.as_ref().filter(|_| other.wanted > 0) {
                    table.sample(other, random, &mut found.v6);
                }
                let own = &mut found.v4;
                (self.visit(&mut swarm.v4, address.octets(), announce, now, random, own), &self.v4)
            }
            IpAddr::V6(address) => {
                if other.wanted > 0 {
                    swarm.v4.sample(other, random, &mut found.v4);
                }
                let (table, own) = (swarm.v6.get_or_insert_default(), &mut found.v6);
                (self.visit(table, address.octets(), announce, now, random, own), &self.v6)
            }
        };
        let refused = match change {
            Change::Nothing => None,
            Change::Added => {
                count.fetch_add(1, Relaxed);
                None
            }
            Change::Removed => {
                count.fetch_sub(1, Relaxed);
                None
            }
            Change::Completed => {
                swarm.downloaded = swarm.downloaded.saturating_add(1);
                None
            }
            Change::Refused(full) => Some(full),
        };
        found.counts = swarm.counts();
        if swarm.is_empty() {
            // Else who comes and goes at once makes up swarms that no limit of peers counts.
            shard.remove(announce.info_hash);
            self.torrents.fetch_sub(1, Relaxed);
        }
        refused
    }

    /// Which limit one more peer would exceed, but those of its swarm.
    fn full(&self, announce: &Announce<'_>) -> Option<Full> {
        if self.v4.load(Relaxed) + self.v6.load(Relaxed) >= room(self.limits.peers, announce.held) {
            return Some(Full::Peers);
        }
        let has_room = announce.trusted
            || match announce.peer.endpoint.ip() {
                IpAddr::V4(address) => self.sources.has_room(&address.octets(), announce.held),
                IpAddr::V6(address) => self.sources.has_room(&address.octets(), announce.held),
            };
        (!has_room).then_some(Full::Source)
    }

    fn visit<A: Address>(
        &self,
        table: &mut Table<A>,
        address: A,
        announce: &Announce<'_>,
        now: u32,
        random: &mut Rng,
        into: &mut Vec<Entry<A>>,
    ) -> Change {
        let position = table.find(address, announce.peer.endpoint.port(), &self.key);
        if announce.wanted > 0 {
            table.sample(among(announce, announce.wanted, position), random, into);
        }
        if announce.leaves {
            // Somebody else behind the same address cannot make it leave.
            let Some(position) = position.filter(|at| table.get(*at).tag == announce.peer.tag) else {
                return Change::Nothing;
            };
            table.remove(position, &self.key);
            self.sources.remove(announce.info_hash, address.bytes());
            return Change::Removed;
        }
        let entry = Entry::new(&announce.peer, address, now);
        match position {
            Some(position) => {
                let before = table.replace(position, entry, &self.key);
                let completed = announce.completed && before != Kind::Seeding;
                if completed { Change::Completed } else { Change::Nothing }
            }
            None if table.len() >= self.limits.peers_per_torrent => Change::Refused(Full::Torrent),
            None if !announce.trusted
                && !self.sources.has_room_in(announce.info_hash, table.len(), address.bytes()) =>
            {
                Change::Refused(Full::SourceTorrent)
            }
            None => match self.full(announce) {
                Some(full) => Change::Refused(full),
                None => {
                    table.add(entry, &self.key);
                    self.sources.add(announce.info_hash, address.bytes());
                    Change::Added
                }
            },
        }
    }

    /// How a swarm does; all zero when nobody knows it.
    pub fn scrape(&self, info_hash: &[u8; 20]) -> Counts {
        self.shard(info_hash).lock().get(info_hash).map_or_else(Counts::default, |swarm| swarm.counts())
    }

    /// How a swarm does, by address family; `None` when nobody knows it.
    pub fn families(&self, info_hash: &[u8; 20]) -> Option<Families> {
        let shard = self.shard(info_hash).lock();
        shard.get(info_hash).map(|swarm| swarm.families())
    }

    /// How much there is.
    pub fn totals(&self) -> Totals {
        Totals { torrents: self.torrents.load(Relaxed), v4: self.v4.load(Relaxed), v6: self.v6.load(Relaxed) }
    }

    /// Forgets those who fell silent, in one of [`Swarms::SWEEPS`] parts; the next call takes the next.
    pub fn sweep(&self, now: u32) {
        let next = self.next.fetch_add(1, Relaxed) % SHARDS;
        let mut shard = self.shards[next].lock();
        let (mut v4, mut v6) = (0, 0);
        let timeout = self.limits.timeout;
        let before = shard.len();
        shard.retain(|hash, swarm| {
            v4 += swarm.v4.expire(now, timeout, &self.key, |address| self.sources.remove(hash, &address));
            if let Some(mut table) = swarm.v6.take() {
                v6 += table.expire(now, timeout, &self.key, |address| self.sources.remove(hash, &address));
                swarm.v6 = Some(table).filter(|table| table.len() > 0);
            }
            !swarm.is_empty()
        });
        let left = shard.len();
        if shard.capacity() > left * 4 {
            shard.shrink_to(left * 2);
        }
        self.v4.fetch_sub(v4, Relaxed);
        self.v6.fetch_sub(v6, Relaxed);
        self.torrents.fetch_sub(before - left, Relaxed);
    }

    /// Bytes that swarms and peers take, without what the allocator adds. Looks at every swarm.
    pub fn memory(&self) -> usize {
        let of_shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            let swarms = shard.values().map(|swarm| swarm.memory()).sum::<usize>();
            // A bucket in eight stays free, and each has a byte beside it.
            let buckets = (shard.capacity() * 8).div_ceil(7);
            swarms + buckets * (size_of::<([u8; 20], Box<Swarm>)>() + 1)
        };
        self.shards.iter().map(of_shard).sum()
    }

    fn shard(&self, info_hash: &[u8; 20]) -> &Mutex<Shard> {
        // Hashes are spread evenly; who makes them up to crowd one lock slows that lock.
        &self.shards[usize::from(info_hash[0]) % SHARDS]
    }
}

impl Swarm {
    fn is_empty(&self) -> bool {
        self.v4.len() == 0 && self.v6.as_ref().is_none_or(|table| table.len() == 0)
    }

    fn families(&self) -> Families {
        let downloaded = self.downloaded;
        let v6 = self.v6.as_ref().map_or_else(Counts::default, |table| table.counts());
        Families { v4: Counts { downloaded, ..self.v4.counts() }, v6: Counts { downloaded, ..v6 } }
    }

    fn counts(&self) -> Counts {
        let Families { v4, v6 } = self.families();
        Counts {
            complete: v4.complete.max(v6.complete),
            incomplete: v4.incomplete.max(v6.incomplete),
            downloaders: v4.downloaders.max(v6.downloaders),
            downloaded: self.downloaded,
        }
    }

    fn memory(&self) -> usize {
        let v6 = self.v6.as_ref().map_or(0, |table| size_of::<Table<[u8; 16]>>() + table.memory());
        size_of::<Self>() + self.v4.memory() + v6
    }
}

/// Who has everything, or wants no more, is told of those that download: it has nothing to get from others.
fn among(announce: &Announce<'_>, wanted: usize, but: Option<usize>) -> Among {
    let peer = &announce.peer;
    let local = crate::address::is_local(peer.endpoint.ip());
    Among { wanted, leeching: peer.kind != Kind::Leeching, local, but }
}

/// What of a limit a torrent may fill.
fn room(most: usize, held: bool) -> usize {
    if held { most } else { most - most / RESERVED }
}

/// Different in each process, and known to nobody: the standard library's keys come from the system.
fn random_number() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(SHARDS)
}

#[cfg(test)]
mod tests;

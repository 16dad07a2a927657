//! Whom an announce is answered with: the super-peer-scheduler's verdict over super-peers and a few ordinary
//! peers of the swarm.
//!
//! Where there is nothing to prefer (no super-peer, and nobody knows where the client is) peers are named as
//! they were drawn. Else the policy is asked, if there is one; without one the built-in verdict is called
//! directly, and one announce a second and thread takes the long way all the same: that is how the log of
//! decisions gets its sample, and how a new policy is noticed.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use skerry_policy::rows::{Answer, Inputs, PeerCandidate, PeerRequest};
use skerry_policy::{Cause, Policies, builtin};

use crate::metrics::{By, Count, Tally};
use crate::super_peers::{Held, Region, SuperPeers};
use crate::swarm::{Address, Entry};

/// Super-peers that are put before the policy, at most, those of the client's region first.
const MOST_SUPER_PEERS: usize = 64;
/// Super-peers that are named when the verdict is no opinion.
const UNADVISED: usize = 4;
/// Super-peers that hardly any answer has more of.
const NAMED: usize = 8;
/// How long it is taken for granted that there is no policy.
const NO_POLICY: Duration = Duration::from_secs(1);
/// Who has all of it, permille.
const WHOLE: u32 = 1000;
const UNKNOWN: u32 = u32::MAX;

/// Who asks, and how its swarm does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) info_hash: &'a [u8; 20],
    /// Never named to itself.
    pub(crate) endpoint: SocketAddr,
    pub(crate) place: Region,
    /// How much it has, permille.
    pub(crate) have: u32,
    /// How many peers it is told of, at most.
    pub(crate) wanted: usize,
    /// Peers of the swarm that download.
    pub(crate) downloading: u32,
}

/// Decides with the policies of the node.
pub(crate) struct Scheduler {
    policies: Option<Policies>,
    most_calls: u32,
    /// Of the hash that stands for a client's prefix.
    key: RandomState,
}

/// What one thread keeps from call to call.
#[derive(Default)]
pub(crate) struct Desk {
    candidates: Vec<PeerCandidate>,
    /// Rows of [`Held`], in the order of the candidates.
    rows: Vec<usize>,
    /// Regions of those rows, and how far they are, microseconds.
    distances: Vec<(u32, u32)>,
    pace: Pace,
}

/// Calls of the policy by one thread.
#[derive(Default)]
struct Pace {
    second: u64,
    calls: u32,
    /// There is no policy, and until then nobody looks.
    idle_until: Duration,
}

impl Scheduler {
    pub(crate) fn new(policies: Option<Policies>, most_calls: u32) -> Self {
        Self { policies, most_calls, key: RandomState::new() }
    }

    /// Appends peers to `out`, packed, and tells how many.
    #[expect(clippy::too_many_arguments, reason = "who asks, who could be named, and what the thread has")]
    pub(crate) fn name<A: Address>(
        &self,
        fleet: &dyn SuperPeers,
        asker: &Asker<'_>,
        held: Option<&Held>,
        peers: &[Entry<A>],
        desk: &mut Desk,
        random: &mut Rng,
        now: Duration,
        tally: &Tally,
        out: &mut Vec<u8>,
    ) -> usize {
        let Desk { candidates, rows, distances, pace } = desk;
        rows.clear();
        if let Some(held) = held {
            near_first(held, asker, random, rows);
        }
        let named = Vec::with_capacity(rows.len().min(NAMED));
        let mut names = Names { held, peers, out, named, count: 0, most: asker.wanted };
        let nothing_to_prefer = rows.is_empty() && asker.place.region == 0;
        let by = if nothing_to_prefer || (rows.is_empty() && peers.is_empty()) {
            (0..peers.len()).for_each(|peer| names.peer(peer));
            By::Chance
        } else {
            distances.clear();
            let distances = Distances { fleet, near: asker.place.region, known: distances };
            let inputs = self.inputs(distances, asker, held, rows, peers, std::mem::take(candidates), random);
            let (answer, by) = self.decide(&inputs, pace, now);
            if let Answer::Scheduled { peers: choices, more_copies } = answer {
                for choice in choices {
                    let row = choice.row as usize;
                    match rows.get(row) {
                        Some(row) => names.super_peer(*row),
                        None => names.peer(row - rows.len()),
                    }
                }
                if more_copies > 0 {
                    fleet.more_copies(asker.info_hash, more_copies);
                }
            } else {
                let fit = |row: &&usize| {
                    held.and_then(|held| held.rows.get(**row))
                        .is_some_and(|row| row.health > 0 && row.capacity_kbps > 0 && row.held > asker.have)
                };
                rows.iter().filter(fit).take(UNADVISED).for_each(|row| names.super_peer(*row));
                (0..peers.len()).for_each(|peer| names.peer(peer));
            }
            if let Inputs::SuperPeerScheduler { candidates: used, .. } = inputs {
                *candidates = used;
            }
            by
        };
        let (count, super_peers) = (names.count, names.named.len());
        if count > 0 {
            tally.add(Count::Chosen(by), 1);
            tally.add(Count::SuperPeers, super_peers as u64);
            tally.add(Count::Peers, (count - super_peers) as u64);
        }
        count
    }

    #[expect(clippy::too_many_arguments, reason = "every part of a call, once")]
    fn inputs<A: Address>(
        &self,
        mut distances: Distances<'_>,
        asker: &Asker<'_>,
        held: Option<&Held>,
        rows: &[usize],
        peers: &[Entry<A>],
        mut candidates: Vec<PeerCandidate>,
        random: &mut Rng,
    ) -> Inputs {
        candidates.clear();
        let super_peers = rows.iter().filter_map(|row| held?.rows.get(*row));
        candidates.extend(super_peers.map(|node| PeerCandidate {
            super_peer: 1,
            region: node.place.region,
            isp: node.place.isp,
            distance_us: distances.to(node.place.region),
            used_kbps: node.used_kbps,
            capacity_kbps: node.capacity_kbps,
            health: node.health,
            held: node.held,
            named_ms_ago: UNKNOWN,
        }));
        candidates.extend(peers.iter().map(|peer| PeerCandidate {
            super_peer: 0,
            region: peer.region,
            isp: peer.isp,
            distance_us: UNKNOWN,
            used_kbps: 0,
            capacity_kbps: 0,
            health: WHOLE,
            held: peer.held(),
            named_ms_ago: UNKNOWN,
        }));
        let request = PeerRequest {
            client: self.client(asker.endpoint.ip()),
            region: asker.place.region,
            isp: asker.place.isp,
            size_bytes: held.map_or(0, |held| held.length),
            have: asker.have,
            wanted: asker.wanted as u32,
            downloading: asker.downloading,
            demand_kbps: 0,
            seed: random.u64(..),
        };
        Inputs::SuperPeerScheduler { request, candidates }
    }

    fn decide(&self, inputs: &Inputs, pace: &mut Pace, now: Duration) -> (Answer, By) {
        let Inputs::SuperPeerScheduler { request, .. } = inputs else {
            return (Answer::Abstain, By::BuiltIn);
        };
        let policies = self.policies.as_ref().filter(|_| pace.admits(now, self.most_calls));
        let Some(policies) = policies else { return (builtin::decide(inputs), By::BuiltIn) };
        let decided = policies.decide(inputs, request.client);
        let absent = decided.cause == Some(Cause::None);
        if absent {
            pace.idle_until = now + NO_POLICY;
        }
        (decided.answer, if absent { By::BuiltIn } else { By::Policy })
    }

    /// The same for clients of one /24 or /56, and known to nobody else.
    fn client(&self, address: IpAddr) -> u64 {
        self.key.hash_one(match address {
            IpAddr::V4(address) => (4u8, u128::from(address.to_bits() >> 8)),
            IpAddr::V6(address) => (6u8, address.to_bits() >> 72),
        })
    }
}

impl Pace {
    /// Whether the policy may be called once more in this second.
    fn admits(&mut self, now: Duration, most: u32) -> bool {
        if now < self.idle_until {
            return false;
        }
        if self.second != now.as_secs() {
            (self.second, self.calls) = (now.as_secs(), 0);
        }
        self.calls += 1;
        self.calls <= most
    }
}

/// Rows of `held` that may be put before the policy: those of the client's region first, each sort from a
/// random place on, so that none of very many is always left out.
fn near_first(held: &Held, asker: &Asker<'_>, random: &mut Rng, rows: &mut Vec<usize>) {
    let count = held.rows.len();
    if count == 0 {
        return;
    }
    let start = random.usize(0..count);
    let region = asker.place.region;
    let sorts = if region == 0 { &[false][..] } else { &[true, false] };
    for near in sorts {
        for row in [start..count, 0..start].into_iter().flatten() {
            if rows.len() == MOST_SUPER_PEERS {
                return;
            }
            let node = &held.rows[row];
            let is_near = region != 0 && node.place.region == region;
            if is_near == *near && node.address != asker.endpoint {
                rows.push(row);
            }
        }
    }
}

/// How far regions are from that of the client, each asked for once.
struct Distances<'a> {
    fleet: &'a dyn SuperPeers,
    near: u32,
    known: &'a mut Vec<(u32, u32)>,
}

impl Distances<'_> {
    fn to(&mut self, region: u32) -> u32 {
        if self.near == 0 {
            return UNKNOWN;
        }
        if let Some((_, distance_us)) = self.known.iter().find(|(known, _)| *known == region) {
            return *distance_us;
        }
        let distance_us = self.fleet.distance_us(self.near, region);
        self.known.push((region, distance_us));
        distance_us
    }
}

/// The peers of an answer as they are written, none of them twice.
struct Names<'a, A> {
    held: Option<&'a Held>,
    peers: &'a [Entry<A>],
    out: &'a mut Vec<u8>,
    /// Addresses of super-peers, which may announce themselves as peers too.
    named: Vec<(A, u16)>,
    count: usize,
    most: usize,
}

impl<A: Address> Names<'_, A> {
    fn super_peer(&mut self, row: usize) {
        let Some(node) = self.held.and_then(|held| held.rows.get(row)) else { return };
        let Some(address) = A::of(node.address.ip()) else { return };
        let endpoint = (address, node.address.port());
        if self.count < self.most && !self.named.contains(&endpoint) {
            self.named.push(endpoint);
            self.write(address, endpoint.1);
        }
    }

    fn peer(&mut self, number: usize) {
        let Some(peer) = self.peers.get(number) else { return };
        let (address, port) = (peer.address, peer.port);
        if self.count < self.most && !self.named.contains(&(address, port)) {
            self.write(address, port);
        }
    }

    fn write(&mut self, address: A, port: u16) {
        self.out.extend_from_slice(address.bytes());
        self.out.extend_from_slice(&port.to_be_bytes());
        self.count += 1;
    }
}

/// How much a peer has, permille: of `length` bytes if that is known, else of what it has downloaded and
/// lacks. Never 0 and never all unless it lacks nothing: what it said is old by the time it is asked.
pub(crate) fn share(left: Option<u64>, downloaded: u64, length: u64) -> u32 {
    let Some(left) = left else { return 1 };
    if left == 0 {
        return WHOLE;
    }
    let (has, all) = if length >= left {
        (length - left, u128::from(length))
    } else {
        (downloaded, u128::from(downloaded) + u128::from(left))
    };
    (u128::from(has) * u128::from(WHOLE) / all).clamp(1, u128::from(WHOLE - 1)) as u32
}

#[cfg(test)]
mod tests;

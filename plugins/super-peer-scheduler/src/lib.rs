//! The default `super-peer-scheduler`: whom a peer downloads from, and whether more copies are
//! needed.
//!
//! # Whom it names, in this order
//!
//! 1. *Up to 4 near super-peers.* In the order of: room (below 85 % of what they can send), the
//!    region and operator of the peer, distance in steps that double from 4 ms, load. Loads are some
//!    seconds old, so a little chance is mixed into them, by the request's seed: a crowd that comes
//!    within those seconds spreads. A super-peer that the peer was sent to of late counts as a little
//!    emptier, and keeps its connections.
//! 2. *Up to 2 super-peers of other regions*, a quarter of what is asked for at most: when a region or
//!    the way to it fails, the peer has somebody left and does not come back all at once with
//!    everybody else.
//! 3. *Ordinary peers*, first those of the same region and operator, then of the region; of all
//!    others 2, or so many that 8 are named in all. Near peers are quick and cost no transit, and the
//!    few others keep pieces moving between the clusters, without which a swarm slows down. Among the
//!    same, those that have more than the peer itself come first, then those it was not told of
//!    within half an hour, then chance.
//!
//! Weights are the free capacity in megabits per second, and a sixteenth of it outside of the region;
//! of ordinary peers it is not known mostly, and they weigh 1.
//!
//! A super-peer is named only when it is well, open, and has more of the resource than the peer; a
//! peer only when it is not down and has something. A peer that has everything looks for somebody to
//! upload to: it is named peers that still download, and no super-peer.
//!
//! # When it asks for more copies
//!
//! The super-peers that are well can carry 85 % of their capacity together. What they carry already,
//! or what the swarm asks of them, whichever is more, may be beyond that; but a swarm can lack no more
//! than it asks for. What is lacking is counted in super-peers of the mean capacity, or of 1 Gbit/s
//! when there is none. When nobody knows what is asked, a downloading peer counts 2 Mbit/s.
//! Super-peers that are still filling count, so the same lack is not answered twice.
//!
//! With nobody to name and nothing to ask for the policy abstains; with nobody to name and copies to
//! ask for it names nobody. Odd numbers are taken for the nearest sane ones.
//!
//! # Sources
//!
//! - R. Bindal, P. Cao, W. Chan, J. Medved, G. Suwala, T. Bates and A. Zhang, *Improving Traffic
//!   Locality in BitTorrent via Biased Neighbor Selection*, IEEE ICDCS 2006: nearly all neighbours of
//!   the same operator and a few others keep downloads as quick and cut the traffic between operators.
//! - V. Aggarwal, A. Feldmann and C. Scheideler, *Can ISPs and P2P Users Cooperate for Improved
//!   Performance?*, ACM SIGCOMM Computer Communication Review 37 (3), 2007: both sides gain from near
//!   peers.
//! - M. Mitzenmacher, *How Useful Is Old Information?*, IEEE Transactions on Parallel and
//!   Distributed Systems 11 (1), 2000: why chance is mixed into loads.

use skerry_policy_sdk::super_peer_scheduler::{
    Candidate, Choice, Request, Schedule, SuperPeerScheduler, Verdict,
};
use skerry_policy_sdk::{FAILING, MOST_COPIES, UNKNOWN_DISTANCE, WHOLE};

/// The most super-peers that are named for being near, and for being far.
const NEAR: usize = 4;
const FAR: usize = 2;
/// The most ordinary peers of other regions, unless fewer than so many are named in all.
const OUTSIDERS: usize = 2;
const ENOUGH: usize = 8;
/// The most peers that are named.
const MOST_NAMED: usize = 200;
/// So many are sorted faster than the least of them are found.
const FEW: usize = 128;
/// A super-peer is full from this load on, in permille of its capacity.
const SPILL: u64 = 850;
/// Named "of late", in milliseconds, and how much emptier such a super-peer counts, in permille.
const RECENT_MS: u32 = 1_800_000;
const STICK: u64 = 100;
/// Chance adds less than this to a load, in permille.
const CHANCE: u64 = 128;
/// The first step of distance, in microseconds, and what counts as one that nobody has measured.
const STEP_US: u32 = 4096;
const ASSUMED_NEAR_US: u32 = 20_000;
const ASSUMED_FAR_US: u32 = 120_000;
/// What the weights of those outside of the region are divided by.
const BEHIND: u32 = 16;
/// What a downloading peer asks of super-peers when nobody knows, and what a first super-peer can
/// send, in kilobits per second.
const ASSUMED_DEMAND_KBPS: u64 = 2000;
const ASSUMED_CAPACITY_KBPS: u64 = 1_000_000;

/// The policy.
pub struct Scheduler;

impl SuperPeerScheduler for Scheduler {
    fn schedule_peers(request: &Request, candidates: &[Candidate]) -> Verdict {
        schedule_peers(request, candidates)
    }
}

skerry_policy_sdk::export_super_peer_scheduler!(Scheduler);

/// A candidate's place among its kind: class, load and row in one number, so that sorting compares one
/// thing; less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64);

impl Place {
    /// `outside` tells that it is of another region than the peer.
    fn new(class: u16, load: u16, row: u32, outside: bool) -> Self {
        Self(u64::from(class) << 48 | u64::from(load) << 32 | u64::from(row) << 1 | u64::from(outside))
    }

    fn row(self) -> u32 {
        (self.0 as u32) >> 1
    }

    fn is_outside(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Chooses peers for one peer, and says how many more copies the swarm needs.
#[must_use]
pub fn schedule_peers(request: &Request, candidates: &[Candidate]) -> Verdict {
    let (mut super_peers, mut peers) =
        (Vec::with_capacity(candidates.len()), Vec::with_capacity(candidates.len()));
    for (candidate, row) in candidates.iter().zip(0..) {
        if candidate.super_peer == 0 {
            peers.extend(place_peer(request, candidate, row));
        } else {
            super_peers.extend(place_super_peer(request, candidate, row));
        }
    }
    super_peers.sort_unstable();

    let mut named = Vec::with_capacity(candidates.len().min(request.wanted as usize).min(MOST_NAMED));
    named.extend(name(request.wanted as usize, &super_peers, &mut peers).filter_map(|row| {
        let row = row as usize;
        candidates.get(row).map(|candidate| Choice::new(row, weight(request, candidate)))
    }));
    let more_copies = more_copies(request, candidates);
    if named.is_empty() && more_copies == 0 {
        Verdict::Abstain
    } else {
        Verdict::Scheduled(Schedule { peers: named, more_copies })
    }
}

/// Rules 1 to 3: the rows of at most `wanted`. Of many peers no more are sorted than can be named.
fn name<'a>(
    wanted: usize,
    super_peers: &'a [Place],
    peers: &'a mut [Place],
) -> impl Iterator<Item = u32> + use<'a> {
    let wanted = wanted.min(MOST_NAMED);
    let far = (wanted / 4).min(FAR);
    let (near, others) = super_peers.split_at((wanted - far).min(NEAR).min(super_peers.len()));
    let far = others.iter().filter(|place| place.is_outside()).take(far);
    let first = near.iter().chain(far);
    let named = first.clone().count();
    let inside = peers.iter().filter(|place| !place.is_outside()).count();
    let outsiders = ENOUGH.saturating_sub(named + inside).max(OUTSIDERS);
    let room = wanted.saturating_sub(named);
    first.chain(least(peers, (inside + outsiders).min(room))).map(|place| place.row()).take(wanted)
}

/// The `count` least, sorted: those of the region stand first, by their class.
fn least(places: &mut [Place], count: usize) -> &[Place] {
    let count = count.min(places.len());
    if count < places.len() && places.len() > FEW {
        places.select_nth_unstable(count);
        places[..count].sort_unstable();
    } else {
        places.sort_unstable();
    }
    &places[..count]
}

/// `None` for a super-peer that must not be named.
fn place_super_peer(request: &Request, candidate: &Candidate, row: u32) -> Option<Place> {
    if !serves(candidate) || candidate.held <= request.have {
        return None;
    }
    let load = u64::from(candidate.used_kbps) * 1000 / u64::from(candidate.capacity_kbps);
    let stick = if candidate.named_ms_ago <= RECENT_MS { STICK } else { 0 };
    let mixed = (load + chance(request.seed, row) % CHANCE).saturating_sub(stick);
    let near = nearness(request, candidate);
    // Below 256: room, by nearness. Above: none, by how far over, then by nearness.
    let class = if load < SPILL { near } else { 256 * (1 + (load / 256).min(126) as u16) + near };
    let load = mixed.min(u64::from(u16::MAX)) as u16;
    Some(Place::new(class, load, row, !in_region(request, candidate)))
}

/// `None` for a peer that cannot give anything; to one that has everything, for a peer that cannot
/// take anything.
fn place_peer(request: &Request, candidate: &Candidate, row: u32) -> Option<Place> {
    let complete = request.have >= WHOLE;
    let useless = if complete { candidate.held >= WHOLE } else { candidate.held == 0 };
    if candidate.health == 0 || useless {
        return None;
    }
    let same_isp = request.isp != 0 && candidate.isp == request.isp;
    let outside = !in_region(request, candidate);
    let behind = !complete && candidate.held <= request.have;
    let known = candidate.named_ms_ago <= RECENT_MS;
    let class = u16::from(outside) * 8 + u16::from(!same_isp) * 4 + u16::from(behind) * 2 + u16::from(known);
    Some(Place::new(class, chance(request.seed, row) as u16, row, outside))
}

/// Region, operator and distance in one number below 256.
fn nearness(request: &Request, candidate: &Candidate) -> u16 {
    let in_region = in_region(request, candidate);
    let class = match candidate.isp {
        0 if in_region => 1,
        isp if in_region && isp == request.isp => 0,
        _ => 2,
    };
    let distance_us = match candidate.distance_us {
        UNKNOWN_DISTANCE if in_region => ASSUMED_NEAR_US,
        UNKNOWN_DISTANCE => ASSUMED_FAR_US,
        measured => measured,
    };
    // 0 below 4 ms, then one more for each doubling; at most 20.
    class * 64 + (u32::BITS - (distance_us / STEP_US).leading_zeros()) as u16
}

fn in_region(request: &Request, candidate: &Candidate) -> bool {
    request.region != 0 && candidate.region == request.region
}

/// A super-peer that is well and open.
fn serves(candidate: &Candidate) -> bool {
    candidate.health >= FAILING && candidate.capacity_kbps > 0
}

/// 16 bits that are different for each row and each seed, and the same in a replay.
fn chance(seed: u64, row: u32) -> u64 {
    (seed ^ u64::from(row).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 48
}

/// What is free, in megabits per second, and a sixteenth of it outside of the peer's region; 0, which
/// makes the least weight, where nobody knows.
fn weight(request: &Request, named: &Candidate) -> u32 {
    let free_mbps = named.capacity_kbps.saturating_sub(named.used_kbps) / 1000;
    if in_region(request, named) { free_mbps } else { free_mbps / BEHIND }
}

/// How many more super-peers the swarm needs.
fn more_copies(request: &Request, candidates: &[Candidate]) -> u32 {
    let (mut copies, mut capacity, mut used) = (0u64, 0u64, 0u64);
    for candidate in candidates.iter().filter(|candidate| candidate.super_peer != 0 && serves(candidate)) {
        copies += 1;
        capacity += u64::from(candidate.capacity_kbps);
        used += u64::from(candidate.used_kbps.min(candidate.capacity_kbps));
    }
    let demand = match (request.downloading, request.demand_kbps) {
        (0, _) => 0,
        (peers, 0) => u64::from(peers) * ASSUMED_DEMAND_KBPS,
        (_, known) => u64::from(known),
    };
    let lacking = demand.max(used).saturating_sub(capacity * SPILL / 1000).min(demand);
    let mean = capacity.checked_div(copies).unwrap_or(ASSUMED_CAPACITY_KBPS);
    let each = (mean * SPILL / 1000).max(1);
    lacking.div_ceil(each).min(u64::from(MOST_COPIES)) as u32
}

#[cfg(test)]
mod tests {
    use skerry_policy_sdk::NEVER;

    use super::*;

    const PEER: Request = Request {
        client: 9,
        region: 1,
        isp: 100,
        size_bytes: 1 << 30,
        have: 200,
        wanted: 12,
        downloading: 10,
        demand_kbps: 20_000,
        seed: 7,
    };

    /// A healthy, complete, empty super-peer for the peer's operator.
    fn super_peer(region: u32) -> Candidate {
        Candidate {
            super_peer: 1,
            region,
            isp: 100,
            distance_us: if region == 1 { 5000 } else { 40_000 },
            capacity_kbps: 1_000_000,
            health: WHOLE,
            held: WHOLE,
            named_ms_ago: NEVER,
            ..Candidate::default()
        }
    }

    fn loaded(permille: u32) -> Candidate {
        Candidate { used_kbps: permille * 1000, ..super_peer(1) }
    }

    fn peer(region: u32, isp: u32) -> Candidate {
        Candidate {
            region,
            isp,
            distance_us: NEVER,
            health: WHOLE,
            held: 600,
            named_ms_ago: NEVER,
            ..Candidate::default()
        }
    }

    fn rows(request: &Request, candidates: &[Candidate]) -> Vec<u32> {
        schedule_peers(request, candidates).rows()
    }

    #[test]
    fn near_super_peers_then_far_ones_then_peers() {
        let mut candidates = vec![peer(1, 100); 20];
        candidates.extend([super_peer(2); 5]);
        candidates.extend([super_peer(1); 6]);
        let named = rows(&PEER, &candidates);
        assert_eq!(named.len(), 12);
        assert!(named[..4].iter().all(|row| (25..31).contains(row)), "{named:?}");
        assert!(named[4..6].iter().all(|row| (20..25).contains(row)), "{named:?}");
        assert!(named[6..].iter().all(|&row| row < 20), "{named:?}");
    }

    #[test]
    fn who_asks_for_few_gets_the_near_ones() {
        let candidates = [super_peer(2), super_peer(1), peer(1, 100), super_peer(1)];
        assert_eq!(rows(&Request { wanted: 1, ..PEER }, &candidates).len(), 1);
        assert_ne!(rows(&Request { wanted: 1, ..PEER }, &candidates), [0]);
        assert_eq!(rows(&Request { wanted: 4, ..PEER }, &candidates)[2..], [0, 2]);
        assert_eq!(schedule_peers(&Request { wanted: 0, ..PEER }, &candidates), Verdict::Abstain);
    }

    #[test]
    fn the_least_loaded_comes_first_and_full_ones_last() {
        assert_eq!(rows(&PEER, &[loaded(700), loaded(300), loaded(500)]), [1, 2, 0]);
        // A full one stands behind one of another region, and is the better of two full ones.
        let far = Candidate { distance_us: 90_000, ..super_peer(2) };
        assert_eq!(rows(&PEER, &[loaded(2000), loaded(850), far]), [2, 1, 0]);
    }

    #[test]
    fn a_crowd_spreads_over_equals() {
        let candidates = [super_peer(1); 8];
        let mut firsts = [0; 8];
        for seed in (0..8000).map(|n: u64| n.wrapping_mul(0xA076_1D64_78BD_642F)) {
            firsts[rows(&Request { seed, ..PEER }, &candidates)[0] as usize] += 1;
        }
        assert!(firsts.iter().all(|&count| (500..1500).contains(&count)), "{firsts:?}");
    }

    #[test]
    fn a_super_peer_of_late_is_kept() {
        let kept = Candidate { named_ms_ago: 60_000, ..loaded(50) };
        let mut first = 0;
        for seed in (0..1000).map(|n: u64| n.wrapping_mul(0xA076_1D64_78BD_642F)) {
            first += u32::from(rows(&Request { seed, ..PEER }, &[loaded(50), kept])[0] == 1);
        }
        assert!(first > 900, "{first} of 1000");
    }

    #[test]
    fn peers_that_share_region_and_operator_come_first() {
        let known = Candidate { named_ms_ago: 1000, ..peer(1, 100) };
        let behind = Candidate { held: 100, ..peer(1, 100) };
        let candidates =
            [peer(2, 200), peer(2, 200), peer(2, 100), peer(1, 200), behind, known, peer(1, 100)];
        assert_eq!(rows(&PEER, &candidates)[..5], [6, 5, 4, 3, 2]);
    }

    #[test]
    fn few_peers_of_other_regions_are_named() {
        let wanted = Request { wanted: 50, ..PEER };
        let mut candidates = vec![peer(2, 100); 20];
        assert_eq!(rows(&wanted, &candidates).len(), ENOUGH);
        candidates.extend([peer(1, 200); 10]);
        let named = rows(&wanted, &candidates);
        assert!(named[..10].iter().all(|&row| row >= 20), "{named:?}");
        assert_eq!(named.len(), 10 + OUTSIDERS);
    }

    #[test]
    fn who_cannot_give_is_not_named() {
        let down = Candidate { health: 0, ..peer(1, 100) };
        let empty = Candidate { held: 0, ..peer(1, 100) };
        let failing = Candidate { health: 499, ..super_peer(1) };
        let closed = Candidate { capacity_kbps: 0, ..super_peer(1) };
        let filling = Candidate { held: 200, ..super_peer(1) };
        assert_eq!(rows(&PEER, &[down, empty, failing, closed, filling, peer(2, 0)]), [5]);
        assert_eq!(schedule_peers(&PEER, &[down, empty, filling]), Verdict::Abstain);
    }

    #[test]
    fn who_has_everything_is_named_who_still_downloads() {
        let seed = Candidate { held: WHOLE, ..peer(1, 100) };
        let fresh = Candidate { held: 0, ..peer(1, 100) };
        assert_eq!(rows(&Request { have: WHOLE, ..PEER }, &[super_peer(1), seed, fresh]), [2]);
    }

    #[test]
    fn demand_beyond_what_is_carried_asks_for_copies() {
        let copies = |downloading, demand_kbps, candidates: &[Candidate]| {
            schedule_peers(&Request { downloading, demand_kbps, ..PEER }, candidates).more_copies()
        };
        let two = [super_peer(1), super_peer(2)];
        assert_eq!(copies(500, 1_700_000, &two), 0);
        assert_eq!(copies(500, 1_700_001, &two), 1);
        assert_eq!(copies(500, 3_500_000, &two), 3);
        // Nobody knows what they ask for: 2 Mbit/s each.
        assert_eq!(copies(850, 0, &two), 0);
        assert_eq!(copies(900, 0, &two), 1);
        // Busy with other things: as many as this swarm needs, and no more.
        assert_eq!(copies(500, 300_000, &[loaded(1000)]), 1);
        // Nobody downloads, or nobody holds it.
        assert_eq!(copies(0, 0, &[loaded(1000)]), 0);
        assert_eq!(copies(1, 0, &[peer(1, 100)]), 1);
        assert_eq!(copies(u32::MAX, u32::MAX, &[peer(1, 100)]), MOST_COPIES);
        // They are asked for when there is nobody to name, too.
        let down = Candidate { health: 0, ..super_peer(1) };
        let nobody = Verdict::Scheduled(Schedule { peers: Vec::new(), more_copies: 1 });
        assert_eq!(schedule_peers(&PEER, &[down]), nobody);
    }

    #[test]
    fn weights_are_free_capacity_and_less_outside() {
        let verdict = schedule_peers(&PEER, &[loaded(200), super_peer(2), peer(1, 100)]);
        let Verdict::Scheduled(schedule) = verdict else { panic!("no schedule") };
        assert_eq!(schedule.peers.iter().map(|named| named.weight).collect::<Vec<_>>(), [800, 62, 1]);
    }

    #[test]
    fn odd_rows_do_no_harm() {
        let odd = Candidate {
            super_peer: u32::MAX,
            region: u32::MAX,
            isp: u32::MAX,
            distance_us: u32::MAX - 1,
            used_kbps: u32::MAX,
            capacity_kbps: 1,
            health: u32::MAX,
            held: u32::MAX,
            named_ms_ago: 0,
        };
        let request = Request { wanted: u32::MAX, downloading: u32::MAX, ..Request::default() };
        assert_eq!(rows(&request, &vec![odd; 4096]).len(), NEAR + FAR);
        assert_eq!(rows(&request, &vec![Candidate { super_peer: 0, ..odd }; 4096]).len(), ENOUGH);
    }
}

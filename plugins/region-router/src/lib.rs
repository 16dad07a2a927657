//! The default `region-router`: which links a client is sent to, best first.
//!
//! # The rules, in the order in which they count
//!
//! 1. Links that are down, that fail their checks now and then, or that take nothing are not named.
//! 2. *Room.* Clients spill over to the next best before a link is overloaded, not after: from 60 %
//!    of its capacity on it is full to a part of the calls that grows with its load (by the request's
//!    seed), from 95 % on to all. With one sharp border everybody would leave at once, overload the
//!    next, and be back with the next report.
//! 3. *Region and operator.* First the links of the client's region that are best for the client's
//!    operator, then those of the region that are for any operator: what stays within an operator's
//!    network costs it no transit, and crosses no congested exchange. Then all others.
//! 4. *Distance*, in steps that double from 4 ms: less than a step is not felt, and is noise of the
//!    measurement. What nobody has measured counts as 20 ms in the region, 120 ms elsewhere.
//! 5. *Content.* Nodes that hold most of the resource need not fetch it.
//! 6. *Load*, used to capacity. Links that come out equal so far are equals: two of them are drawn
//!    by the request's seed, and the less loaded is first. Always taking the least loaded of all
//!    would send everybody to the same link until the next report of its load; of two drawn, the
//!    fullest is hardly ever fuller than the rest, and old reports do little harm. A link that was
//!    first for the region half a minute ago counts as a little emptier, and one that is not quite
//!    well as fuller.
//!
//! Full links stand behind all others, least overloaded first. A link stands behind the first of
//! every other node when its own node is already named: whoever loses the first link has better
//! chances with another machine. At most 8 links are named. Weights are the free capacity in
//! megabits per second, and a sixteenth of it for links that are not the equals of the first.
//!
//! When no link is left by the first rule there is nothing to say, and the policy abstains. Odd
//! numbers (more used than there is capacity, a health of 2000) are taken for the nearest sane ones.
//!
//! # Sources
//!
//! - M. Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*, IEEE Transactions on
//!   Parallel and Distributed Systems 12 (10), 2001: two choices instead of one bring the fullest of
//!   n from about log n / log log n down to log log n.
//! - M. Mitzenmacher, *How Useful Is Old Information?*, IEEE Transactions on Parallel and
//!   Distributed Systems 11 (1), 2000: when reports are late, two choices still do well where taking
//!   the least loaded of all does worse than chance.
//! - S. Floyd and V. Jacobson, *Random Early Detection Gateways for Congestion Avoidance*, IEEE/ACM
//!   Transactions on Networking 1 (4), 1993: a chance that grows with the load keeps senders from
//!   backing off, and coming back, all at once.
//! - B. Beyer and others, *Site Reliability Engineering*, O'Reilly 2016, chapters 19 to 21: the
//!   nearest that has room, and spilling over by capacity rather than by failure.

use skerry_policy_sdk::region_router::{Candidate, Choice, RegionRouter, Request, Verdict};
use skerry_policy_sdk::{FAILING, UNKNOWN_DISTANCE, WHOLE};

/// Loads from which on a link is full to some calls and to all, in permille of its capacity.
const SPILL_FROM: u64 = 600;
const SPILL_TO: u64 = 950;
/// A link that was first so many milliseconds ago counts as emptier by so many permille.
const RECENT_MS: u32 = 30_000;
const STICK: u64 = 50;
/// The first step of distance, in microseconds.
const STEP_US: u32 = 4096;
/// What distances that nobody has measured count as, in microseconds.
const ASSUMED_NEAR_US: u32 = 20_000;
const ASSUMED_FAR_US: u32 = 120_000;
/// The most links that are named.
const MOST_NAMED: usize = 8;
/// What the weights of links behind the equals of the first are divided by.
const BEHIND: u32 = 16;

/// The policy.
pub struct Router;

impl RegionRouter for Router {
    fn route(request: &Request, candidates: &[Candidate]) -> Verdict {
        route(request, candidates)
    }
}

skerry_policy_sdk::export_region_router!(Router);

/// A link's place in the order, compared field by field: less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// The same for equals: rules 2 to 5.
    equals: u16,
    /// Rule 6, in permille.
    load: u16,
    row: u32,
}

/// Ranks the links for one client.
#[must_use]
pub fn route(request: &Request, candidates: &[Candidate]) -> Verdict {
    let mut places = Vec::with_capacity(candidates.len());
    let limit = SPILL_FROM + (request.seed >> 48) % (SPILL_TO - SPILL_FROM);
    places.extend(candidates.iter().zip(0..).filter_map(|(link, row)| place(request, limit, link, row)));
    if places.is_empty() {
        return Verdict::Abstain;
    }
    places.sort_unstable();
    draw_two(request.seed, &mut places);
    Verdict::Ranked(name(candidates, &places))
}

/// `None` for a link that must not be named. Links are full from the load `limit` on.
fn place(request: &Request, limit: u64, link: &Candidate, row: u32) -> Option<Place> {
    if link.health < FAILING || link.capacity_kbps == 0 {
        return None;
    }
    let used = u64::from(link.used_kbps) * 1000 / u64::from(link.capacity_kbps);
    let strain = u64::from(WHOLE.saturating_sub(link.health) / 2);
    let load = used + strain;
    let near = nearness(request, link);
    // Below 256: room, by nearness. Above: none, by how far over, then by nearness.
    let equals = if load < limit { near } else { 256 * (1 + (load / 256).min(126) as u16) + near };
    let stick = if link.chosen_ms_ago <= RECENT_MS { STICK } else { 0 };
    Some(Place { equals, load: load.saturating_sub(stick).min(u64::from(u16::MAX)) as u16, row })
}

/// Rules 3 to 5 in one number below 256.
fn nearness(request: &Request, link: &Candidate) -> u16 {
    let in_region = request.region != 0 && link.region == request.region;
    let class = match link.isp {
        0 if in_region => 1,
        isp if in_region && isp == request.isp => 0,
        _ => 2,
    };
    let distance_us = match link.distance_us {
        UNKNOWN_DISTANCE if in_region => ASSUMED_NEAR_US,
        UNKNOWN_DISTANCE => ASSUMED_FAR_US,
        measured => measured,
    };
    // 0 below 4 ms, then one more for each doubling; at most 20.
    let step = (u32::BITS - (distance_us / STEP_US).leading_zeros()) as u16;
    let must_fetch = u16::from(link.held < WHOLE / 2);
    class * 64 + step * 2 + must_fetch
}

/// Draws two of the equals of the first and puts the less loaded in front. `places` is sorted.
fn draw_two(seed: u64, places: &mut [Place]) {
    let Some(first) = places.first().copied() else { return };
    let equals = places.partition_point(|place| place.equals == first.equals);
    if equals < 2 {
        return;
    }
    let one = (seed % equals as u64) as usize;
    let other = (one + 1 + ((seed >> 32) % (equals as u64 - 1)) as usize) % equals;
    let load = |at: usize| places.get(at).map(|place| place.load);
    // Sorted by load: the lower index is the less loaded, unless both are the same.
    let drawn = if load(one) == load(other) { one } else { one.min(other) };
    if let Some(ahead) = places.get_mut(..=drawn) {
        ahead.rotate_right(1);
    }
}

/// The first links of all nodes, then the others.
fn name(candidates: &[Candidate], places: &[Place]) -> Vec<Choice> {
    let link = |row: u32| candidates.get(row as usize);
    let best = places.first().map_or(0, |place| place.equals);
    let mut named: Vec<Choice> = Vec::with_capacity(MOST_NAMED.min(places.len()));
    for repeat in [false, true] {
        for place in places {
            if named.len() == MOST_NAMED {
                return named;
            }
            let Some(here) = link(place.row) else { continue };
            let seen = if repeat {
                named.iter().any(|choice| choice.row == place.row)
            } else {
                named.iter().any(|choice| link(choice.row).is_some_and(|other| other.node == here.node))
            };
            if !seen {
                let free_mbps = here.capacity_kbps.saturating_sub(here.used_kbps) / 1000;
                let weight = if place.equals == best { free_mbps } else { free_mbps / BEHIND };
                named.push(Choice::new(place.row as usize, weight));
            }
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use skerry_policy_sdk::NEVER;

    use super::*;

    /// To this call a link is full from 85 % on.
    const CLIENT: Request =
        Request { client: 9, region: 1, isp: 100, resource_hash: 5, size_bytes: 1 << 30, seed: 250 << 48 };

    /// A healthy, empty link of its own node in region 1 for any operator.
    fn link(node: u32) -> Candidate {
        Candidate {
            node,
            region: 1,
            distance_us: 5000,
            capacity_kbps: 1_000_000,
            health: WHOLE,
            held: WHOLE,
            chosen_ms_ago: NEVER,
            ..Candidate::default()
        }
    }

    fn loaded(node: u32, permille: u32) -> Candidate {
        Candidate { used_kbps: permille * 1000, ..link(node) }
    }

    fn rows(links: &[Candidate]) -> Vec<u32> {
        rows_with(CLIENT.seed, links)
    }

    fn rows_with(seed: u64, links: &[Candidate]) -> Vec<u32> {
        route(&Request { seed, ..CLIENT }, links).rows()
    }

    /// Times [`GOLDEN`], seeds that are spread evenly.
    const SEEDS: std::ops::Range<u64> = 0..10_000;
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

    #[test]
    fn the_clients_operator_comes_before_any_and_other_operators() {
        let own = Candidate { isp: 100, ..loaded(1, 700) };
        let other = Candidate { isp: 200, ..link(3) };
        assert_eq!(rows(&[other, link(2), own]), [2, 1, 0]);
    }

    #[test]
    fn elsewhere_the_measured_distance_decides() {
        let far = |node, distance_us| Candidate { region: 2, distance_us, ..link(node) };
        assert_eq!(rows(&[far(1, u32::MAX), far(2, 60_000), far(3, 18_000)]), [2, 1, 0]);
        // Nobody has measured: the client's region is taken for nearer.
        let home = Candidate { isp: 200, distance_us: u32::MAX, ..link(4) };
        assert_eq!(rows(&[far(1, u32::MAX), home]), [1, 0]);
    }

    #[test]
    fn full_links_spill_over_before_they_are_overloaded() {
        let far = Candidate { region: 2, distance_us: 80_000, ..link(2) };
        assert_eq!(rows(&[loaded(1, 849), far]), [0, 1]);
        assert_eq!(rows(&[loaded(1, 850), far]), [1, 0]);
        // All full: the least overloaded first.
        let over = Candidate { used_kbps: 1_400_000, ..far };
        assert_eq!(rows(&[loaded(1, 2000), over]), [1, 0]);
    }

    #[test]
    fn the_fuller_a_link_the_more_calls_spill_over() {
        let far = Candidate { region: 2, distance_us: 80_000, ..link(2) };
        let spilled = |permille| {
            let links = [loaded(1, permille), far];
            SEEDS.filter(|n| rows_with(n.wrapping_mul(GOLDEN), &links)[0] == 1).count()
        };
        assert_eq!(spilled(599), 0);
        assert!((2000..4000).contains(&spilled(700)), "{}", spilled(700));
        assert!((6000..8000).contains(&spilled(850)), "{}", spilled(850));
        assert_eq!(spilled(950), 10_000);
    }

    #[test]
    fn holders_come_before_those_that_must_fetch() {
        let empty = Candidate { held: 0, ..link(1) };
        assert_eq!(rows(&[empty, loaded(2, 500)]), [1, 0]);
    }

    #[test]
    fn unhealthy_and_closed_links_are_never_named() {
        let failing = Candidate { health: 499, ..link(1) };
        let down = Candidate { health: 0, ..link(2) };
        let closed = Candidate { capacity_kbps: 0, ..link(3) };
        assert_eq!(rows(&[failing, down, closed, loaded(4, 3000)]), [3]);
        assert_eq!(route(&CLIENT, &[failing, down, closed]), Verdict::Abstain);
        assert_eq!(route(&CLIENT, &[]), Verdict::Abstain);
    }

    #[test]
    fn of_two_drawn_the_less_loaded_is_first() {
        let links = [loaded(1, 100), loaded(2, 300), loaded(3, 200)];
        let mut firsts = [0; 3];
        for n in SEEDS {
            firsts[rows_with(n.wrapping_mul(GOLDEN), &links)[0] as usize] += 1;
        }
        // Each pair is drawn a third of the time; the fullest loses both of its pairs.
        assert!(firsts[0] > 6000 && firsts[2] > 2700, "{firsts:?}");
        assert_eq!(firsts[1], 0);
    }

    #[test]
    fn all_equals_are_drawn_when_loads_are_the_same() {
        let links: Vec<_> = (0..10).map(link).collect();
        let mut firsts = [0; 10];
        for n in SEEDS {
            firsts[rows_with(n.wrapping_mul(GOLDEN), &links)[0] as usize] += 1;
        }
        assert!(firsts.iter().all(|&count| (800..1200).contains(&count)), "{firsts:?}");
    }

    #[test]
    fn a_link_of_late_is_kept_while_it_is_hardly_fuller() {
        let kept = |permille| Candidate { chosen_ms_ago: 2000, ..loaded(1, permille) };
        assert_eq!(rows(&[loaded(2, 300), kept(340)]), [1, 0]);
        assert_eq!(rows(&[loaded(2, 300), kept(360)]), [0, 1]);
    }

    #[test]
    fn the_second_link_of_a_node_stands_behind_other_nodes() {
        let second = Candidate { used_kbps: 1000, ..link(1) };
        assert_eq!(rows(&[second, Candidate { held: 0, ..link(2) }, link(1)]), [2, 1, 0]);
        assert_eq!(rows(&[link(1); 60]).len(), MOST_NAMED);
    }

    #[test]
    fn weights_are_free_capacity_and_less_behind() {
        let far = Candidate { region: 2, distance_us: 80_000, ..link(3) };
        let Verdict::Ranked(choices) = route(&CLIENT, &[loaded(1, 600), far]) else { panic!("no ranking") };
        assert_eq!(choices, [Choice { row: 0, weight: 400 }, Choice { row: 1, weight: 62 }]);
    }

    #[test]
    fn odd_rows_do_no_harm() {
        let odd = Candidate {
            node: u32::MAX,
            region: u32::MAX,
            isp: u32::MAX,
            distance_us: u32::MAX - 1,
            used_kbps: u32::MAX,
            capacity_kbps: 1,
            health: u32::MAX,
            held: u32::MAX,
            chosen_ms_ago: u32::MAX,
        };
        let request = Request { seed: u64::MAX, ..Request::default() };
        assert_eq!(route(&request, &vec![odd; 4096]).rows().len(), MOST_NAMED);
        let blank = Candidate { capacity_kbps: 1, health: FAILING, ..Candidate::default() };
        assert_eq!(route(&request, &[odd, blank]).rows(), [1, 0]);
    }
}

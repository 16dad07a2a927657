//! A day of four regions with 60 links, against random choice, round robin, and the nearest link.
//!
//! Each region has five nodes with a link for each of two operators and one for any; the last node
//! is a small one. Clients come by the hour of their region, and in the evening want more than its
//! links can carry. Everybody sees loads that are up to ten seconds old, and nobody sends clients to
//! links that are known to be unhealthy: the others lose by nearness and load alone.

#![allow(clippy::print_stdout, reason = "the figures of a simulation are worth reading")]

use fastrand::Rng;
use skerry_policy_sdk::NEVER;
use skerry_policy_sdk::region_router::{Candidate, Request};
use skerry_region_router::route;

const REGIONS: usize = 4;
const OPERATORS: [u32; 2] = [100, 200];
const NODES: usize = 5;
/// Ten seconds, after which loads are reported anew.
const TICKS: usize = 8640;
const FLOW_KBPS: u32 = 2500;
const FLOW_TICKS: usize = 30;
/// Clients of a region in a tick when its evening is at its height, in hundredths.
const PEAK: u64 = 1728;
/// Demand by the hour, in permille of the peak.
const HOURS: [u64; 24] = [
    500, 350, 250, 180, 150, 150, 200, 300, 400, 450, 500, 550, 600, 600, 600, 650, 700, 800, 900, 1000,
    1000, 950, 850, 700,
];
/// Hours by which each region's day is later than that of the first.
const LATER: [usize; REGIONS] = [0, 3, 6, 12];
const RESOURCES: u64 = 200;
/// What a path over another operator adds to the round trip.
const TRANSIT_US: u64 = 15_000;

/// Sums over a day.
#[derive(Default)]
struct Day {
    flows: u64,
    round_trip_us: u64,
    at_home: u64,
    /// Sent to a node that holds what is asked for.
    at_holder: u64,
    unhealthy: u64,
    wanted_kbps: u64,
    carried_kbps: u64,
}

impl Day {
    fn mean_round_trip_us(&self) -> u64 {
        self.round_trip_us / self.flows
    }

    /// Shares in hundredths of a percent.
    fn carried(&self) -> u64 {
        self.carried_kbps * 10_000 / self.wanted_kbps
    }

    fn home(&self) -> u64 {
        self.at_home * 10_000 / self.flows
    }

    fn holders(&self) -> u64 {
        self.at_holder * 10_000 / self.flows
    }
}

fn links() -> Vec<Candidate> {
    let mut links = Vec::new();
    for region in 0..REGIONS {
        for node in 0..NODES {
            for isp in [OPERATORS[0], OPERATORS[1], 0] {
                let capacity_kbps = match (node, isp) {
                    (_, 0) => 60_000,
                    (4, _) => 40_000,
                    _ => 100_000,
                };
                links.push(Candidate {
                    node: (region * NODES + node) as u32,
                    region: region as u32 + 1,
                    isp,
                    capacity_kbps,
                    health: 1000,
                    ..Candidate::default()
                });
            }
        }
    }
    links
}

fn distance_us(from: usize, link: &Candidate) -> u32 {
    let regions = (link.region as usize - 1).abs_diff(from);
    [5000, 25_000, 50_000, 80_000][regions] + link.node % NODES as u32 * 300
}

fn holds(node: u32, resource: u64) -> bool {
    ((u64::from(node) * 31 + resource).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).is_multiple_of(4)
}

/// A node that goes down for two hours, and one that fails its checks for one.
fn health(tick: usize, node: u32) -> u32 {
    match (node, tick / 360) {
        (0, 10..12) => 0,
        (6, 19) => 300,
        _ => 1000,
    }
}

fn simulate(mut pick: impl FnMut(&Request, &[Candidate]) -> usize) -> Day {
    let mut rng = Rng::with_seed(20_260_101);
    let mut day = Day::default();
    let mut links = links();
    let mut flows = vec![0u32; links.len()];
    let mut ending: Vec<Vec<usize>> = vec![Vec::new(); FLOW_TICKS];
    let mut chosen = vec![[usize::MAX; REGIONS]; links.len()];
    for tick in 0..TICKS {
        for link in std::mem::take(&mut ending[tick % FLOW_TICKS]) {
            flows[link] -= 1;
        }
        for (link, &flows) in links.iter_mut().zip(&flows) {
            link.health = health(tick, link.node);
            link.used_kbps = flows * FLOW_KBPS;
            day.wanted_kbps += u64::from(link.used_kbps);
            if link.health > 0 {
                day.carried_kbps += u64::from(link.used_kbps.min(link.capacity_kbps));
            }
        }
        for (from, later) in LATER.into_iter().enumerate() {
            for (link, chosen) in links.iter_mut().zip(&chosen) {
                link.distance_us = distance_us(from, link);
                link.chosen_ms_ago = match chosen[from] {
                    usize::MAX => NEVER,
                    last => ((tick - last) * 10_000) as u32,
                };
            }
            let expected = PEAK * HOURS[(tick / 360 + 24 - later) % 24] / 1000;
            for _ in 0..expected / 100 + u64::from(rng.u64(0..100) < expected % 100) {
                let resource = rng.u64(0..RESOURCES);
                for link in &mut links {
                    link.held = if holds(link.node, resource) { 1000 } else { 0 };
                }
                let request = Request {
                    client: rng.u64(0..1000),
                    region: from as u32 + 1,
                    isp: OPERATORS[rng.usize(0..2)],
                    resource_hash: resource,
                    size_bytes: 300_000_000,
                    seed: rng.u64(..),
                };
                let row = pick(&request, &links);
                let link = &links[row];
                let transit = if link.isp == 0 || link.isp == request.isp { 0 } else { TRANSIT_US };
                day.flows += 1;
                day.round_trip_us += u64::from(link.distance_us) + transit;
                day.at_home += u64::from(link.region == request.region);
                day.at_holder += u64::from(link.held == 1000);
                day.unhealthy += u64::from(link.health < 500);
                flows[row] += 1;
                ending[tick % FLOW_TICKS].push(row);
                chosen[row][from] = tick;
            }
        }
    }
    day
}

fn healthy(links: &[Candidate]) -> Vec<usize> {
    (0..links.len()).filter(|&row| links[row].health >= 500).collect()
}

#[test]
fn a_day_of_sixty_links() {
    let policy = simulate(|request, links| route(request, links).rows()[0] as usize);

    let mut rng = Rng::with_seed(1);
    let random = simulate(|_, links| {
        let healthy = healthy(links);
        healthy[rng.usize(0..healthy.len())]
    });

    let mut turn = 0;
    let round_robin = simulate(|_, links| {
        let healthy = healthy(links);
        turn += 1;
        healthy[turn % healthy.len()]
    });

    let nearest = simulate(|request, links| {
        let round_trip = |row: &usize| {
            let other = links[*row].isp != 0 && links[*row].isp != request.isp;
            u64::from(links[*row].distance_us) + u64::from(other) * TRANSIT_US
        };
        healthy(links).into_iter().min_by_key(round_trip).unwrap()
    });

    println!("{} clients", policy.flows);
    for (name, day) in
        [("policy", &policy), ("random", &random), ("round robin", &round_robin), ("nearest", &nearest)]
    {
        println!(
            "{name:>12}: {:>6} us mean round trip, {:>5} carried, {:>5} at home, {:>5} at holders (of 10000)",
            day.mean_round_trip_us(),
            day.carried(),
            day.home(),
            day.holders(),
        );
    }

    assert_eq!(policy.unhealthy, 0);
    for other in [&random, &round_robin] {
        assert!(policy.mean_round_trip_us() * 3 < other.mean_round_trip_us());
        assert!(policy.carried() > other.carried() + 150);
        assert!(policy.holders() > other.holders() * 2);
    }
    assert!(policy.carried() > 9930);
    assert!(policy.carried() > nearest.carried() * 2);
}

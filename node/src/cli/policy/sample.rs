//! Rows to measure with: of all kinds that a node sees, and the same on every machine.

use skerry_policy::World;
use skerry_policy::rows::{
    Inputs, PeerCandidate, PeerRequest, PlanItem, PlanRequest, RouteCandidate, RouteRequest,
};

/// Regions and operators that rows are of.
const REGIONS: u64 = 6;
const OPERATORS: [u32; 4] = [0, 64_500, 64_501, 64_502];

/// So many calls of a world, each with so many rows.
pub(super) fn inputs(world: World, rows: u32, calls: usize) -> Vec<Inputs> {
    let mut numbers = Numbers(1);
    (0..calls)
        .map(|_| match world {
            World::RegionRouter => Inputs::RegionRouter {
                request: RouteRequest {
                    client: numbers.draw(),
                    region: numbers.region(),
                    isp: numbers.operator(),
                    resource_hash: numbers.draw(),
                    size_bytes: numbers.below(8 << 30),
                    seed: numbers.draw(),
                },
                candidates: (0..rows).map(|row| link(&mut numbers, row)).collect(),
            },
            World::PreloadPlanner => Inputs::PreloadPlanner {
                request: PlanRequest {
                    region: numbers.region(),
                    capacity_bytes: 1 << 40,
                    window_bytes: 64 << 30,
                    window_seconds: 3600,
                    seed: numbers.draw(),
                },
                items: (0..rows).map(|_| item(&mut numbers)).collect(),
            },
            World::SuperPeerScheduler => Inputs::SuperPeerScheduler {
                request: PeerRequest {
                    client: numbers.draw(),
                    region: numbers.region(),
                    isp: numbers.operator(),
                    size_bytes: numbers.below(8 << 30),
                    have: numbers.share(),
                    wanted: 50,
                    downloading: numbers.up_to(200),
                    demand_kbps: numbers.up_to(400_000),
                    seed: numbers.draw(),
                },
                candidates: (0..rows).map(|_| peer(&mut numbers)).collect(),
            },
        })
        .collect()
}

fn link(numbers: &mut Numbers, row: u32) -> RouteCandidate {
    let capacity_kbps = numbers.capacity();
    RouteCandidate {
        // Two links of each node.
        node: row / 2 + 1,
        region: numbers.region(),
        isp: numbers.operator(),
        distance_us: numbers.distance(),
        used_kbps: numbers.up_to(capacity_kbps + capacity_kbps / 16),
        capacity_kbps,
        health: numbers.health(),
        held: numbers.share(),
        chosen_ms_ago: if numbers.one_in(8) { numbers.up_to(60_000) } else { u32::MAX },
    }
}

fn item(numbers: &mut Numbers) -> PlanItem {
    let held = numbers.share();
    PlanItem {
        size_bytes: 1 + numbers.below(8 << 30),
        demand_near: numbers.below(20_000),
        demand_far: numbers.below(200_000),
        copies_near: numbers.up_to(4),
        copies_far: numbers.up_to(20),
        held,
        listed_seconds: if held > 0 { numbers.up_to(864_000) } else { 0 },
        age_seconds: if numbers.one_in(16) { u32::MAX } else { numbers.up_to(8_640_000) },
    }
}

fn peer(numbers: &mut Numbers) -> PeerCandidate {
    let super_peer = u32::from(numbers.one_in(4));
    let capacity_kbps = super_peer * numbers.capacity();
    PeerCandidate {
        super_peer,
        region: numbers.region(),
        isp: numbers.operator(),
        distance_us: numbers.distance(),
        used_kbps: numbers.up_to(capacity_kbps),
        capacity_kbps,
        health: numbers.health(),
        held: if super_peer > 0 { 1000 } else { numbers.share() },
        named_ms_ago: if numbers.one_in(8) { numbers.up_to(3_600_000) } else { u32::MAX },
    }
}

/// SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014).
struct Numbers(u64);

impl Numbers {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is at least 1.
    fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    fn up_to(&mut self, most: u32) -> u32 {
        self.below(u64::from(most) + 1) as u32
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn region(&mut self) -> u32 {
        1 + self.below(REGIONS) as u32
    }

    fn operator(&mut self) -> u32 {
        OPERATORS[self.below(OPERATORS.len() as u64) as usize]
    }

    /// Microseconds; one of sixteen is not measured.
    fn distance(&mut self) -> u32 {
        if self.one_in(16) { u32::MAX } else { 500 + self.up_to(120_000) }
    }

    /// 1 or 10 Gbit/s, in kilobits per second.
    fn capacity(&mut self) -> u32 {
        if self.one_in(4) { 10_000_000 } else { 1_000_000 }
    }

    /// Permille; one of sixteen is not well.
    fn health(&mut self) -> u32 {
        if self.one_in(16) { self.up_to(1000) } else { 1000 }
    }

    /// Permille: nothing, everything, or something between.
    fn share(&mut self) -> u32 {
        match self.below(3) {
            0 => 0,
            1 => 1000,
            _ => self.up_to(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_policy::builtin;
    use skerry_policy::rows::Answer;

    use super::*;

    #[test]
    fn rows_are_the_same_each_time_and_differ_between_calls() {
        for world in World::ALL {
            let sample = inputs(world, 60, 8);
            assert_eq!(sample, inputs(world, 60, 8));
            assert!(sample.iter().all(|one| one.world() == world && one.rows() == 60));
            assert_ne!(sample[0], sample[1]);
        }
    }

    #[test]
    fn there_is_something_to_choose() {
        for world in World::ALL {
            for one in inputs(world, 60, 8) {
                assert!(!matches!(builtin::decide(&one), Answer::Abstain | Answer::Invalid(_)), "{one:?}");
            }
        }
    }
}

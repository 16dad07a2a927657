//! The built-in verdicts: the default policies, called natively.
//!
//! They are the very functions that the default components are built from, so that a node without
//! policies, or with one that fails, decides as the default policy of the same name would.

use skerry_policy_sdk::{Choice, preload_planner, region_router, super_peer_scheduler};

use crate::rows::{self, Answer, Inputs, same};

same!(rows::RouteRequest => region_router::Request { client, region, isp, resource_hash, size_bytes, seed });
same!(rows::RouteCandidate => region_router::Candidate {
    node, region, isp, distance_us, used_kbps, capacity_kbps, health, held, chosen_ms_ago,
});
same!(rows::PlanRequest => preload_planner::Request {
    region, capacity_bytes, window_bytes, window_seconds, seed,
});
same!(rows::PlanItem => preload_planner::Item {
    size_bytes, demand_near, demand_far, copies_near, copies_far, held, listed_seconds, age_seconds,
});
same!(rows::PeerRequest => super_peer_scheduler::Request {
    client, region, isp, size_bytes, have, wanted, downloading, demand_kbps, seed,
});
same!(rows::PeerCandidate => super_peer_scheduler::Candidate {
    super_peer, region, isp, distance_us, used_kbps, capacity_kbps, health, held, named_ms_ago,
});
same!(Choice => rows::Choice { row, weight });

fn choices(choices: &[Choice]) -> Vec<rows::Choice> {
    choices.iter().map(Into::into).collect()
}

/// What the default policy says.
pub fn decide(inputs: &Inputs) -> Answer {
    match inputs {
        Inputs::RegionRouter { request, candidates } => {
            use region_router::Verdict;
            let candidates: Vec<region_router::Candidate> = candidates.iter().map(Into::into).collect();
            match skerry_region_router::route(&request.into(), &candidates) {
                Verdict::Ranked(ranked) => Answer::Ranked(choices(&ranked)),
                Verdict::Abstain => Answer::Abstain,
                Verdict::Invalid(reason) => Answer::Invalid(reason),
            }
        }
        Inputs::PreloadPlanner { request, items } => {
            use preload_planner::Verdict;
            let items: Vec<preload_planner::Item> = items.iter().map(Into::into).collect();
            match skerry_preload_planner::plan(&request.into(), &items) {
                Verdict::Ranked(ranked) => Answer::Ranked(choices(&ranked)),
                Verdict::Abstain => Answer::Abstain,
                Verdict::Invalid(reason) => Answer::Invalid(reason),
            }
        }
        Inputs::SuperPeerScheduler { request, candidates } => {
            use super_peer_scheduler::Verdict;
            let candidates: Vec<super_peer_scheduler::Candidate> =
                candidates.iter().map(Into::into).collect();
            match skerry_super_peer_scheduler::schedule_peers(&request.into(), &candidates) {
                Verdict::Scheduled(schedule) => {
                    Answer::Scheduled { peers: choices(&schedule.peers), more_copies: schedule.more_copies }
                }
                Verdict::Abstain => Answer::Abstain,
                Verdict::Invalid(reason) => Answer::Invalid(reason),
            }
        }
    }
}

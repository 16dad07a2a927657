//! The contract as wasmtime sees it (`plugins/wit`), and its rows from and to [`crate::rows`].

use crate::rows::{self, same};

/// World `region-router`.
pub(crate) mod region_router {
    #![allow(missing_docs, reason = "generated; the contract documents itself")]
    wasmtime::component::bindgen!({
        path: "../../plugins/wit",
        world: "region-router",
        imports: { default: trappable },
    });
}

/// World `preload-planner`.
pub(crate) mod preload_planner {
    #![allow(missing_docs, reason = "generated; the contract documents itself")]
    wasmtime::component::bindgen!({
        path: "../../plugins/wit",
        world: "preload-planner",
        imports: { default: trappable },
        with: {
            "skerry:policy/host": super::region_router::skerry::policy::host,
            "skerry:policy/types": super::region_router::skerry::policy::types,
        },
    });
}

/// World `super-peer-scheduler`.
pub(crate) mod super_peer_scheduler {
    #![allow(missing_docs, reason = "generated; the contract documents itself")]
    wasmtime::component::bindgen!({
        path: "../../plugins/wit",
        world: "super-peer-scheduler",
        imports: { default: trappable },
        with: {
            "skerry:policy/host": super::region_router::skerry::policy::host,
            "skerry:policy/types": super::region_router::skerry::policy::types,
        },
    });
}

pub(crate) use region_router::skerry::policy::{host, types};

pub(crate) use preload_planner::exports::skerry::policy::preload_planning as plan;
pub(crate) use region_router::exports::skerry::policy::region_routing as route;
pub(crate) use super_peer_scheduler::exports::skerry::policy::peer_scheduling as peers;

same!(rows::RouteRequest => route::Request { client, region, isp, resource_hash, size_bytes, seed });
same!(rows::RouteCandidate => route::Candidate {
    node, region, isp, distance_us, used_kbps, capacity_kbps, health, held, chosen_ms_ago,
});
same!(rows::PlanRequest => plan::Request { region, capacity_bytes, window_bytes, window_seconds, seed });
same!(rows::PlanItem => plan::Item {
    size_bytes, demand_near, demand_far, copies_near, copies_far, held, listed_seconds, age_seconds,
});
same!(rows::PeerRequest => peers::Request {
    client, region, isp, size_bytes, have, wanted, downloading, demand_kbps, seed,
});
same!(rows::PeerCandidate => peers::Candidate {
    super_peer, region, isp, distance_us, used_kbps, capacity_kbps, health, held, named_ms_ago,
});
same!(types::Choice => rows::Choice { row, weight });

fn choices(choices: &[types::Choice]) -> Vec<rows::Choice> {
    choices.iter().map(Into::into).collect()
}

impl From<route::Verdict> for rows::Answer {
    fn from(verdict: route::Verdict) -> Self {
        match verdict {
            route::Verdict::Ranked(ranked) => Self::Ranked(choices(&ranked)),
            route::Verdict::Abstain => Self::Abstain,
            route::Verdict::Invalid(reason) => Self::Invalid(reason),
        }
    }
}

impl From<plan::Verdict> for rows::Answer {
    fn from(verdict: plan::Verdict) -> Self {
        match verdict {
            plan::Verdict::Ranked(ranked) => Self::Ranked(choices(&ranked)),
            plan::Verdict::Abstain => Self::Abstain,
            plan::Verdict::Invalid(reason) => Self::Invalid(reason),
        }
    }
}

impl From<peers::Verdict> for rows::Answer {
    fn from(verdict: peers::Verdict) -> Self {
        match verdict {
            peers::Verdict::Scheduled(schedule) => {
                Self::Scheduled { peers: choices(&schedule.peers), more_copies: schedule.more_copies }
            }
            peers::Verdict::Abstain => Self::Abstain,
            peers::Verdict::Invalid(reason) => Self::Invalid(reason),
        }
    }
}

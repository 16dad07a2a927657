//! What policies are asked and what they answer, as plain values: field by field the records of
//! `plugins/wit`, whose texts hold here too. Test vectors are written in them, and decisions are
//! recorded and replayed in them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::manifest::World;

/// Who asks for a route, and for what: `region-routing.request`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteRequest {
    /// A keyed hash of the client's prefix.
    pub client: u64,
    /// The client's region; 0 is unknown.
    pub region: u32,
    /// Number of the autonomous system of the client's operator; 0 is unknown.
    pub isp: u32,
    /// A hash of the resource's id.
    pub resource_hash: u64,
    /// Length of the resource, bytes; 0 is unknown.
    pub size_bytes: u64,
    /// A random number, different in every call and the same in its replay.
    pub seed: u64,
}

/// One link that could serve a client: `region-routing.candidate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteCandidate {
    /// The node: links of one node have the same number.
    pub node: u32,
    /// The node's region; 0 is unknown.
    pub region: u32,
    /// Number of the autonomous system that the link is best for; 0 is any.
    pub isp: u32,
    /// Measured round trip from the client's region, microseconds; `u32::MAX` when unmeasured.
    pub distance_us: u32,
    /// What the link carries now, kilobits per second.
    pub used_kbps: u32,
    /// What it can carry, kilobits per second; 0 when it takes nothing.
    pub capacity_kbps: u32,
    /// Health, permille.
    pub health: u32,
    /// How much of the resource the node holds, permille.
    pub held: u32,
    /// Milliseconds since it was last the first choice for the client's region; `u32::MAX` when it
    /// was not within the last hour.
    pub chosen_ms_ago: u32,
}

/// A node and what it may take: `preload-planning.request`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlanRequest {
    /// The node's region; 0 is unknown.
    pub region: u32,
    /// What preloaded resources may take on the node, bytes, those it holds included.
    pub capacity_bytes: u64,
    /// How much may be moved to the node until the next plan, bytes.
    pub window_bytes: u64,
    /// Seconds until the next plan.
    pub window_seconds: u32,
    /// A random number, different in every call and the same in its replay.
    pub seed: u64,
}

/// One resource that could be held: `preload-planning.item`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlanItem {
    /// Its length, bytes; at least 1.
    pub size_bytes: u64,
    /// Requests from the node's region, thousandths of a request per hour, halved each day.
    pub demand_near: u64,
    /// The same from all other regions.
    pub demand_far: u64,
    /// Complete copies on other nodes of the region.
    pub copies_near: u32,
    /// Complete copies on nodes of all other regions.
    pub copies_far: u32,
    /// How much of it the node holds, permille.
    pub held: u32,
    /// Seconds since it came onto the node's list; 0 when it is not on it.
    pub listed_seconds: u32,
    /// Seconds since it was published; `u32::MAX` when that is unknown.
    pub age_seconds: u32,
}

/// A peer that asks, and how its swarm does: `peer-scheduling.request`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PeerRequest {
    /// A keyed hash of the peer's prefix.
    pub client: u64,
    /// The peer's region; 0 is unknown.
    pub region: u32,
    /// Number of the autonomous system of the peer's operator; 0 is unknown.
    pub isp: u32,
    /// Length of the resource, bytes; 0 is unknown.
    pub size_bytes: u64,
    /// How much of it the peer has, permille.
    pub have: u32,
    /// How many peers it asks for.
    pub wanted: u32,
    /// Peers in the swarm that still download.
    pub downloading: u32,
    /// What they ask of super-peers together, kilobits per second; 0 is unknown.
    pub demand_kbps: u32,
    /// A random number, different in every call and the same in its replay.
    pub seed: u64,
}

/// One peer that could be named: `peer-scheduling.candidate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PeerCandidate {
    /// 1 for a super-peer, 0 for a peer like the one that asks.
    pub super_peer: u32,
    /// Its region; 0 is unknown.
    pub region: u32,
    /// Number of the autonomous system of its operator, or that the link is best for; 0 is unknown.
    pub isp: u32,
    /// Measured round trip to the region of the peer that asks, microseconds; `u32::MAX` when
    /// unmeasured.
    pub distance_us: u32,
    /// What it sends now, kilobits per second; 0 is nothing, or unknown for a peer.
    pub used_kbps: u32,
    /// What it can send, kilobits per second; 0 is unknown for a peer, and closed for a super-peer.
    pub capacity_kbps: u32,
    /// Health, permille.
    pub health: u32,
    /// How much of the resource it has, permille.
    pub held: u32,
    /// Milliseconds since it was last named to the peer that asks; `u32::MAX` when never.
    pub named_ms_ago: u32,
}

/// What a policy is asked: a request, and the rows to choose from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Inputs {
    /// For a region-router.
    RegionRouter {
        /// Who asks, and for what.
        request: RouteRequest,
        /// Links to choose from.
        candidates: Vec<RouteCandidate>,
    },
    /// For a preload-planner.
    PreloadPlanner {
        /// The node, and what it may take.
        request: PlanRequest,
        /// Resources to choose from.
        items: Vec<PlanItem>,
    },
    /// For a super-peer-scheduler.
    SuperPeerScheduler {
        /// Who asks, and how the swarm does.
        request: PeerRequest,
        /// Peers to choose from.
        candidates: Vec<PeerCandidate>,
    },
}

impl Inputs {
    /// The world that they are for.
    pub fn world(&self) -> World {
        match self {
            Self::RegionRouter { .. } => World::RegionRouter,
            Self::PreloadPlanner { .. } => World::PreloadPlanner,
            Self::SuperPeerScheduler { .. } => World::SuperPeerScheduler,
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        match self {
            Self::RegionRouter { candidates, .. } => candidates.len(),
            Self::PreloadPlanner { items, .. } => items.len(),
            Self::SuperPeerScheduler { candidates, .. } => candidates.len(),
        }
    }
}

/// One row that was chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Index of the row.
    pub row: u32,
    /// Its share beside the others: 1 to 1000000.
    pub weight: u32,
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// These rows, best first.
    Ranked(Vec<Choice>),
    /// These peers, and so many copies more.
    Scheduled {
        /// Rows, best first.
        peers: Vec<Choice>,
        /// How many more super-peers should hold the resource.
        more_copies: u32,
    },
    /// No opinion.
    Abstain,
    /// The rows make no sense, and why.
    Invalid(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = |choices: &[Choice]| choices.iter().map(|choice| choice.row).collect::<Vec<_>>();
        match self {
            Self::Ranked(choices) => write!(formatter, "rows {:?}", rows(choices)),
            Self::Scheduled { peers, more_copies } => {
                write!(formatter, "rows {:?} and {more_copies} more copies", rows(peers))
            }
            Self::Abstain => formatter.write_str("no opinion"),
            Self::Invalid(reason) => write!(formatter, "invalid rows: {reason:?}"),
        }
    }
}

/// Rows from one type to another with the same fields under the same names: those of the contract as
/// wasmtime has them, as the SDK has them, and as they are here.
macro_rules! same {
    ($from:path => $to:path { $($field:ident),* $(,)? }) => {
        impl From<&$from> for $to {
            fn from(from: &$from) -> Self {
                Self { $($field: from.$field),* }
            }
        }
    };
}
pub(crate) use same;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_what_it_wrote() {
        let inputs = Inputs::SuperPeerScheduler {
            request: PeerRequest { client: u64::MAX, wanted: 50, ..PeerRequest::default() },
            candidates: vec![PeerCandidate { super_peer: 1, ..PeerCandidate::default() }; 2],
        };
        let text = serde_json::to_string(&inputs).unwrap();
        assert!(
            text.starts_with(r#"{"super-peer-scheduler":{"request":{"client":18446744073709551615,"#),
            "{text}"
        );
        assert!(text.contains(r#""super-peer":1"#), "{text}");
        assert_eq!(serde_json::from_str::<Inputs>(&text).unwrap(), inputs);
        let answer = Answer::Scheduled { peers: vec![Choice { row: 1, weight: 3 }], more_copies: 2 };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text, r#"{"scheduled":{"peers":[{"row":1,"weight":3}],"more-copies":2}}"#);
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
    }

    #[test]
    fn an_answer_is_said_in_words() {
        let peers = vec![Choice { row: 1, weight: 3 }, Choice { row: 0, weight: 1 }];
        assert_eq!(Answer::Ranked(peers.clone()).to_string(), "rows [1, 0]");
        assert_eq!(Answer::Scheduled { peers, more_copies: 2 }.to_string(), "rows [1, 0] and 2 more copies");
        assert_eq!(Answer::Invalid("a\nb".into()).to_string(), "invalid rows: \"a\\nb\"");
    }
}

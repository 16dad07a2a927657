//! The decision log: a sample of what policies were asked and what they answered, with all that it
//! takes to make the same call again. The newest are kept in memory, bounded in number and bytes, for
//! whoever asks why; a [`Recorder`] writes them to files for replay.

mod config;
mod recorder;
mod recording;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::config::DecisionsConfig;
pub use self::recorder::{Recorded, Recorder, recordings};
pub use self::recording::{HEADER, LONGEST_LINE, RecordError, Recording, encode, read_recording};
use crate::cause::Cause;
use crate::manifest::World;
use crate::rollout::Stage;
use crate::rows::{Answer, Choice, Inputs};

/// The digest of the verdict that is no component's.
pub const BUILT_IN: &str = "built-in";
/// Decisions in one answer to a query.
pub const MOST_ANSWERED: usize = 1000;
/// Keeps the sample apart from what else is chosen by seeds.
const SAMPLE: u64 = 0x6465_6369_7369_6f6e;

/// One decision, and everything that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Its number, given by the log: it grows, and begins with 1 when the node starts.
    pub sequence: u64,
    /// The frozen clock of the call: milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// What was decided; that of `inputs`.
    pub world: World,
    /// Name of the policy.
    pub policy: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its package in hexadecimal digits, or [`BUILT_IN`].
    pub digest: String,
    /// Stage of the change that this version was in, if it was in one. In shadow the verdict was not
    /// used.
    pub stage: Option<Stage>,
    /// A keyed hash of the client's prefix, or of the node that a plan is for.
    pub client: u64,
    /// The request and its rows.
    pub inputs: Inputs,
    /// What the policy looked up, in its order.
    pub lookups: Vec<Lookup>,
    /// What came of it.
    pub verdict: Verdict,
    /// Work done.
    pub fuel: u64,
    /// Time of the call, microseconds.
    pub took_us: u64,
    /// What the built-in policy says to the same inputs.
    pub builtin: Answer,
}

/// One key that a policy looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// Name of the table: its number may be another in another version.
    pub table: String,
    /// The key.
    pub key: u64,
    /// Its value; none when there was no such table or key.
    pub value: Option<i64>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The policy's answer.
    Answer(Answer),
    /// None; the built-in answer stood in, for this reason.
    Fallback(Cause),
}

impl Decision {
    /// Memory it takes, about, and rather more than less.
    fn weight(&self) -> usize {
        let rows = match &self.inputs {
            Inputs::RegionRouter { candidates, .. } => size_of_val(candidates.as_slice()),
            Inputs::PreloadPlanner { items, .. } => size_of_val(items.as_slice()),
            Inputs::SuperPeerScheduler { candidates, .. } => size_of_val(candidates.as_slice()),
        };
        // Both answers name a row at most once; the reason of an invalid one is short.
        let answers = 2 * (self.inputs.rows() * size_of::<Choice>() + 256);
        let lookups: usize = self.lookups.iter().map(|lookup| size_of::<Lookup>() + lookup.table.len()).sum();
        let names = self.policy.len() + self.version.len() + self.digest.len();
        size_of::<Self>() + rows + answers + lookups + names
    }
}

/// Which decisions are asked for. Without anything: the newest of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Only those of this world.
    pub world: Option<World>,
    /// Only those of the policy of this name.
    pub policy: Option<String>,
    /// Only those for the client with this hash.
    pub client: Option<u64>,
    /// The oldest after this number, instead of the newest: to read on where the last answer ended.
    pub since: Option<u64>,
    /// So many at most; 0, and more than [`MOST_ANSWERED`], is as many as there may be.
    pub limit: usize,
}

impl Query {
    fn wants(&self, decision: &Decision) -> bool {
        self.world.is_none_or(|world| world == decision.world)
            && self.policy.as_ref().is_none_or(|policy| *policy == decision.policy)
            && self.client.is_none_or(|client| client == decision.client)
            && self.since.is_none_or(|since| since < decision.sequence)
    }
}

/// An answer to a query.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// In the order of their numbers.
    pub decisions: Vec<Arc<Decision>>,
    /// Number of the oldest decision that is kept at all; 0 when none is. Those between `since` and
    /// it are gone.
    pub oldest: u64,
    /// Number of the newest.
    pub newest: u64,
}

/// The newest decisions of the sample.
#[derive(Debug)]
pub struct DecisionLog {
    config: DecisionsConfig,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Arc<Decision>>,
    bytes: u64,
    /// Number of the newest decision.
    newest: u64,
}

impl DecisionLog {
    /// An empty log.
    pub fn new(config: DecisionsConfig) -> Self {
        Self { config, ring: Mutex::default() }
    }

    /// Whether a call belongs to the sample, by the seed of its request.
    pub fn samples(&self, world: World, seed: u64) -> bool {
        let one_in = match world {
            World::PreloadPlanner => self.config.plans_one_in,
            World::RegionRouter | World::SuperPeerScheduler => self.config.calls_one_in,
        };
        match one_in {
            0 => false,
            1 => true,
            one_in => xxh3_64_with_seed(&seed.to_le_bytes(), SAMPLE).is_multiple_of(one_in),
        }
    }

    /// Numbers a decision and keeps it, in the place of the oldest ones when there is no room. What
    /// is returned goes to the recorder, if there is one.
    pub fn push(&self, mut decision: Decision) -> Arc<Decision> {
        let weight = decision.weight() as u64;
        let mut gone = Vec::new();
        let mut ring = self.ring.lock();
        ring.newest += 1;
        decision.sequence = ring.newest;
        let decision = Arc::new(decision);
        if weight <= self.config.kept_bytes && self.config.kept > 0 {
            ring.kept.push_back(decision.clone());
            ring.bytes += weight;
            while ring.kept.len() > self.config.kept || ring.bytes > self.config.kept_bytes {
                let Some(oldest) = ring.kept.pop_front() else { break };
                ring.bytes -= oldest.weight() as u64;
                gone.push(oldest);
            }
        }
        // What goes is freed when nobody waits for it.
        drop(ring);
        decision
    }

    /// The decisions that a query asks for.
    pub fn query(&self, query: &Query) -> Page {
        let limit = if query.limit == 0 { MOST_ANSWERED } else { query.limit.min(MOST_ANSWERED) };
        let ring = self.ring.lock();
        let wanted = ring.kept.iter().filter(|decision| query.wants(decision)).cloned();
        let decisions = if query.since.is_some() {
            wanted.take(limit).collect()
        } else {
            let mut newest: Vec<_> = wanted.rev().take(limit).collect();
            newest.reverse();
            newest
        };
        let oldest = ring.kept.front().map_or(0, |decision| decision.sequence);
        Page { decisions, oldest, newest: ring.newest }
    }
}

#[cfg(test)]
mod tests;

//! `[policy]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::breaker::BreakerConfig;
use crate::call::Limits;
use crate::decisions::DecisionsConfig;
use crate::engine::Room;
use crate::manifest::World;
use crate::rollout::RolloutConfig;
use crate::signature::TrustedKeys;

/// Fuel for each millisecond of a call's time: several times what a call can burn in it, so that the
/// clock ends a slow policy and fuel one that the clock cannot see.
const FUEL_PER_MS: u64 = 50_000_000;

/// `[policy]`: policies, and what they may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// Folder that is watched for policies (`NAME.policy.wasm`); empty watches none.
    pub watch_dir: PathBuf,
    /// Run policies that nobody has signed, or somebody unknown has. For trying things out; never on a node that others reach.
    pub allow_unsigned: bool,
    /// Instances of policies at once, warm ones included.
    pub instances: u32,
    /// Calls of one policy at once; further ones get the built-in verdict.
    pub calls: u32,
    /// Calls after which a reused instance is replaced.
    pub reuses: u32,
    /// Longest call of a region router.
    pub route_time_ms: u64,
    /// Memory of one of its instances.
    pub route_memory_bytes: u64,
    /// Longest call of a preload planner.
    pub plan_time_ms: u64,
    /// Memory of one of its instances.
    pub plan_memory_bytes: u64,
    /// Longest call of a super-peer scheduler.
    pub schedule_time_ms: u64,
    /// Memory of one of its instances.
    pub schedule_memory_bytes: u64,
    /// Longest compilation of a policy.
    pub compile_seconds: u64,
    /// Memory of a compilation.
    pub compile_memory_bytes: u64,
    /// JSON file with tables that policies may look keys up in: `{"table": {"key": 1}}`; empty is none.
    pub tables_file: PathBuf,
    /// Whose policies are run: a name for the log, and a minisign public key.
    pub signers: BTreeMap<String, String>,
    /// `[policy.breaker]`.
    pub breaker: BreakerConfig,
    /// `[policy.rollout]`.
    pub rollout: RolloutConfig,
    /// `[policy.decisions]`.
    pub decisions: DecisionsConfig,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            watch_dir: PathBuf::new(),
            allow_unsigned: false,
            instances: 64,
            calls: 16,
            reuses: 1000,
            route_time_ms: 5,
            route_memory_bytes: 16 << 20,
            plan_time_ms: 200,
            plan_memory_bytes: 64 << 20,
            schedule_time_ms: 5,
            schedule_memory_bytes: 16 << 20,
            compile_seconds: 120,
            compile_memory_bytes: 2 << 30,
            tables_file: PathBuf::new(),
            signers: BTreeMap::new(),
            breaker: BreakerConfig::default(),
            rollout: RolloutConfig::default(),
            decisions: DecisionsConfig::default(),
        }
    }
}

impl PolicyConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=4096).contains(&self.instances) {
            return Err(("policy.instances", "must be from 1 to 4096".into()));
        }
        for (key, value) in [
            ("policy.calls", u64::from(self.calls)),
            ("policy.reuses", u64::from(self.reuses)),
            ("policy.compile_seconds", self.compile_seconds),
        ] {
            if value == 0 {
                return Err((key, "must be at least 1".into()));
            }
        }
        for (key, ms) in [
            ("policy.route_time_ms", self.route_time_ms),
            ("policy.plan_time_ms", self.plan_time_ms),
            ("policy.schedule_time_ms", self.schedule_time_ms),
        ] {
            if !(1..=60_000).contains(&ms) {
                return Err((key, "must be from 1 to 60000".into()));
            }
        }
        for (key, bytes) in [
            ("policy.route_memory_bytes", self.route_memory_bytes),
            ("policy.plan_memory_bytes", self.plan_memory_bytes),
            ("policy.schedule_memory_bytes", self.schedule_memory_bytes),
        ] {
            if !(1 << 16..=1 << 30).contains(&bytes) {
                return Err((key, "must be from 65536 to 1073741824".into()));
            }
        }
        if self.compile_memory_bytes < 256 << 20 {
            return Err(("policy.compile_memory_bytes", "must be at least 268435456".into()));
        }
        self.trusted().map_err(|error| ("policy.signers", error.to_string()))?;
        self.breaker.check()?;
        self.rollout.check()?;
        self.decisions.check()
    }

    /// The signers' keys.
    ///
    /// # Errors
    /// When one is no minisign public key.
    pub fn trusted(&self) -> Result<TrustedKeys, crate::signature::SignatureError> {
        TrustedKeys::new(self.signers.iter().map(|(name, key)| (name.as_str(), key.as_str())))
    }

    /// What a call for a world may take.
    pub fn limits(&self, world: World) -> Limits {
        let (ms, memory_bytes) = match world {
            World::RegionRouter => (self.route_time_ms, self.route_memory_bytes),
            World::PreloadPlanner => (self.plan_time_ms, self.plan_memory_bytes),
            World::SuperPeerScheduler => (self.schedule_time_ms, self.schedule_memory_bytes),
        };
        Limits {
            time: Duration::from_millis(ms),
            memory_bytes,
            fuel: ms.saturating_mul(FUEL_PER_MS),
            calls: self.calls,
            reuses: self.reuses,
        }
    }

    /// What the engine is made for.
    pub fn room(&self) -> Room {
        let memory_bytes =
            self.route_memory_bytes.max(self.plan_memory_bytes).max(self.schedule_memory_bytes);
        Room { instances: self.instances, memory_bytes, lines: false }
    }

    /// Longest compilation.
    pub fn compile_time(&self) -> Duration {
        Duration::from_secs(self.compile_seconds)
    }
}

//! A fleet and its clients over simulated time: nobody waits, and nothing is sent.
//!
//! What decides is real: the selector, the tracker and the preloader with its plans, and the policies they
//! ask, are those of a node, driven by the simulated clock (`control`, `nodes`). What they decide about is a
//! model. Peers come by the hour of their region and in crowds (`arrivals`), and ask for resources by Zipf's
//! law (`catalogue`). One is routed by the selector, announces itself at the tracker, or both (`engine`),
//! and is sent bytes by the links and peers that it was told of, in shares of each link and line for every
//! step (`flow`). Nodes tell what their links carry and what they hold as nodes do; one that is asked for
//! what it does not hold pulls it from the origin.
//!
//! The same settings give the same figures, but for the time that it took, as long as policies give the
//! same answers to the same rows: one that looks at the clock, or at the hash of a client, sees those of
//! this run. Nodes do not fail here, and no packet is lost; rates follow from one step to the next.

mod arrivals;
mod catalogue;
mod control;
mod engine;
mod flow;
mod map;
mod nodes;
mod peers;
mod report;
mod settings;
mod tally;

use std::path::PathBuf;

use skerry_policy::Package;

pub use self::report::{
    Bytes, Calls, CrowdReport, Imbalance, LastPeer, Peers, RegionReport, Report, Spread, Wall,
};
pub use self::settings::{
    MOST_CROWDS, MOST_HOURS, MOST_NODES, MOST_PEERS, MOST_REGIONS, MOST_RESOURCES, Settings,
};

/// When it begins: a midnight, milliseconds since 1970.
const START_MS: u64 = 20_000 * 86_400_000;
/// One step, milliseconds.
const STEP_MS: u64 = 2000;
/// How often each node's preload list is planned anew, seconds.
const PLAN_SECONDS: u64 = 1800;

/// A policy that decides in place of the built-in verdict of its worlds, from the start and for everybody.
pub struct Given {
    /// Its file, for complaints.
    pub file: PathBuf,
    /// What was read from it; it need not be signed.
    pub package: Package,
}

/// Simulates. `worker` is the program that compiles policies, as [`skerry_policy::Policies::new`] has it;
/// `progress` is told after every step how much of the time is over, both in milliseconds.
///
/// # Errors
/// When something cannot be simulated, or a policy is not taken.
pub fn run(
    settings: &Settings,
    given: &[Given],
    worker: Option<PathBuf>,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Report> {
    settings.check().map_err(anyhow::Error::msg)?;
    engine::Engine::new(settings, given, worker)?.run(progress)
}

//! A node's engine with a good policy in it, for hostile ones to try their strength on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use skerry_policy::rows::{Answer, Choice, Inputs, RouteCandidate, RouteRequest};
use skerry_policy::{
    Callable, Called, Cause, Compiler, Limits, Package, PolicyError, Room, Runtime, Surroundings, World,
    package,
};
use tempfile::TempDir;

use crate::guests::{FIRST, Guest};

/// Time of one call: more than a node gives, so that what a busy machine adds stays below it.
pub(crate) const TIME: Duration = Duration::from_millis(100);
/// Within this a call ends, whatever the machine does.
const LONGEST: Duration = Duration::from_secs(20);
/// More fuel than can be burnt in that time: where fuel should end a call, a test gives less.
pub(crate) const LIMITS: Limits =
    Limits { time: TIME, memory_bytes: 16 << 20, fuel: 1 << 50, calls: 8, reuses: 1000 };
/// So little that it ends before the time does.
pub(crate) const LITTLE_FUEL: Limits = Limits { fuel: 100_000, ..LIMITS };
/// Rows in every call.
pub(crate) const ROWS: usize = 4;

const ROOM: Room = Room { instances: 16, memory_bytes: 64 << 20, lines: false };

/// A policy as it is packed, with more lines for its manifest.
pub(crate) fn packed(component: &[u8], manifest: &str) -> Package {
    let manifest = format!("name = \"guest\"\nversion = \"1.0.0\"\nworlds = [\"region-router\"]\n{manifest}");
    let packed = package::pack(component, &manifest).expect("a package");
    Package::parse(packed).expect("a package")
}

pub(crate) fn inputs(rows: usize) -> Inputs {
    let candidate = |node| RouteCandidate { node, ..RouteCandidate::default() };
    Inputs::RegionRouter {
        request: RouteRequest { client: 1, seed: 2, ..RouteRequest::default() },
        candidates: (0..).map(candidate).take(rows).collect(),
    }
}

/// One call, and the processor's time that it took. What else the machine does is not counted, but ends.
pub(crate) fn timed(policy: &Callable) -> (Called, Duration) {
    let (begun, before) = (Instant::now(), cpu_time(ClockId::ThreadCPUTime));
    let called = policy.call(&inputs(ROWS), &Surroundings::default());
    assert!(begun.elapsed() < LONGEST, "a call took {:?}", begun.elapsed());
    (called, cpu_time(ClockId::ThreadCPUTime) - before)
}

/// The processor's time of this thread or process.
pub(crate) fn cpu_time(whose: ClockId) -> Duration {
    let time = clock_gettime(whose);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// The answer of a policy that chooses one row.
pub(crate) fn row(row: u32) -> Result<Answer, Cause> {
    Ok(Answer::Ranked(vec![Choice { row, weight: 1 }]))
}

pub(crate) struct Node {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) compiler: Compiler,
    /// Where the compiler keeps native code.
    pub(crate) folder: TempDir,
    good: Callable,
}

impl Node {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new(ROOM).expect("an engine");
        let folder = tempfile::tempdir().expect("a folder");
        let compiler =
            Compiler::new(None, folder.path(), Duration::from_secs(60), 1 << 30).expect("a compiler");
        let good = packed(&Guest::new(FIRST).component(), "");
        let good = take(&runtime, &compiler, &good, LIMITS).expect("a policy");
        Self { runtime, compiler, folder, good }
    }

    /// Compiles and links a policy.
    pub(crate) fn take(&self, package: &Package, limits: Limits) -> Result<Callable, PolicyError> {
        take(&self.runtime, &self.compiler, package, limits)
    }

    /// A guest as a policy.
    pub(crate) fn policy(&self, guest: &Guest) -> Callable {
        self.policy_with(guest, "", LIMITS)
    }

    /// A guest as a policy, with more lines for its manifest, and other limits.
    pub(crate) fn policy_with(&self, guest: &Guest, manifest: &str, limits: Limits) -> Callable {
        self.take(&packed(&guest.component(), manifest), limits).expect("a policy")
    }

    /// Calls a policy: it ends for that cause and within twice its time, and does no harm.
    pub(crate) fn ends(&self, policy: &Callable, cause: Cause) -> Called {
        let (called, took) = timed(policy);
        assert_eq!(called.result, Err(cause), "{:?}", called.error);
        self.is_well_after(policy, took);
        called
    }

    /// Calls a policy: it chooses row 0, within its time.
    pub(crate) fn answers(&self, policy: &Callable) -> Called {
        let (called, took) = timed(policy);
        assert_eq!(called.result, row(0), "{:?}", called.error);
        self.is_well_after(policy, took);
        called
    }

    fn is_well_after(&self, policy: &Callable, took: Duration) {
        let most = 2 * policy.limits().time;
        assert!(took < most, "a call took {took:?} of at most {most:?}");
        let (called, _) = timed(&self.good);
        assert_eq!(called.result, row(0), "the good policy is hurt: {:?}", called.error);
    }

    /// One call of the good policy.
    pub(crate) fn good(&self) -> (Called, Duration) {
        timed(&self.good)
    }
}

fn take(
    runtime: &Arc<Runtime>,
    compiler: &Compiler,
    package: &Package,
    limits: Limits,
) -> Result<Callable, PolicyError> {
    let component = compiler.component(runtime, package)?;
    Callable::new(runtime, &component, &package.manifest, World::RegionRouter, limits)
}

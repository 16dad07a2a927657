//! The policies of a node: which version decides for which world, and what happens when none can.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use prometheus::Registry;

use crate::builtin;
use crate::cause::Cause;
use crate::compile::Compiler;
use crate::config::PolicyConfig;
use crate::decisions::{BUILT_IN, Decision, DecisionLog, Page, Query, Recorder, Verdict};
use crate::engine::Runtime;
use crate::guest::{Surroundings, Tables};
use crate::ledger::{Ledger, remove_torn};
use crate::manifest::World;
use crate::metrics::Metrics;
use crate::rollout::{Outcome, Rollout, Stage, Who, differ};
use crate::rows::{Answer, Inputs};
use crate::version::{Asked, Version};
use crate::{PolicyError, tables};

/// Comparisons that may wait for their turn.
const WAITING: usize = 256;
/// How often stages are looked at.
const TICK: Duration = Duration::from_millis(250);

/// A decision, as its caller sees it: there always is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What was decided; [`Answer::Abstain`] where even the built-in verdict has nothing to choose.
    pub answer: Answer,
    /// Name and version of the policy that decided; `None` is the built-in verdict.
    pub policy: Option<(String, String)>,
    /// Why it was not the policy.
    pub cause: Option<Cause>,
}

/// The policies of a node; cheap to clone.
#[derive(Clone)]
pub struct Policies(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: PolicyConfig,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) compiler: Compiler,
    pub(crate) folder: std::path::PathBuf,
    worlds: [ArcSwap<Slot>; 3],
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) ledger: Mutex<Ledger>,
    /// SHA-256 of the files that the watched folder had, so that none is tried twice.
    pub(crate) tried: Mutex<HashSet<[u8; 32]>>,
    /// Held while a policy is taken, for seconds.
    pub(crate) taking: Mutex<()>,
    /// Told when a world is restored; goes with the lock of the ledger.
    pub(crate) restored: Condvar,
    log: DecisionLog,
    recorder: Option<Recorder>,
    pub(crate) metrics: Metrics,
    jobs: mpsc::Sender<Job>,
    waiting: AtomicUsize,
}

/// Who decides in a world.
#[derive(Clone, Default)]
pub(crate) struct Slot {
    pub(crate) incumbent: Option<Arc<Version>>,
    pub(crate) candidate: Option<Trial>,
    /// What decided before, loaded, for the way back. Its inner `None` is the built-in verdict.
    pub(crate) previous: Option<Option<Arc<Version>>>,
    /// What decided before this start is still being compiled.
    pub(crate) restoring: bool,
}

impl Slot {
    /// Who decides, in words.
    pub(crate) fn decides(&self) -> String {
        self.incumbent.as_ref().map_or_else(
            || "the built-in verdict".to_owned(),
            |version| format!("{} {}", version.manifest.name, version.manifest.version),
        )
    }
}

/// A version that is on its way.
#[derive(Clone)]
pub(crate) struct Trial {
    pub(crate) version: Arc<Version>,
    pub(crate) rollout: Arc<Rollout>,
}

/// Work for the thread of changes.
type Job = Box<dyn FnOnce(&Policies) + Send>;

/// A call to be made with the other version too.
struct Comparison {
    inputs: Inputs,
    surroundings: Surroundings,
    client: u64,
    trial: Trial,
    incumbent: Option<Arc<Version>>,
    /// The candidate's own call, when it decided; else the incumbent's answer stands in `decided`.
    candidate: Option<(Duration, Option<Cause>)>,
    decided: Answer,
}

impl Policies {
    /// The policies that are kept in `folder`, and what they need. What cannot be read or loaded is told
    /// of in the log, and the built-in verdict takes its place; what is not compiled any more is, while
    /// the node serves. Compiles nothing itself.
    ///
    /// # Errors
    /// When the engine or the folder cannot be set up.
    pub fn new(
        config: PolicyConfig,
        folder: &std::path::Path,
        worker: Option<std::path::PathBuf>,
        registry: &Registry,
    ) -> Result<Self, PolicyError> {
        let compiler = Compiler::of_node(worker, folder, config.compile_time(), config.compile_memory_bytes)?;
        remove_torn(folder);
        remove_torn(&folder.join("native"));
        let folder_of_records = &config.decisions.record_dir;
        let wanted = !folder_of_records.as_os_str().is_empty();
        let recorder = wanted.then(|| Recorder::start(&config.decisions)).and_then(|started| {
            let told = |error| {
                log::error!(path:% = folder_of_records.display(); "decisions are not recorded: {error}");
            };
            started.map_err(told).ok()
        });
        let tables = tables::load(&config.tables_file).unwrap_or_else(|error| {
            log::error!("policies have no tables: {error}");
            Tables::new()
        });
        let (jobs, queue) = mpsc::channel();
        let inner = Arc::new(Inner {
            runtime: Runtime::new(config.room())?,
            compiler,
            folder: folder.to_owned(),
            worlds: std::array::from_fn(|_| ArcSwap::default()),
            tables: ArcSwap::from_pointee(tables),
            ledger: Mutex::new(Ledger::load(folder)),
            tried: Mutex::default(),
            taking: Mutex::new(()),
            restored: Condvar::new(),
            log: DecisionLog::new(config.decisions.clone()),
            recorder,
            metrics: Metrics::new(registry)?,
            jobs,
            waiting: AtomicUsize::new(0),
            config,
        });
        let policies = Self(inner);
        policies.restore();
        let weak = Arc::downgrade(&policies.0);
        std::thread::Builder::new()
            .name("policy-changes".into())
            .spawn(move || work(&weak, &queue))
            .map_err(|error| PolicyError::Engine(error.to_string()))?;
        Ok(policies)
    }

    /// Decides. `client` is a hash that stays the same for one client (or for the node that a plan is
    /// for). Never fails, and takes no longer than a call may and the built-in verdict takes.
    pub fn decide(&self, inputs: &Inputs, client: u64) -> Decided {
        self.0.decide(inputs, client, now_ms())
    }

    /// Decisions of the sample.
    pub fn decisions(&self, query: &Query) -> Page {
        self.0.log.query(query)
    }

    /// Has something done by the thread of changes.
    pub(crate) fn later(&self, job: impl FnOnce(&Self) + Send + 'static) {
        self.0.later(job);
    }

    /// Does something for a thread that must go on: a panic is told of and counted.
    pub(crate) fn caught(&self, what: &str, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.0.metrics.panics.inc();
            log::error!("{what} panicked, and is given up: {}", said(&*panic));
        }
    }

    pub(crate) fn slot(&self, world: World) -> Arc<Slot> {
        self.0.worlds[world as usize].load_full()
    }

    pub(crate) fn set(&self, world: World, slot: Slot) {
        // What only waits for a way back has no instances that wait with it.
        slot.previous.iter().flatten().for_each(|version| version.callable.retire(true));
        let candidate = slot.candidate.as_ref().map(|trial| &trial.version);
        slot.incumbent.iter().chain(candidate).for_each(|version| version.callable.retire(false));
        self.0.worlds[world as usize].store(Arc::new(slot));
    }

    /// Lets stages that are over give way to the next.
    fn advance(&self, now: Instant) {
        for world in World::ALL {
            if let Some(trial) = &self.slot(world).candidate
                && let Some(change) = trial.rollout.advance(now)
            {
                self.changed(world, &trial.rollout, &change);
            }
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn refresh_metrics(&self) {
        for world in World::ALL {
            let slot = self.slot(world);
            let candidate = slot.candidate.as_ref().map(|trial| &trial.version);
            let warm: usize =
                slot.incumbent.iter().chain(candidate).map(|version| version.callable.warm()).sum();
            self.0.metrics.warm.with_label_values(&[world.name()]).set(warm as i64);
        }
        if let Some(recorder) = &self.0.recorder {
            let recorded = recorder.recorded();
            self.0.metrics.recorded_bytes.set(recorded.written_bytes as i64);
            self.0.metrics.unrecorded.set(recorded.dropped as i64);
        }
    }
}

impl Inner {
    fn later(&self, job: impl FnOnce(&Policies) + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
    }

    fn decide(&self, inputs: &Inputs, client: u64, now_ms: u64) -> Decided {
        let world = inputs.world();
        let slot = self.worlds[world as usize].load();
        let who = slot.candidate.as_ref().map_or(Who::Incumbent, |trial| trial.rollout.decides(client));
        let version = match (&slot.candidate, who) {
            (Some(trial), Who::Candidate) => Some(&trial.version),
            _ => slot.incumbent.as_ref(),
        };
        let surroundings = Surroundings { now_ms, tables: self.tables.load_full() };
        let asked = version.map(|version| version.ask(inputs, &surroundings));
        let (answer, cause) = match &asked {
            Some(Asked { result: Ok(answer), .. }) => (answer.clone(), None),
            Some(Asked { result: Err(cause), .. }) => (builtin::decide(inputs), Some(*cause)),
            None => (builtin::decide(inputs), Some(Cause::None)),
        };
        self.metrics.decided(world, cause);
        if let Some(asked) = asked.as_ref().filter(|asked| asked.called()) {
            self.metrics.took(world, asked.took);
        }
        if let Some(trial) = &slot.candidate {
            self.watch(trial, who, &slot, inputs, &surroundings, client, &asked, &answer);
        }
        let stage =
            slot.candidate.as_ref().filter(|_| who == Who::Candidate).map(|trial| trial.rollout.stage());
        if self.log.samples(world, seed(inputs)) {
            self.record(
                inputs,
                &surroundings,
                client,
                version.map(|version| &**version),
                stage,
                asked.as_ref(),
            );
        }
        let policy = version
            .filter(|_| cause.is_none())
            .map(|version| (version.manifest.name.clone(), version.manifest.version.to_string()));
        Decided { answer, policy, cause }
    }

    /// Reports a call of the candidate, or has one made to compare with.
    #[expect(clippy::too_many_arguments, reason = "all of one decision, once")]
    fn watch(
        &self,
        trial: &Trial,
        who: Who,
        slot: &Slot,
        inputs: &Inputs,
        surroundings: &Surroundings,
        client: u64,
        asked: &Option<Asked>,
        answer: &Answer,
    ) {
        let own = asked.as_ref().filter(|_| who == Who::Candidate);
        let own = own.map(|asked| (asked.took, asked.result.as_ref().err().copied()));
        let room = || self.waiting.fetch_add(1, Relaxed) < WAITING;
        if trial.rollout.compares(who, seed(inputs)) {
            if room() {
                let job = Comparison {
                    inputs: inputs.clone(),
                    surroundings: surroundings.clone(),
                    client,
                    trial: trial.clone(),
                    incumbent: slot.incumbent.clone(),
                    candidate: own,
                    decided: answer.clone(),
                };
                self.later(move |policies| {
                    policies.0.waiting.fetch_sub(1, Relaxed);
                    policies.0.compare(&job);
                });
                return;
            }
            self.waiting.fetch_sub(1, Relaxed);
            self.metrics.dropped.inc();
        }
        if let Some((took, fallback)) = own {
            self.observe(inputs.world(), trial, &Outcome { took, fallback, differs: None });
        }
    }

    fn observe(&self, world: World, trial: &Trial, outcome: &Outcome) {
        if let Some(change) = trial.rollout.observe(outcome, Instant::now()) {
            let rollout = trial.rollout.clone();
            self.later(move |policies| policies.changed(world, &rollout, &change));
        }
    }

    fn compare(&self, job: &Comparison) {
        if matches!(job.trial.rollout.stage(), Stage::Done | Stage::Demoted) {
            return;
        }
        let world = job.inputs.world();
        let (candidate, other) = match job.candidate {
            Some((took, fallback)) => {
                let other = job.incumbent.as_ref().map(|version| version.ask(&job.inputs, &job.surroundings));
                let other =
                    other.and_then(|asked| asked.result.ok()).unwrap_or_else(|| builtin::decide(&job.inputs));
                ((took, fallback, Some(job.decided.clone())), other)
            }
            None => {
                let asked = job.trial.version.ask(&job.inputs, &job.surroundings);
                let stage = Some(job.trial.rollout.stage());
                if self.log.samples(world, seed(&job.inputs)) {
                    let version = Some(&*job.trial.version);
                    self.record(&job.inputs, &job.surroundings, job.client, version, stage, Some(&asked));
                }
                let fallback = asked.result.as_ref().err().copied();
                ((asked.took, fallback, asked.result.ok()), job.decided.clone())
            }
        };
        let (took, fallback, answer) = candidate;
        let differs = answer.filter(|_| fallback.is_none()).map(|answer| differ(&answer, &other));
        self.observe(world, &job.trial, &Outcome { took, fallback, differs });
    }

    fn record(
        &self,
        inputs: &Inputs,
        surroundings: &Surroundings,
        client: u64,
        version: Option<&Version>,
        stage: Option<Stage>,
        asked: Option<&Asked>,
    ) {
        let text = |of: &dyn Fn(&Version) -> String| version.map_or_else(|| BUILT_IN.to_owned(), of);
        let decision = self.log.push(Decision {
            sequence: 0,
            at_ms: surroundings.now_ms,
            world: inputs.world(),
            policy: text(&|version| version.manifest.name.clone()),
            version: text(&|version| version.manifest.version.to_string()),
            digest: text(&|version| version.digest.clone()),
            stage,
            client,
            inputs: inputs.clone(),
            lookups: asked.map(|asked| asked.lookups.clone()).unwrap_or_default(),
            verdict: match asked.map(|asked| &asked.result) {
                Some(Ok(answer)) => Verdict::Answer(answer.clone()),
                Some(Err(cause)) => Verdict::Fallback(*cause),
                None => Verdict::Fallback(Cause::None),
            },
            fuel: asked.map_or(0, |asked| asked.fuel),
            took_us: asked.map_or(0, |asked| u64::try_from(asked.took.as_micros()).unwrap_or(u64::MAX)),
            builtin: builtin::decide(inputs),
        });
        if let Some(recorder) = &self.recorder {
            recorder.record(decision);
        }
    }
}

/// Makes comparisons and changes until the node ends, whatever one of them does.
fn work(inner: &Weak<Inner>, queue: &mpsc::Receiver<Job>) {
    let mut looked = Instant::now();
    loop {
        let job = queue.recv_timeout(TICK);
        let Some(inner) = inner.upgrade() else { return };
        let policies = Policies(inner);
        match job {
            Ok(job) => policies.caught("work on policies", || job(&policies)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        // Jobs may come without end.
        if looked.elapsed() >= TICK {
            looked = Instant::now();
            policies.caught("a step of a change", || policies.advance(looked));
        }
    }
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

fn seed(inputs: &Inputs) -> u64 {
    match inputs {
        Inputs::RegionRouter { request, .. } => request.seed,
        Inputs::PreloadPlanner { request, .. } => request.seed,
        Inputs::SuperPeerScheduler { request, .. } => request.seed,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(folder: &std::path::Path) -> Policies {
        Policies::new(PolicyConfig::default(), folder, None, &Registry::new()).unwrap()
    }

    #[test]
    fn a_job_that_panics_is_counted_and_the_next_one_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let policies = policies(folder.path());
        policies.later(|_| panic!("on purpose"));
        policies.later(|_| std::panic::panic_any(7));
        let (done, ended) = mpsc::channel();
        policies.later(move |_| _ = done.send(()));
        ended.recv_timeout(Duration::from_secs(30)).expect("the job after them");
        assert_eq!(policies.0.metrics.panics.get(), 2);
    }

    #[test]
    fn a_start_removes_what_the_last_run_did_not_write_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let native = folder.path().join("native");
        std::fs::create_dir(&native).unwrap();
        let torn = [folder.path().join("abc.policy.new"), native.join("abc.new")];
        torn.iter().for_each(|path| std::fs::write(path, "half").unwrap());
        policies(folder.path());
        assert!(torn.iter().all(|path| !path.exists()));
        assert!(native.join("key").exists());
    }
}

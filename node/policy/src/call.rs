//! One policy for one world, ready to be called: instances, limits, and what a call came to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::component::{Component, Linker};
use wasmtime::{PoolConcurrencyLimitError, Store, UpdateDeadline};

use crate::bindings::{host, peers, plan, preload_planner, region_router, route, super_peer_scheduler};
use crate::cause::Cause;
use crate::engine::{Runtime, TICK};
use crate::guest::{Guest, Itself, Surroundings};
use crate::manifest::{Manifest, World, cut};
use crate::rows::{Answer, Inputs};
use crate::{MOST_ROWS, PolicyError, verdict};

/// What a policy may hand over in one call of the node or as its answer, bytes.
const HAND_OVER: usize = 128 << 10;
/// Of the reason of a policy to which the rows make no sense, characters.
const MOST_SAID: usize = 256;
/// Of what is said of a failure, bytes.
const MOST_TOLD: usize = 8 << 10;

/// What one call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall time.
    pub time: Duration,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Work, about one unit for each instruction.
    pub fuel: u64,
    /// Calls at once; further ones get the built-in verdict.
    pub calls: u32,
    /// Calls after which a reused instance is replaced.
    pub reuses: u32,
}

/// What a call came to.
#[derive(Debug)]
pub struct Called {
    /// The checked answer, or why there is none.
    pub result: Result<Answer, Cause>,
    /// What wasmtime said of a call that did not return, with the guest's functions where it has
    /// their names; or what the policy said of rows that make no sense to it.
    pub error: Option<String>,
    /// Work done.
    pub fuel: u64,
    /// Time from the call to its answer.
    pub took: Duration,
    /// Memory that the instance had at the end, bytes.
    pub memory_bytes: usize,
    /// Lines it wrote.
    pub lines: Vec<(Level, String)>,
    /// What it added to its counters, by their index.
    pub counts: Vec<(u32, u32)>,
    /// What it looked up: table, key, value.
    pub lookups: Vec<(u32, u64, Option<i64>)>,
}

pub use host::Level;

enum Pre {
    Route(region_router::RegionRouterPre<Guest>),
    Plan(preload_planner::PreloadPlannerPre<Guest>),
    Peers(super_peer_scheduler::SuperPeerSchedulerPre<Guest>),
}

enum Bound {
    Route(region_router::RegionRouter),
    Plan(preload_planner::PreloadPlanner),
    Peers(super_peer_scheduler::SuperPeerScheduler),
}

struct Instance {
    store: Store<Guest>,
    bound: Bound,
    calls: u32,
}

/// A policy that is ready to decide for one of its worlds.
pub struct Callable {
    runtime: Arc<Runtime>,
    pre: Pre,
    limits: Limits,
    reuse: bool,
    table_names: Arc<[String]>,
    counters: usize,
    warm: Mutex<Vec<Instance>>,
    /// It does not decide now, and keeps no instances.
    retired: AtomicBool,
    running: AtomicU32,
}

impl Callable {
    /// Links a compiled policy to a world. The limits are the node's; the manifest's may be less.
    ///
    /// # Errors
    /// When it imports what it is not given, or does not export what the world asks for.
    pub fn new(
        runtime: &Arc<Runtime>,
        component: &Component,
        manifest: &Manifest,
        world: World,
        limits: Limits,
    ) -> Result<Self, PolicyError> {
        let engine = runtime.engine();
        for (name, _) in component.component_type().imports(engine) {
            if !["skerry:policy/host@1.", "skerry:policy/types@1.", "wasi:"]
                .iter()
                .any(|own| name.starts_with(own))
            {
                return Err(PolicyError::Import(name.to_owned()));
            }
        }
        let wrong =
            |error: wasmtime::Error| PolicyError::World { world: world.name(), reason: format!("{error:#}") };
        let mut linker = Linker::<Guest>::new(engine);
        host::add_to_linker::<_, Itself>(&mut linker, |guest| guest).map_err(wrong)?;
        // Tools for other languages bring WASI along; who calls it traps.
        if component.component_type().imports(engine).any(|(name, _)| name.starts_with("wasi:")) {
            linker.define_unknown_imports_as_traps(component).map_err(wrong)?;
        }
        let pre = linker.instantiate_pre(component).map_err(wrong)?;
        let pre = match world {
            World::RegionRouter => region_router::RegionRouterPre::new(pre).map(Pre::Route),
            World::PreloadPlanner => preload_planner::PreloadPlannerPre::new(pre).map(Pre::Plan),
            World::SuperPeerScheduler => {
                super_peer_scheduler::SuperPeerSchedulerPre::new(pre).map(Pre::Peers)
            }
        };
        let asked = &manifest.limits;
        let limits = Limits {
            time: asked.time_ms.map_or(limits.time, |ms| limits.time.min(Duration::from_millis(ms))),
            memory_bytes: asked
                .memory_bytes
                .map_or(limits.memory_bytes, |bytes| limits.memory_bytes.min(bytes)),
            fuel: asked.fuel.map_or(limits.fuel, |fuel| limits.fuel.min(fuel)),
            ..limits
        };
        Ok(Self {
            runtime: runtime.clone(),
            pre: pre.map_err(wrong)?,
            limits,
            reuse: manifest.reuse,
            table_names: manifest.tables.clone().into(),
            counters: manifest.counters.len(),
            warm: Mutex::default(),
            retired: AtomicBool::new(false),
            running: AtomicU32::new(0),
        })
    }

    /// What a call may take here.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Instances that wait for their next call.
    pub fn warm(&self) -> usize {
        self.warm.lock().len()
    }

    /// Lets go of the instances that wait, and keeps none from now on; or keeps them again.
    pub(crate) fn retire(&self, retired: bool) {
        self.retired.store(retired, Relaxed);
        if retired {
            self.warm.lock().clear();
        }
    }

    /// Makes instances ahead of their calls, up to `count` that wait. Nothing for a policy that does
    /// not reuse them.
    ///
    /// # Errors
    /// When one cannot be made: the cause is that of a call that could not begin.
    pub fn warm_up(&self, count: usize) -> Result<(), Cause> {
        while self.reuse && self.warm() < count {
            let _running = self.runtime.running();
            let instance = self.instantiate(&Surroundings::default()).map_err(|failed| failed.cause)?;
            self.warm.lock().push(instance);
        }
        Ok(())
    }

    /// Decides. Takes at most twice the policy's time, whatever it does: the second half only where the
    /// processor was busy with something else.
    pub fn call(&self, inputs: &Inputs, surroundings: &Surroundings) -> Called {
        let started = Instant::now();
        if inputs.rows() == 0 || inputs.rows() > MOST_ROWS {
            return Called::not(Cause::Rows, started);
        }
        let place = Place::take(&self.running);
        if place.before >= self.limits.calls {
            return Called::not(Cause::Full, started);
        }
        let _running = self.runtime.running();
        self.admitted(inputs, surroundings, started)
    }

    fn admitted(&self, inputs: &Inputs, surroundings: &Surroundings, started: Instant) -> Called {
        let warm = self.warm.lock().pop();
        let instance = match warm {
            Some(mut instance) => instance
                .begin(&self.limits, surroundings)
                .map(|()| instance)
                .map_err(|error| Failed::of(error, false)),
            None => self.instantiate(surroundings),
        };
        let mut instance = match instance {
            Ok(instance) => instance,
            Err(failed) => return Called { error: Some(failed.error), ..Called::not(failed.cause, started) },
        };
        let result = instance.decide(inputs);
        let left = instance.store.get_fuel().unwrap_or(0);
        let guest = instance.store.data_mut();
        let mut called = Called {
            result: Err(Cause::Trap),
            error: None,
            fuel: self.limits.fuel.saturating_sub(left),
            took: Duration::ZERO,
            memory_bytes: guest.memory,
            lines: std::mem::take(&mut guest.lines),
            counts: std::mem::take(&mut guest.counts),
            lookups: std::mem::take(&mut guest.lookups),
        };
        match result {
            Ok(answer) => {
                let said = matches!(answer, Answer::Invalid(_)).then(|| cut(&answer.to_string(), MOST_SAID));
                called.result = verdict::check(answer, inputs.world(), inputs.rows());
                called.error = said;
                instance.calls += 1;
                if self.reuse && instance.calls < self.limits.reuses && !self.retired.load(Relaxed) {
                    self.warm.lock().push(instance);
                }
            }
            Err(error) => {
                called.result = Err(Cause::of(&error, guest.denied));
                called.error = Some(told(&error));
            }
        }
        called.took = started.elapsed();
        called
    }

    fn instantiate(&self, surroundings: &Surroundings) -> Result<Instance, Failed> {
        let memory = usize::try_from(self.limits.memory_bytes).unwrap_or(usize::MAX);
        let guest = Guest::new(memory, self.table_names.clone(), self.counters);
        let mut store = Store::new(self.runtime.engine(), guest);
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(HAND_OVER);
        let limit = self.limits.time;
        store.epoch_deadline_callback(move |mut context| {
            Ok(if context.data_mut().may_go_on(limit) {
                UpdateDeadline::Continue(1)
            } else {
                UpdateDeadline::Interrupt
            })
        });
        let begun = begin(&mut store, &self.limits, surroundings);
        let bound = begun.and_then(|()| match &self.pre {
            Pre::Route(pre) => pre.instantiate(&mut store).map(Bound::Route),
            Pre::Plan(pre) => pre.instantiate(&mut store).map(Bound::Plan),
            Pre::Peers(pre) => pre.instantiate(&mut store).map(Bound::Peers),
        });
        match bound {
            Ok(bound) => Ok(Instance { store, bound, calls: 0 }),
            Err(error) => Err(Failed::of(error, store.data().denied)),
        }
    }
}

impl Instance {
    fn begin(&mut self, limits: &Limits, surroundings: &Surroundings) -> wasmtime::Result<()> {
        begin(&mut self.store, limits, surroundings)
    }

    fn decide(&mut self, inputs: &Inputs) -> wasmtime::Result<Answer> {
        let store = &mut self.store;
        match (&self.bound, inputs) {
            (Bound::Route(policy), Inputs::RegionRouter { request, candidates }) => {
                let candidates: Vec<route::Candidate> = candidates.iter().map(Into::into).collect();
                let interface = policy.skerry_policy_region_routing();
                interface.call_route(store, request.into(), &candidates).map(Into::into)
            }
            (Bound::Plan(policy), Inputs::PreloadPlanner { request, items }) => {
                let items: Vec<plan::Item> = items.iter().map(Into::into).collect();
                let interface = policy.skerry_policy_preload_planning();
                interface.call_plan(store, request.into(), &items).map(Into::into)
            }
            (Bound::Peers(policy), Inputs::SuperPeerScheduler { request, candidates }) => {
                let candidates: Vec<peers::Candidate> = candidates.iter().map(Into::into).collect();
                let interface = policy.skerry_policy_peer_scheduling();
                interface.call_schedule_peers(store, request.into(), &candidates).map(Into::into)
            }
            _ => Ok(Answer::Abstain),
        }
    }
}

/// Gives a call its time and its fuel.
fn begin(store: &mut Store<Guest>, limits: &Limits, surroundings: &Surroundings) -> wasmtime::Result<()> {
    store.data_mut().begin(surroundings, limits.time);
    store.set_fuel(limits.fuel)?;
    // The tick that has begun is not counted.
    store.set_epoch_deadline((limits.time.as_nanos() / TICK.as_nanos()) as u64 + 1);
    Ok(())
}

/// One of the calls that may run at once.
struct Place<'a> {
    running: &'a AtomicU32,
    before: u32,
}

impl<'a> Place<'a> {
    fn take(running: &'a AtomicU32) -> Self {
        Self { running, before: running.fetch_add(1, Relaxed) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Relaxed);
    }
}

struct Failed {
    cause: Cause,
    error: String,
}

impl Failed {
    fn of(error: wasmtime::Error, denied: bool) -> Self {
        let full = error.is::<PoolConcurrencyLimitError>();
        let cause = if full { Cause::Full } else { Cause::of(&error, denied) };
        Self { cause, error: told(&error) }
    }
}

impl Called {
    fn not(cause: Cause, started: Instant) -> Self {
        Self {
            result: Err(cause),
            error: None,
            fuel: 0,
            took: started.elapsed(),
            memory_bytes: 0,
            lines: Vec::new(),
            counts: Vec::new(),
            lookups: Vec::new(),
        }
    }
}

/// What wasmtime says of a failure, with the guest's functions: cut, since their names are the
/// guest's, too.
fn told(error: &wasmtime::Error) -> String {
    struct Cut(String);

    impl fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = MOST_TOLD.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() > room { Err(fmt::Error) } else { Ok(()) }
        }
    }

    let mut cut = Cut(String::new());
    if fmt::write(&mut cut, format_args!("{error:?}")).is_err() {
        cut.0.push_str(" [...]");
    }
    cut.0
}

//! The wasmtime engine that all policies share, and the clock that ends their calls.
//!
//! Two limits run at once, since each has a blind spot: epochs bound the time, but are looked at only
//! where the guest loops, enters a function or moves memory; fuel bounds the work, also where nobody
//! looks at the clock, but does not see the host's time. Host calls look at the time themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, RegallocAlgorithm,
    Strategy, WasmBacktraceDetails,
};

use crate::{PolicyError, native};

/// One step of the clock of calls.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// After so many ticks without a call the clock rests.
const IDLE_TICKS: u32 = 1000;
/// Stack of a call in bytes: a policy is no place for deep recursion.
const STACK: usize = 256 << 10;
/// Core instances that one component may have: an interpreter comes with a library for each of its
/// parts (componentize-py has 38).
const CORES: u32 = 64;
/// Memories that one component may have: adapters bring empty ones.
const MEMORIES: u32 = 4;
/// Tables that one component may have.
const TABLES: u32 = 8;
/// Elements of a table: function pointers.
const TABLE: usize = 20_000;
/// What stays in place of a memory's first bytes when its instance ends, in bytes.
const KEEP: usize = 64 << 10;

/// What the engine is made for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Instances at once, warm ones included.
    pub instances: u32,
    /// Largest memory that a policy may be given, bytes.
    pub memory_bytes: u64,
    /// Whether failures name the lines of the source: for authors. A node does not read the debug
    /// information of strangers.
    pub lines: bool,
}

/// What code is made for: the same for whoever compiles and for whoever runs it.
fn config(lines: bool) -> Config {
    let details = if lines { WasmBacktraceDetails::Enable } else { WasmBacktraceDetails::Disable };
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .cranelift_nan_canonicalization(true)
        .wasm_component_model(true)
        .concurrency_support(false)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .memory_init_cow(true)
        .wasm_backtrace_details(details)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    config
}

/// An engine that only compiles.
pub(crate) fn compiler(lines: bool) -> Result<Engine, PolicyError> {
    Engine::new(&config(lines)).map_err(|error| PolicyError::Engine(error.to_string()))
}

/// Runs policies.
pub struct Runtime {
    engine: Engine,
    clock: Arc<Clock>,
    pub(crate) lines: bool,
}

struct Clock {
    running: AtomicUsize,
    resting: AtomicBool,
    ended: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Runtime {
    /// An engine with room for `room`, and its clock.
    pub fn new(room: Room) -> Result<Arc<Self>, PolicyError> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(room.instances)
            .total_core_instances(room.instances * CORES)
            .total_memories(room.instances * MEMORIES)
            .total_tables(room.instances * TABLES)
            .max_core_instances_per_component(CORES)
            .max_memories_per_component(MEMORIES)
            .max_tables_per_component(TABLES)
            .max_memories_per_module(1)
            .max_tables_per_module(4)
            .table_elements(TABLE)
            .max_memory_size(usize::try_from(room.memory_bytes).unwrap_or(usize::MAX))
            .linear_memory_keep_resident(KEEP)
            .table_keep_resident(4 << 10)
            .max_unused_warm_slots(room.instances);
        let mut config = config(room.lines);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        config.with_custom_code_memory(Some(Arc::new(native::Mapped)));
        let engine = Engine::new(&config).map_err(|error| PolicyError::Engine(error.to_string()))?;
        let clock = Arc::new(Clock {
            running: AtomicUsize::new(0),
            resting: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let (ticking, of) = (clock.clone(), engine.clone());
        std::thread::Builder::new()
            .name("policy-clock".into())
            .spawn(move || ticking.run(&of))
            .map_err(|error| PolicyError::Engine(error.to_string()))?;
        Ok(Arc::new(Self { engine, clock, lines: room.lines }))
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A call runs until the value is dropped: the clock goes on meanwhile.
    pub(crate) fn running(&self) -> Running<'_> {
        self.clock.running.fetch_add(1, SeqCst);
        if self.clock.resting.load(SeqCst) {
            let _held = self.clock.lock.lock();
            self.clock.wake.notify_one();
        }
        Running(&self.clock)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.clock.ended.store(true, SeqCst);
        let _held = self.clock.lock.lock();
        self.clock.wake.notify_one();
    }
}

/// A call that runs.
pub(crate) struct Running<'a>(&'a Clock);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Clock {
    fn run(&self, engine: &Engine) {
        let mut idle = 0;
        let mut next = Instant::now() + TICK;
        while !self.ended.load(SeqCst) {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            // One for each tick that has passed, however late this thread is.
            while next <= Instant::now() {
                engine.increment_epoch();
                next += TICK;
            }
            idle = if self.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
            if idle < IDLE_TICKS {
                continue;
            }
            let mut held = self.lock.lock();
            self.resting.store(true, SeqCst);
            // A call that began before it saw `resting` is seen here.
            while self.running.load(SeqCst) == 0 && !self.ended.load(SeqCst) {
                self.wake.wait(&mut held);
            }
            self.resting.store(false, SeqCst);
            idle = 0;
            next = Instant::now() + TICK;
        }
    }
}

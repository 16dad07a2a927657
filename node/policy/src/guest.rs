//! What a policy sees of the node while it runs, and what the node keeps of the call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::HasData;
use wasmtime::{ResourceLimiter, Result, Trap};

use crate::bindings::{host, types};
use crate::cause::Flood;
use crate::engine::TICK;

/// Bytes of a log line that are kept.
const LINE: usize = 256;
/// Lines of one call that are kept.
const LINES: usize = 16;
/// Calls of the host in one call of a policy.
const HOST_CALLS: u32 = 10_000;
/// Elements of one of a guest's tables.
const ELEMENTS: usize = 20_000;

/// Tables that the operator gives policies: by name, key to value.
pub type Tables = HashMap<String, HashMap<u64, i64>>;

/// What a call may look at.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Milliseconds since 1970-01-01 UTC, frozen for the call.
    pub now_ms: u64,
    /// The operator's tables.
    pub tables: Arc<Tables>,
}

/// The state of one instance's store.
#[derive(Default)]
pub(crate) struct Guest {
    memory_bytes: usize,
    /// Names of its tables and number of its counters, by its manifest.
    table_names: Arc<[String]>,
    counters: usize,
    surroundings: Surroundings,
    host_calls: u32,
    /// When its time is over, for calls of the host: nothing else looks at the clock between them.
    deadline: Option<Instant>,
    /// Since its time is over: the processor's time of this thread then.
    late: Option<Duration>,
    /// Whether it asked for memory in vain.
    pub(crate) denied: bool,
    /// Its memory now, bytes.
    pub(crate) memory: usize,
    /// What this call added to its counters.
    pub(crate) counts: Vec<(u32, u32)>,
    /// What this call wrote.
    pub(crate) lines: Vec<(host::Level, String)>,
    /// What this call looked up, for its replay.
    pub(crate) lookups: Vec<(u32, u64, Option<i64>)>,
}

impl Guest {
    pub(crate) fn new(memory_bytes: usize, table_names: Arc<[String]>, counters: usize) -> Self {
        Self { memory_bytes, table_names, counters, ..Self::default() }
    }

    /// Begins another call.
    pub(crate) fn begin(&mut self, surroundings: &Surroundings, limit: Duration) {
        self.deadline = Some(Instant::now() + limit);
        self.surroundings.clone_from(surroundings);
        self.host_calls = 0;
        self.late = None;
        self.denied = false;
        self.counts.clear();
        self.lines.clear();
        self.lookups.clear();
    }

    /// Its ticks are over. Whether it may go on: ticks that came late, and then all at once, are no time; a
    /// call that was late because other threads had the processor gets a tick of it, within as much time
    /// again; one that runs on does not.
    pub(crate) fn may_go_on(&mut self, limit: Duration) -> bool {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now < deadline) {
            return true;
        }
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let cpu = Duration::new(cpu.tv_sec.cast_unsigned(), cpu.tv_nsec as u32);
        let spent = *self.late.get_or_insert(cpu);
        let in_time = self.deadline.is_none_or(|deadline| now < deadline + limit);
        cpu.saturating_sub(spent) < TICK && in_time
    }

    fn called(&mut self) -> Result<()> {
        self.host_calls += 1;
        if self.host_calls > HOST_CALLS {
            return Err(Flood(HOST_CALLS).into());
        }
        if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Err(Trap::Interrupt.into());
        }
        Ok(())
    }
}

/// Gives bindings the guest itself.
pub(crate) struct Itself;

impl HasData for Itself {
    type Data<'a> = &'a mut Guest;
}

impl types::Host for Guest {}

impl host::Host for Guest {
    fn log(&mut self, level: host::Level, mut message: String) -> Result<()> {
        self.called()?;
        if self.lines.len() < LINES {
            message.truncate(message.floor_char_boundary(LINE));
            self.lines.push((level, message));
        }
        Ok(())
    }

    fn now(&mut self) -> Result<u64> {
        self.called()?;
        Ok(self.surroundings.now_ms)
    }

    fn lookup(&mut self, table: u32, key: u64) -> Result<Option<i64>> {
        self.called()?;
        let name = self.table_names.get(table as usize);
        let value = name.and_then(|name| self.surroundings.tables.get(name)?.get(&key)).copied();
        self.lookups.push((table, key, value));
        Ok(value)
    }

    fn count(&mut self, counter: u32, by: u32) -> Result<()> {
        self.called()?;
        if (counter as usize) < self.counters {
            self.counts.push((counter, by));
        }
        Ok(())
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            return Ok(false);
        }
        let grown = self.memory + (desired - current.min(desired));
        if grown > self.memory_bytes {
            self.denied = true;
            return Ok(false);
        }
        self.memory = grown;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        Ok(desired <= ELEMENTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_that_come_all_at_once_take_no_time_from_a_call() {
        let limit = Duration::from_secs(3600);
        let mut guest = Guest::new(0, Arc::default(), 0);
        guest.begin(&Surroundings::default(), limit);
        let begun = Instant::now();
        while begun.elapsed() < 10 * TICK {
            assert!(guest.may_go_on(limit));
        }
        guest.begin(&Surroundings::default(), Duration::ZERO);
        let begun = Instant::now();
        while guest.may_go_on(limit) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it runs on");
        }
    }
}

//! A node for unit tests: a clock and tables to read, and what a policy logged and counted.
//!
//! ```
//! use skerry_policy_sdk::{harness::Harness, host};
//!
//! let node = Harness::new().now(60_000).table(0, [(7, -1)]);
//! let outcome = node.run(|| {
//!     host::info("about to look");
//!     host::count(2, 1);
//!     (host::now(), host::lookup(0, 7), host::lookup(0, 8))
//! });
//! assert_eq!(outcome.answer, (60_000, Some(-1), None));
//! assert_eq!(outcome.lines, [(host::Level::Info, String::from("about to look"))]);
//! assert_eq!(outcome.counter(2), 1);
//! ```
//!
//! It belongs to the thread that runs it, so tests may run side by side. Time, memory and fuel are
//! not limited here: `skerry policy test` and `skerry policy bench` run the component itself.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::MOST_TEXT;
use crate::host::Level;

/// Log lines that the node keeps of one call.
const MOST_LINES: usize = 16;

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

struct Running {
    node: Harness,
    lines: Vec<(Level, String)>,
    counters: BTreeMap<u32, u64>,
}

/// What a policy under test can read.
#[derive(Clone, Debug, Default)]
pub struct Harness {
    now: u64,
    tables: BTreeMap<(u32, u64), i64>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// What the closure gave back.
    pub answer: T,
    /// What was logged, as the node would keep it: 16 lines, each cut at 256 bytes.
    pub lines: Vec<(Level, String)>,
    /// What was counted, by counter.
    pub counters: BTreeMap<u32, u64>,
}

impl Harness {
    /// A node with its clock at 0 and no tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the clock, in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now(mut self, millis: u64) -> Self {
        self.now = millis;
        self
    }

    /// Adds keys and values to a table.
    #[must_use]
    pub fn table(mut self, table: u32, entries: impl IntoIterator<Item = (u64, i64)>) -> Self {
        self.tables.extend(entries.into_iter().map(|(key, value)| ((table, key), value)));
        self
    }

    /// Runs `call` with this node behind [`host`](crate::host).
    pub fn run<T>(&self, call: impl FnOnce() -> T) -> Outcome<T> {
        let fresh = Running { node: self.clone(), lines: Vec::new(), counters: BTreeMap::new() };
        let outer = RUNNING.replace(Some(fresh));
        let answer = call();
        let (lines, counters) = match RUNNING.replace(outer) {
            Some(ended) => (ended.lines, ended.counters),
            None => Default::default(),
        };
        Outcome { answer, lines, counters }
    }
}

impl<T> Outcome<T> {
    /// What was counted in one counter.
    #[must_use]
    pub fn counter(&self, counter: u32) -> u64 {
        self.counters.get(&counter).copied().unwrap_or(0)
    }
}

fn with<T>(ask: impl FnOnce(&mut Running) -> T) -> Option<T> {
    RUNNING.with_borrow_mut(|running| running.as_mut().map(ask))
}

pub(crate) fn log(level: Level, line: &str) {
    with(|running| {
        if running.lines.len() < MOST_LINES {
            let mut end = line.len().min(MOST_TEXT);
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            running.lines.push((level, line[..end].to_owned()));
        }
    });
}

pub(crate) fn now() -> u64 {
    with(|running| running.node.now).unwrap_or(0)
}

pub(crate) fn lookup(table: u32, key: u64) -> Option<i64> {
    with(|running| running.node.tables.get(&(table, key)).copied()).flatten()
}

pub(crate) fn count(counter: u32, by: u32) {
    with(|running| *running.counters.entry(counter).or_default() += u64::from(by));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn lines_are_cut_and_counted_like_the_node_does() {
        let outcome = Harness::new().run(|| {
            host::warn(&"é".repeat(200));
            for _ in 0..20 {
                host::debug("again");
            }
            host::count(0, u32::MAX);
            host::count(0, 1);
        });
        assert_eq!(outcome.lines.len(), 16);
        assert_eq!(outcome.lines[0], (Level::Warn, "é".repeat(128)));
        assert_eq!(outcome.counter(0), u64::from(u32::MAX) + 1);
        assert_eq!(outcome.counter(1), 0);
    }

    #[test]
    fn without_a_harness_the_host_is_empty() {
        host::info("to nobody");
        host::count(0, 1);
        assert_eq!((host::now(), host::lookup(0, 0)), (0, None));
    }

    #[test]
    fn the_inner_of_two_runs_ends_with_it() {
        let outer = Harness::new().now(1).run(|| {
            let inner = Harness::new().now(2).run(host::now);
            host::info("outside");
            (inner.answer, inner.lines.len(), host::now())
        });
        assert_eq!(outer.answer, (2, 0, 1));
        assert_eq!(outer.lines.len(), 1);
    }
}

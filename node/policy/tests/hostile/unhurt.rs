//! What holds for policies that mean well: limits, admission, reuse, and what comes back of a call.

use std::collections::HashMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use skerry_policy::call::Level;
use skerry_policy::{Callable, Cause, Limits, MOST_ROWS, Room, Runtime, Surroundings};

use crate::guests::{FIRST, FOR_EVER, Guest};
use crate::node::{LIMITS, Node, ROWS, inputs, packed, row, timed};

const NAMES: &str = "counters = [\"low\", \"high\"]\ntables = [\"weights\"]\n";

/// Chooses row 0 in the first call of an instance, row 1 in its second, and so on.
fn counting() -> Guest {
    Guest::new(format!(
        "(i32.store (i32.const 64) (i32.load (i32.const 128)))
         (i32.store (i32.const 128) (i32.add (i32.load (i32.const 128)) (i32.const 1)))
         {FIRST}"
    ))
}

#[test]
fn a_manifest_asks_for_less_and_never_gets_more() {
    let node = Node::new();
    let limits = |asked: &str| {
        let manifest = format!("[limits]\n{asked}\n");
        *node.policy_with(&Guest::new(FIRST), &manifest, LIMITS).limits()
    };
    assert_eq!(
        limits("time_ms = 20\nmemory_bytes = 65536\nfuel = 5000"),
        Limits { time: Duration::from_millis(20), memory_bytes: 65536, fuel: 5000, ..LIMITS }
    );
    assert_eq!(limits("time_ms = 101\nmemory_bytes = 16777217\nfuel = 9223372036854775807"), LIMITS);
    assert_eq!(limits("fuel = 1"), Limits { fuel: 1, ..LIMITS });
    assert_eq!(limits(""), LIMITS);
    let hasty = node.policy_with(&Guest::new(FOR_EVER), "[limits]\ntime_ms = 50\n", LIMITS);
    let called = node.ends(&hasty, Cause::Deadline);
    assert!(called.took > Duration::from_millis(25), "ended after {:?}", called.took);
}

#[test]
fn calls_beyond_those_that_may_run_get_none() {
    let node = Node::new();
    let limits = Limits { calls: 2, time: Duration::from_secs(3), ..LIMITS };
    let slow = node.policy_with(&Guest::new(FOR_EVER), "", limits);
    let together = Barrier::new(6);
    let mut calls: Vec<_> = thread::scope(|scope| {
        let call = || {
            together.wait();
            timed(&slow)
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(call)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a call")).collect()
    });
    calls.sort_by_key(|(_, took)| *took);
    for (called, took) in &calls[..4] {
        assert_eq!(called.result, Err(Cause::Full), "{:?}", called.error);
        assert!(*took < limits.time / 2, "it was told so after {took:?}");
    }
    for (called, _) in &calls[4..] {
        assert_eq!(called.result, Err(Cause::Deadline), "{:?}", called.error);
    }
    // Who was turned away takes no place, nor who has ended.
    node.ends(&slow, Cause::Deadline);
}

#[test]
fn an_engine_without_room_is_full() {
    let node = Node::new();
    let small = Runtime::new(Room { instances: 1, memory_bytes: 16 << 20, lines: false }).expect("an engine");
    let policy = |manifest: &str| {
        let package = packed(&Guest::new(FIRST).component(), manifest);
        let native = node.compiler.component(&small, &package).expect("native code");
        let world = package.manifest.worlds[0];
        Callable::new(&small, &native, &package.manifest, world, LIMITS).expect("a policy")
    };
    let (warm, other) = (policy("reuse = true\n"), policy(""));
    warm.warm_up(1).expect("an instance");
    let called = timed(&other).0;
    assert_eq!(called.result, Err(Cause::Full), "{:?}", called.error);
    assert_eq!(warm.warm_up(2), Err(Cause::Full));
    assert_eq!(timed(&warm).0.result, row(0));
    drop(warm);
    assert_eq!(timed(&other).0.result, row(0));
}

#[test]
fn a_reused_instance_keeps_its_memory_and_a_fresh_one_has_none() {
    let node = Node::new();
    let rows = |manifest: &str, reuses| {
        let policy = node.policy_with(&counting(), manifest, Limits { reuses, ..LIMITS });
        let rows: Vec<_> = (0..ROWS).map(|_| timed(&policy).0.result).collect();
        (rows, policy.warm())
    };
    assert_eq!(rows("", 1000), (vec![row(0), row(0), row(0), row(0)], 0));
    assert_eq!(rows("reuse = true\n", 1000), (vec![row(0), row(1), row(2), row(3)], 1));
    // It retires after its calls.
    assert_eq!(rows("reuse = true\n", 2), (vec![row(0), row(1), row(0), row(1)], 0));
    assert_eq!(rows("reuse = true\n", 1), (vec![row(0), row(0), row(0), row(0)], 0));
}

#[test]
fn instances_are_made_ahead() {
    let node = Node::new();
    let policy = node.policy_with(&counting(), "reuse = true\n", LIMITS);
    policy.warm_up(3).expect("instances");
    assert_eq!(policy.warm(), 3);
    assert_eq!(timed(&policy).0.result, row(0));
    assert_eq!(policy.warm(), 3);
    let fresh = node.policy(&counting());
    fresh.warm_up(3).expect("none");
    assert_eq!(fresh.warm(), 0);
}

#[test]
fn what_a_call_did_comes_back() {
    let node = Node::new();
    let guest = Guest::new(format!(
        "(call $lookup (i32.const 0) (i64.const 42) (i32.const 32))
         (i32.store (i32.const 64) (i32.wrap_i64 (i64.load (i32.const 40))))
         (call $count (i32.const 0) (i32.load8_u (i32.const 32)))
         (call $lookup (i32.const 0) (i64.const -1) (i32.const 32))
         (call $count (i32.const 1) (i32.load8_u (i32.const 32)))
         (call $lookup (i32.const 1) (i64.const 42) (i32.const 32))
         (call $count (i32.const 2) (i32.const 9))
         (call $log (i32.const 0) (i32.const 128) (i32.const 3))
         (call $log (i32.const 1) (i32.const 128) (i32.const 0))
         (call $log (i32.const 2) (i32.const 131) (i32.const 5))
         {FIRST}"
    ))
    .with(r#"(data (i32.const 128) "onethr\c3\a9e")"#);
    let weights = HashMap::from([(42, 3), (u64::MAX - 1, 1)]);
    let tables = Arc::new(HashMap::from([("weights".to_owned(), weights)]));
    let surroundings = Surroundings { now_ms: 0, tables };
    for manifest in [NAMES.to_owned(), format!("reuse = true\n{NAMES}")] {
        let policy = node.policy_with(&guest, &manifest, LIMITS);
        // The second call gives back what it did itself, and nothing of the first.
        for _ in 0..2 {
            let called = policy.call(&inputs(ROWS), &surroundings);
            assert_eq!(called.result, row(3), "{:?}", called.error);
            assert_eq!(called.lookups, [(0, 42, Some(3)), (0, u64::MAX, None), (1, 42, None)]);
            assert_eq!(called.counts, [(0, 1), (1, 0)]);
            let lines = [(Level::Debug, "one"), (Level::Info, ""), (Level::Warn, "thré")];
            assert_eq!(called.lines, lines.map(|(level, line)| (level, line.to_owned())));
            assert!((1..LIMITS.fuel).contains(&called.fuel));
            assert_eq!(called.memory_bytes, 1 << 16);
            assert!(called.error.is_none());
        }
    }
}

#[test]
fn sixteen_lines_are_kept() {
    let node = Node::new();
    let log = "(call $log (i32.const 1) (i32.const 64) (i32.const 8))".repeat(20);
    let called = node.answers(&node.policy(&Guest::new(format!("{log} {FIRST}"))));
    assert_eq!(called.lines.len(), 16);
}

#[test]
fn the_clock_stands_still() {
    let node = Node::new();
    let read = "(call $count (i32.const 0) (i32.wrap_i64 (call $now)))
         (call $count (i32.const 1) (i32.wrap_i64 (i64.shr_u (call $now) (i64.const 32))))";
    let guest = Guest::new(format!(
        "(local $left i32)
         {read}
         (local.set $left (i32.const 5000000))
         (loop $wait (br_if $wait (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         {read}
         {FIRST}"
    ));
    let policy = node.policy_with(&guest, &format!("reuse = true\n{NAMES}"), LIMITS);
    for now_ms in [1_700_000_000_123_u64, 0, u64::MAX] {
        let called = policy.call(&inputs(ROWS), &Surroundings { now_ms, ..Surroundings::default() });
        let (low, high) = ((0, now_ms as u32), (1, (now_ms >> 32) as u32));
        assert_eq!(called.counts, [low, high, low, high], "{:?}", called.error);
        assert!(called.took > Duration::from_micros(500), "nobody waited: {:?}", called.took);
    }
}

#[test]
fn rows_have_a_limit() {
    let node = Node::new();
    let policy = node.policy(&Guest::new(FIRST).memory("4"));
    for (rows, result) in
        [(0, Err(Cause::Rows)), (1, row(0)), (MOST_ROWS, row(0)), (MOST_ROWS + 1, Err(Cause::Rows))]
    {
        let called = policy.call(&inputs(rows), &Surroundings::default());
        assert_eq!(called.result, result, "{rows} rows: {:?}", called.error);
    }
}

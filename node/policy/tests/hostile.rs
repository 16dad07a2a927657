//! Hostile policies: each call ends for the right cause within twice its time, and a good policy on
//! the same engine answers right afterwards.

#[path = "hostile/files.rs"]
mod files;
#[path = "hostile/guests.rs"]
mod guests;
#[path = "hostile/node.rs"]
mod node;
#[path = "hostile/unhurt.rs"]
mod unhurt;

use std::thread;
use std::time::Duration;

use guests::{CANDIDATES, FIRST, FOR_EVER, Guest, deep, greedy, in_call, ranked, repeats, says, unfolding};
use node::{LIMITS, LITTLE_FUEL, Node, TIME};
use skerry_policy::{Cause, Limits};

/// Memory that is all a guest may have: 256 pages.
const FULL: &str = "256";
const REUSE: &str = "reuse = true\n";

#[test]
fn loops_without_end() {
    let node = Node::new();
    let tail_calls = Guest::new("(call $spin)").with("(func $spin (result i32) (return_call $spin))");
    for guest in [Guest::new(FOR_EVER), tail_calls] {
        node.ends(&node.policy(&guest), Cause::Deadline);
        let called = node.ends(&node.policy_with(&guest, "", LITTLE_FUEL), Cause::Fuel);
        assert!(called.took < TIME, "fuel ended it after {:?}", called.took);
    }
}

#[test]
fn memory_without_end() {
    let node = Node::new();
    let called = node.ends(&node.policy(&greedy()), Cause::Memory);
    assert_eq!(called.memory_bytes as u64, LIMITS.memory_bytes);
    let asked = "[limits]\nmemory_bytes = 1048576\n";
    let called = node.ends(&node.policy_with(&greedy(), asked, LIMITS), Cause::Memory);
    assert_eq!(called.memory_bytes, 1 << 20);
    node.ends(&node.policy(&Guest::new(FIRST).memory("257")), Cause::Memory);
    node.answers(&node.policy(&Guest::new(FIRST).memory(FULL)));
    // One that is refused and asks again for ever.
    let insistent = Guest::new("(loop $again (drop (memory.grow (i32.const 1))) (br $again)) unreachable");
    node.ends(&node.policy(&insistent), Cause::Deadline);
    // One that is refused and makes do with what it has is not punished for it.
    node.answers(&node.policy(&repeats(1000, "(drop (memory.grow (i32.const 1)))")));
}

#[test]
fn memory_that_was_not_given_is_not_counted() {
    let node = Node::new();
    let guest = repeats(1000, "(drop (memory.grow (i32.const 1)))").memory("1 2");
    let called = node.answers(&node.policy(&guest));
    assert_eq!(called.memory_bytes, 2 << 16);
}

#[test]
fn tables_without_end() {
    let node = Node::new();
    let grow = "(table.grow $t (ref.null func) (i32.const 1000))";
    let guest = Guest::new(format!("(loop $more (br_if $more (i32.ne {grow} (i32.const -1)))) unreachable"))
        .with("(table $t 0 funcref)");
    node.ends(&node.policy(&guest), Cause::Trap);
}

#[test]
fn long_instructions() {
    let node = Node::new();
    let copy = "(memory.copy (i32.const 0) (i32.const 8388608) (i32.const 8388608))";
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 16777216))";
    for action in [copy, fill] {
        let guest = Guest::new(format!("(loop $again {action} (br $again)) unreachable")).memory(FULL);
        node.ends(&node.policy(&guest), Cause::Deadline);
        let fuel = 1 << 26;
        node.ends(&node.policy_with(&guest, "", Limits { fuel, ..LIMITS }), Cause::Fuel);
        // Without a loop, where the clock is looked at.
        let guest = Guest::new(format!("{} {FIRST}", action.repeat(5000))).memory(FULL);
        node.ends(&node.policy(&guest), Cause::Deadline);
    }
}

#[test]
fn deep_recursion() {
    let node = Node::new();
    node.ends(&node.policy(&deep()), Cause::Stack);
}

#[test]
fn calls_of_the_host_without_end() {
    let node = Node::new();
    let limits = Limits { time: Duration::from_secs(2), ..LIMITS };
    for action in [
        "(drop (call $now))",
        "(call $count (i32.const 0) (i32.const 1))",
        "(call $lookup (i32.const 0) (i64.const 1) (i32.const 32))",
        "(call $log (i32.const 0) (i32.const 64) (i32.const 8))",
    ] {
        node.answers(&node.policy_with(&repeats(10_000, action), "", limits));
        node.ends(&node.policy_with(&repeats(10_001, action), "", limits), Cause::Flood);
    }
    // The count begins anew with each call, also of a reused instance.
    let policy = node.policy_with(&repeats(10_000, "(drop (call $now))"), REUSE, limits);
    (0..3).for_each(|_| drop(node.answers(&policy)));
}

#[test]
fn calls_of_the_host_that_take_long() {
    let node = Node::new();
    // 120,000 bytes of `é`, which take a while to check, and 9,000 calls with them one after another,
    // with no loop between them, where the clock is looked at.
    let write = format!(
        "(local $at i32)
         (local.set $at (i32.const {CANDIDATES}))
         (loop $next
             (i64.store (local.get $at) (i64.const 0xa9c3a9c3a9c3a9c3))
             (local.set $at (i32.add (local.get $at) (i32.const 8)))
             (br_if $next (i32.lt_u (local.get $at) (i32.const 130000))))"
    );
    let log = format!("(call $log (i32.const 0) (i32.const {CANDIDATES}) (i32.const 120000))");
    let guest = Guest::new(format!("{write} {} {FIRST}", log.repeat(9000))).memory(FULL);
    node.ends(&node.policy(&guest), Cause::Deadline);
}

#[test]
fn messages_that_are_too_long() {
    let node = Node::new();
    let log = |bytes: u32| {
        let log = format!("(call $log (i32.const 0) (i32.const 4096) (i32.const {bytes}))");
        Guest::new(format!("{log} {FIRST}")).memory(FULL)
    };
    let called = node.answers(&node.policy(&log(128 << 10)));
    assert_eq!(called.lines.len(), 1);
    assert_eq!(called.lines[0].1.len(), 256);
    for bytes in [(128 << 10) + 1, 1 << 20] {
        let called = node.ends(&node.policy(&log(bytes)), Cause::Flood);
        assert!(called.lines.is_empty());
    }
}

#[test]
fn answers_that_are_too_long() {
    let node = Node::new();
    let from = CANDIDATES as u32;
    // 128 KiB fit, and are looked at.
    node.ends(&node.policy(&says(0, from, 16_384).memory(FULL)), Cause::BadIndex);
    node.ends(&node.policy(&says(0, from, 16_385).memory(FULL)), Cause::Flood);
    node.ends(&node.policy(&says(0, from, 1_000_000).memory(FULL)), Cause::Flood);
    node.ends(&node.policy(&says(2, from, 128 << 10).memory(FULL)), Cause::Invalid);
    node.ends(&node.policy(&says(2, from, 1 << 20).memory(FULL)), Cause::Flood);
}

#[test]
fn rows_that_are_not_there() {
    let node = Node::new();
    node.answers(&node.policy(&ranked(&[(0, 1)])));
    for choices in [
        &[(4, 1)][..],
        &[(u32::MAX, 1)],
        &[(0, 1), (1, 1), (4, 1)],
        &[(0, 1), (1, 1), (0, 1)],
        &[(0, 0)],
        &[(0, 1_000_001)],
        &[(0, u32::MAX)],
        &[],
    ] {
        let called = node.ends(&node.policy(&ranked(choices)), Cause::BadIndex);
        assert!(called.error.is_none());
    }
}

#[test]
fn answers_that_are_none() {
    let node = Node::new();
    node.ends(&node.policy(&says(1, 0, 0)), Cause::Abstain);
    node.ends(&node.policy(&says(2, 64, 8)), Cause::Invalid);
}

#[test]
fn answers_against_the_rules_of_the_component_model() {
    let node = Node::new();
    let last = (1 << 16) - 4;
    for (what, guest) in [
        ("a list that ends outside memory", says(0, last, 1)),
        ("a list outside memory", says(0, u32::MAX - 7, 1)),
        ("a list longer than any memory", says(0, 64, u32::MAX)),
        ("a list between addresses", says(0, 66, 1)),
        ("a text that ends outside memory", says(2, last, 8)),
        ("a text that is none", says(2, 128, 3).with(r#"(data (i32.const 128) "\ff\fe\fd")"#)),
        ("a case that is none", says(3, 64, 1)),
        ("a verdict outside memory", Guest::new(format!("(i32.const {last})"))),
        ("a verdict between addresses", Guest::new("(i32.const 17)")),
        ("room outside memory", Guest::new(FIRST).realloc(&format!("(i32.const {last})"))),
        ("room between addresses", Guest::new(FIRST).realloc("(i32.const 4097)")),
        ("no room", Guest::new(FIRST).realloc("unreachable")),
        ("a call while it makes room", Guest::new(FIRST).realloc("(drop (call $now)) (i32.const 4096)")),
        (
            "a message outside memory",
            Guest::new(format!("(call $log (i32.const 0) (i32.const {last}) (i32.const 8)) {FIRST}")),
        ),
        (
            "a level that is none",
            Guest::new(format!("(call $log (i32.const 3) (i32.const 64) (i32.const 8)) {FIRST}")),
        ),
        (
            "a value put outside memory",
            Guest::new(format!("(call $lookup (i32.const 0) (i64.const 1) (i32.const {last})) {FIRST}")),
        ),
    ] {
        let error = node.ends(&node.policy(&guest), Cause::Trap).error;
        assert!(error.is_some(), "{what}");
    }
}

#[test]
fn what_runs_before_and_after_the_answer() {
    let node = Node::new();
    node.ends(&node.policy(&Guest::new(FIRST).realloc(FOR_EVER)), Cause::Deadline);
    let after = |body: &str| {
        let name = "cabi_post_skerry:policy/region-routing@1.0.0#route";
        Guest::new(FIRST).with(format!(r#"(func (export "{name}") (param i32) {body})"#))
    };
    node.ends(&node.policy(&after(FOR_EVER)), Cause::Deadline);
    node.ends(&node.policy_with(&after(FOR_EVER), "", LITTLE_FUEL), Cause::Fuel);
    node.ends(&node.policy(&after("unreachable")), Cause::Trap);
    node.ends(&node.policy(&after("(drop (call $now))")), Cause::Trap);
}

#[test]
fn tricks_at_the_start() {
    let node = Node::new();
    let starts = |body: &str| {
        [
            Guest::new(FIRST).with(format!("(func $start {body}) (start $start)")),
            Guest::new(FIRST).with(format!(r#"(func (export "_initialize") {body})"#)),
        ]
    };
    let grow = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    for (body, cause) in [(FOR_EVER, Cause::Deadline), ("unreachable", Cause::Trap), (grow, Cause::Memory)] {
        for guest in starts(body) {
            node.ends(&node.policy(&guest), cause);
            let reused = node.policy_with(&guest, REUSE, LIMITS);
            assert_eq!(reused.warm_up(1), Err(cause));
            assert_eq!(reused.warm(), 0);
            node.ends(&reused, cause);
        }
    }
    for guest in starts(FOR_EVER) {
        node.ends(&node.policy_with(&guest, "", LITTLE_FUEL), Cause::Fuel);
    }
}

#[test]
fn an_instance_that_failed_is_not_used_again() {
    let node = Node::new();
    for (action, cause) in [
        ("unreachable", Cause::Trap),
        (FOR_EVER, Cause::Deadline),
        ("(loop $again (drop (call $now)) (br $again))", Cause::Flood),
    ] {
        let policy = node.policy_with(&in_call(3, action), REUSE, LIMITS);
        for _ in 0..2 {
            node.answers(&policy);
            node.answers(&policy);
            assert_eq!(policy.warm(), 1);
            node.ends(&policy, cause);
            assert_eq!(policy.warm(), 0);
        }
        node.answers(&policy);
    }
    // Without reuse nobody comes to a third call.
    let policy = node.policy(&in_call(3, "unreachable"));
    (0..6).for_each(|_| drop(node.answers(&policy)));
}

#[test]
fn names_that_are_long_or_unfold() {
    let node = Node::new();
    for name in [unfolding(6), "n".repeat(90_000)] {
        let guest = Guest::new("(call $named)")
            .with(format!(r#"(func $named (@name "{name}") (result i32) unreachable)"#));
        let error = node.ends(&node.policy(&guest), Cause::Trap).error.expect("words");
        assert!(error.len() < 16 << 10, "{} bytes were written about a trap", error.len());
    }
}

#[test]
fn others_are_not_hurt_meanwhile() {
    let node = Node::new();
    let hostile = [
        Guest::new(FOR_EVER),
        greedy(),
        deep(),
        repeats(10_001, "(drop (call $now))"),
        Guest::new(
            "(loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 16777216)) (br $l)) unreachable",
        )
        .memory(FULL),
    ]
    .map(|guest| node.policy(&guest));
    let mut took: Vec<Duration> = Vec::new();
    thread::scope(|scope| {
        let attack = scope.spawn(|| {
            for policy in hostile.iter().cycle().take(4 * hostile.len()) {
                assert!(node::timed(policy).0.result.is_err());
            }
        });
        while !attack.is_finished() {
            let (called, time) = node.good();
            assert_eq!(called.result, node::row(0), "{:?}", called.error);
            took.push(time);
        }
    });
    took.sort_unstable();
    let (median, calls) = (took[took.len() / 2], took.len());
    assert!(calls > 100, "only {calls} calls of the good policy");
    assert!(median < TIME / 20, "half of {calls} calls of the good policy took more than {median:?}");
}

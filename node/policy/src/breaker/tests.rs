use std::sync::Barrier;
use std::thread;

use super::*;

struct Bench {
    breaker: Breaker,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { breaker: Breaker::new(&BreakerConfig::default()), start: Instant::now() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn state(&self, ms: u64) -> State {
        self.breaker.state(self.at(ms))
    }

    fn admits(&self, ms: u64) -> &'static str {
        match self.breaker.admit(self.at(ms)) {
            Admission::Call => "call",
            Admission::Probe(_) => "probe",
            Admission::Rest => "rest",
        }
    }

    fn fails(&self, ms: u64) -> bool {
        self.breaker.failed(self.at(ms), self.breaker.admit(self.at(ms)))
    }

    fn succeeds(&self, ms: u64) -> bool {
        self.breaker.succeeded(self.at(ms), self.breaker.admit(self.at(ms)))
    }

    /// Five failures in the first 5 ms.
    fn opened() -> Self {
        let bench = Self::new();
        let opened: Vec<bool> = (0..5).map(|ms| bench.fails(ms)).collect();
        assert_eq!(opened, [false, false, false, false, true]);
        bench
    }
}

#[test]
fn a_few_failures_among_very_many_calls_are_the_machine_s() {
    let bench = Bench::new();
    for round in 0..20 {
        (0..600).for_each(|_| assert_eq!(bench.admits(round), "call"));
        assert!(!bench.fails(round), "round {round}");
    }
    // Of the last five, four with a hundred calls each: more than one in a hundred.
    for round in 20..24 {
        (0..100).for_each(|_| assert_eq!(bench.admits(round), "call"));
        assert_eq!(bench.fails(round), round == 23, "round {round}");
    }
}

#[test]
fn failures_within_the_window_open_it() {
    let bench = Bench::opened();
    assert_eq!(bench.state(4), State::Open { left_ms: 10_000 });
    assert_eq!(bench.admits(5), "rest");
    assert_eq!(bench.admits(10_003), "rest");
}

#[test]
fn failures_that_are_spread_out_do_not() {
    let bench = Bench::new();
    for round in 0..100 {
        assert!(!bench.fails(round * 2_500), "{round}");
        assert!(!bench.succeeds(round * 2_500 + 1));
    }
    assert_eq!(bench.state(250_000), State::Closed);
}

#[test]
fn after_the_rest_one_probe_is_out_at_a_time() {
    let bench = Bench::opened();
    assert_eq!(bench.state(10_004), State::HalfOpen { good: 0 });
    let probe = bench.breaker.admit(bench.at(10_004));
    assert!(matches!(probe, Admission::Probe(_)));
    assert_eq!(bench.admits(10_005), "rest");
    assert!(!bench.breaker.succeeded(bench.at(10_006), probe));
    assert_eq!(bench.state(10_006), State::HalfOpen { good: 1 });
    assert_eq!(bench.admits(10_007), "probe");
}

#[test]
fn good_probes_in_a_row_close_it_and_its_past_is_forgotten() {
    let bench = Bench::opened();
    let closed: Vec<bool> = (0..3).map(|n| bench.succeeds(10_004 + n)).collect();
    assert_eq!(closed, [false, false, true]);
    assert_eq!(bench.state(10_010), State::Closed);
    for ms in 0..4 {
        assert!(!bench.fails(10_010 + ms));
    }
    assert!(bench.fails(10_014));
    assert_eq!(bench.state(10_014), State::Open { left_ms: 10_000 });
}

#[test]
fn failing_probes_double_the_rest_up_to_the_longest() {
    let bench = Bench::opened();
    let mut now = 4;
    for rest in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(bench.state(now), State::Open { left_ms: rest * 1000 });
        assert_eq!(bench.admits(now + rest * 1000 - 1), "rest");
        now += rest * 1000;
        assert!(bench.fails(now));
    }
    for _ in 0..3 {
        bench.succeeds(now + 300_000);
    }
    assert_eq!(bench.state(now + 300_000), State::Closed);
}

#[test]
fn a_failure_between_good_probes_begins_the_count_again() {
    let bench = Bench::opened();
    bench.succeeds(10_004);
    bench.succeeds(10_004);
    assert!(bench.fails(10_004));
    assert_eq!(bench.state(30_004), State::HalfOpen { good: 0 });
    assert!(!bench.succeeds(30_004) && !bench.succeeds(30_004) && bench.succeeds(30_004));
}

#[test]
fn a_probe_whose_caller_vanishes_makes_room_and_counts_for_nothing() {
    let bench = Bench::opened();
    bench.succeeds(10_004);
    drop(bench.breaker.admit(bench.at(10_004)));
    assert_eq!(bench.state(10_005), State::HalfOpen { good: 1 });
    assert_eq!(bench.admits(10_005), "probe");
}

#[test]
fn calls_that_end_late_change_nothing() {
    let bench = Bench::new();
    let late: Vec<Admission> = (0..3).map(|ms| bench.breaker.admit(bench.at(ms))).collect();
    for ms in 0..5 {
        bench.fails(ms);
    }
    let [one, two, three] = <[Admission; 3]>::try_from(late).unwrap();
    assert!(!bench.breaker.failed(bench.at(9_000), one));
    assert_eq!(bench.state(9_000), State::Open { left_ms: 1_004 });
    let probe = bench.breaker.admit(bench.at(10_004));
    assert!(!bench.breaker.failed(bench.at(10_005), two));
    assert!(!bench.breaker.succeeded(bench.at(10_005), three));
    assert_eq!(bench.admits(10_005), "rest");
    assert!(!bench.breaker.succeeded(bench.at(10_006), probe));
    assert_eq!(bench.state(10_006), State::HalfOpen { good: 1 });
}

#[test]
fn of_many_threads_one_gets_the_probe() {
    let bench = Bench::opened();
    let barrier = Barrier::new(8);
    let admitted: Vec<Admission> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    bench.breaker.admit(bench.at(10_004))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let probes = admitted.iter().filter(|admission| matches!(admission, Admission::Probe(_))).count();
    let rests = admitted.iter().filter(|admission| matches!(admission, Admission::Rest)).count();
    assert_eq!((probes, rests), (1, 7));
}

#[test]
fn threads_that_fail_succeed_and_vanish_never_leave_it_stuck() {
    let bench = Bench::new();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let bench = &bench;
            scope.spawn(move || {
                for step in 0..20_000 {
                    let now = bench.at(step * 10);
                    let admission = bench.breaker.admit(now);
                    match (step * 7 + thread) % 5 {
                        0 | 1 => _ = bench.breaker.failed(now, admission),
                        2 => drop(admission),
                        _ => _ = bench.breaker.succeeded(now, admission),
                    }
                }
            });
        }
    });
    // However they left it: later than any rest, good calls close it.
    for _ in 0..3 {
        bench.succeeds(10_000_000);
    }
    assert_eq!(bench.state(10_000_000), State::Closed);
    assert_eq!(bench.admits(10_000_000), "call");
}

#[test]
fn the_defaults_are_right_and_nonsense_is_refused() {
    let good = BreakerConfig::default();
    assert_eq!(good.check(), Ok(()));
    for (bad, key) in [
        (BreakerConfig { failures: 0, ..good.clone() }, "failures"),
        (BreakerConfig { failures: 1001, ..good.clone() }, "failures"),
        (BreakerConfig { window_seconds: 0, ..good.clone() }, "window_seconds"),
        (BreakerConfig { rest_seconds: 0, ..good.clone() }, "rest_seconds"),
        (BreakerConfig { longest_rest_seconds: 9, ..good.clone() }, "longest_rest_seconds"),
        (BreakerConfig { probes: 0, ..good.clone() }, "probes"),
    ] {
        assert_eq!(bad.check().unwrap_err().0, format!("policy.breaker.{key}"));
    }
}

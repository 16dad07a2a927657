use super::*;
use crate::rows::Choice;

const LIMIT: Duration = Duration::from_millis(5);
/// Half of it, by the defaults.
const BOUND_US: u64 = 2_500;

struct Bench {
    rollout: Rollout,
    start: Instant,
}

impl Bench {
    fn of(config: RolloutConfig) -> Self {
        let start = Instant::now();
        Self { rollout: Rollout::new(config, 7, LIMIT, Stage::Shadow, start), start }
    }

    fn new() -> Self {
        Self::of(RolloutConfig::default())
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn calls(&self, count: u64, outcome: Outcome) -> Option<Change> {
        (0..count).find_map(|_| self.rollout.observe(&outcome, self.start))
    }

    fn advance(&self, seconds: u64) -> Option<Change> {
        self.rollout.advance(self.at(seconds))
    }

    fn reach(&self, stage: Stage) {
        while self.rollout.stage() != stage {
            self.rollout.promote(self.start).unwrap();
        }
    }
}

fn good() -> Outcome {
    Outcome { took: Duration::from_micros(20), fallback: None, differs: Some(false) }
}

fn reason(change: Option<Change>) -> String {
    match change {
        Some(Change::Demoted(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn stages_follow_when_they_had_their_time_and_their_calls() {
    let bench = Bench::new();
    let mut now = 0;
    for (next, seconds, calls) in [
        (Stage::Canary1, 600, 500),
        (Stage::Canary10, 600, 200),
        (Stage::All, 600, 1000),
        (Stage::Done, 3600, 1000),
    ] {
        assert_eq!(bench.calls(calls - 1, good()), None);
        assert_eq!(bench.advance(now + seconds), None, "too few calls for {next}");
        assert_eq!(bench.calls(1, good()), None);
        assert_eq!(bench.advance(now + seconds - 1), None, "too early for {next}");
        now += seconds;
        assert_eq!(bench.advance(now), Some(Change::Advanced(next)));
        assert_eq!(bench.rollout.status(bench.at(now)).calls, 0);
    }
    assert_eq!(bench.advance(now + 1_000_000), None);
    assert_eq!(bench.rollout.decides(1), Who::Candidate);
}

#[test]
fn canaries_are_their_share_of_the_clients_and_stay_canaries() {
    let bench = Bench::new();
    let candidates = || -> Vec<u64> {
        (0..100_000).filter(|client| bench.rollout.decides(*client) == Who::Candidate).collect()
    };
    assert!(candidates().is_empty());
    bench.reach(Stage::Canary1);
    let one = candidates();
    assert!((800..1200).contains(&one.len()), "{}", one.len());
    assert_eq!(one, candidates());
    bench.reach(Stage::Canary10);
    let ten = candidates();
    assert!((9_500..10_500).contains(&ten.len()), "{}", ten.len());
    assert!(one.iter().all(|client| ten.binary_search(client).is_ok()));
    bench.reach(Stage::All);
    assert_eq!(candidates().len(), 100_000);

    let other = Rollout::new(RolloutConfig::default(), 8, LIMIT, Stage::Canary1, bench.start);
    let both = one.iter().filter(|client| other.decides(**client) == Who::Candidate).count();
    assert!(both < 100, "another candidate is tried on other clients, and {both} are the same");
}

#[test]
fn a_part_of_the_calls_is_compared() {
    let bench = Bench::new();
    let compared = |who| (0..10_000).filter(|seed| bench.rollout.compares(who, *seed)).count();
    assert!((800..1200).contains(&compared(Who::Incumbent)));
    bench.reach(Stage::Canary1);
    assert_eq!(compared(Who::Incumbent), 0);
    assert!((800..1200).contains(&compared(Who::Candidate)));
    bench.reach(Stage::Done);
    assert_eq!(compared(Who::Candidate), 0);
    let all = Bench::of(RolloutConfig { compare_one_in: 1, ..RolloutConfig::default() });
    assert!((0..1000).all(|seed| all.rollout.compares(Who::Incumbent, seed)));
}

#[test]
fn fallbacks_demote_it_and_the_reason_is_told() {
    let bench = Bench::new();
    bench.reach(Stage::Canary10);
    assert_eq!(bench.calls(250, good()), None);
    let late = Outcome { fallback: Some(Cause::Deadline), ..good() };
    assert_eq!(bench.calls(5, late), None, "5 of 255 are less than 20 permille");
    assert_eq!(
        reason(bench.calls(1, late)),
        "in canary-10, 6 of 256 calls fell back to the built-in verdict, the last one because of \
         `deadline`; at most 20 permille may"
    );
    let status = bench.rollout.status(bench.start);
    assert_eq!((status.stage, status.calls, status.fallbacks), (Stage::Demoted, 256, 6));
    assert!(status.reason.unwrap().starts_with("in canary-10, "));
    assert_eq!(bench.rollout.decides(1), Who::Incumbent);
    assert_eq!((bench.calls(1000, late), bench.advance(1_000_000)), (None, None));
    assert_eq!(bench.rollout.promote(bench.start), None);
}

#[test]
fn nothing_is_judged_by_a_few_calls() {
    let bench = Bench::new();
    let bad = Outcome { took: Duration::from_secs(1), fallback: Some(Cause::Trap), differs: Some(true) };
    assert_eq!(bench.calls(199, bad), None);
    assert!(reason(bench.calls(1, bad)).contains("200 of 200 calls"));
}

#[test]
fn abstentions_are_no_fallbacks() {
    let bench = Bench::new();
    for cause in [Cause::Abstain, Cause::Rows, Cause::None] {
        assert_eq!(bench.calls(300, Outcome { fallback: Some(cause), ..good() }), None, "{cause}");
    }
    assert_eq!(bench.rollout.status(bench.start).fallbacks, 0);
}

#[test]
fn a_long_p99_demotes_it() {
    let bench = Bench::new();
    let took = |us| Outcome { took: Duration::from_micros(us), ..good() };
    assert_eq!(bench.calls(990, took(BOUND_US)), None);
    assert_eq!(bench.calls(9, took(BOUND_US + 1)), None);
    assert_eq!(bench.rollout.status(bench.start).p99_us, BOUND_US + 1);
    assert_eq!(bench.rollout.status(bench.start).max_p99_us, BOUND_US);
    assert_eq!(bench.calls(1, took(BOUND_US + 1)), None, "10 of 1000 may");
    assert!(reason(bench.calls(1, took(BOUND_US + 1))).contains("11 of 1001 calls took longer than 2500 µs"));
}

#[test]
fn disagreement_demotes_it_and_calls_that_were_not_compared_do_not_count() {
    let bench = Bench::new();
    assert_eq!(bench.calls(10_000, Outcome { differs: None, ..good() }), None);
    let differs = Outcome { differs: Some(true), ..good() };
    assert_eq!(bench.calls(199, differs), None);
    assert!(reason(bench.calls(1, differs)).contains("200 of 200 compared calls"));

    let config = RolloutConfig { max_disagreement_permille: 1000, ..RolloutConfig::default() };
    assert_eq!(Bench::of(config).calls(10_000, differs), None);
}

#[test]
fn figures_of_a_stage_are_not_held_against_the_next() {
    let bench = Bench::new();
    let late = Outcome { fallback: Some(Cause::Deadline), ..good() };
    assert_eq!((bench.calls(495, good()), bench.calls(9, late)), (None, None));
    assert_eq!(bench.advance(600), Some(Change::Advanced(Stage::Canary1)));
    assert_eq!((bench.calls(195, good()), bench.calls(4, late)), (None, None));
}

#[test]
fn a_held_stage_waits_for_the_operator_and_is_still_watched() {
    let bench = Bench::of(RolloutConfig { automatic: false, ..RolloutConfig::default() });
    bench.calls(1000, good());
    assert!(bench.rollout.status(bench.start).held);
    assert_eq!(bench.advance(1_000_000), None);
    assert_eq!(bench.rollout.promote(bench.at(1)), Some(Change::Advanced(Stage::Canary1)));
    bench.calls(200, good());
    assert_eq!(bench.advance(1_000_000), None);
    bench.rollout.hold(false);
    assert_eq!(bench.advance(600), None);
    assert_eq!(bench.advance(601), Some(Change::Advanced(Stage::Canary10)));
    bench.rollout.hold(true);
    reason(bench.calls(200, Outcome { fallback: Some(Cause::Trap), ..good() }));
}

#[test]
fn the_operator_can_demote_it_even_when_it_is_done() {
    let bench = Bench::new();
    bench.reach(Stage::Done);
    assert_eq!(bench.rollout.promote(bench.start), None);
    assert!(bench.rollout.demote("it is Friday", bench.at(5)));
    assert!(!bench.rollout.demote("again", bench.at(6)));
    let status = bench.rollout.status(bench.at(7));
    assert_eq!((status.stage, status.stage_seconds), (Stage::Demoted, 2));
    assert_eq!(status.reason.as_deref(), Some("it is Friday"));
    assert_eq!(bench.rollout.decides(1), Who::Incumbent);
}

#[test]
fn a_status_reads_as_it_was_written_and_names_stages_as_the_logs_do() {
    let bench = Bench::new();
    for stage in STAGES {
        assert_eq!(STAGES[stage as usize], stage);
        assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
    }
    bench.reach(Stage::Canary10);
    bench.calls(10, good());
    let status = bench.rollout.status(bench.at(9));
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.starts_with(r#"{"stage":"canary-10","held":false,"reason":null,"stage_seconds":9,"#));
    assert_eq!(serde_json::from_str::<RolloutStatus>(&text).unwrap(), status);
}

#[test]
fn first_choices_are_what_is_compared() {
    let choice = |row| Choice { row, weight: 1 };
    let ranked = Answer::Ranked(vec![choice(1), choice(2)]);
    assert!(!differ(&ranked, &Answer::Ranked(vec![choice(1), choice(3)])));
    assert!(differ(&ranked, &Answer::Ranked(vec![choice(2), choice(1)])));
    assert!(differ(&ranked, &Answer::Abstain));
    let scheduled = |row| Answer::Scheduled { peers: vec![choice(row)], more_copies: row };
    assert!(!differ(&scheduled(4), &scheduled(4)) && differ(&scheduled(4), &scheduled(5)));
}

use super::*;
use crate::rows::{PeerCandidate, PeerRequest, PlanItem, PlanRequest, RouteCandidate, RouteRequest};

fn choices(rows: &[u32]) -> Vec<Choice> {
    rows.iter().map(|row| Choice { row: *row, weight: 1_000_000 }).collect()
}

fn decision(sequence: u64, inputs: Inputs) -> Decision {
    Decision {
        sequence,
        at_ms: 1_700_000_000_000 + sequence,
        world: inputs.world(),
        policy: "near-first".into(),
        version: "1.2.3".into(),
        digest: "0123456789abcdef".repeat(4),
        stage: None,
        client: u64::MAX - sequence,
        inputs,
        lookups: Vec::new(),
        verdict: Verdict::Answer(Answer::Abstain),
        fuel: 12_345,
        took_us: 13,
        builtin: Answer::Abstain,
    }
}

pub(super) fn route(sequence: u64) -> Decision {
    let candidate = RouteCandidate { node: 7, distance_us: u32::MAX, ..RouteCandidate::default() };
    let inputs = Inputs::RegionRouter {
        request: RouteRequest { client: u64::MAX, seed: sequence, ..RouteRequest::default() },
        candidates: vec![candidate; 2],
    };
    Decision {
        verdict: Verdict::Answer(Answer::Ranked(choices(&[1, 0]))),
        builtin: Answer::Invalid("no \"row\"\n\u{1f980}\u{0}".into()),
        ..decision(sequence, inputs)
    }
}

pub(super) fn plan(sequence: u64) -> Decision {
    let item = PlanItem { size_bytes: u64::MAX, demand_near: (1 << 53) + 1, ..PlanItem::default() };
    let request = PlanRequest { capacity_bytes: 10 << 30, seed: sequence, ..PlanRequest::default() };
    Decision {
        policy: "by-demand".into(),
        verdict: Verdict::Fallback(Cause::Deadline),
        builtin: Answer::Ranked(choices(&[0])),
        ..decision(sequence, Inputs::PreloadPlanner { request, items: vec![item; 3] })
    }
}

pub(super) fn schedule(sequence: u64) -> Decision {
    let inputs = Inputs::SuperPeerScheduler {
        request: PeerRequest { wanted: 50, seed: u64::MAX, ..PeerRequest::default() },
        candidates: vec![PeerCandidate { super_peer: 1, ..PeerCandidate::default() }],
    };
    let lookup = |value| Lookup { table: "prices".into(), key: u64::MAX, value };
    Decision {
        stage: Some(Stage::Canary10),
        lookups: vec![lookup(Some(i64::MIN)), lookup(Some(i64::MAX)), lookup(None)],
        verdict: Verdict::Answer(Answer::Scheduled { peers: choices(&[0]), more_copies: 64 }),
        ..decision(sequence, inputs)
    }
}

/// Decisions of all worlds in turn, numbered from 1.
pub(super) fn decisions(count: u64) -> Vec<Decision> {
    (1..=count).map(|sequence| [route, plan, schedule][(sequence % 3) as usize](sequence)).collect()
}

fn numbers(log: &DecisionLog, query: &Query) -> Vec<u64> {
    log.query(query).decisions.iter().map(|decision| decision.sequence).collect()
}

fn log(kept: usize, kept_bytes: u64) -> DecisionLog {
    DecisionLog::new(DecisionsConfig { kept, kept_bytes, ..DecisionsConfig::default() })
}

#[test]
fn decisions_are_numbered_and_the_newest_are_kept() {
    let log = log(10, 1 << 20);
    for number in 1..=25 {
        assert_eq!(log.push(route(0)).sequence, number);
    }
    assert_eq!(numbers(&log, &Query::default()), (16..=25).collect::<Vec<u64>>());
    let page = log.query(&Query { limit: 1, ..Query::default() });
    assert_eq!((page.oldest, page.newest, page.decisions.len()), (16, 25, 1));
}

#[test]
fn what_is_kept_is_bounded_in_bytes_and_what_is_too_large_is_not_kept() {
    let weight = route(0).weight() as u64;
    let log = log(1000, weight * 3 + 1);
    for _ in 0..10 {
        log.push(route(0));
    }
    assert_eq!(numbers(&log, &Query::default()), [8, 9, 10]);
    assert_eq!(log.ring.lock().bytes, weight * 3);
    let large = Decision { policy: "x".repeat(100_000), ..route(0) };
    assert_eq!(log.push(large).sequence, 11);
    assert_eq!(numbers(&log, &Query::default()), [8, 9, 10]);
    assert_eq!(log.query(&Query::default()).newest, 11);
    let none = self::log(0, u64::MAX);
    assert_eq!(none.push(route(0)).sequence, 1);
    assert!(numbers(&none, &Query::default()).is_empty());
}

#[test]
fn weights_grow_with_what_is_in_them() {
    let weight = plan(0).weight();
    let Inputs::PreloadPlanner { request, items } = plan(0).inputs else { unreachable!() };
    let many = Inputs::PreloadPlanner { request, items: items.repeat(1000) };
    assert!(Decision { inputs: many, ..plan(0) }.weight() >= weight + 2997 * size_of::<PlanItem>());
    let lookups = vec![Lookup { table: "prices".into(), key: 1, value: None }; 100];
    assert!(Decision { lookups, ..plan(0) }.weight() >= weight + 100 * size_of::<Lookup>());
}

#[test]
fn queries_pick_by_world_policy_client_and_number() {
    let log = log(1000, 1 << 20);
    for decision in decisions(30) {
        log.push(decision);
    }
    let all = Query::default();
    let plans: Vec<u64> = (1..=30).filter(|number| number % 3 == 1).collect();
    assert_eq!(numbers(&log, &Query { world: Some(World::PreloadPlanner), ..all.clone() }), plans);
    assert_eq!(numbers(&log, &Query { policy: Some("by-demand".into()), ..all.clone() }), plans);
    assert!(numbers(&log, &Query { policy: Some("by".into()), ..all.clone() }).is_empty());
    assert_eq!(numbers(&log, &Query { client: Some(u64::MAX - 5), ..all.clone() }), [5]);
    assert_eq!(numbers(&log, &Query { limit: 3, ..all.clone() }), [28, 29, 30]);
    assert_eq!(numbers(&log, &Query { since: Some(10), limit: 3, ..all.clone() }), [11, 12, 13]);
    assert_eq!(numbers(&log, &Query { since: Some(29), ..all.clone() }), [30]);
    assert!(numbers(&log, &Query { since: Some(30), ..all }).is_empty());
}

#[test]
fn the_sample_is_its_share_and_the_same_for_the_same_seed() {
    let config = DecisionsConfig { calls_one_in: 100, plans_one_in: 1, ..DecisionsConfig::default() };
    let log = DecisionLog::new(config.clone());
    let sampled =
        || (0..100_000).filter(|seed| log.samples(World::RegionRouter, *seed)).collect::<Vec<u64>>();
    let first = sampled();
    assert!((800..1200).contains(&first.len()), "{}", first.len());
    assert_eq!(first, sampled());
    assert!((0..1000).all(|seed| log.samples(World::PreloadPlanner, seed)));
    let none = DecisionLog::new(DecisionsConfig { calls_one_in: 0, ..config });
    assert!(!(0..1000).any(|seed| none.samples(World::SuperPeerScheduler, seed)));
}

#[test]
fn a_page_reads_as_it_was_written() {
    let log = log(1000, 1 << 20);
    for decision in decisions(6) {
        log.push(decision);
    }
    let page = log.query(&Query::default());
    let text = serde_json::to_string(&page).unwrap();
    assert!(
        text.starts_with(r#"{"decisions":[{"sequence":1,"at_ms":1700000000001,"world":"preload-planner","#),
        "{text}"
    );
    assert!(text.ends_with(r#"],"oldest":1,"newest":6}"#), "{text}");
    assert_eq!(serde_json::from_str::<Page>(&text).unwrap(), page);
}

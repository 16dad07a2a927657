use super::*;
use crate::item::tests::item;

const NOW: u64 = 20_000 * 86_400_000;
const HOUR: u64 = 3_600_000;
const PLENTY: u64 = 1 << 40;

fn limits(capacity_bytes: u64) -> Limits {
    Limits { capacity_bytes, at_once: 2, windows: Windows::default() }
}

/// A plan that knows that nothing is held.
fn plan(limits: Limits, items: &[(&str, u64)]) -> Plan {
    let mut plan = Plan::new(limits, 7);
    plan.observe(plan.observing(), &[], |_| false, NOW);
    list(&mut plan, items, NOW);
    plan
}

fn list(plan: &mut Plan, items: &[(&str, u64)], now_ms: u64) {
    plan.listed(List::new(items.iter().map(|(path, length)| item(path, *length)).collect()), now_ms);
}

fn source(path: &str) -> CameFrom {
    item(path, 0).source()
}

fn id(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

fn held(path: &str, number: u8, length: u64) -> HeldSummary {
    let from = source(path);
    let pin = Some(pin(&from));
    HeldSummary { resource: id(number), from: Some(from), length, complete: true, pin, added_ms: NOW }
}

fn broken() -> Result<ChunkId, HoldFailure> {
    Err(HoldFailure::Broken("the origin broke off".into()))
}

/// What is to be done, in words.
fn words(actions: &[Action]) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Hold(item) => format!("hold {}", item.path),
        Action::Stop(source) => format!("stop {}", source.target),
        Action::Release { item, .. } => format!("release {}", item.path),
    };
    actions.iter().map(word).collect()
}

fn next(plan: &mut Plan, now_ms: u64) -> Vec<String> {
    words(&plan.next(now_ms, PLENTY))
}

#[test]
fn the_most_urgent_come_first_and_so_many_at_once() {
    let mut plan = plan(limits(PLENTY), &[("/c", 1), ("/a", 1), ("/b", 1)]);
    assert_eq!(next(&mut plan, NOW), ["hold /c", "hold /a"]);
    assert!(next(&mut plan, NOW).is_empty());
    plan.done(&source("/a"), Ok(id(1)), NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /b"]);
    let report = plan.report();
    assert_eq!((report.listed, report.held, report.fetching, report.missing_bytes), (3, 1, 2, 2));
}

#[test]
fn nothing_begins_before_the_store_was_looked_at() {
    let mut plan = Plan::new(limits(PLENTY), 7);
    list(&mut plan, &[("/a", 1), ("/b", 1)], NOW);
    assert!(next(&mut plan, NOW).is_empty());
    plan.observe(plan.observing(), &[held("/a", 1, 1)], |_| false, NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /b"]);
}

#[test]
fn failures_wait_longer_and_longer() {
    let mut plan = plan(limits(PLENTY), &[("/a", 100)]);
    let mut now_ms = NOW;
    let mut waits = Vec::new();
    for _ in 0..14 {
        assert_eq!(next(&mut plan, now_ms), ["hold /a"]);
        plan.done(&source("/a"), broken(), now_ms);
        let wake_ms = plan.wake_ms(now_ms).unwrap();
        assert!(next(&mut plan, wake_ms - 1).is_empty());
        waits.push(wake_ms - now_ms);
        now_ms = wake_ms;
    }
    let bounds = (0..14).map(|failures| (FIRST_WAIT_MS << failures).min(LONGEST_WAIT_MS));
    for (wait, whole) in waits.iter().zip(bounds) {
        assert!((whole / 2..=whole).contains(wait), "{wait} of {whole}");
    }
    let standing = &plan.standings(10)[0];
    assert_eq!((standing.state, standing.attempts), ("failing", 14));
    assert_eq!(standing.told().failure.as_deref(), Some("the origin broke off"));
    // What gets further every time is not given up so soon.
    assert_eq!(next(&mut plan, now_ms), ["hold /a"]);
    plan.progress(&source("/a"), 10, 100);
    plan.done(&source("/a"), broken(), now_ms);
    assert!(plan.wake_ms(now_ms).unwrap() - now_ms <= FIRST_WAIT_MS);
    // Nor what leaves the list and comes back.
    plan.done(&source("/a"), broken(), now_ms);
    list(&mut plan, &[], now_ms);
    list(&mut plan, &[("/a", 100)], now_ms);
    assert_eq!(next(&mut plan, now_ms), ["hold /a"]);
}

#[test]
fn windows_open_and_close() {
    let windows = Windows(vec!["01:00-02:00".parse().unwrap()]);
    let mut plan = plan(Limits { windows, ..limits(PLENTY) }, &[("/a", 100)]);
    assert!(next(&mut plan, NOW).is_empty());
    assert_eq!(plan.wake_ms(NOW), Some(NOW + HOUR));
    assert_eq!(next(&mut plan, NOW + HOUR), ["hold /a"]);
    assert_eq!(next(&mut plan, NOW + 2 * HOUR), ["stop /a"]);
    assert!(next(&mut plan, NOW + 2 * HOUR).is_empty());
    plan.progress(&source("/a"), 60, 100);
    plan.done(&source("/a"), Err(HoldFailure::Stopped), NOW + 2 * HOUR);
    assert_eq!((plan.report().waiting, plan.report().missing_bytes), (1, 40));
    assert_eq!(next(&mut plan, NOW + 25 * HOUR), ["hold /a"]);
    assert_eq!(plan.window_bytes(NOW, 7200, 10), 36_000);
    assert_eq!(plan.window_bytes(NOW, 3600, 0), 0);
    assert_eq!(plan.window_bytes(NOW, 7200, 0), PLENTY);
}

#[test]
fn what_left_the_list_goes_when_its_room_is_needed_the_least_wanted_first() {
    let mut plan = plan(limits(300), &[("/a", 100), ("/b", 100), ("/c", 100)]);
    let all = [held("/a", 1, 100), held("/b", 2, 100), held("/c", 3, 100)];
    plan.observe(plan.observing(), &all, |id| *id == ChunkId([2; 32]), NOW);
    list(&mut plan, &[("/a", 100)], NOW);
    assert!(next(&mut plan, NOW).is_empty());
    assert_eq!((plan.report().left, plan.report().left_bytes, plan.report().unasked_bytes), (2, 200, 200));
    list(&mut plan, &[("/d", 50), ("/a", 100), ("/e", 60)], NOW);
    // Somebody asked for b. Nothing less urgent takes the room that is made.
    assert_eq!(next(&mut plan, NOW), ["release /c"]);
    assert!(next(&mut plan, NOW).is_empty());
    plan.released(&source("/c"), true, NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /d", "release /b"]);
    plan.released(&source("/b"), true, NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /e"]);
    assert_eq!(plan.report().left, 0);
}

#[test]
fn what_is_listed_is_never_let_go_of_for_something_else() {
    let mut plan = plan(limits(300), &[("/a", 100), ("/b", 100)]);
    plan.observe(plan.observing(), &[held("/a", 1, 100), held("/b", 2, 100)], |_| false, NOW);
    list(&mut plan, &[("/long", 200), ("/a", 100), ("/b", 100), ("/short", 80), ("/huge", 400)], NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /short"]);
    assert_eq!(plan.report().no_room, 2);
    // Nor is anything let go of where that would not be enough.
    list(&mut plan, &[("/long", 300), ("/a", 100), ("/short", 80)], NOW);
    assert!(next(&mut plan, NOW).is_empty());
}

#[test]
fn what_the_store_has_room_for_counts_too() {
    let mut plan = plan(limits(PLENTY), &[("/a", 100), ("/b", 100)]);
    assert_eq!(words(&plan.next(NOW, 150)), ["hold /a"]);
    plan.progress(&source("/a"), 60, 100);
    // Of the 90 that are left 40 will be a's.
    assert!(plan.next(NOW, 90).is_empty());
    assert_eq!(words(&plan.next(NOW, 140)), ["hold /b"]);
}

#[test]
fn half_of_what_left_the_list_goes_before_the_whole() {
    let mut plan = plan(limits(200), &[("/a", 100), ("/b", 90)]);
    assert_eq!(next(&mut plan, NOW), ["hold /a", "hold /b"]);
    plan.done(&source("/a"), Ok(id(1)), NOW);
    plan.progress(&source("/b"), 80, 90);
    list(&mut plan, &[("/c", 90)], NOW);
    assert_eq!(next(&mut plan, NOW), ["stop /b"]);
    plan.done(&source("/b"), Err(HoldFailure::Stopped), NOW);
    assert_eq!(next(&mut plan, NOW), ["release /b"]);
    // It could not be let go of, so the other one is.
    plan.released(&source("/b"), false, NOW);
    assert_eq!(next(&mut plan, NOW), ["release /a"]);
}

#[test]
fn a_new_content_is_fetched_once() {
    let listed = |resource| List::new(vec![Item { resource: Some(resource), ..item("/a", 100) }]);
    let mut plan = plan(limits(PLENTY), &[]);
    plan.listed(listed(id(1)), NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /a"]);
    plan.done(&source("/a"), Ok(id(1)), NOW);
    plan.listed(listed(id(2)), NOW);
    assert_eq!(next(&mut plan, NOW), ["release /a"]);
    plan.released(&source("/a"), true, NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /a"]);
    // Here the origin still gives the old one; that is no reason to try for ever.
    plan.done(&source("/a"), Ok(id(1)), NOW);
    assert!(next(&mut plan, NOW).is_empty());
    plan.observe(plan.observing(), &[held("/a", 1, 100)], |_| false, NOW);
    assert!(next(&mut plan, NOW).is_empty());
    plan.listed(listed(id(3)), NOW);
    assert_eq!(next(&mut plan, NOW), ["release /a"]);
}

#[test]
fn what_others_pinned_counts_and_stays_theirs() {
    let mut plan = plan(limits(100), &[("/a", 1000), ("/b", 100)]);
    let theirs = HeldSummary { pin: Some("resource 1".into()), ..held("/a", 1, 1000) };
    let evictable = HeldSummary { pin: None, ..held("/b", 2, 100) };
    plan.observe(plan.observing(), &[theirs, evictable], |_| false, NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /b"]);
    plan.done(&source("/b"), broken(), NOW);
    list(&mut plan, &[("/c", 100)], NOW);
    assert_eq!(next(&mut plan, NOW), ["hold /c"]);
}

#[test]
fn what_was_lost_is_fetched_again_and_what_nobody_remembers_is_found() {
    let mut plan = plan(limits(100), &[("/a", 60)]);
    next(&mut plan, NOW);
    let stamp = plan.observing();
    plan.done(&source("/a"), Ok(id(1)), NOW);
    // What was seen before it was done says nothing.
    plan.observe(stamp, &[], |_| false, NOW);
    assert_eq!(plan.report().held, 1);
    plan.observe(plan.observing(), &[held("/lost", 9, 50)], |_| false, NOW);
    assert_eq!((plan.report().held, plan.report().left_bytes), (0, 50));
    assert_eq!(next(&mut plan, NOW), ["release /lost"]);
}

#[test]
fn one_content_of_two_sources_is_held_once() {
    let mut plan = plan(limits(200), &[("/a", 100), ("/b", 100)]);
    next(&mut plan, NOW);
    plan.done(&source("/a"), Ok(id(1)), NOW);
    plan.done(&source("/b"), Ok(id(1)), NOW);
    // The catalogue has it under the name that came last.
    plan.observe(plan.observing(), &[held("/b", 1, 100)], |_| false, NOW);
    assert_eq!(plan.report().held, 2);
    assert!(next(&mut plan, NOW).is_empty());
    list(&mut plan, &[("/a", 100), ("/c", 100)], NOW);
    assert!(next(&mut plan, NOW).is_empty(), "b is a's too");
}

#[test]
fn a_plan_outlives_the_process() {
    let mut first = plan(limits(PLENTY), &[("/a", 100), ("/b", 100), ("/c", 100)]);
    next(&mut first, NOW);
    first.progress(&source("/a"), 30, 100);
    first.done(&source("/a"), broken(), NOW);
    first.done(&source("/b"), Ok(id(2)), NOW);
    list(&mut first, &[("/a", 100), ("/c", 100)], NOW);
    let mut records = HashMap::new();
    let mut write = |plan: &mut Plan| {
        for (key, value) in plan.take_changes() {
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
        }
        records.clone()
    };
    let written: Vec<_> = write(&mut first).into_iter().chain([(b"item x".to_vec(), vec![0xff])]).collect();
    let mut again = Plan::restore(limits(PLENTY), 8, &written, NOW);
    assert!(again.take_changes().is_empty());
    assert_eq!(again.revision(), first.revision());
    again.observe(again.observing(), &[held("/b", 2, 100)], |_| false, NOW);
    assert_eq!(again.report().left_bytes, 100);
    let standing = &again.standings(1)[0];
    assert_eq!((standing.state, standing.received_bytes, standing.attempts), ("failing", 30, 1));
    // The wait goes on where it was.
    assert_eq!(again.wake_ms(NOW), first.wake_ms(NOW));
    assert_eq!(next(&mut again, NOW), ["hold /c"]);
    // What is over leaves no record.
    list(&mut again, &[], NOW);
    assert_eq!(next(&mut again, NOW), ["stop /c"]);
    again.done(&source("/c"), Err(HoldFailure::Stopped), NOW);
    for path in ["/a", "/b", "/c"] {
        again.released(&source(path), true, NOW);
    }
    assert_eq!(write(&mut again).into_keys().collect::<Vec<_>>(), [b"list"]);
}

#[test]
fn a_node_that_drains_begins_nothing() {
    let mut plan = plan(limits(PLENTY), &[("/a", 1), ("/b", 1), ("/c", 1)]);
    next(&mut plan, NOW);
    plan.drain();
    assert_eq!(next(&mut plan, NOW), ["stop /a", "stop /b"]);
    plan.done(&source("/a"), Err(HoldFailure::Stopped), NOW);
    assert!(next(&mut plan, NOW).is_empty());
}

/// A store, an origin and a planner that do as chance will have it; whatever they do, what was agreed
/// is kept to, and once they are quiet everything that fits is held.
#[test]
fn whatever_happens_the_bounds_hold() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let windows = if seed % 2 == 0 { vec![] } else { vec!["00:00-12:00".parse().unwrap()] };
        let limits = Limits { capacity_bytes: 1000, at_once: 3, windows: Windows(windows) };
        let mut plan = Plan::new(limits.clone(), seed);
        let mut store: HashMap<CameFrom, HeldSummary> = HashMap::new();
        let mut running: Vec<(Item, u64)> = Vec::new();
        let (mut now_ms, mut listed) = (NOW, Vec::new());
        for step in 0..600 {
            now_ms += random.u64(0..HOUR);
            let quiet = step > 400;
            if (!quiet && random.u8(..) < 40) || step == 401 {
                let paths: Vec<u8> = (0..20).filter(|_| random.bool()).collect();
                listed =
                    paths.iter().map(|number| item(&format!("/{number}"), 20 * u64::from(*number))).collect();
                random.shuffle(&mut listed);
                plan.listed(List::new(listed.clone()), now_ms);
            }
            if step == 0 || random.bool() {
                let held: Vec<HeldSummary> = store.values().cloned().collect();
                let asked = random.bool();
                plan.observe(plan.observing(), &held, |_| asked, now_ms);
            }
            for place in (0..running.len()).rev() {
                let (item, received) = &mut running[place];
                *received = (*received + random.u64(0..100)).min(item.length);
                plan.progress(&item.source(), *received, item.length);
                let (item, received) = (item.clone(), *received);
                let complete = received == item.length;
                if complete || (!quiet && random.u8(..) < 30) {
                    running.remove(place);
                    let number: u8 = item.path[1..].parse().unwrap();
                    if complete {
                        store.insert(item.source(), held(&item.path, number, item.length));
                    }
                    let result = if complete { Ok(id(number)) } else { broken() };
                    plan.done(&item.source(), result, now_ms);
                }
            }
            for action in plan.next(now_ms, PLENTY) {
                match action {
                    Action::Hold(item) => {
                        assert!(limits.windows.is_open(now_ms));
                        assert!(listed.iter().any(|other| other.path == item.path));
                        assert!(running.iter().all(|(other, _)| other.path != item.path));
                        running.push((item, 0));
                    }
                    Action::Stop(source) => {
                        running.retain(|(item, _)| item.source() != source);
                        plan.done(&source, Err(HoldFailure::Stopped), now_ms);
                    }
                    Action::Release { item, .. } => {
                        assert!(listed.iter().all(|other| other.path != item.path), "{item:?} is listed");
                        let works = random.u8(..) < 200;
                        if works {
                            store.remove(&item.source());
                        }
                        plan.released(&item.source(), works, now_ms);
                    }
                }
                plan.take_changes();
            }
            assert!(running.len() <= limits.at_once);
            let taken: u64 = store.values().map(|held| held.length).sum();
            let coming: u64 = running.iter().map(|(item, _)| item.length).sum();
            assert!(taken + coming <= limits.capacity_bytes, "{taken} and {coming} at step {step} of {seed}");
        }
        let report = plan.report();
        assert_eq!((report.failing, report.waiting, report.fetching), (0, 0, 0), "{report:?} of {seed}");
        assert!(report.held > 0);
    }
}

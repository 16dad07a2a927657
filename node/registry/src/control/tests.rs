use std::net::Ipv4Addr;

use super::*;
use crate::fleet::{Holding, Node};
use crate::kv::{Entry, Guard, MemoryKv, RocksKv, Watch};

const NOW: u64 = 1_700_000_000_000;
const INTERVAL: u64 = 10_000;

fn metrics() -> Metrics {
    Metrics::new(&prometheus::Registry::new()).unwrap()
}

fn open(kv: &Arc<dyn Kv>, now_ms: u64) -> Control {
    Control::open(kv.clone(), Arc::new(Fleet::new()), "control", metrics(), now_ms).unwrap()
}

fn memory() -> Arc<dyn Kv> {
    Arc::new(MemoryKv::new())
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn holding(digit: char) -> Holding {
    Holding { resource: id(digit), length: 100, held_bytes: 100, complete: true, ..Holding::default() }
}

fn beat(node: &str) -> Beat {
    let node = Node { id: node.into(), region: "north".into(), interval_seconds: 10, ..Node::default() };
    Beat { node, boot: 1, batch: 1, ..Beat::default() }
}

fn hear(control: &Control, beat: Beat, now_ms: u64) -> Result<BeatAnswer, Refused> {
    control.beat(beat, Ipv4Addr::LOCALHOST.into(), now_ms)
}

fn anew(generation: u64, digits: &str) -> HoldingsReport {
    let held = digits.chars().map(holding).collect();
    HoldingsReport { generation, held, ..HoldingsReport::default() }
}

fn live(control: &Control) -> Vec<String> {
    control.fleet().snapshot().nodes.iter().map(|node| node.id.clone()).collect()
}

fn holders(control: &Control, digit: char) -> usize {
    control.fleet().snapshot().holders(&id(digit)).len()
}

#[test]
fn a_node_is_in_while_it_is_heard_and_on_record_after() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(5, "12"), NOW).unwrap();
    assert_eq!((live(&control), holders(&control, '1')), (vec!["a".to_owned()], 1));

    control.tick(NOW + 2 * INTERVAL);
    assert_eq!(live(&control).len(), 1);
    control.tick(NOW + 2 * INTERVAL + 1);
    assert_eq!((live(&control).len(), holders(&control, '1')), (0, 0));
    let told = control.node("a", NOW + 2 * INTERVAL + 1).unwrap();
    assert_eq!((told.standing, told.holdings, told.node.seen_ms), (Standing::Silent, 2, NOW));

    // It comes back with what it holds, without telling it again.
    let answer = hear(&control, beat("a"), NOW + 60_000).unwrap();
    assert_eq!(answer.generation, Some(5));
    assert_eq!((live(&control).len(), holders(&control, '1')), (1, 1));
}

#[test]
fn a_node_that_ends_is_out_at_once() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    hear(&control, Beat { leaving: true, ..beat("a") }, NOW + 1).unwrap();
    assert!(live(&control).is_empty());
    assert_eq!(control.nodes(NOW + 1)[0].standing, Standing::Left);
    hear(&control, beat("a"), NOW + 2).unwrap();
    assert_eq!(live(&control), ["a"]);
}

#[test]
fn a_batch_counts_once() {
    let control = open(&memory(), NOW);
    let resource = hex::decode(&id('1')).unwrap();
    let rate = || control.demand().rate(&resource, "north", NOW);
    let asked = |batch, boot| Beat {
        demand: vec![Asked { resource: id('1'), requests: 1000 }],
        reports: vec![Report { resource: id('1'), ..Report::default() }],
        boot,
        batch,
        ..beat("a")
    };
    hear(&control, asked(1, 7), NOW).unwrap();
    let once = rate();
    assert!(once > 0);
    hear(&control, asked(1, 7), NOW).unwrap();
    assert_eq!((rate(), control.last_reports(10).len()), (once, 1));
    hear(&control, asked(2, 7), NOW).unwrap();
    // Another process of the machine begins to count anew.
    hear(&control, asked(1, 8), NOW).unwrap();
    assert!(rate().abs_diff(3 * once) <= 3, "{} is not 3 * {once}", rate());
    assert_eq!(control.last_reports(10).len(), 3);
}

#[test]
fn a_node_that_claims_billions_of_requests_moves_little() {
    let control = open(&memory(), NOW);
    let resource = hex::decode(&id('1')).unwrap();
    let rate = || control.demand().rate(&resource, "north", NOW);
    let asked = |node: &str, requests, batch| {
        let demand = vec![Asked { resource: id('1'), requests }; 3];
        hear(&control, Beat { demand, batch, ..beat(node) }, NOW).unwrap();
    };
    asked("a", 20_000_000, 1);
    let most = rate();
    for batch in 2..10 {
        asked("a", u32::MAX, batch);
    }
    assert_eq!(rate(), most);
    assert_eq!(control.metrics.demand_refused.get(), 8 * 3 * u64::from(u32::MAX));
    // Another's count as they did.
    asked("b", 20_000_000, 1);
    assert!(rate() > most);
}

#[test]
fn torrents_are_known_of_nodes_that_are_gone() {
    let kv = memory();
    let control = open(&kv, NOW);
    let named = |generation, resource, hashes: &[&str]| {
        let info_hashes = hashes.iter().map(|hash| hash.repeat(20)).collect();
        let held = vec![Holding { info_hashes, ..holding(resource) }];
        HoldingsReport { generation, held, ..HoldingsReport::default() }
    };
    for node in ["a", "b", "c"] {
        hear(&control, beat(node), NOW).unwrap();
    }
    control.holdings("a", &named(1, '1', &["0a", "0b"]), NOW).unwrap();
    control.holdings("b", &named(1, '1', &["0b"]), NOW).unwrap();
    control.holdings("c", &named(1, '2', &["0c"]), NOW).unwrap();
    let of = |control: &Control, digit, now_ms| {
        let hashes = control.torrents_of(&hex::decode(&id(digit)).unwrap(), now_ms);
        hashes.iter().map(|hash| hash[0]).collect::<Vec<_>>()
    };
    // What more nodes name comes first.
    assert_eq!((of(&control, '1', NOW), of(&control, '2', NOW)), (vec![0xb, 0xa], vec![0xc]));
    assert!(of(&control, '3', NOW).is_empty());
    // Nobody is heard any more; another control node knows it too.
    let later = NOW + 100 * INTERVAL;
    control.tick(later);
    assert_eq!((live(&control).len(), holders(&control, '1')), (0, 0));
    assert_eq!((of(&control, '1', later), of(&open(&kv, later), '2', later)), (vec![0xb, 0xa], vec![0xc]));
    // Who was thrown out says nothing, and nobody says more than is kept.
    control.revoke("a", later).unwrap();
    assert_eq!(of(&control, '1', later), [0xb]);
    for (number, node) in ["d", "e"].into_iter().enumerate() {
        hear(&control, beat(node), later).unwrap();
        let hashes: Vec<String> = (0..8).map(|hash| format!("{:02x}", 16 * (number + 1) + hash)).collect();
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).chain(["0b"]).collect();
        control.holdings(node, &named(1, '1', &hashes[1..]), later).unwrap();
    }
    let found = of(&control, '1', later);
    assert_eq!((found.len(), found[0]), (MOST_TORRENTS, 0xb));
}

#[test]
fn lists_go_on_from_the_generation_that_is_here() {
    let control = open(&memory(), NOW);
    assert!(matches!(control.holdings("a", &anew(1, "1"), NOW), Err(Refused::Unknown(_))));
    hear(&control, beat("a"), NOW).unwrap();
    let delta = |generation, base, held: &str, dropped: &str| HoldingsReport {
        base: Some(base),
        dropped: dropped.chars().map(id).collect(),
        ..anew(generation, held)
    };
    assert!(matches!(control.holdings("a", &delta(2, 1, "1", ""), NOW), Err(Refused::Generation)));
    control.holdings("a", &anew(1, "12"), NOW).unwrap();
    control.holdings("a", &delta(2, 1, "3", "1"), NOW).unwrap();
    assert_eq!(['1', '2', '3'].map(|digit| holders(&control, digit)), [0, 1, 1]);
    assert!(matches!(control.holdings("a", &delta(3, 1, "4", ""), NOW), Err(Refused::Generation)));
    control.holdings("a", &anew(9, "5"), NOW).unwrap();
    assert_eq!(['2', '3', '4', '5'].map(|digit| holders(&control, digit)), [0, 0, 0, 1]);
    assert_eq!(hear(&control, beat("a"), NOW).unwrap().generation, Some(9));
}

#[test]
fn a_control_node_that_restarts_knows_what_it_knew() {
    let folder = tempfile::tempdir().unwrap();
    let resource = hex::decode(&id('1')).unwrap();
    {
        let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(folder.path()).unwrap());
        let control = open(&kv, NOW);
        hear(&control, beat("a"), NOW).unwrap();
        hear(&control, beat("b"), NOW).unwrap();
        control.holdings("a", &anew(5, "12"), NOW).unwrap();
        control.demand().count(&resource, "north", 1000, NOW);
        control.revoke("b", NOW).unwrap();
        control.tick(NOW + DEMAND_PERIOD_MS);
    }
    let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(folder.path()).unwrap());
    let control = open(&kv, NOW + INTERVAL);
    assert_eq!((live(&control), holders(&control, '2')), (vec!["a".to_owned()], 1));
    assert!(control.demand().rate(&resource, "north", NOW) > 0);
    assert!(matches!(hear(&control, beat("b"), NOW), Err(Refused::Denied(_))));
    drop((control, kv));
    // After a long night nobody is there yet.
    let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(folder.path()).unwrap());
    let control = open(&kv, NOW + 100 * INTERVAL);
    assert!(live(&control).is_empty());
    assert_eq!(control.nodes(NOW + 100 * INTERVAL).len(), 1);
}

#[test]
fn two_control_nodes_over_one_store_know_the_same() {
    let kv = memory();
    let (one, other) = (open(&kv, NOW), open(&kv, NOW));
    hear(&one, beat("a"), NOW).unwrap();
    one.holdings("a", &anew(5, "12"), NOW).unwrap();
    other.tick(NOW);
    assert_eq!((live(&other), holders(&other, '2')), (vec!["a".to_owned()], 1));
    hear(&other, beat("a"), NOW + INTERVAL).unwrap();
    one.tick(NOW + 3 * INTERVAL);
    assert_eq!(live(&one), ["a"]);
    other.revoke("a", NOW + 3 * INTERVAL).unwrap();
    assert!(hear(&one, beat("a"), NOW + 3 * INTERVAL).is_err());
    assert_eq!((live(&one).len(), holders(&one, '2')), (0, 0));
}

#[test]
fn a_control_node_that_missed_changes_reads_all_again() {
    let kv = memory();
    let (one, other) = (open(&kv, NOW), open(&kv, NOW));
    hear(&one, beat("gone"), NOW).unwrap();
    other.tick(NOW);
    assert_eq!(live(&other), ["gone"]);
    one.revoke("gone", NOW).unwrap();
    hear(&one, beat("a"), NOW).unwrap();
    one.holdings("a", &anew(1, "1"), NOW).unwrap();
    for _ in 0..2000 {
        hear(&one, beat("b"), NOW).unwrap();
    }
    other.tick(NOW);
    assert_eq!(live(&other), ["a", "b"]);
    assert_eq!((holders(&other, '1'), other.is_denied("gone", NOW)), (1, true));
}

#[test]
fn the_region_of_the_enrolment_counts() {
    let kv = memory();
    let enrolled = Enrolled { region: "south".into(), ..Enrolled::default() };
    kv.put("enrolled/a", &json(&enrolled), Life::forever(NOW)).unwrap();
    let control = open(&kv, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    assert_eq!(control.node("a", NOW).unwrap().node.region, "south");
}

#[test]
fn a_revoked_node_gets_nothing_in() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "12"), NOW).unwrap();
    assert!(control.revoke("a", NOW).unwrap());
    assert!(matches!(hear(&control, beat("a"), NOW), Err(Refused::Denied(_))));
    assert!(matches!(control.holdings("a", &anew(2, "1"), NOW), Err(Refused::Denied(_))));
    assert_eq!((live(&control).len(), holders(&control, '1'), control.nodes(NOW).len()), (0, 0, 0));
    // What is not known can be shut out too, and twice.
    assert!(!control.revoke("a", NOW).unwrap() && !control.revoke("z", NOW).unwrap());
    assert!(control.revoke("a/b", NOW).is_err());
    let mut records = 0;
    control.kv().list("", NOW, &mut |_, _| records += 1).unwrap();
    assert_eq!(records, 2);
}

#[test]
fn what_is_revoked_is_told_of() {
    let kv = memory();
    let control = open(&kv, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.revoke("a", NOW + 1).unwrap();
    control.revoke("b", NOW + 2).unwrap();
    control.revoke("b", NOW + 3).unwrap();
    let revoked = |id: &str, since_ms| Revoked { id: id.into(), since_ms };
    let wanted = [revoked("a", NOW + 1), revoked("b", NOW + 2)];
    assert_eq!(control.revoked(NOW + 3), wanted);
    assert_eq!(open(&kv, NOW + 4).revoked(NOW + 4), wanted);
    // What a damaged record denies stays denied.
    kv.put("denied/c", b"\xff", Life::forever(NOW)).unwrap();
    assert!(control.is_denied("c", NOW));
}

#[test]
fn a_change_of_a_list_touches_one_page_and_keeps_the_rest() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "123456789abcdef"), NOW).unwrap();
    let mut watch = control.kv().watch("holdings/");
    let report = HoldingsReport { base: Some(1), dropped: vec![id('3')], ..anew(2, "0") };
    control.holdings("a", &report, NOW).unwrap();
    let mut written = Vec::new();
    while let Some(Event::Change(change)) = watch.try_next() {
        written.push(change.key.to_string());
    }
    assert_eq!(written, ["holdings/a/00", "holdings/a/33", "holdings/a"]);
    assert_eq!(['0', '3', '4'].map(|digit| holders(&control, digit)), [1, 0, 1]);
    assert_eq!(control.node("a", NOW).unwrap().holdings, 15);
}

#[test]
fn a_clock_that_was_ahead_keeps_no_node_in_the_fleet() {
    let kv = memory();
    let before = open(&kv, NOW + 3_600_000);
    hear(&before, beat("a"), NOW + 3_600_000).unwrap();
    drop(before);
    // Now it is right again, and the node is gone.
    let control = open(&kv, NOW);
    assert_eq!(live(&control), ["a"]);
    control.tick(NOW + 2 * INTERVAL + 1);
    assert!(live(&control).is_empty());
    assert_eq!(control.nodes(NOW + 2 * INTERVAL + 1)[0].standing, Standing::Silent);
}

#[test]
fn nodes_are_not_believed_about_the_time() {
    let control = open(&memory(), NOW);
    let at = |at_ms| Report { resource: id('1'), at_ms, ..Report::default() };
    let reports = vec![at(u64::MAX), at(NOW - 5), at(0)];
    let mut said = Beat { reports, ..beat("a") };
    said.node.links = vec![crate::fleet::Link {
        url: "http://a".into(),
        measured_at_ms: u64::MAX,
        ..crate::fleet::Link::default()
    }];
    said.node.seen_ms = u64::MAX;
    hear(&control, said, NOW).unwrap();
    let kept: Vec<u64> = control.last_reports(10).iter().rev().map(|kept| kept.report.at_ms).collect();
    assert_eq!(kept, [NOW, NOW - 5, NOW - OLDEST_REPORT_MS]);
    let node = control.node("a", NOW).unwrap().node;
    assert_eq!((node.seen_ms, node.links[0].measured_at_ms), (NOW, NOW));
}

#[test]
fn a_node_whose_clients_report_without_end_is_cut_short() {
    let control = open(&memory(), NOW);
    let reports = vec![Report { resource: id('1'), ..Report::default() }; 256];
    for batch in 1..=10 {
        hear(&control, Beat { reports: reports.clone(), batch, ..beat("a") }, NOW).unwrap();
    }
    let count = |result: &str| control.metrics.reports.with_label_values(&[result]).get();
    assert_eq!((count("taken"), count("refused")), (1024, 10 * 256 - 1024));
}

/// A beat of a process of a machine.
fn process(instance: u64, boot: u64) -> Beat {
    Beat { instance, boot, ..beat("a") }
}

#[test]
fn a_restart_waits_for_nothing() {
    let control = open(&memory(), NOW);
    hear(&control, process(1, 1), NOW).unwrap();
    control.holdings("a", &anew(5, "1"), NOW).unwrap();
    assert_eq!(hear(&control, process(1, 2), NOW + 1).unwrap().generation, Some(5));
    hear(&control, process(1, 3), NOW + 2).unwrap();
    assert!(control.rivals().is_empty());
    assert_eq!((live(&control).len(), holders(&control, '1')), (1, 1));
}

#[test]
fn another_machine_with_the_id_is_refused_while_the_first_is_alive() {
    let control = open(&memory(), NOW);
    hear(&control, process(1, 1), NOW).unwrap();
    let second = |now_ms| hear(&control, process(2, 2), now_ms);
    for now_ms in [NOW + 1, NOW + INTERVAL, NOW + 2 * INTERVAL] {
        assert!(matches!(second(now_ms), Err(Refused::Rival(id)) if id == "a"), "{now_ms}");
    }
    let rival = control.node("a", NOW).unwrap().rival.unwrap();
    assert_eq!((rival.since_ms, rival.seen_ms), (NOW + 1, NOW + 2 * INTERVAL));
    control.tick(NOW + 2 * INTERVAL);
    assert_eq!(control.metrics.rivals.get(), 1);
    assert_eq!(control.metrics.heartbeats.with_label_values(&["rival"]).get(), 3);
    // Its lists are not the node's.
    let list = |boot, generation| HoldingsReport { boot: Some(boot), ..anew(generation, "1") };
    assert!(matches!(control.holdings("a", &list(2, 1), NOW), Err(Refused::Rival(_))));
    control.holdings("a", &list(1, 1), NOW).unwrap();
    // The first missed its heartbeats: it is the other one's turn, and there are no two any more.
    second(NOW + 2 * INTERVAL + 1).unwrap();
    assert!(control.rivals().is_empty());
    // The first comes back, and is the second now.
    assert!(hear(&control, process(1, 1), NOW + 3 * INTERVAL).is_err());
    // Whoever says that it ends makes room at once.
    hear(&control, Beat { leaving: true, ..process(2, 2) }, NOW + 3 * INTERVAL).unwrap();
    hear(&control, process(1, 1), NOW + 3 * INTERVAL + 1).unwrap();
    assert!(control.rivals().is_empty());
}

#[test]
fn a_copied_machine_is_found_when_the_one_before_is_heard_again() {
    let kv = memory();
    let control = open(&kv, NOW);
    hear(&control, process(1, 1), NOW).unwrap();
    // It looks like a restart.
    hear(&control, process(1, 2), NOW + 1).unwrap();
    assert!(matches!(hear(&control, process(1, 1), NOW + 2), Err(Refused::Rival(_))));
    assert_eq!(control.rivals().len(), 1);
    // Also by a control node that was not there.
    let other = open(&kv, NOW + 3);
    assert!(hear(&other, process(1, 1), NOW + 3).is_err());
    hear(&other, process(1, 2), NOW + 4).unwrap();
    // A last word that was long on its way is no second machine.
    let control = open(&kv, NOW + 5);
    assert!(hear(&control, Beat { leaving: true, ..process(1, 1) }, NOW + 5).is_err());
    assert!(control.rivals().is_empty());
}

#[test]
fn a_second_machine_is_told_of_for_a_while() {
    let control = open(&memory(), NOW);
    hear(&control, process(1, 1), NOW).unwrap();
    assert!(hear(&control, process(2, 2), NOW + 1).is_err());
    control.tick(NOW + 600_000);
    assert_eq!(control.rivals().len(), 1);
    control.tick(NOW + 600_001);
    assert!(control.rivals().is_empty());
    assert!(hear(&control, process(1, 1), NOW + 600_002).is_ok());
    assert!(hear(&control, process(2, 3), NOW + 600_003).is_err());
    control.revoke("a", NOW + 600_004).unwrap();
    assert!(control.rivals().is_empty());
}

#[test]
fn damaged_records_are_left_out() {
    let kv = memory();
    for key in ["nodes/a", "holdings/a", "holdings/a/00", "holdings/a/zz", "enrolled/a", "demand/control/00"]
    {
        kv.put(key, b"\xff\xff", Life::forever(NOW)).unwrap();
    }
    let control = open(&kv, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    assert_eq!(live(&control), ["a"]);
}

/// A store whose disk is full.
struct Full {
    inner: MemoryKv,
    full: AtomicBool,
}

impl Kv for Full {
    fn get(&self, key: &str, now_ms: u64) -> Result<Option<Entry>, KvError> {
        self.inner.get(key, now_ms)
    }

    fn list(&self, prefix: &str, now_ms: u64, each: &mut dyn FnMut(&str, Entry)) -> Result<(), KvError> {
        self.inner.list(prefix, now_ms, each)
    }

    fn write(&self, key: &str, value: &[u8], guard: Guard, life: Life) -> Result<u64, KvError> {
        if self.full.load(Relaxed) {
            return Err(KvError::Record("the disk is full".into()));
        }
        self.inner.write(key, value, guard, life)
    }

    fn delete(&self, key: &str) -> Result<bool, KvError> {
        self.inner.delete(key)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.inner.watch(prefix)
    }

    fn sweep(&self, now_ms: u64) -> Result<usize, KvError> {
        self.inner.sweep(now_ms)
    }
}

#[test]
fn a_full_disk_does_not_put_the_fleet_out() {
    let kv = Arc::new(Full { inner: MemoryKv::new(), full: AtomicBool::new(true) });
    let control = open(&(kv.clone() as Arc<dyn Kv>), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "1"), NOW).unwrap();
    assert_eq!((live(&control), holders(&control, '1')), (vec!["a".to_owned()], 1));
    assert!(control.metrics.write_failures.get() >= 2);
    // Who is thrown out must stay out, so that is refused.
    assert!(matches!(control.revoke("a", NOW), Err(Refused::Kv(_))));
    kv.full.store(false, Relaxed);
    control.revoke("a", NOW).unwrap();
    assert!(live(&control).is_empty());
}

#[test]
fn a_list_that_was_not_written_is_asked_for_again_after_a_start() {
    let kv = Arc::new(Full { inner: MemoryKv::new(), full: AtomicBool::new(false) });
    let store = kv.clone() as Arc<dyn Kv>;
    let control = open(&store, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    kv.full.store(true, Relaxed);
    control.holdings("a", &anew(1, "1"), NOW).unwrap();
    assert_eq!(holders(&control, '1'), 1);
    kv.full.store(false, Relaxed);
    drop(control);
    let control = open(&store, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    let more = HoldingsReport { base: Some(1), generation: 2, ..anew(2, "2") };
    assert!(matches!(control.holdings("a", &more, NOW), Err(Refused::Generation)));
    control.holdings("a", &anew(3, "12"), NOW).unwrap();
    assert_eq!((holders(&control, '1'), holders(&control, '2')), (1, 1));
}

#[test]
fn a_list_that_was_not_written_is_known_all_the_same() {
    let kv = Arc::new(Full { inner: MemoryKv::new(), full: AtomicBool::new(false) });
    let control = open(&(kv.clone() as Arc<dyn Kv>), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "12"), NOW).unwrap();
    kv.full.store(true, Relaxed);
    let more = HoldingsReport { base: Some(1), ..anew(2, "3") };
    control.holdings("a", &more, NOW).unwrap();
    assert_eq!(['1', '2', '3'].map(|digit| holders(&control, digit)), [1, 1, 1]);
    assert_eq!(hear(&control, beat("a"), NOW).unwrap().generation, Some(2));
}

#[test]
fn clients_reports_are_kept_within_bounds() {
    let control = open(&memory(), NOW);
    let report = |resource: String| Report { resource, ..Report::default() };
    control.report(report(id('1')), NOW).unwrap();
    assert!(matches!(control.report(report("1".into()), NOW), Err(Refused::Field { .. })));
    assert_eq!(control.last_reports(10).len(), 1);
}

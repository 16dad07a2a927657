use super::*;
use crate::fleet::Holding;
use crate::kv::{Entry, Guard, MemoryKv, RocksKv, Watch};
use crate::message::Asked;

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

fn anew(generation: u64, digits: &str) -> HoldingsReport {
    let held = digits.chars().map(holding).collect();
    HoldingsReport { generation, base: None, held, dropped: Vec::new() }
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
    control.beat(beat("a"), NOW).unwrap();
    control.holdings("a", &anew(5, "12"), NOW).unwrap();
    assert_eq!((live(&control), holders(&control, '1')), (vec!["a".to_owned()], 1));

    control.tick(NOW + 2 * INTERVAL);
    assert_eq!(live(&control).len(), 1);
    control.tick(NOW + 2 * INTERVAL + 1);
    assert_eq!((live(&control).len(), holders(&control, '1')), (0, 0));
    let told = control.node("a", NOW + 2 * INTERVAL + 1).unwrap();
    assert_eq!((told.standing, told.holdings, told.node.seen_ms), (Standing::Silent, 2, NOW));

    // It comes back with what it holds, without telling it again.
    let answer = control.beat(beat("a"), NOW + 60_000).unwrap();
    assert_eq!(answer.generation, Some(5));
    assert_eq!((live(&control).len(), holders(&control, '1')), (1, 1));
}

#[test]
fn a_node_that_ends_is_out_at_once() {
    let control = open(&memory(), NOW);
    control.beat(beat("a"), NOW).unwrap();
    control.beat(Beat { leaving: true, ..beat("a") }, NOW + 1).unwrap();
    assert!(live(&control).is_empty());
    assert_eq!(control.nodes(NOW + 1)[0].standing, Standing::Left);
    control.beat(beat("a"), NOW + 2).unwrap();
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
    control.beat(asked(1, 7), NOW).unwrap();
    let once = rate();
    assert!(once > 0);
    control.beat(asked(1, 7), NOW).unwrap();
    assert_eq!((rate(), control.last_reports(10).len()), (once, 1));
    control.beat(asked(2, 7), NOW).unwrap();
    // Another process begins to count anew.
    control.beat(asked(1, 8), NOW).unwrap();
    assert!(rate().abs_diff(3 * once) <= 3, "{} is not 3 * {once}", rate());
    assert_eq!(control.last_reports(10).len(), 3);
}

#[test]
fn lists_go_on_from_the_generation_that_is_here() {
    let control = open(&memory(), NOW);
    assert!(matches!(control.holdings("a", &anew(1, "1"), NOW), Err(Refused::Unknown(_))));
    control.beat(beat("a"), NOW).unwrap();
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
    assert_eq!(control.beat(beat("a"), NOW).unwrap().generation, Some(9));
}

#[test]
fn a_control_node_that_restarts_knows_what_it_knew() {
    let folder = tempfile::tempdir().unwrap();
    let resource = hex::decode(&id('1')).unwrap();
    {
        let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(folder.path()).unwrap());
        let control = open(&kv, NOW);
        control.beat(beat("a"), NOW).unwrap();
        control.beat(beat("b"), NOW).unwrap();
        control.holdings("a", &anew(5, "12"), NOW).unwrap();
        control.demand().count(&resource, "north", 1000, NOW);
        control.revoke("b", NOW).unwrap();
        control.tick(NOW + DEMAND_PERIOD_MS);
    }
    let kv: Arc<dyn Kv> = Arc::new(RocksKv::open(folder.path()).unwrap());
    let control = open(&kv, NOW + INTERVAL);
    assert_eq!((live(&control), holders(&control, '2')), (vec!["a".to_owned()], 1));
    assert!(control.demand().rate(&resource, "north", NOW) > 0);
    assert!(matches!(control.beat(beat("b"), NOW), Err(Refused::Denied(_))));
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
    one.beat(beat("a"), NOW).unwrap();
    one.holdings("a", &anew(5, "12"), NOW).unwrap();
    other.tick(NOW);
    assert_eq!((live(&other), holders(&other, '2')), (vec!["a".to_owned()], 1));
    other.beat(beat("a"), NOW + INTERVAL).unwrap();
    one.tick(NOW + 3 * INTERVAL);
    assert_eq!(live(&one), ["a"]);
    other.revoke("a", NOW + 3 * INTERVAL).unwrap();
    assert!(one.beat(beat("a"), NOW + 3 * INTERVAL).is_err());
    assert_eq!((live(&one).len(), holders(&one, '2')), (0, 0));
}

#[test]
fn a_control_node_that_missed_changes_reads_all_again() {
    let kv = memory();
    let (one, other) = (open(&kv, NOW), open(&kv, NOW));
    one.beat(beat("gone"), NOW).unwrap();
    other.tick(NOW);
    assert_eq!(live(&other), ["gone"]);
    one.revoke("gone", NOW).unwrap();
    one.beat(beat("a"), NOW).unwrap();
    one.holdings("a", &anew(1, "1"), NOW).unwrap();
    for _ in 0..2000 {
        one.beat(beat("b"), NOW).unwrap();
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
    control.beat(beat("a"), NOW).unwrap();
    assert_eq!(control.node("a", NOW).unwrap().node.region, "south");
}

#[test]
fn a_revoked_node_gets_nothing_in() {
    let control = open(&memory(), NOW);
    control.beat(beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "12"), NOW).unwrap();
    assert!(control.revoke("a", NOW).unwrap());
    assert!(matches!(control.beat(beat("a"), NOW), Err(Refused::Denied(_))));
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
fn damaged_records_are_left_out() {
    let kv = memory();
    for key in ["nodes/a", "holdings/a", "holdings/a/00", "holdings/a/zz", "enrolled/a", "demand/control/00"]
    {
        kv.put(key, b"\xff\xff", Life::forever(NOW)).unwrap();
    }
    let control = open(&kv, NOW);
    control.beat(beat("a"), NOW).unwrap();
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
    control.beat(beat("a"), NOW).unwrap();
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
    control.beat(beat("a"), NOW).unwrap();
    kv.full.store(true, Relaxed);
    control.holdings("a", &anew(1, "1"), NOW).unwrap();
    assert_eq!(holders(&control, '1'), 1);
    kv.full.store(false, Relaxed);
    drop(control);
    let control = open(&store, NOW);
    control.beat(beat("a"), NOW).unwrap();
    let more = HoldingsReport { base: Some(1), generation: 2, ..anew(2, "2") };
    assert!(matches!(control.holdings("a", &more, NOW), Err(Refused::Generation)));
    control.holdings("a", &anew(3, "12"), NOW).unwrap();
    assert_eq!((holders(&control, '1'), holders(&control, '2')), (1, 1));
}

#[test]
fn clients_reports_are_kept_within_bounds() {
    let control = open(&memory(), NOW);
    let report = |resource: String| Report { resource, ..Report::default() };
    control.report(report(id('1')), NOW).unwrap();
    assert!(matches!(control.report(report("1".into()), NOW), Err(Refused::Field { .. })));
    assert_eq!(control.last_reports(10).len(), 1);
}

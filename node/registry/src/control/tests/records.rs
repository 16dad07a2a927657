//! What is on record: over a restart, between control nodes, and when a record cannot be written or read.

use super::*;
use crate::kv::{Entry, Guard, RocksKv, Swept, Watch};

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
    /// When this is written, another control node throws out node `a`.
    denies_at: Option<&'static str>,
}

impl Full {
    fn new(is_full: bool) -> Self {
        Self { inner: MemoryKv::new(), full: AtomicBool::new(is_full), denies_at: None }
    }
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
        if self.denies_at == Some(key) {
            self.inner.put("denied/a", b"0", life)?;
        }
        self.inner.write(key, value, guard, life)
    }

    fn delete(&self, key: &str) -> Result<bool, KvError> {
        self.inner.delete(key)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.inner.watch(prefix)
    }

    fn sweep(&self, now_ms: u64) -> Result<Swept, KvError> {
        self.inner.sweep(now_ms)
    }
}

#[test]
fn a_full_disk_does_not_put_the_fleet_out() {
    let kv = Arc::new(Full::new(true));
    let control = open(&(kv.clone() as Arc<dyn Kv>), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "1"), NOW).unwrap();
    assert_eq!((live(&control), holders(&control, '1')), (vec!["a".to_owned()], 1));
    assert!(control.metrics.write_failures.get() >= 2);
    // What was never written goes all the same.
    kv.full.store(false, Relaxed);
    let less = HoldingsReport { base: Some(1), dropped: vec![id('1')], ..anew(2, "") };
    control.holdings("a", &less, NOW).unwrap();
    assert_eq!((live(&control).len(), holders(&control, '1')), (1, 0));
}

#[test]
fn who_is_thrown_out_is_out_though_that_cannot_be_written() {
    let kv = Arc::new(Full::new(false));
    let store = kv.clone() as Arc<dyn Kv>;
    let control = open(&store, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "12"), NOW).unwrap();
    kv.full.store(true, Relaxed);
    let refused = control.revoke("a", NOW).unwrap_err();
    assert!(matches!(refused, Refused::Unwritten { .. }), "{refused}");
    assert!(refused.to_string().contains("out until this control node restarts"), "{refused}");
    assert!(matches!(hear(&control, beat("a"), NOW), Err(Refused::Denied(_))));
    assert_eq!((live(&control).len(), holders(&control, '1'), control.nodes(NOW).len()), (0, 0, 0));

    // It stays out when changes were missed and all is read again.
    kv.full.store(false, Relaxed);
    let other = open(&store, NOW);
    assert!(!other.is_denied("a", NOW));
    for _ in 0..2000 {
        hear(&other, beat("b"), NOW).unwrap();
    }
    control.tick(NOW);
    assert_eq!((live(&control), control.is_denied("a", NOW)), (vec!["b".to_owned()], true));

    // Once it can be written nothing else of it is on record.
    assert!(control.revoke("a", NOW + 1).unwrap());
    let revoked = vec![Revoked { id: "a".into(), since_ms: NOW }];
    assert_eq!((open(&store, NOW).revoked(NOW), other.revoked(NOW)), (revoked.clone(), revoked));
    let mut keys = Vec::new();
    store.list("", NOW, &mut |key, _| keys.push(key.to_owned())).unwrap();
    assert_eq!(keys, ["denied/a", "nodes/b"]);
}

#[test]
fn a_list_that_was_not_written_is_asked_for_again_after_a_start() {
    let kv = Arc::new(Full::new(false));
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
    let kv = Arc::new(Full::new(false));
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
fn a_list_is_written_no_further_once_its_node_is_thrown_out() {
    let kv = Arc::new(Full { denies_at: Some("holdings/a/22"), ..Full::new(false) });
    let control = open(&(kv.clone() as Arc<dyn Kv>), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    assert!(matches!(control.holdings("a", &anew(1, "1234"), NOW), Err(Refused::Denied(_))));
    assert!(kv.get("holdings/a/33", NOW).unwrap().is_none() && kv.get("holdings/a", NOW).unwrap().is_none());
    assert_eq!((live(&control).len(), holders(&control, '1')), (0, 0));
}

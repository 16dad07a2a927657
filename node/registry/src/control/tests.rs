mod lists;
mod records;
mod revoked;
mod rivals;

use std::net::Ipv4Addr;

use super::*;
use crate::fleet::{Holding, Node};
use crate::kv::MemoryKv;
use crate::message::HoldingsReport;

const NOW: u64 = 1_700_000_000_000;
const INTERVAL: u64 = 10_000;

fn metrics() -> Metrics {
    Metrics::new(&prometheus::Registry::new()).unwrap()
}

fn open(kv: &Arc<dyn Kv>, now_ms: u64) -> Control {
    within(kv, Bounds::default(), now_ms)
}

fn within(kv: &Arc<dyn Kv>, bounds: Bounds, now_ms: u64) -> Control {
    Control::open(kv.clone(), Arc::new(Fleet::new()), "control", bounds, metrics(), now_ms).unwrap()
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
    HoldingsReport { boot: 1, generation, held, ..HoldingsReport::default() }
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
fn a_node_that_is_in_another_region_with_every_beat_leaves_room_for_others() {
    let control = open(&memory(), NOW);
    let asked = |node: &str, region: &str, batch| {
        let mut said = Beat { demand: vec![Asked { resource: id('1'), requests: 10 }], batch, ..beat(node) };
        said.node.region = region.into();
        hear(&control, said, NOW).unwrap();
    };
    let rate = |region| control.demand().rate(&hex::decode(&id('1')).unwrap(), region, NOW);
    asked("honest", "north", 1);
    let north = rate("north");
    for batch in 1..=2000 {
        asked("wanderer", &format!("r{batch}"), batch);
    }
    asked("other", "south", 1);
    assert_eq!((rate("north"), rate("south")), (north, north));
}

#[test]
fn what_nodes_run_is_told_and_counted() {
    let control = open(&memory(), NOW);
    let run = |node: &str, image: &str, now_ms| {
        let mut said = beat(node);
        (said.node.image, said.node.ring) = (image.into(), "early".into());
        hear(&control, said, now_ms).unwrap();
    };
    run("a", "1.0", NOW);
    run("b", "1.1", NOW);
    control.tick(NOW);
    let count = |image| control.metrics.node_versions.with_label_values(&["early", image, ""]).get();
    assert_eq!((count("1.0"), count("1.1"), control.versions().nodes.len()), (1, 1, 2));
    // A few seconds later.
    run("a", "1.1", NOW + 4999);
    control.tick(NOW + 4999);
    assert_eq!(control.versions().nodes.len(), 2);
    control.tick(NOW + 5000);
    let versions = control.versions();
    assert_eq!((versions.nodes.len(), versions.nodes[0].live, count("1.1")), (1, 2, 2));
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

#[test]
fn clients_reports_are_kept_within_bounds() {
    let control = open(&memory(), NOW);
    let report = |resource: String| Report { resource, ..Report::default() };
    control.report(report(id('1')), NOW).unwrap();
    assert!(matches!(control.report(report("1".into()), NOW), Err(Refused::Field { .. })));
    assert_eq!(control.last_reports(10).len(), 1);
}

//! Two machines with one id.

use super::*;

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
    let list = |boot, generation| HoldingsReport { boot, ..anew(generation, "1") };
    for boot in [2, 0] {
        assert!(matches!(control.holdings("a", &list(boot, 1), NOW), Err(Refused::Rival(_))), "{boot}");
    }
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

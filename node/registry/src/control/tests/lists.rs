//! What nodes hold.

use super::*;
use crate::fleet::MOST_TORRENTS;

#[test]
fn torrents_are_known_of_nodes_that_are_gone() {
    let kv = memory();
    let control = open(&kv, NOW);
    let named = |generation, resource, hashes: &[&str]| {
        let info_hashes = hashes.iter().map(|hash| hash.repeat(20)).collect();
        let held = vec![Holding { info_hashes, ..holding(resource) }];
        HoldingsReport { held, ..anew(generation, "") }
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

/// A list that goes on from the generation before.
fn more(generation: u64, held: &str, dropped: &str) -> HoldingsReport {
    let dropped = dropped.chars().map(id).collect();
    HoldingsReport { base: Some(generation - 1), dropped, ..anew(generation, held) }
}

fn refused(control: &Control, limit: &str) -> u64 {
    control.metrics.holdings_refused.with_label_values(&[limit]).get()
}

#[test]
fn a_node_holds_as_much_as_it_may_and_no_more() {
    let control = within(&memory(), Bounds { of_a_node: 5, of_the_fleet: 100 }, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.holdings("a", &anew(1, "1234"), NOW).unwrap();
    let too_long = control.holdings("a", &more(2, "56", ""), NOW).unwrap_err();
    assert_eq!(too_long.status(), 507);
    assert!(too_long.to_string().contains("`registry.max_node_holdings`"), "{too_long}");
    // Nothing of it was taken. What makes room for itself is, and an info-hash counts as a holding does.
    assert_eq!((holders(&control, '4'), holders(&control, '5'), refused(&control, "node")), (1, 0, 1));
    control.holdings("a", &more(2, "56", "1"), NOW).unwrap();
    let named = |hashes: &[&str]| {
        let info_hashes = hashes.iter().map(|hash| hash.repeat(20)).collect();
        HoldingsReport { held: vec![Holding { info_hashes, ..holding('2') }], ..more(3, "", "3") }
    };
    assert_eq!(control.holdings("a", &named(&["0a", "0b"]), NOW).unwrap_err().status(), 507);
    control.holdings("a", &named(&["0a"]), NOW).unwrap();
    // With less room than before what is held stays, and nothing comes to it.
    let control = within(control.kv(), Bounds { of_a_node: 2, of_the_fleet: 100 }, NOW);
    hear(&control, beat("a"), NOW).unwrap();
    assert_eq!(control.node("a", NOW).unwrap().holdings, 4);
    assert_eq!(control.holdings("a", &more(4, "7", ""), NOW).unwrap_err().status(), 507);
    control.holdings("a", &more(4, "", "456"), NOW).unwrap();
    assert_eq!((control.node("a", NOW).unwrap().holdings, holders(&control, '2')), (1, 1));
}

#[test]
fn a_full_fleet_refuses_who_comes_and_forgets_nobody() {
    let control = within(&memory(), Bounds { of_a_node: 4, of_the_fleet: 6 }, NOW);
    for node in ["a", "b"] {
        hear(&control, beat(node), NOW).unwrap();
    }
    control.holdings("a", &anew(1, "1234"), NOW).unwrap();
    let too_long = control.holdings("b", &anew(1, "567"), NOW).unwrap_err();
    assert_eq!(too_long.status(), 507);
    assert!(too_long.to_string().contains("`registry.max_fleet_holdings`"), "{too_long}");
    assert_eq!((refused(&control, "fleet"), holders(&control, '1'), holders(&control, '5')), (1, 1, 0));
    control.holdings("b", &anew(1, "56"), NOW).unwrap();
    control.tick(NOW);
    assert_eq!((control.metrics.holdings.get(), control.metrics.info_hashes.get()), (6, 0));
    // Room comes with those who go.
    control.revoke("a", NOW).unwrap();
    control.holdings("b", &more(2, "78", ""), NOW).unwrap();
}

#[test]
fn what_a_change_writes_anew_is_paid_for_before_it_is_written() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    let page = |first: usize| (0..1000).map(move |number| format!("{first:02x}{number:062x}"));
    let whole = |held: Vec<String>| {
        let held = held.into_iter().map(|resource| Holding { resource, ..holding('0') });
        HoldingsReport { held: held.collect(), ..anew(1, "") }
    };
    control.holdings("a", &whole((0..10).flat_map(page).collect()), NOW).unwrap();
    let one_of_each = |generation, byte: u64| {
        let held = (0..10).flat_map(|first| page(first).take(1));
        let held = held.map(|resource| Holding { resource, length: byte, ..Holding::default() }).collect();
        HoldingsReport { base: Some(generation - 1), held, ..anew(generation, "") }
    };
    // 10,000 holdings for ten that change: with what is left of the allowance once, and no more.
    control.limits.message("a", (256 << 20) - 1_500_000, NOW).unwrap();
    control.holdings("a", &one_of_each(2, 7), NOW).unwrap();
    assert!(matches!(control.holdings("a", &one_of_each(3, 8), NOW), Err(Refused::Busy)));
    let length = |control: &Control| control.fleet().snapshot().holders(&"0".repeat(64))[0].length;
    assert_eq!(length(&control), 7);
    control.holdings("a", &one_of_each(3, 8), NOW + 1000).unwrap();
    assert_eq!(length(&control), 8);
}

#[test]
fn a_node_that_comes_and_goes_pays_for_its_list() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    let held = (0..10_000).map(|number| Holding { resource: format!("{number:064x}"), ..holding('0') });
    let spread = held.map(|held| Holding { resource: held.resource.chars().rev().collect(), ..held });
    control.holdings("a", &HoldingsReport { held: spread.collect(), ..anew(1, "") }, NOW).unwrap();
    control.limits.message("a", (256 << 20) - 3_000_000, NOW).unwrap();
    let say = |leaving| hear(&control, Beat { leaving, ..beat("a") }, NOW);
    // To stay costs nothing.
    (0..100).for_each(|_| _ = say(false).unwrap());
    say(true).unwrap();
    say(false).unwrap();
    assert!(matches!(say(true), Err(Refused::Busy)));
    say(false).unwrap();
    assert_eq!(live(&control), ["a"]);
}

#[test]
fn one_list_of_a_node_is_written_at_a_time() {
    let control = open(&memory(), NOW);
    hear(&control, beat("a"), NOW).unwrap();
    control.state.lock().writing.insert("a".into(), 0);
    assert!(matches!(control.holdings("a", &anew(1, "1"), NOW), Err(Refused::Busy)));
    control.state.lock().writing.clear();
    control.holdings("a", &anew(1, "1"), NOW).unwrap();
    assert!(control.holdings("a", &anew(2, "x"), NOW).is_err());
    assert!(matches!(control.holdings("a", &more(9, "2", ""), NOW), Err(Refused::Generation)));
    assert!(control.state.lock().writing.is_empty());
}

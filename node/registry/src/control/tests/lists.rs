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

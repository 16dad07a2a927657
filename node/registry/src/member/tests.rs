use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::control::{Bounds, Control};
use crate::error::Refused;
use crate::fleet::Fleet;
use crate::kv::MemoryKv;
use crate::message;
use crate::metrics::Metrics;

const NOW: u64 = 1_700_000_000_000;
const INTERVAL: u64 = 10_000;

fn member() -> Member {
    let node = Node { id: "a".into(), region: "north".into(), interval_seconds: 10, ..Node::default() };
    Member::new(node, 1, 7, NOW)
}

/// Spread over all first bytes, as hashes are.
fn id(number: usize) -> String {
    format!("{:016x}{number:048x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn holding(number: usize) -> Holding {
    Holding { resource: id(number), length: 10, held_bytes: 10, complete: true, ..Holding::default() }
}

fn new_control() -> Control {
    control_within(Bounds::default())
}

fn control_within(bounds: Bounds) -> Control {
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let (kv, fleet) = (Arc::new(MemoryKv::new()), Arc::new(Fleet::new()));
    Control::open(kv, fleet, "control", bounds, metrics, NOW).unwrap()
}

fn reply(status: u16, body: &str) -> Reply {
    Reply { status: StatusCode::from_u16(status).unwrap(), body: body.to_owned().into() }
}

/// What a control node answers.
fn answer(control: &Control, request: &Request, now_ms: u64) -> Reply {
    fn told<T: Serialize>(result: Result<T, Refused>) -> Reply {
        match result {
            Ok(answer) => reply(200, &serde_json::to_string(&answer).unwrap()),
            Err(refused) => reply(refused.status().as_u16(), &refused.to_string()),
        }
    }
    if request.path.ends_with("/holdings") {
        told(
            message::read(&request.body)
                .and_then(|report: HoldingsReport| control.holdings("a", &report, now_ms)),
        )
    } else {
        let from = Ipv4Addr::LOCALHOST.into();
        told(message::read(&request.body).and_then(|beat: Beat| control.beat(beat, from, now_ms)))
    }
}

/// Lets a member do all that it wants to do now, and tells the requests' last words and when it wants
/// to go on.
fn settle(member: &mut Member, control: Option<&Control>, now_ms: u64) -> (Vec<&'static str>, u64) {
    let mut sent = Vec::new();
    loop {
        match member.next(now_ms) {
            Action::Send(request) => {
                sent.push(if request.path.ends_with("/holdings") { "holdings" } else { "beat" });
                assert!(sent.len() < 100, "{sent:?}");
                let reply = control.map(|control| answer(control, &request, now_ms));
                member.answered(reply.as_ref(), now_ms);
            }
            Action::Wait(until_ms) => return (sent, until_ms),
            Action::Done => return (sent, u64::MAX),
        }
    }
}

#[test]
fn a_node_registers_beats_and_tells_what_it_holds() {
    let (control, mut member) = (new_control(), member());
    member.hold(holding(1));
    assert_eq!(settle(&mut member, Some(&control), NOW), (vec!["beat", "holdings"], NOW + INTERVAL));
    assert!(member.reachable());
    assert_eq!(control.fleet().snapshot().holders(&id(1)).len(), 1);
    assert_eq!(settle(&mut member, Some(&control), NOW + INTERVAL).0, ["beat"]);

    // What is new is told soon, but not each by itself.
    member.hold(holding(2));
    member.hold(holding(2));
    assert_eq!(settle(&mut member, Some(&control), NOW + INTERVAL + 1).0, ["holdings"]);
    member.drop_holding(&id(1));
    member.drop_holding(&id(7));
    let (sent, until_ms) = settle(&mut member, Some(&control), NOW + INTERVAL + 2);
    assert_eq!((sent.len(), until_ms), (0, NOW + INTERVAL + 1 + HOLDINGS_GAP_MS));
    assert_eq!(settle(&mut member, Some(&control), until_ms).0, ["holdings"]);
    let snapshot = control.fleet().snapshot();
    assert_eq!((snapshot.holders(&id(1)).len(), snapshot.holders(&id(2)).len()), (0, 1));
}

#[test]
fn long_lists_go_in_parts() {
    let (control, mut member) = (new_control(), member());
    for number in 0..2 * MOST_HELD + 5 {
        member.hold(holding(number));
    }
    let (sent, _) = settle(&mut member, Some(&control), NOW);
    assert_eq!(sent, ["beat", "holdings", "holdings", "holdings"]);
    assert_eq!(control.node("a", NOW).unwrap().holdings, 2 * MOST_HELD + 5);
}

#[test]
fn a_node_that_loses_the_control_node_waits_longer_and_longer_and_catches_up() {
    let (control, mut member) = (new_control(), member());
    settle(&mut member, Some(&control), NOW);
    let mut now_ms = NOW + INTERVAL;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let (sent, until_ms) = settle(&mut member, None, now_ms);
        assert_eq!(sent, ["beat"]);
        waits.push(until_ms - now_ms);
        member.hold(holding(waits.len()));
        member.asked(&id(1), 3);
        member.report(Report { resource: id(1), ..Report::default() });
        now_ms = until_ms;
    }
    assert!(!member.reachable());
    assert!(waits[0] <= FIRST_WAIT_MS && waits[0] >= FIRST_WAIT_MS / 2, "{waits:?}");
    let longest = 2 * INTERVAL;
    assert!(waits[9] <= longest && waits[9] >= longest / 2, "{waits:?}");
    control.tick(now_ms);
    assert!(control.fleet().snapshot().nodes.is_empty());

    // The batch that never arrived has no counts in it; those that waited come a moment later.
    let (sent, until_ms) = settle(&mut member, Some(&control), now_ms);
    assert_eq!(sent, ["beat", "holdings"]);
    assert!(member.reachable());
    settle(&mut member, Some(&control), until_ms);
    assert_eq!(control.last_reports(100).len(), 10);
    assert_eq!(control.node("a", now_ms).unwrap().holdings, 10);
    let one = crate::hex::decode(&id(1)).unwrap();
    assert!(control.demand().rate(&one, "north", now_ms) > 0);
    assert_eq!(member.waiting(), (0, 0, 0));
}

#[test]
fn an_answer_that_was_lost_counts_once() {
    let (control, mut member) = (new_control(), member());
    member.report(Report { resource: id(1), ..Report::default() });
    let Action::Send(request) = member.next(NOW) else { panic!("no beat") };
    answer(&control, &request, NOW);
    assert_eq!(member.next(NOW), Action::Wait(u64::MAX));
    assert_eq!(member.answered(None, NOW), Outcome::Failed);
    settle(&mut member, Some(&control), NOW + INTERVAL);
    assert_eq!(control.last_reports(100).len(), 1);
}

#[test]
fn a_control_node_that_lost_everything_is_told_everything() {
    let (control, mut member) = (new_control(), member());
    member.hold(holding(1));
    member.hold(holding(2));
    settle(&mut member, Some(&control), NOW);
    member.drop_holding(&id(2));
    // It is another one now: what it is told first is a change of a list that it does not have.
    let control = new_control();
    let (sent, until_ms) = settle(&mut member, Some(&control), NOW + HOLDINGS_GAP_MS);
    assert_eq!(sent, ["holdings", "beat"]);
    assert_eq!(settle(&mut member, Some(&control), until_ms).0, ["holdings"]);
    let snapshot = control.fleet().snapshot();
    assert_eq!((snapshot.holders(&id(1)).len(), snapshot.holders(&id(2)).len()), (1, 0));
}

#[test]
fn a_process_that_begins_anew_replaces_what_the_one_before_held() {
    let control = new_control();
    let mut before = member();
    before.hold(holding(1));
    settle(&mut before, Some(&control), NOW);
    let mut after = member();
    after.hold(holding(2));
    settle(&mut after, Some(&control), NOW);
    let snapshot = control.fleet().snapshot();
    assert_eq!((snapshot.holders(&id(1)).len(), snapshot.holders(&id(2)).len()), (0, 1));
    // Also when it holds nothing.
    settle(&mut member(), Some(&control), NOW);
    assert_eq!(snapshot.holders(&id(2)).len(), 0);
}

#[test]
fn a_node_that_ends_says_so_once() {
    let (control, mut member) = (new_control(), member());
    settle(&mut member, Some(&control), NOW);
    member.leave();
    assert_eq!(settle(&mut member, Some(&control), NOW + 1), (vec!["beat"], u64::MAX));
    assert!(control.fleet().snapshot().nodes.is_empty());
    assert_eq!(member.next(NOW + 2), Action::Done);
}

#[test]
fn a_node_that_ends_does_not_wait_for_a_control_node_that_is_away() {
    let mut member = member();
    settle(&mut member, None, NOW);
    member.leave();
    assert_eq!(member.next(NOW), Action::Done);
}

#[test]
fn a_refused_node_asks_again_and_again_but_seldom() {
    let (control, mut member) = (new_control(), member());
    control.revoke("a", NOW).unwrap();
    let mut now_ms = NOW;
    let mut requests = 0;
    while now_ms < NOW + 3_600_000 {
        let (sent, until_ms) = settle(&mut member, Some(&control), now_ms);
        requests += sent.len();
        now_ms = until_ms;
    }
    assert!((150..400).contains(&requests), "{requests}");
}

#[test]
fn a_machine_whose_id_another_one_has_comes_in_soon_after_that_one_is_gone() {
    let control = new_control();
    let (mut first, node) = (member(), member().node);
    let mut second = Member::new(node, 2, 8, NOW);
    settle(&mut first, Some(&control), NOW);
    let (mut now_ms, mut refused) = (NOW + 1, 0);
    while !second.reachable() {
        let (sent, until_ms) = settle(&mut second, Some(&control), now_ms);
        refused += usize::from(sent == ["beat"]);
        assert!(now_ms <= NOW + 3 * INTERVAL, "it is still out");
        now_ms = until_ms;
    }
    assert!((3..=6).contains(&refused), "{refused}");
    assert!(control.rivals().is_empty());
    // It ends while it is refused: the other one stays.
    settle(&mut first, Some(&control), now_ms);
    first.leave();
    settle(&mut first, Some(&control), now_ms + INTERVAL / 2);
    assert_eq!(control.fleet().snapshot().nodes.len(), 1);
}

#[test]
fn an_answer_may_take_less_than_an_interval() {
    let patience = |seconds| {
        let mut member = Member::new(Node { interval_seconds: seconds, ..Node::default() }, 1, 7, NOW);
        let mut next = || {
            let Action::Send(request) = member.next(NOW) else { panic!("nothing to send") };
            member.answered(Some(&reply(200, "{}")), NOW);
            request.patience.as_millis()
        };
        (next(), next())
    };
    assert_eq!(patience(1), (1_000, 2_000));
    assert_eq!(patience(10), (5_000, 10_000));
    assert_eq!(patience(300), (10_000, 10_000));
}

#[test]
fn a_list_that_does_not_go_through_is_told_in_smaller_parts() {
    let (control, mut member) = (new_control(), member());
    for number in 0..MOST_HELD {
        member.hold(holding(number));
    }
    settle(&mut member, Some(&control), NOW);
    for number in 0..MOST_HELD {
        member.drop_holding(&id(number));
    }
    // The way takes messages of so many, and no more.
    let (mut now_ms, mut parts) = (NOW + HOLDINGS_GAP_MS, Vec::new());
    while member.waiting().0 > 0 {
        match member.next(now_ms) {
            Action::Send(request) if request.path.ends_with("/holdings") => {
                let report: HoldingsReport = message::read(&request.body).unwrap();
                parts.push(report.dropped.len());
                let goes = report.dropped.len() <= 3000;
                let reply = goes.then(|| answer(&control, &request, now_ms));
                member.answered(reply.as_ref(), now_ms);
            }
            Action::Send(request) => _ = member.answered(Some(&answer(&control, &request, now_ms)), now_ms),
            Action::Wait(until_ms) => now_ms = until_ms,
            Action::Done => panic!("it did not leave"),
        }
        assert!(parts.len() < 100, "{parts:?}");
    }
    assert_eq!(parts, [10_000, 5_000, 2_500, 2_500, 2_500, 2_500]);
    assert_eq!(control.node("a", now_ms).unwrap().holdings, 0);
}

#[test]
fn what_is_gone_is_told_though_there_is_no_room_for_what_came() {
    let control = control_within(Bounds { of_a_node: 2, of_the_fleet: 100 });
    let mut member = member();
    member.hold(holding(1));
    member.hold(holding(2));
    settle(&mut member, Some(&control), NOW);
    member.drop_holding(&id(1));
    (3..5).for_each(|number| member.hold(holding(number)));
    let (sent, until_ms) = settle(&mut member, Some(&control), NOW + HOLDINGS_GAP_MS);
    assert_eq!((sent, member.waiting().0, member.reachable()), (vec!["holdings", "holdings"], 2, true));
    let holders = |number| control.fleet().snapshot().holders(&id(number)).len();
    assert_eq!([1, 2, 3].map(holders), [0, 1, 0]);
    // There is room for one of them.
    member.drop_holding(&id(4));
    settle(&mut member, Some(&control), until_ms.max(NOW + INTERVAL + HOLDINGS_GAP_MS));
    assert_eq!((member.waiting().0, [1, 2, 3, 4].map(holders)), (0, [0, 1, 1, 0]));
}

#[test]
fn a_control_node_that_refuses_a_list_still_gets_beats() {
    for status in [400, 404, 409, 500, 507] {
        let mut member = member();
        member.hold(holding(1));
        let (mut now_ms, mut lists, mut beats) = (NOW, 0, 0);
        while now_ms < NOW + 60_000 {
            match member.next(now_ms) {
                Action::Send(request) if request.path.ends_with("/holdings") => {
                    lists += 1;
                    member.answered(Some(&reply(status, "?")), now_ms);
                }
                Action::Send(_) => {
                    beats += 1;
                    member.answered(Some(&reply(200, "{}")), now_ms);
                }
                Action::Wait(until_ms) => now_ms = until_ms,
                Action::Done => panic!("it did not leave"),
            }
        }
        assert!((5..=65).contains(&lists) && (6..=70).contains(&beats), "{status}: {lists}, {beats}");
    }
}

#[test]
fn answers_that_make_no_sense_are_failures() {
    for body in ["", "7", "{\"generation\": \"x\"}", "\u{0}"] {
        let mut member = member();
        assert!(matches!(member.next(NOW), Action::Send(_)));
        assert_eq!(member.answered(Some(&reply(200, body)), NOW), Outcome::Failed, "{body}");
        assert!(!member.reachable());
    }
    assert_eq!(member().answered(None, NOW), Outcome::Failed);
}

#[test]
fn two_nodes_do_not_wait_alike() {
    let wait = |seed| {
        let mut member = Member::new(Node { interval_seconds: 10, ..Node::default() }, 1, seed, NOW);
        (0..5).fold(NOW, |now_ms, _| settle(&mut member, None, now_ms).1)
    };
    assert_ne!(wait(1), wait(2));
}

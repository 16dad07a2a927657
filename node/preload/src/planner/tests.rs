use skerry_policy::PolicyConfig;
use skerry_registry::fleet::{Fleet, Holding};
use skerry_registry::kv::MemoryKv;

use super::*;
use crate::told::{Sourced, UnderWay};

const NOW: u64 = 1_700_000_000_000;
/// Longer than a round, and longer than a plan.
const ROUND: u64 = 61_000;
const PLAN: u64 = 301_000;
const DAY: u64 = 86_400_000;

struct Seen {
    fleet: Fleet,
    demand: Demand,
    wishes: Wishes,
}

impl View for Seen {
    fn fleet(&self) -> Arc<Snapshot> {
        self.fleet.snapshot()
    }

    fn demand(&self) -> &Demand {
        &self.demand
    }

    fn wishes(&self) -> &Wishes {
        &self.wishes
    }
}

struct World {
    seen: Arc<Seen>,
    kv: Arc<dyn Kv>,
    planner: Planner,
    _folder: tempfile::TempDir,
}

fn planner(seen: &Arc<Seen>, kv: &Arc<dyn Kv>, folder: &tempfile::TempDir) -> Planner {
    let registry = prometheus::Registry::new();
    let policies = Policies::new(PolicyConfig::default(), folder.path(), None, &registry).unwrap();
    let metrics = Metrics::new(&registry).unwrap();
    let parts = Parts { view: seen.clone(), policies, kv: kv.clone(), plan_seconds: 300, seed: 7, metrics };
    Planner::open(parts, NOW).unwrap()
}

impl World {
    /// Nodes of the north, and resources of 100 bytes each, all of which node `origin` of no region has.
    fn new(nodes: &[&str], resources: u8) -> Self {
        let seen = Seen { fleet: Fleet::new(), demand: Demand::new(1000), wishes: Wishes::default() };
        let (seen, kv) = (Arc::new(seen), Arc::new(MemoryKv::new()) as Arc<dyn Kv>);
        let folder = tempfile::tempdir().unwrap();
        let world = Self { planner: planner(&seen, &kv, &folder), seen, kv, _folder: folder };
        world.seen.fleet.hear(nodes.iter().map(|id| node(id, "north", 1000)));
        let sources = (1..=resources).map(|number| source(number, &path(number))).collect();
        world.planner.told("origin", Told { sources, under_way: Vec::new() }, NOW).unwrap();
        world
    }

    fn ask(&self, number: u8, region: &str, requests: u32) {
        self.seen.demand.count(&resource(number), region, requests, NOW);
    }

    fn paths(&self, node: &str, now_ms: u64) -> Vec<String> {
        let list = self.planner.list(node, now_ms).unwrap();
        list.items.iter().map(|item| item.path.clone()).collect()
    }
}

/// The planner of a fleet of one node, and the folder that it needs.
pub(crate) fn alone(id: &str) -> (Arc<Planner>, tempfile::TempDir) {
    let World { planner, _folder, .. } = World::new(&[id], 0);
    (Arc::new(planner), _folder)
}

fn node(id: &str, region: &str, capacity_bytes: u64) -> Node {
    Node {
        id: id.into(),
        region: region.into(),
        capacity_bytes,
        preload_window_bytes: capacity_bytes,
        seen_ms: NOW,
        interval_seconds: u32::MAX,
        ..Node::default()
    }
}

fn resource(number: u8) -> Resource {
    [number; 32]
}

fn path(number: u8) -> String {
    format!("/{number}")
}

fn source(number: u8, path: &str) -> Sourced {
    let resource = Some(ChunkId(resource(number)));
    Sourced { resource, site: "default".into(), path: path.into(), length: 100, added_ms: NOW - DAY }
}

fn held(number: u8) -> Holding {
    let resource = ChunkId(resource(number)).to_string();
    Holding { resource, length: 100, held_bytes: 100, complete: true, ..Holding::default() }
}

fn order(text: &str) -> Order {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_is_asked_for_most_comes_first() {
    let world = World::new(&["a"], 4);
    world.ask(1, "north", 10);
    world.ask(2, "north", 100);
    world.ask(3, "south", 4000);
    world.ask(200, "north", 9000);
    let list = world.planner.list("a", NOW).unwrap();
    let told: Vec<_> = list.items.iter().map(|item| (&*item.path, item.priority, item.length)).collect();
    assert_eq!(told, [("/3", 0, 100), ("/2", 1, 100), ("/1", 2, 100)]);
    assert_eq!(list.items[1].resource, Some(ChunkId(resource(2))));
    assert!(matches!(world.planner.list("nobody", NOW), Err(PlanError::Unknown(_))));
}

#[test]
fn a_list_stands_for_a_while() {
    let world = World::new(&["a"], 2);
    world.ask(1, "north", 10);
    let first = world.planner.list("a", NOW).unwrap();
    world.ask(2, "north", 100);
    assert!(Arc::ptr_eq(&first, &world.planner.list("a", NOW + ROUND).unwrap()));
    let next = world.planner.list("a", NOW + PLAN).unwrap();
    assert_eq!((first.items.len(), next.items.len()), (1, 2));
    assert_ne!(first.revision, next.revision);
    // Of a node that left the fleet the last word stands.
    world.seen.fleet.remove("a");
    assert_eq!(world.planner.list("a", NOW + 2 * PLAN).unwrap(), next);
}

#[test]
fn nodes_of_a_region_are_not_all_told_to_fetch_the_same() {
    let world = World::new(&[], 2);
    world.seen.fleet.hear(["a", "b", "c"].map(|id| node(id, "north", 100)));
    world.ask(1, "north", 100);
    world.ask(2, "north", 80);
    assert_eq!(world.paths("a", NOW), ["/1"]);
    // One copy of the first is on its way, so that a second one is worth 50.
    assert_eq!(world.paths("b", NOW), ["/2"]);
    assert_eq!(world.paths("c", NOW), ["/1"]);
    // They stay with what they have.
    for (round, wanted) in [(1, "/1"), (2, "/1")] {
        assert_eq!(world.paths("a", NOW + round * PLAN), [wanted]);
    }
    assert_eq!(world.paths("b", NOW + 2 * PLAN), ["/2"]);
}

#[test]
fn a_policy_without_opinion_changes_nothing() {
    let world = World::new(&["a"], 2);
    world.ask(1, "north", 10);
    world.ask(2, "north", 20);
    let list = world.planner.list("a", NOW).unwrap();
    let later = world.planner.list("a", NOW + 90 * DAY).unwrap();
    assert_eq!((list.items.len(), &later), (2, &list));
    let kept = world.planner.parts.metrics.plans.with_label_values(&["kept"]).get();
    assert_eq!(kept, 1);
}

#[test]
fn orders_come_first_and_at_once() {
    let world = World::new(&["a"], 2);
    world.seen.fleet.hear([node("b", "south", 1000)]);
    world.ask(1, "north", 10);
    world.ask(2, "north", 100);
    assert_eq!(world.paths("a", NOW), ["/2", "/1"]);
    world.planner.order(order(r#"{"path": "/new", "region": "north"}"#), NOW).unwrap();
    world.planner.order(order(r#"{"path": "/1", "priority": 5}"#), NOW).unwrap();
    let list = world.planner.list("a", NOW + 1).unwrap();
    let told: Vec<_> = list.items.iter().map(|item| (&*item.path, item.length)).collect();
    assert_eq!(told, [("/1", 100), ("/new", 0), ("/2", 100)]);
    assert_eq!(list.items[1].resource, None);
    assert_eq!(world.paths("b", NOW + 1)[0], "/1");
    // Its length is known once a node has begun with it.
    let begun = UnderWay { site: "default".into(), path: "/new".into(), length: 70, ..UnderWay::default() };
    world.planner.told("a", Told { under_way: vec![begun], ..Told::default() }, NOW + 2).unwrap();
    let list = world.planner.list("a", NOW + PLAN).unwrap();
    assert_eq!((&*list.items[1].path, list.items[1].length), ("/new", 70));
    let told = world.planner.summary();
    assert_eq!((&told["orders"][0]["path"], &told["orders"][0]["copies"]), (&json!("/1"), &json!(0)));
    assert_eq!((&told["nodes"][0]["node"], &told["nodes"][0]["items"]), (&json!("a"), &json!(3)));
    world.planner.withdraw("default", "/new", "north").unwrap();
    assert_eq!(world.paths("a", NOW + PLAN + 1).len(), 2);
    assert!(world.planner.withdraw("default", "/new", "north").is_err());
}

#[test]
fn orders_take_their_part_of_the_capacity() {
    let world = World::new(&[], 2);
    world.seen.fleet.hear([node("a", "north", 250)]);
    world.ask(1, "north", 10);
    world.ask(2, "north", 100);
    assert_eq!(world.paths("a", NOW), ["/2", "/1"]);
    world.planner.order(order(r#"{"path": "/1"}"#), NOW).unwrap();
    assert_eq!(world.paths("a", NOW + 1), ["/1", "/2"]);
    world.planner.told("a", Told { sources: vec![source(9, "/9")], ..Told::default() }, NOW + 2).unwrap();
    world.planner.order(order(r#"{"path": "/9"}"#), NOW + 2).unwrap();
    assert_eq!(world.paths("a", NOW + 3), ["/1", "/9"]);
}

#[test]
fn wishes_go_to_as_many_nodes_as_are_wished_for() {
    let world = World::new(&["a", "b", "c"], 1);
    world.seen.fleet.hear([node("far", "south", 1000), node("small", "north", 10)]);
    let all = ["a", "b", "c", "far", "small"];
    let having =
        |now_ms| -> Vec<&str> { all.into_iter().filter(|id| !world.paths(id, now_ms).is_empty()).collect() };
    assert!(having(NOW).is_empty());
    world.seen.wishes.wish(&resource(1), "north", 2, NOW + ROUND);
    let two = having(NOW + ROUND);
    assert_eq!(two.len(), 2, "{two:?}");
    assert!(two.iter().all(|id| ["a", "b", "c"].contains(id)), "{two:?}");
    // The same as long as it is wished for, and as long as it is on its way.
    assert_eq!(having(NOW + 2 * ROUND), two);
    world.seen.fleet.holds(two[0], &[held(1)]);
    world.seen.wishes.wish(&resource(1), "north", 1, NOW + 3 * ROUND);
    assert_eq!(having(NOW + 3 * ROUND), two);
    // One more than there are now goes to the one that is left.
    world.seen.wishes.wish(&resource(1), "north", 2, NOW + 5 * ROUND);
    assert_eq!(having(NOW + 5 * ROUND), ["a", "b", "c"]);
    assert_eq!(world.planner.parts.metrics.wished.get(), 2);
}

#[test]
fn what_is_half_there_is_not_given_up() {
    let world = World::new(&["a"], 2);
    world.ask(1, "north", 10);
    world.ask(2, "north", 100);
    assert_eq!(world.paths("a", NOW), ["/2", "/1"]);
    world.seen.fleet.holds("a", &[held(1)]);
    world.seen.fleet.hear([Node { preload_window_bytes: 0, ..node("a", "north", 1000) }]);
    let under_way = |received_bytes| {
        let item =
            UnderWay { site: "default".into(), path: "/2".into(), received_bytes, ..UnderWay::default() };
        world.planner.told("a", Told { under_way: vec![item], ..Told::default() }, NOW).unwrap();
    };
    under_way(40);
    assert_eq!(world.paths("a", NOW + PLAN), ["/2", "/1"]);
    under_way(0);
    assert_eq!(world.paths("a", NOW + 2 * PLAN), ["/1"]);
}

#[test]
fn lists_outlive_the_process() {
    let world = World::new(&["a"], 3);
    world.ask(1, "north", 10);
    world.ask(2, "north", 100);
    let list = world.planner.list("a", NOW).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let again = planner(&world.seen, &world.kv, &folder);
    // Long after nobody asks any more the list stays, with the times of its items.
    let now_ms = NOW + 90 * DAY;
    assert_eq!(again.list("a", now_ms).unwrap(), list);
    let state = again.state.lock();
    assert_eq!(state.lists["a"].since[&resource(1)], NOW);
    let row = state.round.row(&resource(1), (1, 1), &state.lists["a"].since, 0, now_ms);
    assert_eq!((row.listed_seconds, row.age_seconds, row.copies_near), (90 * 86_400, 91 * 86_400, 0));
}

#[test]
fn rows_say_how_it_is() {
    let world = World::new(&["a", "b", "c"], 1);
    world.seen.fleet.hear([node("d", "south", 1000), node("e", "", 1000)]);
    for id in ["a", "b", "d", "e"] {
        world.seen.fleet.holds(id, &[held(1)]);
    }
    let half = Holding { held_bytes: 50, complete: false, ..held(1) };
    world.seen.fleet.holds("c", &[half]);
    world.ask(1, "north", 100);
    world.ask(1, "south", 50);
    world.planner.list("a", NOW).unwrap();
    let state = world.planner.state.lock();
    let rate = |region| world.seen.demand.rate(&resource(1), region, NOW);
    let row = state.round.row(&resource(1), (1, 1), &state.lists["a"].since, 0, NOW + 1);
    assert_eq!((row.size_bytes, row.held, row.listed_seconds), (100, 1000, 1));
    assert_eq!((row.demand_near, row.demand_far), (rate("north"), rate("south")));
    assert_eq!((row.copies_near, row.copies_far, row.age_seconds), (1, 2, 86_400));
    let row = state.round.row(&resource(1), (3, 1), &HashMap::new(), 700, NOW);
    assert_eq!((row.held, row.listed_seconds, row.copies_near), (700, 0, 2));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new(&["a"], 1);
    let odd = Told { sources: vec![source(1, "no path")], ..Told::default() };
    assert!(matches!(world.planner.told("a", odd, NOW), Err(Refused::Field(_))));
    assert!(world.planner.order(order(r#"{"path": "no path"}"#), NOW).is_err());
    // A clock that is ahead does not make a source the newest for ever.
    let early = Sourced { added_ms: u64::MAX, ..source(2, "/1") };
    world.planner.told("a", Told { sources: vec![early], ..Told::default() }, NOW).unwrap();
    let from = CameFrom { site: "default".into(), target: "/1".into() };
    assert_eq!(world.planner.table.read().source(&from).unwrap().added_ms, NOW);
    let value = PreloadLists::list(&world.planner, "a").unwrap();
    assert!(value["items"].as_array().is_some() && value["revision"].is_string());
    assert!(PreloadLists::list(&world.planner, "nobody").is_none());
}

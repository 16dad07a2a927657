use skerry_registry::fleet::{Fleet, Holding};

use super::*;

const NOW: u64 = 1_000_000;

fn link(name: &str) -> Link {
    Link {
        name: name.into(),
        url: format!("http://{name}.example"),
        capacity_kbps: 1_000_000,
        healthy: true,
        ..Link::default()
    }
}

fn node(id: &str, region: &str, links: Vec<Link>) -> Node {
    Node {
        id: id.into(),
        region: region.into(),
        roles: vec!["cache".into()],
        links,
        seen_ms: NOW,
        interval_seconds: 5,
        ..Node::default()
    }
}

struct World {
    fleet: Fleet,
    regions: Names,
    isps: Names,
    distances: Distances,
    coordinates: HashMap<u32, Coordinates>,
    chosen: Chosen,
    most: usize,
}

impl World {
    fn new(nodes: Vec<Node>) -> Self {
        let fleet = Fleet::new();
        fleet.hear(nodes);
        let (regions, isps) = (Names::default(), Names::default());
        let table = [("eu/us".to_owned(), 90_000), ("eu/as".to_owned(), 150_000)];
        let distances = Distances::new(&table.into(), &regions);
        let (coordinates, chosen) = (HashMap::new(), Chosen::default());
        Self { fleet, regions, isps, distances, coordinates, chosen, most: 60 }
    }

    fn field(&self, now_ms: u64) -> Field {
        Field::new(self.fleet.snapshot(), &["cache".into()], &self.regions, &self.isps, now_ms)
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            distances: &self.distances,
            coordinates: &self.coordinates,
            chosen: &self.chosen,
            most: self.most,
        }
    }

    fn key(&self, region: &str, isp: u32) -> Key {
        Key { region: self.regions.number(region), isp, set: None, deep: 0 }
    }

    fn rows(&self, key: Key) -> Vec<RouteCandidate> {
        self.field(NOW).rows(key, None, &self.facts(), NOW).candidates.clone()
    }

    /// Names of the links of rows, in their order.
    fn names(&self, field: &Field, links: &[u32]) -> Vec<String> {
        let name = |index: &u32| {
            let (node, at, _) = field.link(*index).unwrap();
            node.links[at].name.clone()
        };
        links.iter().map(name).collect()
    }

    fn order(&self, key: Key, deep: Option<&Deep>) -> Vec<String> {
        let field = self.field(NOW);
        let rows = field.rows(key, deep, &self.facts(), NOW);
        self.names(&field, &rows.links)
    }
}

#[test]
fn links_that_take_nobody_are_no_rows() {
    let down = Link { healthy: false, ..link("down") };
    let closed = Link { capacity_kbps: 0, ..link("closed") };
    let nowhere = Link { url: String::new(), ..link("nowhere") };
    let silent = Node { seen_ms: NOW - 10_001, ..node("b", "eu", vec![link("silent")]) };
    let control = Node { roles: vec!["tracker".into()], ..node("c", "eu", vec![link("control")]) };
    let world = World::new(vec![
        node("a", "eu", vec![down, closed, nowhere, link("good")]),
        silent,
        control,
        node("d", "eu", vec![]),
    ]);
    assert_eq!(world.order(world.key("eu", 0), None), ["good"]);
    assert_eq!(world.field(NOW).links(), 1);
}

#[test]
fn a_field_ends_when_a_node_falls_silent_or_the_fleet_changes() {
    let world = World::new(vec![node("a", "eu", vec![link("a")])]);
    let field = world.field(NOW + 9500);
    let version = world.fleet.snapshot().version;
    assert!(field.fresh(version, NOW + 9500) && field.fresh(version, NOW + 10_000));
    assert!(!field.fresh(version, NOW + 10_001));
    assert!(field.fresh(version + 1, NOW + 9599) && !field.fresh(version + 1, NOW + 9600));
    // A clock that was set back.
    assert!(!field.fresh(version, NOW + 9499));
    assert_eq!(world.field(NOW + 10_001).links(), 0);
    let calm = world.field(NOW);
    assert!(calm.fresh(version, NOW + 1000) && !calm.fresh(version, NOW + 1001));
}

#[test]
fn rows_come_by_room_region_operator_and_distance() {
    let own = Link { asns: vec![64501, 64500], ..link("own") };
    let other = Link { asns: vec![64502], ..link("other") };
    let full = Link { used_kbps: 950_000, ..link("full") };
    let world = World::new(vec![
        node("a", "as", vec![link("asia")]),
        node("b", "us", vec![link("america")]),
        node("c", "eu", vec![full, other, link("any"), own]),
    ]);
    let key = world.key("eu", 64500);
    assert_eq!(world.order(key, None), ["own", "any", "other", "america", "asia", "full"]);
    let rows = world.rows(key);
    assert_eq!(rows.iter().map(|row| row.isp).collect::<Vec<_>>(), [64500, 0, 64502, 0, 0, 0]);
    assert_eq!(rows.iter().map(|row| row.node).collect::<Vec<_>>(), [3, 3, 3, 2, 1, 3]);
    let unknown = u32::MAX;
    let distances = [unknown, unknown, unknown, 90_000, 150_000, unknown];
    assert_eq!(rows.iter().map(|row| row.distance_us).collect::<Vec<_>>(), distances);
}

#[test]
fn of_too_many_the_nearest_with_room_are_taken() {
    let links = |name: &str, count: usize| (0..count).map(|_| link(name)).collect::<Vec<_>>();
    let mut full = links("full", 40);
    full.iter_mut().for_each(|link| link.used_kbps = link.capacity_kbps);
    let mut world = World::new(vec![
        node("a", "as", links("asia", 50)),
        node("b", "us", links("america", 50)),
        node("c", "eu", [full, links("europe", 5)].concat()),
    ]);
    world.most = 20;
    let order = world.order(world.key("eu", 0), None);
    assert_eq!(order.iter().filter(|name| *name == "europe").count(), 5);
    assert_eq!(order.iter().filter(|name| *name == "america").count(), 15);
}

#[test]
fn prefixes_of_links_tell_operators() {
    let prefixes = |text: &str| vec![text.parse().unwrap()];
    let wide = Link { prefixes: prefixes("192.0.2.0/24"), isp: "Wide".into(), ..link("wide") };
    let narrow = Link { prefixes: prefixes("192.0.2.0/28"), asns: vec![64500], ..link("narrow") };
    let nameless = Link { prefixes: prefixes("2001:db8::/32"), ..link("nameless") };
    let world = World::new(vec![node("a", "eu", vec![wide, narrow, nameless, link("any")])]);
    let field = world.field(NOW);
    let set = |client: &str| field.set(client.parse().unwrap());
    let isp = |client: &str| set(client).and_then(|set| field.isp(set));

    let narrow = isp("192.0.2.1").unwrap();
    assert_eq!((narrow.number, narrow.asn), (64500, Some(64500)));
    let wide = isp("192.0.2.99").unwrap();
    assert_eq!((wide.asn, &*wide.name), (None, "Wide"));
    assert!(wide.number > 4_294_900_000);
    assert!(isp("2001:db8::1").unwrap().number > 4_294_900_000);
    assert_eq!(isp("203.0.113.1"), None);

    // A client whose operator is known otherwise still matches by its address.
    let key = Key { set: set("192.0.2.99"), ..world.key("eu", 65000) };
    let rows = field.rows(key, None, &world.facts(), NOW);
    assert_eq!(world.names(&field, &rows.links[..2]), ["wide", "any"]);
    assert_eq!(rows.candidates[0].isp, 65000);
}

#[test]
fn a_deep_zone_has_its_nodes_while_one_has_room() {
    let links = |used_kbps| vec![Link { used_kbps, ..link("near") }];
    let deep = Deep { number: 1, name: "street".into(), nodes: ["b", "gone"].map(Arc::<str>::from).into() };
    for (used_kbps, order) in [(0, vec!["near"]), (950_000, vec!["any", "near"])] {
        let nodes = vec![node("a", "eu", vec![link("any")]), node("b", "eu", links(used_kbps))];
        let world = World::new(nodes);
        let key = Key { deep: 1, ..world.key("eu", 0) };
        assert_eq!(world.order(key, Some(&deep)), order);
    }
}

#[test]
fn holders_come_in_and_say_what_they_hold() {
    let resource = "ab".repeat(32);
    let holding = |held_bytes: u64| {
        let complete = held_bytes == 1000;
        [Holding { resource: resource.clone(), length: 1000, held_bytes, complete, ..Holding::default() }]
    };
    let near = (0..10).map(|at| node(&format!("near-{at}"), "eu", vec![link("near")]));
    let far = ["far-1", "far-2"].map(|id| node(id, "us", vec![link(id)]));
    let mut world = World::new(near.chain(far).collect());
    world.most = 4;
    world.fleet.holds("far-1", &holding(1000));
    world.fleet.holds("far-2", &holding(999));
    world.fleet.holds("near-3", &holding(500));
    let field = world.field(NOW);
    let holders = field.snapshot().holders(&resource);
    let facts = world.facts();
    let rows = field.rows(world.key("eu", 0), None, &facts, NOW);
    let (candidates, links) = field.holding(&rows, &holders, &facts, NOW, 7);
    assert_eq!(candidates.len(), 4);
    for (candidate, link) in candidates.iter().zip(&links) {
        let (node, ..) = field.link(*link).unwrap();
        let held = match &*node.id {
            "far-1" => 1000,
            "far-2" => 999,
            "near-3" => 500,
            _ => 0,
        };
        assert_eq!(candidate.held, held, "{}", node.id);
    }
    let near_holder = candidates.iter().any(|candidate| candidate.held == 500);
    assert!(near_holder, "the holder of the region comes in first");
    assert!(candidates.iter().filter(|candidate| candidate.held > 0).count() >= 2);
    // Nobody holds it: the rows as they are.
    assert_eq!(field.holding(&rows, &[], &facts, NOW, 7), (rows.candidates.clone(), rows.links.clone()));
}

#[test]
fn first_choices_of_late_are_told() {
    let world = World::new(vec![node("a", "eu", vec![link("a")])]);
    let key = world.key("eu", 0);
    world.chosen.note(key.region, 1 << 32, NOW - 2000);
    assert_eq!(world.rows(key)[0].chosen_ms_ago, 2000);
    assert_eq!(world.rows(world.key("us", 0))[0].chosen_ms_ago, u32::MAX);
}

#[test]
fn no_nodes_are_no_rows() {
    let world = World::new(Vec::new());
    assert!(world.rows(world.key("", 0)).is_empty());
    assert_eq!(world.field(NOW).set("192.0.2.1".parse().unwrap()), None);
}

use std::time::Duration;

use skerry_policy::PolicyConfig;
use skerry_registry::fleet::Holding;

use super::*;

pub(crate) const NOW: u64 = 1_000_000_000;

pub(crate) struct World {
    pub(crate) selector: Arc<Selector>,
    pub(crate) fleet: Arc<Fleet>,
    _folder: tempfile::TempDir,
}

impl World {
    /// A selector on the node `self`, without nodes.
    pub(crate) fn new(config: SelectorConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        let policies = Policies::new(PolicyConfig::default(), folder.path(), None, &registry).unwrap();
        let fleet = Arc::new(Fleet::new());
        let parts =
            Parts { config, node: "self".into(), fleet: fleet.clone(), policies, registry: &registry };
        Self { selector: Selector::new(parts).unwrap(), fleet, _folder: folder }
    }

    fn route(&self, client: &str, resource: Option<&str>, now_ms: u64, seed: u64) -> Route {
        self.selector.route(client.parse().unwrap(), resource, now_ms, seed)
    }

    fn ids(&self, client: &str, now_ms: u64) -> Vec<String> {
        let mut ids: Vec<String> =
            self.route(client, None, now_ms, 1).nodes.iter().map(|routed| routed.node.id.clone()).collect();
        ids.sort();
        ids
    }
}

/// A node with one link for anybody.
pub(crate) fn node(id: &str, region: &str) -> Node {
    let link = Link {
        name: "a".into(),
        url: format!("http://{id}.example:8080"),
        capacity_kbps: 1_000_000,
        healthy: true,
        ..Link::default()
    };
    Node {
        id: id.into(),
        region: region.into(),
        roles: vec!["cache".into()],
        links: vec![link],
        seen_ms: NOW,
        interval_seconds: 5,
        ..Node::default()
    }
}

fn config() -> SelectorConfig {
    SelectorConfig { default_region: "eu".into(), ..SelectorConfig::default() }
}

#[test]
fn nobody_is_there() {
    let world = World::new(config());
    let route = world.route("192.0.2.1", None, NOW, 1);
    assert!(route.nodes.is_empty());
    assert_eq!((&*route.place.region.name, route.policy.reason), ("eu", "no-candidates"));
    assert_eq!(world.selector.metrics.unrouted.get(), 1);
}

#[test]
fn the_nodes_of_the_region_come_first_each_with_the_link_for_the_client() {
    let world = World::new(config());
    let mut home = node("home", "eu");
    let prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    home.links.push(Link { name: "b".into(), isp: "Example".into(), prefixes, ..home.links[0].clone() });
    world.fleet.hear([node("far", "us"), home]);
    let told = |client: &str| {
        let route = world.route(client, None, NOW, 1);
        let each = route.nodes.iter().map(|routed| format!("{}/{}", routed.node.id, routed.link().name));
        (each.collect::<Vec<_>>(), route.isp.map(|isp| isp.name.to_string()))
    };
    assert_eq!(told("192.0.2.1"), (vec!["home/b".into(), "far/a".into()], Some("Example".into())));
    assert_eq!(told("203.0.113.1"), (vec!["home/a".into(), "far/a".into()], None));
    let route = world.route("192.0.2.1", None, NOW, 1);
    let policy = DecidedBy { name: "built-in".into(), version: None, reason: "no-policy" };
    assert_eq!(route.policy, policy);
    assert!(route.nodes.iter().all(|routed| (1..=1_000_000).contains(&routed.weight)));
}

#[test]
fn a_node_that_misses_its_heartbeats_is_out_within_two_intervals() {
    let world = World::new(config());
    world.fleet.hear([node("a", "eu"), node("b", "eu")]);
    assert_eq!(world.ids("192.0.2.1", NOW + 1), ["a", "b"]);
    world.fleet.hear([Node { seen_ms: NOW + 8000, ..node("b", "eu") }]);
    assert_eq!(world.ids("192.0.2.1", NOW + 10_000), ["a", "b"]);
    assert_eq!(world.ids("192.0.2.1", NOW + 10_001), ["b"]);
    // It comes back.
    world.fleet.hear([Node { seen_ms: NOW + 12_000, ..node("a", "eu") }]);
    assert_eq!(world.ids("192.0.2.1", NOW + 12_000), ["a", "b"]);
    world.fleet.remove("b");
    assert_eq!(world.ids("192.0.2.1", NOW + 12_100), ["a"]);
}

#[test]
fn a_failing_link_and_a_full_one_are_left_for_others() {
    let world = World::new(config());
    let with = |id: &str, change: &dyn Fn(&mut Link)| {
        let mut node = node(id, "eu");
        change(&mut node.links[0]);
        node
    };
    world.fleet.hear([
        with("failing", &|link| link.healthy = false),
        with("full", &|link| link.used_kbps = link.capacity_kbps),
        with("good", &|link| link.used_kbps = 500_000),
    ]);
    let route = world.route("192.0.2.1", None, NOW, 1);
    let ids: Vec<&str> = route.nodes.iter().map(|routed| &*routed.node.id).collect();
    assert_eq!(ids, ["good", "full"]);
}

#[test]
fn a_holder_comes_before_its_equals() {
    let world = World::new(config());
    world.fleet.hear(["a", "b", "c"].map(|id| node(id, "eu")));
    let id = "0123456789abcdef".repeat(4);
    let holding = Holding {
        resource: id.clone(),
        length: 5000,
        held_bytes: 5000,
        complete: true,
        ..Holding::default()
    };
    world.fleet.holds("c", &[holding]);
    for seed in 0..50 {
        let route = world.route("192.0.2.1", Some(&id), NOW, seed << 30);
        assert_eq!((&*route.nodes[0].node.id, route.nodes[0].held, route.nodes[1].held), ("c", 1000, 0));
    }
    let question = world.selector.ask("192.0.2.1".parse().unwrap(), Some(&id), NOW, 1);
    let Inputs::RegionRouter { request, .. } = question.inputs else { panic!("another world") };
    assert_eq!((request.resource_hash, request.size_bytes), (0x0123_4567_89ab_cdef, 5000));
}

#[test]
fn clients_are_spread_over_equals_and_named_by_their_prefix() {
    let world = World::new(config());
    world.fleet.hear(["a", "b", "c"].map(|id| node(id, "eu")));
    let mut random = fastrand::Rng::with_seed(1);
    let mut firsts = std::collections::HashMap::<String, usize>::new();
    for _ in 0..3000 {
        let route = world.route("192.0.2.1", None, NOW, random.u64(..));
        *firsts.entry(route.nodes[0].node.id.clone()).or_default() += 1;
    }
    assert!(firsts.len() == 3 && firsts.values().all(|count| *count > 800), "{firsts:?}");
    let hash = |client: &str| world.selector.prefix_hash(client.parse().unwrap());
    assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.200"));
    assert_ne!(hash("192.0.2.1"), hash("192.0.3.1"));
    assert_eq!(hash("2001:db8:0:aa::1"), hash("2001:db8:0:bb::1"));
}

#[test]
fn numbers_are_those_that_policies_see() {
    let world = World::new(config());
    let number = world.selector.region("eu");
    assert_eq!(world.selector.whereabouts("192.0.2.1".parse().unwrap(), NOW), (number, 0));
    assert_eq!(world.selector.region(""), 0);
}

#[test]
fn a_changed_file_moves_clients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zones.json");
    let zones = |name: &str| {
        let text = format!(r#"{{"coverageZones": {{"{name}": {{"network": ["192.0.2.0/24"]}}}}}}"#);
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
    };
    zones("eu");
    let world = World::new(SelectorConfig { coverage_zone_file: path.clone(), ..config() });
    let region = || world.route("192.0.2.1", None, NOW, 1).place.region.name.to_string();
    assert_eq!(region(), "eu");
    crate::files::watch(&world.selector).unwrap();
    zones("us");
    // The system tells of the change in its own time.
    let mut waited = 0;
    while region() != "us" && waited < 1000 {
        std::thread::sleep(Duration::from_millis(10));
        waited += 1;
    }
    assert_eq!(region(), "us");
}

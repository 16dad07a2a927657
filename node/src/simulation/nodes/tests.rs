//! One node, its origin and its list.

use skerry_preload::Item;

use super::*;

const MB: u64 = 1_000_000;

struct Fixture {
    nodes: Nodes,
    catalogue: Catalogue,
    now_ms: u64,
}

impl Fixture {
    /// One node that gets a gigabit per second from the origin, an eighth of that to preload.
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { nodes: 1, resources: 50, preload_kbps: 125_000, ..Settings::quick() };
        change(&mut settings);
        let mut random = Rng::with_seed(9);
        let catalogue = Catalogue::new(&settings, &mut random);
        let nodes = Nodes::new(&settings, &Map::new(1), &mut random, 0);
        Self { nodes, catalogue, now_ms: 0 }
    }

    fn open(&mut self, resource: u32) -> u32 {
        self.nodes.open(0, resource, &self.catalogue, self.now_ms)
    }

    fn step(&mut self) -> Vec<(usize, u32)> {
        self.now_ms += STEP_MS;
        self.nodes.fetch(&self.catalogue, self.now_ms)
    }

    /// Until nothing comes any more.
    fn settle(&mut self) {
        while !self.nodes.all[0].pulls.is_empty() {
            self.step();
        }
    }

    fn list(&mut self, resources: &[u32]) {
        let item = |resource: &u32| {
            let known = self.catalogue.get(*resource);
            let (path, length) = (known.path.clone(), known.length);
            Item { resource: Some(known.id), site: SITE.into(), path, length, priority: 0 }
        };
        let list = List::new(resources.iter().map(item).collect());
        self.nodes.listed(0, &list, &self.catalogue, self.now_ms);
    }

    fn length(&self, resource: u32) -> u64 {
        self.catalogue.get(resource).length
    }

    fn held(&self) -> Vec<u32> {
        (0..50).filter(|resource| self.nodes.holds(0, *resource)).collect()
    }
}

#[test]
fn what_clients_ask_for_is_pulled_once_for_all_of_them() {
    let mut one = Fixture::new(|_| {});
    let place = one.open(0);
    assert_eq!(one.open(0), place);
    assert!(one.step().is_empty() || one.length(0) <= 250 * MB);
    assert_eq!(one.nodes.pulled, one.length(0).min(250 * MB));
    one.settle();
    assert_eq!((one.nodes.pulled, one.nodes.preloaded), (one.length(0), 0));
    let holdings = one.nodes.holdings(0, &one.catalogue);
    assert_eq!((holdings.len(), &holdings[0].resource), (1, &one.catalogue.get(0).hex));
    one.now_ms += REPORT_MS;
    assert!(one.nodes.all[0].reports(one.now_ms) && !one.nodes.all[0].reports(one.now_ms));
}

#[test]
fn a_list_is_filled_and_what_leaves_it_is_evicted_like_all_else() {
    let mut one = Fixture::new(|settings| settings.cached_bytes = 0);
    one.list(&[1, 2, 3]);
    one.step();
    // Two at once, with an eighth of the line.
    let fetched = one.nodes.preloaded;
    assert!((30 * MB..=250 * MB / 8).contains(&fetched), "{fetched}");
    one.settle();
    assert_eq!(one.held(), [1, 2, 3]);
    assert_eq!(one.nodes.preloaded, (1..=3).map(|resource| one.length(resource)).sum::<u64>());
    // Nobody needs its room, so it stays until somebody does.
    one.list(&[1, 2]);
    assert_eq!(one.held(), [1, 2, 3]);
    let place = one.open(4);
    one.settle();
    assert_eq!(one.held(), [1, 2, 3, 4]);
    one.nodes.close(place, one.now_ms);
    one.list(&[2, 1]);
    assert_eq!(one.held(), [1, 2, 3]);
}

#[test]
fn what_somebody_waits_for_comes_first_and_is_pinned_where_it_is() {
    let mut one = Fixture::new(|_| {});
    one.open(5);
    one.list(&[5, 6]);
    one.step();
    assert!(one.nodes.pulled >= one.length(5).min(200 * MB) && one.nodes.preloaded <= 250 * MB / 8);
    one.settle();
    assert_eq!(one.nodes.pulled + one.nodes.preloaded, one.length(5) + one.length(6));
    // All is there: it is only pinned.
    one.open(7);
    one.settle();
    let before = one.nodes.preloaded;
    one.list(&[5, 6, 7]);
    assert_eq!((one.nodes.preloaded, one.held()), (before, vec![5, 6, 7]));
}

#[test]
fn the_least_lately_used_goes_first() {
    let mut one = Fixture::new(|settings| settings.cached_bytes = 16_000 * MB);
    for resource in 0..50 {
        let place = one.open(resource);
        one.settle();
        one.nodes.close(place, one.now_ms);
    }
    let held = one.held();
    assert!(held.len() > 1 && held.len() < 50);
    assert!(held.ends_with(&[48, 49]) && held.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{held:?}");
    assert!(held.iter().map(|resource| one.length(*resource)).sum::<u64>() <= 16_000 * MB);
}

#[test]
fn a_heartbeat_tells_what_the_links_carry() {
    let mut one = Fixture::new(|_| {});
    let node = &mut one.nodes.all[0];
    node.send(1, 125 * MB, 5000);
    let said = node.beat(BEAT_MS);
    assert_eq!(said.links.iter().map(|link| link.used_kbps).collect::<Vec<_>>(), [0, 100_000]);
    assert!(said.alive(2 * BEAT_MS) && said.links[1].prefixes.len() == 1);
    assert_eq!(node.beat(2 * BEAT_MS).links[1].used_kbps, 0);
    assert_eq!(node.hours.iter().sum::<u64>(), 125 * MB);
    assert_eq!(node.hours[0], 125 * MB);
    assert_eq!((node.link_for(0, node.operator), node.link_for(0, 3)), (1, 0));
}

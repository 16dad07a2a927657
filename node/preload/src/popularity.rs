//! What this node's clients ask for: counts per resource, bounded, handed on to whoever adds them up
//! for the fleet; and whether what was asked for was held.
//!
//! The table is that of the space-saving algorithm (A. Metwally, D. Agrawal and A. El Abbadi,
//! *Efficient Computation of Frequent and Top-k Elements in Data Streams*, ICDT 2005), but for the
//! entry that makes room: it is the least of a few by chance, not of all, so that a request costs the
//! same whatever is asked for. What is handed on are the requests that were really counted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntCounter;
use skerry_store::ChunkId;
use skerry_store::catalogue::CameFrom;

use crate::metrics::Metrics;

/// Resources that are counted.
pub const MOST_COUNTED: usize = 100_000;
/// Locks that they are spread over.
const SHARDS: usize = 16;
/// Entries of which the least makes room.
const SAMPLE: usize = 8;
/// Worths are halved after so long.
const HALF_LIFE_MS: u64 = 86_400_000;

/// Takes counts of requests: the registry's member, or its demand on the control node itself.
pub trait Counts: Send + Sync + 'static {
    /// Clients asked for a resource so many times. Must not wait.
    fn asked(&self, resource: &ChunkId, requests: u32);
}

/// What the node holds and is to hold, for the question whether what was asked for is there.
#[derive(Debug, Default)]
pub struct Index {
    held: HashSet<ChunkId>,
    /// By site and target: the resource, if anybody knows it, and whether it is held.
    targets: HashMap<String, HashMap<String, (Option<ChunkId>, bool)>>,
}

impl Index {
    /// Adds a resource that is held.
    pub fn hold(&mut self, resource: ChunkId, from: Option<&CameFrom>) {
        self.held.insert(resource);
        if let Some(from) = from {
            self.target(from, Some(resource), true);
        }
    }

    /// Adds something that is to be held and is not.
    pub fn miss(&mut self, from: &CameFrom, resource: Option<ChunkId>) {
        self.target(from, resource, false);
    }

    fn target(&mut self, from: &CameFrom, resource: Option<ChunkId>, held: bool) {
        let site = self.targets.entry(from.site.clone()).or_default();
        site.insert(from.target.clone(), (resource, held));
    }
}

struct Slot {
    resource: ChunkId,
    /// Requests, and those of what it took the place of, halved each day: what it is worth to keep.
    worth: u32,
    /// Requests that were not handed on yet.
    fresh: u32,
}

#[derive(Default)]
struct Shard {
    slots: Vec<Slot>,
    places: HashMap<ChunkId, usize>,
}

/// Counts of requests.
pub struct Popularity {
    shards: Vec<Mutex<Shard>>,
    /// Entries of one shard, at most.
    each: usize,
    index: ArcSwap<Index>,
    halved_ms: AtomicU64,
    /// Requests and bytes, by whether what was asked for was held.
    held: (IntCounter, IntCounter),
    missed: (IntCounter, IntCounter),
}

impl Popularity {
    /// An empty table.
    pub fn new(metrics: &Metrics) -> Self {
        Self::of(MOST_COUNTED, metrics)
    }

    fn of(most: usize, metrics: &Metrics) -> Self {
        let counters = |held: &str| {
            (metrics.asked.with_label_values(&[held]), metrics.asked_bytes.with_label_values(&[held]))
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            each: (most / SHARDS).max(SAMPLE),
            index: ArcSwap::default(),
            halved_ms: AtomicU64::new(0),
            held: counters("yes"),
            missed: counters("no"),
        }
    }

    /// A client asked for a resource, and got so many bytes of it, from here or from elsewhere.
    pub fn asked(&self, resource: &ChunkId, bytes: u64) {
        let held = self.index.load().held.contains(resource);
        self.tell(held, bytes);
        self.count(resource);
    }

    /// A client asked for a target of a site. What is neither held nor listed counts for nothing here.
    pub fn asked_for(&self, site: &str, target: &str, bytes: u64) {
        let found = self.index.load().targets.get(site).and_then(|targets| targets.get(target)).copied();
        let Some((resource, held)) = found else { return };
        self.tell(held, bytes);
        if let Some(resource) = resource {
            self.count(&resource);
        }
    }

    fn tell(&self, held: bool, bytes: u64) {
        let (requests, told) = if held { &self.held } else { &self.missed };
        requests.inc();
        told.inc_by(bytes);
    }

    fn count(&self, resource: &ChunkId) {
        let mut shard = self.shard(resource).lock();
        let Shard { slots, places } = &mut *shard;
        if let Some(place) = places.get(resource) {
            let slot = &mut slots[*place];
            (slot.worth, slot.fresh) = (slot.worth.saturating_add(1), slot.fresh.saturating_add(1));
            return;
        }
        if slots.len() < self.each {
            places.insert(*resource, slots.len());
            slots.push(Slot { resource: *resource, worth: 1, fresh: 1 });
            return;
        }
        let sample = (0..SAMPLE).map(|_| fastrand::usize(..slots.len()));
        let Some(place) = sample.min_by_key(|place| slots[*place].worth) else { return };
        let slot = &mut slots[place];
        places.remove(&slot.resource);
        places.insert(*resource, place);
        *slot = Slot { resource: *resource, worth: slot.worth.saturating_add(1), fresh: 1 };
    }

    fn shard(&self, resource: &ChunkId) -> &Mutex<Shard> {
        // Ids are hashes.
        &self.shards[usize::from(resource.0[0]) % SHARDS]
    }

    /// Whether a resource was asked for, as far back as is known.
    pub fn was_asked(&self, resource: &ChunkId) -> bool {
        self.shard(resource).lock().places.contains_key(resource)
    }

    /// Takes what is held and what is to be, in place of what was before.
    pub fn indexed(&self, index: Index) {
        self.index.store(Arc::new(index));
    }

    /// Hands on what was counted since the call before, and lets worths age.
    pub fn hand_over(&self, counts: &dyn Counts, now_ms: u64) {
        let halved_ms = self.halved_ms.load(Relaxed);
        let due = now_ms.saturating_sub(halved_ms) >= HALF_LIFE_MS;
        if due || now_ms < halved_ms {
            self.halved_ms.store(now_ms, Relaxed);
        }
        for shard in &self.shards {
            let mut shard = shard.lock();
            let fresh = shard.slots.iter_mut().filter(|slot| slot.fresh > 0);
            let told: Vec<(ChunkId, u32)> =
                fresh.map(|slot| (slot.resource, std::mem::take(&mut slot.fresh))).collect();
            // The first call only learns what time it is.
            if due && halved_ms > 0 {
                shard.halve();
            }
            drop(shard);
            told.iter().for_each(|(resource, requests)| counts.asked(resource, *requests));
        }
    }

    /// How many resources are counted.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().slots.len()).sum()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shard {
    fn halve(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.worth /= 2);
        self.slots.retain(|slot| slot.worth > 0);
        self.places = self.slots.iter().enumerate().map(|(place, slot)| (slot.resource, place)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[derive(Default)]
    struct Sum(Mutex<HashMap<ChunkId, u32>>);

    impl Counts for Sum {
        fn asked(&self, resource: &ChunkId, requests: u32) {
            *self.0.lock().entry(*resource).or_default() += requests;
        }
    }

    impl Sum {
        fn of(&self, number: u32) -> u32 {
            self.0.lock().get(&id(number)).copied().unwrap_or(0)
        }
    }

    fn popularity(most: usize) -> Popularity {
        Popularity::of(most, &Metrics::new(&prometheus::Registry::new()).unwrap())
    }

    fn id(number: u32) -> ChunkId {
        let mut id = [0; 32];
        id[1..5].copy_from_slice(&number.to_le_bytes());
        ChunkId(id)
    }

    #[test]
    fn every_request_is_handed_on_once() {
        let (popularity, sum) = (popularity(1000), Sum::default());
        for number in [1, 2, 1] {
            popularity.asked(&id(number), 10);
        }
        popularity.hand_over(&sum, NOW);
        popularity.asked(&id(2), 10);
        popularity.hand_over(&sum, NOW);
        popularity.hand_over(&sum, NOW);
        assert_eq!((sum.of(1), sum.of(2), popularity.len()), (2, 2, 2));
        assert!(popularity.was_asked(&id(1)) && !popularity.was_asked(&id(3)));
    }

    #[test]
    fn what_is_asked_for_most_stays_when_many_are_asked_for_once() {
        fastrand::seed(7);
        // All in one shard of 64.
        let popularity = popularity(SHARDS * 64);
        for number in 0..20_000 {
            popularity.asked(&id(1_000_000 + number), 0);
            popularity.asked(&id(number % 4), 0);
        }
        assert_eq!(popularity.len(), 64);
        assert!((0..4).all(|number| popularity.was_asked(&id(number))));
        let sum = Sum::default();
        popularity.hand_over(&sum, NOW);
        assert!((0..4).all(|number| (4000..=5000).contains(&sum.of(number))), "{}", sum.of(0));
        assert!(
            sum.0.lock().iter().all(|(resource, count)| *resource < id(4) || *count == 1 || *count > 4000)
        );
    }

    #[test]
    fn what_is_not_asked_for_any_more_is_forgotten() {
        let (popularity, sum) = (popularity(1000), Sum::default());
        popularity.hand_over(&sum, NOW);
        (0..3).for_each(|_| popularity.asked(&id(1), 0));
        popularity.hand_over(&sum, NOW + HALF_LIFE_MS - 1);
        popularity.asked(&id(2), 0);
        popularity.hand_over(&sum, NOW + HALF_LIFE_MS);
        assert!(popularity.was_asked(&id(1)) && !popularity.was_asked(&id(2)));
        assert_eq!(sum.of(2), 1);
        popularity.hand_over(&sum, NOW + 2 * HALF_LIFE_MS);
        assert!(popularity.is_empty());
        // A clock that was set back does not stop it.
        popularity.hand_over(&sum, NOW);
        popularity.asked(&id(3), 0);
        popularity.hand_over(&sum, NOW + HALF_LIFE_MS);
        assert!(popularity.is_empty());
    }

    #[test]
    fn what_was_asked_for_is_looked_up() {
        let (popularity, sum) = (popularity(1000), Sum::default());
        let from = |target: &str| CameFrom { site: "a".into(), target: target.into() };
        let mut index = Index::default();
        index.hold(id(1), Some(&from("/1")));
        index.miss(&from("/2"), Some(id(2)));
        index.miss(&from("/3"), None);
        popularity.indexed(index);
        for target in ["/1", "/2", "/3", "/4"] {
            popularity.asked_for("a", target, 100);
        }
        popularity.asked_for("b", "/1", 100);
        popularity.asked(&id(1), 10);
        popularity.asked(&id(9), 20);
        popularity.hand_over(&sum, NOW);
        assert_eq!([1, 2, 9].map(|number| sum.of(number)), [2, 1, 1]);
        assert_eq!(popularity.len(), 3);
        assert_eq!((popularity.held.0.get(), popularity.held.1.get()), (2, 110));
        assert_eq!((popularity.missed.0.get(), popularity.missed.1.get()), (3, 220));
    }
}

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use skerry_core::role::BoxFuture;
use skerry_store::catalogue::Progress;
use skerry_store::{ChunkId, StoreError};
use tokio::time::{Instant, sleep};

use super::*;
use crate::error::{HoldFailure, ListError};
use crate::item::{Item, List, tests::item};
use crate::plan::{Changes, HeldSummary};
use crate::told::Told;

const NOW: u64 = 20_000 * 86_400_000;

/// What a fetch comes to, and how often; then it goes well.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Breaks,
    Panics,
}

/// A store and an origin: 10 bytes come every second.
#[derive(Default)]
struct Origin {
    held: Mutex<HashMap<CameFrom, HeldSummary>>,
    /// What is half there.
    partly: Mutex<HashMap<CameFrom, u64>>,
    fates: Mutex<HashMap<String, Vec<Fate>>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

/// Counts a fetch as long as it runs.
struct Counted(Arc<Origin>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

struct Handed(Arc<Origin>);

impl Holder for Handed {
    fn hold(
        &self,
        item: &Item,
        progress: Arc<Progress>,
        _rate: Arc<Bucket>,
    ) -> BoxFuture<'static, Result<ChunkId, HoldFailure>> {
        let (origin, item) = (self.0.clone(), item.clone());
        Box::pin(async move {
            let _counted = Counted(origin.clone());
            let running = origin.running.fetch_add(1, Relaxed) + 1;
            origin.most.fetch_max(running, Relaxed);
            progress.length.store(item.length, Relaxed);
            let fate = origin.fates.lock().get_mut(&item.path).and_then(Vec::pop);
            let mut received = origin.partly.lock().get(&item.source()).copied().unwrap_or(0);
            while received < item.length {
                sleep(Duration::from_secs(1)).await;
                received = (received + 10).min(item.length);
                progress.received.store(received, Relaxed);
                origin.partly.lock().insert(item.source(), received);
                match fate {
                    Some(Fate::Breaks) => return Err(HoldFailure::Broken("it broke off".into())),
                    Some(Fate::Panics) => panic!("as it was told to"),
                    None => {}
                }
            }
            let resource = id(&item.path);
            origin.partly.lock().remove(&item.source());
            let held = HeldSummary {
                resource,
                from: Some(item.source()),
                length: item.length,
                complete: true,
                pin: Some(item.pin()),
                added_ms: NOW,
            };
            origin.held.lock().insert(item.source(), held);
            Ok(resource)
        })
    }

    fn release(&self, item: &Item) -> BoxFuture<'static, Result<(), StoreError>> {
        self.0.held.lock().remove(&item.source());
        self.0.partly.lock().remove(&item.source());
        Box::pin(std::future::ready(Ok(())))
    }

    fn held(&self) -> Result<Vec<HeldSummary>, StoreError> {
        Ok(self.0.held.lock().values().cloned().collect())
    }

    fn pinnable(&self) -> u64 {
        1 << 30
    }
}

fn id(path: &str) -> ChunkId {
    ChunkId::of(path.as_bytes())
}

/// A control node: its list, if it is reached, and what it was told.
#[derive(Default)]
struct Control {
    list: Mutex<Option<List>>,
    told: Mutex<Vec<Told>>,
}

impl Lists for Control {
    fn fetch(&self, revision: Option<String>) -> BoxFuture<'_, Result<Option<List>, ListError>> {
        let list = self.list.lock().clone().ok_or_else(|| ListError::Unanswered("it is away".into()));
        let news = |list: List| Some(list).filter(|list| Some(&list.revision) != revision.as_ref());
        Box::pin(std::future::ready(list.map(news)))
    }

    fn tell(&self, told: Told) -> BoxFuture<'_, Result<(), ListError>> {
        self.told.lock().push(told);
        Box::pin(std::future::ready(Ok(())))
    }
}

#[derive(Default)]
struct Records(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Journal for Records {
    fn load(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        Ok(self.0.lock().clone().into_iter().collect())
    }

    fn write(&self, changes: Changes) -> Result<(), StoreError> {
        let mut records = self.0.lock();
        for (key, value) in changes {
            match value {
                Some(value) => drop(records.insert(key, value)),
                None => drop(records.remove(&key)),
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Sum(Mutex<HashMap<ChunkId, u32>>);

impl Counts for Sum {
    fn asked(&self, resource: &ChunkId, requests: u32) {
        *self.0.lock().entry(*resource).or_default() += requests;
    }
}

/// A node, and what is around it.
pub(crate) struct World {
    origin: Arc<Origin>,
    control: Arc<Control>,
    records: Arc<Records>,
    sum: Arc<Sum>,
    metrics: Metrics,
    popularity: Arc<Popularity>,
    clock: Clock,
}

/// A node that fetches at all times, one thing after the other.
pub(crate) fn quiet() -> PreloadConfig {
    PreloadConfig { enabled: true, at_once: 1, interval_seconds: 60, ..PreloadConfig::default() }
}

impl World {
    pub(crate) fn new() -> Self {
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let start = Instant::now();
        Self {
            origin: Arc::default(),
            control: Arc::default(),
            records: Arc::default(),
            sum: Arc::default(),
            popularity: Arc::new(Popularity::new(&metrics)),
            metrics,
            clock: Arc::new(move || NOW + start.elapsed().as_millis() as u64),
        }
    }

    /// The node starts.
    pub(crate) fn start(&self, config: PreloadConfig) -> Arc<Filler> {
        let parts = Parts {
            config,
            quota_bytes: 1000,
            holder: Arc::new(Handed(self.origin.clone())),
            lists: self.control.clone(),
            journal: self.records.clone(),
            popularity: self.popularity.clone(),
            counts: self.sum.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            seed: 7,
        };
        Arc::new(Filler::start(parts, &Handle::current()).unwrap())
    }

    fn list(&self, items: &[(&str, u64)]) {
        let items = items.iter().map(|(path, length)| item(path, *length)).collect();
        *self.control.list.lock() = Some(List::new(items));
    }

    fn fate(&self, path: &str, fates: &[Fate]) {
        self.origin.fates.lock().insert(path.to_owned(), fates.to_vec());
    }

    fn held(&self) -> Vec<String> {
        let mut held: Vec<String> = self.origin.held.lock().keys().map(|from| from.target.clone()).collect();
        held.sort();
        held
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_is_filled_in_its_order_and_the_planner_hears_of_it() {
    let world = World::new();
    world.list(&[("/a", 100), ("/b", 200), ("/c", 50)]);
    let filler = world.start(PreloadConfig { interval_seconds: 10, ..quiet() });
    seconds(25).await;
    assert_eq!(world.held(), ["/a"]);
    filler.settle();
    let status = filler.status();
    assert_eq!((&status["progress"]["held"], &status["progress"]["fetching"]), (&json!(1), &json!(1)));
    assert_eq!(status["items"][0]["state"], "fetching");
    // 250 bytes less those of the last seconds, at 10 a second.
    let eta = status["eta_seconds"].as_u64().unwrap();
    assert!((8..=30).contains(&eta), "{status}");
    seconds(35).await;
    assert_eq!(world.held(), ["/a", "/b", "/c"]);
    assert_eq!(world.origin.most.load(Relaxed), 1);
    seconds(120).await;
    filler.settle();
    let metrics = &world.metrics;
    assert_eq!((metrics.eta.get(), metrics.received.get()), (0, 350));
    assert_eq!(metrics.holds.with_label_values(&["held"]).get(), 3);
    assert_eq!(metrics.bytes.with_label_values(&["unasked"]).get(), 350);
    let told = world.control.told.lock();
    let sources: Vec<&str> = told.iter().flat_map(|told| &told.sources).map(|source| &*source.path).collect();
    assert_eq!(sources.len(), 3, "{sources:?}");
    assert!(told.iter().any(|told| told.under_way.iter().any(|item| item.received_bytes > 0)));
    assert!(told.last().unwrap().under_way.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_off_goes_on_where_it_was() {
    let world = World::new();
    world.list(&[("/a", 100), ("/b", 10)]);
    world.fate("/a", &[Fate::Breaks, Fate::Panics, Fate::Breaks]);
    let filler = world.start(quiet());
    seconds(5).await;
    assert_eq!(world.held(), ["/b"]);
    assert_eq!(filler.status()["items"][0]["failure"], "it broke off");
    seconds(60).await;
    assert_eq!(world.held(), ["/a", "/b"]);
    assert_eq!(world.metrics.holds.with_label_values(&["broken"]).get(), 3);
    assert_eq!(world.origin.running.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_goes_on_without_its_control_node() {
    let world = World::new();
    world.list(&[("/a", 100), ("/b", 100)]);
    let filler = world.start(quiet());
    seconds(15).await;
    assert_eq!(world.held(), ["/a"]);
    drop(filler);
    seconds(1).await;
    assert_eq!(world.origin.running.load(Relaxed), 0);
    *world.control.list.lock() = None;
    let filler = world.start(quiet());
    seconds(8).await;
    assert_eq!(world.held(), ["/a", "/b"]);
    assert!(filler.status()["list_failure"].as_str().unwrap().contains("it is away"));
    assert!(world.metrics.lists.with_label_values(&["failed"]).get() > 0);
}

#[tokio::test(start_paused = true)]
async fn another_list_stops_what_is_off_it_and_takes_its_room() {
    let world = World::new();
    world.list(&[("/a", 400), ("/b", 600)]);
    let filler = world.start(PreloadConfig { at_once: 2, ..quiet() });
    seconds(50).await;
    assert_eq!((world.held().len(), world.origin.running.load(Relaxed)), (1, 1));
    world.list(&[("/c", 700)]);
    seconds(62).await;
    // Of 1000 bytes 700 are needed: the half of b goes, and then a.
    assert!(world.origin.partly.lock().keys().all(|from| from.target == "/c"));
    assert_eq!((world.held().len(), world.origin.running.load(Relaxed)), (0, 1));
    assert!(world.metrics.dropped.get() > 400);
    seconds(75).await;
    assert_eq!(world.held(), ["/c"]);
    assert_eq!(filler.status()["progress"]["left"], 0);
}

#[tokio::test(start_paused = true)]
async fn what_clients_ask_for_is_told_and_remembered() {
    let world = World::new();
    world.list(&[("/a", 10), ("/b", 10_000)]);
    let filler = world.start(quiet());
    seconds(70).await;
    world.popularity.asked_for("default", "/a", 5);
    world.popularity.asked_for("default", "/b", 5);
    seconds(130).await;
    assert_eq!(world.sum.0.lock().get(&id("/a")), Some(&1));
    let status = filler.status();
    assert_eq!(status["regret"], json!({ "unasked_bytes": 0, "asked_not_held": 1 }));
    // There will never be room for b.
    assert_eq!(
        (&status["progress"]["no_room"], &status["items"][0]["state"]),
        (&json!(1), &json!("no-room"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_to_preload_still_counts() {
    let world = World::new();
    world.list(&[("/a", 10)]);
    let filler = world.start(PreloadConfig { enabled: false, ..quiet() });
    world.popularity.asked(&id("/x"), 5);
    seconds(130).await;
    assert!(world.held().is_empty());
    assert_eq!(world.sum.0.lock().get(&id("/x")), Some(&1));
    assert_eq!((filler.capacity_bytes(), filler.window_bytes()), (0, 0));
    assert_eq!(world.metrics.lists.with_label_values(&["new"]).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_says_what_it_may_take() {
    let world = World::new();
    let filler = world.start(PreloadConfig { capacity_bytes: 300, rate_bytes: 2, ..quiet() });
    assert_eq!((filler.capacity_bytes(), filler.window_bytes()), (300, 600));
    drop(filler);
    let filler = world.start(PreloadConfig { capacity_bytes: 5000, ..quiet() });
    assert_eq!((filler.capacity_bytes(), filler.window_bytes()), (1000, 1000));
    world.list(&[("/a", 1000)]);
    seconds(90).await;
    filler.drain();
    seconds(1).await;
    assert_eq!(world.origin.running.load(Relaxed), 0);
}

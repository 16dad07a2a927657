//! Resources on record: replaced, removed, broken off, fetched again; their owners and sources.

use std::path::Path;

use bytes::Bytes;
use http::HeaderMap;
use prometheus::Registry;
use skerry_core::role::BoxFuture;

use super::*;
use crate::StoreConfig;
use crate::digest::Ingest;

mod torrents;

const CHUNK: usize = 1 << 18;

fn store(folder: &Path) -> Store {
    store_of(folder, StoreConfig::default().capacity_bytes)
}

fn store_of(folder: &Path, capacity_bytes: u64) -> Store {
    let config = StoreConfig {
        capacity_bytes,
        pinned_bytes: capacity_bytes / 2,
        chunk_bytes: CHUNK as u32,
        memory_tier_bytes: 0,
        reserve_bytes: 0,
    };
    Store::open(folder, &config, &Registry::new()).unwrap()
}

/// Two chunks and a bit.
fn content() -> Bytes {
    let bytes = (0..).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
    bytes.take(2 * CHUNK + 5).collect::<Vec<_>>().into()
}

/// What the store holds of `bytes` when they are held under `pin`.
fn held(store: &Store, bytes: &Bytes, pin: Option<&str>) -> Held {
    let mut ingest = Ingest::new(CHUNK as u32);
    let mut generations = Vec::new();
    pin.iter().for_each(|pin| store.open_parts_blocking(pin).unwrap());
    for index in 0..bytes.len().div_ceil(CHUNK) {
        let chunk = bytes.slice(index * CHUNK..bytes.len().min((index + 1) * CHUNK));
        let id = ingest.push(&chunk);
        let located = match pin {
            Some(pin) => store.pin_part_blocking(pin, index as u64, id, &chunk),
            None => store.put_blocking(id, &chunk),
        };
        generations.push(located.unwrap().generation);
    }
    Held {
        resource: ingest.finish(),
        generations,
        name: "film".into(),
        media_type: String::new(),
        from: Some(CameFrom { site: "default".into(), target: "/film".into() }),
        pin: pin.map(str::to_owned),
        added_ms: 0,
    }
}

fn pinned(store: &Store) -> u64 {
    store.config().pinned_bytes - store.pinnable()
}

/// Gives what it was made with, whatever is asked for.
struct Origin(Bytes);

impl Refill for Origin {
    fn chunk(&self, _: Arc<Held>, _: usize) -> BoxFuture<'static, Option<Bytes>> {
        let bytes = self.0.clone();
        Box::pin(async move { Some(bytes) })
    }
}

/// Fetches through a cache, which keeps what comes.
struct Through(Store, Bytes);

impl Refill for Through {
    fn chunk(&self, _: Arc<Held>, index: usize) -> BoxFuture<'static, Option<Bytes>> {
        let end = self.1.len().min((index + 1) * CHUNK);
        let (store, bytes) = (self.0.clone(), self.1.slice(index * CHUNK..end));
        Box::pin(async move {
            store.put(bytes.clone()).await.ok()?;
            Some(bytes)
        })
    }
}

#[test]
fn a_resource_stays_as_long_as_one_owner_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content();
    let whole = bytes.len() as u64;
    let id = {
        let store = store(folder.path());
        let catalogue = Catalogue::open(store.clone()).unwrap();
        let mut id = ChunkId([0; 32]);
        for pin in [Some("a"), Some("b"), Some("c"), Some("b"), None] {
            let added = catalogue.add(held(&store, &bytes, pin)).unwrap();
            assert_eq!((pinned(&store), added.pin.as_deref()), (whole, Some("a")), "{pin:?}");
            id = added.id();
        }
        let held = catalogue.resource(&id).unwrap().unwrap();
        assert_eq!(catalogue.owners(&held), ["a", "b", "c"]);
        assert_eq!(catalogue.release(&id, |name| name == "c").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(catalogue.release(&id, |name| name == "nobody").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(store.pinned_in_parts_blocking("c").unwrap(), 0);
        store.flush_pins_blocking().unwrap();
        id
    };
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    assert_eq!((catalogue.totals(), pinned(&store)), ((1, whole), whole));
    // The one that stands in the record goes first.
    assert_eq!(catalogue.release(&id, |name| name == "a").unwrap().unwrap(), ["b"]);
    let held = catalogue.resource(&id).unwrap().unwrap();
    assert_eq!((held.pin.as_deref(), pinned(&store)), (Some("b"), whole));
    assert_eq!(catalogue.presence(&held).unwrap(), [true; 3]);

    assert!(catalogue.release(&id, |name| name == "b").unwrap().unwrap().is_empty());
    assert!(catalogue.release(&id, |_| true).unwrap().is_none());
    assert!(catalogue.resource(&id).unwrap().is_none());
    assert_eq!((catalogue.totals(), pinned(&store)), ((0, 0), 0));
}

#[test]
fn all_that_nobody_goes_on_with_is_one_owner_s() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let (one, two, bytes) = (format!("{ONCE}1"), format!("{ONCE}2"), content());
    for pin in [one.as_str(), "a", two.as_str()] {
        catalogue.add(held(&store, &bytes, Some(pin))).unwrap();
    }
    let id = held(&store, &bytes, None).id();
    let owners = |id| catalogue.owners(&catalogue.resource(id).unwrap().unwrap());
    assert_eq!(owners(&id), ["a", two.as_str()]);
    assert_eq!(store.pinned_in_parts_blocking(&one).unwrap(), 0);
    assert!(catalogue.remove(&id).unwrap());
    assert!(!catalogue.remove(&id).unwrap());
    assert_eq!((catalogue.totals(), pinned(&store)), ((0, 0), 0));
}

#[test]
fn a_name_pins_one_version_and_no_part_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let old = content();
    let new: Bytes = old.iter().map(|byte| !byte).collect::<Vec<_>>().into();
    // Of the old version a part came, and it broke off.
    store.open_parts_blocking("a").unwrap();
    let part = old.slice(..CHUNK);
    store.pin_part_blocking("a", 0, ChunkId::of(&part), &part).unwrap();
    catalogue.add(held(&store, &new, Some("a"))).unwrap();
    assert_eq!(pinned(&store), new.len() as u64);

    // All of it came, and another wants it, too.
    for pin in ["a", "b"] {
        catalogue.add(held(&store, &old, Some(pin))).unwrap();
    }
    let (old_id, new_id) = (held(&store, &old, None).id(), held(&store, &new, None).id());
    assert_eq!(pinned(&store), old.len() as u64);
    assert!(catalogue.resource(&new_id).unwrap().is_none(), "nobody wants it any more");

    catalogue.add(held(&store, &new, Some("a"))).unwrap();
    let owners = |id| catalogue.owners(&catalogue.resource(id).unwrap().unwrap());
    assert_eq!([owners(&old_id), owners(&new_id)], [["b"], ["a"]]);
    assert_eq!(pinned(&store), 2 * old.len() as u64);
    // Letting go of one takes nothing from the other.
    assert!(catalogue.remove(&old_id).unwrap());
    assert_eq!((pinned(&store), catalogue.totals().0), (new.len() as u64, 1));
}

#[test]
fn of_two_versions_that_are_on_record_under_one_name_the_newer_stays() {
    let old = content();
    let new: Bytes = old.iter().map(|byte| !byte).collect::<Vec<_>>().into();
    // Whichever of them is read first.
    for (one, other) in [(&old, &new), (&new, &old)] {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let mut ids = Vec::new();
        for (bytes, added_ms) in [(one, 7), (other, 8)] {
            let held = Held { added_ms, ..held(&store, bytes, Some("a")) };
            let value = postcard::to_stdvec(&held).unwrap();
            store.meta().put(Table::Resources, &held.id().0, &value).unwrap();
            ids.push(held.id());
        }
        let whole = old.len() as u64;
        assert_eq!(pinned(&store), 2 * whole);
        let catalogue = Catalogue::open(store.clone()).unwrap();
        assert_eq!((catalogue.totals(), pinned(&store)), ((1, whole), whole));
        assert!(catalogue.resource(&ids[0]).unwrap().is_none());
        assert_eq!(catalogue.pinned_by("a"), Some(ids[1]));
        assert!(catalogue.remove(&ids[1]).unwrap());
        assert_eq!((catalogue.totals(), pinned(&store)), ((0, 0), 0));
    }
}

#[test]
fn a_name_that_was_let_go_of_meanwhile_pins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let film = held(&store, &content(), Some("a"));
    store.unpin_parts_blocking("a").unwrap();
    let film = catalogue.add(film).unwrap();
    assert_eq!((film.pin.as_deref(), catalogue.pinned_by("a")), (None, None));
    assert_eq!(catalogue.presence(&film).unwrap(), [false; 3]);
}

#[test]
fn what_came_under_a_name_goes_and_the_resource_that_it_pins_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let bytes = content();
    let part: Bytes = bytes.slice(..CHUNK).iter().map(|byte| !byte).collect::<Vec<_>>().into();
    let begin = |index| store.pin_part_blocking("a", index, ChunkId::of(&part), &part).unwrap();
    store.open_parts_blocking("a").unwrap();
    begin(0);
    catalogue.abandon("a").unwrap();
    assert_eq!(pinned(&store), 0);

    let film = catalogue.add(held(&store, &bytes, Some("a"))).unwrap();
    begin(0);
    begin(1);
    assert_eq!(pinned(&store), (bytes.len() + CHUNK) as u64);
    catalogue.abandon("a").unwrap();
    assert_eq!((pinned(&store), catalogue.pinned_by("a")), (bytes.len() as u64, Some(film.id())));
}

#[test]
fn a_source_names_what_came_from_there_last_and_what_its_origin_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let bytes = content();
    let film = catalogue.add(held(&store, &bytes, None)).unwrap();
    let from = film.from.clone().unwrap();
    assert_eq!(catalogue.source(&from).unwrap().unwrap(), Source { resource: film.id(), answer: None });

    let mut header = HeaderMap::new();
    for (name, value) in [("etag", "\"one\""), ("set-cookie", "a=b"), ("content-type", "video/mp4")] {
        header.insert(name, value.parse().unwrap());
    }
    catalogue.tell(&from, &film.id(), &Answer::of(&header, 7)).unwrap();
    catalogue.tell(&from, &ChunkId([0; 32]), &Answer::default()).unwrap();
    header.remove("set-cookie");
    let answer = || catalogue.source(&from).unwrap().unwrap().answer;
    assert_eq!(answer().map(|answer| (answer.header(), answer.received_ms)), Some((header, 7)));
    // It is known still when the same comes from there again.
    catalogue.add(held(&store, &bytes, Some("a"))).unwrap();
    assert!(answer().is_some());
    let read = catalogue.source_now(&from).expect("it is in memory").unwrap();
    assert_eq!(read.resource, film.id());

    let other = catalogue.add(held(&store, &bytes.slice(1..), None)).unwrap();
    assert_eq!(catalogue.source(&from).unwrap().unwrap(), Source { resource: other.id(), answer: None });
    assert!(catalogue.remove(&film.id()).unwrap());
    assert!(catalogue.source(&from).unwrap().is_some());
    catalogue.forget_source(&from).unwrap();
    assert_eq!(catalogue.source_now(&from), Some(None));
    catalogue.add(held(&store, &bytes.slice(1..), None)).unwrap();
    assert!(catalogue.source(&from).unwrap().is_some());
    assert!(catalogue.remove(&other.id()).unwrap());
    assert_eq!(catalogue.source(&from).unwrap(), None);
}

#[test]
fn sixty_four_bytes_do_not_take_the_place_of_what_they_are_the_hashes_of() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let long = content().slice(..CHUNK);
    let half = |from: usize| ChunkId::of(&long[from..from + CHUNK / 2]).0;
    let short = Bytes::from([half(0), half(CHUNK / 2)].concat());
    let film = catalogue.add(held(&store, &long, Some("film"))).unwrap();
    let impostor = held(&store, &short, Some("impostor"));
    assert_eq!(impostor.id(), film.id());
    assert!(matches!(catalogue.add(impostor), Err(CatalogueError::Clash(id)) if id == film.id()));
    assert_eq!(catalogue.resource(&film.id()).unwrap(), Some(film));
}

#[test]
fn what_a_broken_hold_has_pinned_is_let_go_of_at_the_next_start_unless_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (once, kept) = (format!("{ONCE}1"), format!("{ONCE}2"));
    let bytes = content();
    let (one, two) = (bytes.slice(..CHUNK), bytes.slice(CHUNK..2 * CHUNK));
    {
        let store = store(folder.path());
        held(&store, &one, Some(&once));
        held(&store, &two, Some("goes on"));
        let catalogue = Catalogue::open(store.clone()).unwrap();
        assert_eq!(store.pinned_in_parts_blocking(&once).unwrap(), 0);
        catalogue.add(held(&store, &one, Some(&kept))).unwrap();
        store.flush_pins_blocking().unwrap();
    }
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    assert_eq!((catalogue.totals().0, pinned(&store)), (1, 2 * CHUNK as u64));
}

#[tokio::test]
async fn a_chunk_that_is_gone_is_fetched_again_and_given_only_if_it_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let bytes = content();
    let mut gone = held(&store, &bytes, None);
    let first = bytes.slice(..CHUNK);
    // Nobody has a chunk of that id.
    gone.generations = vec![Some(0); 3];
    let family = store.inner().ring.generation(store.inner().ring.oldest()).unwrap();
    gone.resource.chunks.iter().for_each(|id| family.remove(id).unwrap());
    let gone = catalogue.add(gone).unwrap();
    assert_eq!(catalogue.chunk(&gone, 0).await.unwrap(), None);

    catalogue.refill_from(Arc::new(Origin(first.clone())));
    assert_eq!(catalogue.chunk(&gone, 1).await.unwrap(), None, "these are the bytes of another");
    assert_eq!(catalogue.chunk(&gone, 0).await.unwrap(), Some(first.clone()));
    assert_eq!(catalogue.chunk(&gone, 3).await.unwrap(), None);
    // It is kept.
    catalogue.refill_from(Arc::new(Origin(Bytes::new())));
    assert_eq!(catalogue.chunk(&gone, 0).await.unwrap(), Some(first));
}

#[tokio::test]
async fn what_is_fetched_again_is_not_pinned_under_a_name_that_has_become_another_s() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let old = content();
    let new: Bytes = old.iter().map(|byte| !byte).collect::<Vec<_>>().into();
    let read_still = catalogue.add(held(&store, &old, Some("a"))).unwrap();
    catalogue.add(held(&store, &new, Some("a"))).unwrap();
    let first = old.slice(..CHUNK);
    catalogue.refill_from(Arc::new(Origin(first.clone())));
    assert_eq!(catalogue.chunk(&read_still, 0).await.unwrap(), Some(first));
    assert_eq!(pinned(&store), new.len() as u64);
}

#[tokio::test]
async fn what_is_fetched_again_is_kept_once_and_known_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_of(folder.path(), 160 << 20);
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let bytes = content();
    let film = catalogue.add(held(&store, &bytes, None)).unwrap();
    let mut number = 0_u64;
    let mut evict = || {
        for _ in 0..400 {
            if catalogue.presence(&film).unwrap() == [false; 3] {
                return;
            }
            let other = Bytes::from(number.to_le_bytes().repeat((1 << 20) / 8));
            store.put_blocking(ChunkId::of(&number.to_le_bytes()), &other).unwrap();
            number += 1;
        }
        panic!("it is not evicted");
    };
    evict();
    catalogue.refill_from(Arc::new(Through(store.clone(), bytes.clone())));
    for _ in 0..2 {
        let written = store.inner().metrics.written.get();
        for (index, chunk) in [(0, bytes.slice(..CHUNK)), (2, bytes.slice(2 * CHUNK..))] {
            for _ in 0..2 {
                assert_eq!(catalogue.chunk(&film, index).await.unwrap().as_ref(), Some(&chunk));
            }
        }
        assert_eq!(store.inner().metrics.written.get() - written, CHUNK as u64 + 5);
        assert_eq!(catalogue.presence(&film).unwrap(), [true, false, true]);
        evict();
    }
}

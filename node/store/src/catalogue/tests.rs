//! Resources on record: replaced, removed, broken off, fetched again.

use std::path::Path;

use prometheus::Registry;

use super::*;
use crate::StoreConfig;
use crate::digest::Ingest;

const CHUNK: usize = 1 << 18;

fn store(folder: &Path) -> Store {
    let config = StoreConfig {
        chunk_bytes: CHUNK as u32,
        memory_tier_bytes: 0,
        reserve_bytes: 0,
        ..StoreConfig::default()
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

#[test]
fn one_resource_has_one_pin_and_a_hold_without_one_takes_none_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let bytes = content();
    for pin in ["a", "b"] {
        catalogue.add(held(&store, &bytes, Some(pin))).unwrap();
        assert_eq!(pinned(&store), bytes.len() as u64, "under {pin}");
    }
    assert_eq!(store.pinned_in_parts_blocking("a").unwrap(), 0);
    let id = catalogue.add(held(&store, &bytes, None)).unwrap().id();
    assert_eq!(catalogue.resource(&id).unwrap().unwrap().pin.as_deref(), Some("b"));
    assert_eq!((catalogue.totals(), pinned(&store)), ((1, bytes.len() as u64), bytes.len() as u64));

    assert!(catalogue.remove(&id).unwrap());
    assert!(!catalogue.remove(&id).unwrap());
    assert!(catalogue.resource(&id).unwrap().is_none());
    assert_eq!((catalogue.totals(), pinned(&store)), ((0, 0), 0));
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

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use prometheus::Registry;
use skerry_store::StoreConfig;

use super::*;
use crate::object::{Content, Times};

fn object(uid: u64, extents: &[Extent]) -> Variant {
    let content = Content::default();
    *content.length.write() = Some(extents.iter().map(|extent| u64::from(extent.length)).sum());
    extents.iter().for_each(|extent| content.extents.write().insert(*extent));
    let times = Times { request: 0, response: 0 };
    let policy = Policy::default();
    let object = Object::new(StatusCode::OK, HeaderMap::new(), times, 0, &policy, Arc::new(content), uid);
    Variant { fields: Vec::new(), selecting: Vec::new(), object: Arc::new(object) }
}

#[tokio::test]
async fn the_sweep_removes_what_is_held_no_more_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), &StoreConfig::default(), &Registry::new()).unwrap();
    let chunk = store.put(Bytes::from_static(b"held")).await.unwrap();
    let held = Extent { offset: 0, length: 4, chunk };
    let gone = Extent { chunk: skerry_store::Located { generation: Some(0), ..chunk }, ..held };
    let key = |target: &str| Key { site: "default".into(), target: target.into() };
    let index = Index::open(store.clone(), 1 << 20).unwrap();
    for (uid, target, extent) in [(1, "/held", held), (2, "/gone", gone)] {
        let variant = object(uid, &[extent]);
        index.put(&key(target), variant.clone());
        index.persist(&key(target), &variant, &Policy::default()).unwrap();
    }
    // Another start: nothing is in memory.
    let index = Index::open(store, 1 << 20).unwrap();
    assert_eq!(index.sweep(b"", 1).unwrap(), Some(key("/held").bytes()));
    assert_eq!(index.sweep(&key("/held").bytes(), 10).unwrap(), None);
    let policy = Policy::default();
    assert!(index.load(&key("/held"), &policy).unwrap().is_some());
    assert!(index.load(&key("/gone"), &policy).unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_a_body_does_not_bring_back_what_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), &StoreConfig::default(), &Registry::new()).unwrap();
    let chunk = store.put(Bytes::from_static(b"held")).await.unwrap();
    let extent = Extent { offset: 0, length: 4, chunk };
    let key = Key { site: "default".into(), target: "/thing".into() };
    let policy = Policy::default();
    // In memory, and let go of by it: there is room for nothing in the second.
    for memory_bytes in [1 << 20, 1] {
        let index = Index::open(store.clone(), memory_bytes).unwrap();
        let (old, other) = (object(1, &[extent]), object(2, &[extent]));
        let comes = index.coming(&key, &old.object);
        index.put(&key, old.clone());
        index.remove(&key, None, &policy).unwrap();
        index.persist(&key, &old, &policy).unwrap();
        drop(comes);
        assert!(index.coming.lock().is_empty());
        // Nor is a part of it written that came later.
        old.object.body.spilled.store(true, Relaxed);
        index.add_extent(&old.object, extent).unwrap();
        let mut rows = 0;
        let count = |_: &[u8], _: &[u8]| {
            rows += 1;
            true
        };
        store.meta().scan(Table::Extents, &1u64.to_be_bytes(), count).unwrap();
        assert_eq!(rows, 0);
        assert!(index.load(&key, &policy).unwrap().is_none());
        // Neither does a validation that began before.
        index.put(&key, old);
        assert!(index.load(&key, &policy).unwrap().is_none());
        // Its successor is another one.
        index.put(&key, other.clone());
        index.persist(&key, &other, &policy).unwrap();
        assert!(index.load(&key, &policy).unwrap().is_some());
        index.remove(&key, Some(2), &policy).unwrap();
    }
}

#[tokio::test]
async fn what_memory_does_not_take_is_written_down_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), &StoreConfig::default(), &Registry::new()).unwrap();
    let chunk = store.put(Bytes::from_static(b"held")).await.unwrap();
    let key = Key { site: "default".into(), target: "/long".into() };
    let policy = Policy::default();
    // As many chunks as take more than the whole of its memory.
    let extents: Vec<Extent> =
        (0..4000).map(|number| Extent { offset: number << 20, length: 1 << 20, chunk }).collect();
    let index = Index::open(store.clone(), 1 << 16).unwrap();
    let variant = object(7, &extents);
    index.put(&key, variant.clone());
    assert!(index.hot("default", "/long").is_none(), "it is too long for memory");
    index.persist(&key, &variant, &policy).unwrap();
    let index = Index::open(store, 1 << 26).unwrap();
    let entry = index.load(&key, &policy).unwrap().expect("its record");
    assert!(entry.variants[0].object.body.is_complete());
}

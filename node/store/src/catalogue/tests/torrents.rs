//! Torrents on record: they come and go with their resources.

use skerry_wire::metainfo::{Builder, FileHash, Hashes, Kind, NewFile};

use super::*;

#[test]
fn a_torrent_of_an_older_version_goes_with_its_resource_once_that_is_held_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let film = catalogue.add(held(&store, &content(), None)).unwrap();
    let torrent = || catalogue.add_torrent_of(&film, Kind::V2).unwrap();
    torrent();
    let mut keys = Vec::new();
    let collect = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        true
    };
    store.meta().scan(Table::TorrentsOf, b"", collect).unwrap();
    assert_eq!(keys.len(), 1);
    store.meta().delete(Table::TorrentsOf, &keys[0]).unwrap();
    torrent();
    assert!(catalogue.remove(&film.id()).unwrap());
    assert!(catalogue.torrents(b"", 10).unwrap().is_empty());
}

#[test]
fn torrents_go_with_the_last_of_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let one = content();
    let two: Bytes = one.iter().rev().copied().collect::<Vec<_>>().into();
    let files = [&one, &two].map(|bytes| catalogue.add(held(&store, bytes, None)).unwrap());
    for kind in [Kind::Hybrid, Kind::V1, Kind::V2] {
        files.iter().for_each(|held| _ = catalogue.add_torrent_of(held, kind).unwrap());
    }
    let hash = |held: &Arc<Held>| {
        let pieces = held.resource.chunks.iter().map(|chunk| chunk.0).collect();
        FileHash::of_pieces(pieces, held.resource.length, CHUNK as u32)
    };
    let named = |name: &str| NewFile { path: vec![name.to_owned()], length: one.len() as u64 };
    let package = Builder::new(Kind::V2, "package", CHUNK as u32, vec![named("1"), named("2")])
        .build(&Hashes { pieces: Vec::new(), files: files.iter().map(hash).collect() })
        .unwrap();
    let ids = files.iter().map(|held| Some(held.id())).collect();
    let package = catalogue.add_torrent(&package.to_bytes(), ids).unwrap();
    let package = package.metainfo.info().hashes().next().unwrap().wire();
    assert_eq!(catalogue.torrents(b"", 100).unwrap().len(), 7);

    assert!(catalogue.remove(&files[0].id()).unwrap());
    assert_eq!(catalogue.torrents(b"", 100).unwrap().len(), 4);
    assert!(catalogue.torrent(&package).unwrap().is_some(), "one of its files is held");
    // One that an operator takes off leaves nothing behind.
    let hybrid = catalogue.add_torrent_of(&files[1], Kind::Hybrid).unwrap();
    for hash in hybrid.metainfo.info().hashes() {
        let keyed = skerry_wire::mse::req2(&hash.wire());
        assert_eq!(catalogue.behind(&keyed).unwrap(), Some(hash.wire()));
    }
    assert!(catalogue.remove_torrent(&hybrid.metainfo.info().hashes().next().unwrap().wire()).unwrap());
    assert!(catalogue.remove(&files[1].id()).unwrap());
    assert!(catalogue.torrents(b"", 100).unwrap().is_empty());
    assert!(catalogue.torrent(&package).unwrap().is_none());
    for table in [Table::InfoHashes, Table::TorrentsOf] {
        store.meta().scan(table, b"", |key, _| panic!("{table:?} has {key:?} still")).unwrap();
    }
}

#[test]
fn a_resource_and_its_torrents_are_on_record_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let torrents = || catalogue.torrents(b"", 100).unwrap();
    let bytes = content();
    let (seen, _) = catalogue.changed_since(None);
    let film = catalogue.add_with_torrents(held(&store, &bytes, None)).unwrap();
    let all = torrents();
    assert_eq!(all.len(), 3);
    let news = catalogue.changed_since(Some(seen)).1.unwrap();
    assert_eq!((news.len(), news[0]), (4, Changed::Resource(film.id())));
    assert!(all.iter().all(|torrent| news.contains(&Changed::Torrent(*torrent))));
    // What comes again brings nothing new but itself.
    let seen = catalogue.changed_since(None).0;
    catalogue.add_with_torrents(held(&store, &bytes, Some("a"))).unwrap();
    assert_eq!(catalogue.changed_since(Some(seen)).1.unwrap(), [Changed::Resource(film.id())]);

    let long = bytes.slice(..CHUNK);
    let half = |from: usize| ChunkId::of(&long[from..from + CHUNK / 2]).0;
    let short = Bytes::from([half(0), half(CHUNK / 2)].concat());
    catalogue.add(held(&store, &long, None)).unwrap();
    let clash = catalogue.add_with_torrents(held(&store, &short, None));
    assert!(matches!(clash, Err(CatalogueError::Clash(_))));
    let odd = Held { name: "..".into(), ..held(&store, &bytes.slice(1..), None) };
    let id = odd.id();
    assert!(matches!(catalogue.add_with_torrents(odd), Err(CatalogueError::Metainfo(_))));
    assert!(catalogue.resource(&id).unwrap().is_none());
    assert_eq!(torrents(), all);

    let seen = catalogue.changed_since(None).0;
    assert!(catalogue.remove(&film.id()).unwrap());
    let gone = catalogue.changed_since(Some(seen)).1.unwrap();
    assert!(all.iter().all(|torrent| gone.contains(&Changed::Torrent(*torrent))) && torrents().is_empty());
}

#[test]
fn torrents_of_nothing_go_when_the_catalogue_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let catalogue = Catalogue::open(store.clone()).unwrap();
    let film = catalogue.add_with_torrents(held(&store, &content(), None)).unwrap();
    let lost = held(&store, &content().slice(1..), None);
    let orphan = catalogue.add_torrent_of(&lost, Kind::Hybrid).unwrap();
    // Of this one another file is held.
    let other = catalogue.add_torrent_of(&lost, Kind::V1).unwrap().metainfo.to_bytes();
    catalogue.add_torrent(&other, vec![Some(lost.id()), Some(film.id())]).unwrap();
    assert_eq!(catalogue.torrents(b"", 100).unwrap().len(), 5);

    let catalogue = Catalogue::open(store).unwrap();
    assert_eq!(catalogue.torrents(b"", 100).unwrap().len(), 4);
    for hash in orphan.metainfo.info().hashes() {
        assert!(catalogue.torrent(&hash.wire()).unwrap().is_none());
        assert_eq!(catalogue.behind(&skerry_wire::mse::req2(&hash.wire())).unwrap(), None);
    }
}

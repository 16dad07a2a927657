//! Metainfo files and info dictionaries alone: one that is taken keeps every rule, and is written so that
//! it reads the same.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use skerry_wire::magnet::{MAX_MAGNET, MAX_SOURCES, Magnet};
use skerry_wire::metainfo::{Info, Layout, Metainfo};

/// Pieces and files that are looked at, from the first.
const SOME: u32 = 64;

/// Whether a folder with this joined to it is an entry of that folder.
fn is_name(part: &str) -> bool {
    let mut components = Path::new(part).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
}

fn check_layout(info: &Info, layout: &Layout) {
    let count = layout.piece_count();
    assert_eq!(layout.piece_length(count), 0);
    assert!(layout.piece(count).is_none());
    for piece in (0..count.min(SOME)).chain(Some(count - 1)) {
        let blocks = layout.piece(piece).expect("every piece has bytes");
        let mut length = 0;
        for block in blocks {
            length += block.length;
            if let Some(file) = block.file {
                assert!(block.offset + u64::from(block.length) <= info.files()[file].length);
            }
        }
        assert_eq!(length, layout.piece_length(piece));
    }
    for (file, start) in layout.file_starts().take(SOME as usize) {
        let pieces = layout.pieces_of(file);
        assert!(pieces.start < pieces.end && pieces.end <= count);
        assert!(layout.piece_start(pieces.start) <= start && start < layout.length());
    }
}

fn check(info: &Info) {
    assert!(is_name(info.name()), "{:?}", info.name());
    for file in info.files() {
        assert!(!file.path.is_empty() && file.path.iter().all(|part| is_name(part)), "{:?}", file.path);
    }
    assert!(info.hashes().next().is_some());
    if let Some(layout) = info.layout_v1() {
        check_layout(info, layout);
        let count = layout.piece_count();
        assert!(info.piece_hash(count - 1).is_some() && info.piece_hash(count).is_none());
    }
    if let Some(layout) = info.layout_v2() {
        check_layout(info, layout);
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(info) = Info::parse(data) {
        assert_eq!(info.bytes(), data);
        check(&info);
    }
    let Ok(torrent) = Metainfo::parse(data) else { return };
    let info = torrent.info();
    check(info);
    assert_eq!(torrent.missing_layers().count(), 0);

    let bytes = torrent.to_bytes();
    let again = Metainfo::parse(&bytes).expect("what is written is a torrent");
    assert_eq!(again.to_bytes(), bytes);
    assert_eq!(again.info().bytes(), info.bytes());
    assert_eq!((&again.trackers, &again.web_seeds), (&torrent.trackers, &torrent.web_seeds));
    assert_eq!((&again.comment, &again.created_by), (&torrent.comment, &torrent.created_by));
    assert_eq!(again.creation_date, torrent.creation_date);

    let alone = Info::parse(info.bytes()).expect("an info dictionary reads alone as it does within a file");
    assert_eq!(alone.files(), info.files());
    assert!(alone.hashes().eq(info.hashes()));

    let magnet = torrent.magnet();
    let link = magnet.to_string();
    // A torrent may have more of both than a link.
    let fits = [&magnet.trackers, &magnet.web_seeds].iter().all(|urls| urls.len() <= MAX_SOURCES);
    if fits && link.len() <= MAX_MAGNET {
        assert_eq!(link.parse::<Magnet>(), Ok(magnet));
    }
});

//! Torrents read and made. Those marked so were made by hand, in Python, from the texts of the BEPs.

use super::*;
use crate::hash::{Sha1Hash, hex};
use crate::merkle::LEAF;

const PIECE: u32 = 32_768;

fn content(seed: usize, length: usize) -> Vec<u8> {
    (seed as u32..).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 13) as u8).take(length).collect()
}

fn pack() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a/b.bin", content(1, 20_000)),
        ("a.txt", content(2, 5)),
        ("empty", Vec::new()),
        ("z", content(3, 100_000)),
    ]
}

fn path(text: &str) -> Vec<String> {
    text.split('/').map(str::to_owned).collect()
}

fn hashes(kind: Kind, piece_length: u32, files: &[(&str, Vec<u8>)]) -> Hashes {
    let mut hasher = Hasher::new(kind, piece_length);
    for (_, bytes) in files {
        // Odd steps, so that no boundary is met by chance.
        bytes.chunks(7001).for_each(|step| hasher.update(step));
        hasher.end_file();
    }
    hasher.finish()
}

fn builder(kind: Kind, name: &str, piece_length: u32, files: &[(&str, Vec<u8>)]) -> Builder {
    let file = |(name, bytes): &(&str, Vec<u8>)| NewFile { path: path(name), length: bytes.len() as u64 };
    Builder::new(kind, name, piece_length, files.iter().map(file).collect())
}

fn made(kind: Kind, name: &str, piece_length: u32, files: &[(&str, Vec<u8>)]) -> Metainfo {
    builder(kind, name, piece_length, files).build(&hashes(kind, piece_length, files)).unwrap()
}

fn full_pack(kind: Kind) -> Metainfo {
    let mut builder = builder(kind, "pack", PIECE, &pack());
    builder.private = true;
    builder.trackers = vec![
        vec!["http://t.example/announce".into(), "udp://t.example:6969".into()],
        vec!["http://u.example/announce".into()],
    ];
    builder.web_seeds = vec!["http://node.example/files/".into()];
    builder.comment = Some("made by hand".into());
    builder.created_by = Some("skerry".into());
    builder.creation_date = Some(1_700_000_000);
    builder.build(&hashes(kind, PIECE, &pack())).unwrap()
}

#[test]
fn torrents_are_those_made_by_hand() {
    // SHA-1 of the info dictionary and SHA-256 of the whole file.
    for (kind, info, whole) in [
        (
            Kind::V1,
            "3a75093efea7d9b38833352a2f3f8cefacbf5943",
            "228187374a45a1355149fceb2c4ebbc01fcecd637c648dbd870448303fc848a0",
        ),
        (
            Kind::V2,
            "14e1c43b807a4d3d437a09c0c083debfddb57b37",
            "223877aaac0e33fa8036d5130ef61cfeefee4dde40008052ae5a99065281e41b",
        ),
        (
            Kind::Hybrid,
            "190dfd92d7c8a3d651d9c20b33638ecde3ec7601",
            "ab29cb80dc3b1229cd8e558cd1b3189a726d049e21ec6e1422e1d8fa46cb0090",
        ),
    ] {
        let torrent = full_pack(kind);
        assert_eq!(Sha1Hash::of(torrent.info().bytes()).to_string(), info, "{kind:?}");
        assert_eq!(Sha256Hash::of(&torrent.to_bytes()).to_string(), whole, "{kind:?}");
    }
}

#[test]
fn torrents_of_one_file_are_those_made_by_hand() {
    let one = [("one.bin", content(4, 70_001))];
    for (kind, whole) in [
        (Kind::V1, "e6a3d8a82c5758b5201f060e05ca125ad9d810b41d4456093d6098e213107cf7"),
        (Kind::V2, "af72bb3f912da368e2a2e57b3878c500121302848de78409aef9c4fdaa1aa303"),
        (Kind::Hybrid, "2a311d4c3153d430433b287d08903a0de8de74b79d51b2eed5d4f84922f23a66"),
    ] {
        let torrent = made(kind, "one.bin", 16_384, &one);
        assert_eq!(Sha256Hash::of(&torrent.to_bytes()).to_string(), whole, "{kind:?}");
        assert!(torrent.info().single_file());
        assert_eq!(torrent.info().files()[0].path, ["one.bin"]);
    }
    // Smaller than a piece: the tree is as high as the file needs, and there is no layer.
    let small = made(Kind::Hybrid, "s", 65_536, &[("s", content(5, 17_000))]);
    let whole = "1510fc934d4dae4fb8be9167f11dd787ce74bc2242b87538713274f2e27f120d";
    assert_eq!(Sha256Hash::of(&small.to_bytes()).to_string(), whole);
}

#[test]
fn what_is_made_is_read_back() {
    for kind in [Kind::V1, Kind::V2, Kind::Hybrid] {
        let torrent = full_pack(kind);
        let read = Metainfo::parse(&torrent.to_bytes()).unwrap();
        assert_eq!(read.to_bytes(), torrent.to_bytes());
        let info = read.info();
        assert_eq!((info.name(), info.piece_length(), info.private()), ("pack", PIECE, true));
        assert_eq!((info.length(), info.single_file()), (120_005, false));
        let names: Vec<_> = info.files().iter().map(|file| file.path.join("/")).collect();
        assert_eq!(names, ["a/b.bin", "a.txt", "empty", "z"]);
        assert_eq!(info.hash_v1().is_some(), kind != Kind::V2);
        assert_eq!(info.hash_v2().is_some(), kind != Kind::V1);
        assert_eq!(info.hash_v1(), (kind != Kind::V2).then(|| Sha1Hash::of(info.bytes())));
        assert_eq!(read.trackers, torrent.trackers);
        assert_eq!(read.web_seeds, ["http://node.example/files/"]);
        assert_eq!(read.comment.as_deref(), Some("made by hand"));
        assert_eq!(read.created_by.as_deref(), Some("skerry"));
        assert_eq!(read.creation_date, Some(1_700_000_000));
        assert_eq!(read.magnet().to_string().parse(), Ok(read.magnet()));
    }
}

#[test]
fn both_halves_of_a_hybrid_describe_one_content() {
    let torrent = full_pack(Kind::Hybrid);
    let info = torrent.info();
    let (v1, v2) = (info.layout_v1().unwrap(), info.layout_v2().unwrap());
    assert_eq!((v1.piece_count(), v2.piece_count()), (6, 6));
    assert!((0..6).all(|piece| v1.piece_start(piece) == v2.piece_start(piece)));
    assert_eq!([0, 1, 5].map(|piece| v1.piece_length(piece)), [PIECE, PIECE, 1696]);
    assert_eq!([0, 1, 5].map(|piece| v2.piece_length(piece)), [20_000, 5, 1696]);
    let padding: Vec<_> =
        v1.spans().iter().filter(|span| span.file.is_none()).map(|span| span.length).collect();
    assert_eq!(padding, [12_768, 32_763]);

    let files: Vec<_> = pack().into_iter().map(|(_, bytes)| bytes).collect();
    for piece in 0..6 {
        let mut bytes = Vec::new();
        for block in v1.piece(piece).unwrap() {
            let from = block.offset as usize;
            match block.file {
                Some(file) => bytes.extend_from_slice(&files[file][from..from + block.length as usize]),
                None => bytes.resize(bytes.len() + block.length as usize, 0),
            }
        }
        assert_eq!(info.piece_hash(piece), Some(Sha1Hash::of(&bytes)));
    }
    assert_eq!(info.piece_hash(6), None);
}

#[test]
fn piece_layers_stand_under_their_roots() {
    let torrent = full_pack(Kind::V2);
    let file = &torrent.info().files()[3];
    let root = file.pieces_root.unwrap();
    assert_eq!(root.0, merkle::root_of(&content(3, 100_000)));
    let layer = torrent.layer(&root).unwrap();
    assert_eq!(layer.len(), 4);
    assert_eq!(layer[0], merkle::root_of(&content(3, 32_768)));
    assert_eq!(torrent.info().file_of(&root), Some(3));
    assert_eq!(torrent.info().layout_v2().unwrap().pieces_of(3), 2..6);
    assert!(torrent.layer(&torrent.info().files()[0].pieces_root.unwrap()).is_none());
    assert_eq!(torrent.missing_layers().count(), 0);
}

#[test]
fn an_info_dictionary_alone_waits_for_its_layers() {
    let torrent = full_pack(Kind::Hybrid);
    let info = Info::parse(torrent.info().bytes()).unwrap();
    assert_eq!(info.hash_v2(), torrent.info().hash_v2());
    let mut bare = Metainfo::without_layers(info);
    let missing: Vec<_> = bare.missing_layers().copied().collect();
    let [root] = missing.as_slice() else { panic!("one file has a layer") };
    let layer = torrent.layer(root).unwrap().concat();
    for bad in [
        &layer[..96],
        &layer[..127],
        &[&layer[32..], &layer[..32]].concat(),
        &[layer.as_slice(), &[0; 32]].concat(),
    ] {
        assert!(matches!(bare.add_layer(root, Bytes::copy_from_slice(bad)), Err(Error::Layer { .. })));
    }
    assert!(bare.add_layer(&Sha256Hash([1; 32]), Bytes::new()).is_err());
    bare.add_layer(root, layer.into()).unwrap();
    assert_eq!(bare.missing_layers().count(), 0);
}

#[test]
fn halves_of_the_hasher_work_alone() {
    let whole = hashes(Kind::Hybrid, PIECE, &pack());
    let mut pieces = PieceHasher::new(Kind::Hybrid, PIECE).unwrap();
    let mut trees = TreeHasher::new(Kind::Hybrid, PIECE).unwrap();
    for (_, bytes) in pack() {
        pieces.update(&bytes);
        pieces.end_file();
        trees.update(&bytes);
        trees.end_file();
    }
    assert_eq!(whole, Hashes { pieces: pieces.finish(), files: trees.finish() });
    for (file, (_, bytes)) in whole.files.iter().zip(pack()) {
        let roots = bytes.chunks(PIECE as usize).map(merkle::root_of).collect();
        assert_eq!(*file, FileHash::of_pieces(roots, bytes.len() as u64, PIECE));
    }
}

#[test]
fn a_builder_refuses_what_it_could_not_read() {
    let build = |kind, name, files: &[(&str, Vec<u8>)]| {
        builder(kind, name, PIECE, files).build(&hashes(kind, PIECE, files)).unwrap_err()
    };
    let bytes = || content(0, 10);
    assert_eq!(build(Kind::V2, "x", &[("b", bytes()), ("a", bytes())]), Error::Order("a".into()));
    assert_eq!(build(Kind::V1, "x", &[("a", bytes()), ("a/b", bytes())]), Error::Duplicate("a".into()));
    assert_eq!(build(Kind::Hybrid, "x", &[("a", Vec::new())]), Error::Empty);
    assert_eq!(build(Kind::Hybrid, "x", &[]), Error::Empty);
    assert!(matches!(build(Kind::V1, "x", &[("a/../b", bytes())]), Error::Path { .. }));
    assert!(matches!(build(Kind::V1, "..", &[("a", bytes())]), Error::Path { .. }));
    let files = [("a", bytes())];
    let two = builder(Kind::Hybrid, "x", PIECE, &[("a", bytes()), ("b", bytes())]);
    assert_eq!(two.build(&hashes(Kind::Hybrid, PIECE, &files)).unwrap_err(), Error::Hashes("file lengths"));
    let odd = builder(Kind::Hybrid, "x", 40_000, &files);
    assert_eq!(odd.build(&hashes(Kind::Hybrid, PIECE, &files)).unwrap_err(), Error::PieceLength(40_000));
    let none = builder(Kind::V1, "x", 0, &files);
    assert_eq!(none.build(&Hashes::default()).unwrap_err(), Error::PieceLength(0));
    let few = builder(Kind::V1, "x", PIECE, &files).build(&Hashes::default()).unwrap_err();
    assert_eq!(few, Error::PieceHashes { expected: 20, found: 0 });
}

#[test]
fn piece_lengths_make_1000_to_2000_pieces() {
    let lengths = [0, 1, 32 << 20, 1 << 30, 20 << 30, u64::MAX].map(piece_length_for);
    assert_eq!(lengths, [16_384, 16_384, 32_768, 1 << 20, 16 << 20, 16 << 20]);
}

/// A v1 torrent of these entries, with `pieces` for one piece.
fn listed(entries: &str) -> Vec<u8> {
    listed_as("4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa", entries)
}

fn listed_as(rest: &str, entries: &str) -> Vec<u8> {
    format!("d4:infod5:filesl{entries}e{rest}ee").into_bytes()
}

fn error(bytes: &[u8]) -> Error {
    Metainfo::parse(bytes).expect_err("must be refused")
}

#[test]
fn old_forms_are_read() {
    // Keys out of order, one tracker, one web seed, padding without a path, names in Latin-1.
    let mut bytes = b"d4:infod4:name4:caf\xe9".to_vec();
    bytes.extend_from_slice(b"12:piece lengthi100e6:pieces20:aaaaaaaaaaaaaaaaaaaa5:filesl");
    bytes.extend_from_slice(b"d6:lengthi3e4:pathl1:a1:beed4:attr2:xp6:lengthi7eed6:lengthi0e4:pathl1:ceee");
    bytes.extend_from_slice(b"e8:announce10:http://a/ 8:url-list9:http://b/e");
    let torrent = Metainfo::parse(&bytes).unwrap();
    let info = torrent.info();
    assert_eq!(info.name(), "caf\u{fffd}");
    assert_eq!(info.files().len(), 2);
    assert_eq!(
        info.layout_v1().unwrap().spans(),
        [Span { file: Some(0), length: 3 }, Span { file: None, length: 7 }]
    );
    assert_eq!(torrent.trackers, [["http://a/"]]);
    assert_eq!(torrent.web_seeds, ["http://b/"]);
    let raw: &[u8] = info.bytes();
    assert!(torrent.to_bytes().windows(raw.len()).any(|window| window == raw));
}

#[test]
fn trackers_that_are_none_are_left_out() {
    let info = "4:infod6:lengthi1e4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";
    let list = "13:announce-listll0:5:udp:ai7eeli1eel0:ee";
    let torrent = Metainfo::parse(format!("d8:announce1:x{list}{info}8:url-list0:e").as_bytes()).unwrap();
    assert_eq!(torrent.trackers, [["udp:a"]]);
    assert!(torrent.web_seeds.is_empty());
    let torrent = Metainfo::parse(format!("d8:announce1:x13:announce-listle{info}e").as_bytes()).unwrap();
    assert_eq!(torrent.trackers, [["x"]]);
    let many = "1:t".repeat(MAX_URLS + 1);
    let torrent = format!("d13:announce-listll{many}ee{info}e");
    assert_eq!(error(torrent.as_bytes()), Error::Wrong("announce-list"));
}

#[test]
fn hostile_file_lists_are_refused() {
    for components in ["0:", "1:.", "2:..", "3:a/b", "1:a2:..", "3:a\\b", "3:a\0b", "1:a1:\n"] {
        let entry = format!("d6:lengthi1e4:pathl{components}ee");
        assert!(matches!(error(&listed(&entry)), Error::Path { .. }), "{components:?}");
    }
    let file = |path: &str| format!("d6:lengthi1e4:pathl{path}ee");
    assert!(matches!(error(&listed(&file(""))), Error::Path { .. }));
    assert!(matches!(error(&listed(&file(&"1:a".repeat(1000)))), Error::Path { .. }));
    assert!(matches!(error(&listed(&file(&format!("256:{}", "a".repeat(256))))), Error::Path { .. }));
    assert_eq!(error(&listed(&[file("1:a"), file("1:a")].concat())), Error::Duplicate("a".into()));
    assert_eq!(error(&listed(&[file("1:a1:b"), file("1:a")].concat())), Error::Duplicate("a".into()));
    assert_eq!(error(&listed("")), Error::Empty);
    assert_eq!(error(&listed("d6:lengthi0e4:pathl1:aee")), Error::Empty);
    assert_eq!(error(&listed("d4:attr1:p6:lengthi1ee")), Error::Empty);
    assert_eq!(error(&listed("d6:lengthi0e4:pathl1:aeed4:attr1:p6:lengthi1ee")), Error::Empty);
    assert_eq!(error(&listed("d6:lengthi-1e4:pathl1:aee")), Error::Wrong("length"));
    assert_eq!(error(&listed("d6:length1:x4:pathl1:aee")), Error::Wrong("length"));
    assert_eq!(error(&listed("d4:pathl1:aee")), Error::Missing("length"));
    assert_eq!(error(&listed("d6:lengthi1ee")), Error::Missing("path"));
    assert_eq!(error(&listed("d6:lengthi1e4:pathli1eee")), Error::Wrong("path"));
    assert_eq!(error(&listed("i1e")), Error::Wrong("files"));
    assert_eq!(error(&listed(&format!("d6:lengthi{}e4:pathl1:aee", i64::MAX))), Error::Length);
    let half = MAX_LENGTH / 2 + 1;
    let sum = format!("d6:lengthi{half}e4:pathl1:aeed4:attr1:p6:lengthi{half}ee");
    assert_eq!(error(&listed(&sum)), Error::Length);
    assert_eq!(error(&listed("d4:attr1:l6:lengthi1e4:pathl1:aee")), Error::Symlink("a".into()));
    let link = "d6:lengthi1e4:pathl1:ae12:symlink pathl1:bee";
    assert_eq!(error(&listed(link)), Error::Symlink("a".into()));
    let many = (0..=MAX_FILES).map(|_| file("1:a")).collect::<String>();
    assert_eq!(error(&listed(&many)), Error::Files);
    let pads = "d4:attr1:p6:lengthi0ee".repeat(2 * MAX_FILES + 1);
    assert_eq!(error(&listed(&pads)), Error::Files);
}

#[test]
fn hostile_info_dictionaries_are_refused() {
    let file = "d6:lengthi16385e4:pathl1:aee";
    assert_eq!(error(&listed(file)), Error::PieceHashes { expected: 40, found: 20 });
    for (length, pieces) in [("0", "0:"), ("-1", "0:"), ("268435457", "0:"), ("9223372036854775807", "0:")] {
        let rest = format!("4:name1:n12:piece lengthi{length}e6:pieces{pieces}");
        assert_eq!(error(&listed_as(&rest, file)), Error::PieceLength(length.parse().unwrap()));
    }
    assert_eq!(
        error(&listed_as("4:name1:n12:piece lengthi1e6:pieces0:", file)),
        Error::PieceHashes { expected: 20 * 16_385, found: 0 }
    );
    let tiny = format!("d6:lengthi{}e4:pathl1:aee", 1_u64 << 40);
    assert_eq!(error(&listed_as("4:name1:n12:piece lengthi1e6:pieces0:", &tiny)), Error::Pieces);
    assert_eq!(error(&listed_as("12:piece lengthi1e6:pieces0:", file)), Error::Missing("name"));
    assert_eq!(error(&listed_as("4:name1:n6:pieces0:", file)), Error::Missing("piece length"));
    assert_eq!(error(&listed_as("4:name1:n12:piece lengthi1e", file)), Error::Missing("pieces"));
    assert_eq!(error(&listed_as("4:name1:n12:piece lengthi1e6:piecesi1e", file)), Error::Wrong("pieces"));
    assert!(matches!(error(&listed_as("4:name2:..12:piece lengthi1e6:pieces0:", file)), Error::Path { .. }));
    let both = "6:lengthi1e4:name1:n12:piece lengthi1e6:pieces0:";
    assert_eq!(error(&listed_as(both, file)), Error::Wrong("files"));
    assert_eq!(error(b"d4:infod4:name1:n12:piece lengthi1e6:pieces0:ee"), Error::Missing("files"));
    assert_eq!(error(b"de"), Error::Missing("info"));
    assert_eq!(error(b"d4:infoi1ee"), Error::Wrong("info"));
    assert_eq!(error(b"le"), Error::Wrong("metainfo"));
    assert_eq!(error(b"d4:infode4:infodee"), Error::Bencode(bencode::Error::Duplicate { at: 0 }));
    assert_eq!(error(b""), Error::Bencode(bencode::Error::Truncated));
    assert_eq!(error(&vec![0; MAX_METAINFO + 1]), Error::Size { bytes: MAX_METAINFO + 1 });
    // The version is told before what it may have changed.
    assert_eq!(error(b"d4:infod12:meta versioni3eee"), Error::Version(3));
}

/// A v2 torrent with this file tree, and no layers.
fn tree(tree: &str) -> Vec<u8> {
    format!("d4:infod9:file tree{tree}12:meta versioni2e4:name1:n12:piece lengthi16384ee12:piece layersdee")
        .into_bytes()
}

fn leaf(length: u64, root: char) -> String {
    format!("d0:d6:lengthi{length}e11:pieces root32:{}ee", root.to_string().repeat(32))
}

#[test]
fn hostile_file_trees_are_refused() {
    assert!(Metainfo::parse(&tree(&format!("d1:a{}e", leaf(1, 'r')))).is_ok());
    assert!(matches!(error(&tree(&format!("d1:.{}e", leaf(1, 'r')))), Error::Path { .. }));
    assert!(matches!(error(&tree(&format!("d3:a/b{}e", leaf(1, 'r')))), Error::Path { .. }));
    // The root is no file.
    assert!(matches!(error(&tree(&leaf(1, 'r'))), Error::Path { .. }));
    assert_eq!(error(&tree("de")), Error::Empty);
    assert_eq!(error(&tree("d1:ai1ee")), Error::Wrong("file tree"));
    assert_eq!(error(&tree("d1:ad0:i1eee")), Error::Wrong("file tree"));
    assert_eq!(error(&tree("d1:ad0:deee")), Error::Missing("length"));
    assert_eq!(error(&tree("d1:ad0:d6:lengthi1eeee")), Error::Missing("pieces root"));
    assert_eq!(error(&tree("d1:ad0:d6:lengthi1e11:pieces root1:reee")), Error::Wrong("pieces root"));
    // A file that has files in it.
    let mut within = leaf(1, 'r');
    within.truncate(within.len() - 1);
    assert_eq!(error(&tree(&format!("d1:a{within}1:b{}ee", leaf(1, 's')))), Error::Wrong("file tree"));
    assert_eq!(error(&tree("d1:ad0:d4:attr1:p6:lengthi1eeee")), Error::Wrong("file tree"));
    assert_eq!(error(&tree("d1:ad0:d4:attr1:l6:lengthi0eeee")), Error::Symlink("a".into()));
    // The order of files is the order of keys, so keys are in order.
    let unsorted = tree(&format!("d1:b{}1:a{}e", leaf(1, 'r'), leaf(1, 's')));
    assert!(matches!(error(&unsorted), Error::Bencode(bencode::Error::Unsorted { .. })));
    let deep = [&"d1:a".repeat(MAX_DEPTH + 1), "de", &"e".repeat(MAX_DEPTH + 1)].concat();
    assert!(matches!(error(&tree(&deep)), Error::Path { .. }));
    assert!(matches!(error(&tree(&"d1:a".repeat(100))), Error::Bencode(bencode::Error::Depth)));
    assert_eq!(error(&tree(&format!("d1:a{}e", leaf(1 << 49, 'r')))), Error::Pieces);
    let shared = format!("d1:a{}1:b{}e", leaf(1, 'r'), leaf(2, 'r'));
    assert_eq!(error(&tree(&shared)), Error::SharedRoot { path: "b".into() });
    // Two pieces need a layer.
    assert_eq!(error(&tree(&format!("d1:a{}e", leaf(16_385, 'r')))), Error::Missing("piece layers"));
    let odd = String::from_utf8(tree(&format!("d1:a{}e", leaf(1, 'r')))).unwrap();
    assert_eq!(error(odd.replace("i16384e", "i16385e").as_bytes()), Error::PieceLength(16_385));
    assert_eq!(error(odd.replace("i16384e", "i8192e").as_bytes()), Error::PieceLength(8192));
    assert_eq!(error(odd.replace("12:piece layersde", "").as_bytes()), Error::Missing("piece layers"));
}

#[test]
fn wrong_piece_layers_are_refused() {
    let bytes = full_pack(Kind::V2).to_bytes();
    let layers = bytes.windows(12).position(|window| window == b"piece layers").unwrap();
    let hash = bytes.windows(4).rposition(|window| window == b"128:").unwrap() + 4;
    assert!(hash > layers);
    for at in [hash, hash + 127] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert_eq!(error(&bad), Error::Layer { path: "z".into() });
    }
}

/// The pack as a hybrid, with one thing changed in its info dictionary.
fn changed(from: &str, to: &str) -> Error {
    let bytes = full_pack(Kind::Hybrid).to_bytes();
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("is there");
    error(&[&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat())
}

#[test]
fn a_hybrid_s_halves_must_agree() {
    assert_eq!(changed("4:pathl1:a5:b.bine", "4:pathl1:a5:c.bine"), Error::Hybrid("their files"));
    assert_eq!(changed("lengthi20000e4:path", "lengthi20001e4:path"), Error::Hybrid("their files"));
    let padding = "lengthi12768e4:pathl4:.pad";
    assert_eq!(changed(padding, "lengthi12767e4:pathl4:.pad"), Error::Hybrid("where their files begin"));
    // As many pieces, and a second file that begins early.
    let second = "d6:lengthi5e4:pathl5:a.txtee";
    assert_eq!(changed(second, "d6:lengthi5e4:pathl5:b.txtee"), Error::Hybrid("their files"));
    assert_eq!(changed(second, ""), Error::Hybrid("their files"));
    assert_eq!(changed("4:attr1:p6:lengthi12768e", "4:attr1:x6:lengthi12768e"), Error::Hybrid("their files"));
}

#[test]
fn padding_after_the_last_file_is_taken() {
    let torrent = full_pack(Kind::Hybrid).to_bytes();
    let last = b"d6:lengthi100000e4:pathl1:zee";
    let at = torrent.windows(last.len()).position(|window| window == last).unwrap() + last.len();
    let with = |length: u64| {
        let padding = format!("d4:attr1:p6:lengthi{length}e4:pathl4:.pad1:1ee");
        [&torrent[..at], padding.as_bytes(), &torrent[at..]].concat()
    };
    let fills = u64::from(PIECE) - 100_000 % u64::from(PIECE);
    let read = Metainfo::parse(&with(fills)).unwrap();
    assert_eq!(read.info().layout_v1().unwrap().piece_length(5), PIECE);
    assert_eq!(read.info().layout_v2().unwrap().piece_length(5), 1696);
    assert!(matches!(error(&with(fills + 1)), Error::PieceHashes { .. }));
}

#[test]
fn no_change_of_a_byte_makes_it_panic() {
    let whole =
        made(Kind::Hybrid, "p", 16_384, &[("a", content(1, 20_000)), ("b/c", content(2, 3))]).to_bytes();
    for at in 0..whole.len() {
        for byte in [b'0', b'9', b'-', b'e', b'd', b'l', b'i', b':', 0, 0xff, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            if let Ok(torrent) = Metainfo::parse(&bytes) {
                assert!(Metainfo::parse(&torrent.to_bytes()).is_ok());
            }
        }
        assert!(Metainfo::parse(&whole[..at]).is_err());
    }
}

#[test]
fn leaves_and_pieces_of_one_length_are_one_layer() {
    let torrent = made(Kind::V2, "x", LEAF as u32, &[("x", content(7, 3 * LEAF))]);
    let root = torrent.info().files()[0].pieces_root.unwrap();
    assert_eq!(torrent.layer(&root).unwrap(), merkle::leaves(&content(7, 3 * LEAF)));
    assert_eq!(hex(&root.0), hex(&merkle::root_of(&content(7, 3 * LEAF))));
}

//! The pieces of a torrent: how long each is, and how it is verified.

use skerry_wire::Sha1Hash;
use skerry_wire::merkle::{self, LEAF};
use skerry_wire::metainfo::{Kind, Layout, Metainfo, PieceHasher};
use skerry_wire::peer::{BLOCK, Block};

/// What a piece is verified by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Its SHA-1 hash (BEP 3); in a hybrid over zeros behind the end of a file, too.
    V1 {
        /// The hash.
        hash: Sha1Hash,
        /// Zeros, bytes.
        padding: u64,
    },
    /// The root of its tree (BEP 52).
    V2 {
        /// The root.
        hash: [u8; 32],
        /// Width that a shorter tree is raised to; 0 for the only piece of a file, which is not raised.
        leaves: usize,
    },
}

impl Check {
    /// Whether these are the bytes. CPU bound.
    pub(crate) fn holds(&self, piece: &[u8]) -> bool {
        match *self {
            Self::V1 { hash, padding: 0 } => Sha1Hash::of(piece) == hash,
            Self::V1 { hash, padding } => {
                let whole = u32::try_from(piece.len() as u64 + padding).ok();
                let Some(mut hasher) = whole.and_then(|whole| PieceHasher::new(Kind::V1, whole)) else {
                    return false;
                };
                hasher.update(piece);
                hasher.padding(padding);
                hasher.finish() == [hash]
            }
            Self::V2 { hash, leaves } => merkle::raised(merkle::root_of(piece), piece.len(), leaves) == hash,
        }
    }
}

/// A torrent that is known well enough to verify it.
#[derive(Debug)]
pub(crate) struct Pieces {
    metainfo: Metainfo,
    layout: Layout,
    /// Whether all piece layers are there. Else a hybrid is verified by its v1 pieces.
    by_trees: bool,
    /// The first piece of each file with content, and the file's index; of v2.
    starts: Vec<(u32, usize)>,
}

impl Pieces {
    /// `None` for a torrent that is neither v1 nor v2, which there is not.
    pub(crate) fn new(metainfo: Metainfo) -> Option<Self> {
        let info = metainfo.info();
        let layout = info.layout_v2().or(info.layout_v1())?.clone();
        let by_trees = info.layout_v2().is_some() && metainfo.missing_layers().next().is_none();
        let full = u64::from(layout.full_piece_length());
        let starts = layout.file_starts().map(|(file, start)| ((start / full) as u32, file)).collect();
        Some(Self { metainfo, layout, by_trees, starts })
    }

    /// The torrent.
    pub(crate) fn metainfo(&self) -> &Metainfo {
        &self.metainfo
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.layout.piece_count()
    }

    /// Bytes of a piece.
    pub(crate) fn length(&self, piece: u32) -> u32 {
        self.layout.piece_length(piece)
    }

    /// Bytes of all pieces.
    pub(crate) fn total(&self) -> u64 {
        (0..self.count()).map(|piece| u64::from(self.length(piece))).sum()
    }

    /// What a piece is verified by.
    pub(crate) fn check(&self, piece: u32) -> Option<Check> {
        let info = self.metainfo.info();
        if piece >= self.count() {
            return None;
        }
        if !self.by_trees {
            let padding = info.layout_v1()?.piece_length(piece).checked_sub(self.length(piece))?;
            return Some(Check::V1 { hash: info.piece_hash(piece)?, padding: padding.into() });
        }
        let place = self.starts.partition_point(|(first, _)| *first <= piece).checked_sub(1)?;
        let (first, file) = *self.starts.get(place)?;
        let file = info.files().get(file)?;
        let root = file.pieces_root?;
        if file.length <= u64::from(info.piece_length()) {
            return Some(Check::V2 { hash: root.0, leaves: 0 });
        }
        let hash = *self.metainfo.layer(&root)?.get((piece - first) as usize)?;
        Some(Check::V2 { hash, leaves: info.piece_length() as usize / LEAF })
    }
}

/// How many blocks a piece of `length` bytes is asked for in.
pub(crate) fn block_count(length: u32) -> usize {
    length.div_ceil(BLOCK) as usize
}

/// Block `index` of a piece of `length` bytes.
pub(crate) fn block(piece: u32, length: u32, index: usize) -> Block {
    let begin = index as u32 * BLOCK;
    Block { piece, begin, length: length.saturating_sub(begin).min(BLOCK) }
}

#[cfg(test)]
pub(crate) mod tests {
    use skerry_wire::metainfo::{Builder, Hasher, NewFile};

    use super::*;

    /// Bytes without a pattern.
    pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    /// A torrent of these files; one alone is a single-file torrent.
    pub(crate) fn torrent(kind: Kind, piece_length: u32, files: &[Vec<u8>]) -> Metainfo {
        let single = files.len() == 1;
        let path = |at: usize| if single { "t".to_owned() } else { format!("{at:04}") };
        let mut hasher = Hasher::new(kind, piece_length);
        for file in files {
            hasher.update(file);
            hasher.end_file();
        }
        let new = |(at, file): (usize, &Vec<u8>)| NewFile { path: vec![path(at)], length: file.len() as u64 };
        let files = files.iter().enumerate().map(new).collect();
        Builder::new(kind, "t", piece_length, files).build(&hasher.finish()).unwrap()
    }

    /// The bytes of each piece as peers serve it.
    pub(crate) fn split(metainfo: &Metainfo, files: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let info = metainfo.info();
        let layout = info.layout_v2().or(info.layout_v1()).unwrap();
        let piece = |piece: u32| {
            let parts = layout.piece(piece).unwrap().map(|part| {
                let (offset, length) = (part.offset as usize, part.length as usize);
                part.file.map_or(vec![0; length], |file| files[file][offset..offset + length].to_vec())
            });
            parts.collect::<Vec<_>>().concat()
        };
        (0..layout.piece_count()).map(piece).collect()
    }

    #[test]
    fn every_piece_of_every_kind_is_verified() {
        let files = [noise(1, 100_000), noise(2, 16_384), noise(3, 70_001), Vec::new(), noise(4, 5)];
        let checked = |metainfo: &Metainfo, files: &[Vec<u8>]| {
            let pieces = Pieces::new(metainfo.clone()).unwrap();
            let bytes = split(metainfo, files);
            assert_eq!(pieces.count() as usize, bytes.len());
            assert_eq!(pieces.total(), bytes.iter().map(|piece| piece.len() as u64).sum::<u64>());
            for (piece, mut bytes) in (0..).zip(bytes) {
                assert_eq!(pieces.length(piece) as usize, bytes.len());
                let check = pieces.check(piece).unwrap();
                assert!(check.holds(&bytes), "{piece}");
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                assert!(!check.holds(&bytes), "{piece}");
                assert!(!check.holds(&bytes[..last]), "{piece}");
            }
            assert_eq!(pieces.check(pieces.count()), None);
        };
        for files in [&files[..], &files[..1], &files[1..2], &files[4..]] {
            for kind in [Kind::V1, Kind::V2, Kind::Hybrid] {
                let whole = torrent(kind, 32_768, files);
                checked(&whole, files);
                let bare = Metainfo::without_layers(whole.info().clone());
                if kind != Kind::V2 || bare.missing_layers().next().is_none() {
                    checked(&bare, files);
                }
            }
        }
    }

    #[test]
    fn v2_pieces_without_their_layer_cannot_be_verified() {
        let files = [noise(1, 100_000), noise(2, 5)];
        let whole = torrent(Kind::V2, 32_768, &files);
        let bare = Pieces::new(Metainfo::without_layers(whole.info().clone())).unwrap();
        assert_eq!(bare.check(0), None);
    }

    #[test]
    fn blocks_cover_a_piece() {
        let blocks: Vec<Block> = (0..block_count(40_000)).map(|index| block(7, 40_000, index)).collect();
        let expected = [(0, 16_384), (16_384, 16_384), (32_768, 7_232)];
        assert_eq!(blocks, expected.map(|(begin, length)| Block { piece: 7, begin, length }));
        assert_eq!((block_count(16_384), block_count(1)), (1, 1));
    }
}

//! Content hashed as it streams by, file by file, for a torrent to be made or checked.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::builder::Kind;
use super::layout::gap;
use crate::hash::{Sha1Hash, Sha256Hash};
use crate::merkle::{self, LEAF};

/// Zeros to pad with.
static ZEROS: [u8; LEAF] = [0; LEAF];

/// What a torrent says of its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hashes {
    /// SHA-1 of each v1 piece. Empty for v2 alone.
    pub pieces: Vec<Sha1Hash>,
    /// Of each file, in order. Empty for v1 alone.
    pub files: Vec<FileHash>,
}

/// What a v2 torrent says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHash {
    /// Bytes.
    pub length: u64,
    /// Root of the file's Merkle tree; zeros for an empty file, which has none.
    pub pieces_root: Sha256Hash,
    /// The piece layer: one hash a piece, the last raised to the height of the others. Empty for a
    /// file of one piece or less.
    pub layer: Vec<[u8; 32]>,
}

impl FileHash {
    /// From the roots of a file's pieces, the last of them over its own leaves only: not raised.
    ///
    /// `length` is the file's and `piece_length` is a power of two of at least one leaf, both in bytes.
    pub fn of_pieces(mut pieces: Vec<[u8; 32]>, length: u64, piece_length: u32) -> Self {
        if pieces.len() < 2 {
            let pieces_root = Sha256Hash(pieces.pop().unwrap_or_default());
            return Self { length, pieces_root, layer: Vec::new() };
        }
        let before = (pieces.len() as u64 - 1) * u64::from(piece_length);
        if let Some(last) = pieces.last_mut() {
            let tail = length.saturating_sub(before) as usize;
            *last = merkle::raised(*last, tail, piece_length as usize / LEAF);
        }
        let root = merkle::layer_root(pieces.clone(), merkle::height(piece_length.into()));
        Self { length, pieces_root: Sha256Hash(root), layer: pieces }
    }
}

/// Takes the bytes of all files in order, and [`Hasher::end_file`] after each.
///
/// Its two halves can be used alone, each on a thread of its own.
#[derive(Debug, Clone)]
pub struct Hasher {
    pieces: Option<PieceHasher>,
    trees: Option<TreeHasher>,
}

impl Hasher {
    /// A hasher for a torrent of `kind`, of pieces of `piece_length` bytes.
    pub fn new(kind: Kind, piece_length: u32) -> Self {
        Self { pieces: PieceHasher::new(kind, piece_length), trees: TreeHasher::new(kind, piece_length) }
    }

    /// Takes the next bytes of a file. CPU bound.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(pieces) = &mut self.pieces {
            pieces.update(bytes);
        }
        if let Some(trees) = &mut self.trees {
            trees.update(bytes);
        }
    }

    /// Ends a file.
    pub fn end_file(&mut self) {
        if let Some(pieces) = &mut self.pieces {
            pieces.end_file();
        }
        if let Some(trees) = &mut self.trees {
            trees.end_file();
        }
    }

    /// What was found.
    pub fn finish(self) -> Hashes {
        Hashes {
            pieces: self.pieces.map(PieceHasher::finish).unwrap_or_default(),
            files: self.trees.map(TreeHasher::finish).unwrap_or_default(),
        }
    }
}

/// Hashes v1 pieces. In a hybrid, a file is padded to a whole piece once another one follows it.
#[derive(Debug, Clone)]
pub struct PieceHasher {
    piece_length: u32,
    /// Files begin on piece boundaries.
    aligned: bool,
    between_files: bool,
    /// Bytes of the piece that is not complete.
    filled: u32,
    sha1: Sha1,
    pieces: Vec<Sha1Hash>,
}

impl PieceHasher {
    /// `None` for v2, which has no such pieces. A piece has at least one byte.
    pub fn new(kind: Kind, piece_length: u32) -> Option<Self> {
        (kind != Kind::V2).then(|| Self {
            piece_length: piece_length.max(1),
            aligned: kind == Kind::Hybrid,
            between_files: false,
            filled: 0,
            sha1: Sha1::new(),
            pieces: Vec::new(),
        })
    }

    /// Takes the next bytes of a file.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.between_files && !bytes.is_empty() {
            self.between_files = false;
            if self.aligned {
                self.pad();
            }
        }
        self.add(bytes);
    }

    /// Ends a file.
    pub fn end_file(&mut self) {
        self.between_files = true;
    }

    /// Takes bytes of padding that a torrent's file list has.
    pub fn padding(&mut self, length: u64) {
        let mut left = length;
        while left > 0 {
            let step = left.min(LEAF as u64);
            self.add(&ZEROS[..step as usize]);
            left -= step;
        }
    }

    /// The pieces' hashes.
    pub fn finish(mut self) -> Vec<Sha1Hash> {
        if self.filled > 0 {
            self.pieces.push(Sha1Hash(self.sha1.finalize().into()));
        }
        self.pieces
    }

    fn pad(&mut self) {
        self.padding(gap(self.filled.into(), self.piece_length));
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (self.piece_length - self.filled) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.sha1.update(now);
            self.filled += now.len() as u32;
            if self.filled == self.piece_length {
                self.pieces.push(Sha1Hash(self.sha1.finalize_reset().into()));
                self.filled = 0;
            }
            bytes = later;
        }
    }
}

/// Hashes the trees of v2 files.
#[derive(Debug, Clone)]
pub struct TreeHasher {
    piece_length: u32,
    /// Bytes of the leaf that is not complete.
    filled: usize,
    sha256: Sha256,
    /// Leaves of the piece that is not complete.
    leaves: Vec<[u8; 32]>,
    /// Roots of the file's complete pieces.
    pieces: Vec<[u8; 32]>,
    length: u64,
    files: Vec<FileHash>,
}

impl TreeHasher {
    /// `None` for v1, which has no trees. A piece has at least one leaf.
    pub fn new(kind: Kind, piece_length: u32) -> Option<Self> {
        (kind != Kind::V1).then(|| Self {
            piece_length: piece_length.max(LEAF as u32),
            filled: 0,
            sha256: Sha256::new(),
            leaves: Vec::new(),
            pieces: Vec::new(),
            length: 0,
            files: Vec::new(),
        })
    }

    /// Takes the next bytes of a file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at((LEAF - self.filled).min(bytes.len()));
            self.sha256.update(now);
            self.filled += now.len();
            if self.filled == LEAF {
                self.end_leaf();
            }
            bytes = later;
        }
    }

    /// Ends a file.
    pub fn end_file(&mut self) {
        if self.filled > 0 {
            self.end_leaf();
        }
        if !self.leaves.is_empty() {
            self.end_piece();
        }
        let (pieces, length) = (std::mem::take(&mut self.pieces), std::mem::take(&mut self.length));
        self.files.push(FileHash::of_pieces(pieces, length, self.piece_length));
    }

    /// The files' hashes.
    pub fn finish(self) -> Vec<FileHash> {
        self.files
    }

    fn end_leaf(&mut self) {
        self.filled = 0;
        self.leaves.push(self.sha256.finalize_reset().into());
        if self.leaves.len() == self.piece_length as usize / LEAF {
            self.end_piece();
        }
    }

    fn end_piece(&mut self) {
        self.pieces.push(merkle::layer_root(std::mem::take(&mut self.leaves), 0));
    }
}

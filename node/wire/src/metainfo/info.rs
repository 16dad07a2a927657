//! The info dictionary: what a torrent's hashes are taken over.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::layout::{Layout, Span};
use super::path::{self, component};
use super::{Error, MAX_FILES, MAX_METAINFO, MAX_PIECE_LENGTH};
use crate::bencode::{self, Dict, Value};
use crate::hash::{InfoHash, Sha1Hash, Sha256Hash};
use crate::merkle::LEAF;

/// A file of a torrent. Padding is not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Components from the torrent's folder on; a name alone in a torrent of one file.
    pub path: Vec<String>,
    /// Bytes.
    pub length: u64,
    /// Root of its Merkle tree (v2), unless it is empty.
    pub pieces_root: Option<Sha256Hash>,
}

/// An info dictionary that keeps its rules.
#[derive(Debug, Clone)]
pub struct Info {
    bytes: Bytes,
    name: String,
    piece_length: u32,
    private: bool,
    single_file: bool,
    files: Vec<File>,
    v1: Option<V1>,
    v2: Option<V2>,
}

#[derive(Debug, Clone)]
struct V1 {
    hash: Sha1Hash,
    /// 20 bytes a piece.
    pieces: Bytes,
    layout: Layout,
}

#[derive(Debug, Clone)]
struct V2 {
    hash: Sha256Hash,
    layout: Layout,
    /// The first file with each pieces root.
    roots: BTreeMap<Sha256Hash, usize>,
}

impl Info {
    /// Reads an info dictionary of at most [`MAX_METAINFO`] bytes, as peers send it (BEP 9). That it
    /// has the info-hash that was asked for is the caller's to check.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_METAINFO {
            return Err(Error::Size { bytes: bytes.len() });
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let value = bencode::decode_lenient(&bytes)?;
        Self::read(bytes.clone(), value.dict().ok_or(Error::Wrong("info"))?)
    }

    /// `bytes` are those that `info` was read from.
    pub(super) fn read(bytes: Bytes, info: &Dict<'_>) -> Result<Self, Error> {
        // Before everything else: what follows holds for this version only (BEP 52).
        let is_v2 = match integer(info, "meta version")? {
            None | Some(1) => false,
            Some(2) => true,
            Some(version) => return Err(Error::Version(version)),
        };
        if is_v2 {
            // The order of the file tree is the order of the files.
            bencode::decode(&bytes)?;
        }
        let name = info.get(b"name.utf-8").or(info.get(b"name")).ok_or(Error::Missing("name"))?;
        let name = component(name.bytes().ok_or(Error::Wrong("name"))?)?;
        let piece_length = piece_length(info, is_v2)?;
        let pieces = match info.get(b"pieces") {
            Some(pieces) => Some(bytes.slice_ref(pieces.bytes().ok_or(Error::Wrong("pieces"))?)),
            None if is_v2 => None,
            None => return Err(Error::Missing("pieces")),
        };
        let listed = pieces.is_some().then(|| Listed::read(info, &name)).transpose()?;
        let tree = is_v2.then(|| Tree::read(info)).transpose()?;

        let v1 = match (&listed, pieces) {
            (Some(listed), Some(pieces)) => {
                let layout = Layout::v1(piece_length, listed.spans.iter().copied())?;
                let (expected, found) = (u64::from(layout.piece_count()) * 20, pieces.len() as u64);
                if expected != found {
                    return Err(Error::PieceHashes { expected, found });
                }
                Some(V1 { hash: Sha1Hash::of(&bytes), pieces, layout })
            }
            _ => None,
        };
        let v2 = match &tree {
            Some(tree) => Some(V2 {
                hash: Sha256Hash::of(&bytes),
                layout: Layout::v2(piece_length, tree.files.iter().map(|file| file.length))?,
                roots: roots(&tree.files)?,
            }),
            None => None,
        };
        if let (Some(listed), Some(tree), Some(v1), Some(v2)) = (&listed, &tree, &v1, &v2) {
            agree(listed, tree, &v1.layout, &v2.layout)?;
        }
        let (files, single_file) = match (tree, listed) {
            (Some(tree), _) => (tree.files, tree.single),
            (None, Some(listed)) => (listed.files, listed.single),
            (None, None) => return Err(Error::Missing("pieces")),
        };
        path::distinct(files.iter().map(|file| file.path.as_slice()))?;
        let private = integer(info, "private")?.is_some_and(|private| private != 0);
        Ok(Self { bytes, name, piece_length, private, single_file, files, v1, v2 })
    }

    /// The dictionary as it came: what the hashes are over, and what peers are sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The torrent's name: of its only file, or of the folder that its files are in.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length of a piece, bytes.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// Peers come from its trackers only: no DHT, no exchange between peers (BEP 27).
    pub fn private(&self) -> bool {
        self.private
    }

    /// Whether the torrent is one file, not a folder.
    pub fn single_file(&self) -> bool {
        self.single_file
    }

    /// The files in order, padding left out.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Bytes in all files.
    pub fn length(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    /// The v1 info-hash.
    pub fn hash_v1(&self) -> Option<Sha1Hash> {
        self.v1.as_ref().map(|v1| v1.hash)
    }

    /// The v2 info-hash.
    pub fn hash_v2(&self) -> Option<Sha256Hash> {
        self.v2.as_ref().map(|v2| v2.hash)
    }

    /// Every info-hash that the torrent is known by.
    pub fn hashes(&self) -> impl Iterator<Item = InfoHash> {
        let v1 = self.hash_v1().map(InfoHash::V1);
        v1.into_iter().chain(self.hash_v2().map(InfoHash::V2))
    }

    /// The pieces as v1 numbers and hashes them.
    pub fn layout_v1(&self) -> Option<&Layout> {
        self.v1.as_ref().map(|v1| &v1.layout)
    }

    /// The pieces as v2 numbers them.
    pub fn layout_v2(&self) -> Option<&Layout> {
        self.v2.as_ref().map(|v2| &v2.layout)
    }

    /// The SHA-1 hash of a v1 piece.
    pub fn piece_hash(&self, piece: u32) -> Option<Sha1Hash> {
        let pieces = self.v1.as_ref()?.pieces.as_chunks::<20>().0;
        pieces.get(piece as usize).copied().map(Sha1Hash)
    }

    /// The first file with this pieces root: what a hash request names (BEP 52).
    pub fn file_of(&self, pieces_root: &Sha256Hash) -> Option<usize> {
        self.v2.as_ref()?.roots.get(pieces_root).copied()
    }

    /// Pieces roots that have a piece layer, being of more than one piece, with their first file.
    pub(super) fn layered(&self) -> impl Iterator<Item = (&Sha256Hash, &File)> {
        let roots = self.v2.iter().flat_map(|v2| &v2.roots);
        roots
            .map(move |(root, file)| (root, &self.files[*file]))
            .filter(move |(_, file)| file.length > u64::from(self.piece_length))
    }
}

/// v1's file list.
struct Listed {
    files: Vec<File>,
    spans: Vec<Span>,
    single: bool,
}

impl Listed {
    fn read(info: &Dict<'_>, name: &str) -> Result<Self, Error> {
        let mut listed = Self { files: Vec::new(), spans: Vec::new(), single: false };
        match (info.get(b"files"), info.get(b"length")) {
            (Some(files), None) => {
                for file in files.list().ok_or(Error::Wrong("files"))? {
                    listed.add(file.dict().ok_or(Error::Wrong("files"))?)?;
                }
            }
            (None, Some(_)) => {
                listed.single = true;
                refuse_symlink(info, name)?;
                listed.push(vec![name.to_owned()], length(info)?);
            }
            (None, None) => return Err(Error::Missing("files")),
            (Some(_), Some(_)) => return Err(Error::Wrong("files")),
        }
        Ok(listed)
    }

    fn add(&mut self, file: &Dict<'_>) -> Result<(), Error> {
        if attributes(file).contains(&b'p') {
            // Its path means nothing, and may be missing (BEP 47).
            self.spans.push(Span { file: None, length: length(file)? });
        } else {
            let path = file.get(b"path.utf-8").or(file.get(b"path")).and_then(Value::list);
            let mut components = Vec::new();
            for part in path.ok_or(Error::Missing("path"))?.iter().take(path::MAX_DEPTH + 1) {
                components.push(component(part.bytes().ok_or(Error::Wrong("path"))?)?);
            }
            path::whole(&components)?;
            refuse_symlink(file, &components.join("/"))?;
            self.push(components, length(file)?);
        }
        if self.files.len() > MAX_FILES || self.spans.len() > 2 * MAX_FILES {
            return Err(Error::Files);
        }
        Ok(())
    }

    fn push(&mut self, path: Vec<String>, length: u64) {
        self.spans.push(Span { file: Some(self.files.len()), length });
        self.files.push(File { path, length, pieces_root: None });
    }
}

/// v2's file tree.
struct Tree {
    files: Vec<File>,
    single: bool,
}

impl Tree {
    fn read(info: &Dict<'_>) -> Result<Self, Error> {
        let root = info.get(b"file tree").ok_or(Error::Missing("file tree"))?;
        let mut files = Vec::new();
        walk(root.dict().ok_or(Error::Wrong("file tree"))?, &mut Vec::new(), &mut files)?;
        // In a hybrid, the v1 list tells whether one file stands in a folder.
        let single = matches!(files.as_slice(), [only] if only.path.len() == 1);
        let single = single && info.get(b"files").is_none();
        Ok(Self { files, single })
    }
}

fn walk(folder: &Dict<'_>, path: &mut Vec<String>, files: &mut Vec<File>) -> Result<(), Error> {
    for (key, entry) in folder.iter() {
        path.push(component(key)?);
        path::whole(path)?;
        let entry = entry.dict().ok_or(Error::Wrong("file tree"))?;
        match entry.get(b"") {
            None => walk(entry, path, files)?,
            Some(_) if files.len() == MAX_FILES => return Err(Error::Files),
            Some(_) if entry.len() > 1 => return Err(Error::Wrong("file tree")),
            Some(file) => {
                let file = file.dict().ok_or(Error::Wrong("file tree"))?;
                refuse_symlink(file, &path.join("/"))?;
                if attributes(file).contains(&b'p') {
                    return Err(Error::Wrong("file tree"));
                }
                let length = length(file)?;
                let pieces_root = if length > 0 { Some(pieces_root(file)?) } else { None };
                files.push(File { path: path.clone(), length, pieces_root });
            }
        }
        path.pop();
    }
    Ok(())
}

/// The content must be the same in both halves, at the same places (BEP 52, "upgrade path").
fn agree(listed: &Listed, tree: &Tree, v1: &Layout, v2: &Layout) -> Result<(), Error> {
    let same = |(one, two): (&File, &File)| one.path == two.path && one.length == two.length;
    if listed.single != tree.single
        || listed.files.len() != tree.files.len()
        || !listed.files.iter().zip(&tree.files).all(same)
    {
        return Err(Error::Hybrid("their files"));
    }
    if !v1.file_starts().eq(v2.file_starts()) || v1.piece_count() != v2.piece_count() {
        return Err(Error::Hybrid("where their files begin"));
    }
    Ok(())
}

fn roots(files: &[File]) -> Result<BTreeMap<Sha256Hash, usize>, Error> {
    let mut roots = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let Some(root) = file.pieces_root else { continue };
        match roots.entry(root) {
            Entry::Vacant(entry) => _ = entry.insert(index),
            Entry::Occupied(entry) if files[*entry.get()].length == file.length => {}
            Entry::Occupied(_) => return Err(Error::SharedRoot { path: file.path.join("/") }),
        }
    }
    Ok(roots)
}

fn piece_length(info: &Dict<'_>, is_v2: bool) -> Result<u32, Error> {
    let given = integer(info, "piece length")?.ok_or(Error::Missing("piece length"))?;
    let fits = |length: &u32| {
        (1..=MAX_PIECE_LENGTH).contains(length)
            && (!is_v2 || (length.is_power_of_two() && *length as usize >= LEAF))
    };
    u32::try_from(given).ok().filter(fits).ok_or(Error::PieceLength(given))
}

fn length(file: &Dict<'_>) -> Result<u64, Error> {
    let length = integer(file, "length")?.ok_or(Error::Missing("length"))?;
    u64::try_from(length).map_err(|_| Error::Wrong("length"))
}

fn pieces_root(file: &Dict<'_>) -> Result<Sha256Hash, Error> {
    let root = file.get(b"pieces root").ok_or(Error::Missing("pieces root"))?;
    let root = root.bytes().and_then(|root| root.try_into().ok());
    root.map(Sha256Hash).ok_or(Error::Wrong("pieces root"))
}

fn refuse_symlink(file: &Dict<'_>, path: &str) -> Result<(), Error> {
    if attributes(file).contains(&b'l') || file.get(b"symlink path").is_some() {
        return Err(Error::Symlink(path.to_owned()));
    }
    Ok(())
}

fn attributes<'a>(file: &Dict<'a>) -> &'a [u8] {
    file.get(b"attr").and_then(Value::bytes).unwrap_or_default()
}

fn integer(dict: &Dict<'_>, key: &'static str) -> Result<Option<i64>, Error> {
    let value = dict.get(key.as_bytes());
    value.map(|value| value.integer().ok_or(Error::Wrong(key))).transpose()
}

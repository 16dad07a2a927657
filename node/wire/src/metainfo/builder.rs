//! Torrents made.

use bytes::Bytes;

use super::layout::gap;
use super::path::{self, component};
use super::{Error, FileHash, Hashes, Info, MAX_LENGTH, MAX_METAINFO, Metainfo};
use crate::bencode::{DictWriter, Writer};
use crate::merkle::LEAF;

/// Which clients a torrent is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// BEP 3 only.
    V1,
    /// BEP 52 only.
    V2,
    /// Both, of the same content.
    #[default]
    Hybrid,
}

/// A file to be made a part of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Components from the torrent's folder on; the torrent's name in a torrent of one file.
    pub path: Vec<String>,
    /// Bytes.
    pub length: u64,
}

/// Makes a torrent out of files and their hashes.
#[derive(Debug, Clone)]
pub struct Builder {
    /// v1, v2 or both.
    pub kind: Kind,
    /// Name of the only file, or of the folder that the files are in.
    pub name: String,
    /// Bytes: a power of two of at least 16 KiB, or anything for v1 alone.
    pub piece_length: u32,
    /// In the order that they were hashed in. For v2, ascending by path, component by component.
    pub files: Vec<NewFile>,
    /// Trackers in tiers.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds.
    pub web_seeds: Vec<String>,
    /// Peers come from the trackers only.
    pub private: bool,
    /// Words for people.
    pub comment: Option<String>,
    /// The program that makes the file.
    pub created_by: Option<String>,
    /// Seconds since 1970.
    pub creation_date: Option<i64>,
}

impl Builder {
    /// A torrent of `files`. One whose path is `name` alone makes a torrent of one file.
    pub fn new(kind: Kind, name: impl Into<String>, piece_length: u32, files: Vec<NewFile>) -> Self {
        Self {
            kind,
            name: name.into(),
            piece_length,
            files,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            private: false,
            comment: None,
            created_by: None,
            creation_date: None,
        }
    }

    /// The torrent, if `hashes` can be those of its files.
    pub fn build(self, hashes: &Hashes) -> Result<Metainfo, Error> {
        self.check()?;
        let hashed: &[FileHash] = if self.kind == Kind::V1 { &[] } else { &hashes.files };
        let lengths = self.files.iter().map(|file| file.length);
        if self.kind != Kind::V1 && !lengths.eq(hashed.iter().map(|file| file.length)) {
            return Err(Error::Hashes("file lengths"));
        }
        let info = Info::parse(&self.info(hashes))?;
        let mut metainfo = Metainfo::without_layers(info);
        for file in hashed.iter().filter(|file| !file.layer.is_empty()) {
            if metainfo.layer(&file.pieces_root).is_none() {
                metainfo.add_layer(&file.pieces_root, Bytes::from(file.layer.concat()))?;
            }
        }
        if metainfo.missing_layers().next().is_some() {
            return Err(Error::Hashes("piece layers"));
        }
        metainfo.trackers = self.trackers;
        metainfo.web_seeds = self.web_seeds;
        metainfo.comment = self.comment;
        metainfo.created_by = self.created_by;
        metainfo.creation_date = self.creation_date;
        match metainfo.to_bytes().len() {
            bytes if bytes > MAX_METAINFO => Err(Error::Size { bytes }),
            _ => Ok(metainfo),
        }
    }

    /// Whether the files can be a torrent: worth to know before they are hashed.
    pub fn check(&self) -> Result<(), Error> {
        let add = |total: u64, file: &NewFile| total.checked_add(file.length);
        let total = self.files.iter().try_fold(0, add);
        total.filter(|total| *total <= MAX_LENGTH).ok_or(Error::Length)?;
        component(self.name.as_bytes())?;
        for file in &self.files {
            path::whole(&file.path)?;
            file.path.iter().try_for_each(|part| component(part.as_bytes()).map(drop))?;
        }
        path::distinct(self.files.iter().map(|file| file.path.as_slice()))?;
        if self.piece_length == 0 {
            return Err(Error::PieceLength(0));
        }
        let descends = |two: &&[NewFile]| two[0].path >= two[1].path;
        match self.files.windows(2).find(descends) {
            Some(two) if self.kind != Kind::V1 => Err(Error::Order(two[1].path.join("/"))),
            _ => Ok(()),
        }
    }

    /// The info dictionary.
    fn info(&self, hashes: &Hashes) -> Vec<u8> {
        let is_v1 = self.kind != Kind::V2;
        let is_v2 = self.kind != Kind::V1;
        let single = self.single_file();
        let mut writer = Writer::new();
        writer.dict(|info| {
            if is_v2 {
                let files: Vec<_> = self.files.iter().zip(&hashes.files).collect();
                info.key(b"file tree").dict(|tree| folder(tree, &files, 0));
            }
            match single {
                Some(file) if is_v1 => info.key(b"length").integer(file.length as i64),
                None if is_v1 => info.key(b"files").list(|list| self.list(list)),
                _ => {}
            }
            if is_v2 {
                info.key(b"meta version").integer(2);
            }
            info.key(b"name").bytes(self.name.as_bytes());
            info.key(b"piece length").integer(self.piece_length.into());
            if is_v1 {
                let pieces: Vec<u8> = hashes.pieces.iter().flat_map(|hash| hash.0).collect();
                info.key(b"pieces").bytes(&pieces);
            }
            if self.private {
                info.key(b"private").integer(1);
            }
        });
        writer.finish()
    }

    fn single_file(&self) -> Option<&NewFile> {
        match self.files.as_slice() {
            [only] if only.path == [self.name.as_str()] => Some(only),
            _ => None,
        }
    }

    /// v1's file list. In a hybrid, padding follows every file that would leave the next unaligned.
    fn list(&self, list: &mut Writer) {
        let last = self.files.iter().rposition(|file| file.length > 0);
        for (index, file) in self.files.iter().enumerate() {
            list.dict(|entry| {
                entry.key(b"length").integer(file.length as i64);
                entry.key(b"path").list(|path| file.path.iter().for_each(|part| path.bytes(part.as_bytes())));
            });
            let padding = gap(file.length, self.piece_length);
            if self.kind == Kind::Hybrid && padding > 0 && last > Some(index) {
                list.dict(|entry| {
                    entry.key(b"attr").bytes(b"p");
                    entry.key(b"length").integer(padding as i64);
                    entry.key(b"path").list(|path| {
                        path.bytes(b".pad");
                        path.bytes(padding.to_string().as_bytes());
                    });
                });
            }
        }
    }
}

/// A folder of v2's file tree: files that share their first `depth` components, ascending.
fn folder(tree: &mut DictWriter<'_>, files: &[(&NewFile, &FileHash)], depth: usize) {
    for group in files.chunk_by(|one, two| one.0.path.get(depth) == two.0.path.get(depth)) {
        let Some(name) = group[0].0.path.get(depth) else { continue };
        tree.key(name.as_bytes()).dict(|entry| match group {
            [(file, hash)] if file.path.len() == depth + 1 => entry.key(b"").dict(|properties| {
                properties.key(b"length").integer(file.length as i64);
                if file.length > 0 {
                    properties.key(b"pieces root").bytes(&hash.pieces_root.0);
                }
            }),
            group => folder(entry, group, depth + 1),
        });
    }
}

/// A piece length for so much content: 1000 to 2000 pieces, of 16 KiB to 16 MiB.
pub fn piece_length_for(total: u64) -> u32 {
    total.div_ceil(2000).next_power_of_two().clamp(LEAF as u64, 16 << 20) as u32
}

//! Metainfo files (`.torrent`): BEP 3 (v1), BEP 52 (v2) and hybrids of both, with trackers in tiers
//! (BEP 12), web seeds (BEP 19), private torrents (BEP 27) and padding files (BEP 47).
//!
//! [`Info`] is what the info-hashes are taken over: it is read from a file, or alone when a peer sent
//! it (BEP 9), and keeps its exact bytes. [`Metainfo`] adds what stands around it: the piece layers,
//! which are checked against the pieces roots, and the trackers and web seeds, which may be changed.
//! [`Layout`] tells which bytes of which file a piece is made of. [`Builder`] makes a torrent out of
//! files and the hashes that a [`Hasher`] found.
//!
//! A file that breaks a rule is refused as a whole. The paths of one that is taken can be joined to a
//! folder: no component is empty, `.` or `..`, or holds a separator or a control character.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::bencode::{self, Dict, Value, Writer};
use crate::hash::Sha256Hash;
use crate::magnet::Magnet;
use crate::merkle;

mod builder;
mod error;
mod hasher;
mod info;
mod layout;
mod path;
#[cfg(test)]
mod tests;

pub use builder::{Builder, Kind, NewFile, piece_length_for};
pub use error::Error;
pub use hasher::{FileHash, Hasher, Hashes, PieceHasher, TreeHasher};
pub use info::{File, Info};
pub use layout::{Block, Blocks, Layout, Span};
pub use path::{MAX_COMPONENT, MAX_DEPTH, MAX_PATH};

/// Longest metainfo file that is read, bytes.
pub const MAX_METAINFO: usize = 32 << 20;

/// Most files in one torrent, padding left out.
pub const MAX_FILES: usize = 100_000;

/// Most content in one torrent, bytes, padding included.
pub const MAX_LENGTH: u64 = 1 << 50;

/// Longest piece, bytes.
pub const MAX_PIECE_LENGTH: u32 = 256 << 20;

/// Most pieces: as many as [`MAX_LENGTH`] has of [`MAX_PIECE_LENGTH`].
pub const MAX_PIECES: u64 = 4 << 20;

/// Most trackers, and most web seeds.
pub const MAX_URLS: usize = 1000;

/// Longest address of a tracker or web seed that is kept, bytes.
pub const MAX_URL: usize = 2048;

/// A metainfo file.
#[derive(Debug, Clone)]
pub struct Metainfo {
    info: Info,
    /// Piece layers by pieces root: 32 bytes a piece.
    layers: BTreeMap<Sha256Hash, Bytes>,
    /// Trackers: tiers in order, alike within a tier (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Addresses that the content can be had from over HTTP (BEP 19).
    pub web_seeds: Vec<String>,
    /// Words for people.
    pub comment: Option<String>,
    /// The program that made the file.
    pub created_by: Option<String>,
    /// When the file was made, seconds since 1970.
    pub creation_date: Option<i64>,
}

impl Metainfo {
    /// Reads a metainfo file of at most [`MAX_METAINFO`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_METAINFO {
            return Err(Error::Size { bytes: bytes.len() });
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let value = bencode::decode_lenient(&bytes)?;
        let torrent = value.dict().ok_or(Error::Wrong("metainfo"))?;
        let raw = torrent.raw(b"info").ok_or(Error::Missing("info"))?;
        let info = torrent.get(b"info").and_then(Value::dict).ok_or(Error::Wrong("info"))?;
        let mut metainfo = Self::without_layers(Info::read(bytes.slice_ref(raw), info)?);
        if metainfo.info.hash_v2().is_some() {
            let layers = torrent.get(b"piece layers").ok_or(Error::Missing("piece layers"))?;
            metainfo.read_layers(&bytes, layers.dict().ok_or(Error::Wrong("piece layers"))?)?;
        }
        metainfo.trackers = trackers(torrent)?;
        metainfo.web_seeds = urls(torrent.get(b"url-list"));
        if metainfo.web_seeds.len() > MAX_URLS {
            return Err(Error::Wrong("url-list"));
        }
        let text = |key: &[u8]| torrent.get(key).and_then(Value::bytes).map(lossy);
        metainfo.comment = text(b"comment");
        metainfo.created_by = text(b"created by");
        metainfo.creation_date = torrent.get(b"creation date").and_then(Value::integer);
        Ok(metainfo)
    }

    /// A torrent known by its info dictionary only: what a magnet link and a peer give.
    pub fn without_layers(info: Info) -> Self {
        Self {
            info,
            layers: BTreeMap::new(),
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
        }
    }

    /// The info dictionary.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The piece layer under a pieces root: one hash a piece, the last as high as the others. Files
    /// of one piece have none: the root is their only hash.
    pub fn layer(&self, pieces_root: &Sha256Hash) -> Option<&[[u8; 32]]> {
        self.layers.get(pieces_root).map(|layer| layer.as_chunks::<32>().0)
    }

    /// The pieces roots whose layers are not known.
    pub fn missing_layers(&self) -> impl Iterator<Item = &Sha256Hash> {
        self.info.layered().map(|(root, _)| root).filter(|root| !self.layers.contains_key(*root))
    }

    /// Adds the piece layer under `pieces_root`, 32 bytes a piece, once it is checked.
    pub fn add_layer(&mut self, pieces_root: &Sha256Hash, layer: Bytes) -> Result<(), Error> {
        let file = self.info.file_of(pieces_root).map(|index| &self.info.files()[index]);
        let file = file.ok_or(Error::Wrong("piece layers"))?;
        let (hashes, rest) = layer.as_chunks::<32>();
        if !rest.is_empty()
            || !merkle::verify_layer(&pieces_root.0, file.length, self.info.piece_length(), hashes)
        {
            return Err(Error::Layer { path: file.path.join("/") });
        }
        self.layers.insert(*pieces_root, layer);
        Ok(())
    }

    /// The file's bytes. The info dictionary goes in as it came.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.dict(|torrent| {
            if let Some(first) = self.trackers.iter().flatten().next() {
                torrent.key(b"announce").bytes(first.as_bytes());
            }
            if self.trackers.iter().flatten().nth(1).is_some() {
                torrent.key(b"announce-list").list(|tiers| {
                    for tier in &self.trackers {
                        tiers.list(|list| tier.iter().for_each(|url| list.bytes(url.as_bytes())));
                    }
                });
            }
            if let Some(comment) = &self.comment {
                torrent.key(b"comment").bytes(comment.as_bytes());
            }
            if let Some(program) = &self.created_by {
                torrent.key(b"created by").bytes(program.as_bytes());
            }
            if let Some(seconds) = self.creation_date {
                torrent.key(b"creation date").integer(seconds);
            }
            torrent.key(b"info").raw(self.info.bytes());
            if self.info.hash_v2().is_some() {
                torrent.key(b"piece layers").dict(|layers| {
                    for (root, layer) in &self.layers {
                        layers.key(&root.0).bytes(layer);
                    }
                });
            }
            if !self.web_seeds.is_empty() {
                torrent.key(b"url-list").list(|list| {
                    self.web_seeds.iter().for_each(|url| list.bytes(url.as_bytes()));
                });
            }
        });
        writer.finish()
    }

    /// The link that leads here.
    pub fn magnet(&self) -> Magnet {
        Magnet {
            v1: self.info.hash_v1(),
            v2: self.info.hash_v2(),
            name: Some(self.info.name().to_owned()),
            trackers: self.trackers.iter().flatten().cloned().collect(),
            web_seeds: self.web_seeds.clone(),
            peers: Vec::new(),
        }
    }

    /// Takes the layers of the torrent's files; those of anything else are left out.
    fn read_layers(&mut self, bytes: &Bytes, layers: &Dict<'_>) -> Result<(), Error> {
        let roots: Vec<Sha256Hash> = self.missing_layers().copied().collect();
        for root in roots {
            let layer = layers.get(&root.0).and_then(Value::bytes).ok_or(Error::Missing("piece layers"))?;
            self.add_layer(&root, bytes.slice_ref(layer))?;
        }
        Ok(())
    }
}

/// `announce-list` where there is one, else `announce` (BEP 12).
fn trackers(torrent: &Dict<'_>) -> Result<Vec<Vec<String>>, Error> {
    let tiers = torrent.get(b"announce-list").and_then(Value::list).unwrap_or_default();
    let mut trackers: Vec<Vec<String>> = tiers.iter().map(|tier| urls(Some(tier))).collect();
    trackers.retain(|tier| !tier.is_empty());
    if trackers.is_empty() {
        trackers.extend(Some(urls(torrent.get(b"announce"))).filter(|tier| !tier.is_empty()));
    }
    if trackers.iter().map(Vec::len).sum::<usize>() > MAX_URLS {
        return Err(Error::Wrong("announce-list"));
    }
    Ok(trackers)
}

/// One address or a list of them; what is none is left out.
fn urls(value: Option<&Value<'_>>) -> Vec<String> {
    let values = match value {
        Some(Value::List(values)) => values.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    values.iter().filter_map(Value::bytes).filter_map(url).collect()
}

fn url(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let url = !text.is_empty() && text.len() <= MAX_URL && !text.contains(char::is_control);
    url.then(|| text.to_owned())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

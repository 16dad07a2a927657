//! Torrents on record: metainfo over resources that are.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skerry_wire::Sha1Hash;
use skerry_wire::metainfo::{Builder, FileHash, Hashes, Kind, Metainfo, NewFile};

use super::{Catalogue, CatalogueError, Changed, Held};
use crate::meta::{Change, Table};
use crate::{ChunkId, StoreError};

/// A torrent on record.
#[derive(Debug)]
pub struct Torrent {
    /// What it says, with its exact info dictionary.
    pub metainfo: Metainfo,
    /// The resource of each of its files; `None` for padding and for empty files.
    pub files: Vec<Option<ChunkId>>,
}

#[derive(Serialize, Deserialize)]
struct TorrentRecord {
    metainfo: Vec<u8>,
    files: Vec<Option<ChunkId>>,
}

/// A torrent that is to be put on record.
pub(super) struct Made {
    /// Its first info-hash, which it stands under.
    pub(super) key: [u8; 20],
    torrent: Torrent,
    /// All its info-hashes, each with its keyed form's key.
    names: Vec<([u8; 20], Vec<u8>)>,
    /// What puts it on record.
    changes: Vec<Change>,
}

impl Made {
    /// The torrents that a resource has on every node, with its chunks as their pieces.
    pub(super) fn all_of(held: &Held) -> Result<Vec<Self>, CatalogueError> {
        let of = |kind| {
            let metainfo = torrent_of(held, kind)?;
            Self::new(metainfo.to_bytes(), metainfo, vec![Some(held.id())])
        };
        [Kind::Hybrid, Kind::V1, Kind::V2].into_iter().map(of).collect()
    }

    /// Of `bytes`, which say `metainfo`.
    fn new(bytes: Vec<u8>, metainfo: Metainfo, files: Vec<Option<ChunkId>>) -> Result<Self, CatalogueError> {
        let names = names(&metainfo);
        let key = names.first().map(|(first, _)| *first).ok_or(CatalogueError::NoHash)?;
        let record = TorrentRecord { metainfo: bytes, files };
        let value = postcard::to_stdvec(&record).map_err(|_| StoreError::Record)?;
        let mut changes = vec![Change::Put(Table::Torrents, key.to_vec(), value)];
        for (hash, keyed) in &names {
            changes.push(Change::Put(Table::InfoHashes, hash.to_vec(), key.to_vec()));
            changes.push(Change::Put(Table::InfoHashes, keyed.clone(), hash.to_vec()));
        }
        changes.extend(of_files(&record.files, &key));
        Ok(Self { key, torrent: Torrent { metainfo, files: record.files }, names, changes })
    }
}

impl Catalogue {
    /// Puts a torrent on record whose files are `files`, by their resources. Blocks for the disk.
    pub fn add_torrent(
        &self,
        metainfo: &[u8],
        files: Vec<Option<ChunkId>>,
    ) -> Result<Arc<Torrent>, CatalogueError> {
        self.put_torrent(Made::new(metainfo.to_vec(), Metainfo::parse(metainfo)?, files)?)
    }

    /// The torrent of one resource, with the resource's chunks as its pieces: the same info-hashes on
    /// every node that gives it the same name. Blocks for the disk the first time.
    pub fn add_torrent_of(&self, held: &Held, kind: Kind) -> Result<Arc<Torrent>, CatalogueError> {
        let metainfo = torrent_of(held, kind)?;
        if let Some(first) = metainfo.info().hashes().next().map(|hash| hash.wire())
            && let Some(torrent) = self.torrent(&first)?
        {
            // Older versions did not put down whose torrent it is.
            let (meta, key) = (self.0.store.meta(), file_key(&held.id(), &first));
            if meta.get(Table::TorrentsOf, &key)?.is_none() {
                meta.put(Table::TorrentsOf, &key, b"")?;
            }
            return Ok(torrent);
        }
        self.put_torrent(Made::new(metainfo.to_bytes(), metainfo, vec![Some(held.id())])?)
    }

    fn put_torrent(&self, made: Made) -> Result<Arc<Torrent>, CatalogueError> {
        self.0.store.meta().write(&made.changes, true)?;
        let key = made.key;
        let torrent = self.remember(made);
        self.0.changes.tell([Changed::Torrent(key)]);
        Ok(torrent)
    }

    /// The torrents that are not on record. What puts them there goes to `changes`, and whose the others are,
    /// which older versions did not put down.
    pub(super) fn only_new(
        &self,
        torrents: Vec<Made>,
        changes: &mut Vec<Change>,
    ) -> Result<Vec<Made>, StoreError> {
        let mut new = Vec::new();
        for mut made in torrents {
            if self.torrent(&made.key)?.is_some() {
                changes.extend(of_files(&made.torrent.files, &made.key));
            } else {
                changes.append(&mut made.changes);
                new.push(made);
            }
        }
        Ok(new)
    }

    /// Takes a torrent into memory that is on record.
    pub(super) fn remember(&self, made: Made) -> Arc<Torrent> {
        let torrent = Arc::new(made.torrent);
        for (hash, _) in made.names {
            self.0.torrents.insert(hash, torrent.clone());
        }
        torrent
    }

    /// A torrent by an info-hash as it stands in a handshake (BEP 3; the first 20 bytes of a v2 one,
    /// BEP 52). Blocks for a short read of the disk when it was not looked at lately.
    pub fn torrent(&self, info_hash: &[u8; 20]) -> Result<Option<Arc<Torrent>>, StoreError> {
        if let Some(torrent) = self.0.torrents.get(info_hash) {
            return Ok(Some(torrent));
        }
        let meta = self.0.store.meta();
        let Some(key) = meta.get(Table::InfoHashes, info_hash)? else { return Ok(None) };
        let Some(value) = meta.get(Table::Torrents, &key)? else { return Ok(None) };
        let record: TorrentRecord = postcard::from_bytes(&value).map_err(|_| StoreError::Record)?;
        let metainfo = Metainfo::parse(&record.metainfo).map_err(|_| StoreError::Record)?;
        let torrent = Arc::new(Torrent { metainfo, files: record.files });
        self.0.torrents.insert(*info_hash, torrent.clone());
        Ok(Some(torrent))
    }

    /// The info-hash behind `HASH('req2', SKEY)` of an encrypted handshake.
    pub fn behind(&self, keyed: &[u8; 20]) -> Result<Option<[u8; 20]>, StoreError> {
        let found = self.0.store.meta().get(Table::InfoHashes, &keyed_key(keyed))?;
        Ok(found.and_then(|hash| hash.try_into().ok()))
    }

    /// Takes a torrent off the record; its resources stay. Blocks.
    pub fn remove_torrent(&self, info_hash: &[u8; 20]) -> Result<bool, StoreError> {
        let Some(torrent) = self.torrent(info_hash)? else { return Ok(false) };
        let (changes, hashes) = removal(&torrent.metainfo, &torrent.files);
        self.0.store.meta().write(&changes, true)?;
        self.forget_torrents(&hashes);
        self.0.changes.tell(hashes.into_iter().map(Changed::Torrent));
        Ok(true)
    }

    /// Every torrent's first info-hash, in their order, at most `most` from `from` on.
    pub fn torrents(&self, from: &[u8], most: usize) -> Result<Vec<[u8; 20]>, StoreError> {
        let mut found = Vec::new();
        self.0.store.meta().scan_from(Table::Torrents, from, |key, _| {
            found.extend(<[u8; 20]>::try_from(key).ok());
            found.len() < most
        })?;
        Ok(found)
    }

    /// The torrents that have no file left on record when a resource goes: what takes them off the record,
    /// and their info-hashes. For who has the lock.
    pub(super) fn left_empty(&self, id: &ChunkId) -> Result<(Vec<Change>, Vec<[u8; 20]>), StoreError> {
        let meta = self.0.store.meta();
        let mut keys = Vec::new();
        meta.scan(Table::TorrentsOf, &id.0, |key, _| {
            keys.push(key[id.0.len()..].to_vec());
            true
        })?;
        let (mut changes, mut hashes) = (Vec::new(), Vec::new());
        for key in keys {
            let value = meta.get(Table::Torrents, &key)?;
            let record = value.and_then(|value| postcard::from_bytes::<TorrentRecord>(&value).ok());
            let record = record.filter(|record| record.files.contains(&Some(*id)));
            let parse = |record: TorrentRecord| Some((Metainfo::parse(&record.metainfo).ok()?, record.files));
            let Some((metainfo, files)) = record.and_then(parse) else {
                changes.push(Change::Delete(Table::TorrentsOf, file_key(id, &key)));
                continue;
            };
            if !self.is_any_on_record(files.iter().flatten().filter(|file| *file != id))? {
                let (removed, named) = removal(&metainfo, &files);
                changes.extend(removed);
                hashes.extend(named);
            }
        }
        Ok((changes, hashes))
    }

    /// Takes torrents off the record of which no file is on it, as versions before this one left them where
    /// their resource could not be added: `on_record` are the resources that are, in order. Blocks.
    pub(super) fn sweep_torrents(&self, on_record: &[ChunkId]) -> Result<(), StoreError> {
        let meta = self.0.store.meta();
        let is_on_record = |id: &ChunkId| on_record.binary_search(id).is_ok();
        let mut keys = BTreeSet::new();
        meta.scan(Table::TorrentsOf, b"", |key, _| {
            if let Some((id, torrent)) = key.split_first_chunk()
                && !is_on_record(&ChunkId(*id))
            {
                keys.insert(torrent.to_vec());
            }
            true
        })?;
        for key in keys {
            let value = meta.get(Table::Torrents, &key)?;
            let record = value.and_then(|value| postcard::from_bytes::<TorrentRecord>(&value).ok());
            let orphan = record.filter(|record| !record.files.iter().flatten().any(is_on_record));
            let Some(TorrentRecord { metainfo, files }) = orphan else { continue };
            let Ok(metainfo) = Metainfo::parse(&metainfo) else { continue };
            let (changes, hashes) = removal(&metainfo, &files);
            meta.write(&changes, false)?;
            self.forget_torrents(&hashes);
            log::info!(torrent = metainfo.info().name(); "it goes: nothing of it is held");
        }
        Ok(())
    }

    fn is_any_on_record<'a>(&self, mut ids: impl Iterator<Item = &'a ChunkId>) -> Result<bool, StoreError> {
        let found = ids.find_map(|id| match self.0.held.get(id) {
            Some(_) => Some(Ok(true)),
            None => match self.0.store.meta().get(Table::Resources, &id.0) {
                Ok(None) => None,
                Ok(Some(_)) => Some(Ok(true)),
                Err(error) => Some(Err(error)),
            },
        });
        found.unwrap_or(Ok(false))
    }

    /// Takes torrents out of memory that are off the record.
    pub(super) fn forget_torrents(&self, hashes: &[[u8; 20]]) {
        for hash in hashes {
            self.0.torrents.remove(hash);
        }
    }
}

/// The torrent of a resource.
fn torrent_of(held: &Held, kind: Kind) -> Result<Metainfo, skerry_wire::metainfo::Error> {
    let resource = &held.resource;
    let file = NewFile { path: vec![held.name.clone()], length: resource.length };
    let pieces = resource.chunks.iter().map(|chunk| chunk.0).collect();
    let hashes = Hashes {
        pieces: resource.sha1_pieces.iter().map(|hash| Sha1Hash(*hash)).collect(),
        files: vec![FileHash::of_pieces(pieces, resource.length, resource.chunk_length)],
    };
    Builder::new(kind, held.name.clone(), resource.chunk_length, vec![file]).build(&hashes)
}

/// The info-hashes of a torrent as peers name them, each with its keyed form's key.
fn names(metainfo: &Metainfo) -> Vec<([u8; 20], Vec<u8>)> {
    let named = metainfo.info().hashes().map(|hash| hash.wire());
    named.map(|hash| (hash, keyed_key(&skerry_wire::mse::req2(&hash)))).collect()
}

/// Keyed forms stand beside plain ones, told apart by their length.
fn keyed_key(keyed: &[u8; 20]) -> Vec<u8> {
    [b"k".as_slice(), keyed].concat()
}

/// A torrent stands under each of its resources.
fn file_key(file: &ChunkId, torrent: &[u8]) -> Vec<u8> {
    [&file.0[..], torrent].concat()
}

/// What puts it there.
fn of_files(files: &[Option<ChunkId>], torrent: &[u8]) -> impl Iterator<Item = Change> {
    let put = move |file| Change::Put(Table::TorrentsOf, file_key(file, torrent), Vec::new());
    files.iter().flatten().map(put)
}

/// What takes a torrent off the record, and its info-hashes.
fn removal(metainfo: &Metainfo, files: &[Option<ChunkId>]) -> (Vec<Change>, Vec<[u8; 20]>) {
    let names = names(metainfo);
    let mut changes = Vec::new();
    if let Some((key, _)) = names.first() {
        changes.push(Change::Delete(Table::Torrents, key.to_vec()));
        let of_files = files.iter().flatten().map(|file| file_key(file, key));
        changes.extend(of_files.map(|key| Change::Delete(Table::TorrentsOf, key)));
    }
    for (hash, keyed) in &names {
        changes.push(Change::Delete(Table::InfoHashes, hash.to_vec()));
        changes.push(Change::Delete(Table::InfoHashes, keyed.clone()));
    }
    (changes, names.into_iter().map(|(hash, _)| hash).collect())
}

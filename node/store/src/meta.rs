//! The metadata database: small records, with a log, so that a crash loses none that was written.
//!
//! What a record means is its owner's business; this room keeps bytes under keys, by [`Table`].

use std::path::Path;
use std::sync::Arc;

use rust_rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Direction, ErrorKind, IteratorMode,
    Options, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use crate::StoreError;
use crate::ring::Db;

/// Blocks of the metadata database in memory.
const BLOCK_CACHE: usize = 32 << 20;
const MEMTABLE: usize = 16 << 20;
/// Bounds what is replayed when the node starts after a crash.
const LOG: u64 = 64 << 20;

/// The tables of the metadata database: one column family each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Cached objects, by the cache's key.
    Objects,
    /// Extents of objects too long to list in their record.
    Extents,
    /// Purges by prefix and tag.
    Purges,
    /// What is pinned: name to chunk ids.
    Pins,
    /// How many pins hold a chunk.
    PinnedChunks,
    /// Cached chunks that were written again: when they were hot and their generation was dropped, or
    /// when they were gone and were fetched again. Chunk id to the generation that has them now.
    Saved,
    /// Resources that are held: resource id to what is known of it.
    Resources,
    /// Torrents whose content is held.
    Torrents,
    /// Info-hashes as peers name them, and their keyed forms, to the torrent.
    InfoHashes,
    /// What the node was told to hold and how far it is.
    Preload,
    /// Names that a resource is pinned under besides the one in its record: resource id and name.
    Owners,
    /// What came from a target last: site and target to the resource.
    Sources,
    /// The torrents that a resource is a file of: resource id and the torrent's key.
    TorrentsOf,
}

impl Table {
    pub(crate) const ALL: [Self; 13] = [
        Self::Objects,
        Self::Extents,
        Self::Purges,
        Self::Pins,
        Self::PinnedChunks,
        Self::Saved,
        Self::Resources,
        Self::Torrents,
        Self::InfoHashes,
        Self::Preload,
        Self::Owners,
        Self::Sources,
        Self::TorrentsOf,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Extents => "extents",
            Self::Purges => "purges",
            Self::Pins => "pins",
            Self::PinnedChunks => "pinned-chunks",
            Self::Saved => "saved",
            Self::Resources => "resources",
            Self::Torrents => "torrents",
            Self::InfoHashes => "info-hashes",
            Self::Preload => "preload",
            Self::Owners => "owners",
            Self::Sources => "sources",
            Self::TorrentsOf => "torrents-of",
        }
    }
}

/// One change of a batch.
#[derive(Debug, Clone)]
pub enum Change {
    /// Writes a record.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a record.
    Delete(Table, Vec<u8>),
}

/// The metadata database; cheap to clone.
#[derive(Clone)]
pub struct Meta {
    pub(crate) db: Arc<Db>,
    cache: Cache,
}

impl Meta {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE);
        let mut database = Options::default();
        database.create_if_missing(true);
        database.create_missing_column_families(true);
        database.set_max_total_wal_size(LOG);
        database.set_max_open_files(512);
        database.set_keep_log_file_num(4);
        database.set_max_log_file_size(16 << 20);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_bloom_filter(10.0, false);
        table.set_format_version(6);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(MEMTABLE);
        // Those of newer versions too, which RocksDB wants to have opened with the others.
        let mut names = Db::list_cf(&database, path).unwrap_or_default();
        names.retain(|name| name != "default" && Table::ALL.iter().all(|table| table.name() != name));
        let names = Table::ALL.map(Table::name).into_iter().chain(names.iter().map(String::as_str));
        let families = names.map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
        let families = families.collect::<Vec<_>>();
        let db = Db::open_cf_descriptors(&database, path, families)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { db: Arc::new(db), cache })
    }

    /// A record.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
        Ok(self.db.get_cf(&family, key)?)
    }

    /// A record, when that can be told without the disk: the outer `None` when it cannot.
    pub fn get_from_memory(&self, table: Table, key: &[u8]) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        match self.db.get_cf_opt(&family, key, &options) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes one record; it survives a crash of the process.
    pub fn put(&self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
        Ok(self.db.put_cf(&family, key, value)?)
    }

    /// Removes one record.
    pub fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
        Ok(self.db.delete_cf(&family, key)?)
    }

    /// Writes all changes or none. `sync` waits for the disk, so that they survive a power cut.
    pub fn write(&self, changes: &[Change], sync: bool) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                Change::Put(table, key, value) => {
                    let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
                    batch.put_cf(&family, key, value);
                }
                Change::Delete(table, key) => {
                    let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
                    batch.delete_cf(&family, key);
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        Ok(self.db.write_opt(&batch, &options)?)
    }

    /// Calls `each` with every record whose key begins with `prefix`, in key order, while it says true.
    pub fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
        for entry in self.db.iterator_cf(&family, IteratorMode::From(prefix, Direction::Forward)) {
            let (key, value) = entry?;
            if !key.starts_with(prefix) || !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// Calls `each` with the records from key `from` on, in key order, while it says true.
    pub fn scan_from(
        &self,
        table: Table,
        from: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let family = self.db.cf_handle(table.name()).ok_or(StoreError::Closing)?;
        for entry in self.db.iterator_cf(&family, IteratorMode::From(from, Direction::Forward)) {
            let (key, value) = entry?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// About how many records a table holds.
    pub fn estimated(&self, table: Table) -> u64 {
        let Some(family) = self.db.cf_handle(table.name()) else { return 0 };
        self.db.property_int_value_cf(&family, "rocksdb.estimate-num-keys").ok().flatten().unwrap_or(0)
    }

    /// One of RocksDB's figures, added up over the tables.
    pub(crate) fn property(&self, property: &str) -> u64 {
        let of_table = |table: Table| {
            let family = self.db.cf_handle(table.name())?;
            self.db.property_int_value_cf(&family, property).ok().flatten()
        };
        Table::ALL.into_iter().filter_map(of_table).sum()
    }

    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache.get_usage() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_a_newer_version_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        Meta::open(folder.path()).unwrap().put(Table::Pins, b"ours", b"1").unwrap();
        let mut names: Vec<&str> = Table::ALL.map(Table::name).to_vec();
        names.push("of-a-newer-version");
        let mut options = Options::default();
        options.create_missing_column_families(true);
        let newer = Db::open_cf(&options, folder.path(), &names).unwrap();
        newer.put_cf(&newer.cf_handle("of-a-newer-version").unwrap(), b"theirs", b"2").unwrap();
        drop(newer);

        let meta = Meta::open(folder.path()).unwrap();
        assert_eq!(meta.get(Table::Pins, b"ours").unwrap().as_deref(), Some(&b"1"[..]));
        drop(meta);
        let newer = Db::open_cf(&options, folder.path(), &names).unwrap();
        let family = newer.cf_handle("of-a-newer-version").unwrap();
        assert_eq!(newer.get_cf(&family, b"theirs").unwrap().as_deref(), Some(&b"2"[..]));
    }
}

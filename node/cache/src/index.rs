//! Target to entry: in memory for what is hot, in the metadata database for the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderMap;
use parking_lot::Mutex;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use skerry_store::meta::{Change, Table};
use skerry_store::{Store, StoreError};

use crate::extent::Extent;
use crate::object::{Entry, Object, Record, Variant, now_ms};
use crate::purge::{Effect, Purges};
use crate::rfc::freshness::Policy;
use crate::rfc::vary::secondary_key;
use crate::site::Site;

/// Site and target: what an entry is kept under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The site's name.
    pub site: Arc<str>,
    /// Path and query.
    pub target: Arc<str>,
}

impl Key {
    fn bytes(&self) -> Vec<u8> {
        [self.site.as_bytes(), b"\0", self.target.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (site, target) = std::str::from_utf8(bytes).ok()?.split_once('\0')?;
        Some(Self { site: site.into(), target: target.into() })
    }
}

/// A key that is only looked up.
#[derive(Debug, Clone, Copy, Hash)]
struct Lookup<'a> {
    site: &'a str,
    target: &'a str,
}

impl Equivalent<Key> for Lookup<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *key.target == *self.target && *key.site == *self.site
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Arc<Entry>> for Weigh {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        128 + key.target.len() as u64
            + entry.variants.iter().map(|variant| variant.object.weight()).sum::<u64>()
    }
}

/// Bytes of memory that entries share: the longest object's list of chunks must fit many times.
const SHARD: u64 = 16 << 20;

/// All entries.
pub struct Index {
    hot: Cache<Key, Arc<Entry>, Weigh>,
    store: Store,
    /// Purges that still matter.
    pub purges: Purges,
    next_uid: AtomicU64,
    /// Objects whose bodies come now, which memory may have let go of.
    coming: Mutex<HashMap<Key, Vec<Arc<Object>>>>,
    /// Changes of entries in memory, one at a time.
    changes: Mutex<()>,
    /// Looks at memory together with the database, one at a time; waited for only on blocking
    /// threads, and taken before `changes`.
    writes: Mutex<()>,
}

impl Index {
    /// Reads the purges; entries are read when they are asked for.
    pub fn open(store: Store, memory_bytes: u64) -> Result<Self, StoreError> {
        Ok(Self {
            hot: Cache::with_options(
                OptionsBuilder::new()
                    .shards((memory_bytes / SHARD).next_power_of_two().clamp(1, 16) as usize)
                    .estimated_items_capacity((memory_bytes / 2048).max(64) as usize)
                    .weight_capacity(memory_bytes)
                    .build()
                    .expect("both capacities are given"),
                Weigh,
                quick_cache::DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            purges: Purges::load(store.meta())?,
            store,
            // Never given twice: the clock is past every uid of an earlier run.
            next_uid: AtomicU64::new(now_ms() << 20),
            coming: Mutex::default(),
            changes: Mutex::new(()),
            writes: Mutex::new(()),
        })
    }

    /// A number for a new body.
    pub fn uid(&self) -> u64 {
        self.next_uid.fetch_add(1, Relaxed)
    }

    /// The entry, when it is in memory.
    pub fn hot(&self, site: &str, target: &str) -> Option<Arc<Entry>> {
        self.hot.get(&Lookup { site, target })
    }

    /// The entry, from memory or the database. Blocks for the disk.
    pub fn load(&self, key: &Key, policy: &Policy) -> Result<Option<Arc<Entry>>, StoreError> {
        let meta = self.store.meta();
        // Nearly always there is none, and then there is nothing to keep in step.
        if !self.hot.contains_key(key) && meta.get(Table::Objects, &key.bytes())?.is_none() {
            return Ok(None);
        }
        let _one_at_a_time = self.writes.lock();
        self.load_locked(key, policy)
    }

    /// As [`Index::load`], when the disk is not needed for it: `None` when it is, or when somebody is
    /// writing. Never blocks.
    pub fn load_now(&self, key: &Key, policy: &Policy) -> Option<Option<Arc<Entry>>> {
        let _one_at_a_time = self.writes.try_lock()?;
        if let Some(entry) = self.hot.get(key) {
            return Some(Some(entry));
        }
        let value = self.store.meta().get_from_memory(Table::Objects, &key.bytes()).ok()??;
        let Some(value) = value else { return Some(None) };
        let records = postcard::from_bytes::<Vec<Record>>(&value).ok()?;
        if records.iter().any(|record| record.spilled) {
            return None;
        }
        let variants = records.into_iter().filter_map(|record| record.variant(policy, Vec::new())).collect();
        Some(Some(self.insert_loaded(key, Entry { variants })))
    }

    /// Puts an entry into memory that was read, unless a newer one is there.
    fn insert_loaded(&self, key: &Key, entry: Entry) -> Arc<Entry> {
        let _one_at_a_time = self.changes.lock();
        self.hot.get(key).unwrap_or_else(|| {
            let entry = Arc::new(entry);
            self.hot.insert(key.clone(), entry.clone());
            entry
        })
    }

    fn load_locked(&self, key: &Key, policy: &Policy) -> Result<Option<Arc<Entry>>, StoreError> {
        if let Some(entry) = self.hot.get(key) {
            return Ok(Some(entry));
        }
        let meta = self.store.meta();
        let Some(value) = meta.get(Table::Objects, &key.bytes())? else { return Ok(None) };
        let Ok(records) = postcard::from_bytes::<Vec<Record>>(&value) else {
            meta.delete(Table::Objects, &key.bytes())?;
            return Ok(None);
        };
        let mut entry = Entry::default();
        for record in records {
            let mut spilled = Vec::new();
            if record.spilled {
                meta.scan(Table::Extents, &record.uid().to_be_bytes(), |_, value| {
                    spilled.extend(postcard::from_bytes::<Extent>(value));
                    true
                })?;
            }
            entry.variants.extend(record.variant(policy, spilled));
        }
        Ok(Some(self.insert_loaded(key, entry)))
    }

    /// The variant that a request selects, unless a purge took it (RFC 9111 §4.1). Newest first.
    /// `known` tells whether there are variants at all.
    pub fn select(
        &self,
        site: &Site,
        target: &str,
        entry: &Entry,
        request: &HeaderMap,
    ) -> Option<Arc<Object>> {
        let object = entry.variants.iter().find(|variant| {
            variant.fields.is_empty() || secondary_key(&variant.fields, request) == variant.selecting
        })?;
        let object = &object.object;
        let current = self.purges.current();
        if object.purge_checked.load(Relaxed) != current {
            match self.purges.effect(object.purge_seen, &site.name, target, &object.headers) {
                Some(Effect::Hard) => return None,
                Some(Effect::Soft) => object.outdated.store(true, Relaxed),
                None => {}
            }
            object.purge_checked.store(current, Relaxed);
        }
        Some(object.clone())
    }

    /// Puts a variant in front of its target's entry, in place of the one it replaces, unless it is known to be
    /// removed. In memory only: [`Index::persist`] writes it down.
    pub fn put(&self, key: &Key, variant: Variant) {
        let _one_at_a_time = self.changes.lock();
        if variant.object.body.removed.load(Relaxed) {
            return;
        }
        let entry = Entry::with(variant, self.hot.get(key).as_deref());
        self.hot.insert(key.clone(), Arc::new(entry));
    }

    /// The body of an object comes until what this gives is dropped. When the object is removed meanwhile, the
    /// end of its body does not bring it back.
    pub fn coming<'a>(&'a self, key: &'a Key, object: &'a Arc<Object>) -> Coming<'a> {
        self.coming.lock().entry(key.clone()).or_default().push(object.clone());
        Coming { index: self, key, object }
    }

    /// Removes one object, or all of a target.
    pub fn remove(&self, key: &Key, uid: Option<u64>, policy: &Policy) -> Result<(), StoreError> {
        let _writing = self.writes.lock();
        if uid.is_some() {
            // The other variants stay: they must be in memory to be written again.
            self.load_locked(key, policy)?;
        }
        let entry = {
            let _one_at_a_time = self.changes.lock();
            let goes = |object: &Object| uid.is_none_or(|uid| object.uid == uid);
            let entry = self.hot.get(key);
            let variants = entry.iter().flat_map(|entry| &entry.variants);
            let (gone, kept): (Vec<_>, Vec<_>) = variants.cloned().partition(|variant| goes(&variant.object));
            let coming = self.coming.lock();
            let coming = coming.get(key).into_iter().flatten().filter(|object| goes(object));
            for object in coming.chain(gone.iter().map(|variant| &variant.object)) {
                object.body.removed.store(true, Relaxed);
            }
            if kept.is_empty() {
                self.hot.remove(key);
            } else {
                self.hot.insert(key.clone(), Arc::new(Entry { variants: kept.clone() }));
            }
            Entry { variants: kept }
        };
        self.write(key, &entry)?;
        Ok(())
    }

    /// Writes an entry down as it is in memory; if it is there no more, `variant` and what was
    /// written down before, unless the variant was removed. Blocks for the log.
    pub fn persist(&self, key: &Key, variant: &Variant, policy: &Policy) -> Result<(), StoreError> {
        let _writing = self.writes.lock();
        if variant.object.body.removed.load(Relaxed) {
            return Ok(());
        }
        match self.hot.get(key) {
            Some(entry) => self.write(key, &entry),
            None => {
                let before = self.load_locked(key, policy)?;
                self.write(key, &Entry::with(variant.clone(), before.as_deref()))
            }
        }
    }

    fn write(&self, key: &Key, entry: &Entry) -> Result<(), StoreError> {
        let meta = self.store.meta();
        // Bodies that nobody knows yet how to resume are not worth a record.
        let worth = |variant: &&Variant| {
            let object = &variant.object;
            object.body.is_complete() || (object.has_strong_validator() && object.body.length().is_some())
        };
        let variants: Vec<&Variant> = entry.variants.iter().filter(worth).collect();
        let mut changes = self.orphans(key, &variants)?;
        if variants.is_empty() {
            changes.push(Change::Delete(Table::Objects, key.bytes()));
            return meta.write(&changes, false);
        }
        let mut records = Vec::new();
        let mut spilling = Vec::new();
        for variant in variants {
            let record = Record::of(variant);
            let body = &variant.object.body;
            if record.spilled && !body.spilled.swap(true, Relaxed) {
                spilling.push(body);
                changes.extend(body.extents.read().iter().filter_map(|extent| spill(record.uid(), extent)));
            }
            records.push(record);
        }
        let value = postcard::to_stdvec(&records).map_err(|_| StoreError::Record)?;
        changes.push(Change::Put(Table::Objects, key.bytes(), value));
        let result = meta.write(&changes, false);
        if result.is_err() {
            spilling.iter().for_each(|body| body.spilled.store(false, Relaxed));
        }
        result
    }

    /// Looks at up to `most` records from key `from` on and removes those of which no byte is held
    /// any more: their chunks went with a generation. Returns where to go on, `None` at the end.
    /// What is in memory is left alone. Blocks for the disk.
    pub fn sweep(&self, from: &[u8], most: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let meta = self.store.meta();
        let (mut seen, mut next, mut dead) = (0, None, Vec::new());
        meta.scan_from(Table::Objects, from, |key, value| {
            if seen == most {
                next = Some(key.to_vec());
                return false;
            }
            seen += 1;
            if !self.is_alive(value).unwrap_or(true) {
                dead.push(key.to_vec());
            }
            true
        })?;
        for bytes in dead {
            let Some(key) = Key::from_bytes(&bytes) else { continue };
            let _writing = self.writes.lock();
            if !self.hot.contains_key(&key) {
                self.write(&key, &Entry::default())?;
            }
        }
        Ok(next)
    }

    /// Whether a byte of any variant may still be held, or none is needed.
    fn is_alive(&self, value: &[u8]) -> Result<bool, StoreError> {
        for record in postcard::from_bytes::<Vec<Record>>(value).unwrap_or_default() {
            let mut extents = record.extents.clone();
            if record.spilled {
                self.store.meta().scan(Table::Extents, &record.uid().to_be_bytes(), |_, value| {
                    extents.extend(postcard::from_bytes::<Extent>(value));
                    true
                })?;
            }
            if record.is_bodyless() && record.is_recent(now_ms()) {
                return Ok(true);
            }
            for extent in extents {
                if self.store.may_hold(&extent.chunk)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The extents in the table of objects that the written record has and the new one has not.
    fn orphans(&self, key: &Key, kept: &[&Variant]) -> Result<Vec<Change>, StoreError> {
        let meta = self.store.meta();
        let Some(value) = meta.get(Table::Objects, &key.bytes())? else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        for record in postcard::from_bytes::<Vec<Record>>(&value).unwrap_or_default() {
            if record.spilled && !kept.iter().any(|variant| variant.object.uid == record.uid()) {
                meta.scan(Table::Extents, &record.uid().to_be_bytes(), |extent, _| {
                    changes.push(Change::Delete(Table::Extents, extent.to_vec()));
                    true
                })?;
            }
        }
        Ok(changes)
    }

    /// Writes a new extent of a long object down; short ones go with their record.
    pub fn add_extent(&self, object: &Object, extent: Extent) -> Result<(), StoreError> {
        object.body.extents.write().insert(extent);
        if object.body.spilled.load(Relaxed)
            && let Some(change) = spill(object.uid, &extent)
        {
            // Rows of what is removed would stay for ever: no record tells of them.
            let _one_at_a_time = self.changes.lock();
            if !object.body.removed.load(Relaxed) {
                self.store.meta().write(&[change], false)?;
            }
        }
        Ok(())
    }
}

/// See [`Index::coming`].
pub struct Coming<'a> {
    index: &'a Index,
    key: &'a Key,
    object: &'a Arc<Object>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut coming = self.index.coming.lock();
        let Some(objects) = coming.get_mut(self.key) else { return };
        if let Some(place) = objects.iter().position(|object| Arc::ptr_eq(object, self.object)) {
            objects.swap_remove(place);
        }
        if objects.is_empty() {
            coming.remove(self.key);
        }
    }
}

fn spill(uid: u64, extent: &Extent) -> Option<Change> {
    let key = [uid.to_be_bytes(), extent.offset.to_be_bytes()].concat();
    Some(Change::Put(Table::Extents, key, postcard::to_stdvec(extent).ok()?))
}

#[cfg(test)]
mod tests;

//! Who wants resources to stay: the names that their chunks are pinned under.
//!
//! Each owner has a name of its own, under which every chunk of a resource is pinned, so that one can let
//! go of it without the others: what the preloader drops stays as long as an operator wants it, and the
//! other way round. The resource is taken off the record with the last of them. The first name stands in the
//! record ([`Held::pin`]); there is seldom another, and those are kept in memory as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Catalogue, Changed, Held, ONCE};
use crate::meta::{Change, Table};
use crate::{ChunkId, Store, StoreError};

/// The names of all that is pinned.
#[derive(Default)]
pub(super) struct Owners {
    /// What each pins.
    of_name: HashMap<String, ChunkId>,
    /// Names of a resource besides that of its record.
    further: HashMap<ChunkId, Vec<String>>,
    /// Names that were found to pin two resources, and one of the two.
    twice: Vec<(String, ChunkId)>,
}

/// What became of the owners of a resource.
pub(super) struct Parted {
    /// Names whose chunks can be let go of.
    pub(super) gone: Vec<String>,
    left: Vec<String>,
    /// Info-hashes of the torrents that went with it.
    torrents: Vec<[u8; 20]>,
}

impl Parted {
    /// What has changed with resource `id`.
    pub(super) fn changed(&self, id: ChunkId) -> impl Iterator<Item = Changed> {
        std::iter::once(Changed::Resource(id)).chain(self.torrents.iter().copied().map(Changed::Torrent))
    }
}

impl Owners {
    /// Reads the names that do not stand in records.
    pub(super) fn read(&mut self, store: &Store) -> Result<(), StoreError> {
        store.meta().scan(Table::Owners, b"", |key, _| {
            if let Some((id, name)) = key.split_first_chunk()
                && let Ok(name) = std::str::from_utf8(name)
            {
                self.found(ChunkId(*id), name);
                self.further.entry(ChunkId(*id)).or_default().push(name.to_owned());
            }
            true
        })
    }

    /// Takes a name from a record.
    pub(super) fn found(&mut self, id: ChunkId, name: &str) {
        let other = self.of_name.insert(name.to_owned(), id);
        self.twice.extend(other.filter(|other| *other != id).map(|other| (name.to_owned(), other)));
    }

    /// The names that a resource is pinned under, that of its record first.
    pub(super) fn of(&self, held: &Held) -> Vec<String> {
        held.pin.iter().chain(self.further.get(&held.id()).into_iter().flatten()).cloned().collect()
    }

    /// What is pinned under a name.
    pub(super) fn pinned_by(&self, name: &str) -> Option<ChunkId> {
        self.of_name.get(name).copied()
    }

    /// A resource that had the names `before` has those of `now`.
    pub(super) fn set(&mut self, id: ChunkId, before: &[String], now: &[String]) {
        for name in before {
            if self.of_name.get(name) == Some(&id) {
                self.of_name.remove(name);
            }
        }
        self.of_name.extend(now.iter().map(|name| (name.clone(), id)));
        match further(now) {
            [] => self.further.remove(&id),
            further => self.further.insert(id, further.to_vec()),
        };
    }
}

/// The names of a resource after `held` has come, and those that it takes the place of.
pub(super) fn joined(names: &[String], before: Option<&Held>, held: &Held) -> (Vec<String>, Vec<String>) {
    let Some(pin) = &held.pin else { return (names.to_vec(), Vec::new()) };
    // Under other names stand chunks of another length, where the configuration was changed.
    let others = before.is_some_and(|before| before.resource.chunk_length != held.resource.chunk_length);
    let replaced = |name: &String| others || (name.starts_with(ONCE) && pin.starts_with(ONCE));
    let (gone, mut stay): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|name| name != pin && replaced(name));
    if !stay.contains(pin) {
        stay.push(pin.clone());
    }
    (stay, gone)
}

/// What puts the names on record that do not stand in the resource's own.
pub(super) fn changes(id: &ChunkId, before: &[String], now: &[String]) -> Vec<Change> {
    let (before, now) = (further(before), further(now));
    let key = |name: &String| [&id.0[..], name.as_bytes()].concat();
    let gone = before.iter().filter(|name| !now.contains(name));
    let new = now.iter().filter(|name| !before.contains(name));
    let gone = gone.map(|name| Change::Delete(Table::Owners, key(name)));
    gone.chain(new.map(|name| Change::Put(Table::Owners, key(name), Vec::new()))).collect()
}

/// All names but that of the record.
fn further(names: &[String]) -> &[String] {
    names.get(1..).unwrap_or_default()
}

impl Catalogue {
    /// The names that a resource is pinned under, each by an owner of its own.
    pub fn owners(&self, held: &Held) -> Vec<String> {
        self.0.owners.lock().of(held)
    }

    /// The resource that is pinned under a name.
    pub fn pinned_by(&self, name: &str) -> Option<ChunkId> {
        self.0.owners.lock().pinned_by(name)
    }

    /// Lets go of a resource for those of its owners whose names `whose` says true to. With the last of them
    /// it is taken off the record, and its chunks and torrents go. The names of those that are left; `None`
    /// when it is not known. Blocks.
    pub fn release(
        &self,
        id: &ChunkId,
        whose: impl Fn(&str) -> bool,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let mut owners = self.0.owners.lock();
        let Some(parted) = self.part(&mut owners, id, whose)? else { return Ok(None) };
        parted.gone.iter().for_each(|name| self.let_go(name));
        drop(owners);
        if !parted.gone.is_empty() {
            self.collect();
        }
        self.0.changes.tell(parted.changed(*id));
        Ok(Some(parted.left))
    }

    /// Lets go of what has come under a name and is of no resource on record. What the name pins of one that
    /// is stays. Blocks.
    pub fn abandon(&self, name: &str) -> Result<(), StoreError> {
        let owners = self.0.owners.lock();
        let held = owners.pinned_by(name).map(|id| self.load(&id)).transpose()?.flatten();
        match held {
            Some(held) => _ = self.keep_only(name, &held),
            None => self.0.store.inner().unpin_parts(name)?,
        }
        drop(owners);
        self.collect();
        Ok(())
    }

    /// Takes a resource off the record, whoever wants it; false when it is not known. Blocks.
    pub fn remove(&self, id: &ChunkId) -> Result<bool, StoreError> {
        Ok(self.release(id, |_| true)?.is_some())
    }

    /// As [`Catalogue::release`], on record and in memory; the chunks are still to be let go of.
    pub(super) fn part(
        &self,
        owners: &mut Owners,
        id: &ChunkId,
        whose: impl Fn(&str) -> bool,
    ) -> Result<Option<Parted>, StoreError> {
        let Some(held) = self.load(id)? else { return Ok(None) };
        let before = owners.of(&held);
        let (mut gone, left): (Vec<String>, Vec<String>) =
            before.iter().cloned().partition(|name| whose(name));
        if gone.is_empty() && !left.is_empty() {
            return Ok(Some(Parted { gone, left, torrents: Vec::new() }));
        }
        let meta = self.0.store.meta();
        let mut changes = changes(id, &before, &left);
        let mut torrents = Vec::new();
        if left.is_empty() {
            let (removed, hashes) = self.left_empty(id)?;
            changes.push(Change::Delete(Table::Resources, id.0.to_vec()));
            changes.extend(removed);
            changes.extend(self.source_gone(&held)?);
            meta.write(&changes, true)?;
            self.0.held.remove(id);
            self.forget_torrents(&hashes);
            torrents = hashes;
            self.0.count.fetch_sub(1, Relaxed);
            self.0.bytes.fetch_sub(held.resource.length, Relaxed);
        } else if held.pin.as_ref() != left.first() {
            let after = Held { pin: left.first().cloned(), ..Held::clone(&held) };
            let value = postcard::to_stdvec(&after).map_err(|_| StoreError::Record)?;
            changes.push(Change::Put(Table::Resources, id.0.to_vec(), value));
            meta.write(&changes, true)?;
            self.0.held.insert(*id, Arc::new(after));
        } else {
            meta.write(&changes, true)?;
        }
        owners.set(*id, &before, &left);
        // A name that has become another resource's is that one's to let go of.
        gone.retain(|name| owners.pinned_by(name).is_none());
        Ok(Some(Parted { gone, left, torrents }))
    }

    /// Of two resources that are on record under one name the older goes, as it does when the newer comes: a
    /// crash may have cut that short, and older versions did not do it.
    pub(super) fn settle(&self) {
        let mut owners = self.0.owners.lock();
        for (name, other) in std::mem::take(&mut owners.twice) {
            let Some(last) = owners.pinned_by(&name) else { continue };
            let added_ms = |id: &ChunkId| self.load(id).ok().flatten().map(|held| held.added_ms);
            let is_older = added_ms(&other) <= added_ms(&last);
            let (older, newer) = if is_older { (other, last) } else { (last, other) };
            owners.of_name.insert(name.clone(), newer);
            log::warn!(pin:% = name, resource:% = older; "another one has its name, and it goes");
            if let Err(error) = self.part(&mut owners, &older, |pin| pin == name) {
                log::warn!(resource:% = older; "it stays on record: {error}");
            }
            if let Ok(Some(held)) = self.load(&newer) {
                self.keep_only(&name, &held);
            }
        }
    }

    /// Lets go of what stands under a name and is not of the resource that it pins; whether that was
    /// anything. The record stands already: a failure costs space, and nothing else. For who has the lock,
    /// so that nobody takes the name meanwhile.
    pub(super) fn keep_only(&self, name: &str, held: &Held) -> bool {
        let chunks = (0..held.resource.chunks.len()).filter_map(|index| held.located(index));
        let chunks: Vec<ChunkId> = chunks.map(|located| located.id).collect();
        self.0.store.inner().keep_parts(name, &chunks).unwrap_or_else(|error| {
            log::warn!(pin:% = name; "parts of another version take their space still: {error}");
            false
        })
    }

    /// Lets go of what no resource has pinned any more, as [`Catalogue::keep_only`].
    pub(super) fn let_go(&self, name: &str) {
        if let Err(error) = self.0.store.inner().unpin_parts(name) {
            log::warn!(pin:% = name; "what it has pinned stays so: {error}");
        }
    }

    /// Frees the space of what was let go of. Not for who has the lock: it may take minutes.
    pub(super) fn collect(&self) {
        if let Err(error) = self.0.store.inner().ring.collect_pinned() {
            log::warn!("the space of unpinned chunks is not free yet: {error}");
        }
    }
}

//! What a node does about its list: a state machine without sockets, disks or clocks. Who drives it
//! tells what happened and when ([`Plan::listed`], [`Plan::observe`], [`Plan::progress`],
//! [`Plan::done`], [`Plan::released`]), and does what [`Plan::next`] says.
//!
//! | an entry is | until |
//! |---|---|
//! | wanted: listed, and not held | it has a turn, an open window, room, and no wait after a failure |
//! | fetching | it is done, failed, or stopped: its window closed, or it left the list |
//! | held | it leaves the list, or another content is listed |
//! | spare: off the list, held or begun | it is listed again, or something listed needs its room |
//! | releasing | that is done |
//!
//! Nothing begins before the store has been looked at. Whatever is listed is never let go of for
//! something else; of two that do not fit together the more urgent one comes first.

mod entry;
mod report;
mod saved;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use skerry_store::ChunkId;
use skerry_store::catalogue::CameFrom;
use skerry_window::Windows;

use self::entry::{Doing, Entry, Kept};
pub use self::report::{Report, Standing};
pub use self::saved::Changes;
use crate::error::HoldFailure;
use crate::item::{Item, List, MOST_LENGTH, pin};

/// First wait after a failure, milliseconds; every further one is twice as long.
const FIRST_WAIT_MS: u64 = 10_000;
/// Longest wait, milliseconds.
const LONGEST_WAIT_MS: u64 = 3_600_000;
/// Entries at once: further ones that left the list are let go of, room or not.
const MOST_ENTRIES: usize = 4 * crate::item::MOST_ITEMS;
/// Longest reason of a failure that is kept, bytes.
const MOST_REASON: usize = crate::told::MOST_REASON;

/// What a plan keeps to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What preloaded resources may take on the disk, bytes.
    pub capacity_bytes: u64,
    /// Resources that are fetched at once.
    pub at_once: usize,
    /// When anything may be fetched.
    pub windows: Windows,
}

/// A resource that the node holds, as its catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSummary {
    /// Its id.
    pub resource: ChunkId,
    /// Where it came from.
    pub from: Option<CameFrom>,
    /// Its length, bytes.
    pub length: u64,
    /// Whether all of it is there and verified.
    pub complete: bool,
    /// The name that its chunks are pinned under; what is not pinned may be evicted.
    pub pin: Option<String>,
    /// When it was fetched, milliseconds since 1970.
    pub added_ms: u64,
}

/// What is to be done; it counts as begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch this, then [`Plan::done`].
    Hold(Item),
    /// Stop fetching this; it is done when it has stopped.
    Stop(CameFrom),
    /// Let go of what is held of this, or has come of it; then [`Plan::released`].
    Release {
        /// What is to go.
        item: Item,
        /// What it takes, bytes.
        bytes: u64,
    },
}

/// What a node is to hold, and how far it is.
pub struct Plan {
    limits: Limits,
    revision: Option<String>,
    entries: BTreeMap<CameFrom, Entry>,
    random: fastrand::Rng,
    /// Nothing new begins.
    draining: bool,
    /// The store has been looked at.
    observed: bool,
    stamp: u64,
    /// What is to be written down.
    changed: BTreeSet<CameFrom>,
    list_changed: bool,
}

/// Room for more, bytes.
struct Room {
    free: u64,
    /// What is being let go of, or will be.
    coming: u64,
}

impl Plan {
    /// A plan without a list. `seed` is a random number.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            revision: None,
            entries: BTreeMap::new(),
            random: fastrand::Rng::with_seed(seed),
            draining: false,
            observed: false,
            stamp: 0,
            changed: BTreeSet::new(),
            list_changed: false,
        }
    }

    /// Revision of the list; `None` before the first one.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Takes another list.
    pub fn listed(&mut self, list: List, now_ms: u64) {
        let kept: HashSet<CameFrom> = list.items.iter().map(Item::source).collect();
        for (source, entry) in &mut self.entries {
            if !kept.contains(source) && entry.rank.take().is_some() {
                entry.record.left_ms = now_ms;
                // What failed is tried at once when it comes back.
                (entry.record.attempts, entry.record.not_before_ms) = (0, 0);
                entry.record.failure = None;
                self.changed.insert(source.clone());
            }
        }
        for (item, rank) in list.items.into_iter().zip(0..) {
            let source = item.source();
            let entry = self.entries.entry(source.clone()).or_insert_with(|| Entry::new(item.clone()));
            if entry.record.item != item {
                self.changed.insert(source);
            }
            entry.record.item = item;
            entry.rank = Some(rank);
            entry.record.left_ms = 0;
        }
        self.revision = Some(list.revision);
        self.list_changed = true;
        self.forget();
    }

    /// To be given to [`Plan::observe`] with what was seen after this.
    pub fn observing(&self) -> u64 {
        self.stamp
    }

    /// Takes all that the node holds, as it was looked at after [`Plan::observing`]; `asked` tells what
    /// clients asked for.
    pub fn observe(
        &mut self,
        stamp: u64,
        held: &[HeldSummary],
        asked: impl Fn(&ChunkId) -> bool,
        now_ms: u64,
    ) {
        // Others' resources count when they cannot be evicted.
        let whole = || held.iter().filter(|held| held.complete && held.pin.is_some());
        let by_id: HashMap<ChunkId, &HeldSummary> = whole().map(|held| (held.resource, held)).collect();
        let mut by_source: HashMap<&CameFrom, &HeldSummary> = HashMap::new();
        for held in whole() {
            let Some(from) = &held.from else { continue };
            let ours = held.pin.as_deref() == Some(&*pin(from));
            if ours || !by_source.contains_key(from) {
                by_source.insert(from, held);
            }
            if ours && !self.entries.contains_key(from) {
                // The list is gone, or the record of it: it is still the preloader's to let go of.
                let item = Item {
                    resource: Some(held.resource),
                    site: from.site.clone(),
                    path: from.target.clone(),
                    length: held.length,
                    priority: u32::MAX,
                };
                let mut entry = Entry::new(item);
                (entry.record.begun, entry.record.left_ms) = (true, now_ms);
                self.entries.insert(from.clone(), entry);
                self.changed.insert(from.clone());
            }
        }
        for (source, entry) in &mut self.entries {
            if entry.stamp > stamp || entry.doing != Doing::Nothing {
                continue;
            }
            // One content of two sources is held once, under either name.
            let same = entry.kept.and_then(|kept| by_id.get(&kept.resource));
            let found = by_source.get(source).or(same);
            let kept = found.map(|held| Kept {
                resource: held.resource,
                length: held.length,
                ours: held.pin.as_deref().is_some_and(crate::item::is_pin),
            });
            if entry.kept.is_some() && kept.is_none() {
                log::warn!(site = source.site, path = source.target; "was held, and is not any more");
                entry.record.received = 0;
            }
            entry.kept = kept;
            if !entry.record.asked && kept.is_some_and(|kept| asked(&kept.resource)) {
                entry.record.asked = true;
                self.changed.insert(source.clone());
            }
        }
        self.observed = true;
        self.forget();
    }

    /// How far a fetch is, bytes; a length of 0 is unknown.
    pub fn progress(&mut self, source: &CameFrom, received: u64, length: u64) {
        let Some(entry) = self.entries.get_mut(source) else { return };
        // A fetch that goes on begins by counting what is there.
        entry.record.received = entry.record.received.max(received);
        if length > 0 {
            entry.record.length = length.min(MOST_LENGTH);
            entry.record.received = entry.record.received.min(length);
        }
    }

    /// A fetch ended, well or not, or was stopped.
    pub fn done(&mut self, source: &CameFrom, result: Result<ChunkId, HoldFailure>, now_ms: u64) {
        self.stamp += 1;
        let stamp = self.stamp;
        let Some(entry) = self.entries.get_mut(source) else { return };
        (entry.doing, entry.stamp) = (Doing::Nothing, stamp);
        match result {
            Ok(resource) => {
                let length =
                    if entry.record.length > 0 { entry.record.length } else { entry.record.item.length };
                entry.kept = Some(Kept { resource, length, ours: true });
                let record = &mut entry.record;
                record.settled = entry.fetched_for.map(|id| id.0);
                (record.received, record.attempts, record.not_before_ms) = (0, 0, 0);
                (record.failure, record.asked) = (None, false);
            }
            Err(HoldFailure::Stopped) => {}
            Err(failure) => {
                let record = &mut entry.record;
                // It failed later than the last time: the way to it is bad, and not closed.
                let moved = record.received > entry.received_before;
                record.attempts = if moved { 1 } else { record.attempts.saturating_add(1) };
                record.not_before_ms = now_ms.saturating_add(wait_ms(record.attempts, &mut self.random));
                let mut reason = failure.to_string();
                reason.truncate(reason.floor_char_boundary(MOST_REASON));
                log::warn!(
                    site = source.site, path = source.target, attempts = record.attempts;
                    "not held yet: {reason}"
                );
                record.failure = Some(reason);
            }
        }
        self.changed.insert(source.clone());
        self.forget();
    }

    /// Something was let go of, or could not be.
    pub fn released(&mut self, source: &CameFrom, done: bool, now_ms: u64) {
        self.stamp += 1;
        let stamp = self.stamp;
        let Some(entry) = self.entries.get_mut(source) else { return };
        (entry.doing, entry.stamp) = (Doing::Nothing, stamp);
        let record = &mut entry.record;
        if done {
            entry.kept = None;
            (record.begun, record.asked, record.received) = (false, false, 0);
            (record.attempts, record.not_before_ms) = (0, 0);
        } else {
            record.attempts = record.attempts.saturating_add(1);
            record.not_before_ms = now_ms.saturating_add(wait_ms(record.attempts, &mut self.random));
        }
        self.changed.insert(source.clone());
        self.forget();
    }

    /// Nothing new from here on; what runs is stopped.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// What is to be done now. `pinnable` is what the store can still pin, bytes.
    pub fn next(&mut self, now_ms: u64, pinnable: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let open = !self.draining && self.limits.windows.is_open(now_ms);
        for (source, entry) in &mut self.entries {
            if entry.doing == Doing::Fetching && (!open || !entry.is_listed()) {
                entry.doing = Doing::Stopping;
                actions.push(Action::Stop(source.clone()));
            }
        }
        if !self.observed || self.draining {
            return actions;
        }
        self.release_surplus(now_ms, &mut actions);
        if open {
            self.begin(now_ms, pinnable, &mut actions);
        }
        actions
    }

    /// Begins what there are turns and room for.
    fn begin(&mut self, now_ms: u64, pinnable: u64, actions: &mut Vec<Action>) {
        let busy = |entry: &&Entry| matches!(entry.doing, Doing::Fetching | Doing::Stopping);
        let mut turns = self.limits.at_once.saturating_sub(self.entries.values().filter(busy).count());
        if turns == 0 {
            return;
        }
        let mut room = self.room(pinnable);
        let ready =
            |(_, entry): &(&CameFrom, &Entry)| entry.is_wanted() && now_ms >= entry.record.not_before_ms;
        let mut wanted: Vec<(Option<u32>, CameFrom)> =
            self.entries.iter().filter(ready).map(|(source, entry)| (entry.rank, source.clone())).collect();
        wanted.sort_unstable();
        for (_, source) in wanted {
            if turns == 0 {
                return;
            }
            let Some(entry) = self.entries.get_mut(&source) else { continue };
            if entry.is_outdated() {
                // Two contents cannot be pinned under one name; the old one makes room first.
                release(entry, actions);
                continue;
            }
            let missing = entry.missing();
            entry.no_room = false;
            if missing > room.free {
                if self.make_room(missing, &room, now_ms, actions) {
                    // Nothing less urgent takes the room that is being made.
                    return;
                }
                if let Some(entry) = self.entries.get_mut(&source) {
                    entry.no_room = true;
                }
                continue;
            }
            room.free -= missing;
            turns -= 1;
            entry.doing = Doing::Fetching;
            entry.fetched_for = entry.record.item.resource;
            entry.received_before = entry.record.received;
            if !entry.record.begun {
                entry.record.begun = true;
                self.changed.insert(source);
            }
            actions.push(Action::Hold(entry.record.item.clone()));
        }
    }

    fn room(&self, pinnable: u64) -> Room {
        let (mut taken, mut expected, mut coming) = (0_u64, 0_u64, 0_u64);
        for entry in self.entries.values() {
            taken = taken.saturating_add(entry.takes());
            match entry.doing {
                Doing::Fetching | Doing::Stopping => {
                    expected = expected.saturating_add(entry.length().saturating_sub(entry.record.received));
                    if !entry.is_listed() {
                        coming = coming.saturating_add(entry.takes());
                    }
                }
                Doing::Releasing => coming = coming.saturating_add(entry.takes()),
                Doing::Nothing => {}
            }
        }
        let ours = self.limits.capacity_bytes.saturating_sub(taken);
        Room { free: ours.min(pinnable.saturating_sub(expected)), coming }
    }

    /// Lets go of spare entries until there is room for so many bytes; false when there will not be.
    fn make_room(&mut self, missing: u64, room: &Room, now_ms: u64, actions: &mut Vec<Action>) -> bool {
        if missing > self.limits.capacity_bytes {
            return false;
        }
        let available = room.free.saturating_add(room.coming);
        if missing <= available {
            return true;
        }
        let mut found = available;
        let mut going = Vec::new();
        for source in self.spare(now_ms) {
            found = found.saturating_add(self.entries.get(&source).map_or(0, Entry::takes));
            going.push(source);
            if missing <= found {
                for source in going {
                    if let Some(entry) = self.entries.get_mut(&source) {
                        release(entry, actions);
                    }
                }
                return true;
            }
        }
        false
    }

    /// What may go, the least wanted first.
    fn spare(&self, now_ms: u64) -> Vec<CameFrom> {
        // What a listed entry of another source has too stays.
        let listed = self.entries.values().filter(|entry| entry.is_listed());
        let needed: HashSet<ChunkId> =
            listed.filter_map(|entry| entry.kept).map(|kept| kept.resource).collect();
        let is_needed = |entry: &Entry| entry.kept.is_some_and(|kept| needed.contains(&kept.resource));
        let spare = self.entries.iter().filter(|(_, entry)| entry.is_spare(now_ms) && !is_needed(entry));
        let mut spare: Vec<(&CameFrom, &Entry)> = spare.collect();
        spare.sort_by_key(|(source, entry)| (entry.least_wanted(), *source));
        spare.into_iter().map(|(source, _)| source.clone()).collect()
    }

    /// Lets go of what is more than can be remembered.
    fn release_surplus(&mut self, now_ms: u64, actions: &mut Vec<Action>) {
        let releasing = self.entries.values().filter(|entry| entry.doing == Doing::Releasing).count();
        let surplus = (self.entries.len() - releasing).saturating_sub(MOST_ENTRIES);
        if surplus == 0 {
            return;
        }
        for source in self.spare(now_ms).into_iter().take(surplus) {
            if let Some(entry) = self.entries.get_mut(&source) {
                release(entry, actions);
            }
        }
    }

    /// Forgets what is neither listed nor held.
    fn forget(&mut self) {
        // Before the store has been looked at nobody knows what is held.
        if self.observed {
            let changed = &mut self.changed;
            self.entries.retain(|source, entry| {
                let over = entry.is_over();
                if over {
                    changed.insert(source.clone());
                }
                !over
            });
        }
    }

    /// When there may be something to do again that nobody tells of, milliseconds since 1970.
    pub fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        let waiting = self.entries.values().filter(|entry| entry.is_wanted());
        let tried = waiting.map(|entry| entry.record.not_before_ms).filter(|at_ms| *at_ms > now_ms).min();
        tried.into_iter().chain(self.limits.windows.next_change_ms(now_ms)).min()
    }

    /// What may be moved in so many seconds, bytes, when `rate` bytes go in one; 0 is no limit.
    pub fn window_bytes(&self, now_ms: u64, seconds: u64, rate: u64) -> u64 {
        match (self.limits.windows.open_seconds(now_ms, seconds), rate) {
            (0, _) => 0,
            (_, 0) => self.limits.capacity_bytes,
            (open, rate) => open.saturating_mul(rate),
        }
    }

    /// What it keeps to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

fn release(entry: &mut Entry, actions: &mut Vec<Action>) {
    entry.doing = Doing::Releasing;
    actions.push(Action::Release { item: entry.record.item.clone(), bytes: entry.takes() });
}

/// How long to wait after so many failures: between half and all of a time that doubles.
fn wait_ms(attempts: u32, random: &mut fastrand::Rng) -> u64 {
    let whole = FIRST_WAIT_MS.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LONGEST_WAIT_MS);
    random.u64(whole / 2..=whole)
}

#[cfg(test)]
mod tests;

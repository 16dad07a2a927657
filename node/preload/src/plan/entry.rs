//! One thing that a node is to hold, holds, or has begun to.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use skerry_store::ChunkId;

use crate::item::Item;

/// What is being done with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Doing {
    #[default]
    Nothing,
    Fetching,
    /// It was told to stop, and has not yet.
    Stopping,
    Releasing,
}

/// What of it is held, complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) resource: ChunkId,
    pub(crate) length: u64,
    /// Whether it is pinned under the preloader's name, and may be let go of.
    pub(crate) ours: bool,
}

/// What is on record of it. What is held, the store knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) item: Item,
    /// When it left the list, milliseconds since 1970.
    pub(crate) left_ms: u64,
    /// Chunks may be pinned under its name.
    pub(crate) begun: bool,
    /// What is there of it as long as it is not complete, bytes.
    pub(crate) received: u64,
    /// Its length as the origin told it, bytes; 0 when it did not.
    pub(crate) length: u64,
    /// The id that was listed when it was last fetched: another one since then is a new content.
    pub(crate) settled: Option<[u8; 32]>,
    /// Failures in a row, and when it may be tried again.
    pub(crate) attempts: u32,
    pub(crate) not_before_ms: u64,
    pub(crate) failure: Option<String>,
    /// Somebody asked for it since it is held.
    pub(crate) asked: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    /// Its place in the list; `None` when it is not on it any more.
    pub(crate) rank: Option<u32>,
    pub(crate) doing: Doing,
    pub(crate) kept: Option<Kept>,
    /// The listed id when the fetch began that runs, and what was there then.
    pub(crate) fetched_for: Option<ChunkId>,
    pub(crate) received_before: u64,
    /// There is no room for it now.
    pub(crate) no_room: bool,
    /// Number of the last change: what was observed before it says nothing.
    pub(crate) stamp: u64,
}

impl Entry {
    pub(crate) fn new(item: Item) -> Self {
        Self::of(Record {
            item,
            left_ms: 0,
            begun: false,
            received: 0,
            length: 0,
            settled: None,
            attempts: 0,
            not_before_ms: 0,
            failure: None,
            asked: false,
        })
    }

    pub(crate) fn of(record: Record) -> Self {
        Self {
            record,
            rank: None,
            doing: Doing::Nothing,
            kept: None,
            fetched_for: None,
            received_before: 0,
            no_room: false,
            stamp: 0,
        }
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.rank.is_some()
    }

    /// Bytes of the whole; 0 is unknown.
    pub(crate) fn length(&self) -> u64 {
        match &self.kept {
            Some(kept) => kept.length,
            None if self.record.item.length > 0 => self.record.item.length,
            None => self.record.length,
        }
    }

    /// Whether there is another content at its source than what is held of it.
    pub(crate) fn is_outdated(&self) -> bool {
        let (Some(kept), Some(listed)) = (&self.kept, self.record.item.resource) else { return false };
        kept.ours && listed != kept.resource && Some(listed.0) != self.record.settled
    }

    /// Whether it is to be fetched, as soon as it may.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_listed() && self.doing == Doing::Nothing && (self.kept.is_none() || self.is_outdated())
    }

    /// What it takes of the preloader's part of the disk, or will when it is complete, bytes.
    pub(crate) fn takes(&self) -> u64 {
        match (&self.kept, self.doing) {
            (Some(kept), _) if kept.ours => kept.length,
            (Some(_), _) => 0,
            (None, Doing::Fetching | Doing::Stopping) => self.length().max(self.record.received),
            (None, _) => self.record.received,
        }
    }

    /// What is still to come of it, bytes; of an unknown length at least one.
    pub(crate) fn missing(&self) -> u64 {
        match self.length() {
            0 => 1,
            length => length.saturating_sub(self.record.received),
        }
    }

    /// Whether it can be let go of when others need its room.
    pub(crate) fn is_spare(&self, now_ms: u64) -> bool {
        let ours = self.kept.map_or(self.record.begun, |kept| kept.ours);
        !self.is_listed() && self.doing == Doing::Nothing && ours && now_ms >= self.record.not_before_ms
    }

    /// How little it is wanted: what comes first goes first. What is not whole serves nobody; then what
    /// nobody asked for, what was least urgent, and what is off the list the longest.
    pub(crate) fn least_wanted(&self) -> (bool, bool, Reverse<u32>, u64) {
        let record = &self.record;
        (self.kept.is_some(), record.asked, Reverse(record.item.priority), record.left_ms)
    }

    /// Whether there is nothing to remember of it.
    pub(crate) fn is_over(&self) -> bool {
        let held = self.kept.is_some_and(|kept| kept.ours);
        !self.is_listed() && self.doing == Doing::Nothing && !held && !self.record.begun
    }

    /// Whether there is more to remember of it than that it is listed.
    pub(crate) fn is_worth_a_record(&self) -> bool {
        let Record { begun, attempts, settled, asked, .. } = &self.record;
        *begun || *attempts > 0 || settled.is_some() || *asked
    }
}

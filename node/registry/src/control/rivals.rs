//! Two machines with one id.
//!
//! A beat names an *instance*, a random number that is kept in the machine's data folder, and a *boot*, one
//! of the process. One process has the id at a time. While the one that was heard last is alive,
//!
//! | who comes | is |
//! |---|---|
//! | the same process | heard |
//! | another process of the same instance | heard from now on: a restart, since a data folder lets in one process |
//! | a process that gave way to such a one | refused: the data folder was copied |
//! | another instance | refused: it is another machine |
//!
//! Alive is who was heard within two of its intervals and did not say that it ends; once it is not, whoever
//! comes next has the id. So a restart waits for nothing, a machine whose data folder is gone for two intervals
//! at most, and what is known of the id is of one machine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use serde::Serialize;

use super::Record;

/// Processes that gave way which are remembered.
const MOST_GONE: usize = 8;
/// How long one is told of after it was refused last, milliseconds.
const TOLD_MS: u64 = 600_000;

impl Record {
    /// Whether a process may have the id from now on.
    pub(super) fn lets_in(&self, instance: u64, boot: u64, now_ms: u64) -> bool {
        let alive = !self.left && self.node.alive(now_ms);
        let restarted = instance == self.instance && !self.gone.contains(&boot);
        !alive || boot == self.boot || restarted
    }

    /// The processes that gave way once this one has the id.
    pub(super) fn gone(&self, instance: u64, boot: u64) -> Vec<u64> {
        if boot == self.boot {
            return self.gone.clone();
        }
        if instance != self.instance {
            return Vec::new();
        }
        let mut gone: Vec<u64> = self.gone.iter().copied().filter(|other| *other != boot).collect();
        gone.push(self.boot);
        gone.drain(..gone.len().saturating_sub(MOST_GONE));
        gone
    }
}

/// A machine that is refused, since another one has its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rival {
    /// Where it calls from.
    pub address: IpAddr,
    /// When it was refused first, milliseconds since 1970.
    pub since_ms: u64,
    /// When it was refused last, milliseconds since 1970.
    pub seen_ms: u64,
    #[serde(skip)]
    boot: u64,
}

/// Those that were refused lately, by their ids.
#[derive(Default)]
pub(super) struct Rivals(Mutex<BTreeMap<String, Rival>>);

impl Rivals {
    pub(super) fn refused(&self, id: &str, boot: u64, address: IpAddr, now_ms: u64) {
        let mut rivals = self.0.lock();
        if let Some(rival) = rivals.get_mut(id) {
            (rival.boot, rival.address, rival.seen_ms) = (boot, address, now_ms);
            return;
        }
        log::warn!(node = id, address:% = address; "two machines have this id; the one at this address is refused");
        rivals.insert(id.to_owned(), Rival { address, since_ms: now_ms, seen_ms: now_ms, boot });
    }

    /// A process has an id: if it was the one that was refused, there are no two any more.
    pub(super) fn heard(&self, id: &str, boot: u64) {
        let mut rivals = self.0.lock();
        if rivals.get(id).is_some_and(|rival| rival.boot == boot) {
            rivals.remove(id);
        }
    }

    pub(super) fn of(&self, id: &str) -> Option<Rival> {
        self.0.lock().get(id).cloned()
    }

    pub(super) fn all(&self) -> BTreeMap<String, Rival> {
        self.0.lock().clone()
    }

    pub(super) fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// Forgets those that were not heard for long, and tells how many there are.
    pub(super) fn sweep(&self, now_ms: u64) -> usize {
        let mut rivals = self.0.lock();
        rivals.retain(|_, rival| now_ms.saturating_sub(rival.seen_ms) < TOLD_MS);
        rivals.len()
    }
}

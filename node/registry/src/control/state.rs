//! What a control node knows, taken from the records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Enrolled, Record, Rival, Standing, Told};
use crate::error::{KvError, Refused};
use crate::fleet::Fleet;
use crate::holdings::{self, Lists, Page};
use crate::kv::{Entry, Kv, Watch};

/// A node on record.
pub(super) struct Known {
    pub(super) record: Record,
    /// Whether it is in the fleet.
    pub(super) live: bool,
}

impl Known {
    pub(super) fn standing(&self, now_ms: u64) -> Standing {
        if self.record.left {
            Standing::Left
        } else if self.record.node.alive(now_ms) {
            Standing::Live
        } else {
            Standing::Silent
        }
    }
}

pub(super) struct State {
    pub(super) watch: Watch,
    pub(super) nodes: BTreeMap<String, Known>,
    pub(super) lists: Lists,
    /// Nodes whose lists are being written, and by how many entries they grow.
    pub(super) writing: HashMap<String, usize>,
    pub(super) enrolled: HashMap<String, Enrolled>,
    /// Since when, milliseconds since 1970.
    pub(super) denied: BTreeMap<String, u64>,
    /// Those of them that are known in memory alone.
    pub(super) unwritten: BTreeSet<String>,
}

impl State {
    pub(super) fn new(watch: Watch) -> Self {
        Self {
            watch,
            nodes: BTreeMap::new(),
            lists: Lists::default(),
            writing: HashMap::new(),
            enrolled: HashMap::new(),
            denied: BTreeMap::new(),
            unwritten: BTreeSet::new(),
        }
    }

    /// Whether a node may say anything.
    pub(super) fn admits(&self, id: &str) -> Result<(), Refused> {
        if self.denied.contains_key(id) { Err(Refused::Denied(id.to_owned())) } else { Ok(()) }
    }

    pub(super) fn told(&self, id: &str, rival: Option<Rival>, now_ms: u64) -> Option<Told> {
        let known = self.nodes.get(id)?;
        let holdings = self.lists.of(id).map_or(0, |list| list.size().holdings);
        Some(Told { node: known.record.node.clone(), standing: known.standing(now_ms), holdings, rival })
    }

    /// Forgets everything and reads it again: at the start, and when changes were missed. `now_ms` is by
    /// the clock of this process, the records may be by that of another.
    pub(super) fn read_all(&mut self, kv: &dyn Kv, fleet: &Fleet, now_ms: u64) -> Result<(), KvError> {
        let mut all: Vec<(String, Entry)> = Vec::new();
        // Nodes come last, so that they enter the fleet with what they hold.
        for prefix in ["denied/", "enrolled/", "holdings/", "nodes/"] {
            kv.list(prefix, now_ms, &mut |key, entry| all.push((key.to_owned(), entry)))?;
        }
        let live = self.nodes.iter().filter(|(_, known)| known.live).map(|(id, _)| id.clone());
        let live: Vec<String> = live.collect();
        self.nodes.clear();
        self.lists.clear();
        self.enrolled.clear();
        self.denied.retain(|id, _| self.unwritten.contains(id));
        for (key, entry) in &all {
            self.apply(fleet, key, Some(&entry.value), now_ms);
        }
        for id in live {
            if !self.nodes.get(&id).is_some_and(|known| known.live) {
                fleet.remove(&id);
            }
        }
        Ok(())
    }

    /// Takes one record as it is now.
    pub(super) fn apply(&mut self, fleet: &Fleet, key: &str, value: Option<&[u8]>, now_ms: u64) {
        let Some((table, rest)) = key.split_once('/') else { return };
        let read = match (table, rest.split_once('/')) {
            ("nodes", None) => self.take_node(fleet, rest, value, now_ms),
            ("holdings", None) => self.take_generation(rest, value),
            ("holdings", Some((id, page))) => self.take_page(fleet, id, page, value),
            ("enrolled", None) => take(&mut self.enrolled, rest, value),
            ("denied", None) => {
                if let Some(value) = value {
                    // Whatever it says, the id is denied.
                    let since_ms = serde_json::from_slice(value).unwrap_or_default();
                    self.denied.insert(rest.to_owned(), since_ms);
                    self.unwritten.remove(rest);
                    self.leave(fleet, rest);
                } else {
                    self.denied.remove(rest);
                }
                Some(())
            }
            // Somebody else's tables.
            _ => Some(()),
        };
        if read.is_none() {
            log::warn!(key; "a record is left out, since it cannot be read");
        }
    }

    /// Forgets a node and denies its id from now on; tells since when it is denied, milliseconds since 1970.
    pub(super) fn deny(&mut self, fleet: &Fleet, id: &str, now_ms: u64) -> u64 {
        self.leave(fleet, id);
        self.nodes.remove(id);
        self.lists.remove(id);
        self.enrolled.remove(id);
        *self.denied.entry(id.to_owned()).or_insert(now_ms)
    }

    /// Takes nodes that fell silent out of the fleet.
    pub(super) fn expire(&mut self, fleet: &Fleet, now_ms: u64) {
        for (id, known) in &mut self.nodes {
            if known.live && !known.record.node.alive(now_ms) {
                known.live = false;
                fleet.remove(id);
                log::warn!(node = id.as_str(), seen_ms = known.record.node.seen_ms; "missed its heartbeats, and is out");
            }
        }
    }

    fn take_node(&mut self, fleet: &Fleet, id: &str, value: Option<&[u8]>, now_ms: u64) -> Option<()> {
        let Some(value) = value else {
            self.leave(fleet, id);
            self.nodes.remove(id);
            return Some(());
        };
        let mut record: Record = serde_json::from_slice(value).ok()?;
        if record.node.seen_ms > now_ms {
            // By the clock of a process before, or of another control node: what comes later than now would
            // stay in the fleet for as long as that one was ahead.
            Arc::make_mut(&mut record.node).seen_ms = now_ms;
        }
        let lives = !record.left && record.node.alive(now_ms) && !self.denied.contains_key(id);
        if !lives {
            self.leave(fleet, id);
            self.nodes.insert(id.to_owned(), Known { record, live: false });
            return Some(());
        }
        fleet.hear([record.node.clone()]);
        let before = self.nodes.insert(id.to_owned(), Known { record, live: true });
        if !before.is_some_and(|before| before.live) {
            let pages = self.lists.of(id).map(|list| list.pages().clone());
            fleet.holds_pages(id, pages.unwrap_or_default());
            log::info!(node = id; "registered");
        }
        Some(())
    }

    fn leave(&mut self, fleet: &Fleet, id: &str) {
        if let Some(known) = self.nodes.get_mut(id).filter(|known| known.live) {
            known.live = false;
            fleet.remove(id);
        }
    }

    /// The generation is written after the pages: with it the list is complete. Without it what is there
    /// counts all the same, until the node tells its list anew.
    fn take_generation(&mut self, id: &str, value: Option<&[u8]>) -> Option<()> {
        let generation = value.map(serde_json::from_slice).transpose().ok()?;
        self.lists.set_generation(id, generation);
        Some(())
    }

    fn take_page(&mut self, fleet: &Fleet, id: &str, number: &str, value: Option<&[u8]>) -> Option<()> {
        let number = u8::from_str_radix(number, 16).ok()?;
        let page = match value {
            Some(value) => holdings::unpack(value)?,
            None => Page::default(),
        };
        if self.nodes.get(id).is_some_and(|known| known.live) {
            fleet.holds_page(id, number, page.clone());
        }
        self.lists.set_page(id, number, page);
        Some(())
    }
}

/// A JSON record into a table, or out of it.
fn take<T: serde::de::DeserializeOwned>(
    table: &mut HashMap<String, T>,
    id: &str,
    value: Option<&[u8]>,
) -> Option<()> {
    match value {
        Some(value) => {
            table.insert(id.to_owned(), serde_json::from_slice(value).ok()?);
        }
        None => {
            table.remove(id);
        }
    }
    Some(())
}

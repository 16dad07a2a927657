//! What nodes hold: the lists that they tell, page by page.
//!
//! A list is put together outside of the lock that heartbeats need, and written one page at a time: between two
//! of them others have their turn. What is cut short so (by a crash, a full disk, a node that is thrown out
//! meanwhile) was not answered, and is told again. One list of a node is written at a time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use parking_lot::MutexGuard;

use super::{Control, State, json};
use crate::config::RegistryConfig;
use crate::demand::Resource;
use crate::error::Refused;
use crate::fleet::MOST_TORRENTS;
use crate::hex;
use crate::holdings::{self, Changed, Holdings, MOST_OF_A_PAGE, Page, Row, Touched};
use crate::message::{HoldingsAnswer, HoldingsReport};

/// How much nodes may hold, at most: holdings, and each info-hash of one counts as another.
///
/// Who asks for more is refused, and nothing goes for it: what others hold stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// `registry.max_node_holdings`.
    pub of_a_node: usize,
    /// `registry.max_fleet_holdings`.
    pub of_the_fleet: usize,
}

impl From<&RegistryConfig> for Bounds {
    fn from(config: &RegistryConfig) -> Self {
        Self { of_a_node: config.max_node_holdings, of_the_fleet: config.max_fleet_holdings }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::from(&RegistryConfig::default())
    }
}

/// A node's list, while it is written.
struct Writing<'a> {
    control: &'a Control,
    id: &'a str,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.control.state.lock().writing.remove(self.id);
    }
}

impl Control {
    /// Takes what a node holds, or what has changed in it.
    ///
    /// # Errors
    /// [`Refused::Unknown`] when it has not registered, [`Refused::Generation`] when the report goes on
    /// from a list that is not here, [`Refused::Rival`] when another process has the id, [`Refused::Holdings`]
    /// when it holds more than there is room for, [`Refused::Busy`] when more is to be written for it than is
    /// taken, and when it was revoked or the report cannot be.
    pub fn holdings(
        &self,
        id: &str,
        report: &HoldingsReport,
        now_ms: u64,
    ) -> Result<HoldingsAnswer, Refused> {
        report.check()?;
        let held: Vec<Row> = report.held.iter().filter_map(Row::of).collect();
        let dropped: Vec<Resource> = report.dropped.iter().filter_map(|id| hex::decode(id)).collect();
        let (_writing, touched) = self.begin(id, report, &held, &dropped, now_ms)?;
        let changed = touched.changed(&held, &dropped);
        if changed.pages.values().any(|page| page.len() > MOST_OF_A_PAGE) {
            return Err(Refused::Full { what: "holdings whose ids begin alike", most: MOST_OF_A_PAGE });
        }
        self.take_room(id, &changed)?;
        let mut is_whole = true;
        for (number, page) in changed.pages {
            let (key, value) = (format!("holdings/{id}/{number:02x}"), holdings::pack(&page));
            let mut state = self.enter(id, report.boot, now_ms)?;
            is_whole &= match page.is_empty() {
                true => self.discard(&mut state, &key, now_ms),
                false => self.keep(&mut state, &key, &value, now_ms),
            };
            MutexGuard::unlock_fair(state);
        }
        // The generation comes last: a list that was cut short, by a crash or a full disk, is sent again
        // after the next start.
        let mut state = self.enter(id, report.boot, now_ms)?;
        let key = format!("holdings/{id}");
        let generation = json(&report.generation);
        if is_whole {
            self.keep(&mut state, &key, &generation, now_ms);
        } else {
            self.discard(&mut state, &key, now_ms);
            state.apply(&self.fleet, &key, Some(&generation), now_ms);
        }
        Ok(HoldingsAnswer { generation: report.generation })
    }

    /// What is known, when a process of a node may speak.
    fn enter(&self, id: &str, boot: u64, now_ms: u64) -> Result<MutexGuard<'_, State>, Refused> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(id)?;
        let known = state.nodes.get(id).ok_or_else(|| Refused::Unknown(id.to_owned()))?;
        if known.record.boot != boot {
            return Err(Refused::Rival(id.to_owned()));
        }
        Ok(state)
    }

    /// Begins to write a list, as far as the node may send and goes on from what is here; the pages that the
    /// report concerns are paid for.
    fn begin<'a>(
        &'a self,
        id: &'a str,
        report: &HoldingsReport,
        held: &[Row],
        dropped: &[Resource],
        now_ms: u64,
    ) -> Result<(Writing<'a>, Touched), Refused> {
        let mut state = self.enter(id, report.boot, now_ms)?;
        if state.writing.contains_key(id) {
            return Err(Refused::Busy);
        }
        let none = Holdings::default();
        let list = state.lists.of(id).unwrap_or(&none);
        if report.base.is_some() && report.base != list.generation {
            return Err(Refused::Generation);
        }
        let touched = list.touched(report.base.is_none(), held, dropped);
        self.limits.holdings(id, touched.holdings(), now_ms)?;
        state.writing.insert(id.to_owned(), 0);
        Ok((Writing { control: self, id }, touched))
    }

    /// Sees to it that there is room for what a list that is written grows by.
    fn take_room(&self, id: &str, changed: &Changed) -> Result<(), Refused> {
        let growth = changed.growth();
        let mut state = self.state.lock();
        let of_node = state.lists.of(id).map_or(0, |list| list.size().entries());
        // What is being written counts twice for a moment, and never not at all.
        let of_fleet = state.lists.size().entries() + state.writing.values().sum::<usize>();
        let Bounds { of_a_node, of_the_fleet } = self.bounds;
        for (limit, whose, key, most, before) in [
            ("node", "a node", "registry.max_node_holdings", of_a_node, of_node),
            ("fleet", "the fleet", "registry.max_fleet_holdings", of_the_fleet, of_fleet),
        ] {
            if growth > 0 && before + growth > most {
                self.metrics.holdings_refused.with_label_values(&[limit]).inc();
                return Err(Refused::Holdings { whose, most, key });
            }
        }
        state.writing.insert(id.to_owned(), growth);
        Ok(())
    }

    /// Info-hashes of a resource's torrents, as nodes named them that are on record, silent ones too: peers may
    /// still have what no node has. Those that most nodes named come first, [`MOST_TORRENTS`] at most; nobody
    /// has checked them. Looks through all nodes.
    pub fn torrents_of(&self, resource: &Resource, now_ms: u64) -> Vec<[u8; 20]> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        let lists = state.lists.all();
        let pages: Vec<Page> = lists.filter_map(|list| list.pages().get(&resource[0]).cloned()).collect();
        drop(state);
        let mut named: BTreeMap<[u8; 20], usize> = BTreeMap::new();
        for page in &pages {
            if let Ok(place) = page.binary_search_by(|row| row.resource.cmp(resource)) {
                page[place].info_hashes.iter().for_each(|hash| *named.entry(*hash).or_default() += 1);
            }
        }
        let mut named: Vec<([u8; 20], usize)> = named.into_iter().collect();
        named.sort_by_key(|(_, nodes)| Reverse(*nodes));
        named.into_iter().map(|(hash, _)| hash).take(MOST_TORRENTS).collect()
    }
}

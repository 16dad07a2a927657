//! What nodes hold: the lists that they tell, page by page.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Control, json};
use crate::demand::Resource;
use crate::error::Refused;
use crate::fleet::MOST_TORRENTS;
use crate::hex;
use crate::holdings::{self, MOST_OF_A_NODE, MOST_OF_A_PAGE, Page, Row};
use crate::message::{HoldingsAnswer, HoldingsReport};

impl Control {
    /// Takes what a node holds, or what has changed in it.
    ///
    /// # Errors
    /// [`Refused::Unknown`] when it has not registered, [`Refused::Generation`] when the report goes on
    /// from a list that is not here, [`Refused::Rival`] when another process has the id, and when it was
    /// revoked or the report cannot be.
    pub fn holdings(
        &self,
        id: &str,
        report: &HoldingsReport,
        now_ms: u64,
    ) -> Result<HoldingsAnswer, Refused> {
        report.check()?;
        let held: Vec<Row> = report.held.iter().filter_map(Row::of).collect();
        let dropped: Vec<Resource> = report.dropped.iter().filter_map(|id| hex::decode(id)).collect();
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(id)?;
        let record = state.nodes.get(id).map(|known| &known.record);
        let record = record.ok_or_else(|| Refused::Unknown(id.to_owned()))?;
        if report.boot != record.boot {
            return Err(Refused::Rival(id.to_owned()));
        }
        let known = state.holdings.entry(id.to_owned()).or_default();
        if report.base.is_some() && report.base != known.generation {
            return Err(Refused::Generation);
        }
        let anew = report.base.is_none();
        if !anew && known.len() + held.len() > MOST_OF_A_NODE {
            return Err(Refused::Full { what: "holdings of a node", most: MOST_OF_A_NODE });
        }
        let pages = known.changed(anew, &held, &dropped);
        if pages.values().any(|page| page.len() > MOST_OF_A_PAGE) {
            return Err(Refused::Full { what: "holdings whose ids begin alike", most: MOST_OF_A_PAGE });
        }
        let mut is_whole = true;
        for (number, page) in pages {
            let key = format!("holdings/{id}/{number:02x}");
            is_whole &= match page.is_empty() {
                true => self.discard(&mut state, &key, now_ms),
                false => self.keep(&mut state, &key, &holdings::pack(&page), now_ms),
            };
        }
        // The generation comes last: a list that was cut short, by a crash or a full disk, is sent again
        // after the next start.
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

    /// Info-hashes of a resource's torrents, as nodes named them that are on record, silent ones too: peers may
    /// still have what no node has. Those that most nodes named come first, [`MOST_TORRENTS`] at most; nobody
    /// has checked them. Looks through all nodes.
    pub fn torrents_of(&self, resource: &Resource, now_ms: u64) -> Vec<[u8; 20]> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        let lists = state.holdings.values();
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

//! What one node holds, in pages by the first byte of the resource's id: a change writes one page.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::demand::Resource;
use crate::fleet::{Holder, Holding, MOST_TORRENTS};
use crate::hex;

/// Holdings of one node, at most.
pub(crate) const MOST_OF_A_NODE: usize = 900_000;

/// Holdings in one page: ids are hashes, so pages are alike, and one that is not is nobody's honest list. It
/// fits a value of the store.
pub(crate) const MOST_OF_A_PAGE: usize = 4096;

/// One holding, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) resource: Resource,
    length: u64,
    held_bytes: u64,
    complete: bool,
    /// Each once.
    pub(crate) info_hashes: Vec<[u8; 20]>,
}

impl Row {
    /// `None` when the holding's resource has no id.
    pub(crate) fn of(holding: &Holding) -> Option<Self> {
        let &Holding { length, held_bytes, complete, .. } = holding;
        let hashes = holding.info_hashes.iter().take(MOST_TORRENTS).filter_map(|digits| hex::decode(digits));
        let info_hashes = hashes.collect();
        let row =
            Self { resource: hex::decode(&holding.resource)?, length, held_bytes, complete, info_hashes };
        Some(row.tidy())
    }

    pub(crate) fn holder(&self, node: u32) -> Holder {
        let &Self { length, held_bytes, complete, .. } = self;
        Holder { node, length, held_bytes, complete }
    }

    fn tidy(mut self) -> Self {
        self.info_hashes.sort_unstable();
        self.info_hashes.dedup();
        self
    }
}

/// Rows in the order of their ids, each id once. What is known of the node and what is known of the fleet
/// share them.
pub(crate) type Page = Arc<[Row]>;

/// What one node holds.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// The generation of the list; `None` until one is complete.
    pub(crate) generation: Option<u64>,
    pages: BTreeMap<u8, Page>,
    len: usize,
}

impl Holdings {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The pages that are not empty, by their numbers.
    pub(crate) fn pages(&self) -> &BTreeMap<u8, Page> {
        &self.pages
    }

    /// Puts a page in place of what was there.
    pub(crate) fn set(&mut self, number: u8, page: Page) {
        self.len += page.len();
        let before =
            if page.is_empty() { self.pages.remove(&number) } else { self.pages.insert(number, page) };
        self.len -= before.map_or(0, |before| before.len());
    }

    /// The pages that differ after a report, as they are then. Without `anew` the report goes on from
    /// what is here.
    pub(crate) fn changed(&self, anew: bool, held: &[Row], dropped: &[Resource]) -> BTreeMap<u8, Page> {
        let mut pages: BTreeMap<u8, Vec<Row>> = BTreeMap::new();
        if anew {
            pages.extend(self.pages.keys().map(|number| (*number, Vec::new())));
        }
        let start = |number: u8| match self.pages.get(&number) {
            Some(page) if !anew => page.to_vec(),
            _ => Vec::new(),
        };
        for row in held {
            let number = row.resource[0];
            let page = pages.entry(number).or_insert_with(|| start(number));
            match page.binary_search_by(|other| other.resource.cmp(&row.resource)) {
                Ok(place) => page[place] = row.clone(),
                Err(place) => page.insert(place, row.clone()),
            }
        }
        for resource in dropped {
            let number = resource[0];
            let page = pages.entry(number).or_insert_with(|| start(number));
            if let Ok(place) = page.binary_search_by(|other| other.resource.cmp(resource)) {
                page.remove(place);
            }
        }
        let pages = pages.into_iter().map(|(number, page)| (number, Page::from(page)));
        pages
            .filter(|(number, page)| self.pages.get(number).map_or(!page.is_empty(), |before| before != page))
            .collect()
    }
}

/// Rows in pages by the first byte of their ids; of those with one id the last counts.
pub(crate) fn pages(rows: impl Iterator<Item = Row>) -> BTreeMap<u8, Page> {
    let mut pages: BTreeMap<u8, Vec<Row>> = BTreeMap::new();
    for row in rows {
        pages.entry(row.resource[0]).or_default().push(row);
    }
    pages.into_iter().map(|(number, rows)| (number, page(rows))).collect()
}

fn page(mut rows: Vec<Row>) -> Page {
    rows.reverse();
    // What is alike keeps its order, and the first of it stays.
    rows.sort_by_key(|row| row.resource);
    rows.dedup_by(|a, b| a.resource == b.resource);
    rows.into()
}

/// A page as it is kept.
pub(crate) fn pack(page: &[Row]) -> Vec<u8> {
    postcard::to_stdvec(page).expect("numbers can always be written")
}

/// A page that was kept; `None` when it cannot be read.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Page> {
    let rows: Vec<Row> = postcard::from_bytes(bytes).ok()?;
    Some(page(rows.into_iter().map(Row::tidy).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: u8, second: u8, held_bytes: u64) -> Row {
        let mut resource = [0; 32];
        (resource[0], resource[1]) = (first, second);
        Row { resource, length: 10, held_bytes, complete: held_bytes == 10, info_hashes: Vec::new() }
    }

    fn apply(holdings: &mut Holdings, pages: BTreeMap<u8, Page>) {
        pages.into_iter().for_each(|(number, page)| holdings.set(number, page));
    }

    /// The first bytes of the ids, and what is held.
    fn list(holdings: &Holdings) -> Vec<(u8, u8, u64)> {
        let rows = holdings.pages().values().flat_map(|page| page.iter());
        rows.map(|row| (row.resource[0], row.resource[1], row.held_bytes)).collect()
    }

    #[test]
    fn only_pages_that_change_are_told() {
        let mut holdings = Holdings::default();
        let first = holdings.changed(true, &[row(1, 2, 10), row(1, 1, 10), row(2, 1, 5)], &[]);
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [1, 2]);
        apply(&mut holdings, first);
        assert_eq!(holdings.len(), 3);
        assert!(holdings.changed(false, &[row(2, 1, 5)], &[row(3, 1, 0).resource]).is_empty());
        let more = holdings.changed(false, &[row(2, 1, 10)], &[row(1, 1, 0).resource]);
        assert_eq!(more.len(), 2);
        apply(&mut holdings, more);
        assert_eq!(list(&holdings), [(1, 2, 10), (2, 1, 10)]);
    }

    #[test]
    fn a_list_anew_forgets_the_old_one() {
        let mut holdings = Holdings::default();
        let pages = holdings.changed(true, &[row(1, 1, 10), row(2, 1, 10), row(2, 2, 10)], &[]);
        apply(&mut holdings, pages);
        let pages = holdings.changed(true, &[row(2, 2, 10), row(2, 2, 7)], &[]);
        assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [1, 2]);
        apply(&mut holdings, pages);
        assert_eq!(list(&holdings), [(2, 2, 7)]);
        let pages = holdings.changed(true, &[], &[]);
        apply(&mut holdings, pages);
        assert_eq!(holdings.len(), 0);
    }

    #[test]
    fn pages_are_read_as_they_are_written() {
        let page: Page = [row(1, 1, 10), row(1, 2, 0)].into();
        assert_eq!(unpack(&pack(&page)), Some(page));
        assert_eq!(unpack(&pack(&[row(1, 2, 0), row(1, 1, 1), row(1, 1, 1)])).unwrap().len(), 2);
        for bytes in [b"".as_slice(), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[9; 40]] {
            assert_eq!(unpack(bytes), None);
        }
    }

    #[test]
    fn rows_are_put_in_order_and_the_last_word_counts() {
        let rows = [row(2, 1, 1), row(1, 2, 1), row(1, 1, 1), row(1, 2, 9)];
        let pages = pages(rows.into_iter());
        assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(pages[&1][..], [row(1, 1, 1), row(1, 2, 9)]);
    }
}

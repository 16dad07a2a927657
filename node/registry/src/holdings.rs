//! What one node holds, in pages by the first byte of the resource's id: a change writes one page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::demand::Resource;
use crate::fleet::{Holding, MOST_TORRENTS, info_hash};
use crate::hex;

/// Holdings of one node, at most.
pub(crate) const MOST_OF_A_NODE: usize = 900_000;

/// Holdings in one page: ids are hashes, so pages are alike, and one that is not is nobody's honest list. It
/// fits a value of the store.
pub(crate) const MOST_OF_A_PAGE: usize = 4096;

/// One holding, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    resource: Resource,
    length: u64,
    held_bytes: u64,
    complete: bool,
    info_hashes: Vec<[u8; 20]>,
}

impl Row {
    /// `None` when the holding's resource has no id.
    pub(crate) fn of(holding: &Holding) -> Option<Self> {
        let &Holding { length, held_bytes, complete, .. } = holding;
        let hashes = holding.info_hashes.iter().take(MOST_TORRENTS).filter_map(|digits| info_hash(digits));
        let info_hashes = hashes.collect();
        Some(Self { resource: hex::decode(&holding.resource)?, length, held_bytes, complete, info_hashes })
    }

    fn told(&self) -> Holding {
        let &Self { length, held_bytes, complete, .. } = self;
        let info_hashes = self.info_hashes.iter().map(|hash| hex::encode(hash)).collect();
        Holding { resource: hex::encode(&self.resource), length, held_bytes, complete, info_hashes }
    }
}

/// Rows in the order of their ids, each id once.
pub(crate) type Page = Vec<Row>;

/// What one node holds.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// The generation of the list; `None` until one is complete.
    pub(crate) generation: Option<u64>,
    pages: BTreeMap<u8, Page>,
}

impl Holdings {
    pub(crate) fn len(&self) -> usize {
        self.pages.values().map(Vec::len).sum()
    }

    /// Numbers of the pages that are not empty.
    pub(crate) fn numbers(&self) -> Vec<u8> {
        self.pages.keys().copied().collect()
    }

    pub(crate) fn list(&self) -> Vec<Holding> {
        self.pages.values().flatten().map(Row::told).collect()
    }

    /// Puts a page in place of what was there.
    pub(crate) fn set(&mut self, number: u8, page: Page) {
        if page.is_empty() {
            self.pages.remove(&number);
        } else {
            self.pages.insert(number, page);
        }
    }

    /// The pages that differ after a report, as they are then. Without `anew` the report goes on from
    /// what is here.
    pub(crate) fn changed(&self, anew: bool, held: &[Row], dropped: &[Resource]) -> BTreeMap<u8, Page> {
        let mut pages = BTreeMap::new();
        if anew {
            pages.extend(self.pages.keys().map(|number| (*number, Page::new())));
        }
        let start = |number: u8| match self.pages.get(&number) {
            Some(page) if !anew => page.clone(),
            _ => Page::new(),
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
        pages.retain(|number, page| self.pages.get(number).map_or(!page.is_empty(), |before| before != page));
        pages
    }
}

/// A page as it is kept.
pub(crate) fn pack(page: &[Row]) -> Vec<u8> {
    postcard::to_stdvec(page).expect("numbers can always be written")
}

/// A page that was kept; `None` when it cannot be read.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Page> {
    let mut page: Page = postcard::from_bytes(bytes).ok()?;
    page.sort_unstable_by_key(|row| row.resource);
    page.dedup_by_key(|row| row.resource);
    Some(page)
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
        let list = holdings.list();
        assert_eq!(list.iter().map(|holding| holding.complete).collect::<Vec<_>>(), [true, true]);
        assert!(list[0].resource.starts_with("0102"));
    }

    #[test]
    fn a_list_anew_forgets_the_old_one() {
        let mut holdings = Holdings::default();
        let pages = holdings.changed(true, &[row(1, 1, 10), row(2, 1, 10), row(2, 2, 10)], &[]);
        apply(&mut holdings, pages);
        let pages = holdings.changed(true, &[row(2, 2, 10), row(2, 2, 7)], &[]);
        assert_eq!(pages.keys().copied().collect::<Vec<_>>(), [1, 2]);
        apply(&mut holdings, pages);
        assert_eq!(holdings.numbers(), [2]);
        assert_eq!(holdings.list().iter().map(|holding| holding.held_bytes).collect::<Vec<_>>(), [7]);
        let pages = holdings.changed(true, &[], &[]);
        apply(&mut holdings, pages);
        assert_eq!(holdings.len(), 0);
    }

    #[test]
    fn pages_are_read_as_they_are_written() {
        let page = vec![row(1, 1, 10), row(1, 2, 0)];
        assert_eq!(unpack(&pack(&page)), Some(page));
        assert_eq!(unpack(&pack(&[row(1, 2, 0), row(1, 1, 1), row(1, 1, 1)])).unwrap().len(), 2);
        for bytes in [b"".as_slice(), b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &[9; 40]] {
            assert_eq!(unpack(bytes), None);
        }
    }
}

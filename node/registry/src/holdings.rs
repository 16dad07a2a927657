//! What nodes hold, in pages by the first byte of the resource's id: a change writes one page.

use std::collections::{BTreeMap, HashMap};
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::demand::Resource;
use crate::fleet::{Holder, Holding, MOST_TORRENTS};
use crate::hex;

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

/// How much is held: an info-hash takes as much memory as a holding does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) holdings: usize,
    pub(crate) info_hashes: usize,
}

impl Size {
    fn of(page: &[Row]) -> Self {
        Self { holdings: page.len(), info_hashes: page.iter().map(|row| row.info_hashes.len()).sum() }
    }

    /// What counts against a bound.
    pub(crate) fn entries(self) -> usize {
        self.holdings + self.info_hashes
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, more: Self) {
        self.holdings += more.holdings;
        self.info_hashes += more.info_hashes;
    }
}

impl SubAssign for Size {
    fn sub_assign(&mut self, less: Self) {
        self.holdings -= less.holdings;
        self.info_hashes -= less.info_hashes;
    }
}

/// What one node holds.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    /// The generation of the list; `None` until one is complete.
    pub(crate) generation: Option<u64>,
    pages: BTreeMap<u8, Page>,
    size: Size,
}

impl Holdings {
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// The pages that are not empty, by their numbers.
    pub(crate) fn pages(&self) -> &BTreeMap<u8, Page> {
        &self.pages
    }

    /// The pages that a report concerns, as they are. Without `anew` it goes on from what is here.
    pub(crate) fn touched(&self, anew: bool, held: &[Row], dropped: &[Resource]) -> Touched {
        let mut pages = if anew { self.pages.clone() } else { BTreeMap::new() };
        for resource in held.iter().map(|row| &row.resource).chain(dropped) {
            let number = resource[0];
            pages.entry(number).or_insert_with(|| self.pages.get(&number).cloned().unwrap_or_default());
        }
        Touched { pages, anew }
    }

    fn set(&mut self, number: u8, page: Page) {
        self.size += Size::of(&page);
        let before =
            if page.is_empty() { self.pages.remove(&number) } else { self.pages.insert(number, page) };
        self.size -= before.map(|before| Size::of(&before)).unwrap_or_default();
    }
}

/// What all nodes hold, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    nodes: HashMap<String, Holdings>,
    size: Size,
}

impl Lists {
    pub(crate) fn of(&self, id: &str) -> Option<&Holdings> {
        self.nodes.get(id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Holdings> {
        self.nodes.values()
    }

    /// That of all nodes.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn set_generation(&mut self, id: &str, generation: Option<u64>) {
        if generation.is_some() {
            self.nodes.entry(id.to_owned()).or_default().generation = generation;
        } else if let Some(list) = self.nodes.get_mut(id) {
            list.generation = None;
            if list.pages.is_empty() {
                self.nodes.remove(id);
            }
        }
    }

    /// Puts a page in place of what was there.
    pub(crate) fn set_page(&mut self, id: &str, number: u8, page: Page) {
        if page.is_empty() && !self.nodes.contains_key(id) {
            return;
        }
        let list = self.nodes.entry(id.to_owned()).or_default();
        self.size -= list.size;
        list.set(number, page);
        self.size += list.size;
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(list) = self.nodes.remove(id) {
            self.size -= list.size;
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The pages that a report concerns.
pub(crate) struct Touched {
    pages: BTreeMap<u8, Page>,
    anew: bool,
}

impl Touched {
    /// Holdings in them: all of them are written anew for a change of one.
    pub(crate) fn holdings(&self) -> usize {
        self.pages.values().map(|page| page.len()).sum()
    }

    /// What differs after the report. What is held and dropped as well is dropped.
    pub(crate) fn changed(&self, held: &[Row], dropped: &[Resource]) -> Changed {
        let mut told: BTreeMap<u8, BTreeMap<&Resource, Option<&Row>>> = BTreeMap::new();
        for row in held {
            told.entry(row.resource[0]).or_default().insert(&row.resource, Some(row));
        }
        for resource in dropped {
            told.entry(resource[0]).or_default().insert(resource, None);
        }
        let mut changed = Changed::default();
        for (number, before) in &self.pages {
            let kept: &[Row] = if self.anew { &[] } else { before };
            let after = merged(kept, told.remove(number).unwrap_or_default());
            if after != *before {
                changed.before += Size::of(before);
                changed.after += Size::of(&after);
                changed.pages.insert(*number, after);
            }
        }
        changed
    }
}

/// Pages that differ after a report.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// As they are then.
    pub(crate) pages: BTreeMap<u8, Page>,
    before: Size,
    after: Size,
}

impl Changed {
    /// By how many entries the list grows.
    pub(crate) fn growth(&self) -> usize {
        self.after.entries().saturating_sub(self.before.entries())
    }
}

/// A page and what was told of it: rows in place of those there were, or `None` for what is gone.
fn merged(before: &[Row], told: BTreeMap<&Resource, Option<&Row>>) -> Page {
    let mut rows = Vec::with_capacity(before.len() + told.len());
    let mut before = before.iter().peekable();
    for (resource, row) in told {
        while let Some(other) = before.next_if(|other| other.resource < *resource) {
            rows.push(other.clone());
        }
        before.next_if(|other| other.resource == *resource);
        rows.extend(row.cloned());
    }
    rows.extend(before.cloned());
    rows.into()
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

    fn told(holdings: &Holdings, anew: bool, held: &[Row], dropped: &[Resource]) -> Changed {
        holdings.touched(anew, held, dropped).changed(held, dropped)
    }

    fn apply(holdings: &mut Holdings, changed: Changed) {
        changed.pages.into_iter().for_each(|(number, page)| holdings.set(number, page));
    }

    /// The first bytes of the ids, and what is held.
    fn list(holdings: &Holdings) -> Vec<(u8, u8, u64)> {
        let rows = holdings.pages().values().flat_map(|page| page.iter());
        rows.map(|row| (row.resource[0], row.resource[1], row.held_bytes)).collect()
    }

    #[test]
    fn only_pages_that_change_are_told() {
        let mut holdings = Holdings::default();
        let first = told(&holdings, true, &[row(1, 2, 10), row(1, 1, 10), row(2, 1, 5)], &[]);
        assert_eq!((first.pages.keys().copied().collect::<Vec<_>>(), first.growth()), (vec![1, 2], 3));
        apply(&mut holdings, first);
        assert_eq!(holdings.size().holdings, 3);
        assert!(told(&holdings, false, &[row(2, 1, 5)], &[row(3, 1, 0).resource]).pages.is_empty());
        let more = told(&holdings, false, &[row(2, 1, 10)], &[row(1, 1, 0).resource]);
        assert_eq!((more.pages.len(), more.growth()), (2, 0));
        apply(&mut holdings, more);
        assert_eq!(list(&holdings), [(1, 2, 10), (2, 1, 10)]);
        // In any order, in one page, and what is told twice.
        let held = [row(1, 9, 1), row(1, 3, 1), row(1, 1, 1), row(1, 3, 2)];
        let more = told(&holdings, false, &held, &[row(1, 2, 0).resource, row(1, 9, 0).resource]);
        apply(&mut holdings, more);
        assert_eq!(list(&holdings), [(1, 1, 1), (1, 3, 2), (2, 1, 10)]);
    }

    #[test]
    fn a_list_anew_forgets_the_old_one() {
        let mut holdings = Holdings::default();
        let first = told(&holdings, true, &[row(1, 1, 10), row(2, 1, 10), row(2, 2, 10)], &[]);
        apply(&mut holdings, first);
        let second = told(&holdings, true, &[row(2, 2, 10), row(2, 2, 7)], &[]);
        assert_eq!(second.pages.keys().copied().collect::<Vec<_>>(), [1, 2]);
        apply(&mut holdings, second);
        assert_eq!(list(&holdings), [(2, 2, 7)]);
        let third = told(&holdings, true, &[], &[]);
        apply(&mut holdings, third);
        assert_eq!(holdings.size(), Size::default());
    }

    #[test]
    fn a_change_counts_by_the_pages_that_it_concerns() {
        let mut holdings = Holdings::default();
        let rows: Vec<Row> =
            (0..10).flat_map(|first| (0..100).map(move |second| row(first, second, 1))).collect();
        let whole = told(&holdings, true, &rows, &[]);
        apply(&mut holdings, whole);
        let counts = |anew, held: &[Row]| holdings.touched(anew, held, &[]).holdings();
        assert_eq!((counts(false, &[]), counts(false, &[row(3, 7, 2)])), (0, 100));
        let one_of_each: Vec<Row> = (0..20).map(|first| row(first, 0, 2)).collect();
        assert_eq!((counts(false, &one_of_each), counts(true, &[])), (1000, 1000));
    }

    #[test]
    fn what_all_nodes_hold_is_counted() {
        let mut lists = Lists::default();
        let named = |second, hashes: u8| Row {
            info_hashes: (0..hashes).map(|hash| [hash; 20]).collect(),
            ..row(1, second, 1)
        };
        lists.set_page("a", 1, [named(1, 3), named(2, 0)].into());
        lists.set_page("b", 1, [named(1, 8)].into());
        assert_eq!(lists.size(), Size { holdings: 3, info_hashes: 11 });
        assert_eq!(lists.of("b").map(|list| list.size().entries()), Some(9));
        lists.set_page("a", 1, [named(2, 1)].into());
        assert_eq!(lists.size().entries(), 2 + 9);
        lists.set_generation("a", Some(1));
        lists.set_page("a", 1, Page::default());
        assert_eq!((lists.size().entries(), lists.of("a").is_some()), (9, true));
        lists.set_generation("a", None);
        lists.remove("b");
        lists.set_page("c", 1, Page::default());
        assert_eq!((lists.size(), lists.all().count()), (Size::default(), 0));
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

//! Which bytes of an object are held: extents, each one chunk.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use skerry_store::Located;

/// A run of an object's bytes that one chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset of its first byte in the object.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// The chunk.
    pub chunk: Located,
}

impl Extent {
    /// The bytes of the object that it holds.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }
}

/// The extents of an object, by offset. They may overlap; they hold the same bytes where they do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order of offset.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.iter()
    }

    /// Adds one; another at the same offset gives way.
    pub fn insert(&mut self, extent: Extent) {
        match self.0.binary_search_by_key(&extent.offset, |held| held.offset) {
            Ok(at) => self.0[at] = extent,
            Err(at) => self.0.insert(at, extent),
        }
    }

    /// Removes the one at an offset.
    pub fn remove(&mut self, offset: u64) {
        if let Ok(at) = self.0.binary_search_by_key(&offset, |held| held.offset) {
            self.0.remove(at);
        }
    }

    /// The extent that holds the byte at `position`.
    pub fn at(&self, position: u64) -> Option<Extent> {
        let after = self.0.partition_point(|held| held.offset <= position);
        // An overlapping, shorter one may hide the right one by a few places.
        self.0[..after].iter().rev().take(4).find(|held| held.range().contains(&position)).copied()
    }

    /// The first byte from `position` on that is not held; `end` when all up to there are.
    pub fn gap(&self, mut position: u64, end: u64) -> u64 {
        while position < end {
            match self.at(position) {
                Some(extent) => position = extent.range().end,
                None => return position,
            }
        }
        end
    }

    /// The first byte from `position` on that is held; `end` when none is.
    pub fn next_held(&self, position: u64, end: u64) -> u64 {
        let after = self.0.partition_point(|held| held.offset < position);
        self.0.get(after).map_or(end, |held| held.offset.min(end))
    }
}

#[cfg(test)]
mod tests {
    use skerry_store::ChunkId;

    use super::*;

    fn extent(offset: u64, length: u32) -> Extent {
        Extent { offset, length, chunk: Located { id: ChunkId([0; 32]), generation: None } }
    }

    #[test]
    fn gaps_and_holdings_are_found_across_overlaps() {
        let mut extents = Extents::default();
        for (offset, length) in [(10, 10), (0, 5), (12, 2), (30, 5)] {
            extents.insert(extent(offset, length));
        }
        assert_eq!(extents.at(4).unwrap().offset, 0);
        assert_eq!(extents.at(15).unwrap().offset, 10);
        assert!(extents.at(5).is_none() && extents.at(35).is_none());
        assert_eq!(extents.gap(0, 40), 5);
        assert_eq!(extents.gap(10, 40), 20);
        assert_eq!(extents.gap(30, 33), 33);
        assert_eq!(extents.next_held(5, 40), 10);
        assert_eq!(extents.next_held(20, 25), 25);
        extents.remove(10);
        assert_eq!(extents.gap(12, 40), 14);
    }
}

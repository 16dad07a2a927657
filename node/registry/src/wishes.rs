//! Wishes for more copies: what the super-peer scheduler asks of the preloader. Hints in memory that
//! lapse when they are not renewed.

use std::collections::HashMap;

use parking_lot::RwLock;

use crate::demand::Resource;

/// Wishes at once; further ones are not heard.
pub const MOST_WISHES: usize = 4096;
/// How long a wish stands, milliseconds.
pub const WISH_LIFE_MS: u64 = 600_000;
/// A wish that is not older is not renewed, so that announces need no write lock.
const FRESH_MS: u64 = 10_000;

/// More copies of a resource are wanted in a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The resource.
    pub resource: Resource,
    /// Where; empty is anywhere.
    pub region: String,
    /// How many more nodes should hold it.
    pub copies: u32,
    /// When this was wished last, milliseconds since 1970.
    pub at_ms: u64,
}

/// All wishes.
#[derive(Default)]
pub struct Wishes(RwLock<HashMap<Resource, Vec<Wish>>>);

impl Wishes {
    /// Takes a wish, in place of the one before for the same resource and region.
    pub fn wish(&self, resource: &Resource, region: &str, copies: u32, now_ms: u64) {
        let same = |wish: &Wish| wish.region == region;
        let known = self.0.read().get(resource).and_then(|wishes| {
            let wish = wishes.iter().find(|wish| same(wish))?;
            Some(wish.copies == copies && now_ms.saturating_sub(wish.at_ms) < FRESH_MS)
        });
        if known == Some(true) || (known.is_none() && copies == 0) {
            return;
        }
        let mut all = self.0.write();
        if known.is_none() && all.values().map(Vec::len).sum::<usize>() >= MOST_WISHES {
            return;
        }
        let wishes = all.entry(*resource).or_default();
        wishes.retain(|wish| !same(wish));
        if copies > 0 {
            wishes.push(Wish { resource: *resource, region: region.to_owned(), copies, at_ms: now_ms });
        } else if wishes.is_empty() {
            all.remove(resource);
        }
    }

    /// The wishes that stand.
    pub fn standing(&self, now_ms: u64) -> Vec<Wish> {
        let all = self.0.read();
        all.values().flatten().filter(|wish| stands(wish, now_ms)).cloned().collect()
    }

    /// Forgets those that have lapsed.
    pub(crate) fn sweep(&self, now_ms: u64) {
        self.0.write().retain(|_, wishes| {
            wishes.retain(|wish| stands(wish, now_ms));
            !wishes.is_empty()
        });
    }
}

fn stands(wish: &Wish, now_ms: u64) -> bool {
    now_ms.saturating_sub(wish.at_ms) < WISH_LIFE_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn resource(number: usize) -> Resource {
        let mut resource = [0; 32];
        resource[..8].copy_from_slice(&number.to_le_bytes());
        resource
    }

    #[test]
    fn the_last_wish_for_a_region_counts() {
        let wishes = Wishes::default();
        wishes.wish(&resource(1), "north", 1, NOW);
        wishes.wish(&resource(1), "north", 3, NOW + 1);
        wishes.wish(&resource(1), "south", 2, NOW);
        let mut standing: Vec<_> =
            wishes.standing(NOW + 1).into_iter().map(|wish| (wish.region, wish.copies)).collect();
        standing.sort();
        assert_eq!(standing, [("north".to_owned(), 3), ("south".to_owned(), 2)]);
        wishes.wish(&resource(1), "north", 0, NOW + 2);
        wishes.wish(&resource(1), "south", 0, NOW + 2);
        assert!(wishes.0.read().is_empty());
    }

    #[test]
    fn wishes_lapse_unless_they_are_renewed() {
        let wishes = Wishes::default();
        wishes.wish(&resource(1), "", 1, NOW);
        wishes.wish(&resource(2), "", 1, NOW);
        wishes.wish(&resource(1), "", 1, NOW + FRESH_MS);
        assert_eq!(wishes.standing(NOW + WISH_LIFE_MS).len(), 1);
        wishes.sweep(NOW + WISH_LIFE_MS);
        assert_eq!(wishes.0.read().len(), 1);
        // A clock that was set back lets them stand.
        assert_eq!(wishes.standing(0).len(), 1);
    }

    #[test]
    fn there_is_an_end_of_wishes() {
        let wishes = Wishes::default();
        for number in 0..MOST_WISHES + 10 {
            wishes.wish(&resource(number), "", 1, NOW);
        }
        assert_eq!(wishes.standing(NOW).len(), MOST_WISHES);
        wishes.wish(&resource(0), "", 2, NOW);
        assert!(wishes.standing(NOW).iter().any(|wish| wish.copies == 2));
    }
}

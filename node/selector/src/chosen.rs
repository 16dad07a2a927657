//! When each link was last the first choice for a region, for an hour.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What a policy is told of a link that was not chosen within the hour.
pub(crate) const NEVER: u32 = u32::MAX;
/// An hour, milliseconds.
const KEPT_MS: u64 = 3_600_000;
/// Locks that regions are spread over.
const SHARDS: usize = 16;
/// Links that one lock keeps.
const MOST: usize = 16_384;

/// Region and link.
type Key = (u32, u64);

/// First choices of late.
#[derive(Default)]
pub(crate) struct Chosen([Mutex<HashMap<Key, u64>>; SHARDS]);

impl Chosen {
    fn shard(&self, region: u32) -> &Mutex<HashMap<Key, u64>> {
        &self.0[region as usize % SHARDS]
    }

    /// A link was the first choice for a region.
    pub(crate) fn note(&self, region: u32, link: u64, now_ms: u64) {
        let mut shard = self.shard(region).lock();
        if shard.len() >= MOST && !shard.contains_key(&(region, link)) {
            shard.retain(|_, at| now_ms.saturating_sub(*at) < KEPT_MS);
            if shard.len() >= MOST {
                // Only an hour with more links than any fleet has; knowing none costs some stickiness.
                shard.clear();
            }
        }
        shard.insert((region, link), now_ms);
    }

    /// Milliseconds since a link was the first choice for a region; [`NEVER`] when it was not within the
    /// last hour.
    pub(crate) fn ago(&self, region: u32, link: u64, now_ms: u64) -> u32 {
        let at = self.shard(region).lock().get(&(region, link)).copied();
        let ago = at.map(|at| now_ms.saturating_sub(at)).filter(|ago| *ago < KEPT_MS);
        ago.map_or(NEVER, |ago| ago as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_known_for_an_hour() {
        let chosen = Chosen::default();
        chosen.note(1, 7, 1000);
        assert_eq!(chosen.ago(1, 7, 3000), 2000);
        assert_eq!(chosen.ago(2, 7, 3000), NEVER);
        assert_eq!(chosen.ago(1, 8, 3000), NEVER);
        assert_eq!(chosen.ago(1, 7, 1000 + KEPT_MS), NEVER);
        // A clock that was set back.
        assert_eq!(chosen.ago(1, 7, 0), 0);
    }

    #[test]
    fn only_so_many_are_kept() {
        let chosen = Chosen::default();
        for link in 0..3 * MOST as u64 {
            chosen.note(1, link, 1000);
        }
        assert!(chosen.shard(1).lock().len() <= MOST);
        assert_eq!(chosen.ago(1, 3 * MOST as u64 - 1, 1000), 0);
    }
}

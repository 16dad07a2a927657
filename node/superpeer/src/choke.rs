//! Who is served when more want to be than can be at once.
//!
//! A super-peer gains nothing from what peers upload, so the reciprocity of BEP 3 has nothing to go by.
//! Peers take turns instead: one that is served keeps its place until it has had its turn's bytes or
//! time, then it gives way to the one that has waited longest. An eighth of the places goes round at
//! random (the optimistic unchoke of BEP 3), so that nobody waits for ever behind many who come anew.

use std::time::Duration;

/// How often places are looked at.
pub(crate) const ROUND: Duration = Duration::from_secs(10);
/// What one turn is: so many bytes, or so long.
const TURN_BYTES: u64 = 64 << 20;
const TURN: Duration = Duration::from_secs(60);

/// One peer that wants something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanting {
    /// Its number.
    pub(crate) peer: u64,
    /// How long it has been served, and bytes sent to it in that time; `None` while it waits.
    pub(crate) served: Option<(Duration, u64)>,
    /// How long it has waited.
    pub(crate) waited: Duration,
}

/// The peers to serve now, at most `places`. `random` orders the optimistic ones: different in every
/// round.
pub(crate) fn choose(wanting: &[Wanting], places: usize, mut random: impl FnMut() -> u64) -> Vec<u64> {
    if wanting.len() <= places {
        return wanting.iter().map(|one| one.peer).collect();
    }
    let in_turn = |one: &Wanting| one.served.is_some_and(|(time, bytes)| time < TURN && bytes < TURN_BYTES);
    let optimistic = (places / 8).max(usize::from(places > 1));
    let (mut chosen, mut rest) = (Vec::with_capacity(places), Vec::new());
    for one in wanting {
        if in_turn(one) && chosen.len() < places - optimistic {
            chosen.push(one.peer);
        } else {
            rest.push(one);
        }
    }
    // Longest first; who has just had its turn has waited nothing.
    rest.sort_by_key(|one| std::cmp::Reverse(if one.served.is_some() { Duration::ZERO } else { one.waited }));
    let regular = places - optimistic - chosen.len();
    chosen.extend(rest.drain(..regular.min(rest.len())).map(|one| one.peer));
    for _ in 0..optimistic.min(rest.len()) {
        let index = (random() % rest.len() as u64) as usize;
        chosen.push(rest.swap_remove(index).peer);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn all_are_served_while_there_is_room() {
        let wanting = |peer| Wanting { peer, served: None, waited: Duration::ZERO };
        assert_eq!(choose(&[wanting(1), wanting(2)], 2, || 0), [1, 2]);
        assert_eq!(choose(&[wanting(1), wanting(2)], 1, || 0).len(), 1);
        assert!(choose(&[], 4, || 0).is_empty());
    }

    #[test]
    fn everybody_has_a_turn_within_a_few_and_nobody_much_more_than_others() {
        let (peers, places) = (40_u64, 8);
        let mut served: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut waiting: BTreeMap<u64, u32> = (0..peers).map(|peer| (peer, 0)).collect();
        let mut total: BTreeMap<u64, u32> = BTreeMap::new();
        let mut seed = 1_u64;
        for _ in 0..600 {
            let wanting: Vec<Wanting> = (0..peers)
                .map(|peer| Wanting {
                    peer,
                    served: served.get(&peer).map(|(rounds, bytes)| (ROUND * *rounds, *bytes)),
                    waited: ROUND * waiting.get(&peer).copied().unwrap_or(0),
                })
                .collect();
            let chosen: HashSet<u64> = choose(&wanting, places, || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed >> 33
            })
            .into_iter()
            .collect();
            assert_eq!(chosen.len(), places);
            for peer in 0..peers {
                if chosen.contains(&peer) {
                    waiting.remove(&peer);
                    let entry = served.entry(peer).or_default();
                    *entry = (entry.0 + 1, entry.1 + (1 << 20));
                    *total.entry(peer).or_default() += 1;
                } else {
                    served.remove(&peer);
                    *waiting.entry(peer).or_default() += 1;
                }
            }
        }
        let (least, most) = (total.values().min().unwrap(), total.values().max().unwrap());
        assert_eq!(total.len(), 40);
        assert!(*most <= least * 2, "{least} to {most} rounds");
    }
}

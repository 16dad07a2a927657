//! Which nodes get the further copies that are wished for.

use std::cmp::Reverse;
use std::collections::HashMap;

use skerry_registry::demand::Resource;
use skerry_registry::fleet::Node;
use skerry_registry::wishes::Wish;

use crate::hash::fingerprint;
use crate::planned::Planned;
use crate::round::{Candidate, Live};

/// A node's fitness for a copy: less is better. Who has been told already stays told; then who can
/// fetch it soon, whose links are free, who has most of it. What is alike is told apart by a hash of
/// node and resource, so that copies spread and the same node comes out every time.
type Rank = (bool, bool, u64, u32, u64);

/// What each node should hold by the wishes, by its number; the most demanded first.
pub(crate) fn place<'a>(
    wishes: &[Wish],
    nodes: &[&Live],
    lists: &HashMap<String, Planned>,
    candidate: impl Fn(&Resource) -> Option<&'a Candidate>,
) -> HashMap<u32, Vec<Resource>> {
    let mut placed: HashMap<u32, Vec<(Reverse<u64>, Resource)>> = HashMap::new();
    for wish in wishes {
        let Some(candidate) = candidate(&wish.resource) else {
            log::debug!("more copies are wished for of what nobody told the source of");
            continue;
        };
        let here = |live: &&&Live| {
            let (node, number) = (&live.node, live.number);
            let fits = node.capacity_bytes >= candidate.known.length;
            let near = wish.region.is_empty() || wish.region == node.region;
            fits && near && !candidate.is_complete_at(number)
        };
        let rank = |live: &Live| -> Rank {
            let listed = lists.get(&live.node.id).is_some_and(|planned| planned.lists(&wish.resource));
            let soon = live.node.preload_window_bytes >= candidate.known.length;
            let missing = 1000 - candidate.held(live.number);
            let hash = fingerprint([wish.resource.as_slice(), live.node.id.as_bytes()]);
            (!listed, !soon, load(&live.node), missing, hash)
        };
        let mut fit: Vec<(Rank, u32)> =
            nodes.iter().filter(here).map(|live| (rank(live), live.number)).collect();
        fit.sort_unstable();
        for (_, number) in fit.into_iter().take(wish.copies as usize) {
            placed.entry(number).or_default().push((Reverse(candidate.total), wish.resource));
        }
    }
    let sorted = placed.into_iter().map(|(number, mut resources)| {
        resources.sort_unstable();
        resources.dedup();
        (number, resources.into_iter().map(|(_, resource)| resource).collect())
    });
    sorted.collect()
}

/// Load of a node's freest link, in eighths of its capacity, so that small changes change nothing.
fn load(node: &Node) -> u64 {
    let links = node.links.iter().filter(|link| link.healthy && link.capacity_kbps > 0);
    links.map(|link| link.used_kbps.saturating_mul(8) / link.capacity_kbps).min().unwrap_or(u64::MAX)
}

//! What a node should hold before anybody asks for it. What each field means, and what a node does
//! with each verdict, stands in `wit/preload-planner.wit`.

use std::cmp::Reverse;

use skerry_policy_sdk::host;
use skerry_policy_sdk::preload_planner::{Choice, Item, PreloadPlanner, Request, Verdict};

/// Requests an hour, in thousandths, from which on a copy is worth its place.
const WORTH: u64 = 1000;
/// Place of `nothing-wanted` among the counters of the manifest.
const NOTHING_WANTED: u32 = 0;

/// The policy.
pub struct Policy;

impl PreloadPlanner for Policy {
    fn plan(request: &Request, items: &[Item]) -> Verdict {
        let rows = items.iter().enumerate();
        let mut wanted: Vec<(usize, &Item)> =
            rows.filter(|(_, item)| item.demand_near >= WORTH).collect();
        wanted.sort_by_key(|(_, item)| Reverse(item.demand_near));

        let (mut room, mut window) = (request.capacity_bytes, request.window_bytes);
        let mut list = Vec::new();
        for (row, item) in wanted {
            // What is here in part stays, and is filled when there is time.
            let moved = if item.held > 0 { 0 } else { item.size_bytes };
            if item.size_bytes <= room && moved <= window {
                room -= item.size_bytes;
                window -= moved;
                list.push(Choice::new(row, 1));
            }
        }
        if list.is_empty() {
            // Without an opinion the node's list stays as it is; an empty list would empty it.
            host::count(NOTHING_WANTED, 1);
            return Verdict::Abstain;
        }
        Verdict::Ranked(list)
    }
}

skerry_policy_sdk::export_preload_planner!(Policy);

#[cfg(test)]
mod tests {
    use skerry_policy_sdk::WHOLE;
    use skerry_policy_sdk::harness::Harness;

    use super::*;

    const NODE: Request = Request {
        region: 1,
        capacity_bytes: 250,
        window_bytes: 250,
        window_seconds: 3600,
        seed: 0,
    };

    /// 100 bytes, asked for so often in an hour, in thousandths.
    fn item(demand_near: u64) -> Item {
        Item {
            size_bytes: 100,
            demand_near,
            ..Item::default()
        }
    }

    #[test]
    fn the_most_wanted_come_until_the_node_is_full() {
        let items = [item(2000), item(9000), item(3000)];
        assert_eq!(Policy::plan(&NODE, &items).rows(), [1, 2]);
    }

    #[test]
    fn what_takes_longer_than_the_window_waits() {
        let narrow = Request {
            window_bytes: 150,
            ..NODE
        };
        let here = Item {
            held: WHOLE,
            ..item(5000)
        };
        let items = [item(9000), item(8000), here];
        assert_eq!(Policy::plan(&narrow, &items).rows(), [0, 2]);
    }

    #[test]
    fn the_list_stays_when_nothing_is_wanted() {
        let outcome = Harness::new().run(|| Policy::plan(&NODE, &[item(999)]));
        assert_eq!(outcome.answer, Verdict::Abstain);
        assert_eq!(outcome.counter(NOTHING_WANTED), 1);
    }
}

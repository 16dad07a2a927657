//! The default `preload-planner`: what a node should hold before anybody asks for it.
//!
//! # The reasoning
//!
//! A copy on this node saves the origin (and the way to it) one length of the resource for every
//! request that it answers. It costs its length in storage, and what is missing of it must be moved
//! once. So items are taken in the order of
//!
//! ```text
//!     requests to come x length
//!   -----------------------------
//!   length + what must be moved
//! ```
//!
//! until the node's capacity is used. The length cancels out of the ratio: a copy that is already
//! here counts twice what it would if it had to be moved. It matters again for what still fits.
//!
//! - *Requests to come.* Demand halves each day, so a rate of r an hour is followed by
//!   r x 24 / ln 2 = 34.6 r requests in all. Copies of the region share its demand, so each further
//!   one is worth less, and nodes of a region come to hold different things. Of the demand of other
//!   regions an eighth is expected here, shared by all copies.
//! - *Worth it.* What is not here comes only when it saves at least the bytes that it moves: one
//!   request to come. What is here goes below a quarter of a request. Between the two nothing moves.
//! - *Hysteresis.* What is on the list counts a quarter more, beside what being here already does: an
//!   item must be clearly better than the one that it replaces, or lists would change with every
//!   count.
//! - *Window.* What must be moved has to fit into what may be moved until the next plan. What is
//!   partly here stays on the list when it does not, and is filled in a later window; half a film
//!   thrown away would be moved twice. An item too long for any window is begun while half of the
//!   window is free.
//!
//! Taking the best ratio first until nothing fits is Dantzig's rule for the knapsack. It misses the
//! best choice by less than what the first item that did not fit would save, which is little when
//! items are small beside a node's storage.
//!
//! When nothing is worth holding the policy abstains and the list stays as it is: an empty list would
//! throw everything away, and the next popular hour would move it all again. The same for a capacity
//! of 0, where there is nothing to plan.
//!
//! # Sources
//!
//! - G. B. Dantzig, *Discrete-Variable Extremum Problems*, Operations Research 5 (2), 1957: the order
//!   by value for each unit of weight.
//! - P. Cao and S. Irani, *Cost-Aware WWW Proxy Caching Algorithms*, USENIX Symposium on Internet
//!   Technologies and Systems, 1997: value by size, for stores of web objects.
//! - D. Applegate, A. Archer, V. Gopalakrishnan, S. Lee and K. K. Ramakrishnan, *Optimal Content
//!   Placement for a Large-Scale VoD System*, ACM CoNEXT 2010: films are placed by the demand of the
//!   days before, and what each new placement moves has to be paid for.

use std::cmp::Reverse;

use skerry_policy_sdk::WHOLE;
use skerry_policy_sdk::preload_planner::{Choice, Item, PreloadPlanner, Request, Verdict};

/// Of the demand of other regions one in so many requests is expected here.
const FAR: u64 = 8;
/// Hours of a rate that are still to come when it halves each day, in tenths.
const HOURS_TO_COME_TENTHS: u64 = 346;
/// What is here goes below so many requests to come, in thousandths.
const STAY: u64 = 250;
/// Bounds the arithmetic: a thousand million requests an hour, in thousandths.
const MOST_DEMAND: u64 = 1_000_000_000_000;

/// The policy.
pub struct Planner;

impl PreloadPlanner for Planner {
    fn plan(request: &Request, items: &[Item]) -> Verdict {
        plan(request, items)
    }
}

skerry_policy_sdk::export_preload_planner!(Planner);

/// Plans what one node should hold.
#[must_use]
pub fn plan(request: &Request, items: &[Item]) -> Verdict {
    let worthy = |(row, item)| gain(item).map(|gain| (Reverse(gain), row, item));
    let mut ranked: Vec<(Reverse<u64>, usize, &Item)> = items.iter().enumerate().filter_map(worthy).collect();
    // Of the same gain the first row, so that equal rows give an equal plan.
    ranked.sort_unstable_by_key(|&(gain, row, _)| (gain, row));

    let mut room = request.capacity_bytes;
    let mut window = request.window_bytes;
    let mut list = Vec::new();
    for (_, row, item) in ranked {
        if item.size_bytes > room {
            continue;
        }
        let missing = missing_bytes(item);
        let too_long = missing > request.window_bytes && window > 0 && window >= request.window_bytes / 2;
        if missing > window && item.held == 0 && !too_long {
            continue;
        }
        room -= item.size_bytes;
        window = window.saturating_sub(missing);
        list.push(Choice::new(row, 1));
    }
    if list.is_empty() { Verdict::Abstain } else { Verdict::Ranked(list) }
}

/// Bytes saved per byte stored and moved, in thousandths; `None` for what is not worth it.
fn gain(item: &Item) -> Option<u64> {
    let missing = u64::from(WHOLE - held(item));
    let to_come = requests_to_come(item);
    if to_come < missing.max(STAY) {
        return None;
    }
    let gain = to_come * 1000 / (1000 + missing);
    Some(if item.listed_seconds > 0 { gain + gain / 4 } else { gain })
}

/// Requests that a copy here will answer, in thousandths.
fn requests_to_come(item: &Item) -> u64 {
    let near_copies = u64::from(item.copies_near) + 1;
    let all_copies = near_copies + u64::from(item.copies_far);
    let near = item.demand_near.min(MOST_DEMAND) / near_copies;
    let far = item.demand_far.min(MOST_DEMAND) / all_copies / FAR;
    (near + far) * HOURS_TO_COME_TENTHS / 10
}

/// What must be moved to hold all of it, rounded up.
fn missing_bytes(item: &Item) -> u64 {
    let missing = u64::from(WHOLE - held(item));
    // In two parts, so that no length overflows.
    item.size_bytes / 1000 * missing + (item.size_bytes % 1000 * missing).div_ceil(1000)
}

fn held(item: &Item) -> u32 {
    item.held.min(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NODE: Request = Request {
        region: 1,
        capacity_bytes: 1000 * MIB,
        window_bytes: 1000 * MIB,
        window_seconds: 3600,
        seed: 0,
    };

    /// 100 MiB that nobody holds, asked for so often in an hour, in thousandths.
    fn item(demand_near: u64) -> Item {
        Item { size_bytes: 100 * MIB, demand_near, ..Item::default() }
    }

    /// One that the node holds and has on its list.
    fn here(demand_near: u64) -> Item {
        Item { held: WHOLE, listed_seconds: 86_400, ..item(demand_near) }
    }

    fn rows(request: &Request, items: &[Item]) -> Vec<u32> {
        plan(request, items).rows()
    }

    #[test]
    fn the_most_wanted_comes_first() {
        assert_eq!(rows(&NODE, &[item(500), item(9000), item(2000)]), [1, 2, 0]);
    }

    #[test]
    fn copies_of_the_region_share_its_demand() {
        let shared = Item { copies_near: 3, ..item(4000) };
        assert_eq!(rows(&NODE, &[shared, item(1100)]), [1, 0]);
        // Copies elsewhere answer for what is asked elsewhere, and only for that.
        let elsewhere = Item { copies_far: 3, ..item(4000) };
        assert_eq!(rows(&NODE, &[elsewhere, item(1100)]), [0, 1]);
    }

    #[test]
    fn demand_elsewhere_counts_an_eighth() {
        let far = Item { demand_far: 8000, ..item(0) };
        assert_eq!(rows(&NODE, &[far, item(1001), item(999)]), [1, 0, 2]);
    }

    #[test]
    fn what_saves_less_than_it_moves_does_not_come() {
        // 29 thousandths an hour are one request to come, 7.3 a quarter of one.
        assert_eq!(rows(&NODE, &[item(28), item(29)]), [1]);
        assert_eq!(rows(&NODE, &[here(7), here(8)]), [1]);
        assert_eq!(plan(&NODE, &[item(0), item(28)]), Verdict::Abstain);
    }

    #[test]
    fn what_is_here_goes_only_for_what_is_clearly_better() {
        let full = Request { capacity_bytes: 100 * MIB, ..NODE };
        assert_eq!(rows(&full, &[here(1000), item(2400)]), [0]);
        assert_eq!(rows(&full, &[here(1000), item(2600)]), [1]);
        // The list does not change with every count while the node is still fetching.
        let listed = Item { listed_seconds: 600, ..item(1000) };
        assert_eq!(rows(&full, &[item(1200), listed]), [1]);
        assert_eq!(rows(&full, &[item(1300), listed]), [0]);
    }

    #[test]
    fn the_plan_fits_into_the_capacity() {
        let small = Request { capacity_bytes: 250 * MIB, ..NODE };
        let long = Item { size_bytes: 200 * MIB, ..item(8000) };
        assert_eq!(rows(&small, &[item(9000), long, item(7000), item(6000)]), [0, 2]);
        assert_eq!(plan(&Request { capacity_bytes: 0, ..NODE }, &[item(9000)]), Verdict::Abstain);
    }

    #[test]
    fn what_is_moved_fits_into_the_window() {
        let narrow = Request { window_bytes: 150 * MIB, ..NODE };
        assert_eq!(rows(&narrow, &[item(9000), item(8000), here(100)]), [0, 2]);
        // What is partly here stays, even where nothing may be moved.
        let partly = Item { held: 300, ..item(500) };
        assert_eq!(rows(&narrow, &[item(9000), partly, item(8000)]), [0, 1]);
        assert_eq!(rows(&Request { window_bytes: 0, ..NODE }, &[item(9000), partly]), [1]);
    }

    #[test]
    fn an_item_too_long_for_any_window_is_begun() {
        let narrow = Request { window_bytes: 90 * MIB, ..NODE };
        let short = Item { size_bytes: 50 * MIB, ..item(9000) };
        assert_eq!(rows(&narrow, &[item(5000)]), [0]);
        assert_eq!(rows(&narrow, &[item(5000), short]), [1]);
    }

    #[test]
    fn odd_rows_do_no_harm() {
        let odd = Item {
            size_bytes: u64::MAX,
            demand_near: u64::MAX,
            demand_far: u64::MAX,
            copies_near: u32::MAX,
            copies_far: u32::MAX,
            held: u32::MAX,
            listed_seconds: u32::MAX,
            age_seconds: u32::MAX,
        };
        let blank = Item { demand_near: u64::MAX, ..Item::default() };
        let all = Request { capacity_bytes: u64::MAX, window_bytes: u64::MAX, ..NODE };
        assert_eq!(rows(&all, &[odd, Item { held: 0, ..odd }, blank]), [2, 0]);
        assert_eq!(plan(&Request::default(), &vec![odd; 4096]), Verdict::Abstain);
    }
}

//! Which links a client is sent to. What each field means, and what a node does with each verdict,
//! stands in `wit/region-router.wit`.

use skerry_policy_sdk::region_router::{Candidate, Choice, RegionRouter, Request, Verdict};
use skerry_policy_sdk::{FAILING, host};

/// The most links that are named.
const MOST_NAMED: usize = 8;
/// Place of `nobody-fit` among the counters of the manifest.
const NOBODY_FIT: u32 = 0;

/// The policy.
pub struct Policy;

impl RegionRouter for Policy {
    fn route(request: &Request, candidates: &[Candidate]) -> Verdict {
        let links = candidates.iter().enumerate();
        let mut fit: Vec<(usize, &Candidate)> = links.filter(|(_, link)| is_fit(link)).collect();
        if fit.is_empty() {
            // A policy without an opinion leaves the verdict to the node.
            host::count(NOBODY_FIT, 1);
            return Verdict::Abstain;
        }
        // `false` comes before `true`.
        fit.sort_by_key(|(_, link)| (!is_near(request, link), link.distance_us));
        let best = fit.iter().take(MOST_NAMED);
        Verdict::Ranked(best.map(|(row, _)| Choice::new(*row, 1)).collect())
    }
}

skerry_policy_sdk::export_region_router!(Policy);

/// Whether a link is well, and less than nine tenths full.
fn is_fit(link: &Candidate) -> bool {
    link.health >= FAILING && u64::from(link.used_kbps) * 10 < u64::from(link.capacity_kbps) * 9
}

/// Whether a link is in the client's region.
fn is_near(request: &Request, link: &Candidate) -> bool {
    request.region != 0 && link.region == request.region
}

#[cfg(test)]
mod tests {
    use skerry_policy_sdk::WHOLE;
    use skerry_policy_sdk::harness::Harness;

    use super::*;

    const CLIENT: Request = Request {
        client: 7,
        region: 1,
        isp: 0,
        resource_hash: 0,
        size_bytes: 0,
        seed: 0,
    };

    /// A link that is well and empty.
    fn link(region: u32, distance_us: u32) -> Candidate {
        Candidate {
            region,
            distance_us,
            capacity_kbps: 1_000_000,
            health: WHOLE,
            ..Candidate::default()
        }
    }

    #[test]
    fn the_region_comes_first_then_the_nearest() {
        let links = [link(2, 900), link(1, 8000), link(1, 5000)];
        assert_eq!(Policy::route(&CLIENT, &links).rows(), [2, 1, 0]);
    }

    #[test]
    fn a_full_link_is_not_named() {
        let full = Candidate {
            used_kbps: 900_000,
            ..link(1, 900)
        };
        assert_eq!(Policy::route(&CLIENT, &[full, link(2, 9000)]).rows(), [1]);
    }

    #[test]
    fn the_node_decides_and_counts_when_nobody_is_fit() {
        let down = Candidate {
            health: 0,
            ..link(1, 900)
        };
        let outcome = Harness::new().run(|| Policy::route(&CLIENT, &[down]));
        assert_eq!(outcome.answer, Verdict::Abstain);
        assert_eq!(outcome.counter(NOBODY_FIT), 1);
    }
}

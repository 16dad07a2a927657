//! Whom a peer downloads from, and whether more copies are needed. What each field means, and what a
//! node does with each verdict, stands in `wit/super-peer-scheduler.wit`.

use skerry_policy_sdk::super_peer_scheduler::{
    Candidate, Choice, Request, Schedule, SuperPeerScheduler, Verdict,
};
use skerry_policy_sdk::{FAILING, host};

/// Place of `no-super-peer` among the counters of the manifest.
const NO_SUPER_PEER: u32 = 0;

/// The policy.
pub struct Policy;

impl SuperPeerScheduler for Policy {
    fn schedule_peers(request: &Request, candidates: &[Candidate]) -> Verdict {
        let peers = candidates.iter().enumerate();
        let mut fit: Vec<(usize, &Candidate)> =
            peers.filter(|(_, peer)| is_fit(request, peer)).collect();
        // `false` comes before `true`.
        fit.sort_by_key(|(_, peer)| {
            let far = request.region == 0 || peer.region != request.region;
            (peer.super_peer == 0, far, peer.distance_us)
        });
        let lacking = request.downloading > 0 && fit.iter().all(|(_, peer)| peer.super_peer == 0);
        if lacking {
            host::count(NO_SUPER_PEER, 1);
        }
        let named = fit.iter().take(request.wanted as usize);
        let peers: Vec<Choice> = named.map(|(row, _)| Choice::new(*row, 1)).collect();
        if peers.is_empty() && !lacking {
            // A policy without an opinion leaves the verdict to the node.
            return Verdict::Abstain;
        }
        Verdict::Scheduled(Schedule {
            peers,
            more_copies: u32::from(lacking),
        })
    }
}

skerry_policy_sdk::export_super_peer_scheduler!(Policy);

/// Whether somebody is well and has what the peer lacks; a super-peer also has room.
fn is_fit(request: &Request, peer: &Candidate) -> bool {
    let room = u64::from(peer.used_kbps) * 10 < u64::from(peer.capacity_kbps) * 9;
    peer.health >= FAILING && peer.held > request.have && (peer.super_peer == 0 || room)
}

#[cfg(test)]
mod tests {
    use skerry_policy_sdk::WHOLE;
    use skerry_policy_sdk::harness::Harness;

    use super::*;

    const PEER: Request = Request {
        client: 7,
        region: 1,
        isp: 0,
        size_bytes: 0,
        have: 200,
        wanted: 10,
        downloading: 5,
        demand_kbps: 0,
        seed: 0,
    };

    fn peer(region: u32) -> Candidate {
        Candidate {
            region,
            health: WHOLE,
            held: 500,
            ..Candidate::default()
        }
    }

    fn super_peer(region: u32) -> Candidate {
        Candidate {
            super_peer: 1,
            capacity_kbps: 1_000_000,
            ..peer(region)
        }
    }

    #[test]
    fn super_peers_come_first_then_the_region() {
        let peers = [peer(1), super_peer(2), super_peer(1)];
        let verdict = Policy::schedule_peers(&PEER, &peers);
        assert_eq!((verdict.rows(), verdict.more_copies()), (vec![2, 1, 0], 0));
    }

    #[test]
    fn a_swarm_without_a_super_peer_asks_for_one() {
        let outcome = Harness::new().run(|| Policy::schedule_peers(&PEER, &[peer(1)]));
        assert_eq!(outcome.answer.rows(), [0]);
        assert_eq!(outcome.answer.more_copies(), 1);
        assert_eq!(outcome.counter(NO_SUPER_PEER), 1);
    }

    #[test]
    fn who_has_no_more_than_the_peer_is_not_named() {
        let behind = Candidate {
            held: 200,
            ..peer(1)
        };
        let idle = Request {
            downloading: 0,
            ..PEER
        };
        assert_eq!(Policy::schedule_peers(&idle, &[behind]), Verdict::Abstain);
    }
}

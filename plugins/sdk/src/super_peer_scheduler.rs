//! Whom a peer downloads from, and whether more copies are needed: the world
//! `super-peer-scheduler`.

use crate::bindings::super_peer_scheduler::exports::skerry::policy::peer_scheduling as generated;

pub use crate::Choice;
pub use generated::{Candidate, Request, Schedule, Verdict};

/// A policy that schedules super-peers.
pub trait SuperPeerScheduler {
    /// Chooses peers for one peer. There are 1 to 4096 candidates.
    fn schedule_peers(request: &Request, candidates: &[Candidate]) -> Verdict;
}

impl<T: SuperPeerScheduler> generated::Guest for T {
    fn schedule_peers(request: Request, candidates: Vec<Candidate>) -> Verdict {
        crate::host::report_panics();
        <T as SuperPeerScheduler>::schedule_peers(&request, &candidates)
    }
}

impl Verdict {
    /// The rows that were chosen, in their order; none unless this is a schedule.
    #[must_use]
    pub fn rows(&self) -> Vec<u32> {
        match self {
            Self::Scheduled(schedule) => schedule.peers.iter().map(|choice| choice.row).collect(),
            Self::Abstain | Self::Invalid(_) => Vec::new(),
        }
    }

    /// How many more copies are asked for; 0 unless this is a schedule.
    #[must_use]
    pub fn more_copies(&self) -> u32 {
        match self {
            Self::Scheduled(schedule) => schedule.more_copies,
            Self::Abstain | Self::Invalid(_) => 0,
        }
    }
}

impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scheduled(ours), Self::Scheduled(theirs)) => ours == theirs,
            (Self::Invalid(ours), Self::Invalid(theirs)) => ours == theirs,
            (Self::Abstain, Self::Abstain) => true,
            _ => false,
        }
    }
}

impl Eq for Verdict {}

/// Makes a [`SuperPeerScheduler`] the policy that this crate is built into; once in a crate. Nothing
/// but a check of its type on targets other than wasm32.
#[macro_export]
macro_rules! export_super_peer_scheduler {
    ($policy:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::super_peer_scheduler::export!(
            $policy with_types_in $crate::bindings::super_peer_scheduler
        );

        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(
            &$crate::super_peer_scheduler::Request,
            &[$crate::super_peer_scheduler::Candidate],
        ) -> $crate::super_peer_scheduler::Verdict =
            <$policy as $crate::super_peer_scheduler::SuperPeerScheduler>::schedule_peers;
    };
}

//! Which links a client is sent to, best first: the world `region-router`.

use crate::bindings::region_router::exports::skerry::policy::region_routing as generated;

pub use crate::Choice;
pub use generated::{Candidate, Request, Verdict};

/// A policy that routes clients.
pub trait RegionRouter {
    /// Ranks the links for one client. There are 1 to 4096 candidates.
    fn route(request: &Request, candidates: &[Candidate]) -> Verdict;
}

impl<T: RegionRouter> generated::Guest for T {
    fn route(request: Request, candidates: Vec<Candidate>) -> Verdict {
        crate::host::report_panics();
        <T as RegionRouter>::route(&request, &candidates)
    }
}

impl Verdict {
    /// The rows that were chosen, in their order; none unless this is a ranking.
    #[must_use]
    pub fn rows(&self) -> Vec<u32> {
        match self {
            Self::Ranked(choices) => choices.iter().map(|choice| choice.row).collect(),
            Self::Abstain | Self::Invalid(_) => Vec::new(),
        }
    }
}

impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ranked(ours), Self::Ranked(theirs)) => ours == theirs,
            (Self::Invalid(ours), Self::Invalid(theirs)) => ours == theirs,
            (Self::Abstain, Self::Abstain) => true,
            _ => false,
        }
    }
}

impl Eq for Verdict {}

/// Makes a [`RegionRouter`] the policy that this crate is built into; once in a crate. Nothing but a
/// check of its type on targets other than wasm32.
#[macro_export]
macro_rules! export_region_router {
    ($policy:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::region_router::export!($policy with_types_in $crate::bindings::region_router);

        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(
            &$crate::region_router::Request,
            &[$crate::region_router::Candidate],
        ) -> $crate::region_router::Verdict = <$policy as $crate::region_router::RegionRouter>::route;
    };
}

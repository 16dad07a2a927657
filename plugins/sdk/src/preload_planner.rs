//! What a node should hold before anybody asks for it: the world `preload-planner`.

use crate::bindings::preload_planner::exports::skerry::policy::preload_planning as generated;

pub use crate::Choice;
pub use generated::{Item, Request, Verdict};

/// A policy that plans what nodes hold.
pub trait PreloadPlanner {
    /// Plans what one node should hold. There are 1 to 4096 items.
    fn plan(request: &Request, items: &[Item]) -> Verdict;
}

impl<T: PreloadPlanner> generated::Guest for T {
    fn plan(request: Request, items: Vec<Item>) -> Verdict {
        crate::host::report_panics();
        <T as PreloadPlanner>::plan(&request, &items)
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

/// Makes a [`PreloadPlanner`] the policy that this crate is built into; once in a crate. Nothing but
/// a check of its type on targets other than wasm32.
#[macro_export]
macro_rules! export_preload_planner {
    ($policy:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::preload_planner::export!($policy with_types_in $crate::bindings::preload_planner);

        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(
            &$crate::preload_planner::Request,
            &[$crate::preload_planner::Item],
        ) -> $crate::preload_planner::Verdict = <$policy as $crate::preload_planner::PreloadPlanner>::plan;
    };
}

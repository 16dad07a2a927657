//! Why a decision was not the policy's.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::Trap;

/// Why the built-in verdict was used instead of the policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// No policy is loaded for the world, or this client is not in its part.
    None,
    /// The policy said so.
    Abstain,
    /// The policy said that the rows make no sense.
    Invalid,
    /// An index that is no row's, one that came twice, a weight out of range, or no choice at all.
    BadIndex,
    /// It took longer than its time.
    Deadline,
    /// It did more work than its fuel allows.
    Fuel,
    /// It asked for more memory than it may have.
    Memory,
    /// It called itself deeper than its stack.
    Stack,
    /// It gave the node more than fits, or called the node without end.
    Flood,
    /// It trapped in another way.
    Trap,
    /// As many calls as may run at once were running.
    Full,
    /// It failed too often and is rested.
    Resting,
    /// No row at all, or more than the contract allows.
    Rows,
}

impl Cause {
    /// Every cause, for the metrics.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Abstain,
        Self::Invalid,
        Self::BadIndex,
        Self::Deadline,
        Self::Fuel,
        Self::Memory,
        Self::Stack,
        Self::Flood,
        Self::Trap,
        Self::Full,
        Self::Resting,
        Self::Rows,
    ];

    /// The label of the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Abstain => "abstain",
            Self::Invalid => "invalid",
            Self::BadIndex => "bad-index",
            Self::Deadline => "deadline",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Flood => "flood",
            Self::Trap => "trap",
            Self::Full => "full",
            Self::Resting => "resting",
            Self::Rows => "rows",
        }
    }

    /// Whether it is the policy's fault, which its breaker counts.
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::BadIndex
                | Self::Deadline
                | Self::Fuel
                | Self::Memory
                | Self::Stack
                | Self::Flood
                | Self::Trap
        )
    }

    /// What ended a call that did not return. `denied` tells that it asked for memory in vain: most
    /// guests trap on that.
    pub(crate) fn of(error: &wasmtime::Error, denied: bool) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Deadline,
            Some(Trap::OutOfFuel) => Self::Fuel,
            Some(Trap::StackOverflow) => Self::Stack,
            _ if denied => Self::Memory,
            None if error.is::<Flood>() || error.root_cause().to_string().contains(HAND_OVER) => Self::Flood,
            _ => Self::Trap,
        }
    }
}

/// What wasmtime says of a guest that hands over too much; its type is not public.
const HAND_OVER: &str = "fuel allocated for hostcalls has been exhausted";

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Ends a call that calls the node too often.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} calls of the host in one call of the policy")]
pub(crate) struct Flood(pub(crate) u32);

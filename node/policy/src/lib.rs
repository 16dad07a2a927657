//! Policies: small WASM components that decide what goes where, and what keeps them harmless.
//!
//! A policy comes as one file ([`package`]): a component, its [`manifest`], and the [`signature`] of
//! somebody this node trusts. It is compiled in a child process ([`compile`]), linked to what the
//! contract gives it and nothing else, and called ([`call`]) under a deadline, a fuel budget and a
//! memory limit ([`engine`]). It sees [`rows`] of integers and answers with their indices; whatever
//! else it does, the [`builtin`] verdict is used and the [`cause`] counted. A policy that fails too
//! often rests ([`breaker`]); a new version earns its traffic step by step ([`rollout`]); what was
//! decided, and why, can be asked for and replayed ([`decisions`]).
//!
//! The contract itself is `plugins/wit`, and reads like documentation.

mod bindings;
pub mod breaker;
pub mod builtin;
pub mod call;
pub mod cause;
pub mod change;
pub mod compile;
pub mod component;
pub mod config;
pub mod decisions;
pub mod engine;
pub mod error;
mod guest;
mod ledger;
pub mod manifest;
mod metrics;
mod native;
pub mod package;
pub mod policies;
mod restore;
pub mod role;
pub mod rollout;
pub mod rows;
pub mod signature;
pub mod signing;
mod tables;
pub mod vectors;
mod verdict;
mod version;
mod watch;

pub use call::{Callable, Called, Limits};
pub use cause::Cause;
pub use change::Taken;
pub use compile::Compiler;
pub use config::PolicyConfig;
pub use engine::{Room, Runtime};
pub use error::PolicyError;
pub use guest::{Surroundings, Tables};
pub use manifest::{Manifest, World};
pub use package::Package;
pub use policies::{Decided, Policies};
pub use role::PolicyRole;

/// Rows of one call, at most.
pub const MOST_ROWS: usize = 4096;

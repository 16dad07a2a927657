//! The selector: a client's address in, an ordered list of nodes out, each with the link that suits
//! the client.
//!
//! Where a client is ([`locate`]) is told by the operator's coverage zone file ([`zone`], looked up in a
//! [`trie`]), else by MaxMind DB files ([`mmdb`]), else it is in the default region. Files are read
//! again when they change, and a broken one is not taken. The links that come into question are rows
//! for the region-router policy; what it says becomes the answer ([`route`]), over the public API
//! ([`api`]) or as a redirect ([`redirect`]). Nodes and their links come from the registry; one that
//! misses its heartbeats is in no row.
//!
//! Limits: rows, kept rows, first choices and names are bounded; a lookup takes no lock that is held
//! for longer than a copy, and a decision as long as a policy may take.

pub mod api;
mod chosen;
pub mod config;
mod distance;
pub mod error;
mod field;
mod files;
pub mod locate;
mod metrics;
pub mod mmdb;
mod names;
pub mod redirect;
pub mod role;
pub mod route;
mod sender;
pub mod trie;
pub mod zone;

pub use config::SelectorConfig;
pub use error::SelectorError;
pub use redirect::Owners;
pub use role::SelectorRole;
pub use route::{Parts, Route, Routed, Selector};

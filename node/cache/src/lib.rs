//! The HTTP cache role: sites pulled through into the chunk store.
//!
//! A request finds its site by `Host` and its object by target ([`index`]); what RFC 9111 lets
//! the node do with it is decided by pure functions ([`rfc`]); the answer is made in [`answer`]
//! and its body read from the store, from a running fill, or by asking the origin for the missing
//! slices ([`body`]). One fetch from the origin ([`fetch`]) feeds every client that waits for it, and what
//! is held as a resource already need not come again ([`adopt`]).
//! The sequence of it all is [`engine`],
//! its front door `hit`, its way to the origin `forward`, for other methods than GET and HEAD `pass`.

pub mod admin;
pub mod adopt;
pub mod answer;
pub mod body;
pub mod config;
mod ending;
pub mod engine;
pub mod error;
mod exchange;
pub mod extent;
pub mod fetch;
pub mod fill;
mod forward;
mod hit;
pub mod hold;
mod holding;
pub mod index;
mod lane;
pub mod metrics;
mod missing;
pub mod object;
pub mod origin;
mod pass;
mod pump;
pub mod purge;
pub mod request;
pub mod resources;
pub mod rfc;
pub mod site;

pub use config::{CacheConfig, SiteConfig};
pub use engine::{Cache, Parts};
pub use error::CacheError;

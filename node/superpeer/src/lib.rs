//! The super-peer role: whatever the catalogue holds, for any BitTorrent client.
//!
//! A peer's handshake names a torrent (`greeting`); one that is not held is closed before any data.
//! Else the peer joins the torrent's `swarm`, is given a place at the table when there is one
//! (`places`, `choke`; a taste of it until then: `allowed`), and its requests go out as slices of
//! the memory tier's chunks (`connection`, `outbox`), over TCP and, where it is wanted, uTP (`wire`,
//! `utp`). What peers keep in memory, and have read for hashes, is bounded over all of them (`memory`,
//! `load`, `hashing`). What cannot be given is withdrawn for a while. Nothing is asked of peers: what they
//! upload is theirs to decide.

mod allowed;
mod choke;
pub mod config;
mod connection;
pub mod error;
mod greeting;
mod hashing;
mod load;
mod memory;
pub mod metrics;
mod node;
mod offers;
mod outbox;
mod places;
pub mod role;
mod server;
mod swarm;
pub mod utp;
mod wire;

pub use config::SuperPeerConfig;
pub use error::SuperPeerError;
pub use role::SuperPeer;

//! The tracker role: announces, and who is told of whom.
//!
//! Clients announce themselves over [`http`] and [`udp`]; both make one [`tracker::Asked`] of it. The
//! [`tracker`] keeps the [`swarm`]s in memory, and lets the super-peer-scheduler policy choose whom the
//! answer names: super-peers that the rest of the node knows of ([`super_peers`]), and ordinary peers near
//! the client. Which address a peer is known by, and who may hear of it, is told in [`address`].
//!
//! All of it is soft state: after a restart clients announce themselves again within their interval, and
//! nothing is lost but counts. Threads: one for each UDP socket ([`udp::serve`]), the workers of an HTTP
//! listener, and one that forgets the silent ([`role`]).

pub mod address;
pub mod config;
pub mod error;
pub mod http;
pub mod metrics;
pub mod role;
mod schedule;
pub mod super_peers;
pub mod swarm;
pub mod tracker;
pub mod udp;

pub use self::http::TrackerHttp;
pub use config::TrackerConfig;
pub use error::{Refusal, TrackerError};
pub use role::TrackerRole;
pub use super_peers::{Held, NoSuperPeers, Region, SuperPeer, SuperPeers};
pub use tracker::{Parts, Tracker};

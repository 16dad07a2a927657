//! Downloading of torrents from ordinary BitTorrent peers, of either version (BEP 3, BEP 52).
//!
//! A [`Target`] says what is to be fetched: a metainfo file, a magnet link's info-hashes, or one
//! info-hash. [`Download::run`] asks [`Sources`] for peers (trackers, mostly: [`Trackers`]), hears of
//! more from the peers themselves (BEP 11), and gives every verified piece to a [`Sink`].
//!
//! What happens is decided in a state machine without sockets or clocks (`swarm`): bytes and time in,
//! bytes and events out. It goes through three phases. An info dictionary that is not known comes from
//! the peers (BEP 9); then the piece layers of a v2 torrent that lack (BEP 52, hash requests); then
//! pieces, the rarest first, those that a reader waits for before all others. Round it there is one
//! `driver`, with a task for each connection.
//!
//! Nothing that a peer says is believed: a piece leaves this crate when its hash is right, and who sent
//! parts of a wrong one is found out and banned. All that peers can make it keep is bounded, pieces on
//! their way by [`Options::memory_bytes`].
//!
//! It uploads nothing: a node serves peers on a port of its own. uTP is not spoken; peers that do not
//! answer a plain handshake are tried again under message stream encryption.

mod book;
mod connection;
mod driver;
mod error;
mod flow;
mod handle;
mod options;
mod partial;
mod peer;
mod picker;
mod piece;
#[cfg(test)]
mod seed;
mod sink;
mod sources;
mod swarm;
mod target;

use std::future::Future;
use std::pin::Pin;

pub use driver::Download;
pub use error::{Error, Failure};
pub use handle::{Handle, Progress};
pub use options::Options;
pub use sink::{Limit, Sink, piece_count};
pub use sources::{Answers, Ask, HttpGet, Sources, Trackers};
pub use target::Target;

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

//! The discovery role: peers are found without a tracker.
//!
//! What the node holds ([`Torrents`]) is announced in the DHT (`dht`, BEP 5) and on the local network
//! (`lsd`, BEP 14), as far as either is switched on: one after the other, over and over, at a pace that a
//! node of many torrents does not flood anybody with ([`schedule`]). Private torrents are never in that
//! list (BEP 27). Who is heard of for a torrent is remembered for a while ([`peers`]); whoever downloads
//! asks for it, and may have the DHT asked at once ([`Discovery::look_up`]).
//!
//! The DHT is the crate `mainline`, which knows IPv4 alone and has a thread of its own; it ends with the
//! role. It is strict about transaction ids: requests whose id is not 4 bytes long get no answer, so that as
//! a node of the DHT it is of use to some clients only. What it asks is answered by all of them.

pub mod config;
mod dht;
pub mod error;
mod limit;
mod lsd;
pub mod metrics;
pub mod peers;
pub mod role;
pub mod schedule;
pub mod torrents;

pub use config::DiscoveryConfig;
pub use error::{DiscoveryError, Unlisted};
pub use role::{Discovery, Parts};
pub use torrents::Torrents;

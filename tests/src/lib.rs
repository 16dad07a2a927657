//! The kit that Skerry's scenarios are built from. A scenario starts the real binary in front of
//! an origin that it scripts, and talks to it over sockets; nothing in here reaches into the node.
//!
//! - [`node`]: the `skerry` binary in a folder of its own, with every listener on port 0.
//! - [`process`]: the binary's own commands, run to their end.
//! - [`origin`] and [`reply`]: an HTTP/1.1 origin on loopback that behaves as badly as asked.
//! - [`raw`]: a client that sends exact bytes and reads answers leniently.
//! - [`client`]: a hyper client, for many requests at once.
//! - [`content`]: bytes that are known at every offset, so that wrong ones are noticed.
//! - [`policies`]: packaged and signed policies.
//! - [`peers`]: aria2, Transmission and libtorrent.
//! - [`netns`]: machines in network namespaces, on cables that can be cut.
//! - [`fleet`]: five nodes on such machines, in three regions.
//! - [`download`]: a client that goes where the selector sends it, and moves on.
//! - [`wait`]: polling with a bound, in place of sleeping.

pub mod client;
pub mod content;
pub mod download;
mod exposition;
pub mod fleet;
pub mod netns;
pub mod node;
pub mod origin;
pub mod peers;
pub mod policies;
pub mod process;
pub mod raw;
pub mod reply;
pub mod wait;

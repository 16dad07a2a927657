//! What the fleet knows: nodes and their links, who holds what, what is asked for, what went wrong.
//!
//! One node is the fleet's [`control`] node. It keeps all that in a store of records ([`kv`]; RocksDB,
//! behind a trait that a cluster engine fits), and shows it to the control roles (selector, tracker,
//! preloader) as a [`fleet`] in memory, with [`demand`] and [`wishes`]. Every node, the control node
//! too, is a [`member`]: it says who it is ([`message`]) and that it is well, what its links carry
//! ([`interfaces`]) and what it holds, over a transport that the node makes ([`client`]). A node that
//! loses the control node goes on serving, queues what it has to tell, and catches up.
//!
//! Nodes know each other by certificates ([`identity`]) of the fleet's own authority ([`ca`]), which a
//! machine gets for a one-time token ([`enrol`]) and renews by itself. The [`api`] lets a node speak for
//! itself alone, and of two machines with one id one.

pub mod api;
pub mod ca;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod demand;
pub mod enrol;
pub mod error;
pub mod fleet;
pub mod hex;
mod holdings;
pub mod identity;
mod instance;
pub mod interfaces;
pub mod kv;
pub mod member;
pub mod message;
mod metrics;
mod pace;
pub mod prefix;
mod random;
mod renew;
mod reports;
pub mod role;
pub mod wishes;

pub use api::{Endpoint, PreloadLists, ReportListener};
pub use client::{InProcess, Membership, Transport};
pub use config::{LinkConfig, RegistryConfig};
pub use control::Control;
pub use error::{CaError, KvError, Refused, RegistryError, TransportError};
pub use fleet::{Fleet, Holding, Link, Node, Nodes, PeerPort, PolicyVersion, Snapshot};
pub use identity::Caller;
pub use kv::{Kv, MemoryKv, RocksKv};
pub use member::{Member, Reply};
pub use metrics::Metrics;
pub use prefix::Prefix;
pub use reports::Kept;
pub use role::{Parts, RegistryRole};

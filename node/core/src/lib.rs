//! What every role of a node leans on, and nothing a role decides: configuration, logging,
//! listeners and their connections, drain, the admin listener, metrics.
//!
//! A process runs `workers` threads, each with its own current-thread runtime and its own
//! listening sockets (`SO_REUSEPORT`); a connection lives and dies on one of them. Work that is
//! not a connection (origin fetches, maintenance) runs on one shared background runtime.
//! This crate imports nothing of ours.

pub mod admin;
pub mod api;
pub mod body;
pub mod bucket;
pub mod config;
pub mod connection;
pub mod error;
pub mod files;
pub mod lane;
pub mod lifecycle;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod operator;
pub mod problem;
pub mod proxy_protocol;
pub mod role;
mod streams;
pub mod tls;
pub mod worker;

pub use body::{Body, BodyError};
pub use error::Error;
pub use role::Role;

//! The Skerry node: every role wired together, and the command line around it.
//!
//! [`cli`] parses what was asked; [`config`] reads and checks the one TOML file; [`run`] takes a
//! node from its start to its end: it binds the [`listeners`], builds the [`roles`], serves,
//! takes up a changed configuration on SIGHUP ([`reload`]), and drains on SIGTERM.
//!
//! [`simulation`] runs a fleet over simulated time instead, with the same roles that decide.
//!
//! Threads: one for every worker (public listeners), one for each admin listener, and a background
//! runtime for what belongs to no connection. The main thread waits for signals.

pub mod appliance;
pub mod cli;
pub mod config;
pub mod fleet;
pub mod listeners;
pub mod reload;
pub mod roles;
pub mod run;
pub mod simulation;

/// Name and version as `--version`, `/status` and `skerry_build_info` tell it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

//! The preloader: what nodes hold before anybody asks.
//!
//! On the control node a [`planner`] makes a list for every node: what operators ordered ([`orders`]),
//! what the scheduler wished more copies of, and what the preload-planner policy chooses out of what
//! the fleet is known to have ([`known`]) by what is asked for and where. On every node a [`filler`] gets
//! that list ([`lists`]) and makes the node hold what is on it; what to do and when is decided by a
//! [`plan`], which knows neither sockets nor clocks. [`popularity`] counts what clients ask for, and
//! [`told`] is what a node tells its planner.
//!
//! The crate fetches nothing itself: a [`Holder`], made where all roles meet, does. Something counts as
//! held when it is complete, and never before. Limits: items of a list, orders, known resources, counts
//! and fetches at once are bounded; a node keeps to its windows, its rate and its part of the disk
//! whatever it is told.

pub mod clock;
pub mod config;
pub mod error;
pub mod filler;
mod hash;
pub mod holder;
pub mod item;
pub mod known;
pub mod lists;
mod metrics;
pub mod orders;
mod pace;
mod placement;
pub mod plan;
mod planned;
pub mod planner;
pub mod popularity;
pub mod role;
mod round;
pub mod told;

pub use config::PreloadConfig;
pub use error::{HoldFailure, ListError, PlanError, PreloadError, Refused};
pub use filler::Filler;
pub use holder::{Holder, Journal};
pub use item::{Item, List};
pub use lists::{Lists, LocalLists, RemoteLists};
pub use metrics::Metrics;
pub use plan::{Action, HeldSummary, Limits, Plan};
pub use planner::{Planner, View};
pub use popularity::{Counts, Popularity};
pub use role::PreloadRole;
pub use skerry_window::Windows;
pub use told::Told;

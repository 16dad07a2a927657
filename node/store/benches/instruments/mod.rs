//! What the benchmarks of this crate measure with: the machine, children to kill, bounds, tables.

pub(crate) mod child;
pub(crate) mod machine;
pub(crate) mod run;
pub(crate) mod table;

/// What a step of a benchmark ends in.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

//! What benchmarks of running programs share: their command line, processes, what the kernel counts of
//! them, and figures against their targets.

pub(crate) mod machine;
#[path = "../speed/process.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of what the speed benchmark has")]
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod run;

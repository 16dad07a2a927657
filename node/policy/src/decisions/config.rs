//! `[policy.decisions]`.

use std::path::PathBuf;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// Less would rotate files all the time.
const LEAST_FILE: u64 = 1 << 20;

/// `[policy.decisions]`: which decisions are kept, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionsConfig {
    /// One routing or scheduling of so many is kept with its inputs; 0 is none, 1 is every one.
    pub calls_one_in: u64,
    /// One preload plan of so many is kept; 0 is none, 1 is every one.
    pub plans_one_in: u64,
    /// Decisions kept in memory.
    pub kept: usize,
    /// Memory for them.
    pub kept_bytes: u64,
    /// Folder in which decisions are recorded for replay; empty records none.
    pub record_dir: PathBuf,
    /// A file there is closed before it grows over this, and the next one begun; at least 1048576.
    pub record_file_bytes: u64,
    /// All files there together; the oldest are removed. At least `record_file_bytes`.
    pub record_total_bytes: u64,
}

impl Default for DecisionsConfig {
    fn default() -> Self {
        Self {
            calls_one_in: 100,
            plans_one_in: 1,
            kept: 10_000,
            kept_bytes: 16 << 20,
            record_dir: PathBuf::new(),
            record_file_bytes: 64 << 20,
            record_total_bytes: 1 << 30,
        }
    }
}

impl DecisionsConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.record_file_bytes < LEAST_FILE {
            return Err(("policy.decisions.record_file_bytes", format!("must be at least {LEAST_FILE}")));
        }
        if self.record_total_bytes < self.record_file_bytes {
            let reason = "must not be less than `policy.decisions.record_file_bytes`";
            return Err(("policy.decisions.record_total_bytes", reason.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_nonsense_is_refused() {
        let good = DecisionsConfig::default();
        assert_eq!(good.check(), Ok(()));
        for (bad, key) in [
            (DecisionsConfig { record_file_bytes: LEAST_FILE - 1, ..good.clone() }, "record_file_bytes"),
            (DecisionsConfig { record_total_bytes: LEAST_FILE, ..good.clone() }, "record_total_bytes"),
        ] {
            assert_eq!(bad.check().unwrap_err().0, format!("policy.decisions.{key}"));
        }
    }
}

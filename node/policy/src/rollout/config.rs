//! `[policy.rollout]`.

use std::time::Duration;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use super::Stage;

/// `[policy.rollout]`: how a new version of a policy takes over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Stages follow each other by themselves; false: each waits for the operator's promotion.
    pub automatic: bool,
    /// One call of so many is made with both versions, and their first choices compared.
    pub compare_one_in: u64,
    /// Shortest time in shadow, where the new version is asked and not obeyed.
    pub shadow_seconds: u64,
    /// Fewest calls of the new version there.
    pub shadow_calls: u64,
    /// Shortest time in which the new version decides for 1 % of the clients.
    pub canary_1_seconds: u64,
    /// Fewest calls of the new version in that time.
    pub canary_1_calls: u64,
    /// Shortest time in which it decides for 10 %.
    pub canary_10_seconds: u64,
    /// Fewest calls of the new version in that time.
    pub canary_10_calls: u64,
    /// Shortest time in which it decides for all clients and may still be demoted.
    pub all_seconds: u64,
    /// Fewest calls of the new version in that time.
    pub all_calls: u64,
    /// A stage's figures are judged from so many calls of the new version on.
    pub judged_calls: u64,
    /// Demoted when more of its calls in thousand fall back to the built-in verdict.
    pub max_fallback_permille: u64,
    /// Demoted when its p99 is longer than this part, in thousandths, of the time a call may take.
    pub max_p99_permille: u64,
    /// Demoted when more of the compared calls in thousand differ in their first choice; 1000 is never.
    pub max_disagreement_permille: u64,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            automatic: true,
            compare_one_in: 10,
            shadow_seconds: 600,
            shadow_calls: 500,
            canary_1_seconds: 600,
            canary_1_calls: 200,
            canary_10_seconds: 600,
            canary_10_calls: 1000,
            all_seconds: 3600,
            all_calls: 1000,
            judged_calls: 200,
            max_fallback_permille: 20,
            max_p99_permille: 500,
            max_disagreement_permille: 500,
        }
    }
}

impl RolloutConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, least) in [
            ("policy.rollout.compare_one_in", self.compare_one_in),
            ("policy.rollout.judged_calls", self.judged_calls),
        ] {
            if least == 0 {
                return Err((key, "must be at least 1".into()));
            }
        }
        for (key, calls) in [
            ("policy.rollout.shadow_calls", self.shadow_calls),
            ("policy.rollout.canary_1_calls", self.canary_1_calls),
            ("policy.rollout.canary_10_calls", self.canary_10_calls),
            ("policy.rollout.all_calls", self.all_calls),
        ] {
            // No stage is left before it was judged.
            if calls < self.judged_calls {
                return Err((key, "must not be less than `policy.rollout.judged_calls`".into()));
            }
        }
        for (key, permille) in [
            ("policy.rollout.max_fallback_permille", self.max_fallback_permille),
            ("policy.rollout.max_p99_permille", self.max_p99_permille),
            ("policy.rollout.max_disagreement_permille", self.max_disagreement_permille),
        ] {
            if permille > 1000 {
                return Err((key, "must be at most 1000".into()));
            }
        }
        Ok(())
    }

    /// The shortest time and the fewest calls of a stage; none for the two that are ends.
    pub(super) fn wait(&self, stage: Stage) -> Option<(Duration, u64)> {
        let (seconds, calls) = match stage {
            Stage::Shadow => (self.shadow_seconds, self.shadow_calls),
            Stage::Canary1 => (self.canary_1_seconds, self.canary_1_calls),
            Stage::Canary10 => (self.canary_10_seconds, self.canary_10_calls),
            Stage::All => (self.all_seconds, self.all_calls),
            Stage::Done | Stage::Demoted => return None,
        };
        Some((Duration::from_secs(seconds), calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right_and_nonsense_is_refused() {
        let good = RolloutConfig::default();
        assert_eq!(good.check(), Ok(()));
        for (bad, key) in [
            (RolloutConfig { compare_one_in: 0, ..good.clone() }, "compare_one_in"),
            (RolloutConfig { judged_calls: 0, ..good.clone() }, "judged_calls"),
            (RolloutConfig { shadow_calls: 199, ..good.clone() }, "shadow_calls"),
            (RolloutConfig { canary_1_calls: 199, ..good.clone() }, "canary_1_calls"),
            (RolloutConfig { canary_10_calls: 199, ..good.clone() }, "canary_10_calls"),
            (RolloutConfig { all_calls: 199, ..good.clone() }, "all_calls"),
            (RolloutConfig { max_fallback_permille: 1001, ..good.clone() }, "max_fallback_permille"),
            (RolloutConfig { max_p99_permille: 1001, ..good.clone() }, "max_p99_permille"),
            (RolloutConfig { max_disagreement_permille: 1001, ..good.clone() }, "max_disagreement_permille"),
        ] {
            assert_eq!(bad.check().unwrap_err().0, format!("policy.rollout.{key}"));
        }
    }
}

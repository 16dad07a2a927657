//! Whether the recorded verdicts of a package come again.

use anyhow::bail;
use serde_json::{Value, json};
use skerry_policy::Cause;
use skerry_policy::decisions::{Decision, Verdict};

use super::tally::{Example, Said};

/// What became of the verdicts that a package gave when it was recorded.
#[derive(Debug)]
pub(super) struct Verified {
    /// The package.
    digest: String,
    same: u64,
    other: u64,
    /// Calls that were ended by time, load or a limit of the node, which is in no recording.
    left_out: u64,
    examples: Vec<Example>,
    /// Who made the first decision that was not the package's.
    stranger: Option<String>,
}

impl Verified {
    pub(super) fn new(digest: String) -> Self {
        Self { digest, same: 0, other: 0, left_out: 0, examples: Vec::new(), stranger: None }
    }

    /// Compares what was recorded with what was said here, if the package made the decision.
    pub(super) fn add(&mut self, decision: &Decision, here: &Said, limit: usize) {
        if decision.digest != self.digest {
            self.stranger.get_or_insert_with(|| {
                let (policy, version, digest) = (&decision.policy, &decision.version, &decision.digest);
                format!("{policy:?} {version:?}, digest {digest:?}")
            });
        } else if !repeats(&decision.verdict) {
            self.left_out += 1;
        } else if json(&decision.verdict).is_some_and(|recorded| json(&here.verdict()) == Some(recorded)) {
            self.same += 1;
        } else {
            self.other += 1;
            if self.examples.len() < limit {
                let sides = [("recorded", Said::recorded(decision)), ("here", here.clone())];
                self.examples.push(Example::new(decision, sides));
            }
        }
    }

    /// Whether a verdict did not come again.
    pub(super) fn failed(&self) -> bool {
        self.other > 0
    }

    /// Whether the recording is of this package at all.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.same + self.other + self.left_out == 0 {
            let stranger = self.stranger.as_deref().unwrap_or("nobody");
            bail!("no decision by NEW, digest {:?}, to verify: the first is by {stranger}", self.digest);
        }
        Ok(())
    }

    pub(super) fn told(&self) -> String {
        let (same, whole) = (self.same, self.same + self.other);
        let mut text =
            format!("verified   {same} of {whole} recorded verdicts of new come again, byte for byte");
        if self.left_out > 0 {
            text.push_str(&format!(
                "; {} calls were ended by time, load or a limit, and are not compared",
                self.left_out
            ));
        }
        text.push('\n');
        text.extend(self.examples.iter().map(Example::told));
        text
    }

    pub(super) fn report(&self) -> Value {
        json!({
            "same": self.same,
            "other": self.other,
            "left_out": self.left_out,
            "examples": self.examples.iter().map(Example::report).collect::<Vec<_>>(),
        })
    }
}

/// Whether a verdict follows from what is recorded of its call. How busy the node was does not, nor do
/// the limits of its configuration.
fn repeats(verdict: &Verdict) -> bool {
    use Cause::{Deadline, Fuel, Full, Memory, Resting};
    !matches!(verdict, Verdict::Fallback(Deadline | Fuel | Memory | Full | Resting))
}

/// A verdict as it stands in a recording.
fn json(verdict: &Verdict) -> Option<Vec<u8>> {
    serde_json::to_vec(verdict).ok()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{decision, rows};
    use super::*;

    #[test]
    fn a_verdict_comes_again_byte_for_byte_or_not_at_all() {
        let recorded = decision(1, 3);
        let mut verified = Verified::new(recorded.digest.clone());
        let said = Said::recorded(&recorded);
        verified.add(&recorded, &said, 10);
        assert!(!verified.failed());
        assert_eq!(verified.told(), "verified   1 of 1 recorded verdicts of new come again, byte for byte\n");
        // The same rows with other weights, none, and the built-in verdict in place of the same one.
        for here in [
            Said::own(rows(&[1, 0], 2)),
            Said::of(Err(Cause::Trap), &recorded.builtin),
            Said::of(Err(Cause::Abstain), &said.answer),
        ] {
            verified.add(&recorded, &here, 2);
        }
        assert!(verified.failed() && verified.check().is_ok());
        assert_eq!((verified.same, verified.other, verified.examples.len()), (1, 3, 2));
        let text = verified.told();
        assert!(text.starts_with("verified   1 of 4 recorded verdicts of new come again"), "{text}");
        assert!(text.contains("recorded  rows [1, 0], weights [1, 1]\n"), "{text}");
        assert_eq!(verified.report()["examples"][1]["here"]["fallback"], "trap");
    }

    #[test]
    fn a_fallback_comes_again_by_its_cause_unless_it_depended_on_the_node() {
        for (cause, same, left_out) in
            [(Cause::Abstain, 1, 0), (Cause::Trap, 1, 0), (Cause::Deadline, 0, 1), (Cause::Memory, 0, 1)]
        {
            let mut recorded = decision(1, 3);
            recorded.verdict = Verdict::Fallback(cause);
            let mut verified = Verified::new(recorded.digest.clone());
            verified.add(&recorded, &Said::recorded(&recorded), 10);
            assert_eq!((verified.same, verified.left_out, verified.failed()), (same, left_out, false));
            assert_eq!(verified.told().contains("are not compared"), left_out > 0);
        }
    }

    #[test]
    fn a_recording_of_others_proves_nothing() {
        let recorded = decision(1, 3);
        let mut verified = Verified::new("ffff".into());
        verified.add(&recorded, &Said::recorded(&recorded), 10);
        let error = verified.check().unwrap_err().to_string();
        assert!(error.contains("digest \"ffff\"") && error.contains("by \"near\" \"1.0.0\""), "{error}");
    }
}

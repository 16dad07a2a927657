//! Decisions to try a replay with.

use skerry_policy::decisions::{Decision, Verdict};
use skerry_policy::rows::{Answer, Choice, Inputs, RouteCandidate, RouteRequest};

/// These rows, all of one weight.
pub(super) fn rows(rows: &[u32], weight: u32) -> Answer {
    Answer::Ranked(rows.iter().map(|row| Choice { row: *row, weight }).collect())
}

/// A route for a client of a region, as `near 1.0.0` gave it.
pub(super) fn decision(sequence: u64, region: u32) -> Decision {
    let inputs = Inputs::RegionRouter {
        request: RouteRequest { region, seed: sequence, ..RouteRequest::default() },
        candidates: vec![RouteCandidate::default(); 2],
    };
    Decision {
        sequence,
        at_ms: 1_700_000_000_000 + sequence,
        world: inputs.world(),
        policy: "near".into(),
        version: "1.0.0".into(),
        digest: "0123456789abcdef".repeat(4),
        stage: None,
        client: 1,
        inputs,
        lookups: Vec::new(),
        verdict: Verdict::Answer(rows(&[1, 0], 1)),
        fuel: 900,
        took_us: 13,
        builtin: rows(&[1, 0], 1),
    }
}

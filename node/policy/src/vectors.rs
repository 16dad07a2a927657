//! A policy's own test vectors, run where it is to decide.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::PolicyError;
use crate::call::{Callable, Called};
use crate::cause::Cause;
use crate::guest::{Surroundings, Tables};
use crate::manifest::{Manifest, Vector, World};
use crate::rows::Answer;

/// Calls of one vector that may be late before it is held against the policy: the node has other work.
const LATE: u32 = 6;
/// Before the second call, which comes when the node may have less to do, and twice as long before each one after that:
/// 630 ms in all.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls a policy as a vector says.
pub fn call(callable: &Callable, vector: &Vector) -> Called {
    let mut tables = Tables::new();
    for entry in &vector.tables {
        let table: &mut HashMap<u64, i64> = tables.entry(entry.name.clone()).or_default();
        table.insert(entry.key, entry.value);
    }
    callable.call(&vector.inputs, &Surroundings { now_ms: vector.now, tables: Arc::new(tables) })
}

/// What came of a vector, when that is not what it expects.
pub fn miss(vector: &Vector, called: &Called) -> Option<String> {
    let answer = match &called.result {
        Ok(answer) => answer.clone(),
        Err(Cause::Abstain) => Answer::Abstain,
        Err(Cause::Invalid) => Answer::Invalid(String::new()),
        Err(cause) => {
            let error = called.error.as_deref().unwrap_or_default();
            return Some(format!("expected {}, and the call ended with `{cause}`: {error}", vector.expected));
        }
    };
    (!vector.expected.met_by(&answer)).then(|| format!("expected {}, got {answer}", vector.expected))
}

/// Runs every vector of a world; waits where one is late, so not on a thread that others wait for.
///
/// # Errors
/// The first that does not hold.
pub(crate) fn hold(callable: &Callable, manifest: &Manifest, world: World) -> Result<(), PolicyError> {
    for vector in manifest.vectors.iter().filter(|vector| vector.inputs.world() == world) {
        let mut called = call(callable, vector);
        for again in 0..LATE {
            if called.result != Err(Cause::Deadline) {
                break;
            }
            thread::sleep(PAUSE * (1 << again));
            called = call(callable, vector);
        }
        if let Some(reason) = miss(vector, &called) {
            return Err(PolicyError::Vector { vector: vector.name.clone(), reason });
        }
    }
    Ok(())
}

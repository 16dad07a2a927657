//! Components that somebody changed, up to their first call: an error, or a policy that is contained.
#![no_main]

#[allow(dead_code, reason = "only the good guest is wanted here")]
#[path = "../../../node/policy/tests/hostile/guests.rs"]
mod guests;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use skerry_policy::package::pack;
use skerry_policy::rows::{Inputs, RouteCandidate, RouteRequest};
use skerry_policy::{Callable, Compiler, Limits, Package, Room, Runtime, Surroundings, World};
use tempfile::TempDir;

const MANIFEST: &str = "name = \"fuzzed\"\nversion = \"1.0.0\"\nworlds = [\"region-router\"]\n";
const LIMITS: Limits =
    Limits { time: Duration::from_millis(50), memory_bytes: 4 << 20, fuel: 1_000_000, calls: 1, reuses: 1 };

struct Node {
    runtime: Arc<Runtime>,
    compiler: Compiler,
    folder: TempDir,
    good: Vec<u8>,
}

static NODE: LazyLock<Node> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let room = Room { instances: 4, memory_bytes: 4 << 20, lines: false };
    Node {
        runtime: Runtime::new(room).expect("an engine"),
        compiler: Compiler::new(None, folder.path(), Duration::from_secs(5), 1 << 30).expect("a compiler"),
        folder,
        good: guests::Guest::new(guests::FIRST).component(),
    }
});

/// The good component with single bytes changed: three bytes say where, one says what.
fn edited(edits: &[u8]) -> Vec<u8> {
    let mut component = NODE.good.clone();
    for edit in edits.as_chunks::<4>().0.iter().take(16) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % component.len();
        component[at] = edit[3];
    }
    component
}

fuzz_target!(|data: &[u8]| {
    let component = match data.split_first() {
        Some((0, whole)) => whole.to_vec(),
        Some((_, edits)) => edited(edits),
        None => return,
    };
    let Ok(packed) = pack(&component, MANIFEST) else { return };
    let package = Package::parse(packed).expect("what pack writes is a package");
    let compiled = NODE.compiler.component(&NODE.runtime, &package);
    let _ = std::fs::remove_file(NODE.folder.path().join(format!("{}.native", package.digest_hex())));
    let Ok(component) = compiled else { return };
    let world = World::RegionRouter;
    let Ok(policy) = Callable::new(&NODE.runtime, &component, &package.manifest, world, LIMITS) else { return };
    let candidates = vec![RouteCandidate::default(); 3];
    let inputs = Inputs::RegionRouter { request: RouteRequest::default(), candidates };
    let called = policy.call(&inputs, &Surroundings::default());
    assert!(called.took < 10 * LIMITS.time, "{called:?}");
});

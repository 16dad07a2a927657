//! Policies over the starts of their node: what is taken, what comes back, and what a compiler that is
//! slow or gone changes about it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::Registry;
use serde_json::{Value, json};
use skerry_core::Role;
use skerry_policy::rows::{Inputs, RouteCandidate, RouteRequest};
use skerry_policy::{
    Cause, Package, Policies, PolicyConfig, PolicyError, PolicyRole, World, component, package,
};
use tempfile::TempDir;

const ROUTER: World = World::RegionRouter;
const PEERS: World = World::SuperPeerScheduler;
const SOON: Duration = Duration::from_secs(60);
/// What stands before the code in a file of compiled code.
const MAC: usize = 32;

/// The default policy of a world, by the module that `make test` has built, with more lines for its
/// manifest.
fn packed(world: World, version: &str, more: &str) -> Vec<u8> {
    let folder =
        std::env::var("SKERRY_POLICY_MODULES").expect("`make test` says where the policies' modules are");
    let module = PathBuf::from(folder).join(format!("skerry_{}.wasm", world.name().replace('-', "_")));
    let module = fs::read(&module).unwrap_or_else(|error| panic!("{}: {error}", module.display()));
    let manifest = format!("name = \"{world}\"\nversion = \"{version}\"\nworlds = [\"{world}\"]\n{more}");
    package::pack(&component::of_module(&module).expect("a component"), &manifest).expect("a package")
}

fn digest(packed: &[u8]) -> String {
    Package::parse(packed.to_vec()).expect("a package").digest_hex()
}

/// Where a node keeps its policies from one start to the next.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("policies")
    }

    fn native(&self, packed: &[u8]) -> PathBuf {
        self.folder().join("native").join(format!("{}.native", digest(packed)))
    }

    fn ledger(&self) -> Value {
        let text = fs::read(self.folder().join("ledger.json")).expect("a ledger");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The policies of a node that starts here; with another program in place of its compiler.
    fn start(&self, worker: Option<PathBuf>) -> Policies {
        self.start_with(PolicyConfig::default(), worker, &Registry::new())
    }

    fn start_with(&self, config: PolicyConfig, worker: Option<PathBuf>, registry: &Registry) -> Policies {
        // A machine that is busy with other tests is not what is tried here.
        let config =
            PolicyConfig { allow_unsigned: true, route_time_ms: 2000, schedule_time_ms: 2000, ..config };
        Policies::new(config, &self.folder(), worker, registry).expect("policies")
    }

    /// A program, as a script for the shell.
    fn program(&self, script: &str) -> PathBuf {
        let path = self.0.path().join("compiler");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a program");
        path
    }
}

/// Has a policy take over at once.
fn take_over(policies: &Policies, packed: &[u8]) {
    let taken = policies.take(packed.to_vec()).expect("taken");
    for world in taken.worlds {
        (0..4).for_each(|_| assert!(policies.promote(world)));
    }
}

/// A world, as the admin listener tells of it.
fn slot(policies: &Policies, world: World) -> Value {
    let status = PolicyRole::new(policies.clone()).status();
    let slots = status["worlds"].as_array().expect("worlds");
    slots.iter().find(|slot| slot["world"] == world.name()).expect("the world's").clone()
}

fn inputs() -> Inputs {
    let candidate = RouteCandidate { capacity_kbps: 1000, health: 1000, ..RouteCandidate::default() };
    Inputs::RegionRouter { request: RouteRequest::default(), candidates: vec![candidate; 2] }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "{what} did not come");
        thread::sleep(Duration::from_millis(10));
    }
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file");
    path
}

#[test]
fn what_is_kept_compiled_is_there_at_the_start() {
    let (home, router) = (Home::new(), packed(ROUTER, "1.0.0", ""));
    take_over(&home.start(None), &router);
    let policies = home.start(Some(home.program("exit 1")));
    let now = slot(&policies, ROUTER);
    assert_eq!((&now["decides"]["version"], &now["restoring"]), (&json!("1.0.0"), &json!(false)));
    assert_eq!(policies.decide(&inputs(), 1).cause, None);
}

#[test]
fn what_must_be_compiled_anew_is_waited_for_by_nobody_but_a_push() {
    let (home, router, peers) = (Home::new(), packed(ROUTER, "1.0.0", ""), packed(PEERS, "1.0.0", ""));
    let policies = home.start(None);
    take_over(&policies, &router);
    take_over(&policies, &peers);
    drop(policies);
    // As after an upgrade, but for one world alone; and the compiler takes as long as the test wants.
    let code = fs::read(home.native(&router)).expect("native code");
    fs::remove_file(home.native(&router)).expect("native code");
    let code = file(home.0.path(), "code", &code[MAC..]);
    let gate = home.0.path().join("gate");
    let waits = format!("until [ -e '{}' ]; do /bin/sleep 0.02; done", gate.display());
    let policies = home.start(Some(home.program(&format!("{waits}\nexec /bin/cat '{}'", code.display()))));

    let now = slot(&policies, ROUTER);
    assert_eq!((&now["decides"], &now["restoring"]), (&Value::Null, &json!(true)));
    assert_eq!(policies.decide(&inputs(), 1).cause, Some(Cause::None));
    let now = slot(&policies, PEERS);
    assert_eq!((&now["decides"]["version"], &now["restoring"]), (&json!("1.0.0"), &json!(false)));
    // Nothing changes where not everything is there; a change elsewhere leaves its place alone.
    assert!(!policies.promote(ROUTER) && !policies.hold(ROUTER, true));
    assert_eq!(policies.roll_back(ROUTER), None);
    assert_eq!(policies.roll_back(PEERS).as_deref(), Some("the built-in verdict"));
    assert_eq!(home.ledger()["worlds"][ROUTER.name()]["incumbent"], digest(&router));

    let next = packed(ROUTER, "1.0.1", "");
    let pushing = policies.clone();
    let push = thread::spawn(move || pushing.take(next));
    fs::write(&gate, "").expect("a file");
    let taken = push.join().expect("no panic").expect("taken");
    assert_eq!((taken.version.as_str(), taken.worlds), ("1.0.1", vec![ROUTER]));
    let now = slot(&policies, ROUTER);
    assert_eq!((&now["decides"]["version"], &now["restoring"]), (&json!("1.0.0"), &json!(false)));
    assert_eq!(now["candidate"]["policy"]["version"], "1.0.1");
    assert_eq!(policies.decide(&inputs(), 1).cause, None);
}

#[test]
fn a_place_is_kept_for_what_does_not_compile_this_time() {
    let (home, router) = (Home::new(), packed(ROUTER, "1.0.0", ""));
    let first = home.start(None);
    take_over(&first, &router);
    take_over(&first, &packed(PEERS, "1.0.0", ""));
    drop(first);
    fs::remove_file(home.native(&router)).expect("native code");
    let policies = home.start(Some(home.program("echo no >&2; exit 1")));
    until("the end of it", || slot(&policies, ROUTER)["restoring"] == false);
    assert_eq!(slot(&policies, ROUTER)["decides"], Value::Null);
    assert!(policies.roll_back(PEERS).is_some(), "what is written down leaves the place alone");
    drop(policies);
    let policies = home.start(None);
    until("its return", || slot(&policies, ROUTER)["decides"]["version"] == "1.0.0");
    assert_eq!(slot(&policies, PEERS)["decides"], Value::Null);
}

#[test]
fn only_what_is_taken_has_counters() {
    let (home, registry) = (Home::new(), Registry::new());
    let policies = home.start_with(PolicyConfig::default(), None, &registry);
    let series = || {
        let families = registry.gather();
        let counters = families.iter().filter(|family| family.name() == "skerry_policy_counter_total");
        counters.map(|family| family.get_metric().len()).sum::<usize>()
    };
    let counters = "counters = [\"one\", \"two\"]\n";
    let wrong = "[[vectors]]\nname = \"wrong\"\nworld = \"region-router\"\nrows = [\n\
        { node = 1, capacity-kbps = 1000, health = 0 },\n\
        { node = 2, capacity-kbps = 1000, health = 1000 },\n]\nexpect = [0]\n";
    let refused = policies.take(packed(ROUTER, "1.0.0", &format!("{counters}{wrong}")));
    assert!(matches!(refused, Err(PolicyError::Vector { .. })), "{refused:?}");
    assert_eq!(series(), 0);
    policies.take(packed(ROUTER, "1.0.0", counters)).expect("taken");
    assert_eq!(series(), 2);
}

#[test]
fn what_was_refused_in_the_folder_is_tried_once_and_again_when_it_is_signed() {
    let (home, registry) = (Home::new(), Registry::new());
    let keys = skerry_policy::signing::generate(None).expect("a key pair");
    let folder = tempfile::tempdir().expect("a folder");
    let config = PolicyConfig {
        signers: [("author".to_owned(), keys.public.clone())].into(),
        watch_dir: folder.path().to_owned(),
        ..PolicyConfig::default()
    };
    let policies = Policies::new(config, &home.folder(), None, &registry).expect("policies");
    let refused = || {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == "skerry_policy_refused_total");
        family.map(|family| family.get_metric()[0].get_counter().get_value())
    };
    let router = packed(ROUTER, "1.0.0", "");
    file(folder.path(), "a.policy.wasm", &router);
    file(folder.path(), "b.policy.wasm", b"no policy");
    // What nobody ever writes to is not waited for.
    fs::create_dir(folder.path().join("c.policy.wasm")).expect("a folder");
    for _ in 0..3 {
        policies.scan();
        assert_eq!(refused(), Some(2.0));
    }
    let signed = skerry_policy::signing::sign(&router, &keys.secret_file, None).expect("a signature");
    file(folder.path(), "a.policy.wasm", &signed);
    policies.scan();
    let list = PolicyRole::new(policies.clone());
    assert_eq!(list.status()["worlds"][0]["candidate"]["policy"]["signer"], "author");
    assert_eq!(refused(), Some(2.0));
}

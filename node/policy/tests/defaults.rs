//! The default policies as components: their own vectors hold, and they decide as the built-in
//! verdicts do, which are the same functions called natively.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skerry_policy::manifest::World;
use skerry_policy::rows::{
    Answer, Inputs, PeerCandidate, PeerRequest, PlanItem, PlanRequest, RouteCandidate, RouteRequest,
};
use skerry_policy::{
    Callable, Cause, Compiler, Package, PolicyConfig, Runtime, Surroundings, builtin, component, package,
    vectors,
};

/// The modules that `make test` has built for `wasm32-unknown-unknown`.
fn packed(name: &str) -> Package {
    let folder =
        std::env::var("SKERRY_POLICY_MODULES").expect("`make test` says where the policies' modules are");
    let module = PathBuf::from(folder).join(format!("skerry_{}.wasm", name.replace('-', "_")));
    let module = std::fs::read(&module).unwrap_or_else(|error| panic!("{}: {error}", module.display()));
    let manifest = format!("../../plugins/{name}/manifest.toml");
    let manifest = std::fs::read_to_string(manifest).expect("a manifest");
    let component = component::of_module(&module).expect("a component");
    Package::parse(package::pack(&component, &manifest).expect("a package")).expect("a package")
}

struct Loaded {
    package: Package,
    callable: Callable,
}

fn load(world: World, change: impl Fn(&mut PolicyConfig)) -> Loaded {
    // A machine that is busy with other tests is not what is tried here.
    let mut config = PolicyConfig {
        route_time_ms: 2000,
        schedule_time_ms: 2000,
        plan_time_ms: 2000,
        ..PolicyConfig::default()
    };
    change(&mut config);
    let mut package = packed(world.name());
    package.manifest.limits.time_ms = None;
    let runtime = Runtime::new(config.room()).expect("an engine");
    let folder = tempfile::tempdir().expect("a folder");
    let compiler = Compiler::new(None, folder.path(), Duration::from_secs(60), 1 << 30).expect("a compiler");
    let component = compiler.component(&runtime, &package).expect("native code");
    let callable = Callable::new(&runtime, &component, &package.manifest, world, config.limits(world))
        .expect("a policy");
    Loaded { package, callable }
}

fn number(random: &mut fastrand::Rng, most: u32) -> u32 {
    match random.u32(0..10) {
        0 => 0,
        1 => u32::MAX,
        2 => random.u32(..),
        _ => random.u32(0..most),
    }
}

fn inputs(world: World, random: &mut fastrand::Rng) -> Inputs {
    let rows = random.usize(1..120);
    let mut small = |most| number(random, most);
    match world {
        World::RegionRouter => {
            let candidates = (0..rows).map(|_| RouteCandidate {
                node: small(40),
                region: small(4),
                isp: small(4),
                distance_us: small(80_000),
                used_kbps: small(1_000_000),
                capacity_kbps: small(2_000_000),
                health: small(1001),
                held: small(1001),
                chosen_ms_ago: small(60_000),
            });
            let candidates = candidates.collect();
            let request = RouteRequest {
                client: random.u64(..),
                region: random.u32(0..4),
                isp: random.u32(0..4),
                resource_hash: random.u64(..),
                size_bytes: random.u64(..),
                seed: random.u64(..),
            };
            Inputs::RegionRouter { request, candidates }
        }
        World::PreloadPlanner => {
            let items = (0..rows).map(|_| PlanItem {
                size_bytes: u64::from(small(1 << 30)),
                demand_near: u64::from(small(100_000)),
                demand_far: u64::from(small(100_000)),
                copies_near: small(5),
                copies_far: small(5),
                held: small(1001),
                listed_seconds: small(100_000),
                age_seconds: small(100_000),
            });
            let items = items.collect();
            let request = PlanRequest {
                region: random.u32(0..4),
                capacity_bytes: random.u64(0..1 << 36),
                window_bytes: random.u64(0..1 << 34),
                window_seconds: random.u32(0..86_400),
                seed: random.u64(..),
            };
            Inputs::PreloadPlanner { request, items }
        }
        World::SuperPeerScheduler => {
            let candidates = (0..rows).map(|_| PeerCandidate {
                super_peer: small(2).min(1),
                region: small(4),
                isp: small(4),
                distance_us: small(80_000),
                used_kbps: small(1_000_000),
                capacity_kbps: small(2_000_000),
                health: small(1001),
                held: small(1001),
                named_ms_ago: small(60_000),
            });
            let candidates = candidates.collect();
            let request = PeerRequest {
                client: random.u64(..),
                region: random.u32(0..4),
                isp: random.u32(0..4),
                size_bytes: random.u64(..),
                have: random.u32(0..1001),
                wanted: random.u32(0..100),
                downloading: random.u32(0..10_000),
                demand_kbps: random.u32(..),
                seed: random.u64(..),
            };
            Inputs::SuperPeerScheduler { request, candidates }
        }
    }
}

#[test]
fn their_own_vectors_hold() {
    for world in World::ALL {
        let loaded = load(world, |_| ());
        let own = &loaded.package.manifest.vectors;
        assert!(own.len() >= 5, "{world} has {} vectors", own.len());
        for vector in own {
            let called = vectors::call(&loaded.callable, vector);
            assert_eq!(vectors::miss(vector, &called), None, "{world}: {}", vector.name);
        }
    }
}

#[test]
fn they_decide_as_the_built_in_verdicts_do() {
    let mut random = fastrand::Rng::with_seed(3);
    for world in World::ALL {
        let loaded = load(world, |_| ());
        let mut decided = 0;
        for call in 0..1000 {
            let inputs = inputs(world, &mut random);
            let called = loaded.callable.call(&inputs, &Surroundings::default());
            let expected = match builtin::decide(&inputs) {
                Answer::Abstain => Err(Cause::Abstain),
                Answer::Invalid(_) => Err(Cause::Invalid),
                answer => Ok(answer),
            };
            assert_eq!(called.result, expected, "{world}, call {call}: {:?}", called.error);
            decided += usize::from(called.result.is_ok());
        }
        assert!(decided > 500, "{world} decided {decided} of 1000");
    }
}

#[test]
fn many_threads_share_one_policy() {
    let loaded = Arc::new(load(World::RegionRouter, |config| config.calls = 4));
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let loaded = loaded.clone();
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..300 {
                    let inputs = inputs(World::RegionRouter, &mut random);
                    let called = loaded.callable.call(&inputs, &Surroundings::default());
                    assert!(matches!(called.result, Ok(_) | Err(Cause::Abstain)), "{called:?}");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread that is well"));
    assert!((1..=4).contains(&loaded.callable.warm()));
}

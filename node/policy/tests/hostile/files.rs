//! Hostile files: what does not load, what a compiler chokes on, and what is cut or changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::ClockId;
use skerry_policy::package::PackageError;
use skerry_policy::{Callable, Cause, Compiler, Package, PolicyError, World, component, package};

use crate::guests::{FIRST, FOR_EVER, Guest, crowd, doubling};
use crate::node::{LIMITS, Node, TIME, cpu_time, packed, timed};

/// Longest compilation here; a node's child has a limit of its own.
const COMPILATION: Duration = Duration::from_secs(20);
const FLIPS: u64 = 1000;

/// A package whose component is these bytes, as if it had been signed and let through.
fn let_through(number: u64, component: &[u8], like: &Package) -> Package {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    Package { component: Bytes::copy_from_slice(component), digest, ..like.clone() }
}

/// Loads and calls what can be loaded. It may answer anything, but in time, and hurts nobody.
fn is_contained(node: &Node, number: u64, component: &[u8], like: &Package) {
    // The outer walls read these bytes too, and may take them or not.
    let _ = package::pack(component, &like.manifest_text).map(Package::parse);
    if let Ok(policy) = node.take(&let_through(number, component, like), LIMITS) {
        let (called, took) = timed(&policy);
        assert!(took < 2 * TIME, "{number}: {:?} after {took:?}", called.result);
        assert!(called.memory_bytes as u64 <= LIMITS.memory_bytes);
    }
}

fn is_well(node: &Node) {
    let (called, _) = node.good();
    assert!(called.result.is_ok(), "the good policy is hurt: {:?}", called.error);
}

/// Why a component, written as text, is not taken.
fn refusal(node: &Node, text: &str) -> PolicyError {
    let component = wat::parse_str(text).expect("a component");
    match node.take(&packed(&component, ""), LIMITS) {
        Ok(_) => panic!("taken: {text}"),
        Err(error) => error,
    }
}

#[test]
fn every_truncation() {
    let node = Node::new();
    let component = Guest::new(FIRST).component();
    let whole = packed(&component, "");
    for length in 0..component.len() {
        is_contained(&node, length as u64, &component[..length], &whole);
    }
    is_well(&node);
}

#[test]
fn bits_that_flip() {
    let node = Node::new();
    let component = Guest::new(FIRST).component();
    let whole = packed(&component, "");
    for seed in 0..FLIPS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut changed = component.clone();
        for _ in 0..random.u32(1..4) {
            let at = random.usize(..changed.len());
            changed[at] ^= 1 << random.u32(..8);
        }
        is_contained(&node, seed, &changed, &whole);
    }
    is_well(&node);
}

#[test]
fn what_is_no_component() {
    let node = Node::new();
    let whole = packed(&Guest::new(FIRST).component(), "");
    let module = Guest::new(FIRST).module();
    assert_eq!(package::pack(&module, &whole.manifest_text), Err(PackageError::CoreModule));
    let files = [&module[..], b"", b"(component)", b"\0asm\x0d\0\x01\0\xff"];
    for (number, file) in files.into_iter().enumerate() {
        let taken = node.take(&let_through(number as u64, file, &whole), LIMITS);
        assert!(matches!(taken, Err(PolicyError::Compile(_))), "{:?}", taken.err());
    }
    is_well(&node);
}

#[test]
fn components_of_no_world() {
    let node = Node::new();
    assert!(matches!(refusal(&node, "(component)"), PolicyError::World { world: "region-router", .. }));
    let router = packed(&Guest::new(FIRST).component(), "");
    let native = node.compiler.component(&node.runtime, &router).expect("native code");
    let planner = Callable::new(&node.runtime, &native, &router.manifest, World::PreloadPlanner, LIMITS);
    assert!(matches!(planner.err(), Some(PolicyError::World { world: "preload-planner", .. })));
}

#[test]
fn imports_that_nobody_gives() {
    let node = Node::new();
    let guest = Guest::new(format!("(call $x) {FIRST}")).imports(r#"(import "env" "x" (func $x))"#);
    let made = component::of_module(&guest.embedded("skerry:policy/region-router@1.0.0"));
    assert!(matches!(made, Err(PolicyError::Component(_))), "{:?}", made.err());
    for name in ["env", "skerry:policy/store@1.0.0", "skerry:policy/host@2.0.0", "test:wasi/random@0.2.0"] {
        let text = if name.contains(':') {
            format!(r#"(component (import "{name}" (instance)))"#)
        } else {
            format!(r#"(component (import "{name}" (func)))"#)
        };
        match refusal(&node, &text) {
            PolicyError::Import(import) => assert_eq!(import, name),
            error => panic!("{name}: {error}"),
        }
    }
    // WASI's functions are answered by traps; a whole module cannot be.
    let module = r#"(component (import "wasi:random/random@0.2.0" (core module)))"#;
    assert!(matches!(refusal(&node, module), PolicyError::Import(_) | PolicyError::World { .. }));
}

#[test]
fn wasi_traps_when_it_is_called() {
    let node = Node::new();
    let import = r#"(import "wasi:random/random@0.2.0" "get-random-u64" (func $random (result i64)))"#;
    let leaky = |route: &str| {
        let component = Guest::new(route).imports(import).leaky_component();
        node.take(&packed(&component, ""), LIMITS).expect("a policy")
    };
    node.answers(&leaky(FIRST));
    let called = node.ends(&leaky(&format!("(drop (call $random)) {FIRST}")), Cause::Trap);
    let error = called.error.expect("words");
    assert!(error.contains("wasi:random/random@0.2.0"), "{error}");
}

#[test]
fn more_parts_than_there_is_room_for() {
    let node = Node::new();
    for text in [
        crowd("", 65),
        crowd("(memory 1)", 5),
        crowd("(table 1 funcref) (table 1 funcref) (table 1 funcref)", 3),
        crowd("(memory 1) (memory 1)", 1),
        crowd(&"(table 1 funcref)".repeat(5), 1),
        crowd("(table 20001 funcref)", 1),
        // 64 MiB are all that this engine has room for.
        crowd("(memory 1025)", 1),
        crowd("(memory 65536)", 1),
        crowd("(memory i64 1)", 1),
        crowd("(memory 1 1 shared)", 1),
        doubling(12),
    ] {
        let error = refusal(&node, &text);
        assert!(matches!(error, PolicyError::Compile(_)), "{text}: {error}");
    }
    is_well(&node);
}

#[test]
fn compile_bombs() {
    let node = Node::new();
    let depth = 50_000;
    let targets: String = (0..depth).map(|label| format!("{label} ")).collect();
    let table = format!("(br_table {targets} (local.get 6))");
    let blocks = format!("{} {table} {} {FIRST}", "block ".repeat(depth), "end ".repeat(depth));
    // What the compiler does with nested loops grows with the square of their depth, its memory too.
    let (loops, ends) = ("loop ".repeat(10_000), "end ".repeat(10_000));
    let choice = "(if (local.get 6) (then (local.set 6 (local.get 7))) (else (local.set 7 (local.get 6))))";
    let functions = "(func (param i32) (result i32) (local.get 0))".repeat(20_000);
    for (what, guest) in [
        ("blocks in blocks and a large table", Guest::new(blocks)),
        ("loops in loops", Guest::new(format!("{loops} (br_if 0 (local.get 6)) {ends} {FIRST}"))),
        ("choice after choice", Guest::new(format!("{} {FIRST}", choice.repeat(20_000)))),
        ("many functions", Guest::new(FIRST).with(functions)),
        ("many locals", Guest::new(format!("(local {}) {FIRST}", "i64 ".repeat(49_000)))),
    ] {
        let package = packed(&guest.component(), "");
        let before = cpu_time(ClockId::ProcessCPUTime);
        let taken = node.take(&package, LIMITS);
        let took = cpu_time(ClockId::ProcessCPUTime) - before;
        assert!(took < COMPILATION, "{what} took {took:?}");
        if let Ok(policy) = taken {
            let (called, took) = timed(&policy);
            assert!(took < 2 * TIME, "{what}: {:?} after {took:?}", called.result);
        }
        is_well(&node);
    }
}

#[test]
fn a_compiler_that_does_not_end() {
    let node = Node::new();
    let worker = node.folder.path().join("worker");
    let compile = |script: &str, seconds: u64| {
        fs::write(&worker, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o700)).expect("a program");
        let folder = node.folder.path().join("child");
        let compiler = Compiler::new(Some(worker.clone()), &folder, Duration::from_secs(seconds), 1 << 30)
            .expect("a compiler");
        let begun = Instant::now();
        let policy = packed(&Guest::new(FIRST).component(), "");
        let error = compiler.component(&node.runtime, &policy).expect_err("no code");
        assert!(begun.elapsed() < Duration::from_secs(60), "{error} after {:?}", begun.elapsed());
        error.to_string()
    };
    assert_eq!(compile("exec /bin/sleep 600", 1), "it does not compile: it takes more than 1 s");
    assert_eq!(compile("echo one >&2; echo why >&2; exit 1", 30), "it does not compile: why");
    let killed = compile("kill -9 $$", 30);
    assert!(killed.ends_with("over its limit of time or memory"), "{killed}");
    // What it writes is no code.
    let garbage = compile("echo code", 30);
    assert!(garbage.starts_with("it does not compile: "), "{garbage}");
    is_well(&node);
}

#[test]
fn native_code_that_somebody_changed() {
    let node = Node::new();
    let path = |package: &Package| node.folder.path().join(format!("{}.native", package.digest_hex()));
    let (good, bad) =
        (packed(&Guest::new(FIRST).component(), ""), packed(&Guest::new(FOR_EVER).component(), ""));
    for package in [&good, &bad] {
        node.take(package, LIMITS).expect("a policy");
    }
    // Sound code of another policy, under this one's name.
    fs::copy(path(&bad), path(&good)).expect("a copy");
    node.answers(&node.take(&good, LIMITS).expect("a policy"));
    let whole = fs::read(path(&good)).expect("native code");
    for at in [0, 31, 32, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(path(&good), &changed).expect("a file");
        node.answers(&node.take(&good, LIMITS).expect("a policy"));
        assert_ne!(fs::read(path(&good)).expect("native code"), changed, "byte {at} is not mended");
    }
    for length in [0, 31, 32, whole.len() - 1] {
        fs::write(path(&good), &whole[..length]).expect("a file");
        node.answers(&node.take(&good, LIMITS).expect("a policy"));
    }
}

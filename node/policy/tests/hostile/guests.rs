//! Guests written by hand as core modules: the canonical ABI of `region-routing` spelled out, so that
//! each rule of it can be broken.
//!
//! `route` takes the six numbers of the request, and the address and length of the candidates: eight
//! values, few enough to be handed over without memory. It returns the address of its verdict, which
//! has the number of the case in byte 0, and an address and a length in bytes 4 and 8. Before it runs,
//! the node asks `cabi_realloc` for room for the candidates, the only thing it ever asks room for.

use std::iter;

use skerry_policy::component;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Body of a `route` that chooses row 0.
pub(crate) const FIRST: &str = "(call $first)";
/// Body of any function that does not end.
pub(crate) const FOR_EVER: &str = "(loop $for_ever (br $for_ever)) unreachable";
/// Where the candidates are put: below is what guests use themselves.
pub(crate) const CANDIDATES: usize = 4096;

/// A world that has more than the contract gives, as tools for other languages make them.
const LEAKY: &str = "package test:leaky;
    world leaky {
        include skerry:policy/region-router@1.0.0;
        import wasi:random/random@0.2.0;
    }";
const RANDOM: &str = "package wasi:random@0.2.0;
    interface random { get-random-u64: func() -> u64; }";

/// A guest: the parts of its module that are its own.
pub(crate) struct Guest {
    imports: String,
    memory: String,
    realloc: String,
    more: String,
    route: String,
}

impl Guest {
    /// A guest whose `route` has this body.
    pub(crate) fn new(route: impl Into<String>) -> Self {
        Self {
            imports: String::new(),
            memory: "1".into(),
            realloc: format!("(i32.const {CANDIDATES})"),
            more: String::new(),
            route: route.into(),
        }
    }

    /// Imports beside those that the contract gives.
    pub(crate) fn imports(self, imports: &str) -> Self {
        Self { imports: imports.into(), ..self }
    }

    /// Pages of its memory: the least, and the most if there are two numbers.
    pub(crate) fn memory(self, pages: &str) -> Self {
        Self { memory: pages.into(), ..self }
    }

    /// Body of its `cabi_realloc`.
    pub(crate) fn realloc(self, body: &str) -> Self {
        Self { realloc: body.into(), ..self }
    }

    /// Other parts of its module.
    pub(crate) fn with(self, more: impl Into<String>) -> Self {
        Self { more: more.into(), ..self }
    }

    /// The core module.
    pub(crate) fn module(&self) -> Vec<u8> {
        let Self { imports, memory, realloc, more, route } = self;
        let text = format!(
            r#"(module
                (import "skerry:policy/host@1.0.0" "log" (func $log (param i32 i32 i32)))
                (import "skerry:policy/host@1.0.0" "now" (func $now (result i64)))
                (import "skerry:policy/host@1.0.0" "lookup" (func $lookup (param i32 i64 i32)))
                (import "skerry:policy/host@1.0.0" "count" (func $count (param i32 i32)))
                {imports}
                (memory (export "memory") {memory})
                (data (i32.const 64) "\00\00\00\00\01\00\00\00")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc})
                (func $ranked (param $list i32) (param $length i32) (result i32)
                    (i32.store8 (i32.const 16) (i32.const 0))
                    (i32.store (i32.const 20) (local.get $list))
                    (i32.store (i32.const 24) (local.get $length))
                    (i32.const 16))
                (func $first (result i32) (call $ranked (i32.const 64) (i32.const 1)))
                {more}
                (func (export "skerry:policy/region-routing@1.0.0#route")
                    (param i64 i32 i32 i64 i64 i64 i32 i32) (result i32)
                    {route}))"#
        );
        wat::parse_str(text).expect("a module")
    }

    /// A component made of the module, as `skerry policy build` would.
    pub(crate) fn component(&self) -> Vec<u8> {
        component::of_module(&self.embedded("skerry:policy/region-router@1.0.0")).expect("a component")
    }

    /// A component for a world that has WASI besides.
    pub(crate) fn leaky_component(&self) -> Vec<u8> {
        component::of_module(&self.embedded("test:leaky/leaky")).expect("a component")
    }

    /// The module, with the types of a world beside it.
    pub(crate) fn embedded(&self, world: &str) -> Vec<u8> {
        let mut types = Resolve::default();
        let (contract, _) = types.push_dir("../../plugins/wit").expect("the contract");
        types.push_str("random.wit", RANDOM).expect("a package");
        let leaky = types.push_str("leaky.wit", LEAKY).expect("a package");
        let world = types.select_world(&[contract, leaky], Some(world)).expect("a world");
        let mut module = self.module();
        embed_component_metadata(&mut module, &types, world, StringEncoding::UTF8).expect("types");
        module
    }
}

/// Chooses these rows with these weights.
pub(crate) fn ranked(choices: &[(u32, u32)]) -> Guest {
    let bytes = choices.iter().flat_map(|(row, weight)| [row.to_le_bytes(), weight.to_le_bytes()].concat());
    let bytes: String = bytes.map(|byte| format!("\\{byte:02x}")).collect();
    Guest::new(format!("(call $ranked (i32.const 128) (i32.const {}))", choices.len()))
        .with(format!(r#"(data (i32.const 128) "{bytes}")"#))
}

/// Answers with this case of the verdict, and this text or list.
pub(crate) fn says(case: u8, address: u32, length: u32) -> Guest {
    Guest::new(format!(
        "(drop (call $ranked (i32.const {address}) (i32.const {length})))
         (i32.store8 (i32.const 16) (i32.const {case}))
         (i32.const 16)"
    ))
}

/// Does this so many times, then chooses row 0.
pub(crate) fn repeats(times: u32, action: &str) -> Guest {
    Guest::new(format!(
        "(local $left i32)
         (local.set $left (i32.const {times}))
         (loop $again
             {action}
             (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         {FIRST}"
    ))
}

/// Does this in the n-th call of an instance; chooses row 0 in all others.
pub(crate) fn in_call(n: u32, action: &str) -> Guest {
    Guest::new(format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (if (i32.eq (global.get $calls) (i32.const {n})) (then {action}))
         {FIRST}"
    ))
    .with("(global $calls (mut i32) (i32.const 0))")
}

/// Takes memory page by page, and writes to it, until it gets none; then it traps.
pub(crate) fn greedy() -> Guest {
    Guest::new(
        "(local $page i32)
         (loop $more
             (local.set $page (memory.grow (i32.const 1)))
             (if (i32.ne (local.get $page) (i32.const -1))
                 (then
                     (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 255) (i32.const 65536))
                     (br $more))))
         unreachable",
    )
}

/// Calls itself until its stack ends.
pub(crate) fn deep() -> Guest {
    Guest::new("(call $deeper (i32.const 0))").with(
        "(func $deeper (param i32) (result i32)
             (i32.add (i32.const 1) (call $deeper (local.get 0))))",
    )
}

/// A component of one core module, instantiated so many times.
pub(crate) fn crowd(module: &str, times: usize) -> String {
    format!("(component (core module $m {module}) {})", "(core instance (instantiate $m))".repeat(times))
}

/// A component of few bytes that asks for two to the power of `levels` core instances.
pub(crate) fn doubling(levels: usize) -> String {
    let levels: String = (1..=levels)
        .map(|level| {
            let twice = "(instance (instantiate $below))".repeat(2);
            let below = level - 1;
            format!("(component $c{level} (alias outer 1 $c{below} (component $below)) {twice})")
        })
        .chain(iter::once(format!("(instance (instantiate $c{levels}))")))
        .collect();
    format!("(component (component $c0 (core module $m) (core instance (instantiate $m))) {levels})")
}

/// A function's name as C++ compilers fold it, which is about eight to the power of `levels` times as
/// long when it is unfolded. At most 9 levels.
pub(crate) fn unfolding(levels: usize) -> String {
    let folded = (0..levels).map(|level| format!("S_I{}E", format!("S{level}_").repeat(8)));
    iter::once("_Z1f1aIiE".to_owned()).chain(folded).collect()
}

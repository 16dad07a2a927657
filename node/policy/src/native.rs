//! The one room where native code is loaded.
#![allow(unsafe_code, reason = "wasmtime cannot tell sound native code from any other: see each block")]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::PolicyError;
use crate::compile::Verified;

/// Loads code that this node compiled.
pub(crate) fn load(engine: &Engine, code: &Verified) -> Result<Component, PolicyError> {
    // SAFETY: `deserialize` asks that the bytes came from `Engine::precompile_component` and were
    // not changed since. A `Verified` is made in `compile.rs` alone, of bytes that its own child has
    // just written, or that carry a MAC of them under the node's own key. That they are for
    // this engine's settings and this version of wasmtime is checked by wasmtime itself.
    unsafe { Component::deserialize(engine, code.bytes()) }
        .map_err(|error| PolicyError::Compile(format!("{error:#}")))
}

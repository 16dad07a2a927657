//! From what a compiler makes to what a node runs: a core module becomes a component.

use wit_component::ComponentEncoder;

use crate::PolicyError;

/// Makes a component of a core module for `wasm32-unknown-unknown` that was built against the
/// contract: the SDK leaves in it what the component's types are. No WASI, no adapters. Debug names
/// stay, so that errors can say where they come from.
///
/// # Errors
/// When the module was not built with the SDK, or imports more than the contract gives.
pub fn of_module(module: &[u8]) -> Result<Vec<u8>, PolicyError> {
    let failed = |error: &dyn std::fmt::Display| PolicyError::Component(format!("{error:#}"));
    let mut encoder =
        ComponentEncoder::default().validate(true).module(module).map_err(|error| failed(&error))?;
    encoder.encode().map_err(|error| failed(&error))
}

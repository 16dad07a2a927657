//! Packaged policies for scenarios: the default ones, built by `make test`, in any version.

use std::path::PathBuf;

use serde_json::{Value, json};
use skerry_policy::{World, component, package, signing};

/// A key pair of a policy's author.
pub struct Author {
    /// What an operator writes into the configuration.
    pub public: String,
    secret: String,
}

impl Author {
    /// Somebody new.
    #[must_use]
    pub fn new() -> Self {
        let keys = signing::generate(None).expect("a key pair");
        Self { public: keys.public, secret: keys.secret_file }
    }

    /// Signs a packaged policy.
    #[must_use]
    pub fn sign(&self, packed: &[u8]) -> Vec<u8> {
        signing::sign(packed, &self.secret, None).expect("a signature")
    }
}

impl Default for Author {
    fn default() -> Self {
        Self::new()
    }
}

/// The default policy of a world in some version, packed and not signed.
#[must_use]
pub fn packed(world: World, version: &str) -> Vec<u8> {
    let manifest = manifest(world).replace("version = \"1.0.0\"", &format!("version = \"{version}\""));
    pack(world, &manifest)
}

/// The default policy's component with another manifest.
#[must_use]
pub fn pack(world: World, manifest: &str) -> Vec<u8> {
    let folder =
        std::env::var("SKERRY_POLICY_MODULES").expect("`make test` says where the policies' modules are");
    let module = PathBuf::from(folder).join(format!("skerry_{}.wasm", world.name().replace('-', "_")));
    let module = std::fs::read(&module).unwrap_or_else(|error| panic!("{}: {error}", module.display()));
    package::pack(&component::of_module(&module).expect("a component"), manifest).expect("a package")
}

/// The default policy's manifest.
#[must_use]
pub fn manifest(world: World) -> String {
    let path = crate::process::package().join(format!("../plugins/{world}/manifest.toml"));
    std::fs::read_to_string(path).expect("a manifest")
}

/// Two links for a client, of which the second is its own operator's.
#[must_use]
pub fn routing(seed: u64) -> Value {
    let link = |node: u32, isp: u32| {
        json!({
            "node": node, "region": 1, "isp": isp, "distance-us": 5000, "used-kbps": 0,
            "capacity-kbps": 1_000_000, "health": 1000, "held": 1000, "chosen-ms-ago": u32::MAX,
        })
    };
    json!({ "region-router": {
        "request": { "client": seed, "region": 1, "isp": 7, "resource-hash": 1, "size-bytes": 1000, "seed": seed },
        "candidates": [link(1, 8), link(2, 7)],
    } })
}

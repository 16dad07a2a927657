//! What can go wrong with a policy before it runs.

use crate::manifest::ManifestError;
use crate::package::PackageError;
use crate::signature::SignatureError;

/// Why a policy is not taken, or the host not set up.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// wasmtime could not be set up.
    #[error("the policy engine cannot be set up: {0}")]
    Engine(String),
    /// The file is no packaged policy.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Its manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its signature is missing or wrong, or it would be a step back.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The module is no policy's.
    #[error("no component can be made of it: {0}")]
    Component(String),
    /// It does not compile.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// It imports what no policy is given.
    #[error("it imports `{0}`, which no policy is given; only `skerry:policy/host` and `types` may be")]
    Import(String),
    /// It lacks what its world exports.
    #[error("it is no `{world}`: {reason}")]
    World {
        /// The world that its manifest names.
        world: &'static str,
        /// What is missing.
        reason: String,
    },
    /// One of its test vectors does not hold on this node.
    #[error("its test vector `{vector}` does not hold here: {reason}")]
    Vector {
        /// The vector's name.
        vector: String,
        /// What came instead.
        reason: String,
    },
    /// A file or folder of the node.
    #[error("{what} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as `cannot read`.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What was here before is not known.
    #[error("nothing is taken: {0}")]
    Ledger(String),
    /// Metrics could not be registered.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// No policy, or no version of it, by that name.
    #[error("there is no policy `{0}` here; `skerry policy list` shows what there is")]
    Unknown(String),
}

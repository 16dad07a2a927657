//! What is on record of nodes, and what of it is shown.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Rival;
use crate::enrol::Line;
use crate::fleet::Node;

/// What is on record of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) node: Arc<Node>,
    /// The machine; 0 is that of a version that does not tell.
    #[serde(default)]
    pub(super) instance: u64,
    /// The process and the batch that it sent last: a batch counts once.
    pub(super) boot: u64,
    pub(super) batch: u64,
    /// It said that it ends.
    pub(super) left: bool,
    /// Processes of that machine that gave way to this one, the last one last.
    #[serde(default)]
    pub(super) gone: Vec<u64>,
}

/// What the operator gave a node, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) names: Vec<String>,
    pub(crate) at_ms: u64,
    /// Its certificates; `None` when a version enrolled it that kept nothing of them.
    #[serde(default)]
    pub(crate) line: Option<Line>,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is heard.
    Live,
    /// It missed its heartbeats.
    Silent,
    /// It said that it ends.
    Left,
}

/// A node as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// What it said last.
    pub node: Arc<Node>,
    /// Where it stands.
    pub standing: Standing,
    /// Resources that it holds something of.
    pub holdings: usize,
    /// Another machine with its id, when one was refused lately.
    pub rival: Option<Rival>,
}

/// An id that was thrown out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revoked {
    /// The id.
    pub id: String,
    /// When, milliseconds since 1970.
    pub since_ms: u64,
}

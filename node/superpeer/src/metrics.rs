//! Metrics of the super-peer.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use skerry_core::metrics::register;

/// What the super-peer counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Connections open now.
    pub connections: IntGauge,
    /// Peers that are served now.
    pub unchoked: IntGauge,
    /// Connections taken.
    pub accepted: IntCounter,
    /// Those of them that came over uTP.
    pub utp_accepted: IntCounter,
    /// Connections closed before any data, by cause: `unknown` (no such info-hash), `full`, `handshake`,
    /// `encryption`.
    pub refused: IntCounterVec,
    /// Connections ended by the node, by cause: `idle`, `slow`, `protocol`, `requests`, `gone`, `crowded`.
    pub dropped: IntCounterVec,
    /// Content bytes sent.
    pub sent: IntCounter,
    /// Blocks sent.
    pub blocks: IntCounter,
    /// Requests that were refused (BEP 6 reject), by cause: `choked`, `gone`, `invalid`, `full`.
    pub rejected: IntCounterVec,
    /// Chunks that were found gone or too short, and withdrawn.
    pub withdrawn: IntCounter,
}

impl Metrics {
    /// Registers the family.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let by_cause = |name: &str, help: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &["cause"])?)
        };
        Ok(Self {
            connections: gauge("skerry_superpeer_connections", "Connections of peers.")?,
            unchoked: gauge("skerry_superpeer_unchoked_peers", "Peers that are served now.")?,
            accepted: counter("skerry_superpeer_accepted_total", "Connections of peers taken.")?,
            utp_accepted: counter("skerry_superpeer_utp_accepted_total", "Connections taken over uTP.")?,
            refused: by_cause("skerry_superpeer_refused_total", "Connections closed before any data.")?,
            dropped: by_cause("skerry_superpeer_dropped_total", "Connections ended by the node.")?,
            sent: counter("skerry_superpeer_sent_bytes_total", "Content bytes sent to peers.")?,
            blocks: counter("skerry_superpeer_blocks_total", "Blocks sent to peers.")?,
            rejected: by_cause("skerry_superpeer_rejected_total", "Requests of peers refused.")?,
            withdrawn: counter("skerry_superpeer_withdrawn_total", "Chunks found gone and withdrawn.")?,
        })
    }
}

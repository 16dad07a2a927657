//! `skerry_discovery_*`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use skerry_core::metrics::register;

/// A way in which peers are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// BEP 5.
    Dht,
    /// BEP 14.
    Lsd,
}

impl By {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dht => "dht",
            Self::Lsd => "lsd",
        }
    }
}

/// All families.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Info-hashes that are announced in turn.
    pub info_hashes: IntGauge,
    /// Info-hashes announced, by the way.
    announces: IntCounterVec,
    /// What went wrong, by the way and the cause.
    errors: IntCounterVec,
    /// Addresses of peers taken, by the way.
    heard: IntCounterVec,
    /// Addresses that were not, by the way.
    refused: IntCounterVec,
    /// Nodes of the DHT that are known.
    pub dht_nodes: IntGauge,
    /// Requests of other nodes of the DHT over the limit.
    pub dht_refused_requests: IntCounter,
    /// Times that peers were looked up in the DHT.
    pub look_ups: IntCounter,
    /// Torrents that peers are remembered of.
    pub known_torrents: IntGauge,
    /// Addresses remembered.
    pub known_addresses: IntGauge,
}

/// Causes of errors, by the way.
const CAUSES: [(By, &str); 12] = [
    (By::Dht, "list"),
    (By::Dht, "bootstrap"),
    (By::Dht, "start"),
    (By::Dht, "ended"),
    (By::Dht, "no-nodes"),
    (By::Dht, "refused"),
    (By::Dht, "timeout"),
    (By::Lsd, "list"),
    (By::Lsd, "socket"),
    (By::Lsd, "send"),
    (By::Lsd, "malformed"),
    (By::Lsd, "flood"),
];

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let family = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let metrics = Self {
            info_hashes: gauge("skerry_discovery_info_hashes", "Info-hashes announced in turn.")?,
            announces: family("skerry_discovery_announces_total", "Info-hashes announced.", &["by"])?,
            errors: family(
                "skerry_discovery_errors_total",
                "Announces and messages that came to nothing.",
                &["by", "cause"],
            )?,
            heard: family("skerry_discovery_addresses_total", "Addresses of peers heard of.", &["by"])?,
            refused: family(
                "skerry_discovery_refused_addresses_total",
                "Addresses that no peer can have, or that are the node's own.",
                &["by"],
            )?,
            dht_nodes: gauge("skerry_discovery_dht_nodes", "Nodes of the DHT that are known.")?,
            dht_refused_requests: counter(
                "skerry_discovery_dht_refused_requests_total",
                "Requests of other nodes of the DHT over the limit.",
            )?,
            look_ups: counter("skerry_discovery_look_ups_total", "Times that peers were looked up.")?,
            known_torrents: gauge("skerry_discovery_known_torrents", "Torrents with peers remembered.")?,
            known_addresses: gauge("skerry_discovery_known_addresses", "Addresses of peers remembered.")?,
        };
        for by in [By::Dht, By::Lsd] {
            for family in [&metrics.announces, &metrics.heard, &metrics.refused] {
                family.with_label_values(&[by.name()]);
            }
        }
        for (by, cause) in CAUSES {
            metrics.errors.with_label_values(&[by.name(), cause]);
        }
        Ok(metrics)
    }

    /// Counts announced info-hashes.
    pub fn announced(&self, by: By, count: usize) {
        self.announces.with_label_values(&[by.name()]).inc_by(count as u64);
    }

    /// Counts an address of a peer.
    pub fn address(&self, by: By, is_taken: bool) {
        let family = if is_taken { &self.heard } else { &self.refused };
        family.with_label_values(&[by.name()]).inc();
    }

    /// Counts something that went wrong.
    pub fn error(&self, by: By, cause: &'static str) {
        self.errors.with_label_values(&[by.name(), cause]).inc();
    }

    /// Announced info-hashes so far.
    pub fn announces(&self, by: By) -> u64 {
        self.announces.with_label_values(&[by.name()]).get()
    }

    /// Addresses taken so far.
    pub fn addresses(&self, by: By) -> u64 {
        self.heard.with_label_values(&[by.name()]).get()
    }

    /// Everything that went wrong so far, that way.
    pub fn errors(&self, by: By) -> u64 {
        let causes = CAUSES.iter().filter(|(way, _)| *way == by);
        causes.map(|(by, cause)| self.errors.with_label_values(&[by.name(), *cause]).get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_exported_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.announced(By::Lsd, 3);
        metrics.error(By::Dht, "timeout");
        metrics.address(By::Dht, false);
        let text = String::from_utf8(skerry_core::metrics::text(&registry)).unwrap();
        for line in [
            r#"skerry_discovery_announces_total{by="lsd"} 3"#,
            r#"skerry_discovery_errors_total{by="dht",cause="timeout"} 1"#,
            r#"skerry_discovery_errors_total{by="lsd",cause="malformed"} 0"#,
            r#"skerry_discovery_refused_addresses_total{by="dht"} 1"#,
            r#"skerry_discovery_addresses_total{by="lsd"} 0"#,
            "skerry_discovery_info_hashes 0",
            "skerry_discovery_dht_nodes 0",
            "skerry_discovery_dht_refused_requests_total 0",
            "skerry_discovery_look_ups_total 0",
            "skerry_discovery_known_torrents 0",
            "skerry_discovery_known_addresses 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert_eq!((metrics.announces(By::Lsd), metrics.errors(By::Dht), metrics.errors(By::Lsd)), (3, 1, 0));
    }
}

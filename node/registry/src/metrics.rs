//! `skerry_registry_*`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use skerry_core::metrics::register;

/// Metrics of the registry: of the control node's side, and of a node's. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) nodes: IntGaugeVec,
    pub(crate) node_versions: IntGaugeVec,
    pub(crate) node_policies: IntGaugeVec,
    pub(crate) holdings: IntGauge,
    pub(crate) info_hashes: IntGauge,
    pub(crate) holdings_refused: IntCounterVec,
    pub(crate) demand: IntGauge,
    pub(crate) demand_refused: IntCounter,
    pub(crate) rivals: IntGauge,
    pub(crate) heartbeats: IntCounterVec,
    pub(crate) reports: IntCounterVec,
    pub(crate) enrolments: IntCounterVec,
    pub(crate) renewals: IntCounterVec,
    pub(crate) superseded: IntCounter,
    pub(crate) write_failures: IntCounter,
    pub(crate) damaged_records: IntCounter,
    pub(crate) certificate_ends: IntGauge,
    pub(crate) reachable: IntGauge,
    pub(crate) control_requests: IntCounterVec,
    pub(crate) queued: IntGaugeVec,
    pub(crate) dropped: IntCounterVec,
}

impl Metrics {
    /// Registers the families.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        let counters =
            |name, help, label| register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?);
        let several = |name, help, labels: &[&str]| {
            register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let gauges = |name, help, label| several(name, help, &[label]);
        Ok(Self {
            nodes: gauges(
                "skerry_registry_nodes",
                "Nodes on record at the control node: live, silent, left, denied.",
                "state",
            )?,
            node_versions: several(
                "skerry_registry_node_versions",
                "Nodes that are heard, by their update ring and the versions of image and node.",
                &["ring", "image", "version"],
            )?,
            node_policies: several(
                "skerry_registry_node_policies",
                "Nodes that are heard, by the policies that decide there.",
                &["world", "name", "version"],
            )?,
            holdings: gauge("skerry_registry_holdings", "Holdings of all nodes on record.")?,
            info_hashes: gauge(
                "skerry_registry_info_hashes",
                "Info-hashes of those holdings; each counts as a holding does.",
            )?,
            holdings_refused: counters(
                "skerry_registry_holdings_refused_total",
                "Parts of lists of holdings that found no room: of the node, of the fleet.",
                "limit",
            )?,
            demand: gauge("skerry_registry_demand_counts", "Counts of requests by resource and region.")?,
            demand_refused: counter(
                "skerry_registry_demand_refused_total",
                "Requests that nodes told of beyond what a node can serve; they do not count.",
            )?,
            rivals: gauge(
                "skerry_registry_rivals",
                "Ids that two machines used in the last ten minutes; one of them is refused.",
            )?,
            heartbeats: counters(
                "skerry_registry_heartbeats_total",
                "Heartbeats that came in: taken, refused, rival (another machine has the id).",
                "result",
            )?,
            reports: counters(
                "skerry_registry_reports_total",
                "Reports of failed verifications: taken, refused.",
                "result",
            )?,
            enrolments: counters(
                "skerry_registry_enrolments_total",
                "Machines that wanted to become nodes: taken, refused.",
                "result",
            )?,
            renewals: counters(
                "skerry_registry_renewals_total",
                "Certificates renewed, at the control node and at the node: taken, refused.",
                "result",
            )?,
            superseded: counter(
                "skerry_registry_superseded_certificates_total",
                "Requests at the control node with a certificate that a newer one took the place of; they are refused.",
            )?,
            certificate_ends: gauge(
                "skerry_registry_certificate_ends_timestamp_seconds",
                "When this node's certificate ends, seconds since 1970; 0 without one.",
            )?,
            write_failures: counter(
                "skerry_registry_write_failures_total",
                "Records that are known in memory alone, since they could not be written.",
            )?,
            damaged_records: counter(
                "skerry_registry_damaged_records_total",
                "Records with an end that cannot be read, passed over when expired ones were taken away.",
            )?,
            reachable: gauge(
                "skerry_registry_control_reachable",
                "1 when the control node answered this node's last request, else 0.",
            )?,
            control_requests: counters(
                "skerry_registry_control_requests_total",
                "Requests of this node to the control node: answered, refused, failed.",
                "outcome",
            )?,
            queued: gauges(
                "skerry_registry_queued",
                "What waits to be told to the control node: holdings, demand, reports.",
                "what",
            )?,
            dropped: counters(
                "skerry_registry_dropped_total",
                "What was not told to the control node, since too much waited: demand, reports.",
                "what",
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_are_there_under_their_prefix() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        assert!(Metrics::new(&registry).is_err());
        metrics.nodes.with_label_values(&["live"]).set(1);
        metrics.heartbeats.with_label_values(&["taken"]).inc();
        let text = String::from_utf8(skerry_core::metrics::text(&registry)).unwrap();
        assert!(text.contains("skerry_registry_nodes{state=\"live\"} 1"), "{text}");
        assert!(text.contains("skerry_registry_heartbeats_total{result=\"taken\"} 1"), "{text}");
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() >= 6, "{text}");
        assert!(families.iter().all(|family| family.starts_with("skerry_registry_")), "{text}");
    }
}

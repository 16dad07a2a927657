//! `skerry_preload_*`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use skerry_core::metrics::register;

/// Metrics of the preloader: of the control node's side, and of a node's. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) plans: IntCounterVec,
    pub(crate) known: IntGauge,
    pub(crate) orders: IntGauge,
    pub(crate) wished: IntGauge,
    pub(crate) lists: IntCounterVec,
    pub(crate) items: IntGaugeVec,
    pub(crate) bytes: IntGaugeVec,
    pub(crate) holds: IntCounterVec,
    pub(crate) received: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) eta: IntGauge,
    pub(crate) asked: IntCounterVec,
    pub(crate) asked_bytes: IntCounterVec,
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
        let gauges =
            |name, help, label| register(registry, IntGaugeVec::new(Opts::new(name, help), &[label])?);
        Ok(Self {
            plans: counters(
                "skerry_preload_plans_total",
                "Lists that were planned: ranked, kept (no opinion), empty (nothing to choose from).",
                "verdict",
            )?,
            known: gauge("skerry_preload_known_resources", "Resources of the fleet whose source is known.")?,
            orders: gauge("skerry_preload_orders", "What operators want to be held.")?,
            wished: gauge(
                "skerry_preload_wished_copies",
                "Further copies that the scheduler wished for, and a node was found for.",
            )?,
            lists: counters(
                "skerry_preload_lists_total",
                "Times that this node asked for its list: new, same, failed.",
                "result",
            )?,
            items: gauges(
                "skerry_preload_items",
                "Items of this node: held, fetching, waiting, failing, no-room, left (off the list).",
                "state",
            )?,
            bytes: gauges(
                "skerry_preload_bytes",
                "Bytes of its items: listed, held, missing, left, unasked (held, and never asked for).",
                "state",
            )?,
            holds: counters(
                "skerry_preload_holds_total",
                "Fetches that ended: held, no-room, refused, broken, stopped.",
                "result",
            )?,
            received: counter(
                "skerry_preload_received_bytes_total",
                "Bytes that came in for items, or were found in the cache.",
            )?,
            dropped: counter("skerry_preload_dropped_bytes_total", "Bytes that were let go of for others.")?,
            eta: gauge(
                "skerry_preload_eta_seconds",
                "Seconds until all that is listed is held, at the present pace; -1 when nobody can tell.",
            )?,
            asked: counters(
                "skerry_preload_asked_total",
                "Requests for resources and for what is listed, by whether this node held them: yes, no.",
                "held",
            )?,
            asked_bytes: counters(
                "skerry_preload_asked_bytes_total",
                "Bytes that these requests were answered with.",
                "held",
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
        metrics.plans.with_label_values(&["ranked"]).inc();
        metrics.bytes.with_label_values(&["unasked"]).set(7);
        let text = String::from_utf8(skerry_core::metrics::text(&registry)).unwrap();
        assert!(text.contains("skerry_preload_plans_total{verdict=\"ranked\"} 1"), "{text}");
        assert!(text.contains("skerry_preload_bytes{state=\"unasked\"} 7"), "{text}");
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() >= 7, "{text}");
        assert!(families.iter().all(|family| family.starts_with("skerry_preload_")), "{text}");
    }
}

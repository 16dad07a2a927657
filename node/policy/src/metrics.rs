//! `skerry_policy_*`.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use skerry_core::metrics::register;

use crate::cause::Cause;
use crate::manifest::World;

/// Metrics of the policies.
pub(crate) struct Metrics {
    decisions: Vec<Vec<IntCounter>>,
    durations: Vec<Histogram>,
    pub(crate) changes: IntCounterVec,
    pub(crate) counters: IntCounterVec,
    pub(crate) warm: IntGaugeVec,
    pub(crate) dropped: IntCounter,
    pub(crate) refused: IntCounter,
    pub(crate) panics: IntCounter,
    pub(crate) recorded_bytes: IntGauge,
    pub(crate) unrecorded: IntGauge,
}

/// What decided, as the label of the metrics has it.
fn by(cause: Option<Cause>) -> &'static str {
    cause.map_or("policy", Cause::name)
}

fn causes() -> impl Iterator<Item = Option<Cause>> {
    std::iter::once(None).chain(Cause::ALL.into_iter().map(Some))
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let decisions = counter(
            "skerry_policy_decisions_total",
            "Decisions, by what decided: the policy, or why the built-in verdict was used.",
            &["world", "by"],
        )?;
        // 10 us to 160 ms, each bound twice the one before.
        let buckets = prometheus::exponential_buckets(0.00001, 2.0, 15)?;
        let durations = HistogramOpts::new("skerry_policy_call_seconds", "Time of calls of policies.");
        let durations = register(registry, HistogramVec::new(durations.buckets(buckets), &["world"])?)?;
        let names = World::ALL.map(World::name);
        let each = |world| causes().map(|cause| decisions.with_label_values(&[world, by(cause)])).collect();
        Ok(Self {
            decisions: names.map(each).into(),
            durations: names.map(|world| durations.with_label_values(&[world])).into(),
            changes: counter(
                "skerry_policy_changes_total",
                "Steps of changes of policies: taken, advanced, done, demoted, rolled-back.",
                &["world", "step"],
            )?,
            counters: counter("skerry_policy_counter_total", "What policies count.", &["policy", "counter"])?,
            warm: register(
                registry,
                IntGaugeVec::new(
                    Opts::new("skerry_policy_warm_instances", "Instances that wait for a call."),
                    &["world"],
                )?,
            )?,
            dropped: register(
                registry,
                IntCounter::new(
                    "skerry_policy_comparisons_dropped_total",
                    "Calls that were to be made with both versions and were not, since too many waited.",
                )?,
            )?,
            refused: register(
                registry,
                IntCounter::new("skerry_policy_refused_total", "Policies that were not taken.")?,
            )?,
            panics: register(
                registry,
                IntCounter::new(
                    "skerry_policy_panics_total",
                    "Work on policies that panicked and was given up: a fault of the node.",
                )?,
            )?,
            recorded_bytes: register(
                registry,
                IntGauge::new("skerry_policy_recorded_bytes", "Bytes of recorded decisions written.")?,
            )?,
            unrecorded: register(
                registry,
                IntGauge::new(
                    "skerry_policy_unrecorded_decisions",
                    "Decisions since the start that were to be recorded and were dropped.",
                )?,
            )?,
        })
    }

    pub(crate) fn decided(&self, world: World, cause: Option<Cause>) {
        let cause = causes().position(|other| other == cause).unwrap_or(0);
        self.decisions[world as usize][cause].inc();
    }

    pub(crate) fn took(&self, world: World, took: std::time::Duration) {
        self.durations[world as usize].observe(took.as_secs_f64());
    }
}

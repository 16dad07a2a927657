//! The node's metric registry and what the process says of itself.

use prometheus::{Encoder, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Metrics of listeners and connections, by the listener's name.
#[derive(Clone)]
pub struct ConnectionMetrics {
    /// Connections open now.
    pub open: IntGauge,
    /// Connections taken since the start.
    pub accepted: IntCounter,
    /// Connections closed at once, since `public.max_connections` were open.
    pub refused: IntCounter,
    /// Connections cut by a header, idle or write time limit.
    pub timed_out: IntCounter,
    /// TLS handshakes that failed.
    pub handshake_failures: IntCounter,
    /// Connections closed since no PROXY header of version 2 came first.
    pub proxy_header_failures: IntCounter,
}

impl ConnectionMetrics {
    /// Registers the family for one listener (`public`, `admin`).
    pub fn new(registry: &Registry, listener: &str) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("listener", listener);
        Ok(Self {
            open: register(
                registry,
                IntGauge::with_opts(opts("skerry_connections_open", "Connections open now."))?,
            )?,
            accepted: register(
                registry,
                IntCounter::with_opts(opts("skerry_connections_accepted_total", "Connections taken."))?,
            )?,
            refused: register(
                registry,
                IntCounter::with_opts(opts(
                    "skerry_connections_refused_total",
                    "Connections over the limit.",
                ))?,
            )?,
            timed_out: register(
                registry,
                IntCounter::with_opts(opts(
                    "skerry_connections_timed_out_total",
                    "Connections cut by a time limit.",
                ))?,
            )?,
            handshake_failures: register(
                registry,
                IntCounter::with_opts(opts(
                    "skerry_tls_handshake_failures_total",
                    "TLS handshakes that failed.",
                ))?,
            )?,
            proxy_header_failures: register(
                registry,
                IntCounter::with_opts(opts(
                    "skerry_proxy_header_failures_total",
                    "Connections without a good PROXY header.",
                ))?,
            )?,
        })
    }
}

/// Registers a collector and hands it back.
pub fn register<C>(registry: &Registry, collector: C) -> prometheus::Result<C>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// `skerry_build_info{version}` = 1.
pub fn register_build_info(registry: &Registry, version: &str) -> prometheus::Result<()> {
    let info = register(
        registry,
        IntGaugeVec::new(Opts::new("skerry_build_info", "What is running; always 1."), &["version"])?,
    )?;
    info.with_label_values(&[version]).set(1);
    Ok(())
}

/// Everything registered, in Prometheus' text format 0.0.4.
pub fn text(registry: &Registry) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 * 1024);
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut out) {
        log::warn!("cannot encode metrics: {error}");
    }
    out
}

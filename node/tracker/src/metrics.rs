//! `skerry_tracker_*`. Every thread counts in a tally of its own, so that threads do not share cache lines
//! at every announce; tallies are added up when somebody looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use skerry_core::metrics::register;
use skerry_wire::tracker::Event;

use crate::swarm::{Full, Totals};

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// BEP 3.
    Http = 0,
    /// BEP 15.
    Udp = 1,
}

/// Why a request was not answered, or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It could not be read.
    Malformed = 0,
    /// Its connection id is old, or of another address (UDP).
    Connection = 1,
    /// It names a port that takes no connections.
    Port = 2,
    /// It is for a torrent that this tracker does not track.
    Unknown = 3,
}

/// Who chose the peers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Chance: there was nothing to prefer.
    Chance = 0,
    /// The built-in verdict.
    BuiltIn = 1,
    /// The policy, or the built-in verdict in its place.
    Policy = 2,
}

/// One thing that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Announces that were answered.
    Announce(Transport, Event),
    /// Swarms that were told of in scrapes.
    Scrape(Transport),
    /// Connection ids that were given out.
    Connect,
    /// Requests that were not answered, or refused.
    Error(Transport, Cause),
    /// Answers with peers, by who chose them.
    Chosen(By),
    /// Super-peers that were named.
    SuperPeers,
    /// Ordinary peers that were named.
    Peers,
    /// Peers that were answered and not remembered.
    Full(Full),
    /// Answers that the system did not send.
    Unsent,
}

const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Http, "http"), (Transport::Udp, "udp")];
const EVENTS: [(Event, &str); 5] = [
    (Event::None, "none"),
    (Event::Started, "started"),
    (Event::Completed, "completed"),
    (Event::Stopped, "stopped"),
    (Event::Paused, "paused"),
];
const CAUSES: [(Cause, &str); 4] = [
    (Cause::Malformed, "malformed"),
    (Cause::Connection, "connection"),
    (Cause::Port, "port"),
    (Cause::Unknown, "unknown"),
];
const CHOOSERS: [(By, &str); 3] = [(By::Chance, "chance"), (By::BuiltIn, "built-in"), (By::Policy, "policy")];
const LIMITS: [(Full, &str); 5] = [
    (Full::Torrents, "torrents"),
    (Full::Peers, "peers"),
    (Full::Torrent, "peers-per-torrent"),
    (Full::Source, "peers-per-source"),
    (Full::SourceTorrent, "peers-per-source-and-torrent"),
];

const CELLS: usize = 32;

impl Count {
    /// Its place in a tally.
    fn cell(self) -> usize {
        match self {
            Self::Announce(transport, event) => transport as usize * 5 + event as usize,
            Self::Error(transport, cause) => 10 + transport as usize * 4 + cause as usize,
            Self::Scrape(transport) => 18 + transport as usize,
            Self::Chosen(by) => 20 + by as usize,
            Self::Full(full) => 23 + full as usize,
            Self::Connect => 28,
            Self::SuperPeers => 29,
            Self::Peers => 30,
            Self::Unsent => 31,
        }
    }
}

/// What one thread has counted since the start. Only that thread adds to it. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Tally([AtomicU64; CELLS]);

impl Tally {
    /// Counts.
    pub fn add(&self, count: Count, by: u64) {
        let cell = &self.0[count.cell()];
        // Nobody else writes, so nothing gets lost between the two.
        cell.store(cell.load(Relaxed) + by, Relaxed);
    }
}

/// All families.
pub struct Metrics {
    /// By [`Count::cell`].
    counters: Vec<Option<IntCounter>>,
    torrents: IntGauge,
    v4: IntGauge,
    v6: IntGauge,
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let family = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let single = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let announces =
            family("skerry_tracker_announces_total", "Announces answered.", &["transport", "event"])?;
        let errors = family(
            "skerry_tracker_errors_total",
            "Requests that were refused, or not answered.",
            &["transport", "cause"],
        )?;
        let scrapes = family("skerry_tracker_scrapes_total", "Swarms told of in scrapes.", &["transport"])?;
        let chosen =
            family("skerry_tracker_answers_total", "Answers with peers, by who chose them.", &["by"])?;
        let full = family(
            "skerry_tracker_refused_peers_total",
            "Peers that were answered and not remembered, by the limit in the way.",
            &["limit"],
        )?;
        let named = family("skerry_tracker_named_total", "Peers named in answers.", &["kind"])?;
        let mut counters = vec![None; CELLS];
        let mut set = |count: Count, counter: IntCounter| counters[count.cell()] = Some(counter);
        for (transport, way) in TRANSPORTS {
            for (event, word) in EVENTS {
                set(Count::Announce(transport, event), announces.with_label_values(&[way, word]));
            }
            for (cause, word) in CAUSES {
                set(Count::Error(transport, cause), errors.with_label_values(&[way, word]));
            }
            set(Count::Scrape(transport), scrapes.with_label_values(&[way]));
        }
        for (by, word) in CHOOSERS {
            set(Count::Chosen(by), chosen.with_label_values(&[word]));
        }
        for (limit, word) in LIMITS {
            set(Count::Full(limit), full.with_label_values(&[word]));
        }
        set(Count::SuperPeers, named.with_label_values(&["super-peer"]));
        set(Count::Peers, named.with_label_values(&["peer"]));
        set(Count::Connect, single("skerry_tracker_connects_total", "Connection ids given out (UDP).")?);
        set(Count::Unsent, single("skerry_tracker_unsent_total", "Answers that could not be sent (UDP).")?);
        let peers = register(
            registry,
            IntGaugeVec::new(Opts::new("skerry_tracker_peers", "Peers remembered."), &["family"])?,
        )?;
        Ok(Self {
            counters,
            torrents: register(registry, IntGauge::new("skerry_tracker_torrents", "Swarms remembered.")?)?,
            v4: peers.with_label_values(&["ipv4"]),
            v6: peers.with_label_values(&["ipv6"]),
            tallies: Mutex::default(),
        })
    }

    /// A tally for one more thread.
    pub fn tally(&self) -> Arc<Tally> {
        let tally = Arc::<Tally>::default();
        self.tallies.lock().push(tally.clone());
        tally
    }

    /// Adds up what the threads have counted.
    pub fn settle(&self, totals: &Totals) {
        let tallies = self.tallies.lock();
        for (cell, counter) in self.counters.iter().enumerate() {
            if let Some(counter) = counter {
                let counted: u64 = tallies.iter().map(|tally| tally.0[cell].load(Relaxed)).sum();
                counter.inc_by(counted.saturating_sub(counter.get()));
            }
        }
        let gauge = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.torrents, totals.torrents);
        gauge(&self.v4, totals.v4);
        gauge(&self.v6, totals.v6);
    }

    /// Announces answered, as they were last added up.
    pub fn announces(&self) -> u64 {
        let all = TRANSPORTS.iter().flat_map(|(transport, _)| {
            EVENTS.iter().map(|(event, _)| Count::Announce(*transport, *event).cell())
        });
        all.filter_map(|cell| self.counters[cell].as_ref()).map(IntCounter::get).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up_and_every_family_is_there() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let (one, other) = (metrics.tally(), metrics.tally());
        one.add(Count::Announce(Transport::Udp, Event::Started), 2);
        other.add(Count::Announce(Transport::Udp, Event::Started), 3);
        other.add(Count::Error(Transport::Http, Cause::Unknown), 1);
        other.add(Count::Unsent, 9);
        for _ in 0..2 {
            metrics.settle(&Totals { torrents: 4, v4: 5, v6: 6 });
        }
        assert_eq!(metrics.announces(), 5);
        let text = String::from_utf8(skerry_core::metrics::text(&registry)).unwrap();
        for line in [
            r#"skerry_tracker_announces_total{event="started",transport="udp"} 5"#,
            r#"skerry_tracker_announces_total{event="paused",transport="http"} 0"#,
            r#"skerry_tracker_errors_total{cause="unknown",transport="http"} 1"#,
            r#"skerry_tracker_scrapes_total{transport="udp"} 0"#,
            r#"skerry_tracker_answers_total{by="built-in"} 0"#,
            r#"skerry_tracker_refused_peers_total{limit="peers-per-torrent"} 0"#,
            r#"skerry_tracker_refused_peers_total{limit="peers-per-source"} 0"#,
            r#"skerry_tracker_refused_peers_total{limit="peers-per-source-and-torrent"} 0"#,
            r#"skerry_tracker_named_total{kind="super-peer"} 0"#,
            "skerry_tracker_connects_total 0",
            "skerry_tracker_unsent_total 9",
            "skerry_tracker_torrents 4",
            r#"skerry_tracker_peers{family="ipv6"} 6"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn no_two_things_are_counted_in_one_cell() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let expected =
            TRANSPORTS.len() * (EVENTS.len() + CAUSES.len() + 1) + CHOOSERS.len() + LIMITS.len() + 4;
        assert_eq!(metrics.counters.iter().flatten().count(), expected);
    }
}

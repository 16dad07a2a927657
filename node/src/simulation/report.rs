//! What came of a simulation.

use std::collections::BTreeMap;

use serde::Serialize;

use super::settings::Settings;

/// All figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was simulated.
    pub settings: Settings,
    /// Name and version of the policies that were given.
    pub policies: Vec<String>,
    /// Length of all resources together, bytes.
    pub catalogue_bytes: u64,
    /// Those who came.
    pub peers: Peers,
    /// Where bytes came from.
    pub bytes: Bytes,
    /// The part of all bytes that the origin did not have to send: 1 - origin / delivered. Less than 0
    /// when nodes fetched more than was asked for.
    pub offload: f64,
    /// How the crowds did.
    pub crowds: Vec<CrowdReport>,
    /// Time until the last of a crowd was done over the least that is possible; `None` when no crowd got to
    /// its end.
    pub last_peer: Option<LastPeer>,
    /// How evenly nodes of one region are used.
    pub imbalance: Imbalance,
    /// Each region.
    pub regions: Vec<RegionReport>,
    /// Calls of the control roles.
    pub calls: Calls,
    /// Decisions in worlds that given policies decide, by world and by what decided: `policy`, or why the
    /// built-in verdict stood in.
    pub decisions: BTreeMap<String, BTreeMap<String, u64>>,
    /// What it took.
    pub wall: Wall,
}

/// Those who came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peers {
    /// How many.
    pub came: u64,
    /// How many had everything before the end.
    pub done: u64,
    /// Time of a download over that of a line of its own: of the middle one.
    pub slowdown_p50: f64,
    /// Of one in a hundred, more.
    pub slowdown_p99: f64,
}

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// All that came to peers: the next three together.
    pub delivered: u64,
    /// From nodes of their own region.
    pub near_nodes: u64,
    /// From nodes of other regions.
    pub far_nodes: u64,
    /// From peers.
    pub peers: u64,
    /// All that nodes got from the origin: the next two together.
    pub origin: u64,
    /// What a client was waiting for.
    pub origin_pulled: u64,
    /// What was on a node's list.
    pub origin_preloaded: u64,
}

/// How a crowd did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CrowdReport {
    /// Its region; `None` is of all.
    pub region: Option<String>,
    /// How many came.
    pub peers: u64,
    /// How many had everything before the end.
    pub done: u64,
    /// Length of what they came for, bytes.
    pub length: u64,
    /// From the beginning until the last was done, seconds; `None` when not all were.
    pub seconds: Option<f64>,
    /// The least that is possible: no line is faster than it is, and all bytes go over all links of nodes
    /// and all lines of the crowd that upload.
    pub bound_seconds: f64,
    /// One over the other.
    pub over_bound: Option<f64>,
}

/// Time of the last peer over the bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LastPeer {
    /// Of all crowds that got to their end, the mean.
    pub mean: f64,
    /// Of the worst one.
    pub worst: f64,
}

/// How far values are apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The greatest over the mean.
    pub max_over_mean: f64,
    /// That which one in a hundred is greater than, over the mean.
    pub p99_over_mean: f64,
}

/// How evenly the nodes of one region are used: the mean of all regions, and the worst of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Imbalance {
    /// Bytes sent.
    pub bytes: Spread,
    /// The same, in the worst region.
    pub bytes_worst: Spread,
    /// Utilisation in the region's busiest hour.
    pub busiest_hour: Spread,
    /// The same, in the worst region.
    pub busiest_hour_worst: Spread,
}

/// One region.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionReport {
    /// Its name.
    pub region: String,
    /// How many nodes it has.
    pub nodes: u64,
    /// What they sent.
    pub bytes: u64,
    /// How far apart what they sent is.
    pub spread: Spread,
    /// The hour of the simulation in which they sent most, from 0.
    pub busiest_hour: u64,
    /// What part of their links they used in it.
    pub utilisation: f64,
    /// The same, of the node that used most.
    pub utilisation_max: f64,
    /// How far apart that is.
    pub busiest_spread: Spread,
}

/// Calls of the control roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Clients routed by the selector.
    pub routes: u64,
    /// Announces answered by the tracker.
    pub announces: u64,
    /// Times that nodes asked the preloader for their lists.
    pub lists: u64,
    /// Lists that it planned anew.
    pub plans: u64,
}

/// Real time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Wall {
    /// All of it, seconds.
    pub seconds: f64,
    /// In the selector.
    pub routes_seconds: f64,
    /// In the tracker.
    pub announces_seconds: f64,
    /// In the preloader.
    pub lists_seconds: f64,
}

impl Spread {
    /// Of some values; all 0 when there are none, or nothing but zeros.
    pub(super) fn of(values: &[u64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let mean = sorted.iter().map(|value| *value as f64).sum::<f64>() / sorted.len().max(1) as f64;
        let over = |value: Option<u64>| value.filter(|_| mean > 0.0).map_or(0.0, |value| value as f64 / mean);
        Self { max_over_mean: over(sorted.last().copied()), p99_over_mean: over(at(&sorted, 99)) }
    }
}

impl Imbalance {
    /// Over all regions that have nodes.
    pub(super) fn of(regions: &[RegionReport]) -> Self {
        let regions: Vec<&RegionReport> = regions.iter().filter(|region| region.nodes > 0).collect();
        let mean = |value: &dyn Fn(&RegionReport) -> f64| {
            regions.iter().map(|region| value(region)).sum::<f64>() / regions.len().max(1) as f64
        };
        let worst = |spread: &dyn Fn(&RegionReport) -> Spread| {
            let spreads = regions.iter().map(|region| spread(region));
            spreads.max_by(|one, other| one.max_over_mean.total_cmp(&other.max_over_mean)).unwrap_or_default()
        };
        Self {
            bytes: Spread {
                max_over_mean: mean(&|region| region.spread.max_over_mean),
                p99_over_mean: mean(&|region| region.spread.p99_over_mean),
            },
            bytes_worst: worst(&|region| region.spread),
            busiest_hour: Spread {
                max_over_mean: mean(&|region| region.busiest_spread.max_over_mean),
                p99_over_mean: mean(&|region| region.busiest_spread.p99_over_mean),
            },
            busiest_hour_worst: worst(&|region| region.busiest_spread),
        }
    }
}

impl LastPeer {
    /// Of all crowds that got to their end.
    pub(super) fn of(crowds: &[CrowdReport]) -> Option<Self> {
        let all: Vec<f64> = crowds.iter().filter_map(|crowd| crowd.over_bound).collect();
        let worst = all.iter().copied().max_by(f64::total_cmp)?;
        Some(Self { mean: all.iter().sum::<f64>() / all.len() as f64, worst })
    }
}

impl RegionReport {
    /// Of a region whose nodes sent so much in each hour, over links of `node_kbps` together.
    pub(super) fn of(region: &str, nodes: &[&[u64]], node_kbps: u64) -> Self {
        let served: Vec<u64> = nodes.iter().map(|hours| hours.iter().sum()).collect();
        let hours = nodes.first().map_or(0, |hours| hours.len());
        let together = |hour: &usize| nodes.iter().map(|hours| hours[*hour]).sum::<u64>();
        let busiest = (0..hours).max_by_key(|hour| (together(hour), std::cmp::Reverse(*hour))).unwrap_or(0);
        let busy: Vec<u64> = nodes.iter().filter_map(|hours| hours.get(busiest).copied()).collect();
        let whole = node_kbps as f64 * 1000.0 / 8.0 * 3600.0;
        Self {
            region: region.to_owned(),
            nodes: nodes.len() as u64,
            bytes: served.iter().sum(),
            spread: Spread::of(&served),
            busiest_hour: busiest as u64,
            utilisation: busy.iter().sum::<u64>() as f64 / whole / nodes.len().max(1) as f64,
            utilisation_max: busy.iter().max().map_or(0.0, |bytes| *bytes as f64 / whole),
            busiest_spread: Spread::of(&busy),
        }
    }
}

/// The value that `percent` of a hundred are not above.
pub(super) fn at<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_told_over_the_mean() {
        let even = Spread { max_over_mean: 1.0, p99_over_mean: 1.0 };
        assert_eq!(Spread::of(&[7, 7, 7]), even);
        let mut values = vec![1; 199];
        values.push(201);
        // The mean is 2.
        assert_eq!(Spread::of(&values), Spread { max_over_mean: 100.5, p99_over_mean: 0.5 });
        assert_eq!((Spread::of(&[]), Spread::of(&[0, 0])), (Spread::default(), Spread::default()));
    }

    #[test]
    fn a_region_is_told_by_its_busiest_hour() {
        // 1000 kbit/s carry 450 MB in an hour.
        let (one, other): ([u64; 3], [u64; 3]) = ([0, 300_000_000, 0], [100_000_000, 150_000_000, 0]);
        let region = RegionReport::of("north", &[&one, &other], 1000);
        assert_eq!((region.bytes, region.busiest_hour, region.nodes), (550_000_000, 1, 2));
        assert!((region.utilisation - 0.5).abs() < 1e-9, "{}", region.utilisation);
        assert!((region.utilisation_max - 2.0 / 3.0).abs() < 1e-9);
        let idle = RegionReport::of("south", &[], 1000);
        assert_eq!((idle.nodes, idle.utilisation, idle.spread), (0, 0.0, Spread::default()));
        let imbalance = Imbalance::of(&[region.clone(), idle]);
        assert_eq!((imbalance.bytes, imbalance.bytes_worst), (region.spread, region.spread));
        assert_eq!(imbalance.busiest_hour, region.busiest_spread);
    }

    #[test]
    fn only_crowds_that_got_to_their_end_count() {
        let crowd = |over_bound| CrowdReport {
            region: None,
            peers: 1,
            done: 1,
            length: 1,
            seconds: None,
            bound_seconds: 1.0,
            over_bound,
        };
        assert_eq!(LastPeer::of(&[crowd(None)]), None);
        let told = LastPeer::of(&[crowd(Some(1.0)), crowd(None), crowd(Some(2.0))]);
        assert_eq!(told, Some(LastPeer { mean: 1.5, worst: 2.0 }));
    }
}

//! How far regions are from one another: what the operator has measured, else what the zones'
//! coordinates tell.

use std::collections::{BTreeMap, HashMap};

use crate::names::Names;
use crate::zone::Coordinates;

/// What a distance is when nobody knows it.
pub(crate) const UNKNOWN: u32 = u32::MAX;
/// Mean radius of the earth, kilometres.
const EARTH_KM: f64 = 6371.0;
/// Round trip for a kilometre, microseconds: light in fibre covers 200 km in a millisecond, there and
/// back, and cables are taken to be half longer than the straight line.
const ROUND_TRIP_US: f64 = 2.0 * 1.5 * 1000.0 / 200.0;

/// Round trips between regions, microseconds; the same there and back.
#[derive(Default)]
pub(crate) struct Distances(HashMap<(u32, u32), u32>);

impl Distances {
    /// Distances by `"REGION/REGION"`; see [`pair`].
    pub(crate) fn new(table: &BTreeMap<String, u32>, regions: &Names) -> Self {
        let pairs = table.iter().filter_map(|(key, us)| pair(key).map(|pair| (pair, *us)));
        Self(
            pairs
                .map(|((one, other), us)| (sorted(regions.number(one), regions.number(other)), us))
                .collect(),
        )
    }

    /// The round trip between two regions; [`UNKNOWN`] when it is neither measured nor told by where
    /// the two are.
    pub(crate) fn between(&self, one: u32, other: u32, places: &HashMap<u32, Coordinates>) -> u32 {
        if let Some(us) = self.0.get(&sorted(one, other)) {
            return *us;
        }
        match (places.get(&one), places.get(&other)) {
            // Within a region the straight line says nothing.
            (Some(from), Some(to)) if one != other => estimate(*from, *to),
            _ => UNKNOWN,
        }
    }
}

/// The two regions of a key; they may be the same.
pub(crate) fn pair(key: &str) -> Option<(&str, &str)> {
    key.split_once('/').filter(|(one, other)| !one.is_empty() && !other.is_empty() && !other.contains('/'))
}

fn sorted(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

/// The round trip over the great circle (haversine formula), microseconds.
fn estimate(from: Coordinates, to: Coordinates) -> u32 {
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
    let across = from.latitude.to_radians().cos() * to.latitude.to_radians().cos();
    let square = half(from.latitude, to.latitude) + across * half(from.longitude, to.longitude);
    let km = 2.0 * EARTH_KM * square.sqrt().min(1.0).asin();
    (km * ROUND_TRIP_US) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_counts_there_and_back() {
        let names = Names::default();
        let table = BTreeMap::from([("eu/us".to_owned(), 80_000), ("eu/eu".to_owned(), 3000)]);
        let distances = Distances::new(&table, &names);
        let (eu, us) = (names.number("eu"), names.number("us"));
        let none = HashMap::new();
        assert_eq!(distances.between(eu, us, &none), 80_000);
        assert_eq!(distances.between(us, eu, &none), 80_000);
        assert_eq!(distances.between(eu, eu, &none), 3000);
        assert_eq!(distances.between(us, us, &none), UNKNOWN);
    }

    #[test]
    fn coordinates_tell_what_nobody_measured() {
        let london = Coordinates { latitude: 51.5, longitude: -0.1 };
        let new_york = Coordinates { latitude: 40.7, longitude: -74.0 };
        let places = HashMap::from([(1, london), (2, new_york)]);
        // 5570 km, and some 70 to 90 ms in practice.
        let us = Distances::default().between(1, 2, &places);
        assert!((83_000..84_500).contains(&us), "{us}");
        assert_eq!(Distances::default().between(1, 1, &places), UNKNOWN);
        assert_eq!(Distances::default().between(1, 3, &places), UNKNOWN);
        let antipode = Coordinates { latitude: -51.5, longitude: 179.9 };
        assert!((299_000..301_000).contains(&estimate(london, antipode)));
    }

    #[test]
    fn a_key_is_two_regions() {
        assert_eq!(pair("a/b"), Some(("a", "b")));
        for key in ["", "a", "/b", "a/", "a/b/c"] {
            assert_eq!(pair(key), None, "{key}");
        }
    }
}

//! Where everybody is. Regions stand around the earth at the same distance from one another; each has
//! four operators, and an address tells region, operator and number.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use skerry_registry::Prefix;

/// Operators of a region.
pub(super) const OPERATORS: u8 = 4;
/// Minutes of a day.
pub(super) const DAY_MINUTES: u64 = 1440;
/// First byte of the addresses of the first region's clients. All are public ones.
const CLIENTS: u32 = 16;
/// First byte of nodes' addresses.
const NODES: u32 = 90;
/// Bits of a client's number in its address.
const NUMBER_BITS: u32 = 22;
/// Where nodes and peers take connections.
const PORT: u16 = 6881;
/// Round trip within a region; to its neighbours; what comes on top half around the earth. Microseconds.
const WITHIN_US: u32 = 4000;
const NEXT_US: u32 = 20_000;
const AROUND_US: u32 = 130_000;

/// The regions.
pub(super) struct Map {
    names: Vec<String>,
}

/// Whom an answer of the tracker names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// A node, by its place.
    Node(usize),
    /// A peer, by its number.
    Peer(u32),
}

impl Map {
    pub(super) fn new(regions: u32) -> Self {
        Self { names: (1..=regions).map(|number| format!("region-{number:02}")).collect() }
    }

    pub(super) fn regions(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, region: u8) -> &str {
        &self.names[usize::from(region)]
    }

    /// The minute of the day in a region, at a minute of UTC.
    pub(super) fn local_minute(&self, region: u8, minute: u64) -> u64 {
        (minute + DAY_MINUTES * u64::from(region) / self.names.len() as u64) % DAY_MINUTES
    }

    /// Round trip between two regions, microseconds.
    fn round_trip_us(&self, one: usize, other: usize) -> u32 {
        let (apart, all) = (one.abs_diff(other), self.names.len());
        match apart.min(all - apart) {
            0 => WITHIN_US,
            steps => NEXT_US + AROUND_US * 2 * (steps as u32 - 1) / all as u32,
        }
    }

    /// `selector.distances_us`.
    pub(super) fn distances_us(&self) -> BTreeMap<String, u32> {
        let all = || self.names.iter().enumerate();
        let pairs = all().flat_map(|one| all().skip(one.0).map(move |other| (one, other)));
        pairs
            .map(|((one, name), (other, to))| (format!("{name}/{to}"), self.round_trip_us(one, other)))
            .collect()
    }

    /// The coverage zone file.
    pub(super) fn zones(&self) -> Value {
        let zone = |(region, name): (u32, &String)| {
            (name.clone(), json!({ "network": [format!("{}.0.0.0/8", CLIENTS + region)] }))
        };
        let zones: BTreeMap<String, Value> = (0..).zip(&self.names).map(zone).collect();
        json!({ "coverageZones": zones })
    }
}

/// The address of a client.
pub(super) fn client(region: u8, operator: u8, number: u32) -> Ipv4Addr {
    let place = (CLIENTS + u32::from(region)) << 24 | u32::from(operator) << NUMBER_BITS;
    Ipv4Addr::from_bits(place | (number & ((1 << NUMBER_BITS) - 1)))
}

/// Where a client is found by peers.
pub(super) fn port() -> u16 {
    PORT
}

/// Where a node serves peers.
pub(super) fn node(place: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(NODES << 24 | place as u32), PORT))
}

/// Whose address it is.
pub(super) fn named(endpoint: SocketAddr) -> Option<Named> {
    let IpAddr::V4(address) = endpoint.ip() else { return None };
    let bits = address.to_bits();
    Some(match bits >> 24 {
        NODES => Named::Node((bits & 0x00ff_ffff) as usize),
        _ => Named::Peer(bits & ((1 << NUMBER_BITS) - 1)),
    })
}

/// Number of the autonomous system of an operator: another one in every region.
pub(super) fn asn(region: u8, operator: u8) -> u32 {
    64_512 + u32::from(region) * u32::from(OPERATORS) + u32::from(operator)
}

/// The prefix of an operator's clients.
pub(super) fn prefix(region: u8, operator: u8) -> Option<Prefix> {
    Prefix::of(IpAddr::V4(client(region, operator, 0)), (32 - NUMBER_BITS) as u8)
}

#[cfg(test)]
mod tests {
    use skerry_selector::zone::{Kind, Zones};

    use super::*;

    #[test]
    fn an_address_tells_region_operator_and_number() {
        let map = Map::new(64);
        let zones = Zones::parse(map.zones().to_string().as_bytes(), Kind::Coverage).unwrap();
        for (region, operator, number) in [(0, 0, 0), (63, 3, (1 << 22) - 1), (7, 2, 12_345)] {
            let address = client(region, operator, number);
            let (_, zone) = zones.find(address.into()).unwrap();
            assert_eq!(&*zone.name, map.name(region));
            assert!(prefix(region, operator).unwrap().contains(address.into()));
            assert!(!prefix(region, (operator + 1) % OPERATORS).unwrap().contains(address.into()));
            assert_eq!(named((address, port()).into()), Some(Named::Peer(number)));
            assert!(!skerry_tracker::address::is_local(address.into()));
        }
        assert_eq!(named(node(9999)), Some(Named::Node(9999)));
        assert!(!skerry_tracker::address::is_local(node(0).ip()));
        assert_ne!(asn(0, 3), asn(1, 0));
    }

    #[test]
    fn round_trips_grow_around_the_earth() {
        let map = Map::new(10);
        let us: Vec<u32> = (0..10).map(|other| map.round_trip_us(0, other)).collect();
        assert_eq!(us[0], WITHIN_US);
        assert!(us[1..=5].is_sorted() && us[1] == us[9] && us[2] == us[8], "{us:?}");
        assert_eq!(map.distances_us().len(), 55);
        assert_eq!(map.distances_us()["region-01/region-02"], NEXT_US);
        assert_eq!(Map::new(1).round_trip_us(0, 0), WITHIN_US);
    }

    #[test]
    fn the_day_begins_in_one_region_after_the_other() {
        let map = Map::new(4);
        assert_eq!([0, 1, 2, 3].map(|region| map.local_minute(region, 60)), [60, 420, 780, 1140]);
        assert_eq!(map.local_minute(3, 400), 40);
    }
}

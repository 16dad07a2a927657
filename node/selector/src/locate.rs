//! Where a client is: its region, from the coverage zone file, else by its country from MaxMind DB
//! files, else the default region; its operator, from MaxMind DB files; and the deep coverage zone it
//! is in, whatever told its region.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::mmdb::{Database, Record};
use crate::names::Names;
use crate::zone::{Coordinates, Zone, Zones};

/// What told a client's region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The coverage zone file.
    Zone,
    /// A MaxMind DB file, by the country.
    MaxMind,
    /// Nothing: it is the default.
    Default,
}

impl Source {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::Zone, Self::MaxMind, Self::Default];

    /// The label of the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::MaxMind => "maxmind",
            Self::Default => "default",
        }
    }
}

/// A client's region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its number while the process lives; 0 is unknown.
    pub number: u32,
    /// Its name; empty is unknown.
    pub name: Arc<str>,
}

/// A client's operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isp {
    /// What policies see: the autonomous system's number; where that is unknown, a number of the name's
    /// own, counted down from `u32::MAX`.
    pub number: u32,
    /// Number of the autonomous system, where it is known.
    pub asn: Option<u32>,
    /// Its name; empty is unknown.
    pub name: Arc<str>,
}

/// A deep coverage zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deep {
    /// Its number while the process lives.
    pub number: u32,
    /// Its name.
    pub name: Arc<str>,
    /// Ids of the nodes that serve it before all others.
    pub nodes: Arc<[Arc<str>]>,
}

/// Where a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its region.
    pub region: Region,
    /// What told it.
    pub source: Source,
    /// ISO 3166-1 code of its country, where a file tells it.
    pub country: Option<String>,
    /// Its operator, where a file tells it.
    pub isp: Option<Isp>,
    /// The deep zone that it is in.
    pub deep: Option<Deep>,
}

/// The zones of a file, each with its number.
#[derive(Clone)]
struct Numbered {
    zones: Arc<Zones>,
    numbers: Arc<[u32]>,
}

impl Numbered {
    fn new(zones: Zones, names: &Names) -> Self {
        let numbers = zones.list().iter().map(|zone| names.number(&zone.name)).collect();
        Self { zones: Arc::new(zones), numbers }
    }

    fn find(&self, client: IpAddr) -> Option<(u32, &Zone)> {
        let (place, zone) = self.zones.find(client)?;
        Some((*self.numbers.get(place)?, zone))
    }
}

/// What there is to ask.
#[derive(Clone, Default)]
struct Sources {
    zones: Option<Numbered>,
    deep: Option<Numbered>,
    /// In the order in which they are configured; `None` when there was no good file yet.
    databases: Vec<Option<Arc<Database>>>,
    coordinates: Arc<HashMap<u32, Coordinates>>,
}

impl Sources {
    /// What all files together say of an address.
    fn record(&self, client: IpAddr) -> Record<'_> {
        let mut record = Record::default();
        self.databases.iter().flatten().for_each(|database| database.add(client, &mut record));
        record.asn = record.asn.filter(|asn| *asn != 0);
        record
    }
}

/// Tells where clients are.
pub(crate) struct Locator {
    sources: ArcSwap<Sources>,
    pub(crate) regions: Names,
    deep: Names,
    countries: HashMap<String, Region>,
    default: Region,
}

impl Locator {
    /// Without any file. `countries` are regions by ISO 3166-1 codes.
    pub(crate) fn new(countries: &BTreeMap<String, String>, default: &str) -> Self {
        let regions = Names::default();
        let region = |name: &str| Region { number: regions.number(name), name: name.into() };
        let countries = countries.iter().map(|(code, name)| (code.clone(), region(name))).collect();
        let default = region(default);
        Self { sources: ArcSwap::default(), regions, deep: Names::default(), countries, default }
    }

    fn change(&self, change: impl Fn(&mut Sources)) {
        self.sources.rcu(|sources| {
            let mut sources = Sources::clone(sources);
            change(&mut sources);
            sources
        });
    }

    /// Takes a coverage zone file.
    pub(crate) fn take_zones(&self, zones: Zones) {
        let zones = Numbered::new(zones, &self.regions);
        let known = zones.zones.list().iter().zip(&*zones.numbers);
        let known = known.filter_map(|(zone, number)| Some((*number, zone.coordinates?)));
        let coordinates: Arc<HashMap<_, _>> = Arc::new(known.collect());
        self.change(|sources| {
            sources.zones = Some(zones.clone());
            sources.coordinates = coordinates.clone();
        });
    }

    /// Takes a deep coverage zone file.
    pub(crate) fn take_deep_zones(&self, zones: Zones) {
        let zones = Numbered::new(zones, &self.deep);
        self.change(|sources| sources.deep = Some(zones.clone()));
    }

    /// Takes the MaxMind DB file that is configured at a place of the list.
    pub(crate) fn take_database(&self, place: usize, database: Database) {
        let database = Arc::new(database);
        self.change(|sources| {
            if sources.databases.len() <= place {
                sources.databases.resize(place + 1, None);
            }
            sources.databases[place] = Some(database.clone());
        });
    }

    /// Where regions are, by their numbers.
    pub(crate) fn coordinates(&self) -> Arc<HashMap<u32, Coordinates>> {
        self.sources.load().coordinates.clone()
    }

    /// Where a client is.
    pub(crate) fn place(&self, client: IpAddr) -> Place {
        let sources = self.sources.load();
        let client = client.to_canonical();
        let record = sources.record(client);
        let (number, name, source) = self.region_of(&sources, client, &record);
        let deep = sources.deep.as_ref().and_then(|zones| zones.find(client));
        Place {
            region: Region { number, name: name.clone() },
            source,
            country: record.country.map(str::to_owned),
            isp: record.asn.map(|asn| Isp {
                number: asn,
                asn: Some(asn),
                name: record.isp.unwrap_or_default().into(),
            }),
            deep: deep.map(|(number, zone)| Deep {
                number,
                name: zone.name.clone(),
                nodes: zone.nodes.clone(),
            }),
        }
    }

    /// Numbers of a client's region and autonomous system; 0 is unknown. Allocates nothing.
    pub(crate) fn numbers(&self, client: IpAddr) -> (u32, u32) {
        let sources = self.sources.load();
        let client = client.to_canonical();
        let record = sources.record(client);
        (self.region_of(&sources, client, &record).0, record.asn.unwrap_or(0))
    }

    fn region_of<'a>(
        &'a self,
        sources: &'a Sources,
        client: IpAddr,
        record: &Record<'_>,
    ) -> (u32, &'a Arc<str>, Source) {
        if let Some((number, zone)) = sources.zones.as_ref().and_then(|zones| zones.find(client)) {
            return (number, &zone.name, Source::Zone);
        }
        match record.country.and_then(|code| self.countries.get(code)) {
            Some(region) => (region.number, &region.name, Source::MaxMind),
            None => (self.default.number, &self.default.name, Source::Default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmdb::tests::{country, file, operator};
    use crate::zone::Kind;

    fn locator() -> Locator {
        Locator::new(&BTreeMap::from([("DE".to_owned(), "eu-central".to_owned())]), "elsewhere")
    }

    fn zones(text: &str, kind: Kind) -> Zones {
        Zones::parse(text.as_bytes(), kind).unwrap()
    }

    fn place(locator: &Locator, client: &str) -> Place {
        locator.place(client.parse().unwrap())
    }

    #[test]
    fn without_files_all_are_in_the_default_region() {
        let place = place(&locator(), "192.0.2.1");
        assert_eq!((&*place.region.name, place.source), ("elsewhere", Source::Default));
        assert_eq!((place.isp, place.deep), (None, None));
        let nowhere = Locator::new(&BTreeMap::new(), "");
        assert_eq!(nowhere.place("::1".parse().unwrap()).region.number, 0);
    }

    #[test]
    fn sources_are_asked_in_their_order() {
        let locator = locator();
        let rows = [("192.0.2.0/24", country("DE")), ("198.51.100.0/24", country("FR"))];
        locator.take_database(1, Database::parse(file("Country", &rows)).unwrap());
        let rows = [("192.0.2.0/24", operator(64500, "Example Net"))];
        locator.take_database(0, Database::parse(file("ASN", &rows)).unwrap());
        let text = r#"{"coverageZones": {"eu-west": {"network": ["192.0.2.0/25"]}}}"#;
        locator.take_zones(zones(text, Kind::Coverage));

        let by_zone = place(&locator, "192.0.2.1");
        assert_eq!((&*by_zone.region.name, by_zone.source), ("eu-west", Source::Zone));
        let isp = by_zone.isp.unwrap();
        assert_eq!((isp.number, isp.asn, &*isp.name), (64500, Some(64500), "Example Net"));

        let by_country = place(&locator, "::ffff:192.0.2.200");
        assert_eq!((&*by_country.region.name, by_country.source), ("eu-central", Source::MaxMind));
        // A country without a region.
        let other = place(&locator, "198.51.100.1");
        assert_eq!((&*other.region.name, other.source), ("elsewhere", Source::Default));
        assert_eq!(other.country.as_deref(), Some("FR"));
        assert_ne!(by_zone.region.number, by_country.region.number);
        let numbers = locator.numbers("192.0.2.1".parse().unwrap());
        assert_eq!(numbers, (by_zone.region.number, 64500));
    }

    #[test]
    fn a_deep_zone_names_nodes_and_no_region() {
        let locator = locator();
        let text = r#"{"deepCoverageZones": {"street": {"network": ["192.0.2.0/28"], "caches": ["a"]}}}"#;
        locator.take_deep_zones(zones(text, Kind::Deep));
        let inside = place(&locator, "192.0.2.1");
        assert_eq!(&*inside.region.name, "elsewhere");
        let deep = inside.deep.unwrap();
        assert_eq!((&*deep.name, &*deep.nodes[0]), ("street", "a"));
        assert_eq!(place(&locator, "192.0.2.16").deep, None);
    }

    #[test]
    fn a_new_file_replaces_the_one_before_and_keeps_numbers() {
        let locator = locator();
        let text = r#"{"coverageZones": {"a": {"network": ["192.0.2.0/24"]}, "b": {}}}"#;
        locator.take_zones(zones(text, Kind::Coverage));
        let before = place(&locator, "192.0.2.1").region;
        let text = r#"{"coverageZones": {"c": {}, "a": {"network": ["198.51.100.0/24"]}}}"#;
        locator.take_zones(zones(text, Kind::Coverage));
        assert_eq!(place(&locator, "198.51.100.1").region, before);
        assert_eq!(place(&locator, "192.0.2.1").source, Source::Default);
    }
}

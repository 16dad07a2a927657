//! Coverage zone files: which prefixes belong to which region, and deep ones: which prefixes are
//! served by which nodes before all others.
//!
//! The format is that of Apache Traffic Control ("The Coverage Zone File", "The Deep Coverage Zone
//! File"): `{"coverageZones": {"ZONE": {"network": [..], "network6": [..], "coordinates": {"latitude":
//! .., "longitude": ..}}}}`, and `deepCoverageZones` with a list of `caches` in each zone. As there,
//! the longest prefix counts, the first of two zones that name the same prefix has it, bits behind a
//! prefix' length are ignored, and so are keys that are not known.

use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use skerry_registry::prefix::Prefix;

use crate::error::FileError;
use crate::trie::{Builder, Trie};

/// Longest file, bytes: 20 million prefixes.
const MOST_BYTES: u64 = 512 << 20;
/// Longest name of a zone or node, bytes.
const MOST_NAME: usize = 128;
/// Nodes of a deep zone.
const MOST_NODES: usize = 4096;

/// Which of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `coverageZones`.
    Coverage,
    /// `deepCoverageZones`.
    Deep,
}

impl Kind {
    fn key(self) -> &'static str {
        match self {
            Self::Coverage => "coverageZones",
            Self::Deep => "deepCoverageZones",
        }
    }
}

/// A place on earth, degrees.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Coordinates {
    /// -90 to 90, north positive.
    pub latitude: f64,
    /// -180 to 180, east positive.
    pub longitude: f64,
}

/// One zone.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Its name: the region, in a coverage zone file.
    pub name: Arc<str>,
    /// Where it is.
    pub coordinates: Option<Coordinates>,
    /// Ids of the nodes that serve it, in a deep one.
    pub nodes: Arc<[Arc<str>]>,
}

/// The zones of a file.
pub struct Zones {
    trie: Trie,
    zones: Vec<Zone>,
    prefixes: usize,
}

impl Zones {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it is wrong: a file is taken whole or not at all.
    pub fn read(path: &Path, kind: Kind) -> Result<Self, FileError> {
        let text = read(path, MOST_BYTES)?;
        let loading =
            load(&text, kind).map_err(|source| FileError::Zones { path: path.to_owned(), source })?;
        // Before the trie is built, which takes as much again.
        drop(text);
        let zones = loading.build();
        if zones.trie.conflicts() > 0 {
            log::warn!(
                path:% = path.display();
                "{} prefixes stand in more than one zone; the first has them", zones.trie.conflicts()
            );
        }
        Ok(zones)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn parse(text: &[u8], kind: Kind) -> Result<Self, serde_json::Error> {
        Ok(load(text, kind)?.build())
    }

    /// The zone that an address is in, and its place in [`Zones::list`].
    pub fn find(&self, address: IpAddr) -> Option<(usize, &Zone)> {
        let place = self.trie.find(address)? as usize;
        Some((place, self.zones.get(place)?))
    }

    /// All zones.
    pub fn list(&self) -> &[Zone] {
        &self.zones
    }

    /// How many prefixes the file has.
    pub fn prefixes(&self) -> usize {
        self.prefixes
    }

    /// Memory of the prefixes, bytes.
    pub fn bytes(&self) -> usize {
        self.trie.bytes()
    }
}

/// The whole of a file that has no more than `most_bytes`.
pub(crate) fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(most_bytes)).unwrap_or(0));
    // It may grow meanwhile.
    file.take(most_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most_bytes {
        return Err(FileError::Length { path: path.to_owned(), most_bytes });
    }
    Ok(bytes)
}

/// What was read so far.
struct Loading {
    kind: Kind,
    seen: bool,
    names: HashSet<Arc<str>>,
    zones: Vec<Zone>,
    prefixes: Builder,
}

impl Loading {
    fn build(self) -> Zones {
        let prefixes = self.prefixes.len();
        Zones { trie: self.prefixes.build(), zones: self.zones, prefixes }
    }
}

fn load(text: &[u8], kind: Kind) -> Result<Loading, serde_json::Error> {
    let mut loading =
        Loading { kind, seen: false, names: HashSet::new(), zones: Vec::new(), prefixes: Builder::default() };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    deserializer.deserialize_map(File(&mut loading))?;
    deserializer.end()?;
    if !loading.seen {
        return Err(serde_json::Error::custom(format!("there is no `{}`", kind.key())));
    }
    Ok(loading)
}

/// The outermost object.
struct File<'a>(&'a mut Loading);

impl<'de> Visitor<'de> for File<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with `{}`", self.0.kind.key())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0.kind.key() {
                self.0.seen = true;
                map.next_value_seed(ZoneMap(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The object of all zones.
struct ZoneMap<'a>(&'a mut Loading);

impl<'de> DeserializeSeed<'de> for ZoneMap<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ZoneMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of zones by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name.is_empty() || name.len() > MOST_NAME {
                let name: String = name.chars().take(MOST_NAME).collect();
                return Err(A::Error::custom(format!(
                    "zone `{name}`: its name must have from 1 to {MOST_NAME} bytes"
                )));
            }
            let name: Arc<str> = name.into();
            if !self.0.names.insert(name.clone()) {
                return Err(A::Error::custom(format!("zone `{name}` comes twice")));
            }
            map.next_value_seed(ZoneBody { loading: self.0, name })?;
        }
        Ok(())
    }
}

/// The object of one zone.
struct ZoneBody<'a> {
    loading: &'a mut Loading,
    name: Arc<str>,
}

impl<'de> DeserializeSeed<'de> for ZoneBody<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ZoneBody<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for zone `{}`", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { loading, name } = self;
        let wrong = |reason: &str| A::Error::custom(format!("zone `{name}`: {reason}"));
        let zone = u32::try_from(loading.zones.len()).map_err(|_| wrong("there are too many zones"))?;
        let (mut coordinates, mut nodes) = (None, Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            let prefixes = &mut loading.prefixes;
            match &*key {
                "network" => map.next_value_seed(Networks { prefixes, zone, name: &name, v4: true })?,
                "network6" => map.next_value_seed(Networks { prefixes, zone, name: &name, v4: false })?,
                "coordinates" => {
                    let Coordinates { latitude, longitude } = map.next_value()?;
                    if latitude.abs() > 90.0 || longitude.abs() > 180.0 {
                        return Err(wrong(&format!("{latitude}, {longitude} is no place on earth")));
                    }
                    coordinates = Some(Coordinates { latitude, longitude });
                }
                "caches" if loading.kind == Kind::Deep => {
                    nodes = map.next_value::<Vec<Arc<str>>>()?;
                    if nodes.len() > MOST_NODES {
                        return Err(wrong(&format!("it names more than {MOST_NODES} caches")));
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        loading.zones.push(Zone { name, coordinates, nodes: nodes.into() });
        Ok(())
    }
}

/// A list of prefixes of one family.
struct Networks<'a> {
    prefixes: &'a mut Builder,
    zone: u32,
    name: &'a str,
    v4: bool,
}

impl<'de> DeserializeSeed<'de> for Networks<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Networks<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of prefixes of zone `{}`", self.name)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(prefix) = list.next_element_seed(Network { name: self.name, v4: self.v4 })? {
            self.prefixes.add(prefix, self.zone);
        }
        Ok(())
    }
}

/// One prefix.
struct Network<'a> {
    name: &'a str,
    v4: bool,
}

impl<'de> DeserializeSeed<'de> for Network<'_> {
    type Value = Prefix;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Prefix, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Network<'_> {
    type Value = Prefix;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a prefix of zone `{}`", self.name)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Prefix, E> {
        let wrong = |reason: String| E::custom(format!("zone `{}`: {reason}", self.name));
        let prefix = Prefix::covering(text).map_err(|error| wrong(error.to_string()))?;
        if prefix.address().is_ipv4() != self.v4 {
            let family = if self.v4 { "IPv4, as all in `network`" } else { "IPv6, as all in `network6`" };
            return Err(wrong(format!("`{text}` is no prefix of {family}")));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "revision": "Mon Dec 21 15:04:01 2015", "customerName": {"deep": [1, {"er": null}]},
        "coverageZones": {
            "eu-west": {
                "coordinates": {"latitude": 51.5, "longitude": -0.1, "altitude": 3},
                "network6": ["2001:db8::/32"],
                "network": ["192.0.2.0/24", "198.51.100.7/24", "203.0.113.9"],
                "backupZones": {"list": ["eu-central"]}
            },
            "eu-central": {"network": ["192.0.2.128/25", "198.51.100.0/24"]}
        }
    }"#;

    const DEEP: &str = r#"{"deepCoverageZones": {
        "street-7": {"network": ["192.0.2.0/28"], "network6": [], "caches": ["edge-1", "edge-2"]}
    }}"#;

    fn zone<'a>(zones: &'a Zones, address: &str) -> Option<&'a str> {
        zones.find(address.parse().unwrap()).map(|(_, zone)| &*zone.name)
    }

    fn refusal(text: &str) -> String {
        Zones::parse(text.as_bytes(), Kind::Coverage).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_file_is_read() {
        let zones = Zones::parse(FILE.as_bytes(), Kind::Coverage).unwrap();
        assert_eq!(zone(&zones, "192.0.2.1"), Some("eu-west"));
        assert_eq!(zone(&zones, "192.0.2.129"), Some("eu-central"));
        assert_eq!(zone(&zones, "2001:db8::1"), Some("eu-west"));
        assert_eq!(zone(&zones, "203.0.113.9"), Some("eu-west"));
        assert_eq!(zone(&zones, "203.0.113.8"), None);
        // The first of two has it.
        assert_eq!(zone(&zones, "198.51.100.1"), Some("eu-west"));
        assert_eq!((zones.prefixes(), zones.list().len(), zones.trie.conflicts()), (6, 2, 1));
        let place = zones.list()[0].coordinates.unwrap();
        assert_eq!((place.latitude, place.longitude), (51.5, -0.1));
    }

    #[test]
    fn a_deep_file_names_nodes() {
        let zones = Zones::parse(DEEP.as_bytes(), Kind::Deep).unwrap();
        let (_, zone) = zones.find("192.0.2.15".parse().unwrap()).unwrap();
        assert_eq!(zone.nodes.iter().map(|node| &**node).collect::<Vec<_>>(), ["edge-1", "edge-2"]);
        assert!(refusal(DEEP).contains("there is no `coverageZones`"), "{}", refusal(DEEP));
    }

    #[test]
    fn errors_name_zone_and_entry() {
        let with = |networks: &str| refusal(&format!(r#"{{"coverageZones": {{"a": {{{networks}}}}}}}"#));
        for (networks, zone, entry) in [
            (r#""network": ["10.0.0.0/33"]"#, "zone `a`", "`10.0.0.0/33`"),
            (r#""network": ["10.0.0.0/8", "ten/8"]"#, "zone `a`", "`ten/8`"),
            (r#""network": ["2001:db8::/32"]"#, "zone `a`", "`2001:db8::/32`"),
            (r#""network6": ["10.0.0.0/8"]"#, "zone `a`", "`10.0.0.0/8`"),
            (r#""network": [5]"#, "zone `a`", "`5`"),
            (r#""network": "10.0.0.0/8""#, "zone `a`", "\"10.0.0.0/8\""),
            (r#""coordinates": {"latitude": 91, "longitude": 0}"#, "zone `a`", "91, 0"),
        ] {
            let error = with(networks);
            assert!(error.contains(zone) && error.contains(entry) && error.contains("line 1"), "{error}");
        }
        assert!(refusal(r#"{"coverageZones": {"a": {}, "a": {}}}"#).contains("zone `a` comes twice"));
        assert!(refusal(r#"{"coverageZones": {"": {}}}"#).contains("its name"));
        assert!(refusal(r#"{"coverageZones": {"a": 3}}"#).contains("zone `a`"));
    }

    #[test]
    fn hostile_files_are_refused_and_do_no_harm() {
        let long = format!(r#"{{"coverageZones": {{"{}": {{}}}}}}"#, "a".repeat(1 << 20));
        assert!(refusal(&long).len() < 400);
        let entry = format!(r#"{{"coverageZones": {{"a": {{"network": ["{}"]}}}}}}"#, "1".repeat(1 << 20));
        assert!(refusal(&entry).len() < 400);
        let deep = format!(r#"{{"other": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(refusal(&deep).contains("there is no"), "{}", refusal(&deep));
        let nested = format!(r#"{{"coverageZones": {{"a": {{"coordinates": {}"#, "[".repeat(100_000));
        assert!(!refusal(&nested).is_empty());
        let caches =
            format!(r#"{{"deepCoverageZones": {{"a": {{"caches": [{}""]}}}}}}"#, "\"\",".repeat(5000));
        assert!(Zones::parse(caches.as_bytes(), Kind::Deep).is_err());
        for text in ["", "[]", "null", "{", r#"{"coverageZones": []}"#, r#"{"coverageZones": {}} x"#, "\u{0}"]
        {
            assert!(!refusal(text).is_empty(), "{text}");
        }
        for cut in 0..FILE.len() {
            assert!(!refusal(&FILE[..cut]).is_empty(), "{cut}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Zones::read(Path::new("/nowhere/zones.json"), Kind::Coverage).err().unwrap().to_string();
        assert!(error.starts_with("cannot read /nowhere/zones.json: "), "{error}");
    }
}

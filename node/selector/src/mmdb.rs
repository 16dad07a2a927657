//! MaxMind DB files: the country and the operator of an address, whichever of them a file has.
//!
//! Files are read into memory: mapping them would be unsafe, since whoever replaces a file in place
//! pulls the pages away. They are verified whole before they are taken. Fields are those of MaxMind's
//! Country, City, ASN, ISP and Enterprise files, under whatever name a file has.

use std::net::IpAddr;
use std::path::Path;

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

use crate::error::FileError;
use crate::zone::read;

/// Longest file, bytes.
const MOST_BYTES: u64 = 1 << 30;

/// What files say of an address.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// ISO 3166-1 code of the country, two letters.
    pub country: Option<&'a str>,
    /// Number of the autonomous system.
    pub asn: Option<u32>,
    /// Name of the operator.
    pub isp: Option<&'a str>,
}

/// The fields of a file's row that are looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Row<'a> {
    #[serde(borrow)]
    country: Country<'a>,
    #[serde(borrow)]
    registered_country: Country<'a>,
    #[serde(borrow)]
    traits: Operator<'a>,
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
    isp: Option<&'a str>,
    organization: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Country<'a> {
    iso_code: Option<&'a str>,
}

/// What Enterprise files have below `traits`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Operator<'a> {
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
    isp: Option<&'a str>,
    organization: Option<&'a str>,
}

/// One file.
pub struct Database(Reader<Vec<u8>>);

impl Database {
    /// Reads and verifies a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no MaxMind DB file from end to end.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = read(path, MOST_BYTES)?;
        Self::parse(bytes).map_err(|source| FileError::Database { path: path.to_owned(), source })
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// When they are no MaxMind DB file from end to end.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, MaxMindDbError> {
        let reader = Reader::from_source(bytes)?;
        reader.verify()?;
        Ok(Self(reader))
    }

    /// What kind of file it says it is, as `GeoLite2-ASN`.
    pub fn kind(&self) -> &str {
        &self.0.metadata().database_type
    }

    /// When it was made, seconds since 1970.
    pub fn built(&self) -> u64 {
        self.0.metadata().build_epoch
    }

    /// Adds what this file says of an address to what others said; what they said stays.
    pub fn add<'a>(&'a self, address: IpAddr, record: &mut Record<'a>) {
        if address.is_ipv6() && self.0.metadata().ip_version == 4 {
            return;
        }
        // A row of other fields, or of other types, says nothing here.
        let Ok(Some(row)) = self.0.lookup(address).and_then(|found| found.decode::<Row<'a>>()) else {
            return;
        };
        let traits = row.traits;
        record.country = record.country.or(row.country.iso_code).or(row.registered_country.iso_code);
        record.asn = record.asn.or(row.autonomous_system_number).or(traits.autonomous_system_number);
        let names = [
            row.isp,
            row.organization,
            row.autonomous_system_organization,
            traits.isp,
            traits.organization,
            traits.autonomous_system_organization,
        ];
        record.isp = names.into_iter().fold(record.isp, Option::or);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use skerry_registry::prefix::Prefix;

    use super::*;

    /// A value of the format.
    pub(crate) enum Value {
        Text(&'static str),
        Number(u32),
        Map(Vec<(&'static str, Value)>),
    }

    /// The control byte and length of a value (MaxMind DB 2.0, "Data Field Format").
    fn control(kind: u8, length: usize, out: &mut Vec<u8>) {
        let (size, more) = if length < 29 { (length as u8, None) } else { (29, Some((length - 29) as u8)) };
        if kind < 8 {
            out.push((kind << 5) | size);
        } else {
            out.extend([size, kind - 7]);
        }
        out.extend(more);
    }

    fn text(value: &str, out: &mut Vec<u8>) {
        control(2, value.len(), out);
        out.extend(value.bytes());
    }

    fn encode(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Text(value) => text(value, out),
            Value::Number(number) => {
                control(6, 4, out);
                out.extend(number.to_be_bytes());
            }
            Value::Map(fields) => {
                control(7, fields.len(), out);
                for (name, value) in fields {
                    text(name, out);
                    encode(value, out);
                }
            }
        }
    }

    /// A file of IPv6, IPv4 below `::/96`, with records of 32 bits. Prefixes must not nest.
    pub(crate) fn file(kind: &'static str, rows: &[(&str, Value)]) -> Vec<u8> {
        // Children of each node: a node, or a place in the data, or nothing.
        #[derive(Clone, Copy)]
        enum Child {
            None,
            Node(usize),
            Data(usize),
        }
        let mut nodes = vec![[Child::None; 2]];
        let mut data = Vec::new();
        for (prefix, value) in rows {
            let prefix: Prefix = prefix.parse().unwrap();
            let (bits, length) = match prefix.address() {
                IpAddr::V4(v4) => (u128::from(v4.to_bits()), u32::from(prefix.length()) + 96),
                IpAddr::V6(v6) => (v6.to_bits(), u32::from(prefix.length())),
            };
            let mut at = 0;
            for depth in 0..length {
                let bit = (bits >> (127 - depth)) as usize & 1;
                if depth + 1 == length {
                    nodes[at][bit] = Child::Data(data.len());
                    continue;
                }
                at = match nodes[at][bit] {
                    Child::Node(next) => next,
                    _ => {
                        nodes.push([Child::None; 2]);
                        let next = nodes.len() - 1;
                        nodes[at][bit] = Child::Node(next);
                        next
                    }
                };
            }
            encode(value, &mut data);
        }
        let mut out = Vec::new();
        for child in nodes.iter().flatten() {
            let record = match child {
                Child::None => nodes.len(),
                Child::Node(node) => *node,
                Child::Data(place) => nodes.len() + 16 + place,
            };
            out.extend((record as u32).to_be_bytes());
        }
        out.extend([0; 16]);
        out.extend(data);
        out.extend(b"\xab\xcd\xefMaxMind.com");
        control(7, 9, &mut out);
        let numbers = BTreeMap::from([
            ("binary_format_major_version", 2),
            ("binary_format_minor_version", 0),
            ("ip_version", 6),
            ("record_size", 32),
        ]);
        for (name, number) in numbers {
            text(name, &mut out);
            control(5, 2, &mut out);
            out.extend(u16::to_be_bytes(number));
        }
        text("node_count", &mut out);
        encode(&Value::Number(nodes.len() as u32), &mut out);
        text("build_epoch", &mut out);
        control(9, 8, &mut out);
        out.extend(1_700_000_000_u64.to_be_bytes());
        text("database_type", &mut out);
        encode(&Value::Text(kind), &mut out);
        text("description", &mut out);
        encode(&Value::Map(vec![("en", Value::Text("for tests"))]), &mut out);
        text("languages", &mut out);
        control(11, 0, &mut out);
        out
    }

    pub(crate) fn country(code: &'static str) -> Value {
        Value::Map(vec![("country", Value::Map(vec![("iso_code", Value::Text(code))]))])
    }

    pub(crate) fn operator(asn: u32, name: &'static str) -> Value {
        Value::Map(vec![
            ("autonomous_system_number", Value::Number(asn)),
            ("autonomous_system_organization", Value::Text(name)),
        ])
    }

    fn record<'a>(databases: &'a [Database], address: &str) -> Record<'a> {
        let mut record = Record::default();
        databases.iter().for_each(|database| database.add(address.parse().unwrap(), &mut record));
        record
    }

    #[test]
    fn files_add_up() {
        let countries = file("Country", &[("192.0.2.0/24", country("DE")), ("2001:db8::/32", country("FR"))]);
        let operators = file("ASN", &[("192.0.2.0/25", operator(64500, "Example Net"))]);
        let databases = [countries, operators].map(|bytes| Database::parse(bytes).unwrap());
        assert_eq!(
            record(&databases, "192.0.2.1"),
            Record { country: Some("DE"), asn: Some(64500), isp: Some("Example Net") }
        );
        assert_eq!(record(&databases, "192.0.2.200"), Record { country: Some("DE"), ..Record::default() });
        assert_eq!(record(&databases, "2001:db8::1").country, Some("FR"));
        assert_eq!(record(&databases, "203.0.113.1"), Record::default());
        assert_eq!((databases[1].kind(), databases[1].built()), ("ASN", 1_700_000_000));
    }

    #[test]
    fn enterprise_rows_have_their_operator_below_traits() {
        let traits = vec![
            ("autonomous_system_number", Value::Number(64501)),
            ("isp", Value::Text("Example ISP")),
            ("organization", Value::Text("Example Holding")),
        ];
        let home = ("registered_country", Value::Map(vec![("iso_code", Value::Text("AT"))]));
        let row = Value::Map(vec![home, ("traits", Value::Map(traits)), ("other", Value::Number(1))]);
        let databases = [Database::parse(file("Enterprise", &[("192.0.2.0/24", row)])).unwrap()];
        assert_eq!(
            record(&databases, "192.0.2.1"),
            Record { country: Some("AT"), asn: Some(64501), isp: Some("Example ISP") }
        );
    }

    #[test]
    fn rows_of_other_types_say_nothing() {
        let row = Value::Map(vec![("autonomous_system_number", Value::Text("AS64500"))]);
        let odd = [("192.0.2.0/25", row), ("192.0.2.128/25", Value::Text("DE"))];
        let databases = [Database::parse(file("Odd", &odd)).unwrap()];
        assert_eq!(record(&databases, "192.0.2.1"), Record::default());
        assert_eq!(record(&databases, "192.0.2.129"), Record::default());
    }

    #[test]
    fn broken_files_are_refused_or_read_without_harm() {
        let good = file("Country", &[("192.0.2.0/24", country("DE"))]);
        for cut in 0..good.len() {
            assert!(Database::parse(good[..cut].to_vec()).is_err(), "{cut}");
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..5000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            if let Ok(database) = Database::parse(bytes) {
                record(&[database], "192.0.2.1");
            }
        }
    }
}

//! `Vary` and the key that tells stored variants apart (RFC 9111 §4.1).
//!
//! Two requests match when their keys are equal. A key holds the nominated request fields after
//! the changes that §4.1 allows because they keep the meaning: lines are combined, white space
//! around commas goes, and in `Accept-Encoding`, `Accept-Language` and `Accept-Charset` letter
//! case, the spelling of weights and the order of members go too, order carrying no meaning there
//! (RFC 9110 §12.5). An absent field differs from an empty one.

use http::header::{HeaderMap, HeaderName, HeaderValue, VARY};

use super::list::Members;

/// More names than this in `Vary`, or members in a weighted list, are not told apart.
const MAX_MEMBERS: usize = 64;

/// The request fields a response was chosen by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaryFields {
    /// Something no request shows: no other request matches.
    Star,
    /// These fields, sorted, each once; none when the response does not vary.
    Fields(Vec<HeaderName>),
}

impl VaryFields {
    /// Reads every `Vary` line. A member that is no field name, and a list that is too long, count
    /// as `*`.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut fields: Vec<HeaderName> = Vec::new();
        for line in headers.get_all(VARY) {
            for member in Members::new(line.as_bytes()) {
                match HeaderName::from_bytes(member) {
                    Ok(name) if name == "*" => return Self::Star,
                    Ok(name) if fields.contains(&name) => {}
                    Ok(name) if fields.len() < MAX_MEMBERS => fields.push(name),
                    _ => return Self::Star,
                }
            }
        }
        fields.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        Self::Fields(fields)
    }
}

/// The key of a request among the variants that differ by `fields`, empty when there are none.
pub fn secondary_key(fields: &[HeaderName], request: &HeaderMap) -> Vec<u8> {
    let mut key = Vec::new();
    for field in fields {
        key.extend_from_slice(field.as_str().as_bytes());
        if request.contains_key(field) {
            // Neither mark is part of a field name, and no field value holds the line feed.
            key.push(b':');
            push_normal(&mut key, field, request);
        } else {
            key.push(b';');
        }
        key.push(b'\n');
    }
    key
}

fn push_normal(key: &mut Vec<u8>, field: &HeaderName, request: &HeaderMap) {
    let is_weighted = matches!(field.as_str(), "accept-encoding" | "accept-language" | "accept-charset");
    if let Some(members) = is_weighted.then(|| weighted(field, request)).flatten() {
        for (at, member) in members.iter().enumerate() {
            if at > 0 {
                key.push(b',');
            }
            key.extend(member.name.iter().map(u8::to_ascii_lowercase));
            if member.weight < 1000 {
                key.extend_from_slice(b";q=");
                key.extend_from_slice(&[100, 10, 1].map(|unit| digit(member.weight / unit)));
            }
        }
        return;
    }
    for (at, line) in request.get_all(field).iter().enumerate() {
        if at > 0 {
            key.push(b',');
        }
        push_unspaced(key, line);
    }
}

fn digit(value: u16) -> u8 {
    b"0123456789"[usize::from(value % 10)]
}

/// Adds a line without the white space around its commas and ends; quoted strings stay as they are.
fn push_unspaced(key: &mut Vec<u8>, line: &HeaderValue) {
    let start = key.len();
    let mut quoted = false;
    let mut escaped = false;
    for &byte in line.as_bytes().trim_ascii() {
        if quoted {
            key.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b' ' | b'\t' if key.len() > start && key.ends_with(b",") => {}
            b',' => {
                while key.len() > start && matches!(key.last(), Some(b' ' | b'\t')) {
                    key.pop();
                }
                key.push(byte);
            }
            _ => {
                quoted = byte == b'"';
                key.push(byte);
            }
        }
    }
}

/// A member of a list whose only parameter is a weight, in thousandths.
#[derive(Debug, Clone, Copy)]
struct Weighted<'a> {
    name: &'a [u8],
    weight: u16,
}

impl<'a> Weighted<'a> {
    fn read(member: &'a [u8]) -> Option<Self> {
        let Some(semicolon) = member.iter().position(|&byte| byte == b';') else {
            return is_name(member).then_some(Self { name: member, weight: 1000 });
        };
        let name = member[..semicolon].trim_ascii_end();
        let parameter = member[semicolon + 1..].trim_ascii_start();
        let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
        is_name(name).then_some(Self { name, weight: weight(value)? })
    }

    fn names(&self, other: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(other)
    }
}

fn is_name(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-*_.".contains(byte))
}

/// A qvalue in thousandths (RFC 9110 §12.4.2).
fn weight(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] => (whole, fraction),
        _ => return None,
    };
    if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = fraction.iter().chain(b"000").take(3);
    let thousandths = padded.fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// The members of a weighted list, the most wanted first; `None` when it is not one.
fn weighted<'a>(field: &HeaderName, request: &'a HeaderMap) -> Option<Vec<Weighted<'a>>> {
    let mut members: Vec<Weighted<'a>> = Vec::new();
    for line in request.get_all(field) {
        for member in Members::new(line.as_bytes()) {
            if members.len() == MAX_MEMBERS {
                return None;
            }
            members.push(Weighted::read(member)?);
        }
    }
    members.sort_by(|one, other| {
        let (name, next) = (one.name.iter(), other.name.iter());
        let by_name = || name.map(u8::to_ascii_lowercase).cmp(next.map(u8::to_ascii_lowercase));
        other.weight.cmp(&one.weight).then_with(by_name)
    });
    members.dedup_by(|one, other| one.weight == other.weight && one.names(other.name));
    Some(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn key(name: &'static str, values: &[&str]) -> Vec<u8> {
        secondary_key(&[HeaderName::from_static(name)], &lines(name, values))
    }

    fn same(name: &'static str, one: &[&str], other: &[&str]) -> bool {
        key(name, one) == key(name, other)
    }

    #[test]
    fn fields_are_sorted_and_named_once() {
        let VaryFields::Fields(fields) = VaryFields::parse(&lines("vary", &["Foo, Bar,", "bar,BAZ"])) else {
            panic!("not a star");
        };
        assert_eq!(fields, ["bar", "baz", "foo"]);
        assert_eq!(VaryFields::parse(&HeaderMap::new()), VaryFields::Fields(Vec::new()));
    }

    #[test]
    fn a_star_anywhere_is_a_star() {
        let cases: [&[&str]; 8] =
            [&["*"], &["*, *"], &["*", "*"], &[", *"], &["", "*"], &["*, Foo"], &["Foo, *"], &["Foo bar"]];
        for case in cases {
            assert_eq!(VaryFields::parse(&lines("vary", case)), VaryFields::Star, "{case:?}");
        }
    }

    #[test]
    fn values_must_be_the_same() {
        assert!(same("foo", &["1"], &["1"]));
        assert!(!same("foo", &["1"], &["2"]));
        assert!(!same("foo", &["a"], &["A"]));
        assert!(!same("foo", &["1, 2"], &["2, 1"]));
        assert!(!same("foo", &["1"], &[]));
        assert!(!same("foo", &[""], &[]));
        assert!(same("foo", &[], &[]));
    }

    #[test]
    fn lines_combine_and_white_space_goes() {
        assert!(same("foo", &["1, 2"], &["1", "2"]));
        assert!(same("foo", &["1,2"], &[" 1\t,  2 "]));
        assert!(!same("foo", &["1 2"], &["12"]));
        assert!(!same("foo", &["1  2"], &["1 2"]));
        assert!(!same("foo", &["\"a, b\""], &["\"a,b\""]));
        assert!(same("foo", &["\"a\\\", b\" , c"], &["\"a\\\", b\",c"]));
    }

    #[test]
    fn other_fields_do_not_enter_the_key() {
        let fields = [HeaderName::from_static("bar"), HeaderName::from_static("foo")];
        let mut one = lines("foo", &["1"]);
        let key = secondary_key(&fields, &one);
        one.insert("other", HeaderValue::from_static("2"));
        assert_eq!(secondary_key(&fields, &one), key);
        one.insert("bar", HeaderValue::from_static("2"));
        assert_ne!(secondary_key(&fields, &one), key);
        assert!(secondary_key(&[], &one).is_empty());
    }

    #[test]
    fn a_value_cannot_pose_as_another_field() {
        let fields = [HeaderName::from_static("a"), HeaderName::from_static("b")];
        let mut one = lines("a", &["1"]);
        one.insert("b", HeaderValue::from_static(""));
        let other = lines("a", &["1b:"]);
        assert_ne!(secondary_key(&fields, &one), secondary_key(&fields, &other));
    }

    #[test]
    fn weighted_lists_have_one_spelling() {
        assert!(same("accept-language", &["en, de"], &["de, en"]));
        assert!(same("accept-language", &["en, de"], &["eN, De"]));
        assert!(same("accept-language", &["en, de"], &[" en ,   de"]));
        assert!(same("accept-language", &["en;q=0.5,de"], &["de;q=1.0", "en ; Q=0.50"]));
        assert!(!same("accept-language", &["en;q=0.5,de"], &["de;q=0.5,en"]));
        assert!(same("accept-encoding", &["gzip, br"], &["BR,GZIP,br"]));
        assert!(!same("accept-encoding", &["gzip"], &["gzip;q=0"]));
        assert_eq!(key("accept-encoding", &["gzip;q=0.5, br"]), b"accept-encoding:br,gzip;q=500\n");
    }

    #[test]
    fn a_malformed_weighted_list_is_taken_as_it_is() {
        assert!(!same("accept-language", &["en;x=1, de"], &["de, en;x=1"]));
        assert!(!same("accept-language", &["en;q=2"], &["en"]));
        assert!(same("accept-language", &["en;q=2"], &["en;q=2"]));
        assert_eq!(key("accept-language", &["en;q=1.001"]), b"accept-language:en;q=1.001\n");
    }
}

//! `Range` and `If-Range` of requests (RFC 9110 §13.1.5, §14.1, §14.2).
//!
//! A `Range` that is malformed, in another unit, given twice or asking for more than
//! [`MAX_RANGES`] parts is ignored, as §14.2 allows: the client then gets the whole. The caller
//! ignores `Range` for every method but GET.

use std::ops::Range;
use std::slice;

use http::HeaderValue;
use http::header::{HeaderMap, RANGE};

use super::conditional::{EntityTag, is_after};
use super::date;

/// The most parts that one request may ask for.
pub const MAX_RANGES: usize = 64;

/// One part of a `Range` as it was asked for. Positions are bytes from 0, and inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRangeSpec {
    /// `first-last`, or `first-` to the end.
    First(u64, Option<u64>),
    /// `-n`: the last n bytes.
    Suffix(u64),
}

impl ByteRangeSpec {
    /// The bytes this means in a representation of `length` bytes; `None` when there are none.
    pub fn resolve(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::First(first, last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
            Self::Suffix(count) => length.saturating_sub(count)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// A `Range` field before the length of the representation is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawRanges {
    /// One part, as nearly all requests ask for.
    One(ByteRangeSpec),
    /// Several parts, in the order of the request.
    Many(Vec<ByteRangeSpec>),
}

/// What to answer to a `Range`. Ranges are half-open, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeSet {
    /// Ignore the field: 200 and the whole.
    None,
    /// 416 with `Content-Range: bytes */length`.
    Unsatisfiable,
    /// 206 with this part.
    One(Range<u64>),
    /// 206 with these parts as `multipart/byteranges`. They neither overlap nor touch.
    Many(Vec<Range<u64>>),
}

/// The `Range` of a request, or `None` when there is none to honour.
pub fn requested(headers: &HeaderMap) -> Option<RawRanges> {
    let mut lines = headers.get_all(RANGE).iter();
    let line = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    let (unit, set) = line.as_bytes().trim_ascii().split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let members = set.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let mut specs = members.filter(|member| !member.is_empty()).map(spec);
    let first = specs.next()??;
    let Some(second) = specs.next() else { return Some(RawRanges::One(first)) };
    let mut all = vec![first, second?];
    for spec in specs {
        if all.len() == MAX_RANGES {
            return None;
        }
        all.push(spec?);
    }
    Some(RawRanges::Many(all))
}

/// The `Range` of a request for a representation of `length` bytes.
pub fn resolve(headers: &HeaderMap, length: u64) -> RangeSet {
    requested(headers).map_or(RangeSet::None, |ranges| ranges.resolve(length))
}

impl RawRanges {
    /// The parts, in the order of the request.
    pub fn specs(&self) -> &[ByteRangeSpec] {
        match self {
            Self::One(spec) => slice::from_ref(spec),
            Self::Many(specs) => specs,
        }
    }

    /// What to answer, the representation being `length` bytes long.
    ///
    /// Parts that overlap or touch are joined and then come in ascending order; otherwise the order
    /// of the request is kept (RFC 9110 §15.3.7.2). A request whose parts add up to more than twice
    /// the representation is ignored.
    pub fn resolve(&self, length: u64) -> RangeSet {
        let ranges = match self {
            Self::One(spec) => {
                return spec.resolve(length).map_or_else(|| self.unsatisfied(length), RangeSet::One);
            }
            Self::Many(specs) => specs.iter().filter_map(|spec| spec.resolve(length)),
        };
        let ranges: Vec<_> = ranges.collect();
        let asked = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.end - range.start));
        if asked > length.saturating_mul(2) {
            return RangeSet::None;
        }
        let mut joined = joined(&ranges);
        match joined.len() {
            0 => self.unsatisfied(length),
            1 => joined.pop().map_or(RangeSet::None, RangeSet::One),
            count if count == ranges.len() => RangeSet::Many(ranges),
            _ => RangeSet::Many(joined),
        }
    }

    /// No part is there. The end of an empty representation is, but no `Content-Range` can say so
    /// (RFC 9110 §14.1.2): it is sent as the whole that it is.
    fn unsatisfied(&self, length: u64) -> RangeSet {
        let asks_for_end = self.specs().iter().any(|spec| matches!(spec, ByteRangeSpec::Suffix(1..)));
        if length == 0 && asks_for_end { RangeSet::None } else { RangeSet::Unsatisfiable }
    }
}

/// Whether `If-Range` allows to answer with a part: the client holds the rest of this very
/// representation (RFC 9110 §13.1.5).
///
/// Entity-tags are compared strongly; a date must be exactly that of a `Last-Modified` that is a
/// strong validator (§8.8.2.2).
pub fn if_range_matches(
    if_range: &HeaderValue,
    etag: Option<&HeaderValue>,
    last_modified: Option<&HeaderValue>,
    date: Option<&HeaderValue>,
) -> bool {
    let wanted = if_range.as_bytes().trim_ascii();
    let Some(wanted_date) = date::parse(wanted) else {
        let (wanted, held) = (EntityTag::parse(wanted), etag.and_then(EntityTag::of));
        return wanted.zip(held).is_some_and(|(wanted, held)| wanted.is_strongly(&held));
    };
    let seconds = |value: Option<&HeaderValue>| value.and_then(|value| date::parse(value.as_bytes()));
    let modified = seconds(last_modified);
    modified == Some(wanted_date) && is_after(seconds(date), modified)
}

/// `first-last`, `first-` or `-n`. Positions too large for 64 bits are as good as the largest.
fn spec(text: &[u8]) -> Option<ByteRangeSpec> {
    let dash = text.iter().position(|&byte| byte == b'-')?;
    let (first, last) = (&text[..dash], &text[dash + 1..]);
    match (first.is_empty(), last.is_empty()) {
        (true, _) => Some(ByteRangeSpec::Suffix(number(last)?)),
        (false, true) => Some(ByteRangeSpec::First(number(first)?, None)),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRangeSpec::First(first, Some(last)))
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |value: u64, digit: &u8| value.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// The same bytes in ascending ranges with gaps between them.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(RANGE, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn resolved(text: &str, length: u64) -> RangeSet {
        resolve(&headers(&[text]), length)
    }

    #[test]
    fn one_part() {
        assert_eq!(resolved("bytes=0-1", 11), RangeSet::One(0..2));
        assert_eq!(resolved("Bytes = 0-1", 11), RangeSet::None);
        assert_eq!(resolved("bytes=1-", 11), RangeSet::One(1..11));
        assert_eq!(resolved("bytes=-1", 11), RangeSet::One(10..11));
        assert_eq!(resolved("bytes=-99", 11), RangeSet::One(0..11));
        assert_eq!(resolved("BYTES=5-99999999999999999999999", 11), RangeSet::One(5..11));
        assert_eq!(resolved("bytes=0-0", 1), RangeSet::One(0..1));
    }

    #[test]
    fn nothing_to_serve() {
        assert_eq!(resolved("bytes=11-", 11), RangeSet::Unsatisfiable);
        assert_eq!(resolved("bytes=-0", 11), RangeSet::Unsatisfiable);
        assert_eq!(resolved("bytes=11-, 99-100", 11), RangeSet::Unsatisfiable);
        assert_eq!(resolved("bytes=99999999999999999999999-", 11), RangeSet::Unsatisfiable);
        assert_eq!(resolved("bytes=0-", 0), RangeSet::Unsatisfiable);
        assert_eq!(resolved("bytes=-5", 0), RangeSet::None);
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=1 -2",
            "bytes=0-1, x",
            "items=0-1",
            "bytes=0-1-2",
            "bytes=--1",
        ] {
            assert_eq!(requested(&headers(&[text])), None, "{text}");
        }
        assert_eq!(requested(&headers(&["bytes=0-1", "bytes=2-3"])), None);
        assert_eq!(requested(&headers(&[])), None);
    }

    #[test]
    fn several_parts_keep_their_order_unless_they_join() {
        assert_eq!(resolved("bytes=8-9, 0-1", 20), RangeSet::Many(vec![8..10, 0..2]));
        assert_eq!(resolved("bytes=8-9,, 0-1,", 20), RangeSet::Many(vec![8..10, 0..2]));
        assert_eq!(resolved("bytes=8-9, 0-1, 9-12", 20), RangeSet::Many(vec![0..2, 8..13]));
        assert_eq!(resolved("bytes=5-9, 0-4", 20), RangeSet::One(0..10));
        assert_eq!(resolved("bytes=0-1, 30-40", 20), RangeSet::One(0..2));
    }

    #[test]
    fn greed_is_answered_with_the_whole() {
        assert_eq!(resolved("bytes=0-, 0-", 10), RangeSet::One(0..10));
        assert_eq!(resolved("bytes=0-, 0-, 0-", 10), RangeSet::None);
        let parts = |count: u64| {
            let parts: Vec<_> = (0..count).map(|at| format!("{0}-{0}", at * 2)).collect();
            format!("bytes={}", parts.join(","))
        };
        let RangeSet::Many(ranges) = resolved(&parts(64), 1000) else { panic!("64 are fine") };
        assert_eq!(ranges.len(), 64);
        assert_eq!(resolved(&parts(65), 1000), RangeSet::None);
        assert_eq!(resolved(&parts(10_000), 100_000), RangeSet::None);
    }

    #[test]
    fn specs_wait_for_the_length() {
        let ranges = requested(&headers(&["bytes=-5"])).unwrap();
        assert_eq!(ranges, RawRanges::One(ByteRangeSpec::Suffix(5)));
        assert_eq!(ranges.specs(), [ByteRangeSpec::Suffix(5)]);
        assert_eq!(ranges.resolve(9), RangeSet::One(4..9));
    }

    #[test]
    fn if_range_compares_strongly() {
        let value = HeaderValue::from_static;
        let matches = |wanted, etag| if_range_matches(&value(wanted), Some(&value(etag)), None, None);
        assert!(matches("\"a\"", "\"a\""));
        assert!(!matches("\"a\"", "\"b\""));
        assert!(!matches("W/\"a\"", "W/\"a\""));
        assert!(!matches("\"a\"", "W/\"a\""));
        assert!(!if_range_matches(&value("\"a\""), None, None, None));
        assert!(!if_range_matches(&value(""), Some(&value("\"a\"")), None, None));
    }

    #[test]
    fn if_range_takes_a_date_that_is_strong() {
        let modified = date::format(1_000_000);
        let sure = date::format(1_000_001);
        let matches = |wanted: &HeaderValue, date: Option<&HeaderValue>| {
            if_range_matches(wanted, None, Some(&modified), date)
        };
        assert!(matches(&modified, Some(&sure)));
        assert!(!matches(&modified, Some(&modified)));
        assert!(!matches(&modified, None));
        assert!(!matches(&sure, Some(&sure)));
        assert!(!if_range_matches(&modified, None, None, Some(&sure)));
    }
}

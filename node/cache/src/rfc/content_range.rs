//! `Content-Range` and `multipart/byteranges`: saying which part of a representation this is
//! (RFC 9110 §14.4 to §14.6).

use std::ops::Range;

use http::HeaderValue;
use http::header::{CONTENT_RANGE, HeaderMap};

/// The value of a `Content-Range` field. Ranges are half-open, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes 0-4/10` or `bytes 0-4/*`
    Bytes {
        /// The part that is here; never empty, and inside the total when that is known.
        range: Range<u64>,
        /// Length of the whole representation, when the sender knew it.
        total: Option<u64>,
    },
    /// `bytes */10`, in a 416.
    Unsatisfied {
        /// Length of the whole representation.
        total: u64,
    },
}

impl ContentRange {
    /// Reads one field value; `None` for other units and for what contradicts itself.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.as_bytes().trim_ascii();
        let (unit, rest) = text.split_at_checked(6)?;
        if !unit.eq_ignore_ascii_case(b"bytes ") {
            return None;
        }
        let (range, total) = halves(rest.trim_ascii_start(), b'/')?;
        let total = if total == b"*" { None } else { Some(position(total)?) };
        if range == b"*" {
            return Some(Self::Unsatisfied { total: total? });
        }
        let (first, last) = halves(range, b'-')?;
        let (first, end) = (position(first)?, position(last)?.checked_add(1)?);
        (first < end && total.is_none_or(|total| end <= total))
            .then_some(Self::Bytes { range: first..end, total })
    }

    /// The `Content-Range` of a message that has exactly one, and a valid one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(CONTENT_RANGE).iter();
        match (lines.next(), lines.next()) {
            (Some(value), None) => Self::parse(value),
            _ => None,
        }
    }

    /// Compares with `Content-Length`, when there is one, and says what the content really is.
    ///
    /// Some origins write an end that is one too far. Where the range claims to reach the end of
    /// the representation and less content than that is announced, the content is taken as the
    /// end of a shorter one; should the true length be another, the next answer of the origin
    /// shows it and the validators no longer agree. Any other contradiction is `None`.
    pub fn reconcile(self, content_length: Option<u64>) -> Option<Self> {
        let (range, total) = match self {
            Self::Bytes { range, total } => (range, total),
            unsatisfied @ Self::Unsatisfied { .. } => return Some(unsatisfied),
        };
        let claimed = range.end - range.start;
        match content_length {
            None => Some(Self::Bytes { range, total }),
            Some(length) if length == claimed => Some(Self::Bytes { range, total }),
            Some(length) if (1..claimed).contains(&length) && total == Some(range.end) => {
                let end = range.start + length;
                Some(Self::Bytes { range: range.start..end, total: Some(end) })
            }
            Some(_) => None,
        }
    }

    /// Writes the field value.
    pub fn to_value(&self) -> HeaderValue {
        let text = match self {
            Self::Bytes { range, total: Some(total) } => {
                format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1))
            }
            Self::Bytes { range, total: None } => {
                format!("bytes {}-{}/*", range.start, range.end.saturating_sub(1))
            }
            Self::Unsatisfied { total } => format!("bytes */{total}"),
        };
        HeaderValue::try_from(text).expect("digits and punctuation are visible ASCII")
    }
}

/// A `multipart/byteranges` answer (RFC 9110 §14.6), whose framing is written around the parts.
#[derive(Debug, Clone, Copy)]
pub struct Multipart<'a> {
    /// Separates the parts; token characters only, and nowhere in the content.
    pub boundary: &'a str,
    /// `Content-Type` of the representation.
    pub content_type: Option<&'a HeaderValue>,
    /// Length of the whole representation, bytes.
    pub total: u64,
}

impl Multipart<'_> {
    /// What stands before the bytes of one part.
    pub fn part_header(&self, range: &Range<u64>) -> Vec<u8> {
        let mut header = Vec::with_capacity(128);
        header.extend_from_slice(b"\r\n--");
        header.extend_from_slice(self.boundary.as_bytes());
        if let Some(content_type) = self.content_type {
            header.extend_from_slice(b"\r\nContent-Type: ");
            header.extend_from_slice(content_type.as_bytes());
        }
        header.extend_from_slice(b"\r\nContent-Range: ");
        let range = ContentRange::Bytes { range: range.clone(), total: Some(self.total) };
        header.extend_from_slice(range.to_value().as_bytes());
        header.extend_from_slice(b"\r\n\r\n");
        header
    }

    /// What stands after the last part.
    pub fn trailer(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }

    /// `Content-Length` of the whole answer, bytes.
    pub fn length(&self, ranges: &[Range<u64>]) -> u64 {
        let size = |bytes: Vec<u8>| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        ranges
            .iter()
            .map(|range| size(self.part_header(range)).saturating_add(range.end - range.start))
            .fold(size(self.trailer()), u64::saturating_add)
    }

    /// `Content-Type` of the whole answer.
    pub fn media_type(&self) -> HeaderValue {
        HeaderValue::try_from(format!("multipart/byteranges; boundary={}", self.boundary))
            .expect("a boundary is made of token characters")
    }
}

/// Cuts at the first `separator`.
fn halves(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// A number of bytes; `None` when it is none or does not fit.
pub(super) fn position(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<ContentRange> {
        ContentRange::parse(&HeaderValue::from_str(text).unwrap())
    }

    fn bytes(range: Range<u64>, total: Option<u64>) -> ContentRange {
        ContentRange::Bytes { range, total }
    }

    #[test]
    fn reads_the_three_forms() {
        assert_eq!(parse("bytes 0-4/10"), Some(bytes(0..5, Some(10))));
        assert_eq!(parse("Bytes 5-9/10"), Some(bytes(5..10, Some(10))));
        assert_eq!(parse("bytes 5-9/*"), Some(bytes(5..10, None)));
        assert_eq!(parse("bytes */10"), Some(ContentRange::Unsatisfied { total: 10 }));
    }

    #[test]
    fn contradictions_and_noise_are_refused() {
        for text in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-4",
            "bytes 4-0/10",
            "bytes 5-10/10",
            "bytes */*",
            "bytes -5/10",
            "bytes 0-/10",
            "bytes 0-4/10, bytes 5-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
            "items 0-4/10",
            "bytes 0x0-4/10",
            "bytes 0-4/-1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn two_lines_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(ContentRange::of(&headers), None);
        headers.append(CONTENT_RANGE, HeaderValue::from_static("bytes 0-4/10"));
        assert_eq!(ContentRange::of(&headers), Some(bytes(0..5, Some(10))));
        headers.append(CONTENT_RANGE, HeaderValue::from_static("bytes 0-4/10"));
        assert_eq!(ContentRange::of(&headers), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for range in [bytes(3..8, Some(20)), bytes(0..1, None), ContentRange::Unsatisfied { total: 7 }] {
            assert_eq!(ContentRange::parse(&range.to_value()), Some(range));
        }
    }

    #[test]
    fn the_length_may_correct_an_end_that_is_too_far() {
        assert_eq!(bytes(0..5, Some(10)).reconcile(None), Some(bytes(0..5, Some(10))));
        assert_eq!(bytes(0..5, Some(10)).reconcile(Some(5)), Some(bytes(0..5, Some(10))));
        assert_eq!(bytes(4..10, Some(10)).reconcile(Some(5)), Some(bytes(4..9, Some(9))));
        assert_eq!(bytes(4..10, Some(10)).reconcile(Some(0)), None);
        assert_eq!(bytes(4..10, Some(10)).reconcile(Some(7)), None);
        assert_eq!(bytes(4..9, Some(10)).reconcile(Some(4)), None);
        assert_eq!(bytes(4..9, None).reconcile(Some(4)), None);
    }

    #[test]
    fn a_multipart_answer_is_as_long_as_it_says() {
        let media_type = HeaderValue::from_static("text/plain");
        let multipart = Multipart { boundary: "xyz", content_type: Some(&media_type), total: 100 };
        let ranges = [0..5, 95..100];
        let mut body = Vec::new();
        for range in &ranges {
            body.extend(multipart.part_header(range));
            body.extend(b"01234");
        }
        body.extend(multipart.trailer());
        let text = String::from_utf8(body).unwrap();
        assert_eq!(u64::try_from(text.len()).unwrap(), multipart.length(&ranges));
        assert_eq!(
            text,
            "\r\n--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-4/100\r\n\r\n01234\
             \r\n--xyz\r\nContent-Type: text/plain\r\nContent-Range: bytes 95-99/100\r\n\r\n01234\
             \r\n--xyz--\r\n"
        );
        assert_eq!(multipart.media_type(), "multipart/byteranges; boundary=xyz");
    }
}

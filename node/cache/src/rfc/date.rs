//! HTTP dates: the three forms of RFC 9110 §5.6.7, read strictly but for letter case.
//!
//! Anything else is no date at all, which is what makes an odd `Expires` mean "already expired"
//! (RFC 9111 §5.3). The name of the day must be one, but is not compared with the date.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

const DAYS: [&[u8]; 7] =
    [b"monday", b"tuesday", b"wednesday", b"thursday", b"friday", b"saturday", b"sunday"];

const MONTHS: [&[u8]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// 9999-12-31T23:59:59Z, the last second an HTTP date can name.
const LAST: u64 = 253_402_300_799;

/// Reads an IMF-fixdate, an RFC 850 date or an asctime date into Unix seconds.
///
/// Dates before 1970 are refused. The two-digit years of RFC 850 dates mean 1970 to 2069; until 2050
/// that differs from the sliding window of RFC 9110 §5.6.7 only by calling some far futures past.
pub fn parse(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    imf_fixdate(value).or_else(|| rfc850(value)).or_else(|| asctime(value))
}

/// Writes Unix seconds as an IMF-fixdate, at most the last second of the year 9999.
pub fn format(seconds: u64) -> HeaderValue {
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)));
    HeaderValue::try_from(text).expect("an IMF-fixdate is visible ASCII")
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(value: &[u8]) -> Option<u64> {
    let (name, rest) = value.split_at_checked(3)?;
    if !is_short_day(name) || rest.len() != 26 {
        return None;
    }
    let gaps = [(0, b','), (1, b' '), (4, b' '), (8, b' '), (13, b' '), (22, b' ')];
    if gaps.iter().any(|&(at, byte)| rest[at] != byte) || !rest[23..].eq_ignore_ascii_case(b"gmt") {
        return None;
    }
    seconds(number(&rest[9..13])?, month(&rest[5..8])?, number(&rest[2..4])?, clock(&rest[14..22])?)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(value: &[u8]) -> Option<u64> {
    let comma = value.iter().position(|&byte| byte == b',')?;
    let (name, rest) = value.split_at(comma);
    if !DAYS.iter().any(|day| name.eq_ignore_ascii_case(day)) || rest.len() != 24 {
        return None;
    }
    let gaps = [(1, b' '), (4, b'-'), (8, b'-'), (11, b' '), (20, b' ')];
    if gaps.iter().any(|&(at, byte)| rest[at] != byte) || !rest[21..].eq_ignore_ascii_case(b"gmt") {
        return None;
    }
    let year = number(&rest[9..11])?;
    let year = if year < 70 { 2000 + year } else { 1900 + year };
    seconds(year, month(&rest[5..8])?, number(&rest[2..4])?, clock(&rest[12..20])?)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(value: &[u8]) -> Option<u64> {
    let (name, rest) = value.split_at_checked(3)?;
    if !is_short_day(name) || rest.len() != 21 {
        return None;
    }
    if [0, 4, 7, 16].iter().any(|&at| rest[at] != b' ') {
        return None;
    }
    let day = if rest[5] == b' ' { &rest[6..7] } else { &rest[5..7] };
    seconds(number(&rest[17..21])?, month(&rest[1..4])?, number(day)?, clock(&rest[8..16])?)
}

fn is_short_day(name: &[u8]) -> bool {
    DAYS.iter().any(|day| name.eq_ignore_ascii_case(&day[..3]))
}

/// The month's number, January being 1.
fn month(name: &[u8]) -> Option<u64> {
    let at = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month))?;
    u64::try_from(at + 1).ok()
}

/// Seconds of the day from `08:49:37`; a leap second is accepted.
fn clock(text: &[u8]) -> Option<u64> {
    if text.len() != 8 || text[2] != b':' || text[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (number(&text[..2])?, number(&text[3..5])?, number(&text[6..])?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// The value of at most four decimal digits.
fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .all(u8::is_ascii_digit)
        .then(|| digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

fn seconds(year: u64, month: u64, day: u64, of_day: u64) -> Option<u64> {
    if year < 1970 {
        return None;
    }
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let before_month = match month {
        1 => 0,
        2 => 31,
        3 => 59,
        4 => 90,
        5 => 120,
        6 => 151,
        7 => 181,
        8 => 212,
        9 => 243,
        10 => 273,
        11 => 304,
        _ => 334,
    };
    let longest = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day == 0 || day > longest {
        return None;
    }
    let days = (year - 1970) * 365 + leap_years_before(year) - leap_years_before(1970)
        + before_month
        + u64::from(leap && month > 2)
        + (day - 1);
    Some(days * 86_400 + of_day)
}

/// How many leap years lie between year 0 and the start of `year`.
fn leap_years_before(year: u64) -> u64 {
    let last = year - 1;
    last / 4 - last / 100 + last / 400
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_forms() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse(text.as_bytes()), Some(784_111_777), "{text}");
        }
    }

    #[test]
    fn letter_case_does_not_matter() {
        let expected = parse(b"Thu, 18 Aug 2050 02:01:18 GMT");
        assert!(expected.is_some());
        for text in [
            "THU, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 AUG 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 gMT",
            "Thursday, 18-Aug-50 02:01:18 GMT",
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_date() {
        for text in [
            "",
            "0",
            "-1",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 31 Jun 2050 02:01:18 GMT",
            "Thu, 29 Feb 2100 02:01:18 GMT",
            "Thu, 00 Jan 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Sat, 18 Aug 1950 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:19 GMT",
            "Foo, 18 Aug 2050 02:01:18 GMT",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_name_of_the_day_may_be_wrong() {
        assert!(parse(b"Thu Aug  8 02:01:18 2050").is_some());
        assert_eq!(parse(b"Mon, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut seconds = 0;
        while seconds < 20_000_000_000 {
            assert_eq!(parse(format(seconds).as_bytes()), Some(seconds));
            seconds += 999_983;
        }
        assert_eq!(parse(format(u64::MAX).as_bytes()), Some(LAST));
    }
}

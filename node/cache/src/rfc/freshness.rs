//! How long a response is fresh and how old it is (RFC 9111 §4.2).
//!
//! Times are whole seconds since the Unix epoch. Only [`initial_age`] and [`lifetime`] read fields,
//! both once when a response arrives; a hit needs [`current_age`] and [`super::reuse`] alone.

use http::StatusCode;
use http::header::{AGE, DATE, EXPIRES, HeaderMap, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use super::date;
use super::directives::{ResponseDirectives, delta_seconds};

/// What a site decides where the origin says nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Share of the time since `Last-Modified` that a response without a lifetime is fresh, 0 to 1.
    pub heuristic_fraction: f64,
    /// The most that a heuristic lifetime can be, seconds.
    pub heuristic_max: u64,
    /// Lifetime of 404, 405, 410, 414 and 501 without one, seconds; 0 treats them as any other.
    pub negative: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { heuristic_fraction: 0.1, heuristic_max: 86_400, negative: 0 }
    }
}

/// A freshness lifetime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// How old the response may become and still be fresh, seconds.
    pub seconds: u64,
    /// Whether the cache chose the lifetime, the origin having named none (RFC 9111 §4.2.2).
    pub heuristic: bool,
}

/// The freshness lifetime of a response (RFC 9111 §4.2.1).
///
/// `s-maxage` counts before `max-age`, that before `Expires`, and a heuristic comes last.
/// `directives` are those of the targeted field when there is one, and then `targeted` is true and
/// `Expires` is ignored (RFC 9213 §2.2). `response_time` stands in for a missing `Date`.
pub fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
    response_time: u64,
    policy: &Policy,
) -> Lifetime {
    let explicit = directives.s_maxage.or(directives.max_age);
    let explicit = match explicit {
        None if !targeted => expires_in(headers, response_time),
        given => given,
    };
    match explicit {
        Some(seconds) => Lifetime { seconds, heuristic: false },
        None if policy.negative > 0 && is_negative(status) => {
            Lifetime { seconds: policy.negative, heuristic: true }
        }
        None if directives.public || is_heuristically_cacheable(status) => {
            Lifetime { seconds: heuristic(headers, response_time, policy), heuristic: true }
        }
        None => Lifetime { seconds: 0, heuristic: true },
    }
}

/// Whether a response with this status may be given a lifetime that its origin did not name
/// (RFC 9110 §15.1).
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether [`Policy::negative`] speaks of this status.
pub fn is_negative(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 405 | 410 | 414 | 501)
}

/// The age of a response when it arrived, seconds: `corrected_initial_age` of RFC 9111 §4.2.3.
///
/// `request_time` and `response_time` are when the request was sent and when the response headers
/// came. A caller that knows the delay more finely passes `response_time` less the whole seconds
/// of it, so that a delay of milliseconds across the turn of a second does not count as one.
pub fn initial_age(headers: &HeaderMap, request_time: u64, response_time: u64) -> u64 {
    let apparent = date_of(headers).map_or(0, |date| response_time.saturating_sub(date));
    let delay = response_time.saturating_sub(request_time);
    apparent.max(age_field(headers).saturating_add(delay))
}

/// The age of a stored response now, seconds (RFC 9111 §4.2.3).
pub fn current_age(initial_age: u64, response_time: u64, now: u64) -> u64 {
    initial_age.saturating_add(now.saturating_sub(response_time))
}

/// The value of `Age`: the first member of the first line, 0 when that is no number (RFC 9111
/// §5.1). Parameters, as a structured Item may carry, are dropped.
fn age_field(headers: &HeaderMap) -> u64 {
    let Some(line) = headers.get(AGE) else { return 0 };
    let mut parts = line.as_bytes().split(|byte| matches!(byte, b',' | b';'));
    parts.next().and_then(|first| delta_seconds(first.trim_ascii())).unwrap_or(0)
}

/// `Date` in Unix seconds, when there is a valid one.
pub(super) fn date_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(DATE).and_then(|value| date::parse(value.as_bytes()))
}

/// `Last-Modified` in Unix seconds, when there is a valid one.
pub(super) fn last_modified_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(LAST_MODIFIED).and_then(|value| date::parse(value.as_bytes()))
}

/// `Expires` less `Date`; 0 when `Expires` is invalid or appears more than once (RFC 9111 §4.2.1,
/// §5.3).
fn expires_in(headers: &HeaderMap, response_time: u64) -> Option<u64> {
    let mut lines = headers.get_all(EXPIRES).iter();
    let first = lines.next()?;
    let expires = match lines.next() {
        None => date::parse(first.as_bytes()).unwrap_or(0),
        Some(_) => 0,
    };
    Some(expires.saturating_sub(date_of(headers).unwrap_or(response_time)))
}

/// A share of the time that passed since the last change (RFC 9111 §4.2.2).
fn heuristic(headers: &HeaderMap, response_time: u64, policy: &Policy) -> u64 {
    let Some(modified) = last_modified_of(headers) else { return 0 };
    let unchanged = date_of(headers).unwrap_or(response_time).saturating_sub(modified);
    ((unchanged as f64 * policy.heuristic_fraction) as u64).min(policy.heuristic_max)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CACHE_CONTROL;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn at(seconds: u64) -> &'static str {
        date::format(seconds).to_str().unwrap().to_owned().leak()
    }

    fn lifetime_of(status: u16, headers: &HeaderMap) -> Lifetime {
        let directives = ResponseDirectives::parse(headers);
        let status = StatusCode::from_u16(status).unwrap();
        lifetime(status, headers, &directives, false, NOW, &Policy::default())
    }

    #[test]
    fn the_order_is_s_maxage_max_age_expires() {
        let mut fields = headers(&[
            ("expires", at(NOW + 30)),
            ("date", at(NOW)),
            ("cache-control", "max-age=20, s-maxage=10"),
        ]);
        assert_eq!(lifetime_of(200, &fields), Lifetime { seconds: 10, heuristic: false });
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=20"));
        assert_eq!(lifetime_of(200, &fields).seconds, 20);
        fields.remove(CACHE_CONTROL);
        assert_eq!(lifetime_of(200, &fields), Lifetime { seconds: 30, heuristic: false });
    }

    #[test]
    fn expires_counts_from_date_or_from_arrival() {
        let slow = headers(&[("date", at(NOW - 100)), ("expires", at(NOW + 10))]);
        assert_eq!(lifetime_of(200, &slow).seconds, 110);
        let invalid = headers(&[("date", "foo"), ("expires", at(NOW + 10))]);
        assert_eq!(lifetime_of(200, &invalid).seconds, 10);
        let past = headers(&[("date", at(NOW + 400)), ("expires", at(NOW + 300))]);
        assert_eq!(lifetime_of(200, &past), Lifetime { seconds: 0, heuristic: false });
    }

    #[test]
    fn an_odd_expires_is_expired() {
        let modified = at(NOW - 100_000);
        let invalid = headers(&[("expires", "0"), ("last-modified", modified)]);
        assert_eq!(lifetime_of(200, &invalid), Lifetime { seconds: 0, heuristic: false });
        let twice = headers(&[("expires", at(NOW + 9)), ("expires", at(NOW + 9))]);
        assert_eq!(lifetime_of(200, &twice), Lifetime { seconds: 0, heuristic: false });
    }

    #[test]
    fn a_targeted_field_silences_expires() {
        let fields = headers(&[("expires", at(NOW + 30)), ("date", at(NOW))]);
        let directives = ResponseDirectives { no_transform: true, ..Default::default() };
        let policy = Policy::default();
        let found = lifetime(StatusCode::OK, &fields, &directives, true, NOW, &policy);
        assert_eq!(found, Lifetime { seconds: 0, heuristic: true });
    }

    #[test]
    fn only_some_statuses_have_a_heuristic() {
        let fields = headers(&[("last-modified", at(NOW - 1000)), ("date", at(NOW))]);
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            let expected = Lifetime { seconds: 100, heuristic: true };
            assert_eq!(lifetime_of(status, &fields), expected, "{status}");
        }
        for status in [201, 202, 302, 303, 307, 403, 502, 503, 504, 599] {
            assert_eq!(lifetime_of(status, &fields).seconds, 0, "{status}");
        }
        let mut public = fields;
        public.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        assert_eq!(lifetime_of(599, &public).seconds, 100);
    }

    #[test]
    fn a_heuristic_is_bounded() {
        let old = headers(&[("last-modified", at(1)), ("date", at(NOW))]);
        assert_eq!(lifetime_of(200, &old).seconds, 86_400);
        let future = headers(&[("last-modified", at(NOW + 50)), ("date", at(NOW))]);
        assert_eq!(lifetime_of(200, &future).seconds, 0);
        assert_eq!(lifetime_of(200, &HeaderMap::new()).seconds, 0);
    }

    #[test]
    fn the_negative_lifetime_is_for_errors_without_one() {
        let policy = Policy { negative: 7, ..Policy::default() };
        let seconds = |status, headers: &HeaderMap| {
            let directives = ResponseDirectives::parse(headers);
            lifetime(status, headers, &directives, false, NOW, &policy).seconds
        };
        assert_eq!(seconds(StatusCode::NOT_FOUND, &HeaderMap::new()), 7);
        assert_eq!(seconds(StatusCode::OK, &HeaderMap::new()), 0);
        let explicit = headers(&[("cache-control", "max-age=3")]);
        assert_eq!(seconds(StatusCode::NOT_FOUND, &explicit), 3);
    }

    #[test]
    fn the_first_age_counts_and_garbage_does_not() {
        let cases: [(&[&str], u64); 14] = [
            (&["30"], 30),
            (&["abc"], 0),
            (&["-7200"], 0),
            (&["7200.0"], 0),
            (&["7200, 0"], 7200),
            (&["0,7200"], 0),
            (&["7200", "0"], 7200),
            (&["0", "7200"], 0),
            (&["3600", "3600"], 3600),
            (&["7200;foo=bar"], 7200),
            (&["2147483647"], 2_147_483_647),
            (&["99999999999999999999999"], 2_147_483_648),
            (&[""], 0),
            (&[], 0),
        ];
        for (lines, expected) in cases {
            let fields: Vec<_> = lines.iter().map(|line| ("age", *line)).collect();
            assert_eq!(initial_age(&headers(&fields), NOW, NOW), expected, "{lines:?}");
        }
    }

    #[test]
    fn age_is_the_worse_of_clock_and_field() {
        let fields = headers(&[("date", at(NOW - 50)), ("age", "10")]);
        assert_eq!(initial_age(&fields, NOW - 2, NOW), 50);
        let fields = headers(&[("date", at(NOW + 50)), ("age", "10")]);
        assert_eq!(initial_age(&fields, NOW - 2, NOW), 12);
        assert_eq!(initial_age(&HeaderMap::new(), NOW, NOW), 0);
        assert_eq!(current_age(12, NOW, NOW + 3), 15);
        assert_eq!(current_age(12, NOW, NOW - 3), 12);
    }
}

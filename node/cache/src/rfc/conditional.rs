//! Preconditions: comparing validators, for clients and with the origin (RFC 9110 §8.8, §13;
//! RFC 9111 §4.3).

use http::header::{
    ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED,
};
use http::{HeaderName, Method, StatusCode};

use super::date;
use super::freshness::{date_of, last_modified_of};
use super::list::Members;

/// An entity-tag (RFC 9110 §8.8.3), read as forgivingly as servers write it: the mark of weakness
/// may be `w/`, `W\` or `W` before the quotes, and the quotes may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads one tag; `None` when there is nothing to read.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let unmarked = text.strip_prefix(b"W").or_else(|| text.strip_prefix(b"w"));
        let (weak, rest) = match unmarked {
            Some([b'/', rest @ ..]) => (true, rest),
            Some([b'\\', rest @ ..]) if rest.starts_with(b"\"") => (true, rest),
            Some(rest) if rest.starts_with(b"\"") => (true, rest),
            _ => (false, text),
        };
        let inner = rest.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        (!text.is_empty()).then_some(Self { weak, opaque: inner.unwrap_or(rest) })
    }

    /// Reads a field value.
    pub fn of(value: &'a HeaderValue) -> Option<Self> {
        Self::parse(value.as_bytes())
    }

    /// Strong comparison (RFC 9110 §8.8.3.2): byte for byte the same content.
    pub fn is_strongly(&self, other: &EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Weak comparison: as good as the same.
    pub fn is_weakly(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }
}

/// What a conditional request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer it would get without its conditions.
    Proceed,
    /// 304, with [`super::fields::not_modified_headers`].
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Evaluates the preconditions of a request against a stored response, in the order of RFC 9110
/// §13.2.2.
///
/// `response_time` (Unix seconds) stands in for `Last-Modified` and `Date` where the stored response
/// has neither (RFC 9111 §4.3.2). Conditions count only where the answer would be a 2xx (§13.2.1).
/// The engine may as well forward `If-Match` and `If-Unmodified-Since`, which are meant for origins.
pub fn evaluate(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    response_time: u64,
) -> Outcome {
    if !status.is_success() {
        return Outcome::Proceed;
    }
    let is_read = *method == Method::GET || *method == Method::HEAD;
    let etag = stored.get(ETAG).and_then(EntityTag::of);
    let modified = last_modified_of(stored);
    if request.contains_key(IF_MATCH) {
        if !any_tag(request, &IF_MATCH, |tag| etag.is_some_and(|etag| tag.is_strongly(&etag))) {
            return Outcome::PreconditionFailed;
        }
    } else if let (Some(modified), Some(limit)) = (modified, date_in(request, &IF_UNMODIFIED_SINCE))
        && modified > limit
    {
        return Outcome::PreconditionFailed;
    }
    if request.contains_key(IF_NONE_MATCH) {
        let held = any_tag(request, &IF_NONE_MATCH, |tag| etag.is_some_and(|etag| tag.is_weakly(&etag)));
        return match (held, is_read) {
            (true, true) => Outcome::NotModified,
            (true, false) => Outcome::PreconditionFailed,
            (false, _) => Outcome::Proceed,
        };
    }
    if is_read && let Some(since) = date_in(request, &IF_MODIFIED_SINCE) {
        let modified = modified.or_else(|| date_of(stored)).unwrap_or(response_time);
        if modified <= since {
            return Outcome::NotModified;
        }
    }
    Outcome::Proceed
}

/// Whether two responses carry parts of the same representation, so that slices of both may be
/// joined (RFC 9110 §15.3.7.3, RFC 9111 §3.4).
///
/// That takes the same strong entity-tag; where neither has a tag, the same `Last-Modified`, strong
/// on both sides, and the same known total length. Totals that are known must never differ.
pub fn validators_agree(
    old: &HeaderMap,
    new: &HeaderMap,
    old_total: Option<u64>,
    new_total: Option<u64>,
) -> bool {
    if old_total.zip(new_total).is_some_and(|(old, new)| old != new) {
        return false;
    }
    match (old.get(ETAG), new.get(ETAG)) {
        (Some(old), Some(new)) => {
            EntityTag::of(old).zip(EntityTag::of(new)).is_some_and(|(old, new)| old.is_strongly(&new))
        }
        (None, None) => {
            old_total.is_some()
                && new_total.is_some()
                && is_last_modified_strong(old)
                && is_last_modified_strong(new)
                && last_modified_of(old) == last_modified_of(new)
        }
        _ => false,
    }
}

/// Whether `Last-Modified` is a strong validator: at least a second before `Date` (RFC 9110
/// §8.8.2.2).
pub fn is_last_modified_strong(headers: &HeaderMap) -> bool {
    is_after(date_of(headers), last_modified_of(headers))
}

/// Whether a response has something that can be validated with.
pub fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || last_modified_of(headers).is_some()
}

/// Makes a request for the origin validate a stored response (RFC 9111 §4.3.1): `If-None-Match` and
/// `If-Modified-Since` with its validators exactly as they came, in place of the client's
/// conditions. Returns whether there was a validator.
pub fn add_validators(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    remove_conditions(request);
    if let Some(etag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, etag.clone());
    }
    if last_modified_of(stored).is_some()
        && let Some(modified) = stored.get(LAST_MODIFIED)
    {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    has_validator(stored)
}

/// Makes a request for the origin name the entity-tags of several stored variants, none of which was
/// selected; a 304 then tells by its `ETag` which one to use (RFC 9111 §4.3.1, §4.3.4). Returns
/// whether there was a tag.
pub fn add_variant_tags<'a>(
    request: &mut HeaderMap,
    stored: impl IntoIterator<Item = &'a HeaderMap>,
) -> bool {
    let mut tags: Vec<u8> = Vec::new();
    for etag in stored.into_iter().filter_map(|stored| stored.get(ETAG)) {
        if !tags.is_empty() {
            tags.extend_from_slice(b", ");
        }
        tags.extend_from_slice(etag.as_bytes());
    }
    remove_conditions(request);
    match HeaderValue::try_from(tags) {
        Ok(tags) if !tags.is_empty() => {
            request.insert(IF_NONE_MATCH, tags);
            true
        }
        _ => false,
    }
}

/// Removes every condition, for a request whose answer is to be stored for others.
pub fn remove_conditions(request: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE] {
        request.remove(name);
    }
}

/// Whether a 304 speaks of this stored response, by its validators (RFC 9111 §4.3.4). For a 304 to
/// [`add_variant_tags`]; after [`add_validators`] there is only the one it can speak of.
pub fn is_selected_by(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    match not_modified.get(ETAG).and_then(EntityTag::of) {
        Some(tag) => stored
            .get(ETAG)
            .and_then(EntityTag::of)
            .is_some_and(|held| if tag.weak { tag.is_weakly(&held) } else { tag.is_strongly(&held) }),
        None => match last_modified_of(not_modified) {
            Some(modified) => last_modified_of(stored) == Some(modified),
            None => !has_validator(stored),
        },
    }
}

/// Whether a date is known to be later than another, by at least a second.
pub(super) fn is_after(date: Option<u64>, earlier: Option<u64>) -> bool {
    date.zip(earlier).is_some_and(|(date, earlier)| date > earlier)
}

/// Whether a list of entity-tags is `*` or has a member that `matches`.
fn any_tag(headers: &HeaderMap, name: &HeaderName, matches: impl Fn(EntityTag<'_>) -> bool) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| Members::of_tags(line.as_bytes()))
        .any(|member| member == b"*" || EntityTag::parse(member).is_some_and(&matches))
}

/// The date of a field that appears once and is valid.
fn date_in(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(value), None) => date::parse(value.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: u64 = 1_000_000;

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

    fn get(request: &[(&'static str, &str)], stored: &[(&'static str, &str)]) -> Outcome {
        let (request, stored) = (headers(request), headers(stored));
        evaluate(&Method::GET, &request, StatusCode::OK, &stored, MODIFIED)
    }

    #[test]
    fn if_none_match_compares_weakly_and_forgivingly() {
        for (wanted, held) in [
            ("\"abcdef\"", "\"abcdef\""),
            ("\"abcdef\u{fc}\"", "\"abcdef\u{fc}\""),
            ("abcdef", "\"abcdef\""),
            ("abcdef", "abcdef"),
            ("\"abcdef\"", "abcdef"),
            ("W/\"abcdef\"", "W/\"abcdef\""),
            ("\"abcdef\"", "W/\"abcdef\""),
            ("w/\"abcdef\"", "w/\"abcdef\""),
            ("W\\\"abcdef\"", "W\\\"abcdef\""),
            ("W\"abcdef\"", "W\"abcdef\""),
            ("\"abcdef\", \"1234\", \"5678\"", "\"abcdef\""),
            ("\"1234\", \"abcdef\", \"5678\"", "\"abcdef\""),
            ("\"1234\",\"5678\",\"abcdef\"", "\"abcdef\""),
            ("\"a,b\"", "\"a,b\""),
            ("*", "\"abcdef\""),
        ] {
            let outcome = get(&[("if-none-match", wanted)], &[("etag", held)]);
            assert_eq!(outcome, Outcome::NotModified, "{wanted} {held}");
        }
        for (wanted, held) in [
            ("\"abc\"", "\"abcdef\""),
            ("\"a\", b", "\"a, b\""),
            ("\"*\"", "\"abcdef\""),
            ("Wabcdef", "abcdef"),
            ("", "\"\""),
        ] {
            let outcome = get(&[("if-none-match", wanted)], &[("etag", held)]);
            assert_eq!(outcome, Outcome::Proceed, "{wanted} {held}");
        }
    }

    #[test]
    fn if_none_match_silences_if_modified_since() {
        let stored = [("etag", "\"a\""), ("last-modified", at(MODIFIED))];
        let newer = ("if-modified-since", at(MODIFIED + 10));
        assert_eq!(get(&[("if-none-match", "\"b\""), newer], &stored), Outcome::Proceed);
        let older = ("if-modified-since", at(MODIFIED - 10));
        assert_eq!(get(&[("if-none-match", "\"a\""), older], &stored), Outcome::NotModified);
    }

    #[test]
    fn if_modified_since_compares_dates() {
        let stored = [("last-modified", at(MODIFIED))];
        let since = |text| get(&[("if-modified-since", text)], &stored);
        assert_eq!(since(at(MODIFIED)), Outcome::NotModified);
        assert_eq!(since(at(MODIFIED + 1000)), Outcome::NotModified);
        assert_eq!(since(at(MODIFIED - 1)), Outcome::Proceed);
        assert_eq!(since("Monday, 12-Jan-70 13:46:40 GMT"), Outcome::NotModified);
        assert_eq!(since("soon"), Outcome::Proceed);
    }

    #[test]
    fn date_and_arrival_stand_in_for_last_modified() {
        let dated = [("date", at(MODIFIED - 100))];
        let since = |seconds| [("if-modified-since", at(seconds))];
        assert_eq!(get(&since(MODIFIED - 100), &dated), Outcome::NotModified);
        assert_eq!(get(&since(MODIFIED - 101), &dated), Outcome::Proceed);
        assert_eq!(get(&since(MODIFIED), &[]), Outcome::NotModified);
        assert_eq!(get(&since(MODIFIED - 1), &[]), Outcome::Proceed);
    }

    #[test]
    fn if_match_and_if_unmodified_since_come_first() {
        let stored = [("etag", "\"a\""), ("last-modified", at(MODIFIED))];
        assert_eq!(get(&[("if-match", "\"a\"")], &stored), Outcome::Proceed);
        assert_eq!(get(&[("if-match", "*")], &stored), Outcome::Proceed);
        assert_eq!(get(&[("if-match", "W/\"a\"")], &stored), Outcome::PreconditionFailed);
        let both = [("if-match", "\"b\""), ("if-none-match", "\"a\"")];
        assert_eq!(get(&both, &stored), Outcome::PreconditionFailed);
        let unmodified = |seconds| get(&[("if-unmodified-since", at(seconds))], &stored);
        assert_eq!(unmodified(MODIFIED), Outcome::Proceed);
        assert_eq!(unmodified(MODIFIED - 1), Outcome::PreconditionFailed);
    }

    #[test]
    fn conditions_count_for_successes_and_by_method() {
        let request = headers(&[("if-none-match", "\"a\"")]);
        let stored = headers(&[("etag", "\"a\"")]);
        let outcome = |method, status| evaluate(&method, &request, status, &stored, 0);
        assert_eq!(outcome(Method::HEAD, StatusCode::OK), Outcome::NotModified);
        assert_eq!(outcome(Method::PUT, StatusCode::OK), Outcome::PreconditionFailed);
        assert_eq!(outcome(Method::GET, StatusCode::NOT_FOUND), Outcome::Proceed);
    }

    #[test]
    fn slices_join_only_under_strong_validators() {
        let agree = |old: &[(&'static str, &str)], new: &[(&'static str, &str)], totals: [u64; 2]| {
            let (old, new) = (headers(old), headers(new));
            validators_agree(&old, &new, Some(totals[0]), Some(totals[1]))
        };
        let tag = [("etag", "\"a\"")];
        assert!(agree(&tag, &tag, [5, 5]));
        assert!(!agree(&tag, &tag, [5, 6]));
        assert!(!agree(&tag, &[("etag", "\"b\"")], [5, 5]));
        let weak = [("etag", "W/\"a\"")];
        assert!(!agree(&weak, &weak, [5, 5]));
        let strong = [("last-modified", at(MODIFIED)), ("date", at(MODIFIED + 1))];
        assert!(agree(&strong, &strong, [5, 5]));
        assert!(!agree(&strong, &tag, [5, 5]));
        let unsure = [("last-modified", at(MODIFIED)), ("date", at(MODIFIED))];
        assert!(!agree(&strong, &unsure, [5, 5]));
        assert!(!agree(&[], &[], [5, 5]));
        let (strong, tag) = (headers(&strong), headers(&tag));
        assert!(!validators_agree(&strong, &strong, Some(5), None));
        assert!(validators_agree(&tag, &tag, None, None));
    }

    #[test]
    fn validation_replaces_the_conditions_of_the_client() {
        let mut request = headers(&[("if-match", "\"x\""), ("if-range", "\"x\""), ("accept", "a")]);
        let stored = headers(&[("etag", "abc"), ("last-modified", at(MODIFIED))]);
        assert!(add_validators(&mut request, &stored));
        let expected = [("accept", "a"), ("if-none-match", "abc"), ("if-modified-since", at(MODIFIED))];
        assert_eq!(request, headers(&expected));
        assert!(!add_validators(&mut request, &headers(&[("last-modified", "x")])));
        assert_eq!(request, headers(&[("accept", "a")]));
    }

    #[test]
    fn variants_are_offered_and_selected_by_tag() {
        let (one, other) = (headers(&[("etag", "\"1\"")]), headers(&[("etag", "W/\"2\"")]));
        let mut request = HeaderMap::new();
        assert!(add_variant_tags(&mut request, [&one, &HeaderMap::new(), &other]));
        assert_eq!(request[IF_NONE_MATCH], "\"1\", W/\"2\"");
        assert!(is_selected_by(&one, &one) && is_selected_by(&other, &other));
        assert!(!is_selected_by(&one, &other));
        assert!(!is_selected_by(&other, &headers(&[("etag", "\"2\"")])));
        assert!(!add_variant_tags(&mut request, [&HeaderMap::new()]));
        assert!(!request.contains_key(IF_NONE_MATCH));
        let modified = headers(&[("last-modified", at(MODIFIED))]);
        assert!(is_selected_by(&modified, &modified));
        assert!(!is_selected_by(&modified, &HeaderMap::new()));
        assert!(is_selected_by(&HeaderMap::new(), &HeaderMap::new()));
    }
}

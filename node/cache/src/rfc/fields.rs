//! Which header fields travel, which are stored, and how stored ones are brought up to date
//! (RFC 9110 §7.6, RFC 9111 §3.1, §3.2, §4.3.5).

use http::Version;
use http::header::{
    AGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, DATE, ETAG, EXPIRES, HeaderMap,
    HeaderName, HeaderValue, LAST_MODIFIED, VARY, VIA,
};

use super::conditional::EntityTag;
use super::content_range::position;
use super::date;
use super::directives::ResponseDirectives;
use super::freshness::last_modified_of;
use super::list::Members;

/// Fields of one connection or one hop: never forwarded and never stored (RFC 9110 §7.6.1,
/// RFC 9111 §3.1).
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that `Connection` must not name, being meant for everyone (RFC 9110 §7.6.1): obeying it
/// would let one peer hide from the cache what decides about storing and matching.
const END_TO_END: [&str; 15] = [
    "age",
    "authorization",
    "cache-control",
    "cdn-cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "host",
    "last-modified",
    "set-cookie",
    "vary",
];

/// Fields that describe the stored content itself, which a 304 or a HEAD does not bring (RFC 9111
/// §3.2).
const OF_CONTENT: [&str; 8] = [
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "content-range",
    "digest",
    "etag",
    "repr-digest",
];

/// Removes what is not for the next hop, including the fields that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| Members::new(line.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !END_TO_END.contains(&name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The fields of a response as they are stored (RFC 9111 §3.1): without those of the hop and those
/// that `no-cache="…"` and `private="…"` name.
pub fn storable_headers(headers: &HeaderMap, directives: &ResponseDirectives) -> HeaderMap {
    let mut stored = headers.clone();
    strip_hop_by_hop(&mut stored);
    for name in directives.no_cache_fields.iter().chain(&directives.private_fields) {
        stored.remove(name);
    }
    stored
}

/// Brings stored fields up to date with those of a 304 (RFC 9111 §3.2, §4.3.4).
///
/// Every field of the 304 replaces its stored namesakes, but for those of the hop and those that
/// belong to the stored content. `Age` is that of the 304 or none: it counts from there.
/// The lifetime, the age and, when `Vary` changed, the key are to be computed again.
pub fn update_from_304(stored: &mut HeaderMap, not_modified: &HeaderMap) {
    stored.remove(AGE);
    for name in not_modified.keys() {
        if HOP_BY_HOP.contains(&name.as_str()) || OF_CONTENT.contains(&name.as_str()) {
            continue;
        }
        stored.remove(name);
        for value in not_modified.get_all(name) {
            stored.append(name, value.clone());
        }
    }
}

/// What a HEAD told about a stored GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadEffect {
    /// The stored fields are up to date now, as after a 304.
    Updated,
    /// The stored response is another one: it must not be used without validation.
    Outdated,
}

/// Compares a 200 to HEAD with the stored GET that it could have been answered from, and updates
/// the stored fields when nothing contradicts (RFC 9111 §4.3.5).
///
/// `stored_length` is the length of the stored content in bytes, when all of it is known.
pub fn update_from_head(stored: &mut HeaderMap, stored_length: Option<u64>, head: &HeaderMap) -> HeadEffect {
    let tag_differs = head.get(ETAG).is_some_and(|tag| {
        let (new, old) = (EntityTag::of(tag), stored.get(ETAG).and_then(EntityTag::of));
        new.zip(old).is_none_or(|(new, old)| new != old)
    });
    let date_differs = head.contains_key(LAST_MODIFIED) && last_modified_of(head) != last_modified_of(stored);
    let length = head.get(CONTENT_LENGTH).and_then(|value| position(value.as_bytes()));
    let length_differs = length.zip(stored_length).is_some_and(|(new, old)| new != old);
    if tag_differs || date_differs || length_differs {
        return HeadEffect::Outdated;
    }
    update_from_304(stored, head);
    HeadEffect::Updated
}

/// The fields of a 304 that is made from a stored response (RFC 9110 §15.4.5). `Last-Modified` is
/// among them only where there is no `ETag`.
pub fn not_modified_headers(stored: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let cdn = http::header::CDN_CACHE_CONTROL;
    for name in [CACHE_CONTROL, cdn, CONTENT_LOCATION, DATE, ETAG, EXPIRES, VARY] {
        for value in stored.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    if !headers.contains_key(ETAG)
        && let Some(modified) = stored.get(LAST_MODIFIED)
    {
        headers.insert(LAST_MODIFIED, modified.clone());
    }
    headers
}

/// Sets `Age`, seconds (RFC 9111 §5.1).
pub fn set_age(headers: &mut HeaderMap, age: u64) {
    headers.insert(AGE, HeaderValue::from(age));
}

/// Adds the `Date` that a response arrived without (RFC 9110 §6.6.1). Call it before the response
/// is stored or forwarded, `response_time` being in Unix seconds; a `Date` that is there stays, also
/// when it is no date.
pub fn ensure_date(headers: &mut HeaderMap, response_time: u64) {
    if !headers.contains_key(DATE) {
        headers.insert(DATE, date::format(response_time));
    }
}

/// Adds this node to `Via` under a pseudonym (RFC 9110 §7.6.3). `version` is that of the message as
/// it was received. A name that cannot stand in a field is left out.
pub fn append_via(headers: &mut HeaderMap, version: Version, name: &str) {
    let version = match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{version} {name}")) {
        headers.append(VIA, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_hop_and_what_it_names_are_removed() {
        let mut fields = headers(&[
            ("connection", "A, close,"),
            ("connection", "b"),
            ("a", "1"),
            ("a", "2"),
            ("b", "2"),
            ("c", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        ]);
        strip_hop_by_hop(&mut fields);
        assert_eq!(fields, headers(&[("c", "3")]));
    }

    #[test]
    fn connection_cannot_hide_what_decides() {
        let mut fields = headers(&[("connection", "cache-control, Vary"), ("cache-control", "no-store")]);
        strip_hop_by_hop(&mut fields);
        assert_eq!(fields, headers(&[("cache-control", "no-store")]));
    }

    #[test]
    fn qualified_fields_are_not_stored() {
        let fields = headers(&[
            ("cache-control", "no-cache=\"a\", private=\"b\", max-age=9"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("set-cookie", "a=b"),
        ]);
        let stored = storable_headers(&fields, &ResponseDirectives::parse(&fields));
        assert_eq!(stored.len(), 3);
        assert!(stored.contains_key("c") && stored.contains_key("set-cookie"));
    }

    #[test]
    fn a_304_replaces_fields_but_not_those_of_the_content() {
        let mut stored = headers(&[
            ("age", "30"),
            ("cache-control", "max-age=1"),
            ("content-encoding", "a"),
            ("content-length", "5"),
            ("content-md5", "a"),
            ("content-range", "a"),
            ("content-type", "text/plain"),
            ("etag", "\"a\""),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=1"),
            ("test-header", "a"),
        ]);
        let not_modified = headers(&[
            ("cache-control", "max-age=3600"),
            ("connection", "close"),
            ("content-encoding", "b"),
            ("content-length", "10"),
            ("content-md5", "b"),
            ("content-range", "b"),
            ("content-type", "text/plain;charset=utf-8"),
            ("etag", "\"b\""),
            ("set-cookie", "a=2"),
            ("x-new", "1"),
        ]);
        update_from_304(&mut stored, &not_modified);
        let expected = headers(&[
            ("cache-control", "max-age=3600"),
            ("content-encoding", "a"),
            ("content-length", "5"),
            ("content-md5", "a"),
            ("content-range", "a"),
            ("content-type", "text/plain;charset=utf-8"),
            ("etag", "\"a\""),
            ("set-cookie", "a=2"),
            ("test-header", "a"),
            ("x-new", "1"),
        ]);
        assert_eq!(stored, expected);
    }

    #[test]
    fn a_head_updates_what_it_agrees_with() {
        let stored = headers(&[("etag", "\"a\""), ("cache-control", "max-age=2"), ("a", "1")]);
        let effect = |head: &[(&'static str, &str)]| {
            let mut updated = stored.clone();
            let effect = update_from_head(&mut updated, Some(5), &headers(head));
            (effect, updated)
        };
        let (updated, fields) = effect(&[("cache-control", "max-age=1000"), ("content-length", "5")]);
        assert_eq!(updated, HeadEffect::Updated);
        assert_eq!(fields[CACHE_CONTROL], "max-age=1000");
        assert_eq!(fields["a"], "1");
        assert!(!fields.contains_key(CONTENT_LENGTH));
        assert_eq!(effect(&[("etag", "\"a\"")]).0, HeadEffect::Updated);
        for head in [
            ("etag", "\"b\""),
            ("etag", "W/\"a\""),
            ("content-length", "6"),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ] {
            let (outdated, fields) = effect(&[head, ("a", "2")]);
            assert_eq!(outdated, HeadEffect::Outdated, "{head:?}");
            assert_eq!(fields, stored);
        }
    }

    #[test]
    fn a_304_carries_what_rfc_9110_lists() {
        let stored = headers(&[
            ("etag", "\"a\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("vary", "a"),
            ("vary", "b"),
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("set-cookie", "a=b"),
        ]);
        let expected = headers(&[("etag", "\"a\""), ("vary", "a"), ("vary", "b")]);
        assert_eq!(not_modified_headers(&stored), expected);
        let untagged = headers(&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(not_modified_headers(&untagged), untagged);
    }

    #[test]
    fn small_fields_are_set() {
        let mut fields = headers(&[("age", "1"), ("via", "1.0 fred"), ("date", "foo")]);
        set_age(&mut fields, 42);
        append_via(&mut fields, Version::HTTP_11, "skerry");
        append_via(&mut fields, Version::HTTP_2, "bad\nname");
        ensure_date(&mut fields, 0);
        let expected = headers(&[("age", "42"), ("via", "1.0 fred"), ("via", "1.1 skerry"), ("date", "foo")]);
        assert_eq!(fields, expected);
        let mut fields = HeaderMap::new();
        ensure_date(&mut fields, 784_111_777);
        assert_eq!(fields[DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}

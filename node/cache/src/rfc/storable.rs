//! May a response be stored, and why not (RFC 9111 §3)?
//!
//! `Set-Cookie` does not forbid storing, but for a POST: an origin that means its cookies for one
//! user says `private` or `no-store` (§7.3). `Vary: *` can never be selected again (§4.1), and is not worth
//! the room. A 206 is stored as slices, and so only when it says which; a 304 is never stored but
//! refreshes what is.

use std::fmt;

use http::header::{AUTHORIZATION, CONTENT_LOCATION, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, SET_COOKIE};
use http::{Method, StatusCode};

use super::content_range::ContentRange;
use super::directives::{RequestDirectives, ResponseDirectives};
use super::freshness::{Policy, is_heuristically_cacheable, is_negative, last_modified_of};
use super::invalidation::resolve;
use super::vary::VaryFields;

/// One request and its response, as far as storing is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// Method of the request.
    pub method: &'a Method,
    /// Fields of the request as it was sent to the origin.
    pub request: &'a HeaderMap,
    /// Directives of the request.
    pub request_directives: &'a RequestDirectives,
    /// Status of the response.
    pub status: StatusCode,
    /// Fields of the response.
    pub response: &'a HeaderMap,
    /// Directives of the response: the targeted ones when there are any.
    pub directives: &'a ResponseDirectives,
    /// Whether `directives` came from a targeted field, so that `Expires` is ignored (RFC 9213).
    pub targeted: bool,
    /// What the site decides.
    pub policy: &'a Policy,
}

/// Why a response may not be stored, or not usefully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStorable {
    /// The method is not GET or HEAD, nor a POST whose answer is the new content of its target.
    Method,
    /// A 1xx is not the response.
    Interim,
    /// A 304 has no content of its own.
    NotModified,
    /// A 206 without one valid `Content-Range`, or of several parts.
    Partial,
    /// `must-understand` beside a status that is not understood.
    NotUnderstood,
    /// `no-store` of the response.
    NoStore,
    /// `no-store` of the request.
    RequestNoStore,
    /// `private` of the response.
    Private,
    /// `Authorization` in the request, and no leave to share the response.
    Authorization,
    /// `Vary: *`.
    VaryStar,
    /// `no-cache` without a validator: it could never be reused.
    NoValidator,
    /// No lifetime, no validator and no ground for a heuristic.
    NoLifetime,
}

impl NotStorable {
    /// The reason as a token, for the `detail` of `Cache-Status` and for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Interim => "interim",
            Self::NotModified => "not-modified",
            Self::Partial => "partial",
            Self::NotUnderstood => "not-understood",
            Self::NoStore => "no-store",
            Self::RequestNoStore => "request-no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::VaryStar => "vary-star",
            Self::NoValidator => "no-validator",
            Self::NoLifetime => "no-lifetime",
        }
    }
}

impl fmt::Display for NotStorable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::error::Error for NotStorable {}

/// Whether the response to a GET or HEAD may be stored, and could be of use.
///
/// # Errors
/// The first reason that speaks against it.
pub fn is_storable(exchange: &Exchange<'_>) -> Result<(), NotStorable> {
    if *exchange.method != Method::GET && *exchange.method != Method::HEAD {
        return Err(NotStorable::Method);
    }
    is_response_storable(exchange)
}

/// Whether the response to a POST may be stored for later GETs of the same target: it must be
/// explicitly fresh and name that target in `Content-Location` (RFC 9110 §9.3.3). It must be a 200
/// too, a 201 or a 204 being no answer to a GET, and set no cookie: that is for the one who posted.
///
/// `target` is the path and query of the request, `authorities` as in [`resolve`].
///
/// # Errors
/// The first reason that speaks against it.
pub fn is_post_storable(
    exchange: &Exchange<'_>,
    authorities: &[&str],
    target: &str,
) -> Result<(), NotStorable> {
    let location = exchange.response.get(CONTENT_LOCATION);
    let names_target = location
        .and_then(|location| resolve(location.as_bytes(), authorities, target))
        .is_some_and(|named| named == target);
    if *exchange.method != Method::POST || exchange.status != StatusCode::OK || !names_target {
        return Err(NotStorable::Method);
    }
    if exchange.response.contains_key(SET_COOKIE) {
        return Err(NotStorable::Private);
    }
    if !is_explicit(exchange) {
        return Err(NotStorable::NoLifetime);
    }
    is_response_storable(exchange)
}

fn is_response_storable(exchange: &Exchange<'_>) -> Result<(), NotStorable> {
    let Exchange { status, response, directives, .. } = *exchange;
    if status.is_informational() {
        return Err(NotStorable::Interim);
    }
    if status == StatusCode::NOT_MODIFIED {
        return Err(NotStorable::NotModified);
    }
    if status == StatusCode::PARTIAL_CONTENT && !is_one_part(response) {
        return Err(NotStorable::Partial);
    }
    if directives.must_understand {
        // A cache that understands the status ignores `no-store` (§5.2.2.3).
        if !is_understood(status) {
            return Err(NotStorable::NotUnderstood);
        }
    } else if directives.no_store {
        return Err(NotStorable::NoStore);
    }
    if exchange.request_directives.no_store {
        return Err(NotStorable::RequestNoStore);
    }
    if directives.private {
        return Err(NotStorable::Private);
    }
    if exchange.request.contains_key(AUTHORIZATION) && !is_shared_despite_authorization(directives) {
        return Err(NotStorable::Authorization);
    }
    if VaryFields::parse(response) == VaryFields::Star {
        return Err(NotStorable::VaryStar);
    }
    let validator = response.contains_key(ETAG) || last_modified_of(response).is_some();
    if directives.no_cache && !validator {
        return Err(NotStorable::NoValidator);
    }
    let heuristic = directives.public || is_heuristically_cacheable(status);
    let negative = exchange.policy.negative > 0 && is_negative(status);
    if is_explicit(exchange) || negative || (heuristic && validator) {
        Ok(())
    } else {
        Err(NotStorable::NoLifetime)
    }
}

/// Whether the origin named a lifetime, however short.
fn is_explicit(exchange: &Exchange<'_>) -> bool {
    exchange.directives.has_lifetime() || (!exchange.targeted && exchange.response.contains_key(EXPIRES))
}

/// RFC 9111 §3.5.
fn is_shared_despite_authorization(directives: &ResponseDirectives) -> bool {
    directives.public || directives.must_revalidate || directives.s_maxage.is_some()
}

fn is_one_part(response: &HeaderMap) -> bool {
    let several = response.get(CONTENT_TYPE).is_some_and(|media_type| {
        media_type
            .as_bytes()
            .get(..20)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/byteranges"))
    });
    !several && matches!(ContentRange::of(response), Some(ContentRange::Bytes { .. }))
}

/// Whether the caching-related rules of a status are known here: those of the HTTP Status Code
/// Registry, none of which asks for more than RFC 9111 does.
pub fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451
            | 500..=508 | 510 | 511
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn store_with(
        method: &Method,
        request: &[(&'static str, &str)],
        status: u16,
        response: &[(&'static str, &str)],
        negative: u64,
    ) -> Result<(), NotStorable> {
        let (request, response) = (headers(request), headers(response));
        let exchange = Exchange {
            method,
            request: &request,
            request_directives: &RequestDirectives::parse(&request),
            status: StatusCode::from_u16(status).unwrap(),
            response: &response,
            directives: &ResponseDirectives::parse(&response),
            targeted: false,
            policy: &Policy { negative, ..Policy::default() },
        };
        if *method == Method::POST {
            is_post_storable(&exchange, &["example.org"], "/a?b")
        } else {
            is_storable(&exchange)
        }
    }

    fn store(status: u16, response: &[(&'static str, &str)]) -> Result<(), NotStorable> {
        store_with(&Method::GET, &[], status, response, 0)
    }

    const FRESH: (&str, &str) = ("cache-control", "max-age=60");
    const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");

    #[test]
    fn any_final_status_with_a_lifetime_is_stored() {
        for status in [200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 503, 599] {
            assert_eq!(store(status, &[FRESH]), Ok(()), "{status}");
            assert_eq!(store(status, &[("expires", "0")]), Ok(()), "{status}");
        }
        assert_eq!(store(103, &[FRESH]), Err(NotStorable::Interim));
        assert_eq!(store(304, &[FRESH]), Err(NotStorable::NotModified));
    }

    #[test]
    fn without_a_lifetime_the_status_and_a_validator_decide() {
        assert_eq!(store(200, &[]), Err(NotStorable::NoLifetime));
        assert_eq!(store(200, &[("etag", "\"a\"")]), Ok(()));
        assert_eq!(store(404, &[MODIFIED]), Ok(()));
        for status in [201, 202, 403, 502, 503, 504, 599] {
            assert_eq!(store(status, &[MODIFIED]), Err(NotStorable::NoLifetime), "{status}");
        }
        assert_eq!(store(599, &[MODIFIED, ("cache-control", "public")]), Ok(()));
        assert_eq!(store(200, &[("last-modified", "yesterday")]), Err(NotStorable::NoLifetime));
    }

    #[test]
    fn negative_answers_are_stored_when_the_site_says_so() {
        assert_eq!(store_with(&Method::GET, &[], 404, &[], 10), Ok(()));
        assert_eq!(store_with(&Method::GET, &[], 200, &[], 10), Err(NotStorable::NoLifetime));
    }

    #[test]
    fn directives_forbid() {
        let with = |text| store(200, &[("cache-control", text), ("etag", "\"a\"")]);
        assert_eq!(with("max-age=9, no-store"), Err(NotStorable::NoStore));
        assert_eq!(with("max-age=9, private"), Err(NotStorable::Private));
        assert_eq!(with("max-age=9, private=\"a\""), Ok(()));
        assert_eq!(with("no-cache"), Ok(()));
        let useless = store(200, &[("cache-control", "max-age=9, no-cache")]);
        assert_eq!(useless, Err(NotStorable::NoValidator));
        let wish = [("cache-control", "no-store")];
        let refused = store_with(&Method::GET, &wish, 200, &[FRESH], 0);
        assert_eq!(refused, Err(NotStorable::RequestNoStore));
    }

    #[test]
    fn must_understand_replaces_no_store() {
        let fields = [("cache-control", "max-age=9, no-store, must-understand")];
        assert_eq!(store(200, &fields), Ok(()));
        assert_eq!(store(404, &fields), Ok(()));
        assert_eq!(store(599, &fields), Err(NotStorable::NotUnderstood));
        let alone = [("cache-control", "max-age=9, must-understand")];
        assert_eq!(store(599, &alone), Err(NotStorable::NotUnderstood));
    }

    #[test]
    fn authorization_needs_leave() {
        let request = [("authorization", "FOO")];
        let with = |text| store_with(&Method::GET, &request, 200, &[("cache-control", text)], 0);
        assert_eq!(with("max-age=9"), Err(NotStorable::Authorization));
        assert_eq!(with("max-age=9, public"), Ok(()));
        assert_eq!(with("max-age=9, must-revalidate"), Ok(()));
        assert_eq!(with("s-maxage=9"), Ok(()));
    }

    #[test]
    fn vary_star_is_not_stored_and_cookies_are() {
        assert_eq!(store(200, &[FRESH, ("vary", "Foo, *")]), Err(NotStorable::VaryStar));
        assert_eq!(store(200, &[FRESH, ("vary", "Foo")]), Ok(()));
        assert_eq!(store(200, &[FRESH, ("set-cookie", "a=b")]), Ok(()));
    }

    #[test]
    fn a_part_must_say_which() {
        let range = ("content-range", "bytes 0-4/10");
        assert_eq!(store(206, &[FRESH, range]), Ok(()));
        assert_eq!(store(206, &[FRESH]), Err(NotStorable::Partial));
        assert_eq!(store(206, &[FRESH, ("content-range", "bytes */10")]), Err(NotStorable::Partial));
        let several = ("content-type", "Multipart/Byteranges; boundary=x");
        assert_eq!(store(206, &[FRESH, range, several]), Err(NotStorable::Partial));
    }

    #[test]
    fn other_methods_are_not_stored() {
        for method in [Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(store_with(&method, &[], 200, &[FRESH], 0), Err(NotStorable::Method));
        }
        assert_eq!(store_with(&Method::HEAD, &[], 200, &[FRESH], 0), Ok(()));
    }

    #[test]
    fn a_post_is_stored_where_it_names_its_target() {
        let post = |fields: &[(&'static str, &str)]| store_with(&Method::POST, &[], 200, fields, 0);
        assert_eq!(post(&[FRESH, ("content-location", "/a?b")]), Ok(()));
        assert_eq!(post(&[FRESH, ("content-location", "http://example.org/a?b")]), Ok(()));
        assert_eq!(post(&[FRESH, ("content-location", "/a")]), Err(NotStorable::Method));
        assert_eq!(post(&[FRESH]), Err(NotStorable::Method));
        assert_eq!(post(&[FRESH, ("content-location", "//example.com/a?b")]), Err(NotStorable::Method));
        assert_eq!(post(&[("expires", "0"), ("content-location", "")]), Ok(()));
        let heuristic = post(&[MODIFIED, ("content-location", "/a?b")]);
        assert_eq!(heuristic, Err(NotStorable::NoLifetime));
        let private = post(&[("cache-control", "private, max-age=9"), ("content-location", "/a?b")]);
        assert_eq!(private, Err(NotStorable::Private));
        let cookie = post(&[FRESH, ("content-location", "/a?b"), ("set-cookie", "a=b")]);
        assert_eq!(cookie, Err(NotStorable::Private));
        let located = [FRESH, ("content-location", "/a?b")];
        for status in [201, 204, 206, 303, 404] {
            let other = store_with(&Method::POST, &[], status, &located, 0);
            assert_eq!(other, Err(NotStorable::Method), "{status}");
        }
        assert_eq!(store_with(&Method::GET, &[], 200, &located, 0), Ok(()));
        let user = [("authorization", "FOO")];
        let refused = store_with(&Method::POST, &user, 200, &located, 0);
        assert_eq!(refused, Err(NotStorable::Authorization));
    }
}

//! The answer to one client from an object: conditions, ranges, header, body.

use std::ops::Range;

use base64::Engine;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use skerry_core::{Body, problem};

use crate::body::{Source, multipart};
use crate::object::Object;
use crate::rfc::cache_status::CacheStatus;
use crate::rfc::conditional::{Outcome, evaluate};
use crate::rfc::content_range::{ContentRange, Multipart};
use crate::rfc::fields::{not_modified_headers, set_age};
use crate::rfc::range::{RangeSet, if_range_matches, resolve};

/// Length where none is known yet: the body ends with the object.
const OPEN_END: u64 = u64::MAX;

/// Answers a GET or HEAD from an object.
pub fn answer(source: Source, request: &Parts, status: &CacheStatus<'_>, now_ms: u64) -> Response<Body> {
    let object = source.object.clone();
    let age = object.age(now_ms);
    let finish = |mut response: Response<Body>| {
        set_age(response.headers_mut(), age);
        status.append_to(response.headers_mut());
        response
    };
    if request.headers.len() > 1 {
        match evaluate(
            &request.method,
            &request.headers,
            object.status,
            &object.headers,
            object.times.response / 1000,
        ) {
            Outcome::Proceed => {}
            Outcome::NotModified => {
                let mut response = Response::new(Body::Empty);
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                *response.headers_mut() = not_modified_headers(&object.headers);
                return finish(response);
            }
            Outcome::PreconditionFailed => {
                let detail = "the stored response does not meet the request's condition";
                return finish(problem::response(StatusCode::PRECONDITION_FAILED, detail));
            }
        }
    }
    let length = object.content_length();
    match length.map_or(RangeSet::None, |length| ranges(request, &object, length)) {
        RangeSet::None => finish(whole(source, request, length)),
        RangeSet::Unsatisfiable => {
            let total = length.unwrap_or(0);
            let detail = "no byte of the asked range exists";
            let mut response = problem::response(StatusCode::RANGE_NOT_SATISFIABLE, detail);
            response
                .headers_mut()
                .insert(header::CONTENT_RANGE, ContentRange::Unsatisfied { total }.to_value());
            finish(response)
        }
        RangeSet::One(range) => finish(part(source, request, range, length.unwrap_or(0))),
        RangeSet::Many(ranges) => finish(parts(source, request, &ranges, length.unwrap_or(0))),
    }
}

/// Answers with the part that the origin sent, as it named it, whatever was asked.
pub fn relay_part(
    source: Source,
    request: &Parts,
    (range, named): (Range<u64>, HeaderValue),
    status: &CacheStatus<'_>,
) -> Response<Body> {
    let mut response = part(source, request, range.clone(), range.end);
    response.headers_mut().insert(header::CONTENT_RANGE, named);
    status.append_to(response.headers_mut());
    response
}

fn ranges(request: &Parts, object: &Object, length: u64) -> RangeSet {
    if request.method != Method::GET
        || object.status != StatusCode::OK
        || !request.headers.contains_key(header::RANGE)
    {
        return RangeSet::None;
    }
    let field = |name| object.headers.get(name);
    let holds = request.headers.get(header::IF_RANGE).is_none_or(|value| {
        if_range_matches(value, field(header::ETAG), field(header::LAST_MODIFIED), field(header::DATE))
    });
    if holds { resolve(&request.headers, length) } else { RangeSet::None }
}

fn has_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

fn whole(source: Source, request: &Parts, length: Option<u64>) -> Response<Body> {
    let object = &source.object;
    let mut headers = with_digest(object, request);
    let bodied = has_body(object.status);
    if bodied && let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let status = object.status;
    let body = if request.method == Method::HEAD || !bodied || length == Some(0) {
        Body::Empty
    } else {
        body(source, 0..length.unwrap_or(OPEN_END))
    };
    respond(status, headers, body)
}

fn part(source: Source, request: &Parts, range: Range<u64>, total: u64) -> Response<Body> {
    let mut headers = with_digest(&source.object, request);
    headers.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    let value = ContentRange::Bytes { range: range.clone(), total: Some(total) }.to_value();
    headers.insert(header::CONTENT_RANGE, value);
    respond(StatusCode::PARTIAL_CONTENT, headers, body(source, range))
}

fn parts(source: Source, request: &Parts, ranges: &[Range<u64>], total: u64) -> Response<Body> {
    let mut headers = with_digest(&source.object, request);
    let boundary = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let content_type = headers.remove(header::CONTENT_TYPE);
    let form = Multipart { boundary: &boundary, content_type: content_type.as_ref(), total };
    headers.insert(header::CONTENT_LENGTH, form.length(ranges).into());
    headers.insert(header::CONTENT_TYPE, form.media_type());
    let list = ranges.iter().map(|range| (form.part_header(range), range.clone())).collect();
    let body = multipart(&source, list, form.trailer());
    respond(StatusCode::PARTIAL_CONTENT, headers, body)
}

fn body(source: Source, range: Range<u64>) -> Body {
    match source.at_once(&range) {
        Some(bytes) => bytes.into(),
        None => source.body(range),
    }
}

/// The stored header, with the digest of the whole when the client wants it (RFC 9530 §4).
fn with_digest(object: &Object, request: &Parts) -> HeaderMap {
    let mut headers = object.headers.clone();
    if let Some(wanted) = request.headers.get("want-repr-digest")
        && wanted.to_str().is_ok_and(|wanted| wanted.contains("sha-256") && !wanted.contains("sha-256=0"))
        && let Some(digest) = *object.body.sha256.read()
    {
        let encoded = base64::engine::general_purpose::STANDARD.encode(digest);
        if let Ok(value) = HeaderValue::from_str(&format!("sha-256=:{encoded}:")) {
            headers.insert("repr-digest", value);
        }
    }
    headers
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

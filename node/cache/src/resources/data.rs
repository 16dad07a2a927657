//! The bytes of a resource: conditions and ranges (RFC 9110 §13, §14), digest (RFC 9530).

use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use skerry_core::{Body, BodyError, problem};
use skerry_store::{Catalogue, Held, ReadAhead};

use crate::rfc::conditional::{Outcome, evaluate};
use crate::rfc::content_range::ContentRange;
use crate::rfc::fields::not_modified_headers;
use crate::rfc::range::{RangeSet, if_range_matches, resolve};

/// A year: the bytes of a resource never change (RFC 8246).
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Answers a GET or HEAD of a resource's bytes. Several ranges at once are answered with the whole.
pub(super) fn answer(catalogue: &Catalogue, held: Arc<Held>, request: &Request<Body>) -> Response<Body> {
    let fields = fields(&held);
    match evaluate(request.method(), request.headers(), StatusCode::OK, &fields, held.added_ms / 1000) {
        Outcome::Proceed => {}
        Outcome::NotModified => {
            return respond(StatusCode::NOT_MODIFIED, not_modified_headers(&fields), Body::Empty);
        }
        Outcome::PreconditionFailed => {
            let detail = "the resource does not meet the request's condition";
            return problem::response(StatusCode::PRECONDITION_FAILED, detail);
        }
    }
    let length = held.resource.length;
    let if_range = request.headers().get(header::IF_RANGE);
    let tag = fields.get(header::ETAG);
    let holds = if_range.is_none_or(|value| if_range_matches(value, tag, None, None));
    // RFC 9110 §14.2: for GET only.
    let ranged = holds && *request.method() == Method::GET;
    let asked = if ranged { resolve(request.headers(), length) } else { RangeSet::None };
    let (status, range) = match asked {
        RangeSet::One(range) => (StatusCode::PARTIAL_CONTENT, range),
        RangeSet::Unsatisfiable => {
            let mut response =
                problem::response(StatusCode::RANGE_NOT_SATISFIABLE, "no byte of the asked range exists");
            let value = ContentRange::Unsatisfied { total: length }.to_value();
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            return response;
        }
        RangeSet::None | RangeSet::Many(_) => (StatusCode::OK, 0..length),
    };
    let mut fields = fields;
    fields.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let value = ContentRange::Bytes { range: range.clone(), total: Some(length) }.to_value();
        fields.insert(header::CONTENT_RANGE, value);
    }
    let body = if *request.method() == Method::HEAD { Body::Empty } else { body(catalogue, held, range) };
    respond(status, fields, body)
}

/// What every answer says of a resource.
fn fields(held: &Held) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let mut insert = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    };
    let digest = base64::engine::general_purpose::STANDARD.encode(held.resource.sha256);
    insert(header::ETAG, &format!("\"{}\"", held.id()));
    insert(HeaderName::from_static("repr-digest"), &format!("sha-256=:{digest}:"));
    insert(header::ACCEPT_RANGES, "bytes");
    insert(header::CACHE_CONTROL, FOR_EVER);
    let unknown = "application/octet-stream";
    insert(header::CONTENT_TYPE, if held.media_type.is_empty() { unknown } else { &held.media_type });
    // Whatever it is, it is not to act in this host's name.
    insert(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    insert(header::CONTENT_SECURITY_POLICY, "sandbox");
    fields
}

fn respond(status: StatusCode, fields: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// The bytes of `range`, chunk by chunk, the next one read ahead.
fn body(catalogue: &Catalogue, held: Arc<Held>, range: Range<u64>) -> Body {
    if range.is_empty() {
        return Body::Empty;
    }
    let chunk = u64::from(held.resource.chunk_length);
    let (first, last) = (range.start / chunk, (range.end - 1) / chunk);
    if first == last
        && let Some(located) = held.located(first as usize)
        && let Some(hot) = catalogue.store().hot(&located.id)
        && hot.len() == held.chunk_length(first as usize) as usize
    {
        return hot.slice((range.start % chunk) as usize..((range.end - 1) % chunk) as usize + 1).into();
    }
    let reader = Reader { catalogue: catalogue.clone(), held, range, ahead: None };
    let frames = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Body::stream(StreamBody::new(frames))
}

struct Reader {
    catalogue: Catalogue,
    held: Arc<Held>,
    /// What is still to come.
    range: Range<u64>,
    /// Keeps the read of the next chunk alive; it ends in the memory tier.
    ahead: Option<ReadAhead>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let chunk = u64::from(self.held.resource.chunk_length);
        let index = (self.range.start / chunk) as usize;
        let ahead = match self.ahead.take() {
            Some(read) => read.await?,
            None => None,
        };
        let length = self.held.chunk_length(index) as usize;
        let read = match ahead.filter(|bytes| bytes.len() == length) {
            Some(bytes) => Some(bytes),
            None => self.catalogue.chunk(&self.held, index).await?,
        };
        let bytes = read.ok_or_else(|| format!("chunk {index} of {} is gone", self.held.id()))?;
        let from = (self.range.start % chunk) as usize;
        let to = bytes.len().min(from + (self.range.end - self.range.start) as usize);
        self.range.start += (to - from) as u64;
        if !self.range.is_empty() {
            let next = self.held.located(index + 1);
            self.ahead = next.and_then(|next| self.catalogue.store().read_ahead(next));
        }
        Ok(Some(bytes.slice(from..to)))
    }
}

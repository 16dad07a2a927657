//! Problem documents (RFC 9457): the body of every error the node makes itself.

use http::{HeaderValue, Response, StatusCode, header};

use crate::Body;

/// An error answer: `type` is `about:blank`, so `title` is the status' own phrase (RFC 9457 §4.2.1);
/// `detail` says what failed and what to do, and holds nothing secret.
pub fn response(status: StatusCode, detail: &str) -> Response<Body> {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

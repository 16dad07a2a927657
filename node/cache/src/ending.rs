//! The end of an answer: its bytes, its duration and its line in the access log.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Body as _;
use skerry_core::Body;
use skerry_core::body::{BodyFrame, Tap, Tapped};
use skerry_core::connection::Connection;

use crate::site::Site;

/// What an access-log line says.
pub(crate) struct Access {
    method: Method,
    uri: String,
    peer: String,
    version: http::Version,
    status: StatusCode,
    cache_status: String,
}

impl Access {
    pub(crate) fn of(request: &Request<Body>, connection: &Connection) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().to_string(),
            peer: connection.peer.to_string(),
            version: request.version(),
            status: StatusCode::OK,
            cache_status: String::new(),
        }
    }

    pub(crate) fn answered(mut self, response: &Response<Body>) -> Self {
        self.status = response.status();
        let cache_status = response.headers().get("cache-status").and_then(|value| value.to_str().ok());
        self.cache_status = cache_status.unwrap_or_default().to_owned();
        self
    }
}

/// Counts an answer's bytes and, at its end, its duration and its log line.
pub(crate) struct Ending {
    pub(crate) started: Instant,
    pub(crate) site: Option<Arc<Site>>,
    pub(crate) access: Option<Access>,
    pub(crate) bytes: u64,
}

impl Ending {
    pub(crate) fn over(mut self, body: Body) -> Body {
        match body {
            Body::Stream(_) => Body::stream(Tapped::new(body, self)),
            Body::Full(bytes) => {
                self.count(bytes.len());
                Body::Full(bytes)
            }
            Body::Empty => Body::Empty,
        }
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(site) = &self.site {
            site.metrics.client_bytes.inc_by(bytes as u64);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        if let Some(site) = &self.site {
            site.metrics.duration.observe(elapsed.as_secs_f64());
        }
        if let Some(access) = &self.access {
            log::info!(target: "access", client:% = access.peer, method:% = access.method, path:% = access.uri,
                version:? = access.version, status = access.status.as_u16(), bytes = self.bytes,
                duration_us = elapsed.as_micros() as u64, cache:% = access.cache_status; "request");
        }
    }
}

impl Tap for Ending {
    fn poll_frame(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<BodyFrame> {
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.count(data.len());
        }
        polled
    }
}

//! The bodies of an exchange with an origin: what they hold, and their time limits.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Body as _;
use parking_lot::Mutex;
use skerry_core::Body;
use skerry_core::body::{BodyFrame, Tap, Tapped};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::error::FetchError;

/// A body that holds its origin's slot until it has ended, or has stalled for `timeout`.
pub(crate) fn holding(body: Body, slot: OwnedSemaphorePermit, timeout: Duration) -> Body {
    match body {
        Body::Stream(_) => Body::stream(Tapped::new(body, Holding { _slot: slot, timeout, stalled: None })),
        other => other,
    }
}

struct Holding {
    _slot: OwnedSemaphorePermit,
    timeout: Duration,
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Tap for Holding {
    fn poll_frame(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<BodyFrame> {
        let polled = Pin::new(body).poll_frame(context);
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let timeout = self.timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        let over = FetchError::TimedOut("send the next piece of the body");
        stalled.as_mut().poll(context).map(|()| Some(Err(over.into())))
    }
}

/// When the content of a request last moved: an origin answers after the last of it, and a long
/// upload is no silence.
#[derive(Clone)]
pub(crate) struct Moved(Arc<Mutex<Instant>>);

impl Moved {
    /// Watches the content of a request.
    pub(crate) fn over(body: Body) -> (Body, Self) {
        let moved = Self(Arc::new(Mutex::new(Instant::now())));
        match body {
            Body::Stream(_) => (Body::stream(Tapped::new(body, moved.clone())), moved),
            other => (other, moved),
        }
    }

    /// What `future` gives, unless nothing of the content has moved for `limit`.
    pub(crate) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let end = *self.0.lock() + limit;
            match tokio::time::timeout_at(end, &mut future).await {
                Ok(result) => return Some(result),
                Err(_) if *self.0.lock() + limit > end => {}
                Err(_) => return None,
            }
        }
    }
}

impl Tap for Moved {
    fn poll_frame(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<BodyFrame> {
        let polled = Pin::new(body).poll_frame(context);
        if polled.is_ready() {
            *self.0.lock() = Instant::now();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_upload_is_no_silence() {
        let limit = Duration::from_secs(1);
        let pieces = futures_util::stream::unfold(0, async |sent| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let piece = hyper::body::Frame::data(bytes::Bytes::from_static(b"piece"));
            (sent < 5).then_some((Ok::<_, skerry_core::BodyError>(piece), sent + 1))
        });
        let (body, moved) = Moved::over(Body::stream(http_body_util::StreamBody::new(Box::pin(pieces))));
        let upload = async {
            let length = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes().len();
            tokio::time::sleep(limit / 2).await;
            length
        };
        assert_eq!(moved.within(limit, upload).await, Some(25));
        assert!(moved.within(limit, std::future::pending::<()>()).await.is_none());
    }
}

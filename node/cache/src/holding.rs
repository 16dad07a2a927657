//! An origin's body with its slot and its time limit.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Body as _;
use skerry_core::Body;
use skerry_core::body::{BodyFrame, Tap, Tapped};
use tokio::sync::OwnedSemaphorePermit;

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

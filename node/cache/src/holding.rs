//! An origin's body with its slot and its time limit.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use skerry_core::{Body, BodyError};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::FetchError;

/// A body that holds its origin's slot until it has ended, or has stalled for `timeout`.
pub(crate) fn holding(body: Body, slot: OwnedSemaphorePermit, timeout: Duration) -> Body {
    match body {
        Body::Stream(_) => Body::stream(Holding { body, _slot: slot, timeout, stalled: None }),
        other => other,
    }
}

struct Holding {
    body: Body,
    _slot: OwnedSemaphorePermit,
    timeout: Duration,
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let timeout = self.timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        let over = FetchError::TimedOut("send the next piece of the body");
        stalled.as_mut().poll(context).map(|()| Some(Err(over.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

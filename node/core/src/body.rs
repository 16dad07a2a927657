//! The one response body of the node: a single buffer without an allocation, or a stream; and how any body is
//! read whole.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Why a body ended before its end. The connection is closed, so that the client sees the cut.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// All of a body, from whoever sends it. Fails when it is longer than `most` bytes, or breaks off.
pub async fn whole<B>(body: B, most: usize) -> Result<Bytes, BodyError>
where
    B: HttpBody,
    B::Error: Into<BodyError>,
{
    Ok(Limited::new(body, most).collect().await?.to_bytes())
}

/// A response body. Every buffer is shared, never copied on its way to the socket call.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// One buffer, sent with the header in one vectored write.
    Full(Bytes),
    /// Bytes that come as they arrive.
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    /// Any other body.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self::Stream(Box::pin(body.map_err(Into::into)))
    }
}

/// Sees the frames of a body on their way.
pub trait Tap {
    /// Polls the body, and may look at, replace or hold back what it says.
    fn poll_frame(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<BodyFrame>;

    /// Bytes that the body has given and the tap has not.
    fn held(&self) -> usize {
        0
    }
}

/// What a body says when it is polled.
pub type BodyFrame = Option<Result<Frame<Bytes>, BodyError>>;

/// A body with a [`Tap`] on it; its length is the body's and what the tap holds.
pub struct Tapped<T> {
    body: Body,
    tap: T,
}

impl<T> Tapped<T> {
    /// Puts a tap on a body.
    pub fn new(body: Body, tap: T) -> Self {
        Self { body, tap }
    }
}

impl<T: Tap + Unpin> HttpBody for Tapped<T> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<BodyFrame> {
        let Self { body, tap } = &mut *self;
        tap.poll_frame(body, context)
    }

    fn is_end_stream(&self) -> bool {
        self.tap.held() == 0 && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let held = self.tap.held() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + held);
        }
        hint.set_lower(hint.lower() + held);
        hint
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<BodyFrame> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_body_is_read_to_its_end_and_no_further_than_its_bound() {
        let body = |last: io::Result<&'static str>| {
            let pieces = [Ok("one "), Ok("film "), last];
            let frames = pieces.map(|piece| piece.map(|text| Frame::data(Bytes::from(text))));
            Body::stream(StreamBody::new(stream::iter(frames)))
        };
        assert_eq!(whole(body(Ok("whole")), 14).await.unwrap(), "one film whole");
        assert!(whole(Body::Empty, 0).await.unwrap().is_empty());
        assert_eq!(whole(body(Ok("whole")), 13).await.unwrap_err().to_string(), "length limit exceeded");
        let cut = io::Error::other("it broke off");
        assert_eq!(whole(body(Err(cut)), 14).await.unwrap_err().to_string(), "it broke off");
    }
}

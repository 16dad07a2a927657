//! The answers of an HTTP/2 connection, each with a time limit of its own.
//!
//! A client that keeps the window of a stream shut (RFC 9113 §5.2) holds its answer and nothing
//! else: the socket goes on. So each stream notes since when it is the client's turn, and is reset
//! when that is longer than the write timeout; the other streams go on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::time::Instant;

use crate::Body;
use crate::body::{BodyFrame, Tap, Tapped};
use crate::connection::Answering;

/// What is given out at once, in bytes: the least that a client must take within the write timeout.
const PIECE: usize = 64 << 10;

tokio::task_local! {
    static TURN: Arc<Turn>;
}

/// Since when the client has not taken what it was given.
#[derive(Debug, Default)]
struct Turn(Mutex<Option<Instant>>);

impl Turn {
    fn theirs(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    fn ours(&self) {
        *self.0.lock() = None;
    }

    /// Waits until it has been the client's turn for `limit`.
    async fn overdue(&self, limit: Duration) {
        loop {
            let end = self.0.lock().map_or_else(|| Instant::now() + limit, |since| since + limit);
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Runs the streams of a connection.
#[derive(Clone)]
pub(crate) struct Streams {
    /// How long a client may leave a piece of an answer untaken.
    pub(crate) limit: Duration,
    /// Counts what is cut.
    pub(crate) timed_out: IntCounter,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Self { limit, timed_out } = self.clone();
        let turn = Arc::<Turn>::default();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = TURN.scope(turn.clone(), stream) => {}
                () = turn.overdue(limit) => timed_out.inc(),
            }
        });
    }
}

/// An answer's body: keeps its connection busy until it is sent or dropped, and tells its stream,
/// where it is one's, whose turn it is.
pub(crate) struct Served {
    turn: Option<Arc<Turn>>,
    /// Of the body, and not given out yet.
    rest: Bytes,
    _answering: Answering,
}

impl Served {
    pub(crate) fn body(body: Body, answering: Answering) -> Tapped<Self> {
        let turn = TURN.try_with(Arc::clone).ok();
        Tapped::new(body, Self { turn, rest: Bytes::new(), _answering: answering })
    }
}

impl Tap for Served {
    fn poll_frame(&mut self, body: &mut Body, context: &mut Context<'_>) -> Poll<BodyFrame> {
        let Some(turn) = &self.turn else { return Pin::new(body).poll_frame(context) };
        // Asked for more: what was given is taken.
        turn.ours();
        if self.rest.is_empty() {
            match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        turn.theirs();
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn held(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::pin;

    use http::{Method, Uri};
    use http_body_util::BodyExt as _;
    use hyper::rt::Executor as _;

    use super::*;
    use crate::connection::Connection;

    fn answering() -> Answering {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(Connection::new(peer, true, Arc::default())).begin(&Method::GET, &Uri::from_static("/"))
    }

    #[tokio::test]
    async fn a_stream_ends_when_its_client_takes_nothing_and_never_while_it_is_our_turn() {
        let limit = Duration::from_secs(1);
        let streams = Streams { limit, timed_out: IntCounter::new("a", "b").unwrap() };
        let (ours, theirs) = (tokio::sync::oneshot::channel::<()>(), tokio::sync::oneshot::channel::<()>());
        streams.execute(async move {
            let _held = ours.0;
            let mut body = Served::body(Body::stream(Never), answering());
            let _ = body.frame().await;
        });
        streams.execute(async move {
            let _held = theirs.0;
            let mut body = Served::body(Bytes::from(vec![1; 2 * PIECE]).into(), answering());
            for piece in 0..2 {
                tokio::time::sleep(limit / 2).await;
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), PIECE, "{piece}");
            }
            std::future::pending::<()>().await;
        });
        let before = Instant::now();
        let _ = theirs.1.await;
        assert!(before.elapsed() >= 2 * limit, "{:?}", before.elapsed());
        assert_eq!(streams.timed_out.get(), 1);
        assert!(tokio::time::timeout(limit, ours.1).await.is_err());
    }

    struct Never;

    impl hyper::body::Body for Never {
        type Data = Bytes;
        type Error = crate::BodyError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<BodyFrame> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_the_body() {
        let content: Bytes = (0..=u8::MAX).cycle().take(3 * PIECE + 5).collect();
        let whole = content.clone();
        let got = TURN.scope(Arc::default(), async move {
            let mut body = pin!(Served::body(whole.into(), answering()));
            let mut got = Vec::new();
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((3 * PIECE + 5 - got.len()) as u64));
                got.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
            }
            got
        });
        assert_eq!(got.await, content);
    }
}

//! What the node knows of one connection, and the I/O wrapper that keeps it up to date.
//!
//! Time limits cost nothing on the hot path: a connection only notes what it is doing and since
//! when (milliseconds of a clock that its worker advances), and the worker's sweep, every
//! quarter of a second, cuts what is overdue.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use http::{Method, Uri};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::config::PublicConfig;

const NEVER: u64 = u64::MAX;

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address; the PROXY header's when one is expected.
    pub peer: SocketAddr,
    /// The socket's peer: who really connected, whatever a PROXY header says.
    pub via: SocketAddr,
    /// Whether the client speaks TLS.
    pub secure: bool,
    /// The client's certificate (DER), verified against the listener's authority, when it has one.
    pub certificate: Option<Arc<[u8]>>,
    /// Milliseconds, advanced by the worker's sweep.
    clock: Arc<AtomicU64>,
    /// Requests being answered: at most 1 in HTTP/1.1.
    active: AtomicU32,
    /// Whether part of a request header has arrived (HTTP/1.1).
    in_head: AtomicBool,
    /// HTTP/2 multiplexes: bytes between requests are no request header.
    multiplexed: AtomicBool,
    /// Since when it does what it does now.
    since: AtomicU64,
    /// Since when the socket takes no byte; `NEVER` while it does.
    blocked_since: AtomicU64,
    order: AtomicU8,
    ordered: Notify,
    target: Mutex<Option<(Method, Uri)>>,
}

/// What the worker asks of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Finish,
    Close,
}

/// The time limits of a listener, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    header: u64,
    idle: u64,
    write: u64,
}

impl From<&PublicConfig> for Limits {
    fn from(config: &PublicConfig) -> Self {
        Self {
            header: config.header_timeout_seconds * 1000,
            idle: config.idle_timeout_seconds * 1000,
            write: config.write_timeout_seconds * 1000,
        }
    }
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, secure: bool, clock: Arc<AtomicU64>) -> Self {
        let now = clock.load(Relaxed);
        Self {
            peer,
            via: peer,
            secure,
            certificate: None,
            clock,
            active: AtomicU32::new(0),
            in_head: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            since: AtomicU64::new(now),
            blocked_since: AtomicU64::new(NEVER),
            order: AtomicU8::new(0),
            ordered: Notify::new(),
            target: Mutex::new(None),
        }
    }

    /// What is being answered now: method and target, for the log line of a cut connection.
    pub fn target(&self) -> Option<(Method, Uri)> {
        if self.active.load(Relaxed) == 0 { None } else { self.target.lock().clone() }
    }

    pub(crate) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    pub(crate) fn order(&self, order: Order) {
        self.order.fetch_max(
            match order {
                Order::Finish => 1,
                Order::Close => 2,
            },
            Relaxed,
        );
        self.ordered.notify_one();
    }

    pub(crate) async fn ordered(&self) -> Order {
        self.ordered.notified().await;
        if self.order.load(Relaxed) >= 2 { Order::Close } else { Order::Finish }
    }

    /// A request header is complete and its answer begins.
    pub(crate) fn begin(self: &Arc<Self>, method: &Method, uri: &Uri) -> Answering {
        self.in_head.store(false, Relaxed);
        self.active.fetch_add(1, Relaxed);
        *self.target.lock() = Some((method.clone(), uri.clone()));
        Answering(self.clone())
    }

    /// An answer is sent that was not worth a [`Connection::begin`].
    pub(crate) fn rest(&self) {
        self.in_head.store(false, Relaxed);
        self.moved();
    }

    /// Part of a request header is there, or about to be (HTTP/1.1).
    pub(crate) fn heading(&self) {
        self.in_head.store(true, Relaxed);
    }

    fn moved(&self) {
        self.since.store(self.clock.load(Relaxed), Relaxed);
    }

    /// Whether the connection is to end with its next answer.
    pub(crate) fn is_finishing(&self) -> bool {
        self.order.load(Relaxed) > 0
    }

    /// Whether its answers must say that they are the last (HTTP/1.1).
    pub(crate) fn ends_with_its_answer(&self) -> bool {
        self.is_finishing() && !self.multiplexed.load(Relaxed)
    }

    /// Whether nothing of a request has come that is not answered (HTTP/1.1).
    pub(crate) fn is_idle(&self) -> bool {
        self.active.load(Relaxed) == 0 && !self.in_head.load(Relaxed)
    }

    /// Whether a time limit has passed at `now`.
    pub(crate) fn overdue(&self, now: u64, limits: &Limits) -> bool {
        let blocked = self.blocked_since.load(Relaxed);
        if blocked != NEVER {
            return now.saturating_sub(blocked) > limits.write;
        }
        if self.active.load(Relaxed) > 0 {
            return false;
        }
        let limit = if self.in_head.load(Relaxed) { limits.header } else { limits.idle };
        now.saturating_sub(self.since.load(Relaxed)) > limit
    }
}

/// Held while a request is answered; its drop makes the connection idle.
#[derive(Debug)]
pub(crate) struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Relaxed) == 1 {
            self.0.moved();
        }
    }
}

/// A stream that notes in its [`Connection`] when bytes come and when they cannot go.
pub(crate) struct Watched<S> {
    pub(crate) stream: S,
    /// Read already, and to be read again before the stream.
    pub(crate) prefix: bytes::Bytes,
    pub(crate) connection: Arc<Connection>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, connection: Arc<Connection>) -> Self {
        Self { stream, prefix: bytes::Bytes::new(), connection }
    }

    fn wrote(&self, result: &Poll<std::io::Result<usize>>) {
        self.flowed(result.is_pending());
        // Streams whose bodies are handed over whole are still on their way.
        if self.connection.multiplexed.load(Relaxed) && matches!(result, Poll::Ready(Ok(1..))) {
            self.connection.moved();
        }
    }

    fn flowed(&self, pending: bool) {
        let connection = &self.connection;
        if pending {
            if connection.blocked_since.load(Relaxed) == NEVER {
                connection.blocked_since.store(connection.clock.load(Relaxed), Relaxed);
            }
        } else if connection.blocked_since.load(Relaxed) != NEVER {
            connection.blocked_since.store(NEVER, Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = if self.prefix.is_empty() {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        } else {
            let length = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix.split_to(length));
            Poll::Ready(Ok(()))
        };
        let connection = &self.connection;
        if buffer.filled().len() > before
            && connection.active.load(Relaxed) == 0
            && !connection.multiplexed.load(Relaxed)
            && !connection.in_head.swap(true, Relaxed)
        {
            connection.moved();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.flowed(result.is_pending());
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> (Arc<Connection>, Arc<AtomicU64>, Limits) {
        let clock = Arc::new(AtomicU64::new(0));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let limits = Limits { header: 10, idle: 100, write: 50 };
        (Arc::new(Connection::new(peer, false, clock.clone())), clock, limits)
    }

    #[test]
    fn an_answering_connection_is_never_overdue_and_idles_afterwards() {
        let (connection, clock, limits) = connection();
        let answering = connection.begin(&Method::GET, &Uri::from_static("/x"));
        assert!(!connection.overdue(1_000, &limits));
        assert_eq!(connection.target().unwrap().1, "/x");
        clock.store(1_000, Relaxed);
        drop(answering);
        assert!(!connection.overdue(1_100, &limits));
        assert!(connection.overdue(1_101, &limits));
        assert!(connection.target().is_none());
    }

    #[tokio::test]
    async fn a_header_that_never_ends_is_overdue_after_the_header_limit() {
        let (connection, _, limits) = connection();
        let mut stream = Watched::new(tokio::io::join(&b"GET"[..], tokio::io::sink()), connection.clone());
        let mut buffer = [0; 3];
        tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
        assert!(!connection.overdue(10, &limits));
        assert!(connection.overdue(11, &limits));
    }
}

//! A worker: one thread, one current-thread runtime, its own listening sockets, its connections.

use std::collections::HashMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::Tapped;
use crate::config::PublicConfig;
use crate::connection::{Connection, Limits, Order, Watched};
use crate::lane::{self, Lane, Left};
use crate::lifecycle::{Lifecycle, Phase};
use crate::metrics::ConnectionMetrics;
use crate::streams::{Served, Streams};
use crate::{Body, proxy_protocol, tls};

const SWEEP: Duration = Duration::from_millis(250);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);
/// Connections that are still taken when the drain begins, for each listening socket.
const BACKLOG: usize = 4096;

/// Answers requests. One instance serves every worker.
pub trait Handler: Send + Sync + 'static {
    /// What a worker answers at once, without the handler; `()` for nothing.
    type Lane: Lane;

    /// The lane of one more worker.
    fn lane(self: &Arc<Self>) -> Self::Lane;

    /// Answers one request; never fails, since an error is an answer too.
    fn handle(
        self: Arc<Self>,
        request: Request<Body>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// One listening socket of a worker.
pub struct Socket {
    /// The socket, non-blocking.
    pub listener: TcpListener,
    /// Present when clients speak TLS here.
    pub tls: Option<tls::Reloadable>,
}

/// What the workers of one listener share.
pub struct Shared<H> {
    /// Answers the requests.
    pub handler: Arc<H>,
    /// Limits of connections.
    pub config: PublicConfig,
    /// The node's phase.
    pub lifecycle: Lifecycle,
    /// Counted connections.
    pub metrics: ConnectionMetrics,
    /// Connections open over all workers.
    pub open: AtomicUsize,
}

struct Worker<H: Handler> {
    shared: Arc<Shared<H>>,
    lane: Mutex<H::Lane>,
    clock: Arc<AtomicU64>,
    /// Numbers connections over all of the worker's sockets.
    next: AtomicU64,
    /// Connections taken and not ended.
    open: AtomicUsize,
    /// Those of them that are past the PROXY header and the TLS handshake.
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// Runs a worker on this thread until the node has drained.
pub fn run<H: Handler>(shared: Arc<Shared<H>>, sockets: Vec<Socket>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Arc::new(Worker {
        lane: Mutex::new(shared.handler.lane()),
        shared,
        clock: Arc::default(),
        next: AtomicU64::new(0),
        open: AtomicUsize::new(0),
        connections: Mutex::default(),
    });
    runtime.block_on(worker.serve(sockets))
}

impl<H: Handler> Worker<H> {
    async fn serve(self: Arc<Self>, sockets: Vec<Socket>) -> std::io::Result<()> {
        let mut accepting = tokio::task::JoinSet::new();
        for socket in sockets {
            let listener = tokio::net::TcpListener::from_std(socket.listener)?;
            accepting.spawn(self.clone().accept(listener, socket.tls));
        }
        let sweeping = tokio::spawn(self.clone().sweep());
        let deadline = self.shared.lifecycle.draining().await;
        accepting.join_all().await;
        self.drain(deadline).await;
        sweeping.abort();
        Ok(())
    }

    /// Takes connections until the drain, and then those that stand in the backlog.
    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener, tls: Option<tls::Reloadable>) {
        let mut draining = pin!(self.shared.lifecycle.draining());
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut draining => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer, tls.as_ref()),
                Err(error) => {
                    // Out of descriptors or memory: the pending connection stays in the backlog.
                    log::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // The socket itself is asked, since the reactor may not have heard of them yet.
        let Ok(listener) = listener.into_std() else { return };
        for (stream, peer) in std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG) {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.take(stream, peer, tls.as_ref());
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, tls: Option<&tls::Reloadable>) {
        let metrics = &self.shared.metrics;
        if self.shared.open.fetch_add(1, Relaxed) >= self.shared.config.max_connections {
            self.shared.open.fetch_sub(1, Relaxed);
            return metrics.refused.inc();
        }
        metrics.accepted.inc();
        metrics.open.inc();
        self.open.fetch_add(1, Relaxed);
        let id = self.next.fetch_add(1, Relaxed);
        let guard = Open { worker: self.clone(), id };
        let tls = tls.map(tls::Reloadable::acceptor);
        tokio::spawn(self.clone().connection(stream, peer, tls, guard));
    }

    async fn connection(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut peer: SocketAddr,
        tls: Option<tokio_rustls::TlsAcceptor>,
        guard: Open<H>,
    ) {
        let _ = stream.set_nodelay(true);
        let via = peer;
        if self.shared.config.proxy_protocol {
            match tokio::time::timeout(HANDSHAKE_LIMIT, proxy_protocol::read(&mut stream)).await {
                Ok(Ok(client)) => peer = client.unwrap_or(peer),
                Ok(Err(error)) => {
                    self.shared.metrics.proxy_header_failures.inc();
                    return log::debug!(peer:%; "closed: {error}");
                }
                Err(_) => return self.shared.metrics.timed_out.inc(),
            }
        }
        let Some(acceptor) = tls else {
            return self.http1(stream, self.admit((peer, via), None, &guard)).await;
        };
        match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream).into_fallible()).await {
            Ok(Ok(stream)) => {
                let connection = self.admit((peer, via), Some(stream.get_ref().1), &guard);
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    self.http2(stream, connection).await;
                } else {
                    self.http1(stream, connection).await;
                }
            }
            Ok(Err((error, mut stream))) => {
                self.shared.metrics.handshake_failures.inc();
                log::debug!(peer:%; "TLS handshake failed: {error}");
                // The alert says why, and the request of a client that does not know yet is on its way.
                let _ = tokio::time::timeout(GOODBYE_LIMIT, linger(&mut stream)).await;
            }
            Err(_) => self.shared.metrics.timed_out.inc(),
        }
    }

    fn admit(
        &self,
        (peer, via): (SocketAddr, SocketAddr),
        tls: Option<&rustls::ServerConnection>,
        guard: &Open<H>,
    ) -> Arc<Connection> {
        let mut connection = Connection::new(peer, tls.is_some(), self.clock.clone());
        connection.via = via;
        let certificate = tls.and_then(|tls| tls.peer_certificates()?.first());
        connection.certificate = certificate.map(|certificate| certificate.as_ref().into());
        let connection = Arc::new(connection);
        self.connections.lock().insert(guard.id, connection.clone());
        if matches!(self.shared.lifecycle.phase(), Phase::Draining { .. }) {
            // It has not had the time yet for the one request it is let to make.
            connection.heading();
            connection.order(Order::Finish);
        }
        connection
    }

    async fn http1<S>(&self, stream: S, connection: Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut stream = Watched::new(stream, connection.clone());
        let max_head = self.shared.config.max_header_bytes;
        let left = {
            let serving = lane::serve(&mut stream, &self.shared.handler, &self.lane, &connection, max_head);
            tokio::pin!(serving);
            loop {
                tokio::select! {
                    biased;
                    left = &mut serving => break left,
                    order = connection.ordered() => match order {
                        Order::Finish if connection.is_idle() => break Ok(Left::Closed),
                        Order::Finish => {}
                        Order::Close => return,
                    },
                }
            }
        };
        match left {
            Ok(Left::Over(read)) => stream.prefix = read,
            Ok(Left::Closed) => {
                // Says goodbye in TLS; a client that does not listen needs none.
                let _ = tokio::time::timeout(GOODBYE_LIMIT, stream.shutdown()).await;
                return;
            }
            Ok(Left::Answered) => {
                let _ = tokio::time::timeout(GOODBYE_LIMIT, linger(&mut stream)).await;
                return;
            }
            Err(error) => return debug_end(&connection, &error),
        }
        let service = service_fn(|request| self.answer(request, connection.clone()));
        let io = TokioIo::new(stream);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.half_close(true).max_buf_size(self.shared.config.max_header_bytes.max(8192));
        http.header_read_timeout(None).timer(TokioTimer::new());
        let serving = http.serve_connection(io, service);
        tokio::pin!(serving);
        loop {
            tokio::select! {
                biased;
                result = &mut serving => {
                    return result.unwrap_or_else(|error| debug_end(&connection, &error));
                }
                order = connection.ordered() => match order {
                    Order::Finish => serving.as_mut().graceful_shutdown(),
                    Order::Close => return,
                },
            }
        }
    }

    async fn http2<S>(&self, stream: S, connection: Arc<Connection>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection.multiplex();
        let worker = Arc::clone(&self.shared);
        let for_service = connection.clone();
        let service = service_fn(move |request| answer(worker.clone(), request, for_service.clone()));
        let io = TokioIo::new(Watched::new(stream, connection.clone()));
        let streams = Streams {
            limit: Duration::from_secs(self.shared.config.write_timeout_seconds),
            timed_out: self.shared.metrics.timed_out.clone(),
        };
        let mut http = hyper::server::conn::http2::Builder::new(streams);
        http.timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_header_list_size(self.shared.config.max_header_bytes as u32)
            .initial_stream_window_size(1 << 20)
            .max_send_buf_size(1 << 20);
        let serving = http.serve_connection(io, service);
        tokio::pin!(serving);
        loop {
            tokio::select! {
                biased;
                result = &mut serving => {
                    return result.unwrap_or_else(|error| debug_end(&connection, &error));
                }
                order = connection.ordered() => match order {
                    Order::Finish => serving.as_mut().graceful_shutdown(),
                    Order::Close => return,
                },
            }
        }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Result<Response<Tapped<Served>>, std::convert::Infallible>> + Send + use<H>
    {
        answer(self.shared.clone(), request, connection)
    }

    /// Cuts what is overdue, and moves the clock that connections read.
    async fn sweep(self: Arc<Self>) {
        let limits = Limits::from(&self.shared.config);
        let started = Instant::now();
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            let now = started.elapsed().as_millis() as u64;
            self.clock.store(now, Relaxed);
            for connection in self.connections.lock().values() {
                if connection.overdue(now, &limits) {
                    self.shared.metrics.timed_out.inc();
                    connection.order(Order::Close);
                }
            }
        }
    }

    /// Lets running answers finish until `deadline`, then cuts and names the rest.
    async fn drain(&self, deadline: tokio::time::Instant) {
        for connection in self.connections.lock().values() {
            connection.order(Order::Finish);
        }
        while tokio::time::Instant::now() < deadline && self.open.load(Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for connection in self.connections.lock().values() {
            if let Some((method, uri)) = connection.target() {
                log::warn!(peer:% = connection.peer, method:% = method, target:% = uri; "cut at the end of the drain");
            }
            connection.order(Order::Close);
        }
    }
}

/// Counts a connection for as long as its task lives.
struct Open<H: Handler> {
    worker: Arc<Worker<H>>,
    id: u64,
}

impl<H: Handler> Drop for Open<H> {
    fn drop(&mut self) {
        self.worker.connections.lock().remove(&self.id);
        self.worker.open.fetch_sub(1, Relaxed);
        self.worker.shared.open.fetch_sub(1, Relaxed);
        self.worker.shared.metrics.open.dec();
    }
}

/// Closes after an answer or an alert. What the client sends meanwhile is read and forgotten, since a socket
/// that is closed over unread bytes takes the end of the answer with it (RFC 9112 §9.6).
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(stream, &mut tokio::io::sink()).await.map(drop)
}

async fn answer<H: Handler>(
    shared: Arc<Shared<H>>,
    request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Result<Response<Tapped<Served>>, std::convert::Infallible> {
    let answering = connection.begin(request.method(), request.uri());
    let whole = |body: Incoming| if body.is_end_stream() { Body::Empty } else { Body::stream(body) };
    let mut response = shared.handler.clone().handle(request.map(whole), connection.clone()).await;
    if connection.ends_with_its_answer() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Served::body(body, answering)))
}

fn debug_end(connection: &Connection, error: &dyn std::error::Error) {
    log::debug!(peer:% = connection.peer; "connection ended: {error}");
}

//! The ceiling of the speed benchmark: a bare hyper server that answers files from memory.
//!
//! Purpose: what HTTP/1.1 by hyper costs when nothing else is done, so that the node's own work
//! can be told from the library's. One current-thread runtime per core, each with its own
//! listening sockets (`SO_REUSEPORT`), in clear and by TLS 1.3. There is no cache, no log and no
//! metric here, and no timeout either: it is for loopback, for as long as a benchmark runs.
//!
//! `ceiling DIR PREFIX CERTIFICATE KEY ANNOUNCE` loads every file of DIR, answers it as
//! PREFIX/NAME, and writes the addresses it listens on to ANNOUNCE once they are open.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// The most bytes handed to hyper at once.
const FRAME: usize = 1 << 20;

/// Nothing reads the date; it is sent because every other server in the run sends one.
const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, prefix, certificate, key, announce] = arguments.as_slice() else {
        eprintln!("usage: ceiling DIR PREFIX CERTIFICATE KEY ANNOUNCE");
        return ExitCode::from(2);
    };
    match run(dir, prefix, certificate, key, announce) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ceiling: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &str, prefix: &str, certificate: &str, key: &str, announce: &str) -> Result<()> {
    let shelf = Arc::new(load(Path::new(dir), prefix)?);
    let acceptor = acceptor(certificate, key)?;

    // Port 0 gives the first pair its ports; the others share them.
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let mut pairs = vec![(listener(any)?, listener(any)?)];
    let clear = pairs[0].0.local_addr()?;
    let tls = pairs[0].1.local_addr()?;
    for _ in 1..cores {
        pairs.push((listener(clear)?, listener(tls)?));
    }

    let mut threads = Vec::with_capacity(cores);
    for (clear, tls) in pairs {
        let shelf = Arc::clone(&shelf);
        let acceptor = acceptor.clone();
        threads.push(thread::spawn(move || serve(clear, tls, shelf, acceptor)));
    }

    // Written aside and renamed: whoever reads it sees all of it or nothing.
    let text = serde_json::json!({
        "pid": std::process::id(),
        "public": [clear.to_string()],
        "tls": [tls.to_string()],
    });
    let aside = format!("{announce}.new");
    std::fs::write(&aside, text.to_string()).with_context(|| format!("cannot write {aside}"))?;
    std::fs::rename(&aside, announce).with_context(|| format!("cannot write {announce}"))?;

    for thread in threads {
        match thread.join() {
            Ok(outcome) => outcome?,
            Err(_) => bail!("a serving thread panicked"),
        }
    }
    Ok(())
}

/// One file with the headers that are its own.
struct Item {
    bytes: Bytes,
    length: HeaderValue,
    etag: HeaderValue,
}

type Shelf = HashMap<String, Item>;

fn load(dir: &Path, prefix: &str) -> Result<Shelf> {
    let mut shelf = Shelf::new();
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let path = entry.path();
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let item = Item {
            length: HeaderValue::from(bytes.len()),
            etag: HeaderValue::try_from(format!("\"{:x}-{name}\"", bytes.len()))?,
            bytes: Bytes::from(bytes),
        };
        shelf.insert(format!("{prefix}/{name}"), item);
    }
    Ok(shelf)
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|chain| chain.collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("cannot read the certificate {certificate}"))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read the key {key}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Serves one pair of listening sockets on this thread until the process ends.
fn serve(
    clear: std::net::TcpListener,
    tls: std::net::TcpListener,
    shelf: Arc<Shelf>,
    acceptor: TlsAcceptor,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(clear, tls, shelf, acceptor))
}

async fn accept(
    clear: std::net::TcpListener,
    tls: std::net::TcpListener,
    shelf: Arc<Shelf>,
    acceptor: TlsAcceptor,
) -> Result<()> {
    let clear = tokio::net::TcpListener::from_std(clear)?;
    let tls = tokio::net::TcpListener::from_std(tls)?;
    loop {
        let (accepted, secure) = tokio::select! {
            accepted = clear.accept() => (accepted, false),
            accepted = tls.accept() => (accepted, true),
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: connections that end free some.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Without it a delayed acknowledgement would be measured, not the server. It fails only
        // where the client has gone already.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let shelf = Arc::clone(&shelf);
        if secure {
            let handshake = acceptor.accept(stream);
            tokio::spawn(async move {
                if let Ok(stream) = handshake.await {
                    converse(stream, shelf).await;
                }
            });
        } else {
            tokio::spawn(converse(stream, shelf));
        }
    }
}

/// Answers the requests of one connection; a client that goes away is no error here.
async fn converse<S>(stream: S, shelf: Arc<Shelf>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service =
        service_fn(move |request: Request<Incoming>| ready(Ok::<_, Infallible>(answer(&shelf, &request))));
    let _ = http1::Builder::new()
        .header_read_timeout(None::<Duration>)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(shelf: &Shelf, request: &Request<Incoming>) -> Response<Pieces> {
    let Some(item) = shelf.get(request.uri().path()) else {
        let mut missing = Response::new(Pieces(Bytes::new()));
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return missing;
    };
    let mut response = Response::new(Pieces(item.bytes.clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, item.length.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(LAST_MODIFIED, HeaderValue::from_static(MODIFIED));
    headers.insert(ETAG, item.etag.clone());
    response
}

/// A body in frames of at most [`FRAME`] bytes, none of them copied.
struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.0.len().min(FRAME);
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

//! A blocking HTTP/1.1 client for one keep-alive connection, in clear or by TLS 1.3.
//!
//! It asks for whole files and checks each answer's status and length. Blocking on purpose: a
//! thread that sleeps wakes within some 60 µs of its time, where tokio's timer counts in whole
//! milliseconds, and that is more than the latencies to be told apart; and it costs less CPU per
//! request on the cores that it shares with the server. It talks to servers that this benchmark
//! started, so an answer that it does not expect is an error and ends the run.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The name that every request asks for, so that it is the same whatever port a server got.
pub(crate) const HOST: &str = "bench.skerry.test";

/// Bytes read at once; a head must fit in as many.
const BUFFER: usize = 256 * 1024;

/// What is trusted over TLS: the benchmark's own certificate alone.
pub(crate) fn tls_config(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let certificate = CertificateDer::from_pem_file(certificate)
        .with_context(|| format!("cannot read {}", certificate.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The bytes of a request for `path`.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

/// What is kept of an answer's head.
pub(crate) struct Answer {
    /// Bytes of the body, all of them received.
    pub(crate) length: u64,
    /// Whether `Cache-Status` (RFC 9211) calls it a hit.
    pub(crate) hit: bool,
}

enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let outcome = match self {
                Stream::Clear(stream) => stream.read(into),
                Stream::Tls(stream) => stream.read(into),
            };
            match outcome {
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                outcome => return outcome,
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Clear(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }
}

/// One keep-alive connection; an error leaves it unusable.
pub(crate) struct Connection {
    stream: Stream,
    buffer: Box<[u8]>,
}

impl Connection {
    /// Connects within 5 s; over TLS when given what to trust.
    pub(crate) fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let stream = match tls {
            None => Stream::Clear(stream),
            Some(config) => {
                let name = ServerName::from(address.ip());
                let session = ClientConnection::new(Arc::clone(config), name)?;
                Stream::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        Ok(Connection { stream, buffer: vec![0; BUFFER].into_boxed_slice() })
    }

    /// Sends `request` and takes the whole answer, handing each piece of its body to `body`.
    pub(crate) fn fetch(&mut self, request: &[u8], mut body: impl FnMut(&[u8])) -> Result<Answer> {
        self.stream.write_all(request).context("cannot send")?;

        let mut filled = 0;
        let head = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).context("cannot receive the head")?;
            ensure!(read > 0, "the server closed before the end of the head");
            // The blank line may straddle two reads.
            let from = filled.saturating_sub(3);
            filled += read;
            if let Some(at) = find(&self.buffer[from..filled], b"\r\n\r\n") {
                break from + at + 4;
            }
            ensure!(filled < self.buffer.len(), "the head has no end");
        };
        let answer = parse(&self.buffer[..head])?;

        let mut received = (filled - head) as u64;
        body(&self.buffer[head..filled]);
        while received < answer.length {
            let read = self.stream.read(&mut self.buffer).context("cannot receive the body")?;
            if read == 0 {
                bail!("the body ended after {received} of {} bytes", answer.length);
            }
            received += read as u64;
            body(&self.buffer[..read]);
        }
        ensure!(received == answer.length, "{} bytes follow the body", received - answer.length);
        Ok(answer)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse(head: &[u8]) -> Result<Answer> {
    let head = std::str::from_utf8(head).context("the head is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "the answer is not a 200 but {status:?}");
    let mut length = None;
    let mut hit = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<u64>().context("the length is no number")?);
        } else if name.eq_ignore_ascii_case("cache-status") {
            hit = value.split([';', ',']).any(|part| part.trim() == "hit");
        }
    }
    Ok(Answer { length: length.context("the answer has no Content-Length")?, hit })
}

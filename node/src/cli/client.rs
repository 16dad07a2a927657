//! A small HTTP/1.1 client for the admin listeners of a running node.

mod tls;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use skerry_core::body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Cli;

const DEFAULT_NODE: &str = "http://127.0.0.1:9180";
/// How long a node may take to answer, from the connection to the header of its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest answer, and longest line of one, that is read.
const LARGEST: usize = 16 << 20;
const LONGEST_LINE: usize = 64 << 10;

/// Which node is asked, and by what right.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Admin listener of the node, http:// or https:// [default: $SKERRY_NODE, else http://127.0.0.1:9180]
    #[arg(long, value_name = "URL", value_parser = parse)]
    node: Option<Node>,
    /// File with the bearer token that an admin listener in the clear asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    identity: tls::Identity,
}

/// Where an admin listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    host: String,
    port: u16,
    authority: String,
    secure: bool,
}

/// Reads `http://HOST[:PORT]`, also without the scheme, and `https://HOST[:PORT]`.
fn parse(text: &str) -> Result<Node, String> {
    let uri = text.parse::<Uri>().map_err(|error| format!("not an address: {error}"))?;
    let (secure, port) = match uri.scheme_str() {
        None | Some("http") => (false, 80),
        Some("https") => (true, 443),
        Some(_) => return Err("write http://HOST:PORT or https://HOST:PORT".into()),
    };
    let authority = uri.authority().ok_or("it names no host: write http://HOST:PORT")?;
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") {
        return Err("only http://HOST:PORT, nothing before or after it".into());
    }
    Ok(Node {
        host: authority.host().trim_matches(['[', ']']).to_owned(),
        port: authority.port_u16().unwrap_or(port),
        authority: authority.to_string(),
        secure,
    })
}

/// Asks one node.
pub(super) struct Client {
    node: Node,
    token: Option<String>,
    /// For a node that is reached over TLS.
    tls: Option<TlsConnector>,
    patience: Duration,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Connects to nothing yet.
    pub(super) fn new(target: &Target) -> anyhow::Result<Self> {
        let node = match &target.node {
            Some(node) => node.clone(),
            None => match std::env::var("SKERRY_NODE") {
                Ok(text) => parse(&text).unwrap_or_else(|reason| usage(&format!("SKERRY_NODE: {reason}"))),
                Err(_) => parse(DEFAULT_NODE).map_err(|reason| anyhow!("{DEFAULT_NODE}: {reason}"))?,
            },
        };
        let tls = if node.secure {
            let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
            let identity = target.identity.complete(|name| variable(name).map(PathBuf::from));
            Some(identity.unwrap_or_else(|reason| usage(&reason)).connector()?)
        } else if target.identity.is_given() {
            usage("a certificate and an authority are for https://, and the node's address is http://")
        } else {
            None
        };
        let token = target
            .token_file
            .as_ref()
            .map(|path| {
                let text = std::fs::read_to_string(path);
                text.with_context(|| format!("cannot read the token {}", path.display()))
            })
            .transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let token = token.map(|token| token.trim().to_owned());
        Ok(Self { node, token, tls, patience: ANSWER, runtime })
    }

    /// Waits so long for an answer, where that is more than usual.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// A JSON answer to a GET.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        let bytes = self.runtime.block_on(async {
            let response = self.ask(Method::GET, path, Bytes::new()).await?;
            self.whole(response).await
        })?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} did not answer in JSON", self.node.authority))
    }

    /// A POST of JSON; its answer is of no interest when it succeeds.
    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        self.send_file(path, body.to_string().into()).map(drop)
    }

    /// A POST of anything, and its answer, JSON as far as it is text.
    pub(super) fn send_file(&self, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let bytes = self.runtime.block_on(async {
            let response = self.ask(Method::POST, path, body).await?;
            self.whole(response).await
        })?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// An empty POST whose answer is read line by line, as the lines come.
    pub(super) fn post_lines(
        &self,
        path: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut body = self.ask(Method::POST, path, Bytes::new()).await?.into_body();
            let mut pending = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.with_context(|| format!("{} broke off its answer", self.node.authority))?;
                let Ok(data) = frame.into_data() else { continue };
                pending.extend_from_slice(&data);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    each(line.trim_ascii())?;
                }
                ensure!(pending.len() <= LONGEST_LINE, "{} sends endless lines", self.node.authority);
            }
            Ok(())
        })
    }

    async fn whole(&self, response: Response<Incoming>) -> anyhow::Result<Bytes> {
        let authority = &self.node.authority;
        let body = tokio::time::timeout(self.patience, body::whole(response.into_body(), LARGEST)).await;
        let body = body.map_err(|_| anyhow!("{authority} did not finish its answer in time"))?;
        body.map_err(|error| anyhow!("{authority} broke off its answer: {error}"))
    }

    /// An answer of the class 2xx, or the reason why there is none.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let authority = &self.node.authority;
        let response = tokio::time::timeout(self.patience, self.send(method, path, body)).await;
        let response = response.map_err(|_| anyhow!("{authority} did not answer in time"))??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let hint = match status {
            http::StatusCode::UNAUTHORIZED => "; give it with --token-file",
            _ => "",
        };
        let document: Option<Value> = serde_json::from_slice(&self.whole(response).await?).ok();
        let detail = document.as_ref().and_then(|document| document.get("detail")).and_then(Value::as_str);
        match detail {
            Some(detail) => bail!("{authority} answered {status}: {detail}{hint}"),
            None => bail!("{authority} answered {status}{hint}"),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let Node { host, port, authority, secure } = &self.node;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).context("the token holds what no header may")?;
        let stream = TcpStream::connect((host.as_str(), *port)).await.with_context(|| {
            let scheme = if *secure { "https" } else { "http" };
            format!("no node answers at {scheme}://{authority}; --node or SKERRY_NODE says where it is")
        })?;
        let Some(tls) = &self.tls else { return self.exchange(stream, request).await };
        let name = ServerName::try_from(host.clone())
            .with_context(|| format!("`{host}` is no name that TLS knows"))?;
        let stream = tls.connect(name, stream).await;
        self.exchange(stream.with_context(|| format!("{authority} is not believed"))?, request).await
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let authority = &self.node.authority;
        let failed = || format!("{authority} does not speak HTTP as expected");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(failed)?;
        let connection = tokio::spawn(connection);
        let error = match sender.send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        drop(sender);
        if let Some(refusal) = tls::refusal(authority, &error) {
            return Err(refusal);
        }
        // The connection may know more of why it ended than the request does.
        if let Ok(Err(ended)) = connection.await
            && let Some(refusal) = tls::refusal(authority, &ended)
        {
            return Err(refusal);
        }
        Err(error).with_context(failed)
    }
}

/// Ends the process as for words that are wrong.
fn usage(reason: &str) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, reason).exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_host_and_port() {
        let node = parse("http://127.0.0.1:9180").unwrap();
        assert_eq!((node.host.as_str(), node.port), ("127.0.0.1", 9180));
        assert_eq!(parse("127.0.0.1:9180").unwrap(), node);
        assert_eq!(parse("http://127.0.0.1:9180/").unwrap(), node);
        let node = parse("http://[::1]:9180").unwrap();
        assert_eq!((node.host.as_str(), node.port, node.authority.as_str()), ("::1", 9180, "[::1]:9180"));
        assert!(!node.secure && parse("https://edge-7.example:9443").unwrap().secure);
        assert_eq!(["http://a", "https://a"].map(|text| parse(text).unwrap().port), [80, 443]);
    }

    #[test]
    fn what_is_no_node_is_told_apart() {
        for text in ["", "ftp://a:1", "http://a:1/status", "/status", "http://u@a:1", "http://a b"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

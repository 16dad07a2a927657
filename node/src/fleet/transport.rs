//! The way to the control node: HTTPS, with this node's certificate (RFC 8446 §4.4.2).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use skerry_core::role::BoxFuture;
use skerry_core::tls;
use skerry_registry::{RegistryConfig, Reply, Transport, TransportError};

/// Longest answer that is read, bytes.
const MOST_ANSWER: usize = 8 << 20;
const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);

/// A client of one control node.
pub struct Https {
    base: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Https {
    /// A client as `[registry]` says. Reads the certificates.
    pub fn new(config: &RegistryConfig) -> anyhow::Result<Arc<Self>> {
        tls::install_provider();
        let mut roots = RootCertStore::empty();
        let mut own = None;
        if !config.ca_file.as_os_str().is_empty() {
            for certificate in certificates(&config.ca_file, "registry.ca_file")? {
                roots.add(certificate).with_context(|| {
                    format!(
                        "`registry.ca_file` {} holds no authority's certificate",
                        config.ca_file.display()
                    )
                })?;
            }
        }
        if !config.certificate_file.as_os_str().is_empty() {
            let chain = certificates(&config.certificate_file, "registry.certificate_file")?;
            let key = PrivateKeyDer::from_pem_file(&config.key_file)
                .with_context(|| format!("cannot read `registry.key_file` {}", config.key_file.display()))?;
            own = Some((chain, key));
        }
        let tls = ClientConfig::builder().with_root_certificates(roots);
        let tls = match own {
            Some((chain, key)) => tls
                .with_client_auth_cert(chain, key)
                .context("`registry.certificate_file` and `registry.key_file` do not belong together")?,
            None => tls.with_no_client_auth(),
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Arc::new(Self { base: config.control_url.trim_end_matches('/').to_owned(), client }))
    }
}

fn certificates(path: &Path, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.with_context(|| format!("cannot read `{key}` {}", path.display()))
}

impl Transport for Https {
    fn send<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Reply, TransportError>> {
        let failed = |error: &dyn std::fmt::Display| {
            TransportError(format!("the control node {} does not answer: {error}", self.base))
        };
        Box::pin(async move {
            let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
            let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| match std::error::Error::source(&error) {
                Some(source) => failed(&source),
                None => failed(&error),
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MOST_ANSWER).collect().await.map_err(|error| failed(&error))?;
            Ok(Reply { status: head.status, body: body.to_bytes() })
        })
    }
}

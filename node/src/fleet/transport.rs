//! The way to the control node: HTTPS, with this node's certificate (RFC 8446 §4.4.2).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::RwLock;
use rustls::{ClientConfig, RootCertStore};
use skerry_core::body;
use skerry_core::role::BoxFuture;
use skerry_core::tls::{PemFile, install_provider};
use skerry_registry::{RegistryConfig, Reply, Transport, TransportError};

/// Longest answer that is read, bytes.
const MOST_ANSWER: usize = 8 << 20;
const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client of one control node.
pub struct Https {
    base: String,
    config: RegistryConfig,
    /// Made anew with a new certificate; requests on their way end with the old one.
    client: RwLock<HttpsClient>,
}

impl Https {
    /// A client as `[registry]` says. Reads the certificates.
    pub fn new(config: &RegistryConfig) -> anyhow::Result<Arc<Self>> {
        install_provider();
        let base = config.control_url.trim_end_matches('/').to_owned();
        Ok(Arc::new(Self { base, config: config.clone(), client: RwLock::new(client(config)?) }))
    }
}

fn client(config: &RegistryConfig) -> anyhow::Result<HttpsClient> {
    let RegistryConfig { ca_file, certificate_file, key_file, .. } = config;
    let roots = match ca_file.as_os_str().is_empty() {
        true => Arc::new(RootCertStore::empty()),
        false => PemFile { path: ca_file, key: "registry.ca_file" }.roots()?,
    };
    let tls = ClientConfig::builder().with_root_certificates(roots);
    let tls = match certificate_file.as_os_str().is_empty() {
        true => tls.with_no_client_auth(),
        false => {
            let chain = PemFile { path: certificate_file, key: "registry.certificate_file" };
            let key = PemFile { path: key_file, key: "registry.key_file" };
            tls.with_client_auth_cert(chain.certificates()?, key.private_key()?)
                .context("`registry.certificate_file` and `registry.key_file` do not belong together")?
        }
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
    Ok(client)
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
            let client = self.client.read().clone();
            let answer = client.request(request).await;
            let answer = answer.map_err(|error| match std::error::Error::source(&error) {
                Some(source) => failed(&source),
                None => failed(&error),
            })?;
            let (head, body) = answer.into_parts();
            let body = body::whole(body, MOST_ANSWER).await.map_err(|error| failed(&error))?;
            Ok(Reply { status: head.status, body })
        })
    }

    fn renew(&self) -> Result<(), String> {
        let client = client(&self.config).map_err(|error| format!("{error:#}"))?;
        *self.client.write() = client;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use skerry_registry::ca::{self, Authority, CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY, NewKey};

    use super::*;

    fn enrolled(authority: &Authority, folder: &Path) {
        let NewKey { key, request } = NewKey::make().unwrap();
        let subject = ca::Subject { id: "a", names: &[] };
        let now_ms = skerry_registry::clock::wall_ms();
        let pem = authority.sign(&ca::Request::parse(&request).unwrap(), subject, 30, now_ms).unwrap();
        fs::write(folder.join(NODE_CERTIFICATE), pem).unwrap();
        fs::write(folder.join(NODE_KEY), key).unwrap();
    }

    #[tokio::test]
    async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), skerry_registry::clock::wall_ms()).unwrap();
        enrolled(&authority, folder.path());
        let config = RegistryConfig {
            control_url: "https://127.0.0.1:1/".into(),
            certificate_file: folder.path().join(NODE_CERTIFICATE),
            key_file: folder.path().join(NODE_KEY),
            ca_file: folder.path().join(CA_CERTIFICATE),
            ..RegistryConfig::default()
        };
        let https = Https::new(&config).unwrap();
        enrolled(&authority, folder.path());
        assert_eq!(https.renew(), Ok(()));
        fs::write(&config.key_file, NewKey::make().unwrap().key).unwrap();
        let error = https.renew().unwrap_err();
        assert!(error.contains("do not belong together"), "{error}");
        assert!(Https::new(&config).is_err());
    }
}

//! How trackers are asked over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use skerry_core::role::BoxFuture;
use skerry_core::{body, tls};
use skerry_download::HttpGet;

/// Longest answer of a tracker that is read, bytes, and longest wait for it.
const MOST_ANSWER: usize = 1 << 20;
const ANSWER: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);

/// Asks over HTTP.
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    pub(super) fn new() -> Self {
        tls::install_provider();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT));
        let builder = HttpsConnectorBuilder::new().with_native_roots().unwrap_or_else(|error| {
            log::warn!("no certificate authorities were found, https:// trackers are not asked: {error}");
            HttpsConnectorBuilder::new().with_tls_config(
                rustls::ClientConfig::builder()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth(),
            )
        });
        let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
        Self(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector))
    }
}

impl HttpGet for Http {
    fn get(&self, url: String) -> BoxFuture<'static, Result<Bytes, String>> {
        let client = self.0.clone();
        let fetch = async move {
            let request = Request::get(url).body(Full::default()).map_err(|error| error.to_string())?;
            let answer = client.request(request).await.map_err(|error| error.to_string())?;
            if answer.status() != StatusCode::OK {
                return Err(format!("it answers {}", answer.status()));
            }
            body::whole(answer.into_body(), MOST_ANSWER).await.map_err(|error| error.to_string())
        };
        Box::pin(async move {
            tokio::time::timeout(ANSWER, fetch).await.unwrap_or_else(|_| Err("it does not answer".into()))
        })
    }
}

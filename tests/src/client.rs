//! A hyper client for scenarios that need a thousand requests at once.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::raw::HOST;

/// A pooling client for requests without a body. Cheap to clone; clones share the pool.
pub type HttpClient = Client<HttpConnector, Empty<Bytes>>;

/// A new client, to be used inside a tokio runtime.
pub fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

/// Sends a GET for `url` with the scenario's `Host` and returns as soon as the head is there.
///
/// # Errors
/// When the address does not parse, the connection fails, or the head does not come.
pub async fn open(client: &HttpClient, url: &str) -> anyhow::Result<Response<Incoming>> {
    let request = Request::builder()
        .uri(url)
        .header("host", HOST)
        .body(Empty::new())
        .context("cannot build the request")?;
    client.request(request).await.with_context(|| format!("cannot get {url}"))
}

/// Gets `url` and returns status and body.
///
/// # Errors
/// As [`open`], and when the body breaks off.
pub async fn get(client: &HttpClient, url: &str) -> anyhow::Result<(u16, Bytes)> {
    let response = open(client, url).await?;
    let status = response.status().as_u16();
    let body =
        response.into_body().collect().await.with_context(|| format!("the body of {url} broke off"))?;
    Ok((status, body.to_bytes()))
}

/// Gets `url` and compares the body with `expected` as it arrives, holding none of it.
/// `on_first_byte` is called once, when the first body byte is there.
///
/// # Errors
/// When the status is not 200, a byte is wrong, or the body ends early or late.
pub async fn check(
    client: &HttpClient,
    url: &str,
    expected: &[u8],
    on_first_byte: impl FnOnce(),
) -> anyhow::Result<()> {
    let response = open(client, url).await?;
    ensure!(response.status().as_u16() == 200, "{url} was answered {}", response.status());
    let mut body = response.into_body();
    let mut first = Some(on_first_byte);
    let mut at = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{url} broke off after {at} bytes"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.is_empty() {
            continue;
        }
        if let Some(tell) = first.take() {
            tell();
        }
        ensure!(
            expected.get(at..at + data.len()) == Some(&data[..]),
            "{url} has wrong bytes after byte {at}"
        );
        at += data.len();
    }
    ensure!(at == expected.len(), "{url} ended after {at} of {} bytes", expected.len());
    Ok(())
}

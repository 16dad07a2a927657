//! The store on the admin listener: figures, and verification while the node serves.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Frame;
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin};
use tokio::sync::mpsc;

use crate::Store;

/// Lines of progress that may wait for a slow client; then the verification waits too.
const WAITING: usize = 8;
/// Least time between two lines of progress.
const PERIOD: Duration = Duration::from_millis(250);

/// The store as a role of the node.
pub struct StoreRole(pub Store);

impl Role for StoreRole {
    fn name(&self) -> &'static str {
        "store"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            match (request.method(), request.uri().path()) {
                (&Method::GET, "/store/stats") => Some(admin::json(&self.0.stats())),
                (&Method::POST, "/store/verify") => Some(self.verify()),
                _ => None,
            }
        })
    }

    /// Always: a store that refuses writes still serves, and its status says so.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        self.0.stats()
    }
}

impl StoreRole {
    /// Starts a verification and answers with its progress: a JSON object a line, the last with
    /// `"done": true`, or with `"error"` when it could not go on. It ends when the client goes away.
    fn verify(&self) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let store = self.0.clone();
        tokio::task::spawn_blocking(move || {
            let mut said = Instant::now();
            let result = store.verify_blocking(|progress| {
                if sender.is_closed() {
                    return ControlFlow::Break(());
                }
                if !progress.done && said.elapsed() < PERIOD {
                    return ControlFlow::Continue(());
                }
                said = Instant::now();
                match sender.blocking_send(line(&serde_json::json!(progress))) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
            if let Err(error) = result {
                log::error!("the verification ended early: {error}");
                // The client may have gone away, and then needs no word of it.
                let _ = sender.blocking_send(line(&serde_json::json!({ "error": error.to_string() })));
            }
        });
        let mut response = Response::new(Body::stream(Lines(receiver)));
        let value = HeaderValue::from_static("application/jsonl");
        response.headers_mut().insert(header::CONTENT_TYPE, value);
        response
    }
}

fn line(value: &serde_json::Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

/// A body of lines as they come; dropping it tells the sender.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::StoreConfig;
    use crate::verify::Progress;

    /// Whole frames of a body that streams.
    async fn collect(body: Body) -> Vec<u8> {
        let Body::Stream(mut body) = body else { panic!("not a stream") };
        let mut bytes = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        bytes
    }

    fn request(method: Method, path: &str) -> Request<Bytes> {
        Request::builder().method(method).uri(path).body(Bytes::new()).unwrap()
    }

    #[tokio::test]
    async fn a_verification_ends_in_a_line_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let registry = prometheus::Registry::new();
        let store = Store::open(folder.path(), &StoreConfig::default(), &registry).unwrap();
        store.put(Bytes::from_static(b"a chunk")).await.unwrap();
        let role = StoreRole(store);

        let response = role.admin(request(Method::POST, "/store/verify")).await.unwrap();
        let text = String::from_utf8(collect(response.into_body()).await).unwrap();
        let last: Progress = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(last.done);
        assert_eq!((last.chunks, last.bytes, last.failed), (1, 7, 0));

        assert!(role.admin(request(Method::GET, "/store/stats")).await.is_some());
        assert!(role.admin(request(Method::GET, "/store/nothing")).await.is_none());
    }
}

//! One request to an origin and its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode};
use skerry_core::Body;
use skerry_core::lane::Interim;
use tokio::time::Instant;

use crate::engine::Cache;
use crate::error::FetchError;
use crate::holding::{Moved, holding};
use crate::rfc::fields::{append_via, strip_hop_by_hop};
use crate::site::Site;

/// Fields by which some origins choose what to answer, and which no key of ours holds: a client
/// could have its own answer stored for everybody.
const UNKEYED: [&str; 9] = [
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-host",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
];

impl Cache {
    /// One exchange with an origin, bounded in time and number, counted.
    pub(crate) async fn exchange(
        &self,
        site: &Arc<Site>,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Body,
        interim: Option<Interim>,
    ) -> Result<Response<Body>, FetchError> {
        self.exchange_until(None, site, method, target, headers, body, interim).await
    }

    /// The same, where nobody waits for the header of the answer longer than until `end`.
    #[expect(clippy::too_many_arguments, reason = "`exchange`, and until when")]
    pub(crate) async fn exchange_until(
        &self,
        end: Option<Instant>,
        site: &Arc<Site>,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Body,
        interim: Option<Interim>,
    ) -> Result<Response<Body>, FetchError> {
        let timeout = || {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            left.unwrap_or(Duration::MAX).min(site.response_timeout())
        };
        let Ok(turn) = site.queue.clone().try_acquire_owned() else {
            return Err(FetchError::TimedOut("have a free connection"));
        };
        let slot = tokio::time::timeout(timeout(), site.slots.clone().acquire_owned()).await;
        drop(turn);
        let slot = match slot {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => return Err(FetchError::Draining),
            Err(_) => return Err(FetchError::TimedOut("have a free connection")),
        };
        site.in_flight.fetch_add(1, Relaxed);
        let (body, moved) = Moved::over(body);
        let answer = site.origin.send(method, target, headers, body, interim);
        let answered = moved.within(timeout(), answer).await;
        site.in_flight.fetch_sub(1, Relaxed);
        let result = answered.unwrap_or(Err(FetchError::TimedOut("answer")));
        match &result {
            Ok(response) => {
                site.metrics.origin_ok.inc();
                if !is_error(response.status()) {
                    site.note(true, &"");
                }
            }
            Err(error) => {
                site.metrics.origin_failed.inc();
                site.note(false, error);
            }
        }
        result.map(|response| response.map(|body| holding(body, slot, site.read_timeout())))
    }

    /// The client's fields as they go to an origin.
    pub(crate) fn origin_headers(&self, client: &HeaderMap) -> HeaderMap {
        let mut headers = client.clone();
        strip_hop_by_hop(&mut headers);
        for name in UNKEYED {
            headers.remove(name);
        }
        append_via(&mut headers, http::Version::HTTP_11, &self.node_name);
        headers
    }

    /// An exchange on the background runtime, where the origins' connections live.
    pub(crate) async fn on_background(
        self: &Arc<Self>,
        site: &Arc<Site>,
        method: Method,
        target: String,
        headers: HeaderMap,
        body: Body,
        interim: Option<Interim>,
    ) -> Result<Response<Body>, FetchError> {
        let (cache, site) = (self.clone(), site.clone());
        let task = self
            .background
            .spawn(async move { cache.exchange(&site, method, &target, headers, body, interim).await });
        task.await.unwrap_or(Err(FetchError::Draining))
    }
}

/// Statuses that count as an error for stale-if-error (RFC 5861 §4).
pub(crate) fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

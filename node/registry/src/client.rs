//! Runs a [`Member`]: takes news from the rest of the node, and drives the requests to the control
//! node over a [`Transport`] that somebody else makes.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skerry_core::Body;
use skerry_core::role::BoxFuture;
use tokio::sync::Notify;

use crate::api::Endpoint;
use crate::clock::now_ms;
use crate::error::{RegistryError, TransportError};
use crate::fleet::{Holding, Node};
use crate::identity::Caller;
use crate::interfaces::Meter;
use crate::member::{Action, Member, Outcome, Reply, Request};
use crate::message::Report;
use crate::metrics::Metrics;
use crate::random;

/// Longest sleep; there is always a beat before.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The way to the control node: HTTPS with this node's certificate.
pub trait Transport: Send + Sync + 'static {
    /// Sends a request and reads its answer, bounded. The path begins with `/`.
    fn send<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Reply, TransportError>>;

    /// This node has another certificate: requests from now on are made with it.
    ///
    /// # Errors
    /// Why it cannot be used; the one before stays.
    fn renew(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Why the control node did not take what it was sent last.
#[derive(Default)]
struct Refusals {
    beat: Option<String>,
    /// Of what this node holds; it is heard all the same.
    list: Option<String>,
}

/// This node's membership, shared by all who have news for the control node.
pub struct Membership {
    member: Mutex<Member>,
    refusals: Mutex<Refusals>,
    news: Notify,
    metrics: Metrics,
}

impl Membership {
    /// A node that describes itself so. `instance` is a random number of the machine.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(node: Node, instance: u64, metrics: Metrics) -> Result<Self, RegistryError> {
        let seed = u64::from_le_bytes(random::bytes().map_err(RegistryError::Random)?);
        let member = Mutex::new(Member::new(node, instance, seed, now_ms()));
        Ok(Self { member, refusals: Mutex::default(), news: Notify::new(), metrics })
    }

    /// Something is held, more or less of it than before.
    pub fn hold(&self, holding: Holding) {
        self.member.lock().hold(holding);
        self.news.notify_one();
    }

    /// Something is held no more.
    pub fn drop_holding(&self, resource: &str) {
        self.member.lock().drop_holding(resource);
        self.news.notify_one();
    }

    /// Clients asked for a resource. Counts wait for the next beat; whoever serves many requests adds
    /// them up before.
    pub fn asked(&self, resource: &str, requests: u32) {
        self.member.lock().asked(resource, requests);
    }

    /// A client reported a failed verification.
    pub fn report(&self, report: Report) {
        self.member.lock().report(report);
        self.news.notify_one();
    }

    /// News of the node itself: roles, ports, capacity. They are told with the next beat.
    pub fn describe(&self, change: impl FnOnce(&mut Node)) {
        self.member.lock().describe(change);
    }

    /// The node ends: the control node is told, and [`Membership::run`] is done.
    pub fn leave(&self) {
        self.member.lock().leave();
        self.news.notify_one();
    }

    /// How it stands with the control node.
    pub fn status(&self) -> Value {
        let member = self.member.lock();
        let (holdings, demand, reports) = member.waiting();
        let refusals = self.refusals.lock();
        json!({
            "reachable": member.reachable(),
            "refused": refusals.beat,
            "list_refused": refusals.list,
            "waiting": { "holdings": holdings, "demand": demand, "reports": reports },
        })
    }

    /// Brings the gauges up to date.
    pub fn refresh_metrics(&self) {
        let mut member = self.member.lock();
        let (holdings, demand, reports) = member.waiting();
        let dropped = member.take_dropped();
        self.metrics.reachable.set(i64::from(member.reachable()));
        drop(member);
        for (what, count) in [("holdings", holdings), ("demand", demand), ("reports", reports)] {
            self.metrics.queued.with_label_values(&[what]).set(count as i64);
        }
        for (what, count) in [("demand", dropped.0), ("reports", dropped.1)] {
            self.metrics.dropped.with_label_values(&[what]).inc_by(count);
        }
    }

    /// Tells the control node all there is to tell, until the node leaves.
    pub async fn run(&self, transport: &dyn Transport, mut meter: Meter) {
        let mut taken = [None; 2];
        loop {
            let now_ms = now_ms();
            if !meter.is_empty() && self.member.lock().beats(now_ms) {
                let links = meter.links(now_ms);
                self.member.lock().set_links(links);
            }
            let action = self.member.lock().next(now_ms);
            match action {
                Action::Send(request) => self.send(transport, request, &mut taken).await,
                Action::Wait(until_ms) => {
                    let pause = Duration::from_millis(until_ms.saturating_sub(now_ms)).min(LONGEST_SLEEP);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.news.notified() => {}
                    }
                }
                Action::Done => return,
            }
        }
    }

    /// `taken` is whether the last heartbeat was, and the last part of the list: what changes is logged.
    async fn send(&self, transport: &dyn Transport, request: Request, taken: &mut [Option<bool>; 2]) {
        let Request { path, body, patience } = request;
        let reply = within(patience, transport.send(Method::POST, &path, body)).await;
        let outcome = self.member.lock().answered(reply.as_ref().ok(), now_ms());
        let word = match outcome {
            Outcome::Answered => "answered",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        };
        self.metrics.control_requests.with_label_values(&[word]).inc();
        let refused = reply.as_ref().ok().filter(|_| outcome != Outcome::Answered).map(words);
        let mut refusals = self.refusals.lock();
        let is_list = path.ends_with("/holdings");
        let place = if is_list { &mut refusals.list } else { &mut refusals.beat };
        *place = refused;
        drop(refusals);
        let answered = Some(outcome == Outcome::Answered);
        let before = std::mem::replace(&mut taken[usize::from(is_list)], answered);
        if before == answered {
            return;
        }
        match &reply {
            _ if answered == Some(true) && is_list => log::info!("the control node knows what is held"),
            _ if answered == Some(true) => log::info!("the control node answers"),
            Ok(reply) => {
                log::warn!(status = reply.status.as_u16(), path = path.as_str(); "the control node takes nothing: {}", words(reply));
            }
            Err(error) => log::warn!("{error}; this node goes on serving and tries again"),
        }
    }
}

/// What an answer says that is no good one: its status, and the detail where there is one (RFC 9457).
pub(crate) fn words(reply: &Reply) -> String {
    let Reply { status, body } = reply;
    let document: Option<Value> = serde_json::from_slice(body).ok();
    match document.as_ref().and_then(|document| document["detail"].as_str()) {
        Some(detail) => format!("{status}: {detail}"),
        None if status.is_success() => format!("{status}: the answer is not understood"),
        None => status.to_string(),
    }
}

async fn within<T>(
    limit: Duration,
    sent: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(limit, sent).await {
        Ok(reply) => reply,
        Err(_) => Err(TransportError("it did not answer in time".into())),
    }
}

/// The way to the control node for that node itself: no connection, no certificate.
pub struct InProcess {
    endpoint: Arc<Endpoint>,
    caller: Caller,
}

impl InProcess {
    /// For the control node of this id.
    pub fn new(endpoint: Arc<Endpoint>, id: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { endpoint, caller: Caller::new(Some(id.to_owned()), address) }
    }
}

impl Transport for InProcess {
    fn send<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Reply, TransportError>> {
        let (endpoint, caller, path) = (self.endpoint.clone(), self.caller.clone(), path.to_owned());
        Box::pin(async move {
            let answer = move || endpoint.respond(&caller, &method, &path, &body, now_ms());
            let response = tokio::task::spawn_blocking(answer).await;
            let (head, body) = response.map_err(|error| TransportError(error.to_string()))?.into_parts();
            match body {
                Body::Full(body) => Ok(Reply { status: head.status, body }),
                Body::Empty => Ok(Reply { status: head.status, body: Bytes::new() }),
                Body::Stream(_) => Err(TransportError("its answer is a stream".into())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::sync::mpsc;

    use super::*;
    use crate::message::{Beat, HoldingsReport, read};

    /// Answers as a control node that believes everything, and tells what it was sent.
    struct Believer(mpsc::UnboundedSender<(String, Bytes)>);

    impl Transport for Believer {
        fn send<'a>(
            &'a self,
            method: Method,
            path: &'a str,
            body: Bytes,
        ) -> BoxFuture<'a, Result<Reply, TransportError>> {
            Box::pin(async move {
                assert_eq!(method, Method::POST);
                // A beat that tells nothing of a list begins it anew, so a list is told every time.
                let generation = read::<HoldingsReport>(&body).map_or(0, |report| report.generation);
                self.0.send((path.to_owned(), body)).unwrap();
                let body = json!({ "generation": generation }).to_string().into();
                Ok(Reply { status: StatusCode::OK, body })
            })
        }
    }

    #[tokio::test]
    async fn news_are_told_as_they_come_and_the_end_too() {
        let (sender, mut sent) = mpsc::unbounded_channel();
        let node = Node { id: "a".into(), interval_seconds: 300, ..Node::default() };
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let membership = Arc::new(Membership::new(node, 1, metrics.clone()).unwrap());
        let (running, transport) = (membership.clone(), Believer(sender));
        let run = tokio::spawn(async move { running.run(&transport, Meter::new(Vec::new())).await });

        let (path, body) = sent.recv().await.unwrap();
        assert_eq!(
            (path.as_str(), read::<Beat>(&body).unwrap().node.id.as_str()),
            ("/.skerry/v1/nodes", "a")
        );
        assert_eq!(sent.recv().await.unwrap().0, "/.skerry/v1/nodes/a/holdings");
        membership.asked(&"0".repeat(64), 2);
        membership.leave();
        let (_, body) = sent.recv().await.unwrap();
        let beat = read::<Beat>(&body).unwrap();
        assert!(beat.leaving && beat.demand.len() == 1);
        run.await.unwrap();
        assert_eq!(metrics.control_requests.with_label_values(&["answered"]).get(), 3);
        membership.refresh_metrics();
        assert_eq!(metrics.reachable.get(), 1);
        assert_eq!(membership.status()["waiting"]["demand"], 0);
        assert_eq!(membership.status()["refused"], Value::Null);
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_its_own_words() {
        struct Refuser(mpsc::UnboundedSender<()>);
        impl Transport for Refuser {
            fn send<'a>(
                &'a self,
                _: Method,
                _: &'a str,
                _: Bytes,
            ) -> BoxFuture<'a, Result<Reply, TransportError>> {
                // The second request comes after the first was answered.
                self.0.send(()).unwrap();
                let body = json!({ "detail": "two have one id" }).to_string().into();
                Box::pin(std::future::ready(Ok(Reply { status: StatusCode::CONFLICT, body })))
            }
        }
        let (sender, mut asked) = mpsc::unbounded_channel();
        let node = Node { id: "a".into(), interval_seconds: 1, ..Node::default() };
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let membership = Arc::new(Membership::new(node, 1, metrics).unwrap());
        let running = membership.clone();
        let run = tokio::spawn(async move { running.run(&Refuser(sender), Meter::new(Vec::new())).await });
        for _ in 0..2 {
            asked.recv().await.unwrap();
        }
        let status = membership.status();
        let refused = json!("409 Conflict: two have one id");
        assert_eq!((&status["reachable"], &status["refused"]), (&json!(false), &refused));
        run.abort();
    }

    #[test]
    fn an_answer_that_is_no_good_one_tells_its_status_once() {
        let told = |status: StatusCode, body: &str| words(&Reply { status, body: body.to_owned().into() });
        let full = r#"{"detail": "there is no room", "status": 507}"#;
        assert_eq!(
            told(StatusCode::INSUFFICIENT_STORAGE, full),
            "507 Insufficient Storage: there is no room"
        );
        assert_eq!(told(StatusCode::BAD_GATEWAY, "<html>"), "502 Bad Gateway");
        assert_eq!(told(StatusCode::OK, "7"), "200 OK: the answer is not understood");
    }

    #[tokio::test]
    async fn a_list_that_finds_no_room_is_told_of_and_the_node_is_heard() {
        struct Full(mpsc::UnboundedSender<()>);
        impl Transport for Full {
            fn send<'a>(
                &'a self,
                _: Method,
                path: &'a str,
                _: Bytes,
            ) -> BoxFuture<'a, Result<Reply, TransportError>> {
                self.0.send(()).unwrap();
                let (status, body) = match path.ends_with("/holdings") {
                    true => (StatusCode::INSUFFICIENT_STORAGE, json!({ "detail": "no room" })),
                    false => (StatusCode::OK, json!({ "generation": null })),
                };
                let reply = Reply { status, body: body.to_string().into() };
                Box::pin(std::future::ready(Ok(reply)))
            }
        }
        let (sender, mut asked) = mpsc::unbounded_channel();
        let node = Node { id: "a".into(), interval_seconds: 1, ..Node::default() };
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let membership = Arc::new(Membership::new(node, 1, metrics).unwrap());
        let running = membership.clone();
        let run = tokio::spawn(async move { running.run(&Full(sender), Meter::new(Vec::new())).await });
        // A heartbeat, the list, and the next heartbeat.
        for _ in 0..3 {
            asked.recv().await.unwrap();
        }
        let status = membership.status();
        let told = (&status["reachable"], &status["refused"], &status["list_refused"]);
        assert_eq!(told, (&json!(true), &Value::Null, &json!("507 Insufficient Storage: no room")));
        run.abort();
    }
}

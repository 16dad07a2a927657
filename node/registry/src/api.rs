//! The registry's part of the public API: `nodes` and `reports`.
//!
//! | request | by whom |
//! |---|---|
//! | `POST nodes` | the node itself |
//! | `POST nodes/ID/holdings` | the node itself |
//! | `GET nodes/ID/preload` | the node itself |
//! | `POST nodes/ID/preload` | the node itself |
//! | `POST nodes/ID/certificate` | the node itself, with a certificate |
//! | `GET nodes/torrents/RESOURCE` | any node |
//! | `POST nodes/enrol` | whoever has a token |
//! | `POST reports` | anybody |
//!
//! Who calls is checked before a byte of the body is read: an unknown node gets nothing in, nor does one that was
//! revoked, whose certificate is superseded, or that sends more than is taken. `nodes` is answered on the control
//! node alone; a report is taken by every node, which looks at its own copy and tells the control node.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use skerry_core::api::{Api, Call, ROOT};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, admin, body, problem};

use crate::client::Membership;
use crate::clock::{now_ms, wall_ms};
use crate::control::Control;
use crate::enrol::Enrolment;
use crate::error::Refused;
use crate::hex;
use crate::identity::Caller;
use crate::message::{self, Beat, EnrolRequest, HoldingsReport, RenewRequest, Report, TorrentsAnswer};
use crate::pace::Clients;

/// Largest beat, bytes.
const MOST_BEAT: usize = 2 << 20;
/// Largest message of holdings, bytes.
const MOST_HOLDINGS: usize = 8 << 20;
/// Largest message of what a node holds and fetches, bytes.
const MOST_TOLD: usize = 8 << 20;
/// Largest request to enrol, and largest report, bytes.
const MOST_SMALL: usize = 32 << 10;
/// How long a body may take to come in.
const BODY: Duration = Duration::from_secs(30);

/// The preloader's lists; the preload role has them.
pub trait PreloadLists: Send + Sync + 'static {
    /// What a node should hold, as JSON; `None` when there is no list for it.
    fn list(&self, node: &str) -> Option<Value>;

    /// A node tells what its list is made from and how far it is with it, as JSON.
    ///
    /// # Errors
    /// Why it makes no sense.
    fn told(&self, node: &str, body: &[u8]) -> Result<(), String>;
}

/// Whoever looks at the node's own copy of what a client could not verify.
pub trait ReportListener: Send + Sync + 'static {
    /// A client reported a failed verification. Must not wait.
    fn reported(&self, report: &Report);
}

/// Answers `nodes` and `reports`.
pub struct Endpoint {
    pub(crate) control: Option<Arc<Control>>,
    pub(crate) enrolment: Option<Arc<Enrolment>>,
    /// Where reports go that the control node should hear of, when that is another one.
    pub(crate) membership: Option<Arc<Membership>>,
    pub(crate) lists: OnceLock<Arc<dyn PreloadLists>>,
    pub(crate) listener: OnceLock<Arc<dyn ReportListener>>,
    /// What clients may still report.
    pub(crate) reports: Mutex<Clients>,
    pub(crate) insecure_loopback: bool,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Beat,
    Enrol,
    Holdings(&'a str),
    Preload(&'a str),
    Told(&'a str),
    Renew(&'a str),
    Torrents(&'a str),
    Report,
}

impl<'a> Route<'a> {
    fn of(method: &Method, path: &'a str) -> Option<Self> {
        let mut words = path.strip_prefix(ROOT)?.split('/');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("nodes"), None, _, _) => Some(Self::Beat),
            (Some("nodes"), Some("enrol"), None, _) => Some(Self::Enrol),
            (Some("nodes"), Some(id), Some("holdings"), None) => Some(Self::Holdings(id)),
            (Some("nodes"), Some(id), Some("preload"), None) if *method == Method::POST => {
                Some(Self::Told(id))
            }
            (Some("nodes"), Some(id), Some("preload"), None) => Some(Self::Preload(id)),
            (Some("nodes"), Some(id), Some("certificate"), None) => Some(Self::Renew(id)),
            // Below what a node of that name has.
            (Some("nodes"), Some("torrents"), Some(resource), None) => Some(Self::Torrents(resource)),
            (Some("reports"), None, _, _) => Some(Self::Report),
            _ => None,
        }
    }

    fn method(self) -> Method {
        if matches!(self, Self::Preload(_) | Self::Torrents(_)) { Method::GET } else { Method::POST }
    }

    /// The node that speaks, as far as it is known before the body is.
    fn node<'b>(self, caller: &'b Caller) -> Option<&'b str>
    where
        'a: 'b,
    {
        match self {
            Self::Holdings(id) | Self::Preload(id) | Self::Told(id) | Self::Renew(id) => Some(id),
            Self::Beat | Self::Torrents(_) => caller.node.as_deref(),
            Self::Enrol | Self::Report => None,
        }
    }

    /// Largest body, bytes.
    fn limit(self) -> usize {
        match self {
            Self::Beat => MOST_BEAT,
            Self::Holdings(_) => MOST_HOLDINGS,
            Self::Enrol | Self::Renew(_) | Self::Report => MOST_SMALL,
            Self::Told(_) => MOST_TOLD,
            Self::Preload(_) | Self::Torrents(_) => 0,
        }
    }
}

impl Endpoint {
    /// Publishes the preloader's lists; once.
    pub fn publish_lists(&self, lists: Arc<dyn PreloadLists>) {
        let _ = self.lists.set(lists);
    }

    /// Tells of clients' reports; once.
    pub fn publish_listener(&self, listener: Arc<dyn ReportListener>) {
        let _ = self.listener.set(listener);
    }

    /// Answers one request whole; may wait for a disk.
    pub fn respond(
        &self,
        caller: &Caller,
        method: &Method,
        path: &str,
        body: &[u8],
        now_ms: u64,
    ) -> Response<Body> {
        let admitted = self.admit(caller, method, path);
        let admitted = admitted.and_then(|route| {
            self.hear(route, caller, body.len(), now_ms)?;
            Ok(route)
        });
        match admitted {
            Ok(route) => self.act(route, caller, body, now_ms),
            Err(refusal) => *refusal,
        }
    }

    /// What is asked for, when it is here and the caller may ask for it. Boxed, since answers are large.
    fn admit<'a>(
        &self,
        caller: &Caller,
        method: &Method,
        path: &'a str,
    ) -> Result<Route<'a>, Box<Response<Body>>> {
        let refuse = |status, detail: &str| Box::new(problem::response(status, detail));
        let Some(route) = Route::of(method, path) else {
            return Err(refuse(StatusCode::NOT_FOUND, "no such path below /.skerry/v1/"));
        };
        if *method != route.method() {
            let allowed = route.method();
            let mut refusal =
                refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed} is answered here"));
            if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
                refusal.headers_mut().insert(header::ALLOW, value);
            }
            return Err(refusal);
        }
        if route != Route::Report && self.control.is_none() {
            return Err(refuse(StatusCode::NOT_FOUND, "this is not the fleet's control node"));
        }
        let permitted = match route {
            Route::Beat | Route::Torrents(_) => caller.known(self.insecure_loopback),
            Route::Holdings(id) | Route::Preload(id) | Route::Told(id) => {
                caller.speaks_for(id, self.insecure_loopback)
            }
            Route::Renew(id) => caller.speaks_for(id, false),
            Route::Enrol | Route::Report => Ok(()),
        };
        permitted.map_err(|refused| Box::new(refusal(&refused, caller)))?;
        Ok(route)
    }

    /// Whether a caller is heard with a body of so many bytes: not a node that was revoked, whose certificate is
    /// superseded, or that sends more than is taken. May wait for a disk.
    fn hear(
        &self,
        route: Route<'_>,
        caller: &Caller,
        bytes: usize,
        now_ms: u64,
    ) -> Result<(), Box<Response<Body>>> {
        if bytes > route.limit() {
            return Err(Box::new(too_large(route.limit())));
        }
        let (Some(control), Some(node)) = (&self.control, route.node(caller)) else { return Ok(()) };
        // Whoever has a copy of a superseded certificate does not speak on the node's account.
        let heard = match &self.enrolment {
            _ if control.is_denied(node, now_ms) => Err(Refused::Denied(node.to_owned())),
            // Renewal has a word of its own on that.
            Some(enrolment) if !matches!(route, Route::Renew(_)) => enrolment.saw(control, caller, now_ms),
            _ => Ok(()),
        };
        let heard = heard.and_then(|()| control.admit(node, bytes, now_ms));
        heard.map_err(|refused| {
            if route == Route::Beat {
                control.metrics().heartbeats.with_label_values(&["refused"]).inc();
            }
            Box::new(refusal(&refused, caller))
        })
    }

    /// Answers a request that was heard.
    fn act(&self, route: Route<'_>, caller: &Caller, body: &[u8], now_ms: u64) -> Response<Body> {
        let done = match (route, &self.control) {
            (Route::Report, _) => self.report(caller, body, now_ms).map(|()| accepted()),
            (Route::Beat, Some(control)) => self.beat(control, caller, body, now_ms),
            (Route::Holdings(id), Some(control)) => message::read::<HoldingsReport>(body)
                .and_then(|report| control.holdings(id, &report, now_ms))
                .map(|answer| told(&answer)),
            (Route::Preload(id), Some(_)) => Ok(self.preload(id)),
            (Route::Told(id), Some(control)) => self.told(control, id, body, now_ms),
            (Route::Renew(_), Some(control)) => self.renew(control, caller, body, now_ms),
            (Route::Torrents(resource), Some(control)) => self.torrents(control, resource, now_ms),
            (Route::Enrol, Some(control)) => self.enrol(control, body, now_ms),
            (_, None) => Ok(problem::response(StatusCode::NOT_FOUND, "this is not the fleet's control node")),
        };
        done.unwrap_or_else(|refused| refusal(&refused, caller))
    }

    fn beat(
        &self,
        control: &Control,
        caller: &Caller,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Response<Body>, Refused> {
        let beat: Beat = message::read(body)?;
        caller.speaks_for(&beat.node.id, self.insecure_loopback)?;
        control.beat(beat, caller.address.ip(), now_ms).map(|answer| told(&answer))
    }

    fn preload(&self, id: &str) -> Response<Body> {
        let none = || problem::response(StatusCode::NOT_FOUND, "there is no preload list for this node");
        self.lists.get().and_then(|lists| lists.list(id)).map_or_else(none, |list| told(&list))
    }

    fn told(&self, control: &Control, id: &str, body: &[u8], now_ms: u64) -> Result<Response<Body>, Refused> {
        // Its body may have been long on its way.
        if control.is_denied(id, now_ms) {
            return Err(Refused::Denied(id.to_owned()));
        }
        Ok(match self.lists.get().map(|lists| lists.told(id, body)) {
            Some(Ok(())) => accepted(),
            Some(Err(reason)) => problem::response(StatusCode::BAD_REQUEST, &reason),
            None => problem::response(StatusCode::NOT_FOUND, "nothing is planned here"),
        })
    }

    fn torrents(&self, control: &Control, resource: &str, now_ms: u64) -> Result<Response<Body>, Refused> {
        let resource = message::resource("resource", resource)?;
        let hashes = control.torrents_of(&resource, now_ms);
        Ok(told(&TorrentsAnswer { info_hashes: hashes.iter().map(|hash| hex::encode(hash)).collect() }))
    }

    fn enrol(&self, control: &Control, body: &[u8], now_ms: u64) -> Result<Response<Body>, Refused> {
        let Some(enrolment) = &self.enrolment else {
            let detail = "this control node enrols nobody, since it has no `registry.ca_key_file`";
            return Ok(problem::response(StatusCode::NOT_FOUND, detail));
        };
        let request: EnrolRequest = message::read(body)?;
        enrolment.enrol(control, &request, now_ms, wall_ms()).map(|answer| told(&answer))
    }

    fn renew(
        &self,
        control: &Control,
        caller: &Caller,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Response<Body>, Refused> {
        let Some(enrolment) = &self.enrolment else {
            let detail = "this control node renews nothing, since it has no `registry.ca_key_file`";
            return Ok(problem::response(StatusCode::NOT_FOUND, detail));
        };
        let request: RenewRequest = message::read(body)?;
        enrolment.renew(control, caller, &request, now_ms, wall_ms()).map(|answer| told(&answer))
    }

    fn report(&self, caller: &Caller, body: &[u8], now_ms: u64) -> Result<(), Refused> {
        let report: Report = message::read(body)?;
        report.check()?;
        if !self.reports.lock().take(caller.address.ip(), now_ms) {
            if let Some(control) = &self.control {
                control.metrics().reports.with_label_values(&["refused"]).inc();
            }
            return Err(Refused::Busy);
        }
        let report = Report { at_ms: now_ms, ..report };
        if let Some(control) = &self.control {
            control.report(report.clone(), now_ms)?;
        } else if let Some(membership) = &self.membership {
            membership.report(report.clone());
        }
        if let Some(listener) = self.listener.get() {
            listener.reported(&report);
        }
        Ok(())
    }
}

/// Who asks for what.
struct Asked {
    caller: Caller,
    method: Method,
    path: String,
}

impl Endpoint {
    /// Answers one request as it comes in; what waits for a disk does so elsewhere.
    async fn serve(self: Arc<Self>, call: Call) -> Response<Body> {
        let caller = Caller::from(&call);
        let (head, body) = call.request.into_parts();
        let asked = Asked { caller, method: head.method, path: head.uri.path().to_owned() };
        let (bytes, is_node) = match self.admit(&asked.caller, &asked.method, &asked.path) {
            // Who does not say how long it is may mean all that it can be.
            Ok(route) => {
                (length(&head.headers).unwrap_or(route.limit()), route.node(&asked.caller).is_some())
            }
            Err(refusal) => return *refusal,
        };
        let this = self.clone();
        let hear = move || -> Result<Asked, Box<Response<Body>>> {
            let route = this.admit(&asked.caller, &asked.method, &asked.path)?;
            this.hear(route, &asked.caller, bytes, now_ms())?;
            Ok(asked)
        };
        let heard = if is_node { aside(hear, |failed| Err(Box::new(failed))).await } else { hear() };
        let asked = match heard {
            Ok(asked) => asked,
            Err(refusal) => return *refusal,
        };
        let body = match tokio::time::timeout(BODY, body::whole(body, bytes)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return too_large(bytes),
            Err(_) => {
                return problem::response(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
            }
        };
        let act = move || match self.admit(&asked.caller, &asked.method, &asked.path) {
            Ok(route) => self.act(route, &asked.caller, &body, now_ms()),
            Err(refusal) => *refusal,
        };
        aside(act, |failed| failed).await
    }
}

impl Api for Endpoint {
    fn words(&self) -> &'static [&'static str] {
        &["nodes", "reports"]
    }

    fn answer(self: Arc<Self>, call: Call) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.serve(call))
    }
}

/// What a request says that its body has, bytes.
fn length(fields: &HeaderMap) -> Option<usize> {
    fields.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Does something where it may wait for a disk; `failed` makes its result of an answer when it did not end.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    failed: impl FnOnce(Response<Body>) -> T,
) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        let detail = "the registry failed; its log says why";
        failed(problem::response(StatusCode::INTERNAL_SERVER_ERROR, detail))
    })
}

fn told<T: Serialize>(answer: &T) -> Response<Body> {
    let mut response = admin::json(&serde_json::json!(answer));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn too_large(limit: usize) -> Response<Body> {
    let detail = format!("the request body is cut or longer than {limit} bytes");
    problem::response(StatusCode::PAYLOAD_TOO_LARGE, &detail)
}

/// The answer to what is refused. What failed inside is for the log.
fn refusal(refused: &Refused, caller: &Caller) -> Response<Body> {
    let status = refused.status();
    if status.is_server_error() && status != StatusCode::INSUFFICIENT_STORAGE {
        log::error!(caller:% = caller.address; "{refused}");
        return problem::response(status, "the registry failed; its log says why");
    }
    problem::response(status, &refused.to_string())
}

#[cfg(test)]
mod tests;

//! The admin listeners: metrics, health, drain, and what the roles add. In the clear on loopback, by default;
//! a bearer token is asked for once that leaves loopback (RFC 6750 §2.1). Over TLS operators come in by their
//! certificates. Of what changes something the log tells who did it.

mod change;
mod config;
mod remote;

pub use config::AdminConfig;
pub use remote::Remote;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use prometheus::Registry;

use crate::connection::Connection;
use crate::lifecycle::{Lifecycle, Phase};
use crate::operator::Refused;
use crate::role::Role;
use crate::worker::Handler;
use crate::{Body, Error, body, metrics, problem};

use change::Change;

const MAX_REQUEST: usize = 1024 * 1024;

/// Answers the requests of the admin listeners.
pub struct Admin {
    /// Name and version of this node, for `/status`.
    pub identity: serde_json::Value,
    /// What `/metrics` prints.
    pub registry: Registry,
    /// What the node runs.
    pub roles: Vec<Arc<dyn Role>>,
    /// The node's phase.
    pub lifecycle: Lifecycle,
    /// How long `POST /drain` lets bodies run.
    pub drain: Duration,
    /// Asked for in the clear when present.
    pub token: Option<String>,
    /// Who may come in over TLS, where that is served.
    pub remote: Option<Remote>,
}

/// Who makes a request.
#[derive(Debug, Clone)]
struct Caller {
    /// The listener: `admin` or `admin-tls`.
    listener: &'static str,
    /// The name in an operator's certificate. In the clear nobody has a name: `token`, or `local` where none is
    /// asked for.
    operator: String,
}

/// Why a request is not looked at.
enum Stranger {
    Token,
    Certificate(Refused),
    /// A page of another site makes the operator's browser ask.
    Page,
}

/// Reads the configured token, if any.
pub fn token(config: &AdminConfig) -> Result<Option<String>, Error> {
    let path: &Path = &config.token_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let token =
        std::fs::read_to_string(path).map_err(|source| Error::Token { path: path.to_owned(), source })?;
    Ok(Some(token.trim().to_owned()))
}

impl Handler for Admin {
    type Lane = ();

    fn lane(self: &Arc<Self>) {}

    async fn handle(self: Arc<Self>, request: Request<Body>, connection: Arc<Connection>) -> Response<Body> {
        let caller = match self.caller(&request, &connection) {
            Ok(caller) => caller,
            Err(stranger) => return stranger.answer(),
        };
        let (parts, body) = request.into_parts();
        let limit =
            self.roles.iter().find_map(|role| role.admin_limit(parts.uri.path())).unwrap_or(MAX_REQUEST);
        let Ok(body) = body::whole(body, limit).await else {
            let detail = format!("the request body is cut or longer than {limit} bytes");
            return problem::response(StatusCode::PAYLOAD_TOO_LARGE, &detail);
        };
        let request = Request::from_parts(parts, body);
        if !changes(request.method()) {
            return self.route(request).await;
        }
        let change = Change::begin(caller, connection.peer, &request);
        let response = self.route(request).await;
        change.end(response.status());
        response
    }
}

/// Whether requests of this method may change something (RFC 9110 §9.2.1).
fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

impl Stranger {
    fn answer(&self) -> Response<Body> {
        match self {
            Self::Token => {
                let detail = "this listener asks for its bearer token";
                let mut response = problem::response(StatusCode::UNAUTHORIZED, detail);
                let scheme = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
                response
            }
            Self::Certificate(refused) => problem::response(StatusCode::FORBIDDEN, &refused.to_string()),
            Self::Page => {
                problem::response(StatusCode::FORBIDDEN, "pages of other sites may change nothing here")
            }
        }
    }
}

impl Admin {
    fn caller(&self, request: &Request<Body>, connection: &Connection) -> Result<Caller, Stranger> {
        let caller = if connection.secure {
            let remote = self.remote.as_ref().ok_or(Stranger::Certificate(Refused::Missing))?;
            let operator = remote.operator(connection.certificate.as_deref());
            Caller { listener: "admin-tls", operator: operator.map_err(Stranger::Certificate)? }
        } else if self.authorized(request) {
            let operator = if self.token.is_some() { "token" } else { "local" };
            Caller { listener: "admin", operator: operator.into() }
        } else {
            return Err(Stranger::Token);
        };
        // A browser shows an operator's certificate for whatever page asks, and says which (Fetch Metadata).
        let from = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
        if changes(request.method()) && matches!(from, Some(b"cross-site" | b"same-site")) {
            return Err(Stranger::Page);
        }
        Ok(caller)
    }

    fn authorized(&self, request: &Request<Body>) -> bool {
        let Some(token) = &self.token else { return true };
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        // Every byte is compared, so that the time tells nothing of the token.
        given.len() == token.len()
            && given.bytes().zip(token.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }

    async fn route(&self, request: Request<Bytes>) -> Response<Body> {
        self.roles.iter().for_each(|role| role.settle());
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let mut response = Response::new(Body::from(Bytes::from(metrics::text(&self.registry))));
                let value = HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(header::CONTENT_TYPE, value);
                return response;
            }
            (&Method::GET, "/healthz") => return text(StatusCode::OK, "alive\n".into()),
            (&Method::GET, "/readyz") => return self.ready(),
            (&Method::GET, "/status") => return json(&self.status()),
            (&Method::POST, "/drain") => {
                self.lifecycle.drain(self.drain);
                return text(StatusCode::ACCEPTED, "draining\n".into());
            }
            _ => {}
        }
        for role in &self.roles {
            if let Some(response) = role.admin(request.clone()).await {
                return response;
            }
        }
        problem::response(StatusCode::NOT_FOUND, "no such path or method on the admin listener")
    }

    fn ready(&self) -> Response<Body> {
        if self.lifecycle.phase() != Phase::Running {
            return text(StatusCode::SERVICE_UNAVAILABLE, "starting or draining\n".into());
        }
        for role in &self.roles {
            if let Err(missing) = role.ready() {
                return text(StatusCode::SERVICE_UNAVAILABLE, format!("{}: {missing}\n", role.name()));
            }
        }
        text(StatusCode::OK, "ready\n".into())
    }

    fn status(&self) -> serde_json::Value {
        let phase = match self.lifecycle.phase() {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Draining { .. } => "draining",
        };
        let mut status = self.identity.clone();
        status["phase"] = phase.into();
        for role in &self.roles {
            status[role.name()] = role.status();
        }
        status
    }
}

/// A short plain answer.
fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A JSON answer.
pub fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;

//! The admin listener: metrics, health, drain, and what the roles add. Loopback by default; a
//! bearer token is asked for once it leaves loopback (RFC 6750 §2.1).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use prometheus::Registry;

use crate::config::AdminConfig;
use crate::connection::Connection;
use crate::lifecycle::{Lifecycle, Phase};
use crate::role::Role;
use crate::worker::Handler;
use crate::{Body, Error, metrics, problem};

const MAX_REQUEST: usize = 1024 * 1024;

/// Answers the admin listener's requests.
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
    /// Asked for when present.
    pub token: Option<String>,
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

    async fn handle(self: Arc<Self>, request: Request<Body>, _connection: Arc<Connection>) -> Response<Body> {
        if !self.authorized(&request) {
            let mut response =
                problem::response(StatusCode::UNAUTHORIZED, "this listener asks for its bearer token");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        let (parts, body) = request.into_parts();
        let limit =
            self.roles.iter().find_map(|role| role.admin_limit(parts.uri.path())).unwrap_or(MAX_REQUEST);
        let Ok(body) = Limited::new(body, limit).collect().await else {
            let detail = format!("the request body is cut or longer than {limit} bytes");
            return problem::response(StatusCode::PAYLOAD_TOO_LARGE, &detail);
        };
        self.route(Request::from_parts(parts, body.to_bytes())).await
    }
}

impl Admin {
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

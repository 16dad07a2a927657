//! The registry as a role: what it is on this node, its tasks, and the admin listener.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::{Value, json};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin, problem};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};

use crate::api::Endpoint;
use crate::ca::Authority;
use crate::client::{InProcess, Membership, Transport};
use crate::clock::{now_ms, wall_ms};
use crate::config::RegistryConfig;
use crate::control::{Bounds, Control};
use crate::enrol::{Enrolment, TokenRequest};
use crate::error::{CaError, Refused, RegistryError};
use crate::fleet::{Fleet, Node};
use crate::interfaces::Meter;
use crate::kv::RocksKv;
use crate::metrics::Metrics;
use crate::renew::{Files, Renewal};
use crate::{identity, instance, message};

/// How often the control node looks who fell silent.
const TICK: Duration = Duration::from_millis(500);
/// How long the control node may take to hear that this node ends.
const GOODBYE: Duration = Duration::from_secs(2);
/// Reports that the admin listener tells.
const REPORTS: usize = 100;
/// A certificate that ends sooner is warned of, seconds; or one of which less than a quarter is left, when
/// that is sooner still.
const ENDS_SOON: u64 = 30 * 86_400;

/// What the registry is made from.
pub struct Parts<'a> {
    /// `[registry]`.
    pub config: &'a RegistryConfig,
    /// What this node says of itself; id, region and interval are set here, links when they are
    /// configured.
    pub node: Node,
    /// `node.name`.
    pub id: &'a str,
    /// `node.data_dir`.
    pub data_dir: &'a Path,
    /// Where metrics are registered.
    pub registry: &'a Registry,
}

/// The registry on this node: control node, member, or neither.
pub struct RegistryRole {
    config: RegistryConfig,
    id: String,
    /// `update.ring`.
    ring: String,
    /// When this node's certificate ends, seconds since 1970; 0 without one.
    certificate_ends: Arc<AtomicU64>,
    metrics: Metrics,
    fleet: Arc<Fleet>,
    control: Option<Arc<Control>>,
    enrolment: Option<Arc<Enrolment>>,
    membership: Option<Arc<Membership>>,
    endpoint: Arc<Endpoint>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// This node's membership, as it runs.
    member: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for RegistryRole {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(AbortHandle::abort);
    }
}

impl RegistryRole {
    /// Opens the registry on the control node; elsewhere nothing is opened.
    ///
    /// # Errors
    /// When the store or the authority cannot be used.
    pub fn open(parts: Parts<'_>) -> Result<Self, RegistryError> {
        let Parts { config, mut node, id, data_dir, registry } = parts;
        id.clone_into(&mut node.id);
        node.region.clone_from(&config.region);
        node.interval_seconds = u32::try_from(config.heartbeat_seconds).unwrap_or(u32::MAX);
        let ring = node.ring.clone();
        let metrics = Metrics::new(registry)?;
        let fleet = Arc::new(Fleet::new());
        let mut control = None;
        let mut enrolment = None;
        if config.control {
            let kv = Arc::new(RocksKv::open(data_dir)?);
            let bounds = Bounds::from(config);
            let opened = Control::open(kv, fleet.clone(), id, bounds, metrics.clone(), now_ms())?;
            control = Some(Arc::new(opened));
            if !config.ca_key_file.as_os_str().is_empty() {
                let authority = Authority::load(&config.ca_file, &config.ca_key_file)?;
                enrolment = Some(Arc::new(Enrolment::new(authority, config.certificate_days)));
            }
        }
        let certificate_ends = certificate_ends(config)?;
        metrics.certificate_ends.set(i64::try_from(certificate_ends).unwrap_or(i64::MAX));
        let mut membership = None;
        if config.control || !config.control_url.is_empty() {
            let instance = instance::of(data_dir).map_err(RegistryError::Random)?;
            membership = Some(Arc::new(Membership::new(node, instance, metrics.clone())?));
        }
        let endpoint = Arc::new(Endpoint {
            control: control.clone(),
            enrolment: enrolment.clone(),
            // The control node hears of reports as they come.
            membership: membership.clone().filter(|_| !config.control),
            lists: OnceLock::new(),
            listener: OnceLock::new(),
            reports: Mutex::default(),
            insecure_loopback: config.insecure_loopback,
        });
        Ok(Self {
            config: config.clone(),
            id: id.to_owned(),
            ring,
            certificate_ends: Arc::new(certificate_ends.into()),
            metrics,
            fleet,
            control,
            enrolment,
            membership,
            endpoint,
            tasks: Mutex::default(),
            member: Mutex::default(),
        })
    }

    /// Begins to tell and to watch, on the background runtime; dropping the role ends it. A member
    /// needs a `transport`, and renews its certificate over it; the control node is its own.
    pub fn start(&self, background: &Handle, transport: Option<Arc<dyn Transport>>) {
        let mut tasks = self.tasks.lock();
        if let Some(control) = self.control.clone() {
            tasks.push(background.spawn(watch(control)).abort_handle());
        }
        if let (Some(files), Some(transport)) = (files(&self.config), transport.clone()) {
            let (id, ends) = (self.id.clone(), self.certificate_ends.clone());
            let renewal = Renewal { id, files, ends, metrics: self.metrics.clone() };
            tasks.push(background.spawn(renewal.run(transport)).abort_handle());
        }
        let transport = if self.control.is_some() {
            Some(Arc::new(InProcess::new(self.endpoint.clone(), &self.id)) as Arc<dyn Transport>)
        } else {
            transport
        };
        if let (Some(membership), Some(transport)) = (self.membership.clone(), transport) {
            let meter = Meter::new(self.config.links.clone());
            let running = background.spawn(async move { membership.run(&*transport, meter).await });
            tasks.push(running.abort_handle());
            *self.member.lock() = Some(running);
        }
    }

    /// Waits until the control node has heard that this node leaves, for a short time at most. After the
    /// drain has begun.
    pub async fn left(&self) {
        let member = self.member.lock().take();
        if let Some(member) = member
            && tokio::time::timeout(GOODBYE, member).await.is_err()
        {
            log::info!("the control node was not told that this node ends");
        }
    }

    /// The nodes; empty but on the control node.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// The control node's side.
    pub fn control(&self) -> Option<&Arc<Control>> {
        self.control.as_ref()
    }

    /// This node's side, when it is in a fleet.
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.membership.as_ref()
    }

    /// The registry's part of the public API.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn nodes(control: &Control) -> Value {
        let now_ms = now_ms();
        json!({
            "now_ms": now_ms,
            "nodes": control.nodes(now_ms),
            "revoked": control.revoked(now_ms),
            "versions": control.versions(),
        })
    }

    fn node(control: &Control, id: &str) -> Response<Body> {
        match control.node(id, now_ms()) {
            Some(told) => admin::json(&json!(told)),
            None => problem::response(StatusCode::NOT_FOUND, "no node of that id is on record"),
        }
    }

    fn token(control: &Control, enrolment: Option<&Enrolment>, body: &[u8]) -> Response<Body> {
        let Some(enrolment) = enrolment else {
            let detail =
                "this node enrols nobody: set `registry.ca_key_file`; `skerry node ca-init` makes it";
            return problem::response(StatusCode::CONFLICT, detail);
        };
        let token =
            message::read::<TokenRequest>(body).and_then(|asked| enrolment.token(control, asked, now_ms()));
        match token {
            Ok(token) => admin::json(&json!(token)),
            Err(refused) => refusal(&refused),
        }
    }

    fn revoke(control: &Control, id: &str) -> Response<Body> {
        match control.revoke(id, now_ms()) {
            Ok(known) => admin::json(&json!({ "revoked": id, "known": known })),
            Err(refused) => refusal(&refused),
        }
    }
}

/// What a member renews; the control node has the authority, and an operator.
fn files(config: &RegistryConfig) -> Option<Files> {
    let files = Files { certificate: config.certificate_file.clone(), key: config.key_file.clone() };
    let named = [&files.certificate, &files.key].iter().all(|path| !path.as_os_str().is_empty());
    (named && !config.control_url.is_empty()).then_some(files)
}

/// Ends a renewal of the node's certificate that was cut off between its two files.
pub fn settle(config: &RegistryConfig) {
    if !config.certificate_file.as_os_str().is_empty() {
        Files { certificate: config.certificate_file.clone(), key: config.key_file.clone() }.settle();
    }
}

/// When the certificate ends, seconds since 1970; 0 without one.
fn certificate_ends(config: &RegistryConfig) -> Result<u64, CaError> {
    if config.certificate_file.as_os_str().is_empty() {
        return Ok(0);
    }
    let files = Files { certificate: config.certificate_file.clone(), key: config.key_file.clone() };
    let Some((begins, ends)) = identity::validity(&files.read()?) else {
        let (path, reason) = (files.certificate, "it does not say when it ends".to_owned());
        return Err(CaError::Content { path, wanted: "certificate", reason });
    };
    let left = ends.saturating_sub(wall_ms() / 1000);
    if left < ENDS_SOON.min(ends.saturating_sub(begins) / 4) {
        log::warn!(days = left / 86_400; "this node's certificate ends soon, and should have been renewed; else enrol it again with a new token");
    }
    Ok(ends)
}

/// Looks who fell silent, again and again.
async fn watch(control: Arc<Control>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let control = control.clone();
        if tokio::task::spawn_blocking(move || control.tick(now_ms())).await.is_err() {
            log::error!("looking after the registry failed once");
        }
    }
}

/// What the admin listener is asked.
enum Asked {
    Nodes,
    Node(String),
    Revoke(String),
    Token,
    Reports,
}

impl Asked {
    fn of(method: &Method, path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/registry/")?;
        let id = rest.strip_prefix("nodes/").filter(|id| !id.is_empty());
        let revoked = id.and_then(|id| id.strip_suffix("/revoke"));
        match (method, rest, id) {
            (&Method::GET, "nodes", _) => Some(Self::Nodes),
            (&Method::POST, _, Some(_)) => revoked.map(|id| Self::Revoke(id.to_owned())),
            (&Method::GET, _, Some(id)) => Some(Self::Node(id.to_owned())),
            (&Method::DELETE, _, Some(id)) => Some(Self::Revoke(id.to_owned())),
            (&Method::POST, "tokens", _) => Some(Self::Token),
            (&Method::GET, "reports", _) => Some(Self::Reports),
            _ => None,
        }
    }
}

impl Role for RegistryRole {
    fn name(&self) -> &'static str {
        "registry"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            let asked = Asked::of(request.method(), request.uri().path())?;
            let Some(control) = self.control.clone() else {
                let detail = "this is not the fleet's control node; ask that one";
                return Some(problem::response(StatusCode::CONFLICT, detail));
            };
            let enrolment = self.enrolment.clone();
            let body = request.into_body();
            let answer = move || match asked {
                Asked::Nodes => admin::json(&Self::nodes(&control)),
                Asked::Node(id) => Self::node(&control, &id),
                Asked::Revoke(id) => Self::revoke(&control, &id),
                Asked::Token => Self::token(&control, enrolment.as_deref(), &body),
                Asked::Reports => admin::json(&json!({ "reports": control.last_reports(REPORTS) })),
            };
            Some(tokio::task::spawn_blocking(answer).await.unwrap_or_else(|_| {
                problem::response(StatusCode::INTERNAL_SERVER_ERROR, "the registry failed; its log says why")
            }))
        })
    }

    /// Always: a node without its control node goes on serving.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let part = match (&self.control, &self.membership) {
            (Some(_), _) => "control",
            (None, Some(_)) => "member",
            (None, None) => "none",
        };
        let ends = self.certificate_ends.load(Relaxed);
        let rivals = self.control.as_ref().map(|control| control.rivals());
        json!({
            "part": part,
            "region": self.config.region,
            "ring": self.ring,
            "certificate_ends": (ends > 0).then_some(ends),
            "rivals": rivals,
            "control_url": self.config.control_url,
            "nodes": self.fleet.snapshot().nodes.len(),
            "versions": self.control.as_ref().map(|control| control.versions()),
            "membership": self.membership.as_ref().map(|membership| membership.status()),
        })
    }

    fn settle(&self) {
        if let Some(membership) = &self.membership {
            membership.refresh_metrics();
        }
    }

    /// Clients are sent elsewhere from now on.
    fn drain(&self) {
        if let Some(membership) = &self.membership {
            membership.leave();
        }
        if let Some(control) = &self.control {
            control.keep_demand(now_ms());
        }
    }
}

/// An operator is told what failed.
fn refusal(refused: &Refused) -> Response<Body> {
    problem::response(refused.status(), &refused.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ca::{self, CA_CERTIFICATE, CA_KEY};

    const NOW: u64 = 1_700_000_000_000;

    fn open(config: &RegistryConfig, data_dir: &Path) -> RegistryRole {
        let (registry, node) = (Registry::new(), Node::default());
        RegistryRole::open(Parts { config, node, id: "a", data_dir, registry: &registry }).unwrap()
    }

    async fn ask(role: &RegistryRole, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let request = Request::builder().method(method).uri(path).body(Bytes::from(body.to_owned())).unwrap();
        let response = role.admin(request).await?;
        let status = response.status().as_u16();
        let Body::Full(body) = response.into_body() else { panic!("no body") };
        Some((status, serde_json::from_slice(&body).unwrap()))
    }

    #[tokio::test]
    async fn a_control_node_registers_with_itself() {
        let folder = tempfile::tempdir().unwrap();
        let config = RegistryConfig { control: true, region: "north".into(), ..RegistryConfig::default() };
        let role = open(&config, folder.path());
        role.start(&Handle::current(), None);
        let mut watch = role.control().unwrap().kv().watch("nodes/");
        if role.fleet().snapshot().nodes.is_empty() {
            watch.next().await;
        }
        let (status, answer) = ask(&role, "GET", "/registry/nodes", "").await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["nodes"][0]["node"]["region"], "north");
        assert_eq!(answer["nodes"][0]["standing"], "live");
        assert_eq!(ask(&role, "GET", "/registry/nodes/a", "").await.unwrap().0, 200);
        assert_eq!(ask(&role, "GET", "/registry/nodes/b", "").await.unwrap().0, 404);
        assert_eq!(role.status()["part"], "control");
        assert!(ask(&role, "GET", "/policy", "").await.is_none());
        // Without the authority's key it enrols nobody.
        assert_eq!(ask(&role, "POST", "/registry/tokens", "{}").await.unwrap().0, 409);
        let (status, answer) = ask(&role, "DELETE", "/registry/nodes/b", "").await.unwrap();
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["known"], false);
        assert_eq!(ask(&role, "DELETE", "/registry/nodes/b%20c", "").await.unwrap().0, 400);
        let (status, answer) = ask(&role, "POST", "/registry/nodes/c/revoke", "").await.unwrap();
        assert_eq!((status, &answer["revoked"]), (200, &json!("c")), "{answer}");
        let (_, answer) = ask(&role, "GET", "/registry/nodes", "").await.unwrap();
        let revoked =
            answer["revoked"].as_array().unwrap().iter().map(|revoked| revoked["id"].as_str().unwrap());
        assert_eq!(revoked.collect::<Vec<_>>(), ["b", "c"]);
        assert!(answer["now_ms"].as_u64() >= answer["revoked"][0]["since_ms"].as_u64(), "{answer}");
        assert_eq!(role.status()["rivals"], json!({}));
        assert!(answer["versions"]["nodes"].is_array() && role.status()["versions"]["policies"].is_array());
        assert_eq!(ask(&role, "GET", "/registry/reports", "").await.unwrap().0, 200);
    }

    #[tokio::test]
    async fn an_operator_gets_a_token() {
        let folder = tempfile::tempdir().unwrap();
        Authority::create(folder.path(), NOW).unwrap();
        let config = RegistryConfig {
            control: true,
            ca_file: folder.path().join(CA_CERTIFICATE),
            ca_key_file: folder.path().join(CA_KEY),
            ..RegistryConfig::default()
        };
        let role = open(&config, folder.path());
        let body = r#"{"node": "b", "region": "south", "valid_seconds": 60}"#;
        let (status, answer) = ask(&role, "POST", "/registry/tokens", body).await.unwrap();
        assert_eq!((status, answer["token"].as_str().map(str::len)), (200, Some(64)));
        let (status, answer) = ask(&role, "POST", "/registry/tokens", r#"{"nodes": "b"}"#).await.unwrap();
        assert!(status == 400 && answer["detail"].as_str().unwrap().contains("nodes"), "{answer}");
    }

    #[tokio::test]
    async fn a_certificate_s_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let now_ms = wall_ms();
        let authority = Authority::create(folder.path(), now_ms).unwrap();
        let request = ca::Request::parse(&ca::NewKey::make().unwrap().request).unwrap();
        let subject = ca::Subject { id: "a", names: &[] };
        let file = folder.path().join("node.pem");
        ca::write_new(&file, &authority.sign(&request, subject, 30, now_ms).unwrap(), 0o644).unwrap();
        let config = RegistryConfig { certificate_file: file.clone(), ..RegistryConfig::default() };
        let role = open(&config, folder.path());
        assert_eq!(role.status()["certificate_ends"], now_ms / 1000 + 30 * 86_400);
        assert_eq!(role.metrics.certificate_ends.get() as u64, now_ms / 1000 + 30 * 86_400);
        fs::write(&file, "x").unwrap();
        let (registry, node) = (Registry::new(), Node::default());
        let parts = Parts { config: &config, node, id: "a", data_dir: folder.path(), registry: &registry };
        let error = RegistryRole::open(parts).err().unwrap().to_string();
        assert!(error.ends_with("no certificate is in it"), "{error}");
    }

    #[tokio::test]
    async fn a_node_that_stands_alone_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let role = open(&RegistryConfig::default(), folder.path());
        role.start(&Handle::current(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(ask(&role, "GET", "/registry/nodes", "").await.unwrap().0, 409);
        assert_eq!(role.status()["part"], "none");
        role.settle();
        role.drain();
    }
}

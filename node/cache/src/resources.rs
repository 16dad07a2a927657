//! Resources over HTTP: what they are, their bytes, and their torrents (`/.skerry/v1/resources`); and
//! what operators do with them (`/resources` and `/torrents` on the admin listener).

mod admin;
mod data;
mod description;
mod torrent;

use std::sync::{Arc, OnceLock};

use http::{HeaderValue, Method, Response, StatusCode, header};
use skerry_core::api::{Api, Call, Elsewhere};
use skerry_core::bucket::Bucket;
use skerry_core::role::BoxFuture;
use skerry_core::{Body, problem};
use skerry_store::{Catalogue, ChunkId, Held};

use crate::engine::Cache;

/// The resources of a node, for clients and operators.
pub struct Resources {
    pub(crate) cache: Arc<Cache>,
    pub(crate) catalogue: Catalogue,
    /// Trackers that torrents name.
    pub(crate) trackers: Vec<String>,
    /// What operators' fetches share of the way to the origins.
    pub(crate) rate: Arc<Bucket>,
    /// Knows who holds what this node does not.
    owners: OnceLock<Arc<dyn Elsewhere>>,
}

impl Resources {
    /// Over a cache and its catalogue, which answers for the cache's targets from here on; `trackers` are
    /// named in torrents.
    pub fn new(cache: Arc<Cache>, catalogue: Catalogue, trackers: Vec<String>) -> Arc<Self> {
        cache.know(catalogue.clone());
        Arc::new(Self { cache, catalogue, trackers, rate: Arc::new(Bucket::new(0)), owners: OnceLock::new() })
    }

    /// Sends clients who ask for what is not held to who holds it. Once.
    pub fn send_on(&self, owners: Arc<dyn Elsewhere>) {
        let _ = self.owners.set(owners);
    }

    /// The answer to who asks for what another node holds.
    fn elsewhere(&self, call: &Call) -> Option<Response<Body>> {
        let target = call.request.uri().path_and_query()?.as_str();
        let host = crate::request::authority(&call.request).unwrap_or_default();
        let url = self.owners.get()?.redirect(&host, target, call.client)?;
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        let fields = response.headers_mut();
        fields.insert(header::LOCATION, HeaderValue::try_from(url).ok()?);
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }

    /// A resource by the text of its id; the error is the answer.
    async fn find(&self, id: &str) -> Result<Arc<Held>, Response<Body>> {
        let id: ChunkId = id
            .parse()
            .map_err(|_| problem::response(StatusCode::BAD_REQUEST, "a resource id is 64 hex digits"))?;
        let catalogue = self.catalogue.clone();
        match tokio::task::spawn_blocking(move || catalogue.resource(&id)).await {
            Ok(Ok(Some(held))) => Ok(held),
            Ok(Ok(None)) => {
                Err(problem::response(StatusCode::NOT_FOUND, "this node does not hold that resource"))
            }
            Ok(Err(error)) => Err(problem::response(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
            Err(_) => Err(problem::response(StatusCode::SERVICE_UNAVAILABLE, "the node is draining")),
        }
    }
}

impl Api for Resources {
    fn words(&self) -> &'static [&'static str] {
        &["resources"]
    }

    fn answer(self: Arc<Self>, call: Call) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            if !matches!(*call.request.method(), Method::GET | Method::HEAD) {
                let mut response =
                    problem::response(StatusCode::METHOD_NOT_ALLOWED, "resources are read with GET and HEAD");
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
                return response;
            }
            let rest = call.path().strip_prefix("resources/").unwrap_or_default().to_owned();
            let mut parts = rest.splitn(3, '/');
            let id = parts.next().unwrap_or_default();
            let base = base(&call);
            let answer = match (id.strip_suffix(".torrent"), parts.next()) {
                (Some(id), None) => match self.find(id).await {
                    Ok(held) => self.torrent_file(&held, &base, call.request.uri().query()).await,
                    Err(refusal) => refusal,
                },
                (None, None) => match self.find(id).await {
                    Ok(held) => description::describe(held, &base),
                    Err(refusal) => refusal,
                },
                (None, Some("data")) => match self.find(id).await {
                    Ok(held) => {
                        let id = held.id().0;
                        let answer = data::answer(&self.catalogue, held, &call.request);
                        if let Some(demand) = self.cache.demand.get() {
                            demand.asked(&id, crate::object::declared_length(answer.headers()).unwrap_or(0));
                        }
                        return answer;
                    }
                    Err(refusal) => refusal,
                },
                _ => problem::response(
                    StatusCode::NOT_FOUND,
                    "write resources/ID, resources/ID/data or resources/ID.torrent",
                ),
            };
            let answer = match answer.status() {
                StatusCode::NOT_FOUND => self.elsewhere(&call).unwrap_or(answer),
                _ => answer,
            };
            if call.request.method() == Method::HEAD { answer.map(|_| Body::Empty) } else { answer }
        })
    }
}

/// Scheme and authority that the client used.
fn base(call: &Call) -> String {
    let host = crate::request::authority(&call.request).unwrap_or_default();
    format!("{}://{host}", if call.secure { "https" } else { "http" })
}

/// Where a resource's bytes are.
fn data_url(base: &str, held: &Held) -> String {
    let name = percent_encoding::utf8_percent_encode(&held.name, percent_encoding::NON_ALPHANUMERIC);
    format!("{base}/.skerry/v1/resources/{}/data/{name}", held.id())
}

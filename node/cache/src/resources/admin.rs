//! What operators do with resources: fetch, list, remove; and torrents of what is held.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin::json as json_answer, problem};
use skerry_store::catalogue::{CameFrom, CatalogueError, ONCE, Progress};
use skerry_store::{Held, StoreError};
use skerry_wire::metainfo::Kind;

use super::Resources;
use crate::hold::{HoldError, Wanted};

/// Resources in one page of a list.
const PAGE: usize = 1000;

/// `POST /resources`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldRequest {
    /// A site's name.
    #[serde(default = "default_site")]
    site: String,
    /// Path and query.
    path: String,
    /// A file name; by default the last part of the path.
    name: Option<String>,
    /// Whether it is to stay whatever the cache needs.
    #[serde(default = "yes")]
    pin: bool,
}

fn default_site() -> String {
    "default".to_owned()
}

fn yes() -> bool {
    true
}

impl Role for Resources {
    fn name(&self) -> &'static str {
        "resources"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            let path = request.uri().path();
            let answer = match (request.method(), path) {
                (&Method::POST, "/resources") => self.hold(request.body()).await,
                (&Method::GET, "/resources") => self.listed(request.uri().query()).await,
                (&Method::POST, "/torrents") => self.add_torrent(request.uri().query(), request.body()).await,
                (&Method::DELETE, _) => match path.strip_prefix("/resources/") {
                    Some(id) => self.remove(id, request.uri().query()).await,
                    None => return None,
                },
                _ => return None,
            };
            Some(answer)
        })
    }

    fn admin_limit(&self, path: &str) -> Option<usize> {
        (path == "/torrents").then_some(skerry_wire::metainfo::MAX_METAINFO)
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        let (count, bytes) = self.catalogue.totals();
        json!({ "count": count, "bytes": bytes })
    }
}

impl Resources {
    async fn hold(&self, body: &Bytes) -> Response<Body> {
        let asked: HoldRequest = match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => {
                let detail = format!("write {{\"site\": \"default\", \"path\": \"/file\"}}: {error}");
                return problem::response(StatusCode::BAD_REQUEST, &detail);
            }
        };
        let from = CameFrom { site: asked.site, target: asked.path };
        let pin = asked.pin.then(|| format!("{ONCE}{:016x}", fastrand::u64(..)));
        let wanted = Wanted { from, name: asked.name, pin: pin.clone() };
        let (cache, catalogue, rate) = (self.cache.clone(), self.catalogue.clone(), self.rate.clone());
        let (background, catalogue_after) = (self.cache.background.clone(), catalogue.clone());
        // Goes on when the operator does not wait for it.
        let holding = background.spawn(async move {
            let held = cache.hold(&catalogue, wanted, &Progress::default(), rate).await;
            if let (Err(_), Some(pin)) = (&held, pin) {
                let store = cache.store.clone();
                let _ = tokio::task::spawn_blocking(move || store.unpin_parts_blocking(&pin)).await;
            }
            held
        });
        match holding.await {
            Ok(Ok(held)) => self.held(&held, catalogue_after).await,
            Ok(Err(error)) => problem::response(status(&error), &error.to_string()),
            Err(_) => problem::response(StatusCode::SERVICE_UNAVAILABLE, "the node is draining"),
        }
    }

    /// What was made of a target: the resource and its torrent's info-hashes.
    async fn held(&self, held: &Arc<Held>, catalogue: skerry_store::Catalogue) -> Response<Body> {
        let of = held.clone();
        let torrent = tokio::task::spawn_blocking(move || catalogue.add_torrent_of(&of, Kind::Hybrid)).await;
        let Ok(Ok(torrent)) = torrent else {
            return problem::response(StatusCode::INTERNAL_SERVER_ERROR, "its torrent cannot be written");
        };
        let info = torrent.metainfo.info();
        json_answer(&json!({
            "id": held.id().to_string(),
            "name": held.name,
            "length": held.resource.length,
            "pinned": held.pin.is_some(),
            "info_hash_v1": info.hash_v1().map(|hash| hash.to_string()),
            "info_hash_v2": info.hash_v2().map(|hash| hash.to_string()),
        }))
    }

    /// A page of what is held; `?from=ID` begins there.
    async fn listed(&self, query: Option<&str>) -> Response<Body> {
        let from =
            query.and_then(|query| query.strip_prefix("from=")).map(str::parse::<skerry_store::ChunkId>);
        let from = match from {
            Some(Ok(id)) => id.0.to_vec(),
            Some(Err(reason)) => return problem::response(StatusCode::BAD_REQUEST, reason),
            None => Vec::new(),
        };
        let catalogue = self.catalogue.clone();
        let list = move || {
            let (mut resources, mut next) = (Vec::new(), None);
            catalogue.each(&from, |held| {
                if resources.len() == PAGE {
                    next = Some(held.id().to_string());
                } else {
                    resources.push(line(&held, &catalogue.owners(&held)));
                }
                next.is_none()
            })?;
            Ok::<_, StoreError>(json!({ "resources": resources, "next": next }))
        };
        match tokio::task::spawn_blocking(list).await {
            Ok(Ok(page)) => json_answer(&page),
            _ => problem::response(StatusCode::INTERNAL_SERVER_ERROR, "the catalogue cannot be read"),
        }
    }

    /// Takes the operators' pin off a resource, and the resource off the record when nobody else has it
    /// pinned; with `?force=true` whoever has.
    async fn remove(&self, id: &str, query: Option<&str>) -> Response<Body> {
        let force = match query {
            None => false,
            Some("force=true") => true,
            Some(query) => {
                let detail = format!("`{query}` is not known; write force=true, or nothing");
                return problem::response(StatusCode::BAD_REQUEST, &detail);
            }
        };
        let held = match self.find(id).await {
            Ok(held) => held,
            Err(refusal) => return refusal,
        };
        let catalogue = self.catalogue.clone();
        let release = move || catalogue.release(&held.id(), |name| force || name.starts_with(ONCE));
        match tokio::task::spawn_blocking(release).await {
            Ok(Ok(left)) => {
                let left = left.unwrap_or_default();
                json_answer(&match left.is_empty() {
                    true => json!({ "removed": true }),
                    false => json!({ "removed": false, "pinned_by": owners(&left) }),
                })
            }
            Ok(Err(error)) => problem::response(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            Err(_) => problem::response(StatusCode::SERVICE_UNAVAILABLE, "the node is draining"),
        }
    }
}

/// Who has something pinned, in a word each.
fn owners(names: &[String]) -> Vec<&str> {
    fn word(name: &str) -> &str {
        if name.starts_with(ONCE) { "operator" } else { name.split(' ').next().unwrap_or_default() }
    }
    let mut words: Vec<&str> = names.iter().map(|name| word(name)).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn line(held: &Held, names: &[String]) -> serde_json::Value {
    json!({
        "id": held.id().to_string(),
        "name": held.name,
        "length": held.resource.length,
        "pinned": held.pin.is_some(),
        "pinned_by": owners(names),
        "site": held.from.as_ref().map(|from| &from.site),
        "path": held.from.as_ref().map(|from| &from.target),
    })
}

fn status(error: &HoldError) -> StatusCode {
    match error {
        HoldError::NoSite(_) => StatusCode::NOT_FOUND,
        HoldError::Target(_) => StatusCode::BAD_REQUEST,
        HoldError::Busy | HoldError::NotKept(_) => StatusCode::CONFLICT,
        HoldError::Status(_) | HoldError::Broken(_) => StatusCode::BAD_GATEWAY,
        HoldError::Catalogue(CatalogueError::Clash(_)) => StatusCode::CONFLICT,
        HoldError::Store(error) | HoldError::Catalogue(CatalogueError::Store(error)) => match error {
            StoreError::PinnedFull { .. } | StoreError::OnlyPinned { .. } | StoreError::DiskFull { .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        },
        HoldError::Catalogue(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

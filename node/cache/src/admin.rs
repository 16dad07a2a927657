//! What operators ask of the cache: purge, pin, status.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use skerry_core::admin::json as json_answer;
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, problem};
use skerry_store::{Located, StoreError};

use crate::engine::Cache;
use crate::index::Key;
use crate::object::Variant;
use crate::purge::{Effect, Scope};
use crate::site::Site;

/// `POST /purge`: one of the three selectors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeRequest {
    url: Option<String>,
    prefix: Option<String>,
    tag: Option<String>,
    #[serde(default)]
    soft: bool,
}

/// `POST /store/pin` and `/store/unpin`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinRequest {
    url: String,
}

impl Role for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            match (request.method(), request.uri().path()) {
                (&Method::POST, "/purge") => Some(self.purge(request.body()).await),
                (&Method::POST, "/store/pin") => Some(self.pin(request.body(), true).await),
                (&Method::POST, "/store/unpin") => Some(self.pin(request.body(), false).await),
                _ => None,
            }
        })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn settle(&self) {
        self.tallies.settle();
    }

    fn status(&self) -> serde_json::Value {
        let sites = self.sites.load();
        let (mut requests, mut hits, mut client_bytes, mut origin_bytes) = (0, 0, 0, 0);
        let mut list = Vec::new();
        for site in sites.iter() {
            let (all, hit) = site.metrics.totals();
            requests += all;
            hits += hit;
            client_bytes += site.metrics.client_bytes.get();
            origin_bytes += site.metrics.origin_bytes.get();
            list.push(json!({
                "site": &*site.name,
                "origin": site.origin.to_string(),
                "healthy": site.healthy.load(Relaxed),
                "in_flight": site.in_flight.load(Relaxed),
                "requests": all,
                "hits": hit,
            }));
        }
        let hit_ratio = if requests == 0 { 0.0 } else { hits as f64 / requests as f64 };
        json!({
            "requests": requests, "hits": hits, "hit_ratio": hit_ratio,
            "client_bytes": client_bytes, "origin_bytes": origin_bytes, "sites": list,
        })
    }
}

impl Cache {
    async fn purge(&self, body: &Bytes) -> Response<Body> {
        let asked: PurgeRequest = match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => return bad(&format!("the purge is not understood: {error}")),
        };
        let effect = if asked.soft { Effect::Soft } else { Effect::Hard };
        let scope = match (asked.url, asked.prefix, asked.tag) {
            (Some(url), None, None) => {
                self.located(&url).map(|(site, target)| Scope::Target(site.name.to_string(), target))
            }
            (None, Some(prefix), None) => {
                self.located(&prefix).map(|(site, target)| Scope::Prefix(site.name.to_string(), target))
            }
            (None, None, Some(tag)) if !tag.is_empty() => Ok(Scope::Tag(tag)),
            _ => Err("name one of `url`, `prefix` and `tag`".to_owned()),
        };
        let scope = match scope {
            Ok(scope) => scope,
            Err(reason) => return bad(&reason),
        };
        let store = self.store.clone();
        // The write waits for the disk; an operator's purge is worth a moment of the admin thread.
        let done = self.index.purges.add(store.meta(), scope.clone(), effect);
        match done {
            Ok(()) => {
                log::info!(scope:? = scope, effect:? = effect; "purged");
                json_answer(&json!({ "purged": true }))
            }
            Err(error) => failed(&error),
        }
    }

    /// Site and target of a URL, as clients write it.
    fn located(&self, url: &str) -> Result<(Arc<Site>, String), String> {
        let uri: http::Uri = url.parse().map_err(|_| format!("`{url}` is no URL; write http://host/path"))?;
        let authority =
            uri.authority().ok_or_else(|| format!("`{url}` names no host; write http://host/path"))?;
        let site = self.sites.load().find(authority.as_str()).cloned();
        let site = site.ok_or_else(|| format!("no site of this node has the host of `{url}`"))?;
        Ok((site, uri.path_and_query().map_or("/", |target| target.as_str()).to_owned()))
    }

    async fn pin(&self, body: &Bytes, pin: bool) -> Response<Body> {
        let url = match serde_json::from_slice::<PinRequest>(body) {
            Ok(asked) => asked.url,
            Err(error) => return bad(&format!("the request is not understood: {error}")),
        };
        let (site, target) = match self.located(&url) {
            Ok(located) => located,
            Err(reason) => return bad(&reason),
        };
        let name = format!("object {} {target}", site.name);
        if !pin {
            return match self.store.unpin(&name).await {
                Ok(true) => json_answer(&json!({ "unpinned": true })),
                Ok(false) => problem::response(StatusCode::NOT_FOUND, "that URL is not pinned"),
                Err(error) => failed(&error),
            };
        }
        let key = Key { site: site.name.clone(), target: target.as_str().into() };
        let entry = match self.index.load(&key, &site.policy) {
            Ok(entry) => entry,
            Err(error) => return failed(&error),
        };
        let variant = entry.and_then(|entry| {
            let object = self.index.select(&site, &target, &entry, &HeaderMap::new());
            let selected = |variant: &&Variant| {
                object.as_ref().is_none_or(|object| Arc::ptr_eq(object, &variant.object))
            };
            entry.variants.iter().find(selected).cloned()
        });
        let held = |variant: &Variant| {
            variant.object.body.is_complete() && !variant.object.body.removed.load(Relaxed)
        };
        let Some(variant) = variant.filter(held) else {
            let detail = "that URL is not completely cached yet; fetch it once, then pin it";
            return problem::response(StatusCode::CONFLICT, detail);
        };
        let chunks: Vec<Located> =
            variant.object.body.extents.read().iter().map(|extent| extent.chunk).collect();
        // Its record must be as durable as its bytes.
        if let Err(error) = self.index.persist(&key, &variant, &site.policy) {
            return failed(&error);
        }
        match self.store.pin(&name, chunks).await {
            Ok(()) => json_answer(&json!({ "pinned": true })),
            Err(error) => failed(&error),
        }
    }
}

fn bad(reason: &str) -> Response<Body> {
    problem::response(StatusCode::BAD_REQUEST, reason)
}

fn failed(error: &StoreError) -> Response<Body> {
    let status = match error {
        StoreError::PinnedFull { .. } | StoreError::DiskFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Missing(_) => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem::response(status, &error.to_string())
}

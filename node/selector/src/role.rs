//! The selector as a role of the node, and what operators ask of it: why a client is sent where it is.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin, problem};
use skerry_policy::rows::Inputs;

use crate::api::{Asked, now_ms};
use crate::error::SelectorError;
use crate::files;
use crate::route::{Route, Selector};

/// The selector as a role.
pub struct SelectorRole(Arc<Selector>);

impl SelectorRole {
    /// The role; its files are read again when they change from here on.
    ///
    /// # Errors
    /// When a folder of the files cannot be watched.
    pub fn new(selector: Arc<Selector>) -> Result<Self, SelectorError> {
        files::watch(&selector)?;
        Ok(Self(selector))
    }

    /// Where a client is, what the policy is asked for it, and what it says.
    fn explain(&self, client: IpAddr, resource: Option<&str>) -> Value {
        let now_ms = now_ms();
        let question = self.0.ask(client, resource, now_ms, fastrand::u64(..));
        let (Inputs::RegionRouter { candidates, .. }, field) = (&question.inputs, &question.field) else {
            return Value::Null;
        };
        let rows = candidates.iter().zip(&question.links).map(|(candidate, link)| {
            let found = field.link(*link);
            let named = found.map(|(node, at, _)| json!({ "node": node.id, "link": node.links[at].name }));
            json!({ "link": named, "row": candidate })
        });
        let rows: Vec<Value> = rows.collect();
        let Route { place, isp, nodes, policy } = self.0.decide(question, now_ms);
        let deep = place.deep.map(|deep| json!({ "zone": &*deep.name, "nodes": &*deep.nodes }));
        let nodes = nodes.iter().map(|routed| {
            json!({ "id": routed.node.id, "link": routed.link().name, "url": routed.link().url,
                    "weight": routed.weight, "held_permille": routed.held })
        });
        json!({
            "client": client,
            "region": &*place.region.name,
            "source": place.source.name(),
            "country": place.country,
            "isp": isp.map(|isp| json!({ "asn": isp.asn, "name": &*isp.name, "number": isp.number })),
            "deep": deep,
            "rows": rows,
            "nodes": nodes.collect::<Vec<_>>(),
            "policy": { "name": policy.name, "version": policy.version, "reason": policy.reason },
        })
    }
}

impl Role for SelectorRole {
    fn name(&self) -> &'static str {
        "selector"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::GET, "/selector") => match Asked::read(request.uri().query().unwrap_or_default()) {
                Ok(Asked { client: Some(client), resource }) => {
                    Some(admin::json(&self.explain(client, resource.as_deref())))
                }
                Ok(_) => Some(admin::json(&self.status())),
                Err(reason) => Some(problem::response(StatusCode::BAD_REQUEST, &reason)),
            },
            _ => None,
        };
        Box::pin(std::future::ready(answer))
    }

    /// Always: without files all clients are in the default region.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let metrics = &self.0.metrics;
        json!({
            "files": self.0.files.status(),
            "links": metrics.links.get(),
            "routed": metrics.duration.get_sample_count(),
            "unrouted": metrics.unrouted.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::config::SelectorConfig;
    use crate::route::tests::{World, node};

    async fn get(role: &SelectorRole, target: &str) -> Option<(u16, Value)> {
        let request = Request::builder().uri(target).body(Bytes::new()).unwrap();
        let response = role.admin(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap()))
    }

    #[tokio::test]
    async fn a_clients_way_is_explained() {
        let world = World::new(SelectorConfig { default_region: "eu".into(), ..SelectorConfig::default() });
        let mut node = node("a", "eu");
        node.seen_ms = now_ms();
        world.fleet.hear([node]);
        let role = SelectorRole::new(world.selector.clone()).unwrap();
        let (status, told) = get(&role, "/selector?client=192.0.2.1").await.unwrap();
        assert_eq!((status, &told["source"], &told["region"]), (200, &json!("default"), &json!("eu")));
        assert_eq!(told["rows"][0]["link"], json!({ "node": "a", "link": "a" }));
        assert_eq!(told["rows"][0]["row"]["capacity-kbps"], 1_000_000);
        assert_eq!(told["nodes"][0]["id"], "a");
        let (status, told) = get(&role, "/selector").await.unwrap();
        assert_eq!((status, &told["links"], &told["files"]), (200, &json!(1), &json!([])));
        assert_eq!(get(&role, "/selector?client=x").await.unwrap().0, 400);
        assert!(get(&role, "/purge").await.is_none());
    }
}

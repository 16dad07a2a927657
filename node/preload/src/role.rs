//! The preloader as a role of the node, and what operators ask of it: to hold something, and how far it
//! is.
//!
//! | request | |
//! |---|---|
//! | `GET /preload` | orders and lists of all nodes, on the control node; how far this node is |
//! | `GET /preload?node=ID` | the list of one node, on the control node |
//! | `POST /preload/resources` | something is to be held: `{"site", "path", "region", "priority"}` |
//! | `DELETE /preload/resources?site=&path=&region=` | it need not be held any more |

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin, problem};
use url::form_urlencoded;

use crate::clock::now_ms;
use crate::error::{PlanError, Refused};
use crate::filler::Filler;
use crate::orders::Order;
use crate::planner::Planner;

/// Where orders are given.
const RESOURCES: &str = "/preload/resources";

/// The preloader of a node: the planner is on the control node alone.
pub struct PreloadRole {
    planner: Option<Arc<Planner>>,
    filler: Arc<Filler>,
}

impl PreloadRole {
    /// The role.
    pub fn new(planner: Option<Arc<Planner>>, filler: Arc<Filler>) -> Self {
        Self { planner, filler }
    }

    /// Has the planner do something that waits for a disk or a policy.
    async fn plan(
        &self,
        work: impl FnOnce(&Planner) -> Result<Value, Refused> + Send + 'static,
    ) -> Response<Body> {
        let Some(planner) = self.planner.clone() else {
            let detail = "this is not the fleet's control node; ask there";
            return problem::response(StatusCode::NOT_FOUND, detail);
        };
        match tokio::task::spawn_blocking(move || work(&planner)).await {
            Ok(Ok(value)) => admin::json(&value),
            Ok(Err(refused)) => problem::response(refused.status(), &refused.to_string()),
            Err(_) => {
                let detail = "the planner failed; the log says more";
                problem::response(StatusCode::INTERNAL_SERVER_ERROR, detail)
            }
        }
    }

    async fn order(&self, body: &Bytes) -> Response<Body> {
        let order: Order = match serde_json::from_slice(body) {
            Ok(order) => order,
            Err(error) => {
                let detail = format!("write {{\"site\": \"default\", \"path\": \"/file\"}}: {error}");
                return problem::response(StatusCode::BAD_REQUEST, &detail);
            }
        };
        self.plan(move |planner| planner.order(order, now_ms()).map(|order| json!(order))).await
    }

    async fn withdraw(&self, query: &str) -> Response<Body> {
        let (mut site, mut path, mut region) = ("default".to_owned(), None, String::new());
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "site" => site = value.into_owned(),
                "path" => path = Some(value.into_owned()),
                "region" => region = value.into_owned(),
                other => {
                    let detail = format!("`{other}` is none of `site`, `path` and `region`");
                    return problem::response(StatusCode::BAD_REQUEST, &detail);
                }
            }
        }
        let Some(path) = path else {
            return problem::response(StatusCode::BAD_REQUEST, "name the `path`");
        };
        self.plan(move |planner| planner.withdraw(&site, &path, &region).map(|order| json!(order))).await
    }

    async fn show(&self, query: &str) -> Response<Body> {
        let node = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "node");
        if let Some((_, node)) = node {
            let node = node.into_owned();
            let list = move |planner: &Planner| match planner.told_last(&node) {
                Some(list) => Ok(json!(*list)),
                None => Err(Refused::from(PlanError::Untold(node))),
            };
            return self.plan(list).await;
        }
        let own = self.filler.status();
        if self.planner.is_none() {
            return admin::json(&json!({ "node": own }));
        }
        self.plan(move |planner| Ok(json!({ "node": own, "planner": planner.summary() }))).await
    }
}

impl Role for PreloadRole {
    fn name(&self) -> &'static str {
        "preload"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let query = head.uri.query().unwrap_or_default();
            Some(match (&head.method, head.uri.path()) {
                (&Method::GET, "/preload") => self.show(query).await,
                (&Method::POST, RESOURCES) => self.order(&body).await,
                (&Method::DELETE, RESOURCES) => self.withdraw(query).await,
                (_, RESOURCES) => {
                    let detail = "orders are given with POST and taken back with DELETE";
                    let mut refusal = problem::response(StatusCode::METHOD_NOT_ALLOWED, detail);
                    refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, DELETE"));
                    refusal
                }
                _ => return None,
            })
        })
    }

    /// Always: a node that holds nothing yet still serves.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        self.filler.status()
    }

    fn settle(&self) {
        self.filler.settle();
        if let Some(planner) = &self.planner {
            planner.settle();
        }
    }

    fn drain(&self) {
        self.filler.drain();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::filler::tests::{World, quiet};

    async fn ask(role: &PreloadRole, method: Method, target: &str, body: &str) -> Option<(u16, Value)> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let request = Request::builder().method(method).uri(target).body(body).unwrap();
        let response = role.admin(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Some((status, serde_json::from_slice(&body).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn orders_are_given_shown_and_taken_back() {
        let world = World::new();
        let (planner, _folder) = crate::planner::tests::alone("a");
        let role = PreloadRole::new(Some(planner.clone()), world.start(quiet()));
        let order = r#"{"path": "/film.mp4?x=1", "region": "north", "priority": 3}"#;
        let (status, told) = ask(&role, Method::POST, RESOURCES, order).await.unwrap();
        assert_eq!((status, &told["site"], &told["priority"]), (200, &json!("default"), &json!(3)));
        let (_, told) = ask(&role, Method::GET, "/preload", "").await.unwrap();
        assert_eq!(told["planner"]["orders"][0]["path"], "/film.mp4?x=1");
        assert_eq!(told["node"]["enabled"], true);
        assert_eq!(ask(&role, Method::GET, "/preload?node=a", "").await.unwrap().0, 404);
        planner.list("a", now_ms()).unwrap();
        let (_, told) = ask(&role, Method::GET, "/preload?node=a", "").await.unwrap();
        assert_eq!(told["items"][0]["path"], "/film.mp4?x=1");
        let gone = "/preload/resources?path=%2Ffilm.mp4%3Fx%3D1&region=north";
        assert_eq!(ask(&role, Method::DELETE, gone, "").await.unwrap().0, 200);
        assert_eq!(ask(&role, Method::DELETE, gone, "").await.unwrap().0, 404);
        role.settle();
        assert_eq!((role.name(), role.ready()), ("preload", Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_makes_no_sense_is_said() {
        let world = World::new();
        let (planner, _folder) = crate::planner::tests::alone("a");
        let role = PreloadRole::new(Some(planner), world.start(quiet()));
        for (method, target, body) in [
            (Method::POST, RESOURCES, "{"),
            (Method::POST, RESOURCES, r#"{"path": "film"}"#),
            (Method::DELETE, RESOURCES, ""),
            (Method::DELETE, "/preload/resources?path=/a&when=1", ""),
        ] {
            assert_eq!(ask(&role, method, target, body).await.unwrap().0, 400, "{target} {body}");
        }
        assert_eq!(ask(&role, Method::PUT, RESOURCES, "").await.unwrap().0, 405);
        assert!(ask(&role, Method::GET, "/purge", "").await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_plans_nothing_says_where_to_ask() {
        let world = World::new();
        let role = PreloadRole::new(None, world.start(quiet()));
        let (status, told) = ask(&role, Method::POST, RESOURCES, r#"{"path": "/a"}"#).await.unwrap();
        assert_eq!(status, 404);
        assert!(told["detail"].as_str().unwrap().contains("control node"), "{told}");
        let (status, told) = ask(&role, Method::GET, "/preload", "").await.unwrap();
        assert_eq!((status, &told["planner"]), (200, &Value::Null));
        assert_eq!(role.status()["progress"]["listed"], 0);
        role.drain();
    }
}

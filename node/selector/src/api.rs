//! `GET /.skerry/v1/route?resource=ID&client=IP`: the nodes for a client, as JSON.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::Serialize;
use skerry_core::api::{Api, Call};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, problem};
// Who is alive is told by the registry's clock.
pub(crate) use skerry_registry::clock::now_ms;

use crate::redirect::is_id;
use crate::route::{Route, Selector};

/// The answer.
#[derive(Serialize)]
struct Answer<'a> {
    /// Null when it is unknown, as is `isp`.
    region: Option<&'a str>,
    isp: Option<Operator<'a>>,
    nodes: Vec<Named<'a>>,
    trackers: &'a [String],
    policy: Policy<'a>,
}

#[derive(Serialize)]
struct Operator<'a> {
    asn: Option<u32>,
    name: &'a str,
}

#[derive(Serialize)]
struct Named<'a> {
    id: &'a str,
    link: NamedLink<'a>,
    weight: u32,
    /// How much of the resource it holds, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_permille: Option<u32>,
}

#[derive(Serialize)]
struct NamedLink<'a> {
    name: &'a str,
    url: &'a str,
    isp: &'a str,
}

#[derive(Serialize)]
struct Policy<'a> {
    name: &'a str,
    version: Option<&'a str>,
    reason: &'a str,
}

/// What is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// In small letters.
    pub(crate) resource: Option<String>,
    pub(crate) client: Option<IpAddr>,
}

impl Asked {
    /// Reads a query; the error says what is wrong. Keys that are not known are left for later versions.
    pub(crate) fn read(query: &str) -> Result<Self, String> {
        let mut asked = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "resource" if asked.resource.is_some() => return Err("`resource` comes twice".into()),
                "resource" if is_id(&value) => asked.resource = Some(value.to_ascii_lowercase()),
                "resource" => {
                    return Err(format!("`resource` is `{}`; an id has 64 hex digits", short(&value)));
                }
                "client" if asked.client.is_some() => return Err("`client` comes twice".into()),
                "client" => {
                    let client: IpAddr = value.parse().map_err(|_| {
                        format!("`client` is `{}`; it must be an IPv4 or IPv6 address", short(&value))
                    })?;
                    asked.client = Some(client);
                }
                _ => {}
            }
        }
        Ok(asked)
    }
}

/// The beginning of what somebody sent, for an error.
fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

impl Selector {
    /// Answers one request. `peer` is the other end of its connection.
    fn respond(&self, path: &str, method: &Method, query: &str, peer: IpAddr, headers: &HeaderMap) -> Reply {
        if path != "route" {
            return Err((StatusCode::NOT_FOUND, "there is only `/.skerry/v1/route` here".into()));
        }
        if method != Method::GET && method != Method::HEAD {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "a route is asked for with GET".into()));
        }
        let asked = Asked::read(query).map_err(|reason| (StatusCode::BAD_REQUEST, reason))?;
        let client = match asked.client {
            Some(client) if self.trusted.has(peer) => client,
            Some(_) => {
                let reason = "`client` is for callers in `selector.trusted`, and you are not; leave it out \
                              to ask for yourself";
                return Err((StatusCode::FORBIDDEN, reason.into()));
            }
            None => self.trusted.client(peer, headers),
        };
        let began = Instant::now();
        let route = self.route(client, asked.resource.as_deref(), now_ms(), fastrand::u64(..));
        self.metrics.duration.observe(began.elapsed().as_secs_f64());
        Ok(json(&route, &self.config.trackers, asked.resource.is_some()))
    }
}

/// A document, or a status and what to say.
type Reply = Result<Vec<u8>, (StatusCode, String)>;

/// An answer as JSON.
fn json(route: &Route, trackers: &[String], with_held: bool) -> Vec<u8> {
    let nodes = route.nodes.iter().map(|routed| {
        let link = routed.link();
        Named {
            id: &routed.node.id,
            link: NamedLink { name: &link.name, url: &link.url, isp: &link.isp },
            weight: routed.weight,
            held_permille: with_held.then_some(routed.held),
        }
    });
    let region = &*route.place.region.name;
    let policy = &route.policy;
    let answer = Answer {
        region: (!region.is_empty()).then_some(region),
        isp: route.isp.as_ref().map(|isp| Operator { asn: isp.asn, name: &isp.name }),
        nodes: nodes.collect(),
        trackers,
        policy: Policy { name: &policy.name, version: policy.version.as_deref(), reason: policy.reason },
    };
    serde_json::to_vec(&answer).expect("text and numbers are JSON")
}

impl Api for Selector {
    fn words(&self) -> &'static [&'static str] {
        &["route"]
    }

    fn answer(self: Arc<Self>, call: Call) -> BoxFuture<'static, Response<Body>> {
        let request = &call.request;
        let query = request.uri().query().unwrap_or_default();
        let reply = self.respond(call.path(), request.method(), query, call.client.ip(), request.headers());
        let response = match reply {
            Ok(document) => {
                let mut response = Response::new(Body::from(Bytes::from(document)));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                // It is for this client, now.
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err((status, reason)) => {
                self.metrics.refused.inc();
                let mut response = problem::response(status, &reason);
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
                }
                response
            }
        };
        Box::pin(std::future::ready(response))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::SelectorConfig;
    use crate::route::tests::{World, node};

    fn world() -> World {
        let config = SelectorConfig {
            default_region: "eu".into(),
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
            trackers: vec!["udp://t.example:6969".into()],
            ..SelectorConfig::default()
        };
        let world = World::new(config);
        let mut node = node("a", "eu");
        node.links[0].isp = "Example".into();
        node.seen_ms = now_ms();
        world.fleet.hear([node]);
        world
    }

    fn ask(world: &World, query: &str, peer: &str) -> Result<Value, (StatusCode, String)> {
        let headers = HeaderMap::new();
        let reply = world.selector.respond("route", &Method::GET, query, peer.parse().unwrap(), &headers);
        reply.map(|document| serde_json::from_slice(&document).unwrap())
    }

    fn status(world: &World, query: &str, peer: &str) -> u16 {
        ask(world, query, peer).map_or_else(|(status, _)| status.as_u16(), |_| 200)
    }

    #[test]
    fn the_answer_is_that_of_the_contract() {
        let world = world();
        let mut answer = ask(&world, "", "192.0.2.1").unwrap();
        assert!(answer["nodes"][0]["weight"].take().as_u64().unwrap() > 0);
        let link = json!({ "name": "a", "url": "http://a.example:8080", "isp": "Example" });
        assert_eq!(
            answer,
            json!({
                "region": "eu",
                "isp": null,
                "nodes": [{ "id": "a", "link": link, "weight": null }],
                "trackers": ["udp://t.example:6969"],
                "policy": { "name": "built-in", "version": null, "reason": "no-policy" },
            })
        );
        let answer = ask(&world, &format!("resource={}", "AB".repeat(32)), "192.0.2.1").unwrap();
        assert_eq!(answer["nodes"][0]["held_permille"], 0);
    }

    #[test]
    fn only_the_trusted_ask_for_others() {
        let world = world();
        assert_eq!(status(&world, "client=192.0.2.1", "10.1.2.3"), 200);
        assert_eq!(status(&world, "client=2001:db8::1", "10.1.2.3"), 200);
        assert_eq!(status(&world, "client=192.0.2.1", "192.0.2.1"), 403);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let world = world();
        let long = format!("client={}", "9".repeat(10_000));
        for query in [
            "resource=1",
            "resource=",
            "client=example",
            "client=10.0.0.1:80",
            "client=10.0.0.1&client=10.0.0.2",
            "client=%00%ff",
            long.as_str(),
        ] {
            let (status, reason) = ask(&world, query, "10.1.2.3").unwrap_err();
            assert_eq!(status, 400, "{query}");
            assert!(reason.len() < 200, "{reason}");
        }
        assert_eq!(status(&world, "x=1&&=&resource", "10.1.2.3"), 400);
        assert_eq!(status(&world, "x=1&&=&y", "10.1.2.3"), 200);
    }

    #[test]
    fn only_get_and_only_there() {
        let world = world();
        let ask = |path: &str, method: Method| {
            let peer = "192.0.2.1".parse().unwrap();
            world.selector.respond(path, &method, "", peer, &HeaderMap::new()).map_err(|(status, _)| status)
        };
        assert!(ask("route", Method::HEAD).is_ok());
        assert_eq!(ask("route", Method::POST), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(ask("route/x", Method::GET), Err(StatusCode::NOT_FOUND));
    }

    #[tokio::test]
    async fn refusals_are_problem_documents() {
        let world = world();
        let call = |method: Method, target: &str| Call {
            request: http::Request::builder().method(method).uri(target).body(Body::Empty).unwrap(),
            client: "192.0.2.1:4711".parse().unwrap(),
            via: "192.0.2.1:4711".parse().unwrap(),
            secure: false,
            certificate: None,
        };
        let refused = world.selector.clone().answer(call(Method::PUT, "/.skerry/v1/route")).await;
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()[header::ALLOW], "GET, HEAD");
        assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/problem+json");
        let answered = world.selector.clone().answer(call(Method::GET, "/.skerry/v1/route?x=1")).await;
        assert_eq!(answered.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!((world.selector.metrics.refused.get(), world.selector.words()), (1, &["route"][..]));
    }
}

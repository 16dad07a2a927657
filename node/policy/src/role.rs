//! Policies on the admin listener: take, list, promote, hold, roll back, explain, decide.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin, problem};

use crate::decisions::Query;
use crate::manifest::World;
use crate::package::MOST_PACKAGE;
use crate::policies::Policies;
use crate::rows::Inputs;
use crate::version::Version;
use crate::{PolicyError, watch};

const PUSH: &str = "/policy/push";

/// The policies as a role of the node.
pub struct PolicyRole(Policies);

/// A decision to be made: what the roles that ask will ask.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    inputs: Inputs,
    #[serde(default)]
    client: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    world: World,
    #[serde(default = "held")]
    held: bool,
}

fn held() -> bool {
    true
}

impl PolicyRole {
    /// The role; begins to watch the folder.
    pub fn new(policies: Policies) -> Self {
        if let Err(error) = watch::begin(&policies) {
            log::error!("no policies are taken from their folder: {error}");
        }
        Self(policies)
    }

    async fn push(&self, file: Bytes) -> Response<Body> {
        let policies = self.0.clone();
        match tokio::task::spawn_blocking(move || policies.take(file.into())).await {
            Ok(Ok(taken)) => admin::json(&json!(taken)),
            Ok(Err(error)) => problem::response(status(&error), &error.to_string()),
            Err(_) => problem::response(StatusCode::INTERNAL_SERVER_ERROR, "taking the policy failed"),
        }
    }

    fn change(&self, path: &str, body: &[u8]) -> Response<Body> {
        let change: Change = match serde_json::from_slice(body) {
            Ok(change) => change,
            Err(error) => {
                return bad(&format!("the body is no change, as {{\"world\": \"region-router\"}}: {error}"));
            }
        };
        let none = || problem::response(StatusCode::CONFLICT, "no policy is on its way in that world");
        let done = match path {
            "/policy/promote" => self.0.promote(change.world),
            "/policy/hold" => self.0.hold(change.world, change.held),
            _ => {
                return match self.0.roll_back(change.world) {
                    Some(now) => admin::json(&json!({ "world": change.world, "decides": now })),
                    None => problem::response(
                        StatusCode::CONFLICT,
                        "there is nothing to go back to in that world",
                    ),
                };
            }
        };
        if done { admin::json(&self.list()) } else { none() }
    }

    fn decide(&self, body: &[u8]) -> Response<Body> {
        match serde_json::from_slice::<Asked>(body) {
            Ok(asked) => {
                let decided = self.0.decide(&asked.inputs, asked.client);
                let policy =
                    decided.policy.map(|(name, version)| json!({ "name": name, "version": version }));
                admin::json(&json!({ "answer": decided.answer, "policy": policy, "cause": decided.cause }))
            }
            Err(error) => bad(&format!("the body is no decision to be made: {error}")),
        }
    }

    fn list(&self) -> Value {
        let each = World::ALL.map(|world| {
            let slot = self.0.slot(world);
            let now = Instant::now();
            let candidate = slot.candidate.as_ref().map(
                |trial| json!({ "policy": told(&trial.version, now), "rollout": trial.rollout.status(now) }),
            );
            json!({
                "world": world,
                "decides": slot.incumbent.as_ref().map(|version| told(version, now)),
                "candidate": candidate,
                "previous": slot.previous.as_ref().map(|previous| {
                    previous.as_ref().map_or_else(|| json!("built-in"), |version| told(version, now))
                }),
            })
        });
        json!({ "worlds": each })
    }
}

impl Role for PolicyRole {
    fn name(&self) -> &'static str {
        "policy"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let path = head.uri.path();
            Some(match (&head.method, path) {
                (&Method::GET, "/policy") => admin::json(&self.list()),
                (&Method::GET, "/policy/decisions") => match query(head.uri.query().unwrap_or_default()) {
                    Ok(query) => admin::json(&json!(self.0.decisions(&query))),
                    Err(reason) => bad(&reason),
                },
                (&Method::POST, PUSH) => self.push(body).await,
                (&Method::POST, "/policy/decide") => self.decide(&body),
                (&Method::POST, "/policy/promote" | "/policy/hold" | "/policy/rollback") => {
                    self.change(path, &body)
                }
                _ => return None,
            })
        })
    }

    fn admin_limit(&self, path: &str) -> Option<usize> {
        (path == PUSH).then(|| usize::try_from(MOST_PACKAGE).unwrap_or(usize::MAX))
    }

    /// Always: the built-in verdicts need nothing.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        self.list()
    }

    fn settle(&self) {
        self.0.refresh_metrics();
    }
}

fn told(version: &Version, now: Instant) -> Value {
    json!({
        "name": version.manifest.name,
        "version": version.manifest.version.to_string(),
        "digest": version.digest,
        "signer": version.signer,
        "breaker": version.breaker.state(now),
        "warm": version.callable.warm(),
    })
}

fn query(text: &str) -> Result<Query, String> {
    let words: HashMap<&str, &str> = text.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let number = |name: &str| {
        let value = words.get(name).map(|value| u64::from_str(value));
        value.transpose().map_err(|_| format!("`{name}` must be a number"))
    };
    if let Some(unknown) =
        words.keys().find(|key| !["world", "policy", "client", "since", "limit"].contains(key))
    {
        return Err(format!("`{unknown}` is unknown; there are world, policy, client, since and limit"));
    }
    Ok(Query {
        world: words
            .get("world")
            .map(|world| World::from_str(world))
            .transpose()
            .map_err(|error| error.to_string())?,
        policy: words.get("policy").map(|&policy| policy.to_owned()),
        client: number("client")?,
        since: number("since")?,
        limit: usize::try_from(number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX),
    })
}

fn status(error: &PolicyError) -> StatusCode {
    match error {
        PolicyError::Signature(_) => StatusCode::FORBIDDEN,
        PolicyError::Engine(_)
        | PolicyError::File { .. }
        | PolicyError::Ledger(_)
        | PolicyError::Metrics(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn bad(reason: &str) -> Response<Body> {
    problem::response(StatusCode::BAD_REQUEST, reason)
}

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

    /// Does something that waits for a disk or a policy, where nobody else waits for it.
    async fn aside(&self, work: impl FnOnce(&Policies) -> Response<Body> + Send + 'static) -> Response<Body> {
        let policies = self.0.clone();
        tokio::task::spawn_blocking(move || work(&policies)).await.unwrap_or_else(|_| {
            problem::response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the work on policies failed; the log says more",
            )
        })
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
                (&Method::GET, "/policy") => admin::json(&list(&self.0)),
                (&Method::GET, "/policy/decisions") => match query(head.uri.query().unwrap_or_default()) {
                    Ok(query) => admin::json(&json!(self.0.decisions(&query))),
                    Err(reason) => bad(&reason),
                },
                (&Method::POST, PUSH) => self.aside(move |policies| push(policies, body)).await,
                (&Method::POST, "/policy/decide") => {
                    self.aside(move |policies| decide(policies, &body)).await
                }
                (&Method::POST, "/policy/promote") => {
                    self.aside(move |policies| promote(policies, &body)).await
                }
                (&Method::POST, "/policy/hold") => self.aside(move |policies| hold(policies, &body)).await,
                (&Method::POST, "/policy/rollback") => {
                    self.aside(move |policies| roll_back(policies, &body)).await
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
        list(&self.0)
    }

    fn settle(&self) {
        self.0.refresh_metrics();
    }
}

fn push(policies: &Policies, file: Bytes) -> Response<Body> {
    match policies.take(file.into()) {
        Ok(taken) => admin::json(&json!(taken)),
        Err(error) => problem::response(status(&error), &error.to_string()),
    }
}

fn promote(policies: &Policies, body: &[u8]) -> Response<Body> {
    change(policies, body, |change| {
        let word = "no policy is on its way in that world";
        policies.promote(change.world).then(|| list(policies)).ok_or(word)
    })
}

fn hold(policies: &Policies, body: &[u8]) -> Response<Body> {
    change(policies, body, |change| {
        let word = "no policy is on its way in that world";
        policies.hold(change.world, change.held).then(|| list(policies)).ok_or(word)
    })
}

fn roll_back(policies: &Policies, body: &[u8]) -> Response<Body> {
    change(policies, body, |change| {
        let now = policies.roll_back(change.world).ok_or("there is nothing to go back to in that world")?;
        Ok(json!({ "world": change.world, "decides": now }))
    })
}

/// Makes a change that the body asks for; the error is why that world has none to make.
fn change(
    policies: &Policies,
    body: &[u8],
    make: impl FnOnce(&Change) -> Result<Value, &'static str>,
) -> Response<Body> {
    let change: Change = match serde_json::from_slice(body) {
        Ok(change) => change,
        Err(error) => {
            return bad(&format!("the body is no change, as {{\"world\": \"region-router\"}}: {error}"));
        }
    };
    if policies.slot(change.world).restoring {
        let word = "the policies of that world are still being restored; ask again in a moment";
        return problem::response(StatusCode::CONFLICT, word);
    }
    match make(&change) {
        Ok(made) => admin::json(&made),
        Err(word) => problem::response(StatusCode::CONFLICT, word),
    }
}

fn decide(policies: &Policies, body: &[u8]) -> Response<Body> {
    match serde_json::from_slice::<Asked>(body) {
        Ok(asked) => {
            let decided = policies.decide(&asked.inputs, asked.client);
            let policy = decided.policy.map(|(name, version)| json!({ "name": name, "version": version }));
            admin::json(&json!({ "answer": decided.answer, "policy": policy, "cause": decided.cause }))
        }
        Err(error) => bad(&format!("the body is no decision to be made: {error}")),
    }
}

fn list(policies: &Policies) -> Value {
    let each = World::ALL.map(|world| {
        let slot = policies.slot(world);
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
            "restoring": slot.restoring,
        })
    });
    json!({ "worlds": each })
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use prometheus::Registry;

    use super::*;
    use crate::PolicyConfig;

    /// Whoever holds the ledger waits for a disk; the thread of the admin listener has others to answer.
    #[tokio::test]
    async fn a_change_that_waits_for_the_disk_lets_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let policies = Policies::new(PolicyConfig::default(), folder.path(), None, &Registry::new()).unwrap();
        let role = PolicyRole::new(policies.clone());
        for path in ["/policy/hold", "/policy/rollback"] {
            let (held, holds) = mpsc::channel();
            let (other, served) = mpsc::channel::<()>();
            let policies = policies.clone();
            let disk = std::thread::spawn(move || {
                let _ledger = policies.0.ledger.lock();
                held.send(()).unwrap();
                served.recv_timeout(Duration::from_secs(10)).is_ok()
            });
            holds.recv().unwrap();
            let body = Bytes::from_static(br#"{"world":"region-router"}"#);
            let request = Request::post(path).body(body).unwrap();
            let others = async {
                tokio::task::yield_now().await;
                other.send(()).unwrap();
            };
            let (answer, ()) = tokio::join!(role.admin(request), others);
            assert!(disk.join().unwrap(), "{path}: nobody else was answered meanwhile");
            assert_eq!(answer.unwrap().status(), StatusCode::CONFLICT, "there is nothing to change");
        }
    }
}

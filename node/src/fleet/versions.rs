//! Which policies decide on this node, told to the control node.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;
use skerry_core::Role;
use skerry_policy::PolicyRole;
use skerry_registry::PolicyVersion;
use skerry_registry::client::Membership;
use skerry_registry::message::MOST_NAME;

/// How often policies are looked at; they are told with the next heartbeat.
const LOOK: Duration = Duration::from_secs(5);

/// Tells with every beat which policies decide here, for as long as `policies` are there.
pub async fn tell_policies(policies: Weak<PolicyRole>, membership: Arc<Membership>) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let Some(role) = policies.upgrade() else { return };
        let deciding = deciding(&role.status());
        membership.describe(|node| node.policies = deciding);
    }
}

/// The policies that decide, as the role's status tells them.
fn deciding(status: &Value) -> Vec<PolicyVersion> {
    let worlds = status["worlds"].as_array().into_iter().flatten();
    let named = worlds.filter(|slot| slot["decides"].is_object()).map(|slot| {
        let word = |value: &Value| value.as_str().unwrap_or_default().chars().take(MOST_NAME).collect();
        let policy = &slot["decides"];
        PolicyVersion {
            world: word(&slot["world"]),
            name: word(&policy["name"]),
            version: word(&policy["version"]),
            digest: word(&policy["digest"]),
        }
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use serde_json::json;
    use skerry_policy::{Policies, PolicyConfig};

    use super::*;

    #[test]
    fn what_decides_is_told_and_nothing_else() {
        let decides = json!({ "name": "geo", "version": "1.2.0", "digest": "ab", "warm": 2 });
        let status = json!({ "worlds": [
            { "world": "region-router", "decides": decides, "candidate": { "policy": decides } },
            { "world": "preload-planner", "decides": null, "candidate": { "policy": decides } },
            7,
        ]});
        let told = PolicyVersion {
            world: "region-router".into(),
            name: "geo".into(),
            version: "1.2.0".into(),
            digest: "ab".into(),
        };
        assert_eq!(deciding(&status), [told]);
        assert!(deciding(&Value::Null).is_empty());
        let long = json!({ "worlds": [{ "decides": { "version": "1".repeat(1000) } }] });
        assert_eq!(deciding(&long)[0].version.len(), MOST_NAME);
    }

    #[test]
    fn a_node_without_policies_tells_of_none() {
        let folder = tempfile::tempdir().unwrap();
        let policies = Policies::new(PolicyConfig::default(), folder.path(), None, &Registry::new()).unwrap();
        let status = PolicyRole::new(policies).status();
        assert_eq!(status["worlds"].as_array().map(Vec::len), Some(3));
        assert!(deciding(&status).is_empty());
    }
}

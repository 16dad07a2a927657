//! What nodes run: how many of each ring have which version of the image, of the node and of policies.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Control, State};
use crate::fleet::Node;

/// How often nodes are counted, milliseconds.
const PERIOD_MS: u64 = 5_000;
/// Groups that are told apart, of nodes as of policies. Nodes say what they like: of more than that the smallest
/// are counted together.
const MOST_GROUPS: usize = 64;
/// What those are called.
const OTHER: &str = "other";

/// Nodes of one ring that run the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Their `update.ring`.
    pub ring: String,
    /// Version of their image; empty on servers.
    pub image: String,
    /// Version of the node.
    pub version: String,
    /// How many of them are on record.
    pub nodes: usize,
    /// How many of those are heard.
    pub live: usize,
}

/// Nodes where the same policy decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyGroup {
    /// What it decides.
    pub world: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How many nodes that are heard.
    pub live: usize,
}

/// What nodes run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// By ring; of one ring the largest group first.
    pub nodes: Vec<Group>,
    /// By world; of one world the largest group first.
    pub policies: Vec<PolicyGroup>,
}

/// How many nodes say the same three things, and how many of those are heard.
type Counted<'a> = BTreeMap<[&'a str; 3], (usize, usize)>;

impl Versions {
    /// Of these nodes, and whether they are heard.
    fn of(running: &[(Arc<Node>, bool)]) -> Self {
        let (mut nodes, mut policies) = (Counted::new(), Counted::new());
        for (node, is_live) in running {
            count(&mut nodes, [&node.ring, &node.image, &node.version], *is_live);
            for policy in node.policies.iter().filter(|_| *is_live) {
                count(&mut policies, [&policy.world, &policy.name, &policy.version], true);
            }
        }
        let nodes = bounded(nodes).into_iter().map(|([ring, image, version], (nodes, live))| Group {
            ring,
            image,
            version,
            nodes,
            live,
        });
        let policies = bounded(policies).into_iter().map(|([world, name, version], (_, live))| PolicyGroup {
            world,
            name,
            version,
            live,
        });
        Self { nodes: nodes.collect(), policies: policies.collect() }
    }
}

fn count<'a>(counted: &mut Counted<'a>, key: [&'a str; 3], is_live: bool) {
    let (nodes, live) = counted.entry(key).or_default();
    *nodes += 1;
    *live += usize::from(is_live);
}

/// The largest groups, and one of all others; by the first word, and the larger ones first.
fn bounded(counted: Counted<'_>) -> Vec<([String; 3], (usize, usize))> {
    let groups = counted.into_iter().map(|(key, count)| (key.map(str::to_owned), count));
    let mut groups: Vec<([String; 3], (usize, usize))> = groups.collect();
    groups.sort_by_key(|(_, count)| Reverse(*count));
    if groups.len() > MOST_GROUPS {
        let others = groups.split_off(MOST_GROUPS - 1);
        let sum = others.iter().fold((0, 0), |sum, (_, count)| (sum.0 + count.0, sum.1 + count.1));
        groups.push(([OTHER; 3].map(str::to_owned), sum));
    }
    groups.sort_by(|(a, of_a), (b, of_b)| a[0].cmp(&b[0]).then(of_b.cmp(of_a)));
    groups
}

impl Control {
    /// What nodes run, as of a few seconds ago.
    pub fn versions(&self) -> Arc<Versions> {
        self.versions.lock().0.clone()
    }

    /// Every node, and whether it is heard, when it is time to count them.
    pub(super) fn running(&self, state: &State, now_ms: u64) -> Option<Vec<(Arc<Node>, bool)>> {
        let mut versions = self.versions.lock();
        if now_ms < versions.1 {
            return None;
        }
        versions.1 = now_ms.saturating_add(PERIOD_MS);
        let nodes = state.nodes.values();
        Some(nodes.map(|known| (known.record.node.clone(), known.live)).collect())
    }

    /// Counts what they run.
    pub(super) fn count_versions(&self, running: &[(Arc<Node>, bool)]) {
        let versions = Versions::of(running);
        let (of_nodes, of_policies) = (&self.metrics.node_versions, &self.metrics.node_policies);
        of_nodes.reset();
        for Group { ring, image, version, live, .. } in &versions.nodes {
            of_nodes.with_label_values(&[ring, image, version]).set(*live as i64);
        }
        of_policies.reset();
        for PolicyGroup { world, name, version, live } in &versions.policies {
            of_policies.with_label_values(&[world, name, version]).set(*live as i64);
        }
        self.versions.lock().0 = Arc::new(versions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::PolicyVersion;

    fn node(ring: &str, image: &str, version: &str) -> Node {
        Node { ring: ring.into(), image: image.into(), version: version.into(), ..Node::default() }
    }

    #[test]
    fn nodes_are_counted_by_ring_and_version() {
        let policy = |version: &str| PolicyVersion {
            world: "region-router".into(),
            name: "geo".into(),
            version: version.into(),
            digest: String::new(),
        };
        let deciding = |version| Node { policies: vec![policy(version)], ..node("all", "1.0", "0.1.0") };
        let nodes = [
            (node("early", "1.1", "0.2.0"), true),
            (node("all", "0.9", "0.1.0"), false),
            (deciding("1.0.0"), true),
            (deciding("1.2.0"), true),
            (deciding("1.2.0"), true),
            (deciding("1.1.0"), false),
        ];
        let nodes = nodes.map(|(node, is_live)| (Arc::new(node), is_live));
        let Versions { nodes, policies } = Versions::of(&nodes);
        let nodes = nodes.iter().map(|group| (&*group.ring, &*group.image, group.nodes, group.live));
        let nodes: Vec<_> = nodes.collect();
        assert_eq!(nodes, [("all", "1.0", 4, 3), ("all", "0.9", 1, 0), ("early", "1.1", 1, 1)]);
        let policies: Vec<_> = policies.iter().map(|group| (&*group.version, group.live)).collect();
        assert_eq!(policies, [("1.2.0", 2), ("1.0.0", 1)]);
    }

    #[test]
    fn however_many_versions_nodes_invent_few_are_told_apart() {
        let invented = (0..1000).map(|number| node("z", "", &number.to_string()));
        let most = (0..10).map(|_| node("z", "1.0", "0.1.0"));
        let nodes: Vec<_> = invented.chain(most).map(|node| (Arc::new(node), true)).collect();
        let groups = Versions::of(&nodes).nodes;
        assert_eq!(groups.len(), MOST_GROUPS);
        assert_eq!(groups.iter().map(|group| group.nodes).sum::<usize>(), 1010);
        let other = groups.iter().find(|group| group.ring == OTHER).unwrap();
        assert_eq!((other.nodes, groups[1].nodes, groups[1].image.as_str()), (1000 - 62, 10, "1.0"));
    }
}

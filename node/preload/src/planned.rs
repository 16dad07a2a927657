//! The list of one node, and what the planner remembers of it over a restart.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skerry_registry::demand::Resource;
use skerry_registry::error::KvError;
use skerry_registry::kv::{Kv, Life};
use skerry_store::catalogue::CameFrom;

use crate::item::List;
use crate::orders::Order;
use crate::told::UnderWay;

/// Where lists stand in the registry.
const PREFIX: &str = "preload/lists/";

/// What is on record: the rest follows from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// What the policy chose, in its order.
    pub(crate) chosen: Vec<Resource>,
    /// Since when each resource of the list is on it, milliseconds since 1970, by resource.
    since: Vec<(Resource, u64)>,
}

/// A node's list.
#[derive(Default)]
pub(crate) struct Planned {
    pub(crate) list: Arc<List>,
    pub(crate) chosen: Vec<Resource>,
    /// Since when each resource is on the list, milliseconds since 1970.
    pub(crate) since: HashMap<Resource, u64>,
    /// What was wished for at this node when it was planned, whether there was room for it or not.
    pub(crate) wished: HashSet<Resource>,
    /// The orders it was planned by.
    pub(crate) orders: Arc<Vec<Order>>,
    pub(crate) made_ms: u64,
    /// When it is to be planned anew; 0 when it never was.
    pub(crate) due_ms: u64,
    /// Name and version of the policy that decided; `None` is the built-in verdict.
    pub(crate) policy: Option<(String, String)>,
    /// When the node asked for it last.
    pub(crate) asked_ms: u64,
    /// How far the node is, by its own word.
    pub(crate) under_way: HashMap<CameFrom, UnderWay>,
}

impl Planned {
    /// What is on record of a node's list; to be planned before it is told.
    pub(crate) fn load(kv: &dyn Kv, node: &str, now_ms: u64) -> Result<Self, KvError> {
        let Some(entry) = kv.get(&format!("{PREFIX}{node}"), now_ms)? else { return Ok(Self::default()) };
        let kept: Kept = postcard::from_bytes(&entry.value).unwrap_or_else(|error| {
            log::warn!(node; "its list is planned from nothing, since the record cannot be read: {error}");
            Kept::default()
        });
        Ok(Self { chosen: kept.chosen, since: kept.since.into_iter().collect(), ..Self::default() })
    }

    pub(crate) fn lists(&self, resource: &Resource) -> bool {
        self.since.contains_key(resource)
    }

    pub(crate) fn kept(&self) -> Kept {
        let mut since: Vec<_> = self.since.iter().map(|(resource, since)| (*resource, *since)).collect();
        since.sort_unstable();
        Kept { chosen: self.chosen.clone(), since }
    }
}

impl Kept {
    /// Writes it down.
    pub(crate) fn keep(&self, kv: &dyn Kv, node: &str, now_ms: u64) -> Result<(), KvError> {
        let value = postcard::to_stdvec(self).expect("numbers can always be written");
        kv.put(&format!("{PREFIX}{node}"), &value, Life::forever(now_ms)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use skerry_registry::kv::{MOST_VALUE, MemoryKv};

    use super::*;
    use crate::item::MOST_ITEMS;

    #[test]
    fn a_list_is_remembered_and_always_fits() {
        let kv = MemoryKv::new();
        let mut planned = Planned::default();
        for number in 0..MOST_ITEMS as u64 {
            let mut resource = [0xff; 32];
            resource[..8].copy_from_slice(&number.to_le_bytes());
            planned.since.insert(resource, u64::MAX);
            planned.chosen.push(resource);
        }
        planned.chosen.truncate(skerry_policy::MOST_ROWS);
        planned.kept().keep(&kv, "a", 1).unwrap();
        assert!(kv.get("preload/lists/a", 1).unwrap().unwrap().value.len() < MOST_VALUE);
        assert_eq!(Planned::load(&kv, "a", 1).unwrap().kept(), planned.kept());
        assert!(Planned::load(&kv, "b", 1).unwrap().since.is_empty());
        kv.put("preload/lists/c", b"\xff", Life::forever(1)).unwrap();
        assert!(Planned::load(&kv, "c", 1).unwrap().chosen.is_empty());
    }
}

//! What operators want to be held, whatever anybody asks for: everywhere, or at all nodes of a region.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use skerry_registry::error::KvError;
use skerry_registry::kv::{Kv, Life};
use skerry_store::catalogue::CameFrom;

use crate::error::Refused;
use crate::hash::fingerprint;
use crate::item::check_source;

/// Orders at once.
pub const MOST_ORDERS: usize = 1024;
/// Longest name of a region, bytes.
const MOST_REGION: usize = 64;
/// Where they stand in the registry.
const PREFIX: &str = "preload/orders/";

/// Something that is to be held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Name of the site.
    #[serde(default = "default_site")]
    pub site: String,
    /// Path and query there.
    pub path: String,
    /// At the nodes of this region; empty is everywhere.
    #[serde(default)]
    pub region: String,
    /// Less is more urgent than other orders; all of them come before what the policy chooses.
    #[serde(default = "usual")]
    pub priority: u32,
    /// When it was given, milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
}

fn default_site() -> String {
    "default".into()
}

fn usual() -> u32 {
    100
}

impl Order {
    /// Where it comes from.
    pub fn source(&self) -> CameFrom {
        CameFrom { site: self.site.clone(), target: self.path.clone() }
    }

    /// Whether it is for the nodes of a region.
    pub fn is_for(&self, region: &str) -> bool {
        self.region.is_empty() || self.region == region
    }

    fn check(&self) -> Result<(), Refused> {
        check_source(&self.site, &self.path).map_err(|reason| Refused::Field(reason.into()))?;
        if self.region.len() > MOST_REGION || self.region.chars().any(char::is_control) {
            let reason = format!("`region` must be at most {MOST_REGION} bytes without control characters");
            return Err(Refused::Field(reason));
        }
        Ok(())
    }

    fn key(&self) -> String {
        let parts = [&self.site, &self.path, &self.region];
        format!("{PREFIX}{:016x}", fingerprint(parts.map(|part| part.as_bytes())))
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.site, &self.path, &self.region) == (&other.site, &other.path, &other.region)
    }
}

/// All orders, the most urgent first.
pub(crate) struct Orders {
    kv: Arc<dyn Kv>,
    /// One change at a time.
    changing: Mutex<()>,
    list: RwLock<Arc<Vec<Order>>>,
}

impl Orders {
    /// Those that are on record.
    pub(crate) fn load(kv: Arc<dyn Kv>, now_ms: u64) -> Result<Self, KvError> {
        let mut list = Vec::new();
        kv.list(PREFIX, now_ms, &mut |key, entry| match serde_json::from_slice::<Order>(&entry.value) {
            Ok(order) if order.check().is_ok() => list.push(order),
            _ => log::warn!(key; "an order is left out, since it cannot be read"),
        })?;
        list.sort_by(order);
        Ok(Self { kv, changing: Mutex::new(()), list: RwLock::new(Arc::new(list)) })
    }

    pub(crate) fn list(&self) -> Arc<Vec<Order>> {
        self.list.read().clone()
    }

    /// Takes one, in place of the one before for the same source and region.
    pub(crate) fn add(&self, new: Order, now_ms: u64) -> Result<Order, Refused> {
        new.check()?;
        let new = Order { since_ms: now_ms, ..new };
        let _one_at_a_time = self.changing.lock();
        let mut list = Vec::clone(&self.list.read());
        list.retain(|other| !other.is_same(&new));
        if list.len() >= MOST_ORDERS {
            return Err(Refused::Full { what: "orders", most: MOST_ORDERS });
        }
        let value = serde_json::to_vec(&new).expect("texts and numbers can always be written");
        self.kv.put(&new.key(), &value, Life::forever(now_ms))?;
        list.push(new.clone());
        list.sort_by(order);
        *self.list.write() = Arc::new(list);
        Ok(new)
    }

    /// Takes one back.
    pub(crate) fn remove(&self, site: &str, path: &str, region: &str) -> Result<Order, Refused> {
        let _one_at_a_time = self.changing.lock();
        let mut list = Vec::clone(&self.list.read());
        let place = list
            .iter()
            .position(|order| (&*order.site, &*order.path, &*order.region) == (site, path, region))
            .ok_or(Refused::Unknown)?;
        let gone = list.remove(place);
        self.kv.delete(&gone.key())?;
        *self.list.write() = Arc::new(list);
        Ok(gone)
    }
}

fn order(a: &Order, b: &Order) -> std::cmp::Ordering {
    let key = |order: &Order| (order.priority, order.since_ms);
    key(a).cmp(&key(b)).then_with(|| a.source().cmp(&b.source()))
}

#[cfg(test)]
mod tests {
    use skerry_registry::kv::MemoryKv;

    use super::*;

    fn read(text: &str) -> Order {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn orders_outlive_the_process_in_their_order() {
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
        let orders = Orders::load(kv.clone(), 1).unwrap();
        orders.add(read(r#"{"path": "/late"}"#), 9).unwrap();
        orders.add(read(r#"{"path": "/early"}"#), 5).unwrap();
        orders.add(read(r#"{"path": "/first", "site": "b", "region": "north", "priority": 1}"#), 20).unwrap();
        orders.add(read(r#"{"path": "/late", "region": "north"}"#), 10).unwrap();
        orders.add(read(r#"{"path": "/late", "priority": 2}"#), 11).unwrap();
        kv.put("preload/orders/junk", b"{}", Life::forever(1)).unwrap();
        let again = Orders::load(kv, 1).unwrap();
        assert_eq!(again.list(), orders.list());
        let paths: Vec<_> = again.list().iter().map(|order| (order.path.clone(), order.priority)).collect();
        let wanted = [("/first", 1), ("/late", 2), ("/early", 100), ("/late", 100)];
        assert_eq!(paths, wanted.map(|(path, priority)| (path.to_owned(), priority)));
        assert!(again.list()[0].is_for("north") && !again.list()[0].is_for("south"));
        assert!(again.list()[1].is_for("south"));
        again.remove("default", "/late", "").unwrap();
        assert!(matches!(again.remove("default", "/late", ""), Err(Refused::Unknown)));
        assert_eq!(again.list().len(), 3);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let orders = Orders::load(Arc::new(MemoryKv::new()), 1).unwrap();
        for text in [
            r#"{"path": "a"}"#,
            r#"{"path": "/a b"}"#,
            r#"{"path": "/a", "site": ""}"#,
            r#"{"path": "/a", "region": "a\nb"}"#,
        ] {
            assert!(matches!(orders.add(read(text), 1), Err(Refused::Field(_))), "{text}");
        }
        assert!(serde_json::from_str::<Order>(r#"{"path": "/a", "when": 1}"#).is_err());
        for number in 0..MOST_ORDERS {
            orders.add(read(&format!(r#"{{"path": "/{number}"}}"#)), 1).unwrap();
        }
        assert!(matches!(orders.add(read(r#"{"path": "/more"}"#), 1), Err(Refused::Full { .. })));
        orders.add(read(r#"{"path": "/0", "priority": 7}"#), 1).unwrap();
    }
}

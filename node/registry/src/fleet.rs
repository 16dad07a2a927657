//! The nodes of the fleet as the control roles read them: what each said last, and who holds what.
//!
//! Soft state in memory. Readers take a [`Snapshot`] and keep it as long as they like; it never
//! changes, but for holdings, which are many and are looked up as they are now. Whoever hears of
//! nodes (the registry's API, a simulation) writes through [`Fleet`]. Nodes that fell silent stay
//! until they are removed: who decides looks at [`Node::alive`].
//!
//! A fleet may have ten thousand nodes with as many resources each, so neither a heartbeat nor a change
//! of what one node holds may cost all of it: see [`Nodes`] for the one, pages of holdings for the other.

mod holders;
mod nodes;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::holders::Holders;
pub use self::nodes::Nodes;
use crate::hex;
use crate::holdings::{self, Page, Row};
use crate::prefix::Prefix;

/// Heartbeats in a row that a node may miss before nobody is sent to it any more.
const MISSED: u64 = 2;

/// A running box, as it last described itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name, one in the fleet.
    pub id: String,
    /// The region it stands in; empty is unknown.
    pub region: String,
    /// What it does, by the roles' own words: `cache`, `superpeer`, `tracker`.
    pub roles: Vec<String>,
    /// Its addresses for clients, each on one operator's network.
    pub links: Vec<Link>,
    /// Where it serves BitTorrent; `None` when it does not.
    pub peers: Option<PeerPort>,
    /// Version of its software.
    pub version: String,
    /// Version of the image that it runs from; empty where there is none.
    pub image: String,
    /// The group of boxes that it is updated with, as `update.ring` says.
    pub ring: String,
    /// The policies that decide there; where there is none, the built-in verdict does.
    pub policies: Vec<PolicyVersion>,
    /// What resources may take on it, bytes.
    pub capacity_bytes: u64,
    /// How much may be moved to it until its next preload plan, bytes.
    pub preload_window_bytes: u64,
    /// When it was last heard, milliseconds since 1970, by the clock of who heard it
    /// ([`crate::clock::now_ms`]).
    pub seen_ms: u64,
    /// Time between its heartbeats, seconds.
    pub interval_seconds: u32,
}

impl Node {
    /// Whether it was heard within two of its intervals.
    pub fn alive(&self, now_ms: u64) -> bool {
        now_ms <= self.alive_until_ms()
    }

    /// When it is out unless it is heard again, milliseconds since 1970.
    pub fn alive_until_ms(&self) -> u64 {
        self.seen_ms.saturating_add(MISSED * 1000 * u64::from(self.interval_seconds))
    }

    /// Whether it has a role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|other| other == role)
    }
}

/// A policy that decides on a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyVersion {
    /// What it decides, by the policies' own word: `region-router`.
    pub world: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its package, hex digits.
    pub digest: String,
}

/// One address of a node on one operator's network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Its name, one on the node.
    pub name: String,
    /// Where clients reach it: scheme, host and port, without a path.
    pub url: String,
    /// Name of the operator.
    pub isp: String,
    /// Autonomous systems that it is best for. With no prefixes either it is for anybody.
    pub asns: Vec<u32>,
    /// Clients' prefixes that it is best for.
    pub prefixes: Vec<Prefix>,
    /// What it can carry, kilobits per second; 0 when it takes nothing.
    pub capacity_kbps: u64,
    /// What it carries now, kilobits per second.
    pub used_kbps: u64,
    /// Whether it takes clients.
    pub healthy: bool,
    /// When `used_kbps` was measured, milliseconds since 1970, by the node's clock.
    pub measured_at_ms: u64,
}

/// Where a node serves BitTorrent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerPort {
    /// Addresses that peers connect to, of either family.
    pub addresses: Vec<SocketAddr>,
    /// What it speaks there: `tcp`, `utp`.
    pub protocols: Vec<String>,
}

/// What a node has of a resource, or of a package.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Holding {
    /// Its id, 64 hex digits.
    pub resource: String,
    /// Its length, bytes.
    pub length: u64,
    /// How much of it is there, bytes.
    pub held_bytes: u64,
    /// Whether all of it is there and verified.
    pub complete: bool,
    /// Info-hashes of the torrents that it is the content of, as handshakes name them: 40 hex digits
    /// each. No more than [`MOST_TORRENTS`] are kept.
    pub info_hashes: Vec<String>,
}

/// Torrents of one resource that are kept.
pub const MOST_TORRENTS: usize = 8;

/// A node that has something of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The node's number; see [`Snapshot::number`].
    pub node: u32,
    /// Length of the resource, bytes.
    pub length: u64,
    /// How much of it the node has, bytes.
    pub held_bytes: u64,
    /// Whether it has all of it, verified.
    pub complete: bool,
}

impl Holder {
    /// How much of it the node has, permille; 1000 only when it is complete.
    pub fn permille(&self) -> u32 {
        if self.complete {
            return 1000;
        }
        let share = u128::from(self.held_bytes) * 1000 / u128::from(self.length.max(1));
        u32::try_from(share).unwrap_or(u32::MAX).min(999)
    }
}

/// The nodes at one moment.
pub struct Snapshot {
    /// Grows with every change of the nodes; holdings do not count.
    pub version: u64,
    /// The nodes, silent ones included, in the order of their numbers.
    pub nodes: Nodes,
    holders: Arc<Holders>,
}

impl Snapshot {
    /// Number of a node by its place in `nodes`: from 1, kept for the id while the process lives,
    /// also when the node leaves and comes back.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn number(&self, place: usize) -> u32 {
        self.nodes.number(place).expect("a place of this snapshot")
    }

    /// Place in `nodes` of the node with a number.
    pub fn place(&self, number: u32) -> Option<usize> {
        self.nodes.place(number)
    }

    /// The node with a number.
    pub fn numbered(&self, number: u32) -> Option<&Arc<Node>> {
        self.nodes.get(self.place(number)?)
    }

    /// The node with an id; looks through all of them.
    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Who holds something of a resource now, by its id in hex digits, in the order of the nodes'
    /// numbers. Nodes may be among them that are silent, or not in this snapshot.
    pub fn holders(&self, resource: &str) -> Arc<[Holder]> {
        hex::decode(resource).map(|resource| self.holders.of(&resource)).unwrap_or_default()
    }

    /// Who holds something of the resource that is the content of a torrent, as [`Snapshot::holders`];
    /// `None` when no node has named its info-hash. Of several resources that nodes name, the one that most of
    /// them do: nobody checks it but this node, for what it holds itself.
    pub fn holders_of(&self, info_hash: &[u8; 20]) -> Option<Arc<[Holder]>> {
        Some(self.holders.of(&self.holders.content(info_hash)?))
    }

    /// The resource that is the content of a torrent: its id in hex digits.
    pub fn resource_of(&self, info_hash: &[u8; 20]) -> Option<String> {
        self.holders.content(info_hash).map(|resource| hex::encode(&resource))
    }
}

/// Nodes, and the numbers of all there ever were.
#[derive(Default)]
struct Known {
    nodes: Nodes,
    numbers: HashMap<String, u32>,
    version: u64,
}

impl Known {
    /// Number of an id: a new one when there was none.
    fn number_of(&mut self, id: &str) -> u32 {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        let next = u32::try_from(self.numbers.len() + 1).unwrap_or(u32::MAX);
        self.numbers.insert(id.to_owned(), next);
        next
    }

    /// Number of a node that is in the fleet.
    fn number(&self, id: &str) -> Option<u32> {
        self.numbers.get(id).copied().filter(|number| self.nodes.place(*number).is_some())
    }
}

/// What is known of the fleet now.
pub struct Fleet {
    current: ArcSwap<Snapshot>,
    known: Mutex<Known>,
    holders: Arc<Holders>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// A fleet of no nodes.
    pub fn new() -> Self {
        let holders = Arc::new(Holders::new());
        let empty = Snapshot { version: 0, nodes: Nodes::default(), holders: holders.clone() };
        Self { current: ArcSwap::from_pointee(empty), known: Mutex::default(), holders }
    }

    /// The nodes as they are now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Whatever others say, what this node names as the content of torrents is believed: it has looked at it
    /// itself. To be told before anything is held.
    pub(crate) fn believe(&self, id: &str) {
        let number = self.known.lock().number_of(id);
        self.holders.believe(number);
    }

    /// Takes what nodes said: new ones are added, known ones replaced whole.
    pub fn hear(&self, nodes: impl IntoIterator<Item: Into<Arc<Node>>>) {
        let mut known = self.known.lock();
        for node in nodes {
            let node: Arc<Node> = node.into();
            let number = known.number_of(&node.id);
            known.nodes.put(number, node);
        }
        self.publish(&mut known);
    }

    /// Forgets a node and what it holds.
    pub fn remove(&self, id: &str) {
        let mut known = self.known.lock();
        let Some(number) = known.numbers.get(id).copied() else { return };
        if known.nodes.remove(number) {
            self.holders.replace(number, BTreeMap::new());
            self.publish(&mut known);
        }
    }

    /// All that a node holds, in place of what it held before. Nothing happens when the node is not
    /// known; ids that are not 64 hex digits are left out.
    pub fn holds(&self, id: &str, holdings: &[Holding]) {
        self.holds_pages(id, holdings::pages(holdings.iter().filter_map(Row::of)));
    }

    /// The same by pages, as they are kept.
    pub(crate) fn holds_pages(&self, id: &str, pages: BTreeMap<u8, Page>) {
        let known = self.known.lock();
        if let Some(number) = known.number(id) {
            self.holders.replace(number, pages);
        }
    }

    /// One page of what a node holds, in place of what was there: costs what the page does, however much
    /// else the node holds.
    pub(crate) fn holds_page(&self, id: &str, page: u8, rows: Page) {
        let known = self.known.lock();
        if let Some(number) = known.number(id) {
            self.holders.replace_page(number, page, rows);
        }
    }

    fn publish(&self, known: &mut Known) {
        known.version += 1;
        let (version, nodes) = (known.version, known.nodes.clone());
        self.current.store(Arc::new(Snapshot { version, nodes, holders: self.holders.clone() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Node {
        Node { id: id.into(), seen_ms: 1000, interval_seconds: 5, ..Node::default() }
    }

    fn holding(digit: char, held_bytes: u64) -> Holding {
        let resource = digit.to_string().repeat(64);
        Holding { resource, length: 1000, held_bytes, complete: held_bytes == 1000, ..Holding::default() }
    }

    #[test]
    fn a_node_is_out_after_two_intervals() {
        let node = node("a");
        assert!(node.alive(1000) && node.alive(11_000) && !node.alive(11_001));
        assert!(Node { interval_seconds: u32::MAX, seen_ms: u64::MAX, ..node }.alive(u64::MAX));
    }

    #[test]
    fn numbers_stay_while_nodes_come_and_go() {
        let fleet = Fleet::new();
        fleet.hear([node("a"), node("b")]);
        let before = fleet.snapshot();
        fleet.remove("a");
        fleet.hear([node("c")]);
        let after = fleet.snapshot();
        assert_eq!(after.nodes.iter().map(|node| &*node.id).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!((after.number(0), after.number(1)), (2, 3));
        assert_eq!(before.nodes.len(), 2);
        assert!(after.version > before.version);
        assert!(after.numbered(1).is_none() && after.node("a").is_none());
        fleet.hear([node("a")]);
        assert_eq!(fleet.snapshot().numbered(1).unwrap().id, "a");
        fleet.remove("nobody");
    }

    #[test]
    fn holders_are_found_and_lists_replaced() {
        let fleet = Fleet::new();
        fleet.hear([node("a"), node("b")]);
        fleet.holds("a", &[holding('1', 1000), holding('2', 10)]);
        fleet.holds("b", &[holding('1', 500)]);
        let snapshot = fleet.snapshot();
        let holders = snapshot.holders(&"1".repeat(64));
        assert_eq!(holders.iter().map(|holder| holder.permille()).collect::<Vec<_>>(), [1000, 500]);
        fleet.holds("a", &[holding('2', 20)]);
        assert_eq!(snapshot.holders(&"1".repeat(64)).len(), 1);
        assert_eq!(snapshot.holders(&"2".repeat(64))[0].held_bytes, 20);
        fleet.remove("a");
        assert!(snapshot.holders(&"2".repeat(64)).is_empty());
        fleet.holds("a", &[holding('2', 20)]);
        assert!(snapshot.holders(&"2".repeat(64)).is_empty());
    }

    #[test]
    fn a_page_changes_what_is_in_it_and_nothing_else() {
        let fleet = Fleet::new();
        fleet.hear([node("a"), node("b")]);
        fleet.holds("a", &[holding('1', 10), holding('2', 10)]);
        fleet.holds("b", &[holding('1', 10)]);
        let rows = |holdings: &[Holding]| holdings::pages(holdings.iter().filter_map(Row::of));
        let page = |holding: Holding| rows(&[holding]).into_iter().next().unwrap();
        let (number, more) = page(holding('1', 1000));
        fleet.holds_page("a", number, more.clone());
        let held = |digit: char| {
            let holders = fleet.snapshot().holders(&digit.to_string().repeat(64));
            holders.iter().map(|holder| holder.held_bytes).collect::<Vec<_>>()
        };
        assert_eq!((held('1'), held('2')), (vec![1000, 10], vec![10]));
        fleet.holds_page("a", number, Page::default());
        assert_eq!((held('1'), held('2')), (vec![10], vec![10]));
        fleet.holds_page("nobody", number, more);
        assert_eq!(held('1'), [10]);
        // What is left goes with the node.
        fleet.remove("a");
        assert_eq!((held('1').len(), held('2').len()), (1, 0));
    }

    #[test]
    fn a_torrent_is_known_while_somebody_names_it() {
        let fleet = Fleet::new();
        fleet.hear([node("a"), node("b")]);
        let named = |digit: char, hash: &str| Holding {
            info_hashes: vec![hash.repeat(40), hash.repeat(40), "odd".into()],
            ..holding(digit, 1000)
        };
        let content = |hash: u8| fleet.snapshot().resource_of(&[hash; 20]).map(|id| id[..1].to_owned());
        fleet.holds("a", &[named('1', "a")]);
        fleet.holds("b", &[named('2', "a"), named('3', "b")]);
        assert_eq!((content(0xaa).as_deref(), content(0xbb).as_deref()), (Some("1"), Some("3")));
        assert_eq!(fleet.snapshot().holders_of(&[0xaa; 20]).unwrap()[0].node, 1);
        // Of as many the one that was named first, until it goes.
        fleet.holds("a", &[holding('1', 1000)]);
        assert_eq!(content(0xaa).as_deref(), Some("2"));
        fleet.holds("b", &[named('2', "b"), named('3', "b")]);
        assert_eq!((content(0xaa), content(0xbb).as_deref()), (None, Some("3")));
        fleet.remove("b");
        assert_eq!((content(0xbb), fleet.snapshot().holders_of(&[0xbb; 20])), (None, None));
    }

    #[test]
    fn what_is_no_id_is_held_by_nobody() {
        let fleet = Fleet::new();
        fleet.hear([node("a")]);
        let odd = |resource: &str| Holding { resource: resource.into(), ..Holding::default() };
        fleet.holds("a", &[odd(""), odd("xyz"), odd(&"g".repeat(64)), odd(&"\u{e9}".repeat(32))]);
        for resource in ["", "xyz", &"g".repeat(64), &"\u{e9}".repeat(32), &"0".repeat(65)] {
            assert!(fleet.snapshot().holders(resource).is_empty());
        }
        let more = Holder { node: 1, length: 0, held_bytes: u64::MAX, complete: false };
        assert_eq!(more.permille(), 999);
    }
}

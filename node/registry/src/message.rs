//! What nodes and the control node say to each other: JSON, below `/.skerry/v1/`. Fields that are not
//! known are passed over, so that nodes of several versions can be in one fleet.
//!
//! A beat carries what a node is, and a batch of counts and reports; it is sent again until it is
//! answered, and a batch that is known counts once. A list of holdings has generations: each message
//! names the one it goes on from, or none when it begins anew. Both name the process that speaks: of two
//! machines with one id one gets 409.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::demand::Resource;
use crate::error::Refused;
use crate::fleet::{Holding, Link, Node, PeerPort, PolicyVersion};
use crate::{hex, identity};

/// Longest name: of a region, role, link, operator, version, policy or protocol, bytes.
pub const MOST_NAME: usize = 64;
/// Longest address, source or reason, bytes.
pub const MOST_TEXT: usize = 512;
/// Roles, and protocols of a peer port, at most.
const MOST_WORDS: usize = 32;
/// Policies of a node, at most.
const MOST_POLICIES: usize = 16;
/// Links of a node, and addresses of a peer port, at most.
pub const MOST_LINKS: usize = 32;
/// Autonomous systems and prefixes of a link, at most.
pub const MOST_PREFIXES: usize = 1024;
/// Longest time between heartbeats, seconds.
pub const MOST_INTERVAL: u64 = 300;
/// Counts of one beat, at most.
pub const MOST_ASKED: usize = 4096;
/// Reports of one beat, at most.
pub const MOST_REPORTS: usize = 256;
/// Holdings of one message, added or dropped, at most.
pub const MOST_HELD: usize = 10_000;
/// Longest configuration that enrolment hands out, bytes: half of the file that a box takes, so that there is
/// room for what enrolment adds.
pub const MOST_CONFIGURATION: usize = 128 << 10;

/// `POST nodes`: a node registers, and says that it is well.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// What it is.
    pub node: Node,
    /// A random number of the node's machine, the same in all its processes; 0 when it does not tell.
    #[serde(default)]
    pub instance: u64,
    /// A random number of the node's process.
    pub boot: u64,
    /// Number of the batch of counts and reports below; a process' batches have rising numbers.
    pub batch: u64,
    /// It is about to end, and wants no clients.
    #[serde(default)]
    pub leaving: bool,
    /// What clients asked it for since the batch before.
    #[serde(default)]
    pub demand: Vec<Asked>,
    /// What clients told it of failed verifications since the batch before.
    #[serde(default)]
    pub reports: Vec<Report>,
}

/// How often a resource was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Asked {
    /// Its id, 64 hex digits.
    pub resource: String,
    /// Requests since the batch before. Of all of a node's no more count than it can have served: 100,000 a
    /// second, and up to 60 million that waited.
    pub requests: u32,
}

/// The answer to a beat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BeatAnswer {
    /// Generation of the node's list of holdings as it is known here; `None` when none is.
    #[serde(default)]
    pub generation: Option<u64>,
}

/// `POST nodes/ID/holdings`: what a node holds, or what has changed in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HoldingsReport {
    /// The number of the node's process, as in its beats.
    pub boot: u64,
    /// Generation of the list after this.
    pub generation: u64,
    /// Generation that this goes on from; `None` begins a new list.
    #[serde(default)]
    pub base: Option<u64>,
    /// What is held, new or changed.
    #[serde(default)]
    pub held: Vec<Holding>,
    /// Ids of what is held no more.
    #[serde(default)]
    pub dropped: Vec<String>,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HoldingsAnswer {
    /// Generation of the list now.
    pub generation: u64,
}

/// `POST reports`: bytes that did not have the hash they should have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The resource, 64 hex digits.
    pub resource: String,
    /// Index of the chunk, from 0; `None` is the whole.
    #[serde(default)]
    pub chunk: Option<u64>,
    /// Where the bytes came from: a node's id, or a URL.
    #[serde(default)]
    pub source: String,
    /// What was seen.
    #[serde(default)]
    pub reason: String,
    /// When, milliseconds since 1970; set by whoever takes it from a client.
    #[serde(default)]
    pub at_ms: u64,
}

/// `POST nodes/enrol`: a machine wants to become a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The one-time token.
    pub token: String,
    /// A certificate signing request (PKCS #10), PEM. Only its key counts.
    pub csr: String,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnrolAnswer {
    /// The node's id.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Its certificate and the authority's, PEM.
    pub certificate: String,
    /// The authority's certificate, PEM.
    pub ca: String,
    /// The configuration that the operator gave it, TOML; empty when none.
    #[serde(default)]
    pub configuration: String,
}

/// The answer to `GET nodes/torrents/RESOURCE`: what else peers may know a resource by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TorrentsAnswer {
    /// Info-hashes of its torrents, as handshakes name them: 40 hex digits each. Those that most nodes named
    /// come first; nobody has checked them.
    pub info_hashes: Vec<String>,
}

/// `POST nodes/ID/certificate`: a node wants another certificate before its own ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RenewRequest {
    /// A certificate signing request (PKCS #10) of a new key, PEM. Only its key counts.
    pub csr: String,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RenewAnswer {
    /// Its certificate and the authority's, PEM.
    pub certificate: String,
}

/// A message from its JSON.
///
/// # Errors
/// [`Refused::Field`] that names the field.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        Refused::field(field, format!("cannot be read: {}", error.inner()))
    })?;
    json.end().map_err(|error| Refused::field("body", format!("goes on after its end: {error}")))?;
    Ok(read)
}

impl Beat {
    /// What cannot be said by types.
    ///
    /// # Errors
    /// [`Refused::Field`] that names the field.
    pub fn check(&self) -> Result<(), Refused> {
        node(&self.node)?;
        at_most("demand", self.demand.len(), MOST_ASKED)?;
        at_most("reports", self.reports.len(), MOST_REPORTS)?;
        for (place, asked) in self.demand.iter().enumerate() {
            resource(&format!("demand[{place}].resource"), &asked.resource)?;
        }
        for (place, report) in self.reports.iter().enumerate() {
            report.check().map_err(|refused| inside(&format!("reports[{place}]"), refused))?;
        }
        Ok(())
    }
}

impl Report {
    /// What cannot be said by types.
    ///
    /// # Errors
    /// [`Refused::Field`] that names the field.
    pub fn check(&self) -> Result<(), Refused> {
        resource("resource", &self.resource)?;
        text("source", &self.source, MOST_TEXT)?;
        text("reason", &self.reason, MOST_TEXT)
    }
}

impl HoldingsReport {
    /// What cannot be said by types.
    ///
    /// # Errors
    /// [`Refused::Field`] that names the field.
    pub fn check(&self) -> Result<(), Refused> {
        at_most("held", self.held.len(), MOST_HELD)?;
        at_most("dropped", self.dropped.len(), MOST_HELD)?;
        for (place, holding) in self.held.iter().enumerate() {
            resource(&format!("held[{place}].resource"), &holding.resource)?;
            if holding.held_bytes > holding.length {
                return Err(Refused::field(format!("held[{place}].held_bytes"), "is more than the length"));
            }
        }
        for (place, id) in self.dropped.iter().enumerate() {
            resource(&format!("dropped[{place}]"), id)?;
        }
        Ok(())
    }
}

fn node(node: &Node) -> Result<(), Refused> {
    if !identity::is_id(&node.id) {
        return Err(Refused::field("node.id", identity::RULE));
    }
    text("node.region", &node.region, MOST_NAME)?;
    for (path, name) in
        [("node.version", &node.version), ("node.image", &node.image), ("node.ring", &node.ring)]
    {
        text(path, name, MOST_NAME)?;
    }
    at_most("node.policies", node.policies.len(), MOST_POLICIES)?;
    for (place, PolicyVersion { world, name, version, digest }) in node.policies.iter().enumerate() {
        for (field, word) in [("world", world), ("name", name), ("version", version), ("digest", digest)] {
            text(&format!("node.policies[{place}].{field}"), word, MOST_NAME)?;
        }
    }
    words("node.roles", &node.roles)?;
    if !(1..=MOST_INTERVAL).contains(&u64::from(node.interval_seconds)) {
        return Err(Refused::field("node.interval_seconds", format!("must be from 1 to {MOST_INTERVAL}")));
    }
    at_most("node.links", node.links.len(), MOST_LINKS)?;
    for (place, other) in node.links.iter().enumerate() {
        link(&format!("node.links[{place}]"), other)?;
        if node.links[..place].iter().any(|before| before.name == other.name) {
            return Err(Refused::field(format!("node.links[{place}].name"), "is another link's too"));
        }
    }
    node.peers.as_ref().map_or(Ok(()), peers)
}

fn link(path: &str, link: &Link) -> Result<(), Refused> {
    text(&format!("{path}.name"), &link.name, MOST_NAME)?;
    text(&format!("{path}.isp"), &link.isp, MOST_NAME)?;
    at_most(&format!("{path}.asns"), link.asns.len(), MOST_PREFIXES)?;
    at_most(&format!("{path}.prefixes"), link.prefixes.len(), MOST_PREFIXES)?;
    check_url(&link.url).map_err(|reason| Refused::field(format!("{path}.url"), reason))
}

/// Whether a text is the URL of a link: scheme, host and port. The error is the reason.
pub(crate) fn check_url(url: &str) -> Result<(), &'static str> {
    const WRONG: &str = "must be http://HOST[:PORT] or https://HOST[:PORT], nothing after it";
    if url.len() > MOST_TEXT {
        return Err(WRONG);
    }
    let uri: http::Uri = url.parse().map_err(|_| WRONG)?;
    let host = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let right = matches!(uri.scheme_str(), Some("http" | "https"))
        && host.is_some_and(|host| !host.host().is_empty())
        && matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/"));
    if right { Ok(()) } else { Err(WRONG) }
}

fn peers(peers: &PeerPort) -> Result<(), Refused> {
    at_most("node.peers.addresses", peers.addresses.len(), MOST_LINKS)?;
    words("node.peers.protocols", &peers.protocols)
}

fn words(path: &str, words: &[String]) -> Result<(), Refused> {
    at_most(path, words.len(), MOST_WORDS)?;
    words.iter().enumerate().try_for_each(|(place, word)| text(&format!("{path}[{place}]"), word, MOST_NAME))
}

/// A text that can be shown on a terminal and in a log.
pub(crate) fn text(path: &str, text: &str, most: usize) -> Result<(), Refused> {
    if text.len() > most || text.chars().any(char::is_control) {
        return Err(Refused::field(path, format!("must be at most {most} bytes without control characters")));
    }
    Ok(())
}

/// The resource of an id.
pub(crate) fn resource(path: &str, id: &str) -> Result<Resource, Refused> {
    hex::decode(id).ok_or_else(|| Refused::field(path, "must be a resource id: 64 hex digits"))
}

fn at_most(path: &str, count: usize, most: usize) -> Result<(), Refused> {
    if count > most {
        return Err(Refused::field(path, format!("has {count} entries; at most {most} are taken")));
    }
    Ok(())
}

/// The same refusal of a field that is inside another.
fn inside(path: &str, refused: Refused) -> Refused {
    match refused {
        Refused::Field { field, reason } => Refused::Field { field: format!("{path}.{field}"), reason },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat() -> Beat {
        let link = Link { name: "a".into(), url: "https://a.example:8443".into(), ..Link::default() };
        let node = Node { id: "a".into(), interval_seconds: 10, links: vec![link], ..Node::default() };
        let resource = "0".repeat(64);
        let demand = vec![Asked { resource: resource.clone(), requests: 3 }];
        let reports = vec![Report { resource, chunk: Some(1), ..Report::default() }];
        Beat { node, instance: 9, boot: u64::MAX, batch: 1, leaving: false, demand, reports }
    }

    fn refusal(change: impl FnOnce(&mut Beat)) -> String {
        let mut beat = beat();
        change(&mut beat);
        match beat.check() {
            Err(Refused::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_are_read_as_they_are_written() {
        let json = serde_json::to_vec(&beat()).unwrap();
        let read: Beat = read(&json).unwrap();
        assert_eq!(read, beat());
        read.check().unwrap();
        let more: BeatAnswer = super::read(br#"{"generation": 7, "of a later version": []}"#).unwrap();
        assert_eq!(more.generation, Some(7));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let field = |body: &str| match read::<Beat>(body.as_bytes()) {
            Err(Refused::Field { field, .. }) => field,
            other => panic!("{body}: {other:?}"),
        };
        assert_eq!(field(""), "body");
        assert_eq!(field(r#"{"node": {"id": 7}}"#), "node.id");
        assert_eq!(
            field(r#"{"node": {"links": [{"prefixes": ["10.0.0.1/8"]}]}}"#),
            "node.links[0].prefixes[0]"
        );
        let mut two = serde_json::to_string(&beat()).unwrap();
        two.push_str(" {}");
        assert_eq!(field(&two), "body");
        assert!(read::<Beat>("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let long = || "a".repeat(MOST_TEXT + 1);
        assert_eq!(refusal(|beat| beat.node.id = "a/b".into()), "node.id");
        assert_eq!(refusal(|beat| beat.node.region = "a\nb".into()), "node.region");
        assert_eq!(refusal(|beat| beat.node.interval_seconds = 0), "node.interval_seconds");
        assert_eq!(refusal(|beat| beat.node.roles = vec![long()]), "node.roles[0]");
        assert_eq!(refusal(|beat| beat.node.image = "a\u{1b}[2J".into()), "node.image");
        assert_eq!(refusal(|beat| beat.node.ring = long()), "node.ring");
        assert_eq!(refusal(|beat| beat.node.policies = vec![PolicyVersion::default(); 99]), "node.policies");
        let policy = PolicyVersion { digest: long(), ..PolicyVersion::default() };
        assert_eq!(refusal(|beat| beat.node.policies = vec![policy]), "node.policies[0].digest");
        assert_eq!(refusal(|beat| beat.node.links[0].url = "ftp://a".into()), "node.links[0].url");
        assert_eq!(refusal(|beat| beat.node.links.push(beat.node.links[0].clone())), "node.links[1].name");
        assert_eq!(refusal(|beat| beat.node.links = vec![Link::default(); 99]), "node.links");
        assert_eq!(refusal(|beat| beat.demand[0].resource = "x".into()), "demand[0].resource");
        assert_eq!(refusal(|beat| beat.reports[0].source = long()), "reports[0].source");
        assert_eq!(refusal(|beat| beat.demand = vec![Asked::default(); MOST_ASKED + 1]), "demand");
    }

    #[test]
    fn a_link_s_url_is_scheme_host_and_port() {
        for url in ["http://a", "https://a:1/", "http://[::1]:8080", "http://192.0.2.1"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in ["", "a:1", "http://", "http://u@a", "http://a/path", "http://a/?q", "http://a b", "/a"] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn holdings_are_bounded() {
        let held = |held_bytes| Holding {
            resource: "0".repeat(64),
            length: 1,
            held_bytes,
            complete: false,
            ..Holding::default()
        };
        let report =
            |held, dropped| HoldingsReport { generation: 1, held, dropped, ..HoldingsReport::default() };
        report(vec![held(1)], vec!["0".repeat(64)]).check().unwrap();
        assert!(report(vec![held(2)], vec![]).check().is_err());
        assert!(report(vec![], vec!["0".into()]).check().is_err());
        assert!(report(vec![held(1); MOST_HELD + 1], vec![]).check().is_err());
    }
}

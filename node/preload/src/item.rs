//! What nodes are told to hold: lists of items, the most urgent first.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use skerry_store::ChunkId;
use skerry_store::catalogue::CameFrom;

use crate::error::ListError;
use crate::hash::fingerprint;

/// Items of a list, at most: what a policy chooses, and what operators want besides.
pub const MOST_ITEMS: usize = 8192;
/// Longest name of a site, bytes.
pub const MOST_SITE: usize = 256;
/// Longest target (path and query), bytes.
pub const MOST_PATH: usize = 1024;
/// Longest thing that is held, bytes: a pebibyte, so that sums of lengths are numbers.
pub const MOST_LENGTH: u64 = 1 << 50;
/// Before the names that preloaded chunks are pinned under.
const PIN: &str = "preload ";

/// One thing that a node should hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its id; `None` as long as no node has it.
    #[serde(default, with = "id")]
    pub resource: Option<ChunkId>,
    /// Name of the site that it comes from.
    pub site: String,
    /// Path and query there.
    pub path: String,
    /// Its length, bytes; 0 is unknown.
    #[serde(default)]
    pub length: u64,
    /// Its place in the list, from 0: less is more urgent.
    #[serde(default)]
    pub priority: u32,
}

impl Item {
    /// Where it comes from. Nodes know items by this.
    pub fn source(&self) -> CameFrom {
        CameFrom { site: self.site.clone(), target: self.path.clone() }
    }

    /// The name to pin its chunks under, always the same, so that what was broken off goes on.
    pub fn pin(&self) -> String {
        pin(&self.source())
    }
}

/// The name that the chunks of what comes from there are pinned under.
pub fn pin(source: &CameFrom) -> String {
    format!("{PIN}{} {}", source.site, source.target)
}

/// Whether a pin is one of the preloader's.
pub fn is_pin(name: &str) -> bool {
    name.starts_with(PIN)
}

/// What cannot be a site and a target; the error is the reason.
pub fn check_source(site: &str, path: &str) -> Result<(), &'static str> {
    let odd = |text: &str| text.chars().any(|c| c.is_control() || c.is_whitespace());
    if site.is_empty() || site.len() > MOST_SITE || site.contains('/') || odd(site) {
        return Err("`site` must be the name of a site: at most 256 bytes, no `/` and no spaces");
    }
    if !path.starts_with('/') || path.len() > MOST_PATH || odd(path) {
        return Err("`path` must begin with `/` and have at most 1024 bytes, without spaces");
    }
    Ok(())
}

/// What one node should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Changes with the items, and with nothing else: 16 hex digits.
    pub revision: String,
    /// The most urgent first.
    pub items: Vec<Item>,
}

impl List {
    /// A list of these, which get their places as priorities.
    pub fn new(mut items: Vec<Item>) -> Self {
        for (item, place) in items.iter_mut().zip(0..) {
            item.priority = place;
        }
        let of = |item: &Item| {
            let (id, length) = (item.resource.map(|id| id.0), item.length.to_le_bytes());
            let id = id.as_ref().map_or(&[][..], |id| id.as_slice());
            let parts = [id, item.site.as_bytes(), item.path.as_bytes(), length.as_slice()];
            fingerprint(parts).to_le_bytes()
        };
        let each: Vec<[u8; 8]> = items.iter().map(of).collect();
        let revision = fingerprint(each.iter().map(|hash| hash.as_slice()));
        Self { revision: format!("{revision:016x}"), items }
    }

    /// The revision as an entity tag (RFC 9110 §8.8.3).
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    /// A list that came from elsewhere, if it can be used.
    ///
    /// # Errors
    /// [`ListError::Invalid`] that says why not.
    pub fn checked(self) -> Result<Self, ListError> {
        if self.items.len() > MOST_ITEMS {
            let reason = format!("it has {} items; at most {MOST_ITEMS} are taken", self.items.len());
            return Err(ListError::Invalid(reason));
        }
        if self.revision.len() > 64 {
            return Err(ListError::Invalid("its revision is longer than 64 bytes".into()));
        }
        let mut seen = HashSet::new();
        for item in &self.items {
            check_source(&item.site, &item.path).map_err(|reason| ListError::Invalid(reason.into()))?;
            if item.length > MOST_LENGTH {
                return Err(ListError::Invalid(format!("{} {} is too long", item.site, item.path)));
            }
            if !seen.insert((item.site.as_str(), item.path.as_str())) {
                return Err(ListError::Invalid(format!("{} {} comes twice", item.site, item.path)));
            }
        }
        Ok(self)
    }
}

/// Ids as hex digits.
pub(crate) mod id {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use skerry_store::ChunkId;

    pub(crate) fn serialize<S: Serializer>(id: &Option<ChunkId>, to: S) -> Result<S::Ok, S::Error> {
        id.map(|id| id.to_string()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ChunkId>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn item(path: &str, length: u64) -> Item {
        Item { resource: None, site: "default".into(), path: path.into(), length, priority: 0 }
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let known = Item { resource: Some(ChunkId([0xab; 32])), ..item("/b?x=1", 7) };
        let list = List::new(vec![item("/a", 0), known]);
        let text = serde_json::to_string(&list).unwrap();
        assert!(text.contains(&format!(r#""resource":"{}""#, "ab".repeat(32))), "{text}");
        assert_eq!(serde_json::from_str::<List>(&text).unwrap(), list);
        let packed = postcard::to_stdvec(&list).unwrap();
        assert_eq!(postcard::from_bytes::<List>(&packed).unwrap(), list);
        assert_eq!(list.items.iter().map(|item| item.priority).collect::<Vec<_>>(), [0, 1]);
        let least: List =
            serde_json::from_str(r#"{"revision":"1","items":[{"site":"a","path":"/"}]}"#).unwrap();
        assert_eq!((least.items[0].length, least.items[0].resource), (0, None));
    }

    #[test]
    fn the_revision_changes_with_the_items_alone() {
        let list = List::new(vec![item("/a", 1), item("/b", 2)]);
        assert_eq!(list.revision, List::new(vec![item("/a", 1), item("/b", 2)]).revision);
        assert_eq!((list.revision.len(), list.etag().len()), (16, 18));
        let known = Item { resource: Some(ChunkId([1; 32])), ..item("/a", 1) };
        for other in [
            vec![],
            vec![item("/b", 2), item("/a", 1)],
            vec![item("/a", 1), item("/b", 3)],
            vec![known, item("/b", 2)],
        ] {
            assert_ne!(List::new(other).revision, list.revision);
        }
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        let refused = |items: Vec<Item>| List::new(items).checked().is_err();
        assert!(!refused(vec![item("/a", 0), item("/b?c=d", 0)]));
        assert!(refused(vec![item("/a", 0), item("/a", 1)]));
        assert!(refused(vec![item("/a", u64::MAX)]));
        assert!(refused(vec![item("a", 0)]));
        assert!(refused(vec![item("/a\n", 0)]));
        assert!(refused(vec![item("/a b", 0)]));
        assert!(refused(vec![item(&format!("/{}", "a".repeat(MOST_PATH)), 0)]));
        assert!(refused(vec![Item { site: "a/b".into(), ..item("/a", 0) }]));
        assert!(refused((0..=MOST_ITEMS).map(|number| item(&format!("/{number}"), 0)).collect()));
        let odd = r#"{"revision":"1","items":[{"resource":"xyz","site":"a","path":"/"}]}"#;
        assert!(serde_json::from_str::<List>(odd).is_err());
    }

    #[test]
    fn pins_are_told_from_others() {
        assert_eq!(item("/a", 0).pin(), "preload default /a");
        assert!(is_pin(&item("/a", 0).pin()) && !is_pin("resource 1") && !is_pin("object default /a"));
    }
}

//! What a node tells the planner besides its holdings: where its resources came from, and how far it
//! is with what it was told to hold. JSON; fields that are not known are passed over.

use serde::{Deserialize, Serialize};
use skerry_store::ChunkId;
use skerry_store::catalogue::CameFrom;

use crate::error::Refused;
use crate::item::{MOST_LENGTH, check_source, id};

/// Sources, and items under way, of one message, at most.
pub const MOST_TOLD: usize = 4096;
/// Longest reason of a failure, bytes.
pub const MOST_REASON: usize = 512;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// Sources of resources that the node holds whole, and has not told before.
    pub sources: Vec<Sourced>,
    /// All that it is busy with, or failed at.
    pub under_way: Vec<UnderWay>,
}

/// Where a resource came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sourced {
    /// Its id.
    #[serde(with = "id")]
    pub resource: Option<ChunkId>,
    /// Name of the site.
    pub site: String,
    /// Path and query there.
    pub path: String,
    /// Its length, bytes.
    pub length: u64,
    /// When the node got it, milliseconds since 1970.
    pub added_ms: u64,
}

/// How far the node is with an item.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnderWay {
    /// Name of the site.
    pub site: String,
    /// Path and query there.
    pub path: String,
    /// What is there of it, bytes.
    pub received_bytes: u64,
    /// Its length, bytes; 0 is unknown.
    pub length: u64,
    /// Failures in a row.
    pub attempts: u32,
    /// Why the last one failed.
    pub failure: Option<String>,
}

impl UnderWay {
    /// Where it comes from.
    pub fn source(&self) -> CameFrom {
        CameFrom { site: self.site.clone(), target: self.path.clone() }
    }
}

impl Told {
    /// What cannot be said by types.
    ///
    /// # Errors
    /// [`Refused::Field`] that names the field.
    pub fn check(&self) -> Result<(), Refused> {
        for (field, count) in [("sources", self.sources.len()), ("under_way", self.under_way.len())] {
            if count > MOST_TOLD {
                let reason = format!("`{field}` has {count} entries; at most {MOST_TOLD} are taken");
                return Err(Refused::Field(reason));
            }
        }
        for (place, source) in self.sources.iter().enumerate() {
            let refuse = |reason: &str| Refused::Field(format!("in `sources[{place}]` {reason}"));
            check_source(&source.site, &source.path).map_err(refuse)?;
            if source.resource.is_none() || source.length == 0 {
                return Err(refuse("`resource` and `length` are needed"));
            }
            if source.length > MOST_LENGTH {
                return Err(refuse("`length` is too large"));
            }
        }
        for (place, item) in self.under_way.iter().enumerate() {
            let refuse = |reason: &str| Refused::Field(format!("in `under_way[{place}]` {reason}"));
            check_source(&item.site, &item.path).map_err(refuse)?;
            if item.failure.as_ref().is_some_and(|reason| reason.len() > MOST_REASON) {
                return Err(refuse("`failure` is longer than 512 bytes"));
            }
            if item.length > MOST_LENGTH {
                return Err(refuse("`length` is too large"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_is_written() {
        let source = Sourced {
            resource: Some(ChunkId([7; 32])),
            site: "a".into(),
            path: "/b".into(),
            length: 1,
            added_ms: 2,
        };
        let item = UnderWay { site: "a".into(), path: "/c".into(), ..UnderWay::default() };
        let told = Told { sources: vec![source], under_way: vec![item] };
        told.check().unwrap();
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Told>(&text).unwrap(), told);
        assert_eq!(serde_json::from_str::<Told>(r#"{"of a later version": 1}"#).unwrap(), Told::default());
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |text: &str| match serde_json::from_str::<Told>(text).unwrap().check() {
            Err(Refused::Field(reason)) => reason,
            other => panic!("{text}: {other:?}"),
        };
        assert!(refused(r#"{"sources": [{"site": "a", "path": "/b"}]}"#).contains("sources[0]"));
        assert!(refused(r#"{"under_way": [{"site": "a", "path": "b"}]}"#).contains("under_way[0]"));
        let long = Told { under_way: vec![UnderWay::default(); MOST_TOLD + 1], ..Told::default() };
        assert!(long.check().is_err());
        assert!(serde_json::from_str::<Told>(r#"{"sources": [{"resource": "x"}]}"#).is_err());
    }
}

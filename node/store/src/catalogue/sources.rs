//! Where resources came from, and what the origin answered with them: what it takes for a resource to
//! answer for the target that it came from.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{CameFrom, Catalogue, Held};
use crate::meta::{Change, Table};
use crate::{ChunkId, StoreError};

/// Fields of an answer that say what its content is, and whether it may be used again. No other is kept:
/// another node may have told of it.
const FIELDS: [&str; 15] = [
    "age",
    "cache-control",
    "cache-groups",
    "cdn-cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "date",
    "etag",
    "expires",
    "last-modified",
    "pragma",
    "surrogate-key",
    "vary",
];
/// Field lines that are kept, and bytes of each value, at most.
const MOST_LINES: usize = 64;
const LONGEST: usize = 8192;

/// What came from a target last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The resource.
    pub resource: ChunkId,
    /// What its origin answered; `None` when nobody has told.
    pub answer: Option<Answer>,
}

/// The header of an origin's answer whose content is a resource, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Names and values of its fields.
    fields: Vec<(String, String)>,
    /// When it was asked for, or a little later, milliseconds since 1970.
    pub received_ms: u64,
}

impl Answer {
    /// What matters of a header. A value that is no text is left out.
    pub fn of(header: &HeaderMap, received_ms: u64) -> Self {
        let kept = header.iter().filter(|(name, _)| FIELDS.contains(&name.as_str()));
        let texts = kept.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let short = texts.filter(|(_, value)| value.len() <= LONGEST).take(MOST_LINES);
        let fields = short.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { fields, received_ms }
    }

    /// It as a header.
    pub fn header(&self) -> HeaderMap {
        let parsed = self.fields.iter().take(MOST_LINES).filter_map(|(name, value)| {
            Some((HeaderName::try_from(name.as_str()).ok()?, HeaderValue::try_from(value.as_str()).ok()?))
        });
        let mut header = HeaderMap::new();
        parsed.for_each(|(name, value)| _ = header.append(name, value));
        header
    }
}

impl Catalogue {
    /// What came from a target last; it may be off the record by now. Blocks for a short read of the disk.
    pub fn source(&self, from: &CameFrom) -> Result<Option<Source>, StoreError> {
        let value = self.0.store.meta().get(Table::Sources, &key(from))?;
        Ok(value.and_then(|value| postcard::from_bytes(&value).ok()))
    }

    /// As [`Catalogue::source`], when that can be told without the disk; the outer `None` when it cannot.
    pub fn source_now(&self, from: &CameFrom) -> Option<Option<Source>> {
        let value = self.0.store.meta().get_from_memory(Table::Sources, &key(from)).ok()??;
        Some(value.and_then(|value| postcard::from_bytes(&value).ok()))
    }

    /// Puts on record what an origin answered with a resource, as long as it is what came from there last.
    /// Who tells of it must have seen it, or trust who has. Blocks.
    pub fn tell(&self, from: &CameFrom, resource: &ChunkId, answer: &Answer) -> Result<(), StoreError> {
        let _one_at_a_time = self.0.owners.lock();
        if self.source(from)?.is_none_or(|source| source.resource != *resource) {
            return Ok(());
        }
        let answer = Answer::of(&answer.header(), answer.received_ms);
        let source = Source { resource: *resource, answer: Some(answer) };
        self.0.store.meta().put(Table::Sources, &key(from), &encoded(&source)?)
    }

    /// Takes off the record what came from a target: its origin has something else there by now, or may
    /// have. The resource stays. Blocks.
    pub fn forget_source(&self, from: &CameFrom) -> Result<(), StoreError> {
        let _one_at_a_time = self.0.owners.lock();
        self.0.store.meta().delete(Table::Sources, &key(from))
    }

    /// What puts on record where a resource came from.
    pub(super) fn source_of(&self, held: &Held) -> Result<Option<Change>, StoreError> {
        let Some(from) = &held.from else { return Ok(None) };
        // What is known of its answer stays so.
        if self.source(from)?.is_some_and(|source| source.resource == held.id()) {
            return Ok(None);
        }
        let source = Source { resource: held.id(), answer: None };
        Ok(Some(Change::Put(Table::Sources, key(from), encoded(&source)?)))
    }

    /// What takes it off again.
    pub(super) fn source_gone(&self, held: &Held) -> Result<Option<Change>, StoreError> {
        let Some(from) = &held.from else { return Ok(None) };
        let is_last = self.source(from)?.is_some_and(|source| source.resource == held.id());
        Ok(is_last.then(|| Change::Delete(Table::Sources, key(from))))
    }
}

fn key(from: &CameFrom) -> Vec<u8> {
    [from.site.as_bytes(), b"\0", from.target.as_bytes()].concat()
}

fn encoded(source: &Source) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(source).map_err(|_| StoreError::Record)
}

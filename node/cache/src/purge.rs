//! Purges by prefix and tag, and whole targets: one record each, whatever they concern.
//!
//! A purge gets a number and is written down: the time in milliseconds since 1970, or one more than the
//! last. An object remembers the number that was current when it was requested; it is purged when a younger
//! purge names it. What has no number has a time instead. An object in memory is checked once after each
//! purge, against hash and tree look-ups, not against all purges.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderMap;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use skerry_store::StoreError;
use skerry_store::meta::{Change, Meta, Table};

use crate::object::now_ms;

/// Purges kept apart; past that they all become one hard purge of everything.
const MAX_PURGES: usize = 10_000;

/// What a purge names. `site` is the site's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// One target: site and path with query.
    Target(String, String),
    /// Every target of the site that begins so.
    Prefix(String, String),
    /// Every object of any site that carries the tag.
    Tag(String),
    /// Everything.
    All,
}

/// What a purge does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// It is gone.
    Hard,
    /// It must be validated before it is used again.
    Soft,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Mark {
    number: u64,
    effect: Effect,
}

/// Numbers of the last hard and the last soft purge of one scope; 0 means none.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    hard: u64,
    soft: u64,
}

impl Marks {
    /// Takes a purge in; true when it is the scope's first.
    fn add(&mut self, mark: Mark) -> bool {
        let first = self.hard == 0 && self.soft == 0;
        match mark.effect {
            Effect::Hard => self.hard = self.hard.max(mark.number),
            Effect::Soft => self.soft = self.soft.max(mark.number),
        }
        first
    }
}

#[derive(Debug, Default)]
struct Tables {
    targets: HashMap<(String, String), Marks>,
    prefixes: HashMap<String, BTreeMap<String, Marks>>,
    tags: HashMap<String, Marks>,
    all: Marks,
    count: usize,
}

/// Every purge that still matters.
#[derive(Debug, Default)]
pub struct Purges {
    current: AtomicU64,
    tables: RwLock<Tables>,
}

impl Purges {
    /// Reads the purges of earlier runs.
    pub fn load(meta: &Meta) -> Result<Self, StoreError> {
        let mut tables = Tables::default();
        let mut current = 0;
        meta.scan(Table::Purges, b"", |_, value| {
            if let Ok((scope, mark)) = postcard::from_bytes::<(Scope, Mark)>(value) {
                current = current.max(mark.number);
                tables.add(scope, mark);
            }
            true
        })?;
        Ok(Self { current: AtomicU64::new(current), tables: RwLock::new(tables) })
    }

    /// Number of the last purge.
    pub fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    /// Writes a purge down; durable when it returns. Blocks for the disk.
    pub fn add(&self, meta: &Meta, scope: Scope, effect: Effect) -> Result<(), StoreError> {
        let mut tables = self.tables.write();
        let number = (self.current.load(Relaxed) + 1).max(now_ms());
        let (scope, effect, mut changes) = if tables.count >= MAX_PURGES {
            let mut old = Vec::new();
            meta.scan(Table::Purges, b"", |key, _| {
                old.push(Change::Delete(Table::Purges, key.to_vec()));
                true
            })?;
            (Scope::All, Effect::Hard, old)
        } else {
            (scope, effect, Vec::new())
        };
        let mark = Mark { number, effect };
        let key = postcard::to_stdvec(&(&scope, effect)).map_err(|_| StoreError::Record)?;
        let value = postcard::to_stdvec(&(&scope, mark)).map_err(|_| StoreError::Record)?;
        changes.push(Change::Put(Table::Purges, key, value));
        meta.write(&changes, true)?;
        if scope == Scope::All {
            *tables = Tables::default();
        }
        tables.add(scope, mark);
        self.current.store(mark.number, Relaxed);
        Ok(())
    }

    /// What the purges after number `seen` do to an object of this site, target and header.
    pub fn effect(&self, seen: u64, site: &str, target: &str, headers: &HeaderMap) -> Option<Effect> {
        let tables = self.tables.read();
        let mut worst = None;
        let mut consider = |marks: Option<&Marks>| match marks {
            Some(marks) if marks.hard > seen => worst = Some(Effect::Hard),
            Some(marks) if marks.soft > seen => worst = worst.or(Some(Effect::Soft)),
            _ => {}
        };
        consider(Some(&tables.all));
        if !tables.targets.is_empty() {
            consider(tables.targets.get(&(site.to_owned(), target.to_owned())));
        }
        if let Some(prefixes) = tables.prefixes.get(site) {
            for_each_prefix(prefixes, target, &mut consider);
        }
        if !tables.tags.is_empty() {
            for tag in tags(headers) {
                consider(tables.tags.get(tag));
            }
        }
        worst
    }
}

impl Tables {
    fn add(&mut self, scope: Scope, mark: Mark) {
        let marks = match scope {
            Scope::Target(site, target) => self.targets.entry((site, target)).or_default(),
            Scope::Prefix(site, prefix) => self.prefixes.entry(site).or_default().entry(prefix).or_default(),
            Scope::Tag(tag) => self.tags.entry(tag).or_default(),
            Scope::All => &mut self.all,
        };
        self.count += usize::from(marks.add(mark));
    }
}

/// Visits the marks of every key that `target` begins with: from the greatest key not above the
/// target down, each step shortening the target to what it shares with the key found.
fn for_each_prefix<'a>(
    prefixes: &'a BTreeMap<String, Marks>,
    target: &str,
    visit: &mut impl FnMut(Option<&'a Marks>),
) {
    let mut upto = target;
    loop {
        let range = (Bound::Unbounded, Bound::Included(upto));
        let Some((key, mark)) = prefixes.range::<str, _>(range).next_back() else { return };
        let shared = key.bytes().zip(upto.bytes()).take_while(|(a, b)| a == b).count();
        let next = if shared == key.len() {
            visit(Some(mark));
            key.len().checked_sub(1)
        } else {
            Some(shared)
        };
        let Some(mut next) = next else { return };
        while !upto.is_char_boundary(next) {
            next -= 1;
        }
        upto = &upto[..next];
    }
}

/// The tags of a response: `Surrogate-Key` (words) and `Cache-Groups` (RFC 9875, a list of strings).
fn tags(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let text = |name: &'static str| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let words = text("surrogate-key").flat_map(str::split_ascii_whitespace);
    let groups = text("cache-groups").flat_map(|list| list.split(',')).filter_map(|member| {
        let string = member.trim().split(';').next()?.trim();
        string.strip_prefix('"')?.strip_suffix('"')
    });
    words.chain(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purged(scope: Scope, site: &str, target: &str, headers: &HeaderMap) -> Option<Effect> {
        let purges = Purges::default();
        let others =
            [Scope::Prefix("a".into(), "/zz".into()), Scope::Prefix("a".into(), "/x/y/other".into())];
        for (number, scope) in others.into_iter().chain([scope]).enumerate() {
            purges.tables.write().add(scope, Mark { number: number as u64 + 1, effect: Effect::Hard });
        }
        assert_eq!(purges.effect(3, site, target, headers), None, "a younger object is not concerned");
        purges.effect(0, site, target, headers)
    }

    #[test]
    fn prefixes_concern_what_begins_with_them() {
        let none = HeaderMap::new();
        let prefix = |text: &str| Scope::Prefix("a".into(), text.into());
        assert_eq!(purged(prefix("/x/"), "a", "/x/y/file", &none), Some(Effect::Hard));
        assert_eq!(purged(prefix(""), "a", "/anything", &none), Some(Effect::Hard));
        assert_eq!(purged(prefix("/x/y/file2"), "a", "/x/y/file", &none), None);
        assert_eq!(purged(prefix("/x/"), "b", "/x/y/file", &none), None);
    }

    #[test]
    fn a_soft_purge_does_not_undo_a_hard_one() {
        let purges = Purges::default();
        let scope = Scope::Target("a".into(), "/x".into());
        for (number, effect) in [(1, Effect::Hard), (2, Effect::Soft)] {
            purges.tables.write().add(scope.clone(), Mark { number, effect });
        }
        let effect = |seen| purges.effect(seen, "a", "/x", &HeaderMap::new());
        assert_eq!([effect(0), effect(1), effect(2)], [Some(Effect::Hard), Some(Effect::Soft), None]);
    }

    #[test]
    fn tags_are_words_of_surrogate_key_and_strings_of_cache_groups() {
        let mut headers = HeaderMap::new();
        headers.insert("surrogate-key", "one two".parse().unwrap());
        headers.insert("cache-groups", "\"three\", \"four\";x=1".parse().unwrap());
        for tag in ["one", "two", "three", "four"] {
            assert_eq!(purged(Scope::Tag(tag.into()), "a", "/", &headers), Some(Effect::Hard), "{tag}");
        }
        assert_eq!(purged(Scope::Tag("five".into()), "a", "/", &headers), None);
    }
}

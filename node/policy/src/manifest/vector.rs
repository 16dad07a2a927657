//! Test vectors: what a policy is asked, and what it must answer.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::source::{Source, example, shown};
use super::{Manifest, ManifestError, UnknownWorld, World};
use crate::MOST_ROWS;
use crate::rows::{Answer, Choice, Inputs};

/// Longest name of a vector, bytes.
const MOST_NAME: usize = 128;
/// Entries of the tables of one vector.
const MOST_ENTRIES: usize = 4096;
/// Most copies that the contract lets a scheduler ask for.
const MOST_COPIES: u32 = 64;

/// One question, and the answer that it must have.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// Its name, for who reads the result; no other vector has it.
    pub name: String,
    /// The clock, milliseconds since 1970-01-01 UTC.
    pub now: u64,
    /// The question.
    pub inputs: Inputs,
    /// What there is to look up.
    pub tables: Vec<TableEntry>,
    /// The answer.
    pub expected: Expectation,
}

/// One value that a policy may look up.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// Name of the table: one of the manifest's.
    pub name: String,
    /// The key.
    pub key: u64,
    /// Its value.
    pub value: i64,
}

/// What a vector asks of the answer. Weights are free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// These rows in this order, and no other.
    Ranked(Vec<u32>),
    /// These peers in this order, and so many more copies.
    Scheduled {
        /// Rows of the peers.
        rows: Vec<u32>,
        /// How many; 0 where the vector does not say.
        more_copies: u32,
    },
    /// No opinion.
    Abstain,
    /// That the rows make no sense, for whatever reason.
    Invalid,
}

impl Expectation {
    /// Whether an answer is the one that was expected.
    pub fn met_by(&self, answer: &Answer) -> bool {
        let same =
            |rows: &[u32], choices: &[Choice]| rows.iter().eq(choices.iter().map(|choice| &choice.row));
        match (self, answer) {
            (Self::Ranked(rows), Answer::Ranked(choices)) => same(rows, choices),
            (Self::Scheduled { rows, more_copies }, Answer::Scheduled { peers, more_copies: asked }) => {
                same(rows, peers) && more_copies == asked
            }
            (Self::Abstain, Answer::Abstain) | (Self::Invalid, Answer::Invalid(_)) => true,
            _ => false,
        }
    }
}

impl std::fmt::Display for Expectation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ranked(rows) => write!(formatter, "rows {rows:?}"),
            Self::Scheduled { rows, more_copies } => {
                write!(formatter, "rows {rows:?} and {more_copies} more copies")
            }
            Self::Abstain => formatter.write_str("no opinion"),
            Self::Invalid => formatter.write_str("invalid rows"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<Request, Row> {
    name: Spanned<String>,
    // Read before, to know the types of the others.
    world: IgnoredAny,
    #[serde(default)]
    now: u64,
    #[serde(default)]
    request: Request,
    rows: Vec<Row>,
    #[serde(default)]
    tables: Vec<Spanned<TableEntry>>,
    expect: Option<Spanned<Vec<Spanned<u32>>>>,
    #[serde(default)]
    abstain: bool,
    #[serde(default)]
    invalid: bool,
    more_copies: Option<Spanned<u32>>,
}

/// What is the same in all worlds.
struct Rest {
    name: Spanned<String>,
    now: u64,
    tables: Vec<Spanned<TableEntry>>,
    expect: Option<Spanned<Vec<Spanned<u32>>>>,
    abstain: bool,
    invalid: bool,
    more_copies: Option<Spanned<u32>>,
}

/// Where a vector stands.
struct Place<'s, 'a> {
    source: &'s Source<'a>,
    /// Its number among the vectors.
    index: usize,
    span: Range<usize>,
}

/// Reads the vector at `index`, a table.
pub(super) fn read(
    source: &Source<'_>,
    manifest: &Manifest,
    index: usize,
    value: Spanned<DeValue<'_>>,
) -> Result<Vector, ManifestError> {
    let place = Place { source, index, span: value.span() };
    if let Some(request) = value.get_ref().get("request") {
        source.table(request, &place.key("request"))?;
    }
    for (list, most) in [("rows", MOST_ROWS), ("tables", MOST_ENTRIES)] {
        if let Some(value) = value.get_ref().get(list) {
            source.check_tables(value, &place.key(list), most)?;
        }
    }
    let (inputs, rest) = match place.world(manifest, value.get_ref().get("world"))? {
        World::RegionRouter => {
            let (request, candidates, rest) = place.fields(value)?;
            (Inputs::RegionRouter { request, candidates }, rest)
        }
        World::PreloadPlanner => {
            let (request, items, rest) = place.fields(value)?;
            (Inputs::PreloadPlanner { request, items }, rest)
        }
        World::SuperPeerScheduler => {
            let (request, candidates, rest) = place.fields(value)?;
            (Inputs::SuperPeerScheduler { request, candidates }, rest)
        }
    };
    if inputs.rows() == 0 {
        let reason = "is empty; a policy is asked about at least one row".to_owned();
        return Err(place.wrong(&place.span, "rows", reason));
    }
    Ok(Vector {
        name: place.name(&rest.name)?,
        now: rest.now,
        tables: place.entries(&rest.tables, &manifest.tables)?,
        expected: place.expectation(&inputs, &rest)?,
        inputs,
    })
}

impl Place<'_, '_> {
    fn key(&self, key: &str) -> String {
        format!("vectors[{}].{key}", self.index)
    }

    fn wrong(&self, at: &Range<usize>, key: &str, reason: String) -> ManifestError {
        self.source.wrong(at, self.key(key), reason)
    }

    fn world(
        &self,
        manifest: &Manifest,
        value: Option<&Spanned<DeValue<'_>>>,
    ) -> Result<World, ManifestError> {
        let Some(value) = value else {
            let line = self.source.line(&self.span);
            return Err(ManifestError::Missing { line, key: self.key("world"), add: example("world") });
        };
        let wrong = |reason| self.wrong(&value.span(), "world", reason);
        let name = value.get_ref().as_str().ok_or_else(|| {
            wrong(format!("is of type {}; it must be the name of a world", value.get_ref().type_str()))
        })?;
        let world: World = name.parse().map_err(|error: UnknownWorld| wrong(error.to_string()))?;
        if !manifest.worlds.contains(&world) {
            return Err(wrong(format!("`{world}` is not among the manifest's `worlds`; add it there")));
        }
        Ok(world)
    }

    fn fields<Request: DeserializeOwned + Default, Row: DeserializeOwned>(
        &self,
        value: Spanned<DeValue<'_>>,
    ) -> Result<(Request, Vec<Row>, Rest), ManifestError> {
        let fields: Fields<Request, Row> = self.source.read(ValueDeserializer::from(value))?;
        let Fields {
            name,
            world: IgnoredAny,
            now,
            request,
            rows,
            tables,
            expect,
            abstain,
            invalid,
            more_copies,
        } = fields;
        Ok((request, rows, Rest { name, now, tables, expect, abstain, invalid, more_copies }))
    }

    fn name(&self, name: &Spanned<String>) -> Result<String, ManifestError> {
        let text = name.get_ref();
        if text.is_empty() || text.len() > MOST_NAME || text.chars().any(char::is_control) {
            let reason = format!("`{}` is no name; use one line of 1 to {MOST_NAME} bytes", shown(text));
            return Err(self.wrong(&name.span(), "name", reason));
        }
        Ok(text.clone())
    }

    fn entries(
        &self,
        entries: &[Spanned<TableEntry>],
        tables: &[String],
    ) -> Result<Vec<TableEntry>, ManifestError> {
        let mut seen = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let (span, entry) = (entry.span(), entry.get_ref());
            let wrong = |reason| Err(self.wrong(&span, &format!("tables[{index}]"), reason));
            if !tables.contains(&entry.name) {
                let name = shown(&entry.name);
                return wrong(format!("`{name}` is not among the manifest's `tables`; add it there"));
            }
            if let Some(before) = seen.insert((&entry.name, entry.key), index) {
                return wrong(format!("has the name and key of entry {before}; keep one of them"));
            }
        }
        Ok(entries.iter().map(|entry| entry.get_ref().clone()).collect())
    }

    fn expectation(&self, inputs: &Inputs, rest: &Rest) -> Result<Expectation, ManifestError> {
        let said = usize::from(rest.expect.is_some()) + usize::from(rest.abstain) + usize::from(rest.invalid);
        if said != 1 {
            let key = format!("vectors[{}]", self.index);
            let reason = format!("says {said} of `expect`, `abstain` and `invalid`; say exactly one");
            return Err(self.source.wrong(&self.span, key, reason));
        }
        let world = inputs.world();
        if let Some(copies) = &rest.more_copies {
            let reason = if world != World::SuperPeerScheduler || rest.expect.is_none() {
                Some(format!("goes with `expect` for `{}` alone; remove it", World::SuperPeerScheduler))
            } else if *copies.get_ref() > MOST_COPIES {
                Some(format!("{} is more than the {MOST_COPIES} that may be asked for", copies.get_ref()))
            } else {
                None
            };
            if let Some(reason) = reason {
                return Err(self.wrong(&copies.span(), "more_copies", reason));
            }
        }
        let Some(expect) = &rest.expect else {
            return Ok(if rest.abstain { Expectation::Abstain } else { Expectation::Invalid });
        };
        let rows = self.indices(expect.get_ref(), inputs.rows())?;
        match world {
            World::RegionRouter if rows.is_empty() => {
                let reason = "names no row; a router names at least one, or abstains".to_owned();
                Err(self.wrong(&expect.span(), "expect", reason))
            }
            World::RegionRouter | World::PreloadPlanner => Ok(Expectation::Ranked(rows)),
            World::SuperPeerScheduler => {
                let more_copies = rest.more_copies.as_ref().map_or(0, |copies| *copies.get_ref());
                Ok(Expectation::Scheduled { rows, more_copies })
            }
        }
    }

    fn indices(&self, expected: &[Spanned<u32>], rows: usize) -> Result<Vec<u32>, ManifestError> {
        let mut seen = HashSet::new();
        for (index, row) in expected.iter().enumerate() {
            let (span, row) = (row.span(), *row.get_ref());
            let wrong = |reason| Err(self.wrong(&span, &format!("expect[{index}]"), reason));
            if row as usize >= rows {
                return wrong(format!("there is no row {row}; rows count from 0 to {}", rows - 1));
            }
            if !seen.insert(row) {
                return wrong(format!("row {row} comes twice; name it once"));
            }
        }
        Ok(expected.iter().map(|row| *row.get_ref()).collect())
    }
}

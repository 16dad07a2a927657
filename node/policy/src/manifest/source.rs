//! The text of a manifest: where in it something stands, and errors that say so.

use std::ops::Range;

use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::TokenKind;

use super::{MOST_MANIFEST, ManifestError};

/// Dots in one key. Each dot nests a table in another, within each of the tables and arrays that toml
/// lets nest (80), and such a nest is freed by recursion: thousands deep, it would overflow the stack.
/// A manifest needs one.
const MOST_DOTS: usize = 4;
/// Characters of somebody's text that an error repeats.
const MOST_SHOWN: usize = 120;

/// Somebody's text, fit for a log line: cut, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    cut(text, MOST_SHOWN)
}

/// Somebody's text without control characters, and not longer than `most` characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let mut rest = text.chars();
    let mut shown: String =
        rest.by_ref().take(most).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if rest.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The one of `known` that is written most like `text`.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|known| (strsim::jaro_winkler(text, known), known));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// The text of a manifest.
pub(super) struct Source<'a>(&'a str);

impl<'a> Source<'a> {
    /// A text that is safe to parse.
    pub(super) fn new(text: &'a str) -> Result<Self, ManifestError> {
        if text.len() > MOST_MANIFEST {
            return Err(ManifestError::TooLong(text.len()));
        }
        let source = Self(text);
        // Line ends do not begin a new count: where a key is wrong, the parser reads on over them.
        let mut dots = 0;
        for token in toml_parser::Source::new(text).lex() {
            match token.kind() {
                TokenKind::Dot => dots += 1,
                TokenKind::Equals
                | TokenKind::Comma
                | TokenKind::LeftSquareBracket
                | TokenKind::RightSquareBracket
                | TokenKind::LeftCurlyBracket
                | TokenKind::RightCurlyBracket => dots = 0,
                _ => {}
            }
            if dots > MOST_DOTS {
                let at = token.span();
                let message = format!("a key of more than {} parts; no key has so many", MOST_DOTS + 1);
                return Err(ManifestError::Syntax { line: source.line(&(at.start()..at.end())), message });
            }
        }
        Ok(source)
    }

    /// The whole of it.
    pub(super) fn root(&self) -> Result<Spanned<DeTable<'a>>, ManifestError> {
        DeTable::parse(self.0).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let at = self.0.get(span.clone()).unwrap_or_default().trim();
            let message = error.message().replace('\n', ", ");
            let message = if at.is_empty() { message } else { format!("{message}, at `{}`", shown(at)) };
            ManifestError::Syntax { line: self.line(&span), message }
        })
    }

    /// A part of it, typed.
    pub(super) fn read<'de, T: Deserialize<'de>>(
        &self,
        part: impl Deserializer<'de, Error = toml::de::Error>,
    ) -> Result<T, ManifestError> {
        T::deserialize(part).map_err(|error| self.explain(&error))
    }

    /// A value that is wrong.
    pub(super) fn wrong(&self, at: &Range<usize>, key: String, reason: String) -> ManifestError {
        ManifestError::Value { line: self.line(at), key, reason }
    }

    /// Line of a place, from 1.
    pub(super) fn line(&self, at: &Range<usize>) -> usize {
        let before = &self.0.as_bytes()[..at.start.min(self.0.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Refuses what is no table: serde would take a list for one, its values in the order of keys.
    pub(super) fn table(&self, value: &Spanned<DeValue<'_>>, key: &str) -> Result<(), ManifestError> {
        match value.get_ref() {
            DeValue::Table(_) => Ok(()),
            other => {
                let reason =
                    format!("is of type {}; it must be a table of keys and values", other.type_str());
                Err(self.wrong(&value.span(), key.to_owned(), reason))
            }
        }
    }

    /// The tables of a list of them; refuses what is none, and more than `most`.
    pub(super) fn tables<'v>(
        &self,
        value: Spanned<DeValue<'v>>,
        key: &str,
        most: usize,
    ) -> Result<Vec<Spanned<DeValue<'v>>>, ManifestError> {
        self.check_tables(&value, key, most)?;
        match value.into_inner() {
            DeValue::Array(items) => Ok(items.into_iter().collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// As [`Self::tables`], without taking them.
    pub(super) fn check_tables(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        most: usize,
    ) -> Result<(), ManifestError> {
        let wrong = |reason| Err(self.wrong(&value.span(), key.to_owned(), reason));
        let DeValue::Array(items) = value.get_ref() else {
            return wrong(format!("is of type {}; it must be a list of tables", value.get_ref().type_str()));
        };
        if items.len() > most {
            return wrong(format!("has {} entries; at most {most} are read", items.len()));
        }
        items.iter().enumerate().try_for_each(|(index, item)| self.table(item, &format!("{key}[{index}]")))
    }

    /// serde's words in ours: the whole key, and the nearest known one.
    fn explain(&self, error: &toml::de::Error) -> ManifestError {
        let span = error.span().unwrap_or_default();
        let line = self.line(&span);
        let key = self.key_at(&span);
        let message = error.message();
        let unknown =
            message.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected "));
        if let Some((unknown, known)) = unknown {
            let nearest = nearest(&shown(unknown), known.split('`').skip(1).step_by(2)).unwrap_or_default();
            return ManifestError::UnknownKey { line, key, nearest: nearest.to_owned() };
        }
        if let Some(missing) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'))
        {
            let key = if key.is_empty() { missing.to_owned() } else { format!("{key}.{missing}") };
            return ManifestError::Missing { line, key, add: example(missing) };
        }
        ManifestError::Value { line, key, reason: shown(message) }
    }

    /// The whole key of what stands at exactly this place; empty for the text as a whole.
    fn key_at(&self, place: &Range<usize>) -> String {
        DeTable::parse(self.0).ok().and_then(|root| in_table(root.get_ref(), place)).unwrap_or_default()
    }
}

// From within outwards: a list that `[[name]]` makes has the place of its first entry.

fn in_table(table: &DeTable<'_>, place: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| match in_value(value, place) {
        Some(rest) => Some(shown(key.get_ref()) + &rest),
        None => (key.span() == *place).then(|| shown(key.get_ref())),
    })
}

fn in_value(value: &Spanned<DeValue<'_>>, place: &Range<usize>) -> Option<String> {
    let within = match value.get_ref() {
        DeValue::Table(table) => in_table(table, place).map(|rest| format!(".{rest}")),
        DeValue::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| in_value(item, place).map(|rest| format!("[{index}]{rest}"))),
        _ => None,
    };
    within.or_else(|| (value.span() == *place).then(String::new))
}

/// What to write where a key is missing.
pub(super) fn example(key: &str) -> &'static str {
    match key {
        "name" => "add `name = \"…\"`",
        "version" => "add `version = \"1.0.0\"`",
        "worlds" => "add `worlds = [\"region-router\"]`, or another world",
        "world" => "add the world that the vector is for, as `world = \"region-router\"`",
        "rows" => "add `rows = [{ … }]`, at least one",
        _ => "add it",
    }
}

//! Reading `skerry.toml` without the crates of the node: errors say file, line and whole key, as the node's
//! do, also where a key stands in one of several tables of a list.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// What is wrong in a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {words}", file.display())]
pub struct Wrong {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// The whole key, as `network.interfaces[0].mtu`; empty where the text is no TOML.
    pub key: String,
    /// What is wrong; names the key too.
    pub words: String,
}

/// Parses a configuration; `file` only names it in errors.
///
/// # Errors
/// When it is no TOML, or its values are not those of `T`.
pub fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, Wrong> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start).min(text.len());
        let root = DeTable::parse(text).ok();
        let key = root.and_then(|root| key_at(root.get_ref(), offset)).unwrap_or_default();
        let words = explain(error.message(), &key);
        Wrong { file: file.to_owned(), line: line_at(text, offset), key, words }
    })
}

/// An error about the value of a key in a text that parsed, at the line where the key stands, or else the
/// table that should have it.
pub fn wrong(text: &str, file: &Path, key: &str, reason: &str) -> Wrong {
    let root = DeTable::parse(text).ok();
    let offset = root.and_then(|root| offset_of(root.get_ref(), key)).unwrap_or(0);
    Wrong {
        file: file.to_owned(),
        line: line_at(text, offset),
        key: key.to_owned(),
        words: format!("`{key}` {reason}"),
    }
}

/// serde's words in ours: the whole key, and the nearest known one of an unknown key.
fn explain(message: &str, key: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field ") else {
        let message = message.replace('\n', ", ");
        return if key.is_empty() { message } else { format!("`{key}`: {message}") };
    };
    let mut words = rest.split('`').skip(1).step_by(2);
    let unknown = words.next().unwrap_or_default();
    let key = if key.is_empty() { unknown } else { key };
    let nearest =
        words.map(|known| (strsim::jaro_winkler(unknown, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, known)) => format!("unknown key `{key}`; the nearest known key is `{known}`"),
        None => format!("unknown key `{key}`"),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The innermost key that an offset belongs to. The span of a table is its header alone, so every table is
/// looked into.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    let mut here = None;
    for (name, value) in table {
        let name_text = name.get_ref();
        match value.get_ref() {
            DeValue::Table(inner) => {
                if let Some(key) = key_at(inner, offset) {
                    return Some(format!("{name_text}.{key}"));
                }
            }
            DeValue::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    let DeValue::Table(inner) = value.get_ref() else { continue };
                    if let Some(key) = key_at(inner, offset) {
                        return Some(format!("{name_text}[{index}].{key}"));
                    }
                    if value.span().contains(&offset) {
                        return Some(format!("{name_text}[{index}]"));
                    }
                }
            }
            _ => {}
        }
        if name.span().contains(&offset) || value.span().contains(&offset) {
            here = Some(name_text.to_string());
        }
    }
    here
}

/// Where a key stands, or the innermost table above it. Names may have dots in them (`sites.a.example`).
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let mut found = None;
    for (name, value) in table {
        let Some(rest) = key.strip_prefix(&**name.get_ref()) else { continue };
        let here = name.span().start;
        let offset = if rest.is_empty() {
            Some(here)
        } else if let Some(rest) = rest.strip_prefix('.') {
            value.get_ref().as_table().map(|table| offset_of(table, rest).unwrap_or(here))
        } else {
            element(value.get_ref(), rest)
        };
        found = found.max(offset);
    }
    found
}

/// Where the rest of a key stands that begins with an index: `[1].mtu`.
fn element(value: &DeValue<'_>, rest: &str) -> Option<usize> {
    let (index, rest) = rest.strip_prefix('[')?.split_once(']')?;
    let value = value.as_array()?.get(index.parse::<usize>().ok()?)?;
    let here = value.span().start;
    let inner = rest.strip_prefix('.').and_then(|rest| offset_of(value.get_ref().as_table()?, rest));
    Some(inner.unwrap_or(here))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Whole {
        network: Network,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Network {
        hostname: String,
        interfaces: Vec<Interface>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Interface {
        name: String,
        mtu: u32,
    }

    fn refused(text: &str) -> Wrong {
        parse::<Whole>(text, Path::new("x.toml")).unwrap_err()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest() {
        let wrong = refused("[node]\nname = \"a\"\n[network]\nhostnme = \"a\"\n");
        assert_eq!(
            wrong.to_string(),
            "x.toml:4: unknown key `network.hostnme`; the nearest known key is `hostname`"
        );
        assert_eq!(wrong.key, "network.hostnme");
    }

    #[test]
    fn a_wrong_type_in_a_list_of_tables_is_found() {
        let text = "[[network.interfaces]]\nname = \"a\"\n\n[[network.interfaces]]\nmtu = \"much\"\n";
        let wrong = refused(text);
        assert_eq!((wrong.line, wrong.key.as_str()), (5, "network.interfaces[1].mtu"));
        assert!(wrong.words.starts_with("`network.interfaces[1].mtu`: "), "{wrong}");
        let inline = refused("network = { interfaces = [\n{ name = \"a\" },\n{ mut = 1 }] }");
        assert_eq!((inline.line, inline.key.as_str()), (3, "network.interfaces[1].mut"));
    }

    #[test]
    fn a_value_is_found_however_it_is_written() {
        let line = |text: &str, key: &str| wrong(text, Path::new("x.toml"), key, "is odd").line;
        let text = "[network]\nhostname = \"a\"\n[[network.interfaces]]\nname = \"a\"\n\
                    [[network.interfaces]]\n# a comment\nmtu = 7\n";
        assert_eq!(line(text, "network.hostname"), 2);
        assert_eq!(line(text, "network.interfaces[0].name"), 4);
        assert_eq!(line(text, "network.interfaces[1].mtu"), 7);
        // What is missing is told at its table, and what is nowhere at the beginning.
        assert_eq!(line(text, "network.interfaces[1].name"), 5);
        assert_eq!(line(text, "network.proxy"), 1);
        assert_eq!(line(text, "update.source"), 1);
        assert_eq!(line("\nnetwork.hostname = \"a\"\n", "network.hostname"), 2);
        assert_eq!(line("a = 1\n[sites.\"a.example\"]\norigin = 1\n", "sites.a.example.origin"), 3);
        let wrong = wrong(text, Path::new("x.toml"), "network.hostname", "is odd");
        assert_eq!(wrong.to_string(), "x.toml:2: `network.hostname` is odd");
    }

    #[test]
    fn what_is_no_toml_has_a_line_all_the_same() {
        let wrong = refused("[network]\nhostname = = 1\n");
        assert_eq!((wrong.line, wrong.key.as_str()), (2, ""));
        for text in ["\u{0}", "[[", "a = [1,\n\n", "é = \u{7f}"] {
            assert!(parse::<Whole>(text, Path::new("x.toml")).is_err(), "{text:?}");
        }
    }
}

//! What enrolment gave, filled into what an operator wrote: keys that are there stay as they are.

use toml_edit::{DocumentMut, Item, Table, TableLike};

/// `text` with the keys of `fleet` that it does not have. A text that is no TOML stays as it is, so that what
/// is wrong is found in it.
pub fn fill(text: &str, fleet: &str) -> String {
    let (Ok(mut document), Ok(fleet)) = (text.parse::<DocumentMut>(), fleet.parse::<DocumentMut>()) else {
        return text.to_owned();
    };
    if merge(document.as_table_mut(), fleet.as_table()) { document.to_string() } else { text.to_owned() }
}

/// Whether anything was missing.
fn merge(into: &mut dyn TableLike, from: &Table) -> bool {
    let mut changed = false;
    for (key, item) in from {
        match into.get_mut(key) {
            None => {
                let mut item = item.clone();
                to_end(&mut item);
                into.insert(key, item);
                changed = true;
            }
            Some(there) => {
                if let (Some(into), Some(from)) = (there.as_table_like_mut(), item.as_table()) {
                    changed |= merge(into, from);
                }
            }
        }
    }
    changed
}

/// Tables that are new stand after those that were there, whose lines stay what they are.
fn to_end(item: &mut Item) {
    match item {
        Item::Table(table) => {
            table.set_position(Some(isize::MAX));
            table.iter_mut().for_each(|(_, item)| to_end(item));
        }
        Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| {
            table.set_position(Some(isize::MAX));
            table.iter_mut().for_each(|(_, item)| to_end(item));
        }),
        _ => {}
    }
}

/// The line of `text` that stands in line `line` of what [`fill`] made of it, both from 1.
pub(super) fn line(text: &str, filled: &str, line: u64) -> u64 {
    let at = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
    let Some(words) = filled.lines().nth(at) else { return line };
    let same = text.lines().enumerate().filter(|(_, other)| *other == words).map(|(place, _)| place);
    // Lines only move down.
    same.min_by_key(|place| at.abs_diff(*place)).map_or(line, |place| place as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: &str =
        "[node]\nname = \"edge-7\"\n\n[registry]\ncontrol_url = \"https://c\"\nregion = \"north\"\n";

    #[test]
    fn keys_that_are_there_stay() {
        let text =
            "# mine\n[registry]\nregion = \"south\" # here\n\n[sites.default]\norigin = \"http://a\"\n";
        let filled = fill(text, FLEET);
        let value: toml::Table = toml::from_str(&filled).unwrap();
        assert_eq!(value["registry"]["region"].as_str(), Some("south"));
        assert_eq!(value["registry"]["control_url"].as_str(), Some("https://c"));
        assert_eq!(value["node"]["name"].as_str(), Some("edge-7"));
        assert!(filled.starts_with("# mine\n[registry]\nregion = \"south\" # here\n"), "{filled}");
        let place = |words: &str| filled.find(words).unwrap();
        assert!(place("[sites.default]") < place("[node]"), "{filled}");
        // Twice is once.
        assert_eq!(fill(&filled, FLEET), filled);
        assert_eq!(fill(text, ""), text);
    }

    #[test]
    fn lines_are_those_of_the_operator_s_text() {
        let text = "[registry]\nregion = \"south\"\n\n[sites.default]\norigni = \"http://a\"\n";
        let filled = fill(text, FLEET);
        let at = filled.lines().position(|line| line.starts_with("origni")).unwrap() as u64 + 1;
        assert_ne!(at, 5);
        assert_eq!(line(text, &filled, at), 5);
        for strange in [0, 1, 99, u64::MAX] {
            line(text, &filled, strange);
            line("", "", strange);
        }
    }

    #[test]
    fn what_is_no_toml_stays() {
        for text in ["[[", "a = ", "\u{feff}[a", "node = 3\n"] {
            let filled = fill(text, FLEET);
            assert!(filled.starts_with(text), "{filled}");
        }
        assert_eq!(fill("a = 1\n", "[["), "a = 1\n");
    }
}

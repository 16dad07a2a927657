//! What is wrong with the box, and what it is: `/run/skerry-box/status.json` and `box.json`.
//!
//! Every program of the box keeps its own entries in the list of what is wrong; the screen shows all of
//! them, and the node tells them in `/status` and in its metrics. Both files hold no secret and may be
//! read by anybody on the box.

use std::fs::{File, OpenOptions};
use std::io;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::facts;
use crate::files;
use crate::layout::Layout;
use crate::rollback::{self, Failed};
use crate::trial;

/// Entries that are kept of one program.
const MOST_ENTRIES: usize = 16;
/// Longest text of an entry, characters.
const MOST_WORDS: usize = 400;
/// Largest of both files, bytes.
const MOST: u64 = 1 << 20;

/// One thing that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wrong {
    /// The program that found it, as `provision`.
    pub unit: String,
    /// The file that it stands in; empty when it is in none.
    pub file: String,
    /// Line of the file, from 1.
    pub line: Option<u64>,
    /// Key of the configuration; empty when it is about none.
    pub key: String,
    /// What it is, and what can be done.
    pub words: String,
}

impl Wrong {
    /// Something that stands in no file.
    pub fn new(words: impl AsRef<str>) -> Self {
        Self { words: words.as_ref().to_owned(), ..Self::default() }
    }

    /// Something about a file.
    pub fn file(file: impl AsRef<str>, words: impl AsRef<str>) -> Self {
        Self { file: file.as_ref().to_owned(), ..Self::new(words) }
    }

    /// What `skerry config check` said of `checked`, told of the file that an operator knows it by.
    ///
    /// The words are `PATH:LINE: MESSAGE`, and a message names its key first, in backticks.
    pub fn checked(words: &str, checked: &str, file: &str) -> Self {
        let words = words.trim();
        let words = words.strip_prefix("skerry: ").unwrap_or(words);
        let placed = words.strip_prefix(checked).and_then(|rest| rest.strip_prefix(':'));
        let placed = placed.and_then(|rest| rest.split_once(": "));
        let (line, message) = match placed.map(|(line, message)| (line.parse().ok(), message)) {
            Some((Some(line), message)) => (Some(line), message),
            _ => (None, words),
        };
        let key = message.split('`').nth(1).filter(|_| line.is_some()).unwrap_or_default();
        let message = message.replace(checked, file);
        Self { file: file.to_owned(), line, key: key.to_owned(), ..Self::new(message) }
    }

    /// One line: file, line and words.
    pub fn line(&self) -> String {
        let place = match (self.file.as_str(), self.line) {
            ("", _) => String::new(),
            (file, Some(line)) => format!("{file}, line {line}: "),
            (file, None) => format!("{file}: "),
        };
        format!("{place}{}", self.words)
    }

    /// Its texts come from files of strangers and go to terminals: no control characters, and not too long.
    fn cleaned(self, unit: &str) -> Self {
        Self {
            unit: clean(unit, 64),
            file: clean(&self.file, 128),
            line: self.line,
            key: clean(&self.key, 128),
            words: clean(&self.words, MOST_WORDS),
        }
    }
}

/// At most so many characters, none of which moves a cursor or hides another one.
pub fn clean(text: &str, most: usize) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown: String = text.chars().map(|c| if c.is_control() || hidden(c) { ' ' } else { c }).collect();
    let shown = shown.trim();
    let mut text: String = shown.chars().take(most).collect();
    if shown.chars().nth(most).is_some() {
        text.pop();
        text.push('…');
    }
    text
}

/// What the box is: `box.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BoxState {
    /// Name of the image.
    pub image_id: String,
    /// Version of the image; empty on a server that was not flashed.
    pub image_version: String,
    /// Label of the root partition that runs, and its device.
    pub slot: String,
    /// The version that runs is new, and was not found good yet.
    pub on_trial: bool,
    /// The version that the box came back from.
    pub previous_failed: Option<Failed>,
    /// The box has a configuration that it goes by.
    pub provisioned: bool,
    /// What is wrong, by program.
    pub wrong: Vec<Wrong>,
}

/// Puts what one program found in place of what it found before, and tells it all.
///
/// # Errors
/// When the files cannot be written.
pub fn report(layout: &Layout, unit: &str, wrong: Vec<Wrong>) -> io::Result<()> {
    let _lock = lock(layout)?;
    let mut all = read(layout);
    all.retain(|entry| entry.unit != unit);
    all.extend(wrong.into_iter().take(MOST_ENTRIES).map(|entry| entry.cleaned(unit)));
    let path = layout.runtime().join("status.json");
    files::replace(&path, &serde_json::to_vec(&all)?, 0o644, None)?;
    write_box(layout, all, told(layout))
}

/// Writes `box.json` anew, and looks anew at the boot partition for it.
///
/// # Errors
/// When it cannot be written.
pub fn publish(layout: &Layout) -> io::Result<()> {
    let _lock = lock(layout)?;
    write_box(layout, read(layout), None)
}

/// What the box told of itself last; `None` before it told anything.
pub fn told(layout: &Layout) -> Option<BoxState> {
    let text = files::text(&layout.runtime().join("box.json"), MOST)?;
    serde_json::from_str(&text).ok()
}

/// What is wrong, of all programs.
pub fn read(layout: &Layout) -> Vec<Wrong> {
    let text = files::text(&layout.runtime().join("status.json"), MOST);
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// A look at the boot partition has it mounted: what was told before is good until a version is kept.
fn write_box(layout: &Layout, wrong: Vec<Wrong>, before: Option<BoxState>) -> io::Result<()> {
    let image = facts::image(layout);
    let state = BoxState {
        slot: facts::slot(layout),
        on_trial: trial::on_trial(layout),
        previous_failed: match before {
            Some(before) => before.previous_failed,
            None => rollback::failed(layout, &image.version),
        },
        provisioned: layout.is_provisioned(),
        image_id: image.id,
        image_version: image.version,
        wrong,
    };
    files::replace(&layout.runtime().join("box.json"), &serde_json::to_vec(&state)?, 0o644, None)
}

/// Held while the files are read and written; programs of the box run at the same time.
fn lock(layout: &Layout) -> io::Result<File> {
    let folder = layout.runtime();
    if !folder.is_dir() {
        files::make_dir(&folder, 0o755, None)?;
    }
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_check_become_file_line_and_key() {
        let path = "/run/skerry-box/offered.toml";
        let words =
            format!("skerry: {path}:5: unknown key `public.lissten`; the nearest known key is `listen`\n");
        let wrong = Wrong::checked(&words, path, "skerry.toml on sda1");
        assert_eq!((wrong.line, wrong.key.as_str()), (Some(5), "public.lissten"));
        assert_eq!(
            wrong.line(),
            "skerry.toml on sda1, line 5: unknown key `public.lissten`; the nearest known key is `listen`"
        );
        let wrong = Wrong::checked(&format!("skerry: cannot read {path}: no"), path, "a");
        assert_eq!((wrong.line, wrong.key.as_str(), wrong.words.as_str()), (None, "", "cannot read a: no"));
        for words in ["", ":", "skerry: ", &format!("{path}:x: `a`"), &format!("{path}:")] {
            assert_eq!(Wrong::checked(words, path, "a").line, None, "{words}");
        }
    }

    #[test]
    fn what_is_shown_moves_no_cursor() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}c\r\n", 80), "a [2Jb c");
        assert_eq!(clean("äöüß", 3), "äö…");
        assert_eq!(clean(" a ", 1), "a");
    }

    #[test]
    fn each_program_keeps_its_own_entries() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        report(&layout, "provision", vec![Wrong::new("one"), Wrong::new("two")]).unwrap();
        report(&layout, "health", vec![Wrong::file("b", "\x07three")]).unwrap();
        report(&layout, "provision", vec![Wrong::new("four"); 100]).unwrap();
        let all = read(&layout);
        assert_eq!(all.len(), 1 + MOST_ENTRIES);
        assert_eq!(all[0], Wrong { unit: "health".into(), ..Wrong::file("b", "three") });
        report(&layout, "provision", Vec::new()).unwrap();
        report(&layout, "health", Vec::new()).unwrap();
        let text = std::fs::read_to_string(layout.runtime().join("box.json")).unwrap();
        let state: BoxState = serde_json::from_str(&text).unwrap();
        assert_eq!(state, BoxState::default());
    }

    #[test]
    fn the_boot_partition_is_looked_at_when_a_version_was_kept() {
        let (_root, layout) = crate::trial::tests::machine("2", &["skerry_2+8-1.efi", "skerry_3+0-1.efi"]);
        let failed = || told(&layout).unwrap().previous_failed.map(|failed| failed.version);
        assert_eq!(told(&layout), None);
        report(&layout, "provision", Vec::new()).unwrap();
        assert_eq!(failed().as_deref(), Some("3"));
        std::fs::remove_file(layout.at("boot/EFI/Linux/skerry_3+0-1.efi")).unwrap();
        report(&layout, "health", Vec::new()).unwrap();
        assert_eq!(failed().as_deref(), Some("3"));
        publish(&layout).unwrap();
        assert_eq!(failed(), None);
    }

    #[test]
    fn a_broken_file_is_no_reason_to_fail() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        files::make_dir(&layout.runtime(), 0o755, None).unwrap();
        std::fs::write(layout.runtime().join("status.json"), "[{\"unit\": 3}").unwrap();
        report(&layout, "health", vec![Wrong::new("one")]).unwrap();
        assert_eq!(read(&layout).len(), 1);
    }
}

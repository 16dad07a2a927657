//! The ledger: what decides in each world, for the next start, and the highest version of each name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use semver::Version as Number;
use serde::{Deserialize, Serialize};
use skerry_core::files;

use crate::manifest::World;
use crate::rollout::Stage;

const FILE: &str = "ledger.json";

/// What decides, and what has been seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Ledger {
    /// The highest version of each policy that was ever taken.
    pub(crate) highest: BTreeMap<String, Number>,
    /// Digests of what decides, by world.
    pub(crate) worlds: BTreeMap<World, Entry>,
    /// Worlds of which something is not loaded, or not yet: their entries stay as they are, for a start
    /// at which it can be, until something changes there.
    #[serde(skip)]
    pub(crate) unloaded: BTreeSet<World>,
    /// Why it cannot be read: then nothing is taken, since nobody knows what would be a step back.
    #[serde(skip)]
    pub(crate) broken: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    pub(crate) incumbent: Option<String>,
    pub(crate) candidate: Option<Candidate>,
    pub(crate) previous: Option<Previous>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) digest: String,
    pub(crate) stage: Stage,
    pub(crate) held: bool,
}

/// What decided before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Previous {
    BuiltIn,
    Digest(String),
}

impl Ledger {
    /// The ledger of a folder; a new one where there is none.
    pub(crate) fn load(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let read = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.to_string()),
        };
        read.unwrap_or_else(|reason| {
            let path = path.display();
            log::error!(path:%; "the ledger of policies cannot be read, so the built-in verdicts decide: {reason}");
            let broken = format!("{path} cannot be read ({reason}); mend or remove it, and start the node again");
            Self { broken: Some(broken), ..Self::default() }
        })
    }

    /// Writes it to its folder.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        files::replace(&folder.join(FILE), &serde_json::to_vec_pretty(self).unwrap_or_default())
    }

    /// Whether any world has to do with a package.
    pub(crate) fn names(&self, digest: &str) -> bool {
        self.worlds.values().any(|entry| entry.names(digest))
    }
}

impl Entry {
    fn names(&self, digest: &str) -> bool {
        self.digests().any(|other| other == digest)
    }

    /// The packages that it is about.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &String> {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.digest);
        let previous = self.previous.as_ref().and_then(|previous| match previous {
            Previous::Digest(digest) => Some(digest),
            Previous::BuiltIn => None,
        });
        self.incumbent.iter().chain(candidate).chain(previous)
    }
}

/// Removes from a folder what [`files::replace`] left there when a crash cut it off.
pub(crate) fn remove_torn(folder: &Path) {
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.path().extension().is_some_and(|ending| ending == "new") {
            let _ = fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_has_cut_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a.policy.new", "a.policy.wasm", "ledger.json", "ledger.new", "new"];
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        remove_torn(folder.path());
        let left = names.map(|name| folder.path().join(name).exists());
        assert_eq!(left, [false, true, true, false, true]);
        remove_torn(&folder.path().join("none"));
    }

    #[test]
    fn the_ledger_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let candidate = Candidate { digest: "c".into(), stage: Stage::Canary10, held: true };
        let first = Entry { incumbent: Some("a".into()), candidate: None, previous: Some(Previous::BuiltIn) };
        let second = Entry {
            incumbent: None,
            candidate: Some(candidate),
            previous: Some(Previous::Digest("p".into())),
        };
        let ledger = Ledger {
            highest: BTreeMap::from([("near".into(), Number::new(1, 2, 3))]),
            worlds: BTreeMap::from([(World::RegionRouter, first), (World::PreloadPlanner, second)]),
            ..Ledger::default()
        };
        ledger.write(folder.path()).unwrap();
        assert_eq!(Ledger::load(folder.path()), ledger);
        assert!(
            ledger.worlds[&World::PreloadPlanner].names("p")
                && !ledger.worlds[&World::RegionRouter].names("p")
        );

        fs::write(folder.path().join(FILE), "{ nonsense").unwrap();
        assert!(Ledger::load(folder.path()).broken.unwrap().contains(FILE));
        assert_eq!(Ledger::load(&folder.path().join("none")), Ledger::default());
    }
}

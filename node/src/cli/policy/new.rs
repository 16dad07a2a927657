//! `skerry policy new`: a folder that builds, with all that it needs but the registry's crates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, ensure};
use clap::{Args, ValueEnum};
use skerry_policy::manifest::ManifestError;
use skerry_policy::{Manifest, World};

use super::scripts::fit_for_python;
use crate::cli::print;

/// Files by their path in the folder.
pub(super) type Files = &'static [(&'static str, &'static str)];

macro_rules! plugins {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../plugins/", $path)))),*]
    };
}

/// The SDK, which is on no registry; it looks for the contract in `../wit`.
const KIT: Files = plugins![
    "sdk/src/bindings.rs",
    "sdk/src/harness.rs",
    "sdk/src/host.rs",
    "sdk/src/lib.rs",
    "sdk/src/preload_planner.rs",
    "sdk/src/region_router.rs",
    "sdk/src/super_peer_scheduler.rs",
];

/// The contract.
pub(super) const WIT: Files = plugins![
    "wit/host.wit",
    "wit/preload-planner.wit",
    "wit/region-router.wit",
    "wit/super-peer-scheduler.wit"
];

/// What is the same in all worlds. In the workspace the SDK's Cargo.toml inherits; here it stands alone.
const SAME: Files = &[
    ("Cargo.toml", include_str!("templates/package.toml")),
    ("sdk/Cargo.toml", include_str!("templates/sdk.toml")),
    (".gitignore", include_str!("templates/gitignore")),
    ("README.md", include_str!("templates/readme.md")),
];

/// A policy in JavaScript: what is the same in all worlds.
const JAVASCRIPT: Files = &[
    ("main.js", include_str!("templates/js/main.js")),
    ("package.json", include_str!("templates/js/package.json")),
    (".gitignore", include_str!("templates/js/gitignore")),
    ("README.md", include_str!("templates/js/readme.md")),
];

/// A policy in Python, which is for one world.
const PYTHON: Files = &[
    ("main.py", include_str!("templates/python/main.py")),
    ("policy.py", include_str!("templates/python/policy.py")),
    ("test_policy.py", include_str!("templates/python/test_policy.py")),
    ("manifest.toml", include_str!("templates/python/manifest.toml")),
    ("requirements.txt", include_str!("templates/python/requirements.txt")),
    (".gitignore", include_str!("templates/python/gitignore")),
    ("README.md", include_str!("templates/python/readme.md")),
];

/// The policy itself in JavaScript, and its manifest.
fn own_javascript(world: World) -> Files {
    match world {
        World::RegionRouter => &[
            ("policy.js", include_str!("templates/js/region-router.js")),
            ("policy.test.js", include_str!("templates/js/region-router.test.js")),
            ("manifest.toml", include_str!("templates/region-router.toml")),
        ],
        World::PreloadPlanner => &[
            ("policy.js", include_str!("templates/js/preload-planner.js")),
            ("policy.test.js", include_str!("templates/js/preload-planner.test.js")),
            ("manifest.toml", include_str!("templates/preload-planner.toml")),
        ],
        World::SuperPeerScheduler => &[
            ("policy.js", include_str!("templates/js/super-peer-scheduler.js")),
            ("policy.test.js", include_str!("templates/js/super-peer-scheduler.test.js")),
            ("manifest.toml", include_str!("templates/super-peer-scheduler.toml")),
        ],
    }
}

/// Everything that a new folder gets.
fn files(language: Language, world: World) -> impl Iterator<Item = (&'static str, &'static str)> {
    let parts: [Files; 4] = match language {
        Language::Rust => [own(world), SAME, KIT, WIT],
        Language::Js => [own_javascript(world), JAVASCRIPT, WIT, &[]],
        Language::Python => [PYTHON, WIT, &[], &[]],
    };
    parts.into_iter().flatten().copied()
}

/// The policy itself in Rust, and its manifest.
fn own(world: World) -> Files {
    match world {
        World::RegionRouter => &[
            ("src/lib.rs", include_str!("templates/region-router.rs")),
            ("manifest.toml", include_str!("templates/region-router.toml")),
        ],
        World::PreloadPlanner => &[
            ("src/lib.rs", include_str!("templates/preload-planner.rs")),
            ("manifest.toml", include_str!("templates/preload-planner.toml")),
        ],
        World::SuperPeerScheduler => &[
            ("src/lib.rs", include_str!("templates/super-peer-scheduler.rs")),
            ("manifest.toml", include_str!("templates/super-peer-scheduler.toml")),
        ],
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Language that it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// What it decides: region-router (unless it is in Python), preload-planner or super-peer-scheduler
    #[arg(long)]
    world: Option<World>,
    /// Its name, which is also its folder's; the folder may stand in another (`policies/near`)
    #[arg(value_parser = parse)]
    name: Named,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Rust,
    Js,
    Python,
}

/// A folder, and the name of the policy in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    folder: PathBuf,
    name: String,
}

/// Reads `[FOLDER/]NAME`.
fn parse(text: &str) -> Result<Named, String> {
    let folder = PathBuf::from(text);
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.ok_or("it names no folder: write NAME or FOLDER/NAME")?.to_owned();
    // What is a name is the manifest's to say.
    let quoted = toml::Value::from(name.as_str());
    let manifest = format!("name = {quoted}\nversion = \"0.1.0\"\nworlds = [\"region-router\"]\n");
    match Manifest::parse(&manifest) {
        Ok(_) => Ok(Named { folder, name }),
        Err(ManifestError::Value { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

impl New {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let (usual, steps) = match self.lang {
            Language::Rust => (World::RegionRouter, "cargo test"),
            Language::Js => (World::RegionRouter, "npm test\n  npm install"),
            Language::Python => (
                World::PreloadPlanner,
                "python3 -m unittest\n  python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
            ),
        };
        let world = self.world.unwrap_or(usual);
        if let Language::Python = self.lang {
            fit_for_python(world).map_err(|reason| anyhow!(reason))?;
        }
        let Named { folder, name } = &self.name;
        write(folder, name, self.lang, world)?;
        let folder = folder.display();
        print(&format!(
            "{folder}: a {world} to begin with\n\n  cd {folder}\n  {steps}\n  skerry policy build\n  skerry policy test\n"
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write(folder: &Path, name: &str, language: Language, world: World) -> anyhow::Result<()> {
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    fs::create_dir_all(folder).with_context(|| cannot(folder))?;
    let empty = fs::read_dir(folder).with_context(|| cannot(folder))?.next().is_none();
    ensure!(empty, "{} is there already and is not empty; choose another name", folder.display());
    for (path, text) in files(language, world) {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| cannot(parent))?;
        }
        fs::write(&path, filled(text, name, world)).with_context(|| cannot(&path))?;
    }
    Ok(())
}

/// A template with its blanks filled in; the files of the kit have none.
fn filled(text: &str, name: &str, world: World) -> String {
    text.replace("@NAME@", name)
        .replace("@WORLD@", world.name())
        .replace("@VERSION@", crate::VERSION)
        .replace("@RUST@", env!("CARGO_PKG_RUST_VERSION"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of the repository, from where tests run: the folder of their package.
    const ROOT: &str = "..";

    fn all(world: World) -> Vec<(&'static str, String)> {
        files(Language::Rust, world).map(|(path, text)| (path, filled(text, "near-1", world))).collect()
    }

    fn text_of(world: World, wanted: &str) -> String {
        all(world).into_iter().find(|(path, _)| *path == wanted).unwrap().1
    }

    #[test]
    fn names_are_those_that_a_manifest_may_have() {
        let named = parse("policies/near-1").unwrap();
        assert_eq!((named.folder.as_path(), named.name.as_str()), (Path::new("policies/near-1"), "near-1"));
        assert!(parse(&"x".repeat(64)).is_ok());
        for text in ["", "/", "..", "Near", "a b", "a_b", "-a", "a\"b", "\u{e4}", "a\nb", &"x".repeat(65)] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse("Near").unwrap_err().contains("lowercase letters, digits and hyphens"));
    }

    #[test]
    fn manifests_are_right_and_have_vectors() {
        for world in World::ALL {
            let manifest = Manifest::parse(&text_of(world, "manifest.toml")).unwrap();
            assert_eq!((manifest.name.as_str(), manifest.worlds), ("near-1", vec![world]));
            assert!(manifest.vectors.len() >= 3, "{world}");
        }
    }

    #[test]
    fn no_blank_is_left_open() {
        for world in World::ALL {
            for (path, text) in all(world) {
                assert!(!text.contains("@NAME@") && !text.contains("@WORLD@"), "{path}");
                if path.ends_with("Cargo.toml") {
                    let package = text.parse::<toml::Table>().unwrap();
                    let version = package["package"]["rust-version"].as_str().unwrap();
                    assert!(version.starts_with("1."), "{path}: {version}");
                }
            }
            assert!(text_of(world, "Cargo.toml").contains("name = \"policy-near-1\""));
            assert!(text_of(world, "README.md").contains(&format!("wit/{world}.wit")));
        }
    }

    #[test]
    fn other_languages_have_all_they_need_and_the_examples_are_theirs() {
        for (language, world) in World::ALL
            .map(|world| (Language::Js, world))
            .into_iter()
            .chain([(Language::Python, World::PreloadPlanner)])
        {
            let written: Vec<_> = files(language, world).collect();
            assert!(written.iter().any(|(path, _)| *path == "wit/host.wit"));
            for (path, text) in written {
                let text = filled(text, "near-1", world);
                assert!(!text.contains("@NAME@") && !text.contains("@WORLD@"), "{path}");
                if path == "manifest.toml" {
                    let manifest = Manifest::parse(&text).unwrap();
                    assert_eq!(manifest.worlds, [world]);
                    assert!(manifest.vectors.len() >= 3, "{world}");
                }
            }
        }
        for (example, template) in [("js/main.js", JAVASCRIPT[0].1), ("python/main.py", PYTHON[0].1)] {
            assert_eq!(fs::read_to_string(format!("{ROOT}/plugins/examples/{example}")).unwrap(), template);
        }
    }

    #[test]
    fn the_kit_is_all_of_the_sdk_and_the_contract() {
        let here: BTreeSet<String> = KIT.iter().chain(WIT).map(|(path, _)| (*path).to_owned()).collect();
        let mut there = BTreeSet::new();
        for folder in ["sdk/src", "wit"] {
            for entry in fs::read_dir(format!("{ROOT}/plugins/{folder}")).unwrap() {
                there.insert(format!("{folder}/{}", entry.unwrap().file_name().display()));
            }
        }
        assert_eq!(here, there);
    }

    #[test]
    fn the_sdk_has_the_dependencies_that_it_has_in_the_workspace() {
        let table = |text: &str| text.parse::<toml::Table>().unwrap();
        let workspace = table(&fs::read_to_string(format!("{ROOT}/Cargo.toml")).unwrap());
        let original = table(&fs::read_to_string(format!("{ROOT}/plugins/sdk/Cargo.toml")).unwrap());
        let written = table(&text_of(World::RegionRouter, "sdk/Cargo.toml"));
        let written = written["dependencies"].as_table().unwrap();
        let names = original["dependencies"].as_table().unwrap().keys();
        assert!(names.eq(written.keys()));
        for (name, value) in written {
            assert_eq!(value, &workspace["workspace"]["dependencies"][name.as_str()], "{name}");
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let near = folder.path().join("policies/near");
        write(&near, "near", Language::Rust, World::PreloadPlanner).unwrap();
        assert!(near.join("sdk/src/lib.rs").is_file() && near.join("wit/host.wit").is_file());
        let mine = near.join("src/lib.rs");
        fs::write(&mine, "mine").unwrap();
        let error = write(&near, "near", Language::Rust, World::RegionRouter).unwrap_err().to_string();
        assert!(error.contains("is there already and is not empty"), "{error}");
        assert_eq!(fs::read_to_string(mine).unwrap(), "mine");
    }
}

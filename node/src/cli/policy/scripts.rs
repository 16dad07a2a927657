//! Policies in JavaScript and Python: tools of those languages make the component, interpreter and all.
//!
//! JavaScript goes through QuickJS (componentize-qjs, what jco's `--backend quickjs` calls, without the
//! rest of jco), Python through componentize-py. Both leave WASI out: the contract is all that a
//! policy is given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow, bail, ensure};
use skerry_policy::package::MOST_COMPONENT;
use skerry_policy::{Manifest, World};

use super::load::read;
use super::new::WIT;

/// Which tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    JavaScript,
    Python,
}

impl Script {
    /// The language of a policy's folder, by the file that says what it is built with.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        if folder.join("package.json").is_file() {
            Some(Self::JavaScript)
        } else if folder.join("requirements.txt").is_file() {
            Some(Self::Python)
        } else {
            None
        }
    }

    /// Makes the component.
    pub(super) fn component(self, folder: &Path, manifest: &Manifest) -> anyhow::Result<Vec<u8>> {
        let world = self.world(manifest)?;
        let work = tempfile::Builder::new().prefix("skerry-policy-").tempdir()?;
        for (path, text) in WIT {
            let path = work.path().join(path);
            fs::create_dir_all(path.parent().unwrap_or(work.path()))?;
            fs::write(path, text)?;
        }
        let (wit, out) = (work.path().join("wit"), work.path().join("component.wasm"));
        let folder = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
        let mut command = self.command(&folder, world, &wit, &out);
        let output = command.current_dir(&folder).stdin(Stdio::null()).output();
        let output = output.map_err(|error| self.missing(&folder, &error))?;
        if output.status.code() == Some(127) {
            bail!("Node.js 20 or later is needed to build a policy in JavaScript");
        }
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} could not build the policy:\n{}", self.tool(), said.trim());
        read(&out, MOST_COMPONENT)
    }

    fn world(self, manifest: &Manifest) -> anyhow::Result<World> {
        let [world] = manifest.worlds[..] else {
            bail!("a policy in {self} has one world; its manifest names {}", manifest.worlds.len());
        };
        if self == Self::Python {
            fit_for_python(world).map_err(|reason| anyhow!(reason))?;
        }
        Ok(world)
    }

    fn tool(self) -> &'static str {
        match self {
            Self::JavaScript => "componentize-qjs",
            Self::Python => "componentize-py",
        }
    }

    fn command(self, folder: &Path, world: World, wit: &Path, out: &Path) -> Command {
        let local = |path: &str| Some(folder.join(path)).filter(|tool| tool.is_file());
        let mut command;
        match self {
            Self::JavaScript => {
                let tool = folder.join("node_modules/.bin/componentize-qjs");
                command = Command::new(variable("COMPONENTIZE_QJS").unwrap_or(tool));
                command.arg("--wit").arg(wit).args(["--js", "main.js", "--world", world.name()]);
                command.args(["--sync", "--stub-wasi", "-o"]).arg(out);
            }
            Self::Python => {
                let tool = variable("COMPONENTIZE_PY").or_else(|| local(".venv/bin/componentize-py"));
                command = Command::new(tool.unwrap_or_else(|| self.tool().into()));
                command.arg("-q").arg("-d").arg(wit).args(["-w", world.name()]);
                command.args(["componentize", "--stub-wasi", "-p", ".", "main", "-o"]).arg(out);
                // Else it looks for packages in whatever Python is first in `PATH`.
                command.env("RUST_BACKTRACE", "0").env("VIRTUAL_ENV", folder.join(".venv"));
            }
        }
        command
    }

    fn missing(self, folder: &Path, error: &io::Error) -> anyhow::Error {
        if error.kind() != io::ErrorKind::NotFound {
            return anyhow!("cannot run {}: {error}", self.tool());
        }
        let folder = folder.display();
        match self {
            Self::JavaScript => anyhow!("componentize-qjs is not here: run `npm install` in {folder}"),
            Self::Python => anyhow!(
                "componentize-py is not here: run `python3 -m venv .venv` and `.venv/bin/pip install -r \
                 requirements.txt` in {folder}"
            ),
        }
    }
}

impl std::fmt::Display for Script {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::JavaScript => "JavaScript",
            Self::Python => "Python",
        })
    }
}

/// Python is for planning alone, and why.
pub(super) fn fit_for_python(world: World) -> Result<(), String> {
    if world == World::PreloadPlanner {
        return Ok(());
    }
    Err(format!(
        "Python is for preload-planner alone: an instance takes 12 MiB and 2 ms before its first line, too much \
         for a {world} on the path of a request"
    ))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(worlds: &str) -> Manifest {
        Manifest::parse(&format!("name = \"a\"\nversion = \"1.0.0\"\nworlds = [{worlds}]\n")).unwrap()
    }

    #[test]
    fn the_folder_says_which_language_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Script::of(folder.path()), None);
        fs::write(folder.path().join("requirements.txt"), "").unwrap();
        assert_eq!(Script::of(folder.path()), Some(Script::Python));
        fs::write(folder.path().join("package.json"), "{}").unwrap();
        assert_eq!(Script::of(folder.path()), Some(Script::JavaScript));
    }

    #[test]
    fn worlds_and_missing_tools_are_told_with_the_way_out() {
        let two = manifest("\"region-router\", \"preload-planner\"");
        assert!(Script::JavaScript.world(&two).unwrap_err().to_string().contains("has one world"));
        let router = manifest("\"region-router\"");
        assert_eq!(Script::JavaScript.world(&router).unwrap(), World::RegionRouter);
        let error = Script::Python.world(&router).unwrap_err().to_string();
        assert!(error.contains("12 MiB") && error.contains("preload-planner alone"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = Script::JavaScript.component(folder.path(), &router).unwrap_err().to_string();
        assert!(error.contains("npm install"), "{error}");
    }
}

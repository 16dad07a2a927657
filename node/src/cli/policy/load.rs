//! From a path to a policy that can be called: what the commands of an author share.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use skerry_policy::package::MOST_PACKAGE;
use skerry_policy::{Callable, Compiler, Manifest, Package, PolicyConfig, Room, Runtime, World};
use tempfile::TempDir;

use super::build::build;

#[derive(Debug, Args)]
pub(super) struct Which {
    /// A packaged policy, or the folder of one, which is built first
    #[arg(value_name = "FILE|DIR", default_value = ".")]
    path: PathBuf,
}

impl Which {
    /// The policy, and its file.
    pub(super) fn package(&self) -> anyhow::Result<(PathBuf, Package)> {
        package(&self.path)
    }
}

/// The policy at a path, and its file.
pub(super) fn package(path: &Path) -> anyhow::Result<(PathBuf, Package)> {
    if path.is_dir() {
        return build(path);
    }
    let package = Package::parse(read(path, MOST_PACKAGE)?);
    Ok((path.to_owned(), package.with_context(|| path.display().to_string())?))
}

/// Where a policy runs here: as on a node with the default configuration.
pub(super) struct Sandbox {
    config: PolicyConfig,
    runtime: Arc<Runtime>,
    compiler: Compiler,
    // Compiled code is kept for as long as the command runs.
    _folder: TempDir,
}

impl Sandbox {
    pub(super) fn new() -> anyhow::Result<Self> {
        let config = PolicyConfig::default();
        let folder = tempfile::Builder::new().prefix("skerry-policy-").tempdir();
        let folder = folder.context("cannot make a folder for compiled code")?;
        let worker = std::env::current_exe().context("cannot find this program, which compiles")?;
        let (time, memory_bytes) = (config.compile_time(), config.compile_memory_bytes);
        Ok(Self {
            compiler: Compiler::new(Some(worker), folder.path(), time, memory_bytes)?,
            runtime: Runtime::new(Room { lines: true, ..config.room() })?,
            config,
            _folder: folder,
        })
    }

    /// The policy in each of its worlds. The manifest is its own, or one that differs in what is tried.
    pub(super) fn callables(
        &self,
        package: &Package,
        manifest: &Manifest,
    ) -> anyhow::Result<Vec<(World, Callable)>> {
        let component = self.compiler.component(&self.runtime, package)?;
        let each = manifest.worlds.iter().map(|world| {
            let limits = self.config.limits(*world);
            Ok((*world, Callable::new(&self.runtime, &component, manifest, *world, limits)?))
        });
        each.collect()
    }
}

/// The content of a file of at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path).with_context(cannot)?.take(most + 1).read_to_end(&mut bytes).with_context(cannot)?;
    ensure!(bytes.len() as u64 <= most, "{} has more than {most} bytes; it is not read", path.display());
    Ok(bytes)
}

/// The content of a text of at most `most` bytes.
pub(super) fn read_text(path: &Path, most: u64) -> anyhow::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|_| anyhow!("{} is no UTF-8 text", path.display()))
}

/// Writes a file that is whole or as it was before.
pub(super) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.policy.wasm");
        write(&path, b"12345").unwrap();
        write(&path, b"1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        assert!(read(&path, 3).unwrap_err().to_string().contains("more than 3 bytes"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, 4).unwrap_err().to_string().ends_with("is no UTF-8 text"));
        assert!(read(&folder.path().join("none"), 4).is_err());
    }

    #[test]
    fn what_is_no_package_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        fs::write(&path, "no wasm at all").unwrap();
        let error = crate::cli::explain(&Which { path: path.clone() }.package().unwrap_err());
        assert!(error.contains(&path.display().to_string()) && error.contains("no wasm:"), "{error}");
    }
}

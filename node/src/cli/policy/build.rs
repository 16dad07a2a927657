//! `skerry policy build`: cargo makes a module of it, we a component of that (or another language's tool
//! makes that), packed with its manifest.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use serde::Deserialize;
use skerry_policy::manifest::MOST_MANIFEST;
use skerry_policy::package::{self, MOST_COMPONENT};
use skerry_policy::{Manifest, Package, component};

use super::load::{read, read_text, write};
use super::scripts::Script;
use crate::cli::print;
use crate::cli::units::bytes;

/// What policies in Rust are built for: no WASI, so that there is nothing to import but the contract.
const TARGET: &str = "wasm32-unknown-unknown";

#[derive(Debug, Args)]
pub(in crate::cli) struct Build {
    /// Folder of the policy
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl Build {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let (file, package) = build(&self.folder)?;
        let size = bytes(package.signed.len() as u64);
        print(&format!("{}\nsize    {size}\ndigest  {}\n", file.display(), package.digest_hex()))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the policy in a folder and packs it there; the package, not signed, and its file.
pub(super) fn build(folder: &Path) -> anyhow::Result<(PathBuf, Package)> {
    let path = folder.join("manifest.toml");
    ensure!(
        path.is_file(),
        "{} holds no manifest.toml: it is no policy's folder; `skerry policy new` makes one",
        folder.display()
    );
    let text = read_text(&path, MOST_MANIFEST as u64)?;
    let manifest = Manifest::parse(&text).with_context(|| path.display().to_string())?;

    let component = match Script::of(folder) {
        Some(script) => script.component(folder, &manifest)?,
        None => {
            let module = compile(folder)?;
            component::of_module(&read(&module, MOST_COMPONENT)?)
                .with_context(|| module.display().to_string())?
        }
    };
    let packed = package::pack(&component, &text)?;
    let file = folder.join(format!("{}.policy.wasm", manifest.name));
    write(&file, &packed)?;
    Ok((file, Package::parse(packed)?))
}

/// Has cargo build the policy; the module that it made. What the compiler says goes to standard error.
fn compile(folder: &Path) -> anyhow::Result<PathBuf> {
    let manifest = folder.join("Cargo.toml");
    let manifest = manifest.canonicalize().with_context(|| format!("cannot read {}", manifest.display()))?;
    require_target(folder)?;
    let cargo = tool("CARGO", "cargo", folder)
        .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output();
    let output = ran(cargo, "cargo")?;
    ensure!(output.status.success(), "cargo could not build the policy; what is wrong stands above");
    module(&String::from_utf8_lossy(&output.stdout), &manifest).ok_or_else(|| {
        anyhow!(
            "cargo made no module of {}; it needs `[lib]` with `crate-type = [\"cdylib\"]`",
            manifest.display()
        )
    })
}

/// Looks for the target's standard library: without it, the compiler's words are long and hard to read.
fn require_target(folder: &Path) -> anyhow::Result<()> {
    let mut rustc = tool("RUSTC", "rustc", folder);
    let output = ran(rustc.args(["--print", "target-libdir", "--target", TARGET]).output(), "rustc")?;
    if !output.status.success() {
        bail!("rustc does not run: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let library = String::from_utf8_lossy(&output.stdout);
    ensure!(
        Path::new(library.trim()).is_dir(),
        "this Rust cannot build for {TARGET} yet: run `rustup target add {TARGET}`"
    );
    Ok(())
}

/// One of Rust's tools, in the policy's folder; a variable of the environment may name another.
fn tool(variable: &str, name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::var_os(variable).unwrap_or_else(|| name.into()));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn ran(output: io::Result<Output>, name: &str) -> anyhow::Result<Output> {
    output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!(
                "{name} is not here, and Rust is what builds a policy: install it as https://rustup.rs says"
            )
        }
        _ => anyhow::Error::from(error).context(format!("cannot run {name}")),
    })
}

/// A message of cargo about something that it made.
#[derive(Deserialize)]
struct Made {
    reason: String,
    manifest_path: PathBuf,
    target: Target,
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

/// The module of the package with this Cargo.toml, among what cargo says it made.
fn module(messages: &str, manifest: &Path) -> Option<PathBuf> {
    let made = messages.lines().filter_map(|line| serde_json::from_str::<Made>(line).ok());
    let mut of_policy = made.filter(|made| {
        made.reason == "compiler-artifact"
            && made.manifest_path == manifest
            && made.target.crate_types.iter().any(|kind| kind == "cdylib")
    });
    of_policy.find_map(|made| {
        made.filenames.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(manifest: &str, kind: &str, file: &str) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///near#0.1.0",
            "manifest_path": manifest,
            "target": { "kind": [kind], "crate_types": [kind], "name": "near" },
            "filenames": [file],
            "fresh": true,
        })
        .to_string()
    }

    #[test]
    fn the_module_is_the_policy_s_own() {
        let messages = [
            r#"{"reason":"build-script-executed","package_id":"x"}"#.to_owned(),
            made("/near/sdk/Cargo.toml", "rlib", "/t/libsdk.rlib"),
            made("/other/Cargo.toml", "cdylib", "/t/other.wasm"),
            "not JSON".to_owned(),
            made("/near/Cargo.toml", "bin", "/t/tool.wasm"),
            made("/near/Cargo.toml", "cdylib", "/t/near.wasm"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = module(&messages.join("\n"), Path::new("/near/Cargo.toml"));
        assert_eq!(found.as_deref(), Some(Path::new("/t/near.wasm")));
        assert_eq!(module(&messages[..5].join("\n"), Path::new("/near/Cargo.toml")), None);
    }

    #[test]
    fn a_folder_that_is_no_policy_s_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = build(folder.path()).unwrap_err().to_string();
        assert!(error.contains("holds no manifest.toml") && error.contains("policy new"), "{error}");
    }

    #[test]
    fn a_wrong_manifest_ends_the_build_before_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("manifest.toml"), "name = \"near\"\nvesrion = \"1.0.0\"\n")
            .unwrap();
        let error = crate::cli::explain(&build(folder.path()).unwrap_err());
        assert!(error.contains("manifest.toml") && error.contains("line 2"), "{error}");
        assert!(error.contains("`vesrion`") && error.contains("`version`"), "{error}");
    }

    #[test]
    fn a_missing_tool_is_told_with_the_way_out() {
        let error = ran(Err(io::ErrorKind::NotFound.into()), "cargo").unwrap_err().to_string();
        assert!(error.starts_with("cargo is not here") && error.contains("https://rustup.rs"), "{error}");
        let error = ran(Err(io::ErrorKind::PermissionDenied.into()), "cargo").unwrap_err();
        assert_eq!(crate::cli::explain(&error), "cannot run cargo: permission denied");
    }
}

//! `skerry policy check`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use skerry_policy::signature::{KeyId, SignatureError, TrustedKeys, verify};
use skerry_policy::{Callable, Package, World};

use super::load::{Sandbox, Which, read_text};
use super::sign::MOST_KEY;
use crate::cli::print;
use crate::cli::units::bytes;

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    which: Which,
    /// Public key that must have signed it: a `.pub` file, or the line of base64 in it
    #[arg(long)]
    key: Option<String>,
}

impl Check {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let (file, package) = self.which.package()?;
        let trusted = self.key.as_deref().map(public_key).transpose()?;
        let signature = signature(&package, trusted.as_ref())?;
        let callables = Sandbox::new()?.callables(&package, &package.manifest);
        let callables = callables.with_context(|| file.display().to_string())?;
        print(&told(&file, &package, &callables, &signature))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The key that a signature says it is by; nobody has verified that.
pub(super) fn claimed_key(package: &Package) -> Option<KeyId> {
    match verify(package, &TrustedKeys::default()) {
        Err(SignatureError::UnknownKey { key, .. }) => Some(key),
        _ => None,
    }
}

/// A public key as it comes on the command line.
fn public_key(text: &str) -> anyhow::Result<TrustedKeys> {
    let path = Path::new(text);
    let file = if path.is_file() { read_text(path, MOST_KEY)? } else { text.to_owned() };
    let line = file.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    TrustedKeys::new([(text, line)]).with_context(|| match path.is_file() {
        true => format!("{text} holds no public key"),
        false => format!("there is no file `{text}`, and it is no public key itself"),
    })
}

/// Who signed it, in words. Without keys to trust, every well-formed signature is good.
fn signature(package: &Package, trusted: Option<&TrustedKeys>) -> Result<String, SignatureError> {
    match (verify(package, trusted.unwrap_or(&TrustedKeys::default())), trusted) {
        (Ok(signer), _) => Ok(format!("by the given key ({})", signer.key)),
        (Err(SignatureError::Unsigned { .. }), None) => Ok("none".to_owned()),
        (Err(SignatureError::UnknownKey { key, .. }), None) => {
            Ok(format!("by key {key}, not verified; --key verifies it"))
        }
        (Err(error), _) => Err(error),
    }
}

fn told(file: &Path, package: &Package, callables: &[(World, Callable)], signature: &str) -> String {
    let manifest = &package.manifest;
    let mut text = format!("{}: {} {}\n", file.display(), manifest.name, manifest.version);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<10} {value}\n"));
    for (world, callable) in callables {
        let limits = callable.limits();
        let (time, memory) = (limits.time.as_millis(), bytes(limits.memory_bytes));
        line("decides", format!("{world}, within {time} ms, {memory} and {} of fuel", limits.fuel));
    }
    let instances = if manifest.reuse { "serve many calls" } else { "serve one call" };
    line("instances", instances.to_owned());
    for (name, list) in [("counters", &manifest.counters), ("tables", &manifest.tables)] {
        if !list.is_empty() {
            line(name, list.join(", "));
        }
    }
    line("vectors", manifest.vectors.len().to_string());
    line("size", bytes(package.signed.len() as u64));
    line("digest", package.digest_hex());
    line("signature", signature.to_owned());
    text
}

#[cfg(test)]
mod tests {
    use skerry_policy::package::pack;
    use skerry_policy::signing;

    use super::*;

    fn packed() -> Vec<u8> {
        let manifest = "name = \"near\"\nversion = \"1.2.3\"\nworlds = [\"region-router\"]\n";
        pack(b"\0asm\x0d\0\x01\0", manifest).unwrap()
    }

    #[test]
    fn a_key_is_a_file_or_its_line() {
        let keys = signing::generate(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ann.pub");
        std::fs::write(&file, &keys.public_file).unwrap();
        let id = |text: &str| public_key(text).unwrap().signers().next().unwrap().key;
        assert_eq!(id(&keys.public), id(&file.display().to_string()));
        let error = public_key("no such file").unwrap_err().to_string();
        assert_eq!(error, "there is no file `no such file`, and it is no public key itself");
    }

    #[test]
    fn a_signature_is_told_and_with_a_key_it_is_verified() {
        let (ann, eve) = (signing::generate(None).unwrap(), signing::generate(None).unwrap());
        let bare = Package::parse(packed()).unwrap();
        let signed = Package::parse(signing::sign(&packed(), &ann.secret_file, None).unwrap()).unwrap();
        let key = |line: &str| public_key(line).unwrap();
        assert_eq!(signature(&bare, None).unwrap(), "none");
        assert_eq!(claimed_key(&bare), None);
        assert!(signature(&signed, None).unwrap().contains("not verified"));
        let words = signature(&signed, Some(&key(&ann.public))).unwrap();
        assert_eq!(words, format!("by the given key ({})", claimed_key(&signed).unwrap()));
        assert!(matches!(signature(&bare, Some(&key(&ann.public))), Err(SignatureError::Unsigned { .. })));
        assert!(matches!(
            signature(&signed, Some(&key(&eve.public))),
            Err(SignatureError::UnknownKey { .. })
        ));
    }
}

//! Rules in force.

use std::time::Duration;

use crate::generated::{self, Generated};
use crate::layout::Layout;
use crate::{firewall, process};

/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(60);
const NFT: &str = "usr/sbin/nft";
const FILE: &str = "firewall.nft";

/// Puts rules in force, in place of what is. Where that fails and nothing is in force, nobody comes in.
///
/// # Errors
/// Why these rules are not in force, and what is instead.
pub fn load(layout: &Layout, rules: String) -> Result<(), String> {
    let Err(words) = apply(layout, rules) else { return Ok(()) };
    // nft takes a file as a whole, or nothing of it.
    if nft(layout, &["list", "table", "inet", "skerry"]).is_ok() {
        return Err(format!("the packet filter stays as it was: {words}"));
    }
    Err(match apply(layout, firewall::closed()) {
        Ok(()) => format!("the packet filter lets nobody in, since that of the configuration fails: {words}"),
        Err(_) => format!("there is no packet filter: {words}"),
    })
}

fn apply(layout: &Layout, text: String) -> Result<(), String> {
    let folder = layout.runtime();
    generated::write(&folder, &[Generated { path: FILE.into(), text }], &[])
        .map_err(|error| format!("cannot write to {}: {error}", folder.display()))?;
    nft(layout, &["-f", &folder.join(FILE).to_string_lossy()])
}

fn nft(layout: &Layout, arguments: &[&str]) -> Result<(), String> {
    let ended = process::run(&layout.at(NFT), arguments, PATIENCE).map_err(|error| error.to_string())?;
    if ended.status.success() { Ok(()) } else { Err(format!("nft: {}", ended.stderr.trim())) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An nft that refuses rules with this word in them, and knows a table or does not.
    fn machine(refused: &str, in_force: bool) -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let program = layout.at(NFT);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let listed = if in_force { "exit 0" } else { "echo no such table >&2; exit 1" };
        let text = format!(
            "#!/bin/sh\ncase $1 in list) {listed};; esac\n\
             if grep -q '{refused}' \"$2\"; then echo 'no such thing' >&2; exit 1; fi\n"
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(layout.runtime()).unwrap();
        (root, layout)
    }

    #[test]
    fn what_is_in_force_when_rules_are_refused_is_told() {
        for (refused, in_force, words) in [
            ("neither", false, None),
            ("odd", true, Some("stays as it was: nft: no such thing")),
            ("odd", false, Some("lets nobody in, since that of the configuration fails: nft: no such thing")),
            ("", false, Some("there is no packet filter: nft: no such thing")),
        ] {
            let (_root, layout) = machine(refused, in_force);
            let loaded = load(&layout, "odd rules\n".into());
            match words {
                None => assert_eq!(loaded, Ok(())),
                Some(words) => assert!(loaded.as_ref().unwrap_err().contains(words), "{loaded:?}"),
            }
            let text = fs::read_to_string(layout.runtime().join(FILE)).unwrap();
            let closed = !in_force && words.is_some();
            assert_eq!(text, if closed { firewall::closed() } else { "odd rules\n".into() });
        }
    }
}

//! `skerry image provision`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use skerry_appliance::disk;
use skerry_appliance::fat::Volume;
use skerry_appliance::files;
use skerry_appliance::layout::MOST_CONFIG;
use skerry_core::Error;

use crate::cli::units::bytes;
use crate::cli::{VERIFICATION_FAILED, print};
use crate::config;

/// Largest certificate and token that are read.
const MOST_CERTIFICATE: u64 = 64 << 10;
const MOST_TOKEN: u64 = 1 << 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Provision {
    /// An image, a disk or stick, or a partition labelled SKERRY
    #[arg(long, value_name = "FILE|DEVICE")]
    disk: PathBuf,
    /// The configuration; it is checked first
    #[arg(long, value_name = "FILE", required_unless_present = "token")]
    config: Option<PathBuf>,
    /// The tables [network] of this box, when the configuration is one for many
    #[arg(long, value_name = "FILE", requires = "config")]
    network: Option<PathBuf>,
    /// File with a one-time token (`skerry node token`): the box becomes a node of the fleet
    #[arg(long, value_name = "FILE", requires = "fleet_url")]
    token: Option<PathBuf>,
    /// The fleet's control node: https://HOST[:PORT]
    #[arg(long, value_name = "URL", requires = "token", value_parser = control)]
    fleet_url: Option<String>,
    /// Certificate of the fleet's authority, PEM, or its fingerprint as `skerry node token` prints it
    #[arg(long, value_name = "FILE|sha256:HEX", requires = "token")]
    fleet_ca: Option<String>,
    /// Check everything and say what would be written, but write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn control(text: &str) -> Result<String, &'static str> {
    let authority = text.strip_prefix("https://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match authority {
        Some(authority) if !authority.is_empty() && !authority.contains(['/', '@', '?', '#', ' ']) => {
            Ok(text.into())
        }
        _ => Err("write https://HOST[:PORT]"),
    }
}

impl Provision {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let contents = self.contents()?;
        let shown = self.disk.display();
        ensure!(self.disk.exists(), "{shown} is not there");
        let opened = super::open(&self.disk, true)?;
        let place =
            disk::place(&opened.file, opened.length).with_context(|| format!("cannot use {shown}"))?;
        let volume = Volume::open(&opened.file, place.start, place.length, !self.dry_run)
            .with_context(|| format!("cannot use {shown}"))?;
        let partition = place.number.map_or("the whole of".into(), |number| format!("partition {number} of"));
        let kind = if place.esp { "EFI system partition" } else { "volume" };
        let will = if self.dry_run { "would write" } else { "writes" };
        let mut text = format!("{will} to {partition} {shown} ({kind} `{}`):\n", place.label);
        for (name, content) in &contents {
            text.push_str(&format!("  {name:<20} {}\n", bytes(content.len() as u64)));
        }
        if !self.json {
            print(&text)?;
        }
        if !self.dry_run {
            for (name, content) in &contents {
                volume.write(name, content).with_context(|| format!("cannot write {name} to {shown}"))?;
            }
            volume.close().with_context(|| format!("cannot write to {shown}"))?;
            disk::forget_cache(&opened.file);
            let again = Volume::open(&opened.file, place.start, place.length, false)
                .with_context(|| format!("cannot read {shown} back"))?;
            for (name, content) in &contents {
                let read = again.read(name, content.len() as u64);
                if !matches!(read, Ok(Some(read)) if read == *content) {
                    eprintln!("skerry: {name} on {shown} reads otherwise than it was written");
                    return Ok(ExitCode::from(VERIFICATION_FAILED));
                }
            }
        }
        if self.json {
            let files: Vec<_> = contents
                .iter()
                .map(|(name, content)| serde_json::json!({ "name": name, "bytes": content.len() }))
                .collect();
            let told = serde_json::json!({
                "disk": shown.to_string(), "partition": place.number, "esp": place.esp, "label": place.label,
                "files": files, "written": !self.dry_run,
            });
            print(&format!("{told:#}\n"))?;
        } else if !self.dry_run {
            print("done, and read back\n")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What is written, by the names that a box looks for (`skerry_appliance::provision::FILES`).
    fn contents(&self) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
        let mut contents = Vec::new();
        if let Some(config) = &self.config {
            contents.push(("skerry.toml", checked(config, self.network.as_deref())?.into_bytes()));
        }
        if let Some(path) = &self.token {
            let token = read(path, MOST_TOKEN)?;
            let plain = !token.trim().is_empty() && token.trim().bytes().all(|byte| byte.is_ascii_graphic());
            ensure!(plain, "{} holds no token", path.display());
            contents.push(("skerry.token", token.trim().as_bytes().to_vec()));
        }
        if let Some(url) = &self.fleet_url {
            contents.push(("skerry.fleet-url", url.as_bytes().to_vec()));
        }
        if let Some(authority) = &self.fleet_ca {
            let text = match authority.strip_prefix("sha256:") {
                Some(digits) => {
                    let hex = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    ensure!(hex, "--fleet-ca: write `sha256:` and 64 hex digits, or name a file");
                    authority.clone()
                }
                None => read(Path::new(authority), MOST_CERTIFICATE)?,
            };
            let known = text.starts_with("sha256:") || text.contains("-----BEGIN CERTIFICATE-----");
            ensure!(known, "{authority} holds no certificate (PEM)");
            contents.push(("skerry.fleet-ca", text.into_bytes()));
        }
        Ok(contents)
    }
}

fn read(path: &Path, most: u64) -> anyhow::Result<String> {
    let bytes = files::read(path, most).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).with_context(|| format!("{} is no UTF-8 text", path.display()))
}

/// The configuration, with the network's tables at its end. Errors name the file that they stand in.
fn checked(config: &Path, network: Option<&Path>) -> anyhow::Result<String> {
    let mut text = config_text(config)?;
    let Some(network) = network else {
        config::load(config)?;
        return Ok(text);
    };
    let added = config_text(network)?;
    let tables = |text: &str| toml::from_str::<toml::Table>(text).ok();
    let (own, new) = (tables(&text), tables(&added));
    if let Some(key) = new.iter().flat_map(toml::Table::keys).find(|key| *key != "network") {
        bail!("{} may have [network] alone, and has `{key}`", network.display());
    }
    if own.as_ref().is_some_and(|own| own.contains_key("network")) {
        bail!("{} has [network] too: one of the two files is to say it", config.display());
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let lines = text.lines().count();
    text.push_str(&added);
    // Keys before the first table would become keys of the last table above them.
    let said =
        |tables: &Option<toml::Table>| tables.as_ref().and_then(|tables| tables.get("network").cloned());
    if own.is_some() && new.is_some() && said(&tables(&text)) != said(&new) {
        bail!("{} must begin with a table: write [network], or [[network.interfaces]]", network.display());
    }
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    file.write_all(text.as_bytes()).context("cannot write a temporary file")?;
    match config::load(file.path()) {
        Ok(_) => Ok(text),
        Err(Error::Config { line, message, .. }) => {
            let (path, line) = if line > lines { (network, line - lines) } else { (config, line) };
            Err(Error::Config { path: path.to_owned(), line, message }.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn config_text(path: &Path) -> Result<String, Error> {
    let text = files::read(path, MOST_CONFIG).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8 text"))
    });
    text.map_err(|source| Error::ReadConfig { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        provision: Provision,
    }

    #[test]
    fn what_belongs_together_is_asked_for_together() {
        for (words, right) in [
            ("--disk a --config b", true),
            ("--disk a --config b --network c", true),
            ("--disk a --token t --fleet-url https://control.example:8443", true),
            ("--disk a --config b --token t --fleet-url https://c/ --fleet-ca ca.pem --dry-run --json", true),
            ("--disk a", false),
            ("--config b", false),
            ("--disk a --network c", false),
            ("--disk a --token t", false),
            ("--disk a --config b --fleet-url https://c", false),
            ("--disk a --token t --fleet-url http://c", false),
            ("--disk a --token t --fleet-url https://c/d", false),
            ("--disk a --token t --fleet-url https://", false),
        ] {
            let parsed = Line::try_parse_from(["image"].into_iter().chain(words.split(' ')));
            assert_eq!(parsed.is_ok(), right, "{words}: {parsed:?}");
        }
    }

    #[test]
    fn two_files_are_checked_as_one_and_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (config, network) = (folder.path().join("fleet.toml"), folder.path().join("edge-7.toml"));
        let check = |own: &str, added: &str| {
            std::fs::write(&config, own).unwrap();
            std::fs::write(&network, added).unwrap();
            checked(&config, Some(&network)).map_err(|error| error.to_string())
        };
        let site = "[sites.default]\norigin = \"http://a\"";
        let text = check(site, "[network]\nhostname = \"edge-7\"\n").unwrap();
        assert_eq!(text, format!("{site}\n[network]\nhostname = \"edge-7\"\n"));
        let wrong = |own: &str, added: &str| check(own, added).unwrap_err();
        let told = wrong(site, "[network]\n\nhostnme = \"a\"\n");
        assert!(told.contains("edge-7.toml:3: ") && told.contains("network.hostnme"), "{told}");
        let told = wrong("[sites.default]\norigni = \"http://a\"\n", "[network]\n");
        assert!(told.contains("fleet.toml:2: "), "{told}");
        let told = wrong(site, "[network\n");
        assert!(told.contains("edge-7.toml:"), "{told}");
        for (own, added, words) in [
            (site, "network.hostname = \"a\"\n", "must begin with a table"),
            (site, "[node]\nname = \"a\"\n", "has `node`"),
            (&format!("{site}\n[network]\n"), "[network]\n", "one of the two files"),
        ] {
            let told = wrong(own, added);
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn what_is_no_token_or_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let contents = |token: &str, authority: &str| {
            std::fs::write(path("token"), token).unwrap();
            let words = [
                "image",
                "--disk",
                "a",
                "--token",
                &path("token"),
                "--fleet-url",
                "https://c",
                "--fleet-ca",
                authority,
            ];
            Line::try_parse_from(words).unwrap().provision.contents()
        };
        std::fs::write(path("ca"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let print = format!("sha256:{}", "a".repeat(64));
        let found = contents("abc\n", &print).unwrap();
        assert_eq!(found[0], ("skerry.token", b"abc".to_vec()));
        assert_eq!(found[2], ("skerry.fleet-ca", print.clone().into_bytes()));
        assert!(contents("abc", &path("ca")).is_ok());
        for (token, authority) in
            [("", print.as_str()), ("a b", &print), ("a", "sha256:ab"), ("a", &path("token"))]
        {
            assert!(contents(token, authority).is_err(), "{token} {authority}");
        }
    }
}

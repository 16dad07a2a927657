//! A one-time token makes the box a node of a fleet.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{Offer, Record, digest, fleet_path, install, make_folders, offered_path, offers};
use crate::layout::{Layout, MOST_CONFIG};
use crate::status::{self, Wrong};
use crate::{files, firewall, process};

/// How long `skerry node enrol` may take.
const ENROL: Duration = Duration::from_secs(90);
/// Where it is kept, beside the configuration: the node's own folder, since it renews key and certificate.
const FOLDER: &str = "fleet";
/// What enrolment makes, with the modes that they are kept with and the keys that name them.
const MADE: [(&str, u32, &str); 3] =
    [("node.key", 0o600, "key_file"), ("node.pem", 0o644, "certificate_file"), ("ca.pem", 0o644, "ca_file")];

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolled {
    /// The box is a node of the fleet, and its configuration says so.
    Done,
    /// No source has a token that was not used yet.
    NoToken,
    /// It did not work; what is wrong was told.
    Failed,
}

/// Brings a token to the control node, once.
///
/// # Errors
/// When what it gave cannot be kept.
pub fn enrol(layout: &Layout, credentials: Option<&Path>) -> io::Result<Enrolled> {
    make_folders(layout)?;
    let mut record = Record::read(layout);
    let offers = offers(layout, credentials);
    let Some((offer, token)) = unused(&offers, &record) else {
        status::report(layout, "enrol", Vec::new())?;
        return Ok(Enrolled::NoToken);
    };
    let work = layout.runtime().join("enrol");
    let given = ask(layout, offer, token, &work);
    let kept = given.map(|tables| keep(layout, &work.join("made"), &tables));
    // The key, too.
    let _ = fs::remove_dir_all(&work);
    let wrong = match kept {
        Err(wrong) => wrong,
        Ok(tables) => {
            let tables = tables?;
            record.token = digest(token.as_bytes());
            record.write(layout)?;
            let written = [offered_path(layout), layout.config()];
            let text = written.iter().find_map(|path| files::text(path, MOST_CONFIG)).unwrap_or_default();
            match install(layout, &text, &tables, "the configuration of the fleet") {
                Ok(()) => {
                    status::report(layout, "enrol", Vec::new())?;
                    return Ok(Enrolled::Done);
                }
                Err(wrong) => wrong,
            }
        }
    };
    status::report(layout, "enrol", vec![wrong])?;
    Ok(Enrolled::Failed)
}

/// The first token that the box was not enrolled with.
fn unused<'a>(offers: &'a [Offer], record: &Record) -> Option<(&'a Offer, &'a str)> {
    offers.iter().find_map(|offer| {
        let token = offer.token.as_deref()?;
        (digest(token.as_bytes()) != record.token).then_some((offer, token))
    })
}

/// The port of the control node that an unused token is for, as the last look at the sources found it: what the
/// packet filter lets the box reach besides what its configuration names.
pub fn fleet_port(layout: &Layout) -> Option<u16> {
    files::text(&fleet_port_path(layout), 16)?.trim().parse().ok()
}

/// Notes it.
pub(super) fn note_fleet_port(layout: &Layout, offers: &[Offer]) -> io::Result<()> {
    let unused = unused(offers, &Record::read(layout));
    let port = unused.and_then(|(offer, _)| firewall::port_of(offer.fleet_url.as_deref()?));
    match port {
        Some(port) => files::replace(&fleet_port_path(layout), format!("{port}\n").as_bytes(), 0o644, None),
        None => files::remove(&fleet_port_path(layout)),
    }
}

fn fleet_port_path(layout: &Layout) -> PathBuf {
    layout.runtime().join("fleet-port")
}

/// Runs `skerry node enrol`; gives the tables of a configuration that it printed.
fn ask(layout: &Layout, offer: &Offer, token: &str, work: &Path) -> Result<String, Wrong> {
    let Some(url) = &offer.fleet_url else {
        return Err(Wrong::file(offer.file("skerry.token"), "has no skerry.fleet-url beside it"));
    };
    let pin = offer.fleet_ca.as_deref().map(fingerprint).transpose();
    let pin = pin.map_err(|words| Wrong::file(offer.file("skerry.fleet-ca"), words))?;
    let (token_file, made) = (work.join("token"), work.join("made"));
    let _ = fs::remove_dir_all(work);
    files::make_dir(work, 0o700, None)
        .and_then(|()| files::replace(&token_file, token.as_bytes(), 0o600, None))
        .map_err(|error| Wrong::new(format!("cannot enrol: {error}")))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (token_file, made) = (text(&token_file), text(&made));
    let mut arguments = vec![
        "node",
        "enrol",
        "--control",
        url.as_str(),
        "--token-file",
        token_file.as_str(),
        "--dir",
        made.as_str(),
    ];
    if let Some(pin) = &pin {
        arguments.extend(["--ca-fingerprint", pin.as_str()]);
    }
    let ended = process::run(&layout.at("usr/bin/skerry"), &arguments, ENROL)
        .map_err(|error| Wrong::new(format!("cannot enrol: {error}")))?;
    if !ended.status.success() {
        let words = ended.stderr.trim();
        let words = words.strip_prefix("skerry: ").unwrap_or(words);
        return Err(Wrong::file(offer.file("skerry.token"), format!("cannot enrol: {words}")));
    }
    // A sentence, a blank line, and below it a configuration.
    let tables = ended.stdout.split_once("\n\n").map(|(_, tables)| tables.to_owned());
    tables.ok_or_else(|| Wrong::new("cannot enrol: what `skerry node enrol` prints is not understood"))
}

/// Moves key and certificates beside the configuration, and gives the tables that name them there.
fn keep(layout: &Layout, made: &Path, tables: &str) -> io::Result<String> {
    let mut tables: toml::Table = toml::from_str(tables).map_err(io::Error::other)?;
    let registry = tables.entry("registry").or_insert_with(|| toml::Table::new().into());
    let registry = registry.as_table_mut().ok_or_else(|| io::Error::other("`registry` is no table"))?;
    let (user, group) = (layout.node_user(), layout.node_group());
    let folder = layout.config_dir().join(FOLDER);
    files::make_dir(&folder, 0o700, None)?;
    chown(&folder, user, group)?;
    for (name, mode, key) in MADE {
        let (bytes, path) = (files::read(&made.join(name), 64 << 10)?, folder.join(name));
        files::replace(&path, &bytes, mode, None)?;
        chown(&path, user, group)?;
        registry.insert(key.to_owned(), format!("/etc/skerry/{FOLDER}/{name}").into());
    }
    let tables = toml::to_string(&tables).map_err(io::Error::other)?;
    files::replace(&fleet_path(layout), tables.as_bytes(), 0o600, None)?;
    Ok(tables)
}

/// What `skerry node enrol` knows an authority by: a certificate's, or the text itself when it is one.
fn fingerprint(text: &str) -> Result<String, &'static str> {
    if text.starts_with("sha256:") {
        return Ok(text.to_owned());
    }
    const WRONG: &str = "is neither a certificate (PEM) nor `sha256:` and 64 hex digits";
    let body = text.split_once("-----BEGIN CERTIFICATE-----").ok_or(WRONG)?.1;
    let body = body.split_once("-----END CERTIFICATE-----").ok_or(WRONG)?.0;
    let digits: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(digits).map_err(|_| WRONG)?;
    let print: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{print}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_known_by_its_certificate() {
        let pem = "text\n-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
        let print = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint(pem).as_deref(), Ok(print));
        assert_eq!(fingerprint(print).as_deref(), Ok(print));
        for text in
            ["", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
        {
            assert!(fingerprint(text).is_err(), "{text}");
        }
    }
}

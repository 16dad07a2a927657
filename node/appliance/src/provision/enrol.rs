//! A one-time token makes the box a node of a fleet.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{
    MOST_TOKENS, Offer, Record, digest, fill, fleet_path, install, make_folders, offered_path, offers,
};
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
    let work = layout.runtime().join("enrol");
    let (mut wrong, mut enrolled) = (Vec::new(), false);
    for (offer, token, digest) in unused(&offers, &record) {
        let given = ask(layout, offer, token, &work);
        let kept = given.map(|tables| keep(layout, &work.join("made"), &tables));
        // The key, too.
        let _ = fs::remove_dir_all(&work);
        match kept {
            Err(why) => wrong.push(why),
            Ok(kept) => {
                kept?;
                record.tokens.push(digest);
                record.tokens.drain(..record.tokens.len().saturating_sub(MOST_TOKENS));
                record.write(layout)?;
                (wrong, enrolled) = (Vec::new(), true);
                break;
            }
        }
    }
    // Also what an earlier call could not, since it was cut off.
    let filled = fill_in(layout);
    let done = enrolled || filled == Ok(true);
    wrong.extend(filled.err());
    let failed = !wrong.is_empty();
    status::report(layout, "enrol", wrong)?;
    Ok(match (failed, done) {
        (true, _) => Enrolled::Failed,
        (false, true) => Enrolled::Done,
        (false, false) => Enrolled::NoToken,
    })
}

/// Writes the configuration with what enrolment gave, unless that is what it is; whether it was written.
fn fill_in(layout: &Layout) -> Result<bool, Wrong> {
    let Some(tables) = files::text(&fleet_path(layout), MOST_CONFIG) else { return Ok(false) };
    let current = files::text(&layout.config(), MOST_CONFIG);
    let text =
        files::text(&offered_path(layout), MOST_CONFIG).or_else(|| current.clone()).unwrap_or_default();
    if current.is_some_and(|current| current == fill(&text, &tables)) {
        return Ok(false);
    }
    install(layout, &text, &tables, "the configuration of the fleet").map(|()| true)
}

/// Tokens that the box was not enrolled with, where they come from, and their digests.
pub(super) fn unused<'a>(offers: &'a [Offer], record: &Record) -> Vec<(&'a Offer, &'a str, String)> {
    let tokens = offers.iter().filter_map(|offer| Some((offer, offer.token.as_deref()?)));
    let tokens = tokens.map(|(offer, token)| (offer, token, digest(token.as_bytes())));
    tokens.filter(|(_, _, digest)| !record.tokens.contains(digest)).collect()
}

/// The port of the control node that an unused token is for, as the last look at the sources found it: what the
/// packet filter lets the box reach besides what its configuration names.
pub fn fleet_port(layout: &Layout) -> Option<u16> {
    waiting(layout)?.split_whitespace().next()?.parse().ok()
}

/// Which unused tokens the last look at the sources found, in a text that changes with them.
pub fn waiting(layout: &Layout) -> Option<String> {
    files::text(&waiting_path(layout), 4096)
}

/// Notes the port of the first one, and the digests of all.
pub(super) fn note_waiting(layout: &Layout, offers: &[Offer]) -> io::Result<()> {
    let unused = unused(offers, &Record::read(layout));
    let port = unused.iter().find_map(|(offer, ..)| firewall::port_of(offer.fleet_url.as_deref()?));
    let Some(port) = port else { return files::remove(&waiting_path(layout)) };
    let digests: Vec<&str> = unused.iter().map(|(_, _, digest)| digest.as_str()).collect();
    let text = format!("{port}\n{}\n", digests.join("\n"));
    files::replace(&waiting_path(layout), text.as_bytes(), 0o600, None)
}

fn waiting_path(layout: &Layout) -> PathBuf {
    layout.runtime().join("tokens")
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

/// Moves key and certificates beside the configuration, and keeps the tables that name them there.
fn keep(layout: &Layout, made: &Path, tables: &str) -> io::Result<()> {
    let mut tables: toml::Table = toml::from_str(tables).map_err(io::Error::other)?;
    let registry = tables.entry("registry").or_insert_with(|| toml::Table::new().into());
    let registry = registry.as_table_mut().ok_or_else(|| io::Error::other("`registry` is no table"))?;
    let (user, group) = (layout.node_user(), layout.node_group());
    let folder = layout.config_dir().join(FOLDER);
    files::make_dir(&folder, 0o700, None)?;
    chown(&folder, user, group)?;
    for (name, mode, key) in MADE {
        let (bytes, path) = (files::read(&made.join(name), 64 << 10)?, folder.join(name));
        files::replace_owned(&path, &bytes, mode, user, group)?;
        registry.insert(key.to_owned(), format!("/etc/skerry/{FOLDER}/{name}").into());
    }
    let tables = toml::to_string(&tables).map_err(io::Error::other)?;
    files::replace(&fleet_path(layout), tables.as_bytes(), 0o600, None)
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

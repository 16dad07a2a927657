//! Enrolment: a machine becomes a node with a one-time token, and gets a certificate.
//!
//! An operator makes the token for one node id; only its hash is kept, until it expires. Whoever
//! brings it first gets a certificate for that id, whatever their signing request asks for. Before the
//! certificate ends the node gets another one for it, as long as it is not revoked and nobody else got one:
//! `enrol/line.rs` says who does.
//!
//! Tokens expire by [`crate::clock::now_ms`]; certificates are good by the system's clock (`wall_ms`), since
//! others check them by theirs.

mod line;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skerry_appliance::toml::{self, Wrong};

pub(crate) use self::line::Line;
use self::line::{Certificate, Sight};
use crate::ca::{self, Authority, Request, Subject};
use crate::control::{Control, Enrolled, json};
use crate::error::{CaError, KvError, Refused};
use crate::identity::Caller;
use crate::kv::{Guard, Life};
use crate::message::{
    EnrolAnswer, EnrolRequest, MOST_CONFIGURATION, MOST_NAME, RenewAnswer, RenewRequest, text,
};
use crate::{hex, identity, random};

/// Longest time that a token is good for: a week.
pub const MOST_VALID_SECONDS: u64 = 7 * 86_400;
const LEAST_VALID_SECONDS: u64 = 10;
/// A superseded certificate of a node is logged so often, milliseconds.
const ALARM_MS: u64 = 3_600_000;

/// What an operator wants a token for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The node's id.
    pub node: String,
    /// The region that it will stand in; empty leaves that to the node.
    #[serde(default)]
    pub region: String,
    /// Host names and addresses that it answers TLS at by its own certificate.
    #[serde(default)]
    pub names: Vec<String>,
    /// How long the token is good.
    pub valid_seconds: u64,
    /// A configuration (TOML) that the machine gets with its certificate, at most [`MOST_CONFIGURATION`] bytes;
    /// empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub configuration: String,
}

/// A token, told once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token.
    pub token: String,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: u64,
    /// The authority's fingerprint, as `skerry node enrol` takes it.
    pub ca_fingerprint: String,
}

/// A token on record.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Token {
    node: String,
    region: String,
    names: Vec<String>,
    expires_ms: u64,
    used: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    configuration: String,
}

/// What of a configuration cannot be another than the token says. The node checks the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    node: GivenNode,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a table")]
struct GivenNode {
    name: Option<String>,
}

/// Lets machines in.
pub struct Enrolment {
    authority: Authority,
    /// How long certificates are good.
    days: u64,
    /// Held while a certificate is issued and put on record.
    issuing: Mutex<()>,
    /// Nodes of which a superseded certificate was logged, and when; milliseconds since 1970.
    alarms: Mutex<HashMap<String, u64>>,
}

impl Enrolment {
    /// Certificates by this authority, good for so many days.
    pub fn new(authority: Authority, days: u64) -> Self {
        Self { authority, days, issuing: Mutex::default(), alarms: Mutex::default() }
    }

    /// The fleet's authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When the id was revoked or something asked for cannot be, and when it cannot be kept.
    pub fn token(&self, control: &Control, asked: TokenRequest, now_ms: u64) -> Result<TokenAnswer, Refused> {
        if !identity::is_id(&asked.node) {
            let reason =
                "must be a node's name: at most 64 letters, digits, `-`, `.` and `_`, a letter first";
            return Err(Refused::field("node", reason));
        }
        text("region", &asked.region, MOST_NAME)?;
        ca::check_names(&asked.names)?;
        if !(LEAST_VALID_SECONDS..=MOST_VALID_SECONDS).contains(&asked.valid_seconds) {
            let reason = format!("must be from {LEAST_VALID_SECONDS} to {MOST_VALID_SECONDS}");
            return Err(Refused::field("valid_seconds", reason));
        }
        check_configuration(&asked.configuration, &asked.node)?;
        if control.is_denied(&asked.node, now_ms) {
            return Err(Refused::Denied(asked.node));
        }
        let secret: [u8; 32] = random::bytes().map_err(Refused::Random)?;
        let TokenRequest { node, region, names, valid_seconds, configuration } = asked;
        let life = Life::of(valid_seconds * 1000, now_ms);
        let expires_ms = now_ms.saturating_add(valid_seconds * 1000);
        let token = Token { node, region, names, expires_ms, used: false, configuration };
        control.kv().create(&key(&secret), &json(&token), life)?;
        log::info!(node = token.node.as_str(), valid_seconds; "an enrolment token was made");
        let ca_fingerprint = format!("sha256:{}", hex::encode(self.authority.fingerprint()));
        Ok(TokenAnswer { token: hex::encode(&secret), expires_ms, ca_fingerprint })
    }

    /// Lets a machine in that brings a token.
    ///
    /// # Errors
    /// [`Refused::Token`] when the token is none, was used or has expired, and when the request is none.
    pub fn enrol(
        &self,
        control: &Control,
        request: &EnrolRequest,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<EnrolAnswer, Refused> {
        let enrolled = self.take(control, request, now_ms, wall_ms);
        let result = if enrolled.is_ok() { "taken" } else { "refused" };
        control.metrics().enrolments.with_label_values(&[result]).inc();
        enrolled
    }

    fn take(
        &self,
        control: &Control,
        request: &EnrolRequest,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<EnrolAnswer, Refused> {
        let secret = hex::decode(request.token.trim()).ok_or(Refused::Token)?;
        let key = key(&secret);
        let entry = control.kv().get(&key, now_ms)?.ok_or(Refused::Token)?;
        let token: Token = serde_json::from_slice(&entry.value).map_err(|_| KvError::Record(key.clone()))?;
        if token.used {
            return Err(Refused::Token);
        }
        if control.is_denied(&token.node, now_ms) {
            return Err(Refused::Denied(token.node));
        }
        // A request that cannot be signed leaves the token as it is.
        let csr = Request::parse(&request.csr)?;
        let _issuing = self.issuing.lock();
        let subject = Subject { id: &token.node, names: &token.names };
        let (certificate, issued) = self.sign(&csr, subject, wall_ms)?;
        let (guard, before) = on_record(control, &token.node, now_ms)?;
        // Of two who bring it at once one wins, and the record is of that one's certificate. Whoever gets no
        // answer needs another token.
        let life = Life::of(token.expires_ms.saturating_sub(now_ms), now_ms);
        let used = json(&Token { used: true, configuration: String::new(), ..token.clone() });
        match control.kv().compare_and_set(&key, entry.revision, &used, life) {
            Ok(_) => {}
            Err(KvError::Conflict { .. }) => return Err(Refused::Token),
            Err(error) => return Err(error.into()),
        }
        let line = Line::new(issued, before.and_then(|before| before.line).as_ref());
        let Token { node, region, names, configuration, .. } = token;
        let enrolled = Enrolled { region: region.clone(), names, at_ms: now_ms, line: Some(line) };
        put(control, &node, &enrolled, guard, now_ms)?;
        log::info!(node = node.as_str(), region = region.as_str(); "enrolled");
        let ca = self.authority.certificate().to_owned();
        Ok(EnrolAnswer { node, region, certificate, ca, configuration })
    }

    /// Gives a node another certificate: for a new key, with the names that it was enrolled for.
    ///
    /// # Errors
    /// When the caller has none or was revoked, when the one that it calls with is superseded
    /// ([`Refused::Superseded`]) or good for longer than another would be, and when the request is none.
    pub fn renew(
        &self,
        control: &Control,
        caller: &Caller,
        request: &RenewRequest,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<RenewAnswer, Refused> {
        let renewed = self.sign_again(control, caller, request, now_ms, wall_ms);
        let result = if renewed.is_ok() { "taken" } else { "refused" };
        control.metrics().renewals.with_label_values(&[result]).inc();
        renewed
    }

    fn sign_again(
        &self,
        control: &Control,
        caller: &Caller,
        request: &RenewRequest,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<RenewAnswer, Refused> {
        let (Some(id), Some(certificate)) = (&caller.node, &caller.certificate) else {
            return Err(Refused::Nobody);
        };
        if control.is_denied(id, now_ms) {
            return Err(Refused::Denied(id.clone()));
        }
        let shown = Certificate::read(certificate).ok_or(Refused::Nobody)?;
        let csr = Request::parse(&request.csr)?;
        let _issuing = self.issuing.lock();
        let (guard, enrolled) = on_record(control, id, now_ms)?;
        let mut enrolled = enrolled.ok_or_else(|| Refused::Unenrolled(id.clone()))?;
        let line = enrolled.line.take().unwrap_or_else(|| Line::since(enrolled.at_ms));
        if !line.goes_on_from(&shown, now_ms) {
            self.alarm(control, id, &shown, now_ms);
            return Err(Refused::Superseded(id.clone()));
        }
        // The node would not take it, and the line would have gone on without it.
        if identity::ends(certificate) > Some((wall_ms / 1000).saturating_add(self.days * 86_400)) {
            return Err(Refused::Early);
        }
        let (certificate, issued) = self.sign(&csr, Subject { id, names: &enrolled.names }, wall_ms)?;
        enrolled.line = Some(line.next(shown, issued, now_ms));
        match put(control, id, &enrolled, guard, now_ms) {
            Ok(()) => {}
            // It was revoked meanwhile, or another control node issued one.
            Err(KvError::Conflict { .. }) => return Err(Refused::Busy),
            Err(error) => return Err(error.into()),
        }
        log::info!(node = id.as_str(); "its certificate was renewed");
        Ok(RenewAnswer { certificate })
    }

    /// A certificate, PEM with the authority's, and what is kept of it.
    fn sign(
        &self,
        csr: &Request,
        subject: Subject<'_>,
        wall_ms: u64,
    ) -> Result<(String, Certificate), CaError> {
        let pem = self.authority.sign(csr, subject, self.days, wall_ms)?;
        let issued = ca::der_of(&pem).and_then(|der| Certificate::read(&der));
        let reason = || CaError::Make { what: "certificate", reason: "it cannot be read".into() };
        Ok((pem, issued.ok_or_else(reason)?))
    }

    /// A node calls: takes down that the last certificate of its line is in use.
    ///
    /// # Errors
    /// [`Refused::Superseded`] for one that should not be in use any more; operators are told.
    pub(crate) fn saw(&self, control: &Control, caller: &Caller, now_ms: u64) -> Result<(), Refused> {
        let (Some(id), Some(certificate)) = (&caller.node, &caller.certificate) else { return Ok(()) };
        let Some(shown) = Certificate::read(certificate) else { return Ok(()) };
        let look = |enrolled: &Enrolled| enrolled.line.as_ref().map(|line| line.sight(&shown, now_ms));
        match control.enrolled(id, look, now_ms).flatten() {
            None | Some(Sight::Known) => {}
            Some(Sight::Superseded) => {
                self.alarm(control, id, &shown, now_ms);
                return Err(Refused::Superseded(id.clone()));
            }
            Some(Sight::New) => {
                let _issuing = self.issuing.lock();
                let see = |enrolled: &mut Enrolled| {
                    let line = enrolled.line.as_mut();
                    let Some(line) = line.filter(|line| line.sight(&shown, now_ms) == Sight::New) else {
                        return false;
                    };
                    line.see(now_ms);
                    true
                };
                control.amend(id, see, now_ms);
            }
        }
        Ok(())
    }

    /// A certificate is in use, and refused, that something newer took the place of.
    fn alarm(&self, control: &Control, id: &str, shown: &Certificate, now_ms: u64) {
        control.metrics().superseded.inc();
        let mut alarms = self.alarms.lock();
        alarms.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < ALARM_MS);
        if let Entry::Vacant(first) = alarms.entry(id.to_owned()) {
            first.insert(now_ms);
            log::warn!(node = id, serial = shown.serial.as_str(); "a superseded certificate is in use, and is refused: either the machine was enrolled anew and goes on with the old one, or two hold a copy; then enrol it again, and find out who");
        }
    }
}

/// What is on record of a node's enrolment, and the guard to change it; a record that cannot be read is none.
fn on_record(control: &Control, id: &str, now_ms: u64) -> Result<(Guard, Option<Enrolled>), KvError> {
    let entry = control.kv().get(&format!("enrolled/{id}"), now_ms)?;
    Ok(entry.map_or((Guard::Absent, None), |entry| {
        (Guard::Revision(entry.revision), serde_json::from_slice(&entry.value).ok())
    }))
}

fn put(control: &Control, id: &str, enrolled: &Enrolled, guard: Guard, now_ms: u64) -> Result<(), KvError> {
    let key = format!("enrolled/{id}");
    control.kv().write(&key, &json(enrolled), guard, Life::forever(now_ms)).map(drop)
}

/// Whether a configuration can be handed to a node of this id: TOML, and no other node's.
fn check_configuration(text: &str, id: &str) -> Result<(), Refused> {
    let refused = |reason| Err(Refused::field("configuration", reason));
    if text.len() > MOST_CONFIGURATION {
        return refused(format!("has {} bytes; at most {MOST_CONFIGURATION} are handed out", text.len()));
    }
    let given: Given = match toml::parse(text, Path::new("")) {
        Ok(given) => given,
        Err(Wrong { line, words, .. }) => return refused(format!("is wrong in line {line}: {words}")),
    };
    match given.node.name {
        Some(name) if name != id => {
            refused(format!("names another node, `{name}`, in `node.name`; leave that out"))
        }
        _ => Ok(()),
    }
}

fn key(secret: &[u8; 32]) -> String {
    let hash: [u8; 32] = Sha256::digest(secret).into();
    format!("tokens/{}", hex::encode(&hash))
}

#[cfg(test)]
mod tests;

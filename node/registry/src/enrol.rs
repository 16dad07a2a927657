//! Enrolment: a machine becomes a node with a one-time token, and gets a certificate.
//!
//! An operator makes the token for one node id; only its hash is kept, until it expires. Whoever
//! brings it first gets a certificate for that id, whatever their signing request asks for.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ca::{self, Authority, Request, Subject};
use crate::control::{Control, Enrolled, json};
use crate::error::{KvError, Refused};
use crate::kv::Life;
use crate::message::{EnrolAnswer, EnrolRequest, MOST_NAME, text};
use crate::{hex, identity, random};

/// Longest time that a token is good for: a week.
pub const MOST_VALID_SECONDS: u64 = 7 * 86_400;
const LEAST_VALID_SECONDS: u64 = 10;

/// What an operator wants a token for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Lets machines in.
pub struct Enrolment {
    authority: Authority,
    /// How long certificates are good.
    days: u64,
}

impl Enrolment {
    /// Certificates by this authority, good for so many days.
    pub fn new(authority: Authority, days: u64) -> Self {
        Self { authority, days }
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
        if control.is_denied(&asked.node, now_ms) {
            return Err(Refused::Denied(asked.node));
        }
        let secret: [u8; 32] = random::bytes().map_err(Refused::Random)?;
        let TokenRequest { node, region, names, valid_seconds } = asked;
        let life = Life::of(valid_seconds * 1000, now_ms);
        let expires_ms = now_ms.saturating_add(valid_seconds * 1000);
        let token = Token { node, region, names, expires_ms, used: false };
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
    ) -> Result<EnrolAnswer, Refused> {
        let enrolled = self.take(control, request, now_ms);
        let result = if enrolled.is_ok() { "taken" } else { "refused" };
        control.metrics().enrolments.with_label_values(&[result]).inc();
        enrolled
    }

    fn take(&self, control: &Control, request: &EnrolRequest, now_ms: u64) -> Result<EnrolAnswer, Refused> {
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
        let subject = Subject { id: &token.node, names: &token.names };
        let certificate = self.authority.sign(&csr, subject, self.days, now_ms)?;
        let enrolled = Enrolled { region: token.region.clone(), names: token.names.clone(), at_ms: now_ms };
        control.kv().put(&format!("enrolled/{}", token.node), &json(&enrolled), Life::forever(now_ms))?;
        // Of two who bring it at once one wins; what was written before is on the disk with this.
        let life = Life::of(token.expires_ms.saturating_sub(now_ms), now_ms);
        let used = json(&Token { used: true, ..token.clone() });
        match control.kv().compare_and_set(&key, entry.revision, &used, life) {
            Ok(_) => {}
            Err(KvError::Conflict { .. }) => return Err(Refused::Token),
            Err(error) => return Err(error.into()),
        }
        log::info!(node = token.node.as_str(), region = token.region.as_str(); "enrolled");
        let ca = self.authority.certificate().to_owned();
        Ok(EnrolAnswer { node: token.node, region: token.region, certificate, ca })
    }
}

fn key(secret: &[u8; 32]) -> String {
    let hash: [u8; 32] = Sha256::digest(secret).into();
    format!("tokens/{}", hex::encode(&hash))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ca::NewKey;
    use crate::fleet::Fleet;
    use crate::kv::MemoryKv;
    use crate::metrics::Metrics;

    const NOW: u64 = 1_700_000_000_000;

    fn new() -> (Control, Enrolment) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), NOW).unwrap();
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let kv = Arc::new(MemoryKv::new());
        let control = Control::open(kv, Arc::new(Fleet::new()), "control", metrics, NOW).unwrap();
        (control, Enrolment::new(authority, 30))
    }

    fn asked(node: &str) -> TokenRequest {
        TokenRequest { node: node.into(), region: "south".into(), names: Vec::new(), valid_seconds: 60 }
    }

    fn bring(token: &str) -> EnrolRequest {
        EnrolRequest { token: token.into(), csr: NewKey::make().unwrap().request }
    }

    #[test]
    fn a_token_lets_one_machine_in_once() {
        let (control, enrolment) = new();
        let token = enrolment.token(&control, asked("a"), NOW).unwrap();
        assert_eq!(token.expires_ms, NOW + 60_000);
        // A mistake does not cost it.
        let wrong = EnrolRequest { csr: "?".into(), ..bring(&token.token) };
        assert!(matches!(enrolment.enrol(&control, &wrong, NOW), Err(Refused::Ca(_))));
        let answer = enrolment.enrol(&control, &bring(&format!(" {}\n", token.token)), NOW).unwrap();
        assert_eq!((answer.node.as_str(), answer.region.as_str()), ("a", "south"));
        let certificate = ca::der_of(&answer.certificate).unwrap();
        assert_eq!(identity::node_of(&certificate).as_deref(), Some("a"));
        let authority = ca::fingerprint(&ca::der_of(&answer.ca).unwrap());
        assert_eq!(token.ca_fingerprint, format!("sha256:{}", hex::encode(&authority)));
        assert!(matches!(enrolment.enrol(&control, &bring(&token.token), NOW), Err(Refused::Token)));
    }

    #[test]
    fn a_token_expires() {
        let (control, enrolment) = new();
        let token = enrolment.token(&control, asked("a"), NOW).unwrap().token;
        assert!(matches!(enrolment.enrol(&control, &bring(&token), NOW + 60_000), Err(Refused::Token)));
        enrolment.enrol(&control, &bring(&token), NOW + 59_999).unwrap();
    }

    #[test]
    fn what_is_no_token_lets_nobody_in() {
        let (control, enrolment) = new();
        for token in ["", "x", &"0".repeat(64), &"é".repeat(32), &"0".repeat(10_000)] {
            assert!(matches!(enrolment.enrol(&control, &bring(token), NOW), Err(Refused::Token)));
        }
    }

    #[test]
    fn the_token_itself_is_not_kept() {
        let (control, enrolment) = new();
        let token = enrolment.token(&control, asked("a"), NOW).unwrap().token;
        let mut records = 0;
        control
            .kv()
            .list("", NOW, &mut |key, entry| {
                assert!(!key.contains(&token) && !String::from_utf8_lossy(&entry.value).contains(&token));
                records += 1;
            })
            .unwrap();
        assert_eq!(records, 1);
    }

    #[test]
    fn a_revoked_id_is_never_enrolled_again() {
        let (control, enrolment) = new();
        let token = enrolment.token(&control, asked("a"), NOW).unwrap().token;
        control.revoke("a", NOW).unwrap();
        assert!(matches!(enrolment.enrol(&control, &bring(&token), NOW), Err(Refused::Denied(_))));
        assert!(matches!(enrolment.token(&control, asked("a"), NOW), Err(Refused::Denied(_))));
    }

    #[test]
    fn what_a_token_cannot_be_for_is_named() {
        let (control, enrolment) = new();
        let refused = |asked: TokenRequest| enrolment.token(&control, asked, NOW).unwrap_err().to_string();
        assert!(refused(asked("a/b")).starts_with("`node` "));
        assert!(refused(TokenRequest { valid_seconds: 1, ..asked("a") }).starts_with("`valid_seconds` "));
        assert!(refused(TokenRequest { region: "\n".into(), ..asked("a") }).starts_with("`region` "));
        assert!(refused(TokenRequest { names: vec!["a b".into()], ..asked("a") }).contains("`a b`"));
    }
}

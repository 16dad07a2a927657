//! Enrolment: a machine becomes a node with a one-time token, and gets a certificate.
//!
//! An operator makes the token for one node id; only its hash is kept, until it expires. Whoever
//! brings it first gets a certificate for that id, whatever their signing request asks for. Before the
//! certificate ends the node gets another one for it, as long as it is not revoked.
//!
//! Tokens expire by [`crate::clock::now_ms`]; certificates are good by the system's clock (`wall_ms`), since
//! others check them by theirs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skerry_core::config;

use crate::ca::{self, Authority, Request, Subject};
use crate::control::{Control, Enrolled, json};
use crate::error::{KvError, Refused};
use crate::identity::Caller;
use crate::kv::Life;
use crate::message::{
    EnrolAnswer, EnrolRequest, MOST_CONFIGURATION, MOST_NAME, RenewAnswer, RenewRequest, text,
};
use crate::{hex, identity, random};

/// Longest time that a token is good for: a week.
pub const MOST_VALID_SECONDS: u64 = 7 * 86_400;
const LEAST_VALID_SECONDS: u64 = 10;

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
        let subject = Subject { id: &token.node, names: &token.names };
        let certificate = self.authority.sign(&csr, subject, self.days, wall_ms)?;
        let enrolled = Enrolled { region: token.region.clone(), names: token.names.clone(), at_ms: now_ms };
        control.kv().put(&format!("enrolled/{}", token.node), &json(&enrolled), Life::forever(now_ms))?;
        // Of two who bring it at once one wins; what was written before is on the disk with this.
        let life = Life::of(token.expires_ms.saturating_sub(now_ms), now_ms);
        let used = json(&Token { used: true, configuration: String::new(), ..token.clone() });
        match control.kv().compare_and_set(&key, entry.revision, &used, life) {
            Ok(_) => {}
            Err(KvError::Conflict { .. }) => return Err(Refused::Token),
            Err(error) => return Err(error.into()),
        }
        log::info!(node = token.node.as_str(), region = token.region.as_str(); "enrolled");
        let ca = self.authority.certificate().to_owned();
        let Token { node, region, configuration, .. } = token;
        Ok(EnrolAnswer { node, region, certificate, ca, configuration })
    }

    /// Gives a node another certificate: for a new key, with the names of the one that it calls with.
    ///
    /// # Errors
    /// When the caller has none or was revoked, and when the request is none.
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
        let names = identity::names_of(certificate).unwrap_or_default();
        let csr = Request::parse(&request.csr)?;
        let certificate = self.authority.sign(&csr, Subject { id, names: &names }, self.days, wall_ms)?;
        log::info!(node = id.as_str(); "its certificate was renewed");
        Ok(RenewAnswer { certificate })
    }
}

/// Whether a configuration can be handed to a node of this id: TOML, and no other node's.
fn check_configuration(text: &str, id: &str) -> Result<(), Refused> {
    let refused = |reason| Err(Refused::field("configuration", reason));
    if text.len() > MOST_CONFIGURATION {
        return refused(format!("has {} bytes; at most {MOST_CONFIGURATION} are handed out", text.len()));
    }
    let given = match config::parse::<Given>(text, Path::new("")) {
        Ok(given) => given,
        Err(skerry_core::Error::Config { line, message, .. }) => {
            return refused(format!("is wrong in line {line}: {message}"));
        }
        Err(error) => return refused(format!("cannot be read: {error}")),
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
        TokenRequest {
            node: node.into(),
            region: "south".into(),
            valid_seconds: 60,
            ..TokenRequest::default()
        }
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
        assert!(matches!(enrolment.enrol(&control, &wrong, NOW, NOW), Err(Refused::Ca(_))));
        let answer = enrolment.enrol(&control, &bring(&format!(" {}\n", token.token)), NOW, NOW).unwrap();
        assert_eq!((answer.node.as_str(), answer.region.as_str()), ("a", "south"));
        let certificate = ca::der_of(&answer.certificate).unwrap();
        assert_eq!(identity::node_of(&certificate).as_deref(), Some("a"));
        let authority = ca::fingerprint(&ca::der_of(&answer.ca).unwrap());
        assert_eq!(token.ca_fingerprint, format!("sha256:{}", hex::encode(&authority)));
        assert!(matches!(enrolment.enrol(&control, &bring(&token.token), NOW, NOW), Err(Refused::Token)));
    }

    #[test]
    fn a_token_hands_out_its_configuration_once() {
        let (control, enrolment) = new();
        let configuration = "# \u{e9}\n[sites.default]\norigin = \"http://o\"\n".to_owned();
        let with = TokenRequest { configuration: configuration.clone(), ..asked("a") };
        let token = enrolment.token(&control, with, NOW).unwrap().token;
        let kept = |words: &str| {
            let mut found = false;
            let mut look = |_: &str, entry: crate::kv::Entry| {
                found |= String::from_utf8_lossy(&entry.value).contains(words);
            };
            control.kv().list("tokens/", NOW, &mut look).unwrap();
            found
        };
        assert!(kept("http://o"));
        let answer = enrolment.enrol(&control, &bring(&token), NOW, NOW).unwrap();
        assert_eq!(answer.configuration, configuration);
        // What is handed out once need not be kept.
        assert!(!kept("http://o") && kept("south"));
        let token = enrolment.token(&control, asked("b"), NOW).unwrap().token;
        assert_eq!(enrolment.enrol(&control, &bring(&token), NOW, NOW).unwrap().configuration, "");
        // What a version before kept, or answered, had none.
        let old = r#"{"node": "a", "region": "", "names": [], "expires_ms": 1, "used": false}"#;
        assert_eq!(serde_json::from_str::<Token>(old).unwrap().configuration, "");
        let old = r#"{"node": "a", "region": "", "certificate": "", "ca": ""}"#;
        assert_eq!(serde_json::from_str::<EnrolAnswer>(old).unwrap().configuration, "");
    }

    #[test]
    fn what_is_no_configuration_of_the_node_is_not_handed_out() {
        let check = |text: &str| check_configuration(text, "a").map_err(|refused| refused.to_string());
        for text in
            ["", "# none\n", "[node]\nname = \"a\"\n", "[of.a.later]\nversion = 1\n[node]\nmore = 2\n"]
        {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let long = "#".repeat(MOST_CONFIGURATION + 1);
        for (text, words) in [
            ("[node]\nname = \"b\"\n", "`configuration` names another node, `b`"),
            ("[node]\nname = \"a\"\nx\n", "`configuration` is wrong in line 3"),
            ("[node]\n[node]\n", "wrong in line 2"),
            ("node = 3\n", "wrong in line 1"),
            ("a = \"\u{0}\"\n", "wrong in line 1"),
            (long.as_str(), "has 131073 bytes; at most 131072"),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        check(&long[1..]).unwrap();
    }

    #[test]
    fn the_largest_configuration_fits_a_record_and_an_answer() {
        let (control, enrolment) = new();
        // Every byte of it takes two in JSON.
        let configuration = format!("a='''{}'''", "\"".repeat(MOST_CONFIGURATION - 8));
        let with = TokenRequest { configuration: configuration.clone(), ..asked("a") };
        let token = enrolment.token(&control, with, NOW).unwrap().token;
        let answer = enrolment.enrol(&control, &bring(&token), NOW, NOW).unwrap();
        assert_eq!(answer.configuration, configuration);
        assert!(json(&answer).len() < 1 << 20);
    }

    #[test]
    fn a_token_expires() {
        let (control, enrolment) = new();
        let token = enrolment.token(&control, asked("a"), NOW).unwrap().token;
        assert!(matches!(enrolment.enrol(&control, &bring(&token), NOW + 60_000, NOW), Err(Refused::Token)));
        enrolment.enrol(&control, &bring(&token), NOW + 59_999, NOW).unwrap();
    }

    #[test]
    fn what_is_no_token_lets_nobody_in() {
        let (control, enrolment) = new();
        for token in ["", "x", &"0".repeat(64), &"é".repeat(32), &"0".repeat(10_000)] {
            assert!(matches!(enrolment.enrol(&control, &bring(token), NOW, NOW), Err(Refused::Token)));
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
        assert!(matches!(enrolment.enrol(&control, &bring(&token), NOW, NOW), Err(Refused::Denied(_))));
        assert!(matches!(enrolment.token(&control, asked("a"), NOW), Err(Refused::Denied(_))));
    }

    #[test]
    fn a_node_s_certificate_is_renewed_for_a_new_key_and_the_same_names() {
        let (control, enrolment) = new();
        let names = vec!["edge.example".to_owned(), "192.0.2.1".to_owned(), "2001:db8::1".to_owned()];
        let token =
            enrolment.token(&control, TokenRequest { names: names.clone(), ..asked("a") }, NOW).unwrap();
        let first = enrolment.enrol(&control, &bring(&token.token), NOW, NOW).unwrap().certificate;
        let der = ca::der_of(&first).unwrap();
        let address = "192.0.2.1:1000".parse().unwrap();
        let caller = Caller { certificate: Some(der.into()), ..Caller::new(Some("a".into()), address) };
        let NewKey { key, request } = NewKey::make().unwrap();
        let request = RenewRequest { csr: request };
        let later = NOW + 20 * 86_400_000;
        let renewed = enrolment.renew(&control, &caller, &request, NOW, later).unwrap().certificate;
        let der = ca::der_of(&renewed).unwrap();
        assert_eq!(identity::node_of(&der).as_deref(), Some("a"));
        assert_eq!(identity::names_of(&der), Some(names));
        assert_eq!(identity::ends(&der), Some(later / 1000 + 30 * 86_400));
        assert!(ca::belong_together(&der, &key) && !ca::belong_together(&der, &NewKey::make().unwrap().key));

        let refused = |caller: &Caller| enrolment.renew(&control, caller, &request, NOW, NOW);
        let bare = Caller { certificate: None, ..caller.clone() };
        assert!(matches!(refused(&bare), Err(Refused::Nobody)));
        control.revoke("a", NOW).unwrap();
        assert!(matches!(refused(&caller), Err(Refused::Denied(_))));
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

use std::sync::Arc;

use super::*;
use crate::ca::NewKey;
use crate::control::Bounds;
use crate::fleet::Fleet;
use crate::kv::{Kv, MemoryKv};
use crate::metrics::Metrics;

const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 86_400_000;

fn new() -> (Control, Enrolment) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(folder.path(), NOW).unwrap();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let kv = Arc::new(MemoryKv::new());
    (open(kv, metrics), Enrolment::new(authority, 30))
}

fn open(kv: Arc<dyn Kv>, metrics: Metrics) -> Control {
    Control::open(kv, Arc::new(Fleet::new()), "control", Bounds::default(), metrics, NOW).unwrap()
}

fn asked(node: &str) -> TokenRequest {
    TokenRequest { node: node.into(), region: "south".into(), valid_seconds: 60, ..TokenRequest::default() }
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
    for text in ["", "# none\n", "[node]\nname = \"a\"\n", "[of.a.later]\nversion = 1\n[node]\nmore = 2\n"] {
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

/// Node `a` with a certificate (PEM).
fn showing(certificate: &str) -> Caller {
    let certificate = ca::der_of(certificate).map(Into::into);
    Caller { certificate, ..Caller::new(Some("a".into()), "192.0.2.1:1000".parse().unwrap()) }
}

/// Lets node `a` in.
fn enrolled(control: &Control, enrolment: &Enrolment, names: &[String], wall_ms: u64) -> Caller {
    let asked = TokenRequest { names: names.to_vec(), ..asked("a") };
    let token = enrolment.token(control, asked, NOW).unwrap().token;
    showing(&enrolment.enrol(control, &bring(&token), NOW, wall_ms).unwrap().certificate)
}

/// Another certificate; both clocks tell the same.
fn renewed(
    control: &Control,
    enrolment: &Enrolment,
    caller: &Caller,
    now_ms: u64,
) -> Result<Caller, Refused> {
    let request = RenewRequest { csr: NewKey::make().unwrap().request };
    enrolment.renew(control, caller, &request, now_ms, now_ms).map(|answer| showing(&answer.certificate))
}

/// A certificate for node `a` that is on no record.
fn signed(enrolment: &Enrolment, names: &[String], wall_ms: u64) -> Caller {
    let csr = Request::parse(&NewKey::make().unwrap().request).unwrap();
    showing(&enrolment.authority.sign(&csr, Subject { id: "a", names }, 30, wall_ms).unwrap())
}

/// What a certificate names.
fn names_of(certificate: &[u8]) -> Vec<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names.value.general_names.iter().map(ToString::to_string).collect()
}

fn is_superseded<T>(refused: Result<T, Refused>) -> bool {
    matches!(refused, Err(Refused::Superseded(id)) if id == "a")
}

#[test]
fn a_node_s_certificate_is_renewed_for_a_new_key_and_the_names_of_its_enrolment() {
    let (control, enrolment) = new();
    let names = ["edge.example".to_owned(), "192.0.2.1".to_owned()];
    let caller = enrolled(&control, &enrolment, &names, NOW);
    let NewKey { key, request } = NewKey::make().unwrap();
    let request = RenewRequest { csr: request };
    let later = NOW + 20 * DAY;
    let renewed = enrolment.renew(&control, &caller, &request, NOW, later).unwrap().certificate;
    let der = ca::der_of(&renewed).unwrap();
    assert_eq!(identity::node_of(&der).as_deref(), Some("a"));
    let named = names_of(&der);
    assert_eq!(named, names_of(caller.certificate.as_ref().unwrap()));
    assert_eq!(named.len(), 3, "{named:?}");
    assert_eq!(identity::ends(&der), Some(later / 1000 + 30 * 86_400));
    assert!(ca::belong_together(&der, &key) && !ca::belong_together(&der, &NewKey::make().unwrap().key));
    // Whatever the one says that it calls with.
    let other = signed(&enrolment, &["control.example".to_owned()], later + DAY);
    let renewed = enrolment.renew(&control, &other, &request, NOW, later + DAY).unwrap().certificate;
    assert_eq!(names_of(&ca::der_of(&renewed).unwrap()), named);

    let refused = |caller: &Caller| enrolment.renew(&control, caller, &request, NOW, NOW);
    let bare = Caller { certificate: None, ..caller.clone() };
    assert!(matches!(refused(&bare), Err(Refused::Nobody)));
    control.revoke("a", NOW).unwrap();
    assert!(matches!(refused(&caller), Err(Refused::Denied(_))));
}

#[test]
fn of_two_who_hold_one_certificate_one_goes_on_until_the_node_is_enrolled_again() {
    let (control, enrolment) = new();
    let superseded = || control.metrics().superseded.get();
    let saw = |caller: &Caller, now_ms| enrolment.saw(&control, caller, now_ms);
    let node = enrolled(&control, &enrolment, &[], NOW);
    saw(&node, NOW).unwrap();
    // The thief comes first, and is seen.
    let thief = renewed(&control, &enrolment, &node, NOW + DAY).unwrap();
    saw(&node, NOW + DAY).unwrap();
    saw(&thief, NOW + DAY).unwrap();
    saw(&node, NOW + DAY + 599_999).unwrap();
    assert_eq!(superseded(), 0);
    // The other one is heard no more, told of, and not renewed.
    assert!(is_superseded(saw(&node, NOW + DAY + 600_000)));
    assert_eq!(superseded(), 1);
    assert!(is_superseded(renewed(&control, &enrolment, &node, NOW + 2 * DAY)));
    assert_eq!(superseded(), 2);
    let thief = renewed(&control, &enrolment, &thief, NOW + 3 * DAY).unwrap();
    // A new token ends that.
    let node = enrolled(&control, &enrolment, &[], NOW + 4 * DAY);
    assert!(is_superseded(renewed(&control, &enrolment, &thief, NOW + 4 * DAY)));
    // At once, before the new one was seen.
    assert!(is_superseded(saw(&thief, NOW + 4 * DAY)));
    assert_eq!(superseded(), 4);
    saw(&node, NOW + 4 * DAY).unwrap();
    let node = renewed(&control, &enrolment, &node, NOW + 5 * DAY).unwrap();
    saw(&node, NOW + 5 * DAY).unwrap();
    assert!(is_superseded(saw(&thief, NOW + 6 * DAY)));
    assert_eq!(superseded(), 5);
}

#[test]
fn an_answer_that_was_lost_costs_nothing() {
    let (control, enrolment) = new();
    let node = enrolled(&control, &enrolment, &[], NOW);
    let lost = renewed(&control, &enrolment, &node, NOW).unwrap();
    let again = renewed(&control, &enrolment, &node, NOW + DAY).unwrap();
    assert!(is_superseded(renewed(&control, &enrolment, &lost, NOW + DAY)));
    // Until the new one is in use, also for a control node that has started again.
    enrolment.saw(&control, &again, NOW + DAY).unwrap();
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let control = open(control.kv().clone(), metrics);
    assert!(is_superseded(renewed(&control, &enrolment, &node, NOW + DAY)));
    renewed(&control, &enrolment, &again, NOW + DAY).unwrap();
}

#[test]
fn who_is_not_on_record_is_given_no_other_certificate() {
    let (control, enrolment) = new();
    let stranger = signed(&enrolment, &[], NOW);
    enrolment.saw(&control, &stranger, NOW).unwrap();
    assert!(matches!(renewed(&control, &enrolment, &stranger, NOW), Err(Refused::Unenrolled(_))));
    // A version before kept no line: what was issued before the enrolment is superseded.
    let kept = format!(r#"{{"region": "", "at_ms": {NOW}}}"#);
    control.kv().put("enrolled/a", kept.as_bytes(), Life::forever(NOW)).unwrap();
    assert!(is_superseded(renewed(&control, &enrolment, &signed(&enrolment, &[], NOW - DAY), NOW)));
    renewed(&control, &enrolment, &stranger, NOW).unwrap();
    // A record that cannot be read is made anew by an enrolment.
    control.kv().put("enrolled/a", b"?", Life::forever(NOW)).unwrap();
    assert!(matches!(renewed(&control, &enrolment, &stranger, NOW), Err(Refused::Unenrolled(_))));
    let node = enrolled(&control, &enrolment, &[], NOW);
    renewed(&control, &enrolment, &node, NOW).unwrap();
}

#[test]
fn no_certificate_is_issued_that_ends_before_the_one_there_is() {
    let (control, enrolment) = new();
    let node = enrolled(&control, &enrolment, &[], NOW);
    let shorter = Enrolment::new(enrolment.authority, 10);
    assert!(matches!(renewed(&control, &shorter, &node, NOW + 19 * DAY), Err(Refused::Early)));
    // That was no renewal: the next one is.
    assert!(renewed(&control, &shorter, &node, NOW + 21 * DAY).is_ok());
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

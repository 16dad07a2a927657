use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};

use super::*;
use crate::ca::{self, Authority, NewKey};
use crate::control::Bounds;
use crate::enrol::TokenRequest;
use crate::fleet::{Fleet, Holding, Node};
use crate::identity;
use crate::kv::MemoryKv;
use crate::metrics::Metrics;

const NOW: u64 = 1_700_000_000_000;

fn endpoint() -> Endpoint {
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let fleet = Arc::new(Fleet::new());
    let (kv, bounds) = (Arc::new(MemoryKv::new()), Bounds::default());
    let control = Control::open(kv, fleet, "control", bounds, metrics, NOW).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(folder.path(), NOW).unwrap();
    Endpoint {
        control: Some(Arc::new(control)),
        enrolment: Some(Arc::new(Enrolment::new(authority, 30))),
        membership: None,
        lists: OnceLock::new(),
        listener: OnceLock::new(),
        reports: Mutex::default(),
        insecure_loopback: false,
    }
}

fn caller(node: Option<&str>) -> Caller {
    Caller::new(node.map(str::to_owned), "192.0.2.1:1000".parse().unwrap())
}

fn beat(id: &str) -> Vec<u8> {
    let node = Node { id: id.into(), interval_seconds: 10, ..Node::default() };
    serde_json::to_vec(&Beat { node, ..Beat::default() }).unwrap()
}

/// Status and document of the answer.
fn ask(endpoint: &Endpoint, caller: &Caller, line: &str, body: &[u8]) -> (u16, Value) {
    ask_at(endpoint, caller, line, body, NOW)
}

fn ask_at(endpoint: &Endpoint, caller: &Caller, line: &str, body: &[u8], now_ms: u64) -> (u16, Value) {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let response = endpoint.respond(caller, &method, &format!("{ROOT}{path}"), body, now_ms);
    let status = response.status().as_u16();
    let document = match response.into_body() {
        Body::Full(body) => serde_json::from_slice(&body).unwrap(),
        _ => Value::Null,
    };
    (status, document)
}

fn detail(answer: &(u16, Value)) -> &str {
    answer.1["detail"].as_str().unwrap_or_default()
}

#[test]
fn a_node_registers_and_tells_what_it_holds() {
    let endpoint = endpoint();
    let node = caller(Some("a"));
    assert_eq!(ask(&endpoint, &node, "POST nodes", &beat("a")).0, 200);
    let held = vec![Holding {
        resource: "0".repeat(64),
        length: 1,
        held_bytes: 1,
        complete: true,
        ..Holding::default()
    }];
    let report = HoldingsReport { generation: 7, held, ..HoldingsReport::default() };
    let body = serde_json::to_vec(&report).unwrap();
    let (status, answer) = ask(&endpoint, &node, "POST nodes/a/holdings", &body);
    assert_eq!(status, 200);
    assert_eq!(answer["generation"], 7);
    let (_, answer) = ask(&endpoint, &node, "POST nodes", &beat("a"));
    assert_eq!(answer["generation"], 7);
    let report = HoldingsReport { generation: 9, base: Some(8), ..HoldingsReport::default() };
    let body = serde_json::to_vec(&report).unwrap();
    assert_eq!(ask(&endpoint, &node, "POST nodes/a/holdings", &body).0, 409);
}

#[test]
fn an_unknown_node_gets_nothing_in() {
    let endpoint = endpoint();
    for node in [caller(None), caller(Some("b"))] {
        let answer = ask(&endpoint, &node, "POST nodes", &beat("a"));
        assert_eq!(answer.0, 403, "{answer:?}");
        assert_eq!(ask(&endpoint, &node, "POST nodes/a/holdings", b"{}").0, 403);
        assert_eq!(ask(&endpoint, &node, "GET nodes/a/preload", b"").0, 403);
    }
    assert!(endpoint.control.as_ref().unwrap().nodes(NOW).is_empty());
    // Without a certificate nothing of the body is looked at.
    let answer = ask(&endpoint, &caller(None), "POST nodes", b"{");
    assert!(detail(&answer).contains("skerry node enrol"), "{answer:?}");
    // One that has a certificate and has not registered has no list to change.
    let body = serde_json::to_vec(&HoldingsReport::default()).unwrap();
    assert_eq!(ask(&endpoint, &caller(Some("a")), "POST nodes/a/holdings", &body).0, 404);
}

#[test]
fn loopback_is_believed_when_it_is_configured() {
    let endpoint = Endpoint { insecure_loopback: true, ..endpoint() };
    let near = Caller::new(None, "127.0.0.1:1000".parse().unwrap());
    assert_eq!(ask(&endpoint, &near, "POST nodes", &beat("a")).0, 200);
    assert_eq!(ask(&endpoint, &caller(None), "POST nodes", &beat("a")).0, 403);
}

#[test]
fn a_revoked_node_is_refused() {
    let endpoint = endpoint();
    let node = caller(Some("a"));
    ask(&endpoint, &node, "POST nodes", &beat("a"));
    endpoint.control.as_ref().unwrap().revoke("a", NOW).unwrap();
    assert_eq!(ask(&endpoint, &node, "POST nodes", &beat("a")).0, 403);
    let body = serde_json::to_vec(&HoldingsReport::default()).unwrap();
    assert_eq!(ask(&endpoint, &node, "POST nodes/a/holdings", &body).0, 403);
    assert_eq!(ask(&endpoint, &node, "GET nodes/a/preload", b"").0, 403);
    let shown = Caller { certificate: Some([0; 8].into()), ..node };
    assert_eq!(ask(&endpoint, &shown, "POST nodes/a/certificate", &renewal()).0, 403);
}

/// A node that was enrolled, and whose connection shows its certificate.
fn enrolled(endpoint: &Endpoint, id: &str) -> Caller {
    let (control, enrolment) = (endpoint.control.as_ref().unwrap(), endpoint.enrolment.as_ref().unwrap());
    let asked = TokenRequest { node: id.into(), valid_seconds: 60, ..TokenRequest::default() };
    let token = enrolment.token(control, asked, NOW).unwrap().token;
    let request = EnrolRequest { token, csr: NewKey::make().unwrap().request };
    let pem = enrolment.enrol(control, &request, NOW, wall_ms()).unwrap().certificate;
    Caller { certificate: ca::der_of(&pem).map(Into::into), ..caller(Some(id)) }
}

/// The certificate of an answer.
fn certificate(answer: &Value) -> Arc<[u8]> {
    ca::der_of(answer["certificate"].as_str().unwrap()).unwrap().into()
}

fn renewal() -> Vec<u8> {
    serde_json::to_vec(&RenewRequest { csr: NewKey::make().unwrap().request }).unwrap()
}

#[test]
fn a_node_renews_its_own_certificate_and_no_other() {
    let endpoint = endpoint();
    let node = enrolled(&endpoint, "a");
    let (status, answer) = ask(&endpoint, &node, "POST nodes/a/certificate", &renewal());
    assert_eq!(status, 200, "{answer}");
    assert_eq!(identity::node_of(&certificate(&answer)).as_deref(), Some("a"));
    assert_eq!(ask(&endpoint, &node, "POST nodes/b/certificate", &renewal()).0, 403);
    assert_eq!(ask(&endpoint, &node, "POST nodes/a/certificate", br#"{"csr": "?"}"#).0, 400);
    assert_eq!(ask(&endpoint, &node, "GET nodes/a/certificate", b"").0, 405);
    // Whoever is merely near has no certificate to renew.
    let endpoint = Endpoint { insecure_loopback: true, ..endpoint };
    let near = Caller::new(None, "127.0.0.1:1000".parse().unwrap());
    assert_eq!(ask(&endpoint, &near, "POST nodes/a/certificate", &renewal()).0, 403);
    let none = Endpoint { enrolment: None, ..endpoint };
    assert_eq!(ask(&none, &node, "POST nodes/a/certificate", &renewal()).0, 404);
}

#[test]
fn a_certificate_is_renewed_no_more_once_the_new_one_was_seen() {
    let endpoint = endpoint();
    let node = enrolled(&endpoint, "a");
    assert_eq!(ask(&endpoint, &node, "POST nodes", &beat("a")).0, 200);
    ask(&endpoint, &node, "POST nodes/a/certificate", &renewal());
    // Lost, it is asked for again.
    let (status, answer) = ask(&endpoint, &node, "POST nodes/a/certificate", &renewal());
    assert_eq!(status, 200, "{answer}");
    let next = Caller { certificate: Some(certificate(&answer)), ..node.clone() };
    assert_eq!(ask(&endpoint, &next, "POST nodes", &beat("a")).0, 200);
    let answer = ask(&endpoint, &node, "POST nodes/a/certificate", &renewal());
    assert!(answer.0 == 403 && detail(&answer).contains("superseded"), "{answer:?}");
    assert_eq!(ask(&endpoint, &next, "POST nodes/a/certificate", &renewal()).0, 200);
}

#[test]
fn a_superseded_certificate_is_good_for_nothing() {
    let endpoint = endpoint();
    let old = enrolled(&endpoint, "a");
    assert_eq!(ask(&endpoint, &old, "POST nodes", &beat("a")).0, 200);
    let (_, answer) = ask(&endpoint, &old, "POST nodes/a/certificate", &renewal());
    let new = Caller { certificate: Some(certificate(&answer)), ..old.clone() };
    assert_eq!(ask(&endpoint, &new, "POST nodes", &beat("a")).0, 200);
    let list = br#"{"generation": 1, "boot": 0}"#;
    let all = |caller: &Caller, now_ms| {
        [
            ask_at(&endpoint, caller, "POST nodes", &beat("a"), now_ms),
            ask_at(&endpoint, caller, "POST nodes/a/holdings", list, now_ms),
            ask_at(&endpoint, caller, "POST nodes/a/preload", b"{}", now_ms),
            ask_at(&endpoint, caller, "GET nodes/a/preload", b"", now_ms),
            ask_at(&endpoint, caller, &format!("GET nodes/torrents/{}", "5".repeat(64)), b"", now_ms),
        ]
    };
    // What was on its way is still heard.
    let statuses = |answers: [(u16, Value); 5]| answers.map(|(status, _)| status);
    assert_eq!(statuses(all(&old, NOW + 599_999)), [200, 200, 404, 404, 200]);
    let refused = all(&old, NOW + 600_000);
    assert!(refused.iter().all(|answer| detail(answer).contains("superseded")), "{refused:?}");
    assert_eq!(statuses(refused), [403; 5]);
    assert_eq!(statuses(all(&new, NOW + 600_000)), [200, 200, 404, 404, 200]);
    // An enrolment ends all that were issued before it, at once.
    let newest = enrolled(&endpoint, "a");
    assert_eq!(statuses(all(&new, NOW)), [403; 5]);
    assert_eq!(statuses(all(&newest, NOW)), [200, 200, 404, 404, 200]);
    let count =
        |result| endpoint.control.as_ref().unwrap().metrics().heartbeats.with_label_values(&[result]).get();
    assert_eq!((count("taken"), count("refused")), (5, 2));
}

#[test]
fn a_superseded_certificate_is_not_on_its_node_s_account() {
    let endpoint = endpoint();
    let old = enrolled(&endpoint, "a");
    let new = enrolled(&endpoint, "a");
    for _ in 0..5000 {
        assert_eq!(ask(&endpoint, &old, "POST nodes", b"{").0, 403);
    }
    assert_eq!(ask(&endpoint, &new, "POST nodes", &beat("a")).0, 200);
}

#[test]
fn a_list_that_does_not_say_whose_it_is_is_not_taken() {
    let endpoint = endpoint();
    let node = caller(Some("a"));
    assert_eq!(ask(&endpoint, &node, "POST nodes", &beat("a")).0, 200);
    let answer = ask(&endpoint, &node, "POST nodes/a/holdings", br#"{"generation": 1}"#);
    assert!(answer.0 == 400 && detail(&answer).contains("`boot`"), "{answer:?}");
    let answer = ask(&endpoint, &node, "POST nodes/a/holdings", br#"{"generation": 1, "boot": 1}"#);
    assert!(answer.0 == 409 && detail(&answer).contains("two have one id"), "{answer:?}");
    let answer = ask(&endpoint, &node, "POST nodes/a/holdings", br#"{"generation": 1, "boot": 0}"#);
    assert_eq!(answer.0, 200, "{answer:?}");
}

#[test]
fn two_machines_with_one_id_are_told_so() {
    let endpoint = endpoint();
    let node = caller(Some("a"));
    let process = |instance, boot| {
        let node = Node { id: "a".into(), interval_seconds: 10, ..Node::default() };
        serde_json::to_vec(&Beat { node, instance, boot, ..Beat::default() }).unwrap()
    };
    assert_eq!(ask(&endpoint, &node, "POST nodes", &process(1, 1)).0, 200);
    let answer = ask(&endpoint, &node, "POST nodes", &process(2, 2));
    assert!(answer.0 == 409 && detail(&answer).contains("two have one id"), "{answer:?}");
    assert_eq!(endpoint.control.as_ref().unwrap().rivals()["a"].address, node.address.ip());
}

#[test]
fn whoever_floods_is_told_to_come_later() {
    let endpoint = endpoint();
    let node = caller(Some("a"));
    let statuses = |line: &str, body: &[u8]| {
        let mut statuses: Vec<u16> = (0..5000).map(|_| ask(&endpoint, &node, line, body).0).collect();
        statuses.dedup();
        statuses
    };
    assert_eq!(statuses("POST nodes/a/holdings", b"{"), [400, 429]);
    let report = format!(r#"{{"resource": "{}"}}"#, "a".repeat(64));
    assert_eq!(statuses("POST reports", report.as_bytes()), [202, 429]);
    // Another client is heard.
    let other = Caller::new(None, "192.0.2.2:1000".parse().unwrap());
    assert_eq!(ask(&endpoint, &other, "POST reports", report.as_bytes()).0, 202);
    assert_eq!(ask(&endpoint, &caller(Some("b")), "POST nodes", &beat("b")).0, 200);
}

#[test]
fn a_token_lets_a_machine_in_that_has_no_certificate() {
    let endpoint = endpoint();
    let enrolment = endpoint.enrolment.as_ref().unwrap();
    let configuration = "[sites.default]\norigin = \"http://o\"\n".to_owned();
    let asked =
        TokenRequest { node: "a".into(), valid_seconds: 60, configuration, ..TokenRequest::default() };
    let token = enrolment.token(endpoint.control.as_ref().unwrap(), asked, NOW).unwrap().token;
    let request = EnrolRequest { token, csr: NewKey::make().unwrap().request };
    let body = serde_json::to_vec(&request).unwrap();
    let (status, answer) = ask(&endpoint, &caller(None), "POST nodes/enrol", &body);
    assert_eq!(status, 200);
    assert_eq!(answer["node"], "a");
    assert_eq!(answer["configuration"], "[sites.default]\norigin = \"http://o\"\n");
    assert_eq!(ask(&endpoint, &caller(None), "POST nodes/enrol", &body).0, 403);
    let none = Endpoint { enrolment: None, ..self::endpoint() };
    assert_eq!(ask(&none, &caller(None), "POST nodes/enrol", &body).0, 404);
}

#[test]
fn a_node_asks_for_the_torrents_of_a_resource() {
    let endpoint = endpoint();
    let node = caller(Some("torrents"));
    assert_eq!(ask(&endpoint, &node, "POST nodes", &beat("torrents")).0, 200);
    let resource = "5".repeat(64);
    let held = vec![Holding {
        resource: resource.clone(),
        info_hashes: vec!["b".repeat(40), "a".repeat(40)],
        ..Holding::default()
    }];
    let report = HoldingsReport { generation: 1, held, ..HoldingsReport::default() };
    // Its name is that of the path, and nothing else is.
    let body = serde_json::to_vec(&report).unwrap();
    assert_eq!(ask(&endpoint, &node, "POST nodes/torrents/holdings", &body).0, 200);
    let asked = |caller: &Caller, line: &str| ask(&endpoint, caller, line, b"");
    let line = format!("GET nodes/torrents/{resource}");
    let (status, answer) = asked(&caller(Some("b")), &line);
    assert_eq!(
        (status, answer),
        (200, serde_json::json!({ "info_hashes": ["a".repeat(40), "b".repeat(40)] }))
    );
    let nothing = asked(&node, &format!("GET nodes/torrents/{}", "6".repeat(64)));
    assert_eq!(nothing, (200, serde_json::json!({ "info_hashes": [] })));
    assert_eq!(asked(&node, "GET nodes/torrents/5").0, 400);
    assert_eq!(asked(&node, &format!("POST nodes/torrents/{resource}")).0, 405);
    assert_eq!(asked(&caller(None), &line).0, 403);
    endpoint.control.as_ref().unwrap().revoke("b", NOW).unwrap();
    assert_eq!(asked(&caller(Some("b")), &line).0, 403);
    let alone = Endpoint { control: None, enrolment: None, ..self::endpoint() };
    assert_eq!(ask(&alone, &node, &line, b"").0, 404);
}

#[test]
fn a_preload_list_is_the_preloader_s() {
    struct Lists;
    impl PreloadLists for Lists {
        fn list(&self, node: &str) -> Option<Value> {
            (node == "a").then(|| serde_json::json!({ "resources": [1, 2] }))
        }

        fn told(&self, node: &str, body: &[u8]) -> Result<(), String> {
            if node == "a" && body == b"{}" { Ok(()) } else { Err("that makes no sense".to_owned()) }
        }
    }
    let endpoint = endpoint();
    let node = caller(Some("a"));
    assert_eq!(ask(&endpoint, &node, "GET nodes/a/preload", b"").0, 404);
    endpoint.publish_lists(Arc::new(Lists));
    assert_eq!(ask(&endpoint, &node, "GET nodes/a/preload", b"").1["resources"][1], 2);
    assert_eq!(ask(&endpoint, &caller(Some("b")), "GET nodes/b/preload", b"").0, 404);
    assert_eq!(ask(&endpoint, &node, "POST nodes/a/preload", b"{}").0, 202);
    assert_eq!(ask(&endpoint, &node, "POST nodes/a/preload", b"x").0, 400);
    assert_eq!(ask(&endpoint, &caller(Some("b")), "POST nodes/a/preload", b"{}").0, 403);
}

#[test]
fn anybody_may_report_and_the_node_looks_at_its_copy() {
    struct Listener(Mutex<Vec<Report>>);
    impl ReportListener for Listener {
        fn reported(&self, report: &Report) {
            self.0.lock().push(report.clone());
        }
    }
    let endpoint = endpoint();
    let listener = Arc::new(Listener(Mutex::default()));
    endpoint.publish_listener(listener.clone());
    let body = format!(r#"{{"resource": "{}", "chunk": 3, "at_ms": 5}}"#, "a".repeat(64));
    assert_eq!(ask(&endpoint, &caller(None), "POST reports", body.as_bytes()).0, 202);
    let heard = listener.0.lock().clone();
    assert_eq!((heard.len(), heard[0].chunk, heard[0].at_ms), (1, Some(3), NOW));
    assert_eq!(endpoint.control.as_ref().unwrap().last_reports(10)[0].report, heard[0]);
    let answer = ask(&endpoint, &caller(None), "POST reports", br#"{"resource": 7}"#);
    assert!(answer.0 == 400 && detail(&answer).starts_with("`resource` "), "{answer:?}");
    let answer = ask(&endpoint, &caller(None), "POST reports", br#"{"resource": "7"}"#);
    assert!(answer.0 == 400 && detail(&answer).contains("64 hex digits"), "{answer:?}");
}

#[test]
fn what_is_not_here_and_what_is_too_much() {
    let endpoint = endpoint();
    let node = caller(Some("a"));
    for line in ["POST nodes/", "POST nodes/a", "POST nodes/a/holdings/", "GET nodes/a/b/c", "GET x", "GET "]
    {
        assert_eq!(ask(&endpoint, &node, line, b"").0, 404, "{line}");
    }
    for line in
        ["GET nodes", "PUT reports", "PUT nodes/a/preload", "GET nodes/enrol", "DELETE nodes/a/holdings"]
    {
        assert_eq!(ask(&endpoint, &node, line, b"").0, 405, "{line}");
    }
    assert_eq!(ask(&endpoint, &node, "POST nodes", &vec![b' '; MOST_BEAT + 1]).0, 413);
    assert_eq!(ask(&endpoint, &node, "POST reports", &vec![b' '; MOST_SMALL + 1]).0, 413);
    for body in [b"".as_slice(), b"{", b"[]", b"\xff\xfe", b"{\"node\": {\"id\": \"a\"}}"] {
        assert_eq!(ask(&endpoint, &node, "POST nodes", body).0, 400);
    }
    let alone = Endpoint { control: None, enrolment: None, ..self::endpoint() };
    assert_eq!(ask(&alone, &node, "POST nodes", &beat("a")).0, 404);
    let body = format!(r#"{{"resource": "{}"}}"#, "a".repeat(64));
    assert_eq!(ask(&alone, &node, "POST reports", body.as_bytes()).0, 202);
}

#[tokio::test]
async fn nothing_is_read_of_who_is_not_heard() {
    let endpoint = Arc::new(endpoint());
    let control = endpoint.control.clone().unwrap();
    let certificates = ["a", "b"].map(|id| enrolled(&endpoint, id).certificate);
    let read = Arc::new(AtomicBool::new(false));
    let status = async |node: usize, length: usize| {
        let read = read.clone();
        let body = Full::new(Bytes::from_static(b"{}")).map_frame(move |frame| {
            read.store(true, Relaxed);
            frame
        });
        let path = format!("{ROOT}nodes/{}/holdings", ["a", "b"][node]);
        let request = Request::post(path).header(header::CONTENT_LENGTH, length);
        let call = Call {
            request: request.body(Body::stream(body)).unwrap(),
            client: "192.0.2.1:1000".parse().unwrap(),
            via: "192.0.2.1:1000".parse().unwrap(),
            secure: true,
            certificate: certificates[node].clone(),
        };
        endpoint.clone().answer(call).await.status().as_u16()
    };
    assert_eq!(status(0, MOST_HOLDINGS + 1).await, 413);
    control.revoke("a", now_ms()).unwrap();
    assert_eq!(status(0, 2).await, 403);
    control.admit("b", 256 << 20, now_ms()).unwrap();
    assert_eq!(status(1, MOST_HOLDINGS).await, 429);
    // Another certificate was issued for it.
    enrolled(&endpoint, "b");
    assert_eq!(status(1, 2).await, 403);
    assert!(!read.load(Relaxed));
}

#[tokio::test]
async fn bodies_are_read_within_their_bound() {
    let endpoint = Arc::new(Endpoint { insecure_loopback: true, ..endpoint() });
    let call = |path: &str, body: Vec<u8>| Call {
        request: Request::post(format!("{ROOT}{path}")).body(Body::from(Bytes::from(body))).unwrap(),
        client: "127.0.0.1:1000".parse().unwrap(),
        via: "127.0.0.1:1000".parse().unwrap(),
        secure: false,
        certificate: None,
    };
    let answer = endpoint.clone().answer(call("nodes", beat("a"))).await;
    assert_eq!(answer.status(), 200);
    let answer = endpoint.clone().answer(call("reports", vec![b' '; MOST_SMALL + 1])).await;
    assert_eq!(answer.status(), 413);
    let mut read = call("nodes", Vec::new());
    *read.request.method_mut() = Method::GET;
    let answer = endpoint.clone().answer(read).await;
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers()[header::ALLOW], "POST");
}

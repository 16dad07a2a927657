//! Whom a control node believes, over mutual TLS on one machine: one of two machines with one id, nobody whom
//! an operator threw out, and nodes that renew their certificates by themselves. And what a machine is given with
//! its certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd,
};
use serde_json::{Value, json};
use skerry_tests::fleet::done;
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::reply::Reply;
use skerry_tests::{process, wait};
use tempfile::TempDir;

/// Time between heartbeats, seconds: a node can be killed and started again within two of them.
const HEARTBEAT: u64 = 8;
/// A few heartbeats, and the machine that the tests run on.
const SOON: Duration = Duration::from_secs(40);

/// A control node, and where identities are.
struct Fleet {
    control: Node,
    origin: Origin,
    folder: TempDir,
}

impl Fleet {
    #[track_caller]
    fn founded() -> Self {
        Self::founded_with(&[])
    }

    /// One whose control node has these keys in `[registry]` too.
    #[track_caller]
    fn founded_with(keys: &[(&str, u64)]) -> Self {
        let (origin, folder) = (Origin::start(), tempfile::tempdir().expect("a folder for the fleet"));
        let file = |name: &str| folder.path().join("ca").join(name).to_string_lossy().into_owned();
        let ca = folder.path().join("ca").to_string_lossy().into_owned();
        done(&process::run(&["node", "ca-init", &ca, "--control", "control", "--name", "127.0.0.1"]));
        let control = keys
            .iter()
            .fold(Node::in_front_of(&origin), |node, (key, value)| node.set("registry", key, *value));
        let control = control
            .text("node", "name", "control")
            .set("public", "tls_listen", json!(["127.0.0.1:0"]))
            .text("public", "tls_certificate_file", &file("node.pem"))
            .text("public", "tls_key_file", &file("node.key"))
            .text("public", "tls_client_ca_file", &file("ca.pem"))
            .set("registry", "control", true)
            .text("registry", "ca_file", &file("ca.pem"))
            .text("registry", "ca_key_file", &file("ca.key"))
            .start();
        Self { control, origin, folder }
    }

    fn url(&self) -> String {
        format!("https://{}", self.control.tls())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Lets a node in; its identity is in the folder of its name.
    #[track_caller]
    fn enrol(&self, id: &str) {
        self.enrol_for(id, &[]);
    }

    /// Lets a node in by a token that was made with these arguments too; what the command prints on the machine.
    #[track_caller]
    fn enrol_for(&self, id: &str, more: &[&str]) -> String {
        let told = done(&self.control.command(&[&["node", "token", id, "--json"][..], more].concat()));
        let told: Value = serde_json::from_str(&told).expect("the command prints JSON");
        let text = |key: &str| told[key].as_str().expect("the token is told").to_owned();
        fs::write(self.path("token"), text("token")).expect("the token is written");
        let (url, token, dir) = (self.url(), self.text("token"), self.text(id));
        let enrol = ["node", "enrol", "--control", &url, "--token-file", &token, "--dir", &dir];
        done(&process::run(&[&enrol[..], &["--ca-fingerprint", &text("ca_fingerprint")]].concat()))
    }

    /// A machine with the identity of a node, and a link by which it is told apart.
    fn member(&self, id: &str, link: &str) -> NodeBuilder {
        let file = |name: &str| self.path(id).join(name).to_string_lossy().into_owned();
        Node::in_front_of(&self.origin)
            .text("node", "name", id)
            .text("registry", "control_url", &self.url())
            .set("registry", "heartbeat_seconds", HEARTBEAT)
            .text("registry", "certificate_file", &file("node.pem"))
            .text("registry", "key_file", &file("node.key"))
            .text("registry", "ca_file", &self.text("ca/ca.pem"))
            .set("registry", "links", format!("[{{ name = {link:?}, url = \"http://{link}.test\" }}]"))
    }

    /// What is on record of a node; null when nothing is.
    fn told(&self, id: &str) -> Value {
        let list = status(&self.control, "/registry/nodes");
        let nodes = list["nodes"].as_array().expect("a list of nodes");
        nodes.iter().find(|told| told["node"]["id"] == id).cloned().unwrap_or_default()
    }

    /// Waits until a node is in the fleet, as the machine with this link.
    #[track_caller]
    fn is_live(&self, id: &str, link: &str) {
        wait::until(&format!("{id} to be live by {link}"), SOON, || {
            let told = self.told(id);
            told["standing"] == "live" && told["node"]["links"][0]["name"] == link
        });
    }

    /// The status of the answer to a heartbeat that shows a node's certificate.
    fn knock(&self, id: &str) -> String {
        let beat = json!({ "node": { "id": id, "interval_seconds": 5 }, "boot": 1, "batch": 1 }).to_string();
        let file = |name: &str| self.path(id).join(name);
        let output = Command::new("curl")
            .args(["--silent", "--http1.1", "--noproxy", "*", "--max-time", "10", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code}", "--data", &beat])
            .arg("--cacert")
            .arg(self.path("ca/ca.pem"))
            .arg("--cert")
            .arg(file("node.pem"))
            .arg("--key")
            .arg(file("node.key"))
            .arg(format!("{}/.skerry/v1/nodes", self.url()))
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A document of a node's admin listener.
#[track_caller]
fn status(node: &Node, path: &str) -> Value {
    let answer = node.admin_get(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("the answer is JSON")
}

fn membership(node: &Node) -> Value {
    status(node, "/status")["registry"]["membership"].take()
}

/// Waits until the control node refuses a member in these words.
#[track_caller]
fn is_refused(member: &Node, words: &str) {
    wait::until(&format!("a member to hear: {words}"), SOON, || {
        let told = membership(member);
        told["reachable"] == false && told["refused"].as_str().is_some_and(|refused| refused.contains(words))
    });
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn of_two_machines_with_one_id_one_is_in_the_fleet() {
    let fleet = Fleet::founded();
    fleet.enrol("edge");
    let mut first = fleet.member("edge", "first").start();
    fleet.is_live("edge", "first");

    let second = fleet.member("edge", "second").start();
    is_refused(&second, "two have one id");
    let told = fleet.told("edge");
    assert_eq!((&told["rival"]["address"], &told["standing"]), (&json!("127.0.0.1"), &json!("live")));
    let list = done(&fleet.control.command(&["node", "list"]));
    assert!(list.contains("two machines are edge: the one at 127.0.0.1 is refused"), "{list}");
    assert!(status(&fleet.control, "/status")["registry"]["rivals"]["edge"].is_object());
    wait::until("the metric", SOON, || fleet.control.metric("skerry_registry_rivals", &[]) == 1.0);
    fleet.control.must_log(&["two machines have this id"]);

    // A restart of the one that is in is none of a third.
    first.kill();
    first.start();
    wait::until("the first to be in again", SOON, || membership(&first)["reachable"] == true);
    fleet.is_live("edge", "first");
    is_refused(&second, "two have one id");

    // Once the first is gone there are no two any more.
    assert!(first.stop().success());
    fleet.is_live("edge", "second");
    wait::until("the second to be in", SOON, || membership(&second)["reachable"] == true);
    assert_eq!((&fleet.told("edge")["rival"], &membership(&second)["refused"]), (&Value::Null, &Value::Null));
}

#[test]
fn who_is_thrown_out_stays_out() {
    let mut fleet = Fleet::founded();
    fleet.origin.reply("/film.bin", Reply::generated(7, 300_000).etag("one").ranges().fresh());
    fleet.enrol("edge");
    let member = fleet.member("edge", "edge").start();
    fleet.is_live("edge", "edge");
    let answer = member.admin_post("/resources", &json!({ "path": "/film.bin" }));
    assert_eq!(answer.status / 100, 2, "{}", answer.text());
    wait::until("what it holds to be told", SOON, || fleet.told("edge")["holdings"].as_u64() > Some(0));

    let told = done(&fleet.control.command(&["node", "revoke", "edge"]));
    assert!(told.contains("node edge is out of the fleet"), "{told}");
    // At once.
    assert_eq!(fleet.told("edge"), Value::Null);
    assert_eq!(status(&fleet.control, "/status")["registry"]["nodes"], 1);
    is_refused(&member, "was revoked");
    assert_eq!(fleet.knock("edge"), "403");
    wait::until("its holdings to be gone", SOON, || {
        fleet.control.metric("skerry_registry_holdings", &[]) == 0.0
    });

    fleet.control.restart();
    assert_eq!((fleet.told("edge"), fleet.knock("edge").as_str()), (Value::Null, "403"));
    let list = done(&fleet.control.command(&["node", "list"]));
    assert!(list.lines().any(|line| line.starts_with("edge ") && line.contains(" revoked ")), "{list}");
    let refused = error(&fleet.control.command(&["node", "token", "edge"]));
    assert!(refused.contains("was revoked"), "{refused}");
}

#[test]
fn a_machine_gets_its_configuration_with_its_certificate() {
    let fleet = Fleet::founded();
    fleet.origin.reply("/film.bin", Reply::generated(7, 300_000).etag("one").ranges().fresh());
    let machine = Node::in_front_of(&fleet.origin).set("registry", "heartbeat_seconds", HEARTBEAT);
    let mut machine = machine.write();
    // All but who it is, which the token says.
    let given = fs::read_to_string(machine.config()).expect("a configuration was written");
    let given = given.replacen("name = \"skerry\"\n", "", 1);
    assert!(!given.contains("name = ") && given.contains("origin = "), "{given}");
    let file = fleet.text("edge.toml");
    let refused = |text: &str| {
        fs::write(&file, text).expect("the operator writes a configuration");
        error(&fleet.control.command(&["node", "token", "edge", "--config", &file]))
    };
    let words = refused(&format!("{given}\n[sites\n"));
    assert!(words.contains("`configuration` is wrong in line "), "{words}");
    let words = refused("[node]\nname = \"other\"\n");
    assert!(words.contains("names another node, `other`"), "{words}");

    fs::write(&file, &given).expect("the operator writes a configuration");
    let printed = fleet.enrol_for("edge", &["--config", &file]);
    let (_, configuration) = printed.split_once("\n\n").expect("a sentence, and a configuration below it");
    for line in given.lines() {
        assert!(configuration.lines().any(|other| other == line), "{line} is missing in {configuration}");
    }
    fs::write(machine.config(), configuration).expect("the configuration is put in place");
    done(&process::run(&["config", "check", &machine.config().to_string_lossy()]));
    machine.start();
    wait::until("the machine to be in the fleet", SOON, || {
        membership(&machine)["reachable"] == true && fleet.told("edge")["standing"] == "live"
    });
    assert_eq!(machine.get("/film.bin").status, 200);
}

/// A certificate of the fleet's authority for a node, in the folder of its name, that began and ends so many
/// seconds from now.
fn certify(fleet: &Fleet, id: &str, began: u64, ends: u64) {
    let read = |name: &str| fs::read_to_string(fleet.path("ca").join(name)).expect("the authority is there");
    let authority = KeyPair::from_pem(&read("ca.key")).expect("the authority's key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), authority).expect("the authority's certificate");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let time = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = Ia5String::try_from(format!("skerry://node/{id}").as_str()).expect("a URI");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (time(now - began), time(now + ends));
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    fs::create_dir_all(fleet.path(id)).expect("a folder for the node");
    let write = |name: &str, text: &str| fs::write(fleet.path(id).join(name), text);
    write("node.pem", &certificate.pem()).expect("the certificate is written");
    write("node.key", &key.serialize_pem()).expect("the key is written");
}

fn files(folder: &Path) -> [String; 2] {
    ["node.pem", "node.key"].map(|name| fs::read_to_string(folder.join(name)).expect("the identity is there"))
}

#[test]
fn a_node_renews_its_certificate_and_goes_on() {
    /// How long the first one is good, seconds.
    const GOOD: u64 = 25;
    let fleet = Fleet::founded();
    fleet.enrol("edge");
    certify(&fleet, "edge", 100, GOOD);
    let began = Instant::now();
    let before = files(&fleet.path("edge"));
    let mut member = fleet.member("edge", "edge").start();
    fleet.is_live("edge", "edge");
    let ends = || status(&member, "/status")["registry"]["certificate_ends"].as_u64();
    let day = SystemTime::now() + Duration::from_secs(86_400);
    let day = day.duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    wait::until("another certificate", SOON, || ends() > Some(day));
    let after = files(&fleet.path("edge"));
    assert!(after[0] != before[0] && after[1] != before[1]);
    let taken = [("result", "taken")];
    assert_eq!(fleet.control.metric("skerry_registry_renewals_total", &taken), 1.0);
    let renewed = || member.metric("skerry_registry_renewals_total", &taken) == 1.0;
    wait::until("the renewal to be counted", SOON, renewed);

    // The first one has ended, and the node is heard as it was.
    wait::clock(began, Duration::from_secs(GOOD + HEARTBEAT + 1));
    assert_eq!(membership(&member)["reachable"], true);
    // Believed, and told that it is not the process which has the id.
    assert_eq!(fleet.knock("edge"), "409");
    let refused = [("outcome", "refused")];
    assert_eq!(member.metric("skerry_registry_control_requests_total", &refused), 0.0);
    member.restart();
    wait::until("it to be in again", SOON, || membership(&member)["reachable"] == true);
}

#[test]
fn an_enrolment_ends_what_the_node_had_before() {
    let fleet = Fleet::founded();
    fleet.enrol("edge");
    let mut member = fleet.member("edge", "edge").start();
    fleet.is_live("edge", "edge");
    fs::rename(fleet.path("edge"), fleet.path("before")).expect("the old identity makes room");
    fleet.enrol("edge");
    is_refused(&member, "superseded");
    assert!(fleet.control.metric("skerry_registry_superseded_certificates_total", &[]) > 0.0);
    fleet.control.must_log(&["a superseded certificate is in use, and is refused"]);
    member.restart();
    fleet.is_live("edge", "edge");
    wait::until("it to be in again", SOON, || membership(&member)["reachable"] == true);
}

#[test]
fn a_node_holds_no_more_than_the_control_node_takes_down() {
    let fleet = Fleet::founded_with(&[("max_node_holdings", 1)]);
    fleet.origin.reply("/film.bin", Reply::generated(7, 300_000).etag("one").ranges().fresh());
    fleet.enrol("edge");
    let member = fleet.member("edge", "edge").start();
    fleet.is_live("edge", "edge");
    let answer = member.admin_post("/resources", &json!({ "path": "/film.bin" }));
    assert_eq!(answer.status / 100, 2, "{}", answer.text());
    // It counts more than one, by its info-hashes.
    wait::until("the node to be told", SOON, || {
        let told = membership(&member);
        let refused = told["list_refused"].as_str().unwrap_or_default();
        refused.contains("507") && refused.contains("`registry.max_node_holdings`")
    });
    assert_eq!(membership(&member)["reachable"], true);
    let limit = [("limit", "node")];
    assert!(fleet.control.metric("skerry_registry_holdings_refused_total", &limit) > 0.0);
    let screen = done(&member.command(&["status"]));
    assert!(screen.contains("TAKES NOT ALL THAT IS HELD: 507"), "{screen}");
}

#[test]
fn the_control_node_tells_what_the_fleet_runs() {
    let fleet = Fleet::founded();
    fleet.enrol("edge");
    let member = fleet.member("edge", "edge").text("update", "ring", "early").start();
    fleet.is_live("edge", "edge");
    let version = fleet.told("edge")["node"]["version"].as_str().expect("a version is told").to_owned();
    wait::until("it to be counted", SOON, || {
        let told = status(&fleet.control, "/registry/nodes");
        let groups = told["versions"]["nodes"].as_array().cloned().unwrap_or_default();
        groups.iter().any(|group| group["ring"] == "early" && group["live"] == 1)
    });
    let early = [("ring", "early"), ("version", version.as_str())];
    assert_eq!(fleet.control.metric("skerry_registry_node_versions", &early), 1.0);
    let screen = done(&fleet.control.command(&["status"]));
    assert!(screen.lines().any(|line| line.trim_start().starts_with("early ")), "{screen}");
    assert!(screen.contains("skew       none"), "{screen}");
    let screen = done(&member.command(&["status"]));
    assert!(screen.contains(&format!("versions   skerry {version}, ring early")), "{screen}");
}

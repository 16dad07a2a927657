//! Administration from afar, over mutual TLS: operators come in by their certificates and are named in the log,
//! and nobody else does, a node of the fleet least of all.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd,
};
use serde_json::{Value, json};
use skerry_tests::fleet::done;
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::reply::Reply;
use skerry_tests::{process, raw, wait};
use tempfile::TempDir;

/// What a node takes up on SIGHUP, and what it writes into its log, comes within it.
const SOON: Duration = Duration::from_secs(10);

/// A fleet's authority, the certificate of its control node, and those of operators as they are made.
struct Fleet {
    origin: Origin,
    folder: TempDir,
}

impl Fleet {
    #[track_caller]
    fn founded() -> Self {
        let origin = Origin::start();
        origin.reply("/a", Reply::ok("content").fresh());
        let fleet = Self { origin, folder: tempfile::tempdir().expect("a folder for the fleet") };
        fleet.found("ca");
        fleet
    }

    #[track_caller]
    fn found(&self, name: &str) {
        done(&process::run(&[
            "node",
            "ca-init",
            &self.text(name),
            "--control",
            "control",
            "--name",
            "127.0.0.1",
        ]));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Makes an operator, whose certificate and key are named by the return value.
    #[track_caller]
    fn operator(&self, authority: &str, name: &str) -> String {
        let (authority, dir) = (self.text(authority), format!("{authority}-operators"));
        let into = self.text(&dir);
        done(&process::run(&["admin", "certificate", name, "--authority", &authority, "--dir", &into]));
        format!("{dir}/{name}")
    }

    /// Signs a certificate with this name that began and ends so many seconds from now.
    fn certify(&self, file: &str, uri: &str, began: u64, ends: i64) -> String {
        let read = |name: &str| fs::read_to_string(self.path(name)).expect("the authority is there");
        let authority = KeyPair::from_pem(&read("ca/ca.key")).expect("the authority's key");
        let issuer = Issuer::from_ca_cert_pem(&read("ca/ca.pem"), authority).expect("the authority");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let time = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).expect("a URI"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (time(now - began), time(now.saturating_add_signed(ends)));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let write = |kind: &str, text: &str| fs::write(self.path(&format!("{file}.{kind}")), text);
        write("pem", &certificate.pem()).expect("the certificate is written");
        write("key", &key.serialize_pem()).expect("the key is written");
        file.to_owned()
    }

    /// A node that operators of the fleet reach, with the control node's certificate.
    fn node(&self) -> NodeBuilder {
        Node::in_front_of(&self.origin)
            .set("admin", "tls_listen", json!(["127.0.0.1:0"]))
            .text("admin", "tls_certificate_file", &self.text("ca/node.pem"))
            .text("admin", "tls_key_file", &self.text("ca/node.key"))
            .text("admin", "tls_client_ca_file", &self.text("ca/ca.pem"))
    }

    /// The status of the answer to a request of curl with this certificate; `000` when it comes to none.
    fn curl(&self, node: &Node, path: &str, identity: Option<&str>, more: &[&str]) -> String {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--noproxy", "*", "--max-time", "20", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code}"])
            .arg("--cacert")
            .arg(self.path("ca/ca.pem"))
            .args(more);
        if let Some(identity) = identity {
            command.arg("--cert").arg(self.path(&format!("{identity}.pem")));
            command.arg("--key").arg(self.path(&format!("{identity}.key")));
        }
        let output = command.arg(format!("https://{}{path}", node.admin_tls())).output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command of the binary against the node, with this certificate.
    fn command(&self, node: &Node, words: &[&str], identity: &str, more: &[&str]) -> Output {
        let url = format!("https://{}", node.admin_tls());
        let (certificate, key) =
            (self.text(&format!("{identity}.pem")), self.text(&format!("{identity}.key")));
        let with = ["--node", &url, "--certificate", &certificate, "--key", &key];
        process::run(&[words, &with[..], more].concat())
    }
}

fn error(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn an_operator_reads_and_changes_from_afar_and_is_named() {
    let fleet = Fleet::founded();
    let alice = fleet.operator("ca", "alice");
    let node = fleet.node().start();
    node.get("/a");
    node.hit("/a");

    assert_eq!(fleet.curl(&node, "/status", Some(&alice), &[]), "200");
    assert_eq!(fleet.curl(&node, "/metrics", Some(&alice), &[]), "200");
    let url = format!("http://{}/a", raw::HOST);
    let purge = json!({ "url": url }).to_string();
    assert_eq!(fleet.curl(&node, "/purge", Some(&alice), &["--data", &purge]), "200");
    assert!(!node.get("/a").is_hit());
    let line = ["administration", "listener=admin-tls", "operator=alice", "target=/purge", "status=200"];
    node.must_log(&[&line[..], &[url.as_str()]].concat());
    assert!(!node.logged(&["administration", "/status"]), "who only reads changes nothing");

    // A change from another site's page is not alice's.
    let page = ["--data", purge.as_str(), "--header", "Sec-Fetch-Site: cross-site"];
    assert_eq!(fleet.curl(&node, "/purge", Some(&alice), &page), "403");

    // Nothing has changed on the machine itself.
    assert_eq!(node.admin_get("/readyz").status, 200);
    assert_eq!(node.admin_post("/purge", &json!({ "tag": "none" })).status, 200);
    node.must_log(&["administration", "listener=admin ", "operator=local", "target=/purge"]);
}

#[test]
fn nobody_else_comes_in() {
    let fleet = Fleet::founded();
    fleet.found("strangers");
    let alice = fleet.operator("ca", "alice");
    let strange = fleet.operator("strangers", "alice");
    let over = fleet.certify("over", "skerry://operator/alice", 3600, -60);
    let good = fleet.certify("good", "skerry://operator/alice", 0, 3600);
    assert_eq!(fleet.curl(&fleet.node().start(), "/healthz", Some(&good), &[]), "200");
    // A node of the fleet, and one that somebody put on the list.
    let listed = json!(["alice", "edge", "control"]);
    let edge = fleet.certify("edge", "skerry://node/edge", 60, 3600);
    let node = fleet.node().set("admin", "operators", listed).start();
    let nobody = fleet.certify("nobody", "https://example.org/alice", 60, 3600);
    for (who, identity) in [
        ("without a certificate", None),
        ("of another authority", Some(strange.as_str())),
        ("whose time is over", Some(over.as_str())),
        ("a node", Some(edge.as_str())),
        ("the control node itself", Some("ca/node")),
        ("without a name that counts", Some(nobody.as_str())),
    ] {
        assert_eq!(fleet.curl(&node, "/healthz", identity, &[]), "000", "{who}");
        assert_eq!(fleet.curl(&node, "/drain", identity, &["--request", "POST"]), "000", "{who}");
    }
    node.must_log(&["WARN", "skerry://node/edge, which is no operator"]);
    let failures = || node.metric("skerry_tls_handshake_failures_total", &[("listener", "admin-tls")]);
    wait::until("what was refused to be counted", SOON, || failures() >= 12.0);
    assert!(!node.logged(&["administration"]));
    // A token of the other listener is none here, and clients of yesterday do not come in at all.
    let token = ["--header", "Authorization: Bearer x"];
    assert_eq!(fleet.curl(&node, "/healthz", None, &token), "000");
    assert_eq!(fleet.curl(&node, "/healthz", Some(&alice), &["--tls-max", "1.2"]), "000");
    assert_eq!(fleet.curl(&node, "/healthz", Some(&alice), &[]), "200");
}

#[test]
fn files_and_names_are_read_again_without_a_restart() {
    let fleet = Fleet::founded();
    let (alice, bob) = (fleet.operator("ca", "alice"), fleet.operator("ca", "bob"));
    let node = fleet.node().start();
    let pid = node.pid();
    let status = |identity: &str| fleet.curl(&node, "/healthz", Some(identity), &[]);
    assert_eq!([status(&alice), status(&bob)], ["200", "200"]);

    let config = fs::read_to_string(node.config()).expect("the configuration");
    let listed = config.replacen("[admin]\n", "[admin]\noperators = [\"bob\"]\n", 1);
    fs::write(node.config(), &listed).expect("another configuration");
    node.signal("HUP");
    wait::until("alice to be refused", SOON, || status(&alice) == "000");
    assert_eq!(status(&bob), "200");

    // A certificate that is broken changes nothing.
    let file = fleet.path("ca/node.pem");
    let good = fs::read(&file).expect("the node's certificate");
    fs::write(&file, "this is no certificate").expect("a file");
    fs::write(node.config(), &config).expect("the first configuration");
    node.signal("HUP");
    node.must_log(&["stays as it was", "admin.tls_certificate_file"]);
    assert_eq!([status(&alice), status(&bob)], ["000", "200"]);
    fs::write(&file, good).expect("the certificate is put back");
    node.signal("HUP");
    wait::until("alice to be back", SOON, || status(&alice) == "200");
    assert_eq!(node.pid(), pid);
}

#[test]
fn the_command_line_goes_the_same_way() {
    let fleet = Fleet::founded();
    let alice = fleet.operator("ca", "alice");
    let node = fleet.node().start();
    let ca = fleet.text("ca/ca.pem");
    let ask = |words: &[&str]| fleet.command(&node, words, &alice, &["--ca", &ca]);

    let status: Value = serde_json::from_str(&done(&ask(&["status", "--json"]))).expect("the status is JSON");
    assert_eq!(status["listeners"]["admin_tls"], json!([node.admin_tls().to_string()]));
    done(&ask(&["store", "stats"]));
    done(&ask(&["store", "verify"]));
    done(&ask(&["policy", "list"]));
    done(&ask(&["purge", "--tag", "red", "--soft"]));
    node.must_log(&["administration", "operator=alice", "red"]);

    // By the environment.
    let (certificate, key) = (fleet.text(&format!("{alice}.pem")), fleet.text(&format!("{alice}.key")));
    let output = Command::new(process::binary())
        .args(["store", "stats", "--json"])
        .env("SKERRY_NODE", format!("https://{}", node.admin_tls()))
        .env("SKERRY_CERTIFICATE", certificate)
        .env("SKERRY_KEY", key)
        .env("SKERRY_CA", &ca)
        .output();
    done(&output.expect("the binary runs"));

    // Wrong words, and whoever is not who they should be.
    let url = format!("https://{}", node.admin_tls());
    assert!(error(&process::run(&["status", "--node", &url]), 2).contains("--certificate"));
    let plain = ["status", "--node", &format!("http://{}", node.admin()), "--ca", &ca].map(str::to_owned);
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    assert!(error(&process::run(&plain), 2).contains("https://"));
    let refused = error(&fleet.command(&node, &["status"], "ca/node", &["--ca", &ca]), 1);
    assert!(refused.contains("does not take the certificate: it is no operator's"), "{refused}");
    fleet.found("strangers");
    let strangers = fleet.text("strangers/ca.pem");
    let refused = error(&fleet.command(&node, &["status"], &alice, &["--ca", &strangers]), 1);
    assert!(refused.contains("is not believed"), "{refused}");
}

#[test]
fn a_member_shows_its_own_certificate_and_is_known_by_its_name() {
    let fleet = Fleet::founded();
    let alice = fleet.operator("ca", "alice");
    // No control node is there, and none is needed for this.
    let node = Node::in_front_of(&fleet.origin)
        .text("node", "name", "control")
        .text("registry", "control_url", "https://127.0.0.1:9")
        .text("registry", "certificate_file", &fleet.text("ca/node.pem"))
        .text("registry", "key_file", &fleet.text("ca/node.key"))
        .text("registry", "ca_file", &fleet.text("ca/ca.pem"))
        .set("admin", "tls_listen", json!(["127.0.0.2:0"]))
        .start();
    let ca = fleet.text("ca/ca.pem");
    // Its certificate does not name that address.
    let refused = error(&fleet.command(&node, &["status"], &alice, &["--ca", &ca]), 1);
    assert!(refused.contains("is not believed"), "{refused}");
    let by_name = |name| fleet.command(&node, &["status"], &alice, &["--ca", &ca, "--node-name", name]);
    done(&by_name("control"));
    let refused = error(&by_name("edge"), 1);
    assert!(refused.contains("it is the node control, not edge"), "{refused}");
}

#[test]
fn a_crowd_at_the_one_listener_leaves_the_other_alone() {
    let fleet = Fleet::founded();
    let node = fleet.node().start();
    let crowd: Vec<_> = (0..300).map(|_| TcpStream::connect(node.admin_tls()).expect("a port")).collect();
    let counted = |name: &str| node.metric(name, &[("listener", "admin-tls")]);
    wait::until("connections over the limit", SOON, || {
        counted("skerry_connections_refused_total") == 44.0 && counted("skerry_connections_open") == 256.0
    });
    assert_eq!(node.admin_get("/readyz").status, 200);
    // Who says nothing has ten seconds for it.
    wait::until("the rest to be cut", Duration::from_secs(30), || {
        counted("skerry_connections_timed_out_total") == 256.0
    });
    drop(crowd);
    let alice = fleet.operator("ca", "alice");
    assert_eq!(fleet.curl(&node, "/healthz", Some(&alice), &[]), "200");
}

#[test]
fn without_its_files_it_is_not_served() {
    let fleet = Fleet::founded();
    let incomplete = |key: &str| fleet.node().text("admin", key, "").write().run_to_end(&[]);
    for key in ["tls_key_file", "tls_client_ca_file"] {
        let complaint = error(&incomplete(key), 2);
        assert!(complaint.contains(&format!("`admin.{key}` must name a file")), "{complaint}");
    }
    let node = fleet.node().text("admin", "tls_client_ca_file", "/nonexistent/ca.pem").write();
    for more in [&[][..], &["--dry-run"][..]] {
        let complaint = error(&node.run_to_end(more), 2);
        assert!(complaint.contains("/nonexistent/ca.pem") && complaint.contains("admin.tls_client_ca_file"));
    }
    let told = done(&fleet.node().write().run_to_end(&["--dry-run"]));
    assert!(told.contains("would listen on 127.0.0.1:0 (admin, TLS)"), "{told}");
}

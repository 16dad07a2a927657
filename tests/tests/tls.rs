//! TLS as curl sees it: HTTP/2 and HTTP/1.1 by ALPN, and a certificate that changes under a
//! running node.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use skerry_tests::content;
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::raw;
use skerry_tests::reply::Reply;
use skerry_tests::wait;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

/// A self-signed certificate and its key, in files.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn write(folder: &Path, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![raw::HOST.to_owned()]).expect("a certificate");
        let certificate = folder.join(format!("{name}.pem"));
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&certificate, made.cert.pem()).expect("the certificate is written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("the key is written");
        Self { certificate, key }
    }

    /// A client that trusts this certificate alone and speaks `protocol`.
    fn connector(&self, protocol: &[u8]) -> TlsConnector {
        let trusted = CertificateDer::from_pem_file(&self.certificate).expect("the certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted).expect("a root");
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_owned()];
        TlsConnector::from(Arc::new(config))
    }

    /// Puts this one where the node looks for its own.
    fn replace(&self, other: &Self) {
        std::fs::copy(&self.certificate, &other.certificate).expect("the certificate is copied");
        std::fs::copy(&self.key, &other.key).expect("the key is copied");
    }
}

fn builder(origin: &Origin, certificate: &Certificate) -> NodeBuilder {
    Node::in_front_of(origin)
        .set("public", "tls_listen", "[\"127.0.0.1:0\"]")
        .text("public", "tls_certificate_file", &certificate.certificate.to_string_lossy())
        .text("public", "tls_key_file", &certificate.key.to_string_lossy())
}

fn node(origin: &Origin, certificate: &Certificate) -> Node {
    builder(origin, certificate).start()
}

/// Runs curl for a path of the node, trusting nothing but `trusted`.
fn curl(node: &Node, trusted: &Path, path: &str, more: &[&str]) -> Output {
    let (host, tls) = (raw::HOST, node.tls());
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30"])
        .arg("--cacert")
        .arg(trusted)
        .arg("--resolve")
        .arg(format!("{host}:{}:{}", tls.port(), tls.ip()))
        .args(more)
        .arg(format!("https://{host}:{}{path}", tls.port()))
        .output()
        .expect("curl runs")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn curl_gets_http_2_and_http_1_by_alpn() {
    let body = content::bytes(95, 0, 3_000_000);
    let origin = Origin::start();
    origin.reply("/a", Reply::ok(body.clone()).etag("one").fresh());
    let folder = folder();
    let own = Certificate::write(folder.path(), "own");
    let node = node(&origin, &own);

    for (wish, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let file = folder.path().join("body").to_string_lossy().into_owned();
        let more = [wish, "--output", file.as_str(), "--write-out", "%{http_code} %{http_version}"];
        let output = curl(&node, &own.certificate, "/a", &more);
        assert_eq!(text(&output), format!("200 {version}"));
        let got = std::fs::read(&file).expect("what curl wrote");
        content::assert_same(wish, &got, &body);
    }
    let more = ["--http2", "--range", "1000-1999", "--write-out", "%{http_code}", "--output", "/dev/null"];
    assert_eq!(text(&curl(&node, &own.certificate, "/a", &more)), "206");
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn old_protocols_and_strangers_are_refused() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let folder = folder();
    let own = Certificate::write(folder.path(), "own");
    let other = Certificate::write(folder.path(), "other");
    let node = node(&origin, &own);
    assert!(!curl(&node, &other.certificate, "/a", &[]).status.success());
    assert!(!curl(&node, &own.certificate, "/a", &["--tls-max", "1.1"]).status.success());
    assert_eq!(text(&curl(&node, &own.certificate, "/a", &["--tlsv1.3"])), "content");
    assert_eq!(text(&curl(&node, &own.certificate, "/a", &["--tls-max", "1.2"])), "content");

    // What is no TLS at all costs the node nothing.
    let answer = raw::exchange(node.tls(), b"GET /a HTTP/1.1\r\nHost: edge.test\r\n\r\n");
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    assert_eq!(text(&curl(&node, &own.certificate, "/a", &[])), "content");
}

#[test]
fn sighup_changes_the_certificate_without_a_restart() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let folder = folder();
    let own = Certificate::write(folder.path(), "own");
    let old = Certificate::write(folder.path(), "old");
    old.replace(&own);
    let new = Certificate::write(folder.path(), "new");
    let node = node(&origin, &own);
    let pid = node.pid();
    assert_eq!(text(&curl(&node, &old.certificate, "/a", &[])), "content");

    new.replace(&own);
    assert_eq!(text(&curl(&node, &old.certificate, "/a", &[])), "content", "not before it is asked to");
    node.signal("HUP");
    wait::until("the new certificate", Duration::from_secs(10), || {
        curl(&node, &new.certificate, "/a", &[]).status.success()
    });
    assert!(!curl(&node, &old.certificate, "/a", &[]).status.success());
    assert_eq!(node.pid(), pid);
}

#[test]
fn a_broken_certificate_does_not_replace_a_good_one() {
    let origin = Origin::start();
    origin.reply("/a", Reply::ok("content").fresh());
    let folder = folder();
    let own = Certificate::write(folder.path(), "own");
    let node = node(&origin, &own);
    let trusted = folder.path().join("trusted.pem");
    std::fs::copy(&own.certificate, &trusted).expect("a copy");

    std::fs::write(&own.certificate, "this is no certificate").expect("a file");
    node.signal("HUP");
    let path = own.certificate.to_string_lossy().into_owned();
    wait::until("the complaint", Duration::from_secs(10), || node.logged(&[path.as_str()]));
    assert_eq!(text(&curl(&node, &trusted, "/a", &[])), "content");
}

/// A browser that pauses one download stops reading a stream, not the connection.
#[tokio::test]
async fn a_stream_that_is_never_read_ends_at_the_timeout() {
    let origin = Origin::start();
    origin.reply("/film", Reply::generated(96, 64 << 20).etag("one").fresh());
    let folder = folder();
    let own = Certificate::write(folder.path(), "own");
    let node = builder(&origin, &own).set("public", "write_timeout_seconds", 1).start();

    let tcp = tokio::net::TcpStream::connect(node.tls()).await.expect("a connection");
    let name = ServerName::try_from(raw::HOST).expect("a name");
    let tls = own.connector(b"h2").connect(name, tcp).await.expect("a handshake");
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 16)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(tls))
        .await
        .expect("HTTP/2");
    tokio::spawn(connection);
    let request = || {
        let request = Request::get(format!("https://{}/film", raw::HOST));
        request.header("range", "bytes=0-9").body(Empty::new()).expect("a request")
    };
    let mut whole = request();
    whole.headers_mut().clear();
    let before = Instant::now();
    let held = sender.send_request(whole).await.expect("an answer");
    let cut = async {
        while node.metric("skerry_connections_timed_out_total", &[("listener", "public")]) == 0.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), cut).await.is_ok(), "it is held for ever");
    assert!(before.elapsed() > Duration::from_millis(500));
    assert!(held.into_body().collect().await.is_err(), "an answer that was cut looks whole");
    // The other streams of the connection go on.
    let other = sender.send_request(request()).await.expect("an answer");
    assert_eq!(other.into_body().collect().await.expect("its body").to_bytes().len(), 10);
}

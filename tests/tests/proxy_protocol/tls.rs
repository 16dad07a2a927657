//! The header in front of TLS: it comes before the ClientHello, and every stream of HTTP/2 has its client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::{self, Connection, HOST, State};
use skerry_tests::reply::Reply;
use skerry_tests::wait;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use crate::{
    AUTHORITY, CLIENT_V4, CLIENT_V6, LIMIT, NOOP, SOON, assert_nothing_is_left_open, builder, client_of,
    echo, forwarded, option,
};

/// A node that speaks TLS behind a balancer, and a client that trusts it and speaks `protocol`.
fn secure(origin: &Origin, protocol: &[u8]) -> (Node, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).expect("a certificate");
    // The node reads both at its start, and not again.
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("own.pem"), folder.path().join("own.key"));
    std::fs::write(&certificate, made.cert.pem()).expect("the certificate is written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("the key is written");
    let node = builder(origin)
        .set("public", "tls_listen", "[\"127.0.0.1:0\"]")
        .text("public", "tls_certificate_file", &certificate.to_string_lossy())
        .text("public", "tls_key_file", &key.to_string_lossy())
        .start();

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_owned()];
    (node, Arc::new(config))
}

#[test]
fn over_tls_the_header_comes_before_the_client_hello() {
    let origin = Origin::start();
    origin.reply("/tls", Reply::ok("over TLS").cache_control("no-store"));
    let (node, config) = secure(&origin, b"http/1.1");
    let name = ServerName::try_from(HOST).expect("a name");
    for (client, options) in [(CLIENT_V4, Vec::new()), (CLIENT_V6, option(AUTHORITY, HOST.as_bytes()))] {
        let mut tls = ClientConnection::new(Arc::clone(&config), name.clone()).expect("a client");
        // One segment, so that what is read beyond the header would be missed in the handshake.
        let mut bytes = forwarded(client, &options);
        tls.write_tls(&mut bytes).expect("a ClientHello");
        let mut socket = TcpStream::connect(node.tls()).expect("a connection");
        socket.set_read_timeout(Some(raw::TIMEOUT)).expect("a timeout above zero");
        socket.write_all(&bytes).expect("header and ClientHello are sent");
        let mut stream = StreamOwned::new(tls, socket);
        let request = format!("GET /tls HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a handshake and a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer and its end");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("over TLS"), "{answer}");
        let client = format!("client={client} ");
        wait::until("the access log", SOON, || node.logged(&[client.as_str(), "/tls "]));
    }

    let mut tls = ClientConnection::new(config, name).expect("a client");
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).expect("a ClientHello");
    bytes.extend(forwarded(CLIENT_V4, b""));
    let mut late = Connection::open(node.tls());
    let _ = late.send(&bytes);
    assert_eq!(late.look(LIMIT + SOON), State::Closed, "a header behind the ClientHello");
    assert_nothing_is_left_open(&node);
}

#[tokio::test]
async fn every_stream_of_http_2_has_the_client_that_the_header_names() {
    let origin = echo();
    let (node, config) = secure(&origin, b"h2");
    let mut socket = tokio::net::TcpStream::connect(node.tls()).await.expect("a connection");
    socket.write_all(&forwarded(CLIENT_V6, &option(NOOP, b"x"))).await.expect("a header is sent");
    let name = ServerName::try_from(HOST).expect("a name");
    let tls = TlsConnector::from(config).connect(name, socket).await.expect("a handshake");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
    tokio::spawn(connection);
    for path in ["/first", "/second"] {
        let request =
            Request::get(format!("https://{HOST}{path}")).body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        let body = answer.into_body().collect().await.expect("content").to_bytes();
        assert_eq!(body, path.as_bytes());
        assert_eq!(client_of(&node, path), CLIENT_V6);
    }
}

//! `skerry node enrol`: a machine becomes a node.
//!
//! The token tells the control node who comes. The fingerprint tells the machine who answers: the
//! control node shows its authority's certificate after its own, and only what that one signed is
//! believed. Without a fingerprint the authorities of the system are asked.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper_rustls::ConfigBuilderExt;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde_json::Value;
use skerry_appliance::provision::fill;
use skerry_core::body;
use skerry_registry::ca::{self, CA_CERTIFICATE, NODE_CERTIFICATE, NODE_KEY, NewKey};
use skerry_registry::message::{EnrolAnswer, EnrolRequest};
use skerry_registry::{hex, identity};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::quoted;
use crate::cli::print;

const PATH: &str = "/.skerry/v1/nodes/enrol";
/// How long the control node may take, from the connection to the end of its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const LARGEST: usize = 1 << 20;
/// Largest file of a token.
const MOST_TOKEN: u64 = 1 << 10;

#[derive(Debug, Args)]
pub(in crate::cli) struct Enrol {
    /// The fleet's control node: https://HOST[:PORT]
    #[arg(long, value_name = "URL", value_parser = parse)]
    control: Control,
    /// File with the one-time token
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Folder for the node's key and certificates; made when missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Fingerprint of the fleet's authority, as `skerry node token` prints it
    #[arg(long, value_name = "sha256:HEX", value_parser = fingerprint)]
    ca_fingerprint: Option<Fingerprint>,
}

/// Where the control node is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Control {
    host: String,
    port: u16,
    authority: String,
    secure: bool,
}

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

/// Reads `https://HOST[:PORT]`; plain HTTP goes to this machine alone, since a token is a secret.
fn parse(text: &str) -> Result<Control, String> {
    let uri = text.parse::<Uri>().map_err(|error| format!("not an address: {error}"))?;
    let authority = uri.authority().ok_or("it names no host: write https://HOST[:PORT]")?;
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("only https://HOST[:PORT], nothing before or after it".into());
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let local =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let (secure, port) = match uri.scheme_str() {
        Some("https") => (true, 443),
        Some("http") if local => (false, 80),
        Some("http") => return Err("a token goes over https:// to another machine".into()),
        _ => return Err("write https://HOST[:PORT]".into()),
    };
    let port = authority.port_u16().unwrap_or(port);
    Ok(Control { host, port, authority: authority.to_string(), secure })
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let digits = text.strip_prefix("sha256:").and_then(hex::decode);
    digits.map(Fingerprint).ok_or_else(|| "write `sha256:` and 64 hex digits".into())
}

impl Enrol {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let token = self.token()?;
        let dir = &self.dir;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let [key_file, certificate_file, ca_file] =
            [NODE_KEY, NODE_CERTIFICATE, CA_CERTIFICATE].map(|name| dir.join(name));
        for file in [&certificate_file, &ca_file] {
            ensure!(!file.exists(), "{} is there already; give another folder", file.display());
        }
        let NewKey { key, request } = NewKey::make()?;
        // A token must not be spent where nothing can be written.
        ca::write_new(&key_file, &key, 0o600)?;
        let written = self.ask(&EnrolRequest { token, csr: request }).and_then(|answer| {
            ca::write_new(&certificate_file, &answer.certificate, 0o644)?;
            ca::write_new(&ca_file, &answer.ca, 0o644)?;
            Ok(answer)
        });
        let answer = match written {
            Ok(answer) => answer,
            Err(error) => {
                // What is left would be in the way of the next attempt.
                for file in [&key_file, &certificate_file] {
                    let _ = fs::remove_file(file);
                }
                return Err(error);
            }
        };
        let EnrolAnswer { node, region, configuration, .. } = answer;
        let scheme = if self.control.secure { "https" } else { "http" };
        let tables = format!(
            "[node]\nname = \"{node}\"\n\n\
             [registry]\ncontrol_url = \"{scheme}://{}\"\nregion = {}\ncertificate_file = {}\n\
             key_file = {}\nca_file = {}\n",
            self.control.authority,
            toml::Value::from(region),
            quoted(&certificate_file),
            quoted(&key_file),
            quoted(&ca_file)
        );
        let configuration = whole(&configuration, &tables);
        print(&format!("this machine is node {node} now; its configuration:\n\n{configuration}"))?;
        Ok(ExitCode::SUCCESS)
    }

    fn token(&self) -> anyhow::Result<String> {
        let path = &self.token_file;
        let cannot = || format!("cannot read the token {}", path.display());
        let length = fs::metadata(path).with_context(cannot)?.len();
        ensure!(length <= MOST_TOKEN, "{} is too large for a token", path.display());
        Ok(fs::read_to_string(path).with_context(cannot)?.trim().to_owned())
    }

    /// A good answer.
    fn ask(&self, request: &EnrolRequest) -> anyhow::Result<EnrolAnswer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let authority = &self.control.authority;
        let body = serde_json::to_vec(request)?;
        let answer = runtime.block_on(async { tokio::time::timeout(ANSWER, self.send(body.into())).await });
        let (status, body) = answer.map_err(|_| anyhow!("{authority} did not answer in time"))??;
        if !status.is_success() {
            let document: Option<Value> = serde_json::from_slice(&body).ok();
            let detail = document.as_ref().and_then(|document| document["detail"].as_str());
            bail!("{authority} answered {status}: {}", detail.unwrap_or("without a reason"));
        }
        let answer: EnrolAnswer = serde_json::from_slice(&body)
            .with_context(|| format!("{authority} did not answer as a control node does"))?;
        let certificate = ca::der_of(&answer.certificate).and_then(|der| identity::node_of(&der));
        ensure!(certificate.as_ref() == Some(&answer.node), "{authority} gave another node's certificate");
        let found = ca::der_of(&answer.ca).map(|der| Fingerprint(ca::fingerprint(&der)));
        ensure!(found.is_some(), "{authority} gave no authority's certificate");
        if self.ca_fingerprint.is_some() {
            ensure!(found == self.ca_fingerprint, "{authority} is of another fleet: its authority differs");
        }
        let configuration = answer.configuration.parse::<toml::Table>();
        configuration.with_context(|| format!("{authority} gave a configuration that is no TOML"))?;
        Ok(answer)
    }

    async fn send(&self, body: Bytes) -> anyhow::Result<(http::StatusCode, Bytes)> {
        let Control { host, port, authority, secure } = &self.control;
        let stream = TcpStream::connect((host.as_str(), *port))
            .await
            .with_context(|| format!("no control node answers at {authority}"))?;
        if !secure {
            return self.exchange(stream, body).await;
        }
        let name = ServerName::try_from(host.clone())
            .with_context(|| format!("`{host}` is no name that TLS knows"))?;
        let stream = TlsConnector::from(Arc::new(self.tls()?)).connect(name, stream).await;
        let stream = stream.with_context(|| format!("{authority} is not believed"))?;
        self.exchange(stream, body).await
    }

    fn tls(&self) -> anyhow::Result<ClientConfig> {
        skerry_core::tls::install_provider();
        let builder = match self.ca_fingerprint {
            Some(fingerprint) => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                let verifier = Arc::new(Pinned { fingerprint, provider });
                ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier)
            }
            None => ClientConfig::builder()
                .with_native_roots()
                .context("the system knows no authorities; give --ca-fingerprint")?,
        };
        let mut tls = builder.with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(tls)
    }

    async fn exchange<S>(&self, stream: S, body: Bytes) -> anyhow::Result<(http::StatusCode, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let authority = &self.control.authority;
        let failed = || format!("{authority} does not speak HTTP as expected");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(failed)?;
        tokio::spawn(connection);
        let request = Request::post(PATH)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await.with_context(failed)?;
        let status = response.status();
        match body::whole(response.into_body(), LARGEST).await {
            Ok(body) => Ok((status, body)),
            Err(error) => bail!("{authority} broke off its answer: {error}"),
        }
    }
}

/// The operator's configuration, with the tables of enrolment where they are missing.
fn whole(configuration: &str, tables: &str) -> String {
    if configuration.trim().is_empty() { tables.to_owned() } else { fill(configuration, tables) }
}

/// Believes what the one authority of a fingerprint signed, when it is shown too.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|shown| ca::fingerprint(shown) == self.fingerprint.0);
        let Some(authority) = authority else {
            return Err(Error::General(
                "it does not show the authority of that fingerprint; is it the control node of this fleet?"
                    .into(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use skerry_registry::ca::{Authority, Request, Subject};

    use super::*;
    use crate::cli::node::now_ms;

    #[test]
    fn a_control_node_is_named_by_https_host_and_port() {
        let control = parse("https://control.example:8443").unwrap();
        assert_eq!((control.host.as_str(), control.port, control.secure), ("control.example", 8443, true));
        assert_eq!(parse("https://[2001:db8::1]/").unwrap().host, "2001:db8::1");
        assert_eq!(parse("http://127.0.0.1:8080").unwrap().port, 8080);
        for text in ["", "control.example", "http://control.example", "ftp://a", "https://u@a", "https://a/b"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_operator_gave_stays_and_the_rest_is_added() {
        let tables = "[node]\nname = \"a\"\n\n[registry]\nregion = \"\"\nkey_file = \"/k\"\n";
        assert_eq!(whole("", tables), tables);
        let given = "# ours\n[registry]\nregion = \"south\"\n\n[sites.default]\norigin = \"http://o\"";
        let text = whole(given, tables);
        assert!(text.starts_with("# ours\n[registry]\nregion = \"south\"\n"), "{text}");
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["registry"]["key_file"].as_str(), Some("/k"));
        assert_eq!(table["node"]["name"].as_str(), Some("a"));
        assert_eq!(table["sites"]["default"]["origin"].as_str(), Some("http://o"));
    }

    fn chain(authority: &Authority, name: &str) -> Vec<CertificateDer<'static>> {
        let request = Request::parse(&NewKey::make().unwrap().request).unwrap();
        let subject = Subject { id: "control", names: &[name.to_owned()] };
        let pem = authority.sign(&request, subject, 30, now_ms()).unwrap();
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn only_what_the_pinned_authority_signed_is_believed() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = Authority::create(one.path(), now_ms()).unwrap();
        let other = Authority::create(other.path(), now_ms()).unwrap();
        let pinned = Pinned {
            fingerprint: Fingerprint(*one.fingerprint()),
            provider: Arc::new(aws_lc_rs::default_provider()),
        };
        let believes = |chain: &[CertificateDer<'static>], name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            pinned.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok()
        };
        let good = chain(&one, "control.example");
        assert!(believes(&good, "control.example"));
        assert!(!believes(&good, "other.example"));
        assert!(!believes(&good[..1], "control.example"));
        let strange = chain(&other, "control.example");
        assert!(!believes(&strange, "control.example"));
        // The right authority beside a certificate that it did not sign.
        assert!(!believes(&[strange[0].clone(), good[1].clone()], "control.example"));
    }

    #[test]
    fn a_failed_attempt_leaves_nothing_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        fs::write(&token_file, "0\n").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let enrol = Enrol {
            control: parse(&format!("http://{address}")).unwrap(),
            token_file,
            dir: folder.path().join("node"),
            ca_fingerprint: None,
        };
        let error = enrol.execute().unwrap_err().to_string();
        assert!(error.contains("no control node answers at"), "{error}");
        assert_eq!(fs::read_dir(&enrol.dir).unwrap().count(), 0);
    }
}

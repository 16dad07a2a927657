//! The way to `admin.tls_listen` of a node: TLS, with the certificate of an operator.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;
use hyper_rustls::ConfigBuilderExt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use skerry_core::tls::{PemFile, install_provider};
use skerry_registry::identity;
use tokio_rustls::TlsConnector;

/// Who asks, and whom to believe. What is not given the environment may have.
#[derive(Debug, Default, Args)]
pub(super) struct Identity {
    /// Your certificate as an operator (PEM), for https:// [default: $SKERRY_CERTIFICATE]
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM) [default: $SKERRY_KEY]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Certificate (PEM) of the authority by which the node is believed [default: $SKERRY_CA, else the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe the node of the fleet that has this name (`node.name`), wherever it is
    #[arg(long, value_name = "ID")]
    node_name: Option<String>,
}

/// The same, with everything that TLS needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complete {
    certificate: PathBuf,
    key: PathBuf,
    /// None is the system's.
    ca: Option<PathBuf>,
    node_name: Option<String>,
}

impl Identity {
    /// Whether any of it was given.
    pub(super) fn is_given(&self) -> bool {
        self.certificate.is_some() || self.ca.is_some() || self.node_name.is_some()
    }

    /// With what the environment has of the rest; the error says what is missing.
    pub(super) fn complete(&self, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Complete, String> {
        let (certificate, key) = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => (Some(certificate.clone()), Some(key.clone())),
            _ => (variable("SKERRY_CERTIFICATE"), variable("SKERRY_KEY")),
        };
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return Err("https:// needs --certificate and --key, or SKERRY_CERTIFICATE and SKERRY_KEY".into());
        };
        let ca = self.ca.clone().or_else(|| variable("SKERRY_CA"));
        if ca.is_none() && self.node_name.is_some() {
            return Err("--node-name needs the fleet's authority: give --ca or SKERRY_CA".into());
        }
        Ok(Complete { certificate, key, ca, node_name: self.node_name.clone() })
    }
}

impl Complete {
    /// Reads the files.
    pub(super) fn connector(&self) -> anyhow::Result<TlsConnector> {
        install_provider();
        let roots = |ca: &Path| PemFile { path: ca, key: "--ca or $SKERRY_CA" }.roots();
        let builder = ClientConfig::builder();
        let builder = match (&self.ca, &self.node_name) {
            (None, _) => builder.with_native_roots().context("the system knows no authorities; give --ca")?,
            (Some(ca), None) => builder.with_root_certificates(roots(ca)?),
            (Some(ca), Some(id)) => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                let verifier = OfNode { id: id.clone(), roots: roots(ca)?, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let chain = PemFile { path: &self.certificate, key: "--certificate or $SKERRY_CERTIFICATE" };
        let key = PemFile { path: &self.key, key: "--key or $SKERRY_KEY" };
        let tls = builder.with_client_auth_cert(chain.certificates()?, key.private_key()?);
        let mut tls = tls.with_context(|| {
            let (certificate, key) = (self.certificate.display(), self.key.display());
            format!("the certificate {certificate} and the key {key} cannot be used together")
        })?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(tls)))
    }
}

/// What a failed exchange means, when the node ended it with an alert: as a rule it does not take the certificate,
/// which a client of TLS 1.3 learns with its first answer (RFC 8446 §4.4.2.4).
pub(super) fn refusal(authority: &str, error: &(dyn Error + 'static)) -> Option<anyhow::Error> {
    let words = match alert(error)? {
        AlertDescription::AccessDenied => "it is no operator's there; the node's log says whose".to_owned(),
        AlertDescription::CertificateExpired => "it has ended".to_owned(),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "another authority made it".to_owned()
        }
        other => format!("TLS alert {other:?}"),
    };
    Some(anyhow!("{authority} does not take the certificate: {words}"))
}

fn alert(error: &(dyn Error + 'static)) -> Option<AlertDescription> {
    let mut next = Some(error);
    while let Some(cause) = next {
        // The source of an I/O error is that of what it holds, so what it holds is looked at here.
        let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(TlsError::AlertReceived(alert)) = held.and_then(|held| held.downcast_ref::<TlsError>()) {
            return Some(*alert);
        }
        next = cause.source();
    }
    None
}

/// Believes one node of a fleet, whose certificate need not name the address that it is reached at.
#[derive(Debug)]
struct OfNode {
    id: String,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match identity::node_of(end_entity) {
            Some(id) if id == self.id => Ok(ServerCertVerified::assertion()),
            Some(id) => Err(TlsError::General(format!("it is the node {id}, not {}", self.id))),
            None => Err(TlsError::General("its certificate names no node of a fleet".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
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
    use skerry_registry::ca::{Authority, NewKey, Request, Subject};
    use skerry_registry::clock::wall_ms;

    use super::*;

    /// As hyper has it: its source is the I/O error.
    #[derive(Debug)]
    struct Outer(io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("connection error")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    fn variables(name: &str) -> Option<PathBuf> {
        Some(PathBuf::from(name))
    }

    #[test]
    fn what_is_given_goes_before_the_environment() {
        let whole = Identity::default().complete(variables).unwrap();
        assert_eq!(whole.certificate, Path::new("SKERRY_CERTIFICATE"));
        assert_eq!((whole.key, whole.ca), ("SKERRY_KEY".into(), Some("SKERRY_CA".into())));
        let given = Identity {
            certificate: Some("alice.pem".into()),
            key: Some("alice.key".into()),
            ca: None,
            node_name: Some("edge-7".into()),
        };
        assert!(given.is_given() && !Identity::default().is_given());
        let whole = given.complete(variables).unwrap();
        assert_eq!((whole.certificate, whole.key), ("alice.pem".into(), "alice.key".into()));
        assert_eq!(whole.ca.as_deref(), Some(Path::new("SKERRY_CA")));
        assert!(given.complete(|_| None).unwrap_err().contains("--ca"));
        assert!(Identity::default().complete(|_| None).unwrap_err().contains("--certificate"));
    }

    #[test]
    fn an_alert_is_found_below_what_came_of_it() {
        let received = |alert| io::Error::new(io::ErrorKind::InvalidData, TlsError::AlertReceived(alert));
        let error = received(AlertDescription::AccessDenied);
        let words = refusal("a:1", &error).unwrap().to_string();
        assert!(words.starts_with("a:1 does not take the certificate: it is no operator's"), "{words}");
        let deeper = Outer(received(AlertDescription::CertificateExpired));
        assert!(refusal("a:1", &deeper).unwrap().to_string().ends_with("it has ended"));
        assert!(refusal("a:1", &io::Error::from(io::ErrorKind::ConnectionReset)).is_none());
    }

    #[test]
    fn a_node_is_believed_by_its_name_wherever_it_is() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [one, other] = [&one, &other].map(|folder| Authority::create(folder.path(), wall_ms()).unwrap());
        let chain = |authority: &Authority, id: &str| {
            let request = Request::parse(&NewKey::make().unwrap().request).unwrap();
            let pem = authority.sign(&request, Subject { id, names: &[] }, 30, wall_ms()).unwrap();
            let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
            chain.collect::<Result<Vec<_>, _>>().unwrap()
        };
        let mut roots = RootCertStore::empty();
        roots.add(chain(&one, "edge-7").remove(1)).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = OfNode { id: "edge-7".into(), roots: Arc::new(roots), provider };
        let believes = |chain: Vec<CertificateDer<'static>>| {
            let name = ServerName::try_from("192.0.2.7").unwrap();
            verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(believes(chain(&one, "edge-7")));
        assert!(!believes(chain(&one, "edge-8")));
        assert!(!believes(chain(&other, "edge-7")));
    }
}

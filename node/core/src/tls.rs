//! TLS by rustls: HTTP/2 and HTTP/1.1 by ALPN, session resumption, certificates that are read
//! again without a restart.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::config::PublicConfig;

/// A TLS configuration that can be replaced while connections are served.
#[derive(Clone)]
pub struct Reloadable(Arc<ArcSwap<ServerConfig>>);

impl Reloadable {
    /// Reads certificate and key as configured.
    pub fn load(config: &PublicConfig) -> Result<Self, Error> {
        Ok(Self(Arc::new(ArcSwap::from(read(config)?))))
    }

    /// Reads them again. On an error the old ones stay in use.
    pub fn reload(&self, config: &PublicConfig) -> Result<(), Error> {
        self.0.store(read(config)?);
        Ok(())
    }

    /// For one new connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.load_full())
    }
}

/// Makes aws-lc the process' provider; a second call changes nothing.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn read(config: &PublicConfig) -> Result<Arc<ServerConfig>, Error> {
    install_provider();
    let key_name = "public.tls_certificate_file";
    let path = config.tls_certificate_file.as_path();
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(path, key_name, &error))?;
    if chain.is_empty() {
        return Err(failed(path, key_name, &"it holds no PEM certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&config.tls_key_file)
        .map_err(|error| failed(&config.tls_key_file, "public.tls_key_file", &error))?;
    let mut tls = ServerConfig::builder()
        .with_client_cert_verifier(verifier(&config.tls_client_ca_file)?)
        .with_single_cert(chain, key)
        .map_err(|error| failed(path, key_name, &error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls.ticketer =
        rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| failed(path, key_name, &error))?;
    tls.send_tls13_tickets = 2;
    Ok(Arc::new(tls))
}

/// Asks clients for certificates of an authority, and lets those without one in too: what they may do is
/// for whoever answers them. Without a file nobody is asked.
fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    if path.as_os_str().is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let failed = |reason: &dyn std::fmt::Display| failed(path, "public.tls_client_ca_file", reason);
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    for certificate in read.map_err(|error| failed(&error))? {
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
    verifier.map_err(|error| failed(&error))
}

fn failed(path: &Path, key: &'static str, reason: &dyn std::fmt::Display) -> Error {
    Error::Certificate { path: path.to_owned(), key, reason: reason.to_string() }
}

//! TLS by rustls: HTTP/2 and HTTP/1.1 by ALPN, session resumption, certificates that are read
//! again without a restart.

use std::fmt::Display;
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
        Ok(Self::new(read(config)?))
    }

    /// Reads them again. On an error the old ones stay in use.
    pub fn reload(&self, config: &PublicConfig) -> Result<(), Error> {
        self.replace(read(config)?);
        Ok(())
    }

    pub(crate) fn new(config: ServerConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    pub(crate) fn replace(&self, config: ServerConfig) {
        self.0.store(Arc::new(config));
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

/// A file of certificates or a key, PEM, and the configuration key that it is set by.
#[derive(Clone, Copy)]
pub(crate) struct PemFile<'a> {
    pub(crate) path: &'a Path,
    pub(crate) key: &'static str,
}

impl PemFile<'_> {
    /// Its certificates, one at least.
    pub(crate) fn certificates(self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let read = CertificateDer::pem_file_iter(self.path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| self.failed(&error))?;
        if certificates.is_empty() {
            return Err(self.failed(&"it holds no PEM certificate"));
        }
        Ok(certificates)
    }

    pub(crate) fn private_key(self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_file(self.path).map_err(|error| self.failed(&error))
    }

    /// Its certificates as authorities.
    pub(crate) fn roots(self) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.failed(&error))?;
        }
        Ok(Arc::new(roots))
    }

    pub(crate) fn failed(self, reason: &dyn Display) -> Error {
        Error::Certificate { path: self.path.to_owned(), key: self.key, reason: reason.to_string() }
    }
}

fn read(config: &PublicConfig) -> Result<ServerConfig, Error> {
    install_provider();
    let chain = PemFile { path: &config.tls_certificate_file, key: "public.tls_certificate_file" };
    let key = PemFile { path: &config.tls_key_file, key: "public.tls_key_file" };
    let clients = PemFile { path: &config.tls_client_ca_file, key: "public.tls_client_ca_file" };
    let mut tls = ServerConfig::builder()
        .with_client_cert_verifier(verifier(clients)?)
        .with_single_cert(chain.certificates()?, key.private_key()?)
        .map_err(|error| chain.failed(&error))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| chain.failed(&error))?;
    tls.send_tls13_tickets = 2;
    Ok(tls)
}

/// Asks clients for certificates of an authority, and lets those without one in too: what they may do is
/// for whoever answers them. Without a file nobody is asked.
fn verifier(authority: PemFile<'_>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    if authority.path.as_os_str().is_empty() {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let verifier = WebPkiClientVerifier::builder(authority.roots()?).allow_unauthenticated().build();
    verifier.map_err(|error| authority.failed(&error))
}

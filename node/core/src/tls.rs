//! TLS by rustls: HTTP/2 and HTTP/1.1 by ALPN, session resumption, certificates that are read
//! again without a restart.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::{self, PemObject};
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

/// A file of certificates or a key, PEM, and what it is set by. Errors name both.
#[derive(Debug, Clone, Copy)]
pub struct PemFile<'a> {
    /// The file.
    pub path: &'a Path,
    /// The configuration key or the option that names it.
    pub key: &'static str,
}

impl PemFile<'_> {
    /// Its certificates, one at least, in their order: a chain.
    ///
    /// # Errors
    /// When it cannot be read, is no PEM or holds none.
    pub fn certificates(self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let read = CertificateDer::pem_file_iter(self.path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| self.failed(&error))?;
        if certificates.is_empty() {
            return Err(self.failed(&"it holds no PEM certificate"));
        }
        Ok(certificates)
    }

    /// The first private key in it.
    ///
    /// # Errors
    /// When it cannot be read, is no PEM or holds none.
    pub fn private_key(self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_file(self.path).map_err(|error| match error {
            pem::Error::NoItemsFound => self.failed(&"it holds no PEM private key"),
            error => self.failed(&error),
        })
    }

    /// Its certificates as authorities.
    ///
    /// # Errors
    /// When it cannot be read, or holds none or something else than certificates.
    pub fn roots(self) -> Result<Arc<RootCertStore>, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_what_it_lacks_and_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.pem");
        let file = PemFile { path: &path, key: "public.tls_key_file" };
        let named = |error: Error, reason: &str| {
            let text = error.to_string();
            assert!(text.contains("own.pem") && text.contains(reason), "{text}");
            assert!(text.ends_with("it is set by `public.tls_key_file`"), "{text}");
        };
        named(file.certificates().unwrap_err(), "No such file");
        named(file.private_key().unwrap_err(), "No such file");
        std::fs::write(&path, "none").unwrap();
        named(file.certificates().unwrap_err(), "it holds no PEM certificate");
        named(file.roots().unwrap_err(), "it holds no PEM certificate");
        named(file.private_key().unwrap_err(), "it holds no PEM private key");
    }
}

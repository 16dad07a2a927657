//! The admin listener over TLS: it lets in operators, by certificates that are verified at each connection
//! (RFC 8446 §4.4.2), and nobody else.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
};

use super::AdminConfig;
use crate::Error;
use crate::operator::{Operators, Refused};
use crate::tls::{PemFile, Reloadable, install_provider};

/// Who may come in from elsewhere, and the certificate that they are shown.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    /// As it was read last.
    config: Mutex<AdminConfig>,
    tls: Reloadable,
    operators: ArcSwap<Operators>,
}

impl Remote {
    /// Reads the files that the table names.
    pub fn load(config: AdminConfig) -> Result<Self, Error> {
        let tls = Reloadable::new(read(&config)?);
        let operators = ArcSwap::from_pointee(Operators::new(config.operators.clone()));
        Ok(Self(Arc::new(Inner { config: Mutex::new(config), tls, operators })))
    }

    /// Takes up another table and its files; who is not in it any more gets no further answer. On an error
    /// everything stays as it was.
    pub fn reload(&self, config: AdminConfig) -> Result<(), Error> {
        let mut current = self.0.config.lock();
        self.0.tls.replace(read(&config)?);
        self.0.operators.store(Arc::new(Operators::new(config.operators.clone())));
        *current = config;
        Ok(())
    }

    /// Reads the same files again, for certificates that were renewed. On an error the old ones stay in use.
    pub fn refresh(&self) -> Result<(), Error> {
        let current = self.0.config.lock();
        self.0.tls.replace(read(&current)?);
        Ok(())
    }

    /// For its listening sockets.
    pub fn tls(&self) -> Reloadable {
        self.0.tls.clone()
    }

    /// The operator at the other end of a connection, by a certificate that the handshake verified. Asked at each
    /// request: a connection can outlive a certificate, and an operator's place in the list.
    pub(super) fn operator(&self, certificate: Option<&[u8]>) -> Result<String, Refused> {
        self.0.operators.load().name_of(certificate.ok_or(Refused::Missing)?)
    }
}

fn read(config: &AdminConfig) -> Result<ServerConfig, Error> {
    install_provider();
    let chain = PemFile { path: &config.tls_certificate_file, key: "admin.tls_certificate_file" };
    let key = PemFile { path: &config.tls_key_file, key: "admin.tls_key_file" };
    let authority = PemFile { path: &config.tls_client_ca_file, key: "admin.tls_client_ca_file" };
    let verifier = WebPkiClientVerifier::builder(authority.roots()?).build();
    let verifier = OperatorsAlone {
        chain: verifier.map_err(|error| authority.failed(&error))?,
        operators: Operators::new(config.operators.clone()),
    };
    // Whoever comes here has a client of today: certificates go encrypted, and there is one kind of handshake.
    let mut tls = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain.certificates()?, key.private_key()?)
        .map_err(|error| chain.failed(&error))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would bring its certificate along unverified.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// Ends the handshake of everybody who is no operator, before a byte of HTTP is read.
#[derive(Debug)]
struct OperatorsAlone {
    chain: Arc<dyn ClientCertVerifier>,
    operators: Operators,
}

impl ClientCertVerifier for OperatorsAlone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        match self.operators.name_of(end_entity) {
            Ok(_) => Ok(verified),
            Err(refused) => {
                log::warn!("somebody was refused at `admin.tls_listen`: {refused}");
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
        SanType,
    };
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;
    use crate::operator;

    /// An authority in files.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: String,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap().pem();
            Self { issuer: Issuer::new(params, key), certificate }
        }

        /// A certificate with these names, good at both ends, and its key.
        fn sign(&self, names: &[SanType]) -> [String; 2] {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names.to_vec();
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let key = KeyPair::generate().unwrap();
            [params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem()]
        }

        fn named(&self, uri: &str) -> [String; 2] {
            self.sign(&[SanType::URI(uri.try_into().unwrap())])
        }
    }

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn config(folder: &Path, authority: &Authority) -> AdminConfig {
        let [certificate, key] = authority.sign(&[SanType::DnsName("node.example".try_into().unwrap())]);
        AdminConfig {
            tls_certificate_file: write(folder, "node.pem", &certificate),
            tls_key_file: write(folder, "node.key", &key),
            tls_client_ca_file: write(folder, "ca.pem", &authority.certificate),
            ..AdminConfig::default()
        }
    }

    /// A handshake without a network: the operator whom the node knows then, or the alert that the client gets.
    fn visit(
        remote: &Remote,
        authority: &Authority,
        client: Option<[String; 2]>,
    ) -> Result<Result<String, Refused>, AlertDescription> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
        let tls = ClientConfig::builder().with_root_certificates(roots);
        let tls = match client {
            None => tls.with_no_client_auth(),
            Some([certificate, key]) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                tls.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let name = ServerName::try_from("node.example").unwrap();
        let mut client = ClientConnection::new(Arc::new(tls), name).unwrap();
        let mut server = ServerConnection::new(remote.0.tls.acceptor().config().clone()).unwrap();
        for _ in 0..4 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while server.read_tls(&mut wire).is_ok_and(|read| read > 0) {
                // What is wrong is told to the client.
                let _ = server.process_new_packets();
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while client.read_tls(&mut wire).unwrap() > 0 {
                match client.process_new_packets() {
                    Ok(_) => {}
                    Err(TlsError::AlertReceived(alert)) => return Err(alert),
                    Err(error) => panic!("the client does not believe the node: {error}"),
                }
            }
        }
        assert!(!server.is_handshaking());
        let shown = server.peer_certificates().and_then(|chain| chain.first());
        Ok(remote.operator(shown.map(|certificate| certificate.as_ref())))
    }

    #[test]
    fn operators_come_in_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let (fleet, strangers) = (Authority::new(), Authority::new());
        let remote = Remote::load(config(folder.path(), &fleet)).unwrap();
        let alice = operator::uri("alice");
        assert_eq!(visit(&remote, &fleet, Some(fleet.named(&alice))), Ok(Ok("alice".into())));
        assert_eq!(visit(&remote, &fleet, None), Err(AlertDescription::CertificateRequired));
        let node = fleet.named("skerry://node/edge-7");
        assert_eq!(visit(&remote, &fleet, Some(node)), Err(AlertDescription::AccessDenied));
        assert!(visit(&remote, &fleet, Some(strangers.named(&alice))).is_err());
        assert_eq!(remote.operator(None), Err(Refused::Missing));
    }

    #[test]
    fn who_is_taken_off_the_list_gets_no_further_answer() {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Authority::new();
        let config = config(folder.path(), &fleet);
        let remote = Remote::load(config.clone()).unwrap();
        let alice = fleet.named(&operator::uri("alice"));
        assert_eq!(visit(&remote, &fleet, Some(alice.clone())), Ok(Ok("alice".into())));
        remote.reload(AdminConfig { operators: vec!["bob".into()], ..config }).unwrap();
        let certificate = CertificateDer::from_pem_slice(alice[0].as_bytes()).unwrap();
        assert_eq!(remote.operator(Some(&certificate)), Err(Refused::Unlisted("alice".into())));
        assert_eq!(visit(&remote, &fleet, Some(alice)), Err(AlertDescription::AccessDenied));
        let bob = fleet.named(&operator::uri("bob"));
        assert_eq!(visit(&remote, &fleet, Some(bob)), Ok(Ok("bob".into())));
    }

    #[test]
    fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Authority::new(), Authority::new());
        let remote = Remote::load(config(folder.path(), &first)).unwrap();
        std::fs::write(folder.path().join("node.pem"), "none").unwrap();
        let error = remote.refresh().unwrap_err().to_string();
        assert!(error.contains("node.pem") && error.contains("`admin.tls_certificate_file`"), "{error}");
        let alice = operator::uri("alice");
        assert_eq!(visit(&remote, &first, Some(first.named(&alice))), Ok(Ok("alice".into())));
        // The files of another authority, under the same names.
        config(folder.path(), &second);
        remote.refresh().unwrap();
        assert_eq!(visit(&remote, &second, Some(second.named(&alice))), Ok(Ok("alice".into())));
    }
}

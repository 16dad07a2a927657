//! The fleet's certificate authority: nodes know each other by certificates that it signed.
//!
//! One key, on the control node and nowhere else, signs certificates for both ends of TLS. Of a
//! signing request only the key counts: what a certificate says comes from the operator's token.
//! Certificates name a node by the SAN URI `skerry://node/ID`, see [`crate::identity`].

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    date_time_ymd,
};
use sha2::{Digest, Sha256};
use skerry_core::operator;

use crate::error::CaError;
use crate::{hex, identity, random};

/// The authority's certificate, in its folder and in a node's.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's key.
pub const CA_KEY: &str = "ca.key";
/// A node's certificate and the authority's.
pub const NODE_CERTIFICATE: &str = "node.pem";
/// A node's key.
pub const NODE_KEY: &str = "node.key";
/// Largest signing request, bytes.
pub const MOST_REQUEST: usize = 16 << 10;
/// Names of one certificate, at most.
pub const MOST_NAMES: usize = 16;
/// Days of the authority's own certificate: twenty years.
const CA_DAYS: u64 = 7300;
/// A certificate begins earlier, so that it is good on machines whose clock is a little late.
const SKEW_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;
/// Latest time that is written into certificates: they end within their four-digit years.
const LAST_MS: u64 = 253_000_000_000_000;

/// Whom a certificate is for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The node's id.
    pub id: &'a str,
    /// Host names and addresses that it answers TLS at.
    pub names: &'a [String],
}

/// The fleet's authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    fingerprint: [u8; 32],
}

impl Authority {
    /// Makes a new authority in a folder, which is made when it is missing.
    ///
    /// # Errors
    /// When there is one already, and when the folder cannot be written.
    pub fn create(folder: &Path, now_ms: u64) -> Result<Self, CaError> {
        let (certificate_file, key_file) = (folder.join(CA_CERTIFICATE), folder.join(CA_KEY));
        let key = KeyPair::generate().map_err(make("key"))?;
        // Two fleets' authorities have two names.
        let number: [u8; 4] = random::bytes().map_err(make("key"))?;
        let mut params = params(now_ms, CA_DAYS)?;
        params.distinguished_name = name(&format!("skerry fleet {}", hex::encode(&number)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(make("certificate"))?;
        let fingerprint = fingerprint(certificate.der());
        let certificate = certificate.pem();
        fs::create_dir_all(folder).map_err(file("cannot make", folder))?;
        for path in [&certificate_file, &key_file] {
            if path.exists() {
                return Err(CaError::There(path.clone()));
            }
        }
        write_new(&key_file, &key.serialize_pem(), 0o600)?;
        write_new(&certificate_file, &certificate, 0o644)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, fingerprint })
    }

    /// Reads an authority's certificate and key.
    ///
    /// # Errors
    /// When one of them cannot be read, or is something else.
    pub fn load(certificate_file: &Path, key_file: &Path) -> Result<Self, CaError> {
        let key = fs::read_to_string(key_file).map_err(file("cannot read", key_file))?;
        let certificate =
            fs::read_to_string(certificate_file).map_err(file("cannot read", certificate_file))?;
        let key = KeyPair::from_pem(&key).map_err(|error| content(key_file, "private key", &error))?;
        let wrong = |reason: &dyn Display| content(certificate_file, "certificate", reason);
        let der = der_of(&certificate).ok_or_else(|| wrong(&"no certificate is in it"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| wrong(&error))?;
        if !parsed.is_ca() {
            return Err(wrong(&"it is not an authority's"));
        }
        if *parsed.public_key().subject_public_key.data != *key.der_bytes() {
            return Err(wrong(&"the key is another certificate's"));
        }
        let fingerprint = fingerprint(&der);
        let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), key).map_err(|error| wrong(&error))?;
        Ok(Self { issuer, certificate, fingerprint })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// SHA-256 of its certificate (DER).
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Signs a certificate for the key of a request; it is told in PEM, with the authority's after it,
    /// so that whoever knows only the authority's fingerprint can check it.
    ///
    /// # Errors
    /// When the subject cannot be named.
    pub fn sign(
        &self,
        request: &Request,
        subject: Subject<'_>,
        days: u64,
        now_ms: u64,
    ) -> Result<String, CaError> {
        let mut params = params(now_ms, days)?;
        params.distinguished_name = name(subject.id);
        params.subject_alt_names = alternative_names(subject)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.certify(request, params)
    }

    /// Signs a certificate by which an operator administrates nodes of the fleet from afar
    /// ([`skerry_core::operator`]), for the key of a request. It is told as [`Self::sign`] tells a node's.
    ///
    /// # Errors
    /// When that is no name of an operator.
    pub fn sign_operator(
        &self,
        request: &Request,
        operator: &str,
        days: u64,
        now_ms: u64,
    ) -> Result<String, CaError> {
        let refused = || CaError::Operator(operator.chars().take(80).collect());
        if !operator::is_name(operator) {
            return Err(refused());
        }
        let mut params = params(now_ms, days)?;
        params.distinguished_name = name(operator);
        let uri = Ia5String::try_from(operator::uri(operator)).map_err(|_| refused())?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.certify(request, params)
    }

    fn certify(&self, request: &Request, mut params: CertificateParams) -> Result<String, CaError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate =
            params.signed_by(&request.0.public_key, &self.issuer).map_err(make("certificate"))?;
        Ok(certificate.pem() + &self.certificate)
    }
}

/// A certificate signing request whose signature is right.
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Reads one (PKCS #10, PEM).
    ///
    /// # Errors
    /// When it is none, is not signed with its own key, or has a kind of key that is not signed.
    pub fn parse(pem: &str) -> Result<Self, CaError> {
        if pem.len() > MOST_REQUEST {
            return Err(CaError::Request(format!("it has more than {MOST_REQUEST} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| CaError::Request(error.to_string()))?;
        let kinds = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !kinds.contains(&request.public_key.algorithm()) {
            return Err(CaError::Algorithm);
        }
        Ok(Self(request))
    }
}

/// A new key of a node, and the request to sign it.
pub struct NewKey {
    /// The key, PEM (PKCS #8).
    pub key: String,
    /// The request, PEM (PKCS #10).
    pub request: String,
}

impl NewKey {
    /// Makes one.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn make() -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(make("key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(make("certificate signing request"))?;
        let request = request.pem().map_err(make("certificate signing request"))?;
        Ok(Self { key: key.serialize_pem(), request })
    }
}

/// Writes a file that is not there yet, and waits for the disk.
///
/// # Errors
/// [`CaError::There`] when it is, and when it cannot be written.
pub fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(
        |source| match source.kind() {
            io::ErrorKind::AlreadyExists => CaError::There(path.to_owned()),
            _ => CaError::File { what: "cannot write", path: path.to_owned(), source },
        },
    )
}

/// SHA-256 of a certificate (DER).
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The first certificate of a PEM text, DER.
pub fn der_of(pem: &str) -> Option<Vec<u8>> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    (block.label == "CERTIFICATE").then_some(block.contents)
}

/// Whether a key (PEM) is that of a certificate (DER).
pub(crate) fn belong_together(certificate: &[u8], key: &str) -> bool {
    let Ok(key) = KeyPair::from_pem(key) else { return false };
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| *parsed.public_key().subject_public_key.data == *key.der_bytes())
}

/// Whether texts can be names in a certificate: host names or addresses.
///
/// # Errors
/// When one cannot, or there are too many.
pub fn check_names(names: &[String]) -> Result<(), CaError> {
    if names.len() > MOST_NAMES {
        return Err(CaError::Names { most: MOST_NAMES });
    }
    names.iter().try_for_each(|name| {
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let host = name.len() <= 253 && name.split('.').all(label);
        if host || name.parse::<IpAddr>().is_ok() {
            Ok(())
        } else {
            Err(CaError::Name(name.chars().take(80).collect()))
        }
    })
}

fn alternative_names(subject: Subject<'_>) -> Result<Vec<SanType>, CaError> {
    check_names(subject.names)?;
    let ascii = |text: &str| Ia5String::try_from(text).map_err(|_| CaError::Name(text.to_owned()));
    let mut names = vec![SanType::URI(ascii(&identity::uri(subject.id))?)];
    for name in subject.names {
        names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(ascii(name)?),
        });
    }
    Ok(names)
}

/// What every certificate has: a random serial number, and its time.
fn params(now_ms: u64, days: u64) -> Result<CertificateParams, CaError> {
    let mut serial: [u8; 16] = random::bytes().map_err(make("certificate"))?;
    // Positive, and of full length.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let time = |ms: u64| date_time_ymd(1970, 1, 1) + Duration::from_millis(ms.min(LAST_MS));
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = time(now_ms.saturating_sub(SKEW_MS));
    params.not_after = time(now_ms.saturating_add(days.saturating_mul(DAY_MS)));
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn make<E: Display>(what: &'static str) -> impl Fn(E) -> CaError {
    move |error| CaError::Make { what, reason: error.to_string() }
}

fn content(path: &Path, wanted: &'static str, reason: &dyn Display) -> CaError {
    CaError::Content { path: path.to_owned(), wanted, reason: reason.to_string() }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { what, path, source }
}

#[cfg(test)]
mod tests;

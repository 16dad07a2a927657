//! Whom a certificate names: the operators who administrate a node from afar.
//!
//! An operator's certificate of the fleet's authority carries the name (SAN URI) `skerry://operator/NAME`. That
//! authority signs nodes' too, named `skerry://node/ID`, and a node that fell into wrong hands must not command
//! the others. So whatever has a name below `skerry://` is what that says, and no list makes anything else of it.
//! Certificates of other authorities have no such name: they are known by the names that an operator lists.

use x509_parser::extensions::GeneralName;

/// Before every name that the fleet's authority gives.
const SCHEME: &str = "skerry://";
/// Before an operator's.
const URI: &str = "skerry://operator/";
/// Longest name of an operator, bytes.
pub const MOST_NAME: usize = 64;
/// Of a name that is refused, so many characters are told.
const MOST_SHOWN: usize = 100;

/// Why a certificate's owner may not administrate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There is no certificate.
    #[error("no certificate was shown")]
    Missing,
    /// It is none, or has names that cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It is not good now.
    #[error("the certificate has ended, or has not begun")]
    Time,
    /// It is somebody's of the fleet, and no operator's: as a rule a node's.
    #[error("the certificate is that of {0}, which is no operator")]
    Other(String),
    /// It could be taken for any of them.
    #[error("the certificate has several names that begin with skerry://")]
    Several,
    /// It is an operator's, and others are listed.
    #[error("the certificate is that of {0}, who is not among `admin.operators`")]
    Unlisted(String),
    /// Nobody knows whose it is.
    #[error("the certificate has neither the name skerry://operator/NAME nor one of `admin.operators`")]
    Nobody,
}

/// The name (SAN URI) of an operator in a certificate.
pub fn uri(name: &str) -> String {
    format!("{URI}{name}")
}

/// Whether a text can be an operator's name: at most 64 letters, digits, `-`, `.`, `_` and `@`, the first one a
/// letter or a digit.
pub fn is_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    text.len() <= MOST_NAME
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(word)
}

/// Who may administrate.
#[derive(Debug, Clone, Default)]
pub struct Operators(Vec<String>);

impl Operators {
    /// Those who are listed; with an empty list whoever is an operator by certificate.
    pub fn new(listed: Vec<String>) -> Self {
        Self(listed)
    }

    /// The operator whose certificate (DER) this is. Only for certificates that were verified against the
    /// authority of operators.
    ///
    /// # Errors
    /// When it is nobody's who may administrate now.
    pub fn name_of(&self, certificate: &[u8]) -> Result<String, Refused> {
        let parsed = x509_parser::parse_x509_certificate(certificate);
        let (_, certificate) = parsed.map_err(|_| Refused::Unreadable)?;
        if !certificate.validity().is_valid() {
            return Err(Refused::Time);
        }
        let alternative = certificate.subject_alternative_name().map_err(|_| Refused::Unreadable)?;
        let alternative = alternative.iter().flat_map(|names| names.value.general_names.iter());
        let mut names = Vec::new();
        for name in alternative {
            match name {
                GeneralName::URI(name) | GeneralName::RFC822Name(name) | GeneralName::DNSName(name) => {
                    names.push(*name);
                }
                GeneralName::Invalid(..) => return Err(Refused::Unreadable),
                _ => {}
            }
        }
        let mut ours = names.iter().filter(|name| name.starts_with(SCHEME));
        if let Some(name) = ours.next() {
            return if ours.next().is_some() { Err(Refused::Several) } else { self.operator(name) };
        }
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let known = names.into_iter().chain(common).find(|name| self.0.iter().any(|listed| listed == name));
        known.map(str::to_owned).ok_or(Refused::Nobody)
    }

    fn operator(&self, uri: &str) -> Result<String, Refused> {
        let Some(name) = uri.strip_prefix(URI).filter(|name| is_name(name)) else {
            return Err(Refused::Other(uri.escape_debug().take(MOST_SHOWN).collect()));
        };
        if self.0.is_empty() || self.0.iter().any(|listed| listed == name) {
            Ok(name.to_owned())
        } else {
            Err(Refused::Unlisted(name.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn uri_name(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn params(common: &str, names: &[SanType]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = names.to_vec();
        params
    }

    fn told(params: CertificateParams, listed: &[&str]) -> Result<String, Refused> {
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Operators::new(listed.iter().map(|&name| name.to_owned()).collect()).name_of(certificate.der())
    }

    #[test]
    fn an_operator_is_known_by_the_fleet_s_name() {
        let alice = || params("whoever", &[uri_name(&uri("alice"))]);
        assert_eq!(told(alice(), &[]).as_deref(), Ok("alice"));
        assert_eq!(told(alice(), &["bob", "alice"]).as_deref(), Ok("alice"));
        assert_eq!(told(alice(), &["bob"]), Err(Refused::Unlisted("alice".into())));
        // Its common name is whatever somebody wrote there.
        assert_eq!(told(alice(), &["whoever"]), Err(Refused::Unlisted("alice".into())));
    }

    #[test]
    fn no_list_makes_an_operator_of_a_node() {
        let host = SanType::DnsName("edge-7.example".try_into().unwrap());
        let node = uri_name("skerry://node/edge-7");
        let listed = ["edge-7", "edge-7.example", "skerry://node/edge-7"];
        let refused = Refused::Other("skerry://node/edge-7".into());
        assert_eq!(told(params("edge-7", &[node.clone(), host.clone()]), &listed), Err(refused.clone()));
        assert_eq!(told(params("edge-7", &[host, node.clone()]), &[]), Err(refused));
        let both = params("edge-7", &[uri_name(&uri("alice")), node]);
        assert_eq!(told(both, &["alice"]), Err(Refused::Several));
        for wrong in ["skerry://operator/", "skerry://operator/a b", "skerry://operators/alice"] {
            assert!(
                matches!(told(params("a", &[uri_name(wrong)]), &["a"]), Err(Refused::Other(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn certificates_of_other_authorities_are_known_by_what_is_listed() {
        let names = [
            uri_name("spiffe://example/alice"),
            SanType::Rfc822Name("alice@example.org".try_into().unwrap()),
            SanType::DnsName("desk.example.org".try_into().unwrap()),
        ];
        for name in ["spiffe://example/alice", "alice@example.org", "desk.example.org", "Alice"] {
            assert_eq!(told(params("Alice", &names), &[name]).as_deref(), Ok(name));
        }
        assert_eq!(told(params("Alice", &names), &[]), Err(Refused::Nobody));
        assert_eq!(told(params("Alice", &[]), &["alice"]), Err(Refused::Nobody));
    }

    #[test]
    fn a_certificate_is_good_for_its_time() {
        let mut over = params("a", &[uri_name(&uri("alice"))]);
        (over.not_before, over.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        assert_eq!(told(over, &[]), Err(Refused::Time));
        for bytes in [b"".as_slice(), b"\x30\x82\xff\xff", &[0x30; 64]] {
            assert_eq!(Operators::default().name_of(bytes), Err(Refused::Unreadable));
        }
    }

    #[test]
    fn names_are_words() {
        for name in ["a", "7", "alice", "alice@example.org", "a-b_c.d", &"a".repeat(MOST_NAME)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "-a", "@a", "a/b", "a b", "é", "a\n", &"a".repeat(MOST_NAME + 1)] {
            assert!(!is_name(name), "{name}");
        }
    }
}

//! Who calls: node ids, and the certificates that vouch for them.

use std::net::SocketAddr;
use std::sync::Arc;

use skerry_core::api::Call;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::clock::wall_ms;
use crate::error::Refused;
use crate::hex;

/// Before a node's id in the name (SAN URI) of its certificate.
const URI: &str = "skerry://node/";
/// Longest id of a node, bytes.
pub const MOST_ID: usize = 64;
/// What [`is_id`] asks for, in words.
pub(crate) const RULE: &str =
    "must be a node's name: at most 64 letters, digits, `-`, `.` and `_`, a letter first";

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The node that the connection's verified client certificate names.
    pub node: Option<String>,
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Whether that is this machine's loopback.
    pub local: bool,
    /// That certificate (DER).
    pub(crate) certificate: Option<Arc<[u8]>>,
}

impl Caller {
    /// Somebody at an address, with the node of a verified certificate if there is one.
    pub fn new(node: Option<String>, address: SocketAddr) -> Self {
        Self { node, address, local: address.ip().to_canonical().is_loopback(), certificate: None }
    }

    /// Whether anybody vouches for the caller. With `insecure_loopback`, whoever is on this machine
    /// is taken at their word.
    ///
    /// # Errors
    /// [`Refused::Nobody`] when not.
    pub fn known(&self, insecure_loopback: bool) -> Result<(), Refused> {
        if self.node.is_some() || (insecure_loopback && self.local) { Ok(()) } else { Err(Refused::Nobody) }
    }

    /// Whether the caller may speak for a node: a certificate speaks for its own node alone.
    ///
    /// # Errors
    /// [`Refused::Nobody`] or [`Refused::Other`] when not.
    pub fn speaks_for(&self, id: &str, insecure_loopback: bool) -> Result<(), Refused> {
        match &self.node {
            Some(node) if node == id => Ok(()),
            Some(node) => Err(Refused::Other { caller: node.clone() }),
            None => self.known(insecure_loopback),
        }
    }
}

impl From<&Call> for Caller {
    fn from(call: &Call) -> Self {
        let now = wall_ms() / 1000;
        // A resumed session brings its certificate along, however old.
        let certificate = call.certificate.as_ref().filter(|certificate| ends(certificate) > Some(now));
        let caller = Self::new(certificate.and_then(|certificate| node_of(certificate)), call.client);
        let fields = call.request.headers();
        let is_passed_on =
            ["forwarded", "x-forwarded-for", "via"].iter().any(|name| fields.contains_key(*name));
        // Behind a proxy on this machine everybody seems to be here.
        let local = caller.local && call.via.ip().to_canonical().is_loopback() && !is_passed_on;
        Self { local, certificate: certificate.cloned(), ..caller }
    }
}

/// The name (SAN URI) of a node in its certificate.
pub fn uri(id: &str) -> String {
    format!("{URI}{id}")
}

/// The node that a certificate (DER) was made for: its SAN URI `skerry://node/ID`, which every certificate
/// of the authority has. Nothing else counts: a common name is whatever somebody wrote there. Only for
/// certificates that were verified against the fleet's authority.
pub fn node_of(certificate: &[u8]) -> Option<String> {
    let certificate = parse(certificate)?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // With two it could be taken for either.
    let uri = uris.next().filter(|_| uris.next().is_none())?;
    uri.strip_prefix(URI).filter(|id| is_id(id)).map(str::to_owned)
}

/// Serial number of a certificate (DER), hex digits.
pub(crate) fn serial_of(certificate: &[u8]) -> Option<String> {
    parse(certificate).map(|certificate| hex::encode(certificate.raw_serial()))
}

/// When a certificate (DER) begins and ends, seconds since 1970.
pub fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let certificate = parse(certificate)?;
    let validity = certificate.validity();
    let seconds = |time: i64| u64::try_from(time).ok();
    Some((seconds(validity.not_before.timestamp())?, seconds(validity.not_after.timestamp())?))
}

/// When a certificate (DER) ends, seconds since 1970.
pub fn ends(certificate: &[u8]) -> Option<u64> {
    validity(certificate).map(|(_, ends)| ends)
}

fn parse(certificate: &[u8]) -> Option<X509Certificate<'_>> {
    x509_parser::parse_x509_certificate(certificate).ok().map(|(_, certificate)| certificate)
}

/// Whether a text can be a node's id: as `node.name`, at most 64 bytes.
pub fn is_id(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.len() <= MOST_ID
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(node: Option<&str>, address: &str) -> Caller {
        Caller::new(node.map(str::to_owned), address.parse().unwrap())
    }

    #[test]
    fn a_node_speaks_for_itself_alone() {
        let node = caller(Some("a"), "192.0.2.1:1000");
        assert!(node.speaks_for("a", false).is_ok() && node.known(false).is_ok());
        assert!(matches!(node.speaks_for("b", true), Err(Refused::Other { .. })));
        // Not even on loopback.
        assert!(caller(Some("a"), "127.0.0.1:1000").speaks_for("b", true).is_err());
    }

    #[test]
    fn without_a_certificate_only_loopback_can_be_let_in() {
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.1:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            let caller = caller(None, address);
            assert_eq!(caller.speaks_for("a", true).is_ok(), local, "{address}");
            assert!(matches!(caller.speaks_for("a", false), Err(Refused::Nobody)));
        }
    }

    #[test]
    fn ids_are_as_node_names() {
        for id in ["a", "edge-7", "Edge.7_b", &"a".repeat(MOST_ID)] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", "7up", "-a", "a b", "a/b", "é", "a\n", &"a".repeat(MOST_ID + 1)] {
            assert!(!is_id(id), "{id}");
        }
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        for bytes in [b"".as_slice(), b"\x30\x82\xff\xff", &[0x30; 64], &[0xff; 300]] {
            assert_eq!((node_of(bytes), ends(bytes), serial_of(bytes)), (None, None, None));
        }
    }
}

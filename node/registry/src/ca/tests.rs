use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn signed(authority: &Authority, id: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let request = Request::parse(&NewKey::make().unwrap().request).unwrap();
    authority.sign(&request, Subject { id, names: &names }, 30, NOW).unwrap()
}

fn at(ms: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(ms))
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(chain(authority.certificate()).remove(0)).unwrap();
    Arc::new(roots)
}

fn lets_in(authority: &Authority, pem: &str, ms: u64) -> bool {
    let builder = WebPkiClientVerifier::builder_with_provider(roots(authority), default_provider().into());
    let chain = chain(pem);
    builder.build().unwrap().verify_client_cert(&chain[0], &chain[1..], at(ms)).is_ok()
}

#[test]
fn what_it_signs_is_good_at_both_ends_of_tls() {
    let folder = tempfile::tempdir().unwrap();
    Authority::create(folder.path(), NOW).unwrap();
    // As after a restart.
    let authority =
        Authority::load(&folder.path().join(CA_CERTIFICATE), &folder.path().join(CA_KEY)).unwrap();
    let pem = signed(&authority, "edge-7", &["control.example", "192.0.2.1"]);
    let chain = chain(&pem);
    assert_eq!(chain.len(), 2);
    assert_eq!(fingerprint(&chain[1]), *authority.fingerprint());
    assert_eq!(identity::node_of(&chain[0]).as_deref(), Some("edge-7"));
    assert_eq!(identity::ends(&chain[0]), Some((NOW + 30 * DAY_MS) / 1000));
    assert!(lets_in(&authority, &pem, NOW) && !lets_in(&authority, &pem, NOW + 31 * DAY_MS));

    let builder = WebPkiServerVerifier::builder_with_provider(roots(&authority), default_provider().into());
    let verifier = builder.build().unwrap();
    let answers = |name: &str| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at(NOW)).is_ok()
    };
    assert_eq!(
        ["control.example", "192.0.2.1", "edge-7", "other.example"].map(answers),
        [true, true, false, false]
    );
}

#[test]
fn an_operator_is_no_node_and_answers_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(folder.path(), NOW).unwrap();
    let request = Request::parse(&NewKey::make().unwrap().request).unwrap();
    let now = crate::clock::wall_ms();
    let pem = authority.sign_operator(&request, "alice", 30, now).unwrap();
    let chain = chain(&pem);
    assert!(lets_in(&authority, &pem, now) && !lets_in(&authority, &pem, now + 31 * DAY_MS));
    assert_eq!(identity::node_of(&chain[0]), None);
    assert_eq!(operator::Operators::default().name_of(&chain[0]).as_deref(), Ok("alice"));
    let builder = WebPkiServerVerifier::builder_with_provider(roots(&authority), default_provider().into());
    let name = ServerName::try_from("alice").unwrap();
    assert!(
        builder.build().unwrap().verify_server_cert(&chain[0], &chain[1..], &name, &[], at(now)).is_err()
    );
    for wrong in ["", "a b", "../node/edge", "a/b"] {
        let refused = authority.sign_operator(&request, wrong, 30, now);
        assert!(matches!(refused, Err(CaError::Operator(_))), "{wrong}");
    }
}

#[test]
fn another_fleet_s_nodes_are_strangers() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = Authority::create(one.path(), NOW).unwrap();
    let other = Authority::create(other.path(), NOW).unwrap();
    assert!(!lets_in(&one, &signed(&other, "a", &[]), NOW));
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn keys_are_for_their_owner_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    Authority::create(folder.path(), NOW).unwrap();
    let key = folder.path().join(CA_KEY);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&key).unwrap();
    assert!(matches!(Authority::create(folder.path(), NOW), Err(CaError::There(_))));
    fs::remove_file(folder.path().join(CA_CERTIFICATE)).unwrap();
    assert!(matches!(Authority::create(folder.path(), NOW), Err(CaError::There(_))));
    assert_eq!(fs::read(&key).unwrap(), before);
    assert!(matches!(write_new(&key, "", 0o600), Err(CaError::There(_))));
}

#[test]
fn a_key_and_a_certificate_must_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let authority = Authority::create(&one, NOW).unwrap();
    Authority::create(&other, NOW).unwrap();
    let load = |certificate: &Path, key: &Path| Authority::load(certificate, key).err().unwrap().to_string();
    let error = load(&one.join(CA_CERTIFICATE), &other.join(CA_KEY));
    assert!(error.ends_with("the key is another certificate's"), "{error}");
    let node = folder.path().join(NODE_CERTIFICATE);
    fs::write(&node, signed(&authority, "a", &[])).unwrap();
    let error = load(&node, &one.join(CA_KEY));
    assert!(error.ends_with("it is not an authority's"), "{error}");
    let error = load(&one.join(CA_KEY), &one.join(CA_KEY));
    assert!(error.contains("no certificate is in it"), "{error}");
    let error = load(&one.join(CA_CERTIFICATE), &one.join("none"));
    assert!(error.starts_with("cannot read"), "{error}");
}

#[test]
fn requests_are_not_believed() {
    let NewKey { request, .. } = NewKey::make().unwrap();
    Request::parse(&request).unwrap();
    for wrong in
        ["", "-----BEGIN CERTIFICATE REQUEST-----", &request[..request.len() / 2], &"a".repeat(20_000)]
    {
        assert!(matches!(Request::parse(wrong), Err(CaError::Request(_))), "{wrong}");
    }
    // The signature does not fit any more when the key is another one.
    let block = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap().1;
    for place in [block.contents.len() / 3, block.contents.len() / 2] {
        let mut bytes = block.contents.clone();
        bytes[place] ^= 1;
        assert!(CertificateSigningRequestParams::from_der(&bytes.into()).is_err(), "{place}");
    }
    // What it asks to be is passed over.
    let mut params = CertificateParams::default();
    params.distinguished_name = name("control");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(folder.path(), NOW).unwrap();
    let subject = Subject { id: "a", names: &[] };
    let pem = authority.sign(&Request::parse(&request).unwrap(), subject, 30, NOW).unwrap();
    let der = der_of(&pem).unwrap();
    assert_eq!(identity::node_of(&der).as_deref(), Some("a"));
    assert!(!x509_parser::parse_x509_certificate(&der).unwrap().1.is_ca());
}

#[test]
fn only_one_uri_names_a_node() {
    let named = |names: &[SanType]| {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("edge-7");
        params.subject_alt_names = names.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        identity::node_of(certificate.der())
    };
    let uri = |text: &str| SanType::URI(Ia5String::try_from(text).unwrap());
    let host = SanType::DnsName(Ia5String::try_from("edge-7").unwrap());
    let node = uri("skerry://node/edge-7");
    assert_eq!(named(&[host.clone(), node.clone()]).as_deref(), Some("edge-7"));
    // The authority writes no others: a common name, and what looks like a node's, are no node's.
    for names in [vec![], vec![host], vec![node, uri("skerry://node/b")], vec![uri("https://node/edge-7")]] {
        assert_eq!(named(&names), None, "{names:?}");
    }
}

#[test]
fn names_are_hosts_or_addresses() {
    let check = |name: &str| check_names(&[name.to_owned()]);
    for name in ["a", "control.example", "192.0.2.1", "2001:db8::1", "xn--bcher-kva.example"] {
        assert!(check(name).is_ok(), "{name}");
    }
    for name in ["", "a b", "*.example", "a..b", "bücher.example", &"a".repeat(64), &"a.".repeat(200)] {
        assert!(check(name).is_err(), "{name}");
    }
    assert!(check_names(&vec!["a".to_owned(); MOST_NAMES + 1]).is_err());
}

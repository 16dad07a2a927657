//! Who made a policy: minisign signatures (Ed25519 over BLAKE2b-512) by keys that the operator names,
//! and versions that only go up.
//!
//! A signature holds for one name and one version: its trusted comment says both, and must agree with
//! the manifest. So a good signature is good for nothing but the file it was made for.
//!
//! Only prehashed signatures count. The older kind signs the file's own bytes, as the trusted comment
//! is signed: whoever gets one small file signed that way has signed a comment, or the hash of another
//! file. minisign has made prehashed ones by default since 0.10.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use semver::Version;

use crate::manifest::{Manifest, shown};
use crate::package::Package;

/// First bytes of a key, and of a signature of the older kind.
const ED25519: [u8; 2] = *b"Ed";
/// First bytes of a prehashed signature.
const PREHASHED: [u8; 2] = *b"ED";
/// Bytes before the key or the signature itself: the algorithm and the key's id.
const HEAD: usize = 10;

/// Why a policy is not trusted, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// A key of the configuration is none.
    #[error("the key of `{signer}` is no minisign public key; give the second line of its `.pub` file")]
    Key {
        /// Whose it is, by the configuration.
        signer: String,
    },
    /// A key stands in the configuration twice.
    #[error("`{signer}` and `{other}` have the same key {key}; remove one")]
    SameKey {
        /// Who has it.
        signer: String,
        /// Who has it too.
        other: String,
        /// The key.
        key: KeyId,
    },
    /// Nobody signed it.
    #[error("`{name}` {version} is not signed; `skerry policy sign` signs it")]
    Unsigned {
        /// The policy's name.
        name: String,
        /// Its version.
        version: Version,
    },
    /// What stands for a signature is none.
    #[error("the signature of `{name}` is no minisign signature: {reason}; sign the policy again")]
    Malformed {
        /// The policy's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A signature of the older kind.
    #[error(
        "the signature of `{name}` is not prehashed; sign the policy with `skerry policy sign`, or minisign 0.10 or newer"
    )]
    Legacy {
        /// The policy's name.
        name: String,
    },
    /// Signed by somebody that the operator does not name.
    #[error(
        "`{name}` is signed by key {key}, which is not trusted here; add its public key to `[policy.signers]` if it should be"
    )]
    UnknownKey {
        /// The policy's name.
        name: String,
        /// The key that it says it is signed by.
        key: KeyId,
    },
    /// The file is not what was signed.
    #[error(
        "the signature of `{name}` by `{signer}` (key {key}) is wrong: the file was changed after it was signed, or the signature made up"
    )]
    Wrong {
        /// The policy's name.
        name: String,
        /// Who should have signed it.
        signer: String,
        /// Whose key that is.
        key: KeyId,
    },
    /// The signature is for something else.
    #[error("the signature by `{signer}` is for `{found}` and not for `{expected}`; sign the policy again")]
    Comment {
        /// Who signed.
        signer: String,
        /// What the signature says.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// An older version than one that was taken before.
    #[error(
        "version {offered} is older than {taken}, which was taken here; raise the version, or go back with `skerry policy rollback`"
    )]
    Downgrade {
        /// The highest that was taken, whether it decides or not.
        taken: Version,
        /// What was offered.
        offered: Version,
    },
    /// A version that was taken before.
    #[error("version {0} was taken here already, whatever became of it; raise the version")]
    SameVersion(Version),
}

/// A key's id, as minisign prints it: 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// The id that stands in a key or a signature, without their base64.
    pub(crate) fn of(decoded: &[u8]) -> Option<Self> {
        decoded.get(2..HEAD)?.try_into().ok().map(Self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016X}", u64::from_le_bytes(self.0))
    }
}

/// Who signed a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The name that the operator gave the key.
    pub name: String,
    /// The key.
    pub key: KeyId,
}

/// The keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<(Signer, PublicKey)>);

impl TrustedKeys {
    /// Keys by the name that the operator gives each: the base64 line of a minisign public key.
    ///
    /// # Errors
    /// When one is no key, or is there twice.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, SignatureError> {
        let mut trusted: Vec<(Signer, PublicKey)> = Vec::new();
        for (name, text) in keys {
            let wrong = || SignatureError::Key { signer: name.to_owned() };
            let decoded = STANDARD.decode(text.trim()).map_err(|_| wrong())?;
            let key = KeyId::of(&decoded).filter(|_| decoded.starts_with(&ED25519)).ok_or_else(wrong)?;
            let public = PublicKey::from_base64(text.trim()).map_err(|_| wrong())?;
            if let Some((other, _)) = trusted.iter().find(|(other, _)| other.key == key) {
                let (signer, other) = (name.to_owned(), other.name.clone());
                return Err(SignatureError::SameKey { signer, other, key });
            }
            trusted.push((Signer { name: name.to_owned(), key }, public));
        }
        Ok(Self(trusted))
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who is trusted.
    pub fn signers(&self) -> impl Iterator<Item = &Signer> {
        self.0.iter().map(|(signer, _)| signer)
    }
}

/// Who signed this package, if it is somebody trusted.
///
/// # Errors
/// When it is not signed, not by a trusted key, or the signature is for something else.
pub fn verify(package: &Package, trusted: &TrustedKeys) -> Result<Signer, SignatureError> {
    let (name, version) = (&package.manifest.name, &package.manifest.version);
    let Some(text) = &package.signature else {
        return Err(SignatureError::Unsigned { name: name.clone(), version: version.clone() });
    };
    let malformed = |reason| SignatureError::Malformed { name: name.clone(), reason };
    let lines: Vec<&str> = text.lines().collect();
    let [_, head, _, _] = lines[..] else {
        return Err(malformed("it has not four lines"));
    };
    let head = STANDARD.decode(head).map_err(|_| malformed("its second line is no base64"))?;
    let key = KeyId::of(&head).ok_or_else(|| malformed("its second line is too short"))?;
    if head.starts_with(&ED25519) {
        return Err(SignatureError::Legacy { name: name.clone() });
    }
    if !head.starts_with(&PREHASHED) {
        return Err(malformed("its algorithm is not Ed25519"));
    }
    let signature = Signature::decode(text).map_err(|_| malformed("it cannot be read"))?;
    let Some((signer, public)) = trusted.0.iter().find(|(signer, _)| signer.key == key) else {
        return Err(SignatureError::UnknownKey { name: name.clone(), key });
    };
    public.verify(&package.signed, &signature, false).map_err(|_| SignatureError::Wrong {
        name: name.clone(),
        signer: signer.name.clone(),
        key,
    })?;
    let expected = comment(&package.manifest);
    let found = signature.trusted_comment();
    if found != expected {
        let (signer, found) = (signer.name.clone(), shown(found));
        return Err(SignatureError::Comment { signer, found, expected });
    }
    Ok(signer.clone())
}

/// The trusted comment of a policy's signature.
pub(crate) fn comment(manifest: &Manifest) -> String {
    format!("skerry-policy name={} version={}", manifest.name, manifest.version)
}

/// Whether a version may follow the highest that was `taken` under the same name. Who offers what is here
/// already (the same digest) has no need to ask.
///
/// # Errors
/// When it is not newer.
pub fn check_version(taken: Option<&Version>, offered: &Version) -> Result<(), SignatureError> {
    match taken {
        Some(taken) if taken == offered => Err(SignatureError::SameVersion(offered.clone())),
        Some(taken) if taken > offered => {
            Err(SignatureError::Downgrade { taken: taken.clone(), offered: offered.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{attach_signature, detach, pack};
    use crate::signing::{self, KeyPair};

    fn packed(version: &str) -> Vec<u8> {
        let manifest = format!("name = \"near\"\nversion = \"{version}\"\nworlds = [\"region-router\"]\n");
        pack(b"\0asm\x0d\0\x01\0", &manifest).unwrap()
    }

    fn trust(keys: &KeyPair) -> TrustedKeys {
        TrustedKeys::new([("ann", keys.public.as_str())]).unwrap()
    }

    fn signed(keys: &KeyPair) -> Vec<u8> {
        signing::sign(&packed("1.2.3"), &keys.secret_file, None).unwrap()
    }

    fn check(file: Vec<u8>, trusted: &TrustedKeys) -> Result<Signer, SignatureError> {
        verify(&Package::parse(file).unwrap(), trusted)
    }

    /// A signature by the key, over the file, with this trusted comment.
    fn with_comment(keys: &KeyPair, file: &[u8], comment: &str) -> Vec<u8> {
        let boxed = minisign::SecretKeyBox::from_string(&keys.secret_file).unwrap();
        let secret = boxed.into_unencrypted_secret_key().unwrap();
        let covered = detach(file).unwrap();
        let signature = minisign::sign(None, &secret, &covered[..], Some(comment), None).unwrap();
        attach_signature(file, &signature.into_string()).unwrap()
    }

    #[test]
    fn a_trusted_signature_names_its_signer() {
        let keys = signing::generate(None).unwrap();
        let signer = check(signed(&keys), &trust(&keys)).unwrap();
        assert_eq!(signer.name, "ann");
        // The id is the one that minisign writes in the comment of the public key.
        assert_eq!(signer.key.to_string().len(), 16);
        assert!(keys.public_file.lines().next().unwrap().ends_with(&signer.key.to_string()));
    }

    #[test]
    fn an_unsigned_policy_is_refused() {
        let keys = signing::generate(None).unwrap();
        let error = check(packed("1.2.3"), &trust(&keys)).unwrap_err().to_string();
        assert_eq!(error, "`near` 1.2.3 is not signed; `skerry policy sign` signs it");
    }

    #[test]
    fn a_key_that_is_not_trusted_is_named() {
        let (ann, eve) = (signing::generate(None).unwrap(), signing::generate(None).unwrap());
        let key = trust(&eve).signers().next().unwrap().key;
        for trusted in [trust(&ann), TrustedKeys::default()] {
            let error = check(signed(&eve), &trusted).unwrap_err();
            assert_eq!(error, SignatureError::UnknownKey { name: "near".into(), key });
            assert!(error.to_string().contains(&key.to_string()), "{error}");
        }
    }

    /// Who knows a trusted key's id can write it over their own.
    #[test]
    fn another_key_under_a_trusted_id_is_wrong() {
        let (ann, eve) = (signing::generate(None).unwrap(), signing::generate(None).unwrap());
        let text = Package::parse(signed(&eve)).unwrap().signature.unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut head = STANDARD.decode(&lines[1]).unwrap();
        head[2..HEAD].copy_from_slice(&STANDARD.decode(&ann.public).unwrap()[2..HEAD]);
        lines[1] = STANDARD.encode(head);
        let file = attach_signature(&packed("1.2.3"), &lines.join("\n")).unwrap();
        let error = check(file, &trust(&ann)).unwrap_err();
        assert!(matches!(error, SignatureError::Wrong { .. }), "{error}");
    }

    #[test]
    fn no_bit_of_what_is_signed_may_change() {
        let keys = signing::generate(None).unwrap();
        let trusted = trust(&keys);
        let file = signed(&keys);
        let covered = detach(&file).unwrap().len();
        for at in 0..covered {
            let mut changed = file.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(package) = Package::parse(changed) {
                assert!(verify(&package, &trusted).is_err(), "byte {at} was changed");
            }
        }
        // A signature for one file is wrong for another.
        let text = Package::parse(file).unwrap().signature.unwrap();
        let error = check(attach_signature(&packed("1.2.4"), &text).unwrap(), &trusted).unwrap_err();
        assert!(matches!(error, SignatureError::Wrong { .. }), "{error}");
    }

    #[test]
    fn no_change_of_a_signature_holds_or_panics() {
        let keys = signing::generate(None).unwrap();
        let trusted = trust(&keys);
        let text = Package::parse(signed(&keys)).unwrap().signature.unwrap();
        let first_line = text.lines().next().unwrap().len();
        for at in 0..text.len() {
            for byte in [b'A', b'=', b' ', b'\n', b'z'] {
                let mut changed = text.clone().into_bytes();
                changed[at] = byte;
                let changed = String::from_utf8(changed).unwrap();
                let result = check(attach_signature(&packed("1.2.3"), &changed).unwrap(), &trusted);
                // The first line and the last line's end are nobody's.
                if changed != text && at >= first_line && at + 1 < text.len() {
                    assert!(result.is_err(), "{changed}");
                }
            }
            let _ = check(attach_signature(&packed("1.2.3"), &text[..at]).unwrap(), &trusted);
        }
    }

    #[test]
    fn a_signature_of_the_older_kind_is_refused() {
        let keys = signing::generate(None).unwrap();
        let text = Package::parse(signed(&keys)).unwrap().signature.unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut head = STANDARD.decode(&lines[1]).unwrap();
        for (algorithm, legacy) in [(*b"Ed", true), (*b"XX", false)] {
            head[..2].copy_from_slice(&algorithm);
            lines[1] = STANDARD.encode(&head);
            let file = attach_signature(&packed("1.2.3"), &lines.join("\n")).unwrap();
            let error = check(file, &trust(&keys)).unwrap_err();
            assert_eq!(matches!(error, SignatureError::Legacy { .. }), legacy, "{error}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_name_and_version_alone() {
        let keys = signing::generate(None).unwrap();
        let file = packed("1.2.3");
        let right = with_comment(&keys, &file, "skerry-policy name=near version=1.2.3");
        assert!(check(right, &trust(&keys)).is_ok());
        for comment in [
            "skerry-policy name=far version=1.2.3",
            "skerry-policy name=near version=1.2.4",
            "skerry-policy name=near version=1.2.3 ",
            "timestamp:1700000000\tfile:near.policy.wasm\thashed",
            "",
        ] {
            let error = check(with_comment(&keys, &file, comment), &trust(&keys)).unwrap_err();
            assert!(matches!(error, SignatureError::Comment { .. }), "{error}");
            assert!(error.to_string().contains("not for `skerry-policy name=near version=1.2.3`"), "{error}");
        }
    }

    #[test]
    fn keys_of_the_configuration_are_checked() {
        let keys = signing::generate(None).unwrap();
        let public = keys.public.as_str();
        assert!(TrustedKeys::new([("ann", format!(" {public}\n").as_str())]).is_ok());
        assert!(TrustedKeys::new([]).unwrap().is_empty());
        let short = &public[..52];
        for text in ["", "no key", short, &keys.public_file, &keys.secret_file, &STANDARD.encode([0; 42])] {
            let error = TrustedKeys::new([("ann", text)]).unwrap_err();
            assert_eq!(error, SignatureError::Key { signer: "ann".into() }, "{text}");
        }
        let error = TrustedKeys::new([("ann", public), ("bob", public)]).unwrap_err().to_string();
        assert!(error.starts_with("`bob` and `ann` have the same key "), "{error}");
    }

    #[test]
    fn versions_only_go_up() {
        let version = |text| Version::parse(text).unwrap();
        let check = |taken, offered| check_version(Some(&version(taken)), &version(offered));
        assert_eq!(check_version(None, &version("0.0.1")), Ok(()));
        for (taken, offered) in [("1.2.3", "1.2.4"), ("1.2.9", "1.2.10"), ("1.9.9", "2.0.0")] {
            assert_eq!(check(taken, offered), Ok(()));
        }
        let down = check("1.10.0", "1.9.9").unwrap_err().to_string();
        assert_eq!(
            down,
            "version 1.9.9 is older than 1.10.0, which was taken here; raise the version, or go back with `skerry policy rollback`"
        );
        let same = check("1.0.0", "1.0.0").unwrap_err();
        assert!(matches!(same, SignatureError::SameVersion(_)), "{same}");
    }
}

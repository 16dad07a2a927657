//! Signing, on the author's side: key pairs in minisign's files, and signatures that
//! [`crate::signature`] accepts. The files are minisign's own, so either program reads the other's.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign::{ErrorKind, PublicKey, SecretKey, SecretKeyBox};

use crate::package::{self, Package, PackageError};
use crate::signature::{KeyId, comment};

/// Where a secret key says how its password is made into a key, and what it says for no password.
const KDF: std::ops::Range<usize> = 2..4;
const NO_KDF: [u8; 2] = [0, 0];

/// Why something cannot be signed, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// No keys could be made.
    #[error("cannot make a key pair: {0}")]
    Generate(String),
    /// The text is no secret key.
    #[error("no minisign secret key: {0}; give the `.key` file that came with the public key")]
    Key(String),
    /// The key has a password, and none was given.
    #[error("the secret key has a password; give it")]
    PasswordNeeded,
    /// It was another password.
    #[error("wrong password for the secret key, or the key's file is damaged")]
    Password,
    /// The signature could not be made.
    #[error("cannot sign: {0}")]
    Sign(String),
    /// What should be signed is no packaged policy.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// A new key pair.
pub struct KeyPair {
    /// The public key as a node's configuration takes it: one line of base64.
    pub public: String,
    /// The content of the public key's file.
    pub public_file: String,
    /// The content of the secret key's file; for its owner alone.
    pub secret_file: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Makes a key pair; its secret key is encrypted when there is a password. That takes a moment and
/// 32 MiB (scrypt), so that guessing does too.
///
/// # Errors
/// When the system gives no randomness, or no memory.
pub fn generate(password: Option<&str>) -> Result<KeyPair, SigningError> {
    let failed = |error: minisign::PError| SigningError::Generate(error.to_string());
    let keys = match password {
        // Given none, the crate would ask for one on the terminal.
        Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
        None => minisign::KeyPair::generate_unencrypted_keypair(),
    }
    .map_err(failed)?;
    let public_file = keys.pk.to_box().map_err(failed)?.into_string();
    let secret_file =
        keys.sk.to_box(Some("secret key for signing Skerry policies")).map_err(failed)?.into_string();
    Ok(KeyPair { public: keys.pk.to_base64(), public_file, secret_file })
}

/// Whether the secret key in this file has a password.
///
/// # Errors
/// When the file is no secret key.
pub fn needs_password(secret_file: &str) -> Result<bool, SigningError> {
    let wrong = |reason: &str| SigningError::Key(reason.to_owned());
    let line = secret_file.lines().nth(1).ok_or_else(|| wrong("it has no second line"))?;
    let key = STANDARD.decode(line.trim()).map_err(|_| wrong("its second line is no base64"))?;
    Ok(*key.get(KDF).ok_or_else(|| wrong("its second line is too short"))? != NO_KDF)
}

/// Signs a packed policy, in place of whoever signed it before.
///
/// # Errors
/// When the file is no packed policy, the key no key, or the password not its.
pub fn sign(packed: &[u8], secret_file: &str, password: Option<&str>) -> Result<Vec<u8>, SigningError> {
    let package = Package::parse(packed.to_vec())?;
    let secret = secret_key(secret_file, password)?;
    let failed = |error: minisign::PError| SigningError::Sign(error.to_string());
    let public = PublicKey::from_secret_key(&secret).map_err(failed)?;
    let trusted = comment(&package.manifest);
    let untrusted = match KeyId::of(&public.to_bytes()) {
        Some(key) => format!("signature by key {key}"),
        None => "signature".to_owned(),
    };
    // With the public key, the crate looks whether the two belong together.
    let signature =
        minisign::sign(Some(&public), &secret, &package.signed[..], Some(&trusted), Some(&untrusted));
    let signature = signature.map_err(failed)?.into_string();
    Ok(package::attach_signature(packed, &signature)?)
}

fn secret_key(file: &str, password: Option<&str>) -> Result<SecretKey, SigningError> {
    let encrypted = needs_password(file)?;
    let wrong = |error: minisign::PError| SigningError::Key(error.to_string());
    let boxed = SecretKeyBox::from_string(file).map_err(wrong)?;
    if !encrypted {
        return boxed.into_unencrypted_secret_key().map_err(wrong);
    }
    let password = password.ok_or(SigningError::PasswordNeeded)?;
    boxed.into_secret_key(Some(password.to_owned())).map_err(|error| match error.kind() {
        ErrorKind::Verify => SigningError::Password,
        _ => wrong(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{TrustedKeys, verify};

    fn packed() -> Vec<u8> {
        let manifest = "name = \"near\"\nversion = \"1.2.3\"\nworlds = [\"region-router\"]\n";
        package::pack(b"\0asm\x0d\0\x01\0", manifest).unwrap()
    }

    #[test]
    fn what_is_signed_again_has_one_signature() {
        let (ann, bob) = (generate(None).unwrap(), generate(None).unwrap());
        let trusted = TrustedKeys::new([("ann", ann.public.as_str()), ("bob", bob.public.as_str())]).unwrap();
        let by_ann = sign(&packed(), &ann.secret_file, None).unwrap();
        let by_bob = sign(&by_ann, &bob.secret_file, None).unwrap();
        for (file, name) in [(by_ann, "ann"), (by_bob, "bob")] {
            let package = Package::parse(file).unwrap();
            assert_eq!(package.signed, packed());
            assert_eq!(verify(&package, &trusted).unwrap().name, name);
        }
    }

    #[test]
    fn a_password_keeps_the_key() {
        let keys = generate(Some("open sesame")).unwrap();
        assert!(needs_password(&keys.secret_file).unwrap());
        assert!(matches!(sign(&packed(), &keys.secret_file, None), Err(SigningError::PasswordNeeded)));
        let wrong = sign(&packed(), &keys.secret_file, Some("open barley"));
        assert!(matches!(wrong, Err(SigningError::Password)), "{wrong:?}");
        let signed = sign(&packed(), &keys.secret_file, Some("open sesame")).unwrap();
        let trusted = TrustedKeys::new([("ann", keys.public.as_str())]).unwrap();
        assert!(verify(&Package::parse(signed).unwrap(), &trusted).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let keys = generate(None).unwrap();
        assert!(!needs_password(&keys.secret_file).unwrap());
        let mut damaged = keys.secret_file.clone().into_bytes();
        let middle = damaged.len() / 2;
        damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(damaged).unwrap();
        for file in ["", "one line", "two\nlines", "two\n\n", "short\nRWRT\n", &keys.public_file, &damaged] {
            let error = sign(&packed(), file, Some("")).unwrap_err();
            assert!(matches!(error, SigningError::Key(_)), "{file:?}: {error}");
        }
        let lines: Vec<&str> = keys.public_file.lines().collect();
        assert_eq!(lines[1], keys.public);
    }

    #[test]
    fn a_secret_does_not_print() {
        let keys = generate(None).unwrap();
        let secret = keys.secret_file.lines().nth(1).unwrap();
        assert!(!format!("{keys:?}").contains(secret));
    }

    #[test]
    fn what_is_no_package_is_not_signed() {
        let keys = generate(None).unwrap();
        let bare = sign(b"\0asm\x0d\0\x01\0", &keys.secret_file, None);
        assert!(matches!(bare, Err(SigningError::Package(PackageError::NoManifest))), "{bare:?}");
    }
}

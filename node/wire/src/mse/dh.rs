//! Diffie-Hellman modulo a prime of 768 bits, that of RFC 2409 §6.1 but for its end. The generator is 2.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams, FixedMontyParams};
use crypto_bigint::{Odd, U192, U768};
use rc4::{KeyInit, Rc4, StreamCipher};

use super::{Cipher, Error, KEY, hash};

const PRIME: &str = "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74\
    020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A63A36210000000000090563";

/// Bytes at the beginning of an RC4 stream that tell too much of its key.
const DISCARDED: usize = 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Prime;

impl ConstMontyParams<{ U768::LIMBS }> for Prime {
    const LIMBS: usize = U768::LIMBS;
    const PARAMS: FixedMontyParams<{ U768::LIMBS }> =
        FixedMontyParams::new_vartime(Odd::<U768>::from_be_hex(PRIME));
}

/// The public key that belongs to a private one.
pub(super) fn public_key(private_key: &[u8; 20]) -> [u8; KEY] {
    power(&U768::from_u8(2), private_key)
}

/// What both sides know and nobody else: `S`.
pub(super) struct Secret([u8; KEY]);

impl Secret {
    /// The secret shared with the owner of `public_key`.
    ///
    /// Fails on keys that belong to no private key, or whose powers are all alike: 0, 1 and -1.
    pub(super) fn new(private_key: &[u8; 20], public_key: &[u8; KEY]) -> Result<Self, Error> {
        const LAST: U768 = U768::from_be_hex(PRIME).wrapping_sub(&U768::ONE);
        let theirs = U768::from_be_slice(public_key);
        if theirs <= U768::ONE || theirs >= LAST {
            return Err(Error::Key);
        }
        Ok(Self(power(&theirs, private_key)))
    }

    /// `HASH(name, S)`
    pub(super) fn hash(&self, name: &[u8; 4]) -> [u8; 20] {
        hash(name, &[&self.0])
    }

    /// The stream with the key `HASH(name, S, SKEY)`.
    pub(super) fn cipher(&self, name: &[u8; 4], info_hash: &[u8; 20]) -> Cipher {
        let key = hash(name, &[&self.0, info_hash]);
        let mut rc4 = Rc4::new_from_slice(&key).expect("RC4 takes keys of 1 to 256 bytes");
        rc4.write_keystream(&mut [0; DISCARDED]);
        Cipher::Rc4(Box::new(rc4))
    }
}

fn power(base: &U768, exponent: &[u8; 20]) -> [u8; KEY] {
    let mut wide = [0; 24];
    wide[4..].copy_from_slice(exponent);
    let base = ConstMontyForm::<Prime, { U768::LIMBS }>::new(base);
    let power = base.pow_bounded_exp(&U192::from_be_slice(&wide), 160).retrieve();
    let mut bytes = [0; KEY];
    bytes.copy_from_slice(power.to_be_bytes().as_slice());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Sha1Hash;

    /// 1, 2, 3 and so on; 21, 22, 23 and so on.
    fn private_keys() -> [[u8; 20]; 2] {
        [1, 21].map(|first| std::array::from_fn(|at| first + at as u8))
    }

    #[test]
    fn keys_are_those_of_an_implementation_by_hand() {
        // Computed with Python's pow().
        let [a, b] = private_keys();
        let (public_a, public_b) = (public_key(&a), public_key(&b));
        assert_eq!(Sha1Hash::of(&public_a).to_string(), "9fa4c50e31ec4635ddb9ef30405e9db341313ed2");
        assert_eq!(Sha1Hash::of(&public_b).to_string(), "e87d6f3297cfe8e032abf07a2ab1028c4e2dcbb0");
        let (secret_a, secret_b) = (Secret::new(&a, &public_b).unwrap(), Secret::new(&b, &public_a).unwrap());
        assert_eq!(secret_a.0, secret_b.0);
        assert_eq!(Sha1Hash::of(&secret_a.0).to_string(), "12ba167261b1d285979464feaaf403c26052c6b8");
    }

    #[test]
    fn small_keys_are_powers_of_two() {
        let mut private_key = [0; 20];
        for exponent in [1, 8, 255] {
            private_key[19] = exponent;
            let mut expected = [0; KEY];
            expected[KEY - 1 - usize::from(exponent) / 8] = 1 << (exponent % 8);
            assert_eq!(public_key(&private_key), expected, "{exponent}");
        }
    }

    #[test]
    fn keys_that_give_the_secret_away_are_refused() {
        let [private_key, _] = private_keys();
        let prime = U768::from_be_hex(PRIME);
        let one = U768::ONE;
        for bad in [U768::ZERO, one, prime.wrapping_sub(&one), prime, U768::MAX] {
            let mut key = [0; KEY];
            key.copy_from_slice(bad.to_be_bytes().as_slice());
            assert_eq!(Secret::new(&private_key, &key).err(), Some(Error::Key));
        }
    }
}

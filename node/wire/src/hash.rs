//! Hashes as they are stored, written and sent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A text that is not the hash it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {digits} hex digits")]
pub struct ParseError {
    what: &'static str,
    digits: &'static str,
}

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident, $length:literal, $digest:ty, $what:literal, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $length]);

        impl $name {
            /// Length, bytes.
            pub const LENGTH: usize = $length;

            /// Hashes `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(<$digest>::digest(bytes).into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                from_hex(text).map(Self).ok_or(ParseError { what: $what, digits: $digits })
            }
        }

        impl From<[u8; $length]> for $name {
            fn from(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }
        }

        /// Hex in formats for people, bytes in the others.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

hash! {
    /// A SHA-1 hash: a v1 piece or info-hash.
    Sha1Hash, 20, Sha1, "a SHA-1 hash", "40"
}

hash! {
    /// A SHA-256 hash: a node of a v2 tree, or a v2 info-hash.
    Sha256Hash, 32, Sha256, "a SHA-256 hash", "64"
}

/// What a torrent is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InfoHash {
    /// SHA-1 of the info dictionary (BEP 3).
    V1(Sha1Hash),
    /// SHA-256 of the info dictionary (BEP 52).
    V2(Sha256Hash),
}

impl InfoHash {
    /// As trackers, handshakes and the DHT carry it: 20 bytes, a v2 hash cut short (BEP 52).
    pub fn wire(&self) -> [u8; 20] {
        match self {
            Self::V1(hash) => hash.0,
            Self::V2(hash) => {
                let mut short = [0; 20];
                short.copy_from_slice(&hash.0[..20]);
                short
            }
        }
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V1(hash) => fmt::Display::fmt(hash, formatter),
            Self::V2(hash) => fmt::Display::fmt(hash, formatter),
        }
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// 40 hex digits are v1, 64 are v2.
impl FromStr for InfoHash {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let v1 = from_hex(text).map(Sha1Hash).map(Self::V1);
        let hash = v1.or_else(|| from_hex(text).map(Sha256Hash).map(Self::V2));
        hash.ok_or(ParseError { what: "an info-hash", digits: "40 or 64" })
    }
}

/// Hex in every format.
impl Serialize for InfoHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InfoHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

/// `N` bytes from exactly `2 * N` hex digits of either case.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = ((high << 4) | low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_read_back_from_their_text() {
        // FIPS 180-4's "abc".
        let short = Sha1Hash::of(b"abc");
        let long = Sha256Hash::of(b"abc");
        assert_eq!(short.to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(long.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(short.to_string().to_uppercase().parse(), Ok(short));
        assert_eq!(short.to_string().parse(), Ok(InfoHash::V1(short)));
        assert_eq!(long.to_string().parse(), Ok(InfoHash::V2(long)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "a9", &"é".repeat(10), &"é".repeat(20), &"+1".repeat(20), &"g".repeat(64)] {
            assert!(text.parse::<InfoHash>().is_err(), "{text}");
        }
        assert_eq!("".parse::<Sha1Hash>().unwrap_err().to_string(), "a SHA-1 hash is 40 hex digits");
    }

    #[test]
    fn a_v2_hash_travels_cut_short() {
        let hash = Sha256Hash::of(b"abc");
        assert_eq!(InfoHash::V2(hash).wire(), hash.0[..20]);
    }
}

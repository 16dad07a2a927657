//! Address prefixes, written `192.0.2.0/24` and `2001:db8::/32`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest text of a prefix is 43 characters; errors repeat no more than this.
const MOST_CHARS: usize = 64;

/// A prefix of addresses. Bits behind its length are zero: a text where they are not is refused
/// with the prefix that was probably meant, since one of the two numbers in it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// What stands before the slash is no address.
    #[error("`{0}` is no address prefix, as 192.0.2.0/24 or 2001:db8::/32")]
    Malformed(String),
    /// More bits than an address has.
    #[error("`{text}` has a length of more than {bits} bits")]
    Length {
        /// What was written.
        text: String,
        /// Bits of an address of its family.
        bits: u8,
    },
    /// The address goes on behind the prefix.
    #[error("`{text}` has bits set behind its length; `{meant}` is the prefix that it is in")]
    HostBits {
        /// What was written.
        text: String,
        /// The prefix of that length.
        meant: Prefix,
    },
}

impl Prefix {
    /// The prefix of an address: bits behind `length` are cleared. `None` when `length` is more than
    /// the bits of an address of that family, 32 or 128.
    pub fn of(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The prefix that a text names, bits behind its length cleared; an address without a length is
    /// a prefix of one address. For files of others, which are written that way.
    ///
    /// # Errors
    /// When there is no address, or more bits than it has.
    pub fn covering(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = split(text)?;
        Self::of(address, length)
            .ok_or_else(|| PrefixError::Length { text: text.to_owned(), bits: bits(address) })
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length, bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is in it; one of the other family never is.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::of(address, self.length).is_some_and(|prefix| prefix == *self)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn split(text: &str) -> Result<(IpAddr, u8), PrefixError> {
    let malformed = || PrefixError::Malformed(text.chars().take(MOST_CHARS).collect());
    if text.len() > MOST_CHARS {
        return Err(malformed());
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| malformed())?;
    let length = match length {
        // `parse` would take a sign.
        Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map_err(|_| malformed())?
        }
        Some(_) => return Err(malformed()),
        None => bits(address),
    };
    Ok((address, length))
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let prefix = Self::covering(text)?;
        let (written, _) = split(text)?;
        if written != prefix.address {
            return Err(PrefixError::HostBits { text: text.to_owned(), meant: prefix });
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn they_are_written_as_they_are_read() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32", "2001:db8::1/128"] {
            assert_eq!(prefix(text).to_string(), text);
            assert_eq!(serde_json::from_str::<Prefix>(&format!("\"{text}\"")).unwrap(), prefix(text));
            assert_eq!(serde_json::to_string(&prefix(text)).unwrap(), format!("\"{text}\""));
        }
        assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.1/32"));
    }

    #[test]
    fn bits_behind_the_length_are_refused_with_what_was_meant() {
        let error = "192.0.2.1/24".parse::<Prefix>().unwrap_err().to_string();
        assert!(error.ends_with("`192.0.2.0/24` is the prefix that it is in"), "{error}");
        assert!("2001:db8::1/32".parse::<Prefix>().is_err());
        assert_eq!(Prefix::covering("192.0.2.1/24").unwrap(), prefix("192.0.2.0/24"));
        assert_eq!(Prefix::covering("255.255.255.255/0").unwrap(), prefix("0.0.0.0/0"));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in
            ["", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/-1", "10/8"]
        {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
            assert!(Prefix::covering(text).is_err(), "{text}");
        }
        for text in ["10.0.0.0/8/8", "10.0.0.0/256", " 10.0.0.0/8", "10.0.0.0/8\n", "a".repeat(9000).as_str()]
        {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.len() < 160, "{error}");
        }
    }

    #[test]
    fn addresses_are_in_them_or_not() {
        let net = prefix("192.0.2.0/24");
        assert!(net.contains("192.0.2.255".parse().unwrap()));
        assert!(!net.contains("192.0.3.0".parse().unwrap()));
        assert!(!net.contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(prefix("::/0").contains("2001:db8::1".parse().unwrap()));
    }
}

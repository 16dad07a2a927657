//! An address with the length of its network's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An interface's address and how much of it names the network: `192.0.2.7/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// The address itself.
    pub address: IpAddr,
    /// Bits of it that name the network.
    pub length: u8,
}

impl Cidr {
    /// The network: the address without its host part.
    pub fn network(self) -> Self {
        Self { address: masked(self.address, self.length), ..self }
    }

    /// Whether an address is in its network.
    pub fn holds(self, other: IpAddr) -> bool {
        self.address.is_ipv4() == other.is_ipv4() && masked(other, self.length) == self.network().address
    }

    /// Whether the network is this one address.
    pub fn is_host(self) -> bool {
        self.length == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "an address is written with the length of its prefix: 192.0.2.7/24, 2001:db8::7/64";
        let (address, length) = text.split_once('/').ok_or(WRONG)?;
        let address: IpAddr = address.parse().map_err(|_| WRONG)?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit());
        let length =
            length.parse::<u8>().ok().filter(|length| digits && (1..=most).contains(length)).ok_or(WRONG)?;
        Ok(Self { address, length })
    }
}

impl TryFrom<String> for Cidr {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["192.0.2.7/24", "10.0.0.1/8", "2001:db8::7/64", "2001:db8::7/128", "192.0.2.7/32"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for text in
            ["", "192.0.2.7", "192.0.2.7/0", "192.0.2.7/33", "192.0.2.7/+8", "::1/129", "a/8", "192.0.2.7/ 8"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        assert_eq!(cidr("192.0.2.7/24").network(), cidr("192.0.2.0/24"));
        assert_eq!(cidr("2001:db8:0:7::1/48").network(), cidr("2001:db8::/48"));
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(cidr("192.0.2.7/31").holds(at("192.0.2.6")));
        assert!(!cidr("192.0.2.7/31").holds(at("192.0.2.8")));
        assert!(cidr("2001:db8::7/64").holds(at("2001:db8::ffff")));
        assert!(!cidr("2001:db8::7/64").holds(at("192.0.2.7")));
        assert!(cidr("192.0.2.7/32").is_host() && cidr("::1/128").is_host() && !cidr("::1/32").is_host());
    }
}

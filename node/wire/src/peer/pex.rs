//! Peer exchange (BEP 11, `ut_pex`): with whom the sender is connected, told once a minute.

use std::iter;
use std::net::SocketAddr;

use super::Error;
use crate::bencode::{self, Value, Writer};
use crate::tracker::compact;

/// The most peers that are told of as new in one message, and the most as gone.
pub const MAX_TOLD: usize = 50;

/// The most new peers, or gone ones, in a message that is taken. Some clients tell of more than
/// [`MAX_TOLD`] in their first one, which the text allows.
pub const MAX_TAKEN: usize = 200;

/// The peer prefers encryption.
pub const PREFERS_ENCRYPTION: u8 = 0x01;
/// The peer wants nothing: it is a seed, or a partial one.
pub const UPLOAD_ONLY: u8 = 0x02;
/// The peer speaks uTP.
pub const UTP: u8 = 0x04;
/// The peer can help others through a NAT.
pub const HOLEPUNCH: u8 = 0x08;
/// The sender connected to the peer, so that others can.
pub const REACHABLE: u8 = 0x10;

/// A peer that the sender is connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Contact {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is like: [`UPLOAD_ONLY`] and others.
    pub flags: u8,
}

/// A message of `ut_pex`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pex {
    /// Connected since the last message.
    pub added: Vec<Contact>,
    /// Gone since the last message.
    pub dropped: Vec<SocketAddr>,
}

impl Pex {
    /// Reads the payload of an extension message. Peers without a port are left out, flags that are
    /// missing are 0, and IPv4 addresses come as such however they were written.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let value = bencode::decode_lenient(payload)?;
        let dict = value.dict().ok_or(Error::Key { extension: "ut_pex", key: "added" })?;
        let bytes = |key: &[u8]| dict.get(key).and_then(Value::bytes).unwrap_or_default();
        let added = [bytes(b"added"), bytes(b"added.f"), bytes(b"added6"), bytes(b"added6.f")];
        let dropped = [bytes(b"dropped"), &[], bytes(b"dropped6"), &[]];
        Ok(Self {
            added: contacts(added, "added")?,
            dropped: contacts(dropped, "dropped")?.into_iter().map(|contact| contact.address).collect(),
        })
    }

    /// The payload of an extension message. Of new peers, and of gone ones, the first [`MAX_TOLD`]
    /// are in it.
    pub fn encode(&self) -> Vec<u8> {
        let (mut added, mut flags) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for contact in self.added.iter().take(MAX_TOLD) {
            let family = put(&mut added, contact.address);
            flags[family].push(contact.flags);
        }
        let mut dropped = [Vec::new(), Vec::new()];
        for address in self.dropped.iter().take(MAX_TOLD) {
            put(&mut dropped, *address);
        }
        let fields: [(&[u8], &[u8]); 6] = [
            (b"added", &added[0]),
            (b"added.f", &flags[0]),
            (b"added6", &added[1]),
            (b"added6.f", &flags[1]),
            (b"dropped", &dropped[0]),
            (b"dropped6", &dropped[1]),
        ];
        let mut writer = Writer::new();
        writer.dict(|dict| {
            for (key, bytes) in fields {
                // One of the lists must be there even when all are empty.
                if !bytes.is_empty() || key == b"added" {
                    dict.key(key).bytes(bytes);
                }
            }
        });
        writer.finish()
    }
}

/// Contacts out of compact IPv4 addresses, a flag for each, and the same of IPv6.
fn contacts(lists: [&[u8]; 4], key: &'static str) -> Result<Vec<Contact>, Error> {
    let [four, four_flags, six, six_flags] = lists;
    if !four.len().is_multiple_of(compact::V4) || !six.len().is_multiple_of(compact::V6) {
        return Err(Error::Key { extension: "ut_pex", key });
    }
    let peers = four.len() / compact::V4 + six.len() / compact::V6;
    if peers > MAX_TAKEN {
        return Err(Error::Peers { peers });
    }
    let four = compact::v4(four).zip(flags(four_flags));
    let six = compact::v6(six).zip(flags(six_flags));
    let contacts = four.chain(six).map(|(address, flags)| Contact { address: canonical(address), flags });
    Ok(contacts.filter(|contact| contact.address.port() > 0).collect())
}

fn flags(flags: &[u8]) -> impl Iterator<Item = u8> {
    flags.iter().copied().chain(iter::repeat(0))
}

/// Appends `address` to the list of its family, and tells which that is.
fn put(lists: &mut [Vec<u8>; 2], address: SocketAddr) -> usize {
    let address = canonical(address);
    let family = usize::from(address.is_ipv6());
    compact::push(&mut lists[family], address);
    family
}

/// An IPv4 address written as an IPv6 one is an IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::noise;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn pex() -> Pex {
        Pex {
            added: vec![
                Contact { address: address("192.0.2.1:6881"), flags: UPLOAD_ONLY | REACHABLE },
                Contact { address: address("192.0.2.2:1"), flags: 0 },
                Contact { address: address("[2001:db8::1]:6882"), flags: PREFERS_ENCRYPTION },
            ],
            dropped: vec![address("192.0.2.9:80"), address("[2001:db8::9]:81")],
        }
    }

    #[test]
    fn it_is_written_as_the_text_says() {
        let expected = b"d5:added12:\xc0\0\x02\x01\x1a\xe1\xc0\0\x02\x02\0\x01\
            7:added.f2:\x12\0\
            6:added618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x1a\xe2\
            8:added6.f1:\x01\
            7:dropped6:\xc0\0\x02\x09\0\x50\
            8:dropped618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x09\0\x51e";
        assert_eq!(pex().encode().escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_eq!(Pex::default().encode(), b"d5:added0:e");
    }

    #[test]
    fn it_reads_back() {
        for message in [pex(), Pex::default()] {
            assert_eq!(Pex::parse(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn no_more_is_told_than_the_text_allows() {
        let contact = |port: u16| Contact { address: SocketAddr::from(([192, 0, 2, 1], port)), flags: 4 };
        let added: Vec<_> = (1..=90).map(contact).collect();
        let dropped = added.iter().map(|contact| contact.address).collect();
        let read = Pex::parse(&Pex { added: added.clone(), dropped }.encode()).unwrap();
        assert_eq!(read.added, added[..50]);
        assert_eq!(read.dropped.len(), 50);
    }

    #[test]
    fn more_than_anybody_tells_is_refused() {
        let payload = |four: usize, six: usize| {
            let mut writer = Writer::new();
            writer.dict(|dict| {
                dict.key(b"dropped").bytes(&vec![1; 6 * four]);
                dict.key(b"dropped6").bytes(&vec![1; 18 * six]);
            });
            writer.finish()
        };
        assert_eq!(Pex::parse(&payload(150, 50)).map(|pex| pex.dropped.len()), Ok(200));
        assert_eq!(Pex::parse(&payload(150, 51)), Err(Error::Peers { peers: 201 }));
        assert_eq!(Pex::parse(&payload(7, 201)), Err(Error::Peers { peers: 208 }));
    }

    #[test]
    fn lists_are_whole() {
        for payload in [&b"d5:added5:abcdee"[..], b"d6:added66:abcdefe", b"d7:dropped7:abcdefge", b"le"] {
            assert!(matches!(Pex::parse(payload), Err(Error::Key { .. })), "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn flags_stay_with_their_peers() {
        let read = Pex::parse(
            b"d5:added18:\x01\x02\x03\x04\0\0\x01\x02\x03\x05\0\x01\x01\x02\x03\x06\0\x01\
            7:added.f2:\x04\x02e",
        );
        let contact = |text, flags| Contact { address: address(text), flags };
        let added = vec![contact("1.2.3.5:1", 2), contact("1.2.3.6:1", 0)];
        assert_eq!(read, Ok(Pex { added, dropped: Vec::new() }));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let message = Pex { dropped: vec![address("[::ffff:192.0.2.1]:6881")], ..Pex::default() };
        assert_eq!(Pex::parse(&message.encode()).unwrap().dropped, [address("192.0.2.1:6881")]);
        let mut payload = b"d6:added618:".to_vec();
        payload.extend([0; 10]);
        payload.extend(*b"\xff\xff\xc0\0\x02\x01\x1a\xe1e");
        assert_eq!(Pex::parse(&payload).unwrap().added[0].address, address("192.0.2.1:6881"));
    }

    #[test]
    fn no_bytes_are_too_strange() {
        let whole = pex().encode();
        for seed in 0..10_000 {
            let noise = noise(seed, 3);
            let mut bytes = whole.clone();
            let at = usize::from(u16::from_be_bytes([noise[0], noise[1]])) % bytes.len();
            bytes[at] = noise[2];
            let _ = Pex::parse(&bytes);
        }
    }
}

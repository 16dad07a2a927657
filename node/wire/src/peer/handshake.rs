//! The handshake (BEP 3).

use std::ops::BitOr;

use super::Error;

/// What every handshake begins with.
pub const PROTOCOL: [u8; 20] = *b"\x13BitTorrent protocol";

/// Length of a handshake, bytes.
pub const HANDSHAKE_LENGTH: usize = 68;

/// What a peer says of itself before anything else. Both sides send one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// What it supports.
    pub reserved: Reserved,
    /// The torrent that the connection is about; a v2 hash is cut short.
    pub info_hash: [u8; 20],
    /// Its id.
    pub peer_id: [u8; 20],
}

impl Handshake {
    /// Reads the handshake that `bytes` begin with. `None`: it is not whole yet.
    ///
    /// Fails on the first byte that is not as it should be.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Error> {
        let seen = bytes.len().min(PROTOCOL.len());
        if bytes[..seen] != PROTOCOL[..seen] {
            return Err(Error::Protocol);
        }
        let Some(bytes) = bytes.first_chunk::<HANDSHAKE_LENGTH>() else { return Ok(None) };
        let (mut reserved, mut info_hash, mut peer_id) = ([0; 8], [0; 20], [0; 20]);
        reserved.copy_from_slice(&bytes[20..28]);
        info_hash.copy_from_slice(&bytes[28..48]);
        peer_id.copy_from_slice(&bytes[48..]);
        Ok(Some(Self { reserved: Reserved(u64::from_be_bytes(reserved)), info_hash, peer_id }))
    }

    /// As it is sent.
    pub fn encode(&self) -> [u8; HANDSHAKE_LENGTH] {
        let mut bytes = [0; HANDSHAKE_LENGTH];
        bytes[..20].copy_from_slice(&PROTOCOL);
        bytes[20..28].copy_from_slice(&self.reserved.0.to_be_bytes());
        bytes[28..48].copy_from_slice(&self.info_hash);
        bytes[48..].copy_from_slice(&self.peer_id);
        bytes
    }
}

/// The reserved bits of a handshake: what a peer supports.
///
/// ```
/// use skerry_wire::peer::Reserved;
///
/// let reserved = Reserved::EXTENSION | Reserved::FAST;
/// assert!(reserved.contains(Reserved::FAST));
/// assert!(!reserved.contains(Reserved::FAST | Reserved::DHT));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved(u64);

impl Reserved {
    /// The extension protocol (BEP 10).
    pub const EXTENSION: Self = Self(1 << 20);
    /// The fast extension (BEP 6).
    pub const FAST: Self = Self(1 << 2);
    /// The DHT (BEP 5).
    pub const DHT: Self = Self(1);
    /// BitTorrent v2 (BEP 52): a handshake for a v1 info-hash may be answered with the v2 one.
    pub const V2: Self = Self(1 << 4);
    /// What this side supports.
    pub const OURS: Self = Self(Self::EXTENSION.0 | Self::FAST.0 | Self::V2.0);

    /// Whether all of `features` are there.
    pub const fn contains(self, features: Self) -> bool {
        self.0 & features.0 == features.0
    }
}

impl BitOr for Reserved {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::noise;

    fn handshake() -> Handshake {
        let reserved = Reserved::EXTENSION | Reserved::FAST | Reserved::DHT | Reserved::V2;
        Handshake { reserved, info_hash: [7; 20], peer_id: *b"-SK0001-abcdefghijkl" }
    }

    #[test]
    fn bits_stand_where_the_texts_say() {
        let bytes = handshake().encode();
        assert_eq!(&bytes[..20], b"\x13BitTorrent protocol");
        assert_eq!(bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x15]);
        assert_eq!(bytes[28..48], [7; 20]);
        assert_eq!(&bytes[48..], b"-SK0001-abcdefghijkl");
    }

    #[test]
    fn it_reads_back_once_it_is_whole() {
        let mut bytes = handshake().encode().to_vec();
        for length in 0..bytes.len() {
            assert_eq!(Handshake::parse(&bytes[..length]), Ok(None), "{length}");
        }
        bytes.extend(b"more");
        assert_eq!(Handshake::parse(&bytes), Ok(Some(handshake())));
    }

    #[test]
    fn other_protocols_are_refused_at_their_first_byte() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"\x13BitTorrent  ", b"\x14", &noise(1, 68)] {
            assert_eq!(Handshake::parse(bytes), Err(Error::Protocol));
        }
    }
}

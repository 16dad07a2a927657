//! The extension protocol (BEP 10): its handshake, and messages too short for a room of their own.

use std::net::IpAddr;

use super::{Error, metadata};
use crate::bencode::{self, Dict, Value, Writer};

/// Id of the extension handshake, for both sides.
pub const HANDSHAKE: u8 = 0;

/// No more of the name that a peer gives its software is kept, bytes.
pub const MAX_CLIENT: usize = 64;

const LT_DONTHAVE: &[u8] = b"lt_donthave";
const UT_METADATA: &[u8] = b"ut_metadata";
const UT_PEX: &[u8] = b"ut_pex";

/// Under which ids a peer takes the messages of the extensions that are known here.
///
/// In a handshake, `None` is an extension that is not named: of a later one it changes nothing.
/// `Some(0)` switches it off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Pieces that are gone (BEP 54).
    pub lt_donthave: Option<u8>,
    /// The info dictionary (BEP 9).
    pub ut_metadata: Option<u8>,
    /// Peers (BEP 11).
    pub ut_pex: Option<u8>,
}

impl Extensions {
    /// The ids that this side gives out.
    pub const OURS: Self = Self { lt_donthave: Some(3), ut_metadata: Some(1), ut_pex: Some(2) };

    /// Takes in those of a handshake; then `None` is an extension that is off.
    pub fn update(&mut self, change: &Self) {
        let set = |id: &mut Option<u8>, change: Option<u8>| {
            *id = change.or(*id).filter(|id| *id > 0);
        };
        set(&mut self.lt_donthave, change.lt_donthave);
        set(&mut self.ut_metadata, change.ut_metadata);
        set(&mut self.ut_pex, change.ut_pex);
    }
}

/// The extension handshake. A peer may send another one later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtensionHandshake {
    /// `m`: what the sender takes, under which ids.
    pub extensions: Extensions,
    /// `metadata_size`: length of the info dictionary, 1 to [`metadata::MAX_LENGTH`] bytes.
    pub metadata_length: Option<u32>,
    /// `p`: the TCP port that the sender listens on.
    pub port: Option<u16>,
    /// `reqq`: how many requests the sender keeps without dropping any.
    pub requests: Option<u32>,
    /// `upload_only` (BEP 21): whether the sender wants nothing, though it may not have everything.
    pub upload_only: Option<bool>,
    /// `v`: the sender's software, up to [`MAX_CLIENT`] bytes of it.
    pub client: Option<String>,
    /// `yourip`: the receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
}

impl ExtensionHandshake {
    /// Reads the payload of a message with the id [`HANDSHAKE`].
    ///
    /// Values that make no sense are as good as missing; only what is no dictionary is an error.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let value = bencode::decode_lenient(payload)?;
        let dict = value.dict().ok_or(Error::Key { extension: "handshake", key: "m" })?;
        let names = dict.get(b"m").and_then(Value::dict);
        let id = |name| u8::try_from(integer(names?, name)?).ok();
        let bytes = |key| dict.get(key).and_then(Value::bytes);
        Ok(Self {
            extensions: Extensions {
                lt_donthave: id(LT_DONTHAVE),
                ut_metadata: id(UT_METADATA),
                ut_pex: id(UT_PEX),
            },
            metadata_length: integer(dict, b"metadata_size")
                .and_then(|length| u32::try_from(length).ok())
                .filter(|length| (1..=metadata::MAX_LENGTH).contains(&(*length as usize))),
            port: integer(dict, b"p").and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
            requests: integer(dict, b"reqq").and_then(|count| u32::try_from(count).ok()),
            upload_only: integer(dict, b"upload_only").map(|flag| flag != 0),
            client: bytes(b"v".as_slice())
                .map(|name| String::from_utf8_lossy(&name[..name.len().min(MAX_CLIENT)]).into_owned()),
            your_ip: bytes(b"yourip".as_slice()).and_then(address),
        })
    }

    /// The payload of a message with the id [`HANDSHAKE`].
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.dict(|dict| {
            dict.key(b"m").dict(|names| {
                let ids = &self.extensions;
                let named =
                    [(LT_DONTHAVE, ids.lt_donthave), (UT_METADATA, ids.ut_metadata), (UT_PEX, ids.ut_pex)];
                for (name, id) in named {
                    if let Some(id) = id {
                        names.key(name).integer(id.into());
                    }
                }
            });
            let numbers: [(&[u8], Option<i64>); 4] = [
                (b"metadata_size", self.metadata_length.map(i64::from)),
                (b"p", self.port.map(i64::from)),
                (b"reqq", self.requests.map(i64::from)),
                (b"upload_only", self.upload_only.map(i64::from)),
            ];
            for (key, number) in numbers {
                if let Some(number) = number {
                    dict.key(key).integer(number);
                }
            }
            if let Some(client) = &self.client {
                dict.key(b"v").bytes(client.as_bytes());
            }
            match self.your_ip {
                Some(IpAddr::V4(ip)) => dict.key(b"yourip").bytes(&ip.octets()),
                Some(IpAddr::V6(ip)) => dict.key(b"yourip").bytes(&ip.octets()),
                None => {}
            }
        });
        writer.finish()
    }
}

/// The payload of `lt_donthave` (BEP 54): the sender no longer has `piece`.
pub fn dont_have(piece: u32) -> [u8; 4] {
    piece.to_be_bytes()
}

/// The piece that a payload of `lt_donthave` is about.
pub fn parse_dont_have(payload: &[u8]) -> Result<u32, Error> {
    let piece = payload.try_into().map_err(|_| Error::Key { extension: "lt_donthave", key: "index" })?;
    Ok(u32::from_be_bytes(piece))
}

pub(super) fn integer(dict: &Dict<'_>, key: &[u8]) -> Option<i64> {
    dict.get(key).and_then(Value::integer)
}

/// An address in 4 or 16 bytes.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::noise;

    fn full() -> ExtensionHandshake {
        ExtensionHandshake {
            extensions: Extensions::OURS,
            metadata_length: Some(31_235),
            port: Some(6881),
            requests: Some(500),
            upload_only: Some(true),
            client: Some("Skerry 0.1".to_owned()),
            your_ip: Some([192, 0, 2, 7].into()),
        }
    }

    #[test]
    fn it_is_written_in_canonical_form() {
        let expected = b"d1:md11:lt_donthavei3e11:ut_metadatai1e6:ut_pexi2ee13:metadata_sizei31235e1:pi6881e\
            4:reqqi500e11:upload_onlyi1e1:v10:Skerry 0.16:yourip4:\xc0\x00\x02\x07e";
        assert_eq!(full().encode().escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_eq!(ExtensionHandshake::default().encode(), b"d1:mdee");
    }

    #[test]
    fn it_reads_back() {
        for handshake in [
            full(),
            ExtensionHandshake::default(),
            ExtensionHandshake { your_ip: Some([7; 16].into()), upload_only: Some(false), ..full() },
        ] {
            assert_eq!(ExtensionHandshake::parse(&handshake.encode()), Ok(handshake));
        }
    }

    #[test]
    fn what_makes_no_sense_is_as_good_as_missing() {
        for bytes in [
            &b"de"[..],
            b"d1:mdee",
            b"d1:mi1e1:p4:68811:vi1ee",
            b"d1:md6:ut_pexi256ee13:metadata_sizei0e1:pi0e4:reqqi-1e6:yourip3:abce",
            b"d1:md6:ut_pexi-1ee13:metadata_sizei8388609e1:pi65536e4:reqqi4294967296ee",
        ] {
            let read = ExtensionHandshake::parse(bytes);
            assert_eq!(read, Ok(ExtensionHandshake::default()), "{}", bytes.escape_ascii());
        }
        assert!(matches!(ExtensionHandshake::parse(b"le"), Err(Error::Key { .. })));
        assert!(matches!(ExtensionHandshake::parse(b""), Err(Error::Bencode(_))));
    }

    #[test]
    fn keys_may_be_out_of_order_and_unknown() {
        let read = ExtensionHandshake::parse(b"d1:v3:abc1:md6:ut_pexi7e2:xxi1ee1:xlee").unwrap();
        assert_eq!(read.extensions, Extensions { ut_pex: Some(7), ..Extensions::default() });
        assert_eq!(read.client.as_deref(), Some("abc"));
    }

    #[test]
    fn a_long_name_is_cut() {
        let mut handshake = full();
        handshake.client = Some("é".repeat(500));
        let read = ExtensionHandshake::parse(&handshake.encode()).unwrap();
        assert_eq!(read.client, Some("é".repeat(32)));
    }

    #[test]
    fn later_handshakes_change_what_they_name() {
        let mut theirs = Extensions::default();
        theirs.update(&Extensions { ut_pex: Some(9), ut_metadata: Some(4), lt_donthave: None });
        theirs.update(&Extensions { ut_metadata: Some(0), lt_donthave: Some(1), ut_pex: None });
        assert_eq!(theirs, Extensions { ut_pex: Some(9), ut_metadata: None, lt_donthave: Some(1) });
    }

    #[test]
    fn a_piece_that_is_gone() {
        assert_eq!(parse_dont_have(&dont_have(258)), Ok(258));
        assert_eq!(dont_have(258), [0, 0, 1, 2]);
        assert!(parse_dont_have(b"").is_err() && parse_dont_have(&[0; 5]).is_err());
    }

    #[test]
    fn no_bytes_are_too_strange() {
        let whole = full().encode();
        for seed in 0..10_000 {
            let noise = noise(seed, 4);
            let mut bytes = whole.clone();
            let at = usize::from(u16::from_be_bytes([noise[0], noise[1]])) % bytes.len();
            bytes[at] = noise[2];
            bytes.truncate(bytes.len() - usize::from(noise[3] / 128));
            let _ = ExtensionHandshake::parse(&bytes);
        }
    }
}

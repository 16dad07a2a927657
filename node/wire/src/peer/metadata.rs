//! The info dictionary from peer to peer (BEP 9, `ut_metadata`), in pieces of [`PIECE`] bytes.
//!
//! What arrives is as good as whoever sent it, until the hash over all of it is the info-hash: that
//! is for the caller to see.

use super::bitfield::Bitfield;
use super::{Error, extension};
use crate::bencode::{self, Writer};

/// Length of every piece but the last one, bytes.
pub const PIECE: usize = 16 * 1024;

/// The longest info dictionary that is taken, bytes.
pub const MAX_LENGTH: usize = 8 << 20;

/// A message of `ut_metadata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Asks for a piece.
    Request {
        /// Its number.
        piece: u32,
    },
    /// A piece.
    Data {
        /// Its number.
        piece: u32,
        /// Length of the whole, bytes.
        length: u64,
        /// At most [`PIECE`] bytes.
        data: &'a [u8],
    },
    /// The sender has no such piece.
    Reject {
        /// Its number.
        piece: u32,
    },
    /// Something newer, to be ignored.
    Unknown,
}

impl<'a> Message<'a> {
    /// Reads the payload of an extension message.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Error> {
        let missing = |key| Error::Key { extension: "ut_metadata", key };
        let (value, used) = bencode::decode_prefix(payload)?;
        let dict = value.dict().ok_or(missing("msg_type"))?;
        let piece = || {
            let piece = extension::integer(dict, b"piece").and_then(|piece| u32::try_from(piece).ok());
            piece.ok_or(missing("piece"))
        };
        match extension::integer(dict, b"msg_type").ok_or(missing("msg_type"))? {
            0 => Ok(Self::Request { piece: piece()? }),
            1 => {
                let length =
                    extension::integer(dict, b"total_size").and_then(|length| u64::try_from(length).ok());
                let (piece, length) = (piece()?, length.ok_or(missing("total_size"))?);
                let data = &payload[used..];
                if data.len() > PIECE {
                    return Err(Error::MetadataPiece { piece });
                }
                Ok(Self::Data { piece, length, data })
            }
            2 => Ok(Self::Reject { piece: piece()? }),
            _ => Ok(Self::Unknown),
        }
    }

    /// What answers a request for `piece` of `info`.
    pub fn answer(info: &'a [u8], piece: u32) -> Self {
        match info.chunks(PIECE).nth(piece as usize) {
            Some(data) => Self::Data { piece, length: info.len() as u64, data },
            None => Self::Reject { piece },
        }
    }

    /// The payload of an extension message.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece, length, data) = match *self {
            Self::Request { piece } => (0, Some(piece), None, &[][..]),
            Self::Data { piece, length, data } => (1, Some(piece), Some(length), data),
            Self::Reject { piece } => (2, Some(piece), None, &[][..]),
            Self::Unknown => (i64::MAX, None, None, &[][..]),
        };
        let mut writer = Writer::new();
        writer.dict(|dict| {
            dict.key(b"msg_type").integer(kind);
            if let Some(piece) = piece {
                dict.key(b"piece").integer(piece.into());
            }
            if let Some(length) = length.and_then(|length| i64::try_from(length).ok()) {
                dict.key(b"total_size").integer(length);
            }
        });
        writer.raw(data);
        writer.finish()
    }
}

/// An info dictionary that arrives piece by piece.
#[derive(Debug, Clone)]
pub struct Assembly {
    bytes: Vec<u8>,
    arrived: Bitfield,
}

impl Assembly {
    /// Room for `length` bytes; more than [`MAX_LENGTH`] is an error, as is none.
    pub fn new(length: u64) -> Result<Self, Error> {
        let room = usize::try_from(length).ok().filter(|room| (1..=MAX_LENGTH).contains(room));
        let room = room.ok_or(Error::Metadata { length })?;
        let arrived = Bitfield::new(room.div_ceil(PIECE) as u32);
        Ok(Self { bytes: vec![0; room], arrived })
    }

    /// The pieces to ask for, ascending.
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        (0..self.arrived.pieces()).filter(|piece| !self.arrived.get(*piece))
    }

    /// Takes a piece out of a [`Message::Data`] that tells of `length` bytes in all. Of one that is
    /// there already, nothing changes.
    pub fn add(&mut self, piece: u32, length: u64, data: &[u8]) -> Result<(), Error> {
        let same = length == self.bytes.len() as u64;
        let room = self.bytes.chunks_mut(PIECE).nth(piece as usize);
        let room = room.filter(|room| same && room.len() == data.len());
        let room = room.ok_or(Error::MetadataPiece { piece })?;
        if self.arrived.set(piece) {
            room.copy_from_slice(data);
        }
        Ok(())
    }

    /// Whether nothing is missing.
    pub fn complete(&self) -> bool {
        self.arrived.complete()
    }

    /// The info dictionary, if nothing is missing.
    pub fn finish(self) -> Option<Vec<u8>> {
        self.arrived.complete().then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::noise;

    #[test]
    fn messages_are_those_of_the_text() {
        assert_eq!(Message::Request { piece: 0 }.encode(), b"d8:msg_typei0e5:piecei0ee");
        assert_eq!(Message::Reject { piece: 3 }.encode(), b"d8:msg_typei2e5:piecei3ee");
        let data = Message::Data { piece: 0, length: 34_256, data: b"xxxx" };
        assert_eq!(data.encode(), b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxx");
        for message in [Message::Request { piece: 7 }, data, Message::Reject { piece: u32::MAX }] {
            assert_eq!(Message::parse(&message.encode()), Ok(message));
        }
        assert_eq!(Message::parse(&Message::Unknown.encode()), Ok(Message::Unknown));
        assert_eq!(Message::parse(b"d8:msg_typei3ee"), Ok(Message::Unknown));
    }

    #[test]
    fn what_lacks_something_is_refused() {
        for payload in [
            &b"le"[..],
            b"de",
            b"d5:piecei0ee",
            b"d8:msg_typei0ee",
            b"d8:msg_typei0e5:piecei-1ee",
            b"d8:msg_typei0e5:piecei4294967296ee",
            b"d8:msg_typei1e5:piecei0ee",
            b"d8:msg_typei1e5:piecei0e10:total_sizei-5ee",
        ] {
            assert!(matches!(Message::parse(payload), Err(Error::Key { .. })), "{}", payload.escape_ascii());
        }
        assert!(matches!(Message::parse(b"x"), Err(Error::Bencode(_))));
        let mut long = Message::Data { piece: 1, length: 99_999, data: &[0; PIECE] }.encode();
        assert!(Message::parse(&long).is_ok());
        long.push(0);
        assert_eq!(Message::parse(&long), Err(Error::MetadataPiece { piece: 1 }));
    }

    #[test]
    fn what_one_serves_another_assembles() {
        for length in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 100_000] {
            let info = noise(1, length);
            let mut assembly = Assembly::new(length as u64).unwrap();
            let asked: Vec<_> = assembly.missing().collect();
            for piece in asked.into_iter().rev() {
                assert!(!assembly.complete());
                let payload = Message::answer(&info, piece).encode();
                let Ok(Message::Data { piece, length, data }) = Message::parse(&payload) else {
                    panic!("piece {piece} of {length} bytes was not served");
                };
                assembly.add(piece, length, data).unwrap();
                assembly.add(piece, length, &vec![0; data.len()]).unwrap();
            }
            assert_eq!(assembly.missing().next(), None);
            assert_eq!(assembly.finish(), Some(info));
        }
    }

    #[test]
    fn what_is_not_there_is_rejected() {
        assert_eq!(Message::answer(&[0; PIECE], 1), Message::Reject { piece: 1 });
        assert_eq!(Message::answer(&[], 0), Message::Reject { piece: 0 });
        assert_eq!(Message::answer(b"info", u32::MAX), Message::Reject { piece: u32::MAX });
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let mut assembly = Assembly::new(PIECE as u64 + 5).unwrap();
        let length = PIECE as u64 + 5;
        for (piece, length, data) in [
            (0, length, 5),
            (1, length, PIECE),
            (1, length, 4),
            (2, length, 0),
            (1, length + 1, 5),
            (1, 0, 5),
        ] {
            let refused = Err(Error::MetadataPiece { piece });
            assert_eq!(assembly.add(piece, length, &vec![0; data]), refused);
        }
        assert_eq!(assembly.add(1, length, &[0; 5]), Ok(()));
        assert_eq!(assembly.finish(), None);
    }

    #[test]
    fn sizes_are_bounded_before_memory_is_taken() {
        for length in [0, MAX_LENGTH as u64 + 1, u64::MAX] {
            assert_eq!(Assembly::new(length).err(), Some(Error::Metadata { length }));
        }
        assert!(Assembly::new(MAX_LENGTH as u64).is_ok());
    }
}

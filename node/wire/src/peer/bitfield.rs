//! Which pieces somebody has.

use std::{fmt, iter};

use super::Error;

/// A bit for each piece, the first in the highest bit of the first byte (BEP 3). Bits behind the last
/// piece are never set.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Vec<u8>,
    pieces: u32,
    /// How many bits are set.
    count: u32,
}

impl Bitfield {
    /// None of `pieces`.
    pub fn new(pieces: u32) -> Self {
        Self { bytes: vec![0; length(pieces)], pieces, count: 0 }
    }

    /// All of `pieces`.
    pub fn full(pieces: u32) -> Self {
        let mut bytes = vec![u8::MAX; length(pieces)];
        if let Some(last) = bytes.last_mut() {
            *last <<= spare(pieces);
        }
        Self { bytes, pieces, count: pieces }
    }

    /// The body of a bitfield message about `pieces`.
    ///
    /// Of another length, or with spare bits set, it is an error.
    pub fn parse(bytes: &[u8], pieces: u32) -> Result<Self, Error> {
        if bytes.len() != length(pieces) {
            return Err(Error::Bitfield { bytes: bytes.len(), pieces });
        }
        if bytes.last().is_some_and(|last| last.trailing_zeros() < spare(pieces)) {
            return Err(Error::SpareBits);
        }
        let count = bytes.iter().map(|byte| byte.count_ones()).sum();
        Ok(Self { bytes: bytes.to_vec(), pieces, count })
    }

    /// The body of a bitfield message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// How many of them are had.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether all are had.
    pub fn complete(&self) -> bool {
        self.count == self.pieces
    }

    /// Whether `piece` is had. A piece that does not exist is not.
    pub fn get(&self, piece: u32) -> bool {
        self.bytes.get(index(piece)).is_some_and(|byte| byte & mask(piece) != 0)
    }

    /// Notes that `piece` is had. `false` when that changes nothing: it was, or does not exist.
    pub fn set(&mut self, piece: u32) -> bool {
        let changes = piece < self.pieces && !self.get(piece);
        if changes {
            self.bytes[index(piece)] |= mask(piece);
            self.count += 1;
        }
        changes
    }

    /// Notes that `piece` is not had. `false` when that changes nothing.
    pub fn clear(&mut self, piece: u32) -> bool {
        let changes = self.get(piece);
        if changes {
            self.bytes[index(piece)] &= !mask(piece);
            self.count -= 1;
        }
        changes
    }

    /// The pieces that are had, ascending.
    pub fn held(&self) -> impl Iterator<Item = u32> {
        (0_u32..).step_by(8).zip(&self.bytes).flat_map(|(first, &byte)| {
            let mut rest = byte;
            iter::from_fn(move || {
                let bit = rest.leading_zeros();
                rest &= !(0x80_u8.checked_shr(bit)?);
                Some(first + bit)
            })
        })
    }
}

impl fmt::Debug for Bitfield {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Bitfield({} of {})", self.count, self.pieces)
    }
}

/// Length of a bitfield, bytes.
pub(super) fn length(pieces: u32) -> usize {
    pieces.div_ceil(8) as usize
}

/// Bits of the last byte that stand for no piece.
fn spare(pieces: u32) -> u32 {
    pieces.wrapping_neg() % 8
}

fn index(piece: u32) -> usize {
    (piece / 8) as usize
}

fn mask(piece: u32) -> u8 {
    0x80 >> (piece % 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_is_the_highest_bit() {
        let mut bits = Bitfield::new(10);
        assert_eq!([bits.set(0), bits.set(9), bits.set(9), bits.set(10)], [true, true, false, false]);
        assert_eq!(bits.as_bytes(), [0b1000_0000, 0b0100_0000]);
        assert_eq!(bits.held().collect::<Vec<_>>(), [0, 9]);
        assert_eq!([bits.get(0), bits.get(1), bits.get(9), bits.get(10)], [true, false, true, false]);
        assert!(!bits.get(u32::MAX));
        assert_eq!([bits.clear(0), bits.clear(0), bits.clear(u32::MAX)], [true, false, false]);
        assert_eq!((bits.count(), bits.complete()), (1, false));
    }

    #[test]
    fn a_full_one_has_no_spare_bits() {
        for pieces in [0, 1, 7, 8, 9, 16, 1313] {
            let full = Bitfield::full(pieces);
            assert!(full.complete(), "{pieces}");
            assert_eq!(full.held().count() as u32, pieces);
            assert_eq!(Bitfield::parse(full.as_bytes(), pieces).as_ref(), Ok(&full));
            let mut filled = Bitfield::new(pieces);
            assert!((0..pieces).all(|piece| filled.set(piece)));
            assert_eq!(filled, full);
        }
    }

    #[test]
    fn only_what_fits_the_torrent_is_taken() {
        let length = |bytes, pieces| Err(Error::Bitfield { bytes, pieces });
        assert_eq!(Bitfield::parse(&[0, 0], 8), length(2, 8));
        assert_eq!(Bitfield::parse(&[0], 9), length(1, 9));
        assert_eq!(Bitfield::parse(&[], u32::MAX), length(0, u32::MAX));
        assert_eq!(Bitfield::parse(&[0xff, 0b1010_0000], 10), Err(Error::SpareBits));
        assert_eq!(Bitfield::parse(&[0xff, 0b1100_0000], 10).map(|bits| bits.count()), Ok(10));
    }
}

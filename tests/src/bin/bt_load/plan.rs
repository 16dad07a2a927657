//! What a load asks for, and what comes of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use sha1::{Digest, Sha1};
use skerry_tests::peers::torrent::Torrent;

use crate::Arguments;
use crate::frames::REQUEST;

/// The most that peers ask for at once (BEP 3).
const BLOCK: u64 = 16 * 1024;

/// What to ask for.
pub(crate) struct Plan {
    pub(crate) info_hash: [u8; 20],
    pub(crate) piece_length: u64,
    pub(crate) length: u64,
    pub(crate) pieces: Vec<[u8; 20]>,
    pub(crate) pipeline: u64,
    pub(crate) verify: bool,
}

impl Plan {
    pub(crate) fn of(arguments: &Arguments) -> Result<Self> {
        let file = std::fs::read(&arguments.torrent).with_context(|| arguments.torrent.clone())?;
        let torrent = Torrent::read(file);
        let (length, pieces) = (torrent.length().unwrap_or(0), torrent.pieces());
        let piece_length = torrent.piece_length();
        ensure!(
            length > 0 && piece_length >= BLOCK && pieces.len() as u64 == length.div_ceil(piece_length),
            "{} has no version 1 pieces of 16 KiB or more",
            arguments.torrent
        );
        Ok(Self {
            info_hash: arguments.info_hash.unwrap_or_else(|| Sha1::digest(torrent.info()).into()),
            piece_length,
            length,
            pieces,
            // Two requests for one block at a time would look like one.
            pipeline: arguments.pipeline.min(length.div_ceil(BLOCK)),
            verify: arguments.verify,
        })
    }

    fn length_of(&self, piece: u64) -> u64 {
        (self.length - piece * self.piece_length).min(self.piece_length)
    }

    /// The request for the block at `place`, and the place of the next one.
    pub(crate) fn request(&self, place: u64) -> ([u8; 17], u64) {
        let (piece, begin) = (place / self.piece_length, place % self.piece_length);
        let length = BLOCK.min(self.length_of(piece) - begin);
        let mut message = [0; 17];
        message[..4].copy_from_slice(&13u32.to_be_bytes());
        message[4] = REQUEST;
        for (field, value) in message[5..].chunks_exact_mut(4).zip([piece, begin, length]) {
            field.copy_from_slice(&(value as u32).to_be_bytes());
        }
        let next = place + length;
        (message, if next < self.length { next } else { 0 })
    }
}

/// What all connections have done.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) bytes: AtomicU64,
    pub(crate) pieces: AtomicU64,
    pub(crate) wrong: AtomicU64,
}

/// Pieces that are being put together, each with how much of it is there.
#[derive(Default)]
pub(crate) struct Pieces(HashMap<u64, (Vec<u8>, u64)>);

impl Pieces {
    pub(crate) fn put(
        &mut self,
        plan: &Plan,
        counts: &Counts,
        piece: u64,
        begin: u64,
        data: &[u8],
    ) -> Result<()> {
        let expected = plan.pieces.get(piece as usize).context("a block of no piece")?;
        let length = plan.length_of(piece);
        let (bytes, have) = self.0.entry(piece).or_insert_with(|| (vec![0; length as usize], 0));
        let place = bytes.get_mut(begin as usize..).and_then(|rest| rest.get_mut(..data.len()));
        place.context("a block outside of its piece")?.copy_from_slice(data);
        *have += data.len() as u64;
        if *have >= length {
            let found: [u8; 20] = Sha1::digest(&*bytes).into();
            let count = if found == *expected { &counts.pieces } else { &counts.wrong };
            count.fetch_add(1, Ordering::Relaxed);
            self.0.remove(&piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let pieces = vec![Sha1::digest([7u8; 32768]).into(), Sha1::digest([7u8; 5000]).into()];
        Plan { info_hash: [0; 20], piece_length: 32768, length: 37768, pieces, pipeline: 1, verify: true }
    }

    #[test]
    fn requests_go_around() {
        let plan = plan();
        let (mut place, mut asked) = (0, Vec::<Vec<u32>>::new());
        for _ in 0..4 {
            let (message, next) = plan.request(place);
            assert_eq!(message[..5], [0, 0, 0, 13, REQUEST]);
            let numbers = message[5..].chunks_exact(4);
            asked.push(numbers.map(|field| u32::from_be_bytes(field.try_into().expect("four"))).collect());
            place = next;
        }
        assert_eq!(asked, [[0, 0, 16384], [0, 16384, 16384], [1, 0, 5000], [0, 0, 16384]]);
    }

    #[test]
    fn pieces_are_put_together_and_compared() {
        let (plan, counts, mut pieces) = (plan(), Counts::default(), Pieces::default());
        for (piece, begin, data) in
            [(1, 0, vec![7; 5000]), (0, 16384, vec![7; 16384]), (0, 0, vec![6; 16384])]
        {
            pieces.put(&plan, &counts, piece, begin, &data).expect("a block");
        }
        assert_eq!((counts.pieces.into_inner(), counts.wrong.into_inner()), (1, 1));
        let outside = pieces.put(&plan, &Counts::default(), 1, 4999, &[7; 2]);
        assert!(outside.is_err());
    }
}

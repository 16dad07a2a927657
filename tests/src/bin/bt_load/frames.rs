//! The messages of a peer (BEP 3), as far as a load needs to tell them apart.

use anyhow::{Result, ensure};

/// The longest message that a seed may send: a bitfield of 16 million pieces.
const MESSAGE: u32 = 2 << 20;

// Messages by their number.
pub(crate) const CHOKE: u8 = 0;
pub(crate) const UNCHOKE: u8 = 1;
pub(crate) const INTERESTED: u8 = 2;
pub(crate) const REQUEST: u8 = 6;
const PIECE: u8 = 7;

/// What a peer's bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// A message of another kind than `piece` has begun.
    Message(u8),
    /// Bytes of a block, the first of which stands at `begin` in the piece; `last` when no more of this
    /// block follow.
    Data { piece: u64, begin: u64, data: &'a [u8], last: bool },
}

/// Takes a peer's bytes apart as they arrive, and keeps no more of them than a message's first 13.
#[derive(Default)]
pub(crate) struct Frames {
    head: [u8; 13],
    have: usize,
    /// How many bytes of the message have come after its head, and how many are still to come.
    past: u64,
    left: u64,
}

impl Frames {
    /// The next event, taken from the front of `bytes`; `None` when that takes more of them.
    pub(crate) fn take<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>> {
        loop {
            if self.left > 0 {
                if bytes.is_empty() {
                    return Ok(None);
                }
                let data = split(bytes, self.left.min(MESSAGE.into()) as usize);
                let begin = self.past;
                self.past += data.len() as u64;
                self.left -= data.len() as u64;
                let last = self.left == 0;
                if last {
                    self.have = 0;
                }
                if self.head[4] == PIECE {
                    let (piece, begin) = (self.number(5).into(), u64::from(self.number(9)) + begin);
                    return Ok(Some(Event::Data { piece, begin, data, last }));
                }
                continue;
            }
            let wanted = self.wanted();
            if self.have < wanted {
                if bytes.is_empty() {
                    return Ok(None);
                }
                let data = split(bytes, wanted - self.have);
                self.head[self.have..self.have + data.len()].copy_from_slice(data);
                self.have += data.len();
                continue;
            }
            let length = self.number(0);
            if length == 0 {
                self.have = 0;
                continue;
            }
            ensure!(length <= MESSAGE, "a message of {length} bytes");
            ensure!(self.head[4] != PIECE || length > 9, "a block without content");
            (self.past, self.left) = (0, u64::from(length) + 4 - self.have as u64);
            if self.left == 0 {
                self.have = 0;
            }
            if self.head[4] != PIECE {
                return Ok(Some(Event::Message(self.head[4])));
            }
        }
    }

    /// How much of the head has to be there: the length, the kind, and of a block where it belongs.
    fn wanted(&self) -> usize {
        match self.have {
            0..4 => 4,
            _ if self.number(0) == 0 => 4,
            4 => 5,
            _ if self.head[4] == PIECE && self.number(0) > 9 => 13,
            _ => 5,
        }
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
    }
}

/// Takes up to so many bytes off the front.
fn split<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        let mut stream = vec![0, 0, 0, 3, 5, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, UNCHOKE];
        stream.extend([0, 0, 0, 12, PIECE, 0, 0, 0, 1, 0, 0, 0, 2, 7, 8, 9, 0, 0, 0, 1, CHOKE]);
        for step in 1..=stream.len() {
            let (mut frames, mut kinds, mut block) = (Frames::default(), Vec::new(), Vec::new());
            for mut part in stream.chunks(step) {
                while let Some(event) = frames.take(&mut part).expect("good messages") {
                    match event {
                        Event::Message(kind) => kinds.push(kind),
                        Event::Data { piece, begin, data, last } => {
                            assert_eq!((piece, begin), (1, 2 + block.len() as u64));
                            block.extend_from_slice(data);
                            assert_eq!(last, block.len() == 3);
                        }
                    }
                }
            }
            assert_eq!((kinds, block), (vec![5, UNCHOKE, CHOKE], vec![7, 8, 9]), "in steps of {step}");
        }
        for bad in [[0xff, 0xff, 0xff, 0xff, 5], [0, 0, 0, 9, PIECE]] {
            assert!(Frames::default().take(&mut bad.as_slice()).is_err());
        }
    }
}

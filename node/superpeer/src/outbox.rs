//! What waits for a peer's socket: blocks as slices of chunks, written many at a time.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use skerry_wire::mse::Cipher;
use skerry_wire::peer::{Block, Message, PIECE_HEADER, piece_header};

/// Buffers in one write.
const BUFFERS: usize = 128;
/// Bytes of chunks that may be kept in memory for the sake of the blocks that wait here. A small block
/// keeps a whole chunk, so what waits is no measure of it.
const MOST_PINNED: usize = 8 << 20;
/// Blocks and runs of messages that may wait, however short they are.
const MOST_ITEMS: usize = 4096;

/// The chunk that a block is a slice of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source {
    /// The file, and the chunk of its resource.
    pub(crate) chunk: (usize, usize),
    /// Length of the whole chunk, bytes.
    pub(crate) length: usize,
}

enum Item {
    /// Messages.
    Words(BytesMut),
    /// A block, under its header, and what it keeps in memory that those before it do not, bytes.
    Block([u8; PIECE_HEADER], Bytes, usize),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Words(words) => words.len(),
            Self::Block(_, data, _) => PIECE_HEADER + data.len(),
        }
    }
}

/// Bytes on their way to a peer, in order.
#[derive(Default)]
pub(crate) struct Outbox {
    items: VecDeque<Item>,
    /// Bytes of the first item that are sent.
    sent: usize,
    bytes: usize,
    /// The chunk of the last block.
    last: Option<Source>,
    /// Bytes of all chunks that blocks here are slices of, give or take the first one.
    pinned: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether another block of a chunk may be added: not when too many other chunks are kept already.
    pub(crate) fn takes(&self, source: Source) -> bool {
        self.items.len() < MOST_ITEMS && (self.last == Some(source) || self.pinned < MOST_PINNED)
    }

    /// Adds a message.
    pub(crate) fn say(&mut self, message: &Message<'_>, cipher: &mut Cipher) {
        self.words(cipher, |words| message.put(words));
    }

    /// Adds bytes as they are.
    pub(crate) fn words(&mut self, cipher: &mut Cipher, write: impl FnOnce(&mut BytesMut)) {
        if !matches!(self.items.back(), Some(Item::Words(_))) {
            self.items.push_back(Item::Words(BytesMut::new()));
        }
        let Some(Item::Words(words)) = self.items.back_mut() else { return };
        let before = words.len();
        write(words);
        cipher.apply(&mut words[before..]);
        self.bytes += words.len() - before;
    }

    /// Adds a block; without a `source` it is no slice of anything. In a plain stream its bytes stay where
    /// they are; an encrypted one needs a copy.
    pub(crate) fn block(&mut self, block: &Block, data: Bytes, source: Option<Source>, cipher: &mut Cipher) {
        let header = piece_header(block.piece, block.begin, data.len() as u32);
        if cipher.is_plain() {
            let pins = source.filter(|source| self.last != Some(*source)).map_or(0, |source| source.length);
            self.bytes += PIECE_HEADER + data.len();
            self.pinned += pins;
            self.last = source.or(self.last);
            self.items.push_back(Item::Block(header, data, pins));
        } else {
            self.words(cipher, |words| {
                words.reserve(PIECE_HEADER + data.len());
                words.put_slice(&header);
                words.put_slice(&data);
            });
        }
    }

    /// Has `write` write what is first, in one call; it says how many bytes it has written.
    pub(crate) fn write(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); BUFFERS];
        let mut count = 0;
        let mut skip = self.sent;
        for item in &self.items {
            if count + 2 > BUFFERS {
                break;
            }
            let (head, data): (&[u8], &[u8]) = match item {
                Item::Words(words) => (words, &[]),
                Item::Block(head, data, _) => (head, data),
            };
            for part in [head, data] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() {
                    slices[count] = IoSlice::new(&part[skipped..]);
                    count += 1;
                }
            }
        }
        let written = write(&slices[..count])?;
        self.advance(written);
        Ok(written)
    }

    /// Gives memory back that is not needed while nothing waits.
    pub(crate) fn shrink(&mut self) {
        self.items.shrink_to_fit();
    }

    fn advance(&mut self, written: usize) {
        self.bytes -= written;
        self.sent += written;
        while let Some(first) = self.items.front_mut() {
            let length = first.len();
            if self.sent < length {
                // Words may grow behind what is sent; they are let go of as they go.
                if let Item::Words(words) = first {
                    words.advance(self.sent);
                    self.sent = 0;
                }
                return;
            }
            self.sent -= length;
            if let Some(Item::Block(_, _, pins)) = self.items.pop_front() {
                self.pinned -= pins;
            }
        }
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_blocks_do_not_keep_many_chunks_in_memory() {
        let (mut outbox, mut plain) = (Outbox::default(), Cipher::Plain);
        let block = Block { piece: 0, begin: 0, length: 1 };
        let of = |chunk| Source { chunk: (0, chunk), length: 4 << 20 };
        let mut add = |outbox: &mut Outbox, chunk| {
            outbox.block(&block, Bytes::from_static(b"x"), Some(of(chunk)), &mut plain);
        };
        add(&mut outbox, 0);
        add(&mut outbox, 0);
        assert!(outbox.takes(of(1)));
        add(&mut outbox, 1);
        assert!(outbox.takes(of(1)) && !outbox.takes(of(0)) && !outbox.takes(of(2)));
        // The first block of a chunk is gone, and so is what it is counted for.
        outbox.advance(PIECE_HEADER + 1);
        assert!(outbox.takes(of(2)));
        outbox.advance(2 * (PIECE_HEADER + 1));
        assert!(outbox.is_empty() && outbox.pinned == 0 && outbox.last.is_none());
    }
}

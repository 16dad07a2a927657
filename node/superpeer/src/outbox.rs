//! What waits for a peer's socket: blocks as slices of chunks, written many at a time.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use skerry_store::ChunkId;
use skerry_wire::mse::Cipher;
use skerry_wire::peer::{Block, Message, PIECE_HEADER, piece_header};

use crate::memory::Chunk;

/// Buffers in one write.
const BUFFERS: usize = 128;
/// Bytes of chunks that may be kept in memory for the sake of the blocks that wait here. A small block
/// keeps a whole chunk, so what waits is no measure of it.
const MOST_PINNED: usize = 8 << 20;
/// Blocks and runs of messages that may wait, however short they are.
const MOST_ITEMS: usize = 4096;

/// Blocks of one chunk, one after the other, with what else is said in between.
struct Run {
    chunk: Arc<Chunk>,
    blocks: usize,
}

enum Item {
    /// Messages.
    Words(BytesMut),
    /// A block, under its header, and whether it is the next one of the first run.
    Block([u8; PIECE_HEADER], Bytes, bool),
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
    /// The chunks that blocks here are slices of, each held until its last one is sent.
    runs: VecDeque<Run>,
    /// Bytes of those chunks.
    pinned: usize,
    /// Bytes of those blocks.
    sliced: usize,
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

    /// Bytes of the chunks that are kept in memory for what waits here.
    pub(crate) fn pinned(&self) -> usize {
        self.pinned
    }

    /// Bytes that wait here and are no slices of chunks, give or take a block.
    pub(crate) fn copied(&self) -> usize {
        self.bytes.saturating_sub(self.sliced)
    }

    /// Whether another block of a chunk may be added: not when too many other chunks are kept already.
    pub(crate) fn takes(&self, chunk: &Arc<Chunk>) -> bool {
        let is_last = self.runs.back().is_some_and(|run| Arc::ptr_eq(&run.chunk, chunk));
        self.items.len() < MOST_ITEMS && (is_last || self.pinned < MOST_PINNED)
    }

    /// Whether the last block here is of another chunk than that.
    pub(crate) fn ends_with_another(&self, id: &ChunkId) -> bool {
        self.runs.back().is_some_and(|run| run.chunk.id() != id)
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

    /// Adds a block that is a slice of `chunk`, if it is one of any. In a plain stream its bytes stay where
    /// they are; an encrypted one needs a copy.
    pub(crate) fn block(
        &mut self,
        block: &Block,
        data: Bytes,
        chunk: Option<&Arc<Chunk>>,
        cipher: &mut Cipher,
    ) {
        let header = piece_header(block.piece, block.begin, data.len() as u32);
        if !cipher.is_plain() {
            return self.words(cipher, |words| {
                words.reserve(PIECE_HEADER + data.len());
                words.put_slice(&header);
                words.put_slice(&data);
            });
        }
        self.bytes += PIECE_HEADER + data.len();
        if let Some(chunk) = chunk {
            self.sliced += PIECE_HEADER + data.len();
            match self.runs.back_mut().filter(|run| Arc::ptr_eq(&run.chunk, chunk)) {
                Some(run) => run.blocks += 1,
                None => {
                    self.pinned += chunk.bytes().len();
                    self.runs.push_back(Run { chunk: chunk.clone(), blocks: 1 });
                }
            }
        }
        self.items.push_back(Item::Block(header, data, chunk.is_some()));
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
        self.runs.shrink_to_fit();
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
            if let Some(Item::Block(_, _, true)) = self.items.pop_front() {
                self.sliced -= length;
                self.shorten_first_run();
            }
        }
    }

    /// A block of the first run is sent.
    fn shorten_first_run(&mut self) {
        let Some(run) = self.runs.front_mut() else { return };
        run.blocks -= 1;
        if run.blocks == 0 {
            self.pinned -= run.chunk.bytes().len();
            self.runs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;

    const LENGTH: usize = 4 << 20;

    #[test]
    fn small_blocks_do_not_keep_many_chunks_in_memory() {
        let (mut outbox, mut plain) = (Outbox::default(), Cipher::Plain);
        let (block, memory) = (Block { piece: 0, begin: 0, length: 1 }, Memory::new(1 << 30));
        let all = Bytes::from(vec![7; LENGTH]);
        let of = |number| memory.of_tier(ChunkId([number; 32]), all.clone()).unwrap();
        let (first, second, third) = (of(0), of(1), of(2));
        let mut add = |outbox: &mut Outbox, chunk: &Arc<Chunk>| {
            outbox.block(&block, chunk.bytes().slice(..1), Some(chunk), &mut plain);
        };
        add(&mut outbox, &first);
        add(&mut outbox, &first);
        assert!(outbox.takes(&second));
        assert!(outbox.ends_with_another(second.id()) && !outbox.ends_with_another(first.id()));
        add(&mut outbox, &second);
        assert!(outbox.takes(&second) && !outbox.takes(&first) && !outbox.takes(&third));
        // One block of the first chunk is left.
        outbox.advance(PIECE_HEADER + 1);
        assert!(!outbox.takes(&third));
        outbox.advance(PIECE_HEADER + 1);
        assert!(outbox.takes(&third));
        outbox.advance(PIECE_HEADER + 1);
        assert!(outbox.is_empty() && outbox.pinned == 0 && outbox.runs.is_empty());
        assert!(!outbox.ends_with_another(first.id()));
    }

    #[test]
    fn a_chunk_is_held_until_its_last_block_is_sent() {
        let (mut outbox, mut plain, memory) = (Outbox::default(), Cipher::Plain, Memory::new(1 << 30));
        let (id, block) = (ChunkId([1; 32]), Block { piece: 0, begin: 0, length: 100 });
        let chunk = memory.of_tier(id, Bytes::from(vec![7; LENGTH])).unwrap();
        for _ in 0..2 {
            outbox.say(&Message::Have(1), &mut plain);
            outbox.block(&block, chunk.bytes().slice(..100), Some(&chunk), &mut plain);
        }
        outbox.block(&block, Bytes::from_static(&[7; 100]), None, &mut plain);
        drop(chunk);
        // Two messages of 9 bytes, and the block that was put together.
        assert_eq!((outbox.pinned(), outbox.copied()), (LENGTH, 18 + PIECE_HEADER + 100));
        outbox.advance(2 * (9 + PIECE_HEADER + 100) - 1);
        assert!(memory.known(&id).is_some());
        outbox.advance(1);
        assert!(memory.known(&id).is_none());
        assert_eq!((outbox.pinned(), outbox.copied()), (0, PIECE_HEADER + 100));
    }
}

//! What a connection holds in memory, and how fast its peer takes it.

use std::time::Instant;

use skerry_wire::peer::BLOCK;

use super::Connection;
use crate::outbox::Outbox;
use crate::places::{self, STRETCH};

/// Bytes on their way that are no slices of chunks count in such steps.
const STEP: u64 = 64 * 1024;

impl Connection {
    /// Something is about to wait for the socket.
    pub(super) fn begin_to_wait(&mut self) {
        if self.outbox.is_empty() {
            self.moved = Instant::now();
            (self.stretch, self.stretch_since) = (0, self.moved);
        }
    }

    /// The socket has taken bytes.
    pub(super) fn took(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.moved = Instant::now();
        self.stretch += bytes;
        if self.stretch >= STRETCH {
            (self.stretch, self.stretch_since) = (0, self.moved);
        }
    }

    /// Since when the peer has not taken a [`STRETCH`], while what waits for it takes memory.
    pub(super) fn behind(&self) -> Option<Instant> {
        let kept = self.outbox.pinned() + self.outbox.copied();
        (kept >= BLOCK as usize).then_some(self.stretch_since)
    }

    /// Whether it is slower than others may have to wait for. It may have caught up since that was noted.
    pub(super) fn is_slow(&self) -> bool {
        self.behind().is_some_and(|since| places::is_slow(since, Instant::now()))
    }

    /// Has what is on its way and no slice of a chunk count.
    pub(super) fn count_copies(&mut self) {
        let (copied, counted) = (self.outbox.copied() as u64, self.copies.bytes());
        if copied.abs_diff(counted) > STEP {
            self.copies.resize(copied.next_multiple_of(STEP));
        }
    }

    /// Lets go of all memory: nothing more is sent.
    pub(super) fn let_go(&mut self) {
        self.loading = None;
        self.ahead.clear();
        self.at_hand = None;
        self.outbox = Outbox::default();
        self.count_copies();
    }
}

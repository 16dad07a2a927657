//! Bytes on their way from an origin, read by any number of clients at their own pace.
//!
//! The producer appends what arrives. Once bytes stand in the store they leave the fill, and a
//! reader that is further behind finds them there: no reader holds another, and what is in memory
//! is about two chunks. When the store takes nothing, a window is kept instead: the fastest reader
//! sets the pace, and one that falls out of the window must find its bytes elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::error::FetchError;

/// Bytes kept for slower readers of an answer that is not stored.
const WINDOW: u64 = 4 << 20;

/// A running fill.
#[derive(Debug)]
pub struct Fill {
    /// Where it began, and where it will end if that is known: offsets in the object.
    from: u64,
    to: Option<u64>,
    /// How far beyond what has come it is still worth waiting for; `None` where nothing can be
    /// fetched apart.
    reach: Option<u64>,
    state: Mutex<State>,
    version: watch::Sender<u64>,
    /// A reader has moved: for a producer that keeps its pace.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Offset of the first byte of `frames`.
    start: u64,
    frames: VecDeque<Bytes>,
    received: u64,
    end: Option<Result<(), FetchError>>,
    readers: HashMap<u64, u64>,
    next_reader: u64,
}

/// What a fill has at a position.
#[derive(Debug)]
pub enum Piece {
    /// Bytes from the position on.
    Bytes(Bytes),
    /// They have left for the store.
    Stored,
    /// The fill ended well, before the position.
    End,
}

impl Fill {
    /// A fill of the bytes from `from` to `to`; those more than `reach` ahead of what has come may be
    /// fetched apart.
    pub fn new(from: u64, to: Option<u64>, reach: Option<u64>) -> Arc<Self> {
        let state = State { start: from, received: from, ..State::default() };
        Arc::new(Self {
            from,
            to,
            reach,
            state: Mutex::new(state),
            version: watch::Sender::new(0),
            moved: Notify::new(),
        })
    }

    /// Whether it has, had, or will soon have the byte at `position`.
    pub fn covers(&self, position: u64) -> bool {
        let state = self.state.lock();
        let end = match (&state.end, self.reach) {
            (Some(_), _) => Some(state.received),
            (None, Some(reach)) => {
                let near = state.received.saturating_add(reach);
                Some(self.to.map_or(near, |to| to.min(near)))
            }
            (None, None) => self.to,
        };
        position >= self.from.max(state.start) && end.is_none_or(|end| position < end)
    }

    /// Registers a reader that begins at `position`.
    pub fn reader(self: &Arc<Self>, position: u64) -> Reader {
        let mut state = self.state.lock();
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, position);
        // A producer that keeps its pace has somebody new to keep it for.
        self.moved.notify_one();
        Reader { fill: self.clone(), id, changed: self.version.subscribe() }
    }

    /// Appends what came from the origin.
    pub fn push(&self, bytes: Bytes) {
        let mut state = self.state.lock();
        state.received += bytes.len() as u64;
        state.frames.push_back(bytes);
        self.changed(state);
    }

    /// Bytes before `position` are in the store now.
    pub fn stored(&self, position: u64) {
        let mut state = self.state.lock();
        state.forget(position);
        self.changed(state);
    }

    /// Ends it.
    pub fn finish(&self, end: Result<(), FetchError>) {
        let mut state = self.state.lock();
        state.end.get_or_insert(end);
        self.changed(state);
    }

    /// Waits until all of it that is kept is in the store, or it has failed.
    pub async fn ended(&self) {
        let mut changed = self.version.subscribe();
        while self.state.lock().end.is_none() && changed.changed().await.is_ok() {}
    }

    /// Waits until the byte at `position` is in the store, or is not going to be.
    pub async fn left(&self, position: u64) {
        let mut changed = self.version.subscribe();
        loop {
            {
                let state = self.state.lock();
                if state.end.is_some() || state.start > position {
                    return;
                }
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// How many clients read it.
    pub fn readers(&self) -> usize {
        self.state.lock().readers.len()
    }

    /// Bytes received so far, as an offset in the object.
    pub fn received(&self) -> u64 {
        self.state.lock().received
    }

    /// When nothing is stored: waits until the fastest reader has room for more, and lets go of
    /// what is out of the window. False when nobody reads.
    pub async fn pace(&self) -> bool {
        loop {
            let moved = self.moved.notified();
            {
                let mut state = self.state.lock();
                let Some(fastest) = state.readers.values().copied().max() else { return false };
                if state.received < fastest.max(state.start) + WINDOW {
                    let slowest = state.readers.values().copied().min().unwrap_or(fastest);
                    let keep = slowest.max(state.received.saturating_sub(WINDOW)).min(fastest);
                    state.forget(keep);
                    return true;
                }
            }
            moved.await;
        }
    }

    fn changed(&self, state: parking_lot::MutexGuard<'_, State>) {
        drop(state);
        self.version.send_modify(|version| *version += 1);
    }
}

impl State {
    fn forget(&mut self, position: u64) {
        while let Some(frame) = self.frames.front_mut() {
            let end = self.start + frame.len() as u64;
            if end <= position {
                self.frames.pop_front();
                self.start = end;
            } else {
                if position > self.start {
                    let _ = frame.split_to((position - self.start) as usize);
                    self.start = position;
                }
                return;
            }
        }
        self.start = self.start.max(position.min(self.received));
    }

    fn piece(&self, position: u64) -> Option<Result<Piece, FetchError>> {
        if position < self.start {
            return Some(Ok(Piece::Stored));
        }
        let mut offset = self.start;
        for frame in &self.frames {
            let end = offset + frame.len() as u64;
            if position < end {
                return Some(Ok(Piece::Bytes(frame.slice((position - offset) as usize..))));
            }
            offset = end;
        }
        self.end.clone().map(|end| end.map(|()| Piece::End))
    }
}

/// One client's place in a fill.
#[derive(Debug)]
pub struct Reader {
    fill: Arc<Fill>,
    id: u64,
    changed: watch::Receiver<u64>,
}

impl Reader {
    /// The bytes at `position`, as soon as they are there.
    pub async fn read(&mut self, position: u64) -> Result<Piece, FetchError> {
        loop {
            self.changed.mark_unchanged();
            let (moved, piece) = {
                let mut state = self.fill.state.lock();
                (state.readers.insert(self.id, position) != Some(position), state.piece(position))
            };
            if moved {
                self.fill.moved.notify_one();
            }
            if let Some(piece) = piece {
                return piece;
            }
            if self.changed.changed().await.is_err() {
                return Err(FetchError::Draining);
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.fill.state.lock().readers.remove(&self.id);
        self.fill.moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_go_at_their_own_pace_and_find_the_stored_part_in_the_store() {
        let fill = Fill::new(0, Some(6), None);
        let (mut fast, mut slow) = (fill.reader(0), fill.reader(0));
        fill.push(Bytes::from_static(b"abc"));
        assert!(matches!(fast.read(0).await, Ok(Piece::Bytes(bytes)) if bytes == "abc"));
        fill.push(Bytes::from_static(b"def"));
        fill.stored(3);
        assert!(matches!(slow.read(0).await, Ok(Piece::Stored)));
        assert!(matches!(fast.read(4).await, Ok(Piece::Bytes(bytes)) if bytes == "ef"));
        fill.finish(Ok(()));
        assert!(matches!(fast.read(6).await, Ok(Piece::End)));
        assert!(!fill.covers(6) && !fill.covers(2) && fill.covers(3));
    }

    #[test]
    fn what_is_far_ahead_is_not_waited_for_where_it_can_be_fetched_apart() {
        let (whole, parts) = (Fill::new(0, Some(100), None), Fill::new(0, Some(100), Some(10)));
        assert!(whole.covers(99) && !whole.covers(100));
        assert!(parts.covers(9) && !parts.covers(10));
        parts.push(Bytes::from(vec![0; 85]));
        assert!(parts.covers(94) && !parts.covers(95));
        parts.push(Bytes::from(vec![0; 15]));
        assert!(parts.covers(99) && !parts.covers(100));
    }

    #[tokio::test]
    async fn a_byte_has_left_when_it_is_stored_or_nothing_more_will_be() {
        let fill = Fill::new(0, Some(6), None);
        fill.push(Bytes::from_static(b"abcdef"));
        let has_left = async |position| {
            tokio::time::timeout(std::time::Duration::ZERO, fill.left(position)).await.is_ok()
        };
        assert!(!has_left(0).await);
        fill.stored(3);
        assert!(has_left(2).await && !has_left(3).await);
        fill.finish(Err(FetchError::Draining));
        assert!(has_left(3).await);
    }

    #[tokio::test]
    async fn without_a_store_the_window_bounds_memory_and_the_slow_reader_is_cut() {
        let fill = Fill::new(0, None, None);
        let (mut fast, mut slow) = (fill.reader(0), fill.reader(0));
        let mut position = 0;
        for _ in 0..12 {
            assert!(fill.pace().await);
            fill.push(Bytes::from(vec![0; 1 << 20]));
            let Ok(Piece::Bytes(bytes)) = fast.read(position).await else {
                panic!("the fast reader is served")
            };
            position += bytes.len() as u64;
        }
        assert!(matches!(slow.read(0).await, Ok(Piece::Stored)), "it looks in the store, in vain");
        drop((fast, slow));
        assert!(!fill.pace().await);
    }
}

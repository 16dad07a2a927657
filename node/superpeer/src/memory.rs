//! The memory that peers may take, over all of them (`superpeer.memory_bytes`).
//!
//! What counts, for as long as it is held: chunks that blocks on their way are slices of, chunks that are
//! read or fetched for somebody, and copies of blocks. A chunk counts once, however many connections hold it.
//! One that the store's memory tier has as well costs nothing more, and does not count while that is so; it
//! is looked at when all that is held might be too much.
//!
//! Who finds no room waits, and has it in the order of coming. While anybody does, nobody reads ahead, a
//! connection begins no other chunk before the last one is sent (`connection::feed`), and those that are
//! slowest to take what they have asked for are sent away ([`Places`](crate::places::Places)).

use std::collections::{HashMap, VecDeque};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use skerry_store::ChunkId;
use tokio::sync::{Notify, oneshot};

/// Book-keeping of a chunk, counted on top of its bytes.
const OVERHEAD: u64 = 256;
/// Somebody who waits for longer has the slow ones sent away.
const PATIENCE: Duration = Duration::from_secs(2);

/// The bound, and what counts towards it.
pub(crate) struct Memory {
    /// Bytes that may count.
    most: u64,
    /// Whether somebody waits, or more counts than may.
    is_tight: AtomicBool,
    /// That, or chunks that do not count would make it so.
    pressed: Notify,
    inner: Mutex<Inner>,
}

/// Invariant: `counted` is the sum over rooms and over chunks that are not in the tier, `in_tier` that over
/// those that are. Nothing of a chunk or a room is dropped under the lock: it would want the lock, too.
#[derive(Default)]
struct Inner {
    chunks: HashMap<ChunkId, Weak<Chunk>>,
    counted: u64,
    in_tier: u64,
    waiting: VecDeque<Waiting>,
    /// Since when more counts than may.
    over_since: Option<Instant>,
}

struct Waiting {
    bytes: u64,
    since: Instant,
    turn: oneshot::Sender<Room>,
}

/// A chunk that connections hold.
pub(crate) struct Chunk {
    memory: Arc<Memory>,
    id: ChunkId,
    bytes: Bytes,
    cost: u64,
    /// Whether the memory tier had it when that was seen last; changed under the lock.
    in_tier: AtomicBool,
}

/// Bytes that count, until it is dropped.
pub(crate) struct Room {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Memory {
    /// Room for `most` bytes.
    pub(crate) fn new(most: u64) -> Arc<Self> {
        let (is_tight, pressed, inner) = Default::default();
        Arc::new(Self { most, is_tight, pressed, inner })
    }

    /// Whether there is no room for all who want it.
    pub(crate) fn is_tight(&self) -> bool {
        self.is_tight.load(Relaxed)
    }

    /// Waits until [`Memory::look`] has something to look at.
    pub(crate) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// A chunk that somebody holds.
    pub(crate) fn known(&self, id: &ChunkId) -> Option<Arc<Chunk>> {
        self.inner.lock().known(id)
    }

    /// A chunk that the memory tier has. `None` while more counts than may: what the tier lets go of
    /// counts, too.
    pub(crate) fn of_tier(self: &Arc<Self>, id: ChunkId, bytes: Bytes) -> Option<Arc<Chunk>> {
        self.change(|inner| match inner.known(&id) {
            Some(chunk) => {
                if chunk.is(&bytes) {
                    inner.note(&chunk, true);
                }
                Some(chunk)
            }
            None if inner.counted > self.most => None,
            None => {
                let cost = self.cost(bytes.len());
                inner.in_tier += cost;
                Some(self.insert(inner, id, bytes, cost, true))
            }
        })
    }

    /// A chunk that there was room for. When somebody else holds it already, that one is taken.
    pub(crate) fn keep(self: &Arc<Self>, id: ChunkId, bytes: Bytes, mut room: Room) -> Arc<Chunk> {
        self.change(|inner| match inner.known(&id) {
            Some(chunk) => chunk,
            None => {
                let cost = std::mem::take(&mut room.bytes);
                self.insert(inner, id, bytes, cost, false)
            }
        })
    }

    fn insert(
        self: &Arc<Self>,
        inner: &mut Inner,
        id: ChunkId,
        bytes: Bytes,
        cost: u64,
        in_tier: bool,
    ) -> Arc<Chunk> {
        let (memory, in_tier) = (self.clone(), AtomicBool::new(in_tier));
        let chunk = Arc::new(Chunk { memory, id, bytes, cost, in_tier });
        inner.chunks.insert(id, Arc::downgrade(&chunk));
        chunk
    }

    /// Waits for room for a chunk or so of `bytes` bytes.
    pub(crate) async fn room(self: &Arc<Self>, bytes: usize, now: Instant) -> Room {
        let bytes = self.cost(bytes);
        let granted = self.change(|inner| {
            if inner.waiting.is_empty() && inner.counted + bytes <= self.most {
                inner.counted += bytes;
                return Ok(Room { memory: self.clone(), bytes });
            }
            let (turn, granted) = oneshot::channel();
            inner.waiting.push_back(Waiting { bytes, since: now, turn });
            Err(granted)
        });
        match granted {
            Ok(room) => room,
            Err(granted) => granted.await.expect("who waits has the memory, and with it the other end"),
        }
    }

    /// Room for a chunk that nobody needs yet; `None` when half of all room is taken.
    pub(crate) fn room_to_spare(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let bytes = self.cost(bytes);
        self.change(|inner| {
            let is_spare = inner.waiting.is_empty() && inner.counted + bytes <= self.most / 2;
            is_spare.then(|| {
                inner.counted += bytes;
                Room { memory: self.clone(), bytes }
            })
        })
    }

    /// Room that is nothing yet.
    pub(crate) fn no_room(self: &Arc<Self>) -> Room {
        Room { memory: self.clone(), bytes: 0 }
    }

    /// Sees which of the chunks the memory tier has now, as `has` says, and lets those in who wait for the
    /// room. True when somebody waits for too long, or more counts than may for as long.
    pub(crate) fn look(self: &Arc<Self>, now: Instant, has: impl Fn(&ChunkId) -> Option<Bytes>) -> bool {
        let chunks: Vec<Arc<Chunk>> = self.inner.lock().chunks.values().filter_map(Weak::upgrade).collect();
        // Nobody has to wait for this.
        let is_there = |chunk: &Arc<Chunk>| has(&chunk.id).is_some_and(|bytes| chunk.is(&bytes));
        let in_tier: Vec<bool> = chunks.iter().map(is_there).collect();
        self.change(|inner| {
            chunks.iter().zip(in_tier).for_each(|(chunk, in_tier)| inner.note(chunk, in_tier));
            inner.waiting.retain(|waiting| !waiting.turn.is_closed());
        });
        let mut inner = self.inner.lock();
        let over_since = inner.over_since.unwrap_or(now);
        inner.over_since = (inner.counted > self.most).then_some(over_since);
        let longest = inner.waiting.front().map(|waiting| waiting.since);
        let since = longest.into_iter().chain(inner.over_since).min();
        drop(inner);
        since.is_some_and(|since| now.saturating_duration_since(since) > PATIENCE)
    }

    /// No chunk costs more than there is, else it would never come.
    fn cost(&self, bytes: usize) -> u64 {
        (bytes as u64 + OVERHEAD).min(self.most)
    }

    /// Changes what counts, and lets those in who wait and have room now.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let changed = change(&mut inner);
        let unwanted = self.grant(&mut inner);
        let is_tight = inner.counted > self.most || !inner.waiting.is_empty();
        let is_pressed = is_tight || inner.counted + inner.in_tier > self.most;
        self.is_tight.store(is_tight, Relaxed);
        drop(inner);
        drop(unwanted);
        if is_pressed {
            self.pressed.notify_one();
        }
        changed
    }

    /// Lets those in who wait and have room; returns the rooms of those that have gone meanwhile.
    fn grant(self: &Arc<Self>, inner: &mut Inner) -> Vec<Room> {
        let mut unwanted = Vec::new();
        while let Some(first) = inner.waiting.front() {
            let is_there = !first.turn.is_closed();
            if is_there && inner.counted + first.bytes > self.most {
                break;
            }
            let Some(Waiting { bytes, turn, .. }) = inner.waiting.pop_front() else { break };
            if is_there {
                inner.counted += bytes;
                unwanted.extend(turn.send(Room { memory: self.clone(), bytes }).err());
            }
        }
        unwanted
    }
}

impl Inner {
    fn known(&self, id: &ChunkId) -> Option<Arc<Chunk>> {
        self.chunks.get(id)?.upgrade()
    }

    /// Notes whether the memory tier has a chunk.
    fn note(&mut self, chunk: &Chunk, in_tier: bool) {
        if chunk.in_tier.swap(in_tier, Relaxed) == in_tier {
            return;
        }
        let (from, to) = match in_tier {
            true => (&mut self.counted, &mut self.in_tier),
            false => (&mut self.in_tier, &mut self.counted),
        };
        *from -= chunk.cost;
        *to += chunk.cost;
    }
}

impl Chunk {
    /// What it is kept under.
    pub(crate) fn id(&self) -> &ChunkId {
        &self.id
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether its bytes are these, in the same place.
    fn is(&self, bytes: &Bytes) -> bool {
        self.bytes.as_ptr() == bytes.as_ptr()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let this = ptr::from_ref::<Self>(self);
        self.memory.change(|inner| {
            let sum = if self.in_tier.load(Relaxed) { &mut inner.in_tier } else { &mut inner.counted };
            *sum -= self.cost;
            // Another may have come in its place since the last who had it let go.
            if inner.chunks.get(&self.id).is_some_and(|known| ptr::eq(known.as_ptr(), this)) {
                inner.chunks.remove(&self.id);
            }
        });
    }
}

impl Room {
    /// Bytes that count for it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Has others count from now on, whether there is room for them or not.
    pub(crate) fn resize(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.memory.change(|inner| inner.counted = inner.counted - before + bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.change(|inner| inner.counted -= self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LENGTH: usize = 1000;
    const COST: u64 = LENGTH as u64 + OVERHEAD;

    fn id(number: u8) -> ChunkId {
        ChunkId([number; 32])
    }

    fn bytes() -> Bytes {
        Bytes::from(vec![7; LENGTH])
    }

    /// What a future has come to, when it is asked once.
    fn now<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    fn room(memory: &Arc<Memory>) -> Room {
        now(pin!(memory.room(LENGTH, Instant::now()))).expect("there is room")
    }

    fn sums(memory: &Memory) -> (u64, u64) {
        let inner = memory.inner.lock();
        (inner.counted, inner.in_tier)
    }

    #[test]
    fn a_chunk_counts_once_and_for_as_long_as_anybody_has_it() {
        let memory = Memory::new(3 * COST);
        let first = memory.keep(id(1), bytes(), room(&memory));
        let again = memory.keep(id(1), bytes(), room(&memory));
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &memory.known(&id(1)).unwrap()));
        assert_eq!(sums(&memory), (COST, 0));
        let other = memory.keep(id(2), bytes(), room(&memory));
        drop(first);
        assert_eq!(sums(&memory), (2 * COST, 0));
        drop((again, other));
        assert_eq!(sums(&memory), (0, 0));
        assert!(memory.known(&id(1)).is_none() && memory.inner.lock().chunks.is_empty());
    }

    #[test]
    fn who_finds_no_room_waits_and_is_let_in_in_turn() {
        let memory = Memory::new(2 * COST);
        let (first, second) = (room(&memory), memory.keep(id(1), bytes(), room(&memory)));
        assert!(!memory.is_tight());
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(memory.room(LENGTH, Instant::now()))).collect();
        for one in &mut waiting {
            assert!(now(one.as_mut()).is_none());
        }
        assert!(memory.is_tight());
        // Who comes last is not before them, however little it wants; nor does anybody read ahead.
        assert!(now(pin!(memory.room(1, Instant::now()))).is_none());
        assert!(memory.room_to_spare(1).is_none());
        // Who has given up keeps nobody from it.
        drop(waiting.remove(0));
        drop(first);
        let one = now(waiting.remove(0).as_mut()).expect("it was before the others");
        assert!(now(waiting[0].as_mut()).is_none());
        drop(second);
        let other = now(waiting.remove(0).as_mut()).expect("the chunk is gone");
        assert_eq!(sums(&memory), (2 * COST, 0));
        drop((one, other));
        assert_eq!(sums(&memory), (0, 0));
        assert!(!memory.is_tight());
        // What was let in and did not hear of it any more counts no longer.
        let all = [room(&memory), room(&memory)];
        let mut late = Box::pin(memory.room(LENGTH, Instant::now()));
        assert!(now(late.as_mut()).is_none());
        drop(all);
        drop(late);
        assert_eq!(sums(&memory), (0, 0));
    }

    #[test]
    fn reading_ahead_takes_no_more_than_half() {
        let memory = Memory::new(4 * COST);
        let ahead: Vec<Room> = std::iter::from_fn(|| memory.room_to_spare(LENGTH)).take(9).collect();
        assert_eq!(ahead.len(), 2);
        let _needed = [room(&memory), room(&memory)];
    }

    #[test]
    fn what_the_memory_tier_has_counts_when_it_lets_go_of_it() {
        let memory = Memory::new(COST);
        let (start, shared) = (Instant::now(), bytes());
        let chunks: Vec<_> =
            (0..3).map(|number| memory.of_tier(id(number), shared.clone()).unwrap()).collect();
        assert_eq!(sums(&memory), (0, 3 * COST));
        assert!(!memory.is_tight() && now(pin!(memory.pressed())).is_some());
        let has_first = |wanted: &ChunkId| (*wanted == id(0)).then(|| shared.clone());
        assert!(!memory.look(start, has_first));
        assert_eq!(sums(&memory), (2 * COST, COST));
        // Nothing more is held then, be it in memory, and the slow are sent away before long.
        assert!(memory.is_tight() && memory.of_tier(id(9), shared.clone()).is_none());
        assert!(memory.of_tier(id(0), shared.clone()).is_some(), "it is held");
        assert!(!memory.look(start + PATIENCE, has_first));
        assert!(memory.look(start + 2 * PATIENCE, has_first));
        // Other bytes of the same id are not those that are held.
        assert!(memory.look(start + 2 * PATIENCE, |_| Some(bytes())));
        assert_eq!(sums(&memory), (3 * COST, 0));
        assert!(!memory.look(start + 3 * PATIENCE, |_| Some(shared.clone())));
        assert_eq!(sums(&memory), (0, 3 * COST));
        drop(chunks);
        assert_eq!(sums(&memory), (0, 0));
    }

    #[test]
    fn who_waits_for_a_chunk_has_it_when_the_memory_tier_has_another() {
        let (memory, start, shared) = (Memory::new(COST), Instant::now(), bytes());
        let held = memory.keep(id(1), shared.clone(), room(&memory));
        let mut waits = pin!(memory.room(LENGTH, start));
        assert!(now(waits.as_mut()).is_none());
        assert!(memory.look(start + 2 * PATIENCE, |_| None), "it waits for too long");
        assert!(!memory.look(start + 2 * PATIENCE, |_| Some(shared.clone())));
        assert!(now(waits.as_mut()).is_some());
        // Somebody who has it from the tier says as much.
        memory.look(start, |_| None);
        assert_eq!(sums(&memory), (COST, 0));
        assert!(Arc::ptr_eq(&held, &memory.of_tier(id(1), shared).unwrap()));
        assert_eq!(sums(&memory), (0, COST));
    }

    #[test]
    fn copies_count_whether_there_is_room_or_not() {
        let memory = Memory::new(COST);
        let mut copies = memory.no_room();
        copies.resize(3 * COST);
        assert!(memory.is_tight() && memory.room_to_spare(1).is_none());
        copies.resize(COST);
        assert_eq!((sums(&memory), copies.bytes(), memory.is_tight()), ((COST, 0), COST, false));
        drop(copies);
        assert_eq!(sums(&memory), (0, 0));
    }
}

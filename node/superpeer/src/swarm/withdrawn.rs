//! Pieces that could not be given: how long each is withdrawn, and what connected peers are to be told.
//!
//! A piece is back when its chunk is read after all, or for another try when its pause is over. Each try
//! in vain makes the next pause twice as long.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use skerry_store::{Catalogue, StoreError};

use super::{Swarm, pieces_of_chunk};

/// The first pause.
const PAUSE: Duration = Duration::from_secs(60);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Changes of what is held that are kept beside two for each piece.
const SPARE: usize = 64;

/// The pieces of one torrent that have failed, and the changes of what is held since it was opened.
#[derive(Debug)]
pub(super) struct Withdrawn {
    failing: HashMap<u32, Failing>,
    /// Pieces in the order in which they went and came back, and whether they are held since.
    changes: VecDeque<(u32, bool)>,
    /// Changes before those.
    forgotten: usize,
    most: usize,
}

#[derive(Debug)]
struct Failing {
    times: u32,
    /// When it is tried again; `None` while it is offered.
    again: Option<Instant>,
}

impl Withdrawn {
    /// Nothing withdrawn of so many pieces.
    pub(super) fn new(pieces: u32) -> Self {
        let most = 2 * pieces as usize + SPARE;
        Self { failing: HashMap::new(), changes: VecDeque::new(), forgotten: 0, most }
    }

    /// Whether no piece has failed, or all that have were given since.
    pub(super) fn is_empty(&self) -> bool {
        self.failing.is_empty()
    }

    /// A piece that is held cannot be given.
    pub(super) fn withdraw(&mut self, piece: u32, now: Instant) {
        let failing = self.failing.entry(piece).or_insert(Failing { times: 0, again: None });
        let pause = PAUSE.saturating_mul(1 << failing.times.min(16)).min(LONGEST_PAUSE);
        failing.times += 1;
        failing.again = Some(now + pause);
        self.note(piece, false);
    }

    /// The withdrawn pieces whose pause is over.
    pub(super) fn due(&self, now: Instant) -> Vec<u32> {
        let due = |failing: &Failing| failing.again.is_some_and(|again| again <= now);
        self.failing.iter().filter(|(_, failing)| due(failing)).map(|(piece, _)| *piece).collect()
    }

    /// Offers a withdrawn piece again; false when it is not withdrawn.
    pub(super) fn offer(&mut self, piece: u32) -> bool {
        let again = self.failing.get_mut(&piece).and_then(|failing| failing.again.take());
        if again.is_some() {
            self.note(piece, true);
        }
        again.is_some()
    }

    /// Lets a withdrawn piece wait for another pause.
    pub(super) fn postpone(&mut self, piece: u32, now: Instant) {
        if let Some(again) = self.failing.get_mut(&piece).and_then(|failing| failing.again.as_mut()) {
            *again = now + PAUSE;
        }
    }

    /// A piece can be given; true when it was withdrawn.
    pub(super) fn prove(&mut self, piece: u32) -> bool {
        let was_withdrawn = self.failing.remove(&piece).is_some_and(|failing| failing.again.is_some());
        if was_withdrawn {
            self.note(piece, true);
        }
        was_withdrawn
    }

    /// How many changes there were.
    pub(super) fn count(&self) -> usize {
        self.forgotten + self.changes.len()
    }

    /// The changes after the first `told`; `None` when some of them are forgotten.
    pub(super) fn since(&self, told: usize) -> Option<Vec<(u32, bool)>> {
        let known = told.checked_sub(self.forgotten)?;
        Some(self.changes.iter().skip(known).copied().collect())
    }

    fn note(&mut self, piece: u32, is_held: bool) {
        self.changes.push_back((piece, is_held));
        if self.changes.len() > self.most {
            self.changes.pop_front();
            self.forgotten += 1;
        }
    }
}

impl Swarm {
    /// Notes that a piece cannot be given; false when that was known. Its connections are woken to say so.
    pub(crate) fn lose(&self, piece: u32, now: Instant) -> bool {
        let mut withdrawn = self.withdrawn.lock();
        let was_held = self.have.write().clear(piece);
        if was_held {
            withdrawn.withdraw(piece, now);
            drop(withdrawn);
            self.wake();
        }
        was_held
    }

    /// Notes that a chunk was read after all: the pieces that lie in it can be given.
    pub(crate) fn found(&self, file: usize, chunk: usize) {
        if !self.is_failing() {
            return;
        }
        let layout = self.layout();
        let place = layout.file_starts().find(|(index, _)| *index == file);
        let held = self.files.get(file).and_then(Option::as_ref);
        let (Some((_, start)), Some(held)) = (place, held) else { return };
        let from = start + u64::from(held.resource.chunk_length) * chunk as u64;
        let to = from + u64::from(held.chunk_length(chunk));
        let within = |piece: &u32| {
            let start = layout.piece_start(*piece);
            start >= from && start + u64::from(layout.piece_length(*piece)) <= to
        };
        let pieces = pieces_of_chunk(layout, start, held, chunk).filter(within);
        self.give_back(pieces, Withdrawn::prove);
    }

    /// Notes that a block of a piece was put together after all.
    pub(crate) fn given(&self, piece: u32) {
        if self.is_failing() {
            self.give_back([piece], Withdrawn::prove);
        }
    }

    /// Whether there are pieces that could not be given when they were tried last.
    pub(crate) fn is_failing(&self) -> bool {
        !self.withdrawn.lock().is_empty()
    }

    /// Offers pieces for another try whose pause is over, where their chunks are there or can be fetched.
    /// Blocks.
    pub(crate) fn offer_again(
        &self,
        catalogue: &Catalogue,
        refill: bool,
        now: Instant,
    ) -> Result<(), StoreError> {
        let due = self.withdrawn.lock().due(now);
        let mut back = Vec::new();
        for piece in due {
            if self.can_be_had(catalogue, piece, refill)? {
                back.push(piece);
            } else {
                self.withdrawn.lock().postpone(piece, now);
            }
        }
        self.give_back(back, Withdrawn::offer);
        Ok(())
    }

    fn can_be_had(&self, catalogue: &Catalogue, piece: u32, refill: bool) -> Result<bool, StoreError> {
        for part in self.layout().piece(piece).into_iter().flatten() {
            let Some(file) = part.file else { continue };
            let Some(held) = self.files.get(file).and_then(Option::as_ref) else { return Ok(false) };
            if refill && held.from.is_some() {
                continue;
            }
            let chunk_length = u64::from(held.resource.chunk_length);
            let end = (part.offset + u64::from(part.length)).div_ceil(chunk_length);
            for chunk in part.offset / chunk_length..end {
                let Some(located) = held.located(chunk as usize) else { return Ok(false) };
                if !catalogue.store().may_hold(&located)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Has pieces again, those that `back` says were withdrawn, and wakes the connections to say so.
    fn give_back(&self, pieces: impl IntoIterator<Item = u32>, back: impl Fn(&mut Withdrawn, u32) -> bool) {
        let mut withdrawn = self.withdrawn.lock();
        let mut are_any = false;
        for piece in pieces {
            if back(&mut withdrawn, piece) {
                are_any |= self.have.write().set(piece);
            }
        }
        drop(withdrawn);
        if are_any {
            self.wake();
        }
    }

    fn wake(&self) {
        self.members.lock().values().for_each(|member| member.peer.wake.notify_one());
    }

    /// The pieces that went and came back since `told` such changes were told, and whether they are held;
    /// `None` when that is too long ago.
    pub(crate) fn changes_since(&self, told: usize) -> Option<Vec<(u32, bool)>> {
        self.withdrawn.lock().since(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_try_in_vain_makes_the_pause_longer_and_a_good_one_ends_it() {
        let (mut now, mut pieces) = (Instant::now(), Withdrawn::new(8));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pieces.withdraw(3, now);
            let over = |seconds: &u64| pieces.due(now + Duration::from_secs(*seconds)) == [3];
            let pause = (0..10_000).find(over).unwrap();
            now += Duration::from_secs(pause);
            pauses.push(pause);
            assert!(pieces.offer(3) && !pieces.offer(3) && pieces.due(now).is_empty());
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        // It was offered, so nobody has to be told that it can be given.
        assert!(!pieces.prove(3) && pieces.is_empty());
        pieces.withdraw(3, now);
        assert_eq!(pieces.due(now + PAUSE), [3]);
        pieces.postpone(3, now + PAUSE);
        assert!(pieces.due(now + PAUSE).is_empty());
        assert!(pieces.prove(3) && pieces.is_empty());
    }

    #[test]
    fn peers_hear_of_every_change_once_or_that_they_missed_some() {
        let (now, mut pieces) = (Instant::now(), Withdrawn::new(1));
        pieces.withdraw(0, now);
        let told = pieces.count();
        pieces.offer(0);
        assert_eq!(pieces.since(0).unwrap(), [(0, false), (0, true)]);
        assert_eq!(pieces.since(told).unwrap(), [(0, true)]);
        assert!(pieces.since(pieces.count()).unwrap().is_empty());
        for _ in 0..SPARE {
            pieces.withdraw(0, now);
            pieces.offer(0);
        }
        assert_eq!(pieces.count(), 2 * SPARE + 2);
        assert_eq!(pieces.changes.len(), SPARE + 2);
        assert!(pieces.since(told).is_none());
        assert_eq!(pieces.since(pieces.count() - 1).unwrap(), [(0, true)]);
    }
}

//! Whose turn it is to be announced, and when: time in, info-hashes out.
//!
//! All that is held comes up once in a round, spread evenly over it. What was not announced yet goes first,
//! and need not wait for its place in the round; what somebody looks for goes next. Nothing makes turns come
//! faster than the least gap between two of them: when that is not enough for a round, the round takes
//! longer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Info-hashes that are kept in turn; no round is long enough for more.
pub const MOST: usize = 100_000;

/// The order of turns.
#[derive(Debug)]
pub struct Schedule {
    round: Duration,
    gap: Duration,
    batch: usize,
    order: BTreeSet<Place>,
    places: HashMap<[u8; 20], Place>,
    /// Numbers given out, so that who came first goes first.
    next: u64,
    last: Option<Instant>,
}

/// A turn, a number within the turn, and whose it is.
type Place = (Turn, u64, [u8; 20]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// Not announced yet.
    First,
    /// Somebody has come who looks for it.
    Asked,
    /// Announced, and again when its turn comes round.
    Again,
}

impl Turn {
    /// Before every place of that turn.
    fn begin(self) -> Place {
        (self, 0, [0; 20])
    }
}

impl Schedule {
    /// Nothing in turn yet. A round takes `round`, `batch` info-hashes go at once, and from one batch to the
    /// next it is at least `gap`.
    pub fn new(round: Duration, gap: Duration, batch: usize) -> Self {
        let (order, places) = (BTreeSet::new(), HashMap::new());
        Self { round, gap, batch: batch.max(1), order, places, next: 0, last: None }
    }

    /// What is held now, of which the first [`MOST`] are taken: others are in turn no longer.
    pub fn set(&mut self, held: &[[u8; 20]]) {
        let held = &held[..held.len().min(MOST)];
        let keep: HashSet<&[u8; 20]> = held.iter().collect();
        let order = &mut self.order;
        self.places.retain(|hash, place| {
            let stays = keep.contains(hash);
            if !stays {
                order.remove(place);
            }
            stays
        });
        for hash in held {
            if !self.places.contains_key(hash) {
                self.put(*hash, Turn::First);
            }
        }
    }

    /// Somebody looks for it: it goes soon. False when it is not in turn.
    pub fn prompt(&mut self, info_hash: &[u8; 20]) -> bool {
        let place = self.places.get(info_hash).copied();
        if matches!(place, Some((Turn::Again, _, _))) {
            self.put(*info_hash, Turn::Asked);
        }
        place.is_some()
    }

    /// Info-hashes in turn.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How long a round takes now.
    pub fn takes(&self) -> Duration {
        self.pace() * self.len().div_ceil(self.batch) as u32
    }

    /// When the next batch goes; `None` when nothing is in turn.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let (turn, _, _) = self.order.first()?;
        let wait = if *turn == Turn::Again { self.pace() } else { self.gap };
        Some(self.last.map_or(now, |last| last + wait))
    }

    /// The next batch, which is announced now; to be called when it is due.
    pub fn take(&mut self, now: Instant) -> Vec<[u8; 20]> {
        let mut batch = Vec::new();
        let mut take = |from: Turn, to: Option<Turn>, most: usize| {
            let room = most.saturating_sub(batch.len());
            let places: Vec<&Place> = match to {
                Some(to) => self.order.range(from.begin()..to.begin()).take(room).collect(),
                None => self.order.range(from.begin()..).take(room).collect(),
            };
            batch.extend(places.into_iter().map(|(_, _, hash)| *hash));
        };
        let goes_round = self.order.last().is_some_and(|(turn, _, _)| *turn == Turn::Again);
        take(Turn::First, Some(Turn::Asked), self.batch);
        // Who asks over and over does not keep the round from going on.
        take(Turn::Asked, Some(Turn::Again), self.batch - if goes_round { self.batch / 4 } else { 0 });
        take(Turn::Again, None, self.batch);
        for hash in &batch {
            self.put(*hash, Turn::Again);
        }
        self.last = Some(now);
        batch
    }

    /// From one batch to the next when a round is spread evenly.
    fn pace(&self) -> Duration {
        let share = self.round.mul_f64(self.batch as f64 / self.len().max(1) as f64);
        share.min(self.round).max(self.gap)
    }

    fn put(&mut self, hash: [u8; 20], turn: Turn) {
        let place = (turn, self.next, hash);
        self.next += 1;
        if let Some(before) = self.places.insert(hash, place) {
            self.order.remove(&before);
        }
        self.order.insert(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hashes(count: u8) -> Vec<[u8; 20]> {
        (0..count).map(|number| [number; 20]).collect()
    }

    /// What is announced, and how many seconds after the start, until `end` seconds.
    fn run(schedule: &mut Schedule, end: u64) -> Vec<(u64, u8)> {
        let start = Instant::now();
        let (mut now, mut announced) = (start, Vec::new());
        while let Some(due) = schedule.due(now) {
            now = due;
            let after = now.duration_since(start);
            if after.as_secs() >= end {
                break;
            }
            announced.extend(schedule.take(now).iter().map(|hash| (after.as_secs(), hash[0])));
        }
        announced
    }

    #[test]
    fn what_is_new_goes_at_once_and_rounds_are_spread() {
        let mut schedule = Schedule::new(100 * SECOND, SECOND, 1);
        assert!(schedule.due(Instant::now()).is_none() && schedule.is_empty());
        schedule.set(&hashes(5));
        let announced = run(&mut schedule, 200);
        assert_eq!(announced[..5], [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
        assert_eq!(announced[5..10], [(24, 0), (44, 1), (64, 2), (84, 3), (104, 4)]);
        assert_eq!(schedule.takes(), 100 * SECOND);
    }

    #[test]
    fn ten_thousand_never_go_faster_than_the_gap() {
        let mut schedule = Schedule::new(100 * SECOND, SECOND / 5, 1);
        let held: Vec<[u8; 20]> = (0..10_000u32)
            .map(|number| {
                let mut hash = [0; 20];
                hash[..4].copy_from_slice(&number.to_be_bytes());
                hash
            })
            .collect();
        schedule.set(&held);
        let mut now = Instant::now();
        let mut seen: HashSet<[u8; 20]> = schedule.take(now).into_iter().collect();
        for _ in 1..held.len() {
            let due = schedule.due(now).unwrap();
            assert_eq!(due, now + SECOND / 5);
            now = due;
            seen.extend(schedule.take(now));
        }
        assert_eq!(seen.len(), held.len(), "each has had its turn before any has another");
        assert_eq!(schedule.takes(), 2000 * SECOND);
    }

    #[test]
    fn one_alone_comes_up_once_a_round() {
        let mut schedule = Schedule::new(300 * SECOND, 60 * SECOND, 24);
        schedule.set(&hashes(1));
        assert_eq!(run(&mut schedule, 900), [(0, 0), (300, 0), (600, 0)]);
    }

    #[test]
    fn batches_of_many_follow_each_other_at_the_gap() {
        let mut schedule = Schedule::new(300 * SECOND, 60 * SECOND, 24);
        schedule.set(&hashes(240));
        let announced = run(&mut schedule, 600);
        assert_eq!(announced.len(), 240);
        assert!(announced.iter().enumerate().all(|(at, (second, _))| *second == at as u64 / 24 * 60));
        let distinct: HashSet<u8> = announced.into_iter().map(|(_, hash)| hash).collect();
        assert_eq!((distinct.len(), schedule.takes()), (240, 600 * SECOND));
    }

    #[test]
    fn who_looks_for_something_hears_soon_and_does_not_stop_the_round() {
        let mut schedule = Schedule::new(3000 * SECOND, 60 * SECOND, 4);
        schedule.set(&hashes(12));
        run(&mut schedule, 180);
        let mut now = schedule.last.unwrap();
        assert!(!schedule.prompt(&[99; 20]));
        assert_eq!(schedule.due(now), Some(now + 1000 * SECOND));
        let mut others = HashSet::new();
        for _ in 0..8 {
            for hash in hashes(4) {
                assert!(schedule.prompt(&hash));
            }
            assert_eq!(schedule.due(now), Some(now + 60 * SECOND));
            now += 60 * SECOND;
            let batch = schedule.take(now);
            assert_eq!(batch.len(), 4);
            assert_eq!(batch.iter().filter(|hash| hash[0] < 4).count(), 3);
            others.extend(batch.into_iter().filter(|hash| hash[0] >= 4));
        }
        assert_eq!(others.len(), 8);
    }

    #[test]
    fn what_is_held_no_longer_is_not_announced_and_what_stays_keeps_its_turn() {
        let mut schedule = Schedule::new(100 * SECOND, SECOND, 2);
        let now = Instant::now();
        schedule.set(&hashes(4));
        assert_eq!(schedule.take(now), [[0; 20], [1; 20]]);
        schedule.set(&[[3; 20], [1; 20], [9; 20]]);
        assert_eq!(schedule.len(), 3);
        assert_eq!(schedule.take(now), [[3; 20], [9; 20]]);
        assert_eq!(schedule.take(now), [[1; 20], [3; 20]]);
        schedule.set(&[]);
        assert!(schedule.is_empty() && schedule.take(now).is_empty() && schedule.due(now).is_none());
    }
}

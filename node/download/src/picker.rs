//! Which piece comes next: the rarest, of equally rare ones any, or what a reader waits for, in its order.
//!
//! Pieces that nobody has begun lie in buckets by how many peers have them, peers with everything left
//! out: those count for all pieces alike.

use std::ops::Range;

use skerry_wire::peer::Bitfield;

/// The place of a piece that is in no bucket.
const TAKEN: u32 = u32::MAX;

/// Chooses pieces.
#[derive(Debug)]
pub(crate) struct Picker {
    /// How many peers have each piece, those with everything left out.
    seen: Vec<u16>,
    buckets: Vec<Vec<u32>>,
    /// Where each piece stands in its bucket, or [`TAKEN`].
    places: Vec<u32>,
    /// Pieces in buckets.
    left: u32,
    /// How often a piece was set free.
    freed: u64,
    window: Range<u32>,
    random: fastrand::Rng,
}

impl Picker {
    /// All pieces but those in `have`.
    pub(crate) fn new(have: &Bitfield, seed: u64) -> Self {
        let pieces = have.pieces();
        let mut picker = Self {
            seen: vec![0; pieces as usize],
            buckets: vec![Vec::new()],
            places: vec![TAKEN; pieces as usize],
            left: 0,
            freed: 0,
            window: 0..0,
            random: fastrand::Rng::with_seed(seed),
        };
        (0..pieces).filter(|piece| !have.get(*piece)).for_each(|piece| picker.free(piece));
        picker
    }

    /// Pieces that nobody has begun.
    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// Grows whenever there is a piece to be had that was not: who found nothing finds nothing before.
    pub(crate) fn freed(&self) -> u64 {
        self.freed
    }

    /// Pieces that a reader waits for.
    pub(crate) fn window(&self) -> &Range<u32> {
        &self.window
    }

    /// Sets them.
    pub(crate) fn want(&mut self, window: Range<u32>) {
        self.window = window;
    }

    /// One more peer has a piece.
    pub(crate) fn seen(&mut self, piece: u32) {
        self.move_by(piece, |seen| seen.saturating_add(1));
    }

    /// One peer fewer has it.
    pub(crate) fn unseen(&mut self, piece: u32) {
        self.move_by(piece, |seen| seen.saturating_sub(1));
    }

    /// A piece is to be had again.
    pub(crate) fn free(&mut self, piece: u32) {
        self.freed += 1;
        self.put(piece);
    }

    fn put(&mut self, piece: u32) {
        if self.places.get(piece as usize) != Some(&TAKEN) {
            return;
        }
        let bucket = usize::from(self.seen[piece as usize]);
        if self.buckets.len() <= bucket {
            self.buckets.resize_with(bucket + 1, Vec::new);
        }
        self.places[piece as usize] = self.buckets[bucket].len() as u32;
        self.buckets[bucket].push(piece);
        self.left += 1;
    }

    /// Takes the first piece that a reader waits for and that `may` be taken.
    pub(crate) fn pick_waited_for(&mut self, may: impl Fn(u32) -> bool) -> Option<u32> {
        let is_free = |piece: &u32| self.places.get(*piece as usize).is_some_and(|place| *place != TAKEN);
        let picked = self.window.clone().filter(is_free).find(|piece| may(*piece))?;
        self.take(picked);
        Some(picked)
    }

    /// Takes one of the rarest pieces that `may` be taken.
    pub(crate) fn pick(&mut self, may: impl Fn(u32) -> bool) -> Option<u32> {
        let picked = self.buckets.iter().find_map(|bucket| {
            let start = self.random.usize(..bucket.len().max(1));
            let (before, from) = bucket.split_at(start);
            from.iter().chain(before).copied().find(|piece| may(*piece))
        })?;
        self.take(picked);
        Some(picked)
    }

    fn take(&mut self, piece: u32) {
        let place = std::mem::replace(&mut self.places[piece as usize], TAKEN);
        if place == TAKEN {
            return;
        }
        let bucket = &mut self.buckets[usize::from(self.seen[piece as usize])];
        bucket.swap_remove(place as usize);
        if let Some(moved) = bucket.get(place as usize) {
            self.places[*moved as usize] = place;
        }
        self.left -= 1;
    }

    fn move_by(&mut self, piece: u32, change: impl Fn(u16) -> u16) {
        let Some(place) = self.places.get(piece as usize).copied() else { return };
        self.take(piece);
        self.seen[piece as usize] = change(self.seen[piece as usize]);
        if place != TAKEN {
            self.put(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(picker: &mut Picker) -> Vec<u32> {
        std::iter::from_fn(|| picker.pick(|_| true)).collect()
    }

    #[test]
    fn the_rarest_come_first() {
        let mut picker = Picker::new(&Bitfield::new(5), 1);
        for (piece, peers) in [(0, 3), (1, 1), (2, 2), (3, 0), (4, 4)] {
            (0..peers).for_each(|_| picker.seen(piece));
        }
        picker.unseen(4);
        picker.unseen(4);
        picker.unseen(4);
        picker.seen(1);
        picker.seen(1);
        picker.seen(1);
        assert_eq!(all(&mut picker), [3, 4, 2, 0, 1]);
        assert_eq!(picker.left(), 0);
        picker.free(2);
        picker.free(2);
        assert_eq!((picker.left(), all(&mut picker)), (1, vec![2]));
    }

    #[test]
    fn equally_rare_ones_come_in_any_order() {
        let order = |seed| all(&mut Picker::new(&Bitfield::new(40), seed));
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..40));
    }

    #[test]
    fn what_a_reader_waits_for_comes_in_order() {
        let mut picker = Picker::new(&Bitfield::new(20), 1);
        picker.want(5..8);
        assert_eq!(picker.pick_waited_for(|piece| piece != 5), Some(6));
        assert_eq!(picker.pick_waited_for(|_| true), Some(5));
        assert_eq!(picker.pick_waited_for(|_| true), Some(7));
        assert_eq!(picker.pick_waited_for(|_| true), None);
        picker.want(19..40);
        assert_eq!(picker.pick_waited_for(|_| true), Some(19));
        let before = picker.freed();
        picker.seen(1);
        assert_eq!(picker.freed(), before);
        picker.free(6);
        assert!(picker.freed() > before);
    }

    #[test]
    fn what_is_had_or_nobody_has_is_not_picked() {
        let mut have = Bitfield::new(3);
        have.set(1);
        let mut picker = Picker::new(&have, 1);
        picker.seen(1);
        picker.seen(7);
        assert_eq!(picker.pick(|piece| piece == 1), None);
        assert_eq!(picker.pick(|piece| piece == 2), Some(2));
        picker.unseen(2);
        assert_eq!(all(&mut picker), [0]);
    }
}

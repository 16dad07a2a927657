//! SHA-256 Merkle trees over 16 KiB leaves (BEP 52).
//!
//! A file's tree is as wide as its number of leaves, rounded up to a power of two; missing leaves are
//! 32 zero bytes. A layer is told by its height: the leaves are at 0. Layers are kept without what
//! stands for no data at all: a hash that is missing at the end of a layer is [`zero`] of its height.

use sha2::{Digest, Sha256};

/// Leaf length, bytes.
pub const LEAF: usize = 16 * 1024;

/// Height of the highest tree: 2^50 bytes of content and more.
pub const MAX_HEIGHT: u32 = 40;

/// A hash of two.
pub fn pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(left).chain_update(right).finalize().into()
}

/// Root of a whole layer, whose width is a power of two.
pub fn root(mut layer: Vec<[u8; 32]>) -> [u8; 32] {
    debug_assert!(layer.len().is_power_of_two());
    while layer.len() > 1 {
        let half = layer.len() / 2;
        for index in 0..half {
            layer[index] = pair(&layer[2 * index], &layer[2 * index + 1]);
        }
        layer.truncate(half);
    }
    layer[0]
}

/// Root of a tree of `height` whose leaves are all missing.
pub fn zero(height: u32) -> [u8; 32] {
    (0..height).fold([0; 32], |zero, _| pair(&zero, &zero))
}

/// The leaves of `bytes`: of none there is none.
pub fn leaves(bytes: &[u8]) -> Vec<[u8; 32]> {
    bytes.chunks(LEAF).map(|leaf| Sha256::digest(leaf).into()).collect()
}

/// Root over the leaves of `bytes`, padded to the next power of two. Of no bytes it is 32 zeros.
pub fn root_of(bytes: &[u8]) -> [u8; 32] {
    let mut layer = leaves(bytes);
    layer.resize(layer.len().max(1).next_power_of_two(), [0; 32]);
    root(layer)
}

/// Height of the tree over `length` bytes.
pub fn height(length: u64) -> u32 {
    length.div_ceil(LEAF as u64).max(1).next_power_of_two().trailing_zeros()
}

/// The root of `length` bytes as seen from a tree `leaves` leaves wide (a power of two): what a
/// piece layer holds for a last, shorter piece.
pub fn raised(hash: [u8; 32], length: usize, leaves: usize) -> [u8; 32] {
    let from = height(length as u64);
    let mut zero = zero(from);
    let mut root = hash;
    for _ in from..leaves.max(1).ilog2() {
        root = pair(&root, &zero);
        zero = pair(&zero, &zero);
    }
    root
}

/// A file's pieces root from the roots of its pieces, the last of them not [`raised`].
///
/// `length` is the file's and `piece_length` is a power of two of at least one leaf, both in bytes.
pub fn pieces_root(pieces: &[[u8; 32]], length: u64, piece_length: u32) -> [u8; 32] {
    if let [only] = pieces {
        return *only;
    }
    let leaves = piece_length as usize / LEAF;
    let mut layer = pieces.to_vec();
    if let Some(last) = layer.last_mut() {
        let before = u64::from(piece_length) * (pieces.len() as u64 - 1);
        *last = raised(*last, length.saturating_sub(before) as usize, leaves);
    }
    layer_root(layer, leaves.max(1).ilog2())
}

/// Root over a layer at `height` that may miss hashes at its end: how a piece layer is checked.
pub fn layer_root(mut layer: Vec<[u8; 32]>, height: u32) -> [u8; 32] {
    let width = layer.len().max(1).next_power_of_two();
    layer.resize(width, zero(height));
    root(layer)
}

/// Whether `layer` is the whole piece layer of a file of `length` bytes, in pieces of `piece_length`
/// bytes, under its pieces root.
pub fn verify_layer(root: &[u8; 32], length: u64, piece_length: u32, layer: &[[u8; 32]]) -> bool {
    layer.len() as u64 == length.div_ceil(u64::from(piece_length.max(1)))
        && layer_root(layer.to_vec(), height(piece_length.into())) == *root
}

/// Most hashes that one request may ask for of its base layer (BEP 52).
pub const MAX_HASHES: u32 = 512;

/// What a hash request (BEP 52) asks for of one file's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Height of the layer that the hashes are taken from.
    pub base: u32,
    /// The first of them: a multiple of `count`.
    pub index: u64,
    /// How many: a power of two from 2 to [`MAX_HASHES`]; fewer where the layer ends.
    pub count: u32,
    /// How many layers above `base` give their uncle, those included that follow from the hashes.
    pub proof_layers: u32,
}

impl Wanted {
    /// Layers from `base` to the hash over all that is asked for; `None` of a wrong request.
    fn depth(&self) -> Option<u32> {
        if !(2..=MAX_HASHES).contains(&self.count) || self.base > MAX_HEIGHT {
            return None;
        }
        let width = self.count.next_power_of_two();
        let fits = self.index <= 1 << MAX_HEIGHT && self.index.is_multiple_of(u64::from(width));
        fits.then(|| width.ilog2())
    }

    /// Number of uncles that are sent: the first `depth - 1` of the proof layers are left out.
    fn uncles(&self, depth: u32) -> u32 {
        self.proof_layers.saturating_sub(depth - 1)
    }
}

/// A tree from one of its layers up.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Height of the lowest layer kept.
    base: u32,
    /// From `base` to the root; the last has one hash.
    layers: Vec<Vec<[u8; 32]>>,
    /// What is missing at the end of each of `layers`.
    zeros: Vec<[u8; 32]>,
}

impl Tree {
    /// A tree over `layer`, at height `base`, that is `top` high, or as high as the layer needs.
    pub fn new(layer: Vec<[u8; 32]>, base: u32, top: u32) -> Self {
        let mut zeros = vec![zero(base)];
        let mut layers = Vec::new();
        let mut below = if layer.is_empty() { zeros.clone() } else { layer };
        for height in base.. {
            if below.len() == 1 && height >= top.min(MAX_HEIGHT) {
                break;
            }
            let zero = zeros[zeros.len() - 1];
            let above = below.chunks(2).map(|two| pair(&two[0], two.get(1).unwrap_or(&zero))).collect();
            layers.push(std::mem::replace(&mut below, above));
            zeros.push(pair(&zero, &zero));
        }
        layers.push(below);
        Self { base, layers, zeros }
    }

    /// Height of the lowest layer kept.
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Height of the root.
    pub fn top(&self) -> u32 {
        self.base + self.layers.len() as u32 - 1
    }

    /// The root.
    pub fn root(&self) -> [u8; 32] {
        self.layers[self.layers.len() - 1][0]
    }

    /// The hash at `index` of the layer at `height`; `None` outside of the tree.
    pub fn at(&self, height: u32, index: u64) -> Option<[u8; 32]> {
        if height < self.base || height > self.top() || index >> (self.top() - height) > 0 {
            return None;
        }
        let layer = (height - self.base) as usize;
        let kept = usize::try_from(index).ok().and_then(|index| self.layers[layer].get(index));
        Some(*kept.unwrap_or(&self.zeros[layer]))
    }

    /// What answers a hash request: the hashes that are wanted, then the uncles, lowest first.
    /// `None` where this tree does not have them.
    pub fn hashes(&self, wanted: Wanted) -> Option<Vec<[u8; 32]>> {
        let depth = wanted.depth()?;
        let mut hashes = self.layer(&wanted)?;
        hashes.extend(self.uncles(wanted.base + depth, wanted.index >> depth, wanted.uncles(depth))?);
        Some(hashes)
    }

    /// As [`Tree::hashes`], for hashes below this tree's lowest layer: `piece` is the tree of what
    /// stands under the hash at `place` of it, from the leaves to that hash.
    pub fn hashes_below(&self, piece: &Self, place: u64, wanted: Wanted) -> Option<Vec<[u8; 32]>> {
        let depth = wanted.depth()?;
        let rise = self.base.checked_sub(wanted.base).filter(|rise| *rise >= depth)?;
        if piece.top() != self.base || wanted.index >> rise != place {
            return None;
        }
        let local = Wanted { index: wanted.index - (place << rise), ..wanted };
        let mut hashes = piece.layer(&local)?;
        let uncles = wanted.uncles(depth);
        let inside = uncles.min(rise - depth);
        hashes.extend(piece.uncles(wanted.base + depth, local.index >> depth, inside)?);
        hashes.extend(self.uncles(self.base, place, uncles - inside)?);
        Some(hashes)
    }

    fn layer(&self, wanted: &Wanted) -> Option<Vec<[u8; 32]>> {
        let kept = self.layers.get(wanted.base.checked_sub(self.base)? as usize)?.len() as u64;
        let end = wanted.index + u64::from(wanted.count);
        if !wanted.count.is_power_of_two() && end != kept {
            return None;
        }
        (wanted.index..end).map(|index| self.at(wanted.base, index)).collect()
    }

    /// The siblings of the hash at `index` of the layer at `height` and of its `count - 1` ancestors.
    fn uncles(&self, height: u32, index: u64, count: u32) -> Option<Vec<[u8; 32]>> {
        if height.checked_add(count)? > self.top() {
            return None;
        }
        (0..count).map(|up| self.at(height + up, (index >> up) ^ 1)).collect()
    }
}

/// Whether `hashes`, the answer to `wanted`, are those of a tree `top` high with this `root`.
///
/// The request must have asked for the uncles of every layer: `top - base - 1` proof layers.
pub fn verify_proof(root: &[u8; 32], top: u32, wanted: Wanted, hashes: &[[u8; 32]]) -> bool {
    let Some((depth, layers)) = wanted.depth().zip(top.checked_sub(wanted.base)) else {
        return false;
    };
    let Some((base, uncles)) = hashes.split_at_checked(wanted.count as usize) else {
        return false;
    };
    if top > MAX_HEIGHT || wanted.index >> layers > 0 || depth as usize + uncles.len() != layers as usize {
        return false;
    }
    let mut place = wanted.index >> depth;
    let mut hash = layer_root(base.to_vec(), wanted.base);
    for uncle in uncles {
        hash = if place & 1 == 0 { pair(&hash, uncle) } else { pair(uncle, &hash) };
        place >>= 1;
    }
    hash == *root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hex;

    fn content(length: usize) -> Vec<u8> {
        (0_u32..).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 13) as u8).take(length).collect()
    }

    fn full(leaves: u64, base: u32, index: u64, count: u32) -> Wanted {
        let top = height(leaves * LEAF as u64);
        Wanted { base, index, count, proof_layers: top - base - 1 }
    }

    #[test]
    fn roots_are_those_of_an_implementation_by_hand() {
        // Computed with Python's hashlib from the definition.
        for (length, expected) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (LEAF, "eae5d477cd0d7df29ce9e1b1ac37f1d8650d3f9f7a6152bbdf2c0655b4b764e8"),
            (LEAF + 1, "e9c4ae9a40cb0259f3cadaea509735ad93cefffa2dc1b7b2081516949fe313da"),
            (3 * LEAF, "5c593f5322109a77a816b5b20d968a0767bda63c6a97737af471aa6ec0cd8a5c"),
            (1_000_003, "1416a62db982df11e2541ef85fe7af5559d603e0f19d56ddd3e9f1b13d61ad12"),
        ] {
            assert_eq!(hex(&root_of(&content(length))), expected, "length {length}");
        }
        assert_eq!(root_of(&[]), [0; 32]);
        assert_eq!(hex(&zero(4)), "536d98837f2dd165a55d5eeae91485954472d56f246df256bf3cae19352a123c");
    }

    #[test]
    fn pieces_end_in_the_root_of_the_whole() {
        let bytes = content(1_000_003);
        for piece_length in [LEAF, 65_536, 262_144, 1 << 20] {
            for length in [1, LEAF, LEAF + 1, 262_144, 262_145, 524_288, 600_000, bytes.len()] {
                let bytes = &bytes[..length];
                let pieces: Vec<_> = bytes.chunks(piece_length).map(root_of).collect();
                let root = pieces_root(&pieces, length as u64, piece_length as u32);
                assert_eq!(root, root_of(bytes), "length {length}, pieces of {piece_length}");
            }
        }
    }

    #[test]
    fn a_short_last_piece_is_raised_to_the_layer_s_height() {
        let leaves = leaves(&content(LEAF + 5));
        let zero = [0; 32];
        let by_hand = root(vec![leaves[0], leaves[1], zero, zero, zero, zero, zero, zero]);
        assert_eq!(raised(root_of(&content(LEAF + 5)), LEAF + 5, 8), by_hand);
        assert_eq!(Tree::new(leaves, 0, 3).root(), by_hand);
    }

    #[test]
    fn heights_are_those_of_padded_trees() {
        let leaf = LEAF as u64;
        let heights = [0, 1, leaf, leaf + 1, 2 * leaf, 2 * leaf + 1, 1 << 50].map(height);
        assert_eq!(heights, [0, 0, 0, 1, 1, 2, 36]);
    }

    #[test]
    fn every_whole_proof_leads_to_the_root() {
        for count in [2, 3, 5, 8, 13] {
            let layer = leaves(&content(count * LEAF - 7));
            let tree = Tree::new(layer.clone(), 0, 0);
            assert_eq!(tree.root(), root_of(&content(count * LEAF - 7)));
            let width = (count as u64).next_power_of_two();
            for wide in [2, 4, 8, 16].into_iter().filter(|wide| u64::from(*wide) <= width) {
                for index in (0..width).step_by(wide as usize) {
                    let wanted = full(count as u64, 0, index, wide);
                    let hashes = tree.hashes(wanted).unwrap();
                    assert!(verify_proof(&tree.root(), tree.top(), wanted, &hashes));
                    for at in 0..hashes.len() {
                        let mut bad = hashes.clone();
                        bad[at][0] ^= 1;
                        assert!(!verify_proof(&tree.root(), tree.top(), wanted, &bad));
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_proof_layers_follow_from_the_hashes_and_are_left_out() {
        let tree = Tree::new(leaves(&content(16 * LEAF)), 0, 0);
        let asked = |count, proof_layers| {
            tree.hashes(Wanted { base: 0, index: 0, count, proof_layers }).map(|hashes| hashes.len())
        };
        assert_eq!([asked(2, 0), asked(2, 1), asked(2, 3)], [Some(2), Some(3), Some(5)]);
        assert_eq!([asked(4, 1), asked(4, 2), asked(4, 3)], [Some(4), Some(5), Some(6)]);
        assert_eq!([asked(16, 3), asked(16, 4), asked(2, 4)], [Some(16), None, None]);
        assert_eq!(asked(2, u32::MAX), None);
    }

    #[test]
    fn leaves_are_proven_through_the_piece_that_they_are_in() {
        let bytes = content(11 * LEAF - 3);
        let whole = Tree::new(leaves(&bytes), 0, 0);
        let pieces: Vec<_> = bytes.chunks(4 * LEAF).map(|piece| Tree::new(leaves(piece), 0, 2)).collect();
        let upper = Tree::new(pieces.iter().map(Tree::root).collect(), 2, 2);
        assert_eq!(upper.root(), whole.root());
        for (place, piece) in pieces.iter().enumerate() {
            for (count, within) in [(2, 0), (2, 2), (4, 0)] {
                for proof_layers in 0..4 {
                    let index = place as u64 * 4 + within;
                    let wanted = Wanted { base: 0, index, count, proof_layers };
                    assert_eq!(upper.hashes_below(piece, place as u64, wanted), whole.hashes(wanted));
                }
            }
        }
        let over = Wanted { base: 0, index: 0, count: 8, proof_layers: 0 };
        assert_eq!(upper.hashes_below(&pieces[0], 0, over), None);
    }

    #[test]
    fn a_layer_may_be_asked_for_to_its_end() {
        let layer = leaves(&content(7 * LEAF));
        let tree = Tree::new(layer.clone(), 0, 0);
        let wanted = Wanted { base: 0, index: 4, count: 3, proof_layers: 2 };
        let hashes = tree.hashes(wanted).unwrap();
        assert_eq!(hashes[..3], layer[4..]);
        assert!(verify_proof(&tree.root(), 3, wanted, &hashes));
        assert_eq!(tree.hashes(Wanted { index: 0, ..wanted }), None);
    }

    #[test]
    fn wrong_requests_have_no_answer() {
        let tree = Tree::new(leaves(&content(8 * LEAF)), 0, 0);
        for (base, index, count) in [
            (0, 0, 0),
            (0, 0, 1),
            (0, 1, 2),
            (0, 8, 2),
            (0, 0, 16),
            (0, 0, 1024),
            (3, 0, 2),
            (4, 0, 2),
            (u32::MAX, 0, 2),
            (0, u64::MAX - 1, 2),
            (0, 0, u32::MAX),
        ] {
            let wanted = Wanted { base, index, count, proof_layers: 0 };
            assert_eq!(tree.hashes(wanted), None, "{wanted:?}");
            assert!(!verify_proof(&tree.root(), 3, wanted, &[tree.root(); 2]), "{wanted:?}");
        }
    }
}

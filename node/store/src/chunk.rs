//! Chunk ids: BEP 52 Merkle subtree roots over 16 KiB leaves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skerry_wire::merkle;

pub use skerry_wire::hash::hex;
pub use skerry_wire::merkle::LEAF;

/// A chunk's id: the root of the SHA-256 Merkle tree over its 16 KiB leaves, where missing leaves
/// up to the next power of two are 32 zero bytes (BEP 52, "pieces root").
///
/// For a chunk of the full chunk length this is the BitTorrent v2 piece hash. A shorter last
/// chunk's piece hash follows by [`ChunkId::raised`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// Hashes a chunk's bytes. About 2 GB/s where the CPU has SHA instructions.
    pub fn of(bytes: &[u8]) -> Self {
        Self(merkle::root_of(bytes))
    }

    /// What a chunk of this id and of `length` bytes is kept under. BEP 52 hashes a leaf as it hashes two
    /// nodes, so 64 bytes that are two nodes have the id of the longer chunk under them; they are the
    /// only ones that are kept under another key, so that neither is taken for the other.
    pub fn kept_as(self, length: usize) -> Self {
        if length == 64 {
            Self(Sha256::new_with_prefix("64 bytes of content").chain_update(self.0).finalize().into())
        } else {
            self
        }
    }

    /// The root as seen from a tree `leaves` leaves wide (a power of two), for a chunk of `length`
    /// bytes: what BEP 52's piece layers hold for a last, shorter piece.
    pub fn raised(self, length: usize, leaves: usize) -> Self {
        Self(merkle::raised(self.0, length, leaves))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for ChunkId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "a chunk id is 64 hex digits";
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad);
        }
        let mut id = [0; 32];
        for (index, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| bad)?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use skerry_wire::merkle::{pair, root};

    use super::*;

    #[test]
    fn one_leaf_is_its_own_hash_and_two_are_a_pair() {
        let leaf = vec![7; LEAF];
        let hash: [u8; 32] = Sha256::digest(&leaf).into();
        assert_eq!(ChunkId::of(&leaf).0, hash);
        assert_eq!(ChunkId::of(&[leaf.clone(), leaf.clone()].concat()).0, pair(&hash, &hash));
    }

    #[test]
    fn three_leaves_are_padded_with_a_zero_leaf() {
        let bytes = vec![1; 3 * LEAF];
        let hash: [u8; 32] = Sha256::digest(&bytes[..LEAF]).into();
        assert_eq!(ChunkId::of(&bytes).0, pair(&pair(&hash, &hash), &pair(&hash, &[0; 32])));
    }

    #[test]
    fn a_short_last_chunk_is_raised_to_the_piece_height() {
        let bytes = vec![1; LEAF + 5];
        let zero = [0; 32];
        let first: [u8; 32] = Sha256::digest(&bytes[..LEAF]).into();
        let second: [u8; 32] = Sha256::digest(&bytes[LEAF..]).into();
        let by_hand = root(vec![first, second, zero, zero, zero, zero, zero, zero]);
        assert_eq!(ChunkId::of(&bytes).raised(bytes.len(), 8).0, by_hand);
    }

    #[test]
    fn two_nodes_are_not_kept_as_what_is_under_them() {
        let long = vec![7; 2 * LEAF];
        let nodes: Vec<u8> = long.chunks(LEAF).flat_map(Sha256::digest).collect();
        let (short, whole) = (ChunkId::of(&nodes), ChunkId::of(&long));
        assert_eq!(short, whole);
        assert_ne!(short.kept_as(nodes.len()), whole.kept_as(long.len()));
        assert_eq!(whole.kept_as(long.len()), whole);
    }

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = ChunkId::of(b"x");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<ChunkId>().is_err());
        assert!("é".repeat(32).parse::<ChunkId>().is_err());
    }
}

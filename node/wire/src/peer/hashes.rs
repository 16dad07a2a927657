//! Requests for nodes of a file's tree (BEP 52).

use crate::merkle::Wanted;

/// The most hashes in an answer that is taken: the leaves of a piece of 128 MiB, and a proof.
pub const MAX_ANSWERED_HASHES: usize = 8192 + 64;

/// Which hashes are asked for, and how an answer or a refusal tells what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashRequest {
    /// The file's pieces root.
    pub root: [u8; 32],
    /// Layers between the leaves and the hashes that are asked for.
    pub base: u32,
    /// The first of them.
    pub index: u32,
    /// How many.
    pub length: u32,
    /// Layers above them that uncles are asked of.
    pub proof_layers: u32,
}

impl HashRequest {
    /// Length in a message, bytes.
    pub(super) const LENGTH: usize = 48;

    /// The same as a question to a tree, which judges it.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            base: self.base,
            index: self.index.into(),
            count: self.length,
            proof_layers: self.proof_layers,
        }
    }

    /// The request that `bytes` begin with, and what follows it.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (root, bytes) = bytes.split_first_chunk::<32>()?;
        let (words, rest) = bytes.split_first_chunk::<16>()?;
        let word = |at: usize| u32::from_be_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let request =
            Self { root: *root, base: word(0), index: word(4), length: word(8), proof_layers: word(12) };
        Some((request, rest))
    }

    pub(super) fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..32].copy_from_slice(&self.root);
        bytes[32..36].copy_from_slice(&self.base.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.index.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.length.to_be_bytes());
        bytes[44..].copy_from_slice(&self.proof_layers.to_be_bytes());
        bytes
    }
}

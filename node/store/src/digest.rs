//! Digests of a whole resource, streamed chunk by chunk at ingest.

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use skerry_wire::merkle;

use crate::ChunkId;
use crate::chunk::hex;

/// What is known of a complete resource: enough to describe it to every kind of client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// BEP 52 pieces root over the whole content: the resource id.
    pub pieces_root: ChunkId,
    /// Content length, bytes.
    pub length: u64,
    /// Chunk length, bytes.
    pub chunk_length: u32,
    /// Chunk ids in order.
    pub chunks: Vec<ChunkId>,
    /// Flat SHA-256 of the content (RFC 9530 `sha-256`).
    pub sha256: [u8; 32],
    /// SHA-1 of each chunk: the v1 pieces (BEP 3) at a piece length of one chunk.
    pub sha1_pieces: Vec<[u8; 20]>,
}

impl Resource {
    /// The resource id as 64 hex digits.
    pub fn id(&self) -> String {
        hex(&self.pieces_root.0)
    }
}

/// Takes a resource's chunks in order and ends in its [`Resource`].
#[derive(Clone)]
pub struct Ingest {
    chunk_length: u32,
    length: u64,
    chunks: Vec<ChunkId>,
    sha1_pieces: Vec<[u8; 20]>,
    sha256: Sha256,
}

impl Ingest {
    /// A resource of chunks of `chunk_length` bytes (a power of two, at least 16 KiB).
    pub fn new(chunk_length: u32) -> Self {
        Self { chunk_length, length: 0, chunks: Vec::new(), sha1_pieces: Vec::new(), sha256: Sha256::new() }
    }

    /// Hashes the next chunk: full length, but for the last one. CPU bound: not for reactor threads.
    pub fn push(&mut self, chunk: &[u8]) -> ChunkId {
        let id = ChunkId::of(chunk);
        self.sha256.update(chunk);
        self.sha1_pieces.push(Sha1::digest(chunk).into());
        self.length += chunk.len() as u64;
        self.chunks.push(id);
        id
    }

    /// The whole resource's digests.
    pub fn finish(self) -> Resource {
        Resource {
            pieces_root: pieces_root(&self.chunks, self.length, self.chunk_length),
            length: self.length,
            chunk_length: self.chunk_length,
            chunks: self.chunks,
            sha256: self.sha256.finalize().into(),
            sha1_pieces: self.sha1_pieces,
        }
    }
}

/// BEP 52's pieces root from the chunk ids of a resource.
pub fn pieces_root(chunks: &[ChunkId], length: u64, chunk_length: u32) -> ChunkId {
    let layer: Vec<[u8; 32]> = chunks.iter().map(|chunk| chunk.0).collect();
    ChunkId(merkle::pieces_root(&layer, length, chunk_length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::LEAF;

    /// The pieces root straight from the definition: all leaves, padded, hashed up.
    fn by_definition(bytes: &[u8]) -> ChunkId {
        ChunkId::of(bytes)
    }

    #[test]
    fn streamed_chunks_end_in_the_root_of_the_whole() {
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| ((n * 31) >> 3) as u8).collect();
        for length in [0, 1, LEAF, LEAF + 1, 262_144, 262_145, 524_288, 600_000, 1_000_003] {
            let mut ingest = Ingest::new(262_144);
            for chunk in bytes[..length].chunks(262_144) {
                ingest.push(chunk);
            }
            let resource = ingest.finish();
            if length > 0 {
                assert_eq!(resource.pieces_root, by_definition(&bytes[..length]), "length {length}");
            }
            assert_eq!(resource.length, length as u64);
            let flat: [u8; 32] = Sha256::digest(&bytes[..length]).into();
            assert_eq!(resource.sha256, flat);
            assert_eq!(resource.sha1_pieces.len(), length.div_ceil(262_144));
        }
    }
}

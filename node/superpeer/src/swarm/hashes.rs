//! Answers to requests for hashes (BEP 52): out of the piece layers, and out of pieces themselves.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use skerry_store::{Catalogue, Held};
use skerry_wire::Sha256Hash;
use skerry_wire::merkle::{self, Tree};
use skerry_wire::peer::HashRequest;
use tokio::sync::OwnedSemaphorePermit;

use super::Swarm;
use crate::hashing::{self, Hashing, Under};
use crate::node::Node;

/// A piece of a file whose own bytes have to be hashed.
#[derive(Debug, Clone, Copy)]
struct Part {
    file: usize,
    under: Under,
    /// Where in the file it is, bytes.
    start: u64,
    end: u64,
}

impl Swarm {
    /// Bytes that have to be read to answer a request for hashes.
    pub(crate) fn reads_for(&self, request: &HashRequest, hashing: &Hashing) -> u64 {
        let part = self.part(request).filter(|part| hashing.remembered(&part.under).is_none());
        part.map_or(0, |part| part.end - part.start)
    }

    /// The answer to a request for hashes; `None` when it is refused. What has to be computed takes a turn.
    pub(crate) async fn hashes(self: &Arc<Self>, node: &Node, request: HashRequest) -> Option<Vec<[u8; 32]>> {
        let (root, wanted) = (Sha256Hash(request.root), request.wanted());
        let info = self.torrent.metainfo.info();
        let file = info.file_of(&root)?;
        // A file of one piece has no layer, it is all below its only piece's hash.
        let has_layer = info.files().get(file)?.length > u64::from(info.piece_length());
        let part = self.part(&request);
        let mut tree = self.known_tree(&root);
        let mut below = part.and_then(|part| node.hashing.remembered(&part.under));
        if has_layer && tree.is_none() || part.is_some() && below.is_none() {
            // It is shared with the work, which goes on when the connection is gone.
            let turn = Arc::new(node.hashing.turn().await?);
            if has_layer && tree.is_none() {
                tree = self.tree(root, turn.clone()).await;
            }
            if let Some(part) = part {
                below = Some(self.below(node, part, turn).await?);
            }
        }
        match (tree, part.zip(below)) {
            (tree, None) => tree?.hashes(wanted),
            (Some(tree), Some((part, below))) => tree.hashes_below(&below, part.under.2, wanted),
            (None, Some((_, below))) => below.hashes(wanted),
        }
    }

    /// The piece that hashes are asked for of, below its own.
    fn part(&self, request: &HashRequest) -> Option<Part> {
        let (root, wanted) = (Sha256Hash(request.root), request.wanted());
        let info = self.torrent.metainfo.info();
        let file = info.file_of(&root)?;
        let length = self.files.get(file)?.as_ref()?.resource.length;
        let height = merkle::height(length.min(info.piece_length().into()));
        let rise = height.checked_sub(wanted.base).filter(|rise| *rise > 0)?;
        let (place, span) = (wanted.index >> rise, (merkle::LEAF as u64) << height);
        let start = place.checked_mul(span)?;
        let end = start.saturating_add(span).min(length);
        let is_right = (2..=merkle::MAX_HASHES).contains(&wanted.count) && start < end;
        let under = (root, height, place);
        (is_right && end - start <= hashing::LONGEST).then_some(Part { file, under, start, end })
    }

    /// The tree over a piece's leaves. `turn` is held as long as it takes to grow.
    async fn below(&self, node: &Node, part: Part, turn: Arc<OwnedSemaphorePermit>) -> Option<Arc<Tree>> {
        // Who had the turn before may have been after the same.
        if let Some(tree) = node.hashing.remembered(&part.under) {
            return Some(tree);
        }
        let held = self.files.get(part.file)?.as_ref()?;
        // For the piece, and for one of its chunks at a time.
        let length = (part.end - part.start) as usize + self.longest_chunk;
        let room = node.memory.room(length, Instant::now()).await;
        let bytes = self.bytes(&node.catalogue, held, part.start, part.end).await?;
        let (_, height, _) = part.under;
        let grow = move || (Tree::new(merkle::leaves(&bytes), 0, height), turn, room).0;
        let tree = Arc::new(tokio::task::spawn_blocking(grow).await.ok()?);
        node.hashing.remember(part.under, tree.clone());
        Some(tree)
    }

    /// Bytes of a resource in one buffer.
    async fn bytes(&self, catalogue: &Catalogue, held: &Arc<Held>, start: u64, end: u64) -> Option<Bytes> {
        let chunk_length = u64::from(held.resource.chunk_length);
        let mut whole = BytesMut::with_capacity((end - start) as usize);
        let mut at = start;
        while at < end {
            let located = held.located((at / chunk_length) as usize)?;
            let bytes = catalogue.store().read(located).await.ok()??;
            let from = (at % chunk_length) as usize;
            let to = bytes.len().min(from + (end - at) as usize);
            whole.extend_from_slice(bytes.get(from..to).filter(|bytes| !bytes.is_empty())?);
            at += (to - from) as u64;
        }
        Some(whole.freeze())
    }

    fn known_tree(&self, root: &Sha256Hash) -> Option<Arc<Tree>> {
        self.trees.lock().get(root).cloned()
    }

    /// The tree over a file's piece layer. `turn` is held as long as it takes to grow.
    async fn tree(self: &Arc<Self>, root: Sha256Hash, turn: Arc<OwnedSemaphorePermit>) -> Option<Arc<Tree>> {
        if let Some(tree) = self.known_tree(&root) {
            return Some(tree);
        }
        let swarm = self.clone();
        let grow = move || {
            let layer = swarm.torrent.metainfo.layer(&root)?.to_vec();
            let height = merkle::height(swarm.torrent.metainfo.info().piece_length().into());
            let tree = Arc::new(Tree::new(layer, height, 0));
            swarm.trees.lock().insert(root, tree.clone());
            drop(turn);
            Some(tree)
        };
        tokio::task::spawn_blocking(grow).await.ok()?
    }
}

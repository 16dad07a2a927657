//! A download as others see it: how far it is, and what is wanted of it next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// No reader.
const NOWHERE: u32 = u32::MAX;

/// How far a download is. Every figure may be a moment old.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of all pieces; 0 until they are known.
    pub length: AtomicU64,
    /// Bytes that are verified and stored, those that were there before included.
    pub stored: AtomicU64,
    /// Bytes of content that peers sent.
    pub received: AtomicU64,
    /// Bytes of these that came twice, unasked, or wrong.
    pub wasted: AtomicU64,
    /// Bytes per second that peers send.
    pub rate: AtomicU64,
    /// Peers that are connected.
    pub peers: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) progress: Progress,
    reader: AtomicU32,
    /// The reader has moved.
    pub(crate) moved: Notify,
}

/// A view of a download; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    pub(crate) fn new() -> Self {
        let (progress, moved) = (Progress::default(), Notify::new());
        Self(Arc::new(Shared { progress, reader: AtomicU32::new(NOWHERE), moved }))
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// A reader goes on from this piece: it and those after it come before all others.
    pub fn want_from(&self, piece: u32) {
        self.0.reader.store(piece.min(NOWHERE - 1), Relaxed);
        self.0.moved.notify_one();
    }

    /// Where the reader is.
    pub(crate) fn reader(&self) -> Option<u32> {
        Some(self.0.reader.load(Relaxed)).filter(|piece| *piece != NOWHERE)
    }
}

//! Chunks on their way to a connection: room in [`Memory`](crate::memory::Memory), then the read, or the
//! fetch from where they came.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use skerry_store::{Located, StoreError};
use tokio::task::JoinHandle;

use crate::memory::{Chunk, Room};
use crate::node::Node;
use crate::swarm::Swarm;

/// A chunk of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The file.
    pub(crate) file: usize,
    /// The chunk of its resource.
    pub(crate) chunk: usize,
    /// Where that is kept.
    pub(crate) located: Located,
    /// Its length, bytes.
    pub(crate) length: usize,
}

/// A chunk that is read before its turn. The read goes on when nobody wants it any more, and keeps its room
/// until then.
pub(crate) struct Ahead(JoinHandle<Option<(Bytes, Room)>>);

impl Node {
    /// Begins to read a chunk that will be wanted next; `None` when there is no room to spare, or enough
    /// others are read ahead.
    pub(crate) fn read_ahead(&self, wanted: &Wanted) -> Option<Ahead> {
        let room = self.memory.room_to_spare(wanted.length)?;
        let read = self.catalogue.store().read_ahead(wanted.located)?;
        let length = wanted.length;
        Some(Ahead(tokio::spawn(async move {
            let bytes = read.await.ok().flatten().filter(|bytes| bytes.len() == length)?;
            Some((bytes, room))
        })))
    }

    /// A chunk, as soon as there is room for it: one that is read ahead, or that somebody else holds by
    /// then, or from memory, from the disk, from where it came. `None` when it cannot be had in time.
    pub(crate) async fn chunk(
        &self,
        swarm: &Swarm,
        wanted: Wanted,
        ahead: Option<Ahead>,
    ) -> Option<Arc<Chunk>> {
        let id = wanted.located.id;
        if let Some(Ahead(read)) = ahead
            && let Ok(Some((bytes, room))) = read.await
        {
            return Some(self.memory.keep(id, bytes, room));
        }
        let room = self.memory.room(wanted.length, Instant::now()).await;
        if let Some(chunk) = self.memory.known(&id) {
            return Some(chunk);
        }
        let (bytes, room) = self.load(self.read(swarm, wanted, room)).await?;
        Some(self.memory.keep(id, bytes, room))
    }

    async fn read(
        &self,
        swarm: &Swarm,
        wanted: Wanted,
        room: Room,
    ) -> Result<Option<(Bytes, Room)>, StoreError> {
        let Wanted { file, chunk, located, length } = wanted;
        let store = self.catalogue.store().clone();
        // The disk is read to the end whatever becomes of the connection, and what it brings has its room.
        let read = tokio::spawn(async move { (store.read(located).await, room) });
        let (read, room) = read.await.map_err(|_| StoreError::Closing)?;
        if let Some(bytes) = read?.filter(|bytes| bytes.len() == length) {
            return Ok(Some((bytes, room)));
        }
        if !self.config.refill {
            return Ok(None);
        }
        let bytes = swarm.chunk(&self.catalogue, file, chunk, true).await?;
        Ok(bytes.map(|bytes| (bytes, room)))
    }
}

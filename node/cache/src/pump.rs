//! A body on its way into its fill and, chunk by chunk, into the store.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use skerry_core::Body;
use skerry_store::digest::{Ingest, Resource};
use skerry_store::{ChunkId, Located, StoreError};
use tokio::sync::watch;

use crate::engine::Cache;
use crate::error::FetchError;
use crate::extent::Extent;
use crate::fill::Fill;
use crate::hold::Ticket;
use crate::index::Key;
use crate::object::{Object, Variant};
use crate::site::Site;

/// With nobody waiting, a fill with more than this still to come is given up.
const UNWATCHED: u64 = 256 << 20;

impl Cache {
    /// Moves a body into its fill and, chunk by chunk, into the store.
    #[expect(clippy::too_many_arguments, reason = "called twice; a struct would only rename them")]
    pub(crate) async fn pump(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: &Key,
        variant: &Variant,
        fill: &Arc<Fill>,
        bytes: Range<u64>,
        body: Body,
        place: crate::fill::Reader,
    ) {
        let mut stopping = self.stopping.subscribe();
        let _ends = Ends(fill.clone());
        let object = &variant.object;
        let _comes = self.index.coming(key, object);
        let mut place = Some(place);
        let mut pump = Pump {
            cache: self,
            object,
            fill,
            pending: Vec::new(),
            offset: bytes.start,
            pending_bytes: 0,
            ingest: (bytes.start == 0).then(|| Ingest::new(self.store.config().chunk_bytes)),
            storing: None,
            kept: true,
            ticket: self.tickets.get(key),
        };
        let whole = bytes.start == 0 && object.body.length().is_none_or(|length| bytes.end >= length);
        let mut end = pump.run(site, &bytes, body, &mut place, &mut stopping).await;
        if end.is_ok() && bytes.end != u64::MAX && fill.received() < bytes.end {
            end = Err(FetchError::Broken("it ended before its declared length".into()));
        }
        let resource = pump.finish().await;
        let kept = pump.kept;
        if end.is_ok() && object.body.length().is_none() {
            *object.body.length.write() = Some(fill.received());
        }
        if let (true, true, Some(resource)) = (end.is_ok(), whole, resource) {
            *object.body.sha256.write() = Some(resource.sha256);
        }
        let resumable = object.has_strong_validator() && object.body.length().is_some();
        if (end.is_ok() && kept) || (resumable && !object.body.extents.read().is_empty()) {
            self.persist(site, key.clone(), variant.clone()).await;
        } else {
            self.forget(site, key.clone(), Some(object.uid)).await;
        }
        match &end {
            Ok(()) => site.note(true, &""),
            // That was not the origin's doing.
            Err(FetchError::Unwatched | FetchError::Draining) => {}
            Err(error) => site.note(false, error),
        }
        fill.finish(end);
    }
}

/// Ends a fill whose task ends in whatever way, so that nobody waits for ever.
pub(crate) struct Ends(pub(crate) Arc<Fill>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.finish(Err(FetchError::Draining));
    }
}

type Storing = tokio::task::JoinHandle<(Option<Ingest>, Result<Located, StoreError>)>;

/// Cuts a body into chunks; one chunk is hashed and written while the next arrives.
struct Pump<'a> {
    cache: &'a Arc<Cache>,
    object: &'a Arc<Object>,
    fill: &'a Arc<Fill>,
    pending: Vec<Bytes>,
    /// Offset of the first pending byte in the object.
    offset: u64,
    pending_bytes: u64,
    ingest: Option<Ingest>,
    storing: Option<(Storing, u64, u32)>,
    kept: bool,
    /// Somebody wants it held: its chunks are pinned as they come, at the pace that is asked for.
    ticket: Option<Arc<Ticket>>,
}

impl Pump<'_> {
    async fn run(
        &mut self,
        site: &Arc<Site>,
        bytes: &Range<u64>,
        mut body: Body,
        place: &mut Option<crate::fill::Reader>,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<(), FetchError> {
        let chunk = u64::from(self.cache.store.config().chunk_bytes);
        let limit = site.config.max_object_bytes;
        loop {
            if !self.kept && !self.fill.pace().await {
                return Err(FetchError::Unwatched);
            }
            let frame = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return Err(FetchError::Draining),
                frame = tokio::time::timeout(site.read_timeout(), body.frame()) => frame,
            };
            let frame = match frame {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(FetchError::Broken(error.to_string())),
                Ok(None) => return Ok(()),
                Err(_) => return Err(FetchError::TimedOut("send the next piece of the body")),
            };
            let Ok(mut data) = frame.into_data() else { continue };
            let read = data.len() as u64;
            site.metrics.origin_bytes.inc_by(read);
            let room = bytes.end.saturating_sub(self.fill.received());
            if data.len() as u64 > room {
                data.truncate(room as usize);
            }
            self.fill.push(data.clone());
            while self.kept && !data.is_empty() {
                let boundary = chunk - (self.offset + self.pending_bytes) % chunk;
                let piece = data.split_to(data.len().min(boundary as usize));
                self.pending_bytes += piece.len() as u64;
                self.pending.push(piece);
                if (self.offset + self.pending_bytes).is_multiple_of(chunk) {
                    self.cut().await;
                    *place = None;
                }
            }
            let received = self.fill.received();
            if let Some(ticket) = self.ticket.as_ref().filter(|ticket| ticket.rate.limits()) {
                let wait = ticket.rate.charge(read, Instant::now());
                let _ = tokio::time::timeout(wait, stopping.wait_for(|stopping| *stopping)).await;
            }
            if limit > 0 && received > limit && self.kept && self.ticket.is_none() {
                self.give_up();
                *place = None;
            }
            let to_come = if bytes.end == u64::MAX { received } else { bytes.end.saturating_sub(received) };
            if place.is_none() && to_come > UNWATCHED && self.kept && !self.is_watched() {
                return Err(FetchError::Unwatched);
            }
            if received >= bytes.end {
                return Ok(());
            }
        }
    }

    /// Whether a client still waits for these bytes, here or behind, in the store.
    fn is_watched(&self) -> bool {
        self.fill.readers() > 0 || Arc::strong_count(&self.object.body.watchers) > 1
    }

    /// Hands the pending bytes to a blocking thread as one chunk, after the one before is done.
    async fn cut(&mut self) {
        self.settle().await;
        if !self.kept || self.pending.is_empty() {
            return;
        }
        let bytes = match self.pending.as_slice() {
            [only] => only.clone(),
            pieces => {
                let mut whole = BytesMut::with_capacity(self.pending_bytes as usize);
                pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
                whole.freeze()
            }
        };
        self.pending.clear();
        let (offset, length) = (self.offset, bytes.len() as u32);
        self.offset += u64::from(length);
        self.pending_bytes = 0;
        let store = self.cache.store.clone();
        let mut ingest = self.ingest.take();
        let index = offset / u64::from(store.config().chunk_bytes);
        let ticket = self.ticket.clone();
        let storing = tokio::task::spawn_blocking(move || {
            let id = ingest.as_mut().map_or_else(|| ChunkId::of(&bytes), |ingest| ingest.push(&bytes));
            let located = match ticket {
                Some(ticket) => store.pin_part_blocking(&ticket.pin, index, id, &bytes),
                None => store.put_blocking(id, &bytes),
            };
            (ingest, located)
        });
        self.storing = Some((storing, offset, length));
    }

    /// Waits for the chunk that is being written.
    async fn settle(&mut self) {
        let Some((storing, offset, length)) = self.storing.take() else { return };
        let (ingest, located) = storing.await.unwrap_or((None, Err(StoreError::Closing)));
        self.ingest = ingest;
        let written = located
            .and_then(|chunk| self.cache.index.add_extent(self.object, Extent { offset, length, chunk }));
        match written {
            Ok(()) => self.fill.stored(offset + u64::from(length)),
            Err(_) => self.give_up(),
        }
    }

    /// From here on the bytes only pass through.
    fn give_up(&mut self) {
        self.kept = false;
        self.pending.clear();
        self.ingest = None;
    }

    /// Stores what is left; the digests of the whole, when it was ingested from end to end.
    async fn finish(&mut self) -> Option<Resource> {
        self.cut().await;
        self.settle().await;
        self.ingest.take().filter(|_| self.kept).map(Ingest::finish)
    }
}

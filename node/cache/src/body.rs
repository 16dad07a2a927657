//! An object's bytes for one client: from the store, from a running fill, or fetched now.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use skerry_core::{Body, BodyError};
use skerry_store::{ChunkId, ReadAhead};

use crate::engine::Cache;
use crate::error::FetchError;
use crate::fill::{Fill, Piece, Reader};
use crate::index::Key;
use crate::object::Object;
use crate::site::Site;

/// What it takes to get at an object's bytes.
#[derive(Clone)]
pub struct Source {
    /// The cache role.
    pub cache: Arc<Cache>,
    /// The object's site.
    pub site: Arc<Site>,
    /// Where it is kept.
    pub key: Key,
    /// The object.
    pub object: Arc<Object>,
    /// Fields to ask the origin with for what is missing.
    pub request: Arc<http::HeaderMap>,
    /// Its bytes on their way, when they are: if the store takes none, they are only there.
    pub fill: Option<Arc<Fill>>,
}

impl Source {
    /// The whole body when it is one hot chunk: the path of most answers.
    pub fn at_once(&self, range: &Range<u64>) -> Option<Bytes> {
        let extent = self.object.body.extents.read().at(range.start)?;
        let held = extent.range();
        if range.end > held.end {
            return None;
        }
        let bytes = self.cache.store.hot(&extent.chunk.id)?;
        let from = (range.start - held.start) as usize;
        Some(bytes.slice(from..from + (range.end - range.start) as usize))
    }

    /// The bytes of `range`, as a body that sends them as they come. `end` beyond the object's
    /// length (when that is not known yet) ends with the object.
    pub fn body(self, range: Range<u64>) -> Body {
        frames(Cursor::new(self, range))
    }
}

/// A body from a reader of bytes.
fn frames(bytes: Cursor) -> Body {
    let stream = stream::unfold(Some(bytes), |bytes| async move {
        let mut bytes = bytes?;
        match bytes.next().await {
            Ok(Some(piece)) => Some((Ok(Frame::data(piece)), Some(bytes))),
            Ok(None) => None,
            Err(error) => {
                log::debug!(target_:% = bytes.source.key.target; "an answer is cut: {error}");
                Some((Err(BodyError::from(error)), None))
            }
        }
    });
    Body::stream(StreamBody::new(stream))
}

/// Chunks that one client reads ahead: a disk is at its best with some MiB under way.
const AHEAD: usize = 4;

/// A chunk that is being read before it is asked for.
struct Ahead {
    chunk: ChunkId,
    /// Where it ends in the object.
    end: u64,
    read: ReadAhead,
}

/// A client's place in an object.
pub(crate) struct Cursor {
    source: Source,
    position: u64,
    end: u64,
    reader: Option<Reader>,
    ahead: VecDeque<Ahead>,
    failures: u32,
    /// Tells a fill that somebody wants its bytes, however far behind.
    _watching: Arc<()>,
}

impl Cursor {
    fn new(source: Source, range: Range<u64>) -> Self {
        let watching = source.object.body.watchers.clone();
        Self {
            source,
            position: range.start,
            end: range.end,
            reader: None,
            ahead: VecDeque::new(),
            failures: 0,
            _watching: watching,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        while self.position < self.end {
            if let Some(reader) = &mut self.reader {
                match reader.read(self.position).await {
                    Ok(Piece::Bytes(bytes)) => return Ok(Some(self.take(bytes))),
                    Ok(Piece::End)
                        if self.source.object.body.length().is_none_or(|length| self.position >= length) =>
                    {
                        return Ok(None);
                    }
                    Ok(Piece::End | Piece::Stored) => self.reader = None,
                    // Given up behind our back, while we were reading from the store.
                    Err(FetchError::Unwatched) if self.source.object.has_strong_validator() => {
                        self.reader = None;
                        self.source.fill = None;
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(bytes) = self.held().await {
                return Ok(Some(self.take(bytes)));
            }
            let content = &self.source.object.body;
            if content.length().is_some_and(|length| self.position >= length) {
                return Ok(None);
            }
            if let Some(fill) = content.fill_at(self.position) {
                self.reader = Some(fill.reader(self.position));
                continue;
            }
            // Between the last look at the store and now the bytes may have arrived there.
            if content.extents.read().at(self.position).is_some() {
                continue;
            }
            self.failures += 1;
            if self.failures > 3 {
                return Err(FetchError::Broken("the missing part does not come".into()));
            }
            let wanted = self.position..self.end;
            let fill = self.source.cache.clone().fetch_missing(self.source.clone(), wanted).await?;
            self.reader = Some(fill.reader(self.position));
        }
        Ok(None)
    }

    /// What the store has at the position; an extent whose chunk is gone is forgotten.
    async fn held(&mut self) -> Option<Bytes> {
        loop {
            let extent = self.source.object.body.extents.read().at(self.position)?;
            let read = match self.ahead.pop_front() {
                Some(ahead) if ahead.chunk == extent.chunk.id => ahead.read.await,
                _ => {
                    self.ahead.clear();
                    self.source.cache.store.read(extent.chunk).await
                }
            };
            match read {
                Ok(Some(bytes)) if bytes.len() == extent.length as usize => {
                    self.read_ahead(extent.range().end);
                    return Some(bytes.slice((self.position - extent.offset) as usize..));
                }
                Ok(_) => {}
                Err(error) => log::warn!("a chunk cannot be read: {error}"),
            }
            self.source.object.body.extents.write().remove(extent.offset);
        }
    }

    /// Begins to read the chunks from `next` on while the one before them is sent.
    fn read_ahead(&mut self, next: u64) {
        let mut next = self.ahead.back().map_or(next, |last| last.end);
        while next < self.end && self.ahead.len() < AHEAD {
            let Some(extent) = self.source.object.body.extents.read().at(next) else { return };
            let store = &self.source.cache.store;
            if self.ahead.is_empty() && store.hot(&extent.chunk.id).is_some() {
                return;
            }
            let Some(read) = store.read_ahead(extent.chunk) else { return };
            next = extent.range().end;
            self.ahead.push_back(Ahead { chunk: extent.chunk.id, end: next, read });
        }
    }

    fn take(&mut self, mut bytes: Bytes) -> Bytes {
        let wanted = self.end - self.position;
        if bytes.len() as u64 > wanted {
            bytes.truncate(wanted as usize);
        }
        self.position += bytes.len() as u64;
        self.failures = 0;
        bytes
    }
}

/// Several ranges as one `multipart/byteranges` body (RFC 9110 §14.6).
pub fn multipart(source: &Source, parts: Vec<(Vec<u8>, Range<u64>)>, trailer: Vec<u8>) -> Body {
    let mut pieces: VecDeque<Part> = VecDeque::new();
    for (header, range) in parts {
        pieces.push_back(Part::Text(header.into()));
        pieces.push_back(Part::Bytes(Box::new(Cursor::new(source.clone(), range))));
    }
    pieces.push_back(Part::Text(trailer.into()));
    let stream = stream::unfold(pieces, |mut pieces| async move {
        loop {
            match pieces.pop_front()? {
                Part::Text(text) => return Some((Ok(Frame::data(text)), pieces)),
                Part::Bytes(mut bytes) => match bytes.next().await {
                    Ok(Some(piece)) => {
                        pieces.push_front(Part::Bytes(bytes));
                        return Some((Ok(Frame::data(piece)), pieces));
                    }
                    Ok(None) => {}
                    Err(error) => return Some((Err(BodyError::from(error)), Default::default())),
                },
            }
        }
    });
    Body::stream(StreamBody::new(stream))
}

enum Part {
    Text(Bytes),
    Bytes(Box<Cursor>),
}

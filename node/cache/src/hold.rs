//! Holding: a target of a site becomes a resource, complete and, if it is to stay, pinned.
//!
//! It takes the way of any other request, so that the cache's object and the resource share their
//! chunks; what comes for a hold is pinned as it comes (`Ticket`). Then every chunk is read once,
//! for the digests of the whole, and the resource stands in the catalogue.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skerry_core::Body;
use skerry_core::bucket::Bucket;
use skerry_core::role::BoxFuture;
use skerry_store::catalogue::{Answer, CameFrom, CatalogueError, Progress, Refill};
use skerry_store::digest::Ingest;
use skerry_store::{Catalogue, ChunkId, Held, Store, StoreError};

use crate::body::Source;
use crate::engine::Cache;
use crate::extent::Extent;
use crate::index::Key;
use crate::metrics::CacheResult;
use crate::object::{Object, Variant, now_ms};
use crate::site::Site;

/// How often what was evicted while it was being read is fetched again.
const TRIES: usize = 3;
/// How long a chunk that was fetched again may take from its reader to the store.
const SETTLED: Duration = Duration::from_secs(10);
/// Longest file name of a resource, bytes.
const LONGEST_NAME: usize = 200;

/// What is to be held.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it comes from.
    pub from: CameFrom,
    /// A file name for it; by default the last part of the target.
    pub name: Option<String>,
    /// The name to pin its chunks under; `None` leaves them to eviction. A hold that was broken off goes
    /// on where it was when it has the same name, also after a restart, but for names that begin with
    /// [`ONCE`](skerry_store::catalogue::ONCE). Who gives up on one that failed lets go of the name.
    pub pin: Option<String>,
}

/// A hold under way, as the fill of its object sees it.
pub(crate) struct Ticket {
    pub(crate) pin: String,
    pub(crate) rate: Arc<Bucket>,
}

/// Holds under way, by what they hold.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<Key, Arc<Ticket>>>);

impl Tickets {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Ticket>> {
        self.0.lock().get(key).cloned()
    }

    fn list(&self, key: &Key, ticket: Ticket) -> Result<Listed<'_>, HoldError> {
        match self.0.lock().entry(key.clone()) {
            Entry::Occupied(_) => Err(HoldError::Busy),
            Entry::Vacant(free) => {
                free.insert(Arc::new(ticket));
                Ok(Listed(self, key.clone()))
            }
        }
    }
}

/// Takes a ticket off the list.
struct Listed<'a>(&'a Tickets, Key);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}

/// Why something is not held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// There is no such site.
    #[error("this node has no site `{0}`; `[sites]` of its configuration names them")]
    NoSite(String),
    /// The target cannot be asked for.
    #[error("`{0}` is no target: a path, beginning with `/`, and a query")]
    Target(String),
    /// Another hold of the same target runs.
    #[error("it is being fetched already")]
    Busy,
    /// The origin has no whole content to give.
    #[error("the origin answers {0}")]
    Status(StatusCode),
    /// It came, and may not be kept, or did not fit.
    #[error("the answer cannot be kept: {0}")]
    NotKept(String),
    /// It broke off.
    #[error("it broke off: {0}")]
    Broken(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

impl Cache {
    /// Fetches what is missing of a target, and puts it into the catalogue as a resource. `rate` bounds
    /// what is asked of the origin.
    pub async fn hold(
        self: &Arc<Self>,
        catalogue: &Catalogue,
        wanted: Wanted,
        progress: &Progress,
        rate: Arc<Bucket>,
    ) -> Result<Arc<Held>, HoldError> {
        let sites = self.sites.load_full();
        let site = sites.iter().find(|site| *site.name == *wanted.from.site).cloned();
        let site = site.ok_or_else(|| HoldError::NoSite(wanted.from.site.clone()))?;
        let target = &wanted.from.target;
        if !is_target(target) {
            return Err(HoldError::Target(target.clone()));
        }
        let key = Key { site: site.name.clone(), target: target.as_str().into() };
        let ticket = wanted.pin.clone().map(|pin| Ticket { pin, rate });
        let _listed = ticket.map(|ticket| self.tickets.list(&key, ticket)).transpose()?;
        if let Some(pin) = wanted.pin.clone() {
            self.on_store(move |store| store.open_parts_blocking(&pin)).await?;
        }
        for _ in 0..TRIES {
            self.read_whole(&site, &key, wanted.pin.as_deref(), progress).await?;
            let variant = self.variant(&site, &key).await;
            if let Some(variant) = &variant {
                // The last bytes reach their readers before they reach the store.
                variant.object.body.filled().await;
            }
            let variant = match variant {
                Some(variant) if variant.object.body.is_complete() => variant,
                part => {
                    if let Some(pin) = &wanted.pin {
                        let room = self.room(pin, progress.received.load(Relaxed)).await;
                        self.keep_only(catalogue, pin, part.as_ref()).await?;
                        room?;
                    }
                    return Err(HoldError::NotKept("the store has no room".into()));
                }
            };
            if let Some(held) = self.record(&site, &key, &variant, catalogue, &wanted).await? {
                self.persist(&site, key, variant).await;
                return Ok(held);
            }
        }
        Err(HoldError::NotKept("its chunks are evicted faster than they are read".into()))
    }

    /// Has the whole content in the store, as the fill of the object does for any client.
    async fn read_whole(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: &Key,
        pin: Option<&str>,
        progress: &Progress,
    ) -> Result<(), HoldError> {
        let done = self.cached(site, ask(site, key, None)).await;
        let (head, mut body) = done.response.into_parts();
        if head.status != StatusCode::OK {
            return Err(HoldError::Status(head.status));
        }
        if matches!(done.result, CacheResult::Pass) {
            return Err(HoldError::NotKept("the origin or the site's limits forbid it".into()));
        }
        let variant = self.variant(site, key).await;
        if variant.is_none() && done.result == CacheResult::Stale {
            // What is held stands in for an origin that fails.
            return Err(HoldError::Status(StatusCode::GATEWAY_TIMEOUT));
        }
        let length = crate::object::declared_length(&head.headers).unwrap_or(0);
        progress.length.store(length, Relaxed);
        progress.received.store(0, Relaxed);
        if variant.is_some_and(|variant| variant.object.body.is_complete()) {
            // Every chunk is read once more anyway.
            progress.received.store(length, Relaxed);
            return Ok(());
        }
        if let Some(pin) = pin {
            self.room(pin, length).await?;
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| HoldError::Broken(error.to_string()))?;
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            progress.received.fetch_add(bytes, Relaxed);
        }
        Ok(())
    }

    /// Refuses what cannot be pinned under `pin`: `length` bytes, of which some may be already.
    async fn room(&self, pin: &str, length: u64) -> Result<(), HoldError> {
        let (quota, name) = (self.store.config().pinned_bytes, pin.to_owned());
        // Before the other figure: what is pinned meanwhile may count twice in its favour, never against it.
        let room = self.store.pinnable();
        let pinned = self.on_store(move |store| store.pinned_in_parts_blocking(&name)).await?;
        let asked = length.saturating_sub(pinned);
        if asked > room {
            return Err(StoreError::PinnedFull { used: quota - room, quota, asked }.into());
        }
        Ok(())
    }

    /// Lets go of what is pinned under `pin` and is no part of what came: an earlier hold may have begun
    /// with another version, which is in the way of the next one. What is on record is not touched.
    async fn keep_only(
        &self,
        catalogue: &Catalogue,
        pin: &str,
        part: Option<&Variant>,
    ) -> Result<(), StoreError> {
        let chunk = self.store.config().chunk_bytes as usize;
        let chunks = part.map(|part| {
            let extents = part.object.body.extents.read();
            let end = extents.iter().last().map_or(0, |last| last.range().end);
            let nothing = ChunkId([0; 32]);
            let at = |offset| extents.at(offset).map_or(nothing, |held| held.chunk.id);
            (0..end).step_by(chunk).map(at).collect::<Vec<_>>()
        });
        let (catalogue, pin, chunks) = (catalogue.clone(), pin.to_owned(), chunks.unwrap_or_default());
        let keep = move |store: &Store| match catalogue.pinned_by(&pin) {
            Some(_) => Ok(()),
            None => store.keep_parts_blocking(&pin, &chunks),
        };
        self.on_store(keep).await
    }

    /// Does something with the store on a blocking thread.
    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(|_| StoreError::Closing)?
    }

    /// What the index has for a request of the node's own.
    async fn variant(self: &Arc<Self>, site: &Arc<Site>, key: &Key) -> Option<Variant> {
        let (cache, site, key) = (self.clone(), site.clone(), key.clone());
        let find = move || {
            let asked = fields(&site);
            let entry = cache.index.load(&key, &site.policy).ok()??;
            let object = cache.index.select(&site, &key.target, &entry, &asked)?;
            Variant::of(object, &asked)
        };
        tokio::task::spawn_blocking(find).await.ok().flatten()
    }

    /// Reads every chunk once, pins those that are to be and are not, and puts the resource on record;
    /// `None` when a chunk has gone meanwhile.
    async fn record(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: &Key,
        variant: &Variant,
        catalogue: &Catalogue,
        wanted: &Wanted,
    ) -> Result<Option<Arc<Held>>, HoldError> {
        let object = &variant.object;
        let length = object.body.length().unwrap_or(0);
        if length == 0 {
            return Err(HoldError::NotKept("it is empty".into()));
        }
        let chunk = u64::from(self.store.config().chunk_bytes);
        let mut ingest = Ingest::new(self.store.config().chunk_bytes);
        let mut generations = Vec::new();
        for (index, offset) in (0..length).step_by(chunk as usize).enumerate() {
            let end = (offset + chunk).min(length);
            let held = object.body.extents.read().at(offset);
            let held = held.filter(|extent| extent.offset == offset && extent.range().end == end);
            let read = match held {
                Some(extent) => self.store.read(extent.chunk).await?,
                None => None,
            };
            let bytes = match read.filter(|bytes| bytes.len() as u64 == end - offset) {
                Some(bytes) => bytes,
                None => match self.gathered(site, key, object, offset..end).await {
                    Some(bytes) => bytes,
                    None => return Ok(None),
                },
            };
            let (store, pin) = (self.store.clone(), wanted.pin.clone());
            let work = move || {
                let id = ingest.push(&bytes);
                let held =
                    held.map(|extent| extent.chunk).filter(|chunk| chunk.id == id.kept_as(bytes.len()));
                let located = match (pin, held) {
                    // Also what is pinned: another name that it is pinned under may be let go of.
                    (Some(pin), _) => store.pin_part_blocking(&pin, index as u64, id, &bytes)?,
                    (None, Some(chunk)) => chunk,
                    (None, None) => store.put_blocking(id, &bytes)?,
                };
                Ok::<_, StoreError>((ingest, located))
            };
            let (after, located) =
                tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closing)??;
            ingest = after;
            generations.push(located.generation);
            let extent = Extent { offset, length: (end - offset) as u32, chunk: located };
            object.body.extents.write().insert(extent);
        }
        let resource = ingest.finish();
        *object.body.sha256.write() = Some(resource.sha256);
        let media_type = object.field(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let name = wanted.name.as_deref().map_or_else(|| file_name(&wanted.from.target), clean_name);
        let held = Held {
            resource,
            generations,
            name,
            media_type: media_type.unwrap_or_default().to_owned(),
            from: Some(wanted.from.clone()),
            pin: wanted.pin.clone(),
            added_ms: now_ms(),
        };
        // A purge while it was on its way concerns it.
        let answer = Answer::of(&object.headers, object.times.request);
        let (catalogue, store, from) = (catalogue.clone(), self.store.clone(), wanted.from.clone());
        let add = move || {
            store.flush_pins_blocking()?;
            let held = catalogue.add_with_torrents(held)?;
            if let Err(error) = catalogue.tell(&from, &held.id(), &answer) {
                log::warn!(resource:% = held.id(); "what its origin said of it is not on record: {error}");
            }
            Ok::<_, CatalogueError>(held)
        };
        let held = tokio::task::spawn_blocking(add).await.map_err(|_| StoreError::Closing)??;
        Ok(Some(held))
    }

    /// Bytes that do not stand in one chunk, or whose chunk is gone.
    async fn gathered(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: &Key,
        object: &Arc<Object>,
        range: std::ops::Range<u64>,
    ) -> Option<Bytes> {
        let source = Source {
            cache: self.clone(),
            site: site.clone(),
            key: key.clone(),
            object: object.clone(),
            request: Arc::new(fields(site)),
            fill: None,
        };
        collect(source.body(range.clone()), range.end - range.start).await
    }
}

/// Fetches chunks again that were evicted.
pub struct FromOrigin(pub Arc<Cache>);

impl Refill for FromOrigin {
    fn chunk(&self, held: Arc<Held>, index: usize) -> BoxFuture<'static, Option<Bytes>> {
        let cache = self.0.clone();
        let again = async move {
            let from = held.from.as_ref()?;
            let site = cache.sites.load().iter().find(|site| *site.name == *from.site).cloned()?;
            let key = Key { site: site.name.clone(), target: from.target.as_str().into() };
            let start = u64::from(held.resource.chunk_length) * index as u64;
            let length = u64::from(held.chunk_length(index));
            let done = cache.cached(&site, ask(&site, &key, Some(start..start + length))).await;
            let whole = done.response.status() == StatusCode::OK && length == held.resource.length;
            if !whole && done.response.status() != StatusCode::PARTIAL_CONTENT {
                return None;
            }
            let bytes = collect(done.response.into_body(), length).await?;
            // The last bytes reach their readers before they reach the store, and are to be there but once.
            let last = start + length - 1;
            let fill = cache.variant(&site, &key).await.and_then(|variant| variant.object.body.fill_at(last));
            if let Some(fill) = fill {
                let _ = tokio::time::timeout(SETTLED, fill.left(last)).await;
            }
            Some(bytes)
        };
        Box::pin(again)
    }
}

/// A body of exactly `length` bytes as one buffer.
async fn collect(mut body: Body, length: u64) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > length {
            return None;
        }
        if whole.is_empty() && data.len() as u64 == length {
            return Some(data);
        }
        whole.extend_from_slice(&data);
    }
    (whole.len() as u64 == length).then(|| whole.freeze())
}

/// A request of the node's own.
fn ask(site: &Site, key: &Key, range: Option<std::ops::Range<u64>>) -> http::request::Parts {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = key.target.parse().unwrap_or_default();
    *request.headers_mut() = fields(site);
    if let Some(range) = range
        && let Ok(value) = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1))
    {
        request.headers_mut().insert(header::RANGE, value);
    }
    request.into_parts().0
}

/// Its fields.
pub(crate) fn fields(site: &Site) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.extend(HeaderValue::from_str(&site.name).ok().map(|host| (header::HOST, host)));
    fields
}

/// Whether a text is path and query as a request for it will have them; the node's own paths are no site's.
fn is_target(text: &str) -> bool {
    let same = |uri: http::Uri| uri.path_and_query().is_some_and(|target| target.as_str() == text);
    text.starts_with('/') && !text.starts_with("/.skerry/") && text.parse::<http::Uri>().is_ok_and(same)
}

/// The last part of a target's path as a file name.
pub fn file_name(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let last = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("resource");
    clean_name(&percent_encoding::percent_decode_str(last).decode_utf8_lossy())
}

/// A text as a file name that is one everywhere.
pub fn clean_name(text: &str) -> String {
    let odd = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let mut name: String = text.chars().map(|c| if odd(c) { '_' } else { c }).collect();
    while name.len() > LONGEST_NAME {
        name.pop();
    }
    if name.chars().all(|c| c == '.') { "resource".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_what_a_request_for_it_says() {
        for right in ["/", "/a/b?c=d&e", "//a", "/a%20b?", "/a:b"] {
            assert!(is_target(right), "{right}");
        }
        for wrong in ["", "a", "*", "http://a/b", "/a#b", "/a b", "/a\n", "/.skerry/v1/route"] {
            assert!(!is_target(wrong), "{wrong}");
        }
    }

    #[test]
    fn names_are_safe_as_file_names() {
        assert_eq!(file_name("/a/b/film%20one.mp4?x=1"), "film one.mp4");
        assert_eq!(file_name("/a/%2e%2e"), "resource");
        assert_eq!(file_name("/%2Fetc%5Cpasswd"), "_etc_passwd");
        assert_eq!(file_name("/"), "resource");
        assert_eq!(
            [clean_name("a/../b\n"), clean_name(""), clean_name("...")],
            ["a_.._b_", "resource", "resource"]
        );
        assert!(file_name(&"ü".repeat(300)).len() <= LONGEST_NAME);
    }
}

//! What is held as a resource answers for the target that it came from.
//!
//! A resource may have come from a target though nobody here asked its origin: from another node, or from
//! peers. Its bytes are verified, but they are no response that was stored for the target (RFC 9111 §4):
//! the origin may have something else there by now. So a request that misses asks the origin, by HEAD.
//! When the answer is surely one with the content that is held, by its digest (RFC 9530) or by the
//! validators that were seen with the content (RFC 9110 §8.8), header and chunks together are the object
//! that a GET would have stored: parts of one representation may be combined (RFC 9111 §3.4). No body
//! moves, and nothing is stored twice. In every other case the GET follows that would have been sent
//! without all this. What it brings is stored beside the resource, which stays what it is and answers for
//! this target no more.
//!
//! When the origin fails, what is held stands in for the response that it once was the content of, where
//! that could have been given had it been stored: as long as the origin's own words, the site's
//! `stale_if_error_seconds` or the client's wish let it be stale (RFC 9111 §4.2.4, RFC 5861 §4), to
//! requests that would select it (§4.1), and not after a purge or an unsafe request (§4.4).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use parking_lot::RwLock;
use quick_cache::Weighter;
use quick_cache::sync::Cache as QuickCache;
use skerry_core::Body;
use skerry_store::catalogue::{Answer, CameFrom};
use skerry_store::{Catalogue, ChunkId, Held, StoreError};
use tokio::time::Instant;

use crate::answer::answer;
use crate::body::Source;
use crate::engine::{Cache, Done};
use crate::extent::{Extent, Extents};
use crate::fetch::{Ask, gives_ranges};
use crate::hold::fields;
use crate::index::Key;
use crate::metrics::CacheResult;
use crate::object::{Content, Entry, Object, Times, Variant, declared_length, now_ms};
use crate::rfc::cache_status::CacheStatus;
use crate::rfc::conditional::{remove_conditions, validators_agree};
use crate::rfc::digest::{WANT_REPR_DIGEST, WANTED, sha256};
use crate::rfc::directives::{RequestDirectives, ResponseDirectives, targeted};
use crate::rfc::fields::{ensure_date, storable_headers};
use crate::rfc::reuse::Reuse;
use crate::site::Site;

/// A resource that came from a target, and what its origin answered with it, when that is known.
pub struct Known {
    held: Arc<Held>,
    answer: Option<Answer>,
}

impl Known {
    /// Whether a header is surely one of the content that is held.
    fn is_content_of(&self, header: &HeaderMap) -> bool {
        let resource = &self.held.resource;
        let length = declared_length(header);
        if length.is_some_and(|length| length != resource.length) {
            return false;
        }
        let seen = self.answer.as_ref().map(Answer::header);
        // A HEAD may lack what is known only once the content is made, `Vary` too (RFC 9110 §9.3.2).
        if seen.as_ref().is_some_and(|seen| seen.contains_key(header::VARY))
            && !header.contains_key(header::VARY)
        {
            return false;
        }
        if let Some(digest) = sha256(header) {
            return digest == resource.sha256;
        }
        let Some(seen) = seen else { return false };
        // Some origins give what they encode on the way the tag of what they encode.
        seen.get(header::CONTENT_ENCODING) == header.get(header::CONTENT_ENCODING)
            && validators_agree(&seen, header, Some(resource.length), length)
    }
}

/// Memory for the bodies of what has stood in lately, bytes.
const BODIES: u64 = 32 << 20;

/// Bodies of what stands in: there are many requests until an origin is back.
pub(crate) struct Bodies(QuickCache<ChunkId, Kept, Weigh>);

#[derive(Clone)]
struct Kept {
    held: Arc<Held>,
    content: Arc<Content>,
}

#[derive(Clone)]
struct Weigh;

impl Weighter<ChunkId, Kept> for Weigh {
    fn weight(&self, _: &ChunkId, kept: &Kept) -> u64 {
        512 + 192 * kept.held.resource.chunks.len() as u64
    }
}

impl Default for Bodies {
    fn default() -> Self {
        Self(QuickCache::with_weighter(64, BODIES, Weigh))
    }
}

impl Bodies {
    fn get(&self, held: &Arc<Held>) -> Option<Arc<Content>> {
        let Kept { held: of, content } = self.0.get(&held.id())?;
        // As it was made: what was missed may be back, and what went on record has a number of its own.
        let is_sound = content.is_complete() && !content.spilled.load(Relaxed);
        (is_sound && Arc::ptr_eq(&of, held)).then_some(content)
    }

    fn keep(&self, held: &Arc<Held>, content: &Arc<Content>) {
        self.0.insert(held.id(), Kept { held: held.clone(), content: content.clone() });
    }
}

impl Cache {
    /// Lets the resources of a catalogue answer for the targets that they came from. Once, before requests
    /// come.
    pub(crate) fn know(&self, catalogue: Catalogue) {
        let _ = self.catalogue.set(catalogue);
    }

    /// What is held of a target, if it may be newer than what is stored.
    pub(crate) async fn known(
        &self,
        site: &Site,
        target: &str,
        stored: Option<&Object>,
    ) -> Option<Arc<Known>> {
        let catalogue = self.catalogue.get()?.clone();
        let from = source(site, target);
        // Nearly always nothing is, which is known without the disk.
        if matches!(catalogue.source_now(&from), Some(None)) {
            return None;
        }
        let find = move || {
            let Some(source) = catalogue.source(&from)? else { return Ok(None) };
            let held = catalogue.resource(&source.resource)?;
            Ok::<_, StoreError>(held.map(|held| Known { held, answer: source.answer }))
        };
        let known = match tokio::task::spawn_blocking(find).await {
            Ok(Ok(known)) => known?,
            Ok(Err(error)) => {
                log::warn!("what is held of a target cannot be read: {error}");
                return None;
            }
            Err(_) => return None,
        };
        let is_news = stored.is_none_or(|stored| {
            let same = *stored.body.sha256.read() == Some(known.held.resource.sha256);
            !same && stored.times.response < known.held.added_ms
        });
        is_news.then(|| Arc::new(known))
    }

    /// Forgets what came from a target, since its origin has something else there now, or may have.
    pub(crate) async fn forget_source(&self, site: &Site, target: &str) {
        let Some(catalogue) = self.catalogue.get().cloned() else { return };
        let from = source(site, target);
        if matches!(catalogue.source_now(&from), Some(None)) {
            return;
        }
        let forget = move || catalogue.forget_source(&from);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(forget).await {
            log::warn!("what came from a target cannot be forgotten: {error}");
        }
    }

    /// Asks the origin for the header alone, and puts it into the index with what is held as its body;
    /// `None` when the origin has something else, or nobody can tell by `end`. Nothing is written down yet.
    pub(crate) async fn adopt(
        &self,
        ask: &Ask,
        known: &Known,
        purge_seen: u64,
        end: Instant,
    ) -> Option<Variant> {
        let mut headers = self.origin_headers(&ask.headers);
        remove_conditions(&mut headers);
        headers.remove(header::RANGE);
        headers.insert(WANT_REPR_DIGEST, HeaderValue::from_static(WANTED));
        let (sent, target) = (now_ms(), &ask.key.target);
        let response = self
            .exchange_until(Some(end), &ask.site, Method::HEAD, target, headers.clone(), Body::Empty, None)
            .await
            .ok()?;
        let times = Times { request: sent, response: now_ms() };
        let (mut parts, _) = response.into_parts();
        ensure_date(&mut parts.headers, times.response / 1000);
        if parts.status != StatusCode::OK || !known.is_content_of(&parts.headers) {
            return None;
        }
        self.storable(ask, &headers, parts.status, &parts.headers).ok()?;
        let directives = targeted(&parts.headers);
        let directives = directives.unwrap_or_else(|| ResponseDirectives::parse(&parts.headers));
        let stored = storable_headers(&parts.headers, &directives);
        let content = self.content(&known.held).await?;
        let complete = content.is_complete();
        let (policy, uid) = (&ask.site.policy, self.index.uid());
        let object = Object::new(parts.status, stored, times, purge_seen, policy, Arc::new(content), uid);
        // What has been evicted of it is fetched as parts of it.
        if !(complete || object.has_strong_validator() && gives_ranges(&parts)) {
            return None;
        }
        let variant = Variant::of(Arc::new(object), &ask.headers)?;
        self.index.put(&ask.key, variant.clone());
        Some(variant)
    }

    /// The chunks of a resource as the body of an object, as far as they are there.
    async fn content(&self, held: &Arc<Held>) -> Option<Content> {
        let (catalogue, held) = (self.catalogue.get()?.clone(), held.clone());
        let look = move || {
            let mut extents = Extents::default();
            let present = catalogue.presence(&held)?;
            for (index, _) in present.iter().enumerate().filter(|(_, is_there)| **is_there) {
                let offset = u64::from(held.resource.chunk_length) * index as u64;
                if let Some(chunk) = held.located(index) {
                    extents.insert(Extent { offset, length: held.chunk_length(index), chunk });
                }
            }
            Ok::<_, StoreError>(Content {
                length: RwLock::new(Some(held.resource.length)),
                extents: RwLock::new(extents),
                sha256: RwLock::new(Some(held.resource.sha256)),
                ..Content::default()
            })
        };
        let content = tokio::task::spawn_blocking(look).await.ok()?.ok()?;
        let is_empty = content.extents.read().is_empty();
        (!is_empty).then_some(content)
    }

    /// All of a resource as the body of what stands in; `None` when a chunk is missing.
    async fn whole(&self, held: &Arc<Held>) -> Option<Arc<Content>> {
        if let Some(content) = self.bodies.get(held) {
            return Some(content);
        }
        let content = Arc::new(self.content(held).await.filter(Content::is_complete)?);
        // What is not pinned may be evicted, and is looked for each time.
        if held.pin.is_some() {
            self.bodies.keep(held, &content);
        }
        Some(content)
    }

    /// Whether what is held may be given to this request when the origin fails.
    pub(crate) fn may_stand_in(&self, site: &Site, target: &str, known: &Known, request: &HeaderMap) -> bool {
        self.once(site, target, known, request, Arc::default()).is_some()
    }

    /// What is held as the response that it once was, with `body`, and its freshness left, seconds; `None`
    /// when it may not be given to this request.
    fn once(
        &self,
        site: &Site,
        target: &str,
        known: &Known,
        request: &HeaderMap,
        body: Arc<Content>,
    ) -> Option<(Arc<Object>, i64)> {
        let answer = known.answer.as_ref()?;
        let mut headers = answer.header();
        if !headers.contains_key(header::ETAG) {
            headers.insert(header::ETAG, HeaderValue::try_from(format!("\"{}\"", known.held.id())).ok()?);
        }
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // Its media type may be another node's word: it is not to act in the site's name.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
        // By this node's clock it is no younger than its record.
        let came = answer.received_ms.min(known.held.added_ms);
        let times = Times { request: came, response: came };
        let uid = self.index.uid();
        let object = Object::new(StatusCode::OK, headers, times, came, &site.policy, body, uid);
        let entry = Entry { variants: vec![Variant::of(Arc::new(object), &fields(site))?] };
        let object = self.index.select(site, target, &entry, request)?;
        let now = now_ms();
        match self.may_use(site, &object, &RequestDirectives::parse(request), now) {
            Reuse::Fresh { .. }
            | Reuse::Stale { allowed_if_error: true, .. }
            | Reuse::Stale { allowed_by_client: true, .. } => {
                let ttl = object.lifetime.seconds as i64 - object.age(now) as i64;
                Some((object, ttl))
            }
            _ => None,
        }
    }

    /// The answer with what is held, where the origin fails to give one; `failure` is its status, if it
    /// has answered at all.
    pub(crate) async fn stand_in(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: &Key,
        head: &Head,
        failure: Option<StatusCode>,
    ) -> Option<Done> {
        let known = self.known(site, &key.target, None).await?;
        if !self.may_stand_in(site, &key.target, &known, &head.headers) {
            return None;
        }
        let content = self.whole(&known.held).await?;
        let (object, ttl) = self.once(site, &key.target, &known, &head.headers, content)?;
        let source = Source {
            cache: self.clone(),
            site: site.clone(),
            key: key.clone(),
            object,
            request: Arc::new(head.headers.clone()),
            fill: None,
        };
        if !self.is_at_hand(&source, head).await {
            return None;
        }
        let status = CacheStatus {
            hit: true,
            ttl: Some(ttl),
            fwd_status: failure,
            detail: Some("held"),
            ..CacheStatus::default()
        };
        Some(Done { response: answer(source, head, &status, now_ms()), result: CacheResult::Stale })
    }
}

fn source(site: &Site, target: &str) -> CameFrom {
    CameFrom { site: site.name.to_string(), target: target.to_owned() }
}

#[cfg(test)]
mod tests;

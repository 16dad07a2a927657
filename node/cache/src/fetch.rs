//! Exchanges with an origin: one for all who wait for the same thing, into the store.
//!
//! A flight is one exchange; it runs on the background runtime, so that it outlives the client
//! that began it. It lands once its header is understood: as an object (whose body may still be
//! coming), or as something that only the first client can have. Missing parts of an object that is
//! there are fetched in `missing`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use skerry_core::Body;
use skerry_core::lane::Interim;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::adopt::Known;
use crate::engine::Cache;
use crate::error::FetchError;
use crate::exchange::is_error;
use crate::fill::Fill;
use crate::index::Key;
use crate::object::{Content, Object, Times, Variant, declared_length, now_ms};
use crate::purge::Effect;
use crate::rfc::conditional::{add_validators, has_validator, remove_conditions, validators_agree};
use crate::rfc::content_range::ContentRange;
use crate::rfc::directives::{RequestDirectives, ResponseDirectives, targeted};
use crate::rfc::fields::{ensure_date, storable_headers, strip_hop_by_hop, update_from_304};
use crate::rfc::storable::{Exchange, NotStorable, is_storable};
use crate::site::Site;

/// In chunks: who asks for the end of a film does not wait for all of it.
const REACH: u64 = 8;
/// After an answer that could not be kept, requests for the same target do not wait for each other.
const APART: Duration = Duration::from_secs(5);

/// How a flight ended, for everybody.
#[derive(Debug, Clone)]
pub enum Landing {
    /// There is an object.
    Object {
        /// It.
        object: Arc<Object>,
        /// Status of the origin's answer: 304 when it was validated.
        status: StatusCode,
        /// Whether it is kept.
        stored: bool,
        /// The names in its `Vary`, and the values that select it: for those who only waited.
        selected_by: Arc<(Vec<HeaderName>, Vec<u8>)>,
        /// Which part came, and the `Content-Range` that said so, when a part was asked for.
        part: Option<(Range<u64>, HeaderValue)>,
        /// Its body on its way, held for who has not begun to read it.
        fill: Option<Arc<Fill>>,
        /// Whether its bytes were here already, as a resource.
        held: bool,
    },
    /// The origin answered with an error, and the stale object may be served instead.
    Error(StatusCode),
    /// Only the first client got an answer; others go on their own.
    Alone,
    /// There was no answer.
    Failed(FetchError),
}

/// What the client that began a flight gets.
pub enum Boarded {
    /// What everybody gets.
    Landed(Landing),
    /// The origin's answer itself, and why it is not kept.
    Answer(Box<Response<Body>>, Option<NotStorable>),
}

/// A request to be made of an origin.
#[derive(Clone)]
pub struct Ask {
    /// The site.
    pub site: Arc<Site>,
    /// What for.
    pub key: Key,
    /// The client's fields.
    pub headers: Arc<HeaderMap>,
    /// Directives of the request.
    pub directives: RequestDirectives,
    /// A `Range` to ask for, of an object that is not known yet.
    pub range: Option<HeaderValue>,
    /// The object to validate.
    pub stored: Option<Arc<Object>>,
    /// What is held of the target, if that may be newer.
    pub known: Option<Arc<Known>>,
    /// Whether something that is stored or held may replace an error.
    pub stale_if_error: bool,
    /// What the index had for this request, whether it may be used or not.
    pub seen: Option<Arc<Object>>,
    /// Where the first client takes answers before the answer.
    pub interim: Option<Interim>,
}

/// Flights under way.
#[derive(Default)]
pub struct Flights(parking_lot::Mutex<HashMap<FlightName, watch::Receiver<Option<Landing>>>>);

/// What a flight fetches: the target, the `Range` it asks for, and the last purge before it.
type FlightName = (Key, Vec<u8>, u64);

/// Takes a flight off the list when it has landed, or was dropped.
struct Listed {
    cache: Arc<Cache>,
    name: FlightName,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.cache.flights.0.lock().remove(&self.name);
    }
}

/// The client's part in a flight.
pub enum Part {
    /// It began it.
    First(oneshot::Receiver<Boarded>),
    /// Another's landed since the index was looked at.
    Landed(Landing),
    /// It waits for another's.
    Other(watch::Receiver<Option<Landing>>),
}

impl Cache {
    /// Joins the flight for this, or begins one. `apart` begins one that nobody joins.
    pub fn fly(self: &Arc<Self>, ask: Ask, apart: bool) -> Part {
        let (boarded, first) = oneshot::channel();
        let (landing, others) = watch::channel(None);
        let range = ask.range.as_ref().map(|range| range.as_bytes().to_vec()).unwrap_or_default();
        let name = (ask.key.clone(), range, self.index.purges.current());
        let shared = !apart && !self.apart.contains(&ask.key);
        if shared {
            let mut flights = self.flights.0.lock();
            if let Some(under_way) = flights.get(&name) {
                return Part::Other(under_way.clone());
            }
            // A flight leaves the list only after its object is in the index.
            if ask.range.is_none()
                && let Some(landing) = self.landed_since(&ask)
            {
                return Part::Landed(landing);
            }
            flights.insert(name.clone(), others);
        }
        let listed = shared.then(|| Listed { cache: self.clone(), name });
        let cache = self.clone();
        self.background.spawn(async move {
            cache.flight(ask, boarded, landing, listed).await;
        });
        Part::First(first)
    }

    /// What another flight brought since the index was looked at.
    fn landed_since(&self, ask: &Ask) -> Option<Landing> {
        let entry = self.index.hot(&ask.site.name, &ask.key.target)?;
        let object = self.index.select(&ask.site, &ask.key.target, &entry, &ask.headers)?;
        let variant = entry.variants.iter().find(|variant| Arc::ptr_eq(&variant.object, &object))?;
        let selected_by = variant.selected_by();
        let known = ask.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &object));
        let new = !known && !object.directives.no_cache && !object.outdated.load(Relaxed);
        new.then(|| Landing::Object {
            status: object.status,
            object,
            stored: true,
            selected_by,
            part: None,
            fill: None,
            held: false,
        })
    }

    async fn flight(
        self: Arc<Self>,
        ask: Ask,
        boarded: oneshot::Sender<Boarded>,
        landing: watch::Sender<Option<Landing>>,
        listed: Option<Listed>,
    ) {
        let purge_seen = self.index.purges.current();
        let (began, wait) = (Instant::now(), ask.site.response_timeout());
        // A HEAD that is not answered leaves half of the wait to the GET.
        if let Some(known) = &ask.known
            && let Some(variant) = self.adopt(&ask, known, purge_seen, began + wait / 2).await
        {
            drop(listed);
            let (object, selected_by) = (variant.object.clone(), variant.selected_by());
            let status = object.status;
            let what = Landing::Object {
                object,
                status,
                stored: true,
                selected_by,
                part: None,
                fill: None,
                held: true,
            };
            landing.send_replace(Some(what.clone()));
            let _ = boarded.send(Boarded::Landed(what));
            self.persist(&ask.site, ask.key, variant).await;
            return;
        }
        let mut headers = self.origin_headers(&ask.headers);
        remove_conditions(&mut headers);
        headers.remove(header::RANGE);
        headers.remove(header::IF_RANGE);
        if let Some(range) = &ask.range {
            headers.insert(header::RANGE, range.clone());
        }
        // A purge since the object was looked up must not be undone by a 304.
        let purged = |object: &Object| {
            let effect =
                self.index.purges.effect(object.purge_seen, &ask.site.name, &ask.key.target, &object.headers);
            effect == Some(Effect::Hard)
        };
        let validating =
            ask.stored.as_ref().filter(|object| has_validator(&object.headers) && !purged(object));
        if let Some(object) = validating {
            add_validators(&mut headers, &object.headers);
        }
        let sent = now_ms();
        let target = &ask.key.target;
        let interim = ask.interim.clone();
        // Where something stands in for what does not come, it is waited for no longer than without the HEAD.
        let end = (ask.known.is_some() && ask.stale_if_error).then(|| began + wait);
        let (method, fields) = (Method::GET, headers.clone());
        let response =
            self.exchange_until(end, &ask.site, method, target, fields, Body::Empty, interim).await;
        let times = Times { request: sent, response: now_ms() };
        let land = |what: Landing| {
            landing.send_replace(Some(what.clone()));
            what
        };
        let mut response = match response {
            Ok(response) => response,
            Err(error) => {
                drop(listed);
                let _ = boarded.send(Boarded::Landed(land(Landing::Failed(error))));
                return;
            }
        };
        ensure_date(response.headers_mut(), times.response / 1000);
        let status = response.status();
        let has_another = status.is_success()
            || matches!(status, StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND | StatusCode::GONE);
        if ask.known.is_some() && has_another {
            self.forget_source(&ask.site, &ask.key.target).await;
        }
        if status == StatusCode::NOT_MODIFIED
            && let Some(stored) = validating
        {
            let (object, selected_by) =
                self.validated(&ask, stored, response.headers(), times, purge_seen).await;
            drop(listed);
            let stored = selected_by.is_some();
            let selected_by = selected_by.unwrap_or_default();
            let what =
                Landing::Object { object, status, stored, selected_by, part: None, fill: None, held: false };
            // What may not be kept is for this client alone.
            land(if stored { what.clone() } else { Landing::Alone });
            let _ = boarded.send(Boarded::Landed(what));
            return;
        }
        if ask.stale_if_error && is_error(status) {
            drop(listed);
            let _ = boarded.send(Boarded::Landed(land(Landing::Error(status))));
            return;
        }
        match self.storable(&ask, &headers, response.status(), response.headers()) {
            Ok(part) => self.store(ask, response, part, times, purge_seen, boarded, landing, listed).await,
            Err(reason) => {
                if listed.is_some() && status.is_success() {
                    self.apart.insert(ask.key.clone(), APART);
                }
                drop(listed);
                land(Landing::Alone);
                strip_hop_by_hop(response.headers_mut());
                let _ = boarded.send(Boarded::Answer(Box::new(response), Some(reason)));
            }
        }
    }

    /// Whether an answer may be kept, and which part of the object it is.
    pub(crate) fn storable(
        &self,
        ask: &Ask,
        request: &HeaderMap,
        status: StatusCode,
        response: &HeaderMap,
    ) -> Result<Option<ContentRange>, NotStorable> {
        let target = targeted(response);
        let is_targeted = target.is_some();
        let directives = target.unwrap_or_else(|| ResponseDirectives::parse(response));
        is_storable(&Exchange {
            method: &Method::GET,
            request,
            request_directives: &ask.directives,
            status,
            response,
            directives: &directives,
            targeted: is_targeted,
            policy: &ask.site.policy,
        })?;
        let limit = ask.site.config.max_object_bytes;
        // What somebody wants held may be as long as it is.
        let held = self.tickets.get(&ask.key).is_some();
        if limit > 0 && !held && declared_length(response).is_some_and(|length| length > limit) {
            return Err(NotStorable::NoStore);
        }
        if status != StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        let part = ContentRange::of(response).and_then(|range| range.reconcile(declared_length(response)));
        match part {
            Some(ContentRange::Bytes { range, total: Some(total) }) if ask.range.is_some() => {
                Ok(Some(ContentRange::Bytes { range, total: Some(total) }))
            }
            _ => Err(NotStorable::Partial),
        }
    }

    /// Puts the object into the index and pumps its body into the store.
    #[expect(clippy::too_many_arguments, reason = "the two ends of the flight travel together, once")]
    async fn store(
        self: &Arc<Self>,
        ask: Ask,
        response: Response<Body>,
        part: Option<ContentRange>,
        times: Times,
        purge_seen: u64,
        boarded: oneshot::Sender<Boarded>,
        landing: watch::Sender<Option<Landing>>,
        listed: Option<Listed>,
    ) {
        let (parts, body) = response.into_parts();
        let origin_status = parts.status;
        let target = targeted(&parts.headers);
        let directives = target.unwrap_or_else(|| ResponseDirectives::parse(&parts.headers));
        let mut headers = storable_headers(&parts.headers, &directives);
        let relayed = match (&part, parts.headers.get(header::CONTENT_RANGE)) {
            (Some(ContentRange::Bytes { range, .. }), Some(value)) => Some((range.clone(), value.clone())),
            _ => None,
        };
        let (status, bytes, length) = match part {
            Some(ContentRange::Bytes { range, total }) => {
                headers.remove(header::CONTENT_RANGE);
                headers.remove(header::CONTENT_LENGTH);
                (StatusCode::OK, range.start..range.end, total)
            }
            _ => {
                let length = declared_length(&parts.headers);
                (origin_status, 0..length.unwrap_or(u64::MAX), length)
            }
        };
        // A part of an object that is held in part joins it when it is surely of the same version.
        let known = self.index.hot(&ask.site.name, &ask.key.target);
        let known =
            known.and_then(|entry| self.index.select(&ask.site, &ask.key.target, &entry, &ask.headers));
        let joined = ask.stored.as_ref().or(known.as_ref()).filter(|stored| {
            origin_status == StatusCode::PARTIAL_CONTENT
                && !stored.body.removed.load(Relaxed)
                && validators_agree(&stored.headers, &headers, stored.body.length(), length)
        });
        let (content, uid) = match joined {
            Some(stored) => (stored.body.clone(), stored.uid),
            None => (Arc::new(Content::default()), self.index.uid()),
        };
        *content.length.write() = length;
        let object =
            Arc::new(Object::new(status, headers, times, purge_seen, &ask.site.policy, content.clone(), uid));
        let in_parts = object.has_strong_validator() && length.is_some() && gives_ranges(&parts);
        let reach = in_parts.then(|| self.reach());
        let fill = Fill::new(bytes.start, (bytes.end != u64::MAX).then_some(bytes.end), reach);
        content.fills.lock().push(Arc::downgrade(&fill));
        let Some(variant) = Variant::of(object.clone(), &ask.headers) else {
            return fill.finish(Err(FetchError::Changed));
        };
        let selected_by = variant.selected_by();
        self.index.put(&ask.key, variant.clone());
        drop(listed);
        let what = Landing::Object {
            object,
            status: origin_status,
            stored: true,
            selected_by,
            part: relayed,
            fill: Some(fill.clone()),
            held: false,
        };
        landing.send_replace(Some(what.clone()));
        // The first client's place is taken before the pump runs, so that it is never unwatched.
        let place = fill.reader(bytes.start);
        let _ = boarded.send(Boarded::Landed(what));
        self.pump(&ask.site, &ask.key, &variant, &fill, bytes, body, place).await;
    }

    /// Makes a validated object from a stored one and the 304's fields (RFC 9111 §4.3.4).
    async fn validated(
        self: &Arc<Self>,
        ask: &Ask,
        stored: &Arc<Object>,
        not_modified: &HeaderMap,
        times: Times,
        purge_seen: u64,
    ) -> (Arc<Object>, Option<Arc<(Vec<HeaderName>, Vec<u8>)>>) {
        let mut headers = stored.headers.clone();
        update_from_304(&mut headers, not_modified);
        let body = stored.body.clone();
        let policy = &ask.site.policy;
        let object =
            Arc::new(Object::new(stored.status, headers, times, purge_seen, policy, body, stored.uid));
        let keep = !object.directives.no_store && !object.directives.private;
        let key = ask.key.clone();
        match Variant::of(object.clone(), &ask.headers).filter(|_| keep) {
            Some(variant) => {
                let selected_by = variant.selected_by();
                self.index.put(&key, variant.clone());
                self.persist(&ask.site, key, variant).await;
                (object, Some(selected_by))
            }
            None => {
                self.forget(&ask.site, key, Some(stored.uid)).await;
                (object, None)
            }
        }
    }

    /// How far before its bytes a client waits for a fill rather than to have them fetched apart.
    pub(crate) fn reach(&self) -> u64 {
        REACH * u64::from(self.store.config().chunk_bytes)
    }

    /// Writes an entry down; what cannot be written is only lost at a restart.
    pub(crate) async fn persist(self: &Arc<Self>, site: &Site, key: Key, variant: Variant) {
        let (cache, policy) = (self.clone(), site.policy);
        let written = tokio::task::spawn_blocking(move || cache.index.persist(&key, &variant, &policy)).await;
        if let Ok(Err(error)) = written {
            log::warn!("an object's record cannot be written: {error}");
        }
    }

    /// Removes an object, or all of a target.
    pub(crate) async fn forget(self: &Arc<Self>, site: &Site, key: Key, uid: Option<u64>) {
        let (cache, policy) = (self.clone(), site.policy);
        if let Ok(Err(error)) =
            tokio::task::spawn_blocking(move || cache.index.remove(&key, uid, &policy)).await
        {
            log::warn!("an object's record cannot be removed: {error}");
        }
    }
}

/// Whether the origin has said that it answers ranges (RFC 9110 §14.3), or just did.
pub(crate) fn gives_ranges(answer: &http::response::Parts) -> bool {
    let accepted = answer.headers.get(header::ACCEPT_RANGES);
    answer.status == StatusCode::PARTIAL_CONTENT || accepted.is_some_and(|value| value == "bytes")
}

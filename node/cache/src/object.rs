//! What is kept for a URL: the variants of one target, each a header and the extents of a body.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, header};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::extent::{Extent, Extents};
use crate::fill::Fill;
use crate::rfc::directives::{ResponseDirectives, targeted};
use crate::rfc::freshness::{Lifetime, Policy, current_age, initial_age, lifetime};
use crate::rfc::vary::{VaryFields, secondary_key};

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// A stored response. Its header never changes (a validated one is a new object that shares the
/// body); its extents grow while it fills and shrink when chunks turn out to be gone.
#[derive(Debug)]
pub struct Object {
    /// Distinguishes bodies: key of the extents in the metadata database.
    pub uid: u64,
    /// Status of the response: never 206, 304.
    pub status: StatusCode,
    /// End-to-end fields as stored.
    pub headers: HeaderMap,
    /// Directives that this cache follows.
    pub directives: ResponseDirectives,
    /// Freshness lifetime.
    pub lifetime: Lifetime,
    /// When its request was sent and its header came, milliseconds since 1970.
    pub times: Times,
    initial_age: u64,
    /// Number of the last purge before its request; later purges concern it.
    pub purge_seen: u64,
    /// The last purge it was checked against.
    pub purge_checked: AtomicU64,
    weight: u64,
    /// What is known of the body, shared by the versions that validation makes.
    pub body: Arc<Content>,
    /// Must be validated before it is used again (a soft purge, a `HEAD` that disagrees).
    pub outdated: AtomicBool,
    wire: OnceLock<Box<[u8]>>,
}

/// When an exchange took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The request was sent, milliseconds since 1970.
    pub request: u64,
    /// The header of the response came, milliseconds since 1970.
    pub response: u64,
}

/// A body, as far as it is known and held.
#[derive(Debug, Default)]
pub struct Content {
    /// Its length, once known.
    pub length: RwLock<Option<u64>>,
    /// What is held.
    pub extents: RwLock<Extents>,
    /// Fills that are running.
    pub fills: Mutex<Vec<std::sync::Weak<Fill>>>,
    /// SHA-256 of the whole, once it was ingested from end to end (RFC 9530).
    pub sha256: RwLock<Option<[u8; 32]>>,
    /// Held by every client that is being sent bytes of it.
    pub watchers: Arc<()>,
    /// Extents stand in a table of their own rather than in the record.
    pub spilled: AtomicBool,
    /// Its object was removed: nothing of it is written down any more.
    pub removed: AtomicBool,
}

impl Content {
    /// Its length, once known.
    pub fn length(&self) -> Option<u64> {
        *self.length.read()
    }

    /// Whether every byte is held (as far as is known).
    pub fn is_complete(&self) -> bool {
        self.length().is_some_and(|length| self.extents.read().gap(0, length) == length)
    }

    /// Whether a fill is running.
    pub fn is_filling(&self) -> bool {
        self.fills.lock().iter().any(|fill| fill.strong_count() > 0)
    }

    /// Waits for the fills that run now.
    pub async fn filled(&self) {
        let fills: Vec<_> = self.fills.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        for fill in fills {
            fill.ended().await;
        }
    }

    /// A running fill that has, or will have, the byte at `position`.
    pub fn fill_at(&self, position: u64) -> Option<Arc<Fill>> {
        let mut fills = self.fills.lock();
        fills.retain(|fill| fill.strong_count() > 0);
        fills.iter().filter_map(std::sync::Weak::upgrade).find(|fill| fill.covers(position))
    }
}

impl Object {
    /// An object from a response's header, as [`crate::rfc::fields::storable_headers`] left it.
    pub fn new(
        status: StatusCode,
        headers: HeaderMap,
        times: Times,
        purge_seen: u64,
        policy: &Policy,
        body: Arc<Content>,
        uid: u64,
    ) -> Self {
        let target = targeted(&headers);
        let is_targeted = target.is_some();
        let directives = target.unwrap_or_else(|| ResponseDirectives::parse(&headers));
        let response_time = times.response / 1000;
        // The delay is taken in whole seconds of elapsed time, not of two clocks' seconds.
        let request_time =
            response_time - (times.response.saturating_sub(times.request) / 1000).min(response_time);
        Self {
            uid,
            status,
            lifetime: lifetime(status, &headers, &directives, is_targeted, response_time, policy),
            initial_age: initial_age(&headers, request_time, response_time),
            weight: weigh(&headers, body.length()),
            headers,
            directives,
            times,
            purge_seen,
            purge_checked: AtomicU64::new(purge_seen),
            body,
            outdated: AtomicBool::new(false),
            wire: OnceLock::new(),
        }
    }

    /// Age now, in seconds (RFC 9111 §4.2.3).
    pub fn age(&self, now_ms: u64) -> u64 {
        current_age(self.initial_age, 0, now_ms.saturating_sub(self.times.response) / 1000)
    }

    /// A field of the stored header.
    pub fn field(&self, name: HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }

    /// Whether parts of different exchanges may be put together (RFC 9110 §8.8.1).
    pub fn has_strong_validator(&self) -> bool {
        match self.headers.get(header::ETAG) {
            Some(tag) => !tag.as_bytes().starts_with(b"W/"),
            None => crate::rfc::conditional::is_last_modified_strong(&self.headers),
        }
    }

    /// The status line and the fields of an HTTP/1.1 answer with the whole body, but for what changes
    /// with every answer: `Age`, this cache's `Cache-Status`, and the empty line. The body's length
    /// must be known.
    pub fn wire(&self) -> &[u8] {
        self.wire.get_or_init(|| {
            let mut head = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
            let length = HeaderValue::from(self.body.length().unwrap_or(0));
            let own = [(&CONTENT_LENGTH, &length)];
            let kept =
                self.headers.iter().filter(|(name, _)| !matches!(**name, CONTENT_LENGTH | header::AGE));
            for (name, value) in kept.chain(own) {
                head.extend_from_slice(name.as_str().as_bytes());
                head.extend_from_slice(b": ");
                head.extend_from_slice(value.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            head.into()
        })
    }

    /// The body's length, for `Content-Length`: as stored, or as counted.
    pub fn content_length(&self) -> Option<u64> {
        self.body.length()
    }

    /// Rough bytes of memory, extents to come included: it never changes.
    pub fn weight(&self) -> u64 {
        self.weight
    }
}

/// What an object will weigh: its fields, as a map and on the wire, and the extents of a body of its length.
fn weigh(headers: &HeaderMap, length: Option<u64>) -> u64 {
    let fields: usize =
        headers.iter().map(|(name, value)| 2 * (name.as_str().len() + value.len()) + 80).sum();
    let extents = length.map_or(16, |length| (length >> 20).min(65_536) + 1);
    512 + fields as u64 + 64 * extents
}

/// One variant of a target.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Names in `Vary`.
    pub fields: Vec<HeaderName>,
    /// The request's values of those (RFC 9111 §4.1).
    pub selecting: Vec<u8>,
    /// The stored response.
    pub object: Arc<Object>,
}

impl Variant {
    /// An object as the variant that a request selects (RFC 9111 §4.1); `None` when none can, since
    /// it varies by everything.
    pub(crate) fn of(object: Arc<Object>, request: &HeaderMap) -> Option<Self> {
        let VaryFields::Fields(fields) = VaryFields::parse(&object.headers) else { return None };
        let selecting = secondary_key(&fields, request);
        Some(Self { fields, selecting, object })
    }

    /// The names in its `Vary`, and the values that select it.
    pub(crate) fn selected_by(&self) -> Arc<(Vec<HeaderName>, Vec<u8>)> {
        Arc::new((self.fields.clone(), self.selecting.clone()))
    }
}

/// What is kept for one target; newest variant first.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// At most [`MAX_VARIANTS`].
    pub variants: Vec<Variant>,
}

impl Entry {
    /// An entry with a variant in front, in place of the one it replaces.
    pub(crate) fn with(variant: Variant, before: Option<&Self>) -> Self {
        let before = before.map(|entry| entry.variants.as_slice()).unwrap_or_default();
        let kept = before.iter().filter(|other| {
            let same = other.fields == variant.fields && other.selecting == variant.selecting;
            !same && other.object.uid != variant.object.uid
        });
        let variants = std::iter::once(&variant).chain(kept).take(MAX_VARIANTS).cloned().collect();
        Self { variants }
    }

    /// Whether the request's fields decide between the variants.
    pub fn varies(&self) -> bool {
        self.variants.iter().any(|variant| !variant.fields.is_empty())
    }
}

/// Variants of one target that are kept.
pub const MAX_VARIANTS: usize = 16;
/// How long a record without content is kept, milliseconds.
const RECENT_MS: u64 = 14 * 24 * 3600 * 1000;
/// Extents listed in a record; longer lists stand in their own table.
const INLINE: usize = 4;

/// A variant as it stands in the metadata database.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    uid: u64,
    fields: Vec<String>,
    selecting: Vec<u8>,
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    times: Times,
    purge_seen: u64,
    outdated: bool,
    length: Option<u64>,
    sha256: Option<[u8; 32]>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) spilled: bool,
}

impl Record {
    pub(crate) fn of(variant: &Variant) -> Self {
        let object = &variant.object;
        let extents = object.body.extents.read();
        let spilled = extents.len() > INLINE || object.body.spilled.load(Relaxed);
        Self {
            uid: object.uid,
            fields: variant.fields.iter().map(|name| name.as_str().to_owned()).collect(),
            selecting: variant.selecting.clone(),
            status: object.status.as_u16(),
            headers: object
                .headers
                .iter()
                .map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec()))
                .collect(),
            times: object.times,
            purge_seen: object.purge_seen,
            outdated: object.outdated.load(Relaxed),
            length: object.body.length(),
            sha256: *object.body.sha256.read(),
            extents: if spilled { Vec::new() } else { extents.iter().copied().collect() },
            spilled,
        }
    }

    /// Whether the response has no content, so that none has to be held.
    pub(crate) fn is_bodyless(&self) -> bool {
        self.length == Some(0)
    }

    /// Whether it came, or was validated, within the last weeks: what was not is asked for anew
    /// cheaply, and nobody is known to ask.
    pub(crate) fn is_recent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.times.response) < RECENT_MS
    }

    pub(crate) fn uid(&self) -> u64 {
        self.uid
    }

    pub(crate) fn variant(self, policy: &Policy, spilled: Vec<Extent>) -> Option<Variant> {
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(HeaderName::try_from(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
        let mut extents = Extents::default();
        for extent in self.extents.into_iter().chain(spilled) {
            extents.insert(extent);
        }
        let body = Content {
            length: RwLock::new(self.length),
            extents: RwLock::new(extents),
            sha256: RwLock::new(self.sha256),
            spilled: AtomicBool::new(self.spilled),
            ..Content::default()
        };
        let status = StatusCode::from_u16(self.status).ok()?;
        let object =
            Object::new(status, headers, self.times, self.purge_seen, policy, Arc::new(body), self.uid);
        object.outdated.store(self.outdated, Relaxed);
        let fields = self.fields.iter().filter_map(|name| HeaderName::try_from(name).ok()).collect();
        Some(Variant { fields, selecting: self.selecting, object: Arc::new(object) })
    }
}

/// The declared length of a response's body.
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

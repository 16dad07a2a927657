//! Methods other than GET and HEAD: passed on to the origin, and what they make invalid forgotten.
//!
//! The answer to a POST that is the new content of its target is kept for later GETs (RFC 9110
//! §9.3.3), if it says how long it is and is short: it is read whole before it is passed on, so
//! that the client gets it whatever becomes of it in the store. No POST is answered from the store.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, Response};
use skerry_core::{Body, body, problem};

use crate::engine::{Cache, Done};
use crate::error::FetchError;
use crate::fill::Fill;
use crate::index::Key;
use crate::metrics::CacheResult;
use crate::object::{Content, Object, Times, Variant, declared_length, now_ms};
use crate::rfc::cache_status::{CacheStatus, Fwd};
use crate::rfc::directives::{RequestDirectives, ResponseDirectives, targeted};
use crate::rfc::fields::{ensure_date, storable_headers, strip_hop_by_hop};
use crate::rfc::invalidation::{invalidation_targets, is_safe};
use crate::rfc::storable::{Exchange, is_post_storable};
use crate::site::Site;

/// Longer answers to POST are not kept, nor those of more than a chunk: each is in memory while it
/// comes.
const MOST_KEPT: u64 = 1 << 20;

impl Cache {
    /// Other methods go to the origin; unsafe ones invalidate (RFC 9111 §4.4).
    pub(crate) async fn pass(self: &Arc<Self>, site: &Arc<Site>, host: &str, head: Head, body: Body) -> Done {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let headers = self.origin_headers(&head.headers);
        let method = head.method.clone();
        let purge_seen = self.index.purges.current();
        let sent = now_ms();
        let response = self.on_background(site, method.clone(), target.clone(), headers, body, None).await;
        let mut response = match response {
            Ok(response) => response,
            Err(error) => return failed(&error),
        };
        let times = Times { request: sent, response: now_ms() };
        ensure_date(response.headers_mut(), times.response / 1000);
        let own = [host, site.origin.authority()];
        if !is_safe(&method) {
            for target in invalidation_targets(&method, response.status(), &own, &target, response.headers())
            {
                self.forget_source(site, &target).await;
                self.forget(site, Key { site: site.name.clone(), target: target.into() }, None).await;
            }
        }
        let keeps = self.keeps(site, &own, &target, &head, &response);
        let stored = keeps.is_some();
        if let Some((headers, length)) = keeps {
            let (parts, body) = response.into_parts();
            let bytes = match whole(body, length).await {
                Ok(bytes) => bytes,
                Err(error) => return failed(&error),
            };
            let content = Arc::new(Content::default());
            *content.length.write() = Some(length);
            let uid = self.index.uid();
            let object = Object::new(parts.status, headers, times, purge_seen, &site.policy, content, uid);
            let key = Key { site: site.name.clone(), target: target.into() };
            self.keep(site, key, &head.headers, object, bytes.clone());
            response = Response::from_parts(parts, bytes.into());
        }
        strip_hop_by_hop(response.headers_mut());
        let fwd_status = Some(response.status());
        CacheStatus { fwd: Some(Fwd::Method), fwd_status, stored, ..CacheStatus::default() }
            .append_to(response.headers_mut());
        Done { response, result: CacheResult::Pass }
    }

    /// The header to store of an answer that later GETs may have, and the length of its body;
    /// `own` are the site's names.
    fn keeps(
        &self,
        site: &Site,
        own: &[&str],
        target: &str,
        head: &Head,
        response: &Response<Body>,
    ) -> Option<(HeaderMap, u64)> {
        let fields = response.headers();
        let named = targeted(fields);
        let is_targeted = named.is_some();
        let directives = named.unwrap_or_else(|| ResponseDirectives::parse(fields));
        let exchange = Exchange {
            method: &head.method,
            request: &head.headers,
            request_directives: &RequestDirectives::parse(&head.headers),
            status: response.status(),
            response: fields,
            directives: &directives,
            targeted: is_targeted,
            policy: &site.policy,
        };
        is_post_storable(&exchange, own, target).ok()?;
        let limit = match site.config.max_object_bytes {
            0 => MOST_KEPT,
            limit => limit.min(MOST_KEPT),
        };
        let limit = limit.min(self.store.config().chunk_bytes.into());
        let length = declared_length(fields).filter(|length| *length <= limit)?;
        Some((storable_headers(fields, &directives), length))
    }

    /// Puts an object whose body is all there into the index, and the body into the store.
    fn keep(self: &Arc<Self>, site: &Arc<Site>, key: Key, request: &HeaderMap, object: Object, bytes: Bytes) {
        let Some(variant) = Variant::of(Arc::new(object), request) else { return };
        let range = 0..bytes.len() as u64;
        let fill = Fill::new(range.start, Some(range.end), None);
        variant.object.body.fills.lock().push(Arc::downgrade(&fill));
        self.index.put(&key, variant.clone());
        let place = fill.reader(range.start);
        let (cache, site) = (self.clone(), site.clone());
        // The client may have its answer before the task begins.
        let awaited = self.stopping.subscribe();
        self.background.spawn(async move {
            let _awaited = awaited;
            cache.pump(&site, &key, &variant, &fill, range, bytes.into(), place).await;
        });
    }
}

/// The whole of a body of a declared length, bytes.
async fn whole(body: Body, length: u64) -> Result<Bytes, FetchError> {
    let bytes = body::whole(body, length as usize).await;
    let bytes = bytes.map_err(|error| FetchError::Broken(error.to_string()))?;
    if bytes.len() as u64 != length {
        return Err(FetchError::Broken("it ended before its declared length".into()));
    }
    Ok(bytes)
}

/// The answer when the origin has none.
fn failed(error: &FetchError) -> Done {
    let mut response = problem::response(error.status(), &error.to_string());
    CacheStatus { fwd: Some(Fwd::Method), ..CacheStatus::default() }.append_to(response.headers_mut());
    Done { response, result: CacheResult::Pass }
}

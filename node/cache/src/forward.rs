//! What the store alone cannot answer: flights to the origin and their landings, HEAD, and what is
//! served when the origin fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use skerry_core::{Body, problem};

use crate::answer::{answer, relay_part};
use crate::body::Source;
use crate::engine::{Cache, Done};
use crate::error::FetchError;
use crate::fetch::{Ask, Boarded, Landing, Part};
use crate::index::Key;
use crate::metrics::CacheResult;
use crate::object::{Object, Times, Variant, now_ms};
use crate::rfc::cache_status::{CacheStatus, Fwd};
use crate::rfc::directives::{RequestDirectives, ResponseDirectives};
use crate::rfc::fields::{HeadEffect, ensure_date, strip_hop_by_hop, update_from_head};
use crate::rfc::range::{ByteRangeSpec, RawRanges, requested};
use crate::rfc::reuse::Reuse;
use crate::rfc::vary::secondary_key;
use crate::site::Site;

impl Cache {
    #[expect(clippy::too_many_arguments, reason = "it only names the fields")]
    pub(crate) fn ask(
        &self,
        site: &Arc<Site>,
        key: &Key,
        headers: &Arc<HeaderMap>,
        directives: RequestDirectives,
        stored: Option<Arc<Object>>,
        stale_if_error: bool,
        seen: Option<Arc<Object>>,
    ) -> Ask {
        Ask {
            site: site.clone(),
            key: key.clone(),
            headers: headers.clone(),
            directives,
            range: None,
            stored,
            known: None,
            stale_if_error,
            seen,
            interim: None,
        }
    }

    /// What the store alone cannot answer. `seen` is what the
    /// index had for this request, whether it may be used or not.
    #[expect(clippy::too_many_arguments, reason = "the second half of `cached`, with all it knows")]
    pub(crate) async fn forward(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: Key,
        head: Head,
        directives: RequestDirectives,
        stored: Option<Arc<Object>>,
        fwd: Fwd,
        seen: Option<Arc<Object>>,
    ) -> Done {
        let pass = |response| Done { response, result: CacheResult::Pass };
        if directives.only_if_cached {
            let detail = "only-if-cached was asked for, and nothing that may be used is stored";
            let mut response = problem::response(StatusCode::GATEWAY_TIMEOUT, detail);
            CacheStatus { fwd: Some(fwd), detail: Some("only-if-cached"), ..CacheStatus::default() }
                .append_to(response.headers_mut());
            return pass(response);
        }
        if head.method == Method::HEAD {
            return self.head(site, key, head, stored, fwd).await;
        }
        let allowed = stored.as_ref().map(|object| self.may_use(site, object, &directives, now_ms()));
        let known = match (&stored, &seen) {
            // What the index has is not at hand, and what is held may be no better.
            (None, Some(_)) => None,
            _ => self.known(site, &key.target, stored.as_deref()).await,
        };
        let may_stand_in = stored.is_none()
            && known.as_ref().is_some_and(|known| self.may_stand_in(site, &key.target, known, &head.headers));
        let stale_if_error =
            matches!(allowed, Some(Reuse::Stale { allowed_if_error: true, .. })) || may_stand_in;
        let headers = Arc::new(head.headers.clone());
        let mut apart = directives.no_store || head.headers.contains_key(header::AUTHORIZATION);
        for _ in 0..3 {
            let mut ask =
                self.ask(site, &key, &headers, directives, stored.clone(), stale_if_error, seen.clone());
            ask.interim = head.extensions.get().cloned();
            // What one client alone is to get says nothing of what is held.
            ask.known = known.clone().filter(|_| !apart);
            if stored.is_none() {
                ask.range = self.origin_range(&head);
            }
            let asked = ask.range.clone();
            let (landing, collapsed) = match self.fly(ask, apart) {
                Part::Landed(landing) => (landing, true),
                Part::First(boarded) => match boarded.await {
                    Ok(Boarded::Landed(landing)) => (landing, false),
                    Ok(Boarded::Answer(response, reason)) => {
                        let mut response = *response;
                        CacheStatus {
                            fwd: Some(fwd),
                            fwd_status: Some(response.status()),
                            detail: reason.map(|reason| reason.as_str()),
                            ..CacheStatus::default()
                        }
                        .append_to(response.headers_mut());
                        return pass(response);
                    }
                    Err(_) => (Landing::Failed(FetchError::Draining), false),
                },
                Part::Other(mut landing) => {
                    let landed =
                        landing.wait_for(Option::is_some).await.ok().and_then(|landing| landing.clone());
                    (landed.unwrap_or(Landing::Failed(FetchError::Draining)), true)
                }
            };
            match landing {
                Landing::Object { object, status, stored: kept, selected_by, part: relayed, fill, held } => {
                    if collapsed && secondary_key(&selected_by.0, &headers) != selected_by.1 {
                        apart = true;
                        continue;
                    }
                    let validated = status == StatusCode::NOT_MODIFIED;
                    let source = Source {
                        cache: self.clone(),
                        site: site.clone(),
                        key: key.clone(),
                        object,
                        request: headers,
                        fill,
                    };
                    let status = CacheStatus {
                        fwd: Some(fwd),
                        fwd_status: Some(status),
                        stored: kept,
                        collapsed,
                        detail: held.then_some("held"),
                        ..CacheStatus::default()
                    };
                    if (validated || held) && !self.is_at_hand(&source, &head).await {
                        // The origin confirmed bytes that are gone by now.
                        let seen = Some(source.object);
                        return Box::pin(self.forward(site, key, head, directives, None, fwd, seen)).await;
                    }
                    let result = match validated || held {
                        true => CacheResult::Revalidated,
                        false => CacheResult::Miss,
                    };
                    let relayed =
                        relayed.filter(|_| !collapsed && head.headers.get(header::RANGE) == asked.as_ref());
                    let response = match relayed {
                        Some(part) => relay_part(source, &head, part, &status),
                        None => answer(source, &head, &status, now_ms()),
                    };
                    return Done { response, result };
                }
                Landing::Alone => apart = true,
                Landing::Error(status) => {
                    return self.stale_or(site, &key, &head, stored, fwd, Ok(status), stale_if_error).await;
                }
                Landing::Failed(error) => {
                    return self.stale_or(site, &key, &head, stored, fwd, Err(error), stale_if_error).await;
                }
            }
        }
        let detail = "the origin's answers for this target cannot be shared; try again";
        pass(problem::response(StatusCode::BAD_GATEWAY, detail))
    }

    /// After a failure: the stale object or what is held, where it may be served, else a problem document.
    #[expect(clippy::too_many_arguments, reason = "one step of `forward`, with all it knows")]
    async fn stale_or(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: &Key,
        head: &Head,
        stored: Option<Arc<Object>>,
        fwd: Fwd,
        failure: Result<StatusCode, FetchError>,
        allowed: bool,
    ) -> Done {
        // Where something is stored the origin has said whether it may stand in, and nothing else may.
        if stored.is_none()
            && let Some(done) = self.stand_in(site, key, head, failure.as_ref().ok().copied()).await
        {
            return done;
        }
        if let (true, Some(object)) = (allowed, stored) {
            let now = now_ms();
            let ttl = object.lifetime.seconds as i64 - object.age(now) as i64;
            let source = Source {
                cache: self.clone(),
                site: site.clone(),
                key: key.clone(),
                object,
                request: Arc::new(head.headers.clone()),
                fill: None,
            };
            if self.is_at_hand(&source, head).await {
                let status = CacheStatus {
                    hit: true,
                    ttl: Some(ttl),
                    fwd_status: failure.ok(),
                    detail: Some("stale-if-error"),
                    ..CacheStatus::default()
                };
                return Done { response: answer(source, head, &status, now), result: CacheResult::Stale };
            }
        }
        let (status, detail) = match &failure {
            Ok(status) => (StatusCode::BAD_GATEWAY, format!("the origin answered {status}")),
            Err(error) => (error.status(), error.to_string()),
        };
        // RFC 9111 §5.2.2.2: disconnected, and the stored response must be validated.
        let status = if fwd == Fwd::Stale && status == StatusCode::BAD_GATEWAY {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            status
        };
        let mut response = problem::response(status, &detail);
        CacheStatus {
            fwd: Some(fwd),
            fwd_status: failure.ok(),
            detail: Some("origin-failed"),
            ..CacheStatus::default()
        }
        .append_to(response.headers_mut());
        Done { response, result: CacheResult::Pass }
    }

    /// The range to ask the origin for when nothing is known of the object: aligned to whole
    /// slices, so that what comes can be kept; small ones at the front and suffixes as they are.
    fn origin_range(&self, head: &Head) -> Option<HeaderValue> {
        let range = head.headers.get(header::RANGE)?;
        if head.headers.contains_key(header::IF_RANGE) {
            return None;
        }
        let chunk = u64::from(self.store.config().chunk_bytes);
        match requested(&head.headers)? {
            RawRanges::One(ByteRangeSpec::First(first, last)) => {
                if first < chunk && last.is_none_or(|last| last < chunk) {
                    return Some(range.clone());
                }
                let first = first - first % chunk;
                let last = last.and_then(|last| (last / chunk + 1).checked_mul(chunk)).map(|end| end - 1);
                let text =
                    format!("bytes={first}-{}", last.map_or_else(String::new, |last| last.to_string()));
                HeaderValue::from_str(&text).ok()
            }
            RawRanges::One(ByteRangeSpec::Suffix(_)) => Some(range.clone()),
            RawRanges::Many(_) => None,
        }
    }

    /// HEAD that the store cannot answer: forwarded, and what it says of the stored GET noted
    /// (RFC 9111 §4.3.5).
    async fn head(
        self: &Arc<Self>,
        site: &Arc<Site>,
        key: Key,
        head: Head,
        stored: Option<Arc<Object>>,
        fwd: Fwd,
    ) -> Done {
        let headers = self.origin_headers(&head.headers);
        let seen = self.index.purges.current();
        let sent = now_ms();
        let interim = head.extensions.get().cloned();
        let response = self
            .on_background(site, Method::HEAD, key.target.to_string(), headers, Body::Empty, interim)
            .await;
        let mut response = match response {
            Ok(response) => response,
            Err(error) => return self.stale_or(site, &key, &head, stored, fwd, Err(error), false).await,
        };
        ensure_date(response.headers_mut(), now_ms() / 1000);
        // What is for one client only must not be merged into what everybody gets.
        let shared = {
            let directives = ResponseDirectives::parse(response.headers());
            !directives.private && !directives.no_store && !head.headers.contains_key(header::AUTHORIZATION)
        };
        if let Some(object) = stored.filter(|_| response.status() == StatusCode::OK && shared) {
            let mut merged = object.headers.clone();
            match update_from_head(&mut merged, object.body.length(), response.headers()) {
                HeadEffect::Updated => {
                    let times = Times { request: sent, response: now_ms() };
                    let body = object.body.clone();
                    let newer =
                        Object::new(object.status, merged, times, seen, &site.policy, body, object.uid);
                    if let Some(variant) = Variant::of(Arc::new(newer), &head.headers) {
                        self.index.put(&key, variant.clone());
                        self.persist(site, key.clone(), variant).await;
                    }
                }
                HeadEffect::Outdated => object.outdated.store(true, Relaxed),
            }
        }
        strip_hop_by_hop(response.headers_mut());
        CacheStatus { fwd: Some(fwd), fwd_status: Some(response.status()), ..CacheStatus::default() }
            .append_to(response.headers_mut());
        Done { response, result: CacheResult::Pass }
    }
}

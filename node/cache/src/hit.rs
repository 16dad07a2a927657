//! The front door: a hot hit is answered at once, everything else takes the long way.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Body as _;
use skerry_core::Body;
use skerry_core::connection::Connection;
use skerry_core::worker::Handler;

use crate::ending::{Access, Ending};
use crate::engine::{Cache, Done};
use crate::lane::{HotLane, takes_the_long_way};
use crate::metrics::CacheResult;
use crate::object::{Entry, Object, now_ms};
use crate::request::is_plain;
use crate::rfc::cache_status::{CacheStatus, Fwd};
use crate::rfc::directives::RequestDirectives;
use crate::rfc::fields::set_age;
use crate::rfc::reuse::{Reuse, reuse};
use crate::site::Site;

impl Handler for Cache {
    type Lane = HotLane;

    fn lane(self: &Arc<Self>) -> HotLane {
        HotLane::new(self.clone())
    }

    fn handle(
        self: Arc<Self>,
        request: Request<Body>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<Body>> + Send {
        let started = Instant::now();
        let hit = self.hot_hit(&request);
        async move {
            let (site, done) = match hit {
                Some((site, done)) if !self.access_log => {
                    return self.finish(started, Some(site), request.method(), done, None);
                }
                Some((site, done)) => (Some(site), done),
                // Boxed, so that the future of a hit stays small: it is moved twice.
                None => return Box::pin(self.slow(request, connection, started)).await,
            };
            let access = Access::of(&request, &connection);
            self.finish(started, site, request.method(), done, Some(access))
        }
    }
}

/// What a hot hit answers with.
pub(crate) struct Hot {
    pub(crate) object: Arc<Object>,
    /// Seconds.
    pub(crate) age: u64,
    /// Seconds of freshness left.
    pub(crate) ttl: i64,
    pub(crate) body: Bytes,
}

impl Cache {
    /// The answer that nothing has to be waited for: a fresh object, wholly in memory as one
    /// chunk, asked for without conditions. Most requests end here; what it declines, and every
    /// odd request, takes the long way, which says the same more slowly.
    fn hot_hit(self: &Arc<Self>, request: &Request<Body>) -> Option<(Arc<Site>, Done)> {
        let headers = request.headers();
        if request.method() != Method::GET
            || request.uri().authority().is_some()
            || !request.body().is_end_stream()
            || self.elsewhere.get().is_some()
        {
            return None;
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let (host, None) = (hosts.next()?.to_str().ok()?, hosts.next()) else { return None };
        if !is_plain(host) || headers.keys().any(|name| takes_the_long_way(name.as_str())) {
            return None;
        }
        let sites = self.sites.load();
        let site = sites.find(host)?;
        let target = request.uri().path_and_query()?.as_str();
        if target.starts_with("/.skerry/") {
            return None;
        }
        let entry = self.index.hot(&site.name, target)?;
        let Hot { object, age, ttl, body } = self.hot(site, target, &entry, headers)?;
        let length = body.len();
        if let Some(demand) = self.demand.get() {
            demand.asked_for(&site.name, target, length as u64);
        }
        let mut response = Response::new(body.into());
        let fields = response.headers_mut();
        *fields = object.headers.clone();
        fields.insert(header::CONTENT_LENGTH, length.into());
        set_age(fields, age);
        CacheStatus { hit: true, ttl: Some(ttl), ..CacheStatus::default() }.append_to(fields);
        Some((site.clone(), Done { response, result: CacheResult::Hit }))
    }

    /// What a request selects, when it is fresh and wholly in memory as one chunk.
    pub(crate) fn hot(&self, site: &Site, target: &str, entry: &Entry, headers: &HeaderMap) -> Option<Hot> {
        let object = self.index.select(site, target, entry, headers)?;
        if object.outdated.load(Relaxed) || object.status != StatusCode::OK {
            return None;
        }
        let age = object.age(now_ms());
        let Reuse::Fresh { ttl } =
            reuse(&RequestDirectives::default(), &object.directives, object.lifetime, age, &site.windows)
        else {
            return None;
        };
        let length = object.body.length()?;
        let body = if length == 0 { Bytes::new() } else { self.hot_body(&object, length)? };
        Some(Hot { object, age, ttl, body })
    }

    fn hot_body(&self, object: &Object, length: u64) -> Option<Bytes> {
        let extent = object.body.extents.read().at(0).filter(|extent| u64::from(extent.length) == length)?;
        self.store.hot(&extent.chunk.id)
    }

    async fn slow(
        self: Arc<Self>,
        request: Request<Body>,
        connection: Arc<Connection>,
        started: Instant,
    ) -> Response<Body> {
        let method = request.method().clone();
        let access = self.access_log.then(|| Access::of(&request, &connection));
        let (site, mut done) = self.route(request, &connection).await;
        if !done.response.headers().contains_key("cache-status") {
            CacheStatus { fwd: Some(Fwd::Bypass), ..CacheStatus::default() }
                .append_to(done.response.headers_mut());
        }
        self.finish(started, site, &method, done, access)
    }

    /// Counts an answer, and what remains to be counted when its body ends.
    fn finish(
        &self,
        started: Instant,
        site: Option<Arc<Site>>,
        method: &Method,
        done: Done,
        access: Option<Access>,
    ) -> Response<Body> {
        let Done { response, result } = done;
        self.metrics.ttfb.observe(started.elapsed().as_secs_f64());
        if let Some(site) = &site {
            site.metrics.count(method, response.status(), result);
        }
        let access = access.map(|access| access.answered(&response));
        let ending = Ending { started, site, access, bytes: 0 };
        response.map(|body| ending.over(body))
    }
}

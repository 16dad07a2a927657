//! The sequence of a request: site, object, what may be done, answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use prometheus::Registry;
use skerry_core::api::{Apis, Call, Demand, Elsewhere};
use skerry_core::connection::Connection;
use skerry_core::{Body, problem};
use skerry_store::{Catalogue, Store};
use tokio::sync::watch;

use crate::adopt::Bodies;
use crate::answer::answer;
use crate::body::Source;
use crate::config::{CacheConfig, SiteConfig};
use crate::error::CacheError;
use crate::fetch::Flights;
use crate::hold::Tickets;
use crate::index::{Index, Key};
use crate::lane::Tallies;
use crate::metrics::{CacheResult, Metrics};
use crate::object::{Object, Variant, declared_length, now_ms};
use crate::origin::{self, HttpClient, Origin};
use crate::request::{authority, is_ambiguous};
use crate::rfc::cache_status::{CacheStatus, Fwd};
use crate::rfc::directives::RequestDirectives;
use crate::rfc::freshness::Lifetime;
use crate::rfc::range::requested;
use crate::rfc::reuse::{Reuse, reuse};
use crate::rfc::vary::secondary_key;
use crate::site::{Site, Sites};

/// Records looked at in one step of the sweep, and the pause between steps: 120,000 a minute.
const SWEEP_RECORDS: usize = 2_000;
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What it takes to make a [`Cache`].
pub struct Parts<'a> {
    /// `[cache]`.
    pub config: CacheConfig,
    /// `[sites]`.
    pub sites: BTreeMap<String, SiteConfig>,
    /// `node.name`, for `Via`.
    pub node_name: String,
    /// The chunk store.
    pub store: Store,
    /// Where metrics are registered.
    pub registry: &'a Registry,
    /// Where exchanges with origins run.
    pub background: tokio::runtime::Handle,
    /// One log line for every request.
    pub access_log: bool,
}

/// The cache role.
pub struct Cache {
    pub(crate) sites: ArcSwap<Sites>,
    pub(crate) store: Store,
    pub(crate) index: Index,
    pub(crate) flights: Flights,
    pub(crate) apart: Apart,
    pub(crate) tickets: Tickets,
    pub(crate) catalogue: OnceLock<Catalogue>,
    pub(crate) bodies: Bodies,
    apis: OnceLock<Apis>,
    pub(crate) elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    pub(crate) demand: OnceLock<Arc<dyn Demand>>,
    pub(crate) background: tokio::runtime::Handle,
    pub(crate) node_name: String,
    client: HttpClient,
    /// Whether bodies are to come no further; each that comes has a receiver.
    pub(crate) stopping: watch::Sender<bool>,
    pub(crate) metrics: Metrics,
    pub(crate) tallies: Tallies,
    pub(crate) access_log: bool,
}

/// Targets whose answers could not be shared lately: their requests do not wait for each other.
#[derive(Default)]
pub(crate) struct Apart(Mutex<HashMap<Key, Instant>>);

impl Apart {
    const MOST: usize = 4096;

    pub(crate) fn contains(&self, key: &Key) -> bool {
        let mut until = self.0.lock();
        match until.get(key) {
            Some(at) if *at > Instant::now() => true,
            Some(_) => {
                until.remove(key);
                false
            }
            None => false,
        }
    }

    pub(crate) fn insert(&self, key: Key, time: Duration) {
        let mut until = self.0.lock();
        if until.len() >= Self::MOST {
            until.clear();
        }
        until.insert(key, Instant::now() + time);
    }
}

/// How a request ended, for counting and logging.
pub(crate) struct Done {
    pub(crate) response: Response<Body>,
    pub(crate) result: CacheResult,
}

impl Cache {
    /// Makes the role: checks the sites, reads the purges.
    pub fn new(parts: Parts<'_>) -> Result<Arc<Self>, CacheError> {
        let metrics = Metrics::new(parts.registry)?;
        let client = origin::client(&parts.config);
        let sites = sites(&parts.config, &parts.sites, &client, &metrics)?;
        let cache = Arc::new(Self {
            sites: ArcSwap::from_pointee(sites),
            index: Index::open(parts.store.clone(), parts.config.object_memory_bytes)?,
            store: parts.store,
            flights: Flights::default(),
            apart: Apart::default(),
            tickets: Tickets::default(),
            catalogue: OnceLock::new(),
            bodies: Bodies::default(),
            apis: OnceLock::new(),
            elsewhere: OnceLock::new(),
            demand: OnceLock::new(),
            background: parts.background,
            node_name: parts.node_name,
            client,
            stopping: watch::Sender::new(false),
            metrics,
            tallies: Tallies::default(),
            access_log: parts.access_log,
        });
        cache.background.spawn(sweep(Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// Takes new sites and rules; requests under way keep the old ones.
    pub fn reload(
        &self,
        config: CacheConfig,
        configured: BTreeMap<String, SiteConfig>,
    ) -> Result<(), CacheError> {
        let sites = sites(&config, &configured, &self.client, &self.metrics)?;
        self.sites.store(Arc::new(sites));
        Ok(())
    }

    /// Serves the other roles' parts of the public API, below `/.skerry/v1/`. Once, before requests come.
    pub fn publish(&self, apis: Apis) {
        let _ = self.apis.set(apis);
    }

    /// Sends clients to other nodes where that is better. Once, before requests come. From then on every
    /// request takes the long way.
    pub fn send_on(&self, elsewhere: Arc<dyn Elsewhere>) {
        let _ = self.elsewhere.set(elsewhere);
    }

    /// Tells what clients ask for. Once, before requests come.
    pub fn tell_demand(&self, demand: Arc<dyn Demand>) {
        let _ = self.demand.set(demand);
    }

    /// Ends the bodies that still come from origins, and waits, `within` at most, until what came of each is
    /// written down: after a restart the rest is fetched. To be called when no client is left.
    pub async fn settled(&self, within: Duration) {
        self.stopping.send_replace(true);
        if tokio::time::timeout(within, self.stopping.closed()).await.is_err() {
            log::warn!("what came last of {} bodies is not written down", self.stopping.receiver_count());
        }
    }

    pub(crate) async fn route(
        self: &Arc<Self>,
        request: Request<Body>,
        connection: &Connection,
    ) -> (Option<Arc<Site>>, Done) {
        let refuse = |status, detail: &str| Done {
            response: problem::response(status, detail),
            result: CacheResult::Pass,
        };
        if is_ambiguous(request.headers()) {
            let mut done =
                refuse(StatusCode::BAD_REQUEST, "the request has both Content-Length and Transfer-Encoding");
            done.response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return (None, done);
        }
        let host = match authority(&request) {
            Ok(host) => host,
            Err(reason) => {
                let mut done = refuse(StatusCode::BAD_REQUEST, reason);
                done.response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                return (None, done);
            }
        };
        if let Some(elsewhere) = self.elsewhere.get()
            && matches!(*request.method(), Method::GET | Method::HEAD)
            && let Some(target) = request.uri().path_and_query()
            && let Some(url) = elsewhere.redirect(&host, target.as_str(), connection.peer)
            && let Ok(location) = HeaderValue::try_from(url)
        {
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
            // Another client may be better off elsewhere, and this one in a minute.
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return (None, Done { response, result: CacheResult::Pass });
        }
        if request.uri().path().starts_with("/.skerry/") {
            let Some(api) = self.apis.get().and_then(|apis| apis.find(request.uri().path())) else {
                return (None, refuse(StatusCode::NOT_FOUND, "no such path below /.skerry/"));
            };
            let certificate = connection.certificate.clone();
            let Connection { peer: client, via, secure, .. } = *connection;
            let call = Call { request, client, via, secure, certificate };
            return (None, Done { response: api.answer(call).await, result: CacheResult::Pass });
        }
        let Some(site) = self.sites.load().find(&host).cloned() else {
            return (None, refuse(StatusCode::MISDIRECTED_REQUEST, "no site of this node has that host"));
        };
        let (head, body) = request.into_parts();
        let done = if matches!(head.method, Method::GET | Method::HEAD) {
            let asked = self.demand.get().map(|demand| (demand, head.uri.clone()));
            let done = self.cached(&site, head).await;
            if let Some((demand, uri)) = asked {
                let bytes = declared_length(done.response.headers()).unwrap_or(0);
                let target = uri.path_and_query().map_or("/", |target| target.as_str());
                demand.asked_for(&site.name, target, bytes);
            }
            done
        } else if head.method == Method::CONNECT {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this node is no tunnel")
        } else {
            self.pass(&site, &host, head, body).await
        };
        (Some(site), done)
    }

    /// GET and HEAD.
    pub(crate) async fn cached(self: &Arc<Self>, site: &Arc<Site>, head: Head) -> Done {
        let directives = RequestDirectives::parse(&head.headers);
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut entry = self.index.hot(&site.name, target);
        let key = Key { site: site.name.clone(), target: target.into() };
        if entry.is_none() {
            entry = match self.index.load_now(&key, &site.policy) {
                Some(found) => found,
                None => self.load(site, &key).await,
            };
        }
        let now = now_ms();
        // Variants of which none matches; one that was purged is no reason to speak of `Vary`.
        let variants = entry.as_ref().is_some_and(|entry| {
            let others =
                |variant: &Variant| secondary_key(&variant.fields, &head.headers) != variant.selecting;
            !entry.variants.is_empty() && entry.variants.iter().all(others)
        });
        let selected = entry.and_then(|entry| self.index.select(site, target, &entry, &head.headers));
        let fwd = if variants { Fwd::VaryMiss } else { Fwd::UriMiss };
        let Some(object) = selected else {
            return self.forward(site, key, head, directives, None, fwd, None).await;
        };
        let may = self.may_use(site, &object, &directives, now);
        let source = |request: Arc<HeaderMap>| Source {
            cache: self.clone(),
            site: site.clone(),
            key: key.clone(),
            object: object.clone(),
            request,
            fill: None,
        };
        let (hit, ttl, result) = match may {
            Reuse::Fresh { ttl } => (true, ttl, CacheResult::Hit),
            Reuse::Stale { by, allowed_by_client: true, .. } => (true, -(by as i64), CacheResult::Stale),
            Reuse::Stale { by, allowed_while_revalidate: true, .. } if by > 0 => {
                let stored = Some(object.clone());
                let seen = stored.clone();
                let headers = Arc::new(head.headers.clone());
                // Its landing replaces the object in the index; this client does not wait for it.
                let own = head.headers.contains_key(header::AUTHORIZATION);
                if !own && !self.apart.contains(&key) {
                    drop(self.fly(self.ask(site, &key, &headers, directives, stored, true, seen), false));
                }
                (true, -(by as i64), CacheResult::Stale)
            }
            _ => (false, 0, CacheResult::Miss),
        };
        if !hit {
            let fwd = if matches!(may, Reuse::Stale { by: 0, .. }) { Fwd::Request } else { Fwd::Stale };
            let seen = Some(object.clone());
            return self.forward(site, key, head, directives, Some(object), fwd, seen).await;
        }
        let complete = object.body.is_complete();
        let source = source(Arc::new(if complete { HeaderMap::new() } else { head.headers.clone() }));
        if !self.is_at_hand(&source, &head).await {
            return self.forward(site, key, head, directives, None, Fwd::UriMiss, Some(object)).await;
        }
        let status = CacheStatus { hit: true, ttl: Some(ttl), ..CacheStatus::default() };
        Done { response: answer(source, &head, &status, now), result }
    }

    /// What RFC 9111 lets this cache do with an object now.
    pub(crate) fn may_use(
        &self,
        site: &Site,
        object: &Object,
        directives: &RequestDirectives,
        now: u64,
    ) -> Reuse {
        if object.outdated.load(Relaxed) {
            // Stale since just now, whatever its age.
            let over = Lifetime { seconds: 0, ..object.lifetime };
            return reuse(directives, &object.directives, over, 1, &site.windows);
        }
        reuse(directives, &object.directives, object.lifetime, object.age(now), &site.windows)
    }

    /// Makes sure that an answer can be given: a chunk that is gone is noticed, and what is missing
    /// is asked for, before the header is sent. False when the object is to be fetched anew.
    pub(crate) async fn is_at_hand(self: &Arc<Self>, source: &Source, head: &Head) -> bool {
        let content = &source.object.body;
        let Some(length) = content.length() else { return content.is_filling() };
        if head.method == Method::HEAD || length == 0 {
            return true;
        }
        let asked = requested(&head.headers).filter(|_| source.object.status == StatusCode::OK);
        let wanted = match asked.as_ref().and_then(|ranges| ranges.specs().first()) {
            Some(spec) => spec.resolve(length),
            None => Some(0..length),
        };
        // Nothing of what is asked exists: that is answered without the body.
        let Some(wanted) = wanted else { return true };
        loop {
            let first = content.extents.read().at(wanted.start);
            match first {
                Some(extent) if self.store.hot(&extent.chunk.id).is_some() => break,
                Some(extent) => match self.store.read(extent.chunk).await {
                    Ok(Some(_)) => break,
                    _ => content.extents.write().remove(extent.offset),
                },
                None => break,
            }
        }
        let gap = content.extents.read().gap(wanted.start, wanted.end);
        if gap == wanted.end {
            return true;
        }
        if let Some(fill) = content.fill_at(gap) {
            // What comes after the fill could not be joined to it without a strong validator.
            return source.object.has_strong_validator() || fill.covers(wanted.end - 1);
        }
        // The bytes may have gone from the fill to the store between the two looks.
        let gap = content.extents.read().gap(wanted.start, wanted.end);
        if gap == wanted.end {
            return true;
        }
        match self.clone().fetch_missing(source.clone(), gap..wanted.end).await {
            Ok(fill) => fill.reader(gap).read(gap).await.is_ok(),
            Err(_) => false,
        }
    }

    async fn load(self: &Arc<Self>, site: &Arc<Site>, key: &Key) -> Option<Arc<crate::object::Entry>> {
        let (cache, site, key) = (self.clone(), site.clone(), key.clone());
        let loaded = tokio::task::spawn_blocking(move || cache.index.load(&key, &site.policy)).await;
        match loaded {
            Ok(Ok(entry)) => entry,
            Ok(Err(error)) => {
                log::warn!("an object's record cannot be read: {error}");
                None
            }
            Err(_) => None,
        }
    }
}

fn sites(
    config: &CacheConfig,
    configured: &BTreeMap<String, SiteConfig>,
    client: &HttpClient,
    metrics: &Metrics,
) -> Result<Sites, CacheError> {
    let mut sites = Vec::new();
    for (name, site) in configured {
        let settings = site.over(config);
        let origin = Origin::new(&site.origin, &settings, client)
            .map_err(|reason| CacheError::Origin { site: name.clone(), reason })?;
        sites.push(Site::new(name, origin, settings, metrics));
    }
    Ok(Sites::new(sites))
}

/// Removes pins' leftovers, once; then walks the objects' records for as long as the cache lives, a
/// few at a time, and removes those whose bytes have been evicted.
async fn sweep(cache: std::sync::Weak<Cache>) {
    let mut from = Vec::new();
    let Some(store) = cache.upgrade().map(|cache| cache.store.clone()) else { return };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.sweep_pins_blocking()).await {
        log::warn!("the pinned chunks cannot be swept: {error}");
    }
    loop {
        tokio::time::sleep(SWEEP_PAUSE).await;
        let Some(cache) = cache.upgrade() else { return };
        let swept = tokio::task::spawn_blocking(move || cache.index.sweep(&from, SWEEP_RECORDS)).await;
        from = match swept {
            Ok(Ok(next)) => next.unwrap_or_default(),
            Ok(Err(error)) => {
                log::warn!("the objects' records cannot be swept: {error}");
                Vec::new()
            }
            Err(_) => return,
        };
    }
}

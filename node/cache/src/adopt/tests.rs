//! Resources as other nodes give them, in front of origins that have the same, something else, or nothing.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use prometheus::Registry;
use serde_json::json;
use skerry_store::digest::Ingest;
use skerry_store::{Store, StoreConfig};
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::config::CacheConfig;
use crate::engine::Parts;
use crate::purge::{Effect, Scope};

const CHUNK: usize = 1 << 18;
const TARGET: &str = "/film.bin";
const TAG: (&str, &str) = ("etag", "\"one\"");

/// Two chunks and a bit: what is held. The origin's are other bytes, so that it shows which were given.
fn held() -> Bytes {
    Bytes::from(vec![7; 2 * CHUNK + 5])
}

fn at_origin() -> Vec<u8> {
    vec![8; held().len()]
}

fn header(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut header = HeaderMap::new();
    for (name, value) in fields {
        header.append(*name, value.parse().unwrap());
    }
    header
}

/// A resource of some bytes, as it is on record.
fn resource(bytes: &[u8]) -> Held {
    let mut ingest = Ingest::new(CHUNK as u32);
    bytes.chunks(CHUNK).for_each(|chunk| _ = ingest.push(chunk));
    Held {
        generations: vec![None; bytes.len().div_ceil(CHUNK)],
        resource: ingest.finish(),
        name: "film.bin".into(),
        media_type: "video/mp4".into(),
        from: Some(CameFrom { site: "default".into(), target: TARGET.into() }),
        pin: Some("a".into()),
        added_ms: now_ms(),
    }
}

/// A node with one site.
struct Edge {
    cache: Arc<Cache>,
    catalogue: Catalogue,
    _folder: TempDir,
}

impl Edge {
    fn of(origin: &str, stale_if_error_seconds: u64) -> Self {
        Self::with(json!({ "origin": origin, "stale_if_error_seconds": stale_if_error_seconds }))
    }

    fn with(site: serde_json::Value) -> Self {
        let (folder, registry) = (tempfile::tempdir().unwrap(), Registry::new());
        let config = StoreConfig { chunk_bytes: CHUNK as u32, reserve_bytes: 0, ..StoreConfig::default() };
        let store = Store::open(folder.path(), &config, &registry).unwrap();
        let cache = Cache::new(Parts {
            config: CacheConfig::default(),
            sites: BTreeMap::from([("default".to_owned(), serde_json::from_value(site).unwrap())]),
            node_name: "edge".into(),
            store: store.clone(),
            registry: &registry,
            background: Handle::current(),
            access_log: false,
        });
        let (cache, catalogue) = (cache.unwrap(), Catalogue::open(store).unwrap());
        cache.know(catalogue.clone());
        Self { cache, catalogue, _folder: folder }
    }

    /// In front of a folder with the origin's bytes in it.
    fn in_front_of(folder: &Path) -> Self {
        std::fs::write(folder.join("film.bin"), at_origin()).unwrap();
        Self::of(&format!("file://{}", folder.display()), 0)
    }

    /// In front of nobody.
    fn cut_off(stale_if_error_seconds: u64) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::of(&format!("http://127.0.0.1:{port}"), stale_if_error_seconds)
    }

    /// Takes the resource as another node gives it, with the header that it was seen with.
    fn takes(&self, answer: Option<&[(&'static str, &str)]>) -> ChunkId {
        let store = self.catalogue.store();
        store.open_parts_blocking("a").unwrap();
        for (index, chunk) in held().chunks(CHUNK).enumerate() {
            let chunk = Bytes::copy_from_slice(chunk);
            store.pin_part_blocking("a", index as u64, ChunkId::of(&chunk), &chunk).unwrap();
        }
        let held = self.catalogue.add(resource(&held())).unwrap();
        if let (Some(fields), Some(from)) = (answer, &held.from) {
            self.catalogue.tell(from, &held.id(), &Answer::of(&header(fields), now_ms())).unwrap();
        }
        held.id()
    }

    async fn ask(&self, method: Method, fields: &[(&'static str, &str)]) -> (Response<()>, Bytes) {
        let site = self.cache.sites.load().find("edge.test").cloned().unwrap();
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (method, TARGET.parse().unwrap());
        *request.headers_mut() = header(fields);
        let done = self.cache.cached(&site, request.into_parts().0).await;
        let (parts, body) = done.response.into_parts();
        (Response::from_parts(parts, ()), body.collect().await.unwrap().to_bytes())
    }

    async fn get(&self, fields: &[(&'static str, &str)]) -> (Response<()>, Bytes) {
        self.ask(Method::GET, fields).await
    }

    /// The tag that the origin gives.
    async fn tag(&self) -> String {
        let (answer, _) = self.ask(Method::HEAD, &[]).await;
        answer.headers()[header::ETAG].to_str().unwrap().to_owned()
    }

    fn source(&self) -> Option<ChunkId> {
        let from = resource(&held()).from.unwrap();
        self.catalogue.source(&from).unwrap().map(|source| source.resource)
    }
}

fn status(answer: &Response<()>) -> String {
    answer.headers()["cache-status"].to_str().unwrap().to_owned()
}

#[test]
fn a_header_is_of_what_is_held_when_digest_or_validators_say_so() {
    let digest = |bytes: &[u8]| {
        let sha256 = resource(bytes).resource.sha256;
        format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(sha256))
    };
    let (right, wrong) = (digest(b"content"), digest(b"another"));
    let modified = ("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    let date = ("date", "Fri, 02 Jan 2026 00:00:00 GMT");
    let length = ("content-length", "7");
    type Fields<'a> = &'a [(&'static str, &'a str)];
    let vary = ("vary", "accept-language");
    let cases: [(Fields<'_>, Fields<'_>, bool); 16] = [
        (&[TAG], &[TAG], true),
        (&[TAG], &[TAG, length], true),
        (&[TAG], &[TAG, ("content-length", "8")], false),
        (&[TAG], &[("etag", "\"two\"")], false),
        (&[TAG], &[("etag", "W/\"one\"")], false),
        (&[TAG], &[], false),
        (&[], &[TAG], false),
        (&[TAG], &[TAG, ("content-encoding", "gzip")], false),
        (&[], &[("etag", "\"two\""), ("repr-digest", right.as_str())], true),
        (&[TAG], &[TAG, ("repr-digest", wrong.as_str())], false),
        (&[modified, date], &[modified, date, length], true),
        (&[modified, date], &[("last-modified", date.1), date, length], false),
        (&[modified, date], &[modified, date], false),
        (&[TAG, vary], &[TAG, vary], true),
        (&[TAG, vary], &[TAG], false),
        (&[vary], &[("repr-digest", right.as_str())], false),
    ];
    for (seen, told, expected) in cases {
        let answer = Some(Answer::of(&header(seen), 0));
        let known = Known { held: Arc::new(resource(b"content")), answer };
        assert_eq!(known.is_content_of(&header(told)), expected, "{seen:?} and {told:?}");
    }
}

#[tokio::test]
async fn what_the_origin_confirms_comes_from_what_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::in_front_of(folder.path());
    let tag = edge.tag().await;
    edge.takes(Some(&[("etag", tag.as_str())]));
    let (part, bytes) = edge.get(&[("range", "bytes=262140-262149")]).await;
    assert_eq!((part.status(), &bytes), (StatusCode::PARTIAL_CONTENT, &held().slice(262_140..262_150)));
    assert!(
        status(&part).ends_with("fwd=uri-miss; fwd-status=200; stored; detail=held"),
        "{}",
        status(&part)
    );
    let (whole, bytes) = edge.get(&[("want-repr-digest", "sha-256=1")]).await;
    assert!(bytes == held() && whole.headers().contains_key("repr-digest"));
    assert_eq!(whole.headers()[header::ETAG], tag.as_str());
    assert!(status(&whole).contains("hit"), "{}", status(&whole));
}

#[tokio::test]
async fn what_the_origin_does_not_confirm_comes_from_it_and_is_not_asked_about_again() {
    for answer in [None, Some(&[TAG][..])] {
        let folder = tempfile::tempdir().unwrap();
        let edge = Edge::in_front_of(folder.path());
        let id = edge.takes(answer);
        assert_eq!(edge.source(), Some(id));
        let (got, bytes) = edge.get(&[]).await;
        assert!(bytes == at_origin() && !status(&got).contains("held"), "{}", status(&got));
        assert_eq!(edge.source(), None);
        assert!(edge.catalogue.resource(&id).unwrap().is_some());
    }
}

#[tokio::test]
async fn what_one_client_alone_gets_says_nothing_of_what_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::in_front_of(folder.path());
    let id = edge.takes(Some(&[TAG]));
    for alone in [("cache-control", "no-store"), ("authorization", "Basic YTpi")] {
        let (got, bytes) = edge.get(&[alone]).await;
        assert!(bytes == at_origin() && !status(&got).contains("held"), "{}", status(&got));
        assert_eq!(edge.source(), Some(id), "{alone:?}");
    }
}

#[tokio::test]
async fn what_is_held_stands_in_for_an_origin_that_fails_as_a_stored_response_would() {
    const HOUR: u64 = 3600;
    let edge = Edge::cut_off(HOUR);
    edge.takes(Some(&[TAG, ("content-type", "video/mp4"), ("vary", "accept-language")]));
    for method in [Method::GET, Method::HEAD] {
        let (answer, bytes) = edge.ask(method.clone(), &[]).await;
        assert_eq!((answer.status(), bytes.is_empty()), (StatusCode::OK, method == Method::HEAD));
        assert!(bytes.is_empty() || bytes == held());
        let told = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!([told("etag"), told("content-type")], [TAG.1, "video/mp4"]);
        assert_eq!(told("content-length"), held().len().to_string());
        assert!(answer.headers().contains_key("age"));
        assert!(status(&answer).contains("hit; ttl=") && status(&answer).ends_with("detail=held"));
    }
    let (other, _) = edge.get(&[("accept-language", "de")]).await;
    assert!(other.status().is_server_error(), "it would not select it");
    edge.cache
        .index
        .purges
        .add(edge.catalogue.store().meta(), Scope::Prefix("default".into(), "/f".into()), Effect::Hard)
        .unwrap();
    assert!(edge.get(&[]).await.0.status().is_server_error(), "it was purged");

    for (answer, window, request, expected) in [
        (Some(&[TAG][..]), 0, &[][..], false),
        (Some(&[TAG][..]), 0, &[("cache-control", "max-stale")][..], true),
        (Some(&[TAG, ("cache-control", "max-age=60")][..]), 0, &[][..], true),
        (Some(&[TAG, ("cache-control", "max-age=0, must-revalidate")][..]), HOUR, &[][..], false),
        (Some(&[TAG, ("cache-control", "no-cache")][..]), HOUR, &[][..], false),
        (Some(&[TAG, ("cache-control", "max-age=0, stale-if-error=60")][..]), 0, &[][..], true),
        (None, HOUR, &[][..], false),
    ] {
        let edge = Edge::cut_off(window);
        edge.takes(answer);
        let (got, _) = edge.get(request).await;
        assert_eq!(got.status() == StatusCode::OK, expected, "{answer:?}, {window}, {request:?}");
    }
}

#[tokio::test]
async fn an_origin_that_says_nothing_is_waited_for_once() {
    // It takes connections, and that is all.
    let origin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", origin.local_addr().unwrap());
    let edge =
        Edge::with(json!({ "origin": url, "stale_if_error_seconds": 3600, "response_timeout_seconds": 3 }));
    edge.takes(Some(&[TAG]));
    let began = Instant::now();
    let (answer, bytes) = edge.get(&[]).await;
    assert!(bytes == held() && status(&answer).ends_with("detail=held"), "{}", status(&answer));
    let waited = began.elapsed();
    assert!((2900..5900).contains(&waited.as_millis()), "{waited:?}");
}

#[tokio::test]
async fn the_body_of_what_stands_in_is_kept_as_long_as_it_cannot_be_evicted() {
    let edge = Edge::cut_off(0);
    let id = edge.takes(None);
    let pinned = edge.catalogue.resource(&id).unwrap().unwrap();
    let first = edge.cache.whole(&pinned).await.unwrap();
    assert!(Arc::ptr_eq(&first, &edge.cache.whole(&pinned).await.unwrap()));
    // A chunk was missed, and may be back.
    first.extents.write().remove(0);
    let second = edge.cache.whole(&pinned).await.unwrap();
    assert!(second.is_complete() && !Arc::ptr_eq(&first, &second));
    // Another record.
    let loose = Arc::new(Held { pin: None, ..Held::clone(&pinned) });
    let third = edge.cache.whole(&loose).await.unwrap();
    assert!(!Arc::ptr_eq(&second, &third) && !Arc::ptr_eq(&third, &edge.cache.whole(&loose).await.unwrap()));
}

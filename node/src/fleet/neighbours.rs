//! Filling from other nodes: what one of them holds whole need not come from the origin again.
//!
//! Nothing that a neighbour says is believed: its list of chunks must have the resource's id as its root,
//! and every chunk must be what the list says. What the origin answered a neighbour with is not asked for: only
//! the origin's own word lets a URL be answered out of what came so. What cannot be had so comes from the origin.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use skerry_core::api::ROOT;
use skerry_core::bucket::Bucket;
use skerry_core::{body, tls};
use skerry_registry::Transport;
use skerry_selector::Selector;
use skerry_store::catalogue::{CameFrom, Progress};
use skerry_store::digest::{Ingest, pieces_root};
use skerry_store::{Catalogue, ChunkId, Held, Store, StoreError};

/// Neighbours that are tried for one resource.
const TRIED: usize = 3;
/// Longest description of a resource, bytes: 67 for each chunk.
const MOST_DESCRIBED: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for a header, or for the next piece of a body.
const WAIT: Duration = Duration::from_secs(30);
/// Who holds all of it, permille.
const WHOLE: u64 = 1000;

/// Who tells which nodes hold a resource.
pub enum Guide {
    /// The selector on this very node.
    Here(Arc<Selector>),
    /// The control node's.
    There(Arc<dyn Transport>),
}

/// The other nodes of the fleet, as sources.
pub struct Neighbours {
    guide: Option<Guide>,
    /// This node.
    id: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What a neighbour says of a resource.
#[derive(Deserialize)]
struct Described {
    name: String,
    media_type: String,
    length: u64,
    chunk_length: u32,
    chunks: Vec<String>,
}

#[derive(Deserialize)]
struct Routed {
    nodes: Vec<RoutedNode>,
}

#[derive(Deserialize)]
struct RoutedNode {
    id: String,
    link: RoutedLink,
    #[serde(default)]
    held_permille: u64,
}

#[derive(Deserialize)]
struct RoutedLink {
    url: String,
}

impl Neighbours {
    /// The neighbours of the node with this id; none without a guide.
    pub fn new(guide: Option<Guide>, id: String) -> Self {
        tls::install_provider();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let builder = HttpsConnectorBuilder::new().with_native_roots().unwrap_or_else(|error| {
            log::warn!(
                "no certificate authorities were found, nodes with https:// links are no sources: {error}"
            );
            HttpsConnectorBuilder::new().with_tls_config(
                rustls::ClientConfig::builder()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth(),
            )
        });
        let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { guide, id, client }
    }

    /// Fetches a resource from a neighbour that holds it whole, pinned under `pin`, and puts it on record as
    /// come from `from`. `None` when no neighbour could give it.
    pub async fn hold(
        &self,
        catalogue: &Catalogue,
        resource: ChunkId,
        from: CameFrom,
        pin: &str,
        progress: &Progress,
        rate: &Bucket,
    ) -> Option<Arc<Held>> {
        let (store, parts) = (catalogue.store().clone(), pin.to_owned());
        blocking(move || store.open_parts_blocking(&parts)).await.ok()?;
        for url in self.sources(&resource).await {
            match self.hold_from(&url, catalogue, resource, from.clone(), pin, progress, rate).await {
                Ok(held) => {
                    log::info!(resource:% = resource, source = url.as_str(); "filled from a neighbour");
                    return Some(held);
                }
                Err(reason) => {
                    log::info!(resource:% = resource, source = url.as_str(); "a neighbour could not give it: {reason}");
                }
            }
        }
        None
    }

    /// Links of other nodes that hold all of a resource, best first.
    async fn sources(&self, resource: &ChunkId) -> Vec<String> {
        let id = resource.to_string();
        match &self.guide {
            None => Vec::new(),
            Some(Guide::Here(selector)) => {
                let now_ms = skerry_registry::clock::now_ms();
                let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
                let route = selector.route(client, Some(&id), now_ms, fastrand::u64(..));
                let whole = route
                    .nodes
                    .iter()
                    .filter(|node| u64::from(node.held) == WHOLE && node.node.id != self.id);
                whole.map(|node| node.link().url.clone()).take(TRIED).collect()
            }
            Some(Guide::There(transport)) => {
                let path = format!("{ROOT}route?resource={id}");
                let Ok(reply) = transport.send(Method::GET, &path, Bytes::new()).await else {
                    return Vec::new();
                };
                let routed: Option<Routed> = Some(reply.body)
                    .filter(|_| reply.status == StatusCode::OK)
                    .and_then(|body| serde_json::from_slice(&body).ok());
                let nodes = routed.into_iter().flat_map(|routed| routed.nodes);
                let whole = nodes.filter(|node| node.held_permille == WHOLE && node.id != self.id);
                whole.map(|node| node.link.url).take(TRIED).collect()
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "called once; a struct would only rename them")]
    async fn hold_from(
        &self,
        url: &str,
        catalogue: &Catalogue,
        resource: ChunkId,
        from: CameFrom,
        pin: &str,
        progress: &Progress,
        rate: &Bucket,
    ) -> Result<Arc<Held>, String> {
        let base = format!("{}{ROOT}resources/{resource}", url.trim_end_matches('/'));
        let described = self.get(&base, None).await?;
        let described = tokio::time::timeout(WAIT, body::whole(described, MOST_DESCRIBED)).await;
        let described = described.map_err(|_| "it took too long")?.map_err(|error| error.to_string())?;
        let chunk_length = catalogue.store().config().chunk_bytes;
        // A long list takes a while to be read, and to be hashed.
        let work = move || read(&described, chunk_length, resource);
        let (described, chunks) =
            tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())??;
        progress.length.store(described.length, Relaxed);
        progress.received.store(0, Relaxed);

        let mut filling = Filling {
            store: catalogue.store().clone(),
            pin: pin.to_owned(),
            chunks,
            ingest: Some(Ingest::new(chunk_length)),
            next: 0,
        };
        // What is there from a fetch that broke off.
        while let Some(bytes) = filling.held().await {
            progress.received.fetch_add(bytes.len() as u64, Relaxed);
            filling.take(bytes).await?;
        }
        let mut pending = BytesMut::new();
        if filling.next < filling.chunks.len() {
            let start = u64::from(chunk_length) * filling.next as u64;
            let mut body = self.get(&format!("{base}/data"), Some(start)).await?;
            loop {
                let frame = tokio::time::timeout(WAIT, body.frame()).await.map_err(|_| "it stalled")?;
                let Some(frame) = frame else { break };
                let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
                progress.received.fetch_add(data.len() as u64, Relaxed);
                tokio::time::sleep(rate.charge(data.len() as u64, Instant::now())).await;
                pending.extend_from_slice(&data);
                while pending.len() >= chunk_length as usize {
                    filling.take(pending.split_to(chunk_length as usize).freeze()).await?;
                }
            }
            if !pending.is_empty() {
                filling.take(pending.freeze()).await?;
            }
        }
        let Filling { ingest, .. } = filling;
        let whole = ingest.ok_or("it broke off")?.finish();
        if whole.pieces_root != resource {
            return Err("it ended early".to_owned());
        }
        let held = Held {
            generations: vec![None; whole.chunks.len()],
            resource: whole,
            name: skerry_cache::hold::clean_name(&described.name),
            media_type: described.media_type,
            from: Some(from),
            pin: Some(pin.to_owned()),
            added_ms: super::now_ms(),
        };
        let (catalogue, store) = (catalogue.clone(), catalogue.store().clone());
        let add = move || {
            store.flush_pins_blocking().map_err(|error| error.to_string())?;
            catalogue.add_with_torrents(held).map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(add).await.map_err(|error| error.to_string())?
    }

    /// A body, from a byte on; anything but what was asked for is an error.
    async fn get(&self, url: &str, from: Option<u64>) -> Result<Incoming, String> {
        let mut request = Request::get(url);
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(WAIT, self.client.request(request)).await;
        let answer = answer.map_err(|_| "it does not answer")?.map_err(|error| error.to_string())?;
        let wanted = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if answer.status() != wanted {
            return Err(format!("it answers {}", answer.status()));
        }
        Ok(answer.into_body())
    }
}

/// A description, and the chunks that it lists.
fn read(body: &[u8], chunk_length: u32, resource: ChunkId) -> Result<(Described, Vec<ChunkId>), String> {
    let mut described: Described = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let chunks = checked(&described, chunk_length, resource)?;
    described.chunks = Vec::new();
    Ok((described, chunks))
}

/// The chunks of a description that is what the id says.
fn checked(described: &Described, chunk_length: u32, resource: ChunkId) -> Result<Vec<ChunkId>, String> {
    if described.chunk_length != chunk_length {
        return Err("its chunks are of another length".to_owned());
    }
    let chunks: Result<Vec<ChunkId>, _> = described.chunks.iter().map(|text| text.parse()).collect();
    let chunks = chunks?;
    if described.length == 0
        || chunks.len() as u64 != described.length.div_ceil(u64::from(chunk_length))
        || pieces_root(&chunks, described.length, chunk_length) != resource
    {
        return Err("its list of chunks is not that of the resource".to_owned());
    }
    Ok(chunks)
}

/// A resource that is put together chunk by chunk.
struct Filling {
    store: Store,
    pin: String,
    chunks: Vec<ChunkId>,
    /// `None` while it is at work.
    ingest: Option<Ingest>,
    next: usize,
}

impl Filling {
    /// The next chunk, when it is here already.
    async fn held(&self) -> Option<Bytes> {
        let id = *self.chunks.get(self.next)?;
        let located = skerry_store::Located { id, generation: None };
        self.store.read(located).await.ok().flatten()
    }

    /// Takes the next chunk, if it is what it should be.
    async fn take(&mut self, bytes: Bytes) -> Result<(), String> {
        let expected = *self.chunks.get(self.next).ok_or("it is longer than it says")?;
        let mut ingest = self.ingest.take().ok_or("it broke off")?;
        let (store, pin, index) = (self.store.clone(), self.pin.clone(), self.next as u64);
        let work = move || {
            let id = ingest.push(&bytes);
            if id != expected {
                return Err(format!("chunk {index} is not what it should be"));
            }
            store.pin_part_blocking(&pin, index, id, &bytes).map_err(|error| error.to_string())?;
            Ok(ingest)
        };
        let ingest = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())??;
        self.ingest = Some(ingest);
        self.next += 1;
        Ok(())
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), StoreError> + Send + 'static) -> Result<(), StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closing)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_with_its_list_or_not_at_all() {
        let mut ingest = Ingest::new(1 << 18);
        let only = ingest.push(&Bytes::from_static(b"film"));
        let id = ingest.finish().pieces_root;
        let body = |chunk: &str| {
            format!(
                r#"{{"name": "a", "media_type": "b", "length": 4, "chunk_length": 262144, "chunks": ["{chunk}"],
                "of a later version": {{}}}}"#
            )
        };
        let (described, chunks) = read(body(&only.to_string()).as_bytes(), 1 << 18, id).unwrap();
        assert_eq!((described.name.as_str(), described.length, chunks), ("a", 4, vec![only]));
        for wrong in [body(&"0".repeat(64)), body("x"), "{".to_owned(), String::new()] {
            assert!(read(wrong.as_bytes(), 1 << 18, id).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_of_chunks_is_believed_when_its_root_is_the_resource() {
        let chunk = 1 << 18;
        let content: Vec<u8> = (0..600_000_u32).map(|n| (n >> 5) as u8).collect();
        let mut ingest = Ingest::new(chunk);
        content.chunks(chunk as usize).for_each(|bytes| _ = ingest.push(bytes));
        let whole = ingest.finish();
        let described = |chunks: Vec<String>| Described {
            name: "a".into(),
            media_type: String::new(),
            length: 600_000,
            chunk_length: chunk,
            chunks,
        };
        let texts: Vec<String> = whole.chunks.iter().map(ToString::to_string).collect();
        assert_eq!(checked(&described(texts.clone()), chunk, whole.pieces_root), Ok(whole.chunks.clone()));
        for wrong in [Vec::new(), texts[..2].to_vec(), vec!["x".into(); 3], vec![texts[0].clone(); 3]] {
            assert!(checked(&described(wrong), chunk, whole.pieces_root).is_err());
        }
        assert!(checked(&described(texts), chunk * 2, whole.pieces_root).is_err());
    }
}

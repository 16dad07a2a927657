//! Filling from ordinary peers: what neither a neighbour nor the origin gives may still be had from those who
//! got it before.
//!
//! A v2 torrent of one file says no more of its content than a resource's id does, and its length. So the
//! torrent that every node makes of a resource is known to one that holds nothing of it: trackers and peers
//! are asked by its info-hash, and peers for the ids of its chunks. Where the resource is on record, here or
//! on the control node, the info-hashes of its other torrents lead to further peers of the same pieces; so do
//! those that nodes of the fleet have named, also when none of them is there any more.
//!
//! Chunks are verified and pinned as they come, in any order. Then each is read once, for the digests of the
//! whole.

mod filling;
mod http_get;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use skerry_cache::hold::file_name;
use skerry_core::api::ROOT;
use skerry_core::bucket::Bucket;
use skerry_download::{Download, Error, HttpGet, Limit, Options, Target, Trackers};
use skerry_registry::fleet::MOST_TORRENTS;
use skerry_registry::message::TorrentsAnswer;
use skerry_registry::{Transport, hex};
use skerry_store::catalogue::{CameFrom, CatalogueError, Progress};
use skerry_store::{Catalogue, ChunkId, Held, StoreError};
use skerry_wire::Sha256Hash;
use skerry_wire::bencode::Writer;
use skerry_wire::metainfo::{Info, Kind, Metainfo};

use self::filling::Filling;
use self::http_get::Http;

/// How long to look for peers. Trackers that do not answer over UDP take fifteen seconds of it.
const ALONE: Duration = Duration::from_secs(20);
/// How long to go on with peers that give nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be filled.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its id.
    pub resource: ChunkId,
    /// Its length, bytes.
    pub length: u64,
    /// What it is put on record as come from.
    pub from: CameFrom,
    /// The name to pin its chunks under.
    pub pin: String,
}

/// Why peers did not give it.
#[derive(Debug)]
pub enum Unfilled {
    /// The store.
    Store(StoreError),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Unfilled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => fmt::Display::fmt(error, formatter),
            Self::Other(reason) => formatter.write_str(reason),
        }
    }
}

impl std::error::Error for Unfilled {}

impl From<StoreError> for Unfilled {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<CatalogueError> for Unfilled {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::Store(error) => Self::Store(error),
            error => Self::Other(error.to_string()),
        }
    }
}

/// Peers as a source.
pub struct FromPeers {
    /// Those of the configuration.
    trackers: Vec<String>,
    /// The way to the control node.
    transport: Option<Arc<dyn Transport>>,
    http: Arc<dyn HttpGet>,
}

/// What the control node says of where to go.
#[derive(Deserialize)]
struct Routed {
    trackers: Vec<String>,
}

impl FromPeers {
    /// Peers that these trackers know; without any, those of the control node.
    pub fn new(trackers: Vec<String>, transport: Option<Arc<dyn Transport>>) -> Self {
        Self { trackers, transport, http: Arc::new(Http::new()) }
    }

    /// Fetches a resource, pinned under the order's name, and puts it on record.
    ///
    /// # Errors
    /// When it cannot be had, or not be kept. What has come of it stays pinned, for the next time.
    pub async fn hold(
        &self,
        catalogue: &Catalogue,
        order: Order,
        progress: Arc<Progress>,
        rate: Arc<Bucket>,
    ) -> Result<Arc<Held>, Unfilled> {
        let store = catalogue.store().clone();
        let known = self.known(catalogue, &order).await;
        let name = file_name(&order.from.target);
        let chunk_length = store.config().chunk_bytes;
        let own = torrent_of(&order, chunk_length, &name)?;
        let trackers = self.trackers(&order, &known).await;
        if trackers.is_empty() {
            return Err(Unfilled::Other("no tracker is known".into()));
        }
        let own_and_known = known.iter().chain([&own]).flat_map(|torrent| torrent.info().hashes());
        let mut aliases: Vec<[u8; 20]> = own_and_known.map(|hash| hash.wire()).collect();
        aliases.extend(self.named(&order.resource).await);
        let options = Options { patience: PATIENCE, alone: ALONE, aliases, ..Options::default() };
        // One with the ids of the chunks need not ask for them.
        let is_whole = |torrent: &&Metainfo| {
            torrent.info().hash_v2().is_some() && torrent.missing_layers().next().is_none()
        };
        let torrent = known.iter().find(is_whole).cloned().unwrap_or(own);
        let filling = Arc::new(Filling::new(store, order, progress).await?);
        let limit: Limit = Arc::new(move |bytes| rate.charge(bytes, Instant::now()));
        let download = Download::new(Target::Torrent(Box::new(torrent)), options);
        match download.run(Arc::new(trackers), filling.clone(), limit).await {
            Ok(_) => {}
            Err(Error::Sink(unfilled)) => return Err(unfilled),
            Err(error) => return Err(Unfilled::Other(error.to_string())),
        }
        let held = filling.record(catalogue, name).await?;
        log::info!(resource:% = held.id(); "filled from peers");
        Ok(held)
    }

    /// Torrents of the resource that are on record here, or on the control node.
    async fn known(&self, catalogue: &Catalogue, order: &Order) -> Vec<Metainfo> {
        let (records, id) = (catalogue.clone(), order.resource);
        let own = move || -> Result<Vec<Metainfo>, CatalogueError> {
            let Some(held) = records.resource(&id)? else { return Ok(Vec::new()) };
            let kinds = [Kind::Hybrid, Kind::V2, Kind::V1].into_iter();
            let torrents = kinds.map(|kind| records.add_torrent_of(&held, kind));
            torrents.map(|torrent| torrent.map(|torrent| torrent.metainfo.clone())).collect()
        };
        let mut known = match blocking(own).await {
            Ok(Ok(known)) => known,
            _ => Vec::new(),
        };
        if let Some(body) = self.ask(format!("{ROOT}resources/{id}.torrent")).await {
            // Long ones take a while.
            let parsed = blocking(move || Metainfo::parse(&body).ok()).await;
            known.extend(parsed.ok().flatten());
        }
        let chunk_length = catalogue.store().config().chunk_bytes;
        known.retain(|torrent| is_of(torrent, order, chunk_length).is_ok());
        known
    }

    async fn trackers(&self, order: &Order, known: &[Metainfo]) -> Trackers {
        let mut urls = self.trackers.clone();
        if urls.is_empty() {
            let answer = self.ask(format!("{ROOT}route?resource={}", order.resource)).await;
            let routed = answer.and_then(|body| serde_json::from_slice::<Routed>(&body).ok());
            urls.extend(routed.into_iter().flat_map(|routed| routed.trackers));
        }
        urls.extend(known.iter().flat_map(|torrent| torrent.trackers.iter().flatten()).cloned());
        Trackers::new(urls, Some(self.http.clone()))
    }

    /// Info-hashes that nodes have named for the resource. Peers of another torrent give nothing that is
    /// believed.
    async fn named(&self, resource: &ChunkId) -> Vec<[u8; 20]> {
        let answer = self.ask(format!("{ROOT}nodes/torrents/{resource}")).await;
        let answer = answer.and_then(|body| serde_json::from_slice::<TorrentsAnswer>(&body).ok());
        let digits = answer.unwrap_or_default().info_hashes;
        digits.iter().take(MOST_TORRENTS).filter_map(|digits| hex::decode(digits)).collect()
    }

    /// What the control node answers to a GET; `None` where there is no way to it, or it has nothing.
    async fn ask(&self, path: String) -> Option<Bytes> {
        let reply = self.transport.as_ref()?.send(Method::GET, &path, Bytes::new()).await.ok()?;
        (reply.status == StatusCode::OK).then_some(reply.body)
    }
}

/// The torrent that every node makes of a resource of this name; its piece layer lacks.
fn torrent_of(order: &Order, chunk_length: u32, name: &str) -> Result<Metainfo, Unfilled> {
    let mut writer = Writer::new();
    writer.dict(|info| {
        info.key(b"file tree").dict(|tree| {
            tree.key(name.as_bytes()).dict(|file| {
                file.key(b"").dict(|file| {
                    file.key(b"length").integer(i64::try_from(order.length).unwrap_or(i64::MAX));
                    file.key(b"pieces root").bytes(&order.resource.0);
                });
            });
        });
        info.key(b"meta version").integer(2);
        info.key(b"name").bytes(name.as_bytes());
        info.key(b"piece length").integer(chunk_length.into());
    });
    let info = Info::parse(&writer.finish()).map_err(|error| Unfilled::Other(error.to_string()))?;
    Ok(Metainfo::without_layers(info))
}

/// Whether a torrent is of this resource alone, with its chunks as pieces.
fn is_of(torrent: &Metainfo, order: &Order, chunk_length: u32) -> Result<(), Unfilled> {
    let info = torrent.info();
    let root = Some(Sha256Hash(order.resource.0));
    let is_file = match info.files() {
        // What has no trees is checked when all of it is there.
        [file] => file.length == order.length && (file.pieces_root.is_none() || file.pieces_root == root),
        _ => false,
    };
    if is_file && info.single_file() && info.piece_length() == chunk_length {
        return Ok(());
    }
    Err(Unfilled::Other("the torrent is not of the resource and its chunks".into()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closing)
}

#[cfg(test)]
mod tests {
    use skerry_core::role::BoxFuture;
    use skerry_registry::{Reply, TransportError};
    use skerry_store::digest::Ingest;
    use skerry_wire::metainfo::{Builder, FileHash, Hashes, NewFile};

    use super::*;

    const CHUNK: u32 = 1 << 18;

    /// A resource of so many bytes, and the torrent that its holders make of it.
    fn held(length: usize) -> (Order, Metainfo) {
        let content: Vec<u8> = (0..length).map(|n| (n >> 5) as u8).collect();
        let mut ingest = Ingest::new(CHUNK);
        content.chunks(CHUNK as usize).for_each(|bytes| _ = ingest.push(bytes));
        let resource = ingest.finish();
        let pieces = resource.chunks.iter().map(|chunk| chunk.0).collect();
        let file = FileHash::of_pieces(pieces, resource.length, CHUNK);
        let hashes = Hashes { pieces: Vec::new(), files: vec![file] };
        let file = NewFile { path: vec!["film.mp4".into()], length: resource.length };
        let torrent = Builder::new(Kind::V2, "film.mp4", CHUNK, vec![file]).build(&hashes).unwrap();
        let from = CameFrom { site: "default".into(), target: "/a/film.mp4?x=1".into() };
        let order =
            Order { resource: resource.pieces_root, length: length as u64, from, pin: "preload".into() };
        (order, torrent)
    }

    #[tokio::test]
    async fn what_nodes_have_named_is_asked_of_the_control_node() {
        /// Answers every path but one as a control node of before.
        struct Control(Vec<String>);
        impl Transport for Control {
            fn send<'a>(
                &'a self,
                _: Method,
                path: &'a str,
                _: Bytes,
            ) -> BoxFuture<'a, Result<Reply, TransportError>> {
                let is_asked = path == format!("/.skerry/v1/nodes/torrents/{}", "07".repeat(32));
                let status = if is_asked { StatusCode::OK } else { StatusCode::NOT_FOUND };
                let answer = TorrentsAnswer { info_hashes: self.0.clone() };
                let body = serde_json::to_vec(&answer).unwrap().into();
                Box::pin(std::future::ready(Ok(Reply { status, body })))
            }
        }
        let named = |digits: Vec<String>, resource: u8| async move {
            let peers = FromPeers::new(Vec::new(), Some(Arc::new(Control(digits))));
            peers.named(&ChunkId([resource; 32])).await
        };
        let told = vec!["0b".repeat(20), "odd".into(), "0A".repeat(20)];
        assert_eq!(named(told.clone(), 7).await, [[0xb_u8; 20], [0xa; 20]]);
        assert!(named(told, 8).await.is_empty());
        assert_eq!(named(vec!["0b".repeat(20); 1000], 7).await.len(), MOST_TORRENTS);
        assert!(FromPeers::new(Vec::new(), None).named(&ChunkId([7; 32])).await.is_empty());
    }

    #[test]
    fn the_torrent_of_a_resource_follows_from_its_id() {
        for length in [5, CHUNK as usize, 600_000] {
            let (order, torrent) = held(length);
            let name = file_name(&order.from.target);
            let own = torrent_of(&order, CHUNK, &name).unwrap();
            assert_eq!(own.info().hash_v2(), torrent.info().hash_v2());
            assert!(is_of(&own, &order, CHUNK).is_ok() && is_of(&torrent, &order, CHUNK).is_ok());
        }
    }

    #[test]
    fn a_torrent_of_something_else_is_not_taken() {
        let (order, torrent) = held(600_000);
        let (other, _) = held(600_001);
        assert!(is_of(&torrent, &other, CHUNK).is_err());
        assert!(is_of(&torrent, &order, CHUNK * 2).is_err());
        let elsewhere = Order { resource: ChunkId([7; 32]), ..order };
        assert!(is_of(&torrent, &elsewhere, CHUNK).is_err());
        assert!(torrent_of(&elsewhere, CHUNK, "..").is_err());
    }
}

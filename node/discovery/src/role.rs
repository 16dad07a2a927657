//! Discovery as a role of the node, and what operators ask of it.
//!
//! | request | |
//! |---|---|
//! | `GET /discovery/peers/INFO-HASH` | who was heard of for a torrent lately |
//! | `POST /discovery/peers/INFO-HASH` | the same, after the DHT was asked |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::{Value, json};
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin, problem};
use skerry_wire::InfoHash;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::DiscoveryConfig;
use crate::dht::{Node, Told};
use crate::error::DiscoveryError;
use crate::lsd::Lsd;
use crate::metrics::{By, Metrics};
use crate::peers::{Own, Peers};
use crate::torrents::{Listed, Torrents, keep_listed};

/// How long the DHT is asked when an operator wants to know.
const ASKED: Duration = Duration::from_secs(10);

/// What discovery is made of.
pub struct Parts<'a> {
    /// `[discovery]`.
    pub config: &'a DiscoveryConfig,
    /// The listeners of the node's peer wire, with their real ports; the first of an address family that
    /// others reach is what they are told of. Where there is none, nothing is announced, and peers are
    /// heard and looked up alone.
    pub listening: &'a [SocketAddr],
    /// What is held and not private.
    pub torrents: Arc<dyn Torrents>,
    /// For the metrics.
    pub registry: &'a Registry,
    /// Runs the tasks.
    pub background: &'a Handle,
}

/// The discovery role. Dropping it ends its tasks, and the DHT's thread with them.
pub struct Discovery {
    peers: Arc<Peers>,
    metrics: Metrics,
    dht: Option<Arc<Node>>,
    lsd: Option<Arc<Lsd>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Discovery {
    /// Binds the DHT's port, and begins to announce and to hear.
    ///
    /// # Errors
    /// When the port cannot be had, or the metrics are there already.
    pub fn start(parts: Parts<'_>) -> Result<Arc<Self>, DiscoveryError> {
        let Parts { config, listening, torrents, registry, background } = parts;
        let metrics = Metrics::new(registry)?;
        let loopback = config.dht && config.dht_listen.ip().is_loopback();
        let own = Own { listening: listening.to_vec(), loopback };
        let peers = Arc::new(Peers::new(own.clone()));
        let (told, listed) = watch::channel(Listed::from([]));
        let (mut tasks, mut ways) = (JoinSet::new(), Vec::new());
        let mut dht = None;
        if config.dht {
            let (node, socket) = Node::bind(config, &own, peers.clone(), metrics.clone())?;
            tasks.spawn_on(node.clone().run(socket, listed.clone()), background);
            dht = Some(node);
            ways.push(By::Dht);
        }
        let mut lsd = None;
        if config.lsd {
            let named = config.lsd_interfaces.clone();
            let local = Lsd::new(named, &own, peers.clone(), metrics.clone());
            tasks.spawn_on(local.clone().run(listed), background);
            lsd = Some(local);
            ways.push(By::Lsd);
        }
        tasks.spawn_on(keep_listed(torrents, told, metrics.clone(), ways), background);
        Ok(Arc::new(Self { peers, metrics, dht, lsd, tasks: Mutex::new(tasks) }))
    }

    /// Who was heard of for a torrent lately, by its info-hash as it travels (20 bytes, BEP 52).
    pub fn peers_of(&self, info_hash: &[u8; 20]) -> Vec<SocketAddr> {
        self.peers.of(info_hash, Instant::now())
    }

    /// Asks the DHT for the peers of a torrent, for at most so long, and tells of all that were heard of
    /// lately. Without a DHT it tells at once. Not for private torrents (BEP 27): whoever asks has looked.
    /// Needs a runtime.
    pub async fn look_up(&self, info_hash: [u8; 20], within: Duration) -> Vec<SocketAddr> {
        if let Some(dht) = &self.dht {
            dht.look_up(info_hash, within).await;
        }
        self.peers_of(&info_hash)
    }

    async fn tell(&self, method: &Method, info_hash: &str) -> Response<Body> {
        let Ok(info_hash) = info_hash.parse::<InfoHash>() else {
            return problem::response(StatusCode::BAD_REQUEST, "an info-hash has 40 or 64 hex digits");
        };
        let info_hash = info_hash.wire();
        let peers = match *method {
            Method::GET => self.peers_of(&info_hash),
            Method::POST => self.look_up(info_hash, ASKED).await,
            _ => {
                let detail = "GET tells who is known, POST asks the DHT first";
                let mut refusal = problem::response(StatusCode::METHOD_NOT_ALLOWED, detail);
                refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
                return refusal;
            }
        };
        admin::json(&json!({ "peers": peers }))
    }
}

impl Role for Discovery {
    fn name(&self) -> &'static str {
        "discovery"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            let info_hash = request.uri().path().strip_prefix("/discovery/peers/")?;
            Some(self.tell(request.method(), info_hash).await)
        })
    }

    /// Always: trackers and links are there, too.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn settle(&self) {
        let (torrents, addresses) = self.peers.sweep(Instant::now());
        self.metrics.known_torrents.set(torrents as i64);
        self.metrics.known_addresses.set(addresses as i64);
    }

    fn status(&self) -> Value {
        let way = |by| {
            json!({
                "announced": self.metrics.announces(by),
                "heard": self.metrics.addresses(by),
                "errors": self.metrics.errors(by),
            })
        };
        let dht = self.dht.as_ref().map(|dht| {
            let Told { address, public, is_server, round } = dht.told();
            let mut told = way(By::Dht);
            told["address"] = json!(address);
            told["public_address"] = json!(public);
            told["server"] = json!(is_server);
            told["nodes"] = json!(self.metrics.dht_nodes.get());
            told["round_seconds"] = json!(round.as_secs());
            told
        });
        let lsd = self.lsd.as_ref().map(|lsd| {
            let mut told = way(By::Lsd);
            told["interfaces"] = json!(lsd.interfaces());
            told
        });
        json!({
            "info_hashes": self.metrics.info_hashes.get(),
            "known": {
                "torrents": self.metrics.known_torrents.get(),
                "addresses": self.metrics.known_addresses.get(),
            },
            "dht": dht,
            "lsd": lsd,
        })
    }

    fn drain(&self) {
        self.tasks.lock().abort_all();
        if let Some(dht) = &self.dht {
            dht.stop();
        }
    }
}

/// What is to be done then, at that point in time; nothing ever when there is nothing.
pub(crate) async fn at<T>(due: Option<(Instant, T)>) -> T {
    match due {
        Some((due, what)) => {
            tokio::time::sleep_until(due.into()).await;
            what
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torrents::tests::Holds;

    fn discovery(config: &DiscoveryConfig, registry: &Registry) -> Arc<Discovery> {
        Discovery::start(Parts {
            config,
            listening: &["127.0.0.1:6881".parse().unwrap()],
            torrents: Holds::of(&[[1; 20]]),
            registry,
            background: &Handle::current(),
        })
        .unwrap()
    }

    async fn ask(role: &Discovery, method: Method, path: &str) -> Option<(u16, Value)> {
        let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        let response = role.admin(request).await?;
        let status = response.status().as_u16();
        let Body::Full(bytes) = response.into_body() else { panic!("it has content") };
        Some((status, serde_json::from_slice(&bytes).unwrap()))
    }

    #[tokio::test]
    async fn who_is_known_is_told() {
        let registry = Registry::new();
        let config = DiscoveryConfig { lsd: true, lsd_interfaces: vec!["none".into()], ..Default::default() };
        let role = discovery(&config, &registry);
        let (film, now) = ([0xab; 20], Instant::now());
        let peer: SocketAddr = "192.0.2.1:7".parse().unwrap();
        role.peers.hear(film, peer, By::Lsd, now);
        assert_eq!(role.look_up(film, ASKED).await, [peer]);
        let path = format!("/discovery/peers/{}", "ab".repeat(20));
        for method in [Method::GET, Method::POST] {
            let told = ask(&role, method, &path).await.unwrap();
            assert_eq!(told, (200, json!({ "peers": [peer] })));
        }
        assert_eq!(ask(&role, Method::PUT, &path).await.unwrap().0, 405);
        assert_eq!(ask(&role, Method::GET, "/discovery/peers/xyz").await.unwrap().0, 400);
        assert!(ask(&role, Method::GET, "/discovery").await.is_none());
        role.settle();
        let status = role.status();
        assert_eq!(status["known"], json!({ "torrents": 1, "addresses": 1 }));
        assert_eq!((&status["dht"], &status["lsd"]["interfaces"]), (&Value::Null, &json!([])));
    }

    #[tokio::test]
    async fn a_port_in_use_names_the_address_and_the_key() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let config =
            DiscoveryConfig { dht: true, dht_listen: address.parse().unwrap(), ..Default::default() };
        let registry = Registry::new();
        let started = Discovery::start(Parts {
            config: &config,
            listening: &[],
            torrents: Holds::of(&[]),
            registry: &registry,
            background: &Handle::current(),
        });
        let error = started.err().unwrap().to_string();
        assert!(error.contains(&address) && error.contains("`discovery.dht_listen`"), "{error}");
    }
}

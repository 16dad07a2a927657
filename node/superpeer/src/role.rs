//! The super-peer on the admin listener.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use prometheus::Registry;
use serde_json::json;
use skerry_core::api::Demand;
use skerry_core::lifecycle::Lifecycle;
use skerry_core::role::BoxFuture;
use skerry_core::{Body, Role, admin};
use skerry_store::Catalogue;

use crate::config::SuperPeerConfig;
use crate::error::SuperPeerError;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::server;

/// The super-peer role.
pub struct SuperPeer(Arc<Node>);

impl SuperPeer {
    /// A super-peer over what the catalogue holds.
    pub fn new(
        config: SuperPeerConfig,
        catalogue: Catalogue,
        registry: &Registry,
    ) -> Result<Arc<Self>, SuperPeerError> {
        Ok(Arc::new(Self(Node::new(config, catalogue, Metrics::new(registry)?))))
    }

    /// Tells what peers ask for. Once, before they come.
    pub fn tell_demand(&self, demand: Arc<dyn Demand>) {
        let _ = self.0.demand.set(demand);
    }

    /// Serves peers on this thread until the node has drained. One of the threads is the `first`.
    pub fn run(&self, sockets: Vec<TcpListener>, lifecycle: Lifecycle, first: bool) -> std::io::Result<()> {
        server::run(self.0.clone(), sockets, lifecycle, first)
    }

    /// Serves peers that come over uTP, to sockets of [`utp::bind`](crate::utp::bind), on this thread until
    /// the node has drained.
    pub fn run_utp(&self, sockets: Vec<UdpSocket>, lifecycle: Lifecycle) -> std::io::Result<()> {
        server::run_utp(self.0.clone(), sockets, lifecycle)
    }
}

impl Role for SuperPeer {
    fn name(&self) -> &'static str {
        "superpeer"
    }

    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>> {
        Box::pin(async move {
            match (request.method(), request.uri().path()) {
                (&Method::GET, "/superpeer/swarms") => {
                    let swarms: Vec<_> = self.0.swarms().into_iter().collect();
                    let list: Vec<_> = swarms
                        .into_iter()
                        .map(|(info_hash, peers)| json!({ "info_hash": info_hash, "peers": peers }))
                        .collect();
                    Some(admin::json(&json!({ "swarms": list })))
                }
                _ => None,
            }
        })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn settle(&self) {
        self.0.metrics.unchoked.set(self.0.places.counts().1 as i64);
    }

    fn status(&self) -> serde_json::Value {
        let (peers, served) = self.0.places.counts();
        json!({
            "peers": peers,
            "served": served,
            "torrents": self.0.swarms().len(),
            "sent_bytes": self.0.metrics.sent.get(),
        })
    }
}

//! The public API: what stands below `/.skerry/v1/`, each role's part by the first word of its path.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};

use crate::Body;
use crate::role::BoxFuture;

/// Where the public API stands.
pub const ROOT: &str = "/.skerry/v1/";

/// One request of the public API.
pub struct Call {
    /// The request; its path begins with [`ROOT`].
    pub request: Request<Body>,
    /// Who asks: the connection's peer, or what the PROXY protocol told of it.
    pub client: SocketAddr,
    /// The socket's peer: who really connected.
    pub via: SocketAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The client's verified certificate (DER), when it has one.
    pub certificate: Option<Arc<[u8]>>,
}

impl Call {
    /// The path after [`ROOT`], without the query.
    pub fn path(&self) -> &str {
        self.request.uri().path().strip_prefix(ROOT).unwrap_or_default()
    }
}

/// A role's part of the public API.
pub trait Api: Send + Sync + 'static {
    /// First words of the paths that it answers: `route` for `/.skerry/v1/route`.
    fn words(&self) -> &'static [&'static str];

    /// Answers; an error is an answer too (RFC 9457).
    fn answer(self: Arc<Self>, call: Call) -> BoxFuture<'static, Response<Body>>;
}

/// Hears what clients ask for. Must not wait.
pub trait Demand: Send + Sync + 'static {
    /// A target of a site was asked for, and so many bytes are the answer.
    fn asked_for(&self, site: &str, target: &str, bytes: u64);

    /// A resource was asked for by its id, and so many bytes are the answer.
    fn asked(&self, resource: &[u8; 32], bytes: u64);
}

/// Sends clients on to another node.
pub trait Elsewhere: Send + Sync + 'static {
    /// The URL where a client that asks with GET or HEAD for this target (path and query) of a host should
    /// ask instead; `None` when it should stay.
    fn redirect(&self, host: &str, target: &str, client: SocketAddr) -> Option<String>;
}

/// Every role's part.
#[derive(Clone, Default)]
pub struct Apis(Vec<Arc<dyn Api>>);

impl Apis {
    /// The parts, looked through in this order.
    pub fn new(parts: Vec<Arc<dyn Api>>) -> Self {
        Self(parts)
    }

    /// The part that answers a path below [`ROOT`].
    pub fn find(&self, path: &str) -> Option<Arc<dyn Api>> {
        let rest = path.strip_prefix(ROOT)?;
        // `resources/ID.torrent` belongs to `resources`.
        let word = rest.split('/').next()?;
        self.0.iter().find(|part| part.words().contains(&word)).cloned()
    }
}

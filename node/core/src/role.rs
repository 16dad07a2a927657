//! What a role is to the node that runs it.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};

use crate::Body;

/// A boxed future, where a trait object needs one.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One role of a node. Its constructor validates and binds; dropping it ends its tasks.
pub trait Role: Send + Sync + 'static {
    /// The word that names the role everywhere: crate, table, metric prefix.
    fn name(&self) -> &'static str;

    /// Answers a request of the admin listener, or `None` when the path is not this role's.
    fn admin(&self, request: Request<Bytes>) -> BoxFuture<'_, Option<Response<Body>>>;

    /// How long a request body of this path may be, bytes, where that is more than usual.
    fn admin_limit(&self, _path: &str) -> Option<usize> {
        None
    }

    /// Whether the role can do its work now; the error says what is missing.
    fn ready(&self) -> Result<(), String>;

    /// Health for `skerry status`, as a JSON object.
    fn status(&self) -> serde_json::Value;

    /// Called before metrics or status are told: brings up to date what is not counted at once.
    fn settle(&self) {}

    /// Called once when the node drains: no new background work from here on.
    fn drain(&self) {}
}

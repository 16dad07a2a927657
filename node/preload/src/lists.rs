//! Where a node gets its list from: its control node, which may be itself.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use skerry_core::api::ROOT;
use skerry_core::role::BoxFuture;
use skerry_registry::client::Transport;

use crate::clock::Clock;
use crate::error::ListError;
use crate::item::List;
use crate::planner::Planner;
use crate::told::Told;

/// The way to the planner.
pub trait Lists: Send + Sync + 'static {
    /// This node's list; `None` when it is still of that revision.
    fn fetch(&self, revision: Option<String>) -> BoxFuture<'_, Result<Option<List>, ListError>>;

    /// Tells the planner what it cannot know. Without it lists still come, but nothing is planned that only
    /// this node has, and what is half there counts as not there.
    fn tell(&self, _told: Told) -> BoxFuture<'_, Result<(), ListError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A node that is its own control node.
pub struct LocalLists {
    planner: Arc<Planner>,
    node: String,
    clock: Clock,
}

impl LocalLists {
    /// For the node with this id.
    pub fn new(planner: Arc<Planner>, node: String, clock: Clock) -> Self {
        Self { planner, node, clock }
    }

    /// Does something that may take as long as a policy.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Planner, &str, u64) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ListError> {
        let (planner, node, now_ms) = (self.planner.clone(), self.node.clone(), (self.clock)());
        let done = tokio::task::spawn_blocking(move || work(&planner, &node, now_ms)).await;
        done.unwrap_or_else(|error| Err(error.to_string())).map_err(ListError::Unanswered)
    }
}

impl Lists for LocalLists {
    fn fetch(&self, revision: Option<String>) -> BoxFuture<'_, Result<Option<List>, ListError>> {
        Box::pin(async move {
            let list = self
                .aside(|planner, node, now_ms| planner.list(node, now_ms).map_err(|error| error.to_string()));
            let list = list.await?;
            Ok((revision.as_ref() != Some(&list.revision)).then(|| List::clone(&list)))
        })
    }

    fn tell(&self, told: Told) -> BoxFuture<'_, Result<(), ListError>> {
        Box::pin(self.aside(|planner, node, now_ms| {
            planner.told(node, told, now_ms).map_err(|error| error.to_string())
        }))
    }
}

/// A node with a control node elsewhere: `GET` and `POST nodes/ID/preload`.
pub struct RemoteLists {
    transport: Arc<dyn Transport>,
    path: String,
}

impl RemoteLists {
    /// For the node with this id.
    pub fn new(transport: Arc<dyn Transport>, node: &str) -> Self {
        Self { transport, path: format!("{ROOT}nodes/{node}/preload") }
    }

    async fn send(&self, method: Method, body: Bytes) -> Result<Bytes, ListError> {
        let reply = self.transport.send(method, &self.path, body).await;
        let reply = reply.map_err(|error| ListError::Unanswered(error.to_string()))?;
        match reply.status {
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(reply.body),
            status => Err(ListError::Unanswered(format!("it answers {status}"))),
        }
    }
}

impl Lists for RemoteLists {
    fn fetch(&self, revision: Option<String>) -> BoxFuture<'_, Result<Option<List>, ListError>> {
        Box::pin(async move {
            let body = self.send(Method::GET, Bytes::new()).await?;
            let list: List =
                serde_json::from_slice(&body).map_err(|error| ListError::Invalid(error.to_string()))?;
            Ok(Some(list).filter(|list| Some(&list.revision) != revision.as_ref()))
        })
    }

    fn tell(&self, told: Told) -> BoxFuture<'_, Result<(), ListError>> {
        Box::pin(async move {
            let body = serde_json::to_vec(&told).expect("texts and numbers can always be written");
            self.send(Method::POST, body.into()).await.map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use skerry_registry::error::TransportError;
    use skerry_registry::member::Reply;

    use super::*;
    use crate::item::tests::item;
    use crate::planner::tests::alone;

    /// A control node that gives one answer, and remembers what it was asked.
    struct Fixed(u16, String, Mutex<Vec<String>>);

    impl Transport for Fixed {
        fn send<'a>(
            &'a self,
            method: Method,
            path: &'a str,
            body: Bytes,
        ) -> BoxFuture<'a, Result<Reply, TransportError>> {
            self.2.lock().push(format!("{method} {path} {}", body.len()));
            let status = StatusCode::from_u16(self.0).unwrap();
            Box::pin(std::future::ready(Ok(Reply { status, body: self.1.clone().into() })))
        }
    }

    fn remote(status: u16, body: &str) -> (Arc<Fixed>, RemoteLists) {
        let fixed = Arc::new(Fixed(status, body.to_owned(), Mutex::default()));
        (fixed.clone(), RemoteLists::new(fixed, "a"))
    }

    #[tokio::test]
    async fn a_list_comes_once_in_each_revision() {
        let list = List::new(vec![item("/a", 1)]);
        let (fixed, lists) = remote(200, &serde_json::to_string(&list).unwrap());
        assert_eq!(lists.fetch(None).await.unwrap(), Some(list.clone()));
        assert_eq!(lists.fetch(Some("old".into())).await.unwrap(), Some(list.clone()));
        assert_eq!(lists.fetch(Some(list.revision)).await.unwrap(), None);
        lists.tell(Told::default()).await.unwrap();
        let asked = fixed.2.lock();
        assert_eq!(asked[0], "GET /.skerry/v1/nodes/a/preload 0");
        assert!(asked[3].starts_with("POST /.skerry/v1/nodes/a/preload "), "{asked:?}");
    }

    #[tokio::test]
    async fn what_is_no_list_is_no_news() {
        for (status, body) in [(404, "{}"), (500, ""), (200, ""), (200, "[]"), (200, r#"{"revision": 1}"#)] {
            assert!(remote(status, body).1.fetch(None).await.is_err(), "{status} {body}");
        }
    }

    #[tokio::test]
    async fn a_control_node_asks_itself() {
        let (planner, _folder) = alone("a");
        let lists = LocalLists::new(planner.clone(), "a".into(), crate::clock::system());
        let list = lists.fetch(None).await.unwrap().unwrap();
        assert_eq!(lists.fetch(Some(list.revision)).await.unwrap(), None);
        lists.tell(Told::default()).await.unwrap();
        let nobody = LocalLists::new(planner, "nobody".into(), crate::clock::system());
        assert!(matches!(nobody.fetch(None).await, Err(ListError::Unanswered(_))));
    }
}

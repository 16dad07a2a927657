//! A client that asks the selector where a resource is, fetches it from there, and moves on to another
//! node when that one fails or falls silent. It goes by what it was told last when the selector itself
//! does not answer.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::netns::Netns;
use crate::raw::Connection;

/// How long a connection may take to open, and then bring nothing, before the client moves on.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it stays away from a node that failed.
const AWAY: Duration = Duration::from_secs(2);

/// How long it waits when every node that it knows of has failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it may take for all of a resource.
const BOUND: Duration = Duration::from_secs(60);

/// How many bytes it takes at a time.
const STEP: usize = 64 << 10;

/// What the selector answers, as far as a client needs it.
#[derive(Clone, Debug, Deserialize)]
pub struct Route {
    /// The client's region, where it is known.
    pub region: Option<String>,
    /// The client's operator, where it is known.
    pub isp: Option<Isp>,
    /// Best first.
    pub nodes: Vec<Routed>,
    /// Announce addresses.
    pub trackers: Vec<String>,
}

/// An operator.
#[derive(Clone, Debug, Deserialize)]
pub struct Isp {
    /// Its name.
    pub name: String,
}

/// A node that the client may go to.
#[derive(Clone, Debug, Deserialize)]
pub struct Routed {
    /// Its id.
    pub id: String,
    /// The link that was chosen for this client.
    pub link: Link,
    /// How much it holds of the resource that was asked for.
    pub held_permille: Option<u32>,
}

/// A link.
#[derive(Clone, Debug, Deserialize)]
pub struct Link {
    /// Its root.
    pub url: String,
    /// Its operator.
    pub isp: String,
}

impl Link {
    /// Where it is reached. Panics when its URL is not plain HTTP to an address and a port.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let address = self.url.strip_prefix("http://").and_then(|rest| rest.parse().ok());
        address.unwrap_or_else(|| panic!("{} is no http://ADDRESS:PORT", self.url))
    }
}

/// A client in a namespace.
pub struct Downloader {
    netns: Netns,
    selector: SocketAddr,
    /// What the selector said last.
    known: Mutex<Vec<Routed>>,
    received: AtomicUsize,
}

impl Downloader {
    /// A client that asks this selector.
    pub fn new(netns: &Netns, selector: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            netns: netns.clone(),
            selector,
            known: Mutex::new(Vec::new()),
            received: AtomicUsize::new(0),
        })
    }

    /// Where it is.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// How many bytes of content it has received since it was made.
    pub fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// What the selector says now of a resource.
    ///
    /// # Errors
    /// When it does not answer soon, or not as a selector does.
    pub fn route(&self, resource: &str) -> io::Result<Route> {
        self.netns.inside(|| self.ask(resource))
    }

    /// Begins to fetch a resource of that length.
    pub fn begin(self: &Arc<Self>, resource: &str, length: usize) -> Download {
        let (client, resource) = (Arc::clone(self), resource.to_owned());
        let thread = thread::spawn(move || client.netns.inside(|| client.fetch_here(&resource, length)));
        Download(thread)
    }

    /// Fetches a resource of that length. Panics when that takes longer than a minute, or a node has
    /// something else under the resource's id.
    pub fn fetch(self: &Arc<Self>, resource: &str, length: usize) -> Downloaded {
        self.begin(resource, length).end()
    }

    fn ask(&self, resource: &str) -> io::Result<Route> {
        let mut connection = Connection::try_open_within(self.selector, PATIENCE)?;
        connection.request("GET", &format!("/.skerry/v1/route?resource={resource}"), &[], b"")?;
        let response = connection.response("GET")?;
        let route: Route = serde_json::from_slice(&response.body)?;
        if !route.nodes.is_empty() {
            self.known.lock().expect("what is known is whole").clone_from(&route.nodes);
        }
        Ok(route)
    }

    fn fetch_here(&self, resource: &str, length: usize) -> Downloaded {
        let started = Instant::now();
        let mut got = Downloaded { body: Vec::new(), from: Vec::new(), longest_pause: Duration::ZERO };
        let mut last = started;
        let mut failed: HashMap<String, Instant> = HashMap::new();
        while got.body.len() < length {
            assert!(started.elapsed() < BOUND, "{} bytes after {BOUND:?}: {:?}", got.body.len(), got.from);
            // Without an answer the last one stands.
            let _ = self.ask(resource);
            let known = self.known.lock().expect("what is known is whole").clone();
            let rested = |node: &&Routed| failed.get(&node.id).is_none_or(|at| at.elapsed() >= AWAY);
            let Some(node) = known.iter().find(rested) else {
                thread::sleep(PAUSE);
                continue;
            };
            let before = got.body.len();
            let taken = self.take(&node.link, resource, length, &mut got, &mut last);
            if got.body.len() > before {
                got.from.push((node.id.clone(), got.body.len() - before));
            }
            if taken.is_err() {
                failed.insert(node.id.clone(), Instant::now());
            }
        }
        got
    }

    /// Takes what is missing over a link, until all is there or nothing comes any more.
    fn take(
        &self,
        link: &Link,
        resource: &str,
        length: usize,
        got: &mut Downloaded,
        last: &mut Instant,
    ) -> io::Result<()> {
        let mut connection = Connection::try_open_within(link.address(), PATIENCE)?;
        let range = format!("bytes={}-", got.body.len());
        let target = format!("/.skerry/v1/resources/{resource}/data");
        connection.request("GET", &target, &[("Range", &range)], b"")?;
        let mut response = connection.head()?;
        if response.status != 206 {
            return Err(io::Error::other(format!("{} from {}", response.status, link.url)));
        }
        assert_eq!(response.header("etag"), Some(&*format!("\"{resource}\"")), "from {}", link.url);
        while got.body.len() < length {
            let step = STEP.min(length - got.body.len());
            if !connection.take(&mut response, step as u64)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            got.longest_pause = got.longest_pause.max(last.elapsed());
            *last = Instant::now();
            got.body.append(&mut response.body);
            self.received.fetch_add(step, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A download under way.
pub struct Download(JoinHandle<Downloaded>);

impl Download {
    /// Waits until it has everything. Panics as [`Downloader::fetch`].
    pub fn end(self) -> Downloaded {
        self.0.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    }
}

/// What was downloaded.
#[derive(Debug)]
pub struct Downloaded {
    /// All of it.
    pub body: Vec<u8>,
    /// Which nodes it came from, in their order, and how many bytes from each.
    pub from: Vec<(String, usize)>,
    /// The longest time, of all since the beginning, in which nothing came.
    pub longest_pause: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let answer = r#"{
            "region": "south", "isp": {"asn": null, "name": "beta"},
            "nodes": [{
                "id": "a", "link": {"name": "l", "url": "http://192.0.2.1:8080", "isp": "beta"}, "weight": 2
            }],
            "trackers": [], "policy": {"name": "built-in", "version": null, "reason": "no-policy"}
        }"#;
        let route: Route = serde_json::from_str(answer).expect("a selector's answer");
        assert_eq!(route.nodes[0].id, "a");
        assert_eq!(route.nodes[0].link.address(), "192.0.2.1:8080".parse().expect("an address"));
        assert_eq!(route.nodes[0].held_permille, None);
    }
}

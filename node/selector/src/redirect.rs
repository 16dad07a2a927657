//! Sending a client on: a browser that asks the selector's own node for a site or a resource goes to
//! the node that is best for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use skerry_core::api;
use url::Url;

use crate::api::now_ms;
use crate::route::{Routed, Selector};

/// Who holds all of it, permille.
const WHOLE: u32 = 1000;

impl Selector {
    /// Where a client that asks this node with GET or HEAD should ask instead (307): the same path at
    /// the best node's link. `None` when it should stay: redirects are off, this node is as good, there
    /// is no other, the path is of the API and names no resource, or `host` (the `Host` the client
    /// asked) is that link already.
    ///
    /// This node is as good when its share is at least half of the first one's: going elsewhere costs
    /// the client a connection. Sites are known to the other node by its link's host: it needs a site
    /// of that name, or a default one.
    pub fn redirect(
        &self,
        host: &str,
        path_and_query: &str,
        client: IpAddr,
        now_ms: u64,
        seed: u64,
    ) -> Option<Url> {
        if !self.config.redirect {
            return None;
        }
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let resource = match path.strip_prefix(api::ROOT) {
            Some(rest) => Some(resource_of(rest)?),
            None => None,
        };
        let route = self.route(client, resource, now_ms, seed);
        let best = route.nodes.first()?;
        let own = route.nodes.iter().find(|routed| routed.node.id == self.node);
        if own.is_some_and(|own| own.weight >= best.weight.div_ceil(2)) {
            return None;
        }
        let mut url = Url::parse(&best.link().url).ok()?;
        if !matches!(url.scheme(), "http" | "https") || is_at(&url, host) {
            return None;
        }
        // By parts: joined to the link, `//host` would lead to that host.
        url.set_path(path);
        url.set_query(query);
        self.metrics.redirects.inc();
        Some(url)
    }
}

impl api::Elsewhere for Selector {
    fn redirect(&self, host: &str, target: &str, client: SocketAddr) -> Option<String> {
        let url = self.redirect(host, target, client.ip(), now_ms(), fastrand::u64(..))?;
        Some(url.into())
    }
}

impl Selector {
    /// Where a client should ask for a resource that this node does not hold: the same target at the best
    /// node that holds all of it; `None` when there is none.
    pub fn owner(&self, resource: &str, target: &str, client: IpAddr, now_ms: u64, seed: u64) -> Option<Url> {
        let route = self.route(client, Some(resource), now_ms, seed);
        let whole = |routed: &&Routed| routed.held == WHOLE && routed.node.id != self.node;
        let best = route.nodes.iter().find(whole)?;
        let mut url = Url::parse(&best.link().url).ok()?;
        if !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        self.metrics.redirects.inc();
        Some(url)
    }
}

/// The selector, for resources that are elsewhere.
pub struct Owners(pub Arc<Selector>);

impl api::Elsewhere for Owners {
    fn redirect(&self, _host: &str, target: &str, client: SocketAddr) -> Option<String> {
        let path = target.split('?').next()?.strip_prefix(api::ROOT)?;
        let url = self.0.owner(resource_of(path)?, target, client.ip(), now_ms(), fastrand::u64(..))?;
        Some(url.into())
    }
}

/// The id that a path below the API's root names: `resources/ID`, `resources/ID/data`,
/// `resources/ID.torrent`.
fn resource_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("resources/")?;
    let word = rest.split('/').next()?;
    let id = word.strip_suffix(".torrent").unwrap_or(word);
    is_id(id).then_some(id)
}

/// Whether a text is a resource's id: 64 hex digits.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a `Host` is that of a URL.
fn is_at(url: &Url, host: &str) -> bool {
    let asked = Url::parse(&format!("{}://{host}/", url.scheme()));
    asked.is_ok_and(|asked| {
        asked.host() == url.host() && asked.port_or_known_default() == url.port_or_known_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SelectorConfig;
    use crate::route::tests::{NOW, World, node};

    const CLIENT: &str = "192.0.2.1";

    fn world(own_kbps: u64, other_kbps: u64) -> World {
        let config = SelectorConfig { redirect: true, ..SelectorConfig::default() };
        let world = World::new(config);
        let with = |id: &str, capacity_kbps: u64| {
            let mut node = node(id, "eu");
            node.links[0].capacity_kbps = capacity_kbps;
            node
        };
        world.fleet.hear([with("self", own_kbps), with("other", other_kbps)]);
        world
    }

    fn to(world: &World, host: &str, path: &str) -> Vec<Option<String>> {
        let client = CLIENT.parse().unwrap();
        let asked = |seed: u64| world.selector.redirect(host, path, client, NOW, (seed << 20) | (seed << 50));
        let mut all: Vec<_> = (0..20).map(|seed| asked(seed).map(String::from)).collect();
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn a_client_stays_where_it_is_as_good() {
        assert_eq!(to(&world(1_000_000, 1_500_000), "self.example", "/film.mp4"), [None]);
    }

    #[test]
    fn a_client_goes_where_it_is_better() {
        let world = world(0, 1_000_000);
        let path = "/a%20b//c.mp4?x=1&y=%2F";
        assert_eq!(to(&world, "self.example", path), [Some(format!("http://other.example:8080{path}"))]);
        let id = "ab".repeat(32);
        for path in ["", "/data", "/data/film.mp4", ".torrent"].map(|rest| format!("resources/{id}{rest}")) {
            let path = format!("{}{path}", api::ROOT);
            assert_eq!(to(&world, "self.example", &path), [Some(format!("http://other.example:8080{path}"))]);
        }
        // It is there already.
        assert_eq!(to(&world, "other.example:8080", "/film.mp4"), [None]);
    }

    #[test]
    fn the_api_itself_stays() {
        let world = world(0, 1_000_000);
        for path in ["/.skerry/v1/route", "/.skerry/v1/nodes", "/.skerry/v1/resources/xyz", "/.skerry/v1/"] {
            assert_eq!(to(&world, "self.example", path), [None], "{path}");
        }
    }

    #[test]
    fn no_path_leads_to_another_host() {
        let world = world(0, 1_000_000);
        for path in
            ["//evil.example/", "/\\evil.example", "//evil.example:80/x?//y", "/@evil.example", "http://e/"]
        {
            for url in to(&world, "self.example", path).into_iter().flatten() {
                let url = Url::parse(&url).unwrap();
                assert_eq!(url.host_str(), Some("other.example"), "{path}");
            }
        }
    }

    #[test]
    fn it_is_off_by_default() {
        let world = World::new(SelectorConfig::default());
        world.fleet.hear([node("other", "eu")]);
        assert_eq!(to(&world, "self.example", "/film.mp4"), [None]);
    }
}

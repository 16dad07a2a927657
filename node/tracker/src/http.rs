//! The tracker over HTTP: `/announce` and `/scrape`, and whatever stands below them (BEP 3, 7, 21, 23, 24,
//! 31, 48).
//!
//! A refusal is an answer with status 200, as clients want it. Peers of both families are told, those of
//! the client's own first, so that a client with both finds all of a small swarm.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use skerry_core::connection::Connection;
use skerry_core::worker::Handler;
use skerry_core::{Body, problem};
use skerry_wire::tracker::http::{self as wire, Announced, QueryError, Retry};

use crate::error::Refusal;
use crate::metrics::{Cause, Count, Transport};
use crate::tracker::{Asked, Tracker, Worker};

/// When a client whose torrent is not known may ask again: the fleet may have it by then.
const UNKNOWN_MINUTES: u32 = 60;

/// Answers announces and scrapes; one for all workers of the listener.
pub struct TrackerHttp {
    tracker: Arc<Tracker>,
    /// Of threads that do not serve just now; there are never more than threads.
    workers: Mutex<Vec<Worker>>,
}

impl Handler for TrackerHttp {
    type Lane = ();

    fn lane(self: &Arc<Self>) {}

    async fn handle(self: Arc<Self>, request: Request<Body>, connection: Arc<Connection>) -> Response<Body> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        self.answer(request.method(), path, query.as_bytes(), connection.peer.ip(), self.tracker.now())
    }
}

impl TrackerHttp {
    /// Over a tracker.
    pub fn new(tracker: Arc<Tracker>) -> Self {
        Self { tracker, workers: Mutex::default() }
    }

    /// Answers a request from an address, at a time since the tracker's start.
    pub fn answer(
        &self,
        method: &Method,
        path: &str,
        query: &[u8],
        source: IpAddr,
        now: Duration,
    ) -> Response<Body> {
        let below =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let announce = below("/announce");
        if !announce && !below("/scrape") {
            return problem::response(StatusCode::NOT_FOUND, "this is a tracker: /announce and /scrape");
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = problem::response(StatusCode::METHOD_NOT_ALLOWED, "a tracker is asked by GET");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let worker = self.workers.lock().pop();
        let mut worker = worker.unwrap_or_else(|| self.tracker.worker(None));
        let answer = if announce {
            self.announce(query, source, now, &mut worker)
        } else {
            self.scrape(query, &worker)
        };
        let body = answer.unwrap_or_else(|error| {
            worker.count(Count::Error(Transport::Http, Cause::Malformed));
            wire::failure(&error.to_string(), Some(Retry::Never))
        });
        self.workers.lock().push(worker);
        let mut response = Response::new(Body::from(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn announce(
        &self,
        query: &[u8],
        source: IpAddr,
        now: Duration,
        worker: &mut Worker,
    ) -> Result<Vec<u8>, QueryError> {
        let announce = wire::Announce::parse(query)?;
        let asked = Asked {
            info_hash: announce.info_hash,
            peer_id: announce.peer_id,
            key: announce.key.unwrap_or(0),
            source,
            named: announce.ip,
            port: announce.port,
            event: announce.event,
            left: announce.left,
            downloaded: announce.downloaded,
            wanted: announce.wanted,
            room: usize::MAX,
            both: true,
            transport: Transport::Http,
        };
        let counts = match self.tracker.announce(&asked, now, worker) {
            Ok(counts) => counts,
            Err(refusal) => {
                let retry = match refusal {
                    Refusal::Port => Retry::Never,
                    Refusal::Unknown => Retry::Minutes(UNKNOWN_MINUTES),
                };
                return Ok(wire::failure(&refusal.to_string(), Some(retry)));
            }
        };
        Ok(wire::announced(&Announced {
            interval: self.tracker.config().interval_seconds,
            min_interval: self.tracker.config().min_interval_seconds,
            counts,
            external: source.to_canonical(),
            peers: &worker.peers,
            peers6: &worker.peers6,
            compact: announce.compact,
        }))
    }

    fn scrape(&self, query: &[u8], worker: &Worker) -> Result<Vec<u8>, QueryError> {
        let hashes = wire::parse_scrape(query)?;
        let mut swarms: Vec<_> = hashes.iter().map(|hash| (*hash, self.tracker.scrape(hash))).collect();
        swarms.iter().for_each(|_| worker.count(Count::Scrape(Transport::Http)));
        Ok(wire::scraped(&mut swarms))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use fastrand::Rng;
    use skerry_wire::tracker::http::{Answer, AnswerError};

    use super::*;
    use crate::tracker::tests::tracker;

    const NOW: Duration = Duration::from_secs(5);

    fn body(response: Response<Body>) -> Vec<u8> {
        match response.into_body() {
            Body::Empty => Vec::new(),
            Body::Full(bytes) => bytes.into(),
            Body::Stream(_) => panic!("a tracker does not stream"),
        }
    }

    fn get(http: &TrackerHttp, path: &str, query: &str, source: &str) -> Vec<u8> {
        let response = http.answer(&Method::GET, path, query.as_bytes(), source.parse().unwrap(), NOW);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
        body(response)
    }

    fn query(more: &str) -> String {
        format!("info_hash=%00aaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=6881&left=5{more}")
    }

    fn ask(http: &TrackerHttp, more: &str, source: &str) -> Result<Answer, AnswerError> {
        wire::parse_answer(&get(http, "/announce/passkey", &query(more), source))
    }

    #[test]
    fn clients_of_both_families_find_one_another() {
        let http = TrackerHttp::new(tracker(|_| {}));
        let first = ask(&http, "&event=started", "192.0.2.1").unwrap();
        assert_eq!((first.interval, first.min_interval, first.counts.incomplete), (900, 60, 1));
        assert_eq!(first.external, Some("192.0.2.1".parse().unwrap()));
        let second = ask(&http, "", "2001:db8::1").unwrap();
        assert_eq!(second.peers, ["192.0.2.1:6881".parse::<SocketAddr>().unwrap()]);
        assert_eq!(second.external, Some("2001:db8::1".parse().unwrap()));
        // The list of dictionaries has both too.
        let third = ask(&http, "&compact=0", "::ffff:192.0.2.3").unwrap();
        let both = ["192.0.2.1:6881", "[2001:db8::1]:6881"].map(|peer| peer.parse::<SocketAddr>().unwrap());
        assert_eq!((third.peers, third.external), (both.to_vec(), Some("192.0.2.3".parse().unwrap())));
        assert!(ask(&http, "&numwant=0", "192.0.2.3").unwrap().peers.is_empty());
    }

    #[test]
    fn scrapes_tell_of_partial_seeds() {
        let http = TrackerHttp::new(tracker(|_| {}));
        ask(&http, "&event=paused", "192.0.2.1").unwrap();
        ask(&http, "", "192.0.2.2").unwrap();
        let known = query("");
        let hash = known.split('&').next().unwrap();
        let read = get(&http, "/scrape", &format!("{hash}&info_hash=zzzzzzzzzzzzzzzzzzzz"), "192.0.2.1");
        let swarms = wire::parse_scraped(&read).unwrap();
        assert_eq!(swarms.len(), 2);
        assert_eq!((swarms[0].1.incomplete, swarms[0].1.downloaders), (2, 1));
        assert_eq!(swarms[1].1, Default::default());
    }

    #[test]
    fn refusals_say_when_to_come_back() {
        let refused = |answer: Result<Answer, AnswerError>| match answer {
            Err(AnswerError::Refused { reason, retry }) => (reason, retry),
            other => panic!("{other:?}"),
        };
        let closed = TrackerHttp::new(tracker(|config| config.open = false));
        let (reason, retry) = refused(ask(&closed, "", "192.0.2.1"));
        assert_eq!(reason, "this tracker does not know the torrent");
        assert_eq!(retry, Some(Retry::Minutes(60)));
        assert_eq!(refused(ask(&closed, "&port=0", "192.0.2.1")).1, Some(Retry::Never));
        let (reason, retry) = refused(ask(&closed, "&peer_id=", "192.0.2.1"));
        assert_eq!((reason.as_str(), retry), ("peer_id is malformed", Some(Retry::Never)));
        let read = get(&closed, "/scrape", "", "192.0.2.1");
        assert!(wire::parse_scraped(&read).unwrap_err().to_string().contains("info_hash is missing"));
    }

    #[test]
    fn other_paths_and_methods_are_not_a_trackers() {
        let http = TrackerHttp::new(tracker(|_| {}));
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let status = |method, path| http.answer(&method, path, b"", source, NOW).status();
        for path in ["/", "/announcer", "/scraped", "/.skerry/v1/route"] {
            assert_eq!(status(Method::GET, path), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(status(Method::POST, "/announce"), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(status(Method::HEAD, "/announce/x"), StatusCode::OK);
    }

    #[test]
    fn hostile_queries_do_no_harm() {
        let http = TrackerHttp::new(tracker(|config| config.max_peers = 500));
        let mut random = Rng::with_seed(9);
        let sources = ["192.0.2.1", "10.0.0.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let good =
            query("&uploaded=1&downloaded=2&event=started&key=00ff&numwant=9&ipv6=%5B::1%5D:80&ip=1.2.3.4");
        let mut answered = 0;
        for step in 0..100_000u32 {
            let mut bytes = good.clone().into_bytes();
            bytes[13..17].copy_from_slice(format!("{:04x}", step % 2000).as_bytes());
            for _ in 0..random.usize(0..4) {
                let at = random.usize(0..bytes.len());
                match random.u8(0..4) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes[at] = *random.choice(b"&=%?+-\0").unwrap(),
                    2 => bytes.insert(at, random.u8(..)),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let path = if random.u8(0..5) == 0 { "/scrape" } else { "/announce" };
            let source = sources[random.usize(0..3)];
            let read = body(http.answer(&Method::GET, path, &bytes, source, NOW));
            let error = if path == "/scrape" {
                wire::parse_scraped(&read).map(|swarms| assert_eq!(swarms.len(), 1)).err()
            } else {
                let answer = wire::parse_answer(&read);
                answered += u32::from(answer.is_ok());
                answer.map(|answer| assert!(answer.peers.len() <= 200)).err()
            };
            assert!(matches!(error, None | Some(AnswerError::Refused { .. })), "{error:?}");
        }
        let totals = http.tracker.totals();
        assert!(answered > 20_000 && totals.v4 + totals.v6 <= 500, "{answered} answered, {totals:?}");
    }
}

//! Trackers as sources: over UDP here (BEP 15), over HTTP by whoever has a client (BEP 3, 7, 23).
//!
//! All of them are asked at once: tiers (BEP 12) spare trackers that a swarm has many of, and a download
//! that is told of a few wants every peer that there is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use skerry_wire::tracker::Event;
use skerry_wire::tracker::http::{Announce, parse_answer};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Ask, Found, SILENT, Sources, udp};
use crate::BoxFuture;

/// Trackers that are asked.
const MOST: usize = 16;
/// Peers that a tracker is asked for.
const WANTED: u32 = 100;
/// How long to wait after a failure, and before asking again a tracker that knew nobody and said nothing of
/// how long to wait.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Shortest and longest wait that a tracker's word makes.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);
/// Longest wait for an answer, with that for the tracker's address: what the others have said waits for it.
const ANSWER: Duration = Duration::from_secs(18);

/// Fetches over HTTP.
pub trait HttpGet: Send + Sync + 'static {
    /// The body of a successful answer, bounded in time and length; else why there is none.
    fn get(&self, url: String) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// The trackers of a torrent.
pub struct Trackers {
    urls: Vec<String>,
    http: Option<Arc<dyn HttpGet>>,
    /// A number that only this client and its trackers know.
    key: u32,
    /// When each may be asked again, by its place and the info-hash.
    due: Mutex<HashMap<(usize, [u8; 20]), Instant>>,
}

impl Trackers {
    /// Those at these addresses; what is neither `udp:`, `http:` nor `https:` is passed over, as are HTTP
    /// trackers without somebody to fetch.
    pub fn new(urls: impl IntoIterator<Item = String>, http: Option<Arc<dyn HttpGet>>) -> Self {
        let mut known: Vec<String> = Vec::new();
        for url in urls.into_iter().filter(|url| is_usable(url, http.is_some())) {
            if known.len() < MOST && !known.contains(&url) {
                known.push(url);
            }
        }
        Self { urls: known, http, key: fastrand::u32(1..), due: Mutex::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.urls.is_empty()
    }

    async fn ask_all(&self, ask: Ask) -> Found {
        let now = Instant::now();
        let mut asked = JoinSet::new();
        let mut again: Option<Duration> = None;
        for (place, url) in self.urls.iter().enumerate() {
            let due = self.due.lock().get(&(place, ask.info_hash)).copied();
            // A tracker that was told of nothing need not be told of its end.
            let leaves = ask.event == Event::Stopped;
            match due {
                Some(at) if at > now && !leaves => again = least(again, at - now),
                None if leaves => {}
                _ => {
                    let (url, http, key) = (url.clone(), self.http.clone(), self.key);
                    asked.spawn(async move {
                        let answer = timeout(ANSWER, announce(&url, http, &ask, key)).await;
                        (place, answer.unwrap_or_else(|_| Err(SILENT.to_owned())), url)
                    });
                }
            }
        }
        let mut peers = Vec::new();
        while let Some(answer) = asked.join_next().await {
            let Ok((place, answer, url)) = answer else { continue };
            let wait = match answer {
                Ok(found) => {
                    peers.extend(found.peers);
                    found.again
                }
                Err(reason) => {
                    log::debug!(tracker = url.as_str(); "a tracker gives no peers: {reason}");
                    AFTER_FAILURE
                }
            };
            self.due.lock().insert((place, ask.info_hash), Instant::now() + wait);
            again = least(again, wait);
        }
        Found { peers, again: again.unwrap_or(LONGEST) }
    }
}

impl Sources for Trackers {
    fn find(&self, ask: Ask) -> BoxFuture<'_, Found> {
        Box::pin(self.ask_all(ask))
    }
}

fn least(one: Option<Duration>, other: Duration) -> Option<Duration> {
    Some(one.map_or(other, |one| one.min(other)))
}

fn is_usable(url: &str, http: bool) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("udp") => true,
        Some("http" | "https") => http,
        _ => false,
    }
}

async fn announce(url: &str, http: Option<Arc<dyn HttpGet>>, ask: &Ask, key: u32) -> Result<Found, String> {
    let (found, interval, least) = match http {
        Some(http) if !is_udp(url) => {
            let body = http.get(question(url, ask, key)).await?;
            let answer = parse_answer(&body).map_err(|error| error.to_string())?;
            (answer.peers, answer.interval, answer.min_interval)
        }
        _ => {
            let (peers, interval) = udp::announce(url, ask, key, WANTED).await?;
            (peers, interval, 0)
        }
    };
    // Where there is nobody, somebody may come soon.
    let seconds = if found.is_empty() { least } else { interval.max(least) };
    let again = Duration::from_secs(seconds.into()).clamp(SHORTEST, LONGEST);
    Ok(Found { peers: found, again })
}

fn is_udp(url: &str) -> bool {
    url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("udp://"))
}

/// The address of an announce over HTTP.
fn question(url: &str, ask: &Ask, key: u32) -> String {
    let announce = Announce {
        info_hash: ask.info_hash,
        peer_id: ask.peer_id,
        port: ask.port,
        uploaded: 0,
        downloaded: ask.downloaded,
        // Who does not know yet what lacks lacks something.
        left: Some(ask.left.unwrap_or(super::UNKNOWN_LEFT)),
        event: ask.event,
        compact: true,
        no_peer_id: true,
        wanted: Some(if ask.event == Event::Stopped { 0 } else { WANTED }),
        key: Some(key),
        tracker_id: &[],
        supports_crypto: false,
        ip: None,
        ipv4: None,
        ipv6: None,
    };
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{}", announce.query())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const ASK: Ask = Ask {
        info_hash: [1; 20],
        peer_id: *b"-SK0100-abcdefghijkl",
        port: 1,
        event: Event::Started,
        downloaded: 5,
        left: None,
    };

    /// Answers every question with one peer, and writes the question down.
    struct Scripted(Mutex<Vec<String>>);

    impl HttpGet for Arc<Scripted> {
        fn get(&self, url: String) -> BoxFuture<'static, Result<Bytes, String>> {
            let (fails, hangs) = (url.starts_with("http://down"), url.starts_with("http://hangs"));
            self.0.lock().push(url);
            if hangs {
                return Box::pin(std::future::pending());
            }
            let answer = b"d8:intervali900e12:min intervali60e5:peers6:\xc0\0\x02\x01\x1a\xe1e";
            let answer = if fails { Err("it is down".to_owned()) } else { Ok(Bytes::from_static(answer)) };
            Box::pin(std::future::ready(answer))
        }
    }

    fn trackers(urls: &[&str]) -> (Trackers, Arc<Scripted>) {
        let scripted = Arc::new(Scripted(Mutex::default()));
        let http: Arc<dyn HttpGet> = Arc::new(scripted.clone());
        (Trackers::new(urls.iter().map(|url| (*url).to_owned()), Some(http)), scripted)
    }

    #[tokio::test(start_paused = true)]
    async fn every_tracker_is_asked_when_it_is_due() {
        let (trackers, scripted) =
            trackers(&["http://a/announce", "http://down/x?key=1", "http://a/announce"]);
        let found = trackers.find(ASK).await;
        assert_eq!(found.peers, ["192.0.2.1:6881".parse::<SocketAddr>().unwrap()]);
        assert_eq!(found.again, AFTER_FAILURE);
        let mut asked = std::mem::take(&mut *scripted.0.lock());
        asked.sort_unstable();
        assert_eq!(asked.len(), 2);
        assert!(asked[0].starts_with("http://a/announce?info_hash=%01"), "{}", asked[0]);
        assert!(asked[0].contains("&event=started") && asked[0].contains("&left=16384"), "{}", asked[0]);
        assert!(asked[1].starts_with("http://down/x?key=1&info_hash="), "{}", asked[1]);

        assert!(trackers.find(ASK).await.peers.is_empty(), "none is due");
        tokio::time::advance(AFTER_FAILURE).await;
        let found = trackers.find(ASK).await;
        assert_eq!((found.peers.len(), found.again), (0, AFTER_FAILURE));
        assert_eq!(scripted.0.lock().len(), 1);
        trackers.find(Ask { event: Event::Stopped, ..ASK }).await;
        assert_eq!(scripted.0.lock().len(), 3, "all are told of the end");
        trackers.find(Ask { event: Event::Stopped, info_hash: [2; 20], ..ASK }).await;
        assert_eq!(scripted.0.lock().len(), 3, "of what they were told of");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_does_not_hold_up_the_others_for_long() {
        let (trackers, _scripted) = trackers(&["http://hangs/announce", "http://a/announce"]);
        let asked = Instant::now();
        let found = trackers.find(ASK).await;
        assert_eq!((found.peers.len(), found.again), (1, AFTER_FAILURE));
        assert!(asked.elapsed() <= ANSWER + Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[test]
    fn what_is_no_tracker_is_passed_over() {
        let known = |urls: &[&str], http: bool| {
            let http = http.then(|| Arc::new(Arc::new(Scripted(Mutex::default()))) as Arc<dyn HttpGet>);
            Trackers::new(urls.iter().map(|url| (*url).to_owned()), http).urls
        };
        let all = ["udp://a:1", "UDP://b:1", "http://c", "HTTPS://d", "wss://e", "f", ""];
        assert_eq!(known(&all, true), all[..4]);
        assert_eq!(known(&all, false), all[..2]);
        assert!(Trackers::new(Vec::new(), None).is_empty());
        let many: Vec<String> = (0..100).map(|n| format!("udp://a:{n}")).collect();
        assert_eq!(Trackers::new(many, None).urls.len(), MOST);
    }
}

//! Trackers as sources: over UDP here (BEP 15), over HTTP by whoever has a client (BEP 3, 7, 23).
//!
//! All of them are asked at once: tiers (BEP 12) spare trackers that a swarm has many of, and a download
//! that is told of a few wants every peer that there is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use skerry_wire::tracker::Event;
use skerry_wire::tracker::http::{Announce, parse_answer};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Answers, Ask, SILENT, Sources, udp};
use crate::BoxFuture;

/// Trackers that are asked.
const MOST: usize = 16;
/// Peers that a tracker is asked for.
const WANTED: u32 = 100;
/// How long to wait after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Shortest and longest wait that a tracker's word makes.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);
/// First wait while there is nobody to fetch from; every further one is twice as long, up to the tracker's
/// interval. Who is alone may have come just before the others. A shortest wait that the tracker tells is
/// kept all the same.
const EARLY: Duration = Duration::from_secs(5);
/// After so many the wait grows no more: it is longer than any interval.
const MOST_EARLY: u32 = 10;
/// Longest wait for an answer, with that for the tracker's address.
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
    turns: Mutex<HashMap<(usize, [u8; 20]), Turn>>,
}

/// When a tracker may be asked again.
#[derive(Debug, Clone, Copy)]
struct Turn {
    again: Instant,
    /// While there is nobody to fetch from.
    early: Instant,
    /// How often in a row it was asked early.
    times: u32,
}

impl Turn {
    fn due(&self, alone: bool) -> Instant {
        if alone { self.early } else { self.again }
    }
}

/// What a tracker answers.
struct Answer {
    peers: Vec<SocketAddr>,
    /// How long to wait before it is asked again, and how long at least.
    wait: Duration,
    least: Duration,
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
        Self { urls: known, http, key: fastrand::u32(1..), turns: Mutex::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.urls.is_empty()
    }

    async fn ask_all(&self, ask: Ask, answers: Answers) -> Duration {
        let now = Instant::now();
        let mut asked = JoinSet::new();
        for (place, url) in self.urls.iter().enumerate() {
            let due = self.turns.lock().get(&(place, ask.info_hash)).map(|turn| turn.due(ask.alone));
            // A tracker that was told of nothing need not be told of its end.
            let leaves = ask.event == Event::Stopped;
            match due {
                Some(at) if at > now && !leaves => {}
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
        while let Some(answer) = asked.join_next().await {
            let (place, answer, url) = match answer {
                Ok(answer) => answer,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => continue,
            };
            let (wait, least) = match answer {
                Ok(answer) => {
                    answers.take(answer.peers).await;
                    (answer.wait, answer.least)
                }
                Err(reason) => {
                    log::debug!(tracker = url.as_str(); "a tracker gives no peers: {reason}");
                    (AFTER_FAILURE, Duration::ZERO)
                }
            };
            self.take_turn((place, ask.info_hash), ask.alone, wait, least);
        }
        self.next(&ask)
    }

    /// A tracker was asked, and wants to wait so long, and so long at least.
    fn take_turn(&self, of: (usize, [u8; 20]), alone: bool, wait: Duration, least: Duration) {
        let (now, mut turns) = (Instant::now(), self.turns.lock());
        let times = turns.get(&of).filter(|_| alone).map_or(0, |turn| (turn.times + 1).min(MOST_EARLY));
        let early = (EARLY * (1 << times)).clamp(least, wait);
        turns.insert(of, Turn { again: now + wait, early: now + early, times });
    }

    /// How long until the first of them may be asked again.
    fn next(&self, ask: &Ask) -> Duration {
        let turns = self.turns.lock();
        let turns = (0..self.urls.len()).filter_map(|place| turns.get(&(place, ask.info_hash)));
        let next = turns.map(|turn| turn.due(ask.alone)).min();
        next.map_or(LONGEST, |at| at.saturating_duration_since(Instant::now()))
    }
}

impl Sources for Trackers {
    fn find(&self, ask: Ask, answers: Answers) -> BoxFuture<'_, Duration> {
        Box::pin(self.ask_all(ask, answers))
    }
}

fn is_usable(url: &str, http: bool) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("udp") => true,
        Some("http" | "https") => http,
        _ => false,
    }
}

async fn announce(url: &str, http: Option<Arc<dyn HttpGet>>, ask: &Ask, key: u32) -> Result<Answer, String> {
    let (peers, interval, least) = match http {
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
    let least = Duration::from_secs(least.into()).min(LONGEST);
    let wait = Duration::from_secs(interval.into()).clamp(SHORTEST, LONGEST).max(least);
    Ok(Answer { peers, wait, least })
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
    use tokio::sync::mpsc;

    use super::*;

    const ASK: Ask = Ask {
        info_hash: [1; 20],
        peer_id: *b"-SK0100-abcdefghijkl",
        port: 1,
        event: Event::Started,
        downloaded: 5,
        left: None,
        alone: false,
    };

    /// Answers every question with one peer, but where nobody is with none, and writes the question down.
    struct Scripted(Mutex<Vec<String>>);

    impl HttpGet for Arc<Scripted> {
        fn get(&self, url: String) -> BoxFuture<'static, Result<Bytes, String>> {
            let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).map(str::to_owned);
            self.0.lock().push(url);
            let answer: &[u8] = match host.as_deref() {
                Some("hangs") => return Box::pin(std::future::pending()),
                Some("down") => return Box::pin(std::future::ready(Err("it is down".to_owned()))),
                Some("breaks") => panic!("a fetch"),
                Some("empty") => b"d8:intervali60e5:peers0:e",
                Some("strict") => b"d8:intervali900e12:min intervali60e5:peers0:e",
                _ => b"d8:intervali900e12:min intervali60e5:peers6:\xc0\0\x02\x01\x1a\xe1e",
            };
            Box::pin(std::future::ready(Ok(Bytes::from_static(answer))))
        }
    }

    /// Asks: peers, and how long to wait.
    async fn find(trackers: &Trackers, ask: Ask) -> (Vec<SocketAddr>, Duration) {
        let (sender, mut found) = mpsc::channel(MOST);
        let again = trackers.find(ask, Answers::new(ask.info_hash, sender)).await;
        let mut peers = Vec::new();
        while let Some((info_hash, more)) = found.recv().await {
            assert_eq!(info_hash, ask.info_hash);
            peers.extend(more);
        }
        (peers, again)
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
        let (peers, again) = find(&trackers, ASK).await;
        assert_eq!(peers, ["192.0.2.1:6881".parse::<SocketAddr>().unwrap()]);
        assert_eq!(again, AFTER_FAILURE);
        let mut asked = std::mem::take(&mut *scripted.0.lock());
        asked.sort_unstable();
        assert_eq!(asked.len(), 2);
        assert!(asked[0].starts_with("http://a/announce?info_hash=%01"), "{}", asked[0]);
        assert!(asked[0].contains("&event=started") && asked[0].contains("&left=16384"), "{}", asked[0]);
        assert!(asked[1].starts_with("http://down/x?key=1&info_hash="), "{}", asked[1]);

        assert!(find(&trackers, ASK).await.0.is_empty(), "none is due");
        tokio::time::advance(AFTER_FAILURE).await;
        assert_eq!(find(&trackers, ASK).await, (Vec::new(), AFTER_FAILURE));
        assert_eq!(scripted.0.lock().len(), 1);
        find(&trackers, Ask { event: Event::Stopped, ..ASK }).await;
        assert_eq!(scripted.0.lock().len(), 3, "all are told of the end");
        find(&trackers, Ask { event: Event::Stopped, info_hash: [2; 20], ..ASK }).await;
        assert_eq!(scripted.0.lock().len(), 3, "of what they were told of");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_does_not_hold_up_the_others() {
        let (trackers, _scripted) = trackers(&["http://hangs/announce", "http://a/announce"]);
        let asked = Instant::now();
        let (sender, mut found) = mpsc::channel::<crate::sources::Found>(MOST);
        let heard = async { (found.recv().await.unwrap().1.len(), asked.elapsed()) };
        let (again, heard) = tokio::join!(trackers.find(ASK, Answers::new(ASK.info_hash, sender)), heard);
        assert_eq!((again, heard), (AFTER_FAILURE, (1, Duration::ZERO)));
        assert!(asked.elapsed() <= ANSWER + Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_asks_sooner_as_far_as_the_tracker_lets_it() {
        for (url, expected) in [
            ("http://empty/announce", vec![0, 5, 15, 35, 75, 135]),
            ("http://strict/announce", vec![0, 60, 120]),
            ("http://down/announce", vec![0, 5, 15, 35, 75, 135]),
        ] {
            let (trackers, scripted) = trackers(&[url]);
            let (begun, mut asked) = (Instant::now(), Vec::new());
            while begun.elapsed() < Duration::from_secs(180) {
                let (_, again) = find(&trackers, Ask { alone: true, ..ASK }).await;
                assert_eq!(std::mem::take(&mut *scripted.0.lock()).len(), 1);
                asked.push(begun.elapsed().as_secs());
                assert!(find(&trackers, ASK).await.1 >= AFTER_FAILURE, "others wait for the interval");
                tokio::time::advance(again).await;
            }
            assert_eq!(asked, expected, "{url}");
        }
    }

    #[tokio::test]
    #[should_panic(expected = "a fetch")]
    async fn a_panic_is_not_taken_for_silence() {
        let (trackers, _scripted) = trackers(&["http://breaks/announce"]);
        find(&trackers, ASK).await;
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

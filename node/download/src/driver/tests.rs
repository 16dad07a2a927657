//! Downloads over sockets, and in simulated time.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use parking_lot::Mutex;
use skerry_wire::InfoHash;
use skerry_wire::metainfo::Kind;

use super::*;
use crate::BoxFuture;
use crate::piece::tests::{noise, split, torrent};
use crate::seed::{Seed, listen};
use crate::sink::piece_count;

/// Keeps pieces in memory, and has some from the beginning.
#[derive(Default)]
struct Kept {
    there: Vec<u32>,
    pieces: Mutex<HashMap<u32, Bytes>>,
}

impl Sink for Kept {
    type Error = Infallible;

    async fn begin(&self, metainfo: &Metainfo) -> Result<Bitfield, Infallible> {
        let mut have = Bitfield::new(piece_count(metainfo));
        self.there.iter().for_each(|piece| _ = have.set(*piece));
        Ok(have)
    }

    async fn piece(&self, piece: u32, data: Bytes) -> Result<(), Infallible> {
        let before = self.pieces.lock().insert(piece, data);
        assert_eq!(before, None, "each piece comes once");
        Ok(())
    }
}

/// Always the same peers; writes down what it was asked.
#[derive(Default)]
struct Known {
    peers: Vec<SocketAddr>,
    asked: Mutex<Vec<Ask>>,
}

impl Sources for Known {
    fn find(&self, ask: Ask, answers: Answers) -> BoxFuture<'_, Duration> {
        self.asked.lock().push(ask);
        Box::pin(async move {
            answers.take(self.peers.clone()).await;
            Duration::from_secs(60)
        })
    }
}

fn unlimited() -> Limit {
    Arc::new(|_| Duration::ZERO)
}

#[tokio::test]
async fn a_magnet_link_becomes_content_over_sockets() {
    let files = [noise(1, 3_000_000), noise(2, 100_000)];
    for kind in [Kind::V1, Kind::V2, Kind::Hybrid] {
        let whole = torrent(kind, 65_536, &files);
        let pieces = split(&whole, &files);
        let seed = || Seed::new(whole.clone(), pieces.clone());
        let mut peers = vec![listen(seed()).await, listen(seed()).await];
        peers.push(listen(Seed { lies: true, ..seed() }).await);
        // Nobody is there.
        peers.push(SocketAddr::from(([127, 0, 0, 1], 1)));
        let hashes: Vec<InfoHash> = whole.info().hashes().collect();
        let sources = Arc::new(Known { peers, ..Known::default() });
        let sink = Arc::new(Kept { there: vec![2], ..Kept::default() });
        let download = Download::new(Target::Named(hashes), Options::default());
        let handle = download.handle();
        let got = download.run(sources.clone(), sink.clone(), unlimited()).await.unwrap();
        assert_eq!(got.info().bytes(), whole.info().bytes());
        if kind != Kind::V1 {
            assert_eq!(got.missing_layers().next(), None);
        }
        let kept = std::mem::take(&mut *sink.pieces.lock());
        assert_eq!(kept.len(), pieces.len() - 1);
        assert!(kept.iter().all(|(piece, data)| data[..] == pieces[*piece as usize][..]));
        let length: usize = pieces.iter().map(Vec::len).sum();
        assert_eq!(handle.progress().stored.load(Relaxed), length as u64);
        assert_eq!(handle.progress().length.load(Relaxed), length as u64);
        tokio::task::yield_now().await;
        let asked = sources.asked.lock();
        assert_eq!((asked[0].event, asked[0].left), (Reason::Started, None));
    }
}

#[tokio::test(start_paused = true)]
async fn without_peers_it_ends_in_time() {
    let whole = torrent(Kind::V2, 65_536, &[noise(1, 100_000)]);
    let options = Options { alone: Duration::from_secs(20), ..Options::default() };
    let begun = Instant::now();
    let download = Download::new(Target::Torrent(Box::new(whole)), options);
    let ended = download.run(Arc::new(Known::default()), Arc::new(Kept::default()), unlimited()).await;
    assert!(matches!(ended, Err(Error::Failed(Failure::Alone))), "{ended:?}");
    assert!((20..25).contains(&begun.elapsed().as_secs()));
}

#[test]
fn sources_are_asked_when_it_is_time_and_at_once_when_all_have_gone() {
    let now = Instant::now();
    let later = now + Duration::from_secs(900);
    let question = |due, asked| Question { wire: [1; 20], due, asked };
    assert!(question(Some(now), None).is_due(false, now));
    let known = question(Some(later), Some((now, false)));
    assert!(!known.is_due(false, now) && known.is_due(true, now) && known.is_due(false, later));
    assert!(!question(Some(later), Some((now, true))).is_due(true, now), "they know");
    assert!(!question(None, Some((now, false))).is_due(true, later), "it is being asked");
}

/// A sink that has a fault.
struct Faulty;

impl Sink for Faulty {
    type Error = Infallible;

    async fn begin(&self, metainfo: &Metainfo) -> Result<Bitfield, Infallible> {
        Ok(Bitfield::new(piece_count(metainfo)))
    }

    async fn piece(&self, _: u32, _: Bytes) -> Result<(), Infallible> {
        panic!("a sink")
    }
}

#[tokio::test]
async fn a_panic_of_a_task_ends_it_with_an_error() {
    let files = [noise(1, 100_000)];
    let whole = torrent(Kind::V2, 65_536, &files);
    let peer = listen(Seed::new(whole.clone(), split(&whole, &files))).await;
    let sources = || Arc::new(Known { peers: vec![peer], ..Known::default() });
    let download = || Download::new(Target::Torrent(Box::new(whole.clone())), Options::default());
    let in_sink = download().run(sources(), Arc::new(Faulty), unlimited()).await;
    assert!(matches!(in_sink, Err(Error::Failed(Failure::Panicked))), "{in_sink:?}");
    let limit: Limit = Arc::new(|_| -> Duration { panic!("a limit") });
    let in_connection = download().run(sources(), Arc::new(Kept::default()), limit).await;
    assert!(matches!(in_connection, Err(Error::Failed(Failure::Panicked))), "{in_connection:?}");
}

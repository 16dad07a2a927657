//! Those who are there: who downloads, who stays to upload, and what each is connected to.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

/// No place.
const NOWHERE: u32 = u32::MAX;
/// Downlinks in kilobits per second, and how many of a hundred have them.
const DOWNLINKS: [(u32, u32); 5] = [(20_000, 25), (50_000, 30), (100_000, 25), (250_000, 15), (1_000_000, 5)];
/// Of a downlink's rate, what goes the other way, one in so many.
const UPLINK: u32 = 5;
/// How long a peer that uploads stays when it has everything: the mean, and the longest, milliseconds.
const STAY_MS: f64 = 600_000.0;
const LONGEST_STAY_MS: f64 = 1_800_000.0;

/// What somebody downloads with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// It takes from links that the selector names, and from whom the tracker names.
    Fetcher,
    /// A BitTorrent client: from whom the tracker names; from a web seed when that is nobody.
    Torrent,
    /// From the first link that the selector names.
    Browser,
}

/// What a peer is connected to.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// The place of who sends, among all senders.
    pub(super) sender: u32,
    /// Of a node: what is read of it, by its place among the replicas. Of a peer: its number.
    pub(super) of: u32,
    /// Whether both ends are of the same region.
    pub(super) near: bool,
    /// What can come at most, by what there is to send, kilobits per second.
    pub(super) limit_kbps: f64,
    /// What is asked for first, and what on top where others could not give, kilobits per second.
    pub(super) asked_kbps: f64,
    pub(super) more_kbps: f64,
}

impl Connection {
    pub(super) fn new(sender: u32, of: u32, near: bool) -> Self {
        Self { sender, of, near, limit_kbps: 0.0, asked_kbps: 0.0, more_kbps: 0.0 }
    }
}

/// One who is there.
pub(super) struct Peer {
    pub(super) number: u32,
    pub(super) region: u8,
    pub(super) operator: u8,
    pub(super) crowd: u8,
    pub(super) client: Client,
    pub(super) resource: u32,
    /// Of the resource, bytes.
    pub(super) length: u64,
    pub(super) got: u64,
    pub(super) downlink_kbps: u32,
    /// 0 when it uploads nothing.
    pub(super) uplink_kbps: u32,
    /// What came in the last step, kilobits per second.
    pub(super) rate_kbps: f64,
    /// Milliseconds since the start, as all times here.
    pub(super) came_ms: u64,
    pub(super) announced_ms: u64,
    /// When it asks again, and how often it has.
    pub(super) ask_ms: u64,
    pub(super) asked: u32,
    pub(super) connections: Vec<Connection>,
}

impl Peer {
    /// Somebody who comes, with a client and a line by chance.
    pub(super) fn new(number: u32, region: u8, operator: u8, idle_permille: u32, random: &mut Rng) -> Self {
        let client = match random.u32(..100) {
            0..60 => Client::Fetcher,
            60..85 => Client::Torrent,
            _ => Client::Browser,
        };
        let mut point = random.u32(..100);
        let line = DOWNLINKS.iter().find(|(_, share)| {
            let found = point < *share;
            point = point.saturating_sub(*share);
            found
        });
        let downlink_kbps = line.map_or(DOWNLINKS[0].0, |(kbps, _)| *kbps);
        let idle = client == Client::Browser || random.u32(..1000) < idle_permille;
        Self {
            number,
            region,
            operator,
            crowd: super::arrivals::NO_CROWD,
            client,
            resource: 0,
            length: 0,
            got: 0,
            downlink_kbps,
            uplink_kbps: if idle { 0 } else { downlink_kbps / UPLINK },
            rate_kbps: 0.0,
            came_ms: 0,
            announced_ms: 0,
            ask_ms: 0,
            asked: 0,
            connections: Vec::new(),
        }
    }
}

/// All who are there. A place is used again when its peer has left.
pub(super) struct Peers {
    pub(super) all: Vec<Peer>,
    free: Vec<u32>,
    /// Places by numbers.
    places: Vec<u32>,
    /// Places of those who download.
    pub(super) downloading: Vec<u32>,
    /// When those leave who have everything, and their places.
    staying: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Peers {
    /// Nobody, and so many to come.
    pub(super) fn new(numbers: usize) -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
            places: vec![NOWHERE; numbers],
            downloading: Vec::new(),
            staying: BinaryHeap::new(),
        }
    }

    /// Lets somebody in, and tells its place. It does not download yet.
    pub(super) fn enter(&mut self, peer: Peer) -> u32 {
        let number = peer.number as usize;
        let place = match self.free.pop() {
            Some(place) => {
                self.all[place as usize] = peer;
                place
            }
            None => {
                self.all.push(peer);
                self.all.len() as u32 - 1
            }
        };
        self.places[number] = place;
        place
    }

    /// The place of a peer that is there.
    pub(super) fn place(&self, number: u32) -> Option<u32> {
        self.places.get(number as usize).copied().filter(|place| *place != NOWHERE)
    }

    pub(super) fn at(&mut self, place: u32) -> &mut Peer {
        &mut self.all[place as usize]
    }

    /// It has everything, and stays for a while to upload.
    pub(super) fn stay(&mut self, place: u32, now_ms: u64, random: &mut Rng) {
        let stay_ms = (-(1.0 - random.f64()).ln() * STAY_MS).min(LONGEST_STAY_MS);
        self.staying.push(Reverse((now_ms + stay_ms as u64, place)));
    }

    /// One of those whose time is over.
    pub(super) fn next_over(&mut self, now_ms: u64) -> Option<u32> {
        let &Reverse((until_ms, place)) = self.staying.peek()?;
        if until_ms > now_ms {
            return None;
        }
        self.staying.pop();
        Some(place)
    }

    /// It is gone.
    pub(super) fn leave(&mut self, place: u32) {
        let number = self.at(place).number as usize;
        self.places[number] = NOWHERE;
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_lines_are_as_many_as_they_should() {
        let mut random = Rng::with_seed(5);
        let all: Vec<Peer> = (0..10_000).map(|number| Peer::new(number, 0, 0, 400, &mut random)).collect();
        let count = |of: &dyn Fn(&&Peer) -> bool| all.iter().filter(|peer| of(peer)).count();
        assert!((5800..6200).contains(&count(&|peer| peer.client == Client::Fetcher)));
        assert!((1300..1700).contains(&count(&|peer| peer.client == Client::Browser)));
        for (kbps, share) in DOWNLINKS {
            let count = count(&|peer| peer.downlink_kbps == kbps);
            assert!(count.abs_diff(share as usize * 100) < 200, "{kbps}: {count}");
        }
        // Six of ten of those who are no browsers.
        assert!((4900..5300).contains(&count(&|peer| peer.uplink_kbps > 0)));
        assert!(all.iter().all(|peer| peer.client != Client::Browser || peer.uplink_kbps == 0));
    }

    #[test]
    fn places_are_used_again_and_found_by_number() {
        let mut random = Rng::with_seed(6);
        let mut peers = Peers::new(3);
        let mut enter = |peers: &mut Peers, number| peers.enter(Peer::new(number, 0, 0, 0, &mut random));
        assert_eq!([enter(&mut peers, 0), enter(&mut peers, 1)], [0, 1]);
        peers.leave(0);
        assert_eq!((peers.place(0), peers.place(1), peers.place(9)), (None, Some(1), None));
        assert_eq!(enter(&mut peers, 2), 0);
        assert_eq!(peers.place(2), Some(0));
    }

    #[test]
    fn who_has_everything_stays_for_a_while() {
        let mut random = Rng::with_seed(7);
        let mut peers = Peers::new(1);
        for place in 0..1000 {
            peers.stay(place, 1000, &mut random);
        }
        assert_eq!(peers.next_over(1000), None);
        let gone = std::iter::from_fn(|| peers.next_over(601_000)).count();
        // 1 - 1/e.
        assert!((580..690).contains(&gone), "{gone}");
        assert_eq!(std::iter::from_fn(|| peers.next_over(1_801_000)).count(), 1000 - gone);
    }
}

//! How fast bytes flow: max-min fair shares of links and lines, about, in two rounds for each step.
//!
//! Whoever downloads asks each sender for a part of its line, in proportion to what a connection of that
//! sender is worth: its rate divided by its connections, and a quarter of that from elsewhere, where round
//! trips are long. A sender that is asked for more than it has gives everybody the same part of what they
//! asked for. What is then missing is asked for once more where something is left. Nobody gives what it
//! does not have: who is no further than the one who asks passes on what comes in, no faster.

use super::nodes::Replica;
use super::peers::{Connection, Peer};

/// What a sender in another region counts for, one in so many.
const ELSEWHERE: f64 = 4.0;
/// The part of a line that may stay free without a second round.
const SLACK: f64 = 0.01;
/// Who has everything.
pub(super) const ALL: u64 = u64::MAX;

/// One who sends: a node's link, or a peer.
#[derive(Debug)]
pub(super) struct Sender {
    /// Kilobits per second.
    capacity: f64,
    /// Of a peer: its number, what it has in bytes, and what came in last, kilobits per second.
    pub(super) number: u32,
    pub(super) has: u64,
    pub(super) intake_kbps: f64,
    /// Connections in the last step that something could come over, and those of this step so far.
    connections: u32,
    counted: u32,
    /// What is asked for in both rounds, kilobits per second, and the part of it that is given.
    asked: f64,
    more: f64,
    part: f64,
    more_part: f64,
}

impl Sender {
    fn new(kbps: f64, number: u32) -> Self {
        Self {
            capacity: kbps,
            number,
            has: 0,
            intake_kbps: 0.0,
            connections: 0,
            counted: 0,
            asked: 0.0,
            more: 0.0,
            part: 0.0,
            more_part: 0.0,
        }
    }

    /// What one connection is worth.
    fn each(&self, free: f64, near: bool) -> f64 {
        let each = free / f64::from(self.connections.max(1));
        if near { each } else { each / ELSEWHERE }
    }

    fn left(&self) -> f64 {
        (self.capacity - self.asked).max(0.0)
    }
}

/// All who send: the nodes' links first, then peers by their places.
pub(super) struct Senders {
    all: Vec<Sender>,
    links: usize,
}

impl Senders {
    /// Links of these rates, in kilobits per second.
    pub(super) fn new(links: impl IntoIterator<Item = u64>) -> Self {
        let all: Vec<Sender> = links.into_iter().map(|kbps| Sender::new(kbps as f64, u32::MAX)).collect();
        Self { links: all.len(), all }
    }

    /// The place of a peer among the senders.
    pub(super) fn of_peer(&self, place: u32) -> u32 {
        self.links as u32 + place
    }

    /// Somebody new sends from a peer's place.
    pub(super) fn enter(&mut self, place: u32, uplink_kbps: u32, number: u32) {
        let (sender, at) = (Sender::new(f64::from(uplink_kbps), number), self.links + place as usize);
        if at < self.all.len() {
            self.all[at] = sender;
        } else {
            self.all.push(sender);
        }
    }

    pub(super) fn peer(&mut self, place: u32) -> &mut Sender {
        &mut self.all[self.links + place as usize]
    }

    /// The link that a connection comes over; `None` for one of a peer.
    pub(super) fn link(&self, connection: &Connection) -> Option<usize> {
        Some(connection.sender as usize).filter(|sender| *sender < self.links)
    }

    /// Whether something may ever come over a connection.
    pub(super) fn lives(&self, connection: &Connection) -> bool {
        self.link(connection).is_some() || self.all[connection.sender as usize].number == connection.of
    }

    /// What comes over a connection in this step, kilobits per second.
    pub(super) fn rate_kbps(&self, connection: &Connection) -> f64 {
        let sender = &self.all[connection.sender as usize];
        connection.asked_kbps * sender.part + connection.more_kbps * sender.more_part
    }

    /// Shares out everything for one step.
    pub(super) fn share(&mut self, peers: &mut [Peer], downloading: &[u32], replicas: &[Replica]) {
        for sender in &mut self.all {
            sender.connections = std::mem::take(&mut sender.counted);
            (sender.asked, sender.more) = (0.0, 0.0);
        }
        for place in downloading {
            self.ask(&mut peers[*place as usize], replicas);
        }
        for sender in &mut self.all {
            sender.part = part(sender.capacity, sender.asked);
        }
        for place in downloading {
            self.ask_more(&mut peers[*place as usize]);
        }
        for sender in &mut self.all {
            sender.more_part = part(sender.left(), sender.more);
        }
    }

    fn ask(&mut self, peer: &mut Peer, replicas: &[Replica]) {
        let mut worth = 0.0;
        for connection in &mut peer.connections {
            connection.limit_kbps = self.limit_kbps(connection, peer.got, replicas);
            let sender = &mut self.all[connection.sender as usize];
            connection.asked_kbps = 0.0;
            if connection.limit_kbps > 0.0 {
                sender.counted += 1;
                connection.asked_kbps = sender.each(sender.capacity, connection.near);
                worth += connection.asked_kbps;
            }
        }
        if worth <= 0.0 {
            return;
        }
        let line = f64::from(peer.downlink_kbps);
        for connection in &mut peer.connections {
            let wanted = line * connection.asked_kbps / worth;
            connection.asked_kbps = wanted.min(connection.limit_kbps);
            self.all[connection.sender as usize].asked += connection.asked_kbps;
        }
    }

    fn ask_more(&mut self, peer: &mut Peer) {
        let given =
            |connection: &Connection| connection.asked_kbps * self.all[connection.sender as usize].part;
        let line = f64::from(peer.downlink_kbps);
        let missing = line - peer.connections.iter().map(given).sum::<f64>();
        let mut worth = 0.0;
        for connection in &mut peer.connections {
            connection.more_kbps = 0.0;
            if missing > line * SLACK && connection.limit_kbps > connection.asked_kbps {
                let sender = &self.all[connection.sender as usize];
                connection.more_kbps = sender.each(sender.left(), connection.near);
                worth += connection.more_kbps;
            }
        }
        if worth <= 0.0 {
            return;
        }
        for connection in &mut peer.connections {
            let wanted = missing * connection.more_kbps / worth;
            connection.more_kbps = wanted.min(connection.limit_kbps - connection.asked_kbps);
            self.all[connection.sender as usize].more += connection.more_kbps;
        }
    }

    /// What can come over a connection to somebody who has `got` so many bytes.
    fn limit_kbps(&self, connection: &Connection, got: u64, replicas: &[Replica]) -> f64 {
        if self.link(connection).is_some() {
            let replica = &replicas[connection.of as usize];
            let ahead = replica.is_complete() || replica.bytes > got;
            return if ahead { f64::INFINITY } else { replica.rate_kbps };
        }
        let sender = &self.all[connection.sender as usize];
        match sender.has {
            0 => 0.0,
            _ if sender.number != connection.of => 0.0,
            has if has > got => f64::INFINITY,
            _ => sender.intake_kbps,
        }
    }
}

/// The part of what is asked for that can be given.
fn part(capacity: f64, asked: f64) -> f64 {
    if asked > capacity { capacity / asked } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn peer(number: u32, downlink_kbps: u32, got: u64, connections: Vec<Connection>) -> Peer {
        let new = Peer::new(number, 0, 0, 0, &mut Rng::with_seed(1));
        Peer { downlink_kbps, got, length: 1000, connections, ..new }
    }

    fn replica(bytes: u64, rate_kbps: f64) -> Replica {
        Replica::of(1000, bytes, rate_kbps)
    }

    fn to(sender: u32, of: u32) -> Connection {
        Connection::new(sender, of, true)
    }

    /// What each gets when all has settled.
    fn rates(senders: &mut Senders, peers: &mut [Peer], replicas: &[Replica]) -> Vec<i64> {
        let all: Vec<u32> = (0..peers.len() as u32).collect();
        for _ in 0..5 {
            senders.share(peers, &all, replicas);
        }
        for sender in &senders.all {
            let given = sender.asked * sender.part + sender.more * sender.more_part;
            assert!(given <= sender.capacity * 1.000_001, "{sender:?}");
        }
        let rate = |peer: &Peer| {
            let rate: f64 = peer.connections.iter().map(|connection| senders.rate_kbps(connection)).sum();
            assert!(rate <= f64::from(peer.downlink_kbps) * 1.000_001);
            rate.round() as i64
        };
        peers.iter().map(rate).collect()
    }

    #[test]
    fn a_link_is_shared_and_what_one_cannot_take_goes_to_others() {
        let whole = [replica(1000, 0.0)];
        let mut senders = Senders::new([1000]);
        let mut peers = [peer(0, 800, 0, vec![to(0, 0)]), peer(1, 800, 0, vec![to(0, 0)])];
        assert_eq!(rates(&mut senders, &mut peers, &whole), [500, 500]);
        let mut peers = [peer(0, 300, 0, vec![to(0, 0)]), peer(1, 500, 0, vec![to(0, 0)])];
        assert_eq!(rates(&mut senders, &mut peers, &whole), [300, 500]);
        // The second link has nobody but the second peer, which then leaves the first one to the first.
        let mut senders = Senders::new([1000, 1000]);
        let mut peers = [peer(0, 1000, 0, vec![to(0, 0)]), peer(1, 1000, 0, vec![to(0, 0), to(1, 0)])];
        let shared = rates(&mut senders, &mut peers, &whole);
        assert!(shared[0] > 700 && shared[1] > 950, "{shared:?}");
    }

    #[test]
    fn what_is_not_there_yet_comes_as_it_is_pulled() {
        let replicas = [replica(400, 50.0), replica(0, 0.0)];
        let mut senders = Senders::new([1000, 1000]);
        let mut peers = [
            peer(0, 100, 400, vec![to(0, 0)]),
            peer(1, 100, 399, vec![to(0, 0)]),
            peer(2, 100, 0, vec![to(1, 1)]),
        ];
        assert_eq!(rates(&mut senders, &mut peers, &replicas), [50, 100, 0]);
    }

    #[test]
    fn peers_pass_on_what_they_have() {
        let mut senders = Senders::new([]);
        for (number, uplink) in [(0, 0), (1, 200), (2, 200), (3, 200)] {
            senders.enter(number, uplink, number);
        }
        let connections =
            || vec![to(senders.of_peer(1), 1), to(senders.of_peer(2), 2), to(senders.of_peer(3), 3)];
        let mut peers = [peer(0, 1000, 500, connections())];
        // The first has more; the second no more, and passes on what comes in; the third has nothing.
        (senders.peer(1).has, senders.peer(2).has) = (ALL, 500);
        senders.peer(2).intake_kbps = 30.0;
        assert_eq!(rates(&mut senders, &mut peers, &[]), [230]);
        assert!(peers[0].connections.iter().all(|connection| senders.lives(connection)));
        // Somebody else has taken the place of the first.
        senders.enter(1, 200, 9);
        senders.peer(1).has = ALL;
        assert_eq!(rates(&mut senders, &mut peers, &[]), [30]);
        assert!(!senders.lives(&peers[0].connections[0]));
    }

    #[test]
    fn the_near_ones_carry_more() {
        let whole = [replica(1000, 0.0)];
        let mut senders = Senders::new([1000, 1000]);
        let far = Connection { near: false, ..to(1, 0) };
        let mut peers = [peer(0, 500, 0, vec![to(0, 0), far])];
        assert_eq!(rates(&mut senders, &mut peers, &whole), [500]);
        let parts = peers[0].connections.iter().map(|connection| senders.rate_kbps(connection).round());
        assert_eq!(parts.collect::<Vec<_>>(), [400.0, 100.0]);
    }
}

//! Local service discovery (BEP 14): what is held is announced to the neighbours, and theirs is heard.
//!
//! Every interface has a socket of its own for IPv4 and for IPv6; interfaces may come and go. On all of them
//! goes the same message, of as many torrents as fit, at most once in a minute; with few torrents every five
//! minutes, with many they take turns. When somebody new looks for a torrent that is held, that one goes
//! into the next message, so that nobody waits for a whole round.

mod interface;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skerry_wire::lsd::{Announce, GROUP_V4, GROUP_V6, MOST_HASHES, MOST_READ, announce};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::limit::Limit;
use crate::metrics::{By, Metrics};
use crate::peers::{Heard, Own, Peers};
use crate::role::at;
use crate::schedule::Schedule;
use crate::torrents::Listed;
use interface::Interface;

/// How often a torrent is announced (BEP 14).
const ROUND: Duration = Duration::from_secs(300);
/// From one message to the next, at least (BEP 14).
const GAP: Duration = Duration::from_secs(60);
/// How often it is looked for interfaces that have come or gone.
const LOOK: Duration = Duration::from_secs(15);
/// Messages that are read in a second, on one interface.
const MOST_MESSAGES: u32 = 200;
/// Torrents that somebody looks for, until they are looked at.
const ASKED: usize = 256;
/// After an interface fails to read.
const PAUSE: Duration = Duration::from_secs(1);

/// The neighbours.
pub(crate) struct Lsd {
    named: Vec<String>,
    /// Ports that peers are told of, in IPv4 and IPv6.
    ports: [Option<u16>; 2],
    /// Tells this node's own messages.
    cookie: String,
    peers: Arc<Peers>,
    metrics: Metrics,
    open: Mutex<BTreeSet<String>>,
}

/// A socket and the task that reads it.
struct Open {
    socket: Arc<UdpSocket>,
    _reading: JoinSet<()>,
}

/// By interface, and whether it is for IPv6.
type Sockets = HashMap<(Interface, bool), Open>;

impl Lsd {
    /// Nothing is sent or heard yet. No interface named means all of them.
    pub(crate) fn new(named: Vec<String>, own: &Own, peers: Arc<Peers>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            named,
            ports: [own.port(false, false), own.port(true, false)],
            cookie: format!("{:08x}", fastrand::u32(..)),
            peers,
            metrics,
            open: Mutex::default(),
        })
    }

    /// Names of the interfaces that are listened on.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        self.open.lock().iter().cloned().collect()
    }

    /// Announces and hears for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, mut listed: watch::Receiver<Listed>) {
        let mut schedule = Schedule::new(ROUND, GAP, MOST_HASHES);
        let mut sockets = Sockets::new();
        let (ask, mut asked) = mpsc::channel(ASKED);
        let mut looks = tokio::time::interval(LOOK);
        listed.mark_changed();
        loop {
            let can_send = !sockets.is_empty() && self.ports.iter().any(Option::is_some);
            let due = schedule.due(Instant::now().into_std()).filter(|_| can_send).map(|due| (due, ()));
            tokio::select! {
                _ = looks.tick() => self.look(&mut sockets, &ask),
                changed = listed.changed() => match changed {
                    Ok(()) => {
                        let held = listed.borrow_and_update().clone();
                        schedule.set(&held);
                    }
                    Err(_) => return,
                },
                Some(info_hash) = asked.recv() => {
                    schedule.prompt(&info_hash);
                }
                () = at(due) => {
                    let batch = schedule.take(Instant::now().into_std());
                    self.send(&sockets, &batch).await;
                }
            }
        }
    }

    /// Opens sockets on interfaces that have come, and closes those of interfaces that have gone.
    fn look(self: &Arc<Self>, sockets: &mut Sockets, ask: &mpsc::Sender<[u8; 20]>) {
        // A handful of reads from memory: sysfs does not wait for a disk.
        let found = interface::interfaces(&self.named);
        sockets.retain(|(interface, _), _| found.contains(interface));
        for interface in &found {
            let mut failed = None;
            for v6 in [false, true] {
                let key = (interface.clone(), v6);
                if sockets.contains_key(&key) {
                    continue;
                }
                match interface::open(interface, v6) {
                    Ok(socket) => {
                        let socket = Arc::new(socket);
                        let mut reading = JoinSet::new();
                        reading.spawn(self.clone().read(socket.clone(), ask.clone()));
                        sockets.insert(key, Open { socket, _reading: reading });
                    }
                    Err(error) => failed = Some(error),
                }
            }
            let has_any = [false, true].iter().any(|v6| sockets.contains_key(&(interface.clone(), *v6)));
            // An interface with addresses of one family alone is as it should be.
            if let Some(error) = failed.filter(|_| !has_any) {
                self.metrics.error(By::Lsd, "socket");
                log::debug!(interface:% = interface.name; "cannot be used for local discovery: {error}");
            }
        }
        let names: BTreeSet<String> = sockets.keys().map(|(interface, _)| interface.name.clone()).collect();
        let mut open = self.open.lock();
        if *open != names {
            let list = names.iter().cloned().collect::<Vec<_>>().join(" ");
            log::info!(interfaces:% = list; "local discovery");
            *open = names;
        }
    }

    /// Announces info-hashes on all sockets.
    async fn send(&self, sockets: &Sockets, info_hashes: &[[u8; 20]]) {
        let mut is_sent = false;
        for ((interface, v6), open) in sockets {
            let Some(port) = self.ports[usize::from(*v6)] else { continue };
            let group: SocketAddr = if *v6 { GROUP_V6.into() } else { GROUP_V4.into() };
            let message = announce(group, port, &self.cookie, info_hashes);
            match open.socket.send_to(&message, group).await {
                Ok(_) => is_sent = true,
                Err(error) => {
                    self.metrics.error(By::Lsd, "send");
                    log::debug!(interface:% = interface.name; "cannot announce to {group}: {error}");
                }
            }
        }
        if is_sent {
            self.metrics.announced(By::Lsd, info_hashes.len());
        }
    }

    /// Hears what comes to a socket.
    async fn read(self: Arc<Self>, socket: Arc<UdpSocket>, ask: mpsc::Sender<[u8; 20]>) {
        let limit = Limit::new(MOST_MESSAGES);
        // One byte more than is taken, to see what is longer.
        let mut buffer = [0; MOST_READ + 1];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) if limit.allows(from.ip(), Instant::now().into_std()) => {
                    self.hear(&buffer[..length], from, &ask);
                }
                Ok(_) => self.metrics.error(By::Lsd, "flood"),
                Err(error) => {
                    self.metrics.error(By::Lsd, "socket");
                    log::debug!("cannot hear the neighbours: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes a message. Its sender takes peers at the address that it came from (BEP 14).
    fn hear(&self, message: &[u8], from: SocketAddr, ask: &mpsc::Sender<[u8; 20]>) {
        let announce = match Announce::parse(message) {
            Ok(announce) => announce,
            Err(malformed) => {
                self.metrics.error(By::Lsd, "malformed");
                return log::debug!(from:% = from; "a message of local discovery is passed over: {malformed}");
            }
        };
        if announce.cookie == Some(self.cookie.as_bytes()) {
            return;
        }
        let mut address = from;
        address.set_port(announce.port);
        for info_hash in announce.info_hashes {
            let heard = self.peers.hear(info_hash, address, By::Lsd, Instant::now().into_std());
            self.metrics.address(By::Lsd, heard != Heard::Refused);
            if heard == Heard::New {
                // When there is no room for it, others are asked for already; the round goes on anyway.
                let _ = ask.try_send(info_hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn lsd(listening: &[&str]) -> Arc<Lsd> {
        let listening = listening.iter().map(|text| text.parse().unwrap()).collect();
        let own = Own { listening, loopback: false };
        let metrics = Metrics::new(&Registry::new()).unwrap();
        Lsd::new(Vec::new(), &own, Arc::new(Peers::new(own.clone())), metrics)
    }

    fn told(lsd: &Lsd, message: &[u8], from: &str) -> Vec<[u8; 20]> {
        let (ask, mut asked) = mpsc::channel(ASKED);
        lsd.hear(message, from.parse().unwrap(), &ask);
        std::iter::from_fn(|| asked.try_recv().ok()).collect()
    }

    #[test]
    fn a_neighbour_is_heard_where_it_takes_peers() {
        let lsd = lsd(&["0.0.0.0:6881"]);
        let (film, song) = ([1; 20], [2; 20]);
        let message = announce(GROUP_V4.into(), 7000, "theirs", &[film, song]);
        assert_eq!(told(&lsd, &message, "192.0.2.7:6771"), [film, song]);
        assert!(told(&lsd, &message, "192.0.2.7:6771").is_empty(), "it is known already");
        let now = Instant::now().into_std();
        let expected: SocketAddr = "192.0.2.7:7000".parse().unwrap();
        assert_eq!(lsd.peers.of(&song, now), [expected]);
        let v6 = announce(GROUP_V6.into(), 7000, "theirs", &[film]);
        assert_eq!(told(&lsd, &v6, "[fe80::7%2]:6771"), [film]);
        assert!(lsd.peers.of(&film, now).contains(&"[fe80::7%2]:7000".parse().unwrap()));
        assert_eq!((lsd.metrics.addresses(By::Lsd), lsd.metrics.errors(By::Lsd)), (5, 0));
    }

    #[test]
    fn the_nodes_own_messages_and_nonsense_are_passed_over() {
        let lsd = lsd(&["0.0.0.0:6881"]);
        let own = announce(GROUP_V4.into(), 6881, &lsd.cookie, &[[1; 20]]);
        assert!(told(&lsd, &own, "192.0.2.1:6771").is_empty());
        assert!(told(&lsd, b"M-SEARCH * HTTP/1.1\r\n\r\n", "192.0.2.1:1900").is_empty());
        assert_eq!(lsd.peers.sweep(Instant::now().into_std()), (0, 0));
        assert_eq!((lsd.metrics.addresses(By::Lsd), lsd.metrics.errors(By::Lsd)), (0, 1));
    }

    #[test]
    fn only_ports_that_neighbours_reach_are_told_of() {
        assert_eq!(lsd(&["127.0.0.1:6881", "[::]:7000"]).ports, [None, Some(7000)]);
        assert_eq!(lsd(&[]).ports, [None, None]);
    }
}

//! The tracker over UDP (BEP 15, 41): packets in, packets out.
//!
//! A client first asks for a connection id and sends it with everything else, which proves that it gets
//! packets at the address that it sends from; nobody gets more than they sent before they have proved
//! that. An answer has at most 1400 bytes, so that it arrives in one piece. Options of an announce
//! (BEP 41) are passed over: every path and query leads to the same tracker.

mod batch;
mod connection;
mod socket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use skerry_wire::tracker::{compact, udp};

pub use connection::ConnectionIds;
pub use socket::{bind_udp, serve};

use crate::metrics::{Cause, Count, Transport};
use crate::tracker::{Asked, Tracker, Worker};

/// Longest answer, bytes: what fits a packet on nearly every way, tunnels included.
const MOST_ANSWER: usize = 1400;
const ROOM_V4: usize = (MOST_ANSWER - udp::ANNOUNCE_HEAD) / compact::V4;
const ROOM_V6: usize = (MOST_ANSWER - udp::ANNOUNCE_HEAD) / compact::V6;

/// Answers packets; one for each thread.
pub struct Server {
    tracker: Arc<Tracker>,
    connections: Arc<ConnectionIds>,
    worker: Worker,
}

impl Server {
    /// A server whose connection ids are good at every other that shares `connections`.
    pub fn new(tracker: Arc<Tracker>, connections: Arc<ConnectionIds>) -> Self {
        let worker = tracker.worker(None);
        Self { tracker, connections, worker }
    }

    /// Answers a packet, at a time since the tracker's start. False, and nothing in `out`, when it has no
    /// answer.
    pub fn answer(&mut self, packet: &[u8], from: SocketAddr, now: Duration, out: &mut Vec<u8>) -> bool {
        out.clear();
        let source = from.ip().to_canonical();
        let request = match udp::Request::parse(packet) {
            // Nobody sends from port 0, and nothing can be sent there.
            Ok(request) if from.port() != 0 => request,
            _ => return self.silent(Cause::Malformed),
        };
        match request {
            udp::Request::Connect { transaction } => {
                self.worker.count(Count::Connect);
                udp::write_connect(out, transaction, self.connections.issue(source, now));
                true
            }
            udp::Request::Announce { connection, .. } | udp::Request::Scrape { connection, .. }
                if !self.connections.accepts(connection, source, now) =>
            {
                self.silent(Cause::Connection)
            }
            udp::Request::Announce { transaction, announce, .. } => {
                self.announce(transaction, &announce, source, now, out);
                true
            }
            udp::Request::Scrape { transaction, hashes, .. } => {
                let swarms = hashes.iter().map(|hash| {
                    self.worker.count(Count::Scrape(Transport::Udp));
                    self.tracker.scrape(hash)
                });
                udp::write_scrape(out, transaction, swarms);
                true
            }
        }
    }

    fn announce(
        &mut self,
        transaction: u32,
        announce: &udp::Announce<'_>,
        source: IpAddr,
        now: Duration,
        out: &mut Vec<u8>,
    ) {
        let v6 = source.is_ipv6();
        // The field for an address has room for IPv4 alone, and so have the peers of such an answer.
        let named = Some(announce.address).filter(|address| !v6 && !address.is_unspecified());
        let asked = Asked {
            info_hash: announce.info_hash,
            peer_id: announce.peer_id,
            key: announce.key,
            source,
            named: named.map(IpAddr::V4),
            port: announce.port,
            event: announce.event,
            left: Some(announce.left),
            downloaded: announce.downloaded,
            wanted: announce.wanted,
            room: if v6 { ROOM_V6 } else { ROOM_V4 },
            both: false,
            transport: Transport::Udp,
        };
        match self.tracker.announce(&asked, now, &mut self.worker) {
            Ok(counts) => {
                let interval = self.tracker.config().interval_seconds;
                udp::write_announce(out, transaction, interval, &counts);
                out.extend_from_slice(if v6 { &self.worker.peers6 } else { &self.worker.peers });
            }
            Err(refusal) => udp::write_error(out, transaction, &refusal.to_string()),
        }
    }

    fn silent(&self, cause: Cause) -> bool {
        self.worker.count(Count::Error(Transport::Udp, cause));
        false
    }

    /// An answer could not be sent.
    fn unsent(&self) {
        self.worker.count(Count::Unsent);
    }
}

#[cfg(test)]
mod tests;

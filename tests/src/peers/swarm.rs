//! A tracker that knows from the start who there is, for scenarios in which the node's own tracker
//! has no part: aria2 and Transmission take no peer's address on their command lines.

use std::net::{IpAddr, SocketAddr};

use crate::origin::{Origin, RawRequest};
use crate::reply::Reply;

/// The tracker. It stops when it is dropped.
pub struct Swarm {
    origin: Origin,
}

impl Swarm {
    /// A tracker that answers every announce, of whatever torrent, with these peers.
    pub fn of(peers: &[SocketAddr]) -> Self {
        let origin = Origin::start();
        let answer = answer(peers);
        origin.serve("/announce", move |_| Reply::ok(answer.clone()));
        Self { origin }
    }

    /// What a torrent names it by.
    pub fn url(&self) -> String {
        format!("{}/announce", self.origin.url())
    }

    /// Every announce so far, in the order of arrival.
    pub fn announces(&self) -> Vec<Announce> {
        self.origin.requests_for("/announce").iter().map(Announce::of).collect()
    }
}

/// What a client told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// `started`, `completed` or `stopped`; empty between them.
    pub event: String,
    /// The content bytes that it says it has sent.
    pub uploaded: u64,
    /// The content bytes that it says it has received.
    pub downloaded: u64,
}

impl Announce {
    fn of(request: &RawRequest) -> Self {
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let value = |name: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)
        };
        let number = |name: &str| value(name).and_then(|(_, digits)| digits.parse().ok()).unwrap_or(0);
        Self {
            event: value("event").map(|(_, event)| event.to_owned()).unwrap_or_default(),
            uploaded: number("uploaded"),
            downloaded: number("downloaded"),
        }
    }
}

/// An answer to an announce with compact peers of both families (BEP 7 and 23).
fn answer(peers: &[SocketAddr]) -> Vec<u8> {
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for peer in peers {
        let (list, address) = match peer.ip() {
            IpAddr::V4(ip) => (&mut four, ip.octets().to_vec()),
            IpAddr::V6(ip) => (&mut six, ip.octets().to_vec()),
        };
        list.extend(address);
        list.extend(peer.port().to_be_bytes());
    }
    let mut answer = format!("d8:completei{}e10:incompletei0e8:intervali1800e", peers.len()).into_bytes();
    for (key, list) in [("5:peers", four), ("6:peers6", six)] {
        answer.extend(format!("{key}{}:", list.len()).into_bytes());
        answer.extend(list);
    }
    answer.push(b'e');
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw;

    #[test]
    fn both_families_are_answered_and_what_was_announced_is_known() {
        let peers: [SocketAddr; 2] =
            ["127.0.0.1:258", "[::1]:772"].map(|peer| peer.parse().expect("an address"));
        let swarm = Swarm::of(&peers);
        let target = "/announce?info_hash=%00&uploaded=5&downloaded=7&left=0&event=stopped";
        let url = swarm.url();
        let address = url["http://".len()..].trim_end_matches("/announce").parse().expect("an address");
        let got = raw::fetch(address, "GET", target, &[], b"").expect("an answer");
        let mut expected = b"d8:completei2e10:incompletei0e8:intervali1800e5:peers6:".to_vec();
        expected.extend([127, 0, 0, 1, 1, 2]);
        expected.extend(b"6:peers618:");
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 4]);
        expected.push(b'e');
        assert_eq!(got.body, expected);
        let announce = Announce { event: "stopped".to_owned(), uploaded: 5, downloaded: 7 };
        assert_eq!(swarm.announces(), [announce]);
    }
}

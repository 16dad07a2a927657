//! What a peer asks, and whom it connects to.

use std::net::SocketAddr;

use skerry_tracker::metrics::Transport;
use skerry_tracker::tracker::Asked;
use skerry_wire::tracker::Event;

use super::{Engine, START_MS};
use crate::simulation::map::{self, Named};
use crate::simulation::nodes::LINKS;
use crate::simulation::peers::{Client, Connection};

/// Nodes that a fetcher takes of a route, when they hold what it wants.
const ROUTED: usize = 2;
/// Nodes and peers that one is connected to, at most.
const MOST_NODES: usize = 6;
const MOST_PEERS: usize = 30;
/// Peers that an answer over UDP has room for (BEP 15).
const ROOM: usize = 230;
/// Who holds all of it, permille.
const WHOLE: u32 = 1000;

/// A node, by its place, and one of its links.
type Link = (usize, usize);

impl Engine<'_> {
    /// A peer asks the tracker, the selector or both, as its client does, and connects to whom they name.
    pub(super) fn ask(&mut self, place: u32, event: Event) {
        let peer = self.peers.at(place);
        let (client, region, operator, resource) = (peer.client, peer.region, peer.operator, peer.resource);
        let starves = event == Event::None && peer.rate_kbps <= 0.0;
        let mut connections = std::mem::take(&mut peer.connections);
        connections.retain(|connection| self.senders.lives(connection));
        let told = if client == Client::Browser { Vec::new() } else { self.announce(place, event) };
        let mut links: Vec<Link> = Vec::new();
        for endpoint in told {
            match map::named(endpoint) {
                // One that holds it no more closes the connection before any data.
                Some(Named::Node(node)) if self.nodes.holds(node, resource) => {
                    links.push((node, self.nodes.all[node].link_for(region, operator)));
                }
                Some(Named::Peer(number)) => connections.extend(self.to_peer(&connections, number, region)),
                _ => {}
            }
        }
        // What nobody gives who could be named comes from a web seed.
        if client != Client::Torrent || starves || (links.is_empty() && connections.is_empty()) {
            let (routed, named) = (self.routed(place), !links.is_empty());
            // With others at hand, nobody makes a node pull it.
            let taken = |(node, _): &Link| !named || self.nodes.holds(*node, resource);
            links.extend(routed.into_iter().filter(taken));
        }
        self.connect(&mut connections, links, resource, region);
        self.peers.at(place).connections = connections;
    }

    /// Announces a peer; whom it is told of.
    pub(super) fn announce(&mut self, place: u32, event: Event) -> Vec<SocketAddr> {
        let now_ms = self.now_ms;
        let peer = self.peers.at(place);
        peer.announced_ms = now_ms;
        let looks = matches!(event, Event::Started | Event::None);
        let asked = Asked {
            info_hash: self.catalogue.get(peer.resource).info_hash,
            peer_id: [0; 20],
            key: peer.number + 1,
            source: map::client(peer.region, peer.operator, peer.number).into(),
            named: None,
            port: map::port(),
            event,
            left: Some(peer.length - peer.got),
            downloaded: peer.got,
            wanted: if looks { None } else { Some(0) },
            room: ROOM,
            both: false,
            transport: Transport::Udp,
        };
        self.control.announce(&asked)
    }

    /// A connection to a peer that is there, sends something, and is not connected to yet.
    fn to_peer(&self, connections: &[Connection], number: u32, region: u8) -> Option<Connection> {
        let place = self.peers.place(number)?;
        let other = &self.peers.all[place as usize];
        let sender = self.senders.of_peer(place);
        let known = connections.iter().any(|connection| connection.sender == sender);
        let peers = connections.iter().filter(|connection| self.senders.link(connection).is_none()).count();
        let takes = other.uplink_kbps > 0 && !known && peers < MOST_PEERS;
        takes.then(|| Connection::new(sender, number, other.region == region))
    }

    /// The links that a peer takes of its route: the first ones that hold what it wants, for a client that
    /// can choose; else the first.
    fn routed(&mut self, place: u32) -> Vec<Link> {
        let peer = self.peers.at(place);
        let address = map::client(peer.region, peer.operator, peer.number);
        let (client, wanted) = (peer.client, self.catalogue.get(peer.resource));
        let route = self.control.route(address, wanted, self.random.u64(..));
        let link = |node: &skerry_registry::Node, link: usize| -> Option<Link> {
            let endpoint = node.peers.as_ref()?.addresses.first()?;
            match map::named(*endpoint)? {
                Named::Node(place) => Some((place, link)),
                Named::Peer(_) => None,
            }
        };
        let whole = route.nodes.iter().filter(|routed| routed.held >= WHOLE && client != Client::Browser);
        let mut links: Vec<Link> =
            whole.filter_map(|routed| link(&routed.node, routed.link)).take(ROUTED).collect();
        if links.is_empty() {
            links.extend(route.nodes.first().and_then(|routed| link(&routed.node, routed.link)));
        }
        links
    }

    /// Connects to links. Who waits for a node that pulls what it wants stays with it, and takes no other one
    /// that would have to pull it too; nodes that hold all of it and are not named again give way.
    fn connect(
        &mut self,
        connections: &mut Vec<Connection>,
        mut links: Vec<Link>,
        resource: u32,
        region: u8,
    ) {
        let now_ms = START_MS + self.now_ms;
        let (nodes, senders) = (&mut self.nodes, &self.senders);
        let pulls = |nodes: &super::Nodes, connection: &Connection| {
            senders.link(connection).is_some() && !nodes.replicas[connection.of as usize].is_complete()
        };
        if connections.iter().any(|connection| pulls(nodes, connection)) {
            links.retain(|(node, _)| nodes.holds(*node, resource));
        }
        if !links.is_empty() {
            connections.retain(|connection| {
                let Some(link) = senders.link(connection) else { return true };
                let named = links.iter().any(|(node, _)| *node == link / LINKS);
                let stays = named || pulls(nodes, connection);
                if !stays {
                    nodes.close(connection.of, now_ms);
                }
                stays
            });
        }
        for (node, link) in links {
            let of = |connection: &Connection| senders.link(connection).map(|link| link / LINKS);
            let known = connections.iter().any(|connection| of(connection) == Some(node));
            let count = connections.iter().filter(|connection| of(connection).is_some()).count();
            if !known && count < MOST_NODES {
                let replica = nodes.open(node, resource, &self.catalogue, now_ms);
                let near = nodes.all[node].region == region;
                connections.push(Connection::new((node * LINKS + link) as u32, replica, near));
            }
        }
    }
}

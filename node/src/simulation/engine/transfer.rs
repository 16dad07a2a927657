//! What is sent in one step.

use super::{Engine, LINKS, Nodes, STEP_MS, Senders, Source, Tally};
use crate::simulation::peers::Connection;

impl Engine<'_> {
    /// Shares out links and lines for one step, and sends. Tells who has everything then, and since when.
    pub(super) fn transfer(&mut self) -> Vec<(u32, u64)> {
        let Self { peers, senders, nodes, tally, now_ms, .. } = self;
        senders.share(&mut peers.all, &peers.downloading, &nodes.replicas);
        let mut done = Vec::new();
        for place in &peers.downloading {
            let peer = &mut peers.all[*place as usize];
            let rates = peer.connections.iter().map(|connection| senders.rate_kbps(connection));
            peer.rate_kbps = rates.sum();
            let missing = peer.length - peer.got;
            let possible = bytes(peer.rate_kbps);
            // The part of the step that it takes until all is there.
            let part = if possible > missing as f64 { missing as f64 / possible } else { 1.0 };
            let (mut left, mut most) = (missing, None);
            for connection in &peer.connections {
                let rate_kbps = senders.rate_kbps(connection);
                let sent = ((bytes(rate_kbps) * part) as u64).min(left);
                left -= sent;
                send(connection, sent, senders, nodes, tally, *now_ms);
                if most.is_none_or(|(other, _)| rate_kbps > other) {
                    most = Some((rate_kbps, connection));
                }
            }
            // What was lost to rounding.
            if let Some((_, connection)) = most.filter(|_| possible >= missing as f64) {
                send(connection, left, senders, nodes, tally, *now_ms);
                left = 0;
            }
            peer.got = peer.length - left;
            let sender = senders.peer(*place);
            (sender.has, sender.intake_kbps) = (peer.got, peer.rate_kbps);
            if left == 0 {
                done.push((*place, *now_ms + (STEP_MS as f64 * part) as u64));
            }
        }
        let all = &peers.all;
        peers.downloading.retain(|place| {
            let peer = &all[*place as usize];
            peer.got < peer.length
        });
        done
    }
}

/// Bytes of a step at a rate.
fn bytes(kbps: f64) -> f64 {
    kbps * STEP_MS as f64 / 8.0
}

fn send(
    connection: &Connection,
    bytes: u64,
    senders: &Senders,
    nodes: &mut Nodes,
    tally: &mut Tally,
    now_ms: u64,
) {
    let source = match senders.link(connection) {
        None => Source::Peer,
        Some(_) if !connection.near => Source::Far,
        Some(_) => Source::Near,
    };
    if let Some(link) = senders.link(connection) {
        nodes.all[link / LINKS].send(link % LINKS, bytes, now_ms);
    }
    tally.add(source, bytes);
}

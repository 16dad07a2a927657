//! Packets with hostile bytes, and whether a node is there after them.

use anyhow::{Context, Result};
use fastrand::Rng;
use serde::Serialize;
use skerry_tests::node::Node;

use crate::instruments::process::check;
use crate::udp::{ANNOUNCE, Client, announce};

/// How many.
pub(crate) const PACKETS: usize = 100_000;

/// Packets that are sent at once: few enough to fit a socket's buffer, so that none is lost.
const BURST: usize = 25;

/// The longest packet, bytes: more than a tracker has a reason to read.
const LONGEST: usize = 2100;

/// What came of them.
#[derive(Serialize)]
pub(crate) struct Hostile {
    /// Packets after which the node still answered.
    pub(crate) taken: usize,
    /// Packets that it counted as refused, or did not answer.
    pub(crate) refused: f64,
}

/// Sends them; an answer to something good behind each burst tells that the node has read it.
pub(crate) fn send(node: &Node) -> Result<Hostile> {
    let mut client = Client::of(node.tracker()[0])?;
    let mut connection = client.connect()?.context("the node gives out no connection id")?;
    let mut random = Rng::with_seed(7);
    let mut taken = 0;
    while taken < PACKETS {
        check()?;
        for _ in 0..BURST {
            client.send(&packet(&mut random, connection))?;
        }
        // The second time in case one was lost after all.
        let id = match client.connect()? {
            None => client.connect()?,
            id => id,
        };
        let Some(id) = id else { break };
        (connection, taken) = (id, taken + BURST);
    }
    let good = taken >= PACKETS && client.announce(connection, &[7; 20])?;
    let ready = node.try_admin("GET", "/readyz", b"").is_ok_and(|answer| answer.status == 200);
    if !(good && ready) {
        return Ok(Hostile { taken: taken.min(PACKETS - 1), refused: 0.0 });
    }
    Ok(Hostile { taken, refused: node.metric("skerry_tracker_errors_total", &[("transport", "udp")]) })
}

/// A packet of one of six kinds, most of them past the check of the connection id.
fn packet(random: &mut Rng, connection: u64) -> Vec<u8> {
    let mut info_hash = [0; 20];
    // Few torrents, so that peers meet.
    info_hash[0] = random.u8(..8);
    let mut packet = announce(connection, random.u32(..0xf000_0000), &info_hash).to_vec();
    match random.u8(..6) {
        0 => {
            packet = vec![0; random.usize(..LONGEST)];
            random.fill(&mut packet);
        }
        1 => packet.truncate(random.usize(..ANNOUNCE)),
        2 => {
            for _ in 0..random.usize(1..=8) {
                packet[random.usize(8..ANNOUNCE)] = random.u8(..);
            }
        }
        // Fields as large and as small as they can be.
        3 => {
            for field in packet[36..].chunks_mut(4) {
                field.fill([0, 0x7f, 0x80, 0xff][random.usize(..4)]);
            }
        }
        // Options (BEP 41), most of them cut or wrong.
        4 => {
            let begin = packet.len();
            packet.resize(begin + random.usize(..LONGEST - begin), 0);
            random.fill(&mut packet[begin..]);
            packet[begin..].iter_mut().step_by(7).for_each(|byte| *byte %= 3);
        }
        // A scrape of any length.
        _ => {
            packet[11] = 2;
            packet.resize(16 + random.usize(..LONGEST - 16), 0);
        }
    }
    packet
}

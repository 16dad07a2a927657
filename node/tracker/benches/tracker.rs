//! What an announce costs: packets answered in a second by one core, without sockets, with and without
//! super-peers to choose from; and what a peer costs in memory. Prints a table, and JSON to
//! `bench/tracker.json` in cargo's target folder.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use prometheus::Registry;
use serde_json::json;
use skerry_tracker::udp::{ConnectionIds, Server};
use skerry_tracker::{Held, NoSuperPeers, Parts, Region, SuperPeer, SuperPeers, Tracker, TrackerConfig};
use skerry_wire::tracker::Event;
use skerry_wire::tracker::udp::{Announce, Request, Response};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TORRENTS: u64 = 100_000;
const PEERS: usize = 400_000;
const ROUNDS: usize = 2_000_000;
/// Rounds with a verdict, which takes longer.
const VERDICTS: usize = 200_000;
const NOW: Duration = Duration::from_secs(60);

/// Eight nodes hold every resource, and every client is in one of four regions.
struct Fleet(Arc<Held>);

impl Fleet {
    fn new() -> Self {
        let node = |number: u8| SuperPeer {
            address: SocketAddr::from(([203, 0, 113, number], 6881)),
            place: Region { region: 1 + u32::from(number) % 4, isp: 0 },
            used_kbps: 100_000 * u32::from(number),
            capacity_kbps: 1_000_000,
            health: 1000,
            held: 1000,
        };
        Self(Arc::new(Held { length: 1 << 30, rows: (0..8).map(node).collect() }))
    }
}

impl SuperPeers for Fleet {
    fn of(&self, _: &[u8; 20], v6: bool) -> Option<Arc<Held>> {
        (!v6).then(|| self.0.clone())
    }

    fn region(&self, client: IpAddr) -> Region {
        match client {
            IpAddr::V4(client) => Region { region: 1 + u32::from(client.octets()[3]) % 4, isp: 0 },
            IpAddr::V6(_) => Region::default(),
        }
    }

    fn more_copies(&self, _: &[u8; 20], _: u32) {}
}

/// A client in a swarm: few swarms are large, and most have a peer or two.
struct Client {
    from: SocketAddr,
    packet: Vec<u8>,
}

fn clients(server: &mut Server) -> Result<Vec<Client>> {
    let mut random = Rng::with_seed(1);
    let mut out = Vec::new();
    let mut clients = Vec::with_capacity(PEERS);
    for number in 0..PEERS {
        let address = Ipv4Addr::new(198, 18, random.u8(..), random.u8(..));
        let from = SocketAddr::from((address, 1 + (number % 60_000) as u16));
        let mut packet = Vec::new();
        Request::Connect { transaction: 1 }.write(&mut packet);
        server.answer(&packet, from, NOW, &mut out);
        let Response::Connect { connection, .. } = Response::parse(&out)? else {
            return Err("no connection id".into());
        };
        let rank = (TORRENTS as f64).powf(random.f64()) as u64;
        let mut info_hash = [0; 20];
        info_hash[..8].copy_from_slice(&rank.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        let seeds = random.u8(0..4) == 0;
        let announce = Announce {
            info_hash,
            peer_id: [7; 20],
            downloaded: 1 << 20,
            left: if seeds { 0 } else { 1 << 20 },
            uploaded: 0,
            event: Event::None,
            address: Ipv4Addr::UNSPECIFIED,
            key: number as u32,
            wanted: Some(30),
            port: random.u16(1..),
            options: &[],
        };
        packet.clear();
        Request::Announce { connection, transaction: 2, announce }.write(&mut packet);
        clients.push(Client { from, packet });
    }
    Ok(clients)
}

/// Announces answered in a second, and peers named in each.
fn announces(server: &mut Server, clients: &[Client], rounds: usize) -> Result<(f64, f64)> {
    let mut out = Vec::new();
    let mut bytes = 0;
    let began = Instant::now();
    for client in clients.iter().cycle().take(rounds) {
        if !server.answer(&client.packet, client.from, NOW, &mut out) {
            return Err("an announce was not answered".into());
        }
        bytes += out.len() - 20;
    }
    let rate = rounds as f64 / began.elapsed().as_secs_f64();
    Ok((rate, bytes as f64 / 6.0 / rounds as f64))
}

fn tracker(super_peers: Arc<dyn SuperPeers>) -> Result<Arc<Tracker>> {
    let registry = Registry::new();
    let parts = Parts { config: TrackerConfig::default(), super_peers, policies: None, registry: &registry };
    Ok(Arc::new(Tracker::new(parts)?))
}

/// Memory of this process, bytes.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("there is no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().ok_or("VmRSS is empty")?.parse()?;
    Ok(kib * 1024)
}

fn main() -> Result<()> {
    let alone = tracker(Arc::new(NoSuperPeers))?;
    let mut server = Server::new(alone.clone(), Arc::new(ConnectionIds::default()));
    let all = clients(&mut server)?;
    let before = resident()?;
    announces(&mut server, &all, all.len())?;
    let peers = alone.totals().v4 as f64;
    let grown = resident()?.saturating_sub(before) as f64 / peers;
    let counted = alone.memory() as f64 / peers;
    let (native, named) = announces(&mut server, &all, ROUNDS)?;

    let fleet = tracker(Arc::new(Fleet::new()))?;
    let mut server = Server::new(fleet, Arc::new(ConnectionIds::default()));
    let all = clients(&mut server)?;
    announces(&mut server, &all, all.len())?;
    let (scheduled, chosen) = announces(&mut server, &all, VERDICTS)?;

    let torrents = alone.totals().torrents as f64;
    // Name, value, unit, and the most that it may be.
    let figures: [(&str, f64, &str, Option<f64>); 8] = [
        ("torrents", torrents, "", None),
        ("peers", peers, "", None),
        ("memory of a peer, as counted", counted, "bytes", Some(100.0)),
        ("memory of a peer, as grown", grown, "bytes", Some(100.0)),
        ("announces a second on one core", native, "", None),
        ("peers named in each", named, "", None),
        ("the same with the built-in verdict", scheduled, "", None),
        ("peers named in each of those", chosen, "", None),
    ];
    println!("\n{:<38}{:>14} {:<6}{:>8}  reached", "figure", "measured", "", "target");
    let mut report = Vec::new();
    for (name, value, unit, most) in figures {
        let target = most.map_or_else(String::new, |most| format!("<= {most}"));
        let reached = most.map(|most| value <= most);
        let said = reached.map_or("", |reached| if reached { "yes" } else { "NO" });
        println!("{name:<38}{value:>14.1} {unit:<6}{target:>8}  {said}");
        report.push(json!({ "figure": name, "value": value, "unit": unit, "reached": reached }));
    }
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(3).ok_or("this program is in no target folder")?;
    std::fs::create_dir_all(target.join("bench"))?;
    std::fs::write(target.join("bench/tracker.json"), serde_json::to_vec_pretty(&report)?)?;
    Ok(())
}

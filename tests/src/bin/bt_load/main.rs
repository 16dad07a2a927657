//! A load of BitTorrent peers that are as cheap as peers can be, so that a benchmark measures the seed.
//!
//! `bt_load ADDRESS TORRENT [--connections N] [--pipeline N] [--seconds N] [--bytes N] [--verify]
//! [--info-hash HEX]` opens connections with plain handshakes, keeps that many 16 KiB requests outstanding
//! on each, over all pieces in turn from a place of its own, and throws away what comes. With `--verify`
//! each piece is put together and its SHA-1 compared. The clock begins with the first block; with `--bytes`
//! it stops once so many have come, if that is earlier. Printed at the end:
//! `{"bytes", "seconds", "connections", "closed", "pieces", "wrong"}`.
//!
//! `bt_load ADDRESS TORRENT --idle N` opens connections that want nothing and stay, prints
//! `{"connections"}` when all have shaken hands and `{"connections", "closed"}` when its standard input
//! has closed.
//!
//! The torrent must have version 1 pieces. Unless `--info-hash` names another (a truncated version 2
//! one, say), it is called by its version 1 info-hash. One thread: more than one core of load would be
//! taken from the seed.

#![allow(clippy::print_stdout, reason = "a load's result is what it prints")]

mod frames;
mod plan;

use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use skerry_tests::process::allow_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::frames::{CHOKE, Event, Frames, INTERESTED, UNCHOKE};
use crate::plan::{Counts, Pieces, Plan};

const USAGE: &str = "usage: bt_load ADDRESS TORRENT [--connections N] [--pipeline N] [--seconds N] [--bytes N] \
    [--verify] [--info-hash HEX] [--idle N]";

/// How much is read at once.
const READ: usize = 256 * 1024;

/// How long a handshake may take, and the first block.
const BOUND: Duration = Duration::from_secs(15);

/// How often an idle peer says that it is still there; others wait for two minutes (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("bt_load: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bt_load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
struct Arguments {
    address: SocketAddr,
    torrent: String,
    connections: u64,
    pipeline: u64,
    seconds: f64,
    bytes: Option<u64>,
    verify: bool,
    info_hash: Option<[u8; 20]>,
    idle: Option<u64>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut connections, mut pipeline, mut seconds) = (8, 64, 5.0);
        let (mut bytes, mut verify, mut info_hash, mut idle) = (None, false, None, None);
        let mut places = Vec::new();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--connections" => connections = value()?.parse()?,
                "--pipeline" => pipeline = value()?.parse()?,
                "--seconds" => seconds = value()?.parse()?,
                "--bytes" => bytes = Some(value()?.parse()?),
                "--verify" => verify = true,
                "--info-hash" => info_hash = Some(hash(&value()?).context("no 40 hex digits")?),
                "--idle" => idle = Some(value()?.parse()?),
                _ => places.push(word),
            }
        }
        ensure!(connections > 0 && pipeline > 0 && seconds > 0.0, "nothing to do");
        let [address, torrent]: [String; 2] =
            places.try_into().ok().context("an address and a torrent are needed")?;
        let address = address.parse().with_context(|| format!("no address: {address}"))?;
        Ok(Self { address, torrent, connections, pipeline, seconds, bytes, verify, info_hash, idle })
    }
}

fn hash(hex: &str) -> Option<[u8; 20]> {
    if !hex.is_ascii() || hex.len() != 40 {
        return None;
    }
    let mut bytes = [0; 20];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn run(arguments: Arguments) -> Result<()> {
    let plan = Arc::new(Plan::of(&arguments)?);
    allow_open_files((arguments.connections.max(arguments.idle.unwrap_or(0)) + 200).try_into()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.idle {
            Some(connections) => idle(&arguments, &plan, connections).await,
            None => load(&arguments, &plan).await,
        }
    })
}

async fn load(arguments: &Arguments, plan: &Arc<Plan>) -> Result<()> {
    let counts = Arc::new(Counts::default());
    let mut streams = Vec::new();
    for number in 0..arguments.connections {
        streams.push(connect(arguments.address, plan, number).await?);
    }
    let mut tasks = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        let piece = number as u64 * plan.pieces.len() as u64 / arguments.connections;
        let (plan, counts) = (Arc::clone(plan), Arc::clone(&counts));
        tasks.spawn(async move { converse(stream, &plan, &counts, piece * plan.piece_length).await });
    }
    let begun = Instant::now();
    while counts.bytes.load(Ordering::Relaxed) == 0 {
        ensure!(begun.elapsed() < BOUND, "not one block after {BOUND:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (begun, before) = (Instant::now(), counts.bytes.load(Ordering::Relaxed));
    let end = Duration::from_secs_f64(arguments.seconds);
    match arguments.bytes {
        None => tokio::time::sleep(end).await,
        Some(bytes) => {
            while begun.elapsed() < end && counts.bytes.load(Ordering::Relaxed) - before < bytes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    let bytes = counts.bytes.load(Ordering::Relaxed) - before;
    let seconds = begun.elapsed().as_secs_f64();
    let closed = ended(&mut tasks);
    let answer = serde_json::json!({
        "bytes": bytes,
        "seconds": seconds,
        "connections": arguments.connections,
        "closed": closed,
        "pieces": counts.pieces.load(Ordering::Relaxed),
        "wrong": counts.wrong.load(Ordering::Relaxed),
    });
    println!("{answer}");
    Ok(())
}

async fn idle(arguments: &Arguments, plan: &Plan, connections: u64) -> Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let stream = connect(arguments.address, plan, number).await?;
        tasks.spawn(stay(stream));
    }
    println!("{}", serde_json::json!({ "connections": connections }));
    let (told, asked) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Whether it closes or breaks, nobody waits any more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = told.send(());
    });
    let _ = asked.await;
    let closed = ended(&mut tasks);
    println!("{}", serde_json::json!({ "connections": connections, "closed": closed }));
    Ok(())
}

/// How many connections have ended, each of which is told about; the others end here.
fn ended(tasks: &mut JoinSet<Result<()>>) -> u64 {
    let mut closed = 0;
    while let Some(outcome) = tasks.try_join_next() {
        closed += 1;
        match outcome {
            Ok(Err(error)) => eprintln!("bt_load: {error:#}"),
            Err(error) => eprintln!("bt_load: {error}"),
            Ok(Ok(())) => (),
        }
    }
    tasks.abort_all();
    closed
}

/// Connects and shakes hands, without any extension.
async fn connect(address: SocketAddr, plan: &Plan, number: u64) -> Result<TcpStream> {
    tokio::time::timeout(BOUND, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut handshake = b"\x13BitTorrent protocol".to_vec();
        handshake.extend([0; 8]);
        handshake.extend(plan.info_hash);
        handshake.extend(format!("-SK0000-{number:012}").into_bytes());
        stream.write_all(&handshake).await?;
        let mut theirs = [0; 68];
        stream.read_exact(&mut theirs).await.context("the handshake was not answered")?;
        ensure!(theirs[..20] == handshake[..20], "that is no BitTorrent peer");
        ensure!(theirs[28..48] == plan.info_hash, "that is another torrent");
        Ok::<_, anyhow::Error>(stream)
    })
    .await
    .unwrap_or_else(|_| Err(anyhow!("no handshake after {BOUND:?}")))
    .with_context(|| format!("connection {number} to {address}"))
}

/// Stays connected.
async fn stay(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 1024];
    let mut pulse = tokio::time::interval(KEEP_ALIVE);
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => {
                let read = read?;
                ensure!(read > 0, "an idle connection was closed");
            }
            _ = pulse.tick() => stream.write_all(&[0; 4]).await?,
        }
    }
}

/// Downloads from `place` on, around and around.
async fn converse(mut stream: TcpStream, plan: &Plan, counts: &Counts, mut place: u64) -> Result<()> {
    let mut frames = Frames::default();
    let mut pieces = plan.verify.then(Pieces::default);
    let mut buffer = vec![0; READ];
    let mut requests = Vec::new();
    let (mut outstanding, mut choked) = (0u64, true);
    stream.write_all(&[0, 0, 0, 1, INTERESTED]).await?;
    loop {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "a connection was closed");
        let mut bytes = &buffer[..read];
        let mut received = 0;
        while let Some(event) = frames.take(&mut bytes)? {
            match event {
                // What was asked for before is not answered any more (BEP 3).
                Event::Message(CHOKE) => {
                    (choked, outstanding) = (true, 0);
                    place -= place % plan.piece_length;
                    pieces = plan.verify.then(Pieces::default);
                }
                Event::Message(UNCHOKE) => choked = false,
                Event::Message(_) => (),
                Event::Data { piece, begin, data, last } => {
                    received += data.len() as u64;
                    if let Some(pieces) = &mut pieces {
                        pieces.put(plan, counts, piece, begin, data)?;
                    }
                    if last {
                        outstanding = outstanding.saturating_sub(1);
                    }
                }
            }
        }
        counts.bytes.fetch_add(received, Ordering::Relaxed);
        // In batches, as a peer that is good to its seed does.
        if !choked && outstanding <= plan.pipeline - plan.pipeline.div_ceil(4) {
            requests.clear();
            while outstanding < plan.pipeline {
                let (message, next) = plan.request(place);
                requests.extend(message);
                place = next;
                outstanding += 1;
            }
            stream.write_all(&requests).await?;
        }
    }
}

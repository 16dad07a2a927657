//! The ceiling of the peers benchmark: blocks of one file out of memory by vectored writes, to whoever
//! shakes hands.
//!
//! Purpose: what the system calls of a seed cost when nothing else is done, so that a seed's own work can
//! be told from theirs. One blocking thread per connection. It unchokes everybody, knows no message but
//! requests and believes each of them; there is no limit and no timeout either: it is for loopback, for as
//! long as a benchmark runs.
//!
//! `bt_ceiling CONTENT PIECE_LENGTH` reads the file and prints `{"address"}` once it listens.

#![allow(clippy::print_stdout, reason = "a benchmark reads it")]

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, ensure};

/// Bytes of a handshake (BEP 3), of a request with its length, and of what is before a block's content.
const HANDSHAKE: usize = 68;
const REQUEST: usize = 17;
const HEADER: usize = 13;

/// Blocks in one write: as many buffers as the node has in one.
const BATCH: usize = 64;

/// Bytes read at once; the longest message that is understood is far shorter.
const READ: usize = 64 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [content, piece_length] = arguments.as_slice() else {
        eprintln!("usage: bt_ceiling CONTENT PIECE_LENGTH");
        return ExitCode::from(2);
    };
    match run(content, piece_length) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bt_ceiling: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(content: &str, piece_length: &str) -> Result<()> {
    let piece_length: u64 = piece_length.parse().context("the piece length is no number")?;
    ensure!(piece_length > 0, "pieces have a length");
    let content: Arc<[u8]> = std::fs::read(content).with_context(|| content.to_owned())?.into();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", serde_json::json!({ "address": listener.local_addr()? }));
    for stream in listener.incoming() {
        let (stream, content) = (stream?, Arc::clone(&content));
        thread::spawn(move || {
            if let Err(error) = serve(stream, &content, piece_length)
                && !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            {
                eprintln!("bt_ceiling: {error}");
            }
        });
    }
    Ok(())
}

/// Answers a peer's requests until it goes away.
fn serve(mut stream: TcpStream, content: &[u8], piece_length: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut handshake = [0; HANDSHAKE];
    stream.read_exact(&mut handshake)?;
    // There is one torrent, whatever it is called.
    stream.write_all(&handshake)?;
    stream.write_all(&[0, 0, 0, 1, 1])?;
    let mut inbox = vec![0; READ];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut inbox[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut used = 0;
        loop {
            let mut blocks = Vec::with_capacity(BATCH);
            while blocks.len() < BATCH
                && let Some(length) = message(&inbox[used..filled])?
            {
                if let Ok(request) = inbox[used..used + length].try_into() {
                    blocks.push(block(request, content, piece_length)?);
                }
                used += length;
            }
            if blocks.is_empty() {
                break;
            }
            write(&mut stream, &blocks)?;
        }
        inbox.copy_within(used..filled, 0);
        filled -= used;
    }
}

/// Bytes of the message that these begin with; `None` until all of it has come.
fn message(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length + 4 > REQUEST {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    Ok((rest.len() >= length).then_some(length + 4))
}

/// What a request is answered with: a header and a slice of the content.
fn block(request: [u8; REQUEST], content: &[u8], piece_length: u64) -> io::Result<([u8; HEADER], &[u8])> {
    let number =
        |at: usize| u32::from_be_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
    let (piece, begin, length) = (number(5), number(9), number(13));
    let from = u64::from(piece) * piece_length + u64::from(begin);
    let data = usize::try_from(from).ok().and_then(|from| content.get(from..)?.get(..length as usize));
    let data = data.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a request beyond the end"))?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(length + 9).to_be_bytes());
    header[4] = 7;
    header[5..].copy_from_slice(&request[5..13]);
    Ok((header, data))
}

/// Writes headers and content, all of them.
fn write(stream: &mut TcpStream, blocks: &[([u8; HEADER], &[u8])]) -> io::Result<()> {
    let buffers = blocks.iter().flat_map(|(header, data)| [IoSlice::new(header), IoSlice::new(data)]);
    let mut buffers: Vec<IoSlice<'_>> = buffers.collect();
    let mut left = buffers.as_mut_slice();
    while !left.is_empty() {
        let written = stream.write_vectored(left)?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

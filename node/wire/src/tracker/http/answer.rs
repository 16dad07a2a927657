//! Bencoded answers to announces and scrapes.

use std::net::{IpAddr, SocketAddr};

use crate::bencode::{self, Dict, Value, Writer};
use crate::tracker::{Counts, compact};

/// Most peers that are read from one answer.
const MOST_PEERS: usize = 2000;
/// Longest words of a tracker that are kept, bytes.
const MOST_WORDS: usize = 512;

/// What a tracker answers an announce with.
#[derive(Debug, Clone, Copy)]
pub struct Announced<'a> {
    /// Seconds until the next announce.
    pub interval: u32,
    /// Seconds before which there must be none.
    pub min_interval: u32,
    /// How the swarm does.
    pub counts: Counts,
    /// Where the announce came from (BEP 24).
    pub external: IpAddr,
    /// IPv4 peers, packed ([`compact`]).
    pub peers: &'a [u8],
    /// IPv6 peers, packed (BEP 7).
    pub peers6: &'a [u8],
    /// Whether lists go packed; else every peer is a dictionary, without its id, which a tracker that
    /// packs does not keep.
    pub compact: bool,
}

/// When a client that is refused may come back (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// After so many minutes, at least 1.
    Minutes(u32),
    /// Not with this.
    Never,
}

/// The answer to an announce.
pub fn announced(answer: &Announced<'_>) -> Vec<u8> {
    let mut writer = Writer::append(Vec::with_capacity(256 + answer.peers.len() + answer.peers6.len()));
    writer.dict(|dict| {
        dict.key(b"complete").integer(answer.counts.complete.into());
        dict.key(b"downloaded").integer(answer.counts.downloaded.into());
        match answer.external {
            IpAddr::V4(address) => dict.key(b"external ip").bytes(&address.octets()),
            IpAddr::V6(address) => dict.key(b"external ip").bytes(&address.octets()),
        }
        dict.key(b"incomplete").integer(answer.counts.incomplete.into());
        dict.key(b"interval").integer(answer.interval.into());
        dict.key(b"min interval").integer(answer.min_interval.into());
        if answer.compact {
            dict.key(b"peers").bytes(answer.peers);
            if !answer.peers6.is_empty() {
                dict.key(b"peers6").bytes(answer.peers6);
            }
        } else {
            let peers = compact::v4(answer.peers).chain(compact::v6(answer.peers6));
            dict.key(b"peers").list(|list| peers.for_each(|peer| write_peer(list, peer)));
        }
    });
    writer.finish()
}

fn write_peer(list: &mut Writer, peer: SocketAddr) {
    list.dict(|dict| {
        dict.key(b"ip").bytes(peer.ip().to_string().as_bytes());
        dict.key(b"port").integer(peer.port().into());
    });
}

/// A refusal of an announce or a scrape.
pub fn failure(reason: &str, retry: Option<Retry>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.dict(|dict| {
        dict.key(b"failure reason").bytes(reason.as_bytes());
        match retry {
            None => {}
            Some(Retry::Minutes(minutes)) => dict.key(b"retry in").integer(minutes.max(1).into()),
            Some(Retry::Never) => dict.key(b"retry in").bytes(b"never"),
        }
    });
    writer.finish()
}

/// The answer to a scrape (BEP 48), with partial seeds told apart (BEP 21). Sorts the swarms, and leaves
/// out what is there twice.
pub fn scraped(swarms: &mut Vec<([u8; 20], Counts)>) -> Vec<u8> {
    swarms.sort_unstable_by_key(|(hash, _)| *hash);
    swarms.dedup_by_key(|(hash, _)| *hash);
    let mut writer = Writer::new();
    writer.dict(|dict| {
        dict.key(b"files").dict(|files| {
            for (hash, counts) in swarms.iter() {
                files.key(hash).dict(|swarm| {
                    swarm.key(b"complete").integer(counts.complete.into());
                    swarm.key(b"downloaded").integer(counts.downloaded.into());
                    swarm.key(b"downloaders").integer(counts.downloaders.into());
                    swarm.key(b"incomplete").integer(counts.incomplete.into());
                });
            }
        });
    });
    writer.finish()
}

/// What a client reads from the answer to its announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Seconds until the next announce.
    pub interval: u32,
    /// Seconds before which there must be none; 0 when it does not say.
    pub min_interval: u32,
    /// How the swarm does, as far as it says.
    pub counts: Counts,
    /// Where the announce came from.
    pub external: Option<IpAddr>,
    /// Peers of both families.
    pub peers: Vec<SocketAddr>,
    /// What it has to say, cut to a reasonable length.
    pub warning: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The tracker refuses.
    #[error("the tracker refuses: {reason}")]
    Refused {
        /// Why, in its words, cut to a reasonable length.
        reason: String,
        /// When to come back, if it says.
        retry: Option<Retry>,
    },
    /// It is no bencode.
    #[error("the tracker's answer: {0}")]
    Bencode(#[from] bencode::Error),
    /// Something is missing.
    #[error("the tracker's answer has no {0}")]
    Missing(&'static str),
}

/// Reads the answer to an announce.
///
/// # Errors
/// When the tracker refuses, or it is no such answer.
pub fn parse_answer(body: &[u8]) -> Result<Answer, AnswerError> {
    let value = bencode::decode_lenient(body)?;
    let dict = accepted(&value)?;
    let peers = dict.get(b"peers");
    let mut found: Vec<SocketAddr> = match peers {
        Some(Value::Bytes(packed)) => compact::v4(packed).take(MOST_PEERS).collect(),
        Some(Value::List(list)) => list.iter().filter_map(read_peer).take(MOST_PEERS).collect(),
        _ => Vec::new(),
    };
    if let Some(packed) = dict.get(b"peers6").and_then(Value::bytes) {
        found.extend(compact::v6(packed).take(MOST_PEERS - found.len()));
    }
    let external = dict.get(b"external ip").and_then(Value::bytes).and_then(|octets| {
        let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
        four.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
    });
    let interval = dict.get(b"interval").and_then(Value::integer);
    Ok(Answer {
        interval: small(interval).ok_or(AnswerError::Missing("interval"))?,
        min_interval: number(dict, b"min interval"),
        counts: counts(dict),
        external,
        peers: found,
        warning: dict.get(b"warning message").and_then(Value::bytes).map(words),
    })
}

/// Reads the answer to a scrape.
///
/// # Errors
/// When the tracker refuses, or it is no such answer.
pub fn parse_scraped(body: &[u8]) -> Result<Vec<([u8; 20], Counts)>, AnswerError> {
    let value = bencode::decode_lenient(body)?;
    let files = accepted(&value)?.get(b"files").and_then(Value::dict).ok_or(AnswerError::Missing("files"))?;
    let swarms = files.iter().filter_map(|(hash, value)| {
        let hash = <[u8; 20]>::try_from(hash).ok()?;
        Some((hash, counts(value.dict()?)))
    });
    Ok(swarms.take(MOST_PEERS).collect())
}

/// The answer's dictionary, unless it is a refusal.
fn accepted<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Dict<'a>, AnswerError> {
    let dict = value.dict().ok_or(AnswerError::Missing("dictionary"))?;
    let reason = dict.get(b"failure reason").or_else(|| dict.get(b"failure_reason")).and_then(Value::bytes);
    let Some(reason) = reason else { return Ok(dict) };
    // A number, or the text of one as in the examples of BEP 31.
    let retry = match dict.get(b"retry in") {
        Some(Value::Integer(minutes)) => small(Some(*minutes)).map(Retry::Minutes),
        Some(Value::Bytes(b"never")) => Some(Retry::Never),
        Some(Value::Bytes(text)) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(Retry::Minutes)
        }
        _ => None,
    };
    let retry = retry.filter(|retry| *retry != Retry::Minutes(0));
    Err(AnswerError::Refused { reason: words(reason), retry })
}

fn counts(dict: &Dict<'_>) -> Counts {
    let incomplete = number(dict, b"incomplete");
    let downloaders = small(dict.get(b"downloaders").and_then(Value::integer)).unwrap_or(incomplete);
    Counts {
        complete: number(dict, b"complete"),
        incomplete,
        downloaders,
        downloaded: number(dict, b"downloaded"),
    }
}

fn small(value: Option<i64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

fn number(dict: &Dict<'_>, key: &[u8]) -> u32 {
    small(dict.get(key).and_then(Value::integer)).unwrap_or(0)
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MOST_WORDS)]).into_owned()
}

fn read_peer(value: &Value<'_>) -> Option<SocketAddr> {
    let peer = value.dict()?;
    let address: IpAddr = std::str::from_utf8(peer.get(b"ip")?.bytes()?).ok()?.parse().ok()?;
    Some(SocketAddr::new(address, peer.get(b"port")?.integer()?.try_into().ok()?))
}

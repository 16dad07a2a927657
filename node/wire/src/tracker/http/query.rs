//! Query strings of announces and scrapes.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::str;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::{Announce, QueryError};
use crate::tracker::{Event, MOST_SCRAPED};

/// Longest text of an address with brackets and port is 47 characters.
const MOST_TEXT: usize = 64;

/// Keys and values, as they stand there.
fn pairs(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    query.split(|byte| *byte == b'&').map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        (&pair[..at], pair.get(at + 1..).unwrap_or_default())
    })
}

pub(super) fn announce(query: &[u8]) -> Result<Announce<'_>, QueryError> {
    let (mut info_hash, mut peer_id, mut port) = (None, None, None);
    let (mut ip, mut ipv4, mut ipv6) = (&[][..], &[][..], &[][..]);
    let mut found = Announce {
        info_hash: [0; 20],
        peer_id: [0; 20],
        port: 0,
        uploaded: 0,
        downloaded: 0,
        left: None,
        event: Event::None,
        compact: true,
        no_peer_id: false,
        wanted: None,
        key: None,
        tracker_id: &[],
        supports_crypto: false,
        ip: None,
        ipv4: None,
        ipv6: None,
    };
    for (key, value) in pairs(query) {
        match key {
            b"info_hash" => info_hash = Some(exactly(value).ok_or(QueryError::Malformed("info_hash"))?),
            b"peer_id" => peer_id = Some(exactly(value).ok_or(QueryError::Malformed("peer_id"))?),
            b"port" => port = Some(number(value).ok_or(QueryError::Malformed("port"))?),
            b"uploaded" => found.uploaded = number(value).ok_or(QueryError::Malformed("uploaded"))?,
            b"downloaded" => found.downloaded = number(value).ok_or(QueryError::Malformed("downloaded"))?,
            // Some clients say -1 when they do not know yet.
            b"left" => found.left = number(value),
            b"event" => {
                found.event = match value {
                    b"started" => Event::Started,
                    b"completed" => Event::Completed,
                    b"stopped" => Event::Stopped,
                    b"paused" => Event::Paused,
                    b"" | b"empty" => Event::None,
                    _ => return Err(QueryError::Malformed("event")),
                }
            }
            b"compact" => found.compact = value != b"0",
            b"no_peer_id" => found.no_peer_id = value == b"1",
            b"numwant" => found.wanted = number(value),
            b"key" => found.key = Some(secret(value)),
            b"trackerid" => found.tracker_id = value,
            b"supportcrypto" | b"requirecrypto" => found.supports_crypto |= value == b"1",
            b"ip" => ip = value,
            b"ipv4" => ipv4 = value,
            b"ipv6" => ipv6 = value,
            _ => {}
        }
    }
    found.info_hash = info_hash.ok_or(QueryError::Missing("info_hash"))?;
    found.peer_id = peer_id.ok_or(QueryError::Missing("peer_id"))?;
    found.port = port.ok_or(QueryError::Missing("port"))?;
    found.ip = endpoint(ip, found.port).map(|endpoint| endpoint.ip());
    found.ipv4 = endpoint(ipv4, found.port).filter(SocketAddr::is_ipv4);
    found.ipv6 = endpoint(ipv6, found.port).filter(SocketAddr::is_ipv6);
    Ok(found)
}

pub(super) fn scrape(query: &[u8]) -> Result<Vec<[u8; 20]>, QueryError> {
    let mut hashes = Vec::new();
    for (_, value) in pairs(query).filter(|(key, _)| key == b"info_hash") {
        if hashes.len() == MOST_SCRAPED {
            return Err(QueryError::TooMany);
        }
        hashes.push(exactly(value).ok_or(QueryError::Malformed("info_hash"))?);
    }
    if hashes.is_empty() { Err(QueryError::Missing("info_hash")) } else { Ok(hashes) }
}

pub(super) fn write(announce: &Announce<'_>) -> String {
    let mut query = format!(
        "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}",
        percent_encode(&announce.info_hash, NON_ALPHANUMERIC),
        percent_encode(&announce.peer_id, NON_ALPHANUMERIC),
        announce.port,
        announce.uploaded,
        announce.downloaded,
    );
    let mut add = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = write!(query, "&{key}={value}");
    };
    if let Some(left) = announce.left {
        add("left", &left);
    }
    match announce.event {
        Event::None => {}
        Event::Started => add("event", &"started"),
        Event::Completed => add("event", &"completed"),
        Event::Stopped => add("event", &"stopped"),
        Event::Paused => add("event", &"paused"),
    }
    add("compact", &u8::from(announce.compact));
    if announce.no_peer_id {
        add("no_peer_id", &1);
    }
    if let Some(wanted) = announce.wanted {
        add("numwant", &wanted);
    }
    if let Some(key) = announce.key {
        add("key", &format_args!("{key:08X}"));
    }
    if let Ok(tracker_id) = str::from_utf8(announce.tracker_id)
        && !tracker_id.is_empty()
    {
        add("trackerid", &tracker_id);
    }
    if announce.supports_crypto {
        add("supportcrypto", &1);
    }
    if let Some(ip) = announce.ip {
        add("ip", &percent_encode(ip.to_string().as_bytes(), NON_ALPHANUMERIC));
    }
    for (key, endpoint) in [("ipv4", announce.ipv4), ("ipv6", announce.ipv6)] {
        if let Some(endpoint) = endpoint {
            add(key, &percent_encode(endpoint.to_string().as_bytes(), NON_ALPHANUMERIC));
        }
    }
    query
}

pub(super) fn write_scrape(hashes: &[[u8; 20]]) -> String {
    let mut query = String::new();
    for hash in hashes {
        let and = if query.is_empty() { "" } else { "&" };
        let _ = write!(query, "{and}info_hash={}", percent_encode(hash, NON_ALPHANUMERIC));
    }
    query
}

/// Writes what `value` encodes into `bytes` and tells its length; `None` when it is longer, or an escape
/// is none.
fn unescape(value: &[u8], bytes: &mut [u8]) -> Option<usize> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let mut rest = value.iter();
    let mut length = 0;
    while let Some(&byte) = rest.next() {
        let byte = if byte == b'%' { digit(rest.next()?)? << 4 | digit(rest.next()?)? } else { byte };
        *bytes.get_mut(length)? = byte;
        length += 1;
    }
    Some(length)
}

fn exactly<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (unescape(value, &mut bytes)? == N).then_some(bytes)
}

fn number<T: str::FromStr>(value: &[u8]) -> Option<T> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// A key is written as 8 hex digits nearly always; what is not is mixed into a number.
fn secret(value: &[u8]) -> u32 {
    let hex = str::from_utf8(value).ok().and_then(|text| u32::from_str_radix(text, 16).ok());
    // FNV-1a.
    hex.unwrap_or_else(|| {
        value.iter().fold(0x811c_9dc5, |mixed, byte| (mixed ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    })
}

/// An address, with brackets or without, or an address and a port.
fn endpoint(value: &[u8], port: u16) -> Option<SocketAddr> {
    let mut bytes = [0; MOST_TEXT];
    let length = unescape(value, &mut bytes)?;
    let text = str::from_utf8(&bytes[..length]).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, port));
    address.or_else(|_| text.parse()).ok()
}

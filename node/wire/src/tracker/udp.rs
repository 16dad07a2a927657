//! Announces and scrapes over UDP (BEP 15), with the options of BEP 41.
//!
//! Which of the two packed forms the peers of an answer have is told by the address family of its
//! packet, and by nothing in it.

use std::net::Ipv4Addr;

use super::{Counts, Event, MOST_SCRAPED};

/// What a connect request begins with.
const PROTOCOL: u64 = 0x0417_2710_1980;

const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;

const END_OF_OPTIONS: u8 = 0;
const NOP: u8 = 1;
const URL_DATA: u8 = 2;

/// Length of an announce's answer before its peers, bytes.
pub const ANNOUNCE_HEAD: usize = 20;

/// Why a packet is none of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is shorter than its action asks for.
    #[error("the packet ends too early")]
    Short,
    /// A connect request begins with something else.
    #[error("the packet does not begin as a connect request")]
    Protocol,
    /// There is no such action.
    #[error("there is no action {0}")]
    Action(u32),
    /// There is no such event.
    #[error("there is no event {0}")]
    Event(u32),
    /// An option goes on behind the packet's end.
    #[error("an option of the announce ends too early")]
    Option,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// For a connection id.
    Connect {
        /// Comes back in the answer.
        transaction: u32,
    },
    /// For peers.
    Announce {
        /// What the tracker gave out.
        connection: u64,
        /// Comes back in the answer.
        transaction: u32,
        /// Who asks, and for what.
        announce: Announce<'a>,
    },
    /// How swarms do.
    Scrape {
        /// What the tracker gave out.
        connection: u64,
        /// Comes back in the answer.
        transaction: u32,
        /// Info-hashes, at most [`MOST_SCRAPED`]; a reader passes over the rest.
        hashes: &'a [[u8; 20]],
    },
}

/// A peer that announces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce<'a> {
    /// The swarm.
    pub info_hash: [u8; 20],
    /// The peer's own id.
    pub peer_id: [u8; 20],
    /// Bytes that it has downloaded since it started.
    pub downloaded: u64,
    /// Bytes that it lacks.
    pub left: u64,
    /// Bytes that it has uploaded since it started.
    pub uploaded: u64,
    /// Why it announces itself.
    pub event: Event,
    /// An address that it wants to be known by; unspecified is that of its packet.
    pub address: Ipv4Addr,
    /// A number that only client and tracker know; 0 is none.
    pub key: u32,
    /// How many peers it asks for; `None` leaves that to the tracker.
    pub wanted: Option<u32>,
    /// Where it takes connections.
    pub port: u16,
    /// The options behind (BEP 41), as they stand in the packet; see [`options`].
    pub options: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// When it is too short, or says something that there is not.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Fields(packet);
        let connection = fields.u64()?;
        let action = fields.u32()?;
        let transaction = fields.u32()?;
        match action {
            CONNECT if connection == PROTOCOL => Ok(Self::Connect { transaction }),
            CONNECT => Err(Error::Protocol),
            ANNOUNCE => {
                let announce = Announce {
                    info_hash: fields.take()?,
                    peer_id: fields.take()?,
                    downloaded: fields.u64()?,
                    left: fields.u64()?,
                    uploaded: fields.u64()?,
                    event: event(fields.u32()?)?,
                    address: Ipv4Addr::from(fields.take::<4>()?),
                    key: fields.u32()?,
                    wanted: Some(fields.u32()?).filter(|wanted| *wanted <= i32::MAX as u32),
                    port: u16::from_be_bytes(fields.take()?),
                    options: fields.0,
                };
                Ok(Self::Announce { connection, transaction, announce })
            }
            SCRAPE => {
                let (hashes, _) = fields.0.as_chunks::<20>();
                if hashes.is_empty() {
                    return Err(Error::Short);
                }
                let hashes = &hashes[..hashes.len().min(MOST_SCRAPED)];
                Ok(Self::Scrape { connection, transaction, hashes })
            }
            other => Err(Error::Action(other)),
        }
    }

    /// Appends the packet.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut begin = |connection: u64, action: u32, transaction: u32| {
            out.extend_from_slice(&connection.to_be_bytes());
            out.extend_from_slice(&action.to_be_bytes());
            out.extend_from_slice(&transaction.to_be_bytes());
        };
        match self {
            Self::Connect { transaction } => begin(PROTOCOL, CONNECT, *transaction),
            Self::Announce { connection, transaction, announce } => {
                begin(*connection, ANNOUNCE, *transaction);
                announce.write(out);
            }
            Self::Scrape { connection, transaction, hashes } => {
                begin(*connection, SCRAPE, *transaction);
                out.extend_from_slice(hashes.as_flattened());
            }
        }
    }
}

impl Announce<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let event: u32 = match self.event {
            // A partial seed has no word of its own here.
            Event::None | Event::Paused => 0,
            Event::Completed => 1,
            Event::Started => 2,
            Event::Stopped => 3,
        };
        out.extend_from_slice(&self.info_hash);
        out.extend_from_slice(&self.peer_id);
        for bytes in [self.downloaded, self.left, self.uploaded] {
            out.extend_from_slice(&bytes.to_be_bytes());
        }
        out.extend_from_slice(&event.to_be_bytes());
        out.extend_from_slice(&self.address.octets());
        out.extend_from_slice(&self.key.to_be_bytes());
        out.extend_from_slice(&self.wanted.unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(self.options);
    }
}

fn event(number: u32) -> Result<Event, Error> {
    match number {
        0 => Ok(Event::None),
        1 => Ok(Event::Completed),
        2 => Ok(Event::Started),
        3 => Ok(Event::Stopped),
        other => Err(Error::Event(other)),
    }
}

/// The options of an announce (BEP 41): type and data of each, up to the end or the option that says so.
pub fn options(mut rest: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), Error>> {
    std::iter::from_fn(move || {
        loop {
            let (&kind, behind) = rest.split_first()?;
            rest = behind;
            match kind {
                END_OF_OPTIONS => {
                    rest = &[];
                    return None;
                }
                NOP => {}
                _ => {
                    let data = rest
                        .split_first()
                        .and_then(|(&length, behind)| behind.split_at_checked(usize::from(length)));
                    let Some((data, behind)) = data else {
                        rest = &[];
                        return Some(Err(Error::Option));
                    };
                    rest = behind;
                    return Some(Ok((kind, data)));
                }
            }
        }
    })
}

/// Path and query of the tracker's URL, as the options of an announce tell them; empty when they do not.
///
/// # Errors
/// When an option is cut off.
pub fn url_data(rest: &[u8]) -> Result<Vec<u8>, Error> {
    let mut url = Vec::new();
    for option in options(rest) {
        let (kind, data) = option?;
        if kind == URL_DATA {
            url.extend_from_slice(data);
        }
    }
    Ok(url)
}

/// Appends the options that tell path and query of the tracker's URL.
pub fn push_url_data(out: &mut Vec<u8>, url: &[u8]) {
    for part in url.chunks(usize::from(u8::MAX)) {
        out.extend_from_slice(&[URL_DATA, part.len() as u8]);
        out.extend_from_slice(part);
    }
}

/// What a tracker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// A connection id: for a minute, and for this address.
    Connect {
        /// Of the request.
        transaction: u32,
        /// To be sent with what is asked next.
        connection: u64,
    },
    /// Peers.
    Announce {
        /// Of the request.
        transaction: u32,
        /// Seconds until the next announce.
        interval: u32,
        /// Peers that lack something.
        leechers: u32,
        /// Peers that have everything.
        seeders: u32,
        /// The packed list: [`super::compact`].
        peers: &'a [u8],
    },
    /// How swarms do, in the order of the request.
    Scrape {
        /// Of the request.
        transaction: u32,
        /// One row a swarm: [`counts`].
        rows: &'a [[u8; 12]],
    },
    /// It refuses.
    Error {
        /// Of the request.
        transaction: u32,
        /// Why, in words.
        message: &'a [u8],
    },
}

impl<'a> Response<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// When it is too short, or says something that there is not.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Error> {
        let mut fields = Fields(packet);
        let action = fields.u32()?;
        let transaction = fields.u32()?;
        match action {
            CONNECT => Ok(Self::Connect { transaction, connection: fields.u64()? }),
            ANNOUNCE => Ok(Self::Announce {
                transaction,
                interval: fields.u32()?,
                leechers: fields.u32()?,
                seeders: fields.u32()?,
                peers: fields.0,
            }),
            SCRAPE => Ok(Self::Scrape { transaction, rows: fields.0.as_chunks().0 }),
            ERROR => Ok(Self::Error { transaction, message: fields.0 }),
            other => Err(Error::Action(other)),
        }
    }
}

/// What a row of a scrape says.
pub fn counts(row: &[u8; 12]) -> Counts {
    let field = |at: usize| u32::from_be_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    let (complete, downloaded, incomplete) = (field(0), field(4), field(8));
    Counts { complete, incomplete, downloaders: incomplete, downloaded }
}

fn head(out: &mut Vec<u8>, action: u32, transaction: u32) {
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}

/// Appends a connection id.
pub fn write_connect(out: &mut Vec<u8>, transaction: u32, connection: u64) {
    head(out, CONNECT, transaction);
    out.extend_from_slice(&connection.to_be_bytes());
}

/// Appends the head of an announce's answer, [`ANNOUNCE_HEAD`] bytes; packed peers are to follow.
pub fn write_announce(out: &mut Vec<u8>, transaction: u32, interval: u32, counts: &Counts) {
    head(out, ANNOUNCE, transaction);
    for field in [interval, counts.incomplete, counts.complete] {
        out.extend_from_slice(&field.to_be_bytes());
    }
}

/// Appends the answer to a scrape.
pub fn write_scrape(out: &mut Vec<u8>, transaction: u32, swarms: impl Iterator<Item = Counts>) {
    head(out, SCRAPE, transaction);
    for counts in swarms {
        for field in [counts.complete, counts.downloaded, counts.incomplete] {
            out.extend_from_slice(&field.to_be_bytes());
        }
    }
}

/// Appends a refusal.
pub fn write_error(out: &mut Vec<u8>, transaction: u32, message: &str) {
    head(out, ERROR, transaction);
    out.extend_from_slice(message.as_bytes());
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(options: &[u8]) -> Request<'_> {
        Request::Announce {
            connection: 0x0102_0304_0506_0708,
            transaction: 9,
            announce: Announce {
                info_hash: [1; 20],
                peer_id: *b"-SK0001-abcdefghijkl",
                downloaded: 1,
                left: 2,
                uploaded: 3,
                event: Event::Started,
                address: Ipv4Addr::UNSPECIFIED,
                key: 0xdead_beef,
                wanted: None,
                port: 6881,
                options,
            },
        }
    }

    #[test]
    fn requests_read_back() {
        let hashes = [[7; 20], [8; 20]];
        let scrape = Request::Scrape { connection: 5, transaction: 6, hashes: &hashes };
        for (request, length) in
            [(Request::Connect { transaction: 4 }, 16), (announce(&[]), 98), (scrape, 56)]
        {
            let mut packet = Vec::new();
            request.write(&mut packet);
            assert_eq!(packet.len(), length);
            assert_eq!(Request::parse(&packet), Ok(request.clone()));
            assert_eq!(Request::parse(&packet[..length - length.min(21)]), Err(Error::Short));
        }
    }

    #[test]
    fn a_connect_request_is_as_the_protocol_says() {
        let mut packet = Vec::new();
        Request::Connect { transaction: 0x0a0b_0c0d }.write(&mut packet);
        assert_eq!(packet, *b"\x00\x00\x04\x17\x27\x10\x19\x80\x00\x00\x00\x00\x0a\x0b\x0c\x0d");
        packet[3] = 0;
        assert_eq!(Request::parse(&packet), Err(Error::Protocol));
    }

    #[test]
    fn what_there_is_not_is_refused() {
        let mut packet = Vec::new();
        announce(&[]).write(&mut packet);
        packet[83] = 4;
        assert_eq!(Request::parse(&packet), Err(Error::Event(4)));
        packet[11] = 3;
        assert_eq!(Request::parse(&packet), Err(Error::Action(3)));
        // As many peers as the tracker likes, in any negative number.
        packet[11] = 1;
        packet[83] = 2;
        packet[92] = 0x80;
        let Ok(Request::Announce { announce, .. }) = Request::parse(&packet) else { panic!("no announce") };
        assert_eq!(announce.wanted, None);
    }

    #[test]
    fn a_long_scrape_is_cut() {
        let hashes = vec![[1; 20]; MOST_SCRAPED + 9];
        let mut packet = Vec::new();
        Request::Scrape { connection: 5, transaction: 6, hashes: &hashes }.write(&mut packet);
        let Ok(Request::Scrape { hashes, .. }) = Request::parse(&packet) else { panic!("no scrape") };
        assert_eq!(hashes.len(), MOST_SCRAPED);
    }

    #[test]
    fn options_tell_the_url() {
        // The examples of BEP 41, and a URL of more than one option.
        assert_eq!(url_data(b"\x02\x0c/dir?a=b&c=d").unwrap(), b"/dir?a=b&c=d");
        assert_eq!(url_data(b"\x02\x0c/dir?a=b&c=d\x01\x01\x00\x02\x09").unwrap(), b"/dir?a=b&c=d");
        assert_eq!(url_data(b"\x02\x00").unwrap(), b"");
        assert_eq!(url_data(b"\x09\x02xy\x02\x01/").unwrap(), b"/");
        let long = vec![b'a'; 600];
        let mut written = Vec::new();
        push_url_data(&mut written, &long);
        assert_eq!(written.len(), 606);
        assert_eq!(url_data(&written).unwrap(), long);
        for cut in [&b"\x02"[..], b"\x02\x02a", b"\xff"] {
            assert_eq!(url_data(cut), Err(Error::Option));
        }
        let mut packet = Vec::new();
        announce(&written).write(&mut packet);
        assert_eq!(Request::parse(&packet), Ok(announce(&written)));
    }

    #[test]
    fn responses_read_back() {
        let some = Counts { complete: 1, incomplete: 2, downloaders: 2, downloaded: 3 };
        let mut packet = Vec::new();
        write_connect(&mut packet, 1, 2);
        assert_eq!(Response::parse(&packet), Ok(Response::Connect { transaction: 1, connection: 2 }));
        packet.clear();
        write_announce(&mut packet, 1, 900, &some);
        assert_eq!(packet.len(), ANNOUNCE_HEAD);
        packet.extend_from_slice(b"abcdef");
        let wanted =
            Response::Announce { transaction: 1, interval: 900, leechers: 2, seeders: 1, peers: b"abcdef" };
        assert_eq!(Response::parse(&packet), Ok(wanted));
        packet.clear();
        write_scrape(&mut packet, 1, [some, Counts::default()].into_iter());
        let Ok(Response::Scrape { transaction: 1, rows }) = Response::parse(&packet) else {
            panic!("no scrape")
        };
        assert_eq!(rows.iter().map(counts).collect::<Vec<_>>(), [some, Counts::default()]);
        packet.clear();
        write_error(&mut packet, 1, "no");
        assert_eq!(Response::parse(&packet), Ok(Response::Error { transaction: 1, message: b"no" }));
        assert_eq!(Response::parse(&packet[..7]), Err(Error::Short));
    }
}

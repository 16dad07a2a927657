//! Announces and scrapes over HTTP: query strings and bencoded answers (BEP 3, 7, 21, 23, 24, 31, 48).
//!
//! A query is read as bytes: an info-hash is any 20 of them, percent-encoded, and is no text in any
//! character set. A `+` is a plus. Keys that are not known are passed over.

use std::net::{IpAddr, SocketAddr};

use super::{Event, MOST_SCRAPED};

mod answer;
mod query;
#[cfg(test)]
mod tests;

pub use answer::{
    Announced, Answer, AnswerError, Retry, announced, failure, parse_answer, parse_scraped, scraped,
};

/// Why a query string is no announce or scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A key that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value is not what it should be.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A scrape names too many swarms.
    #[error("more than {MOST_SCRAPED} info-hashes")]
    TooMany,
}

/// A peer that announces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce<'a> {
    /// The swarm.
    pub info_hash: [u8; 20],
    /// The peer's own id.
    pub peer_id: [u8; 20],
    /// Where it takes connections.
    pub port: u16,
    /// Bytes that it has uploaded since it started.
    pub uploaded: u64,
    /// Bytes that it has downloaded since it started.
    pub downloaded: u64,
    /// Bytes that it lacks; `None` when it does not say.
    pub left: Option<u64>,
    /// Why it announces itself.
    pub event: Event,
    /// Whether packed lists of peers will do (BEP 23); true unless it says otherwise.
    pub compact: bool,
    /// Whether the peers' ids may be left out of a list that is not packed.
    pub no_peer_id: bool,
    /// How many peers it asks for; `None` leaves that to the tracker.
    pub wanted: Option<u32>,
    /// A number that only client and tracker know; `None` when there is none.
    pub key: Option<u32>,
    /// What the tracker called itself in an earlier answer, percent-encoded as it stands in the query.
    pub tracker_id: &'a [u8],
    /// Whether it takes encrypted connections.
    pub supports_crypto: bool,
    /// An address that it wants to be known by. Host names are passed over.
    pub ip: Option<IpAddr>,
    /// An IPv4 address and port that it has besides, as BEP 7 once had it.
    pub ipv4: Option<SocketAddr>,
    /// An IPv6 address and port that it has besides, as BEP 7 once had it.
    pub ipv6: Option<SocketAddr>,
}

impl<'a> Announce<'a> {
    /// Reads a query string: what stands behind the `?`.
    ///
    /// # Errors
    /// When info-hash, peer id or port are missing or malformed, or a number is none.
    pub fn parse(query: &'a [u8]) -> Result<Self, QueryError> {
        query::announce(query)
    }

    /// The query string.
    pub fn query(&self) -> String {
        query::write(self)
    }
}

/// Reads the info-hashes of a scrape's query string (BEP 48), at least one.
///
/// # Errors
/// When there is none, one is malformed, or there are more than [`MOST_SCRAPED`].
pub fn parse_scrape(query: &[u8]) -> Result<Vec<[u8; 20]>, QueryError> {
    query::scrape(query)
}

/// The query string of a scrape.
pub fn scrape_query(hashes: &[[u8; 20]]) -> String {
    query::write_scrape(hashes)
}

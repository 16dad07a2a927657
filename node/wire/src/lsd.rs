//! The messages of local service discovery (BEP 14).
//!
//! A message is the head of an HTTP request that is sent to a multicast group, and names the port that its
//! sender takes peers on and the torrents that it takes part in.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::hash::{from_hex, hex};

/// The group in IPv4.
pub const GROUP_V4: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 152, 143), PORT);
/// The group in IPv6.
pub const GROUP_V6: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f), PORT, 0, 0);
/// The port of both groups.
const PORT: u16 = 6771;

/// Longest message that is sent, bytes (BEP 14).
pub const MOST_SENT: usize = 1400;
/// Longest message that is read, bytes: what fits a packet of Ethernet.
pub const MOST_READ: usize = 1500;
/// Longest cookie that is sent, bytes.
pub const MOST_COOKIE: usize = 8;
/// Info-hashes that always fit a message.
pub const MOST_HASHES: usize = (MOST_SENT - FRAME.len()) / (LINE.len() + 40);

/// The longest message without an info-hash, and what stands around one.
const FRAME: &str = "BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\nPort: 65535\r\n\
                     cookie: ffffffff\r\n\r\n\r\n";
const LINE: &str = "Infohash: \r\n";

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MOST_READ`].
    #[error("it is longer than {MOST_READ} bytes")]
    Length,
    /// Another request, or none.
    #[error("it is no `BT-SEARCH * HTTP/1.1`")]
    Request,
    /// A line without a colon.
    #[error("a line of it is no header")]
    Header,
    /// None, two, or one that cannot be.
    #[error("it does not name one port from 1 to 65535")]
    Port,
    /// None that is 40 hex digits, not all of them zero.
    #[error("it names no info-hash")]
    InfoHash,
}

/// What a neighbour says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce<'a> {
    /// Where it takes peers.
    pub port: u16,
    /// Torrents that it takes part in, at least one; v2 info-hashes are cut short.
    pub info_hashes: Vec<[u8; 20]>,
    /// What tells its own messages from those of others.
    pub cookie: Option<&'a [u8]>,
}

impl<'a> Announce<'a> {
    /// Reads a message. Headers that are not known are passed over, and so are info-hashes that are none.
    ///
    /// # Errors
    /// When it is longer than [`MOST_READ`], no message of this protocol, or without a port or an info-hash.
    pub fn parse(message: &'a [u8]) -> Result<Self, Error> {
        if message.len() > MOST_READ {
            return Err(Error::Length);
        }
        let mut lines = message.split(|byte| *byte == b'\n').map(|line| line.trim_ascii());
        let mut request = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
        let words = [request.next(), request.next(), request.next(), request.next()];
        let [Some(b"BT-SEARCH"), Some(b"*"), Some(version), None] = words else {
            return Err(Error::Request);
        };
        if !version.starts_with(b"HTTP/1.") {
            return Err(Error::Request);
        }
        let (mut port, mut info_hashes, mut cookie) = (None, Vec::new(), None);
        for line in lines.take_while(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':').ok_or(Error::Header)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"port") {
                if port.replace(number(value).ok_or(Error::Port)?).is_some() {
                    return Err(Error::Port);
                }
            } else if name.eq_ignore_ascii_case(b"infohash") {
                let hash = std::str::from_utf8(value).ok().and_then(from_hex::<20>);
                info_hashes.extend(hash.filter(|hash| *hash != [0; 20]));
            } else if name.eq_ignore_ascii_case(b"cookie") {
                cookie = Some(value);
            }
        }
        let port = port.ok_or(Error::Port)?;
        if info_hashes.is_empty() {
            return Err(Error::InfoHash);
        }
        Ok(Self { port, info_hashes, cookie })
    }
}

/// Writes a message to a group, with at most [`MOST_HASHES`] info-hashes and a cookie of at most
/// [`MOST_COOKIE`] bytes, which holds no line end. It is no longer than [`MOST_SENT`].
pub fn announce(group: SocketAddr, port: u16, cookie: &str, info_hashes: &[[u8; 20]]) -> Vec<u8> {
    debug_assert!(info_hashes.len() <= MOST_HASHES && cookie.len() <= MOST_COOKIE);
    let mut message = format!("BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {port}\r\n");
    for hash in info_hashes {
        message.extend(["Infohash: ", &hex(hash), "\r\n"]);
    }
    message.extend(["cookie: ", cookie, "\r\n\r\n\r\n"]);
    message.into_bytes()
}

/// A port in decimal digits; `None` for 0.
fn number(digits: &[u8]) -> Option<u16> {
    // A sign is none.
    let is_number = (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILM: [u8; 20] = [0xab; 20];

    fn read(message: &str) -> Result<Announce<'_>, Error> {
        Announce::parse(message.as_bytes())
    }

    #[test]
    fn what_is_written_is_read_again() {
        for group in [SocketAddr::from(GROUP_V4), SocketAddr::from(GROUP_V6)] {
            let hashes: Vec<[u8; 20]> = (1..=MOST_HASHES as u8).map(|number| [number; 20]).collect();
            let message = announce(group, 65535, "ffffffff", &hashes);
            assert!(message.len() <= MOST_SENT, "{} bytes", message.len());
            let expected = Announce { port: 65535, info_hashes: hashes, cookie: Some(b"ffffffff") };
            assert_eq!(Announce::parse(&message), Ok(expected));
        }
    }

    #[test]
    fn the_message_is_the_one_of_the_specification() {
        let expected = "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\
                        Infohash: abababababababababababababababababababab\r\ncookie: 7f\r\n\r\n\r\n";
        assert_eq!(announce(GROUP_V4.into(), 6881, "7f", &[FILM]), expected.as_bytes());
        let v6 = announce(GROUP_V6.into(), 6881, "7f", &[FILM]);
        assert!(v6.windows(30).any(|part| part == b"Host: [ff15::efc0:988f]:6771\r\n"));
    }

    #[test]
    fn others_write_it_otherwise() {
        // Lower and upper case, no cookie, unknown headers, bare line feeds, no empty line at the end, a hash
        // that is none among those that are.
        let message = "BT-SEARCH * HTTP/1.0\nhost:239.192.152.143:6771\nPORT:  6881  \nX-Y: z\n\
                       INFOHASH: ABABABABABABABABABABABABABABABABABABABAB\nInfohash: abc\n\
                       Infohash: 0000000000000000000000000000000000000000";
        let expected = Announce { port: 6881, info_hashes: vec![FILM], cookie: None };
        assert_eq!(read(message), Ok(expected));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let hash = "Infohash: abababababababababababababababababababab\r\n";
        let head = "BT-SEARCH * HTTP/1.1\r\n";
        for (message, why) in [
            (String::new(), Error::Request),
            ("\r\n\r\n".into(), Error::Request),
            ("M-SEARCH * HTTP/1.1\r\n\r\n".into(), Error::Request),
            ("BT-SEARCH * HTTP/2\r\n\r\n".into(), Error::Request),
            ("BT-SEARCH * HTTP/1.1 x\r\n\r\n".into(), Error::Request),
            ("BT-SEARCH  * HTTP/1.1\r\n\r\n".into(), Error::Request),
            (head.into(), Error::Port),
            (format!("{head}{hash}\r\n"), Error::Port),
            (format!("{head}{hash}\r\nPort: 1\r\n"), Error::Port),
            (format!("{head}{hash}Port: 0\r\n\r\n"), Error::Port),
            (format!("{head}{hash}Port: +1\r\n\r\n"), Error::Port),
            (format!("{head}{hash}Port: 65536\r\n\r\n"), Error::Port),
            (format!("{head}{hash}Port: 000001\r\n\r\n"), Error::Port),
            (format!("{head}{hash}Port:\r\n\r\n"), Error::Port),
            (format!("{head}{hash}Port: 1\r\nPort: 1\r\n\r\n"), Error::Port),
            (format!("{head}Port: 1\r\nnonsense\r\n\r\n"), Error::Header),
            (format!("{head}Port: 1\r\n\r\n{hash}"), Error::InfoHash),
            (format!("{head}Port: 1\r\nInfohash: {}\r\n\r\n", "é".repeat(20)), Error::InfoHash),
            (format!("{head}Port: 1\r\nInfohash: {}\r\n\r\n", "ab".repeat(32)), Error::InfoHash),
            (format!("{head}Port: 1\r\n{}", hash.repeat(29)), Error::Length),
        ] {
            assert_eq!(read(&message), Err(why), "{message}");
        }
        assert_eq!(Announce::parse(&[b'\n'; MOST_READ]), Err(Error::Request));
        assert_eq!(Announce::parse(&[b'\n'; MOST_READ + 1]), Err(Error::Length));
    }

    #[test]
    fn half_a_message_says_no_more_than_all_of_it() {
        let hashes = [FILM, [1; 20]];
        let message = announce(GROUP_V6.into(), 6881, "7f", &hashes);
        for length in 0..message.len() {
            if let Ok(read) = Announce::parse(&message[..length]) {
                assert_eq!(read.port, 6881);
                assert_eq!(read.info_hashes, hashes[..read.info_hashes.len()]);
            }
        }
    }
}

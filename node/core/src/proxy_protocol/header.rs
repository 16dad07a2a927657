//! The bytes of a header, without the connection that they come from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses: signature, version and command, family and transport, length.
const FIXED: usize = 16;
/// Most bytes of addresses and options.
const MAX_LENGTH: usize = 2048;

/// The lower half of the 13th byte.
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// What the bytes read so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a header, of which so many bytes are missing at least.
    Part(usize),
    /// A header, and the client's address. `None` when the balancer speaks for itself or of no TCP address.
    Header(Option<SocketAddr>),
}

/// Reads the header that `bytes` begin with.
///
/// # Errors
/// When they are the beginning of no header, whatever follows.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Parsed> {
    let compared = bytes.len().min(SIGNATURE.len());
    check(bytes[..compared] == SIGNATURE[..compared], "no header of version 2")?;
    let Some((head, rest)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::Part(FIXED - bytes.len()));
    };
    let (version, command, family) = (head[12] >> 4, head[12] & 0x0f, head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    check(version == 2, "a version other than 2")?;
    check(command == LOCAL || command == PROXY, "an unassigned command")?;
    check(length <= MAX_LENGTH, "more than 2048 bytes of addresses and options")?;
    if command == PROXY {
        check(family >> 4 <= 3 && family & 0x0f <= 2, "an unassigned address family or transport")?;
        let addresses = [0, 12, 36, 216][usize::from(family >> 4)];
        check(family & 0x0f == 0 || length >= addresses, "fewer bytes than its addresses take")?;
    }
    let Some(rest) = rest.get(..length) else { return Ok(Parsed::Part(length - rest.len())) };
    Ok(Parsed::Header(match family {
        _ if command == LOCAL => None,
        0x11 => rest.first_chunk::<12>().map(|b| {
            let ip = Ipv4Addr::new(b[0], b[1], b[2], b[3]);
            SocketAddr::new(IpAddr::V4(ip), u16::from_be_bytes([b[8], b[9]]))
        }),
        0x21 => rest.first_chunk::<36>().map(|b| {
            let mut ip = [0; 16];
            ip.copy_from_slice(&b[..16]);
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), u16::from_be_bytes([b[32], b[33]]))
        }),
        _ => None,
    }))
}

fn check(holds: bool, otherwise: &str) -> io::Result<()> {
    if holds {
        return Ok(());
    }
    let message = format!("PROXY protocol: {otherwise} (`public.proxy_protocol` is on)");
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn clients_of_both_families_are_read() {
        let mut v6 = [0; 40];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&8080_u16.to_be_bytes());
        for (bytes, client) in [
            (header(1, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80]), "192.0.2.7:8080"),
            (header(1, 0x21, &v6), "[2001:db8::7]:8080"),
        ] {
            assert_eq!(parse(&bytes).unwrap(), Parsed::Header(Some(client.parse().unwrap())));
        }
    }

    #[test]
    fn local_short_and_hostile_headers_are_told_apart() {
        for no_client in [header(0, 0, &[]), header(0, 0x11, &[1, 2, 3]), header(1, 0x31, &[0; 216])] {
            assert_eq!(parse(&no_client).unwrap(), Parsed::Header(None));
        }
        for hostile in [
            header(1, 0x11, &[1, 2, 3]),
            header(1, 0x41, &[0; 216]),
            header(2, 0x11, &[0; 12]),
            header(1, 0x11, &[0; 4000]),
        ] {
            assert!(parse(&hostile).is_err());
            // Without the rest of it, too.
            assert!(parse(&hostile[..FIXED]).is_err());
        }
        assert!(parse(b"GET /").is_err());
    }

    #[test]
    fn no_more_is_asked_for_than_a_header_has() {
        let bytes = header(1, 0x11, &[7; 20]);
        for length in 0..bytes.len() {
            let end = if length < FIXED { FIXED } else { bytes.len() };
            assert_eq!(parse(&bytes[..length]).unwrap(), Parsed::Part(end - length));
        }
    }
}

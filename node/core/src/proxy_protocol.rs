//! PROXY protocol v2: the header a load balancer puts before the client's bytes.
//!
//! Source: "The PROXY protocol", Willy Tarreau, HAProxy, revision of 2020/03/05, section 2.2.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const MAX_LENGTH: usize = 2048;

/// The lower half of the 13th byte.
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// Reads one header. `None` when the balancer speaks for itself (`LOCAL`) or of no TCP address.
///
/// # Errors
/// When the connection ends or fails, and as soon as what comes is no such header.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; 16];
    let mut got = 0;
    while got < head.len() {
        match stream.read(&mut head[got..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => got += count,
        }
        let compared = got.min(SIGNATURE.len());
        check(head[..compared] == SIGNATURE[..compared], "no header of version 2")?;
    }
    let (version, command, family) = (head[12] >> 4, head[12] & 0x0f, head[13]);
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    check(version == 2, "a version other than 2")?;
    check(command == LOCAL || command == PROXY, "an unassigned command")?;
    check(length <= MAX_LENGTH, "more than 2048 bytes of addresses and options")?;
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    if command == LOCAL {
        return Ok(None);
    }
    check(family >> 4 <= 3 && family & 0x0f <= 2, "an unassigned address family or transport")?;
    let addresses = [0, 12, 36, 216][usize::from(family >> 4)];
    check(family & 0x0f == 0 || length >= addresses, "fewer bytes than its addresses take")?;
    Ok(match family {
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
    })
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

    #[tokio::test]
    async fn the_client_address_is_read_and_bytes_after_it_stay() {
        let mut bytes = header(1, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 0, 80]);
        bytes.extend(b"GET");
        let mut stream = &bytes[..];
        assert_eq!(read(&mut stream).await.unwrap(), Some("192.0.2.7:8080".parse().unwrap()));
        assert_eq!(stream, b"GET");
    }

    #[tokio::test]
    async fn local_short_and_hostile_headers_are_told_apart() {
        assert_eq!(read(&mut &header(0, 0, &[])[..]).await.unwrap(), None);
        assert_eq!(read(&mut &header(0, 0x11, &[1, 2, 3])[..]).await.unwrap(), None);
        assert_eq!(read(&mut &header(1, 0x31, &[0; 216])[..]).await.unwrap(), None);
        assert!(read(&mut &header(1, 0x11, &[1, 2, 3])[..]).await.is_err());
        assert!(read(&mut &header(1, 0x41, &[0; 216])[..]).await.is_err());
        assert!(read(&mut &header(2, 0x11, &[0; 12])[..]).await.is_err());
        assert!(read(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]).await.is_err());
        assert!(read(&mut &header(1, 0x11, &[0; 4000])[..]).await.is_err());
    }
}

//! PROXY protocol v2: the header a load balancer puts before the client's bytes.
//!
//! Source: "The PROXY protocol", Willy Tarreau, HAProxy, revision of 2020/03/05, section 2.2.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const MAX_LENGTH: usize = 2048;

/// Reads one header. `None` when the balancer speaks for itself (`LOCAL`) or of no TCP address.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if &head[..12] != SIGNATURE || head[12] >> 4 != 2 || length > MAX_LENGTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no PROXY protocol v2 header (`public.proxy_protocol` is on)",
        ));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    if head[12] & 0x0f == 0 {
        return Ok(None);
    }
    Ok(match head[13] {
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
        assert_eq!(read(&mut &header(1, 0x11, &[1, 2, 3])[..]).await.unwrap(), None);
        assert!(read(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]).await.is_err());
        assert!(read(&mut &header(1, 0x11, &[0; 4000])[..]).await.is_err());
    }
}

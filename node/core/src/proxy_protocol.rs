//! PROXY protocol v2: the header a load balancer puts before the client's bytes.
//!
//! Source: "The PROXY protocol", Willy Tarreau, HAProxy, revision of 2020/03/05, section 2.2.

mod header;

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt};

use header::Parsed;

/// Reads one header, and nothing behind it. `None` when the balancer speaks for itself (`LOCAL`) or of no TCP
/// address.
///
/// # Errors
/// When the connection ends or fails, and as soon as what comes is no such header.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut bytes = Vec::new();
    loop {
        let missing = match header::parse(&bytes)? {
            Parsed::Part(missing) => missing,
            Parsed::Header(client) => return Ok(client),
        };
        let filled = bytes.len();
        bytes.resize(filled + missing, 0);
        match stream.read(&mut bytes[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.truncate(filled + count),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const HEADER: &[u8; 28] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x1f\x90\0\x50";

    #[tokio::test]
    async fn the_client_address_is_read_and_bytes_after_it_stay() {
        let bytes = [&HEADER[..], b"GET"].concat();
        let mut stream = &bytes[..];
        assert_eq!(read(&mut stream).await.unwrap(), Some("192.0.2.7:8080".parse().unwrap()));
        assert_eq!(stream, b"GET");
    }

    #[tokio::test]
    async fn it_may_come_byte_by_byte() {
        let (mut balancer, mut stream) = tokio::io::duplex(1);
        let (sent, client) = tokio::join!(balancer.write_all(HEADER), read(&mut stream));
        sent.unwrap();
        assert_eq!(client.unwrap(), Some("192.0.2.7:8080".parse().unwrap()));
    }

    #[tokio::test]
    async fn an_end_and_what_is_no_header_are_told_apart() {
        for length in 0..HEADER.len() {
            let error = read(&mut &HEADER[..length]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
        let error = read(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

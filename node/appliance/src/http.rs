//! A GET over HTTP/1.1, as small as the box needs it: loopback, no TLS, bounded in bytes and in time.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Largest answer that is read, header and body, bytes.
const MOST: usize = 4 << 20;
/// How long an answer may take, from the connection to its end.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What says nothing of the client: a PROXY protocol header v2 of the kind LOCAL.
pub const PROXY_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody is there, or they went away.
    #[error("{0} does not answer: {1}")]
    Io(SocketAddr, io::Error),
    /// It took too long.
    #[error("{0} does not answer in time")]
    Slow(SocketAddr),
    /// What came is no answer.
    #[error("{0} answers with {1}")]
    Answer(SocketAddr, &'static str),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, without any transfer coding.
    pub body: Vec<u8>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Get<'a> {
    /// The path.
    pub path: &'a str,
    /// Bearer token; empty sends none.
    pub token: &'a str,
    /// Sent before the request.
    pub preface: &'a [u8],
}

/// An address to connect to for one that is listened on: the loopback stands for all of them.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks once.
///
/// # Errors
/// When there is no whole answer within the patience.
pub fn get(address: SocketAddr, get: Get<'_>, patience: Duration) -> Result<Answer, HttpError> {
    let until = Instant::now() + patience;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => HttpError::Slow(address),
        _ => HttpError::Io(address, error),
    };
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(failed)?;
    stream.set_write_timeout(Some(patience)).map_err(failed)?;
    stream.write_all(&request(address, get)).map_err(failed)?;
    let (mut bytes, mut part) = (Vec::new(), [0; 16 << 10]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HttpError::Slow(address));
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        match stream.read(&mut part).map_err(failed)? {
            0 => break,
            read => bytes.extend_from_slice(&part[..read]),
        }
        if bytes.len() > MOST {
            return Err(HttpError::Answer(address, "more than is read of an answer"));
        }
    }
    parse(&bytes).map_err(|what| HttpError::Answer(address, what))
}

fn request(address: SocketAddr, get: Get<'_>) -> Vec<u8> {
    let mut request = get.preface.to_vec();
    // HTTP/1.0: the answer has no transfer coding and ends with the connection (RFC 9112 §6.3).
    request.extend_from_slice(format!("GET {} HTTP/1.0\r\nHost: {address}\r\n", get.path).as_bytes());
    if !get.token.is_empty() {
        request.extend_from_slice(format!("Authorization: Bearer {}\r\n", get.token).as_bytes());
    }
    request.extend_from_slice(b"Connection: close\r\n\r\n");
    request
}

fn parse(bytes: &[u8]) -> Result<Answer, &'static str> {
    let line_end = bytes.iter().position(|byte| *byte == b'\n').ok_or("half of an answer")?;
    let line = std::str::from_utf8(&bytes[..line_end]).map_err(|_| "something else than HTTP")?;
    let mut words = line.split_ascii_whitespace();
    if !words.next().is_some_and(|word| word.starts_with("HTTP/1.")) {
        return Err("something else than HTTP");
    }
    let status =
        words.next().and_then(|word| word.parse().ok()).filter(|status| (100..=599).contains(status));
    let status = status.ok_or("something else than HTTP")?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("half of an answer")?;
    // Without a field the line's own end is the first of the two.
    let header =
        String::from_utf8_lossy(bytes.get(line_end + 1..end).unwrap_or_default()).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let mut fields = header.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| *name == "content-length").map(|(_, value)| value.trim().parse());
    match length {
        Some(Ok(length)) if body.len() < length => Err("half of an answer"),
        Some(Ok(length)) => Ok(Answer { status, body: body[..length].to_vec() }),
        Some(Err(_)) => Err("something else than HTTP"),
        None => Ok(Answer { status, body: body.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// An address at which each connection gets these bytes, after its request, and is then held or closed.
    fn serve(answer: &'static [u8], hold: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut held = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer);
                if hold {
                    held.push(stream);
                }
            }
        });
        address
    }

    fn ask(answer: &'static [u8]) -> Result<Answer, HttpError> {
        get(serve(answer, false), Get { path: "/readyz", ..Get::default() }, Duration::from_secs(5))
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let answer = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX: y\r\n\r\nready\nmore").unwrap();
        assert_eq!(answer, Answer { status: 200, body: b"ready\n".to_vec() });
        let answer = ask(b"HTTP/1.0 503 Service Unavailable\r\n\r\nno").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (503, &b"no"[..]));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for answer in [
            &b""[..],
            b"\n",
            b"\xff\xff\n\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n\r\n",
            b"HTTP/1.1 99 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nrea",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ] {
            assert!(ask(answer).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn nobody_is_waited_for() {
        let address = serve(b"HTTP/1.1 200 OK\r\n", true);
        let answer = get(address, Get { path: "/", ..Get::default() }, Duration::from_millis(100));
        assert!(matches!(answer, Err(HttpError::Slow(_))), "{answer:?}");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(get(closed, Get::default(), PATIENCE), Err(HttpError::Io(..))));
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_the_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(
            [at("0.0.0.0:1"), at("[::]:2"), at("192.0.2.1:3")],
            ["127.0.0.1:1", "[::1]:2", "192.0.2.1:3"]
        );
    }
}

//! A raw HTTP/1.1 client over blocking sockets: it sends exactly the bytes it is given, reads
//! answers leniently, and tells an answer that was cut from one that is complete.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The `Host` of every request that does not name another, so that a stored object keeps its key
/// when a restarted node listens on another port.
pub const HOST: &str = "edge.test";

/// How long one read or write may take before the scenario fails.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Field lines in the order in which they arrived, names as they were sent.
pub type Fields = Vec<(String, String)>;

/// An answer, complete or not.
#[derive(Clone, Debug)]
pub struct Response {
    /// Interim answers that came before it: status and fields.
    pub interim: Vec<(u16, Fields)>,
    /// The status code.
    pub status: u16,
    /// The header section.
    pub headers: Fields,
    /// The content that arrived, without chunk framing.
    pub body: Vec<u8>,
    /// The trailer section of a chunked answer.
    pub trailers: Fields,
    /// Whether the content ended as its framing promised; false when the connection broke off.
    pub complete: bool,
}

impl Response {
    /// The first field line of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The field `name` as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// Every field line of that name, joined as a list.
    pub fn list(&self, name: &str) -> String {
        let lines: Vec<&str> = self
            .headers
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        lines.join(", ")
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The parameters of this node's member of `Cache-Status` (RFC 9211 §2), such as `hit` or
    /// `fwd=stale`. Empty when the field is missing.
    pub fn cache_status(&self) -> Vec<String> {
        let list = self.list("cache-status");
        let Some(member) = list.rsplit(',').find(|member| member.trim_start().starts_with("skerry")) else {
            return Vec::new();
        };
        member.split(';').skip(1).map(|parameter| parameter.trim().to_owned()).collect()
    }

    /// Whether `Cache-Status` says that the answer came from the cache.
    pub fn is_hit(&self) -> bool {
        self.cache_status().iter().any(|parameter| parameter == "hit")
    }

    /// The value of a parameter of `Cache-Status`.
    pub fn cache_status_value(&self, name: &str) -> Option<String> {
        self.cache_status().iter().find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    }

    /// The problem document (RFC 9457 §3) that an error is expected to be. Panics when the status,
    /// the media type or one of `type`, `title`, `status` and `detail` is not right.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let media = self.header("content-type").unwrap_or("none");
        assert!(media.starts_with("application/problem+json"), "an error came as {media}");
        let problem: Value = serde_json::from_slice(&self.body).expect("a problem document is JSON");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].is_string(), "no {member} in the problem document {problem}");
        }
        assert_eq!(problem["status"], u64::from(status), "in {problem}");
        problem
    }
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What a look at a connection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing arrived, and the other side has not closed.
    Quiet,
    /// Bytes have arrived.
    Data,
    /// The other side closed or reset the connection.
    Closed,
}

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Connection {
    /// Connects. Panics when nobody listens there.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap_or_else(|error| panic!("cannot connect {address}: {error}"))
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        Self::try_open_within(address, TIMEOUT)
    }

    /// Connects, and lets that take no longer than `bound`, nor one read or write after it.
    ///
    /// # Errors
    /// When nobody listens there, or that is not known in time.
    pub fn try_open_within(address: SocketAddr, bound: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, bound)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(bound))?;
        stream.set_write_timeout(Some(bound))?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// The port on this side, by which the other side knows the connection.
    pub fn local_port(&self) -> u16 {
        self.stream.local_addr().expect("a connected socket has an address").port()
    }

    /// Sends these bytes and nothing else.
    ///
    /// # Errors
    /// When the connection is closed, or takes nothing for [`TIMEOUT`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request, with [`HOST`] unless the fields name another host, and with a
    /// `Content-Length` when there is a body.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {HOST}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    /// Reads an answer to a request with `method` to its end. A connection that closes before the
    /// end of the content gives an answer that is not `complete`.
    ///
    /// # Errors
    /// When the connection closes before the end of the header section, the head is not HTTP, or
    /// nothing arrives for [`TIMEOUT`].
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.head()?;
        self.body(method, &mut response)?;
        Ok(response)
    }

    /// Reads the head of an answer and the interim answers before it; `body` is left empty.
    ///
    /// # Errors
    /// As [`Connection::response`].
    pub fn head(&mut self) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let line = self.line()?;
            let mut words = line.split_ascii_whitespace();
            let version = words.next().unwrap_or_default();
            let status: Option<u16> = words.next().and_then(|word| word.parse().ok());
            let (true, Some(status)) = (version.starts_with("HTTP/"), status) else {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("not a status line: {line:?}")));
            };
            let headers = self.fields()?;
            if (100..200).contains(&status) && status != 101 {
                interim.push((status, headers));
                continue;
            }
            let (body, trailers) = (Vec::new(), Vec::new());
            return Ok(Response { interim, status, headers, body, trailers, complete: false });
        }
    }

    /// Reads the content that belongs to `response`, after what its `body` already holds of it
    /// (which only an answer with a `Content-Length` may).
    ///
    /// # Errors
    /// When nothing arrives for [`TIMEOUT`], or chunk framing is broken.
    pub fn body(&mut self, method: &str, response: &mut Response) -> io::Result<()> {
        if method == "HEAD" || response.status == 204 || response.status == 304 {
            response.complete = true;
            return Ok(());
        }
        let chunked = find(&response.headers, "transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
        if chunked {
            return self.chunks(response);
        }
        if let Some(length) = response.number("content-length") {
            let missing = length.saturating_sub(response.body.len() as u64);
            response.complete = self.take_into(&mut response.body, missing)?;
        } else {
            response.complete = !self.take_into(&mut response.body, u64::MAX)?;
        }
        Ok(())
    }

    fn chunks(&mut self, response: &mut Response) -> io::Result<()> {
        loop {
            let Some(line) = cut_is_none(self.line())? else {
                return Ok(());
            };
            let digits = line.split(';').next().unwrap_or_default().trim();
            let Ok(size) = u64::from_str_radix(digits, 16) else {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("not a chunk size: {line:?}")));
            };
            if size == 0 {
                if let Some(trailers) = cut_is_none(self.fields())? {
                    response.trailers = trailers;
                    response.complete = true;
                }
                return Ok(());
            }
            if !self.take_into(&mut response.body, size)? {
                return Ok(());
            }
            if cut_is_none(self.line())?.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads until at least `count` bytes of content with a `Content-Length` have arrived, and
    /// appends them to `response.body`. Returns false when the connection broke off before.
    ///
    /// # Errors
    /// When nothing arrives for [`TIMEOUT`].
    pub fn take(&mut self, response: &mut Response, count: u64) -> io::Result<bool> {
        self.take_into(&mut response.body, count)
    }

    fn take_into(&mut self, body: &mut Vec<u8>, mut wanted: u64) -> io::Result<bool> {
        while wanted > 0 {
            if self.pending.is_empty() && !self.fill()? {
                return Ok(false);
            }
            let count =
                usize::try_from(wanted).map_or(self.pending.len(), |wanted| wanted.min(self.pending.len()));
            body.extend_from_slice(&self.pending[..count]);
            self.pending.drain(..count);
            wanted -= count as u64;
        }
        Ok(true)
    }

    fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// A line without its CRLF or LF.
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
            }
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads what is there; false at the end of the connection, however it ended.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0u8; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.pending.extend_from_slice(&buffer[..count]);
                    return Ok(true);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                        return Ok(false);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Looks for up to `bound` whether something arrives or the other side closes. What arrives is
    /// kept for the next read.
    pub fn look(&mut self, bound: Duration) -> State {
        if !self.pending.is_empty() {
            return State::Data;
        }
        self.stream.set_read_timeout(Some(bound)).expect("a timeout above zero");
        let state = match self.fill() {
            Ok(true) => State::Data,
            Ok(false) => State::Closed,
            Err(_) => State::Quiet,
        };
        self.stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout above zero");
        state
    }

    /// Whether the other side closes within `bound`. What it still sends is thrown away.
    pub fn closes_within(&mut self, bound: Duration) -> bool {
        let started = Instant::now();
        while started.elapsed() < bound {
            if self.look(Duration::from_millis(50)) == State::Closed {
                return true;
            }
            self.pending.clear();
        }
        false
    }

    /// Whether the node still holds its end of this connection open, as the kernel's table tells.
    /// That is how a client which reads nothing can see that it was cut.
    pub fn is_held_by(&self, server: SocketAddr) -> bool {
        const ESTABLISHED: &str = "01";
        let (server, client) = (server.port(), self.local_port());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table of sockets");
        table.lines().skip(1).any(|row| {
            let words: Vec<&str> = row.split_ascii_whitespace().collect();
            words.len() > 3
                && port(words[1]) == Some(server)
                && port(words[2]) == Some(client)
                && words[3] == ESTABLISHED
        })
    }
}

/// The port of an address in `/proc/net/tcp`, which is written in hex.
fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

/// The end of the connection as `None`.
fn cut_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// When connecting fails, or as [`Connection::response`].
pub fn fetch(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut connection = Connection::try_open(address)?;
    connection.request(method, target, headers, body)?;
    connection.response(method)
}

/// Sends exact bytes on a connection of its own and reads one answer. A write that fails because
/// the node has already answered and closed is no error.
///
/// # Errors
/// When connecting fails, or as [`Connection::response`].
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Response> {
    let mut connection = Connection::try_open(address)?;
    let _ = connection.send(bytes);
    connection.response("GET")
}

//! A scriptable HTTP/1.1 origin, on loopback unless told otherwise. It runs on a thread and a runtime
//! of its own, so that a scenario can be a plain `#[test]`, and it remembers every request that reached it.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::reply::{Framing, Reply};
use crate::wait;

/// Header sections and bodies of requests may be this large; a node that sends more is cut.
const MAX_REQUEST: usize = 16 << 20;

/// How much content is written at a time when a reply does not drip.
const STEP: u64 = 64 * 1024;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// The method.
    pub method: String,
    /// The request target, with its query.
    pub target: String,
    /// The field lines in their order.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
    /// How many requests for this target came before.
    pub number: usize,
}

impl RawRequest {
    /// The first field line of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

type Handler = Arc<dyn Fn(&RawRequest) -> Reply + Send + Sync>;

#[derive(Default)]
struct Shared {
    routes: Mutex<HashMap<String, Handler>>,
    fallback: Mutex<Option<Handler>>,
    log: Mutex<Vec<RawRequest>>,
    sent: Mutex<HashMap<String, u64>>,
}

impl Shared {
    fn handler(&self, request: &RawRequest) -> Option<Handler> {
        let routes = self.routes.lock().expect("the routes are whole");
        if let Some(handler) = routes.get(request.path()) {
            return Some(Arc::clone(handler));
        }
        self.fallback.lock().expect("the fallback is whole").clone()
    }

    /// Numbers a request and writes it down.
    fn record(&self, request: &mut RawRequest) {
        let mut log = self.log.lock().expect("the log is whole");
        request.number = log.iter().filter(|earlier| earlier.target == request.target).count();
        log.push(request.clone());
    }

    fn count_sent(&self, path: &str, bytes: u64) {
        let mut sent = self.sent.lock().expect("the counts are whole");
        *sent.entry(path.to_owned()).or_default() += bytes;
    }
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The origin. It stops when it is dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<Running>,
}

impl Origin {
    /// Starts an origin that answers 404 to everything until [`Origin::serve`] says otherwise.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into())
    }

    /// [`Origin::start`] on another address of this machine.
    pub fn start_on(address: IpAddr) -> Self {
        let listener = std::net::TcpListener::bind((address, 0)).expect("a port on this address");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let running = Some(run(listener, Arc::clone(&shared)));
        Self { address, shared, running }
    }

    /// The root of this origin.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers requests for `path` (with any query) by calling `handler`, from now on.
    pub fn serve(&self, path: &str, handler: impl Fn(&RawRequest) -> Reply + Send + Sync + 'static) {
        self.shared.routes.lock().expect("the routes are whole").insert(path.to_owned(), Arc::new(handler));
    }

    /// Answers requests for `path` with this reply, whoever asks and however often.
    pub fn reply(&self, path: &str, reply: Reply) {
        self.serve(path, move |_| reply.clone());
    }

    /// Answers whatever no path was given for.
    pub fn serve_rest(&self, handler: impl Fn(&RawRequest) -> Reply + Send + Sync + 'static) {
        let mut fallback = self.shared.fallback.lock().expect("the fallback is whole");
        *fallback = Some(Arc::new(handler));
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<RawRequest> {
        self.shared.log.lock().expect("the log is whole").clone()
    }

    /// The requests for `path` so far.
    pub fn requests_for(&self, path: &str) -> Vec<RawRequest> {
        let mut requests = self.requests();
        requests.retain(|request| request.path() == path);
        requests
    }

    /// How many requests for `path` have arrived.
    pub fn count(&self, path: &str) -> usize {
        self.requests_for(path).len()
    }

    /// How many bytes of content were sent for `path`.
    pub fn bytes_sent(&self, path: &str) -> u64 {
        let sent = self.shared.sent.lock().expect("the counts are whole");
        sent.get(path).copied().unwrap_or(0)
    }

    /// Closes the listener and every connection: the origin is down.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            // A thread that has ended by itself has dropped the receiver.
            let _ = running.stop.send(());
            let _ = running.thread.join();
        }
    }

    /// Brings an origin that was stopped up again at the same address, with the same script.
    pub fn restart(&mut self) {
        self.stop();
        let listener = wait::value("the origin's port", Duration::from_secs(10), || {
            std::net::TcpListener::bind(self.address).ok()
        });
        self.running = Some(run(listener, Arc::clone(&self.shared)));
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(listener: std::net::TcpListener, shared: Arc<Shared>) -> Running {
    let (stop, stopped) = oneshot::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            listener.set_nonblocking(true).expect("a plain socket");
            let listener = TcpListener::from_std(listener).expect("a listening socket");
            tokio::select! {
                () = accept(listener, shared) => {}
                _ = stopped => {}
            }
        });
    });
    Running { stop, thread }
}

/// Serves connections for ever; when this future is dropped they all end with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                // A node that goes away in the middle is part of many scenarios.
                let _ = serve(stream, &shared).await;
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pending = Vec::new();
    while let Some(mut request) = read_request(&mut stream, &mut pending).await? {
        shared.record(&mut request);
        let reply = match shared.handler(&request) {
            Some(handler) => handler(&request),
            None => Reply::status(404),
        };
        if !answer(&mut stream, &request, &reply, shared).await? {
            break;
        }
    }
    stream.shutdown().await
}

/// Sends the reply; true when the connection may carry another request.
async fn answer(
    stream: &mut TcpStream,
    request: &RawRequest,
    reply: &Reply,
    shared: &Shared,
) -> io::Result<bool> {
    if let Some(gate) = &reply.hold_head {
        gate.passed().await;
    }
    if let Some(raw) = &reply.raw {
        stream.write_all(raw).await?;
        return Ok(false);
    }
    let (head, from, count) = reply.resolve(request);
    stream.write_all(&head).await?;
    let chunked = reply.framing == Framing::Chunked;
    let step = reply.drip.map_or(STEP, |(bytes, _)| bytes.max(1));
    let mut sent = 0;
    while sent < count {
        let mut end = count.min(sent + step);
        if let Some((position, gate)) = &reply.hold_body {
            if sent == *position {
                gate.passed().await;
            } else if sent < *position {
                end = end.min(*position);
            }
        }
        if let Some(position) = reply.cut_after {
            if sent >= position {
                return Ok(false);
            }
            end = end.min(position);
        }
        let piece = reply.piece(from + sent, end - sent);
        if chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
        }
        stream.write_all(&piece).await?;
        if chunked {
            stream.write_all(b"\r\n").await?;
        }
        shared.count_sent(request.path(), end - sent);
        sent = end;
        if let Some((_, pause)) = reply.drip {
            tokio::time::sleep(pause).await;
        }
    }
    if reply.cut_after.is_some_and(|position| position <= sent) {
        return Ok(false);
    }
    if chunked && request.method != "HEAD" {
        let mut end = String::from("0\r\n");
        for (name, value) in &reply.trailers {
            end.push_str(&format!("{name}: {value}\r\n"));
        }
        end.push_str("\r\n");
        stream.write_all(end.as_bytes()).await?;
    }
    Ok(!reply.closes)
}

/// The next request of a connection, `None` when it was closed between requests.
async fn read_request(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Option<RawRequest>> {
    let Some(first) = read_line(stream, pending).await? else {
        return Ok(None);
    };
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let mut request = RawRequest { method, target, headers: Vec::new(), body: Vec::new(), number: 0 };
    loop {
        let line = read_line(stream, pending).await?.ok_or(ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    if request.header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if request.header("transfer-encoding").is_some() {
        loop {
            let line = read_line(stream, pending).await?.ok_or(ErrorKind::UnexpectedEof)?;
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            let mut chunk = read_exact(stream, pending, size).await?;
            request.body.append(&mut chunk);
            // After the last chunk this is the end of an empty trailer section.
            read_line(stream, pending).await?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        request.body = read_exact(stream, pending, length).await?;
    }
    Ok(Some(request))
}

/// A line without its CRLF; `None` at the end of the connection.
async fn read_line(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            return Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
        if !read_some(stream, pending).await? {
            return Ok(None);
        }
    }
}

async fn read_exact(stream: &mut TcpStream, pending: &mut Vec<u8>, count: usize) -> io::Result<Vec<u8>> {
    if count > MAX_REQUEST {
        return Err(ErrorKind::InvalidData.into());
    }
    while pending.len() < count {
        if !read_some(stream, pending).await? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(pending.drain(..count).collect())
}

/// Reads what is there; false at the end of the connection.
async fn read_some(stream: &mut TcpStream, pending: &mut Vec<u8>) -> io::Result<bool> {
    if pending.len() > MAX_REQUEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut buffer = [0u8; 16 * 1024];
    let count = stream.read(&mut buffer).await?;
    pending.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw;
    use crate::reply::Gate;

    fn get(origin: &Origin, path: &str, headers: &[(&str, &str)]) -> raw::Response {
        raw::fetch(origin.address, "GET", path, headers, b"").expect("an answer")
    }

    #[test]
    fn an_origin_does_as_it_is_told() {
        let mut origin = Origin::start();
        let reply = Reply::ok("0123456789").etag("one").ranges().validates();
        origin.reply("/length", reply.clone());
        origin.reply("/chunked", reply.clone().trailer("X-End", "yes"));
        origin.reply("/cut", reply.clone().cut_after(4));
        origin.reply("/claims", reply.claims(20).then_close());

        assert_eq!(get(&origin, "/length", &[]).text(), "0123456789");
        let part = get(&origin, "/length", &[("Range", "bytes=2-4")]);
        assert_eq!((part.status, part.text().as_str()), (206, "234"));
        assert_eq!(get(&origin, "/length", &[("If-None-Match", "\"one\"")]).status, 304);
        let chunked = get(&origin, "/chunked", &[]);
        assert!(chunked.complete);
        assert_eq!(chunked.trailers, [("X-End".to_owned(), "yes".to_owned())]);
        for path in ["/cut", "/claims"] {
            assert!(!get(&origin, path, &[]).complete);
        }
        assert_eq!(get(&origin, "/else", &[]).status, 404);
        assert_eq!((origin.count("/length"), origin.bytes_sent("/length")), (3, 13));

        origin.stop();
        assert!(raw::fetch(origin.address, "GET", "/length", &[], b"").is_err());
        origin.restart();
        assert_eq!(get(&origin, "/length", &[]).status, 200);
    }

    #[test]
    fn a_gate_holds_the_content_back_until_it_opens() {
        let gate = Gate::closed();
        let origin = Origin::start();
        origin.reply("/held", Reply::generated(1, 1000).hold_after(300, &gate));
        let mut client = raw::Connection::open(origin.address);
        client.request("GET", "/held", &[], b"").expect("a request is sent");
        let mut answer = client.head().expect("a head");
        assert!(client.take(&mut answer, 300).expect("some content"));
        assert_eq!(client.look(Duration::from_millis(50)), raw::State::Quiet);
        gate.open();
        client.body("GET", &mut answer).expect("the rest");
        assert_eq!(answer.body, crate::content::bytes(1, 0, 1000));
    }
}

//! The node under test: the real `skerry` binary with a configuration and a data directory of its
//! own, every listener on port 0. Ready when a scenario gets it, killed when it is dropped.

mod builder;

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

pub use self::builder::NodeBuilder;
use crate::exposition::sample;
use crate::netns::Netns;
use crate::origin::Origin;
use crate::process::{binary, clean, run};
use crate::raw::{self, Response};
use crate::wait;

/// How long a node may take from its start until it is ready.
const START: Duration = Duration::from_secs(30);

/// How long a node may take to end after it was told to.
const END: Duration = Duration::from_secs(60);

/// How long a fill may take to settle in the store after its last byte reached the client.
const SETTLE: Duration = Duration::from_secs(10);

/// Longest way of a line from the node to its log.
const LOGGED: Duration = Duration::from_secs(20);

/// Names and values.
type Fields = Vec<(String, String)>;

/// What a node writes into `listeners.json` when it is ready.
#[derive(Clone, Debug, Deserialize)]
struct Listeners {
    pid: u32,
    public: Vec<SocketAddr>,
    #[serde(default)]
    tls: Vec<SocketAddr>,
    #[serde(default)]
    peers: Vec<SocketAddr>,
    #[serde(default)]
    tracker: Vec<SocketAddr>,
    admin: SocketAddr,
    #[serde(default)]
    admin_tls: Vec<SocketAddr>,
}

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    data_dir: PathBuf,
    config: PathBuf,
    token: Option<String>,
    environment: Fields,
    netns: Option<Netns>,
    child: Option<Child>,
    reader: Option<JoinHandle<()>>,
    stderr: Arc<Mutex<Vec<String>>>,
    listeners: Option<Listeners>,
}

impl Node {
    /// A node whose default site has `origin`, with the smallest settings that serve.
    pub fn with_origin(origin: &str) -> NodeBuilder {
        NodeBuilder::default()
            .text("node", "name", "skerry")
            .set("node", "drain_seconds", 10)
            .text("log", "level", "info")
            .text("log", "format", "terminal")
            .set("public", "listen", "[\"127.0.0.1:0\"]")
            .text("admin", "listen", "127.0.0.1:0")
            .set("store", "capacity_bytes", 1u64 << 30)
            .set("store", "pinned_bytes", 256 << 20)
            .set("store", "memory_tier_bytes", 32 << 20)
            .text("sites.default", "origin", origin)
    }

    /// A node in front of a scripted origin.
    pub fn in_front_of(origin: &Origin) -> NodeBuilder {
        Self::with_origin(&origin.url())
    }

    /// Starts the node and waits until it is ready: `listeners.json` is this process's and
    /// `/readyz` answers 200. Panics with what it logged when it is not within 30 seconds.
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(problem) = self.try_start() {
            panic!("the node did not start: {problem}\n{}", self.stderr().join("\n"));
        }
    }

    fn try_start(&mut self) -> io::Result<()> {
        let mut command = match &self.netns {
            Some(netns) => netns.command(binary()),
            None => clean(binary()),
        };
        // What somebody has set for a bucket of his own is not for this node.
        let foreign = std::env::vars_os().map(|(name, _)| name);
        for name in foreign.filter(|name| name.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(name);
        }
        let mut child = command
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = child.id();
        let stderr = child.stderr.take();
        self.child = Some(child);
        let lines = Arc::clone(&self.stderr);
        self.reader = stderr.map(|stderr| {
            thread::spawn(move || {
                for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    lines.lock().expect("the log is whole").push(line);
                }
            })
        });
        let started = Instant::now();
        while started.elapsed() < START {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            if self.read_listeners(pid)
                && self.try_admin("GET", "/readyz", b"").is_ok_and(|response| response.status == 200)
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::other(format!("it is not ready after {START:?}")))
    }

    fn read_listeners(&mut self, pid: u32) -> bool {
        let Ok(bytes) = std::fs::read(self.data_dir.join("listeners.json")) else {
            return false;
        };
        match serde_json::from_slice::<Listeners>(&bytes) {
            Ok(listeners) if listeners.pid == pid => {
                self.listeners = Some(listeners);
                true
            }
            _ => false,
        }
    }

    fn listeners(&self) -> &Listeners {
        self.listeners.as_ref().expect("the node was started")
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("the node is running")
    }

    /// The node's process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node is running").id()
    }

    /// The first public listener.
    pub fn public(&self) -> SocketAddr {
        self.listeners().public[0]
    }

    /// The first TLS listener.
    pub fn tls(&self) -> SocketAddr {
        self.listeners().tls[0]
    }

    /// The listeners for BitTorrent peers.
    pub fn peers(&self) -> &[SocketAddr] {
        &self.listeners().peers
    }

    /// The tracker's listeners; each takes HTTP by TCP and the UDP protocol on one port.
    pub fn tracker(&self) -> &[SocketAddr] {
        &self.listeners().tracker
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.listeners().admin
    }

    /// The first admin listener over TLS.
    pub fn admin_tls(&self) -> SocketAddr {
        self.listeners().admin_tls[0]
    }

    /// The address of a path on the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public())
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A folder that lives as long as the node, for files that a scenario gives it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `skerry run` with this configuration to its end, for at most a minute: for
    /// configurations that are not expected to start.
    pub fn run_to_end(&self, more: &[&str]) -> Output {
        let config = self.config.to_string_lossy().into_owned();
        let mut arguments = vec!["run", "--config", config.as_str()];
        arguments.extend_from_slice(more);
        run(&arguments)
    }

    /// Runs a command of the binary against this node's admin listener.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let admin = format!("http://{}", self.admin());
        let mut all = arguments.to_vec();
        all.extend_from_slice(&["--node", admin.as_str()]);
        run(&all)
    }

    /// A request to the public listener, on a connection of its own.
    ///
    /// # Errors
    /// When no answer came.
    pub fn fetch(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        raw::fetch(self.public(), method, target, headers, body)
    }

    /// A GET that must be answered, with these fields.
    #[track_caller]
    pub fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.fetch("GET", target, headers, b"")
            .unwrap_or_else(|error| panic!("GET {target} was not answered: {error}"))
    }

    /// A GET that must be answered.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.get_with(target, &[])
    }

    /// Repeats a GET until it is answered from the cache: a fill may settle a moment after its
    /// last byte has reached the client.
    #[track_caller]
    pub fn hit_with(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        wait::value(&format!("a hit on {target}"), SETTLE, || {
            let response = self.get_with(target, headers);
            response.is_hit().then_some(response)
        })
    }

    /// [`Node::hit_with`] without fields.
    #[track_caller]
    pub fn hit(&self, target: &str) -> Response {
        self.hit_with(target, &[])
    }

    /// A request to the admin listener, with the token when there is one.
    ///
    /// # Errors
    /// When no answer came.
    pub fn try_admin(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        let admin = self.admin();
        let host = admin.to_string();
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Host", host.as_str())];
        if let Some(bearer) = &bearer {
            headers.push(("Authorization", bearer.as_str()));
        }
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        raw::fetch(admin, method, path, &headers, body)
    }

    /// A GET on the admin listener that must be answered.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        self.try_admin("GET", path, b"")
            .unwrap_or_else(|error| panic!("GET {path} on the admin listener: {error}"))
    }

    /// A POST of JSON on the admin listener that must be answered.
    #[track_caller]
    pub fn admin_post(&self, path: &str, body: &Value) -> Response {
        self.try_admin("POST", path, body.to_string().as_bytes())
            .unwrap_or_else(|error| panic!("POST {path} on the admin listener: {error}"))
    }

    /// The sum of the samples of that name which carry all these labels; 0 when there are none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.admin_get("/metrics").text();
        text.lines().filter_map(|line| sample(line, name, labels)).sum()
    }

    /// The bytes of memory that are the process's own: neither mapped files nor its code.
    pub fn memory_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the node is running");
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|rest| rest.split_ascii_whitespace().next())
            .and_then(|word| word.parse().ok())
            .expect("the kernel tells RssAnon");
        kibibytes * 1024
    }

    /// What the node has written to its standard error since the first start.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().expect("the log is whole").clone()
    }

    /// Whether a line of the log contains all these words.
    pub fn logged(&self, words: &[&str]) -> bool {
        self.stderr().iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Waits for a line of the log that contains all these words: what the node has written may still be on
    /// its way.
    #[track_caller]
    pub fn must_log(&self, words: &[&str]) {
        wait::until(&format!("a log line with {words:?}"), LOGGED, || self.logged(words));
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status()
            .expect("kill of procps runs");
        assert!(status.success(), "cannot send {name} to the node");
    }

    /// Waits until the node has ended by itself; panics when it has not within a minute.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let child = self.child();
        let status = wait::value("the node to end", END, || child.try_wait().expect("the node is our child"));
        self.forget();
        status
    }

    /// Ends the node with SIGTERM and returns how it ended.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Ends the node with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only for a process that has already been waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.forget();
    }

    /// Ends the node in order and starts it again on the same data, on other ports.
    #[track_caller]
    pub fn restart(&mut self) {
        let status = self.stop();
        assert!(status.success(), "the node ended with {status}");
        self.start();
    }

    /// Forgets a process that has ended, after its last log line was read.
    fn forget(&mut self) {
        self.child = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let lines = self.stderr.lock().map(|lines| lines.clone());
            let lines = lines.unwrap_or_default();
            let last = lines.len().saturating_sub(60);
            eprintln!("the node's last lines:\n{}", lines[last..].join("\n"));
        }
    }
}

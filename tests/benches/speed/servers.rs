//! The three servers of a run: Debian's nginx, the node, and the bare hyper server (`ceiling`).
//!
//! Each serves the scratch folder's origin on loopback, in clear and by TLS 1.3 with the same
//! certificate, by two workers (the ceiling: one per core). Dropping a [`Server`] ends it.

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::process::{Process, capture, find_program, wait_for};
use crate::scratch::Scratch;

const MIB: u64 = 1 << 20;

/// How long a server may take to open its sockets.
const START: Duration = Duration::from_secs(60);

/// How long a server may take to end once asked to.
const STOP: Duration = Duration::from_secs(60);

/// Which of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// Debian's nginx: what the node is compared with.
    Nginx,
    /// The node.
    Node,
    /// A bare hyper server over memory: what the node's HTTP library could reach.
    Ceiling,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Which::Nginx => "nginx",
            Which::Node => "node",
            Which::Ceiling => "ceiling",
        })
    }
}

/// The programs that the benchmark runs.
pub(crate) struct Tools {
    pub(crate) nginx: PathBuf,
    pub(crate) wrk: PathBuf,
    pub(crate) skerry: PathBuf,
    pub(crate) ceiling: PathBuf,
}

impl Tools {
    /// Finds them, or says what to install or build.
    pub(crate) fn find() -> Result<Tools> {
        let installed = |name: &str| {
            find_program(name).with_context(|| format!("{name} is not installed: apt-get install {name}"))
        };
        Ok(Tools {
            nginx: installed("nginx")?,
            wrk: installed("wrk")?,
            skerry: node_binary()?,
            ceiling: PathBuf::from(env!("CARGO_BIN_EXE_ceiling")),
        })
    }

    /// The first line of what `nginx -v`, `wrk -v` and `skerry --version` say.
    pub(crate) fn versions(&self) -> [String; 3] {
        [version(&self.nginx, "-v"), version(&self.wrk, "-v"), version(&self.skerry, "--version")]
    }
}

fn version(program: &Path, flag: &str) -> String {
    let said = capture(&program.to_string_lossy(), &[flag]).unwrap_or_default();
    said.lines().next().unwrap_or_default().trim().to_string()
}

/// The release build of the node: `SKERRY_BIN`, or the `skerry` beside this benchmark's build.
fn node_binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("SKERRY_BIN") {
        let named = PathBuf::from(named);
        if !named.is_file() {
            bail!("SKERRY_BIN names {}, which is no file", named.display());
        }
        return Ok(named);
    }
    let this = std::env::current_exe().context("cannot find this program's own path")?;
    this.ancestors()
        .skip(1)
        .flat_map(|folder| [folder.join("skerry"), folder.join("release/skerry")])
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "there is no skerry near {}: run `cargo build --release -p skerry`, or set SKERRY_BIN",
                this.display()
            )
        })
}

/// A server that is running and accepts connections.
pub(crate) struct Server {
    pub(crate) which: Which,
    pub(crate) process: Process,
    /// Where it listens without TLS.
    pub(crate) clear: SocketAddr,
    /// Where it listens with TLS.
    pub(crate) tls: SocketAddr,
}

impl Server {
    /// The address for one of the two.
    pub(crate) fn address(&self, tls: bool) -> SocketAddr {
        if tls { self.tls } else { self.clear }
    }

    /// Ends it in order and waits for that.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.stop(STOP)
    }
}

/// Starts nginx; once more if somebody took its ports in between.
pub(crate) fn nginx(tools: &Tools, scratch: &Scratch) -> Result<Server> {
    nginx_once(tools, scratch).or_else(|error| {
        crate::process::check()?;
        eprintln!("trying nginx once more: {error:#}");
        nginx_once(tools, scratch)
    })
}

fn nginx_once(tools: &Tools, scratch: &Scratch) -> Result<Server> {
    let folder = scratch.at("nginx");
    std::fs::create_dir_all(&folder)?;
    // Both are held until both are known, so that they differ.
    let held = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    let clear = held.0.local_addr()?;
    let tls = held.1.local_addr()?;
    drop(held);

    let configuration = folder.join("nginx.conf");
    std::fs::write(&configuration, nginx_configuration(scratch, &folder, clear, tls)?)?;
    let mut process = Process::start(
        "nginx",
        Command::new(&tools.nginx)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(&configuration),
        folder.join("output.log"),
    )?;
    wait_for("nginx to accept connections", START, || {
        process.ensure_running()?;
        let open = |address| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        Ok((open(clear) && open(tls)).then_some(()))
    })?;
    Ok(Server { which: Which::Nginx, process, clear, tls })
}

fn nginx_configuration(
    scratch: &Scratch,
    folder: &Path,
    clear: SocketAddr,
    tls: SocketAddr,
) -> Result<String> {
    // As root, nginx would hand its workers to a user who may not enter the scratch folder.
    let user = if std::fs::metadata("/proc/self")?.uid() == 0 { "user root root;" } else { "" };
    let folder = folder.display();
    let origin = scratch.origin();
    let origin = origin.display();
    let certificate = scratch.certificate();
    let certificate = certificate.display();
    let key = scratch.key();
    let key = key.display();
    Ok(format!(
        r"daemon off;
{user}
worker_processes 2;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=8192 inactive=600s;
    open_file_cache_valid 600s;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {clear};
        listen {tls} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        root {origin};
    }}
}}
"
    ))
}

/// Starts a node that keeps its data in the scratch folder's `name`, with a memory tier of
/// `memory_tier` bytes.
pub(crate) fn node(tools: &Tools, scratch: &Scratch, name: &str, memory_tier: u64) -> Result<Server> {
    let data = scratch.at(name);
    std::fs::create_dir_all(&data)?;
    let announced = data.join("listeners.json");
    forget(&announced)?;
    let configuration = scratch.at(&format!("{name}.toml"));
    std::fs::write(&configuration, node_configuration(scratch, &data, memory_tier))?;
    let mut process = Process::start(
        "skerry",
        Command::new(&tools.skerry).args(["run", "--config"]).arg(&configuration),
        scratch.at(&format!("{name}.log")),
    )?;
    let (clear, tls) = announcement(&mut process, &announced)?;
    Ok(Server { which: Which::Node, process, clear, tls })
}

fn node_configuration(scratch: &Scratch, data: &Path, memory_tier: u64) -> String {
    let data = data.display();
    let origin = scratch.origin();
    let origin = origin.display();
    let certificate = scratch.certificate();
    let certificate = certificate.display();
    let key = scratch.key();
    let key = key.display();
    let capacity = 8192 * MIB;
    let pinned = 64 * MIB;
    format!(
        r#"[node]
name = "bench"
data_dir = "{data}"
workers = 2
drain_seconds = 5

[log]
level = "warn"
format = "terminal"

[public]
listen = ["127.0.0.1:0"]
tls_listen = ["127.0.0.1:0"]
tls_certificate_file = "{certificate}"
tls_key_file = "{key}"

[admin]
listen = "127.0.0.1:0"

[store]
capacity_bytes = {capacity}
pinned_bytes = {pinned}
memory_tier_bytes = {memory_tier}

[sites.default]
origin = "file://{origin}"
"#
    )
}

/// Starts the bare hyper server over the hot files.
pub(crate) fn ceiling(tools: &Tools, scratch: &Scratch) -> Result<Server> {
    let announced = scratch.at("ceiling.json");
    forget(&announced)?;
    let mut process = Process::start(
        "ceiling",
        Command::new(&tools.ceiling)
            .arg(scratch.origin().join("hot"))
            .arg("/hot")
            .arg(scratch.certificate())
            .arg(scratch.key())
            .arg(&announced),
        scratch.at("ceiling.log"),
    )?;
    let (clear, tls) = announcement(&mut process, &announced)?;
    Ok(Server { which: Which::Ceiling, process, clear, tls })
}

/// Removes what a server that ended announced, so that only the next one's is found.
fn forget(announced: &Path) -> Result<()> {
    match std::fs::remove_file(announced) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", announced.display()))
        }
        _ => Ok(()),
    }
}

/// Waits for a server to announce its listeners: the clear one and the TLS one.
fn announcement(process: &mut Process, announced: &Path) -> Result<(SocketAddr, SocketAddr)> {
    wait_for("a server's list of listeners", START, || {
        process.ensure_running()?;
        // Absent or half written: not there yet.
        let Ok(text) = std::fs::read_to_string(announced) else {
            return Ok(None);
        };
        let Ok(list) = serde_json::from_str::<serde_json::Value>(&text) else {
            return Ok(None);
        };
        let first = |key: &str| {
            list[key][0]
                .as_str()
                .and_then(|address| address.parse::<SocketAddr>().ok())
                .with_context(|| format!("{} has no {key} address", announced.display()))
        };
        Ok(Some((first("public")?, first("tls")?)))
    })
}

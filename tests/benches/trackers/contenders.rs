//! The trackers of a run, each on the same core. Dropping a [`Contender`] ends it.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use skerry_tests::node::{Node, NodeBuilder};

use crate::fleet;
use crate::instruments::machine::cpu_seconds;
use crate::instruments::process::{Process, find_program, ticks_per_second, wait_for};
use crate::load::PEERS_WANTED;
use crate::udp::Client;

/// Where trackers run, and where the load does.
const TRACKER_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

/// How long a tracker may take until it answers.
const START: Duration = Duration::from_secs(60);

/// Which of the trackers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// What the node is compared with.
    Aquatic,
    /// Debian's, which tracks torrents of a list alone.
    Opentracker,
    /// The node, in no fleet.
    Node,
    /// The node, whose built-in verdict chooses from a fleet and a few peers.
    Verdict,
    /// The same with the policy.
    Policy,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Aquatic => "aquatic_udp",
            Self::Opentracker => "opentracker",
            Self::Node => "node",
            Self::Verdict => "node, built-in verdict",
            Self::Policy => "node, policy",
        })
    }
}

/// The programs that the benchmark runs besides the node.
pub(crate) struct Tools {
    pub(crate) aquatic: PathBuf,
    pub(crate) load: PathBuf,
    opentracker: PathBuf,
}

impl Tools {
    /// Finds them, or says what to do.
    pub(crate) fn find() -> Result<Self> {
        let installed =
            |name: &str| find_program(name).with_context(|| format!("{name} is missing: make setup-bench"));
        installed("taskset")?;
        Ok(Self {
            aquatic: installed("aquatic_udp")?,
            load: installed("aquatic_udp_load_test")?,
            opentracker: installed("opentracker")?,
        })
    }
}

/// A program that stays on a core.
pub(crate) fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// A tracker that is running and answers.
pub(crate) struct Contender {
    pub(crate) which: Which,
    /// Where it takes UDP.
    pub(crate) address: SocketAddr,
    running: Running,
}

enum Running {
    Process(Process),
    Node(Box<Node>),
}

impl Contender {
    /// The node that it is, if it is one.
    pub(crate) fn node(&self) -> Option<&Node> {
        match &self.running {
            Running::Process(_) => None,
            Running::Node(node) => Some(node),
        }
    }

    /// Processor time so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        match &self.running {
            Running::Process(process) => Ok(process.cpu_ticks()? as f64 / ticks_per_second()?),
            Running::Node(node) => cpu_seconds(node.pid()),
        }
    }
}

/// Starts all of them. The fleet of two nodes has these torrents, and so has opentracker's list.
pub(crate) fn all(tools: &Tools, scratch: &Path, torrents: &[[u8; 20]]) -> Result<Vec<Contender>> {
    let mut all = vec![
        aquatic(tools, scratch)?,
        opentracker(tools, scratch, torrents)?,
        of_node(Which::Node, alone()?),
        of_node(Which::Verdict, in_fleet(torrents)?),
    ];
    if std::env::var_os("SKERRY_POLICY_MODULES").is_some() {
        let node = in_fleet(torrents)?;
        fleet::take_policy(&node, scratch)?;
        all.push(of_node(Which::Policy, node));
    } else {
        eprintln!("no rounds with the policy: SKERRY_POLICY_MODULES is not set, as `make bench` does");
    }
    Ok(all)
}

fn aquatic(tools: &Tools, scratch: &Path) -> Result<Contender> {
    let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let configuration = scratch.join("aquatic.toml");
    fs::write(
        &configuration,
        format!(
            "socket_workers = 1\n[network]\naddress = \"{address}\"\n\
             [protocol]\nmax_response_peers = {PEERS_WANTED}\n"
        ),
    )?;
    let mut command = pinned(TRACKER_CORE, &tools.aquatic);
    command.arg("-c").arg(&configuration);
    let process = Process::start("aquatic_udp", &mut command, scratch.join("aquatic.log"))?;
    answering(Which::Aquatic, address, process)
}

fn opentracker(tools: &Tools, scratch: &Path, torrents: &[[u8; 20]]) -> Result<Contender> {
    // It leaves root for somebody who may not enter the scratch folder, and sees this one alone.
    let folder = scratch.join("opentracker");
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    let list: String = torrents.iter().map(|hash| format!("{}\n", fleet::hex(hash))).collect();
    fs::write(folder.join("torrents"), list)?;
    let tcp = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = pinned(TRACKER_CORE, &tools.opentracker);
    command.args(["-i", "127.0.0.1", "-p", &tcp.port().to_string(), "-P", &address.port().to_string()]);
    command.arg("-d").arg(&folder).args(["-w", "torrents"]);
    let process = Process::start("opentracker", &mut command, scratch.join("opentracker.log"))?;
    answering(Which::Opentracker, address, process)
}

/// Waits until a tracker answers.
fn answering(which: Which, address: SocketAddr, mut process: Process) -> Result<Contender> {
    let mut client = Client::of(address)?;
    wait_for(&format!("{which} to answer"), START, || {
        process.ensure_running()?;
        client.connect()
    })?;
    Ok(Contender { which, address, running: Running::Process(process) })
}

fn of_node(which: Which, node: Node) -> Contender {
    Contender { which, address: node.tracker()[0], running: Running::Node(Box::new(node)) }
}

/// A node in no fleet.
pub(crate) fn alone() -> Result<Node> {
    started(builder())
}

/// A control node that takes what this machine says of other nodes, and knows where its clients are.
fn in_fleet(torrents: &[[u8; 20]]) -> Result<Node> {
    let node = started(
        builder()
            .set("registry", "control", true)
            .set("registry", "insecure_loopback", true)
            .text("selector", "default_region", &fleet::region(0))
            .set("policy", "allow_unsigned", true),
    )?;
    fleet::join(&node, torrents)?;
    Ok(node)
}

fn builder() -> NodeBuilder {
    Node::with_origin("http://127.0.0.1:9")
        .text("log", "level", "warn")
        .set("node", "workers", 1)
        .set("tracker", "enabled", true)
        .set("tracker", "listen", "[\"127.0.0.1:0\"]")
        .set("tracker", "workers", 1)
        // All of the load comes from one address.
        .set("tracker", "max_peers_per_source", 0)
        // The policy is asked at every announce.
        .set("tracker", "max_policy_calls", u32::MAX)
}

/// Starts it, and keeps all of its threads on the trackers' core.
fn started(builder: NodeBuilder) -> Result<Node> {
    let node = builder.start();
    let pinned = Command::new("taskset")
        .args(["-a", "-c", "-p", TRACKER_CORE, &node.pid().to_string()])
        .stdout(Stdio::null())
        .status()
        .context("cannot run taskset")?;
    ensure!(pinned.success(), "the node cannot be kept on a core");
    Ok(node)
}

//! Machines in network namespaces of their own, wired by cables that have a rate and can be cut.
//!
//! A [`Network`] makes all of it through `ip` and `tc`, which takes root, and removes it again. What a
//! scenario does [`Netns::inside`] a namespace happens there, with everything else of this kit: sockets
//! and processes that are made there stay there.
//!
//! A cable is a pair of virtual interfaces with a token bucket (`tbf`) at either end. It has no delay: that
//! would take `netem`, which not every kernel has.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::panic;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::geteuid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::clean;

/// Where `ip netns` shows the namespaces that have names.
const FOLDER: &str = "/run/netns";

/// Before the names that are given here. The number of the test's process follows.
const PREFIX: &str = "skerry-test-";

/// How much may pass at once, and how long the rest may wait: for less, TCP does not reach the rate.
const BUCKET: [&str; 4] = ["burst", "128kb", "latency", "50ms"];

/// Names of ports: no longer than the 15 bytes that an interface's may have, and none comes twice.
static PORTS: AtomicU32 = AtomicU32::new(0);

/// The namespaces of a scenario. Dropping it removes them, with every interface in them.
pub struct Network {
    made: Vec<Netns>,
}

impl Network {
    /// One without namespaces. Panics when this is not root. What tests that were killed left behind is
    /// removed.
    #[track_caller]
    pub fn empty() -> Self {
        assert!(geteuid().is_root(), "machines are put into network namespaces, which needs root");
        for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_left_behind(&name) {
                run("ip", &["netns", "delete", &name]);
            }
        }
        Self { made: Vec::new() }
    }

    /// A new namespace, with nothing but its own loopback.
    #[track_caller]
    pub fn namespace(&mut self, name: &str) -> Netns {
        let netns = Netns { name: format!("{PREFIX}{}-{name}", std::process::id()) };
        run("ip", &["netns", "add", &netns.name]);
        self.made.push(netns.clone());
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for Netns { name } in &self.made {
            let done = Command::new("ip").args(["netns", "delete", name]).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("cannot remove the network namespace {name}");
            }
        }
    }
}

/// Whether a namespace is of a test that is gone. One with the number of this process was of another that
/// had it before.
fn is_left_behind(name: &str) -> bool {
    let number = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    let lives = |number: u32| Path::new("/proc").join(number.to_string()).exists();
    number.is_some_and(|number| number == std::process::id() || !lives(number))
}

/// A namespace: a machine, as far as its network goes. It ends with its [`Network`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Does something in this namespace, on a thread of its own, and waits until it is done.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = Path::new(FOLDER).join(&self.name);
        thread::scope(|scope| {
            let acting = scope.spawn(move || {
                let netns = File::open(path).expect("the namespace is there");
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root enters every namespace");
                act()
            });
            acting.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// A command that runs a program here and shows it the interfaces of this namespace in `/sys` too,
    /// which [`Netns::inside`] cannot. Its process id is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = clean("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Makes a router of it: what comes in and is for others is passed on.
    pub fn forward(&self) {
        self.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root sets this"));
    }

    /// Sends what is for a prefix (`192.0.2.0/24`, `default`) to a neighbour.
    #[track_caller]
    pub fn route(&self, prefix: &str, neighbour: &str) {
        self.ip(&["route", "add", prefix, "via", neighbour]);
    }

    /// Adds a switch, which is an interface of this namespace too.
    #[track_caller]
    pub fn switch(&self, name: &str) -> Switch {
        self.ip(&["link", "add", "name", name, "type", "bridge"]);
        self.ip(&["link", "set", name, "up"]);
        Switch { netns: self.clone(), name: name.to_owned() }
    }

    /// Runs `ip` for this namespace.
    #[track_caller]
    fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-netns", &self.name][..], arguments].concat());
    }

    /// Bounds what an interface sends.
    #[track_caller]
    fn shape(&self, interface: &str, mbit: u32) {
        let rate = format!("{mbit}mbit");
        let place = ["-netns", &self.name, "qdisc", "replace", "dev", interface, "root", "tbf"];
        run("tc", &[&place[..], &["rate", &rate], &BUCKET].concat());
    }
}

/// A switch.
#[derive(Clone, Debug)]
pub struct Switch {
    netns: Netns,
    name: String,
}

impl Switch {
    /// Gives the switch's own namespace an address (`192.0.2.1/24`) on it.
    #[track_caller]
    pub fn address(&self, address: &str) {
        self.netns.ip(&["address", "add", address, "dev", &self.name]);
    }

    /// Connects a machine, which sees an interface of that name with this address (`192.0.2.7/24`). So
    /// many megabits per second pass in either direction.
    #[track_caller]
    pub fn plug(&self, machine: &Netns, interface: &str, address: &str, mbit: u32) -> Cable {
        let port = format!("port{}", PORTS.fetch_add(1, Ordering::Relaxed));
        let pair = ["link", "add", "name", interface, "type", "veth", "peer", "name", &port];
        machine.ip(&[&pair[..], &["netns", &self.netns.name]].concat());
        machine.ip(&["address", "add", address, "dev", interface]);
        machine.shape(interface, mbit);
        self.netns.shape(&port, mbit);
        self.netns.ip(&["link", "set", &port, "master", &self.name]);
        machine.ip(&["link", "set", interface, "up"]);
        let cable = Cable { switch: self.netns.clone(), port };
        cable.mend();
        cable
    }
}

/// A cable between a machine and a switch.
#[derive(Clone, Debug)]
pub struct Cable {
    switch: Netns,
    port: String,
}

impl Cable {
    /// Lets nothing through any more. The machine sees that its interface has lost its carrier; it keeps
    /// addresses and routes.
    #[track_caller]
    pub fn cut(&self) {
        self.switch.ip(&["link", "set", &self.port, "down"]);
    }

    /// Makes it as it was.
    #[track_caller]
    pub fn mend(&self) {
        self.switch.ip(&["link", "set", &self.port, "up"]);
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} of iproute2: {error}"));
    assert!(
        output.status.success(),
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tests_left_behind_is_removed() {
        let ours = format!("{PREFIX}{}-north", std::process::id());
        assert!(is_left_behind(&ours));
        // Numbers of processes end below 2^22.
        assert!(is_left_behind(&format!("{PREFIX}{}-north", u32::MAX)));
        assert!(!is_left_behind(&format!("{PREFIX}1-north")));
        for foreign in ["north", "skerry-test-", "skerry-test-north", "skerry-4194305-north"] {
            assert!(!is_left_behind(foreign), "{foreign}");
        }
    }
}

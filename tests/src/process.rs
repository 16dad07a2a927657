//! Running the binary under test, and what its processes may use.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The binary under test: `SKERRY_BIN`, or `skerry` in a folder above this executable.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SKERRY_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("the path of the test binary");
    own.ancestors()
        .map(|folder| folder.join("skerry"))
        .find(|path| path.is_file())
        .expect("the skerry binary is built beside the tests (or named by SKERRY_BIN)")
}

/// A command that runs the binary without anything that systemd may have left in the environment.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "JOURNAL_STREAM",
        "INVOCATION_ID",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The folder of this package. Where several checkouts share what was built, it may have been built in another
/// one; cargo says which one runs.
pub fn package() -> PathBuf {
    let told = std::env::var_os("CARGO_MANIFEST_DIR");
    told.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Runs `skerry` with these arguments to its end, for at most three minutes.
pub fn run(arguments: &[&str]) -> Output {
    clean("timeout")
        .arg("180")
        .arg(binary())
        .args(arguments)
        .output()
        .expect("timeout of coreutils runs the binary")
}

/// Lets this process and the nodes that it starts from now on hold `count` files open. Scenarios
/// with a thousand clients need more than the usual soft limit.
pub fn allow_open_files(count: u32) {
    let pid = std::process::id().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={count}:")])
        .status()
        .expect("prlimit of util-linux runs");
    assert!(status.success(), "cannot raise the limit of open files");
}

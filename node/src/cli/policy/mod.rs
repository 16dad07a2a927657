//! `skerry policy`: what an author does with a policy, from its first line to its signature, and what
//! an operator does with it on a node.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use skerry_policy::{PolicyError, compile};

mod bench;
mod build;
mod check;
mod load;
mod new;
mod remote;
mod replay;
mod sample;
mod scripts;
mod sign;
mod simulate;
mod test;

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Begin a policy: a folder that builds, with its tests
    New(new::New),
    /// Build the policy in a folder and pack it with its manifest
    Build(build::Build),
    /// Say what a policy is, and whether a node can run it
    Check(check::Check),
    /// Run the test vectors of a policy, as a node does before it takes it
    Test(test::Test),
    /// Measure a policy, beside the built-in verdict
    Bench(bench::Bench),
    /// Make the decisions of a recording again, with two versions, and show what differs
    Replay(replay::Replay),
    /// Simulate a day of a fleet and its clients, decided by policies, and show what came of it
    Simulate(simulate::Simulate),
    /// Make a key pair for signing
    Keygen(sign::Keygen),
    /// Sign a packaged policy
    Sign(sign::Sign),
    /// Send a signed policy to a node, where it begins in shadow
    Push(remote::Push),
    /// Show what decides on a node, and what is on its way
    List(remote::List),
    /// Let the policy that is on its way take its next step now
    Promote(remote::Step),
    /// Keep the policy that is on its way at its step
    Hold(remote::Step),
    /// Let a policy that is held go its way
    Release(remote::Step),
    /// Go back to what decided before
    Rollback(remote::Step),
    /// Show what was decided of late, and what the built-in verdict would have said
    Explain(remote::Explain),
    /// Compile a component from standard input to standard output: the child of a node
    #[command(hide = true)]
    CompileWorker {
        /// Memory that it may take, bytes
        memory_bytes: u64,
        /// Processor time that it may take, seconds
        seconds: u64,
        /// Keep what leads from native code to lines of the source
        #[arg(long)]
        lines: bool,
    },
    /// Answer the request for compiled code that comes over standard input, a socket: the service of a node
    #[command(hide = true)]
    CompileService,
}

impl Policy {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::New(new) => new.execute(),
            Self::Build(build) => build.execute(),
            Self::Check(check) => check.execute(),
            Self::Test(test) => test.execute(),
            Self::Bench(bench) => bench.execute(),
            Self::Replay(replay) => replay.execute(),
            Self::Simulate(simulate) => simulate.execute(),
            Self::Keygen(keygen) => keygen.execute(),
            Self::Sign(sign) => sign.execute(),
            Self::Push(push) => push.execute(),
            Self::List(list) => list.execute(),
            Self::Promote(step) => step.promote(),
            Self::Hold(step) => step.hold(true),
            Self::Release(step) => step.hold(false),
            Self::Rollback(step) => step.roll_back(),
            Self::Explain(explain) => explain.execute(),
            Self::CompileWorker { memory_bytes, seconds, lines } => Ok(work(*memory_bytes, *seconds, *lines)),
            Self::CompileService => serve(),
        }
    }
}

/// Compiles; the parent reads the reason of a failure from the last line of standard error, and says
/// itself that it is about a compilation.
fn work(memory_bytes: u64, seconds: u64, lines: bool) -> ExitCode {
    match compile::worker(memory_bytes, seconds, lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = match error {
                PolicyError::Compile(reason) => reason,
                other => other.to_string(),
            };
            eprintln!("{}", reason.replace('\n', ", "));
            ExitCode::FAILURE
        }
    }
}

/// Answers one request, where systemd has a folder for what is kept.
fn serve() -> anyhow::Result<ExitCode> {
    let folder = std::env::var_os("STATE_DIRECTORY");
    let folder = folder.context("STATE_DIRECTORY is not set: systemd names the folder for compiled code")?;
    let connection = io::stdin().as_fd().try_clone_to_owned().context("there is no standard input")?;
    // This very program, also where a newer one has taken its name.
    let worker = "/proc/self/exe".into();
    compile::serve(UnixStream::from(connection), Some(worker), Path::new(&folder))
        .context("the request of the node was not answered")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        policy: Policy,
    }

    #[test]
    fn an_author_s_commands_are_read() {
        for (words, right) in [
            ("new near", true),
            ("new --lang rust --world preload-planner work/near", true),
            ("new", false),
            ("new Near", false),
            ("new ..", false),
            ("new --lang cobol near", false),
            ("new --world region-rooter near", false),
            ("build", true),
            ("build near", true),
            ("check near.policy.wasm --key my.pub", true),
            ("test", true),
            ("test near --json", true),
            ("bench near.policy.wasm --rows 4096 --calls 1", true),
            ("bench near.policy.wasm --rows 0", false),
            ("bench near.policy.wasm --rows 4097", false),
            ("bench near.policy.wasm --calls 0", false),
            ("replay near.policy.wasm --recording decisions", true),
            ("replay near old.policy.wasm --recording decisions --verify --limit 0 --json", true),
            ("replay near.policy.wasm", false),
            ("replay --recording decisions", false),
            ("replay near old older --recording decisions", false),
            ("replay near --recording decisions --limit 1001", false),
            ("simulate", true),
            ("simulate --quick --policy near.policy.wasm --policy far --json", true),
            ("simulate --peers 0", false),
            ("simulate near.policy.wasm", false),
            ("keygen --out my.key", true),
            ("keygen", false),
            ("sign near.policy.wasm --key my.key --password-file word", true),
            ("sign near.policy.wasm", false),
            ("compile-worker 268435456 30", true),
            ("compile-worker", false),
            ("compile-service", true),
            ("compile-service now", false),
        ] {
            let parsed = Line::try_parse_from(["policy"].into_iter().chain(words.split(' ')));
            assert_eq!(parsed.is_ok(), right, "{words}: {parsed:?}");
        }
    }

    #[test]
    fn the_child_of_a_node_is_a_command() {
        let parsed = Line::try_parse_from([compile::WORKER[0], compile::WORKER[1], "1", "2"]).unwrap();
        assert!(matches!(parsed.policy, Policy::CompileWorker { memory_bytes: 1, seconds: 2, lines: false }));
    }

    #[test]
    fn a_misspelt_world_is_answered_with_the_nearest() {
        let error = Line::try_parse_from(["policy", "new", "--world", "region-rooter", "near"]).unwrap_err();
        assert!(error.to_string().contains("the nearest is `region-router`"), "{error}");
    }
}

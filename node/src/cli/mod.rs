//! The command line: one module for every command, and what they share in exit codes and output.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use skerry_core::Error;

mod admin;
mod client;
mod config;
mod image;
mod node;
mod policy;
mod progress;
mod purge;
mod run;
mod status;
mod store;
mod torrent;
mod units;

/// Exit code of a verification that found something else than what should be there.
const VERIFICATION_FAILED: u8 = 3;

/// An edge node: caches web origins in verified chunks and serves them.
#[derive(Debug, Parser)]
#[command(name = "skerry", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or wrong configuration, 3 verification failed."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or ctrl-c
    Run(run::Run),
    /// Print the default configuration, or check one
    #[command(subcommand)]
    Config(config::Config),
    /// Show a running node's health on one screen
    Status(status::Status),
    /// Make a running node forget cached content
    Purge(purge::Purge),
    /// Write, try, sign and push policies
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Look into the chunk store, of a running node or offline
    #[command(subcommand)]
    Store(store::Store),
    /// Let machines into the fleet, and show its nodes
    #[command(subcommand)]
    Node(node::Node),
    /// Make certificates of operators, who administrate nodes from afar
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Make torrents, show what they say, and check files against them
    #[command(subcommand)]
    Torrent(torrent::Torrent),
    /// Put configurations into images and onto sticks, and images onto disks
    #[command(subcommand)]
    Image(image::Image),
}

impl Cli {
    /// Does what was asked; the code is 0, or what the command says of a check that failed.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.execute(),
            Command::Config(config) => config.execute(),
            Command::Status(status) => status.execute(),
            Command::Purge(purge) => purge.execute(),
            Command::Policy(policy) => policy.execute(),
            Command::Store(store) => store.execute(),
            Command::Node(node) => node.execute(),
            Command::Admin(admin) => admin.execute(),
            Command::Torrent(torrent) => torrent.execute(),
            Command::Image(image) => image.execute(),
        }
    }
}

/// The exit code of an error: 2 when the configuration is wrong, else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let configuration = matches!(
        error.downcast_ref(),
        Some(
            Error::Config { .. } | Error::ReadConfig { .. } | Error::Certificate { .. } | Error::Token { .. }
        )
    );
    ExitCode::from(if configuration { 2 } else { 1 })
}

/// An error and its causes on one line. A cause that the text before it already tells is left out.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Writes to standard output. A reader that went away (`skerry status | head`) is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_told_once_and_the_configuration_s_ends_in_2() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = anyhow::Error::from(Error::ReadConfig { path: "a.toml".into(), source });
        assert_eq!(explain(&error), "cannot read a.toml: entity not found");
        assert_eq!(exit_code(&error), ExitCode::from(2));
        let error = Err::<(), _>(io::Error::other("why")).context("what").unwrap_err();
        assert_eq!(explain(&error), "what: why");
        assert_eq!(exit_code(&error), ExitCode::from(1));
    }

    #[test]
    fn a_purge_names_exactly_one_thing() {
        for (words, right) in [
            (&["--url", "http://a/"][..], true),
            (&["--tag", "red", "--soft"][..], true),
            (&["--prefix", "http://a/", "--node", "http://127.0.0.1:1"][..], true),
            (&[][..], false),
            (&["--soft"][..], false),
            (&["--tag", "red", "--url", "http://a/"][..], false),
            (&["--tag", "red", "--node", "ftp://a"][..], false),
            (&["--tag", "red", "--node", "https://a", "--certificate", "c", "--key", "k"][..], true),
            (&["--tag", "red", "--node", "https://a", "--certificate", "c"][..], false),
        ] {
            let parsed = Cli::try_parse_from([&["skerry", "purge"][..], words].concat());
            assert_eq!(parsed.is_ok(), right, "{words:?}");
        }
    }
}

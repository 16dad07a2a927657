//! The `skerry-box` command: what a box does beside running its node. Started by systemd alone, in the initrd
//! and on the box; there is no shell that anybody else could start it from.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use log::{Level, LevelFilter, Log, Metadata, Record};
use skerry_appliance::layout::Layout;

use crate::command::Command;

mod command;

/// What a box does beside running its node.
#[derive(Debug, Parser)]
#[command(name = "skerry-box", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage.")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let line = Line::parse();
    if log::set_logger(&Journal).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    match line.command.execute(&Layout::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            log::error!("{words}");
            ExitCode::FAILURE
        }
    }
}

/// Lines on standard error, each with its level as the journal reads it (sd-daemon(3)).
struct Journal;

impl Log for Journal {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        let lines = record.args().to_string();
        let mut out = std::io::stderr().lock();
        for line in lines.lines() {
            let _ = writeln!(out, "<{level}>{line}");
        }
    }

    fn flush(&self) {}
}

//! `skerry store stats | verify | pin | unpin`.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use prometheus::Registry;
use serde_json::Value;
use skerry_core::config::{LogConfig, LogFormat};
use skerry_core::logging;
use skerry_store::StoreConfig;
use skerry_store::verify::Progress;

use super::client::{Client, Target};
use super::status::store_lines;
use super::units::{bytes, seconds};
use super::{VERIFICATION_FAILED, print};

/// Least time between two states of the progress line.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Show what the store holds
    Stats(Which),
    /// Read every chunk, and remove what fails its hash
    Verify(Which),
    /// Keep an object that is stored whole until it is unpinned
    Pin(Pinned),
    /// Let an object go the way of the others again
    Unpin(Pinned),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    target: Target,
    /// Open the store of a node that is not running
    #[arg(long, value_name = "DIR", conflicts_with = "node")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Pinned {
    /// The object's address
    url: String,
    #[command(flatten)]
    target: Target,
}

impl Store {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Stats(which) => which.stats(),
            Self::Verify(which) => which.verify(),
            Self::Pin(pinned) => pinned.ask("/store/pin", "pinned"),
            Self::Unpin(pinned) => pinned.ask("/store/unpin", "unpinned"),
        }
    }
}

impl Pinned {
    fn ask(&self, path: &str, done: &str) -> anyhow::Result<ExitCode> {
        Client::new(&self.target)?.post(path, &serde_json::json!({ "url": self.url }))?;
        print(&format!("{done}: {}\n", self.url))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Which {
    fn stats(&self) -> anyhow::Result<ExitCode> {
        let stats = match &self.data_dir {
            Some(folder) => stats_offline(folder)?,
            None => Client::new(&self.target)?.get("/store/stats")?,
        };
        if self.json {
            print(&format!("{stats:#}\n"))?;
        } else {
            print(&(store_lines(&stats).join("\n") + "\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn verify(&self) -> anyhow::Result<ExitCode> {
        let mut display = Display::new();
        let end = match &self.data_dir {
            Some(folder) => verify_offline(folder, &mut display),
            None => verify_node(&Client::new(&self.target)?, &mut display),
        };
        display.clear();
        let end = end?;
        let took = display.started.elapsed();
        if self.json {
            print(&format!("{}\n", serde_json::json!(end)))?;
        } else {
            let found = match end.failed {
                0 => "all of them sound".to_owned(),
                failed => format!("{failed} of them failed and were removed"),
            };
            let (chunks, read) = (end.chunks, bytes(end.bytes));
            print(&format!("{chunks} chunks, {read}, in {:.1} s: {found}\n", took.as_secs_f64()))?;
        }
        Ok(if end.failed > 0 { ExitCode::from(VERIFICATION_FAILED) } else { ExitCode::SUCCESS })
    }
}

fn verify_node(client: &Client, display: &mut Display) -> anyhow::Result<Progress> {
    let mut last = Progress::default();
    client.post_lines("/store/verify", |line| {
        let value: Value = serde_json::from_slice(line).context("the node did not answer in JSON")?;
        if let Some(reason) = value.get("error").and_then(Value::as_str) {
            bail!("the verification ended early: {reason}");
        }
        last = serde_json::from_value(value).context("the node's progress cannot be read")?;
        display.show(&last);
        Ok(())
    })?;
    ensure!(last.done, "the node ended the verification early, after {} chunks", last.chunks);
    Ok(last)
}

/// What a store holds, without the quotas: those are in a configuration that was not named.
fn stats_offline(folder: &Path) -> anyhow::Result<Value> {
    let mut stats = open(folder)?.stats();
    if let Some(stats) = stats.as_object_mut() {
        stats.retain(|key, _| {
            !["capacity_bytes", "pinned_quota_bytes", "memory_tier_bytes"].contains(&key.as_str())
        });
    }
    Ok(stats)
}

fn verify_offline(folder: &Path, display: &mut Display) -> anyhow::Result<Progress> {
    // Removed chunks are named in log lines.
    logging::init(&LogConfig { level: "warn".into(), format: LogFormat::Terminal, access: false })?;
    let store = open(folder)?;
    let end = store.verify_blocking(|progress| {
        display.show(progress);
        ControlFlow::Continue(())
    })?;
    // What was removed is removed for good once it is flushed.
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(store.close())?;
    Ok(end)
}

/// The store of a node that is not running. Its quotas are the defaults, which only a fill asks for.
fn open(folder: &Path) -> anyhow::Result<skerry_store::Store> {
    ensure!(folder.join("chunks").is_dir(), "{} holds no store", folder.display());
    skerry_store::Store::open(folder, &StoreConfig::default(), &Registry::new()).map_err(|error| {
        if error.to_string().contains("LOCK") {
            anyhow!("a node runs on {}: ask it by --node instead of --data-dir", folder.display())
        } else {
            error.into()
        }
    })
}

/// One line of progress on a terminal; nothing in a pipe.
struct Display {
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Display {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), started: Instant::now(), shown: None }
    }

    fn show(&mut self, progress: &Progress) {
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < PERIOD) {
            return;
        }
        self.shown = Some(Instant::now());
        self.write(&line(progress, self.started.elapsed()));
    }

    fn clear(&self) {
        if self.shown.is_some() {
            self.write("");
        }
    }

    /// Replaces the line; a terminal that went away is no reason to stop.
    fn write(&self, text: &str) {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
    }
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let rate = progress.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let left = progress.total_bytes.saturating_sub(progress.bytes) as f64;
    let eta = if rate > 0.0 { seconds((left / rate) as u64) } else { "?".into() };
    format!(
        "{} of {}, {}/s, {eta} left, {} failed",
        bytes(progress.bytes),
        bytes(progress.total_bytes),
        bytes(rate as u64),
        progress.failed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_bytes_rate_and_time_left() {
        let progress = Progress { chunks: 4, bytes: 1 << 30, total_bytes: 3 << 30, failed: 1, done: false };
        let text = line(&progress, Duration::from_secs(2));
        assert_eq!(text, "1.0 GiB of 3.0 GiB, 512.0 MiB/s, 4 s left, 1 failed");
        assert!(line(&Progress::default(), Duration::ZERO).contains("? left"));
    }

    #[test]
    fn a_folder_without_a_store_is_left_alone() {
        let folder = std::env::temp_dir().join("skerry-no-store-here");
        assert!(open(&folder).is_err());
        assert!(!folder.exists());
    }
}

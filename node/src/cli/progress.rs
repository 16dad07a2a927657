//! One line of progress on a terminal; nothing in a pipe.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::units::{bytes, seconds};

/// Least time between two states of the line.
const PERIOD: Duration = Duration::from_millis(200);

/// The line: it is gone when this is dropped.
pub(super) struct Progress {
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), started: Instant::now(), shown: None }
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Shows how much of `total` bytes is done, unless that was done just now.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < PERIOD) {
            return;
        }
        self.shown = Some(Instant::now());
        self.write(&line(done, total, self.started.elapsed()));
    }

    /// Replaces the line; a terminal that went away is no reason to stop.
    fn write(&self, text: &str) {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            self.write("");
        }
    }
}

fn line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done) as f64;
    let eta = if rate > 0.0 { seconds((left / rate) as u64) } else { "?".into() };
    format!("{} of {}, {}/s, {eta} left", bytes(done), bytes(total), bytes(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_bytes_rate_and_time_left() {
        let text = line(1 << 30, 3 << 30, Duration::from_secs(2));
        assert_eq!(text, "1.0 GiB of 3.0 GiB, 512.0 MiB/s, 4 s left");
        assert!(line(0, 0, Duration::ZERO).contains("? left"));
    }
}

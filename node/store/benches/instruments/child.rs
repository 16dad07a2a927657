//! Children of this very program: they tell lines on their standard output, and are killed.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;

/// The child's part: says a line.
pub(crate) fn tell(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A child that tells lines. It dies by SIGKILL when this is dropped, if it has not ended.
pub(crate) struct Teller {
    child: Child,
    lines: Receiver<String>,
}

impl Teller {
    /// Starts it. A thread listens to it until it ends.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("the child has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Its next line, waited for until `deadline`.
    pub(crate) fn line(&self, deadline: Instant) -> Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => "a child is too slow".into(),
            RecvTimeoutError::Disconnected => "a child has ended early".into(),
        })
    }

    /// Waits until it has counted up to `count` within `patience`, and a `moment` longer, and kills
    /// it. Returns the last number that it told.
    pub(crate) fn kill_at(mut self, count: u64, patience: Duration, moment: Duration) -> Result<u64> {
        let deadline = Instant::now() + patience;
        let mut told = 0;
        while told < count {
            told = self.line(deadline)?.parse()?;
        }
        thread::sleep(moment);
        self.child.kill()?;
        self.child.wait()?;
        // What it said before it died; the channel closes as the pipe has.
        Ok(self.lines.iter().filter_map(|line| line.parse().ok()).last().unwrap_or(told))
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // Both fail only for a child that is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

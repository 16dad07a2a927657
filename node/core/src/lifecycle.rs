//! From ready to drained: what phase the node is in, and who tells whom.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Where the node stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// Set-up; not ready.
    Starting,
    /// Serving.
    Running,
    /// No new requests; running bodies may finish until the deadline.
    Draining {
        /// When what still runs is cut.
        deadline: Instant,
    },
}

/// The node's phase, shared; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Set-up is over.
    pub fn running(&self) {
        self.0.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Running;
            }
            starting
        });
    }

    /// Begins the drain; a second call changes nothing.
    pub fn drain(&self, within: Duration) {
        self.0.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Draining { .. });
            if first {
                *phase = Phase::Draining { deadline: Instant::now() + within };
            }
            first
        });
    }

    /// Waits for the drain to begin and returns its deadline.
    pub async fn draining(&self) -> Instant {
        let mut receiver = self.0.subscribe();
        loop {
            if let Phase::Draining { deadline } = *receiver.borrow_and_update() {
                return deadline;
            }
            if receiver.changed().await.is_err() {
                return Instant::now();
            }
        }
    }
}

/// What the system asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The process' signals, caught from creation on.
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the handlers; needs a runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next thing asked.
    pub async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::Stop,
            _ = self.interrupt.recv() => Ask::Stop,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }
}

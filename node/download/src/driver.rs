//! What drives the state machine: the clock, the connections, the sink and the sources.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use skerry_wire::metainfo::Metainfo;
use skerry_wire::peer::Bitfield;
use skerry_wire::tracker::Event as Reason;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::connection::{self, Event, Plug};
use crate::error::{End, Error, Failure};
use crate::handle::Handle;
use crate::options::Options;
use crate::peer::Key;
use crate::sink::{Limit, Sink};
use crate::sources::{Answers, Ask, Found, Sources};
use crate::swarm::{Output, Swarm};
use crate::target::Target;

/// How often time limits are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Events of connections that wait to be taken: each is up to 64 KiB.
const EVENTS: usize = 64;
/// Events that are taken before anything else has its turn.
const BATCH: usize = 64;
/// Answers of sources that wait to be taken.
const ANSWERS: usize = 16;
/// Messages that wait for one peer's socket.
const ORDERS: usize = 256;
/// Pieces that are verified and stored at once.
const AT_ONCE: usize = 4;
/// Shortest time between two questions.
const LEAST_PAUSE: Duration = Duration::from_secs(5);
/// How long trackers may take to be told of the end.
const GOODBYE: Duration = Duration::from_secs(10);

/// A download that has not begun.
#[derive(Debug)]
pub struct Download {
    target: Target,
    options: Options,
    handle: Handle,
}

impl Download {
    /// Of a target.
    pub fn new(target: impl Into<Target>, options: Options) -> Self {
        Self { target: target.into(), options, handle: Handle::new() }
    }

    /// A view of it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Fetches all of it, and returns the torrent with its piece layers. Dropping the future ends it: what
    /// the sink has it keeps.
    ///
    /// # Errors
    /// When the torrent cannot be used, the sink fails, a task panics, or there is nobody to fetch from for
    /// as long as the options say.
    pub async fn run<S: Sink>(
        self,
        sources: Arc<dyn Sources>,
        sink: Arc<S>,
        limit: Limit,
    ) -> Result<Metainfo, Error<S::Error>> {
        let Self { target, options, handle } = self;
        let mut peer_id = *b"-SK0100-000000000000";
        peer_id[8..].iter_mut().for_each(|byte| *byte = fastrand::alphanumeric() as u8);
        let swarm = Swarm::new(target, options.clone(), peer_id, fastrand::u64(..))?;
        let (sender, events) = mpsc::channel(EVENTS);
        let (answers, found) = mpsc::channel(ANSWERS);
        let mut driver = Driver {
            swarm,
            options,
            handle,
            peer_id,
            sources,
            sink,
            limit,
            start: Instant::now(),
            sender,
            links: HashMap::new(),
            connections: JoinSet::new(),
            work: JoinSet::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            answers,
            finding: JoinSet::new(),
            questions: Vec::new(),
        };
        let result = driver.run(events, found).await;
        driver.say_goodbye();
        result?;
        // It is over when everything is there, so there is a torrent.
        driver.swarm.into_metainfo().ok_or(Error::Failed(Failure::Stalled))
    }
}

/// A connection, from here. Dropping it ends it.
struct Link {
    orders: mpsc::Sender<Vec<u8>>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the sink has done.
enum Done<E> {
    Begun(Result<Bitfield, E>),
    Stored(u32, Result<(), E>),
    Wrong(u32),
}

/// A question that sources are asked again and again.
struct Question {
    wire: [u8; 20],
    /// When next; `None` while it is asked.
    due: Option<Instant>,
    /// When it was asked last, and whether there was nobody to fetch from.
    asked: Option<(Instant, bool)>,
}

impl Question {
    /// Whether it is time; at once when all have gone since.
    fn is_due(&self, alone: bool, now: Instant) -> bool {
        let left_alone = alone && self.asked.is_none_or(|(_, alone)| !alone);
        self.due.is_some_and(|at| at <= now || left_alone)
    }
}

struct Driver<S: Sink> {
    swarm: Swarm,
    options: Options,
    handle: Handle,
    peer_id: [u8; 20],
    sources: Arc<dyn Sources>,
    sink: Arc<S>,
    limit: Limit,
    start: Instant,
    sender: mpsc::Sender<(Key, Event)>,
    links: HashMap<Key, Link>,
    connections: JoinSet<()>,
    work: JoinSet<Result<Done<S::Error>, JoinError>>,
    /// A turn at verifying and storing.
    turns: Arc<Semaphore>,
    answers: mpsc::Sender<Found>,
    finding: JoinSet<([u8; 20], Duration)>,
    questions: Vec<Question>,
}

impl<S: Sink> Driver<S> {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn run(
        &mut self,
        mut events: mpsc::Receiver<(Key, Event)>,
        mut found: mpsc::Receiver<Found>,
    ) -> Result<(), Error<S::Error>> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = self.handle.0.clone();
        loop {
            while let Some(output) = self.swarm.poll() {
                if self.act(output)? {
                    self.measure();
                    return Ok(());
                }
            }
            self.dial();
            self.ask();
            tokio::select! {
                Some(event) = events.recv() => {
                    self.take(event);
                    for _ in 1..BATCH {
                        let Ok(event) = events.try_recv() else { break };
                        self.take(event);
                    }
                }
                Some(done) = self.work.join_next() => {
                    if let Some(done) = finished(done.flatten())? {
                        self.done(done)?;
                    }
                }
                Some((wire, peers)) = found.recv() => self.swarm.found(peers, &wire),
                Some(answered) = self.finding.join_next() => {
                    if let Some((wire, again)) = finished(answered)? {
                        self.answered(&wire, again);
                    }
                }
                Some(ended) = self.connections.join_next() => {
                    finished(ended)?;
                }
                () = shared.moved.notified() => {
                    if let Some(piece) = self.handle.reader() {
                        self.swarm.want_from(piece);
                    }
                }
                _ = ticks.tick() => {
                    self.swarm.tick(self.now());
                    self.measure();
                }
            }
        }
    }

    /// Does what the swarm says; whether that was all.
    fn act(&mut self, output: Output) -> Result<bool, Error<S::Error>> {
        match output {
            Output::Send(key, bytes) => {
                let sent = self.links.get(&key).map(|link| link.orders.try_send(bytes));
                // Of one that has ended, the reason is on its way.
                if let Some(Err(TrySendError::Full(_))) = sent {
                    self.links.remove(&key);
                    self.swarm.closed(key, End::Deaf, self.now());
                }
            }
            Output::Close(key) => drop(self.links.remove(&key)),
            Output::Begin(metainfo) => {
                let sink = self.sink.clone();
                self.work.spawn(async move { Ok(Done::Begun(sink.begin(&metainfo).await)) });
            }
            Output::Piece(complete) => {
                let (sink, turns) = (self.sink.clone(), self.turns.clone());
                self.work.spawn(async move {
                    // It is never closed.
                    let _turn = turns.acquire_owned().await;
                    let (piece, data, check) = (complete.piece, complete.data, complete.check);
                    let bytes = data.clone();
                    let is_right = tokio::task::spawn_blocking(move || check.holds(&bytes)).await?;
                    Ok(if is_right {
                        Done::Stored(piece, sink.piece(piece, data).await)
                    } else {
                        Done::Wrong(piece)
                    })
                });
            }
            Output::Done => return Ok(true),
            Output::Failed(failure) => return Err(failure.into()),
        }
        Ok(false)
    }

    fn take(&mut self, (key, event): (Key, Event)) {
        let now = self.now();
        match event {
            // What was on its way when the connection was given up is of no interest.
            _ if !self.links.contains_key(&key) => {}
            Event::Joined => self.swarm.joined(key, now),
            Event::Received(bytes, waited) => self.swarm.receive(key, &bytes, waited, now),
            Event::Closed(end) => {
                self.links.remove(&key);
                self.swarm.closed(key, end, now);
            }
        }
    }

    fn done(&mut self, done: Done<S::Error>) -> Result<(), Error<S::Error>> {
        let now = self.now();
        match done {
            Done::Begun(have) => {
                self.swarm.begun(have.map_err(Error::Sink)?, now);
                self.measure();
            }
            Done::Stored(piece, stored) => {
                stored.map_err(Error::Sink)?;
                self.swarm.stored(piece, now);
            }
            Done::Wrong(piece) => self.swarm.wrong(piece, now),
        }
        Ok(())
    }

    fn dial(&mut self) {
        while let Some(dial) = self.swarm.dial(self.now()) {
            let (orders, taken) = mpsc::channel(ORDERS);
            let plug = Plug {
                dial,
                events: self.sender.clone(),
                orders: taken,
                connect: self.options.connect,
                handshake: self.options.handshake,
                limit: self.limit.clone(),
            };
            let task = self.connections.spawn(connection::run(plug));
            self.links.insert(dial.key, Link { orders, task });
        }
    }

    /// Asks the sources, when it is time.
    fn ask(&mut self) {
        let (now, alone) = (Instant::now(), self.swarm.is_alone());
        for wire in self.swarm.wires() {
            if !self.questions.iter().any(|question| question.wire == *wire) {
                self.questions.push(Question { wire: *wire, due: Some(now), asked: None });
            }
        }
        for question in self.questions.iter_mut().filter(|question| question.is_due(alone, now)) {
            question.due = None;
            let before = question.asked.replace((now, alone));
            let event = if before.is_some() { Reason::None } else { Reason::Started };
            let ask = question_of(&self.swarm, &self.options, self.peer_id, question.wire, event);
            let answers = Answers::new(ask.info_hash, self.answers.clone());
            let sources = self.sources.clone();
            self.finding.spawn(async move { (ask.info_hash, sources.find(ask, answers).await) });
        }
    }

    fn answered(&mut self, wire: &[u8; 20], again: Duration) {
        if let Some(question) = self.questions.iter_mut().find(|question| question.wire == *wire) {
            let least = question.asked.map(|(at, _)| at + LEAST_PAUSE);
            question.due = Some(Instant::now() + again).max(least);
        }
    }

    /// Brings the figures up to date.
    fn measure(&self) {
        let (totals, progress) = (self.swarm.totals(), self.handle.progress());
        progress.length.store(totals.length.unwrap_or(0), Relaxed);
        progress.stored.store(totals.stored, Relaxed);
        progress.received.store(totals.received, Relaxed);
        progress.wasted.store(totals.wasted, Relaxed);
        progress.rate.store(totals.rate, Relaxed);
        progress.peers.store(totals.peers as u64, Relaxed);
    }

    /// Tells the sources that it is over, without waiting for them.
    fn say_goodbye(&mut self) {
        for question in self.questions.iter().filter(|question| question.asked.is_some()) {
            let ask = question_of(&self.swarm, &self.options, self.peer_id, question.wire, Reason::Stopped);
            let answers = Answers::new(ask.info_hash, self.answers.clone());
            let sources = self.sources.clone();
            tokio::spawn(async move { tokio::time::timeout(GOODBYE, sources.find(ask, answers)).await });
        }
    }
}

fn question_of(
    swarm: &Swarm,
    options: &Options,
    peer_id: [u8; 20],
    info_hash: [u8; 20],
    event: Reason,
) -> Ask {
    let totals = swarm.totals();
    let left = totals.length.map(|length| length.saturating_sub(totals.stored));
    let (port, downloaded, alone) = (options.port, totals.received, swarm.is_alone());
    Ask { info_hash, peer_id, port, event, downloaded, left, alone }
}

/// What a task came to; `None` when it was ended from outside.
fn finished<T>(ended: Result<T, JoinError>) -> Result<Option<T>, Failure> {
    match ended {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_panic() => Err(Failure::Panicked),
        Err(_) => Ok(None),
    }
}

//! The task of a filler.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use skerry_store::catalogue::{CameFrom, Progress};
use skerry_store::{ChunkId, StoreError};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};

use super::{Inner, Running};
use crate::error::{HoldFailure, ListError};
use crate::item::{Item, List, MOST_LENGTH, check_source};
use crate::plan::{Action, HeldSummary, Standing};
use crate::popularity::Index;
use crate::told::{MOST_TOLD, Sourced, Told};

/// How often progress is looked at while something is fetched.
const TICK: Duration = Duration::from_secs(5);
/// Shortest sleep, so that no mistake makes a loop of it.
const LEAST: Duration = Duration::from_millis(10);

/// How long the planner may take for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A resource and where it came from, as it was told.
type Source = (CameFrom, ChunkId);

/// What a task of the driver came to.
enum Event {
    Held(CameFrom, Result<ChunkId, HoldFailure>),
    Released(CameFrom, u64, Result<(), StoreError>),
    Observed(u64, Result<Vec<HeldSummary>, StoreError>),
    Listed(Result<Option<List>, ListError>),
    Told(Vec<Source>, Result<(), ListError>),
}

/// What a task is about, for when it panics.
enum Job {
    Hold(CameFrom),
    Release(CameFrom),
    Observe,
    List,
    Tell,
}

pub(super) struct Driver {
    inner: Arc<Inner>,
    tasks: JoinSet<Event>,
    jobs: HashMap<Id, Job>,
    /// What stops each fetch.
    stops: HashMap<CameFrom, oneshot::Sender<()>>,
    /// When the list is asked for and the store looked at next, milliseconds since 1970.
    refresh_ms: u64,
    observing: bool,
    listing: bool,
    telling: bool,
    held: Vec<HeldSummary>,
    told: HashSet<Source>,
    /// The planner was told of items under way the last time.
    told_under_way: bool,
    /// The journal failed the last time.
    failing: bool,
}

impl Driver {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            tasks: JoinSet::new(),
            jobs: HashMap::new(),
            stops: HashMap::new(),
            refresh_ms: 0,
            observing: false,
            listing: false,
            telling: false,
            held: Vec::new(),
            told: HashSet::new(),
            told_under_way: false,
            failing: false,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let now_ms = self.inner.now_ms();
            let interval_ms = self.inner.parts.config.interval_seconds * 1000;
            // Also when the clock was set back.
            if now_ms >= self.refresh_ms || self.refresh_ms - now_ms > interval_ms {
                // Never quite the same, so that a fleet does not ask as one.
                self.refresh_ms = now_ms.saturating_add(interval_ms - fastrand::u64(0..=interval_ms / 8));
                self.refresh();
            }
            let actions = self.next(now_ms);
            // What is begun is on record before it begins.
            self.write_down().await;
            self.act(actions);
            let pause = self.pause();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = tokio::time::sleep(pause) => {}
                () = self.inner.news.notified() => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        let now_ms = self.inner.now_ms();
        let wake_ms = self.inner.plan.lock().wake_ms(now_ms).unwrap_or(u64::MAX).min(self.refresh_ms);
        let pause = Duration::from_millis(wake_ms.saturating_sub(now_ms)).max(LEAST);
        if self.stops.is_empty() { pause } else { pause.min(TICK) }
    }

    /// Looks at the store, and asks for the list.
    fn refresh(&mut self) {
        if !self.observing {
            self.observing = true;
            let (inner, stamp) = (self.inner.clone(), self.inner.plan.lock().observing());
            let observe = move || {
                inner.parts.popularity.hand_over(&*inner.parts.counts, inner.now_ms());
                Event::Observed(stamp, inner.parts.holder.held())
            };
            let task = self.tasks.spawn_blocking(observe);
            self.jobs.insert(task.id(), Job::Observe);
        }
        if self.inner.parts.config.enabled && !self.listing {
            self.listing = true;
            let lists = self.inner.parts.lists.clone();
            let revision = self.inner.plan.lock().revision().map(str::to_owned);
            let task = self.tasks.spawn(async move { Event::Listed(in_time(lists.fetch(revision)).await) });
            self.jobs.insert(task.id(), Job::List);
        }
    }

    /// What the plan says.
    fn next(&self, now_ms: u64) -> Vec<Action> {
        self.inner.measure();
        if !self.inner.parts.config.enabled {
            return Vec::new();
        }
        let pinnable = self.inner.parts.holder.pinnable();
        self.inner.plan.lock().next(now_ms, pinnable)
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Hold(item) => self.hold(&item),
                // What stops it is taken: whatever became of it, it is told once.
                Action::Stop(source) => drop(self.stops.remove(&source)),
                Action::Release { item, bytes } => self.release(&item, bytes),
            }
        }
    }

    fn hold(&mut self, item: &Item) {
        let (source, progress) = (item.source(), Arc::new(Progress::default()));
        let (stop, stopped) = oneshot::channel();
        let fetch = self.inner.parts.holder.hold(item, progress.clone(), self.inner.rate.clone());
        self.stops.insert(source.clone(), stop);
        self.inner.running.lock().insert(source.clone(), Running { progress, seen: 0 });
        let about = source.clone();
        let task = self.tasks.spawn(async move {
            let result = tokio::select! {
                biased;
                _ = stopped => Err(HoldFailure::Stopped),
                result = fetch => result,
            };
            Event::Held(about, result)
        });
        self.jobs.insert(task.id(), Job::Hold(source));
    }

    fn release(&mut self, item: &Item, bytes: u64) {
        let released = self.inner.parts.holder.release(item);
        let source = item.source();
        let about = source.clone();
        let task = self.tasks.spawn(async move { Event::Released(about, bytes, released.await) });
        self.jobs.insert(task.id(), Job::Release(source));
    }

    /// Writes down what changed.
    async fn write_down(&mut self) {
        let changes = self.inner.plan.lock().take_changes();
        if changes.is_empty() {
            return;
        }
        let journal = self.inner.parts.journal.clone();
        let written = tokio::task::spawn_blocking(move || journal.write(changes)).await;
        let failed = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed.as_ref().filter(|_| !self.failing) {
            log::error!("what is to be held is known in memory alone: {error}");
        }
        self.failing = failed.is_some();
    }

    fn ended(&mut self, ended: Result<(Id, Event), JoinError>) {
        let event = match ended {
            Ok((id, event)) => {
                self.jobs.remove(&id);
                event
            }
            Err(error) => {
                let Some(job) = self.jobs.remove(&error.id()) else { return };
                log::error!("a task of the preloader ended early: {error}");
                match job {
                    Job::Hold(source) => Event::Held(source, Err(HoldFailure::Broken(error.to_string()))),
                    Job::Release(source) => Event::Released(source, 0, Err(StoreError::Closing)),
                    Job::Observe => Event::Observed(0, Err(StoreError::Closing)),
                    Job::List => Event::Listed(Err(ListError::Unanswered(error.to_string()))),
                    Job::Tell => Event::Told(Vec::new(), Err(ListError::Unanswered(error.to_string()))),
                }
            }
        };
        let now_ms = self.inner.now_ms();
        match event {
            Event::Held(source, result) => self.held(&source, result, now_ms),
            Event::Released(source, bytes, result) => {
                match &result {
                    Ok(()) => self.inner.parts.metrics.dropped.inc_by(bytes),
                    Err(error) => log::warn!(
                        site = source.site, path = source.target; "cannot be let go of: {error}"
                    ),
                }
                self.inner.plan.lock().released(&source, result.is_ok(), now_ms);
            }
            Event::Observed(stamp, held) => self.observed(stamp, held, now_ms),
            Event::Listed(list) => self.listed(list, now_ms),
            Event::Told(sources, result) => self.has_told(sources, result),
        }
    }

    fn held(&mut self, source: &CameFrom, result: Result<ChunkId, HoldFailure>, now_ms: u64) {
        self.inner.measure();
        self.stops.remove(source);
        let fetch = self.inner.running.lock().remove(source);
        let received = fetch.map_or(0, |fetch| fetch.progress.received.load(Relaxed));
        let word = result.as_ref().map_or_else(HoldFailure::word, |_| "held");
        self.inner.parts.metrics.holds.with_label_values(&[word]).inc();
        if let Ok(resource) = &result {
            log::info!(site = source.site, path = source.target, bytes = received; "holds {resource}");
        }
        self.inner.plan.lock().done(source, result, now_ms);
    }

    fn observed(&mut self, stamp: u64, held: Result<Vec<HeldSummary>, StoreError>, now_ms: u64) {
        self.observing = false;
        self.held = match held {
            Ok(held) => held,
            Err(error) => {
                log::error!("what this node holds cannot be told: {error}");
                return;
            }
        };
        let popularity = &self.inner.parts.popularity;
        let mut index = Index::default();
        {
            let mut plan = self.inner.plan.lock();
            plan.observe(stamp, &self.held, |resource| popularity.was_asked(resource), now_ms);
            for Standing { item, .. } in plan.standings(usize::MAX) {
                index.miss(&item.source(), item.resource);
            }
        }
        for held in self.held.iter().filter(|held| held.complete) {
            index.hold(held.resource, held.from.as_ref());
        }
        popularity.indexed(index);
        let held: HashSet<ChunkId> = self.held.iter().map(|held| held.resource).collect();
        self.told.retain(|(_, resource)| held.contains(resource));
        self.tell();
    }

    fn listed(&mut self, list: Result<Option<List>, ListError>, now_ms: u64) {
        self.listing = false;
        let list = list.and_then(|list| list.map(List::checked).transpose());
        let result = match &list {
            Ok(Some(_)) => "new",
            Ok(None) => "same",
            Err(_) => "failed",
        };
        self.inner.parts.metrics.lists.with_label_values(&[result]).inc();
        let failed = list.as_ref().err().map(ToString::to_string);
        let before = std::mem::replace(&mut *self.inner.failure.lock(), failed);
        match list {
            Ok(Some(list)) => {
                log::info!(revision = list.revision, items = list.items.len(); "has another list");
                self.inner.plan.lock().listed(list, now_ms);
            }
            Ok(None) => {}
            Err(error) if before.is_none() => {
                log::warn!("{error}; this node goes on with the list that it has");
            }
            Err(_) => {}
        }
    }

    /// Tells the planner what it cannot know.
    fn tell(&mut self) {
        if self.telling {
            return;
        }
        let known = self.held.iter().filter(|held| held.complete && (1..=MOST_LENGTH).contains(&held.length));
        let sources = known.filter_map(|held| Some((held.from.clone()?, held)));
        let new = sources.filter(|(from, held)| {
            let told = self.told.contains(&(from.clone(), held.resource));
            !told && check_source(&from.site, &from.target).is_ok()
        });
        let mut told = Told::default();
        let mut new_sources = Vec::new();
        for (from, held) in new.take(MOST_TOLD) {
            told.sources.push(Sourced {
                resource: Some(held.resource),
                site: from.site.clone(),
                path: from.target.clone(),
                length: held.length,
                added_ms: held.added_ms,
            });
            new_sources.push((from, held.resource));
        }
        let standings = self.inner.plan.lock().standings(MOST_TOLD);
        let busy =
            standings.iter().filter(|standing| standing.state != "waiting" || standing.received_bytes > 0);
        told.under_way = busy.map(Standing::told).collect();
        let under_way = !told.under_way.is_empty();
        if told.sources.is_empty() && !under_way && !self.told_under_way {
            return;
        }
        (self.telling, self.told_under_way) = (true, under_way);
        let lists = self.inner.parts.lists.clone();
        let task = self.tasks.spawn(async move { Event::Told(new_sources, in_time(lists.tell(told)).await) });
        self.jobs.insert(task.id(), Job::Tell);
    }

    fn has_told(&mut self, sources: Vec<Source>, result: Result<(), ListError>) {
        self.telling = false;
        match result {
            Ok(()) => {
                let more = sources.len() == MOST_TOLD;
                self.told.extend(sources);
                if more {
                    self.tell();
                }
            }
            // What was not told is told with the next look at the store.
            Err(error) => log::debug!("the planner was not told: {error}"),
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, ListError>>) -> Result<T, ListError> {
    let late = |_| ListError::Unanswered("it did not answer in time".into());
    tokio::time::timeout(ANSWER, answer).await.map_err(late)?
}

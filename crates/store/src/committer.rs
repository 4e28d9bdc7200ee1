//! The one writer: gathers what has queued, decides it, makes it durable,
//! publishes it, answers it.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::counted;
use crate::disk::{Counters, Disk, Row, explain};
use crate::health::Health;
use crate::interface::{Durability, Entry, Error, Event, EventKind, Expect, Stamp};
use crate::memory::Memory;

/// Writes of one transaction at most: bounds what a commit keeps in memory and
/// how long the first of them waits for the last.
const BATCH_MAX: usize = 1_024;
/// Revisions that lazy writes may take before the file is told.
const CEILING_STEP: u64 = 1_000;
/// How long a disk that failed is left alone before a write tries it again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How soon a disk that failed is tried again when nobody writes.
const PROBE_AFTER: Duration = Duration::from_secs(1);

/// One write on its way.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) key: Arc<str>,
    /// The value to put; `None` removes the key.
    pub(crate) value: Option<Bytes>,
    pub(crate) expect: Option<Expect>,
    pub(crate) durability: Durability,
}

pub(crate) type Reply = oneshot::Sender<Result<Arc<Entry>, Error>>;

#[derive(Debug)]
pub(crate) enum Job {
    /// The permit bounds the queue; it is given back with the answer.
    Write(Write, Reply, OwnedSemaphorePermit),
    Close(oneshot::Sender<Result<(), Error>>),
}

/// A write that was decided and has its revision.
struct Decided {
    event: Event,
    reply: Reply,
    _permit: OwnedSemaphorePermit,
}

pub(crate) struct Committer {
    memory: Arc<RwLock<Memory>>,
    disk: Disk,
    stamp: Stamp,
    /// The last revision that was given out.
    revision: u64,
    /// As the file has it.
    ceiling: u64,
    /// Rows of lazy writes that are visible but not in the file, the latest of each key.
    lazy: HashMap<Arc<str>, Row>,
    flush_at: Option<Instant>,
    failed: Option<Failure>,
    health: Health,
}

/// The disk did not take a commit.
struct Failure {
    at: Instant,
    err: Error,
    /// How large the commit was: the disk is well again when it takes as much.
    bytes: usize,
}

impl Committer {
    pub(crate) fn new(
        memory: Arc<RwLock<Memory>>,
        disk: Disk,
        stamp: Stamp,
        counters: Counters,
        health: Health,
    ) -> Self {
        let (revision, ceiling) = (counters.revision.max(counters.ceiling), counters.ceiling);
        Self {
            memory,
            disk,
            stamp,
            revision,
            ceiling,
            lazy: HashMap::new(),
            flush_at: None,
            failed: None,
            health,
        }
    }

    /// Runs until the store is closed or dropped.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            self.health.rest();
            let next = self.next(jobs);
            self.health.begin(Instant::now());
            match next {
                Ok(Job::Write(write, reply, permit)) => {
                    let mut batch = vec![(write, reply, permit)];
                    let closing = gather(jobs, &mut batch);
                    self.commit(batch);
                    if let Some(reply) = closing {
                        let _ = reply.send(self.close());
                        return;
                    }
                }
                Ok(Job::Close(reply)) => {
                    let _ = reply.send(self.close());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.wake(),
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(err) = self.close() {
                        tracing::error!(%err, "the last writes are not on disk");
                    }
                    return;
                }
            }
        }
    }

    fn next(&self, jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        // A flush that is due while the disk refuses waits for it: asking at once would ask for ever.
        let due = self.failed.as_ref().map(|failure| failure.at + PROBE_AFTER).or(self.flush_at);
        match due {
            Some(at) => jobs.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn commit(&mut self, batch: Vec<(Write, Reply, OwnedSemaphorePermit)>) {
        if let Err(err) = self.ready(Instant::now()) {
            for (_, reply, _) in batch {
                let _ = reply.send(Err(err.clone()));
            }
            return;
        }
        let (decided, within) = self.decide(batch);
        if decided.is_empty() {
            return;
        }
        let first = self.revision - decided.len() as u64;
        let durable = match within {
            Some(within) if self.revision < self.ceiling => {
                self.postpone(&decided, within);
                Ok(())
            }
            _ => self.write(decided.iter().map(|decided| row(&decided.event))),
        };
        match durable {
            Ok(()) => {
                self.publish_and_answer(decided);
                self.shrink();
            }
            Err(err) => self.refuse(decided, first, &err),
        }
    }

    /// Compares each write with what its key is, counting those before it in the
    /// batch. Answers those that may happen, and how long they may wait for the
    /// disk if all of them may.
    fn decide(
        &mut self,
        batch: Vec<(Write, Reply, OwnedSemaphorePermit)>,
    ) -> (Vec<Decided>, Option<Duration>) {
        let memory = Arc::clone(&self.memory);
        let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
        let mut pending: HashMap<Arc<str>, Option<Arc<Entry>>> = HashMap::new();
        let mut decided = Vec::with_capacity(batch.len());
        let mut within = Some(Duration::MAX);
        for (write, reply, permit) in batch {
            let current = match pending.get(&write.key) {
                Some(current) => current.clone(),
                None => memory.get(&write.key).cloned(),
            };
            if !is_as_expected(&write, current.as_deref()) {
                let _ = reply.send(Err(Error::Conflict(current)));
                continue;
            }
            within = match (within, write.durability) {
                (Some(most), Durability::Within(this)) => Some(most.min(this)),
                _ => None,
            };
            self.revision += 1;
            let event = self.event(write, current);
            let now = (event.kind == EventKind::Put).then(|| Arc::clone(&event.entry));
            pending.insert(Arc::clone(&event.entry.key), now);
            decided.push(Decided { event, reply, _permit: permit });
        }
        (decided, within)
    }

    fn event(&self, write: Write, previous: Option<Arc<Entry>>) -> Event {
        let revision = self.revision;
        let created = previous.as_ref().map_or(revision, |entry| entry.create_revision);
        let (kind, value) = match (write.value, &previous) {
            (Some(value), _) => (EventKind::Put, (self.stamp)(&value, revision)),
            (None, Some(entry)) => (EventKind::Delete, (self.stamp)(&entry.value, revision)),
            // `is_as_expected` refuses to remove what is not there.
            (None, None) => (EventKind::Delete, Bytes::new()),
        };
        Event { kind, entry: Arc::new(Entry::new(write.key, value, created, revision)), previous }
    }

    /// One durable commit of all lazy rows and these.
    fn write(&mut self, rows: impl Iterator<Item = Row>) -> Result<(), Error> {
        let mut latest = self.lazy.clone();
        latest.extend(rows.map(|row| (Arc::clone(&row.1.key), row)));
        // Told to the file ahead of time and seldom: it costs a frame.
        let near = self.revision + CEILING_STEP / 2 >= self.ceiling;
        let ceiling = if near { self.revision + CEILING_STEP } else { self.ceiling };
        let began = Instant::now();
        let committed = self.disk.commit(latest.values(), ceiling);
        counted::COMMIT.observe(&[], began.elapsed());
        if let Err(err) = committed {
            let bytes = latest.values().map(|(_, entry)| entry.weight()).sum();
            return Err(self.failed(err, bytes));
        }
        self.ceiling = ceiling;
        self.lazy.clear();
        self.flush_at = None;
        Ok(())
    }

    fn failed(&mut self, err: std::io::Error, bytes: usize) -> Error {
        let err = explain(err);
        counted::FAILED.at(&[]).inc();
        if self.failed.is_none() {
            tracing::error!(%err, "the data directory takes no writes");
        }
        self.failed = Some(Failure { at: Instant::now(), err: err.clone(), bytes });
        self.health.set(Err(err.clone()));
        err
    }

    fn postpone(&mut self, decided: &[Decided], within: Duration) {
        let rows = decided.iter().map(|decided| row(&decided.event));
        self.lazy.extend(rows.map(|row| (Arc::clone(&row.1.key), row)));
        let Some(latest) = Instant::now().checked_add(within) else { return };
        self.flush_at = Some(self.flush_at.map_or(latest, |at| at.min(latest)));
    }

    fn publish_and_answer(&mut self, decided: Vec<Decided>) {
        let (events, replies): (Vec<_>, Vec<_>) =
            decided.into_iter().map(|one| (one.event, (one.reply, one._permit))).unzip();
        let entries: Vec<_> = events.iter().map(|event| Arc::clone(&event.entry)).collect();
        self.publish(events);
        for ((reply, _permit), entry) in replies.into_iter().zip(entries) {
            let _ = reply.send(Ok(entry));
        }
    }

    fn publish(&self, events: Vec<Event>) {
        let now = Instant::now();
        let keys: Vec<_> = events.iter().map(|event| Arc::clone(&event.entry.key)).collect();
        let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            memory.publish(event, now);
        }
        memory.wake(keys.iter().map(|key| &**key));
    }

    /// The revisions are given out again: a file that may hold these writes all the same is not
    /// read by anybody before it was written anew, without them.
    fn refuse(&mut self, decided: Vec<Decided>, first: u64, err: &Error) {
        tracing::debug!(%err, writes = decided.len(), "writes were not made durable");
        self.revision = first;
        for decided in decided {
            let _ = decided.reply.send(Err(err.clone()));
        }
    }

    /// Sees that the disk takes writes; one that failed is tried again, not too often.
    fn ready(&mut self, now: Instant) -> Result<(), Error> {
        let Some(failure) = &self.failed else { return Ok(()) };
        if now.saturating_duration_since(failure.at) < RETRY_AFTER {
            return Err(failure.err.clone());
        }
        let bytes = failure.bytes;
        let tried = if self.disk.is_trusted() { self.disk.probe(bytes) } else { self.rewrite() };
        tried.map_err(|err| self.failed(err, bytes))?;
        self.failed = None;
        self.health.set(Ok(()));
        tracing::info!(revision = self.revision, "the data directory takes writes again");
        Ok(())
    }

    /// Writes the file anew from memory, lazy writes included.
    fn rewrite(&mut self) -> std::io::Result<()> {
        let entries = self.memory.read().unwrap_or_else(PoisonError::into_inner).entries();
        let ceiling = self.revision + CEILING_STEP;
        self.disk.rewrite(&entries, Counters { revision: self.revision, ceiling })?;
        counted::REWRITES.at(&[]).inc();
        self.ceiling = ceiling;
        self.lazy.clear();
        self.flush_at = None;
        Ok(())
    }

    /// A file that has grown beyond what it is worth is written anew between two commits. That it
    /// failed is no harm yet: the old one goes on.
    fn shrink(&mut self) {
        if self.disk.is_outgrown()
            && let Err(err) = self.rewrite()
        {
            tracing::warn!(%err, "the store's file could not be written anew");
        }
    }

    /// Nobody wrote for a while: something is due.
    fn wake(&mut self) {
        let now = Instant::now();
        let due = self.ready(now).is_ok() && self.flush_at.is_some_and(|at| at <= now);
        if due && self.write(std::iter::empty()).is_err() {
            self.flush_at = Some(now + PROBE_AFTER);
        }
    }

    /// Leaves the file so that the next open goes on with the next revision.
    fn close(&mut self) -> Result<(), Error> {
        if self.failed.is_some() {
            self.ready(Instant::now() + RETRY_AFTER)?;
        }
        if !self.lazy.is_empty() {
            self.write(std::iter::empty())?;
        }
        self.disk.close(self.revision).map_err(explain)
    }
}

/// Takes what else has queued; answers the close request if one is among it.
fn gather(
    jobs: &Receiver<Job>,
    batch: &mut Vec<(Write, Reply, OwnedSemaphorePermit)>,
) -> Option<oneshot::Sender<Result<(), Error>>> {
    while batch.len() < BATCH_MAX {
        match jobs.try_recv() {
            Ok(Job::Write(write, reply, permit)) => batch.push((write, reply, permit)),
            Ok(Job::Close(reply)) => return Some(reply),
            Err(_) => return None,
        }
    }
    None
}

fn is_as_expected(write: &Write, current: Option<&Entry>) -> bool {
    match (write.expect, current) {
        (None, None) => write.value.is_some(),
        (None | Some(Expect::Present), Some(_)) | (Some(Expect::Absent), None) => true,
        (Some(Expect::Revision(revision)), Some(entry)) => entry.revision == revision,
        _ => false,
    }
}

fn row(event: &Event) -> Row {
    (event.kind, Arc::clone(&event.entry))
}

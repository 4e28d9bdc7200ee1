//! What every read and every watch is served from: the latest state of each key,
//! and a bounded history of what was done before.
//!
//! A pure value: the committer feeds it, in order; locks, clocks and tasks are outside.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::interface::{Entry, Error, Event, EventKind, Page, Range};

/// How much history is kept. An event younger than `age` is only given up for
/// `events_max` or `bytes_max`; an older one when there are more than `events`
/// events or `bytes` bytes. So a quiet store remembers for days what a busy one
/// remembers for `age`.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// How long a watcher may be away and still go on where it was. Upstream's
    /// watch cache keeps 75 s.
    pub age: Duration,
    /// Events that are kept whatever their age.
    pub events: usize,
    /// Bytes that are kept whatever their age.
    pub bytes: usize,
    /// Events that are kept at most.
    pub events_max: usize,
    /// Bytes that are kept at most.
    pub bytes_max: usize,
}

impl Default for History {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(75),
            events: 1_000,
            bytes: 4 << 20,
            events_max: 102_400,
            bytes_max: 64 << 20,
        }
    }
}

#[derive(Debug)]
struct Remembered {
    at: Instant,
    weight: usize,
    event: Arc<Event>,
}

/// The events of one watched prefix, shared by all who watch it.
#[derive(Debug)]
struct Topic {
    events: VecDeque<Arc<Event>>,
    /// The revision of the last event that was forgotten here.
    forgotten: u64,
    /// Tells the watchers the revision of the newest event.
    newest: watch::Sender<u64>,
}

/// Current state and history.
#[derive(Debug)]
pub(crate) struct Memory {
    revision: u64,
    index: BTreeMap<Arc<str>, Arc<Entry>>,
    history: VecDeque<Remembered>,
    history_bytes: usize,
    bounds: History,
    /// States before this revision cannot be told any more.
    oldest: u64,
    topics: HashMap<Box<str>, Topic>,
}

impl Memory {
    /// The state of a store that was just opened: no history.
    pub(crate) fn new(revision: u64, entries: impl Iterator<Item = Entry>, bounds: History) -> Self {
        let index = entries.map(|entry| (Arc::clone(&entry.key), Arc::new(entry))).collect();
        let (history, topics) = (VecDeque::new(), HashMap::new());
        Self { revision, index, history, history_bytes: 0, bounds, oldest: revision, topics }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.index.get(key)
    }

    /// The latest state of every key, in order.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.index.values().cloned().collect()
    }

    /// Makes one write visible. Revisions come in order.
    pub(crate) fn publish(&mut self, event: Event, now: Instant) {
        let event = Arc::new(event);
        let key = &event.entry.key;
        match event.kind {
            EventKind::Put => self.index.insert(Arc::clone(key), Arc::clone(&event.entry)),
            EventKind::Delete => self.index.remove(key),
        };
        self.revision = event.entry.revision;
        for prefix in prefixes(key) {
            if let Some(topic) = self.topics.get_mut(prefix) {
                topic.events.push_back(Arc::clone(&event));
            }
        }
        let weight = event.entry.weight();
        self.history_bytes += weight;
        self.history.push_back(Remembered { at: now, weight, event });
        self.trim(now);
    }

    /// Tells the watchers of these keys. Called after the last `publish` of a
    /// commit, so that each watcher wakes once for it.
    pub(crate) fn wake<'a>(&self, keys: impl Iterator<Item = &'a str>) {
        let revision = self.revision;
        for prefix in keys.flat_map(prefixes) {
            let Some(topic) = self.topics.get(prefix) else { continue };
            topic.newest.send_if_modified(|newest| std::mem::replace(newest, revision) < revision);
        }
    }

    fn trim(&mut self, now: Instant) {
        while let Some(first) = self.history.front() {
            let (events, bytes) = (self.history.len(), self.history_bytes);
            let bounds = &self.bounds;
            let over = events > bounds.events || bytes > bounds.bytes;
            let old = now.saturating_duration_since(first.at) > bounds.age;
            if (over && old) || events > bounds.events_max || bytes > bounds.bytes_max {
                self.forget_first();
            } else {
                return;
            }
        }
    }

    fn forget_first(&mut self) {
        let Some(first) = self.history.pop_front() else { return };
        let entry = &first.event.entry;
        self.history_bytes -= first.weight;
        self.oldest = entry.revision;
        for prefix in prefixes(&entry.key) {
            let Some(topic) = self.topics.get_mut(prefix) else { continue };
            if topic.events.front().is_some_and(|event| event.entry.revision == entry.revision) {
                topic.events.pop_front();
                topic.forgotten = entry.revision;
            }
        }
    }

    /// Forgets what led to `revision`.
    pub(crate) fn compact(&mut self, revision: u64) -> Result<(), Error> {
        self.check_reached(revision)?;
        while self.history.front().is_some_and(|first| first.event.entry.revision <= revision) {
            self.forget_first();
        }
        self.oldest = self.oldest.max(revision);
        Ok(())
    }

    fn check_reached(&self, requested: u64) -> Result<(), Error> {
        if requested > self.revision {
            return Err(Error::Future { requested, current: self.revision });
        }
        Ok(())
    }

    fn check_told(&self, requested: u64) -> Result<(), Error> {
        self.check_reached(requested)?;
        if requested < self.oldest {
            return Err(Error::Compacted { requested, oldest: self.oldest });
        }
        Ok(())
    }

    pub(crate) fn range(&self, range: &Range) -> Result<Page, Error> {
        match range.revision {
            Some(revision) if revision != self.revision => {
                self.check_told(revision)?;
                Ok(self.range_at(range, revision))
            }
            _ => Ok(page(self.under(range), range.limit, self.revision)),
        }
    }

    /// Entries of the latest state that the range covers, in order.
    fn under<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a Arc<Entry>> {
        let from = match range.after.as_deref() {
            Some(after) if after >= range.prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(range.prefix.as_str()),
        };
        self.index
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&range.prefix))
            .map(|(_, entry)| entry)
    }

    /// As [`Self::range`], of a state of the past: the latest one with all that
    /// was done since taken back.
    fn range_at(&self, range: &Range, revision: u64) -> Page {
        let mut then: BTreeMap<&str, Option<&Arc<Entry>>> = BTreeMap::new();
        let first = self.history.partition_point(|past| past.event.entry.revision <= revision);
        let after = range.after.as_deref();
        for past in self.history.range(first..) {
            let key = &*past.event.entry.key;
            if key.starts_with(&range.prefix) && after.is_none_or(|after| key > after) {
                then.entry(key).or_insert(past.event.previous.as_ref());
            }
        }
        let unchanged = self.under(range).filter(|entry| !then.contains_key(&*entry.key));
        let mut entries: Vec<_> = unchanged.chain(then.values().copied().flatten()).collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        page(entries.into_iter(), range.limit, revision)
    }

    /// Begins to watch a prefix: the receiver tells when there is something new.
    pub(crate) fn watch(&mut self, prefix: &str, after: u64) -> Result<watch::Receiver<u64>, Error> {
        self.check_told(after)?;
        if let Some(topic) = self.topics.get(prefix) {
            return Ok(topic.newest.subscribe());
        }
        let matching = self.history.iter().filter(|past| past.event.entry.key.starts_with(prefix));
        let events = matching.map(|past| Arc::clone(&past.event)).collect();
        let (newest, receiver) = watch::channel(self.revision);
        self.topics.insert(prefix.into(), Topic { events, forgotten: self.oldest, newest });
        Ok(receiver)
    }

    /// The last watcher of a prefix takes the topic with it, or names that
    /// clients make up would stay for ever.
    pub(crate) fn unwatch(&mut self, prefix: &str) {
        if self.topics.get(prefix).is_some_and(|topic| topic.newest.receiver_count() <= 1) {
            self.topics.remove(prefix);
        }
    }

    /// What a watcher of `prefix` has not seen, at most `limit` events.
    pub(crate) fn since(&self, prefix: &str, after: u64, limit: usize) -> Result<Vec<Arc<Event>>, Error> {
        let Some(topic) = self.topics.get(prefix) else { return Err(Error::Lagged) };
        if topic.forgotten > after {
            return Err(Error::Lagged);
        }
        let first = topic.events.partition_point(|event| event.entry.revision <= after);
        Ok(topic.events.range(first..).take(limit).cloned().collect())
    }

    /// Whether a watcher of `prefix` that has seen everything up to `after` has
    /// seen everything.
    pub(crate) fn seen_all(&self, prefix: &str, after: u64) -> bool {
        self.topics.get(prefix).is_some_and(|topic| {
            topic.forgotten <= after && topic.events.back().is_none_or(|event| event.entry.revision <= after)
        })
    }
}

/// Every prefix of `key` that may be watched: up to and including each `/`, and the whole key.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    let whole = (!key.ends_with('/')).then_some(key);
    key.match_indices('/').map(|(at, _)| &key[..=at]).chain(whole)
}

fn page<'a>(mut entries: impl Iterator<Item = &'a Arc<Entry>>, limit: usize, revision: u64) -> Page {
    if limit == 0 {
        return Page { entries: entries.cloned().collect(), remaining: 0, revision };
    }
    let first = entries.by_ref().take(limit).cloned().collect();
    Page { entries: first, remaining: entries.count(), revision }
}

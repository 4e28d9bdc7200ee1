//! What happened to the objects of an informer since a reader last asked.
//!
//! Each reader drains at its own pace. What it has not taken is merged by key, so a slow reader costs one
//! entry for each object that changed and never holds up another. Nothing that it must act on is lost by that:
//! the end of an object is told even when its beginning was not.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{Handle, Part};
use crate::Object;

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    /// It appeared, or was there when the reader began.
    Added(Arc<K>),
    /// It changed.
    Modified {
        /// As this reader knew it.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// It is gone; this is the last state known.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Modified { new: object, .. } => object,
        }
    }
}

/// One object's changes that wait to be taken.
#[derive(Debug)]
struct Delta<K> {
    /// As the reader knows it.
    before: Option<Arc<K>>,
    /// Last states of the objects that have had this name and are gone: usually none, or one.
    gone: Vec<Arc<K>>,
    now: Option<Arc<K>>,
}

#[derive(Debug)]
struct Pending<K> {
    order: VecDeque<Arc<str>>,
    deltas: HashMap<Arc<str>, Delta<K>>,
    ended: bool,
}

impl<K> Default for Pending<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), deltas: HashMap::new(), ended: false }
    }
}

/// What one reader has not taken.
#[derive(Debug)]
pub(super) struct Queue<K> {
    pending: Mutex<Pending<K>>,
    news: Notify,
}

/// Room that a queue keeps when it is empty; a first list of thousands leaves nothing behind.
const KEPT: usize = 64;

impl<K: Object> Queue<K> {
    /// With everything that is there, as new.
    pub(super) fn of<'a>(objects: impl Iterator<Item = (&'a Arc<str>, &'a Arc<K>)>) -> Self {
        let queue = Self { pending: Mutex::default(), news: Notify::new() };
        for (key, object) in objects {
            queue.put(key, None, object);
        }
        queue
    }

    fn lock(&self) -> MutexGuard<'_, Pending<K>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object of this key changed from `old` to `new`.
    pub(super) fn put(&self, key: &Arc<str>, old: Option<&Arc<K>>, new: &Arc<K>) {
        let mut pending = self.lock();
        let delta = pending.delta(key, old);
        // The same name, another object: the end of the first was not told.
        if let Some(known) = delta.now.take().filter(|known| known.metadata().uid != new.metadata().uid) {
            delta.gone.push(known);
        }
        delta.now = Some(new.clone());
        drop(pending);
        self.news.notify_one();
    }

    /// The object of this key, `old`, is gone; `last` is what it was at its end.
    pub(super) fn remove(&self, key: &Arc<str>, old: &Arc<K>, last: &Arc<K>) {
        let mut pending = self.lock();
        let delta = pending.delta(key, Some(old));
        delta.now = None;
        delta.gone.push(last.clone());
        drop(pending);
        self.news.notify_one();
    }

    /// Nothing comes any more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.news.notify_one();
    }
}

impl<K> Pending<K> {
    /// The entry of a key; a new one begins with what the reader knows.
    fn delta(&mut self, key: &Arc<str>, old: Option<&Arc<K>>) -> &mut Delta<K> {
        self.deltas.entry(key.clone()).or_insert_with(|| {
            self.order.push_back(key.clone());
            Delta { before: old.cloned(), gone: Vec::new(), now: old.cloned() }
        })
    }

    fn pop(&mut self) -> Option<Delta<K>> {
        let key = self.order.pop_front()?;
        let delta = self.deltas.remove(&key);
        if self.order.is_empty() && self.order.capacity() > KEPT {
            *self = Self { ended: self.ended, ..Self::default() };
        }
        delta
    }
}

/// The changes of an informer for one reader: first all that is there, then what happens.
pub struct Changes<K> {
    queue: Arc<Queue<K>>,
    part: Option<Arc<Part<K>>>,
    /// Of a name that had several objects: what is still to be said.
    ready: VecDeque<Change<K>>,
    // The informer goes on for its readers.
    _handle: Arc<Handle<K>>,
}

impl<K> std::fmt::Debug for Changes<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl<K: Object> Changes<K> {
    pub(super) fn new(queue: Arc<Queue<K>>, part: Option<Arc<Part<K>>>, handle: Arc<Handle<K>>) -> Self {
        Self { queue, part, ready: VecDeque::new(), _handle: handle }
    }

    /// The next change; `None` when the informers have been shut down. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change<K>> {
        loop {
            // Asked first: what came before the end is still taken.
            let ended = self.queue.lock().ended;
            if let Some(change) = self.try_next() {
                return Some(change);
            }
            if ended {
                return None;
            }
            // A notice that came since is kept, for there is one reader.
            self.queue.news.notified().await;
        }
    }

    /// A change that is already there.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(change);
            }
            let delta = self.queue.lock().pop()?;
            self.ready.extend(tell(delta, self.part.as_deref()));
        }
    }
}

/// The changes that one who sees this part of a kind has to hear of.
fn tell<K: Object>(delta: Delta<K>, part: Option<&Part<K>>) -> Vec<Change<K>> {
    let seen = |object: &Arc<K>| part.is_none_or(|part| part.has(object));
    let Delta { before, gone, now } = delta;
    let mut known = before.filter(seen);
    let mut told = Vec::new();
    for last in gone {
        if known.take().is_some() || seen(&last) {
            told.push(Change::Deleted(last));
        }
    }
    match (known, now.filter(seen)) {
        (None, Some(now)) => told.push(Change::Added(now)),
        (Some(old), Some(new)) => told.push(Change::Modified { old, new }),
        // It is there, and no longer in this part.
        (Some(old), None) => told.push(Change::Deleted(old)),
        (None, None) => {}
    }
    told
}

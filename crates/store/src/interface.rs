//! The words every implementation of the store speaks.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

/// The future of a store operation.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Writes a revision into a value. Called once for each committed write, with
/// the value as the writer gave it (put) or as it was stored (delete). A value
/// that already carries a revision gets the new one instead.
pub type Stamp = fn(value: &Bytes, revision: u64) -> Bytes;

/// A revisioned, ordered key space with the semantics of etcd: one counter of
/// revisions for all keys, each write takes the next one, writes compare against
/// the revision of the last write of their key, and a watch delivers every later
/// write under a prefix, in order, once.
///
/// Keys are paths: segments separated by `/`. Prefixes end in `/` or are a whole key.
pub trait Store: Send + Sync + 'static {
    /// The revision of the last write that is visible.
    fn revision(&self) -> u64;

    /// Whether writes are taken: the last commit reached the disk, and there is somebody to make
    /// the next. Found out without a write by those who ask.
    fn health(&self) -> Result<(), Error>;

    /// The latest state of a key.
    fn get(&self, key: &str) -> Answer<'_, Option<Arc<Entry>>>;

    /// Entries under a prefix in key order, all of one revision.
    fn range(&self, range: Range) -> Answer<'_, Page>;

    /// Writes a value if the key is as expected. When the answer comes the write
    /// is durable (as far as its [`Durability`] asks) and visible to every read.
    fn put(&self, put: Put) -> Answer<'_, Arc<Entry>>;

    /// Removes a key if it is as expected; answers the last value, stamped with
    /// the revision of the removal.
    fn delete(&self, delete: Delete) -> Answer<'_, Arc<Entry>>;

    /// Everything written under `prefix` after revision `after`.
    fn watch(&self, prefix: &str, after: u64) -> Answer<'_, Box<dyn Watch>>;

    /// Forgets the history up to and including `revision`: older watches and
    /// reads at a revision are answered [`Error::Compacted`] from now on.
    fn compact(&self, revision: u64) -> Answer<'_, ()>;

    /// Makes every lazy write durable and refuses later ones.
    fn close(&self) -> Answer<'_, ()>;
}

/// A running watch. Dropping it ends it.
pub trait Watch: Send {
    /// The next changes, at least one. Cancel-safe: nothing is lost when the
    /// future is dropped before it is ready.
    fn next(&mut self) -> Answer<'_, Vec<Arc<Event>>>;

    /// The revision up to which everything has been delivered by `next`: what
    /// a bookmark may say. Never goes back.
    fn progress(&mut self) -> u64;
}

/// A key with its value, as of one revision.
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value, with its revision stamped into it.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: u64,
    /// The revision of this value.
    pub revision: u64,
    notes: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Entry {
    /// An entry without notes.
    pub fn new(key: Arc<str>, value: Bytes, create_revision: u64, revision: u64) -> Self {
        Self { key, value, create_revision, revision, notes: OnceLock::new() }
    }

    /// What the reader derives from the value (labels, say), worked out at most
    /// once for all readers. `None` when notes of another type were taken before.
    pub fn notes<T: Any + Send + Sync>(&self, derive: impl FnOnce(&Bytes) -> T) -> Option<&T> {
        self.notes.get_or_init(|| Box::new(derive(&self.value))).downcast_ref()
    }

    /// Bytes this entry holds, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.key.len() + self.value.len() + std::mem::size_of::<Self>()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({} bytes)", self.key, self.revision, self.value.len())
    }
}

/// One write, as watchers see it.
#[derive(Debug)]
pub struct Event {
    /// What was done.
    pub kind: EventKind,
    /// The new entry; for a removal the last one, stamped with the revision of the removal.
    pub entry: Arc<Entry>,
    /// What the key held before; `None` for a creation.
    pub previous: Option<Arc<Entry>>,
}

/// What a write did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Created or replaced.
    Put,
    /// Removed.
    Delete,
}

/// What a write expects of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    Revision(u64),
    /// The key exists.
    Present,
}

/// How soon a write survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before it is answered.
    Now,
    /// At the latest after this time, earlier when anything else is committed.
    /// For heartbeats, which nobody misses and which would wear out the disk.
    Within(Duration),
}

/// A compare-and-put.
#[derive(Debug, Clone)]
pub struct Put {
    /// The key.
    pub key: Arc<str>,
    /// The value, not yet stamped.
    pub value: Bytes,
    /// What the key must be for the write to happen; `None` for "whatever it is".
    pub expect: Option<Expect>,
    /// When it must be durable.
    pub durability: Durability,
}

/// A compare-and-delete.
#[derive(Debug, Clone)]
pub struct Delete {
    /// The key.
    pub key: Arc<str>,
    /// What the key must be; it has to exist in any case.
    pub expect: Expect,
    /// When it must be durable.
    pub durability: Durability,
}

/// Which entries [`Store::range`] answers.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Keys that begin with this.
    pub prefix: String,
    /// Only keys after this one (exclusive).
    pub after: Option<String>,
    /// At most so many; 0 for all.
    pub limit: usize,
    /// The state as of this revision; `None` for the latest.
    pub revision: Option<u64>,
}

/// What [`Store::range`] found.
#[derive(Debug)]
pub struct Page {
    /// The entries in key order.
    pub entries: Vec<Arc<Entry>>,
    /// How many more the prefix holds after the last of these.
    pub remaining: usize,
    /// The revision this is the state of.
    pub revision: u64,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The key was not as the write expected; with what it is now.
    #[error("the key is not as expected")]
    Conflict(Option<Arc<Entry>>),
    /// The history before this revision is gone.
    #[error("revision {requested} has been compacted, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// The oldest revision whose state can be told.
        oldest: u64,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future, the current one is {current}")]
    Future {
        /// What was asked for.
        requested: u64,
        /// The current revision.
        current: u64,
    },
    /// A watcher did not read for so long that changes it had not seen were forgotten.
    #[error("the watcher fell too far behind")]
    Lagged,
    /// The disk has no room. Reads go on; writes do again when there is room.
    #[error("no space left on the disk of the data directory")]
    Full,
    /// The disk failed.
    #[error("failed to write to the data directory: {0}")]
    Disk(Arc<dyn std::error::Error + Send + Sync>),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

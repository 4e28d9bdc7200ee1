//! The embedded engine: one directory, one process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::committer::{Committer, Job, Write};
use crate::disk::{Disk, InDirectory, Medium, Unreadable};
use crate::frame::HeaderError;
use crate::health::Health;
use crate::interface::{Answer, Delete, Entry, Error, Event, Page, Put, Range, Stamp, Store, Watch};
use crate::memory::{History, Memory};
use crate::migrate;

/// The file of a store within its directory.
pub(crate) const FILE: &str = "store.log";
const LOCK: &str = "lock";
/// Writes that may wait for the committer. More wait in their own tasks.
const QUEUE_MAX: usize = 4_096;
/// Events one `Watch::next` hands over.
const EVENTS_AT_ONCE: usize = 512;

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {} is in use by another monopod (pid {pid})", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it, as it wrote itself down.
        pid: String,
    },
    /// It cannot be created or written.
    #[error("failed to open data directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// The file is not a store, or not one that this program knows.
    #[error("{} is no store", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        err: HeaderError,
    },
    /// The file was a store, and is not as it was written.
    #[error("{} is damaged at byte {at}{}; nothing was changed", path.display(), others(*places))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first damaged part begins.
        at: u64,
        /// How many parts are damaged.
        places: usize,
    },
    /// The file of the engine before this one cannot be read.
    #[error("failed to read {}", path.display())]
    Former {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        #[source]
        err: Box<redb::Error>,
    },
}

fn others(places: usize) -> String {
    if places > 1 { format!(" and in {} more places", places - 1) } else { String::new() }
}

impl OpenError {
    /// What is wrong with the file at `path`.
    pub(crate) fn of(path: &Path, err: Unreadable) -> Self {
        let path = path.to_owned();
        match err {
            Unreadable::Io(err) => OpenError::Directory { path, err },
            Unreadable::Header(HeaderError::Damaged) => OpenError::Damaged { path, at: 0, places: 1 },
            Unreadable::Header(err) => OpenError::Foreign { path, err },
            Unreadable::Damaged(damage) => {
                let at = damage.first().map_or(0, |first| first.bytes.start);
                OpenError::Damaged { path, at, places: damage.len() }
            }
        }
    }
}

/// The store of one directory.
#[derive(Debug)]
pub struct Embedded {
    memory: Arc<RwLock<Memory>>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    queue: Arc<Semaphore>,
    committer: Mutex<Option<JoinHandle<()>>>,
    health: Health,
    /// Closed when the committer's thread ends.
    ended: watch::Receiver<()>,
    /// Held as long as the store is open.
    lock: Mutex<Option<File>>,
}

impl Embedded {
    /// Opens the store in `directory`, making it if need be.
    pub fn open(directory: &Path, stamp: Stamp, history: History) -> Result<Self, OpenError> {
        let at = |err| OpenError::Directory { path: directory.to_owned(), err };
        fs::create_dir_all(directory).map_err(at)?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        migrate::from_redb(directory, &path)?;
        let medium = Box::new(InDirectory::new(path.clone()));
        Self::open_medium(medium, stamp, history, Some(lock)).map_err(|err| OpenError::of(&path, err))
    }

    pub(crate) fn open_medium(
        medium: Box<dyn Medium>,
        stamp: Stamp,
        history: History,
        lock: Option<File>,
    ) -> Result<Self, Unreadable> {
        let (disk, contents) = Disk::open(medium)?;
        let counters = contents.counters;
        let revision = counters.revision.max(counters.ceiling);
        let memory = Arc::new(RwLock::new(Memory::new(revision, contents.entries.into_iter(), history)));
        let health = Health::default();
        let committer = Committer::new(Arc::clone(&memory), disk, stamp, counters, health.clone());
        let (jobs, queued) = mpsc::channel();
        let (alive, ended) = watch::channel(());
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            // Dropped however the thread ends.
            let _alive = alive;
            committer.run(&queued);
        });
        Ok(Self {
            memory,
            jobs: Mutex::new(Some(jobs)),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
            committer: Mutex::new(Some(thread?)),
            health,
            ended,
            lock: Mutex::new(lock),
        })
    }

    /// Waits until nothing is committed any more: after [`Store::close`], or because the committer
    /// died, which whoever runs the store should take for the end of everything.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, job: Job) -> Result<(), Error> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().ok_or(Error::Closed)?.send(job).map_err(|_| Error::Closed)
    }

    async fn write(&self, write: Write) -> Result<Arc<Entry>, Error> {
        let permit = Arc::clone(&self.queue).acquire_owned().await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.send(Job::Write(write, reply, permit))?;
        answer.await.map_err(|_| Error::Closed)?
    }

    fn join(&self) {
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the committer of the store died");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.join();
    }
}

impl Store for Embedded {
    fn revision(&self) -> u64 {
        self.read().revision()
    }

    fn health(&self) -> Result<(), Error> {
        if self.ended.has_changed().is_err() {
            return Err(Error::Closed);
        }
        self.health.get(Instant::now())
    }

    fn get(&self, key: &str) -> Answer<'_, Option<Arc<Entry>>> {
        let entry = self.read().get(key).cloned();
        Box::pin(std::future::ready(Ok(entry)))
    }

    fn range(&self, range: Range) -> Answer<'_, Page> {
        let page = self.read().range(&range);
        Box::pin(std::future::ready(page))
    }

    fn put(&self, put: Put) -> Answer<'_, Arc<Entry>> {
        let Put { key, value, expect, durability } = put;
        Box::pin(self.write(Write { key, value: Some(value), expect, durability }))
    }

    fn delete(&self, delete: Delete) -> Answer<'_, Arc<Entry>> {
        let Delete { key, expect, durability } = delete;
        Box::pin(self.write(Write { key, value: None::<Bytes>, expect: Some(expect), durability }))
    }

    fn watch(&self, prefix: &str, after: u64) -> Answer<'_, Box<dyn Watch>> {
        let news = self.memory.write().unwrap_or_else(PoisonError::into_inner).watch(prefix, after);
        let watch = news.map(|news| {
            let memory = Arc::clone(&self.memory);
            Box::new(MemoryWatch { memory, prefix: prefix.into(), seen: after, news }) as Box<dyn Watch>
        });
        Box::pin(std::future::ready(watch))
    }

    fn compact(&self, revision: u64) -> Answer<'_, ()> {
        let done = self.memory.write().unwrap_or_else(PoisonError::into_inner).compact(revision);
        Box::pin(std::future::ready(done))
    }

    fn close(&self) -> Answer<'_, ()> {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Job::Close(reply));
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            sent?;
            let done = answer.await.map_err(|_| Error::Closed)?;
            self.join();
            self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
            done
        })
    }
}

struct MemoryWatch {
    memory: Arc<RwLock<Memory>>,
    prefix: Box<str>,
    seen: u64,
    news: watch::Receiver<u64>,
}

impl MemoryWatch {
    fn unseen(&mut self) -> Result<Vec<Arc<Event>>, Error> {
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        let events = memory.since(&self.prefix, self.seen, EVENTS_AT_ONCE)?;
        self.seen = match events.last() {
            Some(last) => last.entry.revision,
            None => memory.revision(),
        };
        Ok(events)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.memory.write().unwrap_or_else(PoisonError::into_inner).unwatch(&self.prefix);
    }
}

impl Watch for MemoryWatch {
    fn next(&mut self) -> Answer<'_, Vec<Arc<Event>>> {
        Box::pin(async move {
            loop {
                // Marked as seen before reading, so that a write in between wakes again.
                self.news.borrow_and_update();
                let events = self.unseen()?;
                if !events.is_empty() {
                    return Ok(events);
                }
                // Cancel-safe: `changed` keeps its notice until it is taken.
                self.news.changed().await.map_err(|_| Error::Closed)?;
            }
        })
    }

    fn progress(&mut self) -> u64 {
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        if memory.seen_all(&self.prefix, self.seen) {
            self.seen = memory.revision();
        }
        self.seen
    }
}

/// Takes the directory for this process. The lock is the kernel's and goes with
/// the process; the number in the file is for the message only.
pub(crate) fn lock(directory: &Path) -> Result<File, OpenError> {
    let at = |err| OpenError::Directory { path: directory.to_owned(), err };
    let path = directory.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(OpenError::InUse { path: directory.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(err)) => return Err(at(err)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind());
    written.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at)?;
    Ok(file)
}

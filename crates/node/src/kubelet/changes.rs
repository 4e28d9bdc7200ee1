//! Notice of what is written to logs, for those who follow them.
//!
//! One inotify descriptor serves all: each user of the machine has few of them, and shares them with
//! the containers of that user. Nobody owns the reading: whoever waits reads for all when there
//! is something. Where the kernel gives no descriptor the followers look by themselves.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How often a follower looks by itself: where nobody tells, and at the end, which the file only
/// announces.
const LOOK_OFTEN: Duration = Duration::from_millis(50);
/// And otherwise, for what the kernel may have dropped.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// All watched files.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Made by the first who needs it.
    descriptor: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    watched: Mutex<HashMap<i32, Vec<Arc<Told>>>>,
}

/// What one follower is told.
#[derive(Debug, Default)]
struct Told {
    something: Notify,
    /// The writer has closed the file.
    closed: AtomicBool,
}

/// A watched file.
#[derive(Debug)]
pub(super) struct Watch {
    changes: Arc<Changes>,
    descriptor: Arc<AsyncFd<OwnedFd>>,
    number: i32,
    told: Arc<Told>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Changes {
    /// Watches a file from now on; `None`: the kernel does not.
    pub(super) fn watch(self: &Arc<Self>, path: &Path) -> Option<Watch> {
        let descriptor = self.descriptor().ok()?;
        let wanted =
            WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
        // Under the lock: the number of a file that another lets go of is given up there too.
        let mut watched = locked(&self.watched);
        let number = inotify::add_watch(descriptor.get_ref(), path, wanted).ok()?;
        let told = Arc::new(Told::default());
        watched.entry(number).or_default().push(Arc::clone(&told));
        drop(watched);
        Some(Watch { changes: Arc::clone(self), descriptor, number, told })
    }

    fn descriptor(&self) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
        let mut known = locked(&self.descriptor);
        if let Some(descriptor) = &*known {
            return Ok(Arc::clone(descriptor));
        }
        let made = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let made = Arc::new(waited_for(made)?);
        *known = Some(Arc::clone(&made));
        Ok(made)
    }

    fn tell(&self, number: i32, events: ReadFlags) {
        let watched = locked(&self.watched);
        // After an overflow nobody knows whose events were lost.
        let all = events.contains(ReadFlags::QUEUE_OVERFLOW);
        let meant = watched.iter().filter(|(one, _)| all || **one == number).flat_map(|(_, told)| told);
        for told in meant {
            told.closed.fetch_or(events.contains(ReadFlags::CLOSE_WRITE), Ordering::Relaxed);
            told.something.notify_one();
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for types whose descriptor may change; an OwnedFd's never does"
)]
fn waited_for(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, tokio::io::Interest::READABLE)
}

impl Watch {
    /// Waits until something has happened to the file. Cancel-safe: what is read is told to all
    /// before anything is awaited again, and kept for who does not wait.
    async fn changed(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.told.something.notified() => return,
                ready = self.descriptor.readable() => {
                    let Ok(mut ready) = ready else { return std::future::pending().await };
                    let _ = ready.try_io(|descriptor| self.read_all(descriptor.get_ref()));
                }
            }
        }
    }

    /// Reads until there is nothing, which is an error of the kind that `try_io` looks for.
    fn read_all(&self, descriptor: &OwnedFd) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(descriptor, &mut space);
        loop {
            let event = reader.next()?;
            self.changes.tell(event.wd(), event.events());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = locked(&self.changes.watched);
        let Some(others) = watched.get_mut(&self.number) else { return };
        others.retain(|told| !Arc::ptr_eq(told, &self.told));
        if others.is_empty() {
            watched.remove(&self.number);
            // A file that is gone has taken its watch along.
            let _ = inotify::remove_watch(self.descriptor.get_ref(), self.number);
        }
    }
}

/// Waits for a change of a file, or until it is time to look all the same.
pub(super) async fn wait(watch: Option<&Watch>) {
    let Some(watch) = watch else { return tokio::time::sleep(LOOK_OFTEN).await };
    let closed = watch.told.closed.load(Ordering::Relaxed);
    let patience = if closed { LOOK_OFTEN } else { LOOK_SELDOM };
    // Elapsed: looked at all the same.
    let _ = tokio::time::timeout(patience, watch.changed()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn each_follower_is_told_of_its_file_and_of_no_other() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        let (mut first, second) =
            (std::fs::File::create(&one).unwrap(), std::fs::File::create(&two).unwrap());
        let changes = Arc::new(Changes::default());
        let watches = [&one, &one, &two].map(|path| changes.watch(path).unwrap());
        first.write_all(b"x").unwrap();
        // Both of the first file, in whichever order they ask.
        watches[1].changed().await;
        watches[0].changed().await;
        let told = |watch: &Watch| watch.told.closed.load(Ordering::Relaxed);
        assert!(!told(&watches[0]));
        drop(first);
        watches[0].changed().await;
        assert_eq!([&watches[0], &watches[1], &watches[2]].map(told), [true, true, false]);
        drop(second);
        watches[2].changed().await;
        assert!(told(&watches[2]));
        drop(watches);
        assert!(locked(&changes.watched).is_empty());
    }
}

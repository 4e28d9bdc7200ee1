//! The connections of one listener: how many there may be, and which one goes for a new one.
//!
//! A listener that is full of silent clients must not shut the others out, so a new
//! connection takes the place of the one that has been idle for longest, those without a
//! client certificate first. A connection that waits for an answer keeps its place; when all
//! do, the new one is closed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// All connections of a listener.
pub(crate) struct Connections {
    most: usize,
    /// Counts what happens, so that it can be told what was longest ago.
    clock: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// One of them.
pub(crate) struct Connection {
    id: u64,
    all: Arc<Connections>,
    /// Cancelled when another takes its place.
    pub(crate) replaced: CancellationToken,
    last_used: AtomicU64,
    answering: AtomicUsize,
    certified: AtomicBool,
    taken_over: AtomicBool,
}

impl Connections {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, clock: AtomicU64::new(0), open: Mutex::default() })
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for a new connection; `None` when everybody waits for an answer.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            let idle = open.values().filter(|one| one.is_idle());
            let longest = idle.min_by_key(|one| one.rank())?.id;
            if let Some(connection) = open.remove(&longest) {
                connection.replaced.cancel();
            }
        }
        let id = self.tick();
        let connection = Arc::new(Connection {
            id,
            all: Arc::clone(self),
            replaced: CancellationToken::new(),
            last_used: AtomicU64::new(id),
            answering: AtomicUsize::new(0),
            certified: AtomicBool::new(false),
            taken_over: AtomicBool::new(false),
        });
        open.insert(id, Arc::clone(&connection));
        Some(Place(connection))
    }
}

impl Connection {
    /// The lower goes first.
    fn rank(&self) -> (bool, u64) {
        (self.certified.load(Ordering::Relaxed), self.last_used.load(Ordering::Relaxed))
    }

    fn is_idle(&self) -> bool {
        self.answering.load(Ordering::Acquire) == 0 && !self.taken_over.load(Ordering::Relaxed)
    }

    /// A handler has taken the connection over: it is in use until it ends.
    pub(crate) fn take_over(&self) {
        self.taken_over.store(true, Ordering::Relaxed);
    }

    /// The client has shown a certificate.
    pub(crate) fn certify(&self) {
        self.certified.store(true, Ordering::Relaxed);
    }

    /// A request of it is being answered until this is dropped.
    pub(crate) fn answer(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::AcqRel);
        Answering(Arc::clone(self))
    }
}

/// A request that is being answered.
pub(crate) struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.last_used.store(self.0.all.tick(), Ordering::Relaxed);
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The place of a connection; dropping it leaves.
pub(crate) struct Place(pub(crate) Arc<Connection>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.all.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_takes_the_place_of_the_longest_idle_one() {
        let all = Connections::new(3);
        let (first, second, third) = (all.enter().unwrap(), all.enter().unwrap(), all.enter().unwrap());
        drop(first.0.answer());
        let _fourth = all.enter().unwrap();
        assert!(second.0.replaced.is_cancelled(), "it never asked anything");
        assert!(!first.0.replaced.is_cancelled() && !third.0.replaced.is_cancelled());
    }

    #[test]
    fn who_waits_for_an_answer_stays_and_who_has_a_certificate_stays_longer() {
        let all = Connections::new(2);
        let (certified, other) = (all.enter().unwrap(), all.enter().unwrap());
        certified.0.certify();
        let asking = other.0.answer();
        let newer = all.enter().unwrap();
        assert!(certified.0.replaced.is_cancelled(), "nobody else was idle");
        let answered = newer.0.answer();
        assert!(all.enter().is_none(), "all wait for answers");
        drop((asking, answered));
        newer.0.certify();
        let _last = all.enter().unwrap();
        assert!(other.0.replaced.is_cancelled() && !newer.0.replaced.is_cancelled());
    }

    #[test]
    fn places_come_back() {
        let all = Connections::new(1);
        drop(all.enter().unwrap());
        let one = all.enter().unwrap();
        assert!(!one.0.replaced.is_cancelled());
        assert_eq!(all.open.lock().unwrap().len(), 1);
    }
}

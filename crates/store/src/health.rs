//! Whether the store takes writes, for those who tell others (readiness, the Node's condition).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::interface::Error;

/// A disk that has not answered for so long is not slow any more: a lost network disk and a controller that
/// hangs leave the committer waiting, without an error, for ever.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// Shared by the committer, which knows, and the store, which is asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Why the last try failed.
    failed: Option<Error>,
    /// Since when the committer is at work on what it is at.
    busy_since: Option<Instant>,
}

impl Health {
    pub(crate) fn set(&self, now: Result<(), Error>) {
        self.state().failed = now.err();
    }

    /// The committer turns to some work.
    pub(crate) fn begin(&self, now: Instant) {
        self.state().busy_since = Some(now);
    }

    /// It waits for more.
    pub(crate) fn rest(&self) {
        self.state().busy_since = None;
    }

    pub(crate) fn get(&self, now: Instant) -> Result<(), Error> {
        let state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let busy = state.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if busy < STUCK_AFTER {
            return Ok(());
        }
        let why = format!("the disk has not answered for {} s", busy.as_secs());
        Err(Error::Disk(Arc::new(io::Error::new(io::ErrorKind::TimedOut, why))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_does_not_come_back_is_a_fault_until_it_does() {
        let (health, start) = (Health::default(), Instant::now());
        health.begin(start);
        assert!(health.get(start + STUCK_AFTER / 2).is_ok(), "a slow disk");
        let stuck = health.get(start + STUCK_AFTER).expect_err("stuck").to_string();
        assert_eq!(stuck, "failed to write to the data directory: the disk has not answered for 15 s");
        health.rest();
        assert!(health.get(start + STUCK_AFTER * 2).is_ok());
        health.set(Err(Error::Full));
        assert!(matches!(health.get(start), Err(Error::Full)));
    }
}

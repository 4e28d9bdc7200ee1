//! Whether a loop still turns: kept by the loop, asked by those who tell others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Of one loop. Clones share it. A loop that has not begun, and one that waits for something to do, is well.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Mutex<Option<Work>>>);

#[derive(Debug)]
struct Work {
    since: Instant,
    /// What the last try of it ended with.
    failed: Option<String>,
}

impl Pulse {
    /// The loop has something to do; what it has not finished yet goes on counting from its own beginning.
    pub fn begin(&self, now: Instant) {
        self.work().get_or_insert(Work { since: now, failed: None });
    }

    /// The work could not be done and will be tried again.
    pub fn failed(&self, why: String, now: Instant) {
        self.work().get_or_insert(Work { since: now, failed: None }).failed = Some(why);
    }

    /// It is done.
    pub fn rest(&self) {
        *self.work() = None;
    }

    /// Fails when the loop is at the same work for longer than this.
    ///
    /// # Errors
    /// How long that is, and why if the loop has said it.
    pub fn holds(&self, now: Instant, at_most: Duration) -> Result<(), String> {
        let work = self.work();
        let Some(work) = &*work else { return Ok(()) };
        let busy = now.saturating_duration_since(work.since);
        if busy < at_most {
            return Ok(());
        }
        let failed = work.failed.as_deref().unwrap_or("it does not go on");
        Err(format!("for {} s: {failed}", busy.as_secs()))
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_does_not_end_is_told_with_its_reason() {
        const AT_MOST: Duration = Duration::from_secs(60);
        let (pulse, start) = (Pulse::default(), Instant::now());
        let after = |seconds| pulse.holds(start + Duration::from_secs(seconds), AT_MOST);
        assert_eq!(after(1_000), Ok(()), "nothing to do");
        pulse.begin(start);
        assert_eq!(after(59), Ok(()));
        assert_eq!(after(60), Err("for 60 s: it does not go on".to_owned()));
        pulse.failed("no nft".to_owned(), start + Duration::from_secs(61));
        pulse.begin(start + Duration::from_secs(62));
        assert_eq!(after(65), Err("for 65 s: no nft".to_owned()), "a new try is the same work");
        pulse.rest();
        assert_eq!(after(1_000), Ok(()));
    }
}

//! How long a failed Pod stays before it is replaced. A node that refuses a Pod refuses the next one as
//! fast as it is made; twice the pause each time keeps the two from a race that nobody wins.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Upstream's Backoff of failed daemon Pods. It is forgotten with the process, which only costs a Pod more.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    of_keys: Mutex<HashMap<String, (Duration, Instant)>>,
}

impl Backoff {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Duration, Instant)>> {
        self.of_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left of the pause.
    pub(super) fn left(&self, key: &str) -> Option<Duration> {
        let (pause, since) = *self.lock().get(key)?;
        let left = pause.saturating_sub(since.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// One more failed.
    pub(super) fn failed(&self, key: &str) {
        let mut all = self.lock();
        all.retain(|_, (_, since)| since.elapsed() < LONGEST * 2);
        let next = all.get(key).map_or(FIRST, |(pause, _)| (*pause * 2).min(LONGEST));
        all.insert(key.to_owned(), (next, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_and_is_forgotten_after_a_long_peace() {
        let backoff = Backoff::default();
        assert_eq!(backoff.left("a"), None);
        for seconds in [1, 2, 4] {
            backoff.failed("a");
            assert_eq!(backoff.left("a"), Some(Duration::from_secs(seconds)));
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(backoff.left("a"), None);
        }
        tokio::time::advance(LONGEST * 2).await;
        backoff.failed("a");
        assert_eq!(backoff.left("a"), Some(FIRST));
    }
}

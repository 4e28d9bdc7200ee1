//! The work queue that each controller has: keys in, one reconciliation per key at
//! a time, merged while busy, again after a pause when it fails.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use client::{Error, Retry};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::counted;

/// What a reconciliation leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until something changes.
    Done,
    /// Look again after this time.
    After(Duration),
}

/// Where keys are put.
pub(crate) type Keys = mpsc::UnboundedSender<String>;

/// Keys that run at the same time.
const CONCURRENT_MAX: usize = 8;
/// The upstream rate limiter's pauses.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Reconciles until `shutdown`. What runs then is finished.
pub(crate) async fn reconcile<F, R>(
    name: &'static str,
    mut keys: mpsc::UnboundedReceiver<String>,
    shutdown: CancellationToken,
    act: F,
) where
    F: Fn(String) -> R + Send + 'static,
    R: Future<Output = Result<Next, Error>> + Send + 'static,
{
    let mut queue = WorkQueue::default();
    let mut running = JoinSet::new();
    let mut by_task: HashMap<Id, String> = HashMap::new();
    loop {
        while running.len() < CONCURRENT_MAX
            && let Some(key) = queue.pop(Instant::now())
        {
            let (work, began) = (act(key.clone()), Instant::now());
            let handle = running.spawn(async move {
                let done = work.await;
                counted::WORK.observe(&[name], began.elapsed());
                done
            });
            by_task.insert(handle.id(), key);
        }
        counted::DEPTH.at(&[name]).set(queue.ready.len() as f64);
        let due = queue.next_due();
        // Every arm is cancel-safe: channels and sets keep what was not taken.
        tokio::select! {
            () = shutdown.cancelled() => break,
            key = keys.recv() => match key {
                Some(key) => {
                    counted::ADDS.at(&[name]).inc();
                    queue.add(key);
                }
                None => break,
            },
            Some(ended) = running.join_next_with_id() => {
                let (id, result) = match ended {
                    Ok((id, result)) => (id, Some(result)),
                    Err(panicked) => (panicked.id(), None),
                };
                if let Some(key) = by_task.remove(&id) {
                    queue.finished(name, key, result, Instant::now());
                }
            }
            () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// What is to be done, and when.
#[derive(Default)]
struct WorkQueue {
    ready: VecDeque<String>,
    queued: HashSet<String>,
    /// Running keys; `true`: changed meanwhile.
    running: HashMap<String, bool>,
    later: BTreeSet<(Instant, String)>,
    failures: HashMap<String, u32>,
}

impl WorkQueue {
    fn add(&mut self, key: String) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn pop(&mut self, now: Instant) -> Option<String> {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.add(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone(), false);
        Some(key)
    }

    fn next_due(&self) -> Option<Instant> {
        self.later.first().map(|(due, _)| *due)
    }

    fn finished(&mut self, name: &str, key: String, result: Option<Result<Next, Error>>, now: Instant) {
        let again = self.running.remove(&key).unwrap_or_default();
        let pause = match result {
            Some(Ok(next)) => {
                self.failures.remove(&key);
                match next {
                    Next::Done => None,
                    Next::After(pause) => Some(pause),
                }
            }
            Some(Err(error)) => {
                if error.retry() != Retry::Now {
                    tracing::debug!(controller = name, key, %error, "reconciliation failed");
                }
                counted::RETRIES.at(&[name]).inc();
                Some(self.backoff(&key))
            }
            None => {
                tracing::error!(controller = name, key, "reconciliation panicked");
                Some(self.backoff(&key))
            }
        };
        if let Some(pause) = pause {
            self.later.retain(|(_, other)| *other != key);
            self.later.insert((now + pause, key.clone()));
        }
        if again {
            self.add(key);
        }
    }

    fn backoff(&mut self, key: &str) -> Duration {
        let failures = self.failures.entry(key.to_owned()).or_default();
        *failures = failures.saturating_add(1);
        BACKOFF_MIN.saturating_mul(1 << (*failures - 1).min(16)).min(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_changes_while_it_runs_runs_once_more_and_never_twice_at_once() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add("a".into());
        queue.add("a".into());
        assert_eq!(queue.pop(now).as_deref(), Some("a"));
        queue.add("a".into());
        queue.add("a".into());
        assert_eq!(queue.pop(now), None);
        queue.finished("t", "a".into(), Some(Ok(Next::Done)), now);
        assert_eq!(queue.pop(now).as_deref(), Some("a"));
        queue.finished("t", "a".into(), Some(Ok(Next::Done)), now);
        assert_eq!((queue.pop(now), queue.next_due()), (None, None));
    }

    #[test]
    fn failures_wait_longer_each_time_and_a_success_forgets_them() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..4 {
            queue.add("a".into());
            queue.pop(now);
            queue.finished("t", "a".into(), None, now);
            pauses.push((queue.next_due().unwrap() - now).as_millis());
        }
        assert_eq!(pauses, [5, 10, 20, 40]);
        queue.pop(now + BACKOFF_MAX);
        queue.finished("t", "a".into(), Some(Ok(Next::Done)), now);
        assert!(queue.failures.is_empty());
    }
}

//! Keeps a store current by list and watch.
//!
//! ```text
//! list ──► replace ──► watch ──► apply ─┬─ EOF: watch again from there
//!   ▲                                   ├─ 410: list again
//!   └────── back-off ◄── error ◄────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::store::Store;
use crate::{Client, Error, ListOptions, Object, Retry, Unreadable, WatchEvent};

/// Mirrors what `which` selects in `namespace` (`""`: everywhere) until `stop`.
pub(super) async fn run<K: Object>(
    client: Client,
    namespace: String,
    which: ListOptions,
    store: Arc<Store<K>>,
    stop: CancellationToken,
) {
    let mut reflector =
        Reflector { client, namespace, which, store: store.clone(), version: None, failures: 0 };
    // Cancel-safe: a dropped request leaves the store as it was.
    stop.run_until_cancelled(reflector.run()).await;
    store.end();
}

struct Reflector<K> {
    client: Client,
    namespace: String,
    which: ListOptions,
    store: Arc<Store<K>>,
    /// Where the next watch begins; `None`: list first.
    version: Option<String>,
    /// Failed attempts in a row.
    failures: u32,
}

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

impl<K: Object> Reflector<K> {
    async fn run(&mut self) {
        loop {
            let result = match self.version.clone() {
                None => self.list().await,
                Some(version) => self.follow(&version).await,
            };
            match result {
                Ok(()) => self.failures = 0,
                Err(error) => self.recover(&error).await,
            }
        }
    }

    async fn list(&mut self) -> Result<(), Error> {
        let (list, unreadable) = self.client.list_readable::<K>(&self.namespace, &self.which).await?;
        for (object, error) in &unreadable {
            skipped::<K>(object, error);
        }
        let unreadable: Vec<Unreadable> = unreadable.into_iter().map(|(object, _)| object).collect();
        self.store.replace(list.items, &unreadable, list.metadata.resource_version.as_deref());
        self.version = Some(list.metadata.resource_version.unwrap_or_default());
        Ok(())
    }

    async fn follow(&mut self, version: &str) -> Result<(), Error> {
        let mut watch = self.client.watch::<K>(&self.namespace, &self.which, version).await?;
        while let Some(event) = watch.next().await {
            match event {
                Ok(event) => self.apply(event),
                Err(Error::Unreadable { object, source }) => self.skip(&object, &source),
                Err(error) => return Err(error),
            }
            self.failures = 0;
        }
        Ok(())
    }

    fn apply(&mut self, event: WatchEvent<K>) {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.metadata().resource_version.clone();
                self.store.put(object);
                version
            }
            WatchEvent::Deleted(object) => {
                let version = object.metadata().resource_version.clone();
                self.store.remove(object);
                version
            }
            WatchEvent::Bookmark { resource_version, .. } => Some(resource_version),
        };
        self.version = version.or(self.version.take());
    }

    /// Goes on behind an object that cannot be read.
    fn skip(&mut self, object: &Unreadable, error: &serde_json::Error) {
        skipped::<K>(object, error);
        self.store.pass_over(object);
        if !object.resource_version.is_empty() {
            self.version = Some(object.resource_version.clone());
        }
    }

    async fn recover(&mut self, error: &Error) {
        if error.is_expired() {
            self.version = None;
        }
        self.failures = self.failures.saturating_add(1);
        let pause = match error.retry() {
            // An object that cannot be decoded must not be asked for in a tight loop.
            Retry::After(pause) => pause.max(backoff(self.failures)),
            Retry::Now | Retry::WaitForChange | Retry::Never => backoff(self.failures),
        };
        // The first failure of a connection is retried soon whatever the kind.
        let pause = if self.failures == 1 { BACKOFF_MIN } else { pause };
        tracing::debug!(kind = K::KIND, error = %chain(error), ?pause, "reflector failed");
        tokio::time::sleep(pause).await;
    }
}

/// Names an object that is passed over: until somebody mends it, nobody acts on it.
fn skipped<K: Object>(object: &Unreadable, error: &serde_json::Error) {
    tracing::warn!(kind = K::KIND, %object, %error, "an object cannot be read and is passed over");
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(BACKOFF_MAX)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

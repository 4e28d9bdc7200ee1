//! A controller: what it watches becomes keys, and each key is reconciled.

use client::{Change, Error, Informer, Object};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join, join_all};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::workqueue::{self, Keys, Next};

/// A controller that has not begun.
pub(crate) struct Controller {
    name: &'static str,
    keys: Keys,
    queued: mpsc::UnboundedReceiver<String>,
    synced: Vec<BoxFuture<'static, ()>>,
    feeds: Vec<BoxFuture<'static, ()>>,
}

impl Controller {
    /// A controller that watches nothing yet.
    pub(crate) fn new(name: &'static str) -> Self {
        // Unbounded: what is queued is merged by key as soon as it is taken, which never waits.
        let (keys, queued) = mpsc::unbounded_channel();
        Self { name, keys, queued, synced: Vec::new(), feeds: Vec::new() }
    }

    /// Where further keys may be put.
    pub(crate) fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Reconciles the keys that a change of this kind concerns; what is there at the beginning is new.
    pub(crate) fn watches<K: Object>(
        mut self,
        informer: &Informer<K>,
        concerned: impl Fn(&Change<K>) -> Vec<String> + Send + 'static,
    ) -> Self {
        let (mut changes, keys) = (informer.subscribe(), self.keys.clone());
        let feed = async move {
            while let Some(change) = changes.next().await {
                for key in concerned(&change) {
                    let _ = keys.send(key);
                }
            }
        };
        self.feeds.push(feed.boxed());
        self.reads(informer)
    }

    /// What reconciliations read: nobody acts on half of what there is.
    pub(crate) fn reads<K: Object>(mut self, informer: &Informer<K>) -> Self {
        let informer = informer.clone();
        self.synced.push(async move { informer.synced().await }.boxed());
        self
    }

    /// Reconciles with `act` until `shutdown`, as a task of `tasks`. What runs then is finished.
    pub(crate) fn run<F, R>(self, tasks: &mut JoinSet<()>, shutdown: CancellationToken, act: F)
    where
        F: Fn(String) -> R + Send + 'static,
        R: Future<Output = Result<Next, Error>> + Send + 'static,
    {
        let Self { name, keys, queued, synced, feeds } = self;
        tasks.spawn(async move {
            // The queue ends with the last who can put keys into it.
            drop(keys);
            if shutdown.run_until_cancelled(join_all(synced)).await.is_none() {
                return;
            }
            // Cancel-safe: a change not taken stays in its queue.
            let feeds = shutdown.run_until_cancelled(join_all(feeds));
            join(feeds, workqueue::reconcile(name, queued, shutdown.clone(), act)).await;
        });
    }
}

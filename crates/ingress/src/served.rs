//! The table that requests are answered by now, and what a Pod that leaves has to wait for.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Endpoint, Table};

/// Shared by the loop, the listeners and those who wait. Clones are one.
#[derive(Clone, Default)]
pub struct Served(Arc<Shared>);

struct Shared {
    /// Held for the time of cloning or replacing what it points to.
    table: RwLock<Arc<Table>>,
    /// How many have asked for a table that knows what is known now.
    asked: watch::Sender<u64>,
    /// How many of them the table that is served was made after.
    done: watch::Sender<u64>,
    /// No longer led to, and some request may still wait for the head of its answer.
    leaving: Mutex<Vec<Arc<Endpoint>>>,
    connections: TaskTracker,
    cut: CancellationToken,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            table: RwLock::default(),
            asked: watch::Sender::new(0),
            done: watch::Sender::new(0),
            leaving: Mutex::default(),
            connections: TaskTracker::new(),
            cut: CancellationToken::new(),
        }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl Served {
    pub(crate) fn table(&self) -> Arc<Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when no request is led to the Pod of this UID any more, and those that were have an answer
    /// begun. What is known of it when this is called is what counts.
    pub async fn withdrawn(&self, uid: &str) {
        let mut asked = 0;
        self.0.asked.send_modify(|count| {
            *count += 1;
            asked = *count;
        });
        // The sender is ours: there is no error.
        let _ = self.0.done.subscribe().wait_for(|done| *done >= asked).await;
        let leaving: Vec<_> = self.leaving().iter().filter(|one| one.to().pod == uid).cloned().collect();
        join_all(leaving.iter().map(|endpoint| endpoint.quiet())).await;
    }

    fn leaving(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.0.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have asked for a new table; it is made after this was called.
    pub(crate) fn asked(&self) -> u64 {
        *self.0.asked.borrow()
    }

    /// Returns when somebody has asked since. Cancel-safe.
    pub(crate) async fn asked_since(&self, count: u64) {
        let _ = self.0.asked.subscribe().wait_for(|asked| *asked > count).await;
    }

    /// Answers by this table from now on, and by none that leads to `gone`.
    pub(crate) fn swap(&self, table: Table, gone: Vec<Arc<Endpoint>>, asked: u64) {
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        // After the swap: who finds one closed looks into the table again.
        gone.iter().for_each(|endpoint| endpoint.close());
        let mut leaving = self.leaving();
        leaving.extend(gone);
        leaving.retain(|endpoint| !endpoint.is_quiet());
        drop(leaving);
        self.0.done.send_replace(asked);
    }

    /// Drives a connection to a Pod until it ends, or all end.
    pub(crate) fn drive(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.0.connections.spawn(self.0.cut.clone().run_until_cancelled_owned(connection));
    }

    /// Ends all connections to Pods. Nobody waits for a table any more.
    pub(crate) async fn end(&self) {
        self.0.done.send_replace(u64::MAX);
        self.0.cut.cancel();
        self.0.connections.close();
        self.0.connections.wait().await;
    }
}

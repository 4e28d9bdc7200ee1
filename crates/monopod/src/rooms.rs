//! The running rooms: no task without an owner, and who ends late is named.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use wire::Handler;
use wire::pki::ServingCertificate;

use crate::names::{self, Names};

/// The tasks of all rooms and the token that ends them.
#[derive(Debug)]
pub(crate) struct Rooms {
    tasks: JoinSet<()>,
    /// What has ended is known by its id alone.
    names: HashMap<Id, &'static str>,
    shutdown: CancellationToken,
}

impl Rooms {
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Rooms { tasks: JoinSet::new(), names: HashMap::new(), shutdown }
    }

    /// Runs a room until the token is cancelled.
    pub(crate) fn run(&mut self, name: &'static str, room: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(room).id();
        self.names.insert(id, name);
    }

    /// Serves a handler over TLS until the token is cancelled, then drains.
    pub(crate) fn serve(
        &mut self,
        name: &'static str,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        handler: Arc<dyn Handler>,
    ) {
        let shutdown = self.shutdown.clone();
        let limits = listener_limits();
        self.run(name, async move {
            wire::serve_with(limits, listener, Some(tls), handler, shutdown).await;
        });
    }

    /// Renews a certificate in time, and whenever the host has other addresses, until the token is cancelled.
    pub(crate) fn keep_fresh(&mut self, certificate: Arc<ServingCertificate>, names: Names) {
        self.run("addresses", names::follow(names, certificate.clone(), self.shutdown.clone()));
        self.renew(certificate);
    }

    /// Renews a certificate in time, whose names stay, until the token is cancelled.
    pub(crate) fn renew(&mut self, certificate: Arc<ServingCertificate>) {
        let shutdown = self.shutdown.clone();
        self.run("certificates", async move { certificate.keep_fresh(shutdown).await });
    }

    /// Waits until a room has ended that nobody told to, and names it: the others would go on as if it
    /// were there, and whoever started the program would not know. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> String {
        match self.next_end().await {
            Some((name, Some(panic))) => format!("{name} failed: {panic}"),
            Some((name, None)) => format!("{name} ended by itself"),
            None => std::future::pending().await,
        }
    }

    async fn next_end(&mut self) -> Option<(&'static str, Option<String>)> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
        let name = self.names.remove(&id).unwrap_or("?");
        Some((name, ended.err().map(panic_words)))
    }

    /// Cancels, waits, and names the rooms that did not end in time.
    pub(crate) async fn drain(mut self, deadline: Duration) {
        self.shutdown.cancel();
        let ending = async {
            while let Some((name, panic)) = self.next_end().await {
                if let Some(panic) = panic {
                    tracing::error!(room = name, panic, "a room failed");
                }
            }
        };
        if tokio::time::timeout(deadline, ending).await.is_err() {
            // Dropped with the set: they end where they wait next.
            let late: Vec<&str> = self.names.values().copied().collect();
            tracing::warn!(?late, "some rooms did not end in time");
        }
    }
}

/// Bounds of each listener.
pub(crate) fn listener_limits() -> wire::Limits {
    let mut limits = wire::Limits::default();
    // A connection is a descriptor; the node, the store and the other listeners need theirs.
    if let Some(descriptors) = getrlimit(Resource::Nofile).current {
        let share = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        limits.connections_max = limits.connections_max.min(share);
    }
    limits
}

/// What a task that panicked said.
fn panic_words(err: tokio::task::JoinError) -> String {
    let Ok(payload) = err.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// The one node of this process, known to the server by its HTTP face only.
pub(crate) struct LocalNode {
    name: String,
    /// Empty until the node has started, which is after the server was built.
    handler: OnceLock<Arc<dyn Handler>>,
}

impl LocalNode {
    pub(crate) fn new(name: &str) -> Self {
        LocalNode { name: name.to_owned(), handler: OnceLock::new() }
    }

    /// The node has started.
    pub(crate) fn set(&self, handler: Arc<dyn Handler>) {
        let first = self.handler.set(handler).is_ok();
        assert!(first, "a process has one node");
    }
}

impl server::Nodes for LocalNode {
    fn handler(&self, node: &str) -> Option<Arc<dyn Handler>> {
        (node == self.name).then(|| self.handler.get().cloned()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_room_that_ends_unasked_is_named_and_the_others_are_drained() {
        for (panics, words) in
            [(true, "scheduler failed: for the test"), (false, "scheduler ended by itself")]
        {
            let shutdown = CancellationToken::new();
            let mut rooms = Rooms::new(shutdown.clone());
            let (told, mut drained) = tokio::sync::oneshot::channel();
            rooms.run("controllers", async move {
                shutdown.cancelled().await;
                let _ = told.send(());
            });
            rooms.run("scheduler", async move { assert!(!panics, "for the test") });
            assert_eq!(rooms.ended().await, words);
            rooms.drain(DRAIN_OF_TEST).await;
            drained.try_recv().expect("the other room was told and ended in order");
        }
    }

    const DRAIN_OF_TEST: Duration = Duration::from_secs(60);
}

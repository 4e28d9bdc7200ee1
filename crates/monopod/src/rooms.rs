//! The running rooms: no task without an owner, and who ends late is named.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use wire::Handler;
use wire::pki::ServingCertificate;

/// The tasks of all rooms and the token that ends them.
#[derive(Debug)]
pub(crate) struct Rooms {
    tasks: JoinSet<()>,
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
        self.run(name, async move {
            wire::serve(listener, Some(tls), handler, shutdown).await;
        });
    }

    /// Renews a certificate in time until the token is cancelled.
    pub(crate) fn keep_fresh(&mut self, certificate: Arc<ServingCertificate>) {
        let shutdown = self.shutdown.clone();
        self.run("certificates", async move { certificate.keep_fresh(shutdown).await });
    }

    /// Cancels, waits, and names the rooms that did not end in time.
    pub(crate) async fn drain(mut self, deadline: Duration) {
        self.shutdown.cancel();
        let ending = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
                let name = self.names.remove(&id).unwrap_or("?");
                if let Err(err) = ended {
                    tracing::error!(room = name, %err, "a room failed");
                }
            }
        };
        if tokio::time::timeout(deadline, ending).await.is_err() {
            let late: Vec<&str> = self.names.values().copied().collect();
            tracing::warn!(?late, "some rooms did not end in time");
        }
    }
}

/// The one node of this process, known to the server by its HTTP face only.
pub(crate) struct LocalNode {
    name: String,
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

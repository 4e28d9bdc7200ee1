//! How requests reach the server.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wire::{Handler, Identity, Request, Response};

/// Carries one request to the API server and brings its answer.
pub trait Transport: Send + Sync + 'static {
    /// Called concurrently. The answer's body may go on for hours (a watch);
    /// dropping it ends the request.
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, TransportError>>;
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection could be made.
    #[error("failed to connect to {server}")]
    Connect {
        /// The server's address.
        server: String,
        /// The cause.
        #[source]
        source: wire::BoxError,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection broke")]
    Broken(#[source] wire::BoxError),
}

/// Calls the server's handler in this process, as `identity`.
#[derive(Clone)]
pub struct InProcess {
    handler: Arc<dyn Handler>,
    identity: Identity,
}

impl InProcess {
    /// Requests go to `handler` as `user`, a member of `groups`.
    pub fn new(handler: Arc<dyn Handler>, user: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Self { handler, identity: Identity { user: user.into(), groups, certificate_sha256: String::new() } }
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Transport for InProcess {
    fn send(&self, mut request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        request.extensions_mut().insert(self.identity.clone());
        self.handler.handle(request).map(Ok).boxed()
    }
}

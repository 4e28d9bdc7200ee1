//! The way from the controllers to the server: what is under way when they end is not lost, and what they hear
//! of one kind can be held back.

use std::sync::Arc;

use client::{InProcess, Transport, TransportError};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use wire::{Body, Request, Response};

/// A process takes its server along when it ends: whoever comes after it finds all its writes done, or none of
/// them. Here the server goes on, and so do the requests of controllers that were ended in the midst of them.
pub(crate) struct Way {
    to: InProcess,
    gate: Arc<Gate>,
    under_way: TaskTracker,
}

impl Way {
    pub(crate) fn new(to: InProcess, gate: Arc<Gate>, under_way: TaskTracker) -> Self {
        Self { to, gate, under_way }
    }
}

impl Transport for Way {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Response, TransportError>> {
        let gate = self.gate.clone();
        gate.asked.send_modify(|asked| asked.push(format!("{} {}", request.method(), request.uri().path())));
        let is_read = request.method() == Method::GET;
        let path = request.uri().path().to_owned();
        let answer = self.under_way.spawn(self.to.send(request));
        async move {
            let answer = answer.await.expect("the server does not panic")?;
            Ok(if is_read { answer.map(|body| gate.pass(path, body)) } else { answer })
        }
        .boxed()
    }
}

/// Holds back what is heard of one kind.
pub(crate) struct Gate {
    /// The plural of the kind.
    closed: watch::Sender<Option<&'static str>>,
    /// Method and path of each request.
    asked: watch::Sender<Vec<String>>,
    /// What was heard of Jobs, piece by piece.
    heard: watch::Sender<Vec<String>>,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            closed: watch::Sender::new(None),
            asked: watch::Sender::new(Vec::new()),
            heard: watch::Sender::new(Vec::new()),
        })
    }

    pub(crate) fn close(&self, plural: &'static str) {
        self.asked.send_modify(Vec::clear);
        self.closed.send_replace(Some(plural));
    }

    pub(crate) fn open(&self) {
        self.closed.send_replace(None);
    }

    /// Until a Job was heard of in this version.
    pub(crate) async fn until_heard(&self, version: &str) {
        let mut heard = self.heard.subscribe();
        let version = format!("\"resourceVersion\":\"{version}\"");
        heard
            .wait_for(|heard| heard.iter().any(|one| one.contains(&version)))
            .await
            .expect("the gate is there");
    }

    /// Until there is a request that is as wanted since the gate was closed.
    pub(crate) async fn until_asked(&self, wanted: impl Fn(&str) -> bool) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| asked.iter().any(|one| wanted(one))).await.expect("the gate is there");
    }

    fn pass(self: Arc<Self>, path: String, body: Body) -> Body {
        let pieces = body.into_data_stream().then(move |piece| {
            let (gate, mut closed, path) = (self.clone(), self.closed.subscribe(), path.clone());
            async move {
                let open = |closed: &Option<&str>| {
                    closed.is_none_or(|plural| !path.ends_with(&format!("/{plural}")))
                };
                closed.wait_for(open).await.expect("the gate is there");
                if let Some(piece) = piece.as_ref().ok().filter(|_| path.ends_with("/jobs")) {
                    gate.heard.send_modify(|heard| heard.push(String::from_utf8_lossy(piece).into_owned()));
                }
                piece
            }
        });
        wire::body_from_stream(pieces)
    }
}

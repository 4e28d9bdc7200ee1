//! A server on a store of its own, asked in process.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::Value;
use server::{Config, Nodes, Server};
use store::{Embedded, History, Store};
use wire::{Body, Handler, Identity, Response};

/// No node can be reached.
struct NoNodes;

impl Nodes for NoNodes {
    fn handler(&self, _node: &str) -> Option<Arc<dyn Handler>> {
        None
    }
}

pub(crate) struct Cluster {
    server: Arc<Server>,
    store: Arc<Embedded>,
    key: Vec<u8>,
    user: Option<Identity>,
    directory: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

pub(crate) fn admin() -> Identity {
    Identity {
        user: "admin".into(),
        groups: vec!["system:masters".into()],
        certificate_sha256: String::new(),
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with_nodes(Arc::new(NoNodes)).await
    }

    pub(crate) async fn with_nodes(nodes: Arc<dyn Nodes>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::on(directory, nodes, server::auth::TokenKey::generate().expect("a key")).await
    }

    /// With other limits, on a store that something of the test's stands in front of.
    pub(crate) async fn start_on(
        limits: server::Limits,
        front: impl FnOnce(Arc<Embedded>) -> Arc<dyn Store>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = server::auth::TokenKey::generate().expect("a key");
        Self::build(directory, Arc::new(NoNodes), key, limits, front).await
    }

    async fn on(directory: tempfile::TempDir, nodes: Arc<dyn Nodes>, key: Vec<u8>) -> Self {
        Self::build(directory, nodes, key, server::Limits::default(), |store| store).await
    }

    async fn build(
        directory: tempfile::TempDir,
        nodes: Arc<dyn Nodes>,
        key: Vec<u8>,
        limits: server::Limits,
        front: impl FnOnce(Arc<Embedded>) -> Arc<dyn Store>,
    ) -> Self {
        let store = Embedded::open(directory.path(), server::stamp, History::default()).expect("opens");
        let store = Arc::new(store);
        let config = Config {
            service_cidr: "10.43.0.0/16".into(),
            advertise: "127.0.0.1:6443".parse().expect("an address"),
            authority_pem: "PEM".into(),
            service_account_key: key.clone(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            anonymous: true,
            nodes,
            limits,
            audit: None,
            metrics: Arc::new(|_| {}),
            checks: Vec::new(),
        };
        let server = Server::start(front(Arc::clone(&store)), config).await.expect("starts");
        Self { server, store, key, user: Some(admin()), directory }
    }

    /// Stops in order and starts again on the same directory.
    pub(crate) async fn restart(self) -> Self {
        self.store.close().await.expect("closes");
        drop((self.server, self.store));
        Self::on(self.directory, Arc::new(NoNodes), self.key).await
    }

    pub(crate) async fn send(&self, request: http::request::Builder, body: Body) -> Response {
        let mut request = request.body(body).expect("a request");
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        let answer = self.server.handle(request);
        tokio::time::timeout(Duration::from_secs(30), answer).await.expect("answers")
    }

    async fn ask(&self, request: http::request::Builder, body: &str) -> Answer {
        let response = self.send(request, wire::full(body.to_owned())).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body, text }
    }

    /// What is served.
    pub(crate) fn registry(&self) -> &server::Registry {
        self.server.registry()
    }

    /// The store itself, without the server.
    pub(crate) fn store(&self) -> &Embedded {
        &self.store
    }

    /// A request on its way, as the listener holds it.
    pub(crate) fn begin(&self, request: http::request::Builder, body: Body) -> BoxFuture<'static, Response> {
        let mut request = request.body(body).expect("a request");
        request.extensions_mut().extend(
            self.user
                .clone()
                .map(|user| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(user);
                    extensions
                })
                .unwrap_or_default(),
        );
        self.server.handle(request)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(http::Request::get(path), "").await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.ask(http::Request::get(path).header("accept", accept), "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(http::Request::post(path).header("content-type", "application/json"), &body.to_string())
            .await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(http::Request::put(path).header("content-type", "application/json"), &body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let media = format!("application/{kind}");
        self.ask(http::Request::patch(path).header("content-type", media), &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.ask(http::Request::delete(path).header("content-type", "application/json"), &body).await
    }

    /// Begins a watch; its lines come from [`Lines::next`].
    pub(crate) async fn watch(&self, path: &str) -> Lines {
        let response = self.send(http::Request::get(path), wire::empty()).await;
        assert_eq!(response.status(), 200, "{path}");
        Lines { body: response.into_body(), read: Vec::new() }
    }

    /// Asks as somebody else.
    pub(crate) fn asked_by(self, user: Option<Identity>) -> Self {
        Self { user, ..self }
    }
}

/// The events of a watch.
pub(crate) struct Lines {
    body: Body,
    read: Vec<u8>,
}

impl Lines {
    /// The next event; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(30), self.body.frame()).await;
            let frame = frame.expect("an event or the end")?;
            self.read.extend_from_slice(frame.expect("no error").data_ref().expect("data"));
        }
    }

    /// The next event as `TYPE name`.
    pub(crate) async fn brief(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default())
    }
}

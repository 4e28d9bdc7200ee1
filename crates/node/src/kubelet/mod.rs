//! The node's HTTP API: logs, exec, attach, port-forward, health.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use serde_json::json;
use wire::{Handler, Request, Response};

use crate::shared::Shared;

/// Answers as the kubelet on port 10250 does.
#[derive(Clone)]
pub(crate) struct Kubelet {
    pub(crate) node: Arc<Shared>,
}

impl Kubelet {
    pub(crate) fn new(node: Arc<Shared>) -> Self {
        Self { node }
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().to_string();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
            (&Method::GET, ["pods"]) => self.pods(),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pods(&self) -> Response {
        let items: Vec<_> = self.node.workers().values().map(|worker| Arc::clone(&worker.pod)).collect();
        let items: Vec<_> = items.iter().map(|pod| &**pod).collect();
        json_response(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

impl Handler for Kubelet {
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        self.clone().answer(request).boxed()
    }
}

/// A plain answer.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let mut response = Response::new(wire::full(Bytes::from(body.into())));
    *response.status_mut() = status;
    response
}

fn json_response(value: &serde_json::Value) -> Response {
    let mut response = text(StatusCode::OK, value.to_string());
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

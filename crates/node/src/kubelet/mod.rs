//! The node's HTTP API: logs, exec, attach, port-forward, statistics, health, under the kubelet's own paths.
//!
//! The server hands requests here as they came, upgrade included. Errors are plain text
//! with the kubelet's status codes; the server makes Status objects of them.

mod cadvisor;
mod changes;
mod fds;
mod forward;
mod logs;
mod remote;
mod stats;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use runtime::Measured;
use serde_json::json;
use wire::{Handler, Request, Response};

use self::stats::Usage;
use crate::pod::status::RUNTIME;
use crate::shared::Shared;

/// Answers as the kubelet on port 10250 does.
#[derive(Clone)]
pub(crate) struct Kubelet {
    node: Arc<Shared>,
    /// For those who follow logs.
    changes: Arc<changes::Changes>,
}

impl Kubelet {
    pub(crate) fn new(node: Arc<Shared>) -> Self {
        Self { node, changes: Arc::default() }
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().to_string();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let query = Query::of(&request);
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
            (&Method::GET, ["pods"]) => self.pods(),
            (&Method::GET, ["stats", "summary"]) => {
                let brief = query.flag(&["only_cpu_and_memory"]);
                let measured = if brief { Measured::CpuAndMemory } else { Measured::All };
                self.stats(measured, |usage, node| json_response(&usage.summary(node))).await
            }
            (&Method::GET, ["metrics", "resource"]) => {
                self.stats(Measured::CpuAndMemory, |usage, _| text(StatusCode::OK, usage.metrics())).await
            }
            (&Method::GET, ["metrics", "cadvisor"]) => {
                let machine = cadvisor::Machine::of(&self.node);
                self.stats(Measured::All, |usage, _| text(StatusCode::OK, cadvisor::metrics(usage, &machine)))
                    .await
            }
            (&Method::GET, ["metrics", "probes"]) => text(StatusCode::OK, self.node.probes.metrics()),
            (&Method::GET, ["containerLogs", namespace, pod, container]) => {
                self.container_logs(namespace, pod, container, &query).await
            }
            (&Method::GET | &Method::POST, [verb @ ("exec" | "attach"), namespace, pod, container]) => {
                match self.running(namespace, pod, container) {
                    Ok(id) if *verb == "exec" => remote::exec(Arc::clone(&self.node), request, id, &query),
                    Ok(id) => remote::attach(Arc::clone(&self.node), request, id, &query),
                    Err(refused) => refused,
                }
            }
            (&Method::GET | &Method::POST, ["portForward", namespace, pod]) => {
                match self.sandbox(namespace, pod) {
                    Ok(sandbox) => forward::start(Arc::clone(&self.node), request, sandbox, &query),
                    Err(refused) => refused,
                }
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pods(&self) -> Response {
        let items: Vec<Arc<Pod>> =
            self.node.workers().values().map(|worker| Arc::clone(&worker.pod)).collect();
        let items: Vec<&Pod> = items.iter().map(|pod| &**pod).collect();
        json_response(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    /// What the node and its Pods use, in upstream's summary or as numbers for Prometheus.
    async fn stats(&self, measured: Measured, show: impl FnOnce(&Usage, &str) -> Response) -> Response {
        match Usage::measure(&self.node, measured).await {
            Ok(usage) => show(&usage, &self.node.config.node_name),
            Err(err) => text(StatusCode::INTERNAL_SERVER_ERROR, err.to_string()),
        }
    }

    /// The id of a running container.
    fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<String, Response> {
        let worker =
            self.node.pod(namespace, pod).ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist"))?;
        let running = statuses(&worker.pod).find(|status| {
            status.name == container && status.state.as_ref().is_some_and(|state| state.running.is_some())
        });
        let id = running.and_then(|status| status.container_id.as_deref()).map(bare_id);
        id.ok_or_else(|| {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})"))
        })
    }

    fn sandbox(&self, namespace: &str, pod: &str) -> Result<String, Response> {
        let worker =
            self.node.pod(namespace, pod).ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist"))?;
        let full_name = || crate::pod::spec::full_name(&worker.pod);
        match &worker.sandbox {
            Some(sandbox) => Ok(sandbox.clone()),
            None => Err(text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to find sandboxID for pod {}", full_name()),
            )),
        }
    }
}

impl Handler for Kubelet {
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        self.clone().answer(request).boxed()
    }
}

/// All container statuses of a Pod.
pub(crate) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let lists = status.map(|status| {
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
    });
    lists.into_iter().flatten().flatten().flatten()
}

/// A container id without the runtime's name.
pub(crate) fn bare_id(id: &str) -> String {
    id.trim_start_matches(RUNTIME).to_string()
}

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    fn of(request: &Request) -> Self {
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for pair in request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(decode(key)).or_default().push(decode(value));
        }
        Self(all)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|values| values.first()).map(String::as_str)
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// `1`, `true` and the like; one of several names for the same.
    fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "t")))
    }
}

/// Percent-decoding of a query, `+` included.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
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

//! Health check node ports: an outer load balancer asks each node how many Pods of a Service it has, and sends
//! to those that have some.
//!
//! Only Services of type LoadBalancer with `externalTrafficPolicy: Local` have such a port. The answers are
//! kube-proxy's: 200 or 503, and a small JSON document.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use client::index::service_of;
use client::key_of;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Whoever asks for longer is not answered.
const ASK_AT_MOST: Duration = Duration::from_secs(5);
const REQUEST_MAX: usize = 8 << 10;
/// Questions that are answered at once; more wait in the kernel's queue.
const AT_ONCE: usize = 32;

/// A Service and how many of its ready Pods are on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    namespace: String,
    name: String,
    endpoints: usize,
}

/// What is to be told at which port.
pub(crate) fn wanted(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    node: &str,
) -> BTreeMap<u16, Local> {
    let port = |service: &Arc<Service>| {
        let spec = service.spec.as_ref()?;
        let local = spec.type_.as_deref() == Some("LoadBalancer")
            && spec.external_traffic_policy.as_deref() == Some("Local");
        spec.health_check_node_port
            .filter(|port| local && *port > 0)
            .and_then(|port| u16::try_from(port).ok())
    };
    let of = |service: &Arc<Service>| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name) = (text(&service.metadata.namespace), text(&service.metadata.name));
        let endpoints = ready_on(slices, &key_of(&**service), node);
        Some((port(service)?, Local { namespace, name, endpoints }))
    };
    services.iter().filter_map(of).collect()
}

/// Ready Pods of a Service on this node; a Pod with several ports is one.
fn ready_on(slices: &[Arc<EndpointSlice>], service: &str, node: &str) -> usize {
    let own = slices.iter().filter(|slice| service_of(slice).is_some_and(|key| key == service));
    let ready = own.flat_map(|slice| slice.endpoints.iter().flatten()).filter(|endpoint| {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
        ready && endpoint.node_name.as_deref() == Some(node)
    });
    ready.filter_map(|endpoint| endpoint.addresses.first()).collect::<BTreeSet<_>>().len()
}

/// The servers of the ports that there are.
#[derive(Debug, Default)]
pub(crate) struct HealthChecks {
    servers: BTreeMap<u16, (watch::Sender<Local>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl HealthChecks {
    /// Begins and ends servers, and tells those that go on what to say. A port that cannot be listened on is
    /// tried again with the next change.
    pub(crate) async fn update(&mut self, wanted: BTreeMap<u16, Local>) {
        self.servers.retain(|port, (_, task)| {
            let kept = wanted.contains_key(port);
            if !kept {
                task.abort();
            }
            kept
        });
        while self.tasks.try_join_next().is_some() {}
        for (port, local) in wanted {
            if let Some((says, _)) = self.servers.get(&port) {
                says.send_if_modified(|said| std::mem::replace(said, local.clone()) != local);
                continue;
            }
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(listener) => {
                    let (says, said) = watch::channel(local);
                    let task = self.tasks.spawn(serve(listener, said));
                    self.servers.insert(port, (says, task));
                }
                Err(error) => tracing::warn!(port, service = local.name, %error, "no health check node port"),
            }
        }
    }
}

/// Answers at one port until it is aborted.
async fn serve(listener: TcpListener, said: watch::Receiver<Local>) {
    let mut asked = JoinSet::new();
    loop {
        while asked.len() >= AT_ONCE {
            asked.join_next().await;
        }
        while asked.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((connection, _)) => {
                let local = said.borrow().clone();
                asked.spawn(async move {
                    // Whoever goes away has no answer.
                    let _ = timeout(ASK_AT_MOST, answer(connection, &local)).await;
                });
            }
            // Of file descriptors there are none: later there may be.
            Err(error) => {
                tracing::debug!(%error, "a health check was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One question and its answer; what is asked for does not matter.
async fn answer(mut connection: TcpStream, local: &Local) -> std::io::Result<()> {
    let mut request = Vec::new();
    // Read to its end, so that the connection is not reset under the answer.
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX {
        if connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    connection.write_all(text(local).as_bytes()).await?;
    connection.shutdown().await
}

/// As kube-proxy writes it, to the tabs.
fn text(local: &Local) -> String {
    let Local { namespace, name, endpoints } = local;
    let status = if *endpoints > 0 { "200 OK" } else { "503 Service Unavailable" };
    // Names of Kubernetes objects need no escapes.
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\
         \"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {endpoints}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(port: i32, policy: &str) -> Arc<Service> {
        let service = json!({"metadata": {"namespace": "a", "name": "web"},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy, "healthCheckNodePort": port}});
        Arc::new(serde_json::from_value(service).unwrap())
    }

    fn slice() -> Arc<EndpointSlice> {
        let endpoint = |address: &str, node: &str, ready: bool| json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready}});
        let slice = json!({
            "metadata": {"namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [endpoint("10.42.0.2", "here", true), endpoint("10.42.0.3", "here", false),
                          endpoint("10.42.1.2", "there", true), endpoint("10.42.0.2", "here", true)]});
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    #[test]
    fn ready_pods_of_this_node_are_counted_once() {
        let count = |node: &str| wanted(&[service(30_001, "Local")], &[slice()], node)[&30_001].endpoints;
        assert_eq!((count("here"), count("there"), count("nowhere")), (1, 1, 0));
        assert!(wanted(&[service(30_001, "Cluster"), service(0, "Local")], &[slice()], "here").is_empty());
    }

    #[test]
    fn the_answer_is_that_of_kube_proxy() {
        let local = |endpoints| Local { namespace: "a".into(), name: "web".into(), endpoints };
        let said = text(&local(2));
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("Weight: 2\r\n"), "{said}");
        let body = said.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let expected = json!({"service": {"namespace": "a", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        assert_eq!(body, expected);
        assert!(text(&local(0)).starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    }
}

//! Services of type LoadBalancer get the addresses of the nodes themselves.
//!
//! Elsewhere a cloud has addresses to give away. Here the node's own are what can be reached from outside, and
//! a port of them is one Service's: the oldest that wants it. A Service of some `loadBalancerClass` is left to
//! whoever serves that class; and with the label `node.kubernetes.io/exclude-from-external-load-balancers` on
//! the nodes all are left to somebody else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use client::events::{EventType, Recorder};
use client::{Client, Error, Informer, Patch, PatchKind, key_of};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::{Context, say, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

struct LoadBalancers {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    nodes: Informer<Node>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let this = LoadBalancers {
        client: context.client.clone(),
        recorder: context.recorder("service-controller", tasks),
        services: context.informers.of(),
        nodes: context.informers.of(),
    };
    let (of_service, of_node) = (this.services.clone(), this.services.clone());
    let controller = Controller::new("service")
        .watches(&this.services, move |change| {
            let service = change.object();
            if !wants(service) && !has_address(service) {
                return Vec::new();
            }
            // What one gives up another may get.
            balanced(&of_service).chain([key_of(&**service)]).collect()
        })
        .watches(&this.nodes, move |change| match change {
            client::Change::Modified { old, new } if addresses_of(old) == addresses_of(new) => Vec::new(),
            _ => balanced(&of_node).collect(),
        });
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

fn balanced(services: &Informer<Service>) -> impl Iterator<Item = String> {
    services.filter(wants).into_iter().map(|service| key_of(&*service))
}

/// Whether a Service is to have an address from here.
fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn has_address(service: &Service) -> bool {
    !ingress(service).is_empty()
}

/// Where a node is reached from outside, unless it says that it is not meant.
fn addresses_of(node: &Node) -> Vec<IpAddr> {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |kind: &'static str| {
        let of_kind = listed.clone().filter(move |address| address.type_ == kind && !excluded);
        of_kind.filter_map(|address| address.address.parse().ok()).collect::<Vec<IpAddr>>()
    };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

impl LoadBalancers {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let Some(service) = self.services.get(namespace, name) else { return Ok(Next::Done) };
        let mut addresses: Vec<IpAddr> =
            self.nodes.list().iter().flat_map(|node| addresses_of(node)).collect();
        addresses.sort_unstable();
        let wanted = match (wants(&service), addresses.is_empty()) {
            // Somebody else's, who takes back what he has given.
            (_, true) => return Ok(Next::Done),
            (false, _) if class_of(&service).is_some() => return Ok(Next::Done),
            (false, _) => Vec::new(),
            (true, _) => match holder(&service, &self.services.filter(wants)) {
                None => addresses,
                Some((port, other)) => {
                    let message = format!(
                        "Error syncing load balancer: failed to ensure load balancer: port {port} of the node is that of service {other}"
                    );
                    say(&self.recorder, &*service, EventType::Warning, "SyncLoadBalancerFailed", message);
                    Vec::new()
                }
            },
        };
        self.write(&service, &wanted).await?;
        Ok(Next::Done)
    }

    async fn write(&self, service: &Service, addresses: &[IpAddr]) -> Result<(), Error> {
        let known: Vec<Option<String>> = ingress(service).iter().map(|ingress| ingress.ip.clone()).collect();
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if known.iter().map(Option::as_deref).eq(texts.iter().map(|text| Some(text.as_str()))) {
            return Ok(());
        }
        let list: Vec<_> = texts.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let balancer = if list.is_empty() { json!({"ingress": null}) } else { json!({"ingress": list}) };
        let patch = Patch::status(PatchKind::Merge, json!({"status": {"loadBalancer": balancer}}));
        let key = key_of(service);
        let (namespace, name) = split(&key);
        unless_gone(self.client.patch::<Service>(namespace, name, &patch).await)?;
        if !addresses.is_empty() {
            let message = "Ensured load balancer".to_owned();
            say(&self.recorder, service, EventType::Normal, "EnsuredLoadBalancer", message);
        }
        Ok(())
    }
}

fn class_of(service: &Service) -> Option<&String> {
    let spec = service.spec.as_ref()?;
    spec.load_balancer_class.as_ref().filter(|_| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// The port that an older Service has already, and that Service's key.
fn holder(service: &Service, all: &[Arc<Service>]) -> Option<(String, String)> {
    let age = |service: &Service| {
        (service.metadata.creation_timestamp.as_ref().map(|time| time.0), key_of(service))
    };
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    for older in all.iter().filter(|other| age(other) < age(service)) {
        let key = key_of(&**older);
        holders.extend(ports(older).map(|port| (port, key.clone())));
    }
    ports(service).find_map(|port| holders.get(&port).map(|key| (port.clone(), key.clone())))
}

fn ports(service: &Service) -> impl Iterator<Item = String> {
    let listed = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    listed.map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, created: &str, ports: Value) -> Arc<Service> {
        let service = json!({
            "metadata": {"namespace": "a", "name": name, "creationTimestamp": created},
            "spec": {"type": "LoadBalancer", "ports": ports}});
        Arc::new(serde_json::from_value(service).unwrap())
    }

    #[test]
    fn a_port_is_the_oldest_services() {
        let web = service("web", "2026-01-01T00:00:00Z", json!([{"port": 80}, {"port": 443}]));
        let dns = service("dns", "2026-01-02T00:00:00Z", json!([{"port": 443, "protocol": "UDP"}]));
        let late = service("late", "2026-01-03T00:00:00Z", json!([{"port": 443}]));
        let all = [late.clone(), dns.clone(), web.clone()];
        assert_eq!(holder(&web, &all), None);
        assert_eq!(holder(&dns, &all), None);
        assert_eq!(holder(&late, &all), Some(("443/TCP".into(), "a/web".into())));
        assert_eq!(holder(&late, std::slice::from_ref(&late)), None);
    }

    #[test]
    fn a_node_gives_its_addresses_unless_it_is_excluded() {
        let node = |labels: Value, addresses: Value| -> Node {
            let node =
                json!({"metadata": {"name": "n", "labels": labels}, "status": {"addresses": addresses}});
            serde_json::from_value(node).unwrap()
        };
        let inner = json!({"type": "InternalIP", "address": "10.0.0.7"});
        let outer = json!({"type": "ExternalIP", "address": "192.0.2.7"});
        let name = json!({"type": "Hostname", "address": "n"});
        let said = |labels: Value, addresses: Value| format!("{:?}", addresses_of(&node(labels, addresses)));
        assert_eq!(said(json!({}), json!([inner, name])), "[10.0.0.7]");
        assert_eq!(said(json!({}), json!([inner, outer])), "[192.0.2.7]");
        assert_eq!(said(json!({EXCLUDED: ""}), json!([inner, outer])), "[]");
    }
}

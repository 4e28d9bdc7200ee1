//! The Pods behind each Service, as EndpointSlices and as the older Endpoints.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::index::{self, selects, service_of};
use client::{Change, Client, DeleteOptions, Error, Informer, key_of};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as SubsetPort, EndpointSubset, Endpoints, Node, ObjectReference, Pod,
    Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::task::JoinSet;

use crate::conditions::{is_finished, status_of};
use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;
use plan::{Group, Write};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

struct EndpointSlices {
    client: Client,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let informers = &context.informers;
    let this = EndpointSlices {
        client: context.client.clone(),
        services: informers.of(),
        slices: informers.of(),
        endpoints: informers.of(),
        pods: informers.of(),
        nodes: informers.of(),
    };
    let services = this.services.clone();
    let controller = Controller::new("endpoint-slice")
        .watches(&this.services, |change| vec![key_of(&**change.object())])
        // Ours come back as we wrote them; only a foreign hand needs an answer.
        .watches(&this.slices, |change| {
            let slice = change.object();
            if is_ours(slice) { service_of(slice).into_iter().collect() } else { Vec::new() }
        })
        .watches(&this.pods, move |change| {
            let pods: Vec<&Arc<Pod>> = match change {
                Change::Modified { old, new } if looks_the_same(old, new) => Vec::new(),
                Change::Modified { old, new } => vec![old, new],
                Change::Added(pod) | Change::Deleted(pod) => vec![pod],
            };
            let selecting = services.filter(|service| pods.iter().any(|pod| selects(service, pod)));
            selecting.iter().map(|service| key_of(&**service)).collect()
        })
        .reads(&this.endpoints)
        .reads(&this.nodes);
    let this = Arc::new(this);
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { this.sync(&key).await }
    });
}

/// Nothing changed that an endpoint shows.
fn looks_the_same(old: &Pod, new: &Pod) -> bool {
    let ips = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ips.clone());
    old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && ips(old) == ips(new)
        && status_of(old, "Ready") == status_of(new, "Ready")
        && is_finished(old) == is_finished(new)
}

impl EndpointSlices {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        let (namespace, name) = split(key);
        let mut known = self.slices.by_index(index::SLICES_BY_SERVICE, key);
        known.retain(|slice| is_ours(slice));
        let service = self.services.get(namespace, name);
        let Some(service) = service.filter(|service| service.metadata.deletion_timestamp.is_none()) else {
            for slice in known {
                self.delete_slice(&slice).await?;
            }
            // Endpoints go with their Service even when users wrote them.
            if self.endpoints.get(namespace, name).is_some() {
                let options = DeleteOptions::default();
                unless_gone(self.client.delete::<Endpoints>(namespace, name, &options).await)?;
            }
            return Ok(Next::Done);
        };
        let spec = service.spec.clone().unwrap_or_default();
        // Without a selector somebody else keeps the endpoints.
        if spec.selector.as_ref().is_none_or(BTreeMap::is_empty)
            || spec.type_.as_deref() == Some("ExternalName")
        {
            return Ok(Next::Done);
        }
        let pods = self.pods.filter(|pod| selects(&service, pod));
        let backends = backends(&spec, &pods, |node| self.nodes.get("", node));
        let writes = plan::plan(&template(&service), groups(&backends), known);
        self.write_slices(&service, writes).await?;
        self.write_endpoints(&service, subsets(&spec, &backends)).await?;
        Ok(Next::Done)
    }

    /// One write after another: the order is the plan's.
    async fn write_slices(&self, service: &Service, writes: Vec<Write>) -> Result<(), Error> {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        for write in writes {
            match write {
                Write::Create(slice) => drop(self.client.create(namespace, &slice).await?),
                Write::Replace(slice) => drop(self.client.replace(&slice).await?),
                Write::Delete(slice) => self.delete_slice(&slice).await?,
            }
        }
        Ok(())
    }

    async fn delete_slice(&self, slice: &EndpointSlice) -> Result<(), Error> {
        let key = key_of(slice);
        let (namespace, name) = split(&key);
        unless_gone(self.client.delete::<EndpointSlice>(namespace, name, &DeleteOptions::default()).await)
    }

    async fn write_endpoints(&self, service: &Service, subsets: Vec<EndpointSubset>) -> Result<(), Error> {
        let key = key_of(service);
        let (namespace, name) = split(&key);
        let mut labels = service.metadata.labels.clone().unwrap_or_default();
        labels.insert("endpoints.kubernetes.io/managed-by".to_owned(), "endpoint-controller".to_owned());
        if service.spec.as_ref().is_some_and(is_headless) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        let subsets = (!subsets.is_empty()).then_some(subsets);
        match self.endpoints.get(namespace, name) {
            None => {
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                };
                self.client.create(namespace, &Endpoints { metadata, subsets }).await.map(drop)
            }
            Some(old) if addresses(&old.subsets) == addresses(&subsets) && old.subsets == subsets => Ok(()),
            Some(old) => {
                let metadata =
                    ObjectMeta { labels: Some(labels), managed_fields: None, ..old.metadata.clone() };
                unless_gone(self.client.replace(&Endpoints { metadata, subsets }).await)
            }
        }
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

/// A Pod as the target of a Service.
#[derive(Debug, Clone, PartialEq)]
struct Backend {
    endpoint: Endpoint,
    ports: Vec<EndpointPort>,
    ready: bool,
    terminating: bool,
}

fn backends(spec: &ServiceSpec, pods: &[Arc<Pod>], node: impl Fn(&str) -> Option<Arc<Node>>) -> Vec<Backend> {
    let family = spec.ip_families.as_ref().and_then(|families| families.first());
    let v6 = family.is_some_and(|family| family == "IPv6");
    let mut backends: Vec<Backend> = pods.iter().filter_map(|pod| backend(spec, pod, v6, &node)).collect();
    backends.sort_by(|a, b| a.endpoint.addresses.cmp(&b.endpoint.addresses));
    backends
}

fn backend(
    spec: &ServiceSpec,
    pod: &Pod,
    v6: bool,
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Option<Backend> {
    if is_finished(pod) {
        return None;
    }
    let pod_spec = pod.spec.as_ref()?;
    let ips = pod.status.as_ref()?.pod_ips.as_deref().unwrap_or_default();
    let address = ips.iter().map(|ip| ip.ip.clone()).find(|ip| !ip.is_empty() && ip.contains(':') == v6)?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = status_of(pod, "Ready") == "True";
    let anyway = spec.publish_not_ready_addresses == Some(true);
    let ready = anyway || serving && !terminating;
    let zone = pod_spec
        .node_name
        .as_deref()
        .and_then(node)
        .and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
    // A name of its own in DNS: only for Pods of this Service's subdomain.
    let hostname =
        pod_spec.hostname.clone().filter(|hostname| !hostname.is_empty() && pod_spec.subdomain.is_some());
    let endpoint = Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving || anyway && !terminating),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: pod_spec.node_name.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        hints: hints(spec, pod_spec.node_name.as_deref(), zone.as_deref()).filter(|_| ready),
        zone,
        ..Endpoint::default()
    };
    Some(Backend { endpoint, ports: ports(spec, pod), ready, terminating })
}

/// For whom an endpoint is, if the Service wants its traffic to stay near.
fn hints(spec: &ServiceSpec, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let (same_node, same_zone) = match spec.traffic_distribution.as_deref() {
        Some("PreferSameNode") => (true, true),
        Some("PreferSameZone" | "PreferClose") => (false, true),
        _ => return None,
    };
    let zones = zone.filter(|_| same_zone).map(|name| vec![ForZone { name: name.to_owned() }]);
    let nodes = node.filter(|_| same_node).map(|name| vec![ForNode { name: name.to_owned() }]);
    (zones.is_some() || nodes.is_some()).then_some(EndpointHints { for_nodes: nodes, for_zones: zones })
}

/// The Service's ports with the numbers they have in this Pod.
fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<EndpointPort> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = |protocol: &Option<String>| protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut named =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let found = named.find(|candidate| {
        candidate.name.as_ref() == Some(name) && protocol(&candidate.protocol) == protocol(&port.protocol)
    });
    found.map(|found| found.container_port)
}

/// Backends that see the same port numbers share slices.
fn by_ports(backends: &[Backend]) -> Vec<(Vec<EndpointPort>, Vec<&Backend>)> {
    let mut groups: Vec<(Vec<EndpointPort>, Vec<&Backend>)> = Vec::new();
    for backend in backends {
        match groups.iter_mut().find(|(ports, _)| *ports == backend.ports) {
            Some((_, members)) => members.push(backend),
            None => groups.push((backend.ports.clone(), vec![backend])),
        }
    }
    groups
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// What the Service's slices have in common; no name yet.
fn template(service: &Service) -> EndpointSlice {
    let spec = service.spec.clone().unwrap_or_default();
    let v6 = spec.ip_families.as_ref().is_some_and(|families| families.first().is_some_and(|f| f == "IPv6"));
    EndpointSlice {
        metadata: slice_metadata(service, is_headless(&spec)),
        address_type: if v6 { "IPv6".into() } else { "IPv4".into() },
        ..EndpointSlice::default()
    }
}

fn groups(backends: &[Backend]) -> Vec<Group> {
    let groups = by_ports(backends).into_iter().map(|(ports, members)| {
        let endpoints = members.into_iter().map(|backend| backend.endpoint.clone()).collect();
        Group { ports, endpoints }
    });
    groups.collect()
}

fn slice_metadata(service: &Service, headless: bool) -> ObjectMeta {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.remove(HEADLESS);
    if headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Service".into(),
            name,
            uid: service.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// The same Pods in the older form; those that are leaving are left out.
fn subsets(spec: &ServiceSpec, backends: &[Backend]) -> Vec<EndpointSubset> {
    let anyway = spec.publish_not_ready_addresses == Some(true);
    let shown: Vec<Backend> = backends.iter().filter(|b| !b.terminating || anyway).cloned().collect();
    let mut subsets = Vec::new();
    for (ports, members) in by_ports(&shown) {
        let side = |ready: bool| {
            let chosen = members.iter().filter(|backend| backend.ready == ready);
            let addresses: Vec<EndpointAddress> = chosen.map(|backend| address(&backend.endpoint)).collect();
            (!addresses.is_empty()).then_some(addresses)
        };
        subsets.push(EndpointSubset {
            addresses: side(true),
            not_ready_addresses: side(false),
            ports: Some(ports.iter().map(subset_port).collect()),
        });
    }
    subsets
}

fn address(endpoint: &Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: endpoint.addresses.first().cloned().unwrap_or_default(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    }
}

fn subset_port(port: &EndpointPort) -> SubsetPort {
    SubsetPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}

fn addresses(subsets: &Option<Vec<EndpointSubset>>) -> BTreeSet<&str> {
    let all = subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten());
    all.map(|address| address.ip.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ip: &str, ready: &str, leaving: bool) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"namespace": "a", "name": name, "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}});
        if leaving {
            pod["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z".into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "web", "uid": "u"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "w", "port": 80, "targetPort": "http"}]}}))
        .unwrap()
    }

    fn built(pods: &[Arc<Pod>]) -> (Vec<Group>, Vec<EndpointSubset>) {
        let spec = service().spec.unwrap();
        let backends = backends(&spec, pods, |_| None);
        (groups(&backends), subsets(&spec, &backends))
    }

    #[test]
    fn a_leaving_pod_still_serves_but_is_not_ready_and_not_in_endpoints() {
        let pods = [pod("b", "10.0.0.2", "True", true), pod("a", "10.0.0.1", "True", false)];
        let (groups, subsets) = built(&pods);
        let conditions: Vec<_> = groups[0].endpoints.iter().map(|e| e.conditions.clone().unwrap()).collect();
        let condition = |ready, terminating| EndpointConditions {
            ready: Some(ready),
            serving: Some(true),
            terminating: Some(terminating),
        };
        assert_eq!(conditions, [condition(true, false), condition(false, true)]);
        assert_eq!(groups[0].ports[0].port, Some(8080));
        assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 1);
        assert_eq!(subsets[0].not_ready_addresses, None);
    }
}

//! The objects a fresh cluster holds before anybody has written one.
//!
//! What changes with the cluster (addresses, certificates) is an argument; uid,
//! resourceVersion and creationTimestamp are the server's to add.

mod flow;
mod roles;

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{GROUP_VERSIONS, GroupVersion, Kind, find};

/// The namespaces every cluster has.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What is different in each cluster.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The address of the Service `default/kubernetes`: the first of the range.
    pub service_ip: IpAddr,
    /// The range of Service addresses: `10.43.0.0/16`.
    pub service_cidr: &'a str,
    /// Where the server is reached.
    pub advertise: SocketAddr,
    /// The certificate of the cluster's authority, PEM.
    pub authority_pem: &'a str,
    /// For conditions that say since when.
    pub now: Timestamp,
}

/// All of them, those that others need first: namespaces before what is in them.
pub fn objects(inputs: &Inputs<'_>) -> Vec<(&'static Kind, Value)> {
    let mut objects: Vec<(&'static Kind, Value)> = Vec::new();
    objects.extend(NAMESPACES.iter().map(|name| (core("namespaces"), namespace(name))));
    objects.extend(priority_classes().map(|class| (resource("scheduling.k8s.io", "priorityclasses"), class)));
    objects.extend(roles::objects());
    for namespace in NAMESPACES {
        objects.push((core("serviceaccounts"), default_service_account(namespace)));
        objects.push((core("configmaps"), root_ca(namespace, inputs.authority_pem)));
    }
    objects.push((core("configmaps"), extension_authentication(inputs.authority_pem)));
    objects.push((resource("networking.k8s.io", "servicecidrs"), service_cidr(inputs)));
    objects.push((
        resource("networking.k8s.io", "ipaddresses"),
        ip_address(inputs.service_ip, "default", "kubernetes"),
    ));
    objects.push((core("services"), api_service(inputs)));
    objects.push((core("endpoints"), api_endpoints(inputs.advertise)));
    objects.push((resource("discovery.k8s.io", "endpointslices"), api_endpoint_slice(inputs.advertise)));
    let registrations =
        GROUP_VERSIONS.iter().enumerate().filter(|(_, gv)| gv.group != "apiregistration.k8s.io");
    let registrations = registrations.map(|(i, gv)| built_in(i, gv, inputs.now));
    // As metrics-server registers it, but for the Service: nothing stands between it and who asks.
    let metrics = registration("metrics.k8s.io", "v1beta1", (100, 100), inputs.now);
    let of = resource("apiregistration.k8s.io", "apiservices");
    objects.extend(registrations.chain([metrics]).map(|registration| (of, registration)));
    objects.extend(flow::objects(inputs.now));
    objects
}

fn core(plural: &str) -> &'static Kind {
    resource("", plural)
}

fn resource(group: &str, plural: &str) -> &'static Kind {
    find(group, "v1", plural).expect("bootstrap names resources of the table")
}

/// A namespace as it is when it was just created.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

/// The account every namespace has.
pub fn default_service_account(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace},
    })
}

/// What each namespace has from its first moment on, so that a Pod can be created in it with the next request.
pub(crate) fn in_each_namespace(namespace: &str, authority_pem: &str) -> Vec<Value> {
    vec![default_service_account(namespace), root_ca(namespace, authority_pem)]
}

/// The ConfigMap `kube-root-ca.crt` every namespace has, by which Pods verify the server.
pub fn root_ca(namespace: &str, authority_pem: &str) -> Value {
    const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "kube-root-ca.crt",
            "namespace": namespace,
            "annotations": {"kubernetes.io/description": DESCRIPTION},
        },
        "data": {"ca.crt": authority_pem},
    })
}

/// How extension servers verify the clients of this one.
fn extension_authentication(authority_pem: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": authority_pem},
    })
}

fn priority_classes() -> impl Iterator<Item = Value> {
    let classes = [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    classes.into_iter().map(|(name, value, description)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        })
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn service_cidr(inputs: &Inputs<'_>) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": [inputs.service_cidr]},
        "status": {"conditions": [{
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": seconds(inputs.now),
        }]},
    })
}

fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// The IPAddress object by which a Service holds its address.
pub fn ip_address(address: IpAddr, namespace: &str, service: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family(address),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": service}},
    })
}

fn api_service(inputs: &Inputs<'_>) -> Value {
    let ip = inputs.service_ip.to_string();
    let port = inputs.advertise.port();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [family(inputs.service_ip)],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    })
}

/// The Endpoints of `default/kubernetes`, which the server keeps itself.
pub fn api_endpoints(advertise: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": advertise.ip().to_string()}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
        }],
    })
}

/// The EndpointSlice of `default/kubernetes`, which the server keeps itself.
pub fn api_endpoint_slice(advertise: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family(advertise.ip()),
        "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    })
}

/// The APIService of a group-version that is built in. Discovery's order comes
/// from its own table; the numbers here fall with it, from upstream's for the core group.
fn built_in(position: usize, gv: &GroupVersion, now: Timestamp) -> Value {
    let priority = 18_000 - 100 * i64::try_from(position).unwrap_or_default();
    let of_version = if gv.group.is_empty() { 1 } else { 15 };
    registration(&gv.group, &gv.version, (priority, of_version), now)
}

/// The APIService of a group-version that this server answers itself, with the priorities of group and version.
fn registration(group: &str, version: &str, (of_group, of_version): (i64, i64), now: Timestamp) -> Value {
    let mut spec =
        json!({"groupPriorityMinimum": of_group, "version": version, "versionPriority": of_version});
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
        },
        "spec": spec,
        "status": {"conditions": [{
            "type": "Available",
            "status": "True",
            "reason": "Local",
            "message": "Local APIServices are always available",
            "lastTransitionTime": seconds(now),
        }]},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use k8s_openapi::api::rbac::v1::ClusterRole;

    use super::*;
    use crate::rbac::{Action, allows};

    fn fresh() -> Vec<(&'static Kind, Value)> {
        objects(&Inputs {
            service_ip: "10.43.0.1".parse().unwrap(),
            service_cidr: "10.43.0.0/16",
            advertise: "192.0.2.1:6443".parse().unwrap(),
            authority_pem: "PEM",
            now: Timestamp::UNIX_EPOCH,
        })
    }

    fn role(name: &str) -> ClusterRole {
        let found =
            fresh().into_iter().find(|(r, o)| r.plural == "clusterroles" && o["metadata"]["name"] == name);
        serde_json::from_value(found.unwrap_or_else(|| panic!("{name}")).1).unwrap()
    }

    #[test]
    fn every_object_is_of_its_resource_and_there_once() {
        let mut seen = HashSet::new();
        for (resource, object) in fresh() {
            assert_eq!(object["kind"], *resource.kind);
            assert_eq!(object["apiVersion"], resource.api_version());
            let metadata = &object["metadata"];
            assert_eq!(metadata["namespace"].is_string(), resource.namespaced, "{metadata}");
            let key = (&*resource.plural, metadata["namespace"].to_string(), metadata["name"].to_string());
            assert!(seen.insert(key.clone()), "{key:?}");
        }
    }

    #[test]
    fn what_people_use_is_registered_beside_what_is_built_in() {
        let of = |name: &str| {
            fresh().into_iter().find(|(_, object)| object["metadata"]["name"] == name).unwrap().1
        };
        assert_eq!(of("v1.")["spec"]["groupPriorityMinimum"], 18_000);
        let metrics = of("v1beta1.metrics.k8s.io");
        assert_eq!(
            (&metrics["spec"]["group"], &metrics["spec"]["versionPriority"]),
            (&json!("metrics.k8s.io"), &json!(100))
        );
        assert_eq!(metrics["status"]["conditions"][0]["reason"], "Local");
    }

    #[test]
    fn every_binding_refers_to_a_role_that_is_there() {
        let objects = fresh();
        let names: HashSet<(&str, String, String)> = objects
            .iter()
            .filter(|(r, _)| matches!(&*r.plural, "roles" | "clusterroles"))
            .map(|(r, o)| {
                (&*r.kind, o["metadata"]["namespace"].to_string(), o["metadata"]["name"].to_string())
            })
            .collect();
        for (r, o) in objects.iter().filter(|(r, _)| r.plural.ends_with("rolebindings")) {
            let reference = &o["roleRef"];
            let kind = if reference["kind"] == "Role" { "Role" } else { "ClusterRole" };
            let namespace =
                if kind == "Role" { o["metadata"]["namespace"].to_string() } else { "null".to_owned() };
            assert!(names.contains(&(kind, namespace, reference["name"].to_string())), "{} {o}", r.plural);
        }
    }

    #[test]
    fn the_roles_for_people_hold_the_rules_they_aggregate() {
        let may = |role_name: &str, verb: &str, resource: &str| {
            let action = Action::Resource { verb, group: "", resource, subresource: "", name: "" };
            role(role_name).rules.unwrap().iter().any(|rule| allows(rule, action))
        };
        assert!(may("view", "list", "pods"));
        assert!(!may("view", "list", "secrets"));
        assert!(
            may("edit", "list", "pods") && may("edit", "delete", "pods") && may("edit", "get", "secrets")
        );
        assert!(may("admin", "create", "configmaps"));
        assert!(!may("edit", "create", "resourcequotas"));
    }

    #[test]
    fn there_are_as_many_roles_as_in_kubernetes() {
        let controllers = fresh()
            .into_iter()
            .filter(|(r, o)| {
                let name = o["metadata"]["name"].as_str().unwrap_or_default();
                r.plural == "clusterroles" && name.starts_with("system:controller:")
            })
            .count();
        assert_eq!(controllers, 38);
    }
}

//! Defaults of the core group, Pods excepted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Object, child, ensure, fill_from, items, resource_list, set, set_zero, text};

pub(crate) fn service(service: &mut Object) {
    let spec = ensure(service, "spec");
    session_affinity(spec);
    set_zero(spec, "type", "ClusterIP");
    items(spec, "ports").for_each(service_port);
    let kind = text(spec, "type").to_owned();
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if matches!(kind.as_str(), "LoadBalancer" | "NodePort") || kind == "ClusterIP" && external_ips {
        set_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
    let balancer = ensure(ensure(service, "status"), "loadBalancer");
    for ingress in
        items(balancer, "ingress").filter(|ingress| kind == "LoadBalancer" && !text(ingress, "ip").is_empty())
    {
        set(ingress, "ipMode", "VIP");
    }
}

fn session_affinity(spec: &mut Object) {
    set_zero(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" => set(ensure(ensure(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10800),
        _ => {}
    }
}

fn service_port(port: &mut Object) {
    set_zero(port, "protocol", "TCP");
    let number = port.get("port").cloned().unwrap_or_else(|| json!(0));
    set_zero(port, "targetPort", number);
}

/// `stringData` is for writing only: it goes into `data`, over what is there.
pub(crate) fn secret(secret: &mut Object) {
    set_zero(secret, "type", "Opaque");
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    let data = ensure(secret, "data");
    for (key, value) in texts {
        data.insert(key, Value::from(STANDARD.encode(value.as_str().unwrap_or(""))));
    }
}

pub(crate) fn namespace(namespace: &mut Object) {
    let metadata = ensure(namespace, "metadata");
    let name = text(metadata, "name").to_owned();
    if !name.is_empty() {
        ensure(metadata, "labels").insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
    ensure(namespace, "spec");
    set_zero(ensure(namespace, "status"), "phase", "Active");
}

pub(crate) fn node(node: &mut Object) {
    ensure(node, "spec");
    let status = ensure(node, "status");
    resource_list(status, "capacity");
    if status.get("allocatable").is_none_or(Value::is_null) {
        fill_from(status, "allocatable", "capacity");
    }
    resource_list(status, "allocatable");
    let endpoint = ensure(ensure(status, "daemonEndpoints"), "kubeletEndpoint");
    set(endpoint, "Port", 0);
    let info = ensure(status, "nodeInfo");
    for name in [
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ] {
        set(info, name, "");
    }
}

pub(crate) fn endpoints(endpoints: &mut Object) {
    for port in items(endpoints, "subsets").flat_map(|subset| items(subset, "ports")) {
        set_zero(port, "protocol", "TCP");
    }
}

pub(crate) fn limit_range(range: &mut Object) {
    for item in items(ensure(range, "spec"), "limits") {
        for name in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            resource_list(item, name);
        }
        if text(item, "type") == "Container" {
            fill_from(item, "default", "max");
            fill_from(item, "defaultRequest", "default");
            fill_from(item, "defaultRequest", "min");
        }
    }
}

pub(crate) fn resource_quota(quota: &mut Object) {
    resource_list(ensure(quota, "spec"), "hard");
    let status = ensure(quota, "status");
    resource_list(status, "hard");
    resource_list(status, "used");
}

pub(crate) fn replication_controller(controller: &mut Object) {
    let spec = ensure(controller, "spec");
    set(spec, "replicas", 1);
    super::pod::pod_template(spec);
    let labels =
        child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| m.get("labels").cloned());
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty())) {
        let empty = |value: &Value| value.as_object().is_none_or(serde_json::Map::is_empty);
        if spec.get("selector").is_none_or(empty) {
            spec.insert("selector".to_owned(), labels.clone());
        }
        let metadata = ensure(controller, "metadata");
        if metadata.get("labels").is_none_or(empty) {
            metadata.insert("labels".to_owned(), labels);
        }
    }
    set(ensure(controller, "status"), "replicas", 0);
}

#[cfg(test)]
mod tests {
    use super::super::tests::defaulted;
    use super::*;

    #[test]
    fn services_get_ports_policies_and_affinity() {
        let node_port =
            defaulted(json!({"kind": "Service", "spec": {"type": "NodePort", "sessionAffinity": "ClientIP",
            "ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}}));
        assert_eq!(
            node_port["spec"],
            json!({"type": "NodePort", "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}, {"port": 81, "protocol": "TCP", "targetPort": "http"}]})
        );
        let external =
            defaulted(json!({"kind": "Service", "spec": {"type": "ExternalName", "externalName": "a.b"}}));
        assert_eq!(
            external["spec"],
            json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"})
        );
        assert_eq!(external["status"], json!({"loadBalancer": {}}));
    }

    #[test]
    fn string_data_of_a_secret_becomes_data() {
        let secret = defaulted(
            json!({"kind": "Secret", "data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "hi"}}),
        );
        assert_eq!(secret, json!({"kind": "Secret", "type": "Opaque", "data": {"a": "aGk=", "b": "eQ=="}}));
    }

    #[test]
    fn a_namespace_carries_its_name_as_a_label() {
        let namespace = defaulted(json!({"kind": "Namespace", "metadata": {"name": "n"}}));
        assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
        assert_eq!(namespace["status"], json!({"phase": "Active"}));
    }

    #[test]
    fn container_limits_of_a_range_fill_each_other() {
        let range = defaulted(json!({"kind": "LimitRange", "spec": {"limits": [
            {"type": "Container", "max": {"memory": "128Mi"}, "min": {"cpu": "10m"}}]}}));
        assert_eq!(
            range["spec"]["limits"][0],
            json!({"type": "Container", "max": {"memory": "128Mi"}, "min": {"cpu": "10m"}, "default": {"memory": "128Mi"},
                "defaultRequest": {"memory": "128Mi", "cpu": "10m"}})
        );
    }
}

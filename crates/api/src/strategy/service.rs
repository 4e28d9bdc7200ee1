//! Services: ports, types, addresses.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::endpoints::usable_address;
use super::prepare;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::{Kind, Object};
use crate::validate::meta;
use crate::validate::view::View;
use crate::validate::{
    dns1123_label, dns1123_subdomain, ip_for_legacy_field, is_valid_port_name, is_valid_port_num,
    qualified_name,
};

const SPEC: Path<'static> = Path::new("spec");

/// A client may give `clusterIP` or `clusterIPs`; the server keeps both, the first of the list equal to the one.
pub(crate) fn prepare_create(service: &mut Object) {
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let one = spec.get("clusterIP").and_then(Value::as_str).unwrap_or("").to_owned();
    let many = spec.get("clusterIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !one.is_empty() && !many {
        spec.insert("clusterIPs".to_owned(), json!([one]));
    }
}

pub(crate) fn prepare_update(resource: &Kind, subresource: Option<&str>, new: &mut Object, old: &Object) {
    prepare::update(resource, subresource, new, old);
    if subresource.is_none() {
        keep_allocated(new, old);
    }
}

/// Keeps what the server has allocated when the client leaves it out, and drops what the new type has not.
fn keep_allocated(new: &mut Object, old: &Object) {
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let empty = Object::new();
    let before = old.get("spec").and_then(Value::as_object).unwrap_or(&empty);
    let kind = spec.get("type").cloned().unwrap_or_default();
    if kind == "ExternalName" {
        if before.get("type") != Some(&kind) {
            for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.get(name) == before.get(name) {
                    spec.remove(name);
                }
            }
        }
        return;
    }
    sync_cluster_ips(spec, before);
    keep_health_check(spec, before);
    for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let absent = spec.get(name).is_none_or(|value| value.is_null() || value == "" || value == &json!([]));
        if let (true, Some(value)) = (absent, before.get(name)) {
            spec.insert(name.to_owned(), value.clone());
        }
    }
    if matches!(kind.as_str(), Some("NodePort" | "LoadBalancer")) {
        keep_node_ports(spec, before);
    } else if before.get("type") != Some(&kind) {
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let same = before.get("ports").and_then(Value::as_array).into_iter().flatten();
            if same.into_iter().any(|old| old["nodePort"] == port["nodePort"]) {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
    }
}

/// Whether the Service has a port at which a load balancer asks for its local endpoints.
pub fn has_health_check(spec: &Object) -> bool {
    let is = |name: &str, value: &str| spec.get(name).is_some_and(|given| given == value);
    is("type", "LoadBalancer") && is("externalTrafficPolicy", "Local")
}

fn keep_health_check(spec: &mut Object, before: &Object) {
    const PORT: &str = "healthCheckNodePort";
    let absent = |spec: &Object| spec.get(PORT).is_none_or(|port| port.is_null() || port == 0);
    match (has_health_check(before), has_health_check(spec)) {
        (true, true) if absent(spec) => {
            spec.extend(before.get(PORT).map(|port| (PORT.to_owned(), port.clone())));
        }
        (true, false) if spec.get(PORT) == before.get(PORT) => drop(spec.remove(PORT)),
        _ => {}
    }
}

/// A change of one of the two spellings moves the other along.
fn sync_cluster_ips(spec: &mut Object, before: &Object) {
    let (one, many) = (spec.get("clusterIP").cloned(), spec.get("clusterIPs").cloned());
    let one_changed = one.as_ref().is_some_and(|ip| Some(ip) != before.get("clusterIP") && ip != "");
    let many_changed = many.as_ref().is_some_and(|ips| Some(ips) != before.get("clusterIPs"));
    match (one, many) {
        (Some(ip), _) if one_changed && !many_changed => {
            let mut ips = before.get("clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
            match ips.first_mut() {
                Some(first) => *first = ip,
                None => ips.push(ip),
            }
            spec.insert("clusterIPs".to_owned(), Value::Array(ips));
        }
        (_, Some(ips)) if many_changed && !one_changed => {
            spec.insert("clusterIP".to_owned(), ips.get(0).cloned().unwrap_or_else(|| json!("")));
        }
        _ => {}
    }
}

fn keep_node_ports(spec: &mut Object, before: &Object) {
    let old: Vec<Value> = before.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"].as_i64().unwrap_or(0) != 0 {
            continue;
        }
        let same = |one: &&Value| one["port"] == port["port"] && one["protocol"] == port["protocol"];
        if let Some(number) =
            old.iter().find(same).map(|one| one["nodePort"].clone()).filter(|n| !n.is_null())
        {
            port["nodePort"] = number;
        }
    }
}

fn is_headless(spec: View<'_>) -> bool {
    spec.list("clusterIPs").map(View::text).eq(["None"])
}

pub(crate) fn validate(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    if let Some(old) = old {
        addresses_update(spec, old.get("spec"), errors);
        health_check_update(spec, old.get("spec"), errors);
    }
    let kind = spec.str("type");
    if !spec.has_items("ports") && !is_headless(spec) && kind != "ExternalName" {
        errors.push(Error::required(&SPEC.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let words = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(&SPEC.child("clusterIPs[0]"), "None", words));
        }
        "ExternalName" => external_name(spec, errors),
        _ => {}
    }
    ports(spec, errors);
    meta::labels(spec.get("selector"), &SPEC.child("selector"), errors);
    session_affinity(spec, errors);
    cluster_ips(spec, kind, errors);
    external_ips(spec, errors);
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    match kind {
        "" => errors.push(Error::required(&SPEC.child("type"), "")),
        kind if !kinds.contains(&kind) => {
            errors.push(Error::not_supported(&SPEC.child("type"), kind, &kinds))
        }
        _ => {}
    }
    repeated_ports(spec, kind, errors);
    balancer_fields(spec, kind, errors);
    traffic(spec, kind, errors);
}

fn addresses_update(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let external = new.str("type") == "ExternalName" || old.str("type") == "ExternalName";
    if external || is_headless(new) && is_headless(old) {
        return;
    }
    let words = "may not change once set";
    for (name, first_only) in [("clusterIPs", false), ("ipFamilies", true)] {
        let (now, then): (Vec<&str>, Vec<&str>) =
            (new.list(name).map(View::text).collect(), old.list(name).map(View::text).collect());
        let path = SPEC.child(name);
        for (index, _) in then.iter().zip(&now).enumerate().filter(|(_, (old, new))| old != new) {
            let at = path.index(if first_only { 0 } else { index });
            errors.push(Error::invalid(&at, new.get(name).json(), words));
        }
        if now.is_empty() && !then.is_empty() && name == "clusterIPs" {
            errors.push(Error::invalid(&path.index(0), json!([]), "primary clusterIP can not be unset"));
        }
    }
}

/// The port stays while it is needed.
fn health_check_update(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let needs =
        |spec: View<'_>| spec.str("type") == "LoadBalancer" && spec.str("externalTrafficPolicy") == "Local";
    let (now, then) = (new.int("healthCheckNodePort"), old.int("healthCheckNodePort"));
    if needs(new) && needs(old) && then != 0 && now != then {
        errors.push(Error::forbidden(&SPEC.child("healthCheckNodePort"), "field is immutable"));
    }
}

fn external_name(spec: View<'_>, errors: &mut ErrorList) {
    for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.has_items(name) || name == "ipFamilyPolicy" && spec.get(name).is_set() {
            errors.push(Error::forbidden(&SPEC.child(name), "may not be set for ExternalName services"));
        }
    }
    let given = spec.str("externalName");
    match given.strip_suffix('.').unwrap_or(given) {
        "" => errors.push(Error::required(&SPEC.child("externalName"), "")),
        name => dns1123_subdomain(name, &SPEC.child("externalName"), errors),
    }
}

fn ports(spec: View<'_>, errors: &mut ErrorList) {
    let list = SPEC.child("ports");
    let several = spec.list("ports").len() > 1;
    let mut names = BTreeSet::new();
    for (index, port) in spec.list("ports").enumerate() {
        let at = list.index(index);
        let name = port.str("name");
        if several && name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        } else if !name.is_empty() {
            dns1123_label(name, &at.child("name"), errors);
            if !names.insert(name) {
                errors.push(Error::duplicate(&at.child("name"), name));
            }
        }
        number(port.int("port"), &at.child("port"), errors);
        let (protocol, protocols) = (port.str("protocol"), ["SCTP", "TCP", "UDP"]);
        match protocol {
            "" => errors.push(Error::required(&at.child("protocol"), "")),
            other if !protocols.contains(&other) => {
                errors.push(Error::not_supported(&at.child("protocol"), other, &protocols));
            }
            _ => {}
        }
        let target = at.child("targetPort");
        match port.get("targetPort").value() {
            Some(Value::String(name)) => {
                errors.extend(
                    is_valid_port_name(name).into_iter().map(|w| Error::invalid(&target, name.clone(), w)),
                );
            }
            other => number(other.and_then(Value::as_i64).unwrap_or(0), &target, errors),
        }
        if port.get("appProtocol").is_set() {
            qualified_name(port.str("appProtocol"), &at.child("appProtocol"), errors);
        }
    }
}

fn number(port: i64, path: &Path<'_>, errors: &mut ErrorList) {
    errors.extend(is_valid_port_num(port).into_iter().map(|words| Error::invalid(path, port, words)));
}

fn session_affinity(spec: View<'_>, errors: &mut ErrorList) {
    let (affinity, path) = (spec.str("sessionAffinity"), SPEC.child("sessionAffinity"));
    match affinity {
        "" => errors.push(Error::required(&path, "")),
        "ClientIP" | "None" => {}
        other => errors.push(Error::not_supported(&path, other, &["ClientIP", "None"])),
    }
    let seconds = spec.at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).as_int();
    if let Some(seconds) = seconds.filter(|seconds| affinity == "ClientIP" && !(1..=86400).contains(seconds))
    {
        let at = SPEC.child("sessionAffinityConfig.clientIP.timeoutSeconds");
        errors.push(Error::invalid(&at, seconds, "must be greater than 0 and less than 86400"));
    }
}

fn cluster_ips(spec: View<'_>, kind: &str, errors: &mut ErrorList) {
    if kind == "ExternalName" {
        return;
    }
    let (one, path) = (spec.str("clusterIP"), SPEC.child("clusterIPs"));
    let ips: Vec<&str> = spec.list("clusterIPs").map(View::text).collect();
    let shown = spec.get("clusterIPs").json();
    match (one, ips.first()) {
        ("", Some(_)) => {
            errors.push(Error::invalid(
                &path,
                shown.clone(),
                "must be empty when `clusterIP` is not specified",
            ));
        }
        (ip, Some(first)) if ip != *first => {
            errors.push(Error::invalid(&path, shown.clone(), "first value must match `clusterIP`"));
        }
        (ip, None) if !ip.is_empty() => errors.push(Error::required(&path, "")),
        _ => {}
    }
    let families = SPEC.child("ipFamilies");
    for (index, family) in
        spec.list("ipFamilies").enumerate().filter(|(_, f)| !matches!(f.text(), "IPv4" | "IPv6"))
    {
        errors.push(Error::not_supported(&families.index(index), family.text(), &["IPv4", "IPv6"]));
    }
    let (policy, policies) =
        (spec.get("ipFamilyPolicy"), ["PreferDualStack", "RequireDualStack", "SingleStack"]);
    if policy.is_set() && !policies.contains(&policy.text()) {
        errors.push(Error::not_supported(&SPEC.child("ipFamilyPolicy"), policy.text(), &policies));
    }
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                errors.push(Error::invalid(&path, shown.clone(), "'None' must be the first and only value"));
            }
            continue;
        }
        ip_for_legacy_field(ip, &path.index(index), errors);
    }
    if ips.len() > 2 {
        errors.push(Error::invalid(&path, shown, "may only hold up to 2 values"));
    }
}

fn external_ips(spec: View<'_>, errors: &mut ErrorList) {
    let path = SPEC.child("externalIPs");
    for (index, ip) in spec.list("externalIPs").enumerate() {
        let (at, found) = (path.index(index), errors.len());
        ip_for_legacy_field(ip.text(), &at, errors);
        if errors.len() == found {
            usable_address(ip.text(), &at, errors);
        }
    }
}

fn repeated_ports(spec: View<'_>, kind: &str, errors: &mut ErrorList) {
    let list = SPEC.child("ports");
    let (mut node_ports, mut own) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.list("ports").enumerate() {
        let (at, node_port) = (list.index(index), port.int("nodePort"));
        if kind == "ClusterIP" && node_port != 0 {
            errors
                .push(Error::forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
        if node_port != 0 && !node_ports.insert((port.str("protocol"), node_port)) {
            errors.push(Error::duplicate(&at.child("nodePort"), node_port));
        }
        if !own.insert((port.str("protocol"), port.int("port"))) {
            // Upstream shows its own struct with only the key in it.
            let key = json!({"Name": "", "Protocol": port.str("protocol"), "AppProtocol": null, "Port": port.int("port"),
                "TargetPort": 0, "NodePort": 0});
            errors.push(Error::duplicate(&at, key));
        }
    }
}

fn balancer_fields(spec: View<'_>, kind: &str, errors: &mut ErrorList) {
    let balancer = kind == "LoadBalancer";
    let words = "may only be used when `type` is 'LoadBalancer'";
    if spec.has_items("loadBalancerSourceRanges") && !balancer {
        errors.push(Error::forbidden(&SPEC.child("LoadBalancerSourceRanges"), words));
    }
    for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if spec.get(name).is_set() && !balancer {
            errors.push(Error::forbidden(&SPEC.child(name), words));
        }
    }
    if balancer && spec.get("loadBalancerClass").is_set() {
        qualified_name(spec.str("loadBalancerClass"), &SPEC.child("loadBalancerClass"), errors);
    }
}

fn traffic(spec: View<'_>, kind: &str, errors: &mut ErrorList) {
    let (policy, path) = (spec.str("externalTrafficPolicy"), SPEC.child("externalTrafficPolicy"));
    let outside =
        matches!(kind, "LoadBalancer" | "NodePort") || kind == "ClusterIP" && spec.has_items("externalIPs");
    match (outside, policy) {
        (false, "") | (true, "Cluster" | "Local") => {}
        (false, given) => {
            let words = "may only be set for externally-accessible services";
            errors.push(Error::invalid(&path, given, words));
        }
        (true, "") => errors.push(Error::required(&path, "")),
        (true, other) => errors.push(Error::not_supported(&path, other, &["Cluster", "Local"])),
    }
    let health = spec.int("healthCheckNodePort");
    if health != 0 && !(kind == "LoadBalancer" && policy == "Local") {
        let words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(Error::invalid(&SPEC.child("healthCheckNodePort"), health, words));
    }
    let inner = spec.get("internalTrafficPolicy");
    if inner.is_set() && !matches!(inner.text(), "Cluster" | "Local") {
        let path = SPEC.child("internalTrafficPolicy");
        errors.push(Error::not_supported(&path, inner.text(), &["Cluster", "Local"]));
    }
    let (way, ways) = (spec.get("trafficDistribution"), ["PreferClose", "PreferSameZone", "PreferSameNode"]);
    if way.is_set() && !ways.contains(&way.text()) {
        errors.push(Error::not_supported(&SPEC.child("trafficDistribution"), way.text(), &ways));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;
    use crate::kinds::by_kind;
    use crate::strategy::{
        prepare_create as prepare, prepare_update as prepare_again, validate_create, validate_update,
    };

    fn service(spec: Value) -> Value {
        let resource = by_kind("v1", "Service").expect("known");
        let mut object =
            json!({"metadata": {"name": "9svc", "namespace": "n", "resourceVersion": "1"}, "spec": spec});
        defaults::apply(resource, &mut object);
        prepare(resource, &mut object);
        object
    }

    #[test]
    fn broken_ports_are_refused_as_recorded() {
        let errors = validate_create(
            by_kind("v1", "Service").expect("known"),
            &service(json!({"ports": [{"port": 0}, {"port": 80}]})),
        );
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.ports[0].name: Required value",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[1].name: Required value",
            ]
        );
    }

    #[test]
    fn a_cluster_ip_stays_and_what_was_allocated_is_kept() {
        let resource = by_kind("v1", "Service").expect("known");
        let old = service(json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}));
        let mut new = old.clone();
        new["spec"]["clusterIP"] = json!("10.96.9.9");
        prepare_again(resource, None, &mut new, &old);
        assert_eq!(
            validate_update(resource, None, &new, &old).to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"10.96.9.9\"]: may not change once set"
        );
        let mut bare = service(json!({"ports": [{"port": 81}]}));
        prepare_again(resource, None, &mut bare, &old);
        assert_eq!(bare["spec"]["clusterIPs"], json!(["10.96.0.5"]));
        assert_eq!(validate_update(resource, None, &bare, &old).to_string(), "");
    }

    #[test]
    fn an_external_name_needs_a_name_and_no_address() {
        let errors = validate_create(
            by_kind("v1", "Service").expect("known"),
            &service(json!({"type": "ExternalName", "clusterIP": "1.2.3.4"})),
        );
        assert_eq!(
            errors.to_string(),
            "[spec.clusterIPs: Forbidden: may not be set for ExternalName services, spec.externalName: Required value]"
        );
    }
}

//! Warnings: what is accepted and still probably not meant.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::spec::each_container;
use crate::field::{Path, go_quote};
use crate::quantity::Quantity;
use crate::validate::view::View;

/// Warnings for a Pod.
pub(crate) fn of_pod(pod: &Value, _: Option<&Value>) -> Vec<String> {
    let view = View::new(pod);
    collect(view, &Path::new("spec"), &Path::new("metadata.annotations"))
}

/// Warnings for a template at `path`.
pub(in crate::strategy) fn of_template(template: View<'_>, path: &Path<'_>) -> Vec<String> {
    collect(template, &path.child("spec"), &path.child("metadata.annotations"))
}

fn collect(holder: View<'_>, path: &Path<'_>, annotations: &Path<'_>) -> Vec<String> {
    let spec = holder.get("spec");
    let mut out = Vec::new();
    node_labels(spec, path, &mut out);
    deprecated_annotations(holder, annotations, &mut out);
    volumes(spec, &path.child("volumes"), &mut out);
    repeated(spec, "hostAliases", "ip", &path.child("hostAliases"), &mut out);
    repeated(spec, "imagePullSecrets", "name", &path.child("imagePullSecrets"), &mut out);
    let secrets = path.child("imagePullSecrets");
    for (index, _) in
        spec.list("imagePullSecrets").enumerate().filter(|(_, secret)| secret.str("name").is_empty())
    {
        out.push(format!("{}: invalid empty name \"\"", secrets.index(index).child("name")));
    }
    fractional(spec, "overhead", &path.child("overhead"), &mut out);
    each_container(spec, path, |container, at| container_warnings(container, at, &mut out));
    ports(spec, path, &mut out);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        let at = path.child("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(spec, path, &mut out);
    out
}

/// Labels of nodes that have newer names.
fn newer_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        _ => return None,
    })
}

fn node_labels(spec: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    let selector = path.child("nodeSelector");
    for (key, _) in spec.map("nodeSelector") {
        out.extend(newer_label(key).map(|words| format!("{}: {words}", selector.key(key))));
    }
    let node = spec.at(&["affinity", "nodeAffinity"]);
    let affinity = path.child("affinity.nodeAffinity");
    let required = affinity.child("requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    let terms = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in terms.list("nodeSelectorTerms").enumerate() {
        term_labels(term, &required.index(index), out);
    }
    let preferred = affinity.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, term) in node.list("preferredDuringSchedulingIgnoredDuringExecution").enumerate() {
        term_labels(term.get("preference"), &preferred.index(index).child("preference"), out);
    }
    let spread = path.child("topologySpreadConstraints");
    for (index, constraint) in spec.list("topologySpreadConstraints").enumerate() {
        let (at, key) = (spread.index(index), constraint.str("topologyKey"));
        out.extend(newer_label(key).map(|words| format!("{}: {key} is {words}", at.child("topologyKey"))));
        if !constraint.get("labelSelector").is_set() {
            let field = at.child("labelSelector");
            out.push(format!("{field}: a null labelSelector results in matching no pod"));
        }
    }
}

fn term_labels(term: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    let list = path.child("matchExpressions");
    for (index, requirement) in term.list("matchExpressions").enumerate() {
        let key = requirement.str("key");
        let at = list.index(index);
        out.extend(newer_label(key).map(|words| format!("{}: {key} is {words}", at.child("key"))));
    }
}

fn deprecated_annotations(holder: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    let annotations = holder.at(&["metadata", "annotations"]);
    let sysctls = "non-functional in v1.11+; use the \"sysctls\" field instead";
    for (key, words) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        ("security.alpha.kubernetes.io/sysctls", sysctls),
        ("security.alpha.kubernetes.io/unsafe-sysctls", sysctls),
    ] {
        if annotations.get(key).is_set() {
            out.push(format!("{}: {words}", path.key(key)));
        }
    }
    let key = "seccomp.security.alpha.kubernetes.io/pod";
    let profile = holder.at(&["spec", "securityContext", "seccompProfile"]);
    if annotations.get(key).is_set() && !profile.is_set() {
        out.push(format!(
            "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            path.key(key)
        ));
    }
}

fn volumes(spec: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    for (index, volume) in spec.list("volumes").enumerate() {
        let at = path.index(index);
        for (field, name, words) in [
            ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
            ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
            ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
            ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if volume.get(field).is_set() {
                out.push(format!("{}: {words}", at.child(name)));
            }
        }
    }
}

fn repeated(spec: View<'_>, list: &str, key: &str, path: &Path<'_>, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, item) in spec.list(list).enumerate() {
        let value = item.str(key);
        if !seen.insert(value) {
            out.push(format!("{}: duplicate {key} {}", path.index(index).child(key), go_quote(value)));
        }
    }
}

/// Half a byte cannot be given to anybody.
fn fractional(holder: View<'_>, list: &str, path: &Path<'_>, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        let Some(Ok(amount)) = holder.get(list).get(name).value().map(Quantity::from_json) else { continue };
        if !amount.is_multiple_of(0) {
            let shown = go_quote(&amount.to_string());
            out.push(format!(
                "{}: fractional byte value {shown} is invalid, must be an integer",
                path.key(name)
            ));
        }
    }
}

fn container_warnings(container: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    let resources = path.child("resources");
    for list in ["limits", "requests"] {
        fractional(container.get("resources"), list, &resources.child(list), out);
    }
    let env = path.child("env");
    let mut seen = BTreeSet::new();
    for (index, variable) in container.list("env").enumerate() {
        let (name, value) = (variable.str("name"), variable.str("value"));
        if seen.insert(name) {
            continue;
        }
        // A later value that builds on the earlier one is meant so.
        let reference = format!("$({name})");
        if variable.get("valueFrom").is_set() || value == reference || !value.contains(&reference) {
            let name = go_quote(name);
            let words = format!("hides previous definition of {name}, which may be dropped when using apply");
            out.push(format!("{}: {words}", env.index(index)));
        }
    }
}

fn ports(spec: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    let mut known: BTreeMap<String, Vec<(String, View<'_>)>> = BTreeMap::new();
    each_container(spec, path, |container, at| {
        let list = at.child("ports");
        for (index, port) in container.list("ports").enumerate() {
            let place = list.index(index).to_string();
            if !port.str("hostIP").is_empty() && port.int("hostPort") == 0 {
                out.push(format!("{place}: hostIP set without hostPort: {}", go_struct(port)));
            }
            let others =
                known.entry(format!("{}/{}", port.int("containerPort"), port.str("protocol"))).or_default();
            for (other_place, other) in others.iter() {
                out.extend(
                    conflict(port, *other)
                        .map(|what| format!("{place}: {what} port definition with {other_place}")),
                );
            }
            others.push((place, port));
        }
    });
}

/// A port as Go's `%+v` prints the struct.
fn go_struct(port: View<'_>) -> String {
    let (host, own) = (port.int("hostPort"), port.int("containerPort"));
    format!(
        "{{Name:{} HostPort:{host} ContainerPort:{own} Protocol:{} HostIP:{}}}",
        port.str("name"),
        port.str("protocol"),
        port.str("hostIP")
    )
}

fn conflict(port: View<'_>, other: View<'_>) -> Option<&'static str> {
    let (host, other_host) = (port.int("hostPort"), other.int("hostPort"));
    let (ip, other_ip) = (port.str("hostIP"), other.str("hostIP"));
    if ip == other_ip && host == other_host {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn affinity(spec: View<'_>, path: &Path<'_>, out: &mut Vec<String>) {
    let words = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (rules, at) = (spec.get("affinity").get(kind), path.child("affinity"));
        let at = at.child(kind);
        for (list, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
        ] {
            let terms = at.child(list);
            for (index, term) in rules.list(list).enumerate() {
                let own = if inner.is_empty() { term } else { term.get(inner) };
                if !own.get("labelSelector").is_set() {
                    let field =
                        if inner.is_empty() { "labelSelector" } else { "podAffinityTerm.labelSelector" };
                    out.push(format!("{}: {words}", terms.index(index).child(field)));
                }
            }
        }
    }
}

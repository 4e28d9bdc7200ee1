//! The node authoriser: an agent gets what the Pods of its own node need.
//!
//! What leads from a node to an object is kept in `graph.rs`.

use api::kinds::find;
use api::selector::FieldSelector;

use super::graph::Graph;
use super::{Attributes, Decision};

/// Says yes to what this node may do; no opinion otherwise.
pub(super) fn decide(a: &Attributes<'_>, node: &str, graph: &Graph) -> Decision {
    let verdict = match (a.group, a.resource) {
        ("", "secrets" | "configmaps") => read_object(a, node, graph),
        ("", "persistentvolumeclaims") => match a.subresource {
            "status" => one_of(a.verb, &["get", "update", "patch"], || related(a, node, graph)),
            "" => one_of(a.verb, &["get"], || related(a, node, graph)),
            _ => Err("may only get persistentvolumeclaims or their status"),
        },
        ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") if a.subresource.is_empty() => {
            one_of(a.verb, &["get"], || related(a, node, graph))
        }
        ("resource.k8s.io", "resourceclaims") if a.subresource.is_empty() => {
            one_of(a.verb, &["get"], || related(a, node, graph))
        }
        ("", "serviceaccounts") if a.subresource == "token" => {
            one_of(a.verb, &["create"], || related(a, node, graph))
        }
        ("coordination.k8s.io", "leases") => own_lease(a, node),
        ("storage.k8s.io", "csinodes") => own_name(a, node, &["get", "create", "update", "patch", "delete"]),
        ("resource.k8s.io", "resourceslices") => own_slices(a, node),
        ("", "nodes") => own_node(a, node),
        ("", "pods") => own_pods(a, node, graph),
        _ => everybody(a),
    };
    match verdict {
        Ok(()) => Decision::Allow(String::new()),
        Err(reason) => Decision::NoOpinion(match reason {
            UNRELATED => format!("no relationship found between node '{node}' and this object"),
            other => other.to_owned(),
        }),
    }
}

type Verdict = Result<(), &'static str>;
const UNRELATED: &str = "no relationship";

fn one_of(verb: &str, verbs: &[&str], then: impl FnOnce() -> Verdict) -> Verdict {
    if verbs.contains(&verb) { then() } else { Err("verb not allowed to this node") }
}

/// Secrets and ConfigMaps are read one by one, watched by their name.
fn read_object(a: &Attributes<'_>, node: &str, graph: &Graph) -> Verdict {
    if !a.subresource.is_empty() {
        return Err("cannot read subresource");
    }
    if a.namespace.is_empty() {
        return Err("can only read namespaced object of this type");
    }
    one_of(a.verb, &["get", "list", "watch"], || related(a, node, graph))
}

fn own_lease(a: &Attributes<'_>, node: &str) -> Verdict {
    if a.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace");
    }
    own_name(a, node, &["get", "create", "update", "patch", "delete"])
}

/// Objects that are named after the node; a create names nothing yet.
fn own_name(a: &Attributes<'_>, node: &str, verbs: &[&str]) -> Verdict {
    one_of(a.verb, verbs, || match a.name == node || a.verb == "create" {
        true => Ok(()),
        false => Err("can only access the object with the same name as the requesting node"),
    })
}

fn own_slices(a: &Attributes<'_>, node: &str) -> Verdict {
    match a.verb {
        "list" | "watch" | "deletecollection" if selects(a, "resourceslices", "spec.nodeName", node) => {
            Ok(())
        }
        "get" | "create" | "update" | "patch" | "delete" => Ok(()),
        _ => Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector"),
    }
}

fn own_node(a: &Attributes<'_>, node: &str) -> Verdict {
    match (a.verb, a.subresource) {
        ("create", "") => Ok(()),
        ("get" | "update" | "patch", "" | "status") if a.name == node => Ok(()),
        ("list" | "watch", "") if a.name == node || selects(a, "nodes", "metadata.name", node) => Ok(()),
        ("list" | "watch", "") => {
            Err("can only list/watch nodes with a metadata.name field selector of its own")
        }
        _ => Err("node cannot access other nodes"),
    }
}

fn own_pods(a: &Attributes<'_>, node: &str, graph: &Graph) -> Verdict {
    match (a.verb, a.subresource) {
        ("list" | "watch", "") if selects(a, "pods", "spec.nodeName", node) => Ok(()),
        ("list" | "watch", "") => Err("can only list/watch pods with spec.nodeName field selector"),
        ("get", "") => related(a, node, graph),
        ("create" | "delete", "") => Ok(()),
        ("update" | "patch", "status") => Ok(()),
        ("create", "eviction") => Ok(()),
        _ => Err("verb not allowed to this node"),
    }
}

/// What every node may do, whatever runs on it.
fn everybody(a: &Attributes<'_>) -> Verdict {
    let read = matches!(a.verb, "get" | "list" | "watch");
    let allowed = match (a.group, a.resource, a.subresource) {
        ("authentication.k8s.io", "tokenreviews", "") => a.verb == "create",
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
            a.verb == "create"
        }
        ("", "services", "")
        | ("node.k8s.io", "runtimeclasses", "")
        | ("storage.k8s.io", "csidrivers", "") => read,
        ("", "events", "") => matches!(a.verb, "create" | "update" | "patch"),
        ("", "endpoints", "") => a.verb == "get",
        ("certificates.k8s.io", "certificatesigningrequests", "") => read || a.verb == "create",
        ("certificates.k8s.io", "clustertrustbundles", "") => read,
        _ => false,
    };
    if allowed { Ok(()) } else { Err("") }
}

fn selects(a: &Attributes<'_>, plural: &str, field: &str, node: &str) -> bool {
    find(a.group, a.version, plural)
        .and_then(|resource| FieldSelector::parse(resource, a.field_selector).ok())
        .is_some_and(|selector| selector.exact(field) == Some(node))
}

/// Whether a Pod of the node leads to the object.
fn related(a: &Attributes<'_>, node: &str, graph: &Graph) -> Verdict {
    if a.name.is_empty() {
        return Err("No Object name found");
    }
    if graph.leads(node, a.resource, a.namespace, a.name) { Ok(()) } else { Err(UNRELATED) }
}

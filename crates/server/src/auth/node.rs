//! The node authoriser: an agent gets what the Pods of its own node need.
//!
//! Instead of keeping a graph of everything, the Pods of the node are read when they
//! are needed: a node has at most a few hundred, and asks for their parts seldom.

use api::kinds::find;
use api::selector::FieldSelector;
use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Volume,
};

use super::{Attributes, Decision, Lookup};

/// Says yes to what this node may do; no opinion otherwise.
pub(super) fn decide(a: &Attributes<'_>, node: &str, lookup: &dyn Lookup) -> Decision {
    let verdict = match (a.group, a.resource) {
        ("", "secrets" | "configmaps") => read_object(a, node, lookup),
        ("", "persistentvolumeclaims") => match a.subresource {
            "status" => one_of(a.verb, &["get", "update", "patch"], || related(a, node, lookup)),
            "" => one_of(a.verb, &["get"], || related(a, node, lookup)),
            _ => Err("may only get persistentvolumeclaims or their status"),
        },
        ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") if a.subresource.is_empty() => {
            one_of(a.verb, &["get"], || related(a, node, lookup))
        }
        ("resource.k8s.io", "resourceclaims") if a.subresource.is_empty() => {
            one_of(a.verb, &["get"], || related(a, node, lookup))
        }
        ("", "serviceaccounts") if a.subresource == "token" => {
            one_of(a.verb, &["create"], || related(a, node, lookup))
        }
        ("coordination.k8s.io", "leases") => own_lease(a, node),
        ("storage.k8s.io", "csinodes") => own_name(a, node, &["get", "create", "update", "patch", "delete"]),
        ("resource.k8s.io", "resourceslices") => own_slices(a, node),
        ("", "nodes") => own_node(a, node),
        ("", "pods") => own_pods(a, node, lookup),
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
fn read_object(a: &Attributes<'_>, node: &str, lookup: &dyn Lookup) -> Verdict {
    if !a.subresource.is_empty() {
        return Err("cannot read subresource");
    }
    if a.namespace.is_empty() {
        return Err("can only read namespaced object of this type");
    }
    one_of(a.verb, &["get", "list", "watch"], || related(a, node, lookup))
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

fn own_pods(a: &Attributes<'_>, node: &str, lookup: &dyn Lookup) -> Verdict {
    match (a.verb, a.subresource) {
        ("list" | "watch", "") if selects(a, "pods", "spec.nodeName", node) => Ok(()),
        ("list" | "watch", "") => Err("can only list/watch pods with spec.nodeName field selector"),
        ("get", "") => related(a, node, lookup),
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
fn related(a: &Attributes<'_>, node: &str, lookup: &dyn Lookup) -> Verdict {
    if a.name.is_empty() {
        return Err("No Object name found");
    }
    let pods = lookup.pods_on_node(node);
    let mut pods = pods.iter().filter_map(|bytes| serde_json::from_slice::<Pod>(bytes).ok());
    let leads = |pod: &Pod| {
        let here = pod.metadata.namespace.as_deref() == Some(a.namespace);
        let Some(spec) = &pod.spec else { return false };
        match a.resource {
            "pods" => here && pod.metadata.name.as_deref() == Some(a.name),
            "serviceaccounts" => here && spec.service_account_name.as_deref() == Some(a.name),
            "secrets" => here && uses_secret(spec, a.name),
            "configmaps" => here && uses_config_map(spec, a.name),
            "persistentvolumeclaims" => here && claims(pod, spec).any(|claim| claim == a.name),
            "persistentvolumes" => claims(pod, spec).any(|claim| {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                volume_of(lookup, namespace, &claim).as_deref() == Some(a.name)
            }),
            "resourceclaims" => here && uses_resource_claim(pod, a.name),
            _ => false,
        }
    };
    if pods.any(|pod| leads(&pod)) || volume_secret(a, node, lookup) { Ok(()) } else { Err(UNRELATED) }
}

fn uses_secret(spec: &PodSpec, name: &str) -> bool {
    let pulled = spec.image_pull_secrets.iter().flatten().any(|r| r.name == name);
    let by_env = env_sources(spec).any(|(secret, of)| secret && of == name);
    let named = |n: Option<&String>| n.is_some_and(|n| n == name);
    let by_volume = spec.volumes.iter().flatten().any(|v| {
        let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        named(v.secret.as_ref().and_then(|s| s.secret_name.as_ref()))
            || projected.filter_map(|s| s.secret.as_ref()).any(|s| s.name == name)
            || volume_credentials(v).any(|n| n == name)
    });
    pulled || by_env || by_volume
}

/// The Secrets with which the node mounts a volume.
fn volume_credentials(volume: &Volume) -> impl Iterator<Item = &str> {
    let csi = volume.csi.as_ref().and_then(|c| c.node_publish_secret_ref.as_ref());
    let others = [
        volume.cephfs.as_ref().and_then(|c| c.secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|c| c.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|c| c.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|c| c.secret_ref.as_ref()),
    ];
    let azure = volume.azure_file.as_ref().map(|a| a.secret_name.as_str());
    csi.into_iter().chain(others.into_iter().flatten()).map(|r| r.name.as_str()).chain(azure)
}

fn uses_config_map(spec: &PodSpec, name: &str) -> bool {
    let by_env = env_sources(spec).any(|(secret, of)| !secret && of == name);
    let by_volume = spec.volumes.iter().flatten().any(|v| {
        let projected = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        v.config_map.as_ref().is_some_and(|c| c.name == name)
            || projected.filter_map(|s| s.config_map.as_ref()).any(|c| c.name == name)
    });
    by_env || by_volume
}

/// The Secrets (true) and ConfigMaps (false) that containers take their environment from.
fn env_sources(spec: &PodSpec) -> impl Iterator<Item = (bool, &str)> {
    let usual = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let usual = usual.map(|Container { env, env_from, .. }| (env, env_from));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral = ephemeral.map(|EphemeralContainer { env, env_from, .. }| (env, env_from));
    usual.chain(ephemeral).flat_map(|(env, env_from)| {
        let values = env.iter().flatten().filter_map(|e| e.value_from.as_ref()).flat_map(|from| {
            let secret = from.secret_key_ref.iter().map(|r| (true, r.name.as_str()));
            secret.chain(from.config_map_key_ref.iter().map(|r| (false, r.name.as_str())))
        });
        let whole = env_from.iter().flatten().flat_map(|from| {
            let secret = from.secret_ref.iter().map(|r| (true, r.name.as_str()));
            secret.chain(from.config_map_ref.iter().map(|r| (false, r.name.as_str())))
        });
        values.chain(whole)
    })
}

/// The claims a Pod mounts; a generic ephemeral volume's is named after Pod and volume.
fn claims<'a>(pod: &'a Pod, spec: &'a PodSpec) -> impl Iterator<Item = String> + 'a {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    spec.volumes.iter().flatten().filter_map(move |v| match &v.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => v.ephemeral.as_ref().map(|_| format!("{name}-{}", v.name)),
    })
}

fn uses_resource_claim(pod: &Pod, name: &str) -> bool {
    let direct = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    let made = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    direct.filter_map(|c| c.resource_claim_name.as_deref()).any(|n| n == name)
        || made.filter_map(|c| c.resource_claim_name.as_deref()).any(|n| n == name)
}

fn read<T: serde::de::DeserializeOwned>(bytes: Option<Bytes>) -> Option<T> {
    serde_json::from_slice(&bytes?).ok()
}

fn volume_of(lookup: &dyn Lookup, namespace: &str, claim: &str) -> Option<String> {
    let resource = find("", "v1", "persistentvolumeclaims")?;
    let claim: PersistentVolumeClaim = read(lookup.get(resource, namespace, claim))?;
    claim.spec?.volume_name
}

/// A Secret that a bound PersistentVolume needs on the node, and an attachment of it.
fn volume_secret(a: &Attributes<'_>, node: &str, lookup: &dyn Lookup) -> bool {
    match a.resource {
        "volumeattachments" => find("storage.k8s.io", "v1", "volumeattachments")
            .and_then(|resource| lookup.get(resource, "", a.name))
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
            .is_some_and(|attachment| attachment["spec"]["nodeName"] == node),
        "secrets" => lookup.pods_on_node(node).iter().any(|bytes| {
            let Ok(pod) = serde_json::from_slice::<Pod>(bytes) else { return false };
            let Some(spec) = &pod.spec else { return false };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            claims(&pod, spec).any(|claim| volume_needs_secret(lookup, namespace, &claim, a))
        }),
        _ => false,
    }
}

fn volume_needs_secret(lookup: &dyn Lookup, namespace: &str, claim: &str, a: &Attributes<'_>) -> bool {
    let found = find("", "v1", "persistentvolumes").and_then(|resource| {
        let name = volume_of(lookup, namespace, claim)?;
        read::<PersistentVolume>(lookup.get(resource, "", &name))?.spec?.csi
    });
    let Some(csi) = found else { return false };
    [csi.node_publish_secret_ref, csi.node_stage_secret_ref, csi.node_expand_secret_ref]
        .iter()
        .flatten()
        .any(|r| r.name.as_deref() == Some(a.name) && r.namespace.as_deref() == Some(a.namespace))
}

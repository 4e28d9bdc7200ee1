//! NodeRestriction: a node's agent writes what concerns its own node, and nothing by which it could draw
//! other Pods, or their secrets, to itself.
//!
//! The node authoriser says which requests a node may make at all; here their content is judged, in the
//! words of upstream's plugin. Other objects are read from memory.

mod audience;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use api::certificates::{KUBELET_CLIENT, KUBELET_SERVING, SigningRequest};
use api::field::go_quote;
use api::kinds::{self, Kind};
use api::meta::{Meta, Object as _};
use api::status::Status;
use api::strategy::admission::references::{Referent, names};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Operation, Request};
use crate::auth::{Attributes, User};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Only administrators label nodes below this domain, so that Pods can be kept off the others.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that an agent may set on its node.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains below which an agent may set any label on its node.
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The step of the chain.
pub(super) fn admit(request: &Request<'_>) -> Result<(), Status> {
    let call = request.call;
    let Some(node) = call.user.node_identity() else { return Ok(()) };
    if node.is_empty() {
        let user = go_quote(&call.user.name);
        return Err(request.forbidden(format!("could not determine node from user {user}")));
    }
    let auth = &call.state.auth;
    let authorized = |audience: &str| {
        let verb = "request-serviceaccounts-token-audience";
        let on = Attributes::resource(&call.user, verb, "", "v1", audience);
        auth.decide(&Attributes { namespace: request.namespace(), name: request.name(), ..on }).is_allowed()
    };
    let object = |kind: &Kind, namespace: &str, name: &str| auth.lookup().get(kind, namespace, name);
    let asked = Asked {
        operation: request.operation,
        resource: (&request.resource().group, &request.resource().plural),
        subresource: request.subresource(),
        namespace: request.namespace(),
        name: request.name(),
        object: &request.object,
        old: request.old.unwrap_or(&Value::Null),
        user: &call.user,
    };
    judge(node, &asked, &Known { object: &object, authorized: &authorized }).map_err(
        |refusal| match refusal {
            Refusal::Forbidden(why) => request.forbidden(why),
            Refusal::NotFound(plural, name) => Status::not_found(("", plural), &name),
        },
    )
}

/// What a node asks for.
struct Asked<'a> {
    operation: Operation,
    resource: (&'a str, &'a str),
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    object: &'a Value,
    old: &'a Value,
    user: &'a User,
}

/// What is known besides: the other objects, and for which audiences the node may have tokens anyway.
struct Known<'a> {
    object: &'a dyn Fn(&Kind, &str, &str) -> Option<Bytes>,
    authorized: &'a dyn Fn(&str) -> bool,
}

impl Known<'_> {
    fn find(&self, (group, plural): (&str, &str), namespace: &str, name: &str) -> Option<Value> {
        let bytes = (self.object)(kinds::find(group, "v1", plural)?, namespace, name)?;
        serde_json::from_slice(&bytes).ok()
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let pod = self.find(("", "pods"), namespace, name);
        pod.ok_or_else(|| Refusal::NotFound("pods", name.to_owned()))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Forbidden(String),
    NotFound(&'static str, String),
}

type Verdict = Result<(), Refusal>;

fn no<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Forbidden(why.into()))
}

/// Refuses with `why` unless `right`.
fn need(right: bool, why: impl FnOnce() -> String) -> Verdict {
    if right { Ok(()) } else { no(why()) }
}

fn judge(node: &str, asked: &Asked<'_>, known: &Known<'_>) -> Verdict {
    match (asked.resource, asked.subresource) {
        (("", "pods"), "") => pod(node, asked, known),
        (("", "pods"), "status") => pod_status(node, asked),
        (("", "pods"), "eviction") => eviction(node, asked, known),
        (("", "pods"), other) => no(format!(
            "unexpected pod subresource {}, only 'status' and 'eviction' are allowed",
            go_quote(other)
        )),
        (("", "nodes"), _) => own_node(node, asked),
        (("", "persistentvolumeclaims"), "status") => claim_status(node, asked),
        (("", "persistentvolumeclaims"), _) => no("may only update PVC status"),
        (("", "serviceaccounts"), "token") => token(node, asked, known),
        (("coordination.k8s.io", "leases"), _) => lease(node, asked),
        (("storage.k8s.io", "csinodes"), _) => need(asked.name == node, || {
            "can only access CSINode with the same name as the requesting node".to_owned()
        }),
        (("resource.k8s.io", "resourceslices"), _) => slice(node, asked),
        (("certificates.k8s.io", "certificatesigningrequests"), "") => signing_request(node, asked),
        _ => Ok(()),
    }
}

fn operation(asked: &Asked<'_>) -> &'static str {
    match asked.operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn pod(node: &str, asked: &Asked<'_>, known: &Known<'_>) -> Verdict {
    let named = go_quote(node);
    match asked.operation {
        Operation::Create => new_pod(node, &named, asked.object, known),
        Operation::Delete => need(asked.old["spec"]["nodeName"] == node, || {
            format!("node {named} can only delete pods with spec.nodeName set to itself")
        }),
        _ => no(format!(
            "unexpected operation \"{}\", node {named} can only create and delete mirror pods",
            operation(asked)
        )),
    }
}

/// A mirror Pod shows what runs from a file on the node; it names nothing of the API but its node.
fn new_pod(node: &str, named: &str, pod: &Value, known: &Known<'_>) -> Verdict {
    need(pod.meta().annotation(MIRROR).is_some(), || {
        format!("pod does not have \"{MIRROR}\" annotation, node {named} can only create mirror pods")
    })?;
    need(pod["spec"]["nodeName"] == node, || {
        format!("node {named} can only create pods with spec.nodeName set to itself")
    })?;
    owned_by_node(node, named, pod.meta(), known)?;
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    let projects = |volume: &Value| {
        let sources = volume["projected"]["sources"].as_array();
        sources.into_iter().flatten().any(|source| !source["clusterTrustBundle"].is_null())
    };
    let volumes = pod["spec"]["volumes"].as_array().map_or(&[][..], Vec::as_slice);
    for (referenced, what) in [
        (!account.is_empty(), "a service account"),
        (names(pod, Referent::Secret), "secrets"),
        (names(pod, Referent::ConfigMap), "configmaps"),
        (volumes.iter().any(projects), "clustertrustbundles"),
        (volumes.iter().any(|v| !v["persistentVolumeClaim"].is_null()), "persistentvolumeclaims"),
    ] {
        need(!referenced, || format!("node {named} can not create pods that reference {what}"))?;
    }
    Ok(())
}

fn owned_by_node(node: &str, named: &str, pod: Meta<'_>, known: &Known<'_>) -> Verdict {
    let only = |what: &str| format!("node {named} can only create pods with {what} set to itself");
    let mut owners = pod.owner_references();
    let owner = match (owners.next(), owners.next()) {
        (None, _) => return no(only("an owner reference")),
        (Some(owner), None) => owner,
        _ => return no(only("a single owner reference")),
    };
    let is_node = (owner.api_version(), owner.kind(), owner.name()) == ("v1", "Node", node);
    need(is_node, || only("an owner reference"))?;
    need(owner.controller() == Some(true), || only("a controller owner reference"))?;
    need(owner.block_owner_deletion() != Some(true), || {
        format!("node {named} must not set blockOwnerDeletion on an owner reference")
    })?;
    let object = known.find(("", "nodes"), "", node);
    let object = object.ok_or_else(|| Refusal::NotFound("nodes", node.to_owned()))?;
    let (given, stored) = (owner.uid(), object.meta().uid());
    need(given == stored, || format!("node {node} UID mismatch: expected {given} got {stored}"))
}

fn pod_status(node: &str, asked: &Asked<'_>) -> Verdict {
    let named = go_quote(node);
    if asked.operation != Operation::Update {
        return no(format!("unexpected operation \"{}\"", operation(asked)));
    }
    need(asked.old["spec"]["nodeName"] == node, || {
        format!("node {named} can only update pod status for pods with spec.nodeName set to itself")
    })?;
    need(modified(labels(asked.object), labels(asked.old)).is_empty(), || {
        format!("node {named} cannot update labels through pod status")
    })?;
    let claims = |pod: &Value| {
        let statuses = pod["status"]["resourceClaimStatuses"].as_array().cloned().unwrap_or_default();
        let pair = |one: &Value| (one["name"].clone(), one["resourceClaimName"].clone());
        statuses.iter().map(pair).collect::<Vec<_>>()
    };
    need(claims(asked.object) == claims(asked.old), || {
        format!("node {named} cannot update resource claim statues")
    })
}

fn eviction(node: &str, asked: &Asked<'_>, known: &Known<'_>) -> Verdict {
    if asked.operation != Operation::Create {
        return no(format!("unexpected operation {}", operation(asked)));
    }
    need(!asked.name.is_empty(), || "could not determine pod from request data".to_owned())?;
    need(known.pod(asked.namespace, asked.name)?["spec"]["nodeName"] == node, || {
        format!("node {node} can only evict pods with spec.nodeName set to itself")
    })
}

/// What the agent grows on a claim is its capacity, and what it says of that.
fn claim_status(node: &str, asked: &Asked<'_>) -> Verdict {
    if asked.operation != Operation::Update {
        return no(format!("unexpected operation \"{}\"", operation(asked)));
    }
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]),
        ] {
            let Some(part) = claim[part].as_object_mut() else { continue };
            fields.iter().for_each(|field| drop(part.remove(*field)));
        }
        claim
    };
    need(rest(asked.old) == rest(asked.object), || {
        let named = go_quote(node);
        format!(
            "node {named} is not allowed to update fields other than status.quantity and status.conditions"
        )
    })
}

fn own_node(node: &str, asked: &Asked<'_>) -> Verdict {
    let (named, object) = (go_quote(node), asked.object);
    need(asked.name == node, || {
        format!("node {named} is not allowed to modify node {}", go_quote(asked.name))
    })?;
    let source = &object["spec"]["configSource"];
    match asked.operation {
        Operation::Create => {
            need(source.is_null(), || {
                format!("node {named} is not allowed to create pods with a non-nil configSource")
            })?;
            let forbidden = forbidden_labels(&modified(labels(object), None));
            need(forbidden.is_empty(), || {
                format!("node {named} is not allowed to set the following labels: {}", forbidden.join(", "))
            })
        }
        Operation::Update => {
            need(source.is_null() || *source == asked.old["spec"]["configSource"], || {
                format!("node {named} is not allowed to update configSource to a new non-nil configSource")
            })?;
            let taints = |node: &Value| node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            need(taints(object) == taints(asked.old), || {
                format!("node {named} is not allowed to modify taints")
            })?;
            let forbidden = forbidden_labels(&modified(labels(object), labels(asked.old)));
            need(forbidden.is_empty(), || {
                format!("is not allowed to modify labels: {}", forbidden.join(", "))
            })
        }
        _ => Ok(()),
    }
}

fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.meta().label_map()
}

/// The keys whose values differ.
fn modified<'a>(
    new: Option<&'a Map<String, Value>>,
    old: Option<&'a Map<String, Value>>,
) -> BTreeSet<&'a str> {
    let keys = new.into_iter().chain(old).flat_map(Map::keys).map(String::as_str);
    let value = |labels: Option<&'a Map<String, Value>>, key: &str| labels.and_then(|labels| labels.get(key));
    keys.filter(|key| value(new, key) != value(old, key)).collect()
}

/// Those of the labels that an agent may not touch.
fn forbidden_labels<'a>(modified: &BTreeSet<&'a str>) -> Vec<&'a str> {
    let below = |domain: &str, parent: &str| {
        domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let is_forbidden = |key: &&&str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let known = OWN_LABELS.contains(*key) || OWN_DOMAINS.iter().any(|own| below(domain, own));
        let reserved = ["kubernetes.io", "k8s.io"].iter().any(|parent| below(domain, parent));
        below(domain, RESTRICTED) || reserved && !known
    };
    modified.iter().filter(is_forbidden).copied().collect()
}

/// A node gets tokens of the Pods that it runs only, each bound to its Pod.
fn token(node: &str, asked: &Asked<'_>, known: &Known<'_>) -> Verdict {
    if asked.operation != Operation::Create {
        return Ok(());
    }
    let reference = &asked.object["spec"]["boundObjectRef"];
    let field = |name: &str| reference[name].as_str().unwrap_or_default();
    let bound = field("apiVersion") == "v1" && field("kind") == "Pod" && !field("name").is_empty();
    need(bound, || "node requested token not bound to a pod".to_owned())?;
    let given = field("uid");
    need(!given.is_empty(), || "node requested token with a pod binding without a uid".to_owned())?;
    let pod = known.pod(asked.namespace, field("name"))?;
    need(pod.meta().uid() == given, || {
        format!(
            "the UID in the bound object reference ({given}) does not match the UID in record. The object might have been deleted and then recreated"
        )
    })?;
    need(pod["spec"]["nodeName"] == node, || {
        "node requested token bound to a pod scheduled on a different node".to_owned()
    })?;
    audience::check(&pod, asked, known)
}

fn lease(node: &str, asked: &Asked<'_>) -> Verdict {
    need(asked.namespace == LEASES, || {
        format!("can only access leases in the \"{LEASES}\" system namespace")
    })?;
    need(asked.name == node, || {
        "can only access node lease with the same name as the requesting node".to_owned()
    })
}

fn slice(node: &str, asked: &Asked<'_>) -> Verdict {
    let (slice, verb) = match asked.operation {
        Operation::Create => (asked.object, "create"),
        Operation::Delete => (asked.old, "delete"),
        // The node authoriser knows whose slice it is.
        _ => return Ok(()),
    };
    need(slice["spec"]["nodeName"] == node, || {
        format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")
    })
}

/// A certificate that makes its holder a node is asked for by that node.
fn signing_request(node: &str, asked: &Asked<'_>) -> Verdict {
    let spec = &asked.object["spec"];
    let signer = spec["signerName"].as_str().unwrap_or_default();
    if asked.operation != Operation::Create || ![KUBELET_CLIENT, KUBELET_SERVING].contains(&signer) {
        return Ok(());
    }
    match SigningRequest::parse(spec["request"].as_str().unwrap_or_default()) {
        Ok(request) => need(request.common_name == asked.user.name, || {
            format!("can only create a node CSR with CN=system:node:{node}")
        }),
        Err(why) => no(format!("unable to parse csr: {why}")),
    }
}

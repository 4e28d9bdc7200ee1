//! What the server itself writes into an object before it is checked: identity, generation, status.

use serde_json::{Map, Value, json};

use super::{certificates, pod, service};
use crate::defaults;
use crate::kinds::Kind;
use crate::validate::meta::same;

type Object = Map<String, Value>;

/// Whether changes of the kind's wishes are counted in `metadata.generation`.
fn counts_generation(resource: &Kind) -> bool {
    match resource.group_kind() {
        ("", kind) => matches!(kind, "Pod" | "PodTemplate" | "ReplicationController"),
        ("apps", kind) => kind != "ControllerRevision",
        (
            "batch"
            | "policy"
            | "networking.k8s.io"
            | "admissionregistration.k8s.io"
            | "apiextensions.k8s.io",
            kind,
        ) => kind != "IPAddress",
        ("discovery.k8s.io" | "scheduling.k8s.io" | "flowcontrol.apiserver.k8s.io", _) => true,
        _ => false,
    }
}

/// Whether a client may give the status when it creates the object: nodes register themselves with theirs.
fn keeps_status_on_create(resource: &Kind) -> bool {
    resource.group.is_empty() && matches!(&*resource.kind, "Node" | "Event")
}

/// Prepares a new object: generation 1, a fresh status, and what its kind adds.
///
/// The server writes name, uid, creationTimestamp and resourceVersion itself.
pub fn prepare_create(resource: &Kind, object: &mut Value) {
    let initial = resource.has_status().then(|| initial_status(resource));
    let Some(fields) = object.as_object_mut() else { return };
    let metadata = metadata(fields);
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(name);
    }
    metadata.remove("generation");
    if counts_generation(resource) {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if let Some(status) = initial.filter(|_| !keeps_status_on_create(resource)) {
        replace(fields, "status", status);
    }
    match resource.group_kind() {
        ("", "Pod") => pod::prepare_create(fields),
        ("", "Namespace") => namespace_finalizer(fields),
        ("", "Service") => service::prepare_create(fields),
        _ => {}
    }
}

/// The status that the defaults give an object that says nothing.
fn initial_status(resource: &Kind) -> Option<Value> {
    let mut bare = json!({"apiVersion": resource.api_version(), "kind": resource.kind});
    defaults::apply(resource, &mut bare);
    bare.get_mut("status").map(Value::take)
}

/// A namespace is held by the namespace controller until its content is gone.
fn namespace_finalizer(namespace: &mut Object) {
    let spec = namespace.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else { return };
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut().filter(|list| !list.iter().any(|one| one == "kubernetes")) {
        list.push("kubernetes".into());
    }
}

/// Prepares a changed object: keeps what this way of writing may not touch, and counts the generation.
pub fn prepare_update(resource: &Kind, subresource: Option<&str>, new: &mut Value, old: &Value) {
    let (Some(fields), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    keep_identity(metadata(fields), before);
    match (&*resource.group, &*resource.kind, subresource) {
        ("", "Pod", Some("ephemeralcontainers" | "resize")) => pod::prepare_part(subresource, fields, before),
        ("certificates.k8s.io", "CertificateSigningRequest", _) => {
            certificates::prepare_update(subresource, fields, before);
        }
        ("", "Namespace", Some("finalize")) => keep(fields, before, &["status"]),
        (_, _, Some("status")) => keep_for_status(resource, fields, before),
        (_, kind, _) => {
            if resource.has_status() {
                keep(fields, before, &["status"]);
            }
            match (&*resource.group, kind) {
                ("", "Namespace") => keep_finalizers(fields, before),
                ("", "Service") => service::prepare_update(fields, before),
                _ => {}
            }
        }
    }
    if subresource != Some("status") && counts_generation(resource) && wishes_differ(resource, fields, before)
    {
        let generation =
            before.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0);
        metadata(fields).insert("generation".to_owned(), json!(generation + 1));
    }
}

/// A write to the status leaves everything else but labels, annotations and finalizers as it is.
fn keep_for_status(resource: &Kind, new: &mut Object, old: &Object) {
    let names: Vec<String> = new.keys().chain(old.keys()).cloned().collect();
    for name in
        names.iter().filter(|name| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
    {
        replace(new, name, old.get(name).cloned());
    }
    let old_meta = old.get("metadata").and_then(Value::as_object);
    let metadata = metadata(new);
    if matches!(
        resource.group_kind(),
        ("", "Pod" | "ReplicationController") | ("apps" | "batch" | "networking.k8s.io", _)
    ) {
        replace(metadata, "ownerReferences", old_meta.and_then(|meta| meta.get("ownerReferences")).cloned());
    }
    if matches!(resource.group_kind(), ("apps", "Deployment")) {
        replace(metadata, "labels", old_meta.and_then(|meta| meta.get("labels")).cloned());
    }
}

fn keep_finalizers(new: &mut Object, old: &Object) {
    let finalizers = old.get("spec").and_then(|spec| spec.get("finalizers")).cloned();
    if let Some(spec) = new.entry("spec").or_insert_with(|| json!({})).as_object_mut() {
        replace(spec, "finalizers", finalizers);
    }
}

/// What an update may leave out of `metadata` is taken from the old object; the generation is the server's.
fn keep_identity(new: &mut Object, old: &Object) {
    let Some(old) = old.get("metadata").and_then(Value::as_object) else { return };
    for name in ["uid", "creationTimestamp"] {
        let absent = new.get(name).is_none_or(|value| value.is_null() || value == "");
        if let (true, Some(value)) = (absent, old.get(name)) {
            new.insert(name.to_owned(), value.clone());
        }
    }
    // A deletion that has begun cannot be taken back, nor its grace be changed by an update.
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if old.get("deletionTimestamp").is_some_and(|value| !value.is_null()) {
            replace(new, name, old.get(name).cloned());
        }
    }
    replace(new, "generation", old.get("generation").cloned());
    new.remove("selfLink");
}

/// Whether what the user wishes differs: the spec, or for kinds without one everything but metadata and status.
fn wishes_differ(resource: &Kind, new: &Object, old: &Object) -> bool {
    if new.contains_key("spec") || old.contains_key("spec") {
        return !same(new.get("spec"), old.get("spec"));
    }
    let wish = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    let changed =
        |a: &Object, b: &Object| a.iter().any(|(name, value)| wish(name) && !same(Some(value), b.get(name)));
    let labels = |object: &Object| object.get("metadata").and_then(|meta| meta.get("labels")).cloned();
    changed(new, old)
        || changed(old, new)
        || resource.kind == "EndpointSlice" && !same(labels(new).as_ref(), labels(old).as_ref())
}

pub(super) fn metadata(object: &mut Object) -> &mut Object {
    let value = object.entry("metadata").or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made an object on the line before")
}

/// Sets or removes a field.
pub(super) fn replace(object: &mut Object, name: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(object.insert(name.to_owned(), value)),
        None => drop(object.remove(name)),
    }
}

pub(super) fn keep(new: &mut Object, old: &Object, names: &[&str]) {
    for name in names {
        replace(new, name, old.get(*name).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;

    fn updated(
        api_version: &str,
        kind: &str,
        subresource: Option<&str>,
        mut new: Value,
        old: &Value,
    ) -> Value {
        prepare_update(by_kind(api_version, kind).expect("known"), subresource, &mut new, old);
        new
    }

    #[test]
    fn a_status_given_at_creation_is_dropped() {
        let mut deployment = json!({"metadata": {"generation": 7}, "spec": {}, "status": {"replicas": 9}});
        prepare_create(by_kind("apps/v1", "Deployment").expect("known"), &mut deployment);
        assert_eq!(deployment, json!({"metadata": {"generation": 1}, "spec": {}, "status": {}}));
        let mut map = json!({"metadata": {"generation": 7}, "data": {}});
        prepare_create(by_kind("v1", "ConfigMap").expect("known"), &mut map);
        assert_eq!(map, json!({"metadata": {}, "data": {}}));
    }

    #[test]
    fn a_change_of_the_spec_counts_and_a_change_of_labels_does_not() {
        let old = json!({"metadata": {"uid": "u", "generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let scaled =
            updated("apps/v1", "Deployment", None, json!({"metadata": {}, "spec": {"replicas": 2}}), &old);
        assert_eq!(
            scaled,
            json!({"metadata": {"uid": "u", "generation": 4}, "spec": {"replicas": 2}, "status": {"replicas": 1}})
        );
        let labelled = json!({"metadata": {"generation": 9, "labels": {"a": "b"}}, "spec": {"replicas": 1}});
        assert_eq!(updated("apps/v1", "Deployment", None, labelled, &old)["metadata"]["generation"], 3);
    }

    #[test]
    fn a_write_to_the_status_keeps_the_spec() {
        let old = json!({"metadata": {"uid": "u", "generation": 3}, "spec": {"replicas": 1}, "status": {}});
        let new = json!({"metadata": {}, "spec": {"replicas": 5}, "status": {"replicas": 5}});
        let written = updated("apps/v1", "ReplicaSet", Some("status"), new, &old);
        assert_eq!(written["spec"], json!({"replicas": 1}));
        assert_eq!(written["status"], json!({"replicas": 5}));
        assert_eq!(written["metadata"]["generation"], 3);
    }

    #[test]
    fn a_deletion_cannot_be_taken_back() {
        let old = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 5}});
        let written = updated("v1", "ConfigMap", None, json!({"metadata": {}}), &old);
        assert_eq!(written["metadata"], json!({"deletionTimestamp": "t", "deletionGracePeriodSeconds": 5}));
    }

    #[test]
    fn a_new_namespace_is_held_by_its_finalizer() {
        let mut namespace = json!({"metadata": {"name": "n"}});
        prepare_create(by_kind("v1", "Namespace").expect("known"), &mut namespace);
        assert_eq!(namespace["spec"], json!({"finalizers": ["kubernetes"]}));
        assert_eq!(namespace["status"], json!({"phase": "Active"}));
    }
}

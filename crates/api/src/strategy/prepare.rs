//! What the server itself writes into an object before it is checked: identity, generation, status.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::defaults;
use crate::kinds::{Generation, Kind, Object};
use crate::validate::meta::same;

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
    if resource.rules.generation != Generation::Never {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if let Some(status) = initial.filter(|_| !resource.rules.created_with_status) {
        replace(fields, "status", status);
    }
    (resource.rules.prepare_create)(fields);
}

/// Who writes, as authentication found it.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// The name of the user.
    pub name: &'a str,
    /// The uid, which ServiceAccounts have.
    pub uid: &'a str,
    /// The groups.
    pub groups: &'a [String],
    /// Whatever else the credential said.
    pub extra: &'a BTreeMap<String, Vec<String>>,
}

/// Writes into a new object what it says of who asked for it, whatever it said itself.
pub fn stamp(resource: &Kind, object: &mut Value, author: &Author<'_>) {
    if let Some(fields) = object.as_object_mut() {
        (resource.rules.author)(fields, author);
    }
}

/// Writes into an object what it says of when it was created, or has changed.
pub fn date(resource: &Kind, new: &mut Value, old: Option<&Value>, now: &str) {
    if let Some(fields) = new.as_object_mut() {
        (resource.rules.date)(fields, old.and_then(Value::as_object), now);
    }
}

/// The status that the defaults give an object that says nothing.
fn initial_status(resource: &Kind) -> Option<Value> {
    let mut bare = json!({"apiVersion": resource.api_version(), "kind": resource.kind});
    defaults::apply(resource, &mut bare);
    bare.get_mut("status").map(Value::take)
}

/// Prepares a changed object: keeps what this way of writing may not touch, and counts the generation.
pub fn prepare_update(resource: &Kind, subresource: Option<&str>, new: &mut Value, old: &Value) {
    let (Some(fields), Some(before)) = (new.as_object_mut(), old.as_object()) else { return };
    keep_identity(metadata(fields), before);
    (resource.rules.prepare_update)(resource, subresource, fields, before);
    if subresource != Some("status") && wishes_differ(resource.rules.generation, fields, before) {
        let generation =
            before.get("metadata").and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0);
        metadata(fields).insert("generation".to_owned(), json!(generation + 1));
    }
}

/// What is taken from the old object in most kinds: the status, or all else if that is what is written.
pub(crate) fn update(resource: &Kind, subresource: Option<&str>, new: &mut Object, old: &Object) {
    if subresource == Some("status") {
        keep_for_status(resource, new, old);
    } else if resource.has_status() {
        keep(new, old, &["status"]);
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
    for name in resource.rules.kept_by_status {
        replace(metadata, name, old_meta.and_then(|meta| meta.get(*name)).cloned());
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
fn wishes_differ(counted: Generation, new: &Object, old: &Object) -> bool {
    if counted == Generation::Never {
        return false;
    }
    if new.contains_key("spec") || old.contains_key("spec") {
        return !same(new.get("spec"), old.get("spec"));
    }
    let wish = |name: &str| !matches!(name, "metadata" | "status" | "apiVersion" | "kind");
    let changed =
        |a: &Object, b: &Object| a.iter().any(|(name, value)| wish(name) && !same(Some(value), b.get(name)));
    let labels = |object: &Object| object.get("metadata").and_then(|meta| meta.get("labels")).cloned();
    changed(new, old)
        || changed(old, new)
        || counted == Generation::WishesAndLabels && !same(labels(new).as_ref(), labels(old).as_ref())
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

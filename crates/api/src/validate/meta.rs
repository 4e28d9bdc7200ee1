//! The rules of `metadata`, common to all kinds, and of label selectors.

use serde_json::Value;

use super::view::View;
use super::{
    NameRule, check, is_qualified_name, is_valid_label_value, name_is_dns_label, non_negative, qualified_name,
};
use crate::field::{Error, ErrorList, Path};

/// The most bytes that the annotations of an object may have together.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

const METADATA: Path<'static> = Path::new("metadata");

/// `field is immutable`, upstream's words for most fields that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// Checks `metadata` of an object that is created. The name has been generated already.
pub fn object_meta(object: &Value, namespaced: bool, name_rule: NameRule, errors: &mut ErrorList) {
    let meta = View::new(object).get("metadata");
    let generate_name = meta.str("generateName");
    if !generate_name.is_empty() {
        check(name_rule(generate_name, true), generate_name, &METADATA.child("generateName"), errors);
    }
    match meta.str("name") {
        "" => errors.push(Error::required(&METADATA.child("name"), "name or generateName is required")),
        name => check(name_rule(name, false), name, &METADATA.child("name"), errors),
    }
    namespace(meta, namespaced, errors);
    non_negative(meta.int("generation"), &METADATA.child("generation"), errors);
    labels(meta.get("labels"), &METADATA.child("labels"), errors);
    annotations(meta.get("annotations"), &METADATA.child("annotations"), errors);
    owner_references(meta, errors);
    finalizers(meta, errors);
}

fn namespace(meta: View<'_>, namespaced: bool, errors: &mut ErrorList) {
    let path = METADATA.child("namespace");
    match (namespaced, meta.str("namespace")) {
        (true, "") => errors.push(Error::required(&path, "")),
        (true, name) => check(name_is_dns_label(name, false), name, &path, errors),
        (false, "") => {}
        (false, _) => errors.push(Error::forbidden(&path, "not allowed on this type")),
    }
}

/// Checks what an update may not change in `metadata`.
///
/// `new` carries the resourceVersion of `old`: the server has compared it before.
pub fn object_meta_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, old) = (View::new(new).get("metadata"), View::new(old).get("metadata"));
    if old.get("deletionTimestamp").is_set() {
        no_new_finalizers(new, old, errors);
    }
    if new.int("generation") < old.int("generation") {
        let path = METADATA.child("generation");
        errors.push(Error::invalid(&path, new.int("generation"), "must not be decremented"));
    }
    for name in ["name", "namespace", "uid"] {
        if new.str(name) != old.str(name) {
            errors.push(Error::invalid(&METADATA.child(name), new.str(name), IMMUTABLE));
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(new.get(name), old.get(name), &METADATA.child(name), errors);
    }
    labels(new.get("labels"), &METADATA.child("labels"), errors);
    annotations(new.get("annotations"), &METADATA.child("annotations"), errors);
    owner_references(new, errors);
    finalizers(new, errors);
}

fn no_new_finalizers(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let mut extra: Vec<&str> = new
        .list("finalizers")
        .map(View::text)
        .filter(|one| !old.list("finalizers").any(|o| o.text() == *one))
        .collect();
    if extra.is_empty() {
        return;
    }
    extra.sort_unstable();
    let quoted: Vec<String> = extra.iter().map(|one| crate::field::go_quote(one)).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        quoted.join(", ")
    );
    errors.push(Error::forbidden(&METADATA.child("finalizers"), detail));
}

/// Refuses a field that differs from the old one. Empty and absent are the same, as in Go's semantic equality.
pub(crate) fn immutable(new: View<'_>, old: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !same(new.value(), old.value()) {
        errors.push(Error::invalid(path, new.json(), IMMUTABLE));
    }
}

/// Go's `equality.Semantic.DeepEqual` for JSON: nil, empty lists, empty maps and zero values dropped from
/// objects are alike.
pub(crate) fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(key, value)| same(Some(value), b.get(key)))
                && b.iter().all(|(key, value)| a.contains_key(key) || same(None, Some(value)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(one, other)| same(Some(one), Some(other)))
        }
        (Some(one), None) | (None, Some(one)) => match one {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        },
        (Some(Value::Null), Some(other)) | (Some(other), Some(Value::Null)) => same(None, Some(other)),
        (one, other) => one == other,
    }
}

/// Checks a map of labels, or of a node selector.
pub(crate) fn labels(labels: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(entries) = labels.value().and_then(Value::as_object) else { return };
    for (key, value) in entries {
        label_name(key, path, errors);
        let value = value.as_str().unwrap_or("");
        check(is_valid_label_value(value), value, path, errors);
    }
}

/// The key of a label.
pub(crate) fn label_name(key: &str, path: &Path<'_>, errors: &mut ErrorList) {
    check(is_qualified_name(key), key, path, errors);
}

/// Checks a map of annotations: keys in any case, all of it within 256 KiB.
pub(crate) fn annotations(annotations: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(entries) = annotations.value().and_then(Value::as_object) else { return };
    let mut size = 0;
    for (key, value) in entries {
        check(is_qualified_name(&key.to_lowercase()), key, path, errors);
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owner_references(meta: View<'_>, errors: &mut ErrorList) {
    let path = METADATA.child("ownerReferences");
    let mut controller = None;
    for owner in meta.list("ownerReferences") {
        owner_reference(owner, &path, errors);
        if !owner.flag("controller") {
            continue;
        }
        let name = format!("{}/{}", owner.str("kind"), owner.str("name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errors.push(Error::invalid(&path, meta.get("ownerReferences").json(), detail));
            }
        }
    }
}

fn owner_reference(owner: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let version = owner.str("apiVersion");
    if version.rsplit('/').next().unwrap_or("").is_empty() {
        errors.push(Error::invalid(&path.child("apiVersion"), version, "version must not be empty"));
    }
    for name in ["kind", "name", "uid"] {
        if owner.str(name).is_empty() {
            errors.push(Error::invalid(&path.child(name), "", "must not be empty"));
        }
    }
    if (version, owner.str("kind")) == ("v1", "Event") {
        errors.push(Error::invalid(path, owner.json(), "/v1, Kind=Event is disallowed from being an owner"));
    }
}

fn finalizers(meta: View<'_>, errors: &mut ErrorList) {
    let path = METADATA.child("finalizers");
    let has = |name: &str| meta.list("finalizers").any(|one| one.text() == name);
    for finalizer in meta.list("finalizers") {
        qualified_name(finalizer.text(), &path, errors);
    }
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(Error::invalid(&path, meta.get("finalizers").json(), detail));
    }
    for (index, finalizer) in meta.list("finalizers").enumerate() {
        kube_finalizer(finalizer.text(), &path.index(index), errors);
    }
}

/// A finalizer of the core group is a known word or has a domain in front.
pub(crate) fn kube_finalizer(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(Error::invalid(path, name, detail));
    }
}

/// Whether invalid label values in a selector are accepted: the rule is younger than some objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SelectorValues {
    Checked,
    Unchecked,
}

/// Checks a `metav1.LabelSelector`.
pub(crate) fn label_selector(
    selector: View<'_>,
    values: SelectorValues,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    if !selector.is_set() {
        return;
    }
    labels(selector.get("matchLabels"), &path.child("matchLabels"), errors);
    let list = path.child("matchExpressions");
    for (index, requirement) in selector.list("matchExpressions").enumerate() {
        selector_requirement(requirement, values, &list.index(index), errors);
    }
}

fn selector_requirement(
    requirement: View<'_>,
    values: SelectorValues,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let values_path = path.child("values");
    let count = requirement.list("values").len();
    match requirement.str("operator") {
        "In" | "NotIn" if count == 0 => {
            errors
                .push(Error::required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    label_name(requirement.str("key"), &path.child("key"), errors);
    if values == SelectorValues::Unchecked {
        return;
    }
    for (index, value) in requirement.list("values").enumerate() {
        check(is_valid_label_value(value.text()), value.text(), &values_path.index(index), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::name_is_dns_subdomain;
    use serde_json::json;

    fn created(object: Value) -> String {
        let mut errors = ErrorList::new();
        object_meta(&object, true, name_is_dns_subdomain, &mut errors);
        errors.to_string()
    }

    #[test]
    fn metadata_of_a_new_object_is_checked_in_every_part() {
        assert_eq!(created(json!({"metadata": {"name": "a", "namespace": "b"}})), "");
        assert_eq!(
            created(json!({"metadata": {"namespace": "b"}})),
            "metadata.name: Required value: name or generateName is required"
        );
        assert_eq!(created(json!({"metadata": {"name": "a"}})), "metadata.namespace: Required value");
        let finalizer = json!({"metadata": {"name": "a", "namespace": "b", "finalizers": ["hold"]}});
        assert_eq!(
            created(finalizer),
            "metadata.finalizers[0]: Invalid value: \"hold\": name is neither a standard finalizer name nor is it fully qualified"
        );
        let big = json!({"metadata": {"name": "a", "namespace": "b", "annotations": {"k": "x".repeat(ANNOTATIONS_MAX)}}});
        assert_eq!(created(big), "metadata.annotations: Too long: may not be more than 262144 bytes");
        let owners = json!({"metadata": {"name": "a", "namespace": "b", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}});
        assert_eq!(created(owners), "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty");
    }

    #[test]
    fn an_update_keeps_identity_and_adds_no_finalizer_while_deleting() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "t", "finalizers": []}});
        let new =
            json!({"metadata": {"name": "b", "uid": "1", "deletionTimestamp": "t", "finalizers": ["x/y"]}});
        let mut errors = ErrorList::new();
        object_meta_update(&new, &old, &mut errors);
        assert_eq!(
            errors.to_string(),
            "[metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}, metadata.name: Invalid value: \"b\": field is immutable]"
        );
    }

    #[test]
    fn empty_and_absent_are_the_same() {
        assert!(same(Some(&json!({"a": [], "b": {}, "c": null})), Some(&json!({}))));
        assert!(!same(Some(&json!({"a": 0})), Some(&json!({}))));
        assert!(!same(Some(&json!([1])), Some(&json!([2]))));
    }
}

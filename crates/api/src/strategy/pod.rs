//! Pods: what is prepared and what is refused. The rules are `ValidatePodCreate` and its kin of upstream's
//! `pkg/apis/core/validation`, in the same order, so that messages come in the same order.

mod annotations;
mod container;
mod diff;
mod env;
mod handler;
mod internal;
mod mount;
mod placement;
mod projected;
mod requirements;
mod resize;
mod security;
mod spec;
mod status;
mod update;
mod volume;
mod warning;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::prepare::{self, keep, replace};
use super::resources::qos_class;
use crate::field::{ErrorList, Path};
use crate::kinds::{Kind, Object};
use crate::validate::view::View;

pub(super) use container::pod_only as containers_of_pod_only;
pub(super) use placement::{node_selector, taint_effect};
pub(super) use requirements::{container_resource_name, qualified_resource_name, quantity_of};
pub(super) use spec::{Owner, template, template_metadata};
pub(super) use update::SPEC;
pub(super) use volume::{driver_name, path_without_backsteps, shared_source};
pub(crate) use warning::of_pod as warnings;
pub(super) use warning::of_template as template_warnings;

/// A new Pod waits; its class of service is fixed now, and gates hold it back from the scheduler.
pub(crate) fn prepare_create(pod: &mut Object) {
    let spec = pod.get("spec").cloned().unwrap_or_default();
    placement::merge_match_label_keys(pod);
    annotations::fields_from_annotations(pod);
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(&spec)});
    if View::new(&spec).has_items("schedulingGates") {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "lastProbeTime": null, "lastTransitionTime": null,
            "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod.insert("status".to_owned(), status);
}

/// A Pod that is held back by gates is so from its creation on.
pub(crate) fn date_conditions(pod: &mut Object, old: Option<&Object>, now: &str) {
    let status = pod.get_mut("status").filter(|_| old.is_none());
    let conditions = status.and_then(|status| status.get_mut("conditions")).and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        condition["lastTransitionTime"] = now.into();
    }
}

pub(crate) fn prepare_update(resource: &Kind, subresource: Option<&str>, new: &mut Object, old: &Object) {
    match subresource {
        Some("ephemeralcontainers" | "resize") => prepare_part(subresource, new, old),
        _ => prepare::update(resource, subresource, new, old),
    }
}

/// Through `ephemeralcontainers` only these change, through `resize` only resources; all else stays.
fn prepare_part(subresource: Option<&str>, new: &mut Object, old: &Object) {
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    let wished = new.get("spec").cloned().unwrap_or_default();
    if let Some(fields) = spec.as_object_mut() {
        match subresource {
            Some("resize") => resize::take(fields, &wished),
            _ => replace(fields, "ephemeralContainers", wished.get("ephemeralContainers").cloned()),
        }
    }
    new.insert("spec".to_owned(), spec);
    keep(new, old, &["status"]);
    keep_metadata(new, old);
}

/// Who may only resize a Pod, or look into it, may not label it, or take a finalizer away.
fn keep_metadata(new: &mut Object, old: &Object) {
    let given = new.remove("metadata").unwrap_or_default();
    let mut metadata = old.get("metadata").cloned().unwrap_or_default();
    if let Some(fields) = metadata.as_object_mut() {
        for name in ["name", "namespace", "uid", "resourceVersion", "managedFields"] {
            replace(fields, name, given.get(name).cloned());
        }
    }
    new.insert("metadata".to_owned(), metadata);
}

pub(crate) fn validate_create(pod: View<'_>, errors: &mut ErrorList) {
    metadata_and_spec(pod, errors);
    let spec = pod.get("spec");
    if spec.has_items("ephemeralContainers") {
        errors.push(crate::field::Error::forbidden(
            &SPEC.child("ephemeralContainers"),
            "cannot be set on create",
        ));
    }
    if !spec.str("nodeName").is_empty() && spec.has_items("schedulingGates") {
        let words = "cannot be set until all schedulingGates have been cleared";
        errors.push(crate::field::Error::forbidden(&SPEC.child("nodeName"), words));
    }
    annotations::match_fields(pod.at(&["metadata", "annotations"]), spec, &SPEC, errors);
}

/// The part that creation and update share; the rules of `metadata` itself ran before.
fn metadata_and_spec(pod: View<'_>, errors: &mut ErrorList) {
    let metadata = Path::new("metadata");
    let spec = pod.get("spec");
    annotations::check(pod.at(&["metadata", "annotations"]), spec, &metadata.child("annotations"), errors);
    spec::validate(spec, Owner::Pod(pod.get("metadata")), &SPEC, errors);
    spec::pod_only(spec, errors);
    containers_of_pod_only(spec, errors);
}

pub(crate) fn validate_update(subresource: Option<&str>, new: &Value, old: &Value, errors: &mut ErrorList) {
    match subresource {
        Some("status") => status::validate(View::new(new), View::new(old), errors),
        Some("ephemeralcontainers") => update::ephemeral_containers(new, old, errors),
        Some("resize") => resize::validate(new, old, errors),
        _ => update::validate(new, old, errors),
    }
}

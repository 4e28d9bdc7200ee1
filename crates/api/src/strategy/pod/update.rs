//! What may change in a Pod that exists: images, a deadline, added tolerations, fewer gates.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{annotations, diff, internal, metadata_and_spec, placement};
use crate::field::{Error, ErrorList, Path, go_quote};
use crate::strategy::prepare::replace;
use crate::validate::inclusive_range;
use crate::validate::meta::same;
use crate::validate::view::View;

/// The path of a Pod's spec.
pub(in crate::strategy) const SPEC: Path<'static> = Path::new("spec");

const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn validate(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (view, before) = (View::new(new), View::new(old));
    if same(new.get("spec"), old.get("spec")) {
        annotations::update(view, before, &Path::new("metadata.annotations"), errors);
        return;
    }
    metadata_and_spec(view, errors);
    annotations::update(view, before, &Path::new("metadata.annotations"), errors);
    let (after, before) = (view.get("spec"), before.get("spec"));
    for list in ["containers", "initContainers"] {
        if !images(after, before, list, errors) {
            return;
        }
    }
    if !deadline(after, before, errors) {
        return;
    }
    only_added_tolerations(after, before, errors);
    only_deleted_gates(after, before, errors);
    nothing_else(after, before, errors);
}

/// Containers neither come nor go; says whether they can be compared further.
fn images(after: View<'_>, before: View<'_>, name: &str, errors: &mut ErrorList) -> bool {
    let list = SPEC.child(name);
    if after.list(name).len() != before.list(name).len() {
        errors.push(Error::forbidden(&list, "pod updates may not add or remove containers"));
        return false;
    }
    for (index, container) in after.list(name).enumerate() {
        let (at, image) = (list.index(index), container.str("image"));
        if image.is_empty() {
            errors.push(Error::required(&at.child("image"), ""));
        }
        if image.trim().len() != image.len() {
            let words = "must not have leading or trailing whitespace";
            errors.push(Error::invalid(&at.child("image"), image, words));
        }
    }
    true
}

/// A deadline may be set, or brought forward.
fn deadline(after: View<'_>, before: View<'_>, errors: &mut ErrorList) -> bool {
    let (name, path) = ("activeDeadlineSeconds", SPEC.child("activeDeadlineSeconds"));
    match (after.get(name).as_int(), before.get(name).as_int()) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            errors.push(Error::invalid(&path, now, inclusive_range(0, i64::from(i32::MAX))));
            false
        }
        (Some(now), Some(then)) if then < now => {
            errors.push(Error::invalid(&path, now, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(Error::invalid(
                &path,
                Value::Null,
                "must not update from a positive integer to nil value",
            ));
            true
        }
        _ => true,
    }
}

fn only_added_tolerations(after: View<'_>, before: View<'_>, errors: &mut ErrorList) {
    let path = SPEC.child("tolerations");
    // All but the seconds, which may change. Looked up: a Pod may have a great many.
    let fields =
        |one: View<'_>| ["key", "operator", "value", "effect"].map(|field| one.str(field).to_owned());
    let now: HashSet<[String; 4]> = after.list("tolerations").map(fields).collect();
    if !before.list("tolerations").all(|old| now.contains(&fields(old))) {
        let words = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(Error::forbidden(&path, words));
        return;
    }
    placement::tolerations(after, &path, errors);
}

fn only_deleted_gates(after: View<'_>, before: View<'_>, errors: &mut ErrorList) {
    let list = SPEC.child("schedulingGates");
    let known: HashSet<String> =
        before.list("schedulingGates").map(|old| old.str("name").to_owned()).collect();
    for (index, gate) in after.list("schedulingGates").enumerate() {
        let name = gate.str("name");
        if !known.contains(name) {
            let words = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(Error::forbidden(&list.index(index).child("name"), words));
        }
    }
}

/// After what may change has been set back, the specs must be equal; else upstream shows the difference.
fn nothing_else(after: View<'_>, before: View<'_>, errors: &mut ErrorList) {
    let mut munged = after.json();
    for list in ["containers", "initContainers"] {
        let containers = munged.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, old) in containers.zip(before.list(list)) {
            container["image"] = old.get("image").json();
        }
    }
    let Some(fields) = munged.as_object_mut() else { return };
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        replace(fields, name, before.get(name).value().cloned());
    }
    let grace = "terminationGracePeriodSeconds";
    if before.int(grace) < 0 && after.int(grace) == 1 {
        replace(fields, grace, before.get(grace).value().cloned());
    }
    if before.has_items("schedulingGates") {
        gated(after, before, errors);
        replace(fields, "nodeSelector", before.get("nodeSelector").value().cloned());
        restore_node_affinity(fields, before);
    }
    if !same(Some(&munged), before.value()) {
        let difference =
            diff::unified(&internal::text("PodSpec", before.json()), &internal::text("PodSpec", munged));
        errors.push(Error::forbidden(&SPEC, format!("{CHANGEABLE}\n{difference}")));
    }
}

fn restore_node_affinity(fields: &mut super::Object, before: View<'_>) {
    let old = before.at(&["affinity", "nodeAffinity"]).value().cloned();
    let affinity = fields.entry("affinity").or_insert_with(|| json!({}));
    if let Some(affinity) = affinity.as_object_mut() {
        replace(affinity, "nodeAffinity", old);
    }
}

/// A Pod that is held back by gates may still be narrowed to fewer nodes.
fn gated(after: View<'_>, before: View<'_>, errors: &mut ErrorList) {
    let kept = before
        .map("nodeSelector")
        .all(|(key, value)| after.get("nodeSelector").get(key).value() == value.value());
    if !kept {
        let words = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(Error::invalid(&SPEC.child("nodeSelector"), after.get("nodeSelector").json(), words));
    }
    let at = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let (new, old) = (after.at(&at), before.at(&at));
    let path =
        SPEC.child("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    let (count, now) = (old.list("nodeSelectorTerms").len(), new.list("nodeSelectorTerms").len());
    if count > 0 && count != now {
        let words = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let terms = internal::list("NodeSelectorTerm", new.get("nodeSelectorTerms").json());
        errors.push(Error::invalid(&path, terms, words));
        return;
    }
    for (index, (new, old)) in new.list("nodeSelectorTerms").zip(old.list("nodeSelectorTerms")).enumerate() {
        if !narrowed(new, old) {
            let words = "only additions are allowed (no mutations or deletions)";
            let term = internal::value("NodeSelectorTerm", new.json());
            errors.push(Error::invalid(&path.index(index), term, words));
        }
    }
}

fn narrowed(new: View<'_>, old: View<'_>) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    if lists.iter().all(|list| !old.has_items(list)) && lists.iter().any(|list| new.has_items(list)) {
        return false;
    }
    lists.iter().all(|list| {
        new.list(list).len() >= old.list(list).len()
            && old.list(list).zip(new.list(list)).all(|(a, b)| same(a.value(), b.value()))
    })
}

/// Debug containers can be added, and then neither changed nor removed.
pub(super) fn ephemeral_containers(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (view, before) = (View::new(new), View::new(old));
    if before.at(&["metadata", "annotations", annotations::MIRROR]).is_set() {
        *errors = ErrorList::new();
        errors.push(Error::forbidden(&Path::new(""), "static pods do not support ephemeral containers"));
        return;
    }
    metadata_and_spec(view, errors);
    annotations::update(view, before, &Path::new("metadata.annotations"), errors);
    let path = SPEC.child("ephemeralContainers");
    let after = view.get("spec");
    for container in before.get("spec").list("ephemeralContainers") {
        let name = go_quote(container.str("name"));
        let now = after.list("ephemeralContainers").find(|new| new.str("name") == container.str("name"));
        match now {
            None => {
                let words = format!("existing ephemeral containers {name} may not be removed\n");
                errors.push(Error::forbidden(&path, words));
            }
            Some(now) if !same(now.value(), container.value()) => {
                let text = |one: View<'_>| internal::text("EphemeralContainer", one.json());
                let difference = diff::unified(&text(container), &text(now));
                let words = format!("existing ephemeral containers {name} may not be changed\n{difference}");
                errors.push(Error::forbidden(&path, words));
            }
            Some(_) => {}
        }
    }
}

//! Resizing a Pod in place: cpu and memory of its containers, and nothing else.

use serde_json::{Value, json};

use super::{Object, annotations, metadata_and_spec};
use crate::field::{Error, ErrorList, Path};
use crate::strategy::prepare::replace;
use crate::strategy::resources::{is_sidecar, qos_class};
use crate::validate::meta::same;
use crate::validate::view::View;

use super::update::SPEC;

/// Takes from `wished` what the `resize` subresource may write: resources and resize policies.
pub(super) fn take(spec: &mut Object, wished: &Value) {
    replace(spec, "resources", wished.get("resources").cloned());
    for list in ["containers", "initContainers"] {
        let wishes: Vec<Value> = wished.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        if containers.len() != wishes.len() {
            // Kept as wished, so that validation refuses it by name.
            *containers = wishes;
            continue;
        }
        for (container, wish) in containers.iter_mut().filter_map(Value::as_object_mut).zip(&wishes) {
            for name in ["name", "resources", "resizePolicy"] {
                replace(container, name, wish.get(name).cloned());
            }
        }
    }
}

pub(super) fn validate(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (view, before) = (View::new(new), View::new(old));
    let mut refuse = |words: &str| {
        *errors = ErrorList::new();
        errors.push(Error::forbidden(&Path::new(""), words));
    };
    if before.at(&["metadata", "annotations", annotations::MIRROR]).is_set() {
        return refuse("static pods cannot be resized");
    }
    if before.at(&["spec", "os", "name"]).text() == "windows" {
        return refuse("windows pods cannot be resized");
    }
    metadata_and_spec(view, errors);
    let spec = new.get("spec").cloned().unwrap_or_default();
    if before.get("status").str("qosClass") != qos_class(&spec) {
        let words = "Pod QOS Class may not change as a result of resizing";
        errors.push(Error::invalid(&SPEC, view.get("status").str("qosClass"), words));
    }
    let running =
        before.get("status").list("containerStatuses").find(|one| one.at(&["state", "running"]).is_set());
    if running.is_some_and(|one| !one.get("resources").is_set()) {
        errors.push(Error::forbidden(&SPEC, "Pod running on node without support for resize"));
    }
    let (after, before) = (view.get("spec"), before.get("spec"));
    pod_level(after, before, errors);
    if same_order(after, before, errors) {
        containers(after, before, errors);
    }
}

fn pod_level(after: View<'_>, before: View<'_>, errors: &mut ErrorList) {
    let (new, old, path) = (after.get("resources"), before.get("resources"), SPEC.child("resources"));
    if old.is_set() && !new.is_set() {
        errors.push(Error::forbidden(&path, "pod-level resources cannot be removed"));
        return;
    }
    for list in ["requests", "limits"] {
        if removed(new, old, list) {
            let words = format!("pod-level resource {list} cannot be removed");
            errors.push(Error::forbidden(&path.child(list), words));
        }
    }
    if !same(Some(&without_cpu_and_memory(new)), Some(&without_cpu_and_memory(old))) {
        errors.push(Error::forbidden(&SPEC, "only cpu and memory resources are mutable at pod-level"));
    }
}

fn same_order(after: View<'_>, before: View<'_>, errors: &mut ErrorList) -> bool {
    let found = errors.len();
    for name in ["containers", "initContainers"] {
        let list = SPEC.child(name);
        if after.list(name).len() != before.list(name).len() {
            errors.push(Error::forbidden(&list, format!("{name} may not be added or removed on resize")));
            continue;
        }
        for (index, (new, old)) in after.list(name).zip(before.list(name)).enumerate() {
            if new.str("name") != old.str("name") {
                let words = format!("{name} may not be renamed or reordered on resize");
                errors.push(Error::forbidden(&list.index(index).child("name"), words));
            }
        }
    }
    errors.len() == found
}

fn containers(after: View<'_>, before: View<'_>, errors: &mut ErrorList) {
    for name in ["initContainers", "containers"] {
        let list = SPEC.child(name);
        for (index, (new, old)) in after.list(name).zip(before.list(name)).enumerate() {
            let at = list.index(index);
            let at = at.child("resources");
            for part in ["requests", "limits"].into_iter().filter(|_| name == "containers" || is_sidecar(old))
            {
                if removed(new.get("resources"), old.get("resources"), part) {
                    errors.push(Error::forbidden(
                        &at.child(part),
                        format!("resource {part} cannot be removed"),
                    ));
                }
            }
        }
    }
    for (new, old) in after.list("containers").zip(before.list("containers")) {
        if !same(Some(&fixed_part(new)), Some(&fixed_part(old))) {
            errors.push(Error::forbidden(&SPEC, "only cpu and memory resources are mutable"));
        }
    }
    for (new, old) in after.list("initContainers").zip(before.list("initContainers")) {
        let (equal, words) = if is_sidecar(new) {
            let words = "only cpu and memory resources for sidecar containers are mutable";
            (same(Some(&fixed_part(new)), Some(&fixed_part(old))), words)
        } else {
            (same(new.value(), old.value()), "resources for non-sidecar init containers are immutable")
        };
        if !equal {
            errors.push(Error::forbidden(&SPEC, words));
        }
    }
}

/// A container without what a resize may change.
fn fixed_part(container: View<'_>) -> Value {
    let mut fixed = container.json();
    fixed["resources"] = without_cpu_and_memory(container.get("resources"));
    fixed
}

fn without_cpu_and_memory(resources: View<'_>) -> Value {
    let mut rest = resources.value().cloned().unwrap_or_else(|| json!({}));
    for list in ["requests", "limits"] {
        if let Some(amounts) = rest.get_mut(list).and_then(Value::as_object_mut) {
            amounts.remove("cpu");
            amounts.remove("memory");
        }
    }
    rest
}

fn removed(new: View<'_>, old: View<'_>, list: &str) -> bool {
    old.map(list).any(|(name, _)| !new.get(list).get(name).is_set())
}

//! What of its template a Job may still change while it is suspended and nothing of it runs: where its Pods are
//! placed and what they use. Queues of Jobs decide that when they let one go.

use serde_json::{Map, Value, json};

use super::super::prepare::replace;
use crate::validate::view::View;

type Object = Map<String, Value>;

/// The old template, with what may change as the new one has it. What differs from the new one then may not.
pub(super) fn before(new: View<'_>, old: View<'_>) -> Value {
    let mut template = old.at(&["spec", "template"]).json();
    if !is_open(old) {
        return template;
    }
    let Some(fields) = template.as_object_mut() else { return template };
    if let Some(metadata) = child(fields, "metadata") {
        for name in ["annotations", "labels"] {
            set(metadata, name, new.get("metadata").get(name));
        }
    }
    let Some(pod) = child(fields, "spec") else { return template };
    let wanted = new.get("spec");
    for name in ["nodeSelector", "tolerations", "schedulingGates"] {
        set(pod, name, wanted.get(name));
    }
    if let Some(affinity) = child(pod, "affinity") {
        set(affinity, "nodeAffinity", wanted.at(&["affinity", "nodeAffinity"]));
    }
    for name in ["containers", "initContainers"] {
        let containers = pod.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, wanted) in containers.filter_map(Value::as_object_mut).zip(wanted.list(name)) {
            set(container, "resources", wanted.get("resources"));
        }
    }
    template
}

fn is_open(job: View<'_>) -> bool {
    let status = job.get("status");
    let is_suspended = status
        .list("conditions")
        .any(|condition| condition.str("type") == "Suspended" && condition.str("status") == "True");
    job.get("spec").flag("suspend")
        && status.int("active") == 0
        && (is_suspended || !status.get("startTime").is_set())
}

fn child<'a>(object: &'a mut Object, name: &str) -> Option<&'a mut Object> {
    let value = object.entry(name).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn set(object: &mut Object, name: &str, value: View<'_>) {
    replace(object, name, value.value().cloned());
}

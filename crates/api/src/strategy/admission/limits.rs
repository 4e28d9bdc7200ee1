//! LimitRanges: what containers get when they say nothing, and what they may ask for.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::quantity::Quantity;
use crate::strategy::resources::{Amounts, amounts, pod_limits, pod_requests};
use crate::validate::view::View;

/// The items of one type in all ranges.
fn items<'a>(ranges: &'a [Arc<Value>], kind: &'a str) -> impl Iterator<Item = View<'a>> {
    ranges
        .iter()
        .flat_map(|range| View::new(range).get("spec").list("limits"))
        .filter(move |i| i.str("type") == kind)
}

/// Sets the requests and limits that the ranges give to containers without their own.
pub fn complete(pod: &mut Value, ranges: &[Arc<Value>]) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for item in items(ranges, "Container") {
        for (name, amount) in amounts(item, "defaultRequest") {
            requests.entry(name).or_insert(amount);
        }
        for (name, amount) in amounts(item, "default") {
            limits.entry(name).or_insert(amount);
        }
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            for (part, defaults, word) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let set = fill(container, part, defaults);
                if !set.is_empty() {
                    let name = container["name"].as_str().unwrap_or("");
                    notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = note.into();
    }
}

/// Sets the amounts that are missing; answers with their names.
fn fill(container: &mut Value, part: &str, defaults: &Amounts) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        let list = &mut container["resources"];
        if list.is_null() {
            *list = json!({});
        }
        if list[part].get(name).is_none() {
            list[part][name] = amount.to_string().into();
            set.push(name.clone());
        }
    }
    set
}

/// One thing that is measured: a container, the Pod, or a claim.
struct Measured<'a> {
    kind: &'a str,
    requests: Amounts,
    limits: Amounts,
}

/// Holds the Pod and its containers against the ranges of its namespace.
pub fn check_pod(pod: &Value, ranges: &[Arc<Value>]) -> Result<(), String> {
    let spec = pod.get("spec").cloned().unwrap_or_default();
    let view = View::new(&spec);
    let mut wrong = Vec::new();
    for item in items(ranges, "Container") {
        for container in view.list("containers").chain(view.list("initContainers")) {
            let resources = container.get("resources");
            let (requests, limits) = (amounts(resources, "requests"), amounts(resources, "limits"));
            measure(item, &Measured { kind: "Container", requests, limits }, &mut wrong);
        }
    }
    for item in items(ranges, "Pod") {
        let measured = Measured { kind: "Pod", requests: pod_requests(&spec), limits: pod_limits(&spec) };
        measure(item, &measured, &mut wrong);
    }
    all(wrong)
}

/// Holds a PersistentVolumeClaim against the ranges of its namespace.
pub fn check_claim(claim: &Value, ranges: &[Arc<Value>]) -> Result<(), String> {
    let requests = amounts(View::new(claim).at(&["spec", "resources"]), "requests");
    let mut wrong = Vec::new();
    for item in items(ranges, "PersistentVolumeClaim") {
        let kind = "PersistentVolumeClaim";
        for (name, bound) in amounts(item, "min") {
            bounded(Ordering::Less, &name, &bound, requests.get(&name), (kind, "request"), &mut wrong);
        }
        for (name, bound) in amounts(item, "max") {
            bounded(Ordering::Greater, &name, &bound, requests.get(&name), (kind, "request"), &mut wrong);
        }
    }
    all(wrong)
}

fn all(wrong: Vec<String>) -> Result<(), String> {
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn measure(item: View<'_>, measured: &Measured<'_>, wrong: &mut Vec<String>) {
    let Measured { kind, requests, limits } = measured;
    for (name, bound) in amounts(item, "min") {
        bounded(Ordering::Less, &name, &bound, requests.get(&name), (kind, "request"), wrong);
        if let Some(limit) = limits.get(&name).filter(|limit| **limit < bound && requests.contains_key(&name))
        {
            wrong.push(format!("minimum {name} usage per {kind} is {bound}, but limit is {limit}"));
        }
    }
    for (name, bound) in amounts(item, "max") {
        let before = wrong.len();
        bounded(Ordering::Greater, &name, &bound, limits.get(&name), (kind, "limit"), wrong);
        if let Some(request) =
            requests.get(&name).filter(|request| **request > bound && wrong.len() == before)
        {
            wrong.push(format!("maximum {name} usage per {kind} is {bound}, but request is {request}"));
        }
    }
    for (name, bound) in amounts(item, "maxLimitRequestRatio") {
        ratio(&name, &bound, measured, wrong);
    }
}

/// A bound that must be named and not lie `beyond` it.
fn bounded(
    beyond: Ordering,
    name: &str,
    bound: &Quantity,
    given: Option<&Quantity>,
    (kind, what): (&str, &str),
    wrong: &mut Vec<String>,
) {
    let side = if beyond == Ordering::Less { "minimum" } else { "maximum" };
    match given {
        None => wrong.push(format!("{side} {name} usage per {kind} is {bound}.  No {what} is specified")),
        Some(given) if given.cmp(bound) == beyond => {
            wrong.push(format!("{side} {name} usage per {kind} is {bound}, but {what} is {given}"));
        }
        Some(_) => {}
    }
}

fn ratio(name: &str, bound: &Quantity, measured: &Measured<'_>, wrong: &mut Vec<String>) {
    let kind = measured.kind;
    let positive = |list: &Amounts| list.get(name).filter(|amount| !amount.is_zero()).map(Quantity::as_f64);
    let rule = format!("{name} max limit to request ratio per {kind} is {bound}");
    match (positive(&measured.requests), positive(&measured.limits)) {
        (None, _) => wrong.push(format!("{rule}, but no request is specified or request is 0")),
        (_, None) => wrong.push(format!("{rule}, but no limit is specified or limit is 0")),
        (Some(request), Some(limit)) if limit / request > bound.as_f64() => {
            wrong.push(format!("{rule}, but provided ratio is {:.6}", limit / request));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Arc<Value> {
        let range = json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "500m", "memory": "64Mi"},
            "defaultRequest": {"cpu": "50m", "memory": "32Mi"}, "max": {"memory": "128Mi"}}]}});
        range.into()
    }

    #[test]
    fn containers_without_amounts_get_those_of_the_range() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}});
        complete(&mut pod, &[range()]);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "50m", "memory": "32Mi"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
            "LimitRanger plugin set: cpu, memory request for container c; memory limit for container c"
        );
    }

    #[test]
    fn a_container_above_the_maximum_is_refused_as_recorded() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "256Mi"}, "requests": {"memory": "256Mi"}}}]}});
        assert_eq!(
            check_pod(&pod, &[range()]),
            Err("maximum memory usage per Container is 128Mi, but limit is 256Mi".to_owned())
        );
    }

    #[test]
    fn a_claim_stays_within_its_range() {
        let range =
            json!({"spec": {"limits": [{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}}]}});
        let claim = json!({"spec": {"resources": {"requests": {"storage": "1Mi"}}}});
        assert_eq!(
            check_claim(&claim, &[range.into()]),
            Err("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi".to_owned())
        );
    }
}

//! Kinds that are served in a version they are not kept in.
//!
//! Most versions of a kind differ in nothing but `apiVersion`. Events of
//! `events.k8s.io` have other names for the same fields, and autoscaling/v1 keeps in
//! annotations what v2 has fields for.

use serde_json::{Value, json};

use crate::kinds::{Kind, Object};

/// (core/v1, events.k8s.io/v1) names of the same field of an Event.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// From the stored version to the one of `resource`.
pub fn to_served(resource: &Kind, object: Value) -> Value {
    change(resource, resource.api_version(), resource.rules.serve, object)
}

/// From the version of `resource` to the stored one.
pub fn to_stored(resource: &Kind, object: Value) -> Value {
    change(resource, resource.storage().api_version(), resource.rules.store, object)
}

/// As [`to_stored`], for a changed object: what the version of `resource` cannot say stays as it was.
pub fn to_stored_over(resource: &Kind, object: Value, old: &Value) -> Value {
    let mut object = to_stored(resource, object);
    if let Some(fields) = object.as_object_mut() {
        (resource.rules.keep_unsaid)(fields, old);
    }
    object
}

fn change(resource: &Kind, version: &str, rule: fn(&mut Object), mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut().filter(|_| !resource.is_storage()) {
        fields.insert("apiVersion".into(), version.into());
        rule(fields);
    }
    object
}

/// The core Event under the names of `events.k8s.io`.
pub(crate) fn event_to_new_names(event: &mut Object) {
    rename(event, EVENT_FIELDS, true);
}

/// The Event of `events.k8s.io` under the names of core.
pub(crate) fn event_to_core_names(event: &mut Object) {
    rename(event, EVENT_FIELDS, false);
}

/// What v1 has no field for: behavior, and metrics other than the CPU's.
pub(crate) fn keep_of_autoscaler(autoscaler: &mut Object, old: &Value) {
    let (old, Some(spec)) = (&old["spec"], autoscaler.get_mut("spec").and_then(Value::as_object_mut)) else {
        return;
    };
    if let Some(behavior) = old.get("behavior") {
        spec.entry("behavior").or_insert_with(|| behavior.clone());
    }
    let others = old["metrics"].as_array().into_iter().flatten().filter(|metric| !is_cpu_utilization(metric));
    let others: Vec<Value> = others.cloned().collect();
    if !others.is_empty()
        && let Some(metrics) =
            spec.entry("metrics").or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
    {
        metrics.extend(others);
    }
}

fn rename(fields: &mut Object, names: &[(&str, &str)], serving: bool) {
    for (stored, served) in names {
        let (from, to) = if serving { (stored, served) } else { (served, stored) };
        if let Some(value) = fields.remove(*from) {
            fields.insert((*to).into(), value);
        }
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["type"] == "Utilization"
}

/// v2 to v1: the CPU utilisation has a field of its own; v1 shows no other metric.
pub(crate) fn autoscaler_to_v1(fields: &mut Object) {
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.remove("metrics").unwrap_or_default();
        spec.remove("behavior");
        let cpu =
            metrics.as_array().and_then(|metrics| metrics.iter().find(|metric| is_cpu_utilization(metric)));
        if let Some(cpu) = cpu {
            let target = cpu["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".into(), target);
        }
    }
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("conditions");
        status.entry("currentReplicas").or_insert(0.into());
        let metrics = status.remove("currentMetrics").unwrap_or_default();
        let current = metrics.as_array().into_iter().flatten().find_map(|metric| {
            let current = &metric["resource"]["current"]["averageUtilization"];
            (metric["resource"]["name"] == "cpu" && current.is_number()).then(|| current.clone())
        });
        if let Some(current) = current {
            status.insert("currentCPUUtilizationPercentage".into(), current);
        }
    }
}

/// v1 to v2: what is asked of the CPU is one metric among others.
pub(crate) fn autoscaler_to_v2(fields: &mut Object) {
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(target) = spec.remove("targetCPUUtilizationPercentage") {
        let target = json!({ "type": "Utilization", "averageUtilization": target });
        let metric = json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } });
        spec.insert("metrics".into(), vec![metric].into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_either_group_is_the_same_event() {
        let resource = crate::kinds::find("events.k8s.io", "v1", "events").expect("in the table");
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "hello",
            "regarding": {"kind": "Pod"}, "reportingController": "me", "deprecatedCount": 3});
        let stored = to_stored(resource, event.clone());
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event", "message": "hello",
            "involvedObject": {"kind": "Pod"}, "reportingComponent": "me", "count": 3})
        );
        assert_eq!(to_served(resource, stored), event);
    }

    #[test]
    fn an_autoscaler_of_v1_keeps_its_target() {
        let resource =
            crate::kinds::find("autoscaling", "v1", "horizontalpodautoscalers").expect("in the table");
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let v2 = to_stored(resource, v1.clone());
        assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(to_served(resource, v2), v1);
    }

    #[test]
    fn what_an_autoscaler_of_v1_cannot_say_stays_when_it_is_changed() {
        let resource =
            crate::kinds::find("autoscaling", "v1", "horizontalpodautoscalers").expect("in the table");
        let memory =
            json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization"}}});
        let old = json!({"spec": {"maxReplicas": 3, "behavior": {"scaleDown": {}}, "metrics": [memory]}});
        let v1 = json!({"spec": {"maxReplicas": 4, "targetCPUUtilizationPercentage": 80}});
        let new = to_stored_over(resource, v1, &old);
        assert_eq!(
            (&new["spec"]["maxReplicas"], &new["spec"]["behavior"]),
            (&json!(4), &old["spec"]["behavior"])
        );
        assert_eq!(
            (&new["spec"]["metrics"][0]["resource"]["name"], &new["spec"]["metrics"][1]),
            (&json!("cpu"), &memory)
        );
    }
}

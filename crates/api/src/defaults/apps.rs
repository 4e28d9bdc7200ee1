//! Defaults of the workloads: groups apps, batch and autoscaling.

use serde_json::{Value, json};

use super::pod::pod_template;
use super::{Object, child, ensure, items, set, set_zero, text, volume};
use crate::strategy::apps::TEMPLATE_GENERATION;

pub(crate) fn deployment(deployment: &mut Object) {
    let spec = ensure(deployment, "spec");
    set(spec, "replicas", 1);
    let strategy = ensure(spec, "strategy");
    set_zero(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = ensure(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    pod_template(spec);
    ensure(deployment, "status");
}

pub(crate) fn replica_set(replica_set: &mut Object) {
    let spec = ensure(replica_set, "spec");
    set(spec, "replicas", 1);
    pod_template(spec);
    set(ensure(replica_set, "status"), "replicas", 0);
}

pub(crate) fn stateful_set(stateful_set: &mut Object) {
    let spec = ensure(stateful_set, "spec");
    set_zero(spec, "podManagementPolicy", "OrderedReady");
    let strategy = ensure(spec, "updateStrategy");
    set_zero(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        set(ensure(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
    set_zero(retention, "whenDeleted", "Retain");
    set_zero(retention, "whenScaled", "Retain");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "serviceName", "");
    pod_template(spec);
    items(spec, "volumeClaimTemplates").for_each(volume::claim_template);
    let status = ensure(stateful_set, "status");
    set(status, "replicas", 0);
    set(status, "availableReplicas", 0);
}

pub(crate) fn daemon_set(daemon_set: &mut Object) {
    // Upstream's conversion writes the count that is a field of its internal type; so who says nothing of it
    // owns it, with a zero that the strategy then counts up from.
    set(ensure(ensure(daemon_set, "metadata"), "annotations"), TEMPLATE_GENERATION, "0");
    let spec = ensure(daemon_set, "spec");
    let strategy = ensure(spec, "updateStrategy");
    set_zero(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = ensure(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    set(spec, "revisionHistoryLimit", 10);
    pod_template(spec);
    let status = ensure(daemon_set, "status");
    for name in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
        set(status, name, 0);
    }
}

pub(crate) fn job(job: &mut Object) {
    let spec = ensure(job, "spec");
    let absent = |spec: &Object, name: &str| spec.get(name).is_none_or(Value::is_null);
    // A Job with only parallelism set is a work queue: completions stay open.
    if absent(spec, "completions") && absent(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    let per_index = !absent(spec, "backoffLimitPerIndex");
    set(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let failures_only = !absent(spec, "podFailurePolicy");
    set(spec, "podReplacementPolicy", if failures_only { "Failed" } else { "TerminatingOrFailed" });
    pod_template(spec);
    failure_policy(spec);
    let labels =
        child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| m.get("labels").cloned());
    let metadata = ensure(job, "metadata");
    let unlabelled = metadata.get("labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if let Some(labels) =
        labels.filter(|labels| unlabelled && labels.as_object().is_some_and(|map| !map.is_empty()))
    {
        metadata.insert("labels".to_owned(), labels);
    }
    ensure(job, "status");
}

fn failure_policy(spec: &mut Object) {
    let Some(policy) = child(spec, "podFailurePolicy") else { return };
    for condition in items(policy, "rules").flat_map(|rule| items(rule, "onPodConditions")) {
        set_zero(condition, "status", "True");
    }
}

pub(crate) fn cron_job(cron_job: &mut Object) {
    let spec = ensure(cron_job, "spec");
    set_zero(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    let template = ensure(spec, "jobTemplate");
    ensure(template, "metadata");
    let job = ensure(template, "spec");
    pod_template(job);
    failure_policy(job);
    ensure(cron_job, "status");
}

pub(crate) fn autoscaler(autoscaler: &mut Object) {
    let version = text(autoscaler, "apiVersion").to_owned();
    let spec = ensure(autoscaler, "spec");
    set(spec, "minReplicas", 1);
    if version == "autoscaling/v2" && spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty)
    {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        spec.insert("metrics".to_owned(), cpu);
    }
    if let Some(behavior) = child(spec, "behavior") {
        scaling_rules(behavior);
    }
    let status = ensure(autoscaler, "status");
    set(status, "desiredReplicas", 0);
    if version == "autoscaling/v2" {
        // Shown also when there are none: its Go field has no `omitempty`.
        status.entry("currentMetrics").or_insert(Value::Null);
    }
    if version == "autoscaling/v1" {
        set(status, "currentReplicas", 0);
    }
}

/// A behaviour that says something of one direction says all of both (upstream's
/// SetDefaults_HorizontalPodAutoscalerBehavior). How long to wait before scaling down stays open: that is a
/// flag of the controller.
fn scaling_rules(behavior: &mut Object) {
    let is_said = |name: &str| behavior.get(name).is_some_and(|rules| !rules.is_null());
    if !is_said("scaleUp") && !is_said("scaleDown") {
        return;
    }
    let policy = |kind: &str, value: u8| json!({"type": kind, "value": value, "periodSeconds": 15});
    let up = ensure(behavior, "scaleUp");
    set(up, "stabilizationWindowSeconds", 0);
    set(up, "selectPolicy", "Max");
    set(up, "policies", json!([policy("Pods", 4), policy("Percent", 100)]));
    let down = ensure(behavior, "scaleDown");
    set(down, "selectPolicy", "Max");
    set(down, "policies", json!([policy("Percent", 100)]));
}

#[cfg(test)]
mod tests {
    use super::super::tests::defaulted;
    use super::*;

    #[test]
    fn a_behaviour_that_says_something_of_one_direction_gets_the_rest_of_both() {
        let of = |behavior: Value| {
            let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "spec": {"behavior": behavior}});
            defaulted(object)["spec"]["behavior"].clone()
        };
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        let up = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [pods, percent]});
        let given = json!({"scaleDown": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min"}});
        let down = json!({"stabilizationWindowSeconds": 60, "selectPolicy": "Min", "policies": [percent]});
        assert_eq!(of(given), json!({"scaleUp": up, "scaleDown": down}));
        let down = json!({"selectPolicy": "Max", "policies": [percent]});
        assert_eq!(of(json!({"scaleUp": {}})), json!({"scaleUp": up, "scaleDown": down}));
        assert_eq!(of(json!({})), json!({}));
    }

    #[test]
    fn workloads_get_their_strategies_and_limits() {
        let deployment = defaulted(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}}));
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(deployment["spec"]["progressDeadlineSeconds"], 600);
        assert_eq!(deployment["spec"]["template"]["metadata"], json!({}));
        // Only a real Pod gets this one.
        assert_eq!(deployment["spec"]["template"]["spec"]["enableServiceLinks"], Value::Null);
        let recreate = defaulted(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"strategy": {"type": "Recreate"}}}),
        );
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
        let daemon_set = defaulted(json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {}}));
        assert_eq!(
            daemon_set["spec"]["updateStrategy"]["rollingUpdate"],
            json!({"maxUnavailable": 1, "maxSurge": 0})
        );
    }

    #[test]
    fn who_creates_a_daemon_set_owns_the_count_of_its_templates() {
        let daemon_set = defaulted(json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {}}));
        assert_eq!(daemon_set["metadata"]["annotations"], json!({TEMPLATE_GENERATION: "0"}));
    }

    #[test]
    fn a_job_is_one_pod_unless_it_says_otherwise() {
        let job = defaulted(
            json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        );
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["parallelism"], 1);
        assert_eq!(job["spec"]["backoffLimit"], 6);
        assert_eq!(job["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
        assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
        let queue = defaulted(json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"parallelism": 3}}));
        assert_eq!(queue["spec"]["completions"], Value::Null);
    }
}

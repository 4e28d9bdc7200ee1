//! Which Pods go first when there are too many: upstream's ActivePodsWithRanks.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::conditions::ready_since;

/// What a user thinks a Pod is worth; the cheapest go first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` Pods that are missed least. `beside`: Pods of the same workload by node.
pub(super) fn first_to_go(
    pods: &[Arc<Pod>],
    beside: &HashMap<String, usize>,
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut sorted = pods.to_vec();
    if count < sorted.len() {
        sorted.sort_by(|one, other| order(one, other, beside, now));
        sorted.truncate(count);
    }
    sorted
}

/// Less is gone sooner: without a node, not yet running, not ready, cheap, on a crowded node, ready for
/// the shorter time, restarted more often, made later.
fn order(one: &Pod, other: &Pod, beside: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let by = |value: fn(&Pod) -> i64| value(one).cmp(&value(other));
    let crowd = |pod: &Pod| node(pod).and_then(|node| beside.get(node)).copied().unwrap_or(0);
    by(|pod| node(pod).is_some().into())
        .then_with(|| by(phase))
        .then_with(|| by(|pod| ready_since(pod).is_some().into()))
        .then_with(|| by(cost))
        .then_with(|| Reverse(crowd(one)).cmp(&Reverse(crowd(other))))
        .then_with(|| younger(ready_since(one), ready_since(other), now))
        .then_with(|| restarts(other).cmp(&restarts(one)))
        .then_with(|| younger(created(one), created(other), now))
        .then_with(|| one.metadata.uid.cmp(&other.metadata.uid))
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

fn phase(pod: &Pod) -> i64 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Pending") | None => 0,
        Some("Unknown") => 1,
        _ => 2,
    }
}

fn cost(pod: &Pod) -> i64 {
    let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(COST));
    cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0).into()
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Sidecars count when the containers do not differ.
fn restarts(pod: &Pod) -> (i32, i32) {
    let status = pod.status.as_ref();
    let most = |statuses: Option<&Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        statuses.into_iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
    };
    (
        most(status.and_then(|status| status.container_statuses.as_ref())),
        most(status.and_then(|status| status.init_container_statuses.as_ref())),
    )
}

/// Ages are compared by their magnitude: of Pods of nearly the same age any may go, so that the choice
/// does not always fall on the newest zone or node.
fn younger(one: Option<Timestamp>, other: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Option<Timestamp>| {
        let age = time.map_or(i128::MAX, |time| now.duration_since(time).as_nanos());
        if age > 0 { i64::from(age.ilog2()) } else { -1 }
    };
    magnitude(one).cmp(&magnitude(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A ready Pod on a node, changed by `change`.
    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 1},
            ], "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        for (pointer, value) in change.as_object().unwrap() {
            *pod.pointer_mut(pointer).unwrap() = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn each_rule_decides_where_those_before_it_do_not() {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let beside = HashMap::from([("n".to_owned(), 1), ("crowded".to_owned(), 2)]);
        let cheap = json!({"name": "a", "uid": "a", "annotations": {COST: "-5"}});
        for (what, change) in [
            ("without a node", json!({"/spec/nodeName": ""})),
            ("pending", json!({"/status/phase": "Pending"})),
            ("unknown", json!({"/status/phase": "Unknown"})),
            ("not ready", json!({"/status/conditions/0/status": "False"})),
            ("cheap", json!({"/metadata": cheap})),
            ("crowded", json!({"/spec/nodeName": "crowded"})),
            ("ready lately", json!({"/status/conditions/0/lastTransitionTime": "2026-01-01T23:59:59Z"})),
            ("restarted", json!({"/status/containerStatuses/0/restartCount": 7})),
            ("young", json!({"/metadata/creationTimestamp": "2026-01-01T23:59:00Z"})),
        ] {
            let (first, second) = (pod("z", change), pod("b", json!({})));
            let going = first_to_go(&[second, first.clone()], &beside, 1, now);
            assert_eq!(going, [first], "{what}");
        }
        // Nearly the same age: the uid decides, whoever is younger.
        let elder = pod("a", json!({}));
        let younger = pod("b", json!({"/metadata/creationTimestamp": "2026-01-01T00:00:09Z"}));
        assert_eq!(first_to_go(&[younger, elder.clone()], &beside, 1, now), [elder]);
    }
}

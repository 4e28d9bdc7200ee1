//! Which Pods have to go when a critical one was bound to a node without room for it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use runtime::QosClass;

use super::{allocatable, amount, number};
use crate::pod::qos;
use crate::pod::spec::is_critical;
use crate::pod::spec::spec;

/// What is missing, by resource; of processors in thousandths.
type Missing = BTreeMap<String, i64>;

/// The Pods of lower rank that have to go, as few and of as low a class as will do. `None`: all of them would
/// not be enough. Upstream's choice: of each class those whose requests come nearest to what is missing.
pub fn victims<'a>(pod: &Pod, node: &Node, others: &[&'a Pod]) -> Option<Vec<&'a Pod>> {
    let missing = missing(pod, node, others);
    let mut classes: [Vec<&'a Pod>; 3] = Default::default();
    for other in others.iter().filter(|other| may_preempt(pod, other)) {
        classes[rank(other)].push(other);
    }
    let [lowest, middle, highest] = &classes;
    let all: Vec<&Pod> = classes.iter().flatten().copied().collect();
    if !less(&missing, &all).is_empty() {
        return None;
    }
    // What the lower classes can free need not come from the higher.
    let lower: Vec<&Pod> = lowest.iter().chain(middle).copied().collect();
    let mut chosen = nearest(highest, less(&missing, &lower));
    let with_lowest: Vec<&Pod> = lowest.iter().chain(&chosen).copied().collect();
    let of_middle = nearest(middle, less(&missing, &with_lowest));
    chosen.extend(of_middle);
    let of_lowest = nearest(lowest, less(&missing, &chosen));
    chosen.extend(of_lowest);
    Some(chosen)
}

fn may_preempt(pod: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| spec(pod).priority.unwrap_or_default();
    (is_critical(pod) && !is_critical(other)) || priority(pod) > priority(other)
}

fn rank(pod: &Pod) -> usize {
    match qos::class(pod) {
        QosClass::BestEffort => 0,
        QosClass::Burstable => 1,
        QosClass::Guaranteed => 2,
    }
}

fn missing(pod: &Pod, node: &Node, others: &[&Pod]) -> Missing {
    let Some(allocatable) = allocatable(node) else { return Missing::new() };
    let mut wanted: Missing = BTreeMap::new();
    for (name, request) in qos::requests(spec(pod)) {
        wanted.insert(name.clone(), number(&name, &amount(Some(&request))));
    }
    wanted.insert("pods".into(), 1);
    wanted.retain(|name, wanted| {
        let used: i64 = others.iter().map(|other| frees(other, name)).sum();
        let free = number(name, &amount(allocatable.get(name))) - used;
        let asked = *wanted > 0;
        *wanted -= free;
        asked && *wanted > 0
    });
    wanted
}

/// What is free of a resource when the Pod has gone.
fn frees(pod: &Pod, name: &str) -> i64 {
    match name {
        "pods" => 1,
        _ => number(name, &amount(qos::requests(spec(pod)).get(name))),
    }
}

/// What is still missing when these have gone.
fn less(missing: &Missing, gone: &[&Pod]) -> Missing {
    let left = missing
        .iter()
        .map(|(name, wanted)| (name.clone(), wanted - gone.iter().map(|pod| frees(pod, name)).sum::<i64>()));
    left.filter(|(_, left)| *left > 0).collect()
}

/// Of these the next to go is the one that leaves least missing, the smallest where several do.
fn nearest<'a>(of: &[&'a Pod], mut missing: Missing) -> Vec<&'a Pod> {
    let (mut left, mut chosen) = (of.to_vec(), Vec::new());
    while !missing.is_empty() && !left.is_empty() {
        let size = |pod: &Pod| missing.keys().map(|name| frees(pod, name)).sum::<i64>();
        let best = (0..left.len()).min_by(|a, b| {
            let by_distance = distance(&missing, left[*a]).total_cmp(&distance(&missing, left[*b]));
            by_distance.then_with(|| size(left[*a]).cmp(&size(left[*b])))
        });
        let Some(best) = best else { break };
        let pod = left.remove(best);
        missing = less(&missing, &[pod]);
        chosen.push(pod);
    }
    chosen
}

/// The square of what would be missing, as a part of what is.
fn distance(missing: &Missing, pod: &Pod) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "only compared")]
    let part = |name: &String, wanted: i64| {
        let left = (wanted - frees(pod, name)).max(0) as f64 / wanted as f64;
        left * left
    };
    missing.iter().map(|(name, wanted)| part(name, *wanted)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i32, cpu: &str, guaranteed: bool) -> Pod {
        let amounts = json!({"cpu": cpu, "memory": "10Mi"});
        let resources = match (cpu, guaranteed) {
            ("0", _) => json!({}),
            (_, true) => json!({"requests": amounts, "limits": amounts}),
            (_, false) => json!({"requests": amounts}),
        };
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn chosen(wants: &str, others: &[Pod]) -> Option<Vec<String>> {
        let node = json!({"status": {"allocatable": {"cpu": "4", "memory": "1Gi", "pods": "5"}}});
        let node: Node = serde_json::from_value(node).unwrap();
        let others: Vec<&Pod> = others.iter().collect();
        let found = victims(&pod("critical", 2_000_000_000, wants, true), &node, &others)?;
        Some(found.iter().filter_map(|pod| pod.metadata.name.clone()).collect())
    }

    #[test]
    fn the_lower_class_goes_and_of_it_who_frees_just_enough() {
        let others = [
            pod("guaranteed", 0, "1", true),
            pod("large", 0, "1500m", false),
            pod("small", 0, "500m", false),
            pod("middle", 0, "1", false),
        ];
        assert_eq!(chosen("1", &others).unwrap(), ["middle"]);
        assert_eq!(chosen("400m", &others).unwrap(), ["small"]);
        assert_eq!(chosen("2", &others).unwrap(), ["large", "small"]);
        assert_eq!(chosen("3500m", &others).unwrap(), ["guaranteed", "large", "middle"]);
        assert_eq!(chosen("5", &others), None, "the node is not so large");
    }

    #[test]
    fn critical_pods_stay_and_a_place_is_taken_from_who_has_asked_for_nothing() {
        let others = ["a", "b", "c", "d"].map(|name| pod(name, 2_000_000_000, "1", true));
        assert_eq!(chosen("1", &others), None);
        let mut places = vec![pod("e", 0, "0", false)];
        places.extend(["a", "b", "c", "d"].map(|name| pod(name, 2_000_000_000, "100m", true)));
        assert_eq!(chosen("1", &places).unwrap(), ["e"]);
        assert_eq!(chosen("100m", &[]).unwrap(), [""; 0], "there is room");
    }
}

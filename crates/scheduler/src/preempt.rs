//! Which Pods of lower priority would have to go for a Pod to fit.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::filter::check;
use crate::place::histogram;
use crate::{Failure, NodeInfo, PodInfo, Volumes};

/// What preemption can do.
#[derive(Debug)]
pub enum Preemption {
    /// These Pods go, and the node is kept for the Pod.
    Evict {
        /// The index of the node.
        node: usize,
        /// The Pods that go.
        victims: Vec<Arc<PodInfo>>,
    },
    /// Nothing: the rest of the failure's message.
    Impossible(String),
}

/// Looks for the node where preemption does the least harm.
pub fn preempt(pod: &PodInfo, volumes: &Volumes, nodes: &[NodeInfo], failure: &Failure) -> Preemption {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Preemption::Impossible("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(pod, nodes) {
        return Preemption::Impossible(
            "not eligible due to a terminating pod on the nominated node.".to_owned(),
        );
    }
    let candidates: Vec<usize> = failure.candidates().collect();
    let found = candidates.iter().filter_map(|&node| Some((node, victims(pod, volumes, &nodes[node])?)));
    let best = found.min_by_key(|(_, victims)| {
        let highest = victims.iter().map(|victim| victim.priority).max();
        let sum: i64 = victims.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
        (highest, sum, victims.len())
    });
    match best {
        Some((node, victims)) => Preemption::Evict { node, victims },
        None => Preemption::Impossible(explain(failure, candidates.len())),
    }
}

fn explain(failure: &Failure, candidates: usize) -> String {
    let reasons = (0..failure.nodes).map(|index| {
        let text = if index < candidates {
            "No preemption victims found for incoming pod"
        } else {
            "Preemption is not helpful for scheduling"
        };
        text.to_owned()
    });
    format!("0/{} nodes are available: {}.", failure.nodes, histogram(reasons))
}

/// The Pod has preempted before, and its victims are still on their way out.
fn waits_for_victims(pod: &PodInfo, nodes: &[NodeInfo]) -> bool {
    let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let node = nodes.iter().find(|node| Some(node.name()) == nominated);
    let leaving = |other: &Arc<PodInfo>| {
        other.priority < pod.priority && other.pod.metadata.deletion_timestamp.is_some()
    };
    node.is_some_and(|node| node.pods.iter().any(leaving))
}

fn victims(pod: &PodInfo, volumes: &Volumes, node: &NodeInfo) -> Option<Vec<Arc<PodInfo>>> {
    let mut without = node.clone();
    let mut lower: Vec<_> = node.pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    for other in &lower {
        without.remove(other.uid());
    }
    if lower.is_empty() || !check(pod, volumes, &without).is_empty() {
        return None;
    }
    // The most important ones come back first, as long as there is room.
    lower.sort_by_key(|other| Reverse(other.priority));
    let mut victims = Vec::new();
    for other in lower {
        without.add(other.clone());
        if !check(pod, volumes, &without).is_empty() {
            without.remove(other.uid());
            victims.push(other);
        }
    }
    Some(victims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::{asking, node, pod};
    use crate::{Placement, place};
    use serde_json::json;

    fn attempt(pod: &PodInfo, nodes: &[NodeInfo]) -> Preemption {
        let volumes = Volumes::default();
        let Placement::Unschedulable(failure) = place(pod, &volumes, nodes, 0) else { panic!("placed") };
        preempt(pod, &volumes, nodes, &failure)
    }

    fn with_priority(cpu: &str, priority: i32) -> serde_json::Value {
        let mut spec = asking(cpu);
        spec["priority"] = priority.into();
        spec
    }

    #[test]
    fn only_as_many_go_as_needed_and_the_least_important_first() {
        let mut full = node("n1", json!({}));
        full.add(pod("low", with_priority("1", 1)));
        full.add(pod("middle", with_priority("1", 5)));
        let Preemption::Evict { node: 0, victims } = attempt(&pod("p", with_priority("1", 10)), &[full])
        else {
            panic!("no victims");
        };
        assert_eq!(victims.iter().map(|victim| victim.uid()).collect::<Vec<_>>(), ["low"]);
    }

    #[test]
    fn what_eviction_cannot_change_is_said_so() {
        let mut full = node("n1", json!({}));
        full.add(pod("equal", with_priority("2", 10)));
        let nodes = [full, node("n2", json!({"spec": {"unschedulable": true}}))];
        let Preemption::Impossible(text) = attempt(&pod("p", with_priority("1", 10)), &nodes) else {
            panic!("evicted");
        };
        assert_eq!(
            text,
            "0/2 nodes are available: 1 No preemption victims found for incoming pod, \
             1 Preemption is not helpful for scheduling."
        );
    }
}

//! Which Pods of lower priority would have to go for a Pod to fit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cycle::{Cluster, Cycle};
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
    /// It is not tried, and what was tried before still stands.
    NotEligible(&'static str),
}

/// How many of some Pods may go: upstream prefers victims that break none.
#[derive(Debug, Clone)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    /// Already counted as going, by name.
    disrupted: HashSet<String>,
    allowed: i32,
}

impl Budget {
    /// What the budget says now; one that selects nobody in particular protects nobody.
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = LabelSelector::from_meta(budget.spec.as_ref()?.selector.as_ref()).ok()?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        (!selector.requirements().is_empty()).then(|| Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector,
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or_default(),
        })
    }

    fn protects(&self, pod: &PodInfo) -> bool {
        let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
        self.namespace == pod.namespace()
            && !pod.labels().is_empty()
            && self.selector.matches(pod.labels())
            && !self.disrupted.contains(name)
    }
}

/// Looks for the node where preemption does the least harm.
pub fn preempt(
    pod: &PodInfo,
    volumes: &Volumes,
    cluster: Cluster<'_>,
    budgets: &[Budget],
    failure: &Failure,
) -> Preemption {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Preemption::NotEligible("not eligible due to preemptionPolicy=Never.");
    }
    if waits_for_victims(pod, cluster.nodes, failure) {
        return Preemption::NotEligible("not eligible due to a terminating pod on the nominated node.");
    }
    let mut attempt = Attempt { pod, volumes, cluster, budgets, cycle: None };
    let mut tried = BTreeMap::new();
    let mut found = Vec::new();
    for index in failure.candidates() {
        match attempt.victims(&cluster.nodes[index]) {
            Ok(victims) => found.push((index, victims)),
            Err(reasons) => drop(tried.insert(index, reasons)),
        }
        if found.len() >= enough(cluster.nodes.len()) {
            break;
        }
    }
    match found.into_iter().min_by_key(|(_, victims)| victims.harm()) {
        Some((node, victims)) => Preemption::Evict { node, victims: victims.pods },
        None => Preemption::Impossible(explain(failure, &tried)),
    }
}

/// How many nodes are compared: more would hardly be better.
fn enough(nodes: usize) -> usize {
    (nodes / 10).max(100)
}

fn explain(failure: &Failure, tried: &BTreeMap<usize, Vec<String>>) -> String {
    let unhelpful = failure.nodes - tried.len();
    let unhelpful = (0..unhelpful).map(|_| "Preemption is not helpful for scheduling".to_owned());
    let reasons = tried.values().flatten().cloned().chain(unhelpful);
    format!("0/{} nodes are available: {}.", failure.nodes, histogram(reasons))
}

/// The Pod has preempted before, and its victims are still on their way out.
fn waits_for_victims(pod: &PodInfo, nodes: &[NodeInfo], failure: &Failure) -> bool {
    let nominated = pod.nominated_node();
    let Some(index) = nodes.iter().position(|node| Some(node.name()) == nominated) else { return false };
    let leaving = |other: &Arc<PodInfo>| {
        other.priority < pod.priority && other.pod.metadata.deletion_timestamp.is_some()
    };
    // Where the node will not do any more, whoever leaves, there is nothing to wait for.
    let in_vain =
        failure.reasons.get(&index).is_some_and(|r| !r.iter().all(crate::Reason::preemption_may_help));
    !in_vain && nodes[index].pods.iter().any(leaving)
}

/// Who would go from a node, the most important first.
struct Victims {
    pods: Vec<Arc<PodInfo>>,
    /// How many of them go against a budget.
    violations: usize,
}

impl Victims {
    /// Less is better, compared from the left.
    fn harm(&self) -> (usize, Option<i32>, i64, usize, Reverse<Timestamp>) {
        let highest = self.pods.first().map(|victim| victim.priority);
        let sum: i64 = self.pods.iter().map(|victim| i64::from(victim.priority) - i64::from(i32::MIN)).sum();
        let top = self.pods.iter().filter(|victim| Some(victim.priority) == highest);
        let earliest = top.map(|victim| started(victim)).min().unwrap_or(Timestamp::MAX);
        (self.violations, highest, sum, self.pods.len(), Reverse(earliest))
    }
}

/// A Pod that has not begun is the youngest.
fn started(pod: &PodInfo) -> Timestamp {
    let start = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    start.map_or(Timestamp::MAX, |time| time.0)
}

fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority), started(pod))
}

struct Attempt<'a> {
    pod: &'a PodInfo,
    volumes: &'a Volumes,
    cluster: Cluster<'a>,
    budgets: &'a [Budget],
    /// What was counted over all nodes; made when the first node has anybody to evict.
    cycle: Option<Cycle<'a>>,
}

impl<'a> Attempt<'a> {
    /// The fewest that must go from this node, or why evicting does not help.
    fn victims(&mut self, node: &'a NodeInfo) -> Result<Victims, Vec<String>> {
        let mut lower: Vec<&'a Arc<PodInfo>> =
            node.pods.iter().filter(|other| other.priority < self.pod.priority).collect();
        if lower.is_empty() {
            return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
        }
        let mut cycle =
            self.cycle.get_or_insert_with(|| Cycle::new(self.pod, self.volumes, self.cluster)).clone();
        let mut without = node.clone();
        for other in &lower {
            without.remove(other.uid());
            cycle.moved(other, node, -1);
        }
        let reasons = cycle.check_with_nominated(&without, node);
        if !reasons.is_empty() {
            return Err(reasons.iter().map(ToString::to_string).collect());
        }
        lower.sort_by_key(|other| importance(other));
        let (violating, harmless) = self.split_by_budgets(lower);
        // Those whose budget would be broken come back first, of them the most important ones.
        let mut victims = Victims { pods: Vec::new(), violations: 0 };
        for (other, violates) in
            violating.into_iter().map(|o| (o, true)).chain(harmless.into_iter().map(|o| (o, false)))
        {
            without.add(other.clone());
            cycle.moved(other, node, 1);
            if !cycle.check_with_nominated(&without, node).is_empty() {
                without.remove(other.uid());
                cycle.moved(other, node, -1);
                victims.pods.push(other.clone());
                victims.violations += usize::from(violates);
            }
        }
        victims.pods.sort_by_key(|other| importance(other));
        Ok(victims)
    }

    fn split_by_budgets(
        &self,
        pods: Vec<&'a Arc<PodInfo>>,
    ) -> (Vec<&'a Arc<PodInfo>>, Vec<&'a Arc<PodInfo>>) {
        let mut allowed: Vec<i32> = self.budgets.iter().map(|budget| budget.allowed).collect();
        pods.into_iter().partition(|pod| {
            let mut violates = false;
            for (budget, allowed) in self.budgets.iter().zip(&mut allowed) {
                if budget.protects(pod) {
                    *allowed -= 1;
                    violates |= *allowed < 0;
                }
            }
            violates
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Placement;
    use crate::place::tests::{asking, cluster, node, place, pod};
    use serde_json::json;

    fn attempt(pod: &PodInfo, nodes: &[NodeInfo]) -> Preemption {
        let volumes = Volumes::default();
        let Placement::Unschedulable(failure) = place(pod, &volumes, nodes, 0) else { panic!("placed") };
        preempt(pod, &volumes, cluster(nodes), &[], &failure)
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

    fn budget(allowed: i32) -> Budget {
        let budget = json!({"metadata": {"namespace": "default", "name": "b"},
            "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
            "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        Budget::of(&serde_json::from_value(budget).unwrap()).unwrap()
    }

    fn labelled(name: &str, app: &str, spec: serde_json::Value, start: &str) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": app}},
            "spec": spec, "status": {"startTime": start}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn chosen(pod: &PodInfo, nodes: &[NodeInfo], budgets: &[Budget]) -> (usize, Vec<String>) {
        let volumes = Volumes::default();
        let Placement::Unschedulable(failure) = place(pod, &volumes, nodes, 0) else { panic!("placed") };
        match preempt(pod, &volumes, cluster(nodes), budgets, &failure) {
            Preemption::Evict { node, victims } => {
                (node, victims.iter().map(|victim| victim.uid().to_owned()).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn a_budget_counts_more_than_priority_and_then_the_youngest_goes() {
        let mut nodes = [node("n1", json!({})), node("n2", json!({})), node("n3", json!({}))];
        nodes[0].add(labelled("guarded", "guarded", with_priority("2", 1), LATE));
        nodes[1].add(labelled("old", "free", with_priority("2", 2), EARLY));
        nodes[2].add(labelled("young", "free", with_priority("2", 2), LATE));
        let pod = pod("p", with_priority("1", 10));
        assert_eq!(chosen(&pod, &nodes, &[budget(0)]), (2, vec!["young".to_owned()]));
        assert_eq!(chosen(&pod, &nodes, &[budget(1)]), (0, vec!["guarded".to_owned()]));
    }

    #[test]
    fn on_one_node_those_without_a_budget_go_first() {
        let mut full = node("n1", json!({}));
        full.add(labelled("guarded", "guarded", with_priority("1", 1), LATE));
        full.add(labelled("free", "free", with_priority("1", 5), EARLY));
        let pod = pod("p", with_priority("1", 10));
        assert_eq!(chosen(&pod, &[full], &[budget(0)]), (0, vec!["free".to_owned()]));
    }

    #[test]
    fn who_is_in_the_way_of_anti_affinity_goes_and_nobody_else() {
        let mut only = node("n1", json!({}));
        only.add(labelled("bystander", "other", with_priority("100m", 1), EARLY));
        only.add(labelled("rival", "rival", with_priority("100m", 5), EARLY));
        let mut spec = with_priority("100m", 10);
        spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "rival"}}}]);
        assert_eq!(chosen(&pod("p", spec), &[only], &[]), (0, vec!["rival".to_owned()]));
    }

    #[test]
    fn room_that_is_kept_for_a_pod_is_left_to_it_by_its_equals_and_taken_by_its_betters() {
        let mut kept = node("n1", json!({}));
        kept.nominated.push(pod("waiting", with_priority("2", 5)));
        let nodes = [kept];
        let volumes = Volumes::default();
        let place = |priority| place(&pod("p", with_priority("1", priority)), &volumes, &nodes, 0);
        assert!(matches!(place(5), Placement::Unschedulable(_)));
        assert_eq!(place(6), Placement::Node(0));
        let text = match attempt(&pod("p", with_priority("1", 5)), &nodes) {
            Preemption::Impossible(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text, "0/1 nodes are available: 1 No preemption victims found for incoming pod.");
    }

    #[test]
    fn what_is_missing_after_everybody_would_have_gone_is_named() {
        let mut full = node("n1", json!({}));
        full.add(pod("low", with_priority("1", 1)));
        full.add(pod("equal", with_priority("1", 10)));
        let Preemption::Impossible(text) = attempt(&pod("p", with_priority("2", 10)), &[full]) else {
            panic!("evicted");
        };
        assert_eq!(text, "0/1 nodes are available: 1 Insufficient cpu.");
    }

    #[test]
    fn nobody_else_is_evicted_while_the_victims_are_on_their_way_out() {
        let mut full = node("n1", json!({}));
        let mut leaving = json!({"metadata": {"namespace": "default", "name": "v", "uid": "v",
            "deletionTimestamp": EARLY}, "spec": with_priority("2", 1)});
        leaving["spec"]["nodeName"] = "n1".into();
        full.add(Arc::new(PodInfo::new(Arc::new(serde_json::from_value(leaving).unwrap()))));
        let waiting = json!({"metadata": {"namespace": "default", "name": "p", "uid": "p"},
            "spec": with_priority("1", 10), "status": {"nominatedNodeName": "n1"}});
        let waiting = PodInfo::new(Arc::new(serde_json::from_value(waiting).unwrap()));
        match attempt(&waiting, &[full]) {
            Preemption::NotEligible(text) => {
                assert_eq!(text, "not eligible due to a terminating pod on the nominated node.");
            }
            other => panic!("{other:?}"),
        }
    }
}

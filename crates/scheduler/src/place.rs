//! The decision: which node, or why none.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use crate::cycle::{Cluster, Cycle};
use crate::score::scores;
use crate::{NodeInfo, PodInfo, Reason, Volumes, affinity};

/// Where a Pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// To the node with this index.
    Node(usize),
    /// Nowhere yet.
    Unschedulable(Failure),
}

/// Why no node takes a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure {
    /// How many nodes there are.
    pub nodes: usize,
    /// Per node, by index, what its first objecting plugin said. Empty when
    /// the Pod was rejected before any node was looked at.
    pub reasons: BTreeMap<usize, Vec<Reason>>,
    /// Why the Pod itself cannot be placed.
    pub rejected: Option<String>,
    /// What preemption could do about it, after the other reasons.
    pub preemption: Option<String>,
}

impl Failure {
    /// Evicting other Pods might help on these nodes.
    pub fn candidates(&self) -> impl Iterator<Item = usize> {
        let helpful = |reasons: &Vec<Reason>| reasons.iter().all(Reason::preemption_may_help);
        self.reasons.iter().filter(move |(_, reasons)| helpful(reasons)).map(|(index, _)| *index)
    }

    /// The message of the condition and of the FailedScheduling event.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        match &self.rejected {
            Some(rejected) => text.push_str(&format!(" {rejected}.")),
            None => {
                let counted = histogram(self.reasons.values().flatten().map(ToString::to_string));
                text.push_str(&format!(" {counted}."));
            }
        }
        if let Some(preemption) = &self.preemption {
            text.push_str(&format!(" preemption: {preemption}"));
        }
        text
    }
}

/// `2 Insufficient cpu, 1 Too many pods`, sorted as text.
pub(crate) fn histogram(reasons: impl Iterator<Item = String>) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    lines.join(", ")
}

/// Clusters up to this size are always looked at whole.
const FEASIBLE_MIN: usize = 100;

/// How many fitting nodes are enough: a part that shrinks with the cluster.
fn feasible_enough(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEASIBLE_MIN)
}

/// Chooses the best node that fits. `start` is where the search begins: moved
/// on from call to call, it spreads the search over big clusters and breaks ties.
pub fn place(pod: &PodInfo, volumes: &Volumes, cluster: Cluster<'_>, start: usize) -> Placement {
    let nodes = cluster.nodes;
    let rejected = volumes.rejected.clone().or_else(|| not_evaluated(pod.spec()).map(str::to_owned));
    let mut failure = Failure { nodes: nodes.len(), rejected, ..Failure::default() };
    if failure.rejected.is_some() || nodes.is_empty() {
        return Placement::Unschedulable(failure);
    }
    let named = affinity::named_nodes(pod.spec());
    let cycle = Cycle::new(pod, volumes, cluster);
    let check = |index: usize| {
        if named.as_ref().is_some_and(|named| !named.contains(nodes[index].name())) {
            return vec![Reason::NotNamed];
        }
        cycle.check_with_nominated(&nodes[index], &nodes[index])
    };
    if let Some(index) = kept_for(pod, nodes).filter(|&index| check(index).is_empty()) {
        return Placement::Node(index);
    }
    let enough = feasible_enough(nodes.len());
    let mut feasible = Vec::new();
    for index in (0..nodes.len()).map(|offset| (start + offset) % nodes.len()) {
        let reasons = check(index);
        if reasons.is_empty() {
            feasible.push(index);
        } else {
            failure.reasons.insert(index, reasons);
        }
        if feasible.len() >= enough {
            break;
        }
    }
    match feasible.as_slice() {
        [] => Placement::Unschedulable(failure),
        [only] => Placement::Node(*only),
        _ => Placement::Node(best(pod, cluster, &feasible)),
    }
}

/// What the Pod demands and this scheduler does not look at yet: it waits, rather than going where it
/// must not be. The table of limits (`api::limits`) promises these words.
fn not_evaluated(spec: &PodSpec) -> Option<&'static str> {
    let claims = spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty());
    claims.then_some("devices of resource claims are not allocated yet")
}

/// The node where the Pod has preempted others: it is looked at before all others.
fn kept_for(pod: &PodInfo, nodes: &[NodeInfo]) -> Option<usize> {
    let name = pod.nominated_node()?;
    nodes.iter().position(|node| node.name() == name)
}

fn best(pod: &PodInfo, cluster: Cluster<'_>, feasible: &[usize]) -> usize {
    let scores = scores(pod, cluster, feasible);
    // Of equals the first: the search began elsewhere for the Pod before.
    let mut best = 0;
    for (position, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = position;
        }
    }
    feasible[best]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::terms::Namespaces;
    use serde_json::{Value, json};
    use std::sync::{Arc, LazyLock};

    static NO_NAMESPACES: LazyLock<Namespaces> = LazyLock::new(Namespaces::default);

    /// Of the nodes as they are now. Its index is kept until the tests have ended.
    pub(crate) fn cluster(nodes: &[NodeInfo]) -> Cluster<'static> {
        let nodes = Box::leak(Box::new(nodes.iter().cloned().collect()));
        Cluster { nodes, namespaces: &NO_NAMESPACES, alike: None }
    }

    pub(crate) fn place(pod: &PodInfo, volumes: &Volumes, nodes: &[NodeInfo], start: usize) -> Placement {
        super::place(pod, volumes, cluster(nodes), start)
    }

    pub(crate) fn node(name: &str, change: Value) -> NodeInfo {
        let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
        json_merge(&mut node, &change);
        NodeInfo::new(Arc::new(serde_json::from_value(node).unwrap()))
    }

    pub(crate) fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
        let mut pod = json!({"metadata": {"namespace": "default", "name": name, "uid": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        json_merge(&mut pod["spec"], &spec);
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn json_merge(into: &mut Value, change: &Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    json_merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change.clone(),
        }
    }

    pub(crate) fn asking(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn message(pod: &PodInfo, nodes: &[NodeInfo]) -> String {
        match place(pod, &Volumes::default(), nodes, 0) {
            Placement::Node(index) => panic!("placed on {index}"),
            Placement::Unschedulable(failure) => failure.message(),
        }
    }

    #[test]
    fn every_objection_is_counted_in_upstreams_words() {
        let taint = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
        let nodes = [
            node("n1", json!({})),
            node("n2", taint),
            node("n3", json!({"spec": {"unschedulable": true}})),
            node("n4", json!({"status": {"allocatable": {"pods": "0"}}})),
        ];
        assert_eq!(
            message(&pod("p", asking("3")), &nodes),
            "0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s), \
             1 node(s) were unschedulable, 2 Insufficient cpu."
        );
        assert_eq!(
            message(&pod("p", json!({"nodeSelector": {"disk": "ssd"}})), &nodes[..1]),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        );
        assert_eq!(message(&pod("p", json!({})), &[]), "no nodes available to schedule pods");
    }

    #[test]
    fn a_host_port_is_taken_on_all_addresses_or_on_the_same_one() {
        let with_port = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]});
        let mut taken = node("n1", json!({}));
        taken.add(pod("other", with_port("127.0.0.1")));
        let nodes = [taken];
        assert_eq!(
            message(&pod("p", with_port("0.0.0.0")), &nodes),
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
        );
        assert_eq!(
            place(&pod("p", with_port("10.0.0.1")), &Volumes::default(), &nodes, 0),
            Placement::Node(0)
        );
    }

    #[test]
    fn the_emptier_node_wins_and_a_soft_taint_or_a_preference_outweighs_it() {
        let mut busy = node("busy", json!({}));
        busy.add(pod("other", asking("1")));
        let nodes = [busy.clone(), node("idle", json!({}))];
        assert_eq!(place(&pod("p", json!({})), &Volumes::default(), &nodes, 0), Placement::Node(1));
        let soft = json!({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}});
        let nodes = [busy.clone(), node("idle", soft)];
        assert_eq!(place(&pod("p", json!({})), &Volumes::default(), &nodes, 0), Placement::Node(0));
        let preference = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchFields":
                [{"key": "metadata.name", "operator": "In", "values": ["busy"]}]}}]}}});
        let nodes = [busy, node("idle", json!({}))];
        assert_eq!(place(&pod("p", preference), &Volumes::default(), &nodes, 0), Placement::Node(0));
    }

    #[test]
    fn equal_nodes_take_turns() {
        let nodes = [node("a", json!({})), node("b", json!({})), node("c", json!({}))];
        let chosen: Vec<_> =
            (0..3).map(|start| place(&pod("p", json!({})), &Volumes::default(), &nodes, start)).collect();
        assert_eq!(chosen, [Placement::Node(0), Placement::Node(1), Placement::Node(2)]);
    }

    #[test]
    fn what_is_not_evaluated_leaves_the_pod_pending_by_name() {
        let nodes = [node("a", json!({}))];
        let text = message(&pod("p", json!({"resourceClaims": [{"name": "r"}]})), &nodes);
        assert!(text.contains("resource claims are not allocated yet"), "{text}");
    }

    #[test]
    fn a_pod_that_names_its_node_is_looked_for_there_alone() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let named = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields":
                [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
        assert_eq!(place(&pod("p", named.clone()), &Volumes::default(), &nodes, 0), Placement::Node(1));
        let mut spec = asking("3");
        json_merge(&mut spec, &named);
        assert_eq!(
            message(&pod("p", spec), &nodes),
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
    }

    #[test]
    fn a_missing_claim_rejects_the_pod_whatever_the_nodes() {
        let rejected = Some("persistentvolumeclaim \"data\" not found".to_owned());
        let volumes = Volumes { rejected, ..Volumes::default() };
        let Placement::Unschedulable(failure) =
            place(&pod("p", json!({})), &volumes, &[node("a", json!({}))], 0)
        else {
            panic!("placed");
        };
        assert_eq!(failure.message(), "0/1 nodes are available: persistentvolumeclaim \"data\" not found.");
    }
}

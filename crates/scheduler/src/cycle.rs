//! One attempt to place a Pod: what is known before any node is looked at.

use std::sync::Arc;

use api::selector::LabelSelector;

use crate::filter;
use crate::pod_affinity::PodAffinity;
use crate::spread::Spread;
use crate::terms::Namespaces;
use crate::{NodeInfo, Nodes, PodInfo, Reason, Volumes};

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// The nodes with their Pods.
    pub nodes: &'a Nodes,
    /// Labels of the namespaces, for affinity that selects by them.
    pub namespaces: &'a Namespaces,
    /// Selects the Pods of the same workload, by its Services and its owner: they are spread by default.
    pub alike: Option<&'a LabelSelector>,
}

/// The Pod, and what was counted for it over all nodes.
#[derive(Debug, Clone)]
pub(crate) struct Cycle<'a> {
    pub(crate) pod: &'a PodInfo,
    pub(crate) volumes: &'a Volumes,
    /// Claims of this Pod that only one may use, counted by those who have them, wherever they run.
    claims_taken: i64,
    affinity: PodAffinity<'a>,
    spread: Spread<'a>,
}

impl<'a> Cycle<'a> {
    pub(crate) fn new(pod: &'a PodInfo, volumes: &'a Volumes, cluster: Cluster<'a>) -> Self {
        Self {
            pod,
            volumes,
            claims_taken: claims_taken(volumes, cluster.nodes),
            affinity: PodAffinity::new(pod, cluster.nodes, cluster.namespaces),
            spread: Spread::new(pod, cluster.nodes),
        }
    }

    /// A Pod comes to a node (`by` is 1), or leaves it (-1).
    pub(crate) fn moved(&mut self, other: &'a PodInfo, node: &'a NodeInfo, by: i64) {
        self.claims_taken += by * self.volumes.taken_by(other);
        self.affinity.moved(other, node, by);
        self.spread.moved(other, node, by);
    }

    /// The first plugin's objections to placing the Pod on a node as it is; empty: it fits.
    pub(crate) fn check(&self, node: &NodeInfo) -> Vec<Reason> {
        let own = filter::check(self.pod, node);
        if !own.is_empty() {
            return own;
        }
        if self.claims_taken > 0 {
            return vec![Reason::ClaimInUse];
        }
        let reason = filter::check_volumes(self.volumes, node);
        let reason = reason.or_else(|| self.spread.check(node)).or_else(|| self.affinity.check(node));
        reason.into_iter().collect()
    }

    /// [`Cycle::check`], also with the Pods that wait for room on the node and that this one must not
    /// take it from. `node` may lack Pods that `known`, the same node, still has.
    pub(crate) fn check_with_nominated(&self, node: &NodeInfo, known: &'a NodeInfo) -> Vec<Reason> {
        let waiting: Vec<&'a Arc<PodInfo>> =
            known.nominated.iter().filter(|other| self.yields(other)).collect();
        if !waiting.is_empty() {
            let (mut crowded, mut cycle) = (node.clone(), self.clone());
            for other in waiting {
                crowded.add(other.clone());
                cycle.moved(other, known, 1);
            }
            let reasons = cycle.check(&crowded);
            if !reasons.is_empty() {
                return reasons;
            }
        }
        // They may not come after all, and it must fit without them, too.
        self.check(node)
    }

    fn yields(&self, other: &PodInfo) -> bool {
        other.priority >= self.pod.priority && other.uid() != self.pod.uid()
    }
}

fn claims_taken(volumes: &Volumes, nodes: &[NodeInfo]) -> i64 {
    if volumes.alone.is_empty() {
        return 0;
    }
    nodes.iter().flat_map(|node| &node.pods).map(|other| volumes.taken_by(other)).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::hints::{Relief, Why, helps};
    use crate::place::tests::{cluster, node, place, pod};
    use crate::preempt::{Preemption, preempt};
    use crate::{Failure, Placement};

    fn using(claim: &str, priority: i32) -> Value {
        json!({"priority": priority, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]})
    }

    fn refused(pod: &PodInfo, volumes: &Volumes, nodes: &[NodeInfo]) -> Failure {
        match place(pod, volumes, nodes, 0) {
            Placement::Unschedulable(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_claim_for_one_pod_is_taken_on_every_node_until_that_pod_has_left() {
        let mut nodes = [node("a", json!({})), node("b", json!({}))];
        let (user, incoming) = (pod("user", using("data", 0)), pod("p", using("data", 0)));
        nodes[1].add(pod("other", using("another", 0)));
        nodes[1].add(user.clone());
        let volumes =
            Volumes { alone: vec![client::key(incoming.namespace(), "data")], ..Volumes::default() };
        let failure = refused(&incoming, &volumes, &nodes);
        assert_eq!(
            failure.message(),
            "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
             ReadWriteOncePod access mode."
        );
        let why = Why::from(&failure);
        let left =
            |other: &PodInfo| helps(Relief::PodGone(other, None), &incoming, &why, &Namespaces::default());
        assert!(left(&user) && !left(&nodes[1].pods[0]));
        // Nobody less important is in the way.
        let preemption = preempt(&incoming, &volumes, cluster(&nodes), &[], &failure);
        assert!(matches!(preemption, Preemption::Impossible(_)), "{preemption:?}");
        nodes[1].remove(user.uid());
        assert!(matches!(place(&incoming, &volumes, &nodes, 0), Placement::Node(_)));
    }

    #[test]
    fn who_has_the_claim_goes_for_one_that_is_more_important_and_nobody_else_does() {
        let mut nodes = [node("a", json!({})), node("b", json!({}))];
        nodes[0].add(pod("harmless", using("another", 0)));
        nodes[1].add(pod("bystander", using("another", 0)));
        nodes[1].add(pod("user", using("data", 5)));
        let incoming = pod("p", using("data", 10));
        let volumes =
            Volumes { alone: vec![client::key(incoming.namespace(), "data")], ..Volumes::default() };
        let failure = refused(&incoming, &volumes, &nodes);
        let Preemption::Evict { node, victims } =
            preempt(&incoming, &volumes, cluster(&nodes), &[], &failure)
        else {
            panic!("nobody goes");
        };
        let names: Vec<_> = victims.iter().map(|victim| victim.uid()).collect();
        assert_eq!((node, names), (1, vec!["user"]));
    }
}

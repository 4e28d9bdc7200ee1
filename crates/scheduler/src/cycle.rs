//! One attempt to place a Pod: what is known before any node is looked at.

use std::sync::Arc;

use api::selector::LabelSelector;

use crate::filter;
use crate::pod_affinity::PodAffinity;
use crate::spread::Spread;
use crate::terms::Namespaces;
use crate::{NodeInfo, PodInfo, Reason, Volumes};

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    /// The nodes with their Pods.
    pub nodes: &'a [NodeInfo],
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
    affinity: PodAffinity<'a>,
    spread: Spread<'a>,
}

impl<'a> Cycle<'a> {
    pub(crate) fn new(pod: &'a PodInfo, volumes: &'a Volumes, cluster: Cluster<'a>) -> Self {
        Self {
            pod,
            volumes,
            affinity: PodAffinity::new(pod, cluster.nodes, cluster.namespaces),
            spread: Spread::new(pod, cluster.nodes),
        }
    }

    /// A Pod comes to a node (`by` is 1), or leaves it (-1).
    pub(crate) fn moved(&mut self, other: &'a PodInfo, node: &'a NodeInfo, by: i64) {
        self.affinity.moved(other, node, by);
        self.spread.moved(other, node, by);
    }

    /// The first plugin's objections to placing the Pod on a node as it is; empty: it fits.
    pub(crate) fn check(&self, node: &NodeInfo) -> Vec<Reason> {
        let own = filter::check(self.pod, node);
        if !own.is_empty() {
            return own;
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

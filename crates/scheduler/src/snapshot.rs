//! The nodes with their Pods, kept current change by change.

use std::collections::HashMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::{Cluster, Namespaces, NodeInfo, Nodes, PodInfo};

/// All nodes, and where every placed Pod is.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) nodes: Nodes,
    pub(crate) namespaces: Namespaces,
    indices: HashMap<String, usize>,
    /// UID to node name.
    placed: HashMap<String, String>,
    /// Pods on nodes that are not known (yet), by node name.
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    /// UID to node name, of Pods that wait for their victims to leave.
    nominated: HashMap<String, String>,
}

impl Snapshot {
    pub(crate) fn cluster<'a>(&'a self, alike: Option<&'a LabelSelector>) -> Cluster<'a> {
        Cluster { nodes: &self.nodes, namespaces: &self.namespaces, alike }
    }

    /// Takes a node; says which one it is when the change may let a waiting Pod fit.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) -> Option<usize> {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(&index) = self.indices.get(&name) {
            let known = &self.nodes[index].node;
            let relevant = known.metadata.labels != node.metadata.labels
                || known.spec != node.spec
                || known.status.as_ref().map(|s| &s.allocatable)
                    != node.status.as_ref().map(|s| &s.allocatable);
            self.nodes.node_mut(index).set_node(node);
            return relevant.then_some(index);
        }
        let mut info = NodeInfo::new(node);
        for pod in self.homeless.remove(&name).unwrap_or_default() {
            info.add(pod);
        }
        let index = self.nodes.push(info);
        self.indices.insert(name, index);
        Some(index)
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(index) = self.indices.remove(name) else { return };
        let gone = self.nodes.swap_remove(index);
        if let Some(moved) = self.nodes.get(index) {
            self.indices.insert(moved.name().to_owned(), index);
        }
        if !gone.pods.is_empty() {
            self.homeless.insert(name.to_owned(), gone.pods);
        }
    }

    /// Counts a Pod on a node, once however often it is said.
    pub(crate) fn add_pod(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.remove_pod(pod.uid());
        self.placed.insert(pod.uid().to_owned(), node.to_owned());
        match self.indices.get(node) {
            Some(&index) => self.nodes.add(index, pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// Where a Pod is counted.
    pub(crate) fn index_of(&self, uid: &str) -> Option<usize> {
        self.indices.get(self.placed.get(uid)?).copied()
    }

    /// Counts a Pod no longer; says which it was and where, if it was counted or had room kept for it.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> Option<(Arc<PodInfo>, Option<usize>)> {
        let kept = self.set_nominated(uid, None);
        let Some(node) = self.placed.remove(uid) else { return kept };
        if let Some(&index) = self.indices.get(&node) {
            return Some((self.nodes.remove(index, uid)?, Some(index)));
        }
        let pods = self.homeless.get_mut(&node)?;
        let position = pods.iter().position(|pod| pod.uid() == uid)?;
        Some((pods.swap_remove(position), None))
    }

    /// Who waits for room on a node and is less important than this.
    pub(crate) fn nominated_below(&self, node: &str, priority: i32) -> Vec<Arc<PodInfo>> {
        let node = self.indices.get(node).map(|&index| &self.nodes[index]);
        let waiting = node.into_iter().flat_map(|node| &node.nominated);
        waiting.filter(|other| other.priority < priority).cloned().collect()
    }

    /// Keeps room on a node for a Pod that preempted others there; answers what was kept for it before.
    pub(crate) fn set_nominated(
        &mut self,
        uid: &str,
        to: Option<(&str, Arc<PodInfo>)>,
    ) -> Option<(Arc<PodInfo>, Option<usize>)> {
        let before = self.nominated.remove(uid).and_then(|node| self.indices.get(&node).copied());
        let kept = before.and_then(|index| {
            let waiting = &mut self.nodes.node_mut(index).nominated;
            let position = waiting.iter().position(|pod| pod.uid() == uid)?;
            Some((waiting.swap_remove(position), before))
        });
        if let Some((node, pod)) = to
            && let Some(&index) = self.indices.get(node)
        {
            self.nodes.node_mut(index).nominated.push(pod);
            self.nominated.insert(uid.to_owned(), node.to_owned());
        }
        kept
    }
}

/// A Pod that has ended holds nothing of its node.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::{asking, node, pod};
    use serde_json::json;

    #[test]
    fn a_pod_counts_once_and_outlives_the_absence_of_its_node() {
        let mut snapshot = Snapshot::default();
        snapshot.add_pod("n1", pod("p", asking("1")));
        snapshot.set_node(node("n1", json!({})).node);
        snapshot.add_pod("n1", pod("p", asking("1")));
        assert_eq!(snapshot.nodes[0].requested.milli_cpu, 1000);
        snapshot.remove_node("n1");
        snapshot.set_node(node("n1", json!({})).node);
        assert_eq!(snapshot.nodes[0].requested.milli_cpu, 1000);
        assert_eq!(snapshot.remove_pod("p").unwrap().1, Some(0));
        assert_eq!(snapshot.nodes[0].requested.milli_cpu, 0);
    }

    #[test]
    fn a_heartbeat_is_no_relevant_change() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.set_node(node("n1", json!({})).node), Some(0));
        assert_eq!(snapshot.set_node(node("n1", json!({"status": {"conditions": []}})).node), None);
        assert_eq!(snapshot.set_node(node("n1", json!({"metadata": {"labels": {"a": "b"}}})).node), Some(0));
    }
}

//! All nodes, and on which of them the Pods of one kind are.
//!
//! A decision asks of every Pod of the cluster whether it is meant, or means the Pod that is placed. Most Pods are
//! copies of each other: what is asked of one is not asked of the others again.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Affinity;

use crate::{NodeInfo, PodInfo};

/// The nodes with their Pods.
#[derive(Debug, Default)]
pub struct Nodes {
    all: Vec<NodeInfo>,
    /// Pods that say nothing of other Pods.
    silent: Groups,
    /// Pods that do: whoever is placed has to be told of them.
    speaking: Groups,
}

type Groups = HashMap<Likeness, OnNodes>;

/// How many Pods are on which node, by its index.
type OnNodes = BTreeMap<usize, i64>;

/// One Pod, which stands for all that are like it in whatever other Pods ask or are asked.
#[derive(Debug, Clone)]
struct Likeness(Arc<PodInfo>);

impl Likeness {
    fn affinity(&self) -> Option<&Affinity> {
        self.0.spec().affinity.as_ref()
    }

    fn is_leaving(&self) -> bool {
        self.0.pod.metadata.deletion_timestamp.is_some()
    }
}

impl PartialEq for Likeness {
    fn eq(&self, other: &Self) -> bool {
        self.0.signature == other.0.signature
            && self.is_leaving() == other.is_leaving()
            && self.0.namespace() == other.0.namespace()
            && self.0.labels() == other.0.labels()
            && self.affinity() == other.affinity()
    }
}

impl Eq for Likeness {}

impl Hash for Likeness {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.namespace().hash(state);
        self.0.labels().hash(state);
        self.is_leaving().hash(state);
    }
}

/// Pods that are alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group<'a> {
    /// One of them.
    pub(crate) pod: &'a PodInfo,
    nodes: &'a Nodes,
    on: &'a OnNodes,
}

impl<'a> Group<'a> {
    /// The nodes that they are on, and how many of them are there.
    pub(crate) fn at(self) -> impl Iterator<Item = (&'a NodeInfo, i64)> + Clone {
        self.on.iter().map(move |(index, count)| (&self.nodes.all[*index], *count))
    }
}

impl Nodes {
    /// All Pods of the cluster.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.speaking_and(true)
    }

    /// Those that say something of other Pods, and the silent ones where these matter, too.
    pub(crate) fn speaking_and(&self, silent: bool) -> impl Iterator<Item = Group<'_>> {
        let silent = silent.then(|| self.of(&self.silent));
        self.of(&self.speaking).chain(silent.into_iter().flatten())
    }

    fn of<'a>(&'a self, groups: &'a Groups) -> impl Iterator<Item = Group<'a>> {
        groups.iter().map(|(Likeness(pod), on)| Group { pod, nodes: self, on })
    }

    fn like(&mut self, pod: &PodInfo) -> &mut Groups {
        if pod.terms.are_none() { &mut self.silent } else { &mut self.speaking }
    }

    /// Counts a Pod on a node.
    pub fn add(&mut self, index: usize, pod: Arc<PodInfo>) {
        self.count(index, &pod);
        self.all[index].add(pod);
    }

    fn count(&mut self, index: usize, pod: &Arc<PodInfo>) {
        let on = self.like(pod).entry(Likeness(pod.clone())).or_default();
        *on.entry(index).or_default() += 1;
    }

    /// Counts a Pod no longer.
    pub(crate) fn remove(&mut self, index: usize, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.all[index].remove(uid)?;
        let (likeness, groups) = (Likeness(pod.clone()), self.like(&pod));
        if let Some(on) = groups.get_mut(&likeness) {
            on.entry(index).and_modify(|count| *count -= 1);
            on.retain(|_, count| *count > 0);
            if on.is_empty() {
                groups.remove(&likeness);
            }
        }
        Some(pod)
    }

    /// Takes another node in, which may have Pods; answers its index.
    pub(crate) fn push(&mut self, node: NodeInfo) -> usize {
        let index = self.all.len();
        for pod in &node.pods {
            self.count(index, pod);
        }
        self.all.push(node);
        index
    }

    /// Takes a node out; the last one comes in its place.
    pub(crate) fn swap_remove(&mut self, index: usize) -> NodeInfo {
        let last = self.all.len() - 1;
        for groups in [&mut self.silent, &mut self.speaking] {
            groups.retain(|_, on| {
                on.remove(&index);
                if let Some(count) = on.remove(&last) {
                    on.insert(index, count);
                }
                !on.is_empty()
            });
        }
        self.all.swap_remove(index)
    }

    /// A node as it is to be changed otherwise than by Pods that come or go.
    pub(crate) fn node_mut(&mut self, index: usize) -> &mut NodeInfo {
        &mut self.all[index]
    }
}

impl Deref for Nodes {
    type Target = [NodeInfo];

    fn deref(&self) -> &[NodeInfo] {
        &self.all
    }
}

impl FromIterator<NodeInfo> for Nodes {
    fn from_iter<I: IntoIterator<Item = NodeInfo>>(nodes: I) -> Self {
        let mut all = Self::default();
        for node in nodes {
            all.push(node);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{build, changes};
    use proptest::prelude::*;

    /// Who is where, each group once.
    fn counted(nodes: &Nodes) -> Vec<(String, Vec<(String, i64)>)> {
        let like =
            |pod: &PodInfo| format!("{} {:?} {:?}", pod.namespace(), pod.labels(), pod.spec().affinity);
        let mut all: Vec<_> = nodes
            .groups()
            .map(|group| (like(group.pod), group.at().map(|(node, n)| (node.name().to_owned(), n)).collect()))
            .collect();
        for (_, at) in &mut all {
            let at: &mut Vec<(String, i64)> = at;
            at.sort();
        }
        all.sort();
        all
    }

    proptest! {
        #[test]
        fn groups_are_what_is_on_the_nodes_whatever_comes_and_goes((nodes, pod, (at, came)) in changes()) {
            let mut kept: Nodes = build(nodes).into_iter().collect();
            let index = at.index(kept.len());
            match came {
                Some(came) => kept.add(index, crate::model::info(came, "came")),
                None => match kept[index].pods.first().map(|pod| pod.uid().to_owned()) {
                    Some(uid) => drop(kept.remove(index, &uid)),
                    None => drop(kept.swap_remove(index)),
                },
            }
            if !kept.is_empty() {
                kept.add(0, crate::model::info(pod, "last"));
            }
            let fresh: Nodes = kept.iter().cloned().collect();
            prop_assert_eq!(counted(&kept), counted(&fresh));
            let pods: usize = kept.iter().map(|node| node.pods.len()).sum();
            let sum: i64 = kept.groups().flat_map(|group| group.at().map(|(_, n)| n)).sum();
            prop_assert_eq!(sum, i64::try_from(pods).unwrap());
        }
    }
}

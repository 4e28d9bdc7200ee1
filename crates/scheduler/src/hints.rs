//! Which change in the cluster may let which waiting Pod fit: upstream's queueing hints.
//!
//! A hint that is given in vain costs an attempt; one that is missing costs the Pod up to five minutes.
//! So each answers "yes" unless the change cannot matter for what the Pod failed on.

use std::collections::BTreeSet;

use client::index::claims_of;

use crate::filter::{check_node, fits_beside};
use crate::terms::{Namespaces, Term};
use crate::{Failure, NodeInfo, PodInfo, Reason};

/// What changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Relief<'a> {
    /// A node is new, or its labels, taints or capacity changed.
    Node(&'a NodeInfo),
    /// A node is gone, and with it maybe the emptiest place, or Pods that were in the way.
    NodeGone,
    /// A Pod left a node, if that is still known.
    PodGone(&'a PodInfo, Option<&'a NodeInfo>),
    /// A Pod came to a node.
    PodCame(&'a PodInfo),
    /// Labels of a placed Pod or a namespace changed, or a placed Pod is leaving.
    Relabelled,
    /// A claim, volume or storage class changed.
    Storage,
}

/// What a Pod failed on, on any node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Why {
    /// Before any node was looked at.
    rejected: bool,
    reasons: BTreeSet<Reason>,
}

impl From<&Failure> for Why {
    fn from(failure: &Failure) -> Self {
        let mut reasons = BTreeSet::new();
        for reason in failure.reasons.values().flatten() {
            // A thousand nodes mostly say the same.
            if !reasons.contains(reason) {
                reasons.insert(reason.clone());
            }
        }
        Self { rejected: failure.rejected.is_some(), reasons }
    }
}

impl Why {
    fn has(&self, reason: &Reason) -> bool {
        self.reasons.contains(reason)
    }

    fn about_room(&self) -> bool {
        self.reasons.iter().any(|reason| matches!(reason, Reason::TooManyPods | Reason::Insufficient { .. }))
    }

    fn about_pods(&self) -> bool {
        use Reason::{ExistingAntiAffinity, PodAffinity, PodAntiAffinity, Spread};
        [Spread, PodAffinity, PodAntiAffinity, ExistingAntiAffinity].iter().any(|reason| self.has(reason))
    }
}

/// Whether to try the Pod again after the change.
pub(crate) fn helps(relief: Relief<'_>, pod: &PodInfo, why: &Why, namespaces: &Namespaces) -> bool {
    let means = |terms: &[Term], other: &PodInfo| terms.iter().any(|term| term.matches(other, namespaces));
    let spread_with = |other: &PodInfo| {
        let mut constraints = pod.spread.iter();
        why.has(&Reason::Spread)
            && pod.namespace() == other.namespace()
            && constraints.any(|constraint| constraint.chosen.matches(other))
    };
    match relief {
        Relief::Storage => why.rejected || why.has(&Reason::VolumeAffinity) || why.has(&Reason::NoVolume),
        _ if why.rejected => false,
        Relief::Node(node) => {
            // A node that will not do itself may be in a place, or may have been in another.
            why.about_pods() || (check_node(pod, node).is_none() && fits_beside(pod, node, &|_| false))
        }
        Relief::PodGone(other, node) => {
            let port = |mine| other.host_ports.iter().any(|port| port.conflicts(mine));
            // Those less important than the Pod could be evicted, now that this one has left.
            let room = || node.is_some_and(|n| fits_beside(pod, n, &|o| o.priority >= pod.priority));
            (why.has(&Reason::Ports) && pod.host_ports.iter().any(port))
                || (why.about_room() && room())
                || (why.has(&Reason::ClaimInUse) && shares_claim(pod, other))
                || (why.has(&Reason::PodAntiAffinity) && means(&pod.terms.apart, other))
                // The last of a group is gone: the Pod may now be the first of it.
                || (why.has(&Reason::PodAffinity) && means(&pod.terms.near, other))
                || (why.has(&Reason::ExistingAntiAffinity) && means(&other.terms.apart, pod))
                || spread_with(other)
        }
        Relief::PodCame(other) => {
            (why.has(&Reason::PodAffinity) && means(&pod.terms.near, other)) || spread_with(other)
        }
        Relief::NodeGone | Relief::Relabelled => why.about_pods(),
    }
}

fn shares_claim(pod: &PodInfo, other: &PodInfo) -> bool {
    let theirs = claims_of(&other.pod);
    claims_of(&pod.pod).iter().any(|claim| theirs.contains(claim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::{asking, cluster, node, place, pod};
    use crate::{Placement, Volumes};
    use proptest::prelude::*;
    use serde_json::json;

    fn why(pod: &PodInfo, nodes: &[NodeInfo]) -> Why {
        match place(pod, &Volumes::default(), nodes, 0) {
            Placement::Unschedulable(failure) => Why::from(&failure),
            Placement::Node(_) => panic!("placed"),
        }
    }

    #[test]
    fn a_pod_that_leaves_helps_who_fits_into_the_room_it_leaves() {
        let mut full = node("n1", json!({}));
        full.add(pod("big", asking("1900m")));
        full.add(pod("small", asking("100m")));
        let (modest, greedy) = (pod("modest", asking("50m")), pod("greedy", asking("2")));
        let nodes = [full.clone()];
        let before = (why(&modest, &nodes), why(&greedy, &nodes));
        let left = full.remove("small").unwrap();
        let relief = Relief::PodGone(&left, Some(&full));
        assert!(helps(relief, &modest, &before.0, &Namespaces::new()));
        assert!(!helps(relief, &greedy, &before.1, &Namespaces::new()));
        assert!(!helps(Relief::PodCame(&left), &modest, &before.0, &Namespaces::new()));
    }

    #[test]
    fn a_node_helps_who_it_would_do_for_when_it_is_empty() {
        let nodes = [node("small", json!({"status": {"allocatable": {"cpu": "1"}}}))];
        let waiting = pod("p", asking("2"));
        let why = why(&waiting, &nodes);
        let help = |node: &NodeInfo| helps(Relief::Node(node), &waiting, &why, &Namespaces::new());
        assert!(help(&node("new", json!({}))));
        assert!(!help(&nodes[0]));
        assert!(!help(&node("cordoned", json!({"spec": {"unschedulable": true}}))));
    }

    proptest! {
        /// Whatever leaves or comes: who fits afterwards and did not before, was told to try again.
        #[test]
        fn no_pod_that_fits_after_a_change_is_left_waiting(
            (nodes, waiting, change) in crate::model::changes(),
        ) {
            let namespaces = crate::model::namespaces();
            let waiting = crate::model::info(waiting, "waiting");
            let fits = |nodes: &[NodeInfo]| {
                let cluster = crate::Cluster { namespaces: &namespaces, ..cluster(nodes) };
                crate::place(&waiting, &Volumes::default(), cluster, 0)
            };
            let mut nodes = crate::model::build(nodes);
            if let Placement::Unschedulable(failure) = fits(&nodes) {
                let why = Why::from(&failure);
                let at = change.0.index(nodes.len());
                let helped = if let Some(new) = change.1 {
                    let new = crate::model::info(new, "new");
                    nodes[at].add(new.clone());
                    helps(Relief::PodCame(&new), &waiting, &why, &namespaces)
                } else if let Some(old) = nodes[at].pods.first().cloned() {
                    nodes[at].remove(old.uid());
                    helps(Relief::PodGone(&old, Some(&nodes[at])), &waiting, &why, &namespaces)
                } else {
                    nodes.remove(at);
                    helps(Relief::NodeGone, &waiting, &why, &namespaces)
                };
                let now_fits = matches!(fits(&nodes), Placement::Node(_));
                prop_assert!(helped || !now_fits);
            }
        }
    }
}

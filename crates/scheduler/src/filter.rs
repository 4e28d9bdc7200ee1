//! Why a node cannot take a Pod, in the words of kube-scheduler.

use std::fmt;

use api::placement::{matches_node, matches_selector};
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::affinity::tolerates;
use crate::{NodeInfo, PodInfo, Resources, Volumes};

/// One reason. Displayed, it is the text of events and conditions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// `kubectl cordon`.
    Unschedulable,
    /// A taint that the Pod does not tolerate.
    Taint,
    /// nodeSelector or required node affinity.
    Affinity,
    /// A host port is taken.
    Ports,
    /// No room for one more Pod.
    TooManyPods,
    /// Too little of a resource is free.
    Insufficient {
        /// The resource's name.
        resource: String,
        /// The node never has as much, whoever leaves.
        ever: bool,
    },
    /// The Pod is meant for other nodes, by their names.
    NotNamed,
    /// Another Pod has a claim that only one may use.
    ClaimInUse,
    /// The Pod's volume is elsewhere.
    VolumeAffinity,
    /// No volume on this node fits the claim.
    NoVolume,
    /// Here the Pods would be spread too unevenly.
    Spread,
    /// The node is in no place over which they are to be spread.
    SpreadLabel,
    /// The Pods that this one wants to be near are elsewhere.
    PodAffinity,
    /// A Pod that this one wants to be apart from is here.
    PodAntiAffinity,
    /// A Pod here wants to be apart from this one.
    ExistingAntiAffinity,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient { resource, .. } => return write!(f, "Insufficient {resource}"),
            Self::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::ClaimInUse => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Self::VolumeAffinity => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

impl Reason {
    /// Could evicting other Pods help?
    pub fn preemption_may_help(&self) -> bool {
        match self {
            Self::Ports
            | Self::TooManyPods
            | Self::ClaimInUse
            | Self::Spread
            | Self::PodAntiAffinity
            | Self::ExistingAntiAffinity => true,
            Self::Insufficient { ever, .. } => !ever,
            Self::Unschedulable
            | Self::Taint
            | Self::Affinity
            | Self::NotNamed
            | Self::VolumeAffinity
            | Self::NoVolume
            | Self::SpreadLabel
            | Self::PodAffinity => false,
        }
    }
}

/// The first objections of the plugins that look at one node, before those for volumes; empty: it fits.
pub(crate) fn check(pod: &PodInfo, node: &NodeInfo) -> Vec<Reason> {
    if let Some(reason) = check_node(pod, node) {
        return vec![reason];
    }
    if ports_taken(pod, node) {
        return vec![Reason::Ports];
    }
    check_room(pod, node, node.pods.len(), &node.requested)
}

pub(crate) fn check_node(pod: &PodInfo, node: &NodeInfo) -> Option<Reason> {
    let spec = pod.spec();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if cordoned && !tolerates_cordon(tolerations) {
        return Some(Reason::Unschedulable);
    }
    let repels = |taint: &Taint| taint.effect != "PreferNoSchedule" && !tolerates(tolerations, taint);
    if node.taints().iter().any(repels) {
        return Some(Reason::Taint);
    }
    (!matches_node(spec, &node.node)).then_some(Reason::Affinity)
}

fn tolerates_cordon(tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        value: None,
        time_added: None,
    };
    tolerates(tolerations, &taint)
}

fn ports_taken(pod: &PodInfo, node: &NodeInfo) -> bool {
    let mut taken = node.pods.iter().flat_map(|other| &other.host_ports);
    !pod.host_ports.is_empty() && taken.any(|port| pod.host_ports.iter().any(|mine| mine.conflicts(port)))
}

/// What is too little beside so many Pods that ask for so much.
fn check_room(pod: &PodInfo, node: &NodeInfo, pods: usize, requested: &Resources) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let count = i64::try_from(pods + 1).unwrap_or(i64::MAX);
    if count > node.pods_max {
        reasons.push(Reason::TooManyPods);
    }
    let wants = &pod.requests;
    let mut compare = |resource: &str, want: i64, have: i64, of: &dyn Fn(&Resources) -> i64| {
        let taken = of(requested);
        // Asking for nothing fits even on a node that is overfull.
        if want > 0 && want > have - taken {
            reasons.push(Reason::Insufficient { resource: resource.to_owned(), ever: want > have });
        }
    };
    let has = &node.allocatable;
    compare("cpu", wants.milli_cpu, has.milli_cpu, &|r| r.milli_cpu);
    compare("memory", wants.memory, has.memory, &|r| r.memory);
    compare("ephemeral-storage", wants.ephemeral_storage, has.ephemeral_storage, &|r| r.ephemeral_storage);
    for (name, want) in &wants.scalar {
        let amount = |resources: &Resources| resources.scalar.get(name).copied().unwrap_or_default();
        compare(name, *want, amount(has), &amount);
    }
    reasons
}

/// Whether the Pod's requests fit, if only those Pods stay that `stays` says.
pub(crate) fn fits_beside(pod: &PodInfo, node: &NodeInfo, stays: &dyn Fn(&PodInfo) -> bool) -> bool {
    if !check_room(pod, node, 0, &Resources::default()).is_empty() {
        return false;
    }
    if check_room(pod, node, node.pods.len(), &node.requested).is_empty() {
        return true;
    }
    let (mut count, mut requested) = (0, Resources::default());
    for other in node.pods.iter().filter(|other| stays(other)) {
        count += 1;
        requested.add(&other.requests);
    }
    check_room(pod, node, count, &requested).is_empty()
}

pub(crate) fn check_volumes(volumes: &Volumes, node: &NodeInfo) -> Option<Reason> {
    if !volumes.bound.iter().all(|affinity| matches_selector(affinity, &node.node)) {
        return Some(Reason::VolumeAffinity);
    }
    let available = |choices: &Vec<Option<_>>| {
        choices
            .iter()
            .any(|affinity| affinity.as_ref().is_none_or(|affinity| matches_selector(affinity, &node.node)))
    };
    (!volumes.choices.iter().all(available)).then_some(Reason::NoVolume)
}

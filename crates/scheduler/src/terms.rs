//! What a Pod says about other Pods, parsed once: affinity, anti-affinity, topology spread.

use std::collections::{BTreeMap, HashMap};

use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{
    PodAffinityTerm, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::PodInfo;
use crate::chosen::Chosen;

/// The labels of each namespace, by its name.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// Which Pods are meant, and what counts as the same place.
#[derive(Debug)]
pub(crate) struct Term {
    chosen: Chosen,
    namespaces: Vec<String>,
    namespace_selector: LabelSelector,
    pub(crate) topology_key: String,
}

impl Term {
    fn new(term: &PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Self {
            chosen: Chosen::by(selector(term.label_selector.as_ref())),
            namespaces,
            namespace_selector: selector(term.namespace_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    pub(crate) fn matches(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let named = || self.namespaces.iter().any(|name| name == pod.namespace());
        let selected =
            || self.namespace_selector.matches(namespaces.get(pod.namespace()).unwrap_or(&NO_LABELS));
        self.chosen.matches(pod) && (named() || selected())
    }
}

/// What cannot be parsed selects nothing: the server refuses it.
fn selector(selector: Option<&meta::LabelSelector>) -> LabelSelector {
    LabelSelector::from_meta(selector).unwrap_or_else(|_| LabelSelector::nothing())
}

/// What a Pod demands and would like of the Pods around it.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    pub(crate) near: Vec<Term>,
    pub(crate) apart: Vec<Term>,
    /// With their weights; that of a wish to be apart is negative.
    pub(crate) preferred: Vec<(i64, Term)>,
}

impl Terms {
    pub(crate) fn of(spec: &PodSpec, namespace: &str) -> Self {
        let Some(affinity) = &spec.affinity else { return Self::default() };
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|term| Term::new(term, namespace)).collect()
        };
        let mut all = Self::default();
        let mut prefer = |terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64| {
            for term in terms.into_iter().flatten() {
                let weight = i64::from(term.weight) * sign;
                all.preferred.push((weight, Term::new(&term.pod_affinity_term, namespace)));
            }
        };
        if let Some(rules) = &affinity.pod_affinity {
            prefer(rules.preferred_during_scheduling_ignored_during_execution.as_ref(), 1);
        }
        if let Some(rules) = &affinity.pod_anti_affinity {
            prefer(rules.preferred_during_scheduling_ignored_during_execution.as_ref(), -1);
        }
        if let Some(rules) = &affinity.pod_affinity {
            all.near = required(rules.required_during_scheduling_ignored_during_execution.as_ref());
        }
        if let Some(rules) = &affinity.pod_anti_affinity {
            all.apart = required(rules.required_during_scheduling_ignored_during_execution.as_ref());
        }
        all
    }

    /// The Pod says nothing of others.
    pub(crate) fn are_none(&self) -> bool {
        self.near.is_empty() && self.apart.is_empty() && self.preferred.is_empty()
    }
}

/// How evenly Pods like these are to be spread over places.
#[derive(Debug, Clone)]
pub(crate) struct Constraint {
    pub(crate) topology_key: String,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: i64,
    /// `DoNotSchedule`, rather than `ScheduleAnyway`.
    pub(crate) demanded: bool,
    pub(crate) honor_affinity: bool,
    pub(crate) honor_taints: bool,
    pub(crate) chosen: Chosen,
}

impl Constraint {
    pub(crate) fn all_of(spec: &PodSpec) -> Vec<Self> {
        spec.topology_spread_constraints.iter().flatten().map(Self::new).collect()
    }

    fn new(constraint: &TopologySpreadConstraint) -> Self {
        Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            demanded: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            chosen: Chosen::by(selector(constraint.label_selector.as_ref())),
        }
    }

    /// What every cluster wishes for Pods that say nothing about it themselves.
    pub(crate) fn defaults(alike: &LabelSelector) -> Vec<Self> {
        let wish = |key: &str, max_skew| Self {
            topology_key: key.to_owned(),
            max_skew,
            min_domains: 1,
            demanded: false,
            honor_affinity: true,
            honor_taints: false,
            chosen: Chosen::by(alike.clone()),
        };
        vec![wish("kubernetes.io/hostname", 3), wish("topology.kubernetes.io/zone", 5)]
    }

    /// Whether the Pod counts for a constraint of `of`: one that is leaving does not.
    pub(crate) fn counts(&self, pod: &PodInfo, of: &PodInfo) -> bool {
        self.chosen.matches(pod)
            && pod.pod.metadata.deletion_timestamp.is_none()
            && pod.namespace() == of.namespace()
    }
}

//! What a Pod would rather have, and what it bears.

use api::placement::matches_term;
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};

/// The sum of the weights of the preferred terms that match.
pub(crate) fn preference(spec: &PodSpec, node: &Node) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let terms = preferred.into_iter().flatten();
    terms.filter(|term| matches_term(&term.preference, node)).map(|term| i64::from(term.weight)).sum()
}

/// Does any toleration let the taint pass?
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| api::placement::tolerates(toleration, taint))
}

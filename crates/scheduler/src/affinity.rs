//! What a Pod would rather have, and what it bears.

use std::collections::BTreeSet;

use api::placement::matches_term;
use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// The sum of the weights of the preferred terms that match.
pub(crate) fn preference(spec: &PodSpec, node: &Node) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let terms = preferred.into_iter().flatten();
    terms.filter(|term| matches_term(&term.preference, node)).map(|term| i64::from(term.weight)).sum()
}

/// The nodes that the required affinity names, as that of a DaemonSet's Pod does; `None`: it may be any.
pub(crate) fn named_nodes(spec: &PodSpec) -> Option<BTreeSet<&str>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut named = BTreeSet::new();
    for term in &required.node_selector_terms {
        named.extend(named_by(term)?);
    }
    // Without any term nothing matches, which is for the filter to say.
    (!required.node_selector_terms.is_empty()).then_some(named)
}

/// All requirements of the term together.
fn named_by(term: &NodeSelectorTerm) -> Option<BTreeSet<&str>> {
    let fields = term.match_fields.iter().flatten();
    let names = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    let names = names.map(|field| field.values.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>());
    names.reduce(|one, other| one.intersection(&other).copied().collect())
}

/// Does any toleration let the taint pass?
pub(crate) fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| api::placement::tolerates(toleration, taint))
}

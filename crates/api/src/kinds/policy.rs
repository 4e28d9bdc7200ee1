//! The kinds of the group `policy`.

use super::rules::Generation;
use super::{Kind, namespaced, status};
use crate::defaults;
use crate::strategy::cluster as cluster_rules;
use crate::table::workload;

const GROUP: &str = "policy";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(GROUP, "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
            .short(["pdb"])
            .subresources([status(GROUP, "v1", "PodDisruptionBudget")])
            .conditional_update()
            .defaults(defaults::other::disruption_budget)
            .generation(Generation::Wishes)
            .validate(|new, _, errors| cluster_rules::disruption_budget(new.get("spec"), errors))
            .cells(workload::disruption_budget),
    ]
}

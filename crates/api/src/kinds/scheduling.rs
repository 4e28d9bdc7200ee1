//! The kinds of the group `scheduling.k8s.io`.

use super::rules::Generation;
use super::{Kind, cluster};
use crate::defaults;
use crate::strategy::cluster as cluster_rules;
use crate::table::cluster as cluster_table;

const GROUP: &str = "scheduling.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "PriorityClass", "priorityclasses", "priorityclass")
            .short(["pc"])
            .defaults(defaults::other::priority_class)
            .generation(Generation::Wishes)
            .validate(cluster_rules::priority_class)
            .cells(cluster_table::priority_class),
    ]
}

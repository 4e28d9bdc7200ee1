//! The kinds of the group `node.k8s.io`.

use super::{Kind, cluster};
use crate::strategy::cluster as cluster_rules;
use crate::table::cluster as cluster_table;

const GROUP: &str = "node.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "RuntimeClass", "runtimeclasses", "runtimeclass")
            .conditional_update()
            .validate(cluster_rules::runtime_class)
            .cells(cluster_table::runtime_class),
    ]
}

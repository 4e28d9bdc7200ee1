//! The kinds of the group `flowcontrol.apiserver.k8s.io`.

use super::rules::Generation;
use super::{Kind, cluster, status};
use crate::defaults;
use crate::table::policy;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "FlowSchema", "flowschemas", "flowschema")
            .subresources([status(GROUP, "v1", "FlowSchema")])
            .defaults(defaults::other::flow_schema)
            .generation(Generation::Wishes)
            .cells(policy::flow_schema),
        cluster(
            GROUP,
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
        )
        .subresources([status(GROUP, "v1", "PriorityLevelConfiguration")])
        .generation(Generation::Wishes)
        .cells(policy::priority_level),
    ]
}

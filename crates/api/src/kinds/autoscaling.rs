//! The kinds of the group `autoscaling`.

use super::{Kind, namespaced, status};
use crate::convert;
use crate::defaults;
use crate::table::workload;

const GROUP: &str = "autoscaling";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(
            GROUP,
            "v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
        .short(["hpa"])
        .category(["all"])
        .subresources([status(GROUP, "v1", "HorizontalPodAutoscaler")])
        .stored_as(GROUP, "v2")
        .converts(convert::autoscaler_to_v1, convert::autoscaler_to_v2)
        .keep_unsaid(convert::keep_of_autoscaler)
        .defaults(defaults::apps::autoscaler)
        .cells(workload::autoscaler),
        namespaced(
            GROUP,
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
        .short(["hpa"])
        .category(["all"])
        .subresources([status(GROUP, "v2", "HorizontalPodAutoscaler")])
        .defaults(defaults::apps::autoscaler)
        .cells(workload::autoscaler),
    ]
}

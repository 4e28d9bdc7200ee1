//! The kinds of the group `apiregistration.k8s.io`.

use super::{Kind, cluster, status};
use crate::defaults;
use crate::table::cluster as cluster_table;

const GROUP: &str = "apiregistration.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "APIService", "apiservices", "apiservice")
            .category(["api-extensions"])
            .subresources([status(GROUP, "v1", "APIService")])
            .conditional_update()
            .defaults(defaults::other::api_service)
            .cells(cluster_table::api_service),
    ]
}

//! The kinds of the group `coordination.k8s.io`.

use super::{Kind, lasting, namespaced};
use crate::strategy::cluster as cluster_rules;
use crate::table::cluster as cluster_table;

const GROUP: &str = "coordination.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(GROUP, "v1", "Lease", "leases", "lease")
            .creates_on_update()
            .conditional_update()
            .renewed_by(lasting::is_renewal_of_lease)
            .prepare_create(cluster_rules::prepare_lease)
            .prepare_update(cluster_rules::prepare_lease_update)
            .validate(|new, _, errors| cluster_rules::lease(new.get("spec"), errors))
            .cells(cluster_table::lease),
    ]
}

//! The kinds of the group `resource.k8s.io`.

use super::rules::Generation;
use super::{Kind, cluster, namespaced, status, text};
use crate::defaults;
use crate::selector::field;
use crate::strategy::cluster as cluster_rules;
use crate::table::storage as storage_table;

const GROUP: &str = "resource.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "DeviceClass", "deviceclasses", "deviceclass")
            .generation(Generation::Wishes)
            .cells(storage_table::name_and_age),
        namespaced(GROUP, "v1", "ResourceClaim", "resourceclaims", "resourceclaim")
            .subresources([status(GROUP, "v1", "ResourceClaim")])
            .defaults(defaults::other::resource_claim)
            .validate(cluster_rules::resource_claim)
            .cells(storage_table::resource_claim),
        namespaced(GROUP, "v1", "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate")
            .defaults(defaults::other::resource_claim_template)
            .cells(storage_table::name_and_age),
        cluster(GROUP, "v1", "ResourceSlice", "resourceslices", "resourceslice")
            .generation(Generation::Wishes)
            .fields([text("spec.driver", ["/spec/driver"]), text("spec.nodeName", ["/spec/nodeName"])])
            .unlisted_field(field::unlisted_of_slice)
            .cells(storage_table::resource_slice),
    ]
}

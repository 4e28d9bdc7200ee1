//! The kinds of the group `discovery.k8s.io`.

use super::rules::Generation;
use super::{Kind, namespaced};
use crate::defaults;
use crate::strategy::endpoints;
use crate::table::network as network_table;

const GROUP: &str = "discovery.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(GROUP, "v1", "EndpointSlice", "endpointslices", "endpointslice")
            .defaults(defaults::other::endpoint_slice)
            .generation(Generation::WishesAndLabels)
            .validate(endpoints::slice)
            .warnings(endpoints::slice_warnings)
            .cells(network_table::endpoint_slice),
    ]
}

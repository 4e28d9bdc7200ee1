//! The kinds of the group `apiextensions.k8s.io`.

use super::rules::Generation;
use super::{Kind, cluster, status};
use crate::defaults;

const GROUP: &str = "apiextensions.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(
            GROUP,
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinition",
        )
        .short(["crd", "crds"])
        .category(["api-extensions"])
        .subresources([status(GROUP, "v1", "CustomResourceDefinition")])
        .conditional_update()
        .defaults(defaults::other::custom_resource_definition)
        .generation(Generation::Wishes),
    ]
}

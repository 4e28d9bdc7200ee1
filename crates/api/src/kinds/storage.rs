//! The kinds of the group `storage.k8s.io`.

use super::{Kind, READ_WRITE, cluster, namespaced, status};
use crate::defaults;
use crate::strategy::cluster as cluster_rules;
use crate::table::storage as storage_table;

const GROUP: &str = "storage.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "CSIDriver", "csidrivers", "csidriver")
            .conditional_update()
            .defaults(defaults::other::csi_driver)
            .cells(storage_table::csi_driver),
        cluster(GROUP, "v1", "CSINode", "csinodes", "csinode")
            .conditional_update()
            .cells(storage_table::csi_node),
        namespaced(GROUP, "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity")
            .conditional_update()
            .cells(storage_table::csi_capacity),
        cluster(GROUP, "v1", "StorageClass", "storageclasses", "storageclass")
            .short(["sc"])
            .defaults(defaults::other::storage_class)
            .validate(cluster_rules::storage_class)
            .cells(storage_table::class),
        cluster(GROUP, "v1", "VolumeAttachment", "volumeattachments", "volumeattachment")
            .subresources([status(GROUP, "v1", "VolumeAttachment")])
            .conditional_update()
            .defaults(defaults::other::volume_attachment)
            .cells(storage_table::attachment),
        cluster(GROUP, "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass")
            .short(["vac"])
            .verbs(READ_WRITE)
            .cells(storage_table::attributes_class),
    ]
}

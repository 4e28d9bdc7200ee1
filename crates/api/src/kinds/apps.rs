//! The kinds of the group `apps`.

use super::rules::Generation;
use super::{Kind, Subresource, count, namespaced, status};
use crate::defaults;
use crate::strategy::apps;
use crate::table::workload;

const GROUP: &str = "apps";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced(GROUP, "v1", "ControllerRevision", "controllerrevisions", "controllerrevision")
            .cells(workload::controller_revision),
        namespaced(GROUP, "v1", "DaemonSet", "daemonsets", "daemonset")
            .short(["ds"])
            .category(["all"])
            .subresources([status(GROUP, "v1", "DaemonSet")])
            .defaults(defaults::apps::daemon_set)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences"])
            .prepare_create(apps::prepare_daemon_set)
            .prepare_update(apps::prepare_daemon_set_update)
            .validate(apps::daemon_set)
            .warnings(apps::template_warnings)
            .cells(workload::daemon_set),
        namespaced(GROUP, "v1", "Deployment", "deployments", "deployment")
            .short(["deploy"])
            .category(["all"])
            .subresources([Subresource::scale(), status(GROUP, "v1", "Deployment")])
            .defaults(defaults::apps::deployment)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences", "labels"])
            .validate(apps::deployment)
            .warnings(apps::template_warnings)
            .cells(workload::deployment),
        namespaced(GROUP, "v1", "ReplicaSet", "replicasets", "replicaset")
            .short(["rs"])
            .category(["all"])
            .subresources([Subresource::scale(), status(GROUP, "v1", "ReplicaSet")])
            .fields([count("status.replicas", "/status/replicas")])
            .defaults(defaults::apps::replica_set)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences"])
            .validate(apps::replica_set)
            .warnings(apps::template_warnings)
            .cells(workload::replica_set),
        namespaced(GROUP, "v1", "StatefulSet", "statefulsets", "statefulset")
            .short(["sts"])
            .category(["all"])
            .subresources([Subresource::scale(), status(GROUP, "v1", "StatefulSet")])
            .defaults(defaults::apps::stateful_set)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences"])
            .validate(apps::stateful_set)
            .warnings(apps::template_warnings)
            .cells(workload::stateful_set),
    ]
}

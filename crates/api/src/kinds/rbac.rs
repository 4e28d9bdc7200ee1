//! The kinds of the group `rbac.authorization.k8s.io`.

use super::{Kind, cluster, namespaced};
use crate::defaults;
use crate::strategy::cluster as cluster_rules;
use crate::table::policy;
use crate::validate::name_is_path_segment;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
            .creates_on_update()
            .defaults(defaults::other::binding)
            .name_rule(name_is_path_segment)
            .validate(cluster_rules::binding)
            .cells(policy::role_binding),
        cluster(GROUP, "v1", "ClusterRole", "clusterroles", "clusterrole")
            .creates_on_update()
            .name_rule(name_is_path_segment),
        namespaced(GROUP, "v1", "RoleBinding", "rolebindings", "rolebinding")
            .creates_on_update()
            .defaults(defaults::other::binding)
            .name_rule(name_is_path_segment)
            .validate(cluster_rules::binding)
            .cells(policy::role_binding),
        namespaced(GROUP, "v1", "Role", "roles", "role").creates_on_update().name_rule(name_is_path_segment),
    ]
}

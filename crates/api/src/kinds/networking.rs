//! The kinds of the group `networking.k8s.io`.

use super::rules::{Addressed, Generation};
use super::{Kind, cluster, namespaced, status};
use crate::defaults;
use crate::strategy::{addresses, ingress, network_policy};
use crate::table::network as network_table;

const GROUP: &str = "networking.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(GROUP, "v1", "IngressClass", "ingressclasses", "ingressclass")
            .generation(Generation::Wishes)
            .cells(network_table::ingress_class),
        namespaced(GROUP, "v1", "Ingress", "ingresses", "ingress")
            .short(["ing"])
            .subresources([status(GROUP, "v1", "Ingress")])
            .defaults(defaults::other::ingress)
            .validate(ingress::validate)
            .warnings(ingress::warnings)
            .generation(Generation::Wishes)
            .kept_by_status(&["ownerReferences"])
            .cells(network_table::ingress),
        cluster(GROUP, "v1", "IPAddress", "ipaddresses", "ipaddress")
            .short(["ip"])
            .name_rule(addresses::address_name)
            .validate(addresses::validate_address)
            .addressed(Addressed::Address)
            .cells(network_table::ip_address),
        namespaced(GROUP, "v1", "NetworkPolicy", "networkpolicies", "networkpolicy")
            .short(["netpol"])
            .defaults(defaults::other::network_policy)
            .validate(network_policy::validate)
            .generation(Generation::Wishes)
            .cells(network_table::network_policy),
        cluster(GROUP, "v1", "ServiceCIDR", "servicecidrs", "servicecidr")
            .subresources([status(GROUP, "v1", "ServiceCIDR")])
            .kept_by_status(&["ownerReferences"])
            .validate(addresses::validate_ranges)
            .addressed(Addressed::Ranges)
            .cells(network_table::service_cidr),
    ]
}

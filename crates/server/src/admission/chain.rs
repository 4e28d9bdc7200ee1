//! The steps in their order: upstream's AllOrderedPlugins, as far as they are switched on by default or
//! named by its guide to secure clusters (NodeRestriction).
//!
//! Admission webhooks and policies will stand before ResourceQuota, which stays the last: what it takes is
//! given back only when the write itself fails.

use futures_util::FutureExt as _;
use futures_util::future::ready;

use super::Concern::{Everything, These};
use super::Operation::{Create, Delete, Update};
use super::{
    Step, certificates, limit_ranger, namespace_lifecycle, node_restriction, pods, resource_quota, storage,
    without_effect,
};

const PODS: super::Concern = These(&[("", "pods", "")]);

pub(super) static CHAIN: &[Step] = &[
    Step {
        name: "NamespaceLifecycle",
        operations: &[Create, Update, Delete],
        concern: Everything,
        mutate: Some(|request| namespace_lifecycle::admit(request).boxed()),
        validate: None,
    },
    Step {
        name: "LimitRanger",
        operations: &[Create, Update],
        concern: These(&[("", "pods", ""), ("", "pods", "resize"), ("", "persistentvolumeclaims", "")]),
        mutate: Some(|request| ready(limit_ranger::mutate(request)).boxed()),
        validate: Some(|request, _| ready(limit_ranger::validate(request)).boxed()),
    },
    Step {
        name: "ServiceAccount",
        operations: &[Create],
        concern: PODS,
        mutate: Some(|request| pods::service_account(request).boxed()),
        validate: None,
    },
    Step {
        name: "NodeRestriction",
        operations: &[Create, Update, Delete],
        concern: These(&[
            ("", "pods", "*"),
            ("", "nodes", "*"),
            ("", "persistentvolumeclaims", "*"),
            ("", "serviceaccounts", "token"),
            ("coordination.k8s.io", "leases", "*"),
            ("storage.k8s.io", "csinodes", "*"),
            ("resource.k8s.io", "resourceslices", "*"),
            ("certificates.k8s.io", "certificatesigningrequests", "*"),
        ]),
        mutate: Some(|request| ready(node_restriction::admit(request)).boxed()),
        validate: None,
    },
    Step {
        name: "TaintNodesByCondition",
        operations: &[Create],
        concern: These(&[("", "nodes", "")]),
        mutate: Some(|request| {
            pods::taint_new_node(&mut request.object);
            ready(Ok(())).boxed()
        }),
        validate: None,
    },
    Step {
        name: "Priority",
        operations: &[Create, Update],
        concern: These(&[("", "pods", ""), ("scheduling.k8s.io", "priorityclasses", "")]),
        mutate: Some(|request| ready(pods::priority(request)).boxed()),
        validate: Some(|request, _| ready(pods::one_default_priority(request)).boxed()),
    },
    Step {
        name: "DefaultTolerationSeconds",
        operations: &[Create, Update],
        concern: PODS,
        mutate: Some(|request| {
            api::strategy::admission::tolerate_lost_nodes(&mut request.object);
            ready(Ok(())).boxed()
        }),
        validate: None,
    },
    Step {
        name: "DefaultStorageClass",
        operations: &[Create],
        concern: These(&[("", "persistentvolumeclaims", "")]),
        mutate: Some(|request| ready(storage::default_storage_class(request)).boxed()),
        validate: None,
    },
    Step {
        name: "StorageObjectInUseProtection",
        operations: &[Create],
        concern: These(&[("", "persistentvolumes", ""), ("", "persistentvolumeclaims", "")]),
        mutate: Some(|request| {
            storage::protect(request);
            ready(Ok(())).boxed()
        }),
        validate: None,
    },
    Step {
        name: "PersistentVolumeClaimResize",
        operations: &[Update],
        concern: These(&[("", "persistentvolumeclaims", "")]),
        mutate: None,
        validate: Some(|request, _| storage::claim_resize(request).boxed()),
    },
    Step {
        name: "RuntimeClass",
        operations: &[Create],
        concern: PODS,
        mutate: Some(|request| pods::runtime_class(request).boxed()),
        validate: Some(|request, _| ready(pods::overhead_has_class(request)).boxed()),
    },
    Step {
        name: "CertificateApproval",
        operations: &[Update],
        concern: These(&[("certificates.k8s.io", "certificatesigningrequests", "approval")]),
        mutate: None,
        validate: Some(|request, _| ready(certificates::approval(request)).boxed()),
    },
    Step {
        name: "CertificateSigning",
        operations: &[Update],
        concern: These(&[("certificates.k8s.io", "certificatesigningrequests", "status")]),
        mutate: None,
        validate: Some(|request, _| ready(certificates::signing(request)).boxed()),
    },
    Step {
        name: "CertificateSubjectRestriction",
        operations: &[Create],
        concern: These(&[("certificates.k8s.io", "certificatesigningrequests", "")]),
        mutate: None,
        validate: Some(|request, _| ready(certificates::subject_restriction(request)).boxed()),
    },
    Step {
        name: "DefaultIngressClass",
        operations: &[Create],
        concern: These(&[("networking.k8s.io", "ingresses", "")]),
        mutate: Some(|request| ready(storage::default_ingress_class(request)).boxed()),
        validate: None,
    },
    // Ours: what upstream would enforce and this program does not yet, PodSecurity among it.
    Step {
        name: "WithoutEffect",
        operations: &[Create, Update],
        concern: Everything,
        mutate: None,
        validate: Some(|request, outcome| ready(without_effect::validate(request, outcome)).boxed()),
    },
    Step {
        name: "ResourceQuota",
        operations: &[Create, Update],
        concern: Everything,
        mutate: None,
        validate: Some(|request, outcome| resource_quota::validate(request, outcome).boxed()),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream's order, of those that are here or will be.
    const ORDER: &[&str] = &[
        "NamespaceLifecycle",
        "LimitRanger",
        "ServiceAccount",
        "NodeRestriction",
        "TaintNodesByCondition",
        "PodSecurity",
        "Priority",
        "DefaultTolerationSeconds",
        "DefaultStorageClass",
        "StorageObjectInUseProtection",
        "PersistentVolumeClaimResize",
        "RuntimeClass",
        "CertificateApproval",
        "CertificateSigning",
        "ClusterTrustBundleAttest",
        "CertificateSubjectRestriction",
        "DefaultIngressClass",
        "PodTopologyLabels",
        "WithoutEffect",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionWebhook",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionWebhook",
        "ResourceQuota",
    ];

    #[test]
    fn the_steps_stand_in_upstreams_order_and_the_quota_last() {
        let places: Vec<_> = CHAIN
            .iter()
            .map(|step| ORDER.iter().position(|name| *name == step.name).expect("a known name"))
            .collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        assert_eq!(CHAIN.last().map(|step| step.name), Some("ResourceQuota"));
    }

    #[test]
    fn each_step_does_something_to_what_is_served() {
        for step in CHAIN {
            assert!(step.mutate.is_some() || step.validate.is_some(), "{}", step.name);
            let These(list) = step.concern else { continue };
            for (group, plural, part) in list {
                let resource = api::kinds::find(group, "v1", plural).expect(step.name);
                let served = part.is_empty() || *part == "*" || resource.subresource(part).is_some();
                assert!(served, "{} concerns {plural}/{part}", step.name);
            }
        }
    }
}

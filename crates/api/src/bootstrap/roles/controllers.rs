//! The roles of the controllers, `system:controller:<name>`, bound to their accounts in
//! kube-system.

use super::Rule::{self, Named, Of};
use super::{EVENTS, READ};

const CHANGE: &str = "get list update watch";
const KEEP: &str = "create delete get list patch update watch";
const PODS_OF_SETS: Rule = Of("create delete list patch watch", "", "pods");

pub(super) const ROLES: &[(&str, &[Rule])] = &[
    (
        "attachdetach-controller",
        &[
            Of("list watch", "", "persistentvolumeclaims persistentvolumes"),
            Of(READ, "", "nodes"),
            Of("patch update", "", "nodes/status"),
            Of("list watch", "", "pods"),
            EVENTS,
            Of("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            Of(READ, "storage.k8s.io", "csidrivers"),
            Of(READ, "storage.k8s.io", "csinodes"),
        ],
    ),
    (
        "certificate-controller",
        &[
            Of("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            Of(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            Named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet \
             kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            Of("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[Of("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    (
        "cronjob-controller",
        &[
            Of(CHANGE, "batch", "cronjobs"),
            Of(KEEP, "batch", "jobs"),
            Of("update", "batch", "cronjobs/status"),
            Of("update", "batch", "cronjobs/finalizers"),
            Of("delete list watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            Of(READ, "apps,extensions", "daemonsets"),
            Of("update", "apps,extensions", "daemonsets/status"),
            Of("update", "apps,extensions", "daemonsets/finalizers"),
            Of("list watch", "", "nodes"),
            PODS_OF_SETS,
            Of("create", "", "pods/binding"),
            Of(KEEP, "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            Of(CHANGE, "apps,extensions", "deployments"),
            Of("update", "apps,extensions", "deployments/status"),
            Of("update", "apps,extensions", "deployments/finalizers"),
            Of(KEEP, "apps,extensions", "replicasets"),
            Of(CHANGE, "", "pods"),
            EVENTS,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            Of("delete get list watch", "", "pods"),
            Of("patch update", "", "pods/status"),
            Of(READ, "resource.k8s.io", "resourceclaims"),
            Of(READ, "resource.k8s.io", "resourceslices"),
            Of(READ, "resource.k8s.io", "deviceclasses"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            Of(READ, "apps,extensions", "deployments"),
            Of(READ, "apps,extensions", "replicasets"),
            Of(READ, "", "replicationcontrollers"),
            Of(READ, "policy", "poddisruptionbudgets"),
            Of(READ, "apps", "statefulsets"),
            Of("update", "policy", "poddisruptionbudgets/status"),
            Of("patch update", "", "pods/status"),
            Of("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            Of(READ, "", "pods services"),
            Of("create delete get list update watch", "", "endpoints"),
            Of("create", "", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            Of(READ, "", "nodes pods services"),
            Of("update", "", "services/finalizers"),
            Of("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            Of(READ, "", "endpoints services"),
            Of("update", "", "services/finalizers"),
            Of("update", "", "endpoints/finalizers"),
            Of("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            Of(READ, "", "pods"),
            Of("update", "", "pods/finalizers"),
            Of("create get list watch", "", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            Of("get list patch update watch", "", "persistentvolumes"),
            Of("patch update", "", "persistentvolumeclaims/status"),
            Of(READ, "", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[Of("delete get list patch update watch", "*", "*"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            Of(READ, "autoscaling", "horizontalpodautoscalers"),
            Of("update", "autoscaling", "horizontalpodautoscalers/status"),
            Of("get update", "*", "*/scale"),
            Of("list watch", "", "pods"),
            Of("list watch", "metrics.k8s.io", "pods"),
            Of(READ, "custom.metrics.k8s.io", "*"),
            Of(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            Of("get list patch update watch", "batch", "jobs"),
            Of("update", "batch", "jobs/status"),
            Of("update", "batch", "jobs/finalizers"),
            PODS_OF_SETS,
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            Named("get", "", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            Of("delete patch", "", "secrets"),
        ],
    ),
    (
        "namespace-controller",
        &[
            Of("delete get list watch", "", "namespaces"),
            Of("update", "", "namespaces/finalize namespaces/status"),
            Of("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            Of("delete get list patch update watch", "", "nodes"),
            Of("patch update", "", "nodes/status"),
            Of("patch update", "", "pods/status"),
            Of("delete get list watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            Of("create delete get list update watch", "", "persistentvolumes"),
            Of("update", "", "persistentvolumes/status"),
            Of(CHANGE, "", "persistentvolumeclaims"),
            Of("update", "", "persistentvolumeclaims/status"),
            Of("create delete get list watch", "", "pods"),
            Of(READ, "storage.k8s.io", "storageclasses"),
            Of("list watch", "", "nodes"),
            EVENTS,
            Of("watch", "", "events"),
        ],
    ),
    (
        "pod-garbage-collector",
        &[Of("delete list watch", "", "pods"), Of(READ, "", "nodes"), Of("patch", "", "pods/status")],
    ),
    ("pv-protection-controller", &[Of(CHANGE, "", "persistentvolumes"), EVENTS]),
    (
        "pvc-protection-controller",
        &[
            Of(CHANGE, "", "persistentvolumeclaims"),
            Of("update", "", "persistentvolumeclaims/status"),
            Of(READ, "", "pods"),
            EVENTS,
        ],
    ),
    (
        "replicaset-controller",
        &[
            Of(CHANGE, "apps,extensions", "replicasets"),
            Of("update", "apps,extensions", "replicasets/status"),
            Of("update", "apps,extensions", "replicasets/finalizers"),
            PODS_OF_SETS,
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            Of(CHANGE, "", "replicationcontrollers"),
            Of("update", "", "replicationcontrollers/status"),
            Of("update", "", "replicationcontrollers/finalizers"),
            PODS_OF_SETS,
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            Of(READ, "", "pods"),
            Of("update", "", "pods/finalizers"),
            Of("create delete get list watch", "resource.k8s.io", "resourceclaims"),
            Of("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
            Of("patch update", "", "pods/status"),
            EVENTS,
            Of("patch update", "resource.k8s.io", "resourceclaims/binding"),
        ],
    ),
    (
        "resourcequota-controller",
        &[Of("list watch", "*", "*"), Of("update", "", "resourcequotas/status"), EVENTS],
    ),
    ("root-ca-cert-publisher", &[Of("create update", "", "configmaps"), EVENTS]),
    ("route-controller", &[Of("list watch", "", "nodes"), Of("patch", "", "nodes/status"), EVENTS]),
    (
        "selinux-warning-controller",
        &[
            EVENTS,
            Of(READ, "", "persistentvolumes"),
            Of(READ, "", "persistentvolumeclaims"),
            Of(READ, "", "pods"),
            Of(READ, "storage.k8s.io", "csidrivers"),
        ],
    ),
    ("service-account-controller", &[Of("create", "", "serviceaccounts"), EVENTS]),
    (
        "service-cidrs-controller",
        &[
            Of("get list patch update watch", "networking.k8s.io", "servicecidrs"),
            Of("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
            Of("patch update", "networking.k8s.io", "servicecidrs/status"),
            Of(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    (
        "service-controller",
        &[
            Of(READ, "", "services"),
            Of("patch update", "", "services/status"),
            Of("list watch", "", "nodes"),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            Of("list watch", "", "pods"),
            Of(READ, "apps", "statefulsets"),
            Of("update", "apps", "statefulsets/status"),
            Of("update", "apps", "statefulsets/finalizers"),
            Of("create delete get patch update", "", "pods"),
            Of(KEEP, "apps", "controllerrevisions"),
            Of("create get list watch", "", "persistentvolumeclaims"),
            Of("delete update", "", "persistentvolumeclaims"),
            Of("update", "", "pods/finalizers"),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[Of("delete get list watch", "batch", "jobs"), EVENTS]),
    ("ttl-controller", &[Of("list patch update watch", "", "nodes"), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            Of(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            Of("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
    (
        "volumeattributesclass-protection-controller",
        &[
            Of(READ, "", "persistentvolumeclaims"),
            Of(READ, "", "persistentvolumes"),
            Of(CHANGE, "storage.k8s.io", "volumeattributesclasses"),
            EVENTS,
        ],
    ),
];

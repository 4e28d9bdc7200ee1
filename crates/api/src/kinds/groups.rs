//! The named groups.

use super::{
    Kind, PART, READ_WRITE, SelectableField, Subresource, cluster, count, namespaced, part, review, status,
    text,
};

const ADMISSION: &str = "admissionregistration.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const DRA: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const EXTENSIONS: [&str; 1] = ["api-extensions"];
const ALL: [&str; 1] = ["all"];

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        // admissionregistration.k8s.io
        cluster(
            ADMISSION,
            "v1",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
        )
        .category(EXTENSIONS)
        .creates_on_update(),
        cluster(
            ADMISSION,
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
        )
        .category(EXTENSIONS)
        .creates_on_update(),
        cluster(
            ADMISSION,
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
        )
        .category(EXTENSIONS),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
        )
        .category(EXTENSIONS)
        .subresources([status(ADMISSION, "v1", "ValidatingAdmissionPolicy")]),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
        )
        .category(EXTENSIONS),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
        )
        .category(EXTENSIONS),
        // apiextensions.k8s.io
        cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinition",
        )
        .short(["crd", "crds"])
        .category(EXTENSIONS)
        .subresources([status("apiextensions.k8s.io", "v1", "CustomResourceDefinition")])
        .conditional_update(),
        // apiregistration.k8s.io
        cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices", "apiservice")
            .category(EXTENSIONS)
            .subresources([status("apiregistration.k8s.io", "v1", "APIService")])
            .conditional_update(),
        // apps
        namespaced("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision"),
        namespaced("apps", "v1", "DaemonSet", "daemonsets", "daemonset")
            .short(["ds"])
            .category(ALL)
            .subresources([status("apps", "v1", "DaemonSet")]),
        namespaced("apps", "v1", "Deployment", "deployments", "deployment")
            .short(["deploy"])
            .category(ALL)
            .subresources([Subresource::scale(), status("apps", "v1", "Deployment")]),
        namespaced("apps", "v1", "ReplicaSet", "replicasets", "replicaset")
            .short(["rs"])
            .category(ALL)
            .subresources([Subresource::scale(), status("apps", "v1", "ReplicaSet")])
            .fields([count("status.replicas", "/status/replicas")]),
        namespaced("apps", "v1", "StatefulSet", "statefulsets", "statefulset")
            .short(["sts"])
            .category(ALL)
            .subresources([Subresource::scale(), status("apps", "v1", "StatefulSet")]),
        // authentication.k8s.io, authorization.k8s.io: answered and forgotten
        review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
        review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview"),
        Kind {
            namespaced: true,
            ..review(
                AUTHORIZATION,
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
            )
        },
        review(
            AUTHORIZATION,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
        ),
        review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
        review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
        // autoscaling
        namespaced(
            "autoscaling",
            "v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
        .short(["hpa"])
        .category(ALL)
        .subresources([status("autoscaling", "v1", "HorizontalPodAutoscaler")])
        .stored_as("autoscaling", "v2"),
        namespaced(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
        )
        .short(["hpa"])
        .category(ALL)
        .subresources([status("autoscaling", "v2", "HorizontalPodAutoscaler")]),
        // batch
        namespaced("batch", "v1", "CronJob", "cronjobs", "cronjob")
            .short(["cj"])
            .category(ALL)
            .subresources([status("batch", "v1", "CronJob")]),
        namespaced("batch", "v1", "Job", "jobs", "job")
            .category(ALL)
            .subresources([status("batch", "v1", "Job")])
            .fields([count("status.successful", "/status/succeeded")]),
        // certificates.k8s.io
        cluster(
            CERTIFICATES,
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
        )
        .short(["csr"])
        .subresources([
            part("approval", CERTIFICATES, "v1", "CertificateSigningRequest", PART),
            status(CERTIFICATES, "v1", "CertificateSigningRequest"),
        ])
        .fields([text("spec.signerName", ["/spec/signerName"])]),
        // coordination.k8s.io
        namespaced("coordination.k8s.io", "v1", "Lease", "leases", "lease")
            .creates_on_update()
            .conditional_update(),
        // discovery.k8s.io
        namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice"),
        // events.k8s.io
        namespaced("events.k8s.io", "v1", "Event", "events", "event")
            .short(["ev"])
            .fields(event_fields())
            .stored_as("", "v1")
            .creates_on_update(),
        // flowcontrol.apiserver.k8s.io
        cluster(FLOW, "v1", "FlowSchema", "flowschemas", "flowschema").subresources([status(
            FLOW,
            "v1",
            "FlowSchema",
        )]),
        cluster(
            FLOW,
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
        )
        .subresources([status(FLOW, "v1", "PriorityLevelConfiguration")]),
        // networking.k8s.io
        cluster(NETWORKING, "v1", "IngressClass", "ingressclasses", "ingressclass"),
        namespaced(NETWORKING, "v1", "Ingress", "ingresses", "ingress")
            .short(["ing"])
            .subresources([status(NETWORKING, "v1", "Ingress")]),
        cluster(NETWORKING, "v1", "IPAddress", "ipaddresses", "ipaddress").short(["ip"]),
        namespaced(NETWORKING, "v1", "NetworkPolicy", "networkpolicies", "networkpolicy").short(["netpol"]),
        cluster(NETWORKING, "v1", "ServiceCIDR", "servicecidrs", "servicecidr").subresources([status(
            NETWORKING,
            "v1",
            "ServiceCIDR",
        )]),
        // node.k8s.io
        cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass").conditional_update(),
        // policy
        namespaced("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
            .short(["pdb"])
            .subresources([status("policy", "v1", "PodDisruptionBudget")])
            .conditional_update(),
        // rbac.authorization.k8s.io
        cluster(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
            .creates_on_update(),
        cluster(RBAC, "v1", "ClusterRole", "clusterroles", "clusterrole").creates_on_update(),
        namespaced(RBAC, "v1", "RoleBinding", "rolebindings", "rolebinding").creates_on_update(),
        namespaced(RBAC, "v1", "Role", "roles", "role").creates_on_update(),
        // resource.k8s.io
        cluster(DRA, "v1", "DeviceClass", "deviceclasses", "deviceclass"),
        namespaced(DRA, "v1", "ResourceClaim", "resourceclaims", "resourceclaim").subresources([status(
            DRA,
            "v1",
            "ResourceClaim",
        )]),
        namespaced(DRA, "v1", "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate"),
        cluster(DRA, "v1", "ResourceSlice", "resourceslices", "resourceslice")
            .fields([text("spec.driver", ["/spec/driver"]), text("spec.nodeName", ["/spec/nodeName"])]),
        // scheduling.k8s.io
        cluster("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass").short(["pc"]),
        // storage.k8s.io
        cluster(STORAGE, "v1", "CSIDriver", "csidrivers", "csidriver"),
        cluster(STORAGE, "v1", "CSINode", "csinodes", "csinode"),
        namespaced(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity"),
        cluster(STORAGE, "v1", "StorageClass", "storageclasses", "storageclass").short(["sc"]),
        cluster(STORAGE, "v1", "VolumeAttachment", "volumeattachments", "volumeattachment")
            .subresources([status(STORAGE, "v1", "VolumeAttachment")]),
        cluster(STORAGE, "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass")
            .short(["vac"])
            .verbs(READ_WRITE),
    ]
}

/// The names of `events.k8s.io`; the values are those of the stored core Event.
fn event_fields() -> Vec<SelectableField> {
    vec![
        text("reason", ["/reason"]),
        text("regarding.apiVersion", ["/involvedObject/apiVersion", "/regarding/apiVersion"]),
        text("regarding.fieldPath", ["/involvedObject/fieldPath", "/regarding/fieldPath"]),
        text("regarding.kind", ["/involvedObject/kind", "/regarding/kind"]),
        text("regarding.name", ["/involvedObject/name", "/regarding/name"]),
        text("regarding.namespace", ["/involvedObject/namespace", "/regarding/namespace"]),
        text("regarding.resourceVersion", ["/involvedObject/resourceVersion", "/regarding/resourceVersion"]),
        text("regarding.uid", ["/involvedObject/uid", "/regarding/uid"]),
        text("reportingController", ["/reportingComponent", "/reportingController"]),
        text("type", ["/type"]),
    ]
}

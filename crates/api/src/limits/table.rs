//! The rows.

use super::find::{
    apparmor, block_without_volume, enforced_pod_security, extended_resources, foreign_handler,
    foreign_ingress_annotations, huge_page_limits, ranges_that_give_nothing, resource_backends, selinux,
    told_pod_security,
};
use super::{Found, Limit, Shown};

const WARNED: &[Shown] = &[Shown::Warning];
const REFUSED: &[Shown] = &[Shown::Refused];

/// A kind of which nothing has any effect.
const fn kind(group: &'static str, kind: &'static str, says: &'static str, example: &'static str) -> Limit {
    Limit { group, kind, name: kind, found: Found::Always, shown: WARNED, says, example }
}

/// Part of a kind, named in a few words.
const fn part(
    of: (&'static str, &'static str),
    name: &'static str,
    found: Found,
    says: &'static str,
    example: &'static str,
) -> Limit {
    Limit { group: of.0, kind: of.1, name, found, shown: WARNED, says, example }
}

impl Limit {
    const fn shown(self, shown: &'static [Shown]) -> Self {
        Self { shown, ..self }
    }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const DRA: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const POD: (&str, &str) = ("", "Pod");
const CLAIM: (&str, &str) = ("", "PersistentVolumeClaim");

const NO_DEVICES: &str = "stored, and no devices are allocated yet";
const NO_CSI: &str = "stored, and CSI drivers are not used yet";
const NO_HOOKS: &str = "admission webhooks are not called yet, and what this one would stop would pass";
const NO_POLICY: &str = "stored, and admission policies are not evaluated yet";
const NO_BINDING: &str = "admission policies are not evaluated yet, and what this one would stop would pass";
const NO_VOLUME: &str = "this node mounts no volumes of this kind yet: the Pod waits with FailedMount";

/// Everything that is accepted and has no effect, or not all of its effect.
pub const LIMITS: &[Limit] = &[
    // Workloads.
    part(
        ("autoscaling", "HorizontalPodAutoscaler"),
        "HorizontalPodAutoscaler by other metrics than resources",
        Found::At(&["spec.metrics[*].type=Pods", "spec.metrics[*].type=Object", "spec.metrics[*].type=External"]),
        "nothing is scaled by it: there is no API of custom or external metrics yet",
        r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: limits}
spec:
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}
  metrics: [{type: Pods, pods: {metric: {name: m}, target: {type: AverageValue, averageValue: "1"}}}]
"#,
    ),
    // Extensions of the API.
    kind(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "stored, and never Established: objects of custom kinds are not served yet",
        r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.limits.example.com}
spec:
  group: limits.example.com
  names: {kind: Boat, plural: boats}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
"#,
    ),
    part(
        ("apiregistration.k8s.io", "APIService"),
        "APIService",
        Found::At(&["spec.service"]),
        "stored, and no requests are led to it yet",
        r#"
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.limits.example.com}
spec: {group: limits.example.com, version: v1, groupPriorityMinimum: 1, versionPriority: 1, insecureSkipTLSVerify: true, service: {name: s, namespace: default}}
"#,
    ),
    part(
        (ADMISSION, "ValidatingWebhookConfiguration"),
        "ValidatingWebhookConfiguration with failurePolicy Fail",
        Found::At(&["webhooks[*].failurePolicy=Fail"]),
        NO_HOOKS,
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: limits}
webhooks: [{name: a.limits.example.com, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://example.com/a"}}]
"#,
    )
    .shown(REFUSED),
    part(
        (ADMISSION, "ValidatingWebhookConfiguration"),
        "ValidatingWebhookConfiguration with failurePolicy Ignore",
        Found::At(&["webhooks[*].failurePolicy=Ignore"]),
        "stored, and admission webhooks are not called yet",
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: limits}
webhooks: [{name: a.limits.example.com, failurePolicy: Ignore, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://example.com/a"}}]
"#,
    ),
    part(
        (ADMISSION, "MutatingWebhookConfiguration"),
        "MutatingWebhookConfiguration with failurePolicy Fail",
        Found::At(&["webhooks[*].failurePolicy=Fail"]),
        "admission webhooks are not called yet, and what this one would change would stay as it is",
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: limits}
webhooks: [{name: a.limits.example.com, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://example.com/a"}}]
"#,
    )
    .shown(REFUSED),
    part(
        (ADMISSION, "MutatingWebhookConfiguration"),
        "MutatingWebhookConfiguration with failurePolicy Ignore",
        Found::At(&["webhooks[*].failurePolicy=Ignore"]),
        "stored, and admission webhooks are not called yet",
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: limits}
webhooks: [{name: a.limits.example.com, failurePolicy: Ignore, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://example.com/a"}}]
"#,
    ),
    kind(ADMISSION, "ValidatingAdmissionPolicy", NO_POLICY, r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: limits}
spec: {validations: [{expression: "true"}]}
"#),
    part(
        (ADMISSION, "ValidatingAdmissionPolicyBinding"),
        "ValidatingAdmissionPolicyBinding that denies",
        Found::At(&["spec.validationActions[*]=Deny"]),
        NO_BINDING,
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: limits}
spec: {policyName: p, validationActions: [Deny]}
"#,
    )
    .shown(REFUSED),
    part(
        (ADMISSION, "ValidatingAdmissionPolicyBinding"),
        "ValidatingAdmissionPolicyBinding that warns or audits",
        Found::At(&["spec.validationActions[*]=Warn", "spec.validationActions[*]=Audit"]),
        NO_POLICY,
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: limits}
spec: {policyName: p, validationActions: [Warn]}
"#,
    ),
    kind(ADMISSION, "MutatingAdmissionPolicy", NO_POLICY, r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: limits}
spec:
  reinvocationPolicy: Never
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[]"}}]
"#),
    kind(
        ADMISSION,
        "MutatingAdmissionPolicyBinding",
        "admission policies are not evaluated yet, and what this one would change would stay as it is",
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: limits}
spec: {policyName: p}
"#,
    )
    .shown(REFUSED),
    kind(FLOW, "FlowSchema", "stored, and requests are not sorted by it yet", r#"
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: limits}
spec: {priorityLevelConfiguration: {name: global-default}}
"#),
    kind(FLOW, "PriorityLevelConfiguration", "stored, and requests are not queued by it yet", r#"
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: limits}
spec: {type: Limited, limited: {nominalConcurrencyShares: 1, limitResponse: {type: Reject}}}
"#),
    // Access and security.
    part(
        ("", "Namespace"),
        "Pod Security levels that are enforced",
        Found::By(enforced_pod_security),
        "Pod Security levels are not enforced yet, and this one would look like protection",
        r#"
apiVersion: v1
kind: Namespace
metadata: {name: limits, labels: {pod-security.kubernetes.io/enforce: restricted}}
"#,
    )
    .shown(REFUSED),
    part(
        ("", "Namespace"),
        "Pod Security levels that warn or audit",
        Found::By(told_pod_security),
        "stored, and Pods are not held against Pod Security levels yet",
        r#"
apiVersion: v1
kind: Namespace
metadata: {name: limits, labels: {pod-security.kubernetes.io/warn: baseline}}
"#,
    ),
    // Network.
    part(
        (NETWORKING, "Ingress"),
        "Ingress annotations of other controllers",
        Found::By(foreign_ingress_annotations),
        "annotations of other ingress controllers have no effect here",
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: limits, annotations: {nginx.ingress.kubernetes.io/rewrite-target: /}}
spec: {ingressClassName: monopod, defaultBackend: {service: {name: s, port: {number: 80}}}}
"#,
    ),
    part(
        (NETWORKING, "Ingress"),
        "Ingress resource backends",
        Found::By(resource_backends),
        "resource backends are not supported: requests for it are answered with 503",
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: limits-resource}
spec: {ingressClassName: monopod, defaultBackend: {resource: {kind: Bucket, name: b}}}
"#,
    ),
    part(
        (NETWORKING, "ServiceCIDR"),
        "ranges of IPv6, and those that are not from /8 to /30",
        Found::By(ranges_that_give_nothing),
        "stored, and Services get no addresses from it yet",
        r#"
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: limits}
spec: {cidrs: ["2001:db8:1::/64"]}
"#,
    ),
    // Storage and devices.
    part(
        ("", "PersistentVolume"),
        "volumes of other kinds than hostPath and local",
        Found::At(&[
            "spec.awsElasticBlockStore", "spec.azureDisk", "spec.azureFile", "spec.cephfs", "spec.cinder",
            "spec.csi", "spec.fc", "spec.flexVolume", "spec.flocker", "spec.gcePersistentDisk",
            "spec.glusterfs", "spec.iscsi", "spec.nfs", "spec.photonPersistentDisk", "spec.portworxVolume",
            "spec.quobyte", "spec.rbd", "spec.scaleIO", "spec.storageos", "spec.vsphereVolume",
        ]),
        "this node mounts no volumes of this kind yet: Pods with its claim wait with FailedMount",
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: limits}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], nfs: {server: nfs.example.com, path: /}}
"#,
    ),
    part(
        CLAIM,
        "volumeMode Block",
        Found::By(block_without_volume),
        "no block devices are made: the claim waits for a local volume of that mode",
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: limits-block}
spec: {volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#,
    ),
    part(
        CLAIM,
        "dataSource",
        Found::At(&["spec.dataSource", "spec.dataSourceRef"]),
        "volumes are not made from others or from snapshots yet: the claim waits",
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: limits-copy}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}, dataSource: {kind: PersistentVolumeClaim, name: other}}
"#,
    ),
    part(
        CLAIM,
        "volumeAttributesClassName",
        Found::At(&["spec.volumeAttributesClassName"]),
        "CSI drivers are not used yet, and no others have attributes",
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: limits-attributes}
spec: {volumeAttributesClassName: limits, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#,
    ),
    kind(STORAGE, "CSIDriver", NO_CSI, r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: limits.example.com}
"#),
    kind(STORAGE, "VolumeAttachment", "stored, and no volumes are attached yet", r#"
apiVersion: storage.k8s.io/v1
kind: VolumeAttachment
metadata: {name: limits}
spec: {attacher: limits.example.com, nodeName: node, source: {persistentVolumeName: v}}
"#),
    kind(STORAGE, "VolumeAttributesClass", NO_CSI, r#"
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: limits}
driverName: limits.example.com
parameters: {iops: "1"}
"#),
    kind(DRA, "DeviceClass", NO_DEVICES, r#"
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: limits}
"#),
    kind(DRA, "ResourceClaim", NO_DEVICES, r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: limits}
spec: {devices: {requests: [{name: r, exactly: {deviceClassName: limits}}]}}
"#),
    kind(DRA, "ResourceClaimTemplate", NO_DEVICES, r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: limits}
spec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: limits}}]}}}
"#),
    kind(DRA, "ResourceSlice", NO_DEVICES, r#"
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: limits}
spec: {driver: limits.example.com, nodeName: node, pool: {name: node, generation: 1, resourceSliceCount: 1}, devices: [{name: d}]}
"#),
    part(
        ("node.k8s.io", "RuntimeClass"),
        "RuntimeClass of another handler than monopod and runc",
        Found::By(foreign_handler),
        "no such runtime: Pods of this class do not start",
        r#"
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: limits}
handler: kata
"#,
    ),
    // Pods.
    part(
        POD,
        "AppArmor profiles",
        Found::By(apparmor),
        "AppArmor profiles are not applied yet: the node refuses the Pod",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-apparmor}
spec: {securityContext: {appArmorProfile: {type: RuntimeDefault}}, containers: [{name: c, image: "busybox:1.36"}]}
"#,
    )
    .shown(&[Shown::Warning, Shown::Failed("AppArmor")]),
    part(
        POD,
        "SELinux labels",
        Found::By(selinux),
        "SELinux labels are not applied yet: the node refuses the Pod unless it is privileged",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-selinux}
spec: {securityContext: {seLinuxOptions: {level: "s0:c1,c2"}}, containers: [{name: c, image: "busybox:1.36"}]}
"#,
    )
    .shown(&[Shown::Warning, Shown::Failed("SELinux")]),
    part(
        POD,
        "resourceClaims",
        Found::At(&["spec.resourceClaims"]),
        "no devices are allocated yet: the Pod stays Pending",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-claims}
spec: {resourceClaims: [{name: r, resourceClaimName: limits}], containers: [{name: c, image: "busybox:1.36", resources: {claims: [{name: r}]}}]}
"#,
    )
    .shown(&[Shown::Warning, Shown::Pending("devices of resource claims are not allocated yet")]),
    part(
        POD,
        "extended resources",
        Found::By(extended_resources),
        "there are no device plug-ins yet: the Pod stays Pending unless the node's status offers it",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-extended}
spec: {containers: [{name: c, image: "busybox:1.36", resources: {limits: {example.com/device: 1}}}]}
"#,
    )
    .shown(&[Shown::Warning, Shown::Pending("Insufficient example.com/device")]),
    part(
        POD,
        "limits of huge pages",
        Found::By(huge_page_limits),
        "counted when the Pod is placed, and not enforced yet",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-pages}
spec: {containers: [{name: c, image: "busybox:1.36", resources: {limits: {hugepages-2Mi: 2Mi, memory: 1Mi}}}]}
"#,
    ),
    part(
        POD,
        "windowsOptions",
        Found::At(&["spec.securityContext.windowsOptions", "spec.*[*].securityContext.windowsOptions"]),
        "the nodes are of Linux, and it has no effect",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-windows}
spec: {securityContext: {windowsOptions: {runAsUserName: u}}, containers: [{name: c, image: "busybox:1.36"}]}
"#,
    ),
    part(
        POD,
        "schedulingGroup",
        Found::At(&["spec.schedulingGroup"]),
        "Pods are not placed in groups: it is placed alone",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-group}
spec: {schedulingGroup: {podGroupName: g}, containers: [{name: c, image: "busybox:1.36"}]}
"#,
    ),
    part(
        POD,
        "projections of clusterTrustBundle and podCertificate",
        Found::At(&[
            "spec.volumes[*].projected.sources[*].clusterTrustBundle",
            "spec.volumes[*].projected.sources[*].podCertificate",
        ]),
        "off in this release, as upstream has it: the Pod waits with FailedMount",
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-bundle}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, projected: {sources: [{clusterTrustBundle: {name: b, path: ca.pem}}]}}]
  containers: [{name: c, image: "busybox:1.36", volumeMounts: [{name: v, mountPath: /v}]}]
"#,
    )
    .shown(&[Shown::Warning, Shown::Event("FailedMount", "clusterTrustBundle")]),
    part(
        POD,
        "volumes of other kinds than emptyDir, hostPath, configMap, secret, downwardAPI, projected, image and claims",
        Found::At(&[
            "spec.volumes[*].awsElasticBlockStore", "spec.volumes[*].azureDisk", "spec.volumes[*].azureFile",
            "spec.volumes[*].cephfs", "spec.volumes[*].cinder", "spec.volumes[*].csi", "spec.volumes[*].fc",
            "spec.volumes[*].flexVolume", "spec.volumes[*].flocker", "spec.volumes[*].gcePersistentDisk",
            "spec.volumes[*].gitRepo", "spec.volumes[*].glusterfs",
            "spec.volumes[*].iscsi", "spec.volumes[*].nfs", "spec.volumes[*].photonPersistentDisk",
            "spec.volumes[*].portworxVolume", "spec.volumes[*].quobyte", "spec.volumes[*].rbd",
            "spec.volumes[*].scaleIO", "spec.volumes[*].storageos", "spec.volumes[*].vsphereVolume",
        ]),
        NO_VOLUME,
        r#"
apiVersion: v1
kind: Pod
metadata: {name: limits-volume}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: v, nfs: {server: nfs.example.com, path: /}}]
  containers: [{name: c, image: "busybox:1.36", volumeMounts: [{name: v, mountPath: /v}]}]
"#,
    )
    .shown(&[Shown::Warning, Shown::Event("FailedMount", "\"kubernetes.io/nfs\" is not supported by this node")]),
];

//! The core group, `v1`.

use super::{
    CONNECT, CREATE, GET, Kind, NO_COLLECTION_DELETE, PART, PROXY, READ_ONLY, SelectableField, Subresource,
    UPDATE, cluster, count, flag, namespaced, part, status, text,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced("", "v1", "Binding", "bindings", "binding").verbs(CREATE),
        cluster("", "v1", "ComponentStatus", "componentstatuses", "componentstatus")
            .short(["cs"])
            .verbs(READ_ONLY),
        namespaced("", "v1", "ConfigMap", "configmaps", "configmap").short(["cm"]),
        namespaced("", "v1", "Endpoints", "endpoints", "endpoints").short(["ep"]).creates_on_update(),
        namespaced("", "v1", "Event", "events", "event")
            .short(["ev"])
            .fields(event_fields())
            .creates_on_update(),
        namespaced("", "v1", "LimitRange", "limitranges", "limitrange").short(["limits"]).creates_on_update(),
        cluster("", "v1", "Namespace", "namespaces", "namespace")
            .short(["ns"])
            .verbs(NO_COLLECTION_DELETE)
            .subresources([part("finalize", "", "v1", "Namespace", UPDATE), status("", "v1", "Namespace")])
            .fields([text("status.phase", ["/status/phase"])]),
        cluster("", "v1", "Node", "nodes", "node")
            .short(["no"])
            .subresources([part("proxy", "", "v1", "NodeProxyOptions", PROXY), status("", "v1", "Node")])
            .fields([flag("spec.unschedulable", "/spec/unschedulable")]),
        namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
            .short(["pvc"])
            .subresources([status("", "v1", "PersistentVolumeClaim")]),
        cluster("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume")
            .short(["pv"])
            .subresources([status("", "v1", "PersistentVolume")]),
        pod(),
        namespaced("", "v1", "PodTemplate", "podtemplates", "podtemplate").creates_on_update(),
        namespaced("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller")
            .short(["rc"])
            .category(["all"])
            .subresources([Subresource::scale(), status("", "v1", "ReplicationController")])
            .fields([count("status.replicas", "/status/replicas")]),
        namespaced("", "v1", "ResourceQuota", "resourcequotas", "resourcequota")
            .short(["quota"])
            .subresources([status("", "v1", "ResourceQuota")]),
        namespaced("", "v1", "Secret", "secrets", "secret").fields([text("type", ["/type"])]),
        namespaced("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
            .short(["sa"])
            .subresources([part("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE)]),
        namespaced("", "v1", "Service", "services", "service")
            .short(["svc"])
            .category(["all"])
            .subresources([
                part("proxy", "", "v1", "ServiceProxyOptions", PROXY),
                status("", "v1", "Service"),
            ])
            .fields([text("spec.clusterIP", ["/spec/clusterIP"]), text("spec.type", ["/spec/type"])])
            .creates_on_update(),
    ]
}

fn pod() -> Kind {
    namespaced("", "v1", "Pod", "pods", "pod")
        .short(["po"])
        .category(["all"])
        .subresources(pod_subresources())
        .fields(pod_fields())
        .deletes_gracefully()
}

fn pod_subresources() -> Vec<Subresource> {
    vec![
        part("attach", "", "v1", "PodAttachOptions", CONNECT),
        part("binding", "", "v1", "Binding", CREATE),
        part("ephemeralcontainers", "", "v1", "Pod", PART),
        part("eviction", "policy", "v1", "Eviction", CREATE),
        part("exec", "", "v1", "PodExecOptions", CONNECT),
        part("log", "", "v1", "Pod", GET),
        part("portforward", "", "v1", "PodPortForwardOptions", CONNECT),
        part("proxy", "", "v1", "PodProxyOptions", PROXY),
        part("resize", "", "v1", "Pod", PART),
        status("", "v1", "Pod"),
    ]
}

fn pod_fields() -> Vec<SelectableField> {
    vec![
        flag("spec.hostNetwork", "/spec/hostNetwork"),
        text("spec.nodeName", ["/spec/nodeName"]),
        text("spec.restartPolicy", ["/spec/restartPolicy"]),
        text("spec.schedulerName", ["/spec/schedulerName"]),
        text("spec.serviceAccountName", ["/spec/serviceAccountName"]),
        text("status.nominatedNodeName", ["/status/nominatedNodeName"]),
        text("status.phase", ["/status/phase"]),
        text("status.podIP", ["/status/podIPs/0/ip", "/status/podIP"]),
        text("status.podIPs", ["/status/podIPs/0/ip", "/status/podIP"]),
    ]
}

fn event_fields() -> Vec<SelectableField> {
    vec![
        text("involvedObject.apiVersion", ["/involvedObject/apiVersion"]),
        text("involvedObject.fieldPath", ["/involvedObject/fieldPath"]),
        text("involvedObject.kind", ["/involvedObject/kind"]),
        text("involvedObject.name", ["/involvedObject/name"]),
        text("involvedObject.namespace", ["/involvedObject/namespace"]),
        text("involvedObject.resourceVersion", ["/involvedObject/resourceVersion"]),
        text("involvedObject.uid", ["/involvedObject/uid"]),
        text("reason", ["/reason"]),
        text("reportingComponent", ["/reportingComponent"]),
        text("source", ["/source/component", "/reportingComponent"]),
        text("type", ["/type"]),
    ]
}

//! The kinds of the core group, `v1`.

use super::rules::{Addressed, Generation};
use super::{
    Answered, CONNECT, CREATE, Deletion, EVENTS_WITHIN, GET, Kind, NO_COLLECTION_DELETE, PART, PROXY,
    READ_ONLY, SelectableField, Subresource, UPDATE, cluster, count, flag, lasting, namespaced, part, status,
    text,
};
use crate::bootstrap;
use crate::defaults;
use crate::selector::field;
use crate::strategy::admission::quota as counting;
use crate::strategy::{
    apps, cluster as cluster_rules, config, endpoints, event, pod as pod_rules, quota, service, storage,
};
use crate::table::{
    cluster as cluster_table, network as network_table, pod as pod_table, storage as storage_table, workload,
};
use crate::validate::name_is_dns_label;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        namespaced("", "v1", "Binding", "bindings", "binding").verbs(CREATE).answered(Answered::ByBinding),
        cluster("", "v1", "ComponentStatus", "componentstatuses", "componentstatus")
            .short(["cs"])
            .verbs(READ_ONLY)
            .cells(cluster_table::component_status),
        namespaced("", "v1", "ConfigMap", "configmaps", "configmap")
            .short(["cm"])
            .counting(counting::BY_PLURAL)
            .validate(config::config_map)
            .cells(cluster_table::config_map),
        namespaced("", "v1", "Endpoints", "endpoints", "endpoints")
            .short(["ep"])
            .creates_on_update()
            .defaults(defaults::core::endpoints)
            .validate(|new, _, errors| endpoints::endpoints(new, errors))
            .warnings(endpoints::warnings)
            .cells(network_table::endpoints),
        event_kind(),
        namespaced("", "v1", "LimitRange", "limitranges", "limitrange")
            .short(["limits"])
            .creates_on_update()
            .defaults(defaults::core::limit_range)
            .validate(|new, _, errors| quota::limit_range(new, errors)),
        namespace(),
        node(),
        namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim")
            .short(["pvc"])
            .subresources([status("", "v1", "PersistentVolumeClaim")])
            .answers_deletion_with_object()
            .defaults(defaults::volume::claim)
            .counting(counting::CLAIMS)
            .validate(storage::claim)
            .validate_status(|new, _, errors| storage::claim_status(new, errors))
            .cells(storage_table::claim),
        persistent_volume(),
        pod(),
        namespaced("", "v1", "PodTemplate", "podtemplates", "podtemplate")
            .creates_on_update()
            .answers_deletion_with_object()
            .defaults(defaults::pod::pod_template)
            .generation(Generation::Wishes)
            .validate(apps::pod_template)
            .cells(pod_table::pod_template),
        replication_controller(),
        namespaced("", "v1", "ResourceQuota", "resourcequotas", "resourcequota")
            .short(["quota"])
            .subresources([status("", "v1", "ResourceQuota")])
            .answers_deletion_with_object()
            .defaults(defaults::core::resource_quota)
            .counting(counting::BY_PLURAL)
            .validate(quota::resource_quota)
            .cells(cluster_table::resource_quota),
        namespaced("", "v1", "Secret", "secrets", "secret")
            .fields([text("type", ["/type"])])
            .defaults(defaults::core::secret)
            .counting(counting::BY_PLURAL)
            .validate(config::secret)
            .warnings(config::secret_warnings)
            .cells(cluster_table::secret),
        namespaced("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
            .short(["sa"])
            .subresources([part("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE)])
            .answers_deletion_with_object()
            .prepare_create(config::prepare_account)
            .prepare_update(config::prepare_account_update)
            .warnings(config::account_warnings)
            .cells(cluster_table::service_account),
        service(),
    ]
}

fn event_kind() -> Kind {
    namespaced("", "v1", "Event", "events", "event")
        .short(["ev"])
        .fields(event_fields())
        .creates_on_update()
        .written_within(EVENTS_WITHIN)
        .kept_for(lasting::EVENTS_KEPT)
        .counting(counting::NEVER)
        .validate(|new, _, errors| event::event(new, errors))
        .cells(cluster_table::event)
}

fn namespace() -> Kind {
    cluster("", "v1", "Namespace", "namespaces", "namespace")
        .short(["ns"])
        .verbs(NO_COLLECTION_DELETE)
        .subresources([part("finalize", "", "v1", "Namespace", UPDATE), status("", "v1", "Namespace")])
        .fields([text("status.phase", ["/status/phase"])])
        .deletes(Deletion::Emptied)
        .defaults(defaults::core::namespace)
        .name_rule(name_is_dns_label)
        .prepare_create(cluster_rules::prepare_namespace)
        .prepare_update(cluster_rules::prepare_namespace_update)
        .companions(bootstrap::in_each_namespace)
        .validate(|new, _, errors| cluster_rules::namespace(new, errors))
        .validate_status(|new, _, errors| cluster_rules::namespace_status(new, errors))
        .cells(cluster_table::namespace)
}

fn node() -> Kind {
    cluster("", "v1", "Node", "nodes", "node")
        .short(["no"])
        .subresources([part("proxy", "", "v1", "NodeProxyOptions", PROXY), status("", "v1", "Node")])
        .fields([flag("spec.unschedulable", "/spec/unschedulable")])
        .renewed_by(lasting::is_heartbeat_of_node)
        .defaults(defaults::core::node)
        .created_with_status()
        .validate(cluster_rules::node)
        .validate_status(|new, old, errors| cluster_rules::node(new, Some(old), errors))
        .cells(cluster_table::node)
}

fn persistent_volume() -> Kind {
    cluster("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume")
        .short(["pv"])
        .subresources([status("", "v1", "PersistentVolume")])
        .answers_deletion_with_object()
        .defaults(defaults::volume::persistent_volume)
        .date(storage::date_phase)
        .validate(storage::volume)
        .cells(storage_table::volume)
}

fn pod() -> Kind {
    namespaced("", "v1", "Pod", "pods", "pod")
        .short(["po"])
        .category(["all"])
        .subresources(pod_subresources())
        .fields(pod_fields())
        .deletes(Deletion::Graceful(lasting::grace_of_pod))
        .answers_deletion_with_object()
        .defaults(defaults::pod::pod)
        .generation(Generation::Wishes)
        .kept_by_status(&["ownerReferences"])
        .prepare_create(pod_rules::prepare_create)
        .prepare_update(pod_rules::prepare_update)
        .date(pod_rules::date_conditions)
        .counting(counting::PODS)
        .validate(|new, _, errors| pod_rules::validate_create(new, errors))
        .validate_update(pod_rules::validate_update)
        .warnings(pod_rules::warnings)
        .unlisted_field(field::unlisted_of_pod)
        .cells(pod_table::pod)
        .row_conditions(pod_table::conditions)
}

fn replication_controller() -> Kind {
    namespaced("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller")
        .short(["rc"])
        .category(["all"])
        .subresources([Subresource::scale(), status("", "v1", "ReplicationController")])
        .fields([count("status.replicas", "/status/replicas")])
        .orphans_by_default()
        .defaults(defaults::core::replication_controller)
        .generation(Generation::Wishes)
        .kept_by_status(&["ownerReferences"])
        .counting(counting::BY_PLURAL)
        .validate(apps::replication_controller)
        .warnings(apps::template_warnings)
        .cells(workload::replication_controller)
}

fn service() -> Kind {
    namespaced("", "v1", "Service", "services", "service")
        .short(["svc"])
        .category(["all"])
        .subresources([part("proxy", "", "v1", "ServiceProxyOptions", PROXY), status("", "v1", "Service")])
        .fields([text("spec.clusterIP", ["/spec/clusterIP"]), text("spec.type", ["/spec/type"])])
        .creates_on_update()
        .answers_deletion_with_object()
        .defaults(defaults::core::service)
        .name_rule(name_is_dns_label)
        .prepare_create(service::prepare_create)
        .prepare_update(service::prepare_update)
        .addressed(Addressed::Holder)
        .counting(counting::SERVICES)
        .validate(service::validate)
        .cells(network_table::service)
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

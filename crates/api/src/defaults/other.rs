//! Defaults of the smaller groups.

use serde_json::{Value, json};

use super::{Object, child, ensure, items, set, set_zero, text};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(crate) fn priority_class(class: &mut Object) {
    set(class, "preemptionPolicy", "PreemptLowerPriority");
}

pub(crate) fn storage_class(class: &mut Object) {
    set(class, "reclaimPolicy", "Delete");
    set(class, "volumeBindingMode", "Immediate");
}

pub(crate) fn custom_resource_definition(definition: &mut Object) {
    let spec = ensure(definition, "spec");
    ensure(spec, "conversion");
    set_zero(ensure(spec, "conversion"), "strategy", "None");
    let Some(names) = child(spec, "names") else { return };
    let kind = text(names, "kind").to_owned();
    if !kind.is_empty() {
        set_zero(names, "singular", kind.to_lowercase());
        set_zero(names, "listKind", format!("{kind}List"));
    }
}

pub(crate) fn api_service(service: &mut Object) {
    ensure(service, "status");
    if let Some(service) = child(ensure(service, "spec"), "service") {
        set(service, "port", 443);
    }
}

pub(crate) fn flow_schema(schema: &mut Object) {
    ensure(schema, "status");
    set_zero(ensure(schema, "spec"), "matchingPrecedence", 1000);
}

pub(crate) fn volume_attachment(attachment: &mut Object) {
    set(ensure(attachment, "status"), "attached", false);
}

pub(crate) fn ingress(ingress: &mut Object) {
    ensure(ensure(ingress, "status"), "loadBalancer");
}

pub(crate) fn endpoint_slice(slice: &mut Object) {
    for port in items(slice, "ports") {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    }
}

pub(crate) fn resource_claim(claim: &mut Object) {
    device_claim(ensure(claim, "spec"));
    ensure(claim, "status");
}

pub(crate) fn resource_claim_template(template: &mut Object) {
    device_claim(ensure(ensure(template, "spec"), "spec"));
}

/// Each request asks for one device unless it says otherwise.
fn device_claim(spec: &mut Object) {
    let Some(devices) = child(spec, "devices") else { return };
    for request in items(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            device_request(exactly);
        }
        items(request, "firstAvailable").for_each(device_request);
    }
}

fn device_request(request: &mut Object) {
    set_zero(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set_zero(request, "count", 1);
    }
    for toleration in items(request, "tolerations") {
        set_zero(toleration, "operator", "Equal");
    }
}

pub(crate) fn binding(binding: &mut Object) {
    if let Some(role) = child(binding, "roleRef") {
        set_zero(role, "apiGroup", RBAC);
    }
    for subject in items(binding, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set_zero(subject, "apiGroup", RBAC);
        }
    }
}

pub(crate) fn csi_driver(driver: &mut Object) {
    let spec = ensure(driver, "spec");
    set(spec, "attachRequired", true);
    for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set(spec, name, false);
    }
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}

pub(crate) fn network_policy(policy: &mut Object) {
    let spec = ensure(policy, "spec");
    ensure(spec, "podSelector");
    for direction in ["ingress", "egress"] {
        for port in items(spec, direction).flat_map(|rule| items(rule, "ports")) {
            set(port, "protocol", "TCP");
        }
    }
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

pub(crate) fn disruption_budget(budget: &mut Object) {
    let status = ensure(budget, "status");
    for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        set(status, name, 0);
    }
}

pub(crate) fn mutating_webhooks(configuration: &mut Object) {
    webhooks(configuration);
    for hook in items(configuration, "webhooks") {
        set(hook, "reinvocationPolicy", "Never");
    }
}

pub(crate) fn webhooks(configuration: &mut Object) {
    for hook in items(configuration, "webhooks") {
        set(hook, "failurePolicy", "Fail");
        set(hook, "matchPolicy", "Equivalent");
        set(hook, "namespaceSelector", json!({}));
        set(hook, "objectSelector", json!({}));
        set(hook, "timeoutSeconds", 10);
        if let Some(service) = child(ensure(hook, "clientConfig"), "service") {
            set(service, "port", 443);
        }
        for rule in items(hook, "rules") {
            set(rule, "scope", "*");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::defaulted;
    use super::*;

    #[test]
    fn bindings_name_the_group_of_roles_and_users() {
        let binding = defaulted(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}));
        assert_eq!(binding["roleRef"]["apiGroup"], RBAC);
        assert_eq!(binding["subjects"][0]["apiGroup"], RBAC);
        assert_eq!(binding["subjects"][1]["apiGroup"], Value::Null);
    }

    #[test]
    fn a_network_policy_with_egress_rules_covers_both_directions() {
        let policy = defaulted(json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "spec": {"egress": [{"ports": [{"port": 53}]}]}}));
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    }
}

//! Namespaces, Nodes, and the small kinds.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use super::pod::{quantity_of, taint_effect};
use super::prepare::{self, replace};
use super::resources::amounts;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::{Kind, Object};
use crate::validate::meta::{self, SelectorValues, immutable, kube_finalizer};
use crate::validate::view::View;
use crate::validate::{is_valid_label_value, name_is_path_segment, qualified_name};

const SPEC: Path<'static> = Path::new("spec");

pub(crate) fn prepare_namespace(namespace: &mut Object) {
    // It is held by the namespace controller until its content is gone.
    let spec = namespace.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else { return };
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut().filter(|list| !list.iter().any(|one| one == "kubernetes")) {
        list.push("kubernetes".into());
    }
}

/// Only `finalize` changes the finalizers, and nothing but them.
pub(crate) fn prepare_namespace_update(
    resource: &Kind,
    subresource: Option<&str>,
    new: &mut Object,
    old: &Object,
) {
    prepare::update(resource, subresource, new, old);
    if subresource.is_none() {
        let finalizers = old.get("spec").and_then(|spec| spec.get("finalizers")).cloned();
        if let Some(spec) = new.entry("spec").or_insert_with(|| json!({})).as_object_mut() {
            replace(spec, "finalizers", finalizers);
        }
    }
}

pub(crate) fn namespace(new: View<'_>, errors: &mut ErrorList) {
    let path = SPEC.child("finalizers");
    for finalizer in new.get("spec").list("finalizers") {
        qualified_name(finalizer.text(), &path, errors);
        kube_finalizer(finalizer.text(), &path, errors);
    }
}

/// The phase of a namespace follows from whether it is being deleted.
pub(crate) fn namespace_status(new: View<'_>, errors: &mut ErrorList) {
    let phase = new.get("status").str("phase");
    let deleted = new.at(&["metadata", "deletionTimestamp"]).is_set();
    let words = match (deleted, phase) {
        (false, "Active") | (true, "Terminating") => return,
        (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
        (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
    };
    errors.push(Error::invalid(&Path::new("status.Phase"), phase, words));
}

pub(crate) fn node(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    for list in ["capacity", "allocatable"] {
        let status = Path::new("status");
        let path = status.child(list);
        for (name, amount) in amounts(new.get("status"), list) {
            quantity_of(&name, &amount, &path.child(&name), errors);
        }
    }
    if let Some(old) = old {
        node_update(new, old, errors);
    }
    taints(spec, errors);
}

fn node_update(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    let list = Path::new("status.addresses");
    for (index, address) in new.get("status").list("addresses").enumerate() {
        if !seen.insert((address.str("type").to_owned(), address.str("address").to_owned())) {
            let shown = json!({"Type": address.str("type"), "Address": address.str("address")});
            errors.push(Error::duplicate(&list.index(index), shown));
        }
    }
    let (after, before) = (new.get("spec"), old.get("spec"));
    let cidrs = |spec: View<'_>| spec.list("podCIDRs").map(|one| one.text().to_owned()).collect::<Vec<_>>();
    if before.has_items("podCIDRs") && cidrs(after) != cidrs(before) {
        let words = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(&SPEC.child("podCIDRs"), words));
    }
    let provider = before.str("providerID");
    if !provider.is_empty() && provider != after.str("providerID") {
        let words = "node updates may not change providerID except from \"\" to valid";
        errors.push(Error::forbidden(&SPEC.child("providerID"), words));
    }
}

/// Upstream names these paths below `metadata`.
fn taints(spec: View<'_>, errors: &mut ErrorList) {
    let list = Path::new("metadata.taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in spec.list("taints").enumerate() {
        let (at, key, effect) = (list.index(index), taint.str("key"), taint.str("effect"));
        meta::label_name(key, &at.child("key"), errors);
        let wrong = is_valid_label_value(taint.str("value"));
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at.child("value"), taint.str("value"), wrong.join(";")));
        }
        taint_effect(effect, &at.child("effect"), errors);
        if !seen.insert((effect, key)) {
            let shown = json!({"Key": key, "Value": taint.str("value"), "Effect": effect, "TimeAdded": null});
            let mut error = Error::duplicate(&at, shown);
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

/// What is asked of devices is settled when they are claimed.
pub(crate) fn resource_claim(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    if let Some(old) = old {
        immutable(new.get("spec"), old.get("spec"), &SPEC, errors);
    }
}

/// The highest number that users may give a class; above are the system's own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(crate) fn priority_class(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let name = new.get("metadata").str("name");
    let (value, known) =
        (new.int("value"), matches!(name, "system-node-critical" | "system-cluster-critical"));
    if name.starts_with("system-") && !known {
        let words = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(Error::forbidden(&Path::new("metadata.name"), words));
    } else if value > HIGHEST_USER_PRIORITY && !known {
        let words = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(Error::forbidden(&Path::new("value"), words));
    }
    let (policy, policies) = (new.get("preemptionPolicy"), ["PreemptLowerPriority", "Never"]);
    if policy.is_set() && !policies.contains(&policy.text()) {
        errors.push(Error::not_supported(&Path::new("preemptionPolicy"), policy.text(), &policies));
    }
    let Some(old) = old else { return };
    if value != old.int("value") {
        errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    immutable(policy, old.get("preemptionPolicy"), &Path::new("preemptionPolicy"), errors);
}

pub(crate) fn runtime_class(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let path = Path::new("handler");
    if old.is_none() {
        crate::validate::dns1123_label(new.str("handler"), &path, errors);
    }
    if let Some(old) = old {
        immutable(new.get("handler"), old.get("handler"), &path, errors);
    }
    meta::labels(new.at(&["scheduling", "nodeSelector"]), &Path::new("scheduling.nodeSelector"), errors);
}

pub(crate) fn lease(spec: View<'_>, errors: &mut ErrorList) {
    for name in ["leaseDurationSeconds", "leaseTransitions"] {
        let least = i64::from(name == "leaseDurationSeconds");
        if let Some(number) = spec.get(name).as_int().filter(|number| *number < least) {
            let words =
                if least == 1 { "must be greater than 0" } else { "must be greater than or equal to 0" };
            errors.push(Error::invalid(&SPEC.child(name), number, words));
        }
    }
    let holder = spec.get("holderIdentity");
    if holder.is_set() && holder.text().is_empty() {
        errors.push(Error::invalid(&SPEC.child("holderIdentity"), "", "must not be empty"));
    }
}

pub(crate) fn disruption_budget(spec: View<'_>, errors: &mut ErrorList) {
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        let words = "minAvailable and maxUnavailable cannot be both set";
        let both = json!({"minAvailable": least.json(), "maxUnavailable": most.json()});
        errors.push(Error::invalid(&SPEC, both, words));
    }
    meta::label_selector(spec.get("selector"), SelectorValues::Checked, &SPEC.child("selector"), errors);
}

pub(crate) fn storage_class(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    if new.str("provisioner").is_empty() {
        errors.push(Error::required(&Path::new("provisioner"), ""));
    }
    let (mode, modes) = (new.str("volumeBindingMode"), ["Immediate", "WaitForFirstConsumer"]);
    if !modes.contains(&mode) {
        errors.push(Error::not_supported(&Path::new("volumeBindingMode"), mode, &modes));
    }
    let Some(old) = old else { return };
    let words = "updates to parameters are forbidden.";
    if !meta::same(new.get("parameters").value(), old.get("parameters").value()) {
        errors.push(Error::forbidden(&Path::new("parameters"), words));
    }
    for name in ["provisioner", "reclaimPolicy"] {
        if new.str(name) != old.str(name) {
            errors.push(Error::forbidden(&Path::new(name), format!("updates to {name} are forbidden.")));
        }
    }
    immutable(
        new.get("volumeBindingMode"),
        old.get("volumeBindingMode"),
        &Path::new("volumeBindingMode"),
        errors,
    );
}

pub(crate) fn binding(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let (role, path) = (new.get("roleRef"), Path::new("roleRef"));
    if role.str("apiGroup") != "rbac.authorization.k8s.io" {
        let group = role.str("apiGroup");
        errors.push(Error::not_supported(&path.child("apiGroup"), group, &["rbac.authorization.k8s.io"]));
    }
    if !matches!(role.str("kind"), "Role" | "ClusterRole") {
        errors.push(Error::not_supported(&path.child("kind"), role.str("kind"), &["ClusterRole", "Role"]));
    }
    match role.str("name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => crate::validate::check(name_is_path_segment(name, false), name, &path.child("name"), errors),
    }
    if old.is_some_and(|old| old.get("roleRef").value() != role.value()) {
        errors.push(Error::invalid(&path, role.json(), "cannot change roleRef"));
    }
}

/// Coordinated election is alpha upstream and switched off: what asks for it is dropped.
pub(crate) fn prepare_lease(lease: &mut Object) {
    if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

pub(crate) fn prepare_lease_update(kind: &Kind, part: Option<&str>, new: &mut Object, old: &Object) {
    prepare::update(kind, part, new, old);
    prepare_lease(new);
}

#[cfg(test)]
mod tests {
    use crate::kinds::by_kind;
    use crate::strategy::validate_create;
    use serde_json::json;

    #[test]
    fn taints_of_a_node_have_an_effect_and_are_unique() {
        let spec = json!({"taints": [{"key": "a", "effect": "Sometimes"}, {"key": "b", "effect": "NoExecute"}, {"key": "b", "effect": "NoExecute"}]});
        let node = json!({"metadata": {"name": "n"}, "spec": spec});
        assert_eq!(
            validate_create(by_kind("v1", "Node").expect("known"), &node).to_string(),
            "[metadata.taints[0].effect: Unsupported value: \"Sometimes\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\", metadata.taints[2]: Duplicate value: {\"Effect\":\"NoExecute\",\"Key\":\"b\",\"TimeAdded\":null,\"Value\":\"\"}: taints must be unique by key and effect pair]"
        );
    }

    #[test]
    fn system_priorities_belong_to_the_system() {
        let class = json!({"metadata": {"name": "system-mine"}, "value": 1});
        assert_eq!(
            validate_create(by_kind("scheduling.k8s.io/v1", "PriorityClass").expect("known"), &class)
                .to_string(),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only"
        );
        let class = json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000});
        assert!(
            validate_create(by_kind("scheduling.k8s.io/v1", "PriorityClass").expect("known"), &class)
                .is_empty()
        );
    }
}

//! Where a Pod may run: affinity, tolerations, spreading.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Object;
use super::spec::one_of;
use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::{self, SelectorValues, label_name};
use crate::validate::view::View;
use crate::validate::{check, is_valid_label_value, name_is_dns_label, name_is_dns_subdomain};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(affinity: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (node, at) = (affinity.get("nodeAffinity"), path.child("nodeAffinity"));
    if node.get(REQUIRED).is_set() {
        node_selector(node.get(REQUIRED), SelectorValues::Checked, &at.child(REQUIRED), errors);
    }
    let preferred = at.child(PREFERRED);
    for (index, term) in node.list(PREFERRED).enumerate() {
        let at = preferred.index(index);
        weight(term, &at, errors);
        // One node is enough for a preference, so its values are not checked.
        node_term(term.get("preference"), SelectorValues::Unchecked, &at.child("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (rules, at) = (affinity.get(kind), path.child(kind));
        let required = at.child(REQUIRED);
        for (index, term) in rules.list(REQUIRED).enumerate() {
            pod_term(term, &required.index(index), errors);
        }
        let preferred = at.child(PREFERRED);
        for (index, term) in rules.list(PREFERRED).enumerate() {
            let at = preferred.index(index);
            weight(term, &at, errors);
            pod_term(term.get("podAffinityTerm"), &at.child("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let weight = term.int("weight");
    if !(1..=100).contains(&weight) {
        errors.push(Error::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

/// A selector of nodes: any of its terms.
pub(in crate::strategy) fn node_selector(
    selector: View<'_>,
    values: SelectorValues,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let terms = path.child("nodeSelectorTerms");
    if !selector.has_items("nodeSelectorTerms") {
        errors.push(Error::required(&terms, "must have at least one node selector term"));
    }
    for (index, term) in selector.list("nodeSelectorTerms").enumerate() {
        node_term(term, values, &terms.index(index), errors);
    }
}

fn node_term(term: View<'_>, values: SelectorValues, path: &Path<'_>, errors: &mut ErrorList) {
    let list = path.child("matchExpressions");
    for (index, requirement) in term.list("matchExpressions").enumerate() {
        node_requirement(requirement, values, &list.index(index), errors);
    }
    let list = path.child("matchFields");
    for (index, requirement) in term.list("matchFields").enumerate() {
        node_field(requirement, &list.index(index), errors);
    }
}

fn node_requirement(requirement: View<'_>, values: SelectorValues, path: &Path<'_>, errors: &mut ErrorList) {
    let (count, list) = (requirement.list("values").len(), path.child("values"));
    match requirement.str("operator") {
        "In" | "NotIn" if count == 0 => {
            errors.push(Error::required(&list, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let words = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(Error::forbidden(&list, words));
        }
        "Gt" | "Lt" if count != 1 => {
            errors.push(Error::required(
                &list,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    label_name(requirement.str("key"), &path.child("key"), errors);
    if values == SelectorValues::Unchecked {
        return;
    }
    for (index, value) in requirement.list("values").enumerate() {
        check(is_valid_label_value(value.text()), value.text(), &list.index(index), errors);
    }
}

fn node_field(requirement: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let list = path.child("values");
    match requirement.str("operator") {
        "In" | "NotIn" if requirement.list("values").len() != 1 => {
            let words = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(Error::required(&list, words));
        }
        "In" | "NotIn" => {}
        other => errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = requirement.str("key");
    if key != "metadata.name" {
        errors.push(Error::invalid(&path.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (index, value) in requirement.list("values").enumerate() {
        check(name_is_dns_subdomain(value.text(), false), value.text(), &list.index(index), errors);
    }
}

fn pod_term(term: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for name in ["labelSelector", "namespaceSelector"] {
        meta::label_selector(term.get(name), SelectorValues::Checked, &path.child(name), errors);
    }
    for namespace in term.list("namespaces") {
        let name = namespace.text();
        check(name_is_dns_label(name, false), name, &path.child("namespace"), errors);
    }
    match_label_keys(term, path, errors);
    let key = term.str("topologyKey");
    if key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    }
    label_name(key, &path.child("topologyKey"), errors);
}

/// Keys whose values are taken from the incoming Pod's own labels.
fn match_label_keys(term: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let selector = term.get("labelSelector");
    for name in ["matchLabelKeys", "mismatchLabelKeys"].into_iter().filter(|name| term.has_items(name)) {
        let list = path.child(name);
        if !selector.is_set() {
            errors.push(Error::forbidden(&list, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (index, key) in term.list(name).enumerate() {
            label_name(key.text(), &list.index(index), errors);
        }
    }
    // The server has added a requirement for each key already; a second one is the user's.
    let keys: BTreeMap<&str, usize> =
        term.list("matchLabelKeys").enumerate().map(|(index, key)| (key.text(), index)).collect();
    let mut seen: BTreeSet<&str> = selector.map("matchLabels").map(|(key, _)| key).collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.str("key");
        if let Some(index) = keys.get(key).filter(|_| seen.contains(key)) {
            let words = "exists in both matchLabelKeys and labelSelector";
            errors.push(Error::invalid(&path.index(*index), key, words));
        }
        seen.insert(key);
    }
    let mismatched: BTreeSet<&str> = term.list("mismatchLabelKeys").map(View::text).collect();
    let list = path.child("matchLabelKeys");
    for (index, key) in
        term.list("matchLabelKeys").enumerate().filter(|(_, key)| mismatched.contains(key.text()))
    {
        let words = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(Error::invalid(&list.index(index), key.text(), words));
    }
}

/// Turns `matchLabelKeys` into requirements on the values that the Pod's own labels have.
pub(super) fn merge_match_label_keys(pod: &mut Object) {
    let labels = pod.get("metadata").and_then(|meta| meta.get("labels")).cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let constraints = spec.get_mut("topologySpreadConstraints").and_then(Value::as_array_mut);
    constraints.into_iter().flatten().for_each(|constraint| add_requirements(constraint, &labels));
    let Some(affinity) = spec.get_mut("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(rules) = affinity.get_mut(kind) else { continue };
        let required = rules.get_mut(REQUIRED).and_then(Value::as_array_mut);
        required.into_iter().flatten().for_each(|term| add_requirements(term, &labels));
        let preferred = rules.get_mut(PREFERRED).and_then(Value::as_array_mut);
        preferred.into_iter().flatten().filter_map(|term| term.get_mut("podAffinityTerm")).for_each(|term| {
            add_requirements(term, &labels);
        });
    }
}

fn add_requirements(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (name, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in View::new(term).list(name) {
            if let Some(value) = labels.get(key.text()) {
                added.push(json!({"key": key.text(), "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = term.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if added.is_empty() {
        return;
    }
    let list = selector.entry("matchExpressions").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut() {
        list.extend(added);
    }
}

/// The effect of a taint; tolerations may leave it open.
pub(in crate::strategy) fn taint_effect(effect: &str, path: &Path<'_>, errors: &mut ErrorList) {
    one_of(effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"], path, errors);
}

pub(super) fn tolerations(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for (index, toleration) in spec.list("tolerations").enumerate() {
        one_toleration(toleration, &path.index(index), errors);
    }
}

fn one_toleration(toleration: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (key, operator, value, effect) = (
        toleration.str("key"),
        toleration.str("operator"),
        toleration.str("value"),
        toleration.str("effect"),
    );
    let at = path.child("operator");
    if !key.is_empty() {
        label_name(key, &path.child("key"), errors);
    } else if operator != "Exists" {
        let words =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(Error::invalid(&at, operator, words));
    }
    if toleration.get("tolerationSeconds").is_set() && effect != "NoExecute" {
        let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(Error::invalid(&path.child("effect"), effect, words));
    }
    match operator {
        "Equal" | "" => {
            let wrong = is_valid_label_value(value);
            if !wrong.is_empty() {
                errors.push(Error::invalid(&at, value, wrong.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.push(Error::invalid(&at, value, "value must be empty when `operator` is 'Exists'"));
        }
        "Exists" => {}
        // Comparing operators are behind a gate that is off.
        "Lt" | "Gt" => errors.push(Error::not_supported(&at, operator, &["Equal", "Exists", "Lt", "Gt"])),
        other => errors.push(Error::not_supported(&at, other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        taint_effect(effect, &path.child("effect"), errors);
    }
}

pub(super) fn spread(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let all: Vec<View<'_>> = spec.list("topologySpreadConstraints").collect();
    let pair = |one: &View<'_>| (one.str("topologyKey").to_owned(), one.str("whenUnsatisfiable").to_owned());
    let last: BTreeMap<_, usize> = all.iter().enumerate().map(|(index, one)| (pair(one), index)).collect();
    for (index, constraint) in all.iter().enumerate() {
        let at = path.index(index);
        let (key, action) = (constraint.str("topologyKey"), constraint.str("whenUnsatisfiable"));
        positive(constraint.int("maxSkew"), &at.child("maxSkew"), errors);
        if key.is_empty() {
            errors.push(Error::required(&at.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(Error::not_supported(&at.child("whenUnsatisfiable"), action, &actions));
        }
        // Of twins all but the last are named.
        if last.get(&pair(constraint)).is_some_and(|last| *last > index) {
            let pair = format!("{{{key}, {action}}}");
            errors.push(Error::duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        min_domains(*constraint, action, &at.child("minDomains"), errors);
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"]
            .into_iter()
            .filter(|name| constraint.get(name).is_set())
        {
            let policy = constraint.str(name);
            if !matches!(policy, "Honor" | "Ignore") {
                errors.push(Error::not_supported(&at.child(name), policy, &["Honor", "Ignore"]));
            }
        }
        match_label_keys(*constraint, &at, errors);
        let selector = constraint.get("labelSelector");
        meta::label_selector(selector, SelectorValues::Checked, &at.child("labelSelector"), errors);
    }
}

fn positive(value: i64, path: &Path<'_>, errors: &mut ErrorList) {
    if value <= 0 {
        errors.push(Error::invalid(path, value, "must be greater than zero"));
    }
}

fn min_domains(constraint: View<'_>, action: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(count) = constraint.get("minDomains").as_int() else { return };
    positive(count, path, errors);
    if action != "DoNotSchedule" {
        let words = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.push(Error::invalid(path, count, words));
    }
}

//! LimitRanges and ResourceQuotas as objects; what they do to others is in [`super::admission`].

use std::collections::BTreeSet;

use super::pod::{container_resource_name, qualified_resource_name, quantity_of};
use super::resources::amounts;
use crate::field::{Error, ErrorList, Path};
use crate::validate::meta::IMMUTABLE;
use crate::validate::view::View;
use crate::validate::{check, is_qualified_name};

const SPEC: Path<'static> = Path::new("spec");

pub(crate) fn limit_range(new: View<'_>, errors: &mut ErrorList) {
    let list = SPEC.child("limits");
    let mut kinds = BTreeSet::new();
    for (index, item) in new.get("spec").list("limits").enumerate() {
        let (at, kind) = (list.index(index), item.str("type"));
        let wrong = is_qualified_name(kind);
        if wrong.is_empty()
            && !kind.contains('/')
            && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim")
        {
            let words = "must be a standard limit type or fully qualified";
            errors.push(Error::invalid(&at.child("type"), kind, words));
        }
        check(wrong, kind, &at.child("type"), errors);
        if !kinds.insert(kind) {
            errors.push(Error::duplicate(&at.child("type"), kind));
        }
        names(item, kind, &at, errors);
        relations(item, &at, errors);
    }
}

fn names(item: View<'_>, kind: &str, path: &Path<'_>, errors: &mut ErrorList) {
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let at = path.child(field);
        if kind == "Pod" && matches!(field, "default" | "defaultRequest") {
            if item.has_items(field) {
                errors.push(Error::forbidden(&at, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, _) in item.map(field) {
            match kind {
                "Pod" | "Container" => container_resource_name(name, &at.key(name), errors),
                _ => drop(qualified_resource_name(name, &at.key(name), errors)),
            }
        }
    }
    let bounded = ["min", "max"].iter().any(|field| item.get(field).get("storage").is_set());
    if kind == "PersistentVolumeClaim" && !bounded {
        let words = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(Error::required(&path.child("limits"), words));
    }
}

/// min ≤ defaultRequest ≤ default ≤ max, as far as they are given.
fn relations(item: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let fields =
        [("min", "min"), ("defaultRequest", "default request"), ("default", "default"), ("max", "max")];
    for (low, (lower, low_words)) in fields.iter().enumerate() {
        for (higher, high_words) in &fields[low + 1..] {
            let above = amounts(item, higher);
            for (name, small) in amounts(item, lower) {
                let Some(great) = above.get(&name).filter(|great| small > **great) else { continue };
                let high = if (*lower, *higher) == ("defaultRequest", "default") {
                    "default limit"
                } else {
                    high_words
                };
                let words = format!("{low_words} value {small} is greater than {high} value {great}");
                let (field, shown) = match (*lower, *higher) {
                    ("min", "max") => ("min", &small),
                    ("min", "defaultRequest") => ("defaultRequest", great),
                    ("min", "default") => ("default", &small),
                    ("default", "max") => ("default", great),
                    _ => ("defaultRequest", &small),
                };
                errors.push(Error::invalid(&path.child(field).key(&name), shown.to_string(), words));
            }
        }
    }
}

pub(crate) fn resource_quota(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    let hard = SPEC.child("hard");
    for (name, amount) in amounts(spec, "hard") {
        let at = hard.key(&name);
        qualified_resource_name(&name, &at, errors);
        quantity_of(&name, &amount, &at, errors);
    }
    let (path, shown) = (SPEC.child("scopes"), spec.get("scopes").json());
    let scopes: BTreeSet<&str> = spec.list("scopes").map(View::text).collect();
    let known = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
    ];
    for _ in scopes.iter().filter(|scope| !known.contains(*scope)) {
        errors.push(Error::invalid(&path, shown.clone(), "unsupported scope"));
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(one) && scopes.contains(other) {
            errors.push(Error::invalid(&path, shown.clone(), "conflicting scopes"));
        }
    }
    let Some(old) = old else { return };
    let before: BTreeSet<&str> = old.get("spec").list("scopes").map(View::text).collect();
    if before != scopes {
        errors.push(Error::invalid(&path, shown, IMMUTABLE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bounds_of_a_range_do_not_cross() {
        let mut errors = ErrorList::new();
        let range = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, {"type": "Box"}]}});
        limit_range(View::new(&range), &mut errors);
        assert_eq!(
            errors.to_string(),
            "[spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1, spec.limits[1].type: Invalid value: \"Box\": must be a standard limit type or fully qualified]"
        );
    }

    #[test]
    fn a_quota_names_known_resources_and_keeps_its_scopes() {
        let mut errors = ErrorList::new();
        let old = json!({"spec": {}});
        let new = json!({"spec": {"hard": {"gizmos": "1", "pods": "1500m"}, "scopes": ["BestEffort", "NotBestEffort"]}});
        resource_quota(View::new(&new), Some(View::new(&old)), &mut errors);
        assert_eq!(
            errors.to_string(),
            "[spec.hard[gizmos]: Invalid value: \"gizmos\": must be a standard resource type or fully qualified, spec.hard[pods]: Invalid value: \"1500m\": must be an integer, spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes, spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: field is immutable]"
        );
    }
}

//! Requests and limits: names, amounts, and how they relate.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::Whole;
use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::strategy::resources::{amounts, container_limits, container_requests};
use crate::validate::view::View;
use crate::validate::{check, dns1123_label, is_qualified_name};

/// Whether a resource can be promised more than once: those of the platform can, huge pages cannot.
fn is_overcommittable(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Names without a domain, or with Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && is_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Resources that are counted in whole units.
fn is_integer(name: &str) -> bool {
    let counted = matches!(
        name.strip_prefix("count/").map_or(name, |_| "pods"),
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    );
    counted || is_extended(name)
}

/// The words of `IsStandardResourceName`: everything without a domain that upstream knows.
fn is_standard(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    matches!(bare, "cpu" | "memory" | "ephemeral-storage" | "storage")
        || is_huge_page(bare)
        || matches!(
            name,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
}

/// A name of a resource: well-formed, and known when it has no domain.
pub(in crate::strategy) fn qualified_resource_name(
    name: &str,
    path: &Path<'_>,
    errors: &mut ErrorList,
) -> bool {
    let wrong = is_qualified_name(name);
    if !wrong.is_empty() {
        check(wrong, name, path, errors);
        return false;
    }
    if !name.contains('/') && !is_standard(name) {
        let words = "must be a standard resource type or fully qualified";
        errors.push(Error::invalid(path, name, words));
        return false;
    }
    true
}

/// A name of a resource that a container may ask for.
pub(in crate::strategy) fn container_resource_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    qualified_resource_name(name, path, errors);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name);
    if !name.contains('/') && !standard {
        errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
    } else if name.contains('/') && !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

fn pod_resource_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if qualified_resource_name(name, path, errors) && !matches!(name, "cpu" | "memory") && !is_huge_page(name)
    {
        errors.push(Error::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// An amount fits its resource: not negative, and whole where the resource is counted.
pub(in crate::strategy) fn quantity_of(
    name: &str,
    amount: &Quantity,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    if amount.sign() < 0 {
        errors.push(Error::invalid(path, amount.to_string(), "must be greater than or equal to 0"));
    }
    if is_integer(name) && amount.milli_value() % 1000 != 0 {
        errors.push(Error::invalid(path, amount.to_string(), "must be an integer"));
    }
}

type NameCheck = fn(&str, &Path<'_>, &mut ErrorList);

pub(super) fn container(resources: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    requirements(resources, container_resource_name, &whole.claims, path, errors);
}

/// The overhead of a runtime class is checked like limits.
pub(super) fn overhead(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let limits = path.child("limits");
    list(spec, "overhead", container_resource_name, &limits, errors);
}

/// One resource list; answers with its amounts.
fn list(
    holder: View<'_>,
    name: &str,
    name_check: NameCheck,
    path: &Path<'_>,
    errors: &mut ErrorList,
) -> BTreeMap<String, Quantity> {
    let all = amounts(holder, name);
    for (resource, amount) in &all {
        let at = path.key(resource);
        name_check(resource, &at, errors);
        quantity_of(resource, amount, &at, errors);
        if is_huge_page(resource) && !whole_pages(resource, amount) {
            let words = format!("{amount} is not positive integer multiple of {resource}");
            errors.push(Error::invalid(&at, amount.to_string(), words));
        }
    }
    all
}

fn whole_pages(resource: &str, amount: &Quantity) -> bool {
    let size = resource.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok());
    size.is_some_and(|size| size.sign() > 0 && amount.value() % size.value() == 0)
}

fn requirements(
    resources: View<'_>,
    name_check: NameCheck,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let limits = list(resources, "limits", name_check, &limits_path, errors);
    let requests = list(resources, "requests", name_check, &requests_path, errors);
    for (name, request) in &requests {
        let shown = request.to_string();
        match limits.get(name) {
            Some(limit) if request != limit && !is_overcommittable(name) => {
                let words = format!("must be equal to {name} limit of {limit}");
                errors.push(Error::invalid(&requests_path, shown, words));
            }
            Some(limit) if request > limit => {
                let words = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(Error::invalid(&requests_path, shown, words));
            }
            None if !is_overcommittable(name) => {
                let words = "Limit must be set for non overcommitable resources";
                errors.push(Error::required(&limits_path, words));
            }
            _ => {}
        }
    }
    let mut names = limits.keys().chain(requests.keys());
    let computed = limits.keys().chain(requests.keys()).any(|name| matches!(name.as_str(), "cpu" | "memory"));
    if !computed && names.any(|name| is_huge_page(name)) {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    claim_names(resources, claims, &path.child("claims"), errors);
}

/// The claims that a container uses are claims of its Pod, each used once.
fn claim_names(resources: View<'_>, known: &BTreeSet<&str>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut used: BTreeSet<String> = BTreeSet::new();
    for (index, claim) in resources.list("claims").enumerate() {
        let (at, name, request) = (path.index(index), claim.str("name"), claim.str("request"));
        if name.is_empty() {
            errors.push(Error::required(&at, ""));
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        if used.contains(name) {
            errors.push(Error::duplicate(&at, name));
        } else {
            if !request.is_empty() {
                dns1123_label(request, &at.child("request"), errors);
            }
            let part = request.is_empty()
                && used.iter().any(|one| one.split_once('/').is_some_and(|(c, _)| c == name));
            if used.contains(&key) || part {
                errors.push(Error::duplicate(&at, key.clone()));
            }
            used.insert(key);
        }
        if !known.contains(name) {
            let list: Vec<&str> = known.iter().copied().collect();
            let mut error = Error::not_found(&at, name);
            error.detail = match list.as_slice() {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                names => format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", ")),
            };
            errors.push(error);
        }
    }
}

/// Requests and limits of the Pod as a whole, against those of its containers.
pub(super) fn pod_level(spec: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (resources, path) = (spec.get("resources"), path.child("resources"));
    if !resources.is_set() {
        return;
    }
    if whole.os == Some("windows") {
        errors.push(Error::forbidden(&path, "may not be set for a windows pod"));
        return;
    }
    if resources.get("claims").is_set() {
        errors.push(Error::forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    requirements(resources, pod_resource_name, &whole.claims, &path, errors);
    against_containers(spec, &path, errors);
}

fn against_containers(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(value) = spec.value() else { return };
    let resources = spec.get("resources");
    let (requests, limits) = (amounts(resources, "requests"), amounts(resources, "limits"));
    let requests_path = path.child("requests");
    for (name, sum) in container_requests(value) {
        if let Some(given) = requests.get(&name).filter(|given| sum > **given) {
            let words = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(Error::invalid(&requests_path.key(&name), given.to_string(), words));
        }
    }
    let limits_path = path.child("limits");
    for (name, sum) in container_limits(value).into_iter().filter(|(name, _)| is_huge_page(name)) {
        if let Some(given) = limits.get(&name).filter(|given| sum > **given) {
            let words = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.push(Error::invalid(&limits_path.key(&name), given.to_string(), words));
        }
    }
    let list = path.child("containers");
    for (index, container) in spec.list("containers").enumerate() {
        let at = list.index(index);
        for (name, limit) in amounts(container.get("resources"), "limits") {
            if let Some(whole) = limits.get(&name).filter(|whole| limit > **whole) {
                let words = format!("must be less than or equal to pod limits of {whole}");
                errors.push(Error::invalid(&at.key(&name).child("limits"), limit.to_string(), words));
            }
        }
    }
}

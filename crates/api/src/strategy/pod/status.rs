//! What a write to the status of a Pod may say.

use crate::field::{Error, ErrorList, Path};
use crate::strategy::resources::is_sidecar;
use crate::validate::meta::immutable;
use crate::validate::view::View;
use crate::validate::{
    check, dns1123_subdomain, ip_for_legacy_field, name_is_dns_subdomain, parse_ip_sloppy, qualified_name,
};

use super::{annotations, security};

const STATUS: Path<'static> = Path::new("status");

pub(super) fn validate(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    annotations::update(new, old, &Path::new("metadata.annotations"), errors);
    let (after, before, spec) = (new.get("status"), old.get("status"), old.get("spec"));
    conditions(after, errors);
    if new.get("spec").str("nodeName") != spec.str("nodeName") {
        errors.push(Error::forbidden(&STATUS.child("nodeName"), "may not be changed directly"));
    }
    nominated_node(after, before, spec, errors);
    generation(after, &STATUS, errors);
    immutable(after.get("qosClass"), before.get("qosClass"), &STATUS.child("qosClass"), errors);
    for (list, sort) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        transitions(after, before, spec, list, sort, errors);
    }
    claim_statuses(after, spec, errors);
    addresses(after, "podIPs", errors);
    host_addresses(after, errors);
    users(after, spec, errors);
}

fn generation(holder: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let given = holder.int("observedGeneration");
    if given < 0 {
        errors.push(Error::invalid(
            &path.child("observedGeneration"),
            given,
            "must be a non-negative integer",
        ));
    }
}

fn conditions(status: View<'_>, errors: &mut ErrorList) {
    let list = STATUS.child("conditions");
    for (index, condition) in status.list("conditions").enumerate() {
        let (at, kind) = (list.index(index), condition.str("type"));
        generation(condition, &at, errors);
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            qualified_name(kind, &at.child("Type"), errors);
        }
    }
}

fn nominated_node(after: View<'_>, before: View<'_>, spec: View<'_>, errors: &mut ErrorList) {
    let (node, path) = (after.str("nominatedNodeName"), STATUS.child("nominatedNodeName"));
    if node.is_empty() || node == before.str("nominatedNodeName") {
        return;
    }
    check(name_is_dns_subdomain(node, false), node, &path, errors);
    if !spec.str("nodeName").is_empty() {
        errors.push(Error::forbidden(&path, "may not be set on pods that are already bound to a node"));
    }
}

/// A container that ended for good cannot run again.
fn transitions(
    after: View<'_>,
    before: View<'_>,
    spec: View<'_>,
    list: &str,
    sort: &str,
    errors: &mut ErrorList,
) {
    let path = STATUS.child(list);
    for (index, old) in before.list(list).enumerate() {
        let ended = old.at(&["state", "terminated"]);
        let now = after.list(list).find(|new| new.str("name") == old.str("name"));
        let revived = now.is_some_and(|new| !new.at(&["state", "terminated"]).is_set());
        if !ended.is_set() || !revived {
            continue;
        }
        let container = spec.list(sort).find(|container| container.str("name") == old.str("name"));
        let restarts = sort != "ephemeralContainers"
            && (all_could_restart(spec)
                || container.is_some_and(|c| restarts(c, spec, sort, ended.int("exitCode"))));
        if !restarts {
            let words = "may not be transitioned to non-terminated state";
            errors.push(Error::forbidden(&path.index(index).child("state"), words));
        }
    }
}

/// A rule of any container may restart them all.
fn all_could_restart(spec: View<'_>) -> bool {
    let mut containers = spec.list("containers").chain(spec.list("initContainers"));
    containers.any(|c| c.list("restartPolicyRules").any(|rule| rule.str("action") == "RestartAllContainers"))
}

/// Whether a container that ended with `exit_code` is started again (`ContainerShouldRestart`).
fn restarts(container: View<'_>, spec: View<'_>, sort: &str, exit_code: i64) -> bool {
    for rule in container.list("restartPolicyRules") {
        let codes = rule.get("exitCodes");
        let listed = codes.list("values").any(|value| value.as_int() == Some(exit_code));
        if listed == (codes.str("operator") == "In") && codes.is_set() {
            return true;
        }
    }
    let own = container.str("restartPolicy");
    let policy = match own {
        "" => spec.str("restartPolicy"),
        own => own,
    };
    match policy {
        "Always" => sort == "containers" || is_sidecar(container) || own.is_empty(),
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn claim_statuses(status: View<'_>, spec: View<'_>, errors: &mut ErrorList) {
    let list = STATUS.child("resourceClaimStatuses");
    let mut seen = Vec::new();
    for (index, one) in status.list("resourceClaimStatuses").enumerate() {
        let (at, name) = (list.index(index), one.str("name"));
        if !spec.list("resourceClaims").any(|claim| claim.str("name") == name) {
            let words = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(Error::invalid(&at.child("name"), name, words));
        }
        if seen.contains(&name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        seen.push(name);
        if one.get("resourceClaimName").is_set() {
            dns1123_subdomain(one.str("resourceClaimName"), &at.child("name"), errors);
        }
    }
}

/// Addresses of a Pod or of its host: at most one of each family.
fn addresses(status: View<'_>, name: &str, errors: &mut ErrorList) {
    let path = STATUS.child(name);
    let all: Vec<&str> = status.list(name).map(|one| one.str("ip")).collect();
    for (index, address) in all.iter().enumerate() {
        ip_for_legacy_field(address, &path.index(index), errors);
    }
    let six =
        all.iter().filter_map(|address| parse_ip_sloppy(address)).filter(std::net::IpAddr::is_ipv6).count();
    if all.len() > 2 || all.len() == 2 && six != 1 {
        let words = "may specify no more than one IP for each IP family";
        errors.push(Error::invalid(&path, status.get(name).json(), words));
    }
}

fn host_addresses(status: View<'_>, errors: &mut ErrorList) {
    let Some(first) = status.list("hostIPs").next() else { return };
    if first.str("ip") != status.str("hostIP") {
        let path = STATUS.child("hostIPs");
        errors.push(Error::invalid(&path.index(0).child("ip"), first.str("ip"), "must be equal to `hostIP`"));
    }
    addresses(status, "hostIPs", errors);
}

fn users(status: View<'_>, spec: View<'_>, errors: &mut ErrorList) {
    let windows = spec.at(&["os", "name"]).text() == "windows";
    for name in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let list = STATUS.child(name);
        for (index, container) in status.list(name).enumerate() {
            let (user, at) = (container.at(&["user", "linux"]), list.index(index));
            let at = at.child("user.linux");
            if !user.is_set() {
                continue;
            }
            if windows {
                errors.push(Error::forbidden(&at, "cannot be set for a windows pod"));
                continue;
            }
            for id in ["uid", "gid"] {
                security::id_number(user.int(id), &at.child(id), errors);
            }
        }
    }
}

//! Containers of all three sorts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::handler::{self, Probe};
use super::spec::{Whole, one_of};
use super::{env, mount, requirements, security};
use crate::field::{Error, ErrorList, Path};
use crate::strategy::resources::is_sidecar;
use crate::validate::view::View;
use crate::validate::{check, dns1123_label, is_valid_port_name, is_valid_port_num};

pub(super) fn containers(spec: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let list = path.child("containers");
    if spec.list("containers").len() == 0 {
        errors.push(Error::required(&list, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (index, container) in spec.list("containers").enumerate() {
        let at = list.index(index);
        common(container, whole, &at, errors);
        let name = container.str("name");
        if !names.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        handler::lifecycle(container, whole, &at, errors);
        probes(container, whole, &at, errors);
        restart_rules(container, &at, errors);
    }
    host_port_conflicts(spec.list("containers").enumerate(), &list, errors);
}

fn probes(container: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for probe in [Probe::Liveness, Probe::Readiness, Probe::Startup] {
        handler::probe(container, probe, whole, path, errors);
    }
}

pub(super) fn init_containers(spec: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let list = path.child("initContainers");
    let mut names: BTreeSet<&str> = spec.list("containers").map(|container| container.str("name")).collect();
    for (index, container) in spec.list("initContainers").enumerate() {
        let at = list.index(index);
        common(container, whole, &at, errors);
        init_restart_policy(container, &at, errors);
        let name = container.str("name");
        if names.contains(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one after another, so only ports within one of them can conflict.
        host_port_conflicts(std::iter::once((0, container)), &list, errors);
        if is_sidecar(container) {
            handler::lifecycle(container, whole, &at, errors);
            probes(container, whole, &at, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.get(field).is_set() {
                let words = "may not be set for init containers without restartPolicy=Always";
                errors.push(Error::forbidden(&at.child(field), words));
            }
        }
    }
}

fn init_restart_policy(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if container.get("restartPolicy").is_set() {
        restart_rules(container, path, errors);
    } else if container.has_items("restartPolicyRules") {
        let words = "must specify restartPolicy when restart rules are used";
        errors.push(Error::required(&path.child("restartPolicy"), words));
    }
}

/// A container's own restart policy and its rules by exit code.
fn restart_rules(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (policy, at) = (container.get("restartPolicy"), path.child("restartPolicy"));
    let count = container.list("restartPolicyRules").len();
    let supported = ["Always", "Never", "OnFailure"];
    if !policy.is_set() && count > 0 {
        errors.push(Error::required(&at, "must specify restartPolicy when restart rules are used"));
    } else if policy.is_set() && !supported.contains(&policy.text()) {
        errors.push(Error::not_supported(&at, policy.text(), &supported));
    }
    let rules = path.child("restartPolicyRules");
    if count > 20 {
        errors.push(Error::too_long(&rules, 20));
    }
    for (index, rule) in container.list("restartPolicyRules").enumerate() {
        restart_rule(rule, &rules.index(index), errors);
    }
}

/// What may be done when a container ends.
const ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];

fn restart_rule(rule: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !ACTIONS.contains(&rule.str("action")) {
        errors.push(Error::not_supported(&path.child("action"), rule.str("action"), &ACTIONS));
    }
    let (codes, at) = (rule.get("exitCodes"), path.child("exitCodes"));
    if !codes.is_set() {
        errors.push(Error::required(&at, "must be specified"));
        return;
    }
    if !matches!(codes.str("operator"), "In" | "NotIn") {
        errors.push(Error::not_supported(&at.child("operator"), codes.str("operator"), &["In", "NotIn"]));
    }
    if codes.list("values").len() > 255 {
        errors.push(Error::too_long(&at.child("values"), 255));
    }
}

/// Fields that make no sense for a container that is only there to look around.
const NOT_EPHEMERAL: [&str; 8] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
];

pub(super) fn ephemeral_containers(
    spec: View<'_>,
    whole: &Whole<'_>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let list = path.child("ephemeralContainers");
    let targets: BTreeSet<&str> = spec
        .list("containers")
        .chain(spec.list("initContainers"))
        .map(|container| container.str("name"))
        .collect();
    let mut names = targets.clone();
    for (index, container) in spec.list("ephemeralContainers").enumerate() {
        let at = list.index(index);
        common(container, whole, &at, errors);
        image_of_pod(container, &at, errors);
        let name = container.str("name");
        if !names.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        let target = container.str("targetContainerName");
        if !target.is_empty() && !targets.contains(target) {
            errors.push(Error::not_found(&at.child("targetContainerName"), target));
        }
        ephemeral_fields(container, &at, errors);
    }
}

fn ephemeral_fields(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let words = "cannot be set for an Ephemeral Container";
    let empty = |value: &Value| {
        value.as_object().is_some_and(serde_json::Map::is_empty) || value == &Value::Array(Vec::new())
    };
    for name in NOT_EPHEMERAL.into_iter().chain(["lifecycle"]) {
        if container.get(name).value().is_some_and(|value| !empty(value)) {
            errors.push(Error::forbidden(&path.child(name), words));
        }
    }
    let mounts = path.child("volumeMounts");
    for (index, mount) in container.list("volumeMounts").enumerate() {
        for name in ["subPath", "subPathExpr"] {
            if !mount.str(name).is_empty() {
                errors.push(Error::forbidden(&mounts.index(index).child(name), words));
            }
        }
    }
}

/// What holds for containers of a Pod but not of a template: templates with odd images exist.
pub(in crate::strategy) fn pod_only(spec: View<'_>, errors: &mut ErrorList) {
    for name in ["containers", "initContainers"] {
        let list = super::SPEC.child(name);
        for (index, container) in spec.list(name).enumerate() {
            image_of_pod(container, &list.index(index), errors);
        }
    }
}

fn image_of_pod(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let image = container.str("image");
    if image.trim().len() != image.len() {
        let words = "must not have leading or trailing whitespace";
        errors.push(Error::invalid(&path.child("image"), image, words));
    }
}

/// The rules that all sorts of containers share (`validateContainerCommon`).
fn common(container: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    match container.str("name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name => dns1123_label(name, &path.child("name"), errors),
    }
    if container.str("image").is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(
        container.str("terminationMessagePolicy"),
        &policies,
        &path.child("terminationMessagePolicy"),
        errors,
    );
    ports(container, &path.child("ports"), errors);
    env::variables(container, &path.child("env"), errors);
    env::sources(container, &path.child("envFrom"), errors);
    mount::mounts(container, whole, &path.child("volumeMounts"), errors);
    mount::devices(container, whole, &path.child("volumeDevices"), errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(container.str("imagePullPolicy"), &policies, &path.child("imagePullPolicy"), errors);
    requirements::container(container.get("resources"), whole, &path.child("resources"), errors);
    resize_policy(container, whole, &path.child("resizePolicy"), errors);
    security::container(container.get("securityContext"), whole, &path.child("securityContext"), errors);
}

fn ports(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (index, port) in container.list("ports").enumerate() {
        let at = path.index(index);
        let name = port.str("name");
        let wrong = if name.is_empty() { Vec::new() } else { is_valid_port_name(name) };
        if !wrong.is_empty() {
            check(wrong, name, &at.child("name"), errors);
        } else if !name.is_empty() && !names.insert(name) {
            errors.push(Error::duplicate(&at.child("name"), name));
        }
        match port.int("containerPort") {
            0 => errors.push(Error::required(&at.child("containerPort"), "")),
            number => port_number(number, &at.child("containerPort"), errors),
        }
        match port.int("hostPort") {
            0 => {}
            number => port_number(number, &at.child("hostPort"), errors),
        }
        one_of(port.str("protocol"), &["SCTP", "TCP", "UDP"], &at.child("protocol"), errors);
    }
}

pub(super) fn port_number(number: i64, path: &Path<'_>, errors: &mut ErrorList) {
    errors.extend(is_valid_port_num(number).into_iter().map(|words| Error::invalid(path, number, words)));
}

/// Two containers of one Pod cannot both have a port of the node.
fn host_port_conflicts<'a>(
    containers: impl Iterator<Item = (usize, View<'a>)>,
    list: &Path<'_>,
    errors: &mut ErrorList,
) {
    let mut taken = BTreeSet::new();
    for (index, container) in containers {
        let at = list.index(index);
        let ports = at.child("ports");
        for (number, port) in
            container.list("ports").enumerate().filter(|(_, port)| port.int("hostPort") != 0)
        {
            let key = format!("{}/{}/{}", port.str("protocol"), port.str("hostIP"), port.int("hostPort"));
            if !taken.insert(key.clone()) {
                errors.push(Error::duplicate(&ports.index(number).child("hostPort"), key));
            }
        }
    }
}

fn resize_policy(container: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, policy) in container.list("resizePolicy").enumerate() {
        let (resource, restart) = (policy.str("resourceName"), policy.str("restartPolicy"));
        if !seen.insert(resource) {
            errors.push(Error::duplicate(&path.index(index), resource));
        }
        one_of(resource, &["cpu", "memory"], path, errors);
        one_of(restart, &["NotRequired", "RestartContainer"], path, errors);
        if whole.restart_policy == "Never" && restart != "NotRequired" {
            let words = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(Error::invalid(path, restart, words));
        }
    }
}

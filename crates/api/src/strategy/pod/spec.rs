//! The spec of a Pod or of a Pod template as a whole (`ValidatePodSpec`).

use std::collections::{BTreeMap, BTreeSet};

use super::{container, placement, requirements, security, volume};
use crate::field::{Error, ErrorList, Path};
use crate::validate::meta;
use crate::validate::view::View;
use crate::validate::{
    self, check, dns1123_label, dns1123_subdomain, ip_for_legacy_field, name_is_dns_subdomain, qualified_name,
};

/// Whose spec it is: some rules hold only for a real Pod, whose name is known.
#[derive(Debug, Clone, Copy)]
pub(in crate::strategy) enum Owner<'a> {
    /// A Pod, by its metadata.
    Pod(View<'a>),
    /// The template of a workload.
    Template,
}

impl<'a> Owner<'a> {
    pub(super) fn metadata(self) -> Option<View<'a>> {
        match self {
            Owner::Pod(metadata) => Some(metadata),
            Owner::Template => None,
        }
    }
}

/// What the rules of a part need to know of the whole spec.
pub(super) struct Whole<'a> {
    pub(super) owner: Owner<'a>,
    /// Volumes without mistakes, by name.
    pub(super) volumes: BTreeMap<&'a str, View<'a>>,
    pub(super) claims: BTreeSet<&'a str>,
    pub(super) grace: Option<i64>,
    pub(super) restart_policy: &'a str,
    pub(super) host_users: bool,
    /// The name of the operating system; `None` when `spec.os` is absent.
    pub(super) os: Option<&'a str>,
}

/// Calls `visit` for every container with its path: init containers, containers, ephemeral ones.
pub(super) fn each_container<'a>(
    spec: View<'a>,
    path: &Path<'_>,
    mut visit: impl FnMut(View<'a>, &Path<'_>),
) {
    for name in ["initContainers", "containers", "ephemeralContainers"] {
        let list = path.child(name);
        for (index, container) in spec.list(name).enumerate() {
            visit(container, &list.index(index));
        }
    }
}

pub(super) fn validate(spec: View<'_>, owner: Owner<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !spec.get("terminationGracePeriodSeconds").is_set() {
        errors.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volume::volumes(spec, owner, &path.child("volumes"), errors);
    let whole = Whole {
        owner,
        volumes,
        claims: spec
            .list("resourceClaims")
            .map(|claim| claim.str("name"))
            .filter(|name| !name.is_empty())
            .collect(),
        grace: spec.get("terminationGracePeriodSeconds").as_int(),
        restart_policy: spec.str("restartPolicy"),
        host_users: spec.opt_flag("hostUsers").unwrap_or(true),
        os: spec.get("os").is_set().then(|| spec.at(&["os", "name"]).text()),
    };
    resource_claims(spec, owner, &path.child("resourceClaims"), errors);
    container::containers(spec, &whole, path, errors);
    container::init_containers(spec, &whole, path, errors);
    container::ephemeral_containers(spec, &whole, path, errors);
    requirements::pod_level(spec, &whole, path, errors);
    host_network_ports(spec, &whole, path, errors);
    restart_policy(spec, path, errors);
    dns_policy(spec, path, errors);
    meta::labels(spec.get("nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(spec, path, errors);
    placement::affinity(spec.get("affinity"), &path.child("affinity"), errors);
    dns_config(spec, &path.child("dnsConfig"), errors);
    let gates = path.child("readinessGates");
    for (index, gate) in spec.list("readinessGates").enumerate() {
        qualified_name(gate.str("conditionType"), &gates.index(index).child("conditionType"), errors);
    }
    scheduling_gates(spec, &path.child("schedulingGates"), errors);
    placement::spread(spec, &path.child("topologySpreadConstraints"), errors);
    security::host_process(spec, path, errors);
    security::host_users(spec, &whole, path, errors);
    host_name_override(spec, path, errors);
    names(spec, path, errors);
    if spec.has_items("tolerations") {
        placement::tolerations(spec, &path.child("tolerations"), errors);
    }
    host_aliases(spec, &path.child("hostAliases"), errors);
    classes(spec, path, errors);
    requirements::overhead(spec, &path.child("overhead"), errors);
    security::os(spec, path, errors);
    file_key_volumes(spec, path, errors);
}

/// What a template may not have and a Pod may, and the other way round.
pub(in crate::strategy) fn template(template: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (metadata, spec, below) = (template.get("metadata"), template.get("spec"), path.child("spec"));
    template_metadata(template, path, errors);
    validate(spec, Owner::Template, &below, errors);
    super::annotations::match_fields(metadata.get("annotations"), spec, &below, errors);
    if spec.has_items("ephemeralContainers") {
        let words = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(&below.child("ephemeralContainers"), words));
    }
}

/// The part of a template that is held against rules even where its Pods are not: those of a StatefulSet
/// have volumes that the template does not name.
pub(in crate::strategy) fn template_metadata(template: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (metadata, spec) = (template.get("metadata"), template.get("spec"));
    // Upstream names these paths without "metadata".
    meta::labels(metadata.get("labels"), &path.child("labels"), errors);
    meta::annotations(metadata.get("annotations"), &path.child("annotations"), errors);
    super::annotations::check(metadata.get("annotations"), spec, &path.child("annotations"), errors);
}

/// A token needs an account.
pub(super) fn pod_only(spec: View<'_>, errors: &mut ErrorList) {
    if !spec.str("serviceAccountName").is_empty() {
        return;
    }
    let volumes = super::SPEC.child("volumes");
    for (index, volume) in spec.list("volumes").enumerate() {
        for (source, projection) in volume.get("projected").list("sources").enumerate() {
            if projection.get("serviceAccountToken").is_set() {
                let (at, projected) = (volumes.index(index), "projected.sources");
                let words = "must not be specified when serviceAccountName is not set";
                let list = at.child(projected);
                errors.push(Error::forbidden(&list.index(source).child("serviceAccountToken"), words));
            }
        }
    }
}

fn resource_claims(spec: View<'_>, owner: Owner<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, claim) in spec.list("resourceClaims").enumerate() {
        if owner.metadata().is_some_and(|m| m.at(&["annotations", super::annotations::MIRROR]).is_set()) {
            errors.push(Error::forbidden(&Path::new(""), "static pods do not support resource claims"));
            continue;
        }
        resource_claim(claim, &mut seen, &path.index(index), errors);
    }
}

fn resource_claim<'a>(
    claim: View<'a>,
    seen: &mut BTreeSet<&'a str>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    match claim.str("name") {
        "" => errors.push(Error::required(&path.child("name"), "")),
        name if !seen.insert(name) => errors.push(Error::duplicate(&path.child("name"), name)),
        name => dns1123_label(name, &path.child("name"), errors),
    }
    let fields = ["resourceClaimName", "resourceClaimTemplateName"];
    match fields.iter().filter(|name| claim.get(name).is_set()).count() {
        0 => {
            let words = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.push(Error::invalid(path, claim.json(), words));
        }
        1 => {}
        _ => {
            let words = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.push(Error::invalid(path, claim.json(), words));
        }
    }
    for name in fields.into_iter().filter(|name| claim.get(name).is_set()) {
        dns1123_subdomain(claim.str(name), &path.child(name), errors);
    }
}

fn host_network_ports(spec: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !spec.flag("hostNetwork") {
        return;
    }
    let is_pod = whole.owner.metadata().is_some();
    let list = path.child("containers");
    for (index, container) in spec.list("containers").enumerate() {
        let at = list.index(index);
        let ports = at.child("ports");
        for (number, port) in container.list("ports").enumerate() {
            let host = port.int("hostPort");
            if (is_pod || host != 0) && host != port.int("containerPort") {
                let words = "must match `containerPort` when `hostNetwork` is true";
                errors.push(Error::invalid(&ports.index(number).child("hostPort"), host, words));
            }
        }
    }
}

/// An enumeration without zero value: empty text means that it is missing.
pub(super) fn one_of(value: &str, supported: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    match value {
        "" => errors.push(Error::required(path, "")),
        value if supported.contains(&value) => {}
        value => errors.push(Error::not_supported(path, value, supported)),
    }
}

fn restart_policy(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let supported = ["Always", "OnFailure", "Never"];
    one_of(spec.str("restartPolicy"), &supported, &path.child("restartPolicy"), errors);
}

fn dns_policy(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let supported = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec.str("dnsPolicy"), &supported, &path.child("dnsPolicy"), errors);
}

fn dns_config(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let config = spec.get("dnsConfig");
    if spec.str("dnsPolicy") == "None" {
        if !config.is_set() {
            errors.push(Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if !config.has_items("nameservers") {
            let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(&path.child("nameservers"), words));
            return;
        }
    }
    let servers = path.child("nameservers");
    if config.list("nameservers").len() > 3 {
        let words = "must not have more than 3 nameservers";
        errors.push(Error::invalid(&servers, config.get("nameservers").json(), words));
    }
    for (index, server) in config.list("nameservers").enumerate() {
        ip_for_legacy_field(server.text(), &servers.index(index), errors);
    }
    dns_searches(config, &path.child("searches"), errors);
    let options = path.child("options");
    for (index, _) in config.list("options").enumerate().filter(|(_, option)| option.str("name").is_empty()) {
        errors.push(Error::required(&options.index(index), "must not be empty"));
    }
}

fn dns_searches(config: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let searches: Vec<&str> = config.list("searches").map(View::text).collect();
    if searches.len() > 32 {
        let words = "must not have more than 32 search paths";
        errors.push(Error::invalid(path, config.get("searches").json(), words));
    }
    if searches.join(" ").len() > 2048 {
        let words = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(Error::invalid(path, config.get("searches").json(), words));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        check(validate::is_dns1123_subdomain_with_underscore(search), search, &path.index(index), errors);
    }
}

fn scheduling_gates(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, gate) in spec.list("schedulingGates").enumerate() {
        let name = gate.str("name");
        qualified_name(name, &path.index(index), errors);
        if !seen.insert(name) {
            errors.push(Error::duplicate(&path.index(index), name));
        }
    }
}

fn host_name_override(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let given = spec.get("hostnameOverride");
    if !given.is_set() {
        return;
    }
    let path = path.child("hostnameOverride");
    if spec.flag("setHostnameAsFQDN") {
        errors.push(Error::forbidden(&path, "may not be specified when setHostnameAsFQDN is true"));
    }
    if spec.flag("hostNetwork") {
        errors.push(Error::forbidden(&path, "may not be specified when hostNetwork is true"));
    }
    if given.text().len() > 64 {
        errors.push(Error::too_long(&path, 64));
    }
    dns1123_subdomain(given.text(), &path, errors);
}

fn names(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for name in ["serviceAccountName", "nodeName"] {
        let value = spec.str(name);
        if !value.is_empty() {
            check(name_is_dns_subdomain(value, false), value, &path.child(name), errors);
        }
    }
    let deadline = spec.get("activeDeadlineSeconds").as_int();
    if let Some(seconds) = deadline.filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds)) {
        let words = validate::inclusive_range(1, i64::from(i32::MAX));
        errors.push(Error::invalid(&path.child("activeDeadlineSeconds"), seconds, words));
    }
    for name in ["hostname", "subdomain"] {
        let value = spec.str(name);
        if !value.is_empty() {
            dns1123_label(value, &path.child(name), errors);
        }
    }
}

fn host_aliases(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for (index, alias) in spec.list("hostAliases").enumerate() {
        let at = path.index(index);
        ip_for_legacy_field(alias.str("ip"), &at.child("ip"), errors);
        let names = at.child("hostnames");
        for (number, name) in alias.list("hostnames").enumerate() {
            dns1123_subdomain(name.text(), &names.index(number), errors);
        }
    }
}

fn classes(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let class = spec.str("priorityClassName");
    if !class.is_empty() {
        dns1123_subdomain(class, &path.child("priorityClassName"), errors);
    }
    if spec.get("runtimeClassName").is_set() {
        dns1123_subdomain(spec.str("runtimeClassName"), &path.child("runtimeClassName"), errors);
    }
    if spec.get("preemptionPolicy").is_set() {
        let supported = ["PreemptLowerPriority", "Never"];
        one_of(spec.str("preemptionPolicy"), &supported, &path.child("preemptionPolicy"), errors);
    }
}

/// A variable read from a file needs an emptyDir to hold it.
fn file_key_volumes(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    each_container(spec, path, |container, at| {
        let env = at.child("env");
        for (index, variable) in container.list("env").enumerate() {
            let reference = variable.at(&["valueFrom", "fileKeyRef"]);
            if !reference.is_set() {
                continue;
            }
            let name = reference.str("volumeName");
            let field = env.index(index);
            let field = field.child("valueFrom.fileKeyRef.volumeName");
            match spec.list("volumes").rfind(|volume| volume.str("name") == name) {
                None => errors.push(Error::not_found(&field, name)),
                Some(volume) if !volume.get("emptyDir").is_set() => {
                    errors.push(Error::invalid(&field, name, "referenced volume must be of type emptyDir"));
                }
                Some(_) => {}
            }
        }
    });
}

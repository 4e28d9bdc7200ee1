//! Environment variables and where their values come from.

use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::validate::view::View;
use crate::validate::{
    self, check, dns1123_label, is_config_map_key, is_relaxed_env_var_name, name_is_dns_subdomain,
    qualified_name,
};

use super::volume::path_without_backsteps;

/// What a variable may read of its Pod, besides single labels and annotations; sorted.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a downward API file may read of its Pod; sorted.
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Who reads the Pod through the downward API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Variable,
    File,
}

pub(super) fn variables(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for (index, variable) in container.list("env").enumerate() {
        let at = path.index(index);
        match variable.str("name") {
            "" => errors.push(Error::required(&at.child("name"), "")),
            name => check(is_relaxed_env_var_name(name), name, &at.child("name"), errors),
        }
        value_from(variable, &at.child("valueFrom"), errors);
    }
}

fn value_from(variable: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let source = variable.get("valueFrom");
    if !source.is_set() {
        return;
    }
    let mut count = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let reference = source.get(name);
        if !reference.is_set() {
            continue;
        }
        count += 1;
        let at = path.child(name);
        match name {
            "fieldRef" => field_ref(reference, Reader::Variable, &at, errors),
            "resourceFieldRef" => resource_ref(reference, Reader::Variable, &at, errors),
            "fileKeyRef" => file_key(reference, &at, errors),
            _ => object_key(reference, &at, errors),
        }
    }
    let words = match (count, variable.str("value").is_empty()) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (_, false) => "may not be specified when `value` is not empty",
        (1, true) => return,
        (_, true) => "may not have more than one field specified at a time",
    };
    errors.push(Error::invalid(path, "", words));
}

/// A key of a ConfigMap or a Secret.
fn object_key(reference: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let name = reference.str("name");
    check(name_is_dns_subdomain(name, false), name, &path.child("name"), errors);
    match reference.str("key") {
        "" => errors.push(Error::required(&path.child("key"), "")),
        key => check(is_config_map_key(key), key, &path.child("key"), errors),
    }
}

fn file_key(reference: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let at = |name| path.child(name);
    match reference.str("key") {
        "" => errors.push(Error::required(&at("key"), "")),
        key => check(is_relaxed_env_var_name(key), key, &at("key"), errors),
    }
    match reference.str("volumeName") {
        "" => errors.push(Error::required(&at("volumeName"), "")),
        name => dns1123_label(name, &at("volumeName"), errors),
    }
    match reference.str("path") {
        "" => errors.push(Error::required(&at("path"), "")),
        file => path_without_backsteps(file, &at("path"), errors),
    }
}

/// A field of the Pod, as a variable or a file may read it.
pub(super) fn field_ref(reference: View<'_>, reader: Reader, path: &Path<'_>, errors: &mut ErrorList) {
    for name in ["apiVersion", "fieldPath"] {
        if reference.str(name).is_empty() {
            errors.push(Error::required(&path.child(name), ""));
            return;
        }
    }
    let (version, field) = (reference.str("apiVersion"), reference.str("fieldPath"));
    if let Some(why) = unknown_field(version, field) {
        let words = format!("error converting fieldPath: {why}");
        errors.push(Error::invalid(&path.child("fieldPath"), field, words));
        return;
    }
    // Old manifests ask for the host by the name it had once.
    let field = if field == "spec.host" { "spec.nodeName" } else { field };
    let allowed: &[&str] = if reader == Reader::Variable { &ENV_FIELDS } else { &VOLUME_FIELDS };
    match subscript(field) {
        Some(("metadata.annotations", key)) => qualified_name(&key.to_lowercase(), path, errors),
        Some(("metadata.labels", key)) => qualified_name(key, path, errors),
        Some((other, _)) => errors.push(Error::invalid(path, other, "does not support subscript")),
        None if !allowed.contains(&field) => {
            errors.push(Error::not_supported(&path.child("fieldPath"), field, allowed));
        }
        None => {}
    }
}

/// `metadata.labels['key']` cut in two.
fn subscript(field: &str) -> Option<(&str, &str)> {
    let inner = field.strip_suffix("']")?;
    inner.split_once("['").filter(|(path, _)| !path.is_empty())
}

/// The fields that the downward API knows at all (`ConvertDownwardAPIFieldLabel`).
fn unknown_field(version: &str, field: &str) -> Option<String> {
    if version != "v1" {
        return Some(format!("unsupported pod version: {version}"));
    }
    if let Some((path, _)) = subscript(field) {
        let known = matches!(path, "metadata.annotations" | "metadata.labels");
        return (!known).then(|| format!("field label does not support subscript: {field}"));
    }
    let known = matches!(
        field,
        "metadata.annotations"
            | "metadata.labels"
            | "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.serviceAccountName"
            | "spec.schedulerName"
            | "status.phase"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs"
            | "spec.host"
    );
    (!known).then(|| format!("field label not supported: {field}"))
}

/// An amount of a container, as a variable or a file may read it.
pub(super) fn resource_ref(reference: View<'_>, reader: Reader, path: &Path<'_>, errors: &mut ErrorList) {
    let resource = reference.str("resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if reader == Reader::File && reference.str("containerName").is_empty() {
        errors.push(Error::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(Error::not_supported(&path.child("resource"), resource, &RESOURCES));
    }
    divisor(reference, resource, &path.child("divisor"), errors);
}

fn divisor(reference: View<'_>, resource: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(Ok(divisor)) = reference.get("divisor").value().map(Quantity::from_json) else { return };
    if divisor.is_zero() {
        return;
    }
    let text = divisor.to_string();
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, values, what): (&[&str], _, _) = match resource.split_once('.').map_or("", |(_, name)| name)
    {
        "cpu" => (&["1m", "1"], "1m and 1", "cpu"),
        "memory" => (&bytes, "", "memory"),
        "ephemeral-storage" => (&bytes, "", "local ephemeral storage"),
        name if name.starts_with("hugepages-") => (&bytes, "", "hugepages"),
        _ => return,
    };
    if !allowed.contains(&text.as_str()) {
        let values = if values.is_empty() { bytes.join(", ") } else { values.to_owned() };
        let words = format!("only divisor's values {values} are supported with the {what} resource");
        errors.push(Error::invalid(path, resource, words));
    }
}

pub(super) fn sources(container: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for (index, source) in container.list("envFrom").enumerate() {
        let at = path.index(index);
        let prefix = source.str("prefix");
        if !prefix.is_empty() {
            check(is_relaxed_env_var_name(prefix), prefix, &at.child("prefix"), errors);
        }
        let mut count = 0;
        for name in ["configMapRef", "secretRef"].into_iter().filter(|name| source.get(name).is_set()) {
            count += 1;
            let (reference, field) = (source.get(name), at.child(name));
            match reference.str("name") {
                "" => errors.push(Error::required(&field.child("name"), "")),
                object => {
                    check(validate::name_is_dns_subdomain(object, true), object, &field.child("name"), errors)
                }
            }
        }
        if count != 1 {
            let words = match count {
                0 => "must specify one of: `configMapRef` or `secretRef`",
                _ => "may not have more than one field specified at a time",
            };
            errors.push(Error::invalid(path, "", words));
        }
    }
}

//! Annotations that were fields-to-be: seccomp and AppArmor profiles, mirror Pods, deletion cost.

use serde_json::{Value, json};

use super::Object;
use super::spec::each_container;
use super::volume::local_descending_path;
use crate::field::{Error, ErrorList, Path, go_quote};
use crate::validate::view::View;

/// On the Pods that a node mirrors from its own files.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations that upstream gives a meaning must make sense.
pub(super) fn check(annotations: View<'_>, spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(map) = annotations.value().and_then(Value::as_object) else { return };
    for (key, value) in map {
        let value = value.as_str().unwrap_or("");
        if key == MIRROR && spec.str("nodeName").is_empty() {
            let words = "must set spec.nodeName if mirror pod annotation is set";
            errors.push(Error::invalid(&path.key(key), value, words));
        }
        if key == DELETION_COST && !is_deletion_cost(value) {
            errors.push(Error::invalid(&path.key(key), value, "must be a 32bit integer"));
        }
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(value, &path.child(key), errors);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            app_armor(container, value, spec, &path.key(key), errors);
        }
    }
}

/// A 32 bit number without a sign in front or needless zeros.
fn is_deletion_cost(value: &str) -> bool {
    let plain = !value.starts_with('+') && (value == "0" || !value.starts_with('0'));
    plain && value.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: &Path<'_>, errors: &mut ErrorList) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix("localhost/") {
            Some(file) => local_descending_path(file, path, errors),
            None => errors.push(Error::invalid(path, profile, "must be a valid seccomp profile")),
        },
    }
}

fn app_armor(container: &str, profile: &str, spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut found = false;
    each_container(spec, &Path::new(""), |one, _| found |= one.str("name") == container);
    if !found {
        errors.push(Error::invalid(path, container, "container not found"));
    }
    let known = matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
    if !known {
        let words = format!("invalid AppArmor profile name: {}", go_quote(profile));
        errors.push(Error::invalid(path, profile, words));
    }
}

/// An AppArmor annotation without the field becomes the field, as upstream's version skew does.
pub(super) fn fields_from_annotations(pod: &mut Object) {
    let annotations =
        pod.get("metadata").and_then(|meta| meta.get("annotations")).cloned().unwrap_or_default();
    let Some(spec) = pod.get_mut("spec") else { return };
    if spec.pointer("/os/name") == Some(&json!("windows")) {
        return;
    }
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or("");
            let profile = annotations.get(format!("{APP_ARMOR}{name}")).and_then(Value::as_str);
            let Some(field) = profile.and_then(app_armor_field) else { continue };
            let context = container.entry("securityContext").or_insert_with(|| json!({}));
            if let Some(context) = context.as_object_mut() {
                context.entry("appArmorProfile").or_insert(field);
            }
        }
    }
}

fn app_armor_field(profile: &str) -> Option<Value> {
    match profile {
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        "unconfined" => Some(json!({"type": "Unconfined"})),
        other => {
            let file = other.strip_prefix("localhost/").filter(|file| !file.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": file}))
        }
    }
}

/// Where a profile is given as annotation and as field, both must say the same.
pub(super) fn match_fields(annotations: View<'_>, spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !annotations.is_set() {
        return;
    }
    let profile = spec.at(&["securityContext", "seccompProfile"]);
    let at = path.child("securityContext.seccompProfile");
    same_profile(annotations.get(SECCOMP_POD), profile, "seccomp", &at, errors);
    each_container(spec, path, |container, at| {
        let annotation = annotations.get(&format!("{SECCOMP_CONTAINER}{}", container.str("name")));
        let profile = container.at(&["securityContext", "seccompProfile"]);
        same_profile(annotation, profile, "seccomp", &at.child("securityContext.seccompProfile"), errors);
    });
    if spec.at(&["os", "name"]).text() == "windows" {
        return;
    }
    let of_pod = spec.at(&["securityContext", "appArmorProfile"]);
    each_container(spec, path, |container, at| {
        let own = container.at(&["securityContext", "appArmorProfile"]);
        let profile = if own.is_set() { own } else { of_pod };
        let annotation = annotations.get(&format!("{APP_ARMOR}{}", container.str("name")));
        same_profile(annotation, profile, "apparmor", &at.child("securityContext.appArmorProfile"), errors);
    });
}

fn same_profile(
    annotation: View<'_>,
    profile: View<'_>,
    what: &str,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    if !annotation.is_set() || !profile.is_set() {
        return;
    }
    let text = annotation.text();
    let same_type = match profile.str("type") {
        "Unconfined" => text == "unconfined",
        "RuntimeDefault" => text == "runtime/default" || what == "seccomp" && text == "docker/default",
        "Localhost" => text.starts_with("localhost/"),
        _ => return,
    };
    if !same_type {
        let words = format!("{what} type in annotation and field must match");
        errors.push(Error::forbidden(&path.child("type"), words));
        return;
    }
    if profile.str("type") == "Localhost"
        && text.strip_prefix("localhost/") != Some(profile.str("localhostProfile"))
    {
        let words = format!("{what} profile in annotation and field must match");
        errors.push(Error::forbidden(&path.child("localhostProfile"), words));
    }
}

/// Annotations that may not come, go or change on a Pod that exists.
pub(super) fn update(new: View<'_>, old: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (after, before) = (new.get("metadata"), old.get("metadata"));
    let what = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    let now = after.get("annotations");
    for (key, _) in before
        .map("annotations")
        .filter(|(key, value)| now.str(key) != value.text() || !now.get(key).is_set())
    {
        if let Some(what) = what(key) {
            errors.push(Error::forbidden(&path.key(key), format!("may not remove or update {what}")));
        }
    }
    for (key, _) in after.map("annotations").filter(|(key, _)| !before.get("annotations").get(key).is_set()) {
        if let Some(what) = what(key) {
            errors.push(Error::forbidden(&path.key(key), format!("may not add {what}")));
        }
    }
    check(now, new.get("spec"), path, errors);
}

//! PersistentVolumes and PersistentVolumeClaims.

use serde_json::{Value, json};

use super::pod::{driver_name, node_selector, quantity_of, shared_source};
use super::resources::amounts;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::Object;
use crate::quantity::Quantity;
use crate::validate::meta::{self, SelectorValues, immutable, same};
use crate::validate::view::View;
use crate::validate::{dns1123_label, dns1123_subdomain};

const SPEC: Path<'static> = Path::new("spec");
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: View<'_>, path: &Path<'_>, missing: &str, errors: &mut ErrorList) {
    let at = path.child("accessModes");
    if !spec.has_items("accessModes") {
        errors.push(Error::required(&at, missing));
    }
    let (mut alone, mut shared) = (false, false);
    for mode in spec.list("accessModes").map(View::text) {
        if !MODES.contains(&mode) {
            errors.push(Error::not_supported(&at, mode, &MODES));
        }
        alone |= mode == "ReadWriteOncePod";
        shared |= mode != "ReadWriteOncePod" && MODES.contains(&mode);
    }
    if alone && shared {
        errors.push(Error::forbidden(&at, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn volume_mode(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mode = spec.get("volumeMode");
    if mode.is_set() && !matches!(mode.text(), "Block" | "Filesystem") {
        errors.push(Error::not_supported(&path.child("volumeMode"), mode.text(), &["Block", "Filesystem"]));
    }
}

fn positive(amount: &Quantity, path: &Path<'_>, errors: &mut ErrorList) -> bool {
    if amount.sign() <= 0 {
        errors.push(Error::invalid(path, amount.to_string(), "must be greater than zero"));
    }
    amount.sign() > 0
}

/// The template of a claim, in a Pod's ephemeral volume.
pub(super) fn claim_template(template: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (metadata, at) = (template.get("metadata"), path.child("metadata"));
    meta::annotations(metadata.get("annotations"), &at.child("annotations"), errors);
    meta::labels(metadata.get("labels"), &at.child("labels"), errors);
    let known = |name: &str| matches!(name, "annotations" | "labels");
    let fields = metadata.value().and_then(Value::as_object).into_iter().flatten();
    for (name, _) in fields.filter(|(name, value)| !known(name) && !value.is_null()) {
        errors.push(Error::forbidden(&at.child(name), "cannot be set"));
    }
    claim_spec(template.get("spec"), &path.child("spec"), errors);
}

fn claim_spec(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    access_modes(spec, path, "at least 1 access mode is required", errors);
    meta::label_selector(spec.get("selector"), SelectorValues::Checked, &path.child("selector"), errors);
    let (resources, requests) = (path.child("resources"), amounts(spec.get("resources"), "requests"));
    let storage = resources.key("storage");
    match requests.get("storage") {
        None => errors.push(Error::required(&storage, "")),
        Some(amount) => {
            if positive(amount, &storage, errors) {
                quantity_of("storage", amount, &storage, errors);
            }
        }
    }
    let class = spec.str("storageClassName");
    if !class.is_empty() {
        dns1123_subdomain(class, &path.child("storageClassName"), errors);
    }
    volume_mode(spec, path, errors);
    data_sources(spec, path, errors);
    let class = spec.str("volumeAttributesClassName");
    if !class.is_empty() {
        dns1123_subdomain(class, &path.child("volumeAttributesClassName"), errors);
    }
}

fn data_sources(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for (one, name) in [(source, "dataSource"), (reference, "dataSourceRef")] {
        if one.is_set() {
            data_source(one, &path.child(name), errors);
        }
    }
    let words = if !reference.str("namespace").is_empty() && source.is_set() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if source.is_set() && reference.is_set() && !same_reference(source, reference) {
        "must match dataSourceRef"
    } else {
        return;
    };
    // Upstream shows the path itself, all of whose parts are private to Go.
    errors.push(Error::invalid(path, json!({}), words));
}

fn same_reference(a: View<'_>, b: View<'_>) -> bool {
    ["apiGroup", "kind", "name"].iter().all(|name| a.str(name) == b.str(name))
}

fn data_source(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    for name in ["name", "kind"].into_iter().filter(|name| source.str(name).is_empty()) {
        errors.push(Error::required(&path.child(name), ""));
    }
    let (group, kind) = (source.str("apiGroup"), source.str("kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let words = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(Error::invalid(path, kind, words));
    }
    if !group.is_empty() {
        dns1123_subdomain(group, &path.child("apiGroup"), errors);
    }
    let namespace = source.str("namespace");
    if !namespace.is_empty() {
        dns1123_label(namespace, &path.child("namespace"), errors);
    }
}

pub(crate) fn claim(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    claim_spec(new.get("spec"), &SPEC, errors);
    if let Some(old) = old {
        claim_update(new, old, errors);
    }
}

/// A claim stays as it was made, but may be bound once and may grow when it is bound.
fn claim_update(new: View<'_>, old: View<'_>, errors: &mut ErrorList) {
    let (after, before) = (new.get("spec"), old.get("spec"));
    let bound = new.get("status").str("phase") == "Bound";
    let mut allowed = after.json();
    if before.str("volumeName").is_empty() {
        allowed["volumeName"] = before.get("volumeName").json();
    }
    if !before.get("storageClassName").is_set() {
        allowed["storageClassName"] = Value::Null;
    }
    if bound {
        allowed["volumeAttributesClassName"] = before.get("volumeAttributesClassName").json();
        if let Some(requests) = allowed.pointer_mut("/resources/requests") {
            requests["storage"] = before.at(&["resources", "requests", "storage"]).json();
        }
    }
    if !same(Some(&allowed), before.value()) {
        let words = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(Error::forbidden(&SPEC, words));
    }
    let size = |spec: View<'_>, list: &[&str]| {
        amounts(spec.at(list), "requests").remove("storage").unwrap_or_default()
    };
    let status = amounts(old.get("status"), "capacity").remove("storage").unwrap_or_default();
    let (now, then) = (size(after, &["resources"]), size(before, &["resources"]));
    if now < then && now <= status {
        let path = SPEC.child("resources.requests.storage");
        errors.push(Error::forbidden(&path, "field can not be less than status.capacity"));
    }
    immutable(after.get("volumeMode"), before.get("volumeMode"), &Path::new("volumeMode"), errors);
}

pub(crate) fn claim_status(claim: View<'_>, errors: &mut ErrorList) {
    if !claim.get("spec").has_items("accessModes") {
        errors.push(Error::required(&Path::new("Spec.accessModes"), ""));
    }
    let path = Path::new("status.capacity");
    for (name, amount) in amounts(claim.get("status"), "capacity") {
        if amount.sign() < 0 {
            errors.push(Error::invalid(
                &path.key(&name),
                amount.value(),
                "must be a valid resource quantity",
            ));
        }
    }
}

/// The sources that a PersistentVolume may have.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

pub(crate) fn volume(new: View<'_>, old: Option<View<'_>>, errors: &mut ErrorList) {
    let spec = new.get("spec");
    access_modes(spec, &SPEC, "", errors);
    capacity(spec, errors);
    let policy = spec.str("persistentVolumeReclaimPolicy");
    let policies = ["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(Error::not_supported(&SPEC.child("persistentVolumeReclaimPolicy"), policy, &policies));
    }
    node_affinity(spec, errors);
    volume_source(spec, errors);
    if spec.at(&["hostPath", "path"]).text() == "/" && policy == "Recycle" {
        let words = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(Error::forbidden(&SPEC.child("persistentVolumeReclaimPolicy"), words));
    }
    let class = spec.str("storageClassName");
    if !class.is_empty() {
        dns1123_subdomain(class, &SPEC.child("storageClassName"), errors);
    }
    volume_mode(spec, &SPEC, errors);
    let Some(old) = old else { return };
    let before = old.get("spec");
    if SOURCES.iter().any(|name| !same(spec.get(name).value(), before.get(name).value())) {
        let path = SPEC.child("persistentvolumesource");
        errors.push(Error::forbidden(&path, "spec.persistentvolumesource is immutable after creation"));
    }
    immutable(spec.get("volumeMode"), before.get("volumeMode"), &Path::new("volumeMode"), errors);
}

fn capacity(spec: View<'_>, errors: &mut ErrorList) {
    let path = SPEC.child("capacity");
    if !spec.has_items("capacity") {
        errors.push(Error::required(&path, ""));
    }
    let all = amounts(spec, "capacity");
    if !all.contains_key("storage") || all.len() > 1 {
        errors.push(Error::not_supported(&path, spec.get("capacity").json(), &["storage"]));
    }
    for (name, amount) in &all {
        let at = path.key(name);
        if amount.sign() < 0 {
            errors.push(Error::invalid(&at, amount.value(), "must be a valid resource quantity"));
        }
        positive(amount, &at, errors);
    }
}

fn node_affinity(spec: View<'_>, errors: &mut ErrorList) {
    let (affinity, path) = (spec.get("nodeAffinity"), SPEC.child("nodeAffinity"));
    let required = path.child("required");
    if affinity.get("required").is_set() {
        node_selector(affinity.get("required"), SelectorValues::Checked, &required, errors);
    } else if affinity.is_set() {
        errors.push(Error::required(&required, "must specify required node constraints"));
    }
}

fn volume_source(spec: View<'_>, errors: &mut ErrorList) {
    let mut chosen = false;
    for name in SOURCES.into_iter().filter(|name| spec.get(name).is_set()) {
        let (source, path) = (spec.get(name), SPEC.child(name));
        if chosen {
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type"));
            continue;
        }
        chosen = true;
        match name {
            "csi" => {
                driver_name(source.str("driver"), &path.child("driver"), errors);
                if source.str("volumeHandle").is_empty() {
                    errors.push(Error::required(&path.child("volumeHandle"), ""));
                }
            }
            "local" => local(source, spec, &path, errors),
            _ => shared_source(name, source, &path, errors),
        }
    }
    if !chosen {
        errors.push(Error::required(&SPEC, "must specify a volume type"));
    }
}

fn local(source: View<'_>, spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    match source.str("path") {
        "" => errors.push(Error::required(&path.child("path"), "")),
        file => super::pod::path_without_backsteps(file, &path.child("path"), errors),
    }
    if !spec.get("nodeAffinity").is_set() {
        errors.push(Error::required(&SPEC.child("nodeAffinity"), "Local volume requires node affinity"));
    }
}

const TRANSITION: &str = "lastPhaseTransitionTime";

/// Since when a volume has its phase. Who writes another phase may bring the time.
pub(crate) fn date_phase(volume: &mut Object, old: Option<&Object>, now: &str) {
    let told =
        |volume: &Object, name: &str| volume.get("status").and_then(|status| status.get(name)).cloned();
    let same = |name: &str| old.is_some_and(|old| told(old, name) == told(volume, name));
    let is_dated = old.is_some() && (same("phase") || !same(TRANSITION));
    if let (false, Some(status)) = (is_dated, volume.get_mut("status").and_then(Value::as_object_mut)) {
        status.insert(TRANSITION.to_owned(), now.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_says_since_when_it_has_its_phase() {
        let mut volume = json!({"status": {"phase": "Pending"}}).as_object().expect("a map").clone();
        date_phase(&mut volume, None, "1");
        assert_eq!(volume["status"][TRANSITION], "1");
        let old = volume.clone();
        date_phase(&mut volume, Some(&old), "2");
        assert_eq!(volume["status"][TRANSITION], "1", "nothing has changed");
        volume["status"]["phase"] = "Bound".into();
        date_phase(&mut volume, Some(&old), "3");
        assert_eq!(volume["status"][TRANSITION], "3");
    }
}

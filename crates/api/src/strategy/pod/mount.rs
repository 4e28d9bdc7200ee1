//! Where volumes appear in a container.

use std::collections::BTreeSet;

use super::spec::Whole;
use super::volume::{local_descending_path, path_without_backsteps};
use crate::field::{Error, ErrorList, Path};
use crate::validate::view::View;

pub(super) fn mounts(container: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut points = BTreeSet::new();
    let devices: BTreeSet<&str> = container.list("volumeDevices").map(|device| device.str("name")).collect();
    let files: BTreeSet<&str> =
        container.list("volumeDevices").map(|device| device.str("devicePath")).collect();
    for (index, mount) in container.list("volumeMounts").enumerate() {
        let at = path.index(index);
        let (name, point) = (mount.str("name"), mount.str("mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if !whole.volumes.contains_key(name) {
            errors.push(Error::not_found(&at.child("name"), name));
        }
        if point.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if !points.insert(point) {
            errors.push(Error::invalid(&at.child("mountPath"), point, "must be unique"));
        }
        if devices.contains(name) {
            errors.push(Error::invalid(&at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if files.contains(point) {
            let words = "must not already exist as a path in volumeDevices";
            errors.push(Error::invalid(&at.child("mountPath"), point, words));
        }
        sub_paths(mount, path, &at, errors);
        propagation(mount, container, path, errors);
        recursive_read_only(mount, &path.child("recursiveReadOnly"), errors);
    }
}

/// Upstream names the list, not the item, in these paths.
fn sub_paths(mount: View<'_>, list: &Path<'_>, at: &Path<'_>, errors: &mut ErrorList) {
    let (plain, expression) = (mount.str("subPath"), mount.str("subPathExpr"));
    if !plain.is_empty() {
        local_descending_path(plain, &list.child("subPath"), errors);
    }
    if expression.is_empty() {
        return;
    }
    if !plain.is_empty() {
        let words = "subPathExpr and subPath are mutually exclusive";
        errors.push(Error::invalid(&at.child("subPathExpr"), expression, words));
    }
    local_descending_path(expression, &list.child("subPathExpr"), errors);
}

fn propagation(mount: View<'_>, container: View<'_>, list: &Path<'_>, errors: &mut ErrorList) {
    let (mode, path) = (mount.get("mountPropagation"), list.child("mountPropagation"));
    if !mode.is_set() {
        return;
    }
    let supported = ["Bidirectional", "HostToContainer", "None"];
    if !supported.contains(&mode.text()) {
        errors.push(Error::not_supported(&path, mode.text(), &supported));
    }
    if mode.text() == "Bidirectional" && !container.get("securityContext").flag("privileged") {
        let words = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(Error::forbidden(&path, words));
    }
}

fn recursive_read_only(mount: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mode = mount.get("recursiveReadOnly");
    match mode.text() {
        _ if !mode.is_set() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag("readOnly") {
                errors.push(Error::forbidden(path, "may only be specified when readOnly is true"));
            }
            if !matches!(mount.str("mountPropagation"), "" | "None") {
                let words = "may only be specified when mountPropagation is None or not specified";
                errors.push(Error::forbidden(path, words));
            }
        }
        other => errors.push(Error::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

pub(super) fn devices(container: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mounted: BTreeSet<&str> = container.list("volumeMounts").map(|mount| mount.str("name")).collect();
    let points: BTreeSet<&str> = container.list("volumeMounts").map(|mount| mount.str("mountPath")).collect();
    for (index, device) in container.list("volumeDevices").enumerate() {
        let at = path.index(index);
        let (name, file) = (device.str("name"), device.str("devicePath"));
        let at_name = at.child("name");
        device_name(whole, name, names.contains(name), &at_name, errors);
        if mounted.contains(name) {
            errors.push(Error::invalid(&at_name, name, "must not already exist in volumeMounts"));
        }
        let field = at.child("devicePath");
        if file.is_empty() {
            errors.push(Error::required(&field, ""));
        }
        if paths.contains(file) {
            errors.push(Error::invalid(&field, file, "must be unique"));
        }
        let mut backsteps = ErrorList::new();
        path_without_backsteps(file, &field, &mut backsteps);
        if backsteps.is_empty() {
            paths.insert(file);
        } else {
            errors.push(Error::invalid(&field, file, "can not contain backsteps ('..')"));
        }
        if points.contains(file) {
            let words = "must not already exist as a path in volumeMounts";
            errors.push(Error::invalid(&field, file, words));
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}

fn device_name(whole: &Whole<'_>, name: &str, repeated: bool, path: &Path<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    }
    if repeated {
        errors.push(Error::invalid(path, name, "must be unique"));
    }
    match whole.volumes.get(name) {
        None => errors.push(Error::not_found(path, name)),
        Some(volume)
            if !volume.get("persistentVolumeClaim").is_set() && !volume.get("ephemeral").is_set() =>
        {
            let words =
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errors.push(Error::invalid(path, name, words));
        }
        Some(_) => {}
    }
}

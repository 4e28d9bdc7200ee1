//! Defaults of volumes, and of the claims and volumes behind them.

use serde_json::{Value, json};

use super::pod::{divisor, pull_policy};
use super::{Object, child, ensure, items, resource_list, set, set_zero, text};

/// 0644 in decimal, the mode of files made from objects.
const FILE_MODE: i32 = 0o644;

/// A volume of a Pod; one without a source is an emptyDir.
pub(super) fn volume(volume: &mut Object) {
    if !volume.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, name) {
            set(source, "defaultMode", FILE_MODE);
            downward_items(source);
        }
    }
    if let Some(projected) = child(volume, "projected") {
        items(projected, "sources").for_each(projection);
    }
    if let Some(image) = child(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        set_zero(image, "pullPolicy", policy);
    }
    if let Some(template) = child(volume, "ephemeral").and_then(|source| child(source, "volumeClaimTemplate"))
    {
        ensure(template, "metadata");
        claim_spec(ensure(template, "spec"));
    }
    source(volume);
}

fn projection(projection: &mut Object) {
    if let Some(token) = child(projection, "serviceAccountToken") {
        set(token, "expirationSeconds", 3600);
    }
    if let Some(downward) = child(projection, "downwardAPI") {
        downward_items(downward);
    }
}

fn downward_items(source: &mut Object) {
    for item in items(source, "items") {
        if let Some(field) = child(item, "fieldRef") {
            set_zero(field, "apiVersion", "v1");
        }
        if let Some(resource) = child(item, "resourceFieldRef") {
            divisor(resource);
        }
    }
}

/// The sources that Pods and PersistentVolumes share.
fn source(holder: &mut Object) {
    if let Some(host_path) = child(holder, "hostPath") {
        set(host_path, "type", "");
    }
    if let Some(iscsi) = child(holder, "iscsi") {
        set_zero(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(holder, "rbd") {
        set_zero(rbd, "pool", "rbd");
        set_zero(rbd, "user", "admin");
        set_zero(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(holder, "azureDisk") {
        set(disk, "cachingMode", "ReadWrite");
        set(disk, "kind", "Shared");
        set(disk, "fsType", "ext4");
        set(disk, "readOnly", false);
    }
    if let Some(scale_io) = child(holder, "scaleIO") {
        set_zero(scale_io, "storageMode", "ThinProvisioned");
        set_zero(scale_io, "fsType", "xfs");
    }
}

/// A PersistentVolumeClaim.
pub(crate) fn claim(claim: &mut Object) {
    claim_spec(ensure(claim, "spec"));
    let status = ensure(claim, "status");
    set_zero(status, "phase", "Pending");
    resource_list(status, "capacity");
    resource_list(status, "allocatedResources");
}

fn claim_spec(spec: &mut Object) {
    set(spec, "volumeMode", "Filesystem");
    let resources = ensure(spec, "resources");
    resource_list(resources, "limits");
    resource_list(resources, "requests");
}

/// A PersistentVolume.
pub(crate) fn persistent_volume(volume: &mut Object) {
    set_zero(ensure(volume, "status"), "phase", "Pending");
    let spec = ensure(volume, "spec");
    set_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    resource_list(spec, "capacity");
    source(spec);
}

/// A StatefulSet's claim template: kept with its type, as a stored object is.
pub(super) fn claim_template(template: &mut Object) {
    template.insert("apiVersion".to_owned(), Value::from("v1"));
    template.insert("kind".to_owned(), Value::from("PersistentVolumeClaim"));
    ensure(template, "metadata");
    claim(template);
}

#[cfg(test)]
mod tests {
    use super::super::tests::defaulted;
    use super::*;

    #[test]
    fn projected_tokens_last_an_hour_and_files_are_readable_by_all() {
        let pod = defaulted(
            json!({"kind": "Pod", "spec": {"containers": [], "volumes": [{"name": "p", "projected": {
            "sources": [{"serviceAccountToken": {"path": "t"}},
                        {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}]}}),
        );
        assert_eq!(
            pod["spec"]["volumes"][0]["projected"],
            json!({"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}]}}]})
        );
    }

    #[test]
    fn claims_and_volumes_are_pending_file_systems() {
        let claim = defaulted(json!({"kind": "PersistentVolumeClaim", "spec": {}}));
        assert_eq!(claim["spec"], json!({"volumeMode": "Filesystem", "resources": {}}));
        assert_eq!(claim["status"], json!({"phase": "Pending"}));
        let volume = defaulted(json!({"kind": "PersistentVolume", "spec": {"hostPath": {"path": "/a"}}}));
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(volume["spec"]["hostPath"], json!({"path": "/a", "type": ""}));
    }
}

//! Volumes, their classes and drivers, and claims of devices.

use serde_json::Value;

use super::cell::{Cell, cell};
use super::common::{Row, join, scalar, text};

const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

/// `RWO,ROX`, in upstream's order whatever the object's is.
fn access_modes(row: Row<'_>, pointer: &str) -> String {
    const MODES: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| row.list(pointer).iter().any(|m| m == mode);
    MODES.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn storage_class(row: Row<'_>) -> &str {
    row.text_or(CLASS_ANNOTATION, row.text("/spec/storageClassName"))
}

fn phase(row: Row<'_>) -> &str {
    if row.is_being_deleted() { "Terminating" } else { row.text("/status/phase") }
}

pub(crate) fn name_and_age(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), row.age()]
}

pub(crate) fn volume(row: Row<'_>) -> Vec<Cell> {
    let claim = match row.at("/spec/claimRef") {
        None | Some(Value::Null) => String::new(),
        Some(claim) => format!("{}/{}", text(claim, "namespace"), text(claim, "name")),
    };
    vec![
        cell(row.name()),
        cell(scalar(row.at("/spec/capacity/storage")).unwrap_or_else(|| "0".to_owned())),
        cell(access_modes(row, "/spec/accessModes")),
        cell(row.text("/spec/persistentVolumeReclaimPolicy")),
        cell(phase(row)),
        cell(claim),
        cell(storage_class(row)),
        cell(row.text_or("/spec/volumeAttributesClassName", "<unset>")),
        cell(row.text("/status/reason")),
        row.age(),
        cell(row.text_or("/spec/volumeMode", "<unset>")),
    ]
}

pub(crate) fn claim(row: Row<'_>) -> Vec<Cell> {
    let bound = !row.text("/spec/volumeName").is_empty();
    let capacity = scalar(row.at("/status/capacity/storage")).unwrap_or_else(|| "0".to_owned());
    vec![
        cell(row.name()),
        cell(phase(row)),
        cell(row.text("/spec/volumeName")),
        cell(if bound { capacity } else { String::new() }),
        cell(if bound { access_modes(row, "/status/accessModes") } else { String::new() }),
        cell(storage_class(row)),
        cell(row.text_or("/spec/volumeAttributesClassName", "<unset>")),
        row.age(),
        cell(row.text_or("/spec/volumeMode", "<unset>")),
    ]
}

/// The name, marked when the annotation says it is the default.
fn default_name(row: Row<'_>, annotations: &[&str]) -> String {
    let default = annotations.iter().any(|a| row.text(&format!("/metadata/annotations/{a}")) == "true");
    if default { format!("{} (default)", row.name()) } else { row.name().to_owned() }
}

pub(crate) fn class(row: Row<'_>) -> Vec<Cell> {
    let annotations =
        ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"];
    vec![
        cell(default_name(row, &annotations)),
        cell(row.text("/provisioner")),
        cell(row.text_or("/reclaimPolicy", "Delete")),
        cell(row.text_or("/volumeBindingMode", "Immediate")),
        cell(row.flag("/allowVolumeExpansion", false)),
        row.age(),
    ]
}

pub(crate) fn attributes_class(row: Row<'_>) -> Vec<Cell> {
    let name = default_name(row, &["volumeattributesclass.alpha.kubernetes.io~1is-default-class"]);
    vec![cell(name), cell(row.text("/driverName")), row.age()]
}

pub(crate) fn attachment(row: Row<'_>) -> Vec<Cell> {
    vec![
        cell(row.name()),
        cell(row.text("/spec/attacher")),
        cell(row.text("/spec/source/persistentVolumeName")),
        cell(row.text("/spec/nodeName")),
        cell(row.flag("/status/attached", false)),
        row.age(),
    ]
}

pub(crate) fn csi_node(row: Row<'_>) -> Vec<Cell> {
    vec![cell(row.name()), cell(row.count("/spec/drivers")), row.age()]
}

pub(crate) fn csi_driver(row: Row<'_>) -> Vec<Cell> {
    let modes = join(row.list("/spec/volumeLifecycleModes"), |m| m.as_str().unwrap_or_default());
    let requests = match row.at("/spec/tokenRequests").and_then(Value::as_array) {
        Some(requests) => join(requests, |r| text(r, "audience")),
        None => "<unset>".to_owned(),
    };
    vec![
        cell(row.name()),
        cell(row.flag("/spec/attachRequired", true)),
        cell(row.flag("/spec/podInfoOnMount", false)),
        cell(row.flag("/spec/storageCapacity", false)),
        cell(requests),
        cell(row.flag("/spec/requiresRepublish", false)),
        cell(if modes.is_empty() { "<none>".to_owned() } else { modes }),
        row.age(),
    ]
}

pub(crate) fn csi_capacity(row: Row<'_>) -> Vec<Cell> {
    let capacity = scalar(row.at("/capacity")).unwrap_or_else(|| "<unset>".to_owned());
    vec![cell(row.name()), cell(row.text("/storageClassName")), cell(capacity)]
}

pub(crate) fn resource_claim(row: Row<'_>) -> Vec<Cell> {
    let allocated = row.at("/status/allocation").is_some_and(|a| !a.is_null());
    let mut states = Vec::new();
    if row.is_being_deleted() {
        states.push("deleted");
    } else if !allocated {
        states.push("pending");
    }
    if allocated {
        states.push("allocated");
    }
    if row.count("/status/reservedFor") > 0 {
        states.push("reserved");
    }
    vec![cell(row.name()), cell(states.join(",")), row.age()]
}

pub(crate) fn resource_slice(row: Row<'_>) -> Vec<Cell> {
    vec![
        cell(row.name()),
        cell(row.text_or("/spec/nodeName", "<unset>")),
        cell(row.text("/spec/driver")),
        cell(row.text("/spec/pool/name")),
        row.age(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cell::shown;
    use super::*;

    fn row(object: &Value) -> Row<'_> {
        Row { object }
    }

    #[test]
    fn a_claim_shows_capacity_and_modes_once_it_is_bound() {
        let status = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]});
        let bound = json!({"spec": {"volumeName": "v", "storageClassName": "s"}, "status": status});
        assert_eq!(shown(claim(row(&bound)))[1..6], ["Bound", "v", "1Gi", "RWO,RWX", "s"]);
        let pending = json!({"spec": {}, "status": {"phase": "Pending"}});
        assert_eq!(shown(claim(row(&pending)))[1..5], ["Pending", "", "", ""]);
    }

    #[test]
    fn the_default_class_is_marked() {
        let object = json!({"metadata": {"name": "s", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
        assert_eq!(shown(class(row(&object)))[0], "s (default)");
    }
}

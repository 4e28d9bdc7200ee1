//! Volumes: exactly one source each, and that one well-formed.

use std::collections::{BTreeMap, BTreeSet};

use super::projected;
use super::spec::{Owner, one_of};
use crate::field::{Error, ErrorList, Path};
use crate::quantity::Quantity;
use crate::strategy::storage;
use crate::validate::view::View;
use crate::validate::{check, dns1123_label, inclusive_range, is_dns1123_subdomain, name_is_dns_subdomain};

/// The sources in the order in which upstream looks at them: the field, and the name that its errors use
/// where upstream's differs.
const SOURCES: [(&str, &str); 30] = [
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephfs"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwardAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

/// Checks `spec.volumes`; answers with the volumes that are right, by name, for the mounts to look up.
pub(super) fn volumes<'a>(
    spec: View<'a>,
    owner: Owner<'_>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) -> BTreeMap<&'a str, View<'a>> {
    let mut good = BTreeMap::new();
    let ephemeral = spec.list("volumes").filter(|one| one.get("ephemeral").is_set());
    let ephemeral: BTreeSet<&str> = ephemeral.map(|one| one.str("name")).collect();
    for (index, volume) in spec.list("volumes").enumerate() {
        let (at, name) = (path.index(index), volume.str("name"));
        let mut own = ErrorList::new();
        source(volume, owner, &at, &mut own);
        match name {
            "" => own.push(Error::required(&at.child("name"), "")),
            name => dns1123_label(name, &at.child("name"), &mut own),
        }
        if good.contains_key(name) {
            own.push(Error::duplicate(&at.child("name"), name));
        }
        if own.is_empty() {
            good.insert(name, volume);
        }
        errors.extend(own);
        claim_of_own_making(&ephemeral, volume, owner, &at, errors);
    }
    good
}

/// A Pod cannot name the claim that is made for one of its ephemeral volumes.
fn claim_of_own_making(
    ephemeral: &BTreeSet<&str>,
    volume: View<'_>,
    owner: Owner<'_>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let claim = volume.get("persistentVolumeClaim").str("claimName");
    let pod = owner.metadata().map_or("", |metadata| metadata.str("name"));
    let Some(made_for) =
        claim.strip_prefix(pod).and_then(|rest| rest.strip_prefix('-')).filter(|_| !pod.is_empty())
    else {
        return;
    };
    if ephemeral.contains(made_for) {
        let words = "must not reference a PVC that gets created for an ephemeral volume";
        errors.push(Error::invalid(&path.child("persistentVolumeClaim.claimName"), claim, words));
    }
}

fn source(volume: View<'_>, owner: Owner<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut chosen = false;
    for (field, name) in SOURCES.iter().filter(|(field, _)| volume.get(field).is_set()) {
        if chosen {
            errors.push(Error::forbidden(
                &path.child(doubled(field)),
                "may not specify more than 1 volume type",
            ));
        } else {
            chosen = true;
            one_source(field, volume, owner, &path.child(name), path, errors);
        }
        if *field == "iscsi" {
            portal_length(volume.get("iscsi"), volume.str("name"), path, errors);
        }
    }
    if !chosen {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

/// The names that upstream's message about a second source has, misspelt ones included.
fn doubled(field: &str) -> &str {
    match field {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        other => other,
    }
}

fn one_source(
    field: &str,
    volume: View<'_>,
    owner: Owner<'_>,
    path: &Path<'_>,
    holder: &Path<'_>,
    errors: &mut ErrorList,
) {
    let source = volume.get(field);
    match field {
        "emptyDir" => empty_dir(source, path, errors),
        "secret" => files(source, "secretName", path, errors),
        "configMap" => files(source, "name", path, errors),
        "downwardAPI" => projected::downward(source, path, errors),
        "projected" => projected::projected(source, path, errors),
        "ephemeral" => ephemeral(volume, owner, path, holder, errors),
        "image" => {
            if owner.metadata().is_some() && source.str("reference").is_empty() {
                errors.push(Error::required(&path.child("reference"), ""));
            }
            let policies = ["Always", "IfNotPresent", "Never"];
            one_of(source.str("pullPolicy"), &policies, &path.child("pullPolicy"), errors);
        }
        "csi" => inline_csi(source, path, errors),
        _ => shared_source(field, source, path, errors),
    }
}

/// Fields without which an older source means nothing.
fn required_fields(field: &str) -> &'static [&'static str] {
    match field {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "portworxVolume" | "cinder" => &["volumeID"],
        "nfs" => &["server", "path"],
        "glusterfs" => &["endpoints", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "flexVolume" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "azureDisk" => &["diskName", "diskURI"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "storageos" => &["volumeName"],
        _ => &[],
    }
}

/// The sources that a Pod and a PersistentVolume have in common.
pub(in crate::strategy) fn shared_source(
    field: &str,
    source: View<'_>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    for name in required_fields(field) {
        if source.str(name).is_empty() && !source.has_items(name) {
            errors.push(Error::required(&path.child(name), ""));
        }
    }
    match field {
        "hostPath" => host_path(source, path, errors),
        "gitRepo" => local_descending_path(source.str("directory"), &path.child("directory"), errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = source.int("partition");
            if !(0..=255).contains(&partition) {
                errors.push(Error::invalid(&path.child("partition"), partition, inclusive_range(1, 255)));
            }
        }
        "nfs" if !source.str("path").starts_with('/') => {
            errors.push(Error::invalid(&path.child("path"), source.str("path"), "must be an absolute path"));
        }
        "iscsi" => iscsi(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "flocker" => flocker(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "flexVolume" => flex_options(source, path, errors),
        "azureDisk" => azure_disk(source, path, errors),
        "cinder" | "storageos" => {
            let secret = source.get("secretRef");
            let nameless = secret.is_set() && secret.str("name").is_empty();
            errors.extend(nameless.then(|| Error::required(&path.child("secretRef.name"), "")));
        }
        _ => {}
    }
}

fn empty_dir(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let limit = source.get("sizeLimit").value().and_then(|value| Quantity::from_json(value).ok());
    if limit.is_some_and(|limit| limit.sign() < 0) {
        let words = "SizeLimit field must be a valid resource quantity";
        errors.push(Error::forbidden(&path.child("sizeLimit"), words));
    }
}

fn host_path(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let file = source.str("path");
    if file.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
        return;
    }
    path_without_backsteps(file, &path.child("path"), errors);
    let kinds =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = source.str("type");
    if !kinds.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &kinds));
    }
}

/// A volume of files made from the keys of an object.
fn files(source: View<'_>, name_field: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if source.str(name_field).is_empty() {
        errors.push(Error::required(&path.child(name_field), ""));
    }
    mode(source, "defaultMode", path, errors);
    key_paths(source, path, errors);
}

/// The `items` of a volume or projection: which key becomes which file.
pub(super) fn key_paths(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let items = path.child("items");
    for (index, item) in source.list("items").enumerate() {
        let at = items.index(index);
        for name in ["key", "path"].into_iter().filter(|name| item.str(name).is_empty()) {
            errors.push(Error::required(&at.child(name), ""));
        }
        local_non_reserved_path(item.str("path"), &at.child("path"), errors);
        mode(item, "mode", &at, errors);
    }
}

/// Permission bits of files.
pub(super) fn mode(holder: View<'_>, name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(bits) = holder.get(name).as_int().filter(|bits| !(0..=0o777).contains(bits)) {
        let words = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(Error::invalid(&path.child(name), bits, words));
    }
}

fn portal_length(iscsi: View<'_>, volume: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let length = volume.len() + 1 + iscsi.str("targetPortal").len();
    if iscsi.get("initiatorName").is_set() && length > 64 {
        let words = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(Error::invalid(&path.child("name"), volume, words));
    }
}

fn iscsi(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if source.str("targetPortal").is_empty() {
        errors.push(Error::required(&path.child("targetPortal"), ""));
    }
    match source.str("iqn") {
        "" => errors.push(Error::required(&path.child("iqn"), "")),
        name => initiator(name, &path.child("iqn"), errors),
    }
    let lun = source.int("lun");
    if !(0..=255).contains(&lun) {
        errors.push(Error::invalid(&path.child("lun"), lun, inclusive_range(0, 255)));
    }
    let chap = source.flag("chapAuthDiscovery") || source.flag("chapAuthSession");
    if chap && !source.get("secretRef").is_set() {
        errors.push(Error::required(&path.child("secretRef"), ""));
    }
    if source.get("initiatorName").is_set() {
        initiator(source.str("initiatorName"), &path.child("initiatorname"), errors);
    }
}

/// The name of an iSCSI initiator: `iqn.YYYY-MM.domain:id`, `eui.` or `naa.` and digits.
fn initiator(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let digits =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let well_formed = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => name.get(4..).is_some_and(|rest| digits(rest, 16)),
        Some("naa") => name.get(4..).is_some_and(|rest| digits(rest, 32)),
        _ => {
            let words = "must be valid format starting with iqn, eui, or naa";
            errors.push(Error::invalid(path, name, words));
            return;
        }
    };
    if !well_formed {
        errors.push(Error::invalid(path, name, "must be valid format"));
    }
}

fn is_iqn(name: &str) -> bool {
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let dated = matches!(date.as_bytes(), [y @ .., b'-', m1, m2]
        if y.len() == 4 && y.iter().chain([m1, m2]).all(u8::is_ascii_digit));
    let Some((authority, id)) = rest.split_once(':') else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
    dated
        && !authority.is_empty()
        && authority.bytes().all(plain)
        && !id.is_empty()
        && !id.chars().any(|c| c.is_whitespace() || ",;*&$|".contains(c))
}

fn fibre_channel(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (names, wwids) = (source.has_items("targetWWNs"), source.has_items("wwids"));
    let field = path.child("targetWWNs");
    if !names && !wwids {
        errors.push(Error::required(&field, "must specify either targetWWNs or wwids, but not both"));
    }
    if names && wwids {
        let words = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(Error::invalid(&field, source.get("targetWWNs").json(), words));
    }
    match source.get("lun").as_int() {
        None if names => {
            errors.push(Error::required(&path.child("lun"), "lun is required if targetWWNs is specified"));
        }
        Some(lun) if names && !(0..=255).contains(&lun) => {
            errors.push(Error::invalid(&path.child("lun"), lun, inclusive_range(0, 255)));
        }
        _ => {}
    }
}

fn flocker(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (name, uuid) = (source.str("datasetName"), source.str("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.push(Error::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let words = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(Error::invalid(path, "resource", words));
    }
    if name.contains('/') {
        errors.push(Error::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let registry = source.str("registry");
    let words = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        errors.push(Error::required(&path.child("registry"), words));
    } else if source.str("tenant").len() >= 65 {
        let words = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(Error::required(&path.child("tenant"), words));
    } else {
        for _ in registry.split(',').filter(|pair| pair.matches(':').count() != 1) {
            errors.push(Error::invalid(&path.child("registry"), registry, words));
        }
    }
    if source.str("volume").is_empty() {
        errors.push(Error::required(&path.child("volume"), ""));
    }
}

fn flex_options(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let options = path.child("options");
    for (key, _) in source.map("options") {
        let namespace = format!(".{}", key.split('/').next().unwrap_or("").to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let words = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(Error::invalid(&options.key(key), key, words));
        }
    }
}

fn azure_disk(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let caching = ["None", "ReadOnly", "ReadWrite"];
    let kinds = ["Dedicated", "Managed", "Shared"];
    for (name, supported) in [("cachingMode", &caching), ("kind", &kinds)] {
        if source.get(name).is_set() && !supported.contains(&source.str(name)) {
            errors.push(Error::not_supported(&path.child(name), source.str(name), supported));
        }
    }
    let uri = source.str("diskURI");
    let (prefix, form) = match source.str("kind") {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
    };
    if source.get("kind").is_set() && !uri.starts_with(prefix) {
        errors.push(Error::not_supported(&path.child("diskURI"), uri, &[form]));
    }
}

fn inline_csi(source: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    driver_name(source.str("driver"), &path.child("driver"), errors);
    let secret = source.get("nodePublishSecretRef");
    if secret.is_set() {
        match secret.str("name") {
            "" => errors.push(Error::required(&path.child("nodePublishSecretRef.name"), "")),
            name => check(name_is_dns_subdomain(name, false), name, &path.child("name"), errors),
        }
    }
}

/// The name of a CSI driver.
pub(in crate::strategy) fn driver_name(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > 63 {
        errors.push(Error::too_long(path, 63));
    }
    check(is_dns1123_subdomain(&name.to_lowercase()), name, path, errors);
}

fn ephemeral(volume: View<'_>, owner: Owner<'_>, path: &Path<'_>, holder: &Path<'_>, errors: &mut ErrorList) {
    let template = volume.at(&["ephemeral", "volumeClaimTemplate"]);
    if template.is_set() {
        storage::claim_template(template, &path.child("volumeClaimTemplate"), errors);
    } else {
        errors.push(Error::required(&path.child("volumeClaimTemplate"), ""));
    }
    let pod = owner.metadata().map_or("", |metadata| metadata.str("name"));
    let name = volume.str("name");
    if pod.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{pod}-{name}");
    for words in name_is_dns_subdomain(&claim, false) {
        errors.push(Error::invalid(&holder.child("name"), name, format!("PVC name \"{claim}\": {words}")));
    }
}

/// A path that stays where it is: relative, and never upwards.
pub(super) fn local_descending_path(target: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    path_without_backsteps(target, path, errors);
}

/// A path without `..` among its elements.
pub(in crate::strategy) fn path_without_backsteps(target: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if target.split('/').any(|element| element == "..") {
        errors.push(Error::invalid(path, target, "must not contain '..'"));
    }
}

/// A local path that does not begin like the names the atomic writer keeps for itself (`..data`).
pub(super) fn local_non_reserved_path(target: &str, path: &Path<'_>, errors: &mut ErrorList) {
    local_descending_path(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
}

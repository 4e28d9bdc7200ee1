//! What becomes of a claim: a function of the claim, the volumes and the class.

use std::sync::Arc;

use api::placement::matches_selector;
use api::quantity::Quantity;
use api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{PROVISIONER, VOLUME_PROTECTION};

pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What to do with a claim that has no volume.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// Bind it to this volume.
    Bind(Arc<PersistentVolume>),
    /// Make a directory volume; on the node named, or on any.
    Provision { node: Option<String> },
    /// Nothing yet; this event says why.
    Wait { warning: bool, reason: &'static str, message: String },
}

/// Decides for an unbound claim. `class` is the claim's, if it exists.
pub(super) fn decide(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&StorageClass>,
    node: Option<&Node>,
) -> Decision {
    let fitting = || volumes.iter().filter(|volume| fits(claim, volume));
    // A volume that names the claim belongs to it, whatever its size beyond the request.
    if let Some(volume) = fitting().find(|volume| names(volume, claim)) {
        return Decision::Bind(volume.clone());
    }
    let late = class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer");
    let selected = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
    if late && selected.is_none() {
        let message = "waiting for first consumer to be created before binding".to_owned();
        return Decision::Wait { warning: false, reason: "WaitForFirstConsumer", message };
    }
    let reachable =
        |volume: &&Arc<PersistentVolume>| !late || node.is_some_and(|node| is_reachable(volume, node));
    let free = fitting().filter(|volume| claim_reference(volume).is_none()).filter(reachable);
    if let Some(volume) = free.min_by_key(|volume| (capacity(volume), volume.metadata.name.clone())) {
        return Decision::Bind(volume.clone());
    }
    provision_or_wait(claim, class, selected.cloned())
}

fn provision_or_wait(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: Option<String>,
) -> Decision {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    match class {
        Some(class) if class.provisioner == PROVISIONER => match not_provided(claim) {
            Some(what) => {
                let message = format!("volumes {what} are not provided by {PROVISIONER}");
                Decision::Wait { warning: true, reason: "ProvisioningFailed", message }
            }
            None => Decision::Provision { node },
        },
        Some(class) if class.provisioner == "kubernetes.io/no-provisioner" => no_volume(),
        Some(class) => {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered.",
                class.provisioner
            );
            Decision::Wait { warning: false, reason: "ExternalProvisioning", message }
        }
        None if wanted.is_empty() => no_volume(),
        None => {
            let message = format!("storageclass.storage.k8s.io \"{wanted}\" not found");
            Decision::Wait { warning: true, reason: "ProvisioningFailed", message }
        }
    }
}

/// What a directory cannot be: an empty one in its place would be taken for the real thing.
fn not_provided(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("made from others or from snapshots");
    }
    (spec.volume_mode.as_deref() == Some("Block")).then_some("of mode Block")
}

fn no_volume() -> Decision {
    let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
    Decision::Wait { warning: false, reason: "FailedBinding", message }
}

/// The claim that a volume is bound to or kept for.
pub(super) fn claim_reference(volume: &PersistentVolume) -> Option<(&str, &str, &str)> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((
        reference.namespace.as_deref().unwrap_or_default(),
        reference.name.as_deref().unwrap_or_default(),
        reference.uid.as_deref().unwrap_or_default(),
    ))
}

/// Does the volume name this very claim?
pub(super) fn names(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let metadata = &claim.metadata;
    claim_reference(volume).is_some_and(|(namespace, name, uid)| {
        metadata.namespace.as_deref() == Some(namespace)
            && metadata.name.as_deref() == Some(name)
            && (uid.is_empty() || metadata.uid.as_deref() == Some(uid))
    })
}

fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(wanted), Some(has)) = (&claim.spec, &volume.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    let modes = wanted.access_modes.iter().flatten();
    volume.metadata.deletion_timestamp.is_none()
        && (claim_reference(volume).is_none() || names(volume, claim))
        && mode(&wanted.volume_mode) == mode(&has.volume_mode)
        && class(&wanted.storage_class_name) == class(&has.storage_class_name)
        && modes.into_iter().all(|mode| has.access_modes.iter().flatten().any(|have| have == mode))
        && capacity(volume) >= requested(claim)
        && selected(claim, volume)
}

fn selected(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let Some(selector) = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return true };
    // Validation lets no other operators in; a selector that cannot be read selects nothing.
    LabelSelector::from_meta(Some(selector)).is_ok_and(|selector| selector.matches(&volume.metadata.labels))
}

pub(super) fn bytes(text: Option<&str>) -> i64 {
    text.and_then(|text| text.parse::<Quantity>().ok()).map_or(0, |quantity| quantity.value())
}

pub(super) fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    bytes(capacity.and_then(|list| list.get("storage")).map(|quantity| quantity.0.as_str()))
}

fn requested(claim: &PersistentVolumeClaim) -> i64 {
    bytes(storage_request(claim))
}

/// Whether a Pod keeps its claim from going. One without a node will not start with a claim that goes; one that
/// has ended keeps it until it is deleted, but for a volume that is only the Pod's own: that goes when the node
/// is done with the Pod.
pub(super) fn keeps(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) =
        pod.spec.as_ref().filter(|spec| spec.node_name.as_deref().is_some_and(|n| !n.is_empty()))
    else {
        return false;
    };
    let (pod_name, name) = (pod.metadata.name.as_deref().unwrap_or_default(), claim.metadata.name.as_deref());
    let is_shut_down =
        pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let is_own = claim
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref());
    spec.volumes.iter().flatten().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.as_str());
        let own =
            || volume.ephemeral.is_some() && name == Some(format!("{pod_name}-{}", volume.name).as_str());
        named.is_some() && named == name || !is_shut_down && is_own && own()
    })
}

/// `spec.resources.requests.storage`.
pub(super) fn storage_request(claim: &PersistentVolumeClaim) -> Option<&str> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    Some(requests.get("storage")?.0.as_str())
}

fn is_reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|selector| matches_selector(selector, node))
}

/// What the phase of a volume should be, given the claim it names (if that
/// still exists, with the same UID).
pub(super) fn phase(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> &'static str {
    match claim_reference(volume) {
        None | Some((_, _, "")) => "Available",
        Some(_) if claim.is_some() => "Bound",
        Some(_) => "Released",
    }
}

/// The volume's object may go: nothing uses it.
pub(super) fn may_go(volume: &PersistentVolume, phase: &str) -> bool {
    let held = volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == VOLUME_PROTECTION);
    volume.metadata.deletion_timestamp.is_some() && held && phase != "Bound"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(class: &str, annotations: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "data", "uid": "u1", "annotations": annotations},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
                     "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap()
    }

    #[test]
    fn a_pod_on_a_node_keeps_its_claim_until_it_is_deleted() {
        let mut data = claim("", json!({}));
        let pod = |node: &str, volume: Value, metadata: Value| -> Pod {
            let mut pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "pod"}, "status": {"phase": "Succeeded"},
                "spec": {"nodeName": node, "containers": [], "volumes": [volume]}});
            for (key, value) in metadata.as_object().unwrap() {
                pod["metadata"][key] = value.clone();
            }
            serde_json::from_value(pod).unwrap()
        };
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        assert!(keeps(&pod("n", named.clone(), json!({})), &data), "one that has ended, too");
        assert!(!keeps(&pod("", named, json!({})), &data), "it will not start any more");
        let other = json!({"name": "v", "persistentVolumeClaim": {"claimName": "other"}});
        assert!(!keeps(&pod("n", other, json!({})), &data));
        let own = json!({"name": "v", "ephemeral": {}});
        data.metadata.name = Some("p-v".to_owned());
        assert!(!keeps(&pod("n", own.clone(), json!({})), &data), "somebody else's of the same name");
        data.metadata.owner_references = serde_json::from_value(
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod", "controller": true}]),
        )
        .unwrap();
        assert!(keeps(&pod("n", own.clone(), json!({})), &data));
        let done = json!({"deletionTimestamp": "2027-01-15T08:00:00Z", "deletionGracePeriodSeconds": 0});
        assert!(!keeps(&pod("n", own, done), &data));
    }

    fn volume(name: &str, size: &str, reference: Value) -> Arc<PersistentVolume> {
        let volume = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
            "storageClassName": "", "accessModes": ["ReadWriteOnce"], "claimRef": reference}});
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "c"}, "provisioner": provisioner, "volumeBindingMode": mode}),
        )
        .unwrap()
    }

    #[test]
    fn the_smallest_volume_that_is_large_enough_and_free_is_bound() {
        let volumes = [
            volume("large", "5Gi", Value::Null),
            volume("small", "1Mi", Value::Null),
            volume("fits", "2Gi", Value::Null),
            volume("taken", "1Gi", json!({"namespace": "a", "name": "other", "uid": "x"})),
        ];
        assert_eq!(decide(&claim("", json!({})), &volumes, None, None), Decision::Bind(volumes[2].clone()));
    }

    #[test]
    fn a_volume_that_names_the_claim_comes_first_unless_it_names_an_older_one() {
        let mine = volume("mine", "9Gi", json!({"namespace": "a", "name": "data"}));
        let older = volume("older", "1Gi", json!({"namespace": "a", "name": "data", "uid": "gone"}));
        let volumes = [older, volume("free", "1Gi", Value::Null), mine.clone()];
        assert_eq!(decide(&claim("", json!({})), &volumes, None, None), Decision::Bind(mine));
    }

    #[test]
    fn late_binding_waits_for_a_node_and_then_provisions_there() {
        let late = class(PROVISIONER, "WaitForFirstConsumer");
        let Decision::Wait { reason, .. } = decide(&claim("c", json!({})), &[], Some(&late), None) else {
            panic!("did not wait");
        };
        assert_eq!(reason, "WaitForFirstConsumer");
        let chosen = claim("c", json!({SELECTED_NODE: "n1"}));
        assert_eq!(decide(&chosen, &[], Some(&late), None), Decision::Provision { node: Some("n1".into()) });
    }

    #[test]
    fn what_cannot_be_served_says_why() {
        let reason = |decision| match decision {
            Decision::Wait { reason, message, .. } => (reason, message),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            reason(decide(&claim("gone", json!({})), &[], None, None)),
            ("ProvisioningFailed", "storageclass.storage.k8s.io \"gone\" not found".to_owned())
        );
        assert_eq!(reason(decide(&claim("", json!({})), &[], None, None)).0, "FailedBinding");
        let foreign = class("example.com/x", "Immediate");
        assert_eq!(
            reason(decide(&claim("c", json!({})), &[], Some(&foreign), None)).0,
            "ExternalProvisioning"
        );
    }

    #[test]
    fn an_empty_directory_does_not_stand_in_for_a_copy_or_a_block_device() {
        let own = class(PROVISIONER, "Immediate");
        let mut copy = claim("c", json!({}));
        let spec = copy.spec.as_mut().unwrap();
        spec.data_source =
            serde_json::from_value(json!({"kind": "PersistentVolumeClaim", "name": "x"})).unwrap();
        let mut block = claim("c", json!({}));
        block.spec.as_mut().unwrap().volume_mode = Some("Block".to_owned());
        for (claim, what) in [(copy, "made from others"), (block, "of mode Block")] {
            match decide(&claim, &[], Some(&own), None) {
                Decision::Wait { warning: true, reason: "ProvisioningFailed", message } => {
                    assert!(message.contains(what), "{message}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_volume_is_released_when_its_claim_is_gone() {
        let bound = volume("v", "1Gi", json!({"namespace": "a", "name": "data", "uid": "u1"}));
        assert_eq!(phase(&bound, Some(&claim("", json!({})))), "Bound");
        assert_eq!(phase(&bound, None), "Released");
        assert_eq!(phase(&volume("v", "1Gi", Value::Null), None), "Available");
    }
}

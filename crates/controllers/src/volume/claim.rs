//! One claim: its protection, its volume, its phase.

use client::events::EventType;
use client::{Error, ListOptions, Patch, PatchKind, index, key_of};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::decide::{Decision, SELECTED_NODE, claim_reference, decide, keeps, names, storage_request};
use super::expand::expand;
use super::{
    BOUND_BY_CONTROLLER, CLAIM_PROTECTION, PROVISIONED_BY, PROVISIONER, Volumes, finalizers_patch,
    missing_protection, volume_of,
};
use crate::context::{say, split, unless_gone};
use crate::workqueue::Next;

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

pub(super) async fn sync(this: &Volumes, key: &str) -> Result<Next, Error> {
    let (namespace, name) = split(key);
    let Some(claim) = this.claims.get(namespace, name) else { return Ok(Next::Done) };
    if claim.metadata.deletion_timestamp.is_some() {
        release(this, &claim, key).await?;
        return Ok(Next::Done);
    }
    if let Some(finalizers) = missing_protection(&claim.metadata, CLAIM_PROTECTION) {
        // The changed claim comes back by the watch and goes on from there.
        let body = finalizers_patch(claim.metadata.resource_version.as_deref(), &finalizers);
        patch(this, &claim, body).await?;
        return Ok(Next::Done);
    }
    match volume_of(&claim) {
        Some(volume) => bound(this, &claim, volume).await?,
        None => unbound(this, &claim).await?,
    }
    Ok(Next::Done)
}

/// A claim that is being deleted goes when no Pod uses it any more.
async fn release(this: &Volumes, claim: &PersistentVolumeClaim, key: &str) -> Result<(), Error> {
    let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    let used = || this.pods.by_index(index::PODS_BY_CLAIM, key).iter().any(|pod| keeps(pod, claim));
    if !finalizers.iter().any(|finalizer| finalizer == CLAIM_PROTECTION) || used() {
        return Ok(());
    }
    // What is known may be older than the Pod that was just given a node.
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let live = this.client.list::<Pod>(namespace, &ListOptions::default()).await?;
    if live.items.iter().any(|pod| keeps(pod, claim)) {
        return Ok(());
    }
    let left: Vec<String> =
        finalizers.into_iter().filter(|finalizer| finalizer != CLAIM_PROTECTION).collect();
    patch(this, claim, finalizers_patch(claim.metadata.resource_version.as_deref(), &left)).await
}

async fn unbound(this: &Volumes, claim: &PersistentVolumeClaim) -> Result<(), Error> {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    let class = this.classes.get("", class);
    let selected = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
    let node = selected.and_then(|node| this.nodes.get("", node));
    match decide(claim, &this.volumes.list(), class.as_deref(), node.as_deref()) {
        Decision::Bind(volume) => bind(this, claim, &volume).await,
        Decision::Provision { node } => provision(this, claim, node).await,
        Decision::Wait { warning, reason, message } => {
            let kind = if warning { EventType::Warning } else { EventType::Normal };
            say(&this.recorder, claim, kind, reason, message);
            Ok(())
        }
    }
}

async fn bound(this: &Volumes, claim: &PersistentVolumeClaim, volume: &str) -> Result<(), Error> {
    let completed = claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED));
    let Some(object) = this.volumes.get("", volume) else {
        // Asked for by name, it may still come; once bound, it is lost.
        if completed && phase(claim) != "Lost" {
            let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!".to_owned();
            say(&this.recorder, claim, EventType::Warning, "ClaimLost", text);
            return patch_status(this, claim, json!({"phase": "Lost"})).await;
        }
        return Ok(());
    };
    if names(&object, claim) || claim_reference(&object).is_none() {
        bind(this, claim, &object).await?;
        return expand(this, claim, &object).await;
    }
    if completed && phase(claim) != "Lost" {
        let text =
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!".to_owned();
        say(&this.recorder, claim, EventType::Warning, "ClaimMisbound", text);
        return patch_status(this, claim, json!({"phase": "Lost"})).await;
    }
    Ok(())
}

/// Four writes, each of which is skipped when it is done already: whoever is
/// interrupted between them goes on where it stopped.
async fn bind(this: &Volumes, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Error> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    if claim_reference(volume).is_none_or(|(_, _, known)| known != uid) {
        let mut body = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"claimRef": reference(claim)},
        });
        if claim_reference(volume).is_none() {
            body["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        let patch = Patch::new(PatchKind::Merge, body);
        this.client.patch::<PersistentVolume>("", name, &patch).await?;
    }
    let annotated = claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED));
    if !annotated {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_none_or(str::is_empty) {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
        }
        let body = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}});
        patch(this, claim, body).await?;
    }
    if phase(claim) != "Bound" {
        let spec = volume.spec.as_ref();
        let status = json!({
            "phase": "Bound",
            "accessModes": spec.and_then(|spec| spec.access_modes.as_ref()),
            "capacity": spec.and_then(|spec| spec.capacity.as_ref()),
        });
        patch_status(this, claim, status).await?;
    }
    Ok(())
}

fn reference(claim: &PersistentVolumeClaim) -> Value {
    let metadata = &claim.metadata;
    json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": metadata.namespace,
           "name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version})
}

/// A directory on the chosen node. The node makes it when the volume is first
/// mounted, so that this works for nodes that are elsewhere.
async fn provision(this: &Volumes, claim: &PersistentVolumeClaim, node: Option<String>) -> Result<(), Error> {
    let any = || this.nodes.list().into_iter().filter_map(|node| node.metadata.name.clone()).min();
    let Some(node) = node.or_else(any) else {
        let text = "failed to provision volume: no node is known".to_owned();
        say(&this.recorder, claim, EventType::Warning, "ProvisioningFailed", text);
        return Ok(());
    };
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let key = key_of(claim);
    let text = format!("External provisioner is provisioning volume for claim \"{key}\"");
    say(&this.recorder, claim, EventType::Normal, "Provisioning", text);
    let volume = directory_volume(this, claim, &name, &node);
    let volume = serde_json::from_value::<PersistentVolume>(volume)
        .map_err(|source| Error::Decode { path: format!("persistentvolumes/{name}"), source })?;
    match this.client.create("", &volume).await {
        Err(error) if !error.is_already_exists() => return Err(error),
        // It comes back by the watch, names the claim, and is bound then.
        _ => {}
    }
    say(
        &this.recorder,
        claim,
        EventType::Normal,
        "ProvisioningSucceeded",
        format!("Successfully provisioned volume {name}"),
    );
    Ok(())
}

fn directory_volume(this: &Volumes, claim: &PersistentVolumeClaim, name: &str, node: &str) -> Value {
    let key = key_of(claim);
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
    let policy = this.classes.get("", &class).and_then(|class| class.reclaim_policy.clone());
    let path = this.config.volumes_dir.join(format!("{name}_{}", key.replace('/', "_")));
    json!({
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": storage_request(claim).unwrap_or("0")},
            "accessModes": claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()),
            "persistentVolumeReclaimPolicy": policy.unwrap_or_else(|| "Delete".to_owned()),
            "storageClassName": class,
            "volumeMode": "Filesystem",
            "claimRef": reference(claim),
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
        },
    })
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

async fn patch(this: &Volumes, claim: &PersistentVolumeClaim, body: Value) -> Result<(), Error> {
    let key = key_of(claim);
    let (namespace, name) = split(&key);
    let patch = Patch::new(PatchKind::Merge, body);
    unless_gone(this.client.patch::<PersistentVolumeClaim>(namespace, name, &patch).await)
}

pub(super) async fn patch_status(
    this: &Volumes,
    claim: &PersistentVolumeClaim,
    status: Value,
) -> Result<(), Error> {
    let key = key_of(claim);
    let (namespace, name) = split(&key);
    let patch = Patch::status(PatchKind::Merge, json!({"status": status}));
    unless_gone(this.client.patch::<PersistentVolumeClaim>(namespace, name, &patch).await)
}

//! One volume: its phase, its reclaiming, its protection.

use std::path::Path;

use client::events::EventType;
use client::{DeleteOptions, Error, Patch, PatchKind};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;

use super::decide::{claim_reference, may_go, phase};
use super::{PROVISIONED_BY, PROVISIONER, VOLUME_PROTECTION, Volumes, finalizers_patch, missing_protection};
use crate::context::{Config, say, unless_gone};
use crate::workqueue::Next;

pub(super) async fn sync(this: &Volumes, name: &str) -> Result<Next, Error> {
    let Some(volume) = this.volumes.get("", name) else { return Ok(Next::Done) };
    if let Some(finalizers) = missing_protection(&volume.metadata, VOLUME_PROTECTION) {
        // The changed volume comes back by the watch and goes on from there.
        let body = finalizers_patch(volume.metadata.resource_version.as_deref(), &finalizers);
        this.client.patch::<PersistentVolume>("", name, &Patch::new(PatchKind::Merge, body)).await?;
        return Ok(Next::Done);
    }
    let claim = claim_of(this, &volume).await?;
    let wanted = phase(&volume, claim.as_ref());
    if may_go(&volume, wanted) {
        unprotect(this, &volume, name).await?;
        return Ok(Next::Done);
    }
    let known = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if known != wanted && !(known == "Failed" && wanted == "Released") {
        set_phase(this, name, json!({"phase": wanted})).await?;
    }
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if wanted == "Released" && policy == Some("Delete") && volume.metadata.deletion_timestamp.is_none() {
        reclaim(this, &volume, name).await?;
    }
    Ok(Next::Done)
}

/// The claim that the volume names, if that still is the same. A volume is
/// released for ever, so the server is asked before that.
async fn claim_of(this: &Volumes, volume: &PersistentVolume) -> Result<Option<PersistentVolumeClaim>, Error> {
    let Some((namespace, name, uid)) = claim_reference(volume).filter(|(_, _, uid)| !uid.is_empty()) else {
        return Ok(None);
    };
    let same = |claim: &PersistentVolumeClaim| claim.metadata.uid.as_deref() == Some(uid);
    if let Some(known) = this.claims.get(namespace, name).filter(|claim| same(claim)) {
        return Ok(Some((*known).clone()));
    }
    match this.client.get::<PersistentVolumeClaim>(namespace, name).await {
        Ok(claim) => Ok(Some(claim).filter(same)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn reclaim(this: &Volumes, volume: &PersistentVolume, name: &str) -> Result<(), Error> {
    let annotations = volume.metadata.annotations.as_ref();
    let ours = annotations.and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER);
    // What others provisioned they delete themselves.
    if !ours {
        return Ok(());
    }
    let path =
        volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref()).map(|source| source.path.clone());
    if let Some(path) = path
        && let Err(error) = remove_directory(&this.config, Path::new(&path)).await
    {
        let message = format!("error removing {path}: {error}");
        say(&this.recorder, volume, EventType::Warning, "VolumeFailedDelete", message.clone());
        return set_phase(this, name, json!({"phase": "Failed", "message": message})).await;
    }
    let options = DeleteOptions { uid: volume.metadata.uid.clone(), ..DeleteOptions::default() };
    unless_gone(this.client.delete::<PersistentVolume>("", name, &options).await)
}

/// Removes a directory right below that of the provisioner and nothing else: the path comes from
/// an object that a user may have changed.
async fn remove_directory(config: &Config, path: &Path) -> Result<(), String> {
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !plain || path.parent() != Some(&config.volumes_dir) {
        return Err("not a directory of this provisioner".to_owned());
    }
    let (remove, path) = (config.remove_tree, path.to_owned());
    // As long as the disk takes: not on a thread that others wait for.
    tokio::task::spawn_blocking(move || remove(&path)).await.map_err(|error| error.to_string())?
}

async fn unprotect(this: &Volumes, volume: &PersistentVolume, name: &str) -> Result<(), Error> {
    let finalizers = volume.metadata.finalizers.iter().flatten();
    let left: Vec<String> = finalizers.filter(|finalizer| *finalizer != VOLUME_PROTECTION).cloned().collect();
    let body = finalizers_patch(volume.metadata.resource_version.as_deref(), &left);
    unless_gone(this.client.patch::<PersistentVolume>("", name, &Patch::new(PatchKind::Merge, body)).await)
}

async fn set_phase(this: &Volumes, name: &str, status: serde_json::Value) -> Result<(), Error> {
    let patch = Patch::status(PatchKind::Merge, json!({"status": status}));
    unless_gone(this.client.patch::<PersistentVolume>("", name, &patch).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_directories_right_below_the_root_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            sign: crate::certificates::Sign::new(|_| Err("no authority here".to_owned())),
            authority_pem: String::new(),
            volumes_dir: root.path().to_owned(),
            remove_tree: |path| std::fs::remove_dir(path).map_err(|error| error.to_string()),
        };
        let volume = root.path().join("pvc-1_a_data");
        std::fs::create_dir_all(&volume).unwrap();
        remove_directory(&config, &volume).await.unwrap();
        assert!(!volume.exists());
        for elsewhere in [Path::new("/etc"), &root.path().join("../x"), &volume.join("deep"), root.path()] {
            let error = remove_directory(&config, elsewhere).await.unwrap_err();
            assert_eq!(error, "not a directory of this provisioner");
        }
    }
}

//! Claims find volumes, volumes are made and taken away.
//!
//! ```text
//! claim ─ decide ─┬─ Bind ──────► volume.claimRef, claim.volumeName, both Bound
//!                 ├─ Provision ─► a directory volume for the node that was chosen
//!                 └─ Wait ──────► an Event says for what
//! volume ─ decide ─ phase; Released with policy Delete: directory and object go
//! ```

mod claim;
mod decide;
mod persistent;

use std::sync::Arc;

use client::Change;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::{Context, key_of};

/// The provisioner of directory volumes.
pub(crate) const PROVISIONER: &str = "monopod.io/local";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

pub(crate) fn spawn(context: &Arc<Context>, tasks: &mut JoinSet<()>) {
    let (shared, recorder) = (context.clone(), context.recorder("persistentvolume-controller", tasks));
    let claims = context.controller("persistent-volume-claim", tasks, move |key| {
        claim::sync(shared.clone(), recorder.clone(), key)
    });
    let (shared, recorder) = (context.clone(), context.recorder("persistentvolume-controller", tasks));
    let volumes = context.controller("persistent-volume", tasks, move |name| {
        persistent::sync(shared.clone(), recorder.clone(), name)
    });
    let shared = context.clone();
    tasks.spawn(async move { ensure_class(&shared).await });
    let caches = &context.caches;
    context.feed(&caches.claims, &claims, tasks, |change| vec![key_of(&**change.object())]);
    context.feed(&caches.claims, &volumes, tasks, |change| {
        let spec = change.object().spec.as_ref();
        spec.and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty()).into_iter().collect()
    });
    context.feed(&caches.volumes, &volumes, tasks, |change| vec![key_of(&**change.object())]);
    let all = caches.claims.clone();
    context.feed(&caches.volumes, &claims, tasks, move |change| {
        // A claim that waits may fit any volume that appears; one that is bound
        // cares about its own.
        let name = change.object().metadata.name.clone();
        let concerned = all.filter(|claim| {
            let bound =
                claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
            bound.is_none() || bound == name
        });
        concerned.iter().map(|claim| key_of(&**claim)).collect()
    });
    let all = caches.claims.clone();
    context.feed(&caches.classes, &claims, tasks, move |change| match change {
        Change::Deleted(_) => Vec::new(),
        Change::Added(_) | Change::Modified { .. } => {
            all.list().iter().map(|claim| key_of(&**claim)).collect()
        }
    });
    // A Pod that ends or goes may be the last that protects its claims.
    context.feed(&caches.pods, &claims, tasks, |change| match change {
        Change::Added(_) => Vec::new(),
        Change::Modified { new: pod, .. } if !crate::conditions::is_finished(pod) => Vec::new(),
        Change::Modified { new: pod, .. } | Change::Deleted(pod) => claims_of(pod),
    });
}

/// The class of claims that name none: made at the start when the cluster has
/// no default, so that a claim from any tutorial is served.
async fn ensure_class(context: &Context) {
    let marked = |class: &StorageClass| {
        class.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(DEFAULT_CLASS))
    };
    if !context.caches.classes.filter(marked).is_empty() {
        return;
    }
    let class = StorageClass {
        metadata: ObjectMeta {
            name: Some("standard".to_owned()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    };
    match context.client.create("", &class).await {
        Err(error) if !error.is_already_exists() => {
            tracing::warn!(%error, "failed to make the default storage class")
        }
        _ => {}
    }
}

/// The object's finalizers with one more, unless it has it or is on its way out.
pub(crate) fn missing_protection(metadata: &ObjectMeta, finalizer: &str) -> Option<Vec<String>> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    if metadata.deletion_timestamp.is_some() || finalizers.iter().any(|known| known == finalizer) {
        return None;
    }
    finalizers.push(finalizer.to_owned());
    Some(finalizers)
}

/// The keys of the claims that a Pod uses.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(client::key(namespace, &source.claim_name)),
        (None, Some(_)) => Some(client::key(namespace, &format!("{name}-{}", volume.name))),
        (None, None) => None,
    });
    claims.collect()
}

/// A merge patch that sets the finalizers of exactly this version.
pub(crate) fn finalizers_patch(version: Option<&str>, finalizers: &[String]) -> serde_json::Value {
    json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}})
}

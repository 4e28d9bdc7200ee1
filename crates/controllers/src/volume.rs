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
use serde_json::json;
use tokio::task::JoinSet;

use crate::context::{Context, key_of};

/// The provisioner of directory volumes.
pub(crate) const PROVISIONER: &str = "monopod.io/local";
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

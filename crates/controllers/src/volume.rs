//! Claims find volumes, volumes are made and taken away.
//!
//! ```text
//! claim ─ decide ─┬─ Bind ──────► volume.claimRef, claim.volumeName, both Bound
//!                 ├─ Provision ─► a directory volume for the node that was chosen
//!                 └─ Wait ──────► an Event says for what
//! bound claim ─ expand ─► the volume grows to what the claim asks for
//! volume ─ decide ─ phase; Released with policy Delete: directory and object go
//! ```

mod claim;
mod decide;
mod expand;
mod persistent;

use std::sync::Arc;

use client::events::Recorder;
use client::index::claims_of;
use client::{Change, Client, Informer, key_of};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::task::JoinSet;

use crate::conditions::is_finished;
use crate::context::{Config, Context};
use crate::controller::Controller;

/// The provisioner of directory volumes.
pub(crate) const PROVISIONER: &str = "monopod.io/local";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(crate) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

struct Volumes {
    client: Client,
    recorder: Recorder,
    /// The two who speak of expansions.
    expander: Recorder,
    resizer: Recorder,
    config: Config,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let informers = &context.informers;
    let this = Arc::new(Volumes {
        client: context.client.clone(),
        recorder: context.recorder("persistentvolume-controller", tasks),
        expander: context.recorder("volume_expand", tasks),
        resizer: context.recorder(&format!("external-resizer {PROVISIONER}"), tasks),
        config: context.config.clone(),
        claims: informers.of(),
        volumes: informers.of(),
        classes: informers.of(),
        pods: informers.of(),
        nodes: informers.of(),
    });
    let shared = this.clone();
    claims(&this).run(tasks, context.shutdown.clone(), move |key| {
        let this = shared.clone();
        async move { claim::sync(&this, &key).await }
    });
    let (shared, shutdown) = (this.clone(), context.shutdown.clone());
    tasks.spawn(async move {
        // Cancel-safe: the class is made or not.
        shutdown.run_until_cancelled(shared.ensure_class()).await;
    });
    volumes(&this).run(tasks, context.shutdown.clone(), move |name| {
        let this = this.clone();
        async move { persistent::sync(&this, &name).await }
    });
}

/// When claims are looked at.
fn claims(this: &Volumes) -> Controller {
    let (of_volume, of_class) = (this.claims.clone(), this.claims.clone());
    Controller::new("persistent-volume-claim")
        .watches(&this.claims, |change| vec![key_of(&**change.object())])
        .watches(&this.volumes, move |change| {
            // A claim that waits may fit any volume that appears; one that is bound
            // cares about its own.
            let name = change.object().metadata.name.as_deref();
            let concerned = of_volume.filter(|claim| volume_of(claim).is_none_or(|own| Some(own) == name));
            concerned.iter().map(|claim| key_of(&**claim)).collect()
        })
        .watches(&this.classes, move |change| match change {
            Change::Deleted(_) => Vec::new(),
            Change::Added(_) | Change::Modified { .. } => {
                of_class.list().iter().map(|claim| key_of(&**claim)).collect()
            }
        })
        // A Pod that ends or goes may be the last that protects its claims.
        .watches(&this.pods, |change| match change {
            Change::Added(_) => Vec::new(),
            Change::Modified { new: pod, .. }
                if !is_finished(pod) && pod.metadata.deletion_timestamp.is_none() =>
            {
                Vec::new()
            }
            Change::Modified { new: pod, .. } | Change::Deleted(pod) => claims_of(pod),
        })
        .reads(&this.nodes)
}

/// When volumes are looked at.
fn volumes(this: &Volumes) -> Controller {
    Controller::new("persistent-volume")
        .watches(&this.claims, |change| volume_of(change.object()).map(str::to_owned).into_iter().collect())
        .watches(&this.volumes, |change| vec![key_of(&**change.object())])
}

/// The volume that a claim has, or asks for by name.
fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

impl Volumes {
    /// The class of claims that name none: made at the start when the cluster has
    /// no default, so that a claim from any tutorial is served.
    async fn ensure_class(&self) {
        self.classes.synced().await;
        let marked = |class: &StorageClass| {
            class.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(DEFAULT_CLASS))
        };
        if !self.classes.filter(marked).is_empty() {
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
            allow_volume_expansion: Some(true),
            ..StorageClass::default()
        };
        match self.client.create("", &class).await {
            Err(error) if !error.is_already_exists() => {
                tracing::warn!(%error, "failed to make the default storage class")
            }
            _ => {}
        }
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

/// A merge patch that sets the finalizers of exactly this version.
pub(crate) fn finalizers_patch(version: Option<&str>, finalizers: &[String]) -> serde_json::Value {
    json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}})
}

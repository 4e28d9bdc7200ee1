//! Freeing what nobody uses any more, and measuring what Pods have written.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use runtime::DiskUse;

use super::observe;
use super::threshold::Signal;
use crate::container::config::log_directory;
use crate::pod::storage::{self, Used};
use crate::shared::Shared;
use crate::volumes::PodDirectory;
use crate::worker::{remove_logs, remove_sandboxes};

/// Takes back what can be had without anybody's loss, in upstream's order: containers of Pods that have ended,
/// then images that no container uses. Of images on a file system of their own, the images alone count.
pub(super) async fn of_disk(node: &Shared, signal: Signal) {
    let of_images = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
    let apart = observe::has_image_fs(&node.config);
    if !(apart && of_images) {
        remove_ended(node).await;
    }
    if !apart || of_images {
        let wanted = runtime::Collection { bytes: u64::MAX, minimum_age: node.config.images.minimum_age };
        match node.runtime.collect_images(wanted).await {
            Ok(freed) => {
                tracing::info!(images = freed.images.len(), bytes = freed.bytes, "unused images are removed")
            }
            Err(error) => tracing::warn!(%error, "unused images cannot be removed"),
        }
    }
}

/// Removes containers and logs of Pods that have ended; the objects stay until somebody deletes them.
async fn remove_ended(node: &Shared) {
    let ended: Vec<_> = {
        let workers = node.workers();
        workers.values().filter(|worker| worker.terminated).map(|worker| worker.pod.clone()).collect()
    };
    for pod in ended {
        remove_contents(node, &pod).await;
    }
}

/// Removes what an evicted Pod has left, and says so: until then nobody else has to go.
pub(crate) async fn clear_evicted(node: &Shared, pod: &Pod) {
    remove_contents(node, pod).await;
    if let Some(worker) = node.workers().get_mut(pod.metadata.uid.as_deref().unwrap_or_default()) {
        worker.cleared = true;
    }
    node.freed.notify_waiters();
}

/// Removes all that an ended Pod has left but its object.
async fn remove_contents(node: &Shared, pod: &Pod) {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let logs = log_directory(&node.config.logs_directory, pod);
    let links = node.config.log_links_directory.clone();
    let removed = async {
        remove_sandboxes(&*node.runtime, uid).await?;
        runtime::on_own_thread((), move || remove_logs(&logs, links.as_deref()))
            .await
            .map_err(|error| error.to_string())?
    };
    if let Err(error) = removed.await {
        tracing::warn!(uid, error, "what an ended Pod has left cannot be removed; it goes with its object");
    }
}

/// What a Pod has written on the node's disk: roots, logs and scratch volumes. `None`: it is not known.
pub(crate) async fn written(node: &Shared, pod: &Pod) -> Option<Used> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let roots = match node.runtime.written(uid).await {
        Ok(roots) => roots,
        Err(error) => {
            tracing::warn!(uid, %error, "what a Pod has written cannot be measured");
            return None;
        }
    };
    let logs = log_directory(&node.config.logs_directory, pod);
    let directory = PodDirectory::new(&node.config.pods_directory, uid);
    let names = storage::containers(pod).map(|container| container.name.clone());
    let logs: Vec<(String, PathBuf)> = names.map(|name| (name.clone(), logs.join(&name))).collect();
    let volumes: Vec<(String, PathBuf)> = storage::volumes(pod)
        .map(|volume| (volume.name.clone(), directory.volume(storage::plugin(volume), &volume.name)))
        .collect();
    let measured = runtime::on_own_thread((), move || measure(roots, &logs, &volumes)).await;
    measured.inspect_err(|error| tracing::warn!(%error, "what a Pod has written cannot be measured")).ok()
}

/// Adds logs and volumes to what is known of roots. What is not there, or goes away while it is walked, uses nothing.
pub(crate) fn measure(
    roots: std::collections::BTreeMap<String, DiskUse>,
    logs: &[(String, PathBuf)],
    volumes: &[(String, PathBuf)],
) -> Used {
    let size = |path: &PathBuf| {
        sys::disk::usage(path)
            .map_or(DiskUse::default(), |usage| DiskUse { bytes: usage.bytes, inodes: usage.inodes })
    };
    let mut used = Used { containers: roots, ..Used::default() };
    for (name, path) in logs {
        used.containers.entry(name.clone()).or_default().add(size(path));
    }
    used.volumes = volumes.iter().map(|(name, path)| (name.clone(), size(path))).collect();
    used
}

//! Pods that nobody will ever finish: their node is gone, they were deleted
//! before they got one, or there are too many that ended long ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use client::{Change, DeleteOptions, Error, Patch, PatchKind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conditions::{disruption_target, is_finished};
use crate::context::{Context, key_of, split, unless_gone};
use crate::work::Next;

/// `--terminated-pod-gc-threshold`.
const FINISHED_MAX: usize = 12_500;
/// A node that is gone may be about to come back.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The key under which all finished Pods are looked at.
const FINISHED: &str = "*";

/// Since when nodes that Pods name are not there.
type Missing = Mutex<HashMap<String, Instant>>;

fn lock(missing: &Missing) -> MutexGuard<'_, HashMap<String, Instant>> {
    missing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub(crate) fn spawn(context: &Arc<Context>, tasks: &mut JoinSet<()>) {
    let (shared, missing) = (context.clone(), Arc::new(Missing::default()));
    let keys =
        context.controller("pod-garbage-collector", tasks, move |key| {
            let (context, missing) = (shared.clone(), missing.clone());
            async move {
                if key == FINISHED { prune(&context).await } else { sync(&context, &missing, &key).await }
            }
        });
    let nodes = context.caches.nodes.clone();
    context.feed(&context.caches.pods, &keys, tasks, move |change| match change {
        Change::Added(pod) | Change::Modified { new: pod, .. } => {
            let homeless = on_node(pod).is_some_and(|node| nodes.get("", node).is_none());
            let never_placed = on_node(pod).is_none() && pod.metadata.deletion_timestamp.is_some();
            let mut concerned: Vec<String> =
                (homeless || never_placed).then(|| key_of(&**pod)).into_iter().collect();
            concerned.extend(is_finished(pod).then(|| FINISHED.to_owned()));
            concerned
        }
        Change::Deleted(_) => Vec::new(),
    });
    let pods = context.caches.pods.clone();
    context.feed(&context.caches.nodes, &keys, tasks, move |change| {
        let Change::Deleted(node) = change else { return Vec::new() };
        pods.filter(|pod| on_node(pod) == node.metadata.name.as_deref())
            .iter()
            .map(|pod| key_of(&**pod))
            .collect()
    });
}

fn on_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

async fn sync(context: &Context, missing: &Missing, key: &str) -> Result<Next, Error> {
    lock(missing).retain(|node, _| context.caches.nodes.get("", node).is_none());
    let (namespace, name) = split(key);
    let Some(pod) = context.caches.pods.get(namespace, name) else { return Ok(Next::Done) };
    match on_node(&pod) {
        None if pod.metadata.deletion_timestamp.is_some() => delete(context, &pod).await?,
        Some(node) if context.caches.nodes.get("", node).is_none() => {
            return orphaned(context, missing, &pod, node).await;
        }
        _ => {}
    }
    Ok(Next::Done)
}

async fn orphaned(context: &Context, missing: &Missing, pod: &Pod, node: &str) -> Result<Next, Error> {
    let missing_for = lock(missing).entry(node.to_owned()).or_insert_with(Instant::now).elapsed();
    if missing_for < QUARANTINE {
        return Ok(Next::After(QUARANTINE - missing_for));
    }
    // Not in the cache for that long: the server has the last word.
    match context.client.get::<Node>("", node).await {
        Ok(_) => return Ok(Next::Done),
        Err(error) if !error.is_not_found() => return Err(error),
        Err(_) => {}
    }
    if !is_finished(pod) {
        let key = key_of(pod);
        let (namespace, name) = split(&key);
        let text = "PodGC: node no longer exists";
        let condition = disruption_target(pod, "DeletionByPodGC", text, Timestamp::now());
        let body = json!({"status": {"phase": "Failed", "conditions": [condition]}});
        unless_gone(
            context.client.patch::<Pod>(namespace, name, &Patch::status(PatchKind::Strategic, body)).await,
        )?;
    }
    delete(context, pod).await?;
    Ok(Next::Done)
}

async fn prune(context: &Context) -> Result<Next, Error> {
    let mut finished = context.caches.pods.filter(is_finished);
    let surplus = finished.len().saturating_sub(FINISHED_MAX);
    finished.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    for pod in finished.into_iter().take(surplus) {
        delete(context, &pod).await?;
    }
    Ok(Next::Done)
}

async fn delete(context: &Context, pod: &Pod) -> Result<(), Error> {
    let key = key_of(pod);
    let (namespace, name) = split(&key);
    let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::now() };
    unless_gone(context.client.delete::<Pod>(namespace, name, &options).await)
}

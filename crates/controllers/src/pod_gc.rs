//! Pods that nobody will ever finish: their node is gone, they were deleted
//! before they got one, or there are too many that ended long ago.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use client::{Change, Client, DeleteOptions, Error, Informer, Patch, PatchKind, index, key_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conditions::{disruption_target, is_finished};
use crate::context::{Context, split, unless_gone};
use crate::controller::Controller;
use crate::workqueue::Next;

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

struct Collector {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    missing: Missing,
}

pub(crate) fn spawn(context: &Context, tasks: &mut JoinSet<()>) {
    let (pods, nodes) = (context.informers.of::<Pod>(), context.informers.of::<Node>());
    let (known, on_nodes) = (nodes.clone(), pods.clone());
    let controller = Controller::new("pod-garbage-collector")
        .watches(&pods, move |change| concerned(change, &known))
        .watches(&nodes, move |change| match change {
            Change::Deleted(node) => {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                on_nodes.by_index(index::PODS_BY_NODE, name).iter().map(|pod| key_of(&**pod)).collect()
            }
            Change::Added(_) | Change::Modified { .. } => Vec::new(),
        });
    let collector =
        Arc::new(Collector { client: context.client.clone(), pods, nodes, missing: Missing::default() });
    controller.run(tasks, context.shutdown.clone(), move |key| {
        let collector = collector.clone();
        async move { if key == FINISHED { collector.prune().await } else { collector.sync(&key).await } }
    });
}

fn concerned(change: &Change<Pod>, nodes: &Informer<Node>) -> Vec<String> {
    let (Change::Added(pod) | Change::Modified { new: pod, .. }) = change else { return Vec::new() };
    let homeless = on_node(pod).is_some_and(|node| nodes.get("", node).is_none());
    let never_placed = on_node(pod).is_none() && pod.metadata.deletion_timestamp.is_some();
    let own = (homeless || never_placed).then(|| key_of(&**pod));
    own.into_iter().chain(is_finished(pod).then(|| FINISHED.to_owned())).collect()
}

fn on_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

impl Collector {
    async fn sync(&self, key: &str) -> Result<Next, Error> {
        lock(&self.missing).retain(|node, _| self.nodes.get("", node).is_none());
        let (namespace, name) = split(key);
        let Some(pod) = self.pods.get(namespace, name) else { return Ok(Next::Done) };
        match on_node(&pod) {
            None if pod.metadata.deletion_timestamp.is_some() => self.delete(&pod).await?,
            Some(node) if self.nodes.get("", node).is_none() => {
                return self.orphaned(&pod, node).await;
            }
            _ => {}
        }
        Ok(Next::Done)
    }

    async fn orphaned(&self, pod: &Pod, node: &str) -> Result<Next, Error> {
        let missing_for = lock(&self.missing).entry(node.to_owned()).or_insert_with(Instant::now).elapsed();
        if missing_for < QUARANTINE {
            return Ok(Next::After(QUARANTINE - missing_for));
        }
        // Not in the cache for that long: the server has the last word.
        match self.client.get::<Node>("", node).await {
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
                self.client.patch::<Pod>(namespace, name, &Patch::status(PatchKind::Strategic, body)).await,
            )?;
        }
        self.delete(pod).await?;
        Ok(Next::Done)
    }

    async fn prune(&self) -> Result<Next, Error> {
        let mut finished = self.pods.filter(is_finished);
        let surplus = finished.len().saturating_sub(FINISHED_MAX);
        finished.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        for pod in finished.into_iter().take(surplus) {
            self.delete(&pod).await?;
        }
        Ok(Next::Done)
    }

    async fn delete(&self, pod: &Pod) -> Result<(), Error> {
        let key = key_of(pod);
        let (namespace, name) = split(&key);
        let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::now() };
        unless_gone(self.client.delete::<Pod>(namespace, name, &options).await)
    }
}

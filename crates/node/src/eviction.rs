//! Keeps the node from running out of memory: before the kernel kills whomever it finds, the one who should go goes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerStats, Measured};
use tokio::time::timeout;

use crate::kubelet::{bare_id, statuses};
use crate::pod::event::Event;
use crate::pod::pressure::{self, Candidate};
use crate::shared::{Shared, Worker};
use crate::worker::Message;
use crate::{host, object};

/// How often the node looks (upstream's housekeeping of evictions), and how often when memory becomes scarce.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY_WHEN_SCARCE: Duration = Duration::from_secs(1);
/// Scarce is what is below so many times the threshold.
const SCARCE: u64 = 8;
/// One Pod at a time: so long its end is waited for before another has to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Upstream's grace of a hard threshold.
const GRACE_SECONDS: i64 = 1;

/// Looks for ever.
pub(crate) async fn keep(node: Arc<Shared>) {
    let threshold = node.config.memory_threshold;
    tokio::time::sleep(LOOK_EVERY_WHEN_SCARCE).await;
    loop {
        let available = host::used().map(|used| used.memory_available);
        let Some(available) = available.filter(|available| *available < threshold.saturating_mul(SCARCE))
        else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        if available < threshold
            && let Some(uid) = evict_one(&node, threshold, available).await
        {
            // What it had is free only then.
            let _ = timeout(PATIENCE, ended(&node, &uid)).await;
        } else {
            tokio::time::sleep(LOOK_EVERY_WHEN_SCARCE).await;
        }
    }
}

/// Sends the first away; says whom.
async fn evict_one(node: &Shared, threshold: u64, available: u64) -> Option<String> {
    object::warn(node, "EvictionThresholdMet", "Attempting to reclaim memory".into());
    let used = match node.runtime.stats(Measured::CpuAndMemory).await {
        Ok(used) => used,
        Err(error) => {
            tracing::warn!(%error, "what Pods use is not known: none is evicted");
            return None;
        }
    };
    let workers: Vec<Worker> = node.workers().values().filter(|worker| may_go(worker)).cloned().collect();
    if workers.iter().any(|worker| worker.sandbox.is_none() && phase(worker) == "Running") {
        // The node has just begun, and does not know yet what runs.
        return None;
    }
    let candidates: Vec<Candidate<'_>> = workers.iter().map(|worker| candidate(worker, &used)).collect();
    let first = pressure::first(&candidates)?;
    let uid = first.pod.metadata.uid.clone()?;
    let message = pressure::message(first, threshold, available);
    let inbox = node.workers().get(&uid)?.inbox.clone();
    tracing::warn!(pod = %crate::pod::spec::full_name(first.pod), message, "a Pod is evicted");
    let event = Event::Evicted { message, grace_period_seconds: Some(GRACE_SECONDS) };
    inbox.send(Message::Event(event)).await.ok().map(|()| uid)
}

/// Those that are going already free their memory without being told.
fn may_go(worker: &Worker) -> bool {
    worker.takes_room() && worker.pod.metadata.deletion_timestamp.is_none()
}

fn phase(worker: &Worker) -> &str {
    worker.pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn candidate<'a>(worker: &'a Worker, used: &[ContainerStats]) -> Candidate<'a> {
    let pod: &Pod = &worker.pod;
    let containers = statuses(pod).filter_map(|status| {
        let id = bare_id(status.container_id.as_deref()?);
        let used = used.iter().find(|one| one.id == id)?;
        Some((status.name.clone(), used.memory_working_set))
    });
    Candidate { pod, containers: containers.collect() }
}

/// Waits until nothing of the Pod runs any more.
async fn ended(node: &Shared, uid: &str) {
    loop {
        let freed = node.freed.notified();
        if node.workers().get(uid).is_none_or(|worker| !worker.takes_room()) {
            return;
        }
        freed.await;
    }
}

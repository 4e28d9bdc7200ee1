//! Keeps the node from running out of memory, disk or process numbers: before the kernel refuses or kills
//! whomever it finds, the one who should go goes.
//!
//! ```text
//! observe ──▶ manager: thresholds met, grace periods over ──▶ reclaim: ended containers, unused images
//!                          └──▶ conditions of the Node             └── not enough ──▶ one Pod is evicted
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use runtime::{ContainerStats, DiskUse, Measured, PodsMemory};
use tokio::time::{Instant, timeout};

use crate::kubelet::{bare_id, statuses};
use crate::object;
use crate::pod::event::Event;
use crate::pod::pressure::{self, Candidate, ContainerUse};
use crate::pod::state::Cause;
use crate::pod::storage::Used;
use crate::shared::{Shared, Worker};
use crate::worker::Message;

mod images;
mod manager;
pub(crate) mod observe;
mod reclaim;
pub mod threshold;

pub use images::ImageCollection;
pub(crate) use images::collect_for_ever;
pub(crate) use reclaim::{clear_evicted, measure};

use manager::{Manager, Observations, Observed};
use threshold::{Eviction, Pressure, Resource, Signal, Threshold};

/// How often the node looks (upstream's housekeeping of evictions), and how often when something becomes scarce.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY_WHEN_SCARCE: Duration = Duration::from_secs(1);
/// Scarce is what is below so many times the threshold.
const SCARCE: u64 = 4;
/// One Pod at a time: so long its end is waited for before another has to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Upstream's grace of a hard threshold.
const GRACE_SECONDS: i64 = 1;

/// The node's look at itself.
pub(crate) struct Watch {
    manager: Manager,
    begun: Instant,
}

impl Watch {
    /// Looks for the first time, so that the Node says from its first moment on what is scarce.
    pub(crate) fn begin(config: &crate::Config) -> (Self, BTreeSet<Pressure>) {
        let mut watch = Watch { manager: Manager::new(config.eviction.clone()), begun: Instant::now() };
        let found = watch.manager.observe(&observe::look(config), Duration::ZERO);
        (watch, found.pressures)
    }
}

/// Looks for ever.
pub(crate) async fn keep(node: Arc<Shared>, mut watch: Watch) {
    tokio::time::sleep(LOOK_EVERY_WHEN_SCARCE).await;
    loop {
        let seen = look(&node).await;
        let found = watch.manager.observe(&seen, watch.begun.elapsed());
        node.set_pressures(found.pressures);
        let pause = match relieve(&node, &watch.manager, &found.due, &seen).await {
            // What it had is free only then.
            Relief::Evicted(uid) => {
                let _ = timeout(PATIENCE, ended(&node, &uid)).await;
                continue;
            }
            Relief::None if !watch.manager.is_far(&seen, SCARCE) => LOOK_EVERY_WHEN_SCARCE,
            // What could be done was done: it is not tried again every second.
            Relief::None | Relief::Nothing => LOOK_EVERY,
        };
        tokio::time::sleep(pause).await;
    }
}

/// At the host, and at what the runtime knows of all Pods.
async fn look(node: &Shared) -> Observations {
    let mut seen = observe::look(&node.config);
    match node.runtime.pods_memory().await {
        Ok(Some(PodsMemory { limit, working_set })) => {
            let observed = Observed { available: limit.saturating_sub(working_set), capacity: limit };
            seen.insert(Signal::AllocatableMemoryAvailable, observed);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "what Pods may have of the memory is not known"),
    }
    seen
}

/// What was done about a threshold.
enum Relief {
    /// None had to be.
    None,
    /// There was nobody to evict, or the node needed nobody to go.
    Nothing,
    /// This Pod has to go.
    Evicted(String),
}

async fn relieve(node: &Shared, manager: &Manager, due: &[Threshold], seen: &Observations) -> Relief {
    let Some(most_urgent) = due.first() else { return Relief::None };
    let (signal, scarce) = (most_urgent.signal, most_urgent.signal.resource());
    object::warn(node, "EvictionThresholdMet", format!("Attempting to reclaim {}", scarce.word()));
    if signal.is_of_disk() {
        reclaim::of_disk(node, signal).await;
        if manager.is_relieved(&look(node).await) {
            tracing::info!(?signal, "what nobody uses any more was enough: no Pod is evicted");
            return Relief::Nothing;
        }
    }
    match evict_one(node, &node.config.eviction, most_urgent, due, seen).await {
        Some(uid) => Relief::Evicted(uid),
        // Memory may run out within seconds.
        None if scarce == Resource::Memory => Relief::None,
        None => Relief::Nothing,
    }
}

/// Sends the first away; says whom.
async fn evict_one(
    node: &Shared,
    settings: &Eviction,
    threshold: &Threshold,
    due: &[Threshold],
    seen: &Observations,
) -> Option<String> {
    let scarce = threshold.signal.resource();
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
    let mut candidates = Vec::new();
    for worker in &workers {
        candidates.push(candidate(node, worker, &used, threshold.signal).await);
    }
    let first = pressure::first(&candidates, scarce)?;
    let uid = first.pod.metadata.uid.clone()?;
    let (quantity, available) = shown(due, scarce, seen)?;
    let message = pressure::message(first, scarce, &quantity, &available);
    let inbox = node.workers().get(&uid)?.inbox.clone();
    tracing::warn!(pod = %crate::pod::spec::full_name(first.pod), message, "a Pod is evicted");
    let grace = if threshold.is_hard() { GRACE_SECONDS } else { settings.max_pod_grace_period_seconds };
    let event = Event::Evicted { cause: Cause::Evicted, message, grace_period_seconds: Some(grace) };
    inbox.send(Message::Event(event)).await.ok().map(|()| uid)
}

/// Threshold and observation as the Pod is told: of the first that is about the same resource.
fn shown(due: &[Threshold], scarce: Resource, seen: &Observations) -> Option<(String, String)> {
    let about = due.iter().filter(|one| one.signal.resource() == scarce);
    about
        .filter_map(|one| seen.get(&one.signal).map(|seen| (one, seen)))
        .next()
        .map(|(one, seen)| (one.value.shown(scarce, seen.capacity), scarce.shown(seen.available)))
}

/// Those that are going already free what they have without being told.
fn may_go(worker: &Worker) -> bool {
    worker.takes_room() && worker.pod.metadata.deletion_timestamp.is_none()
}

fn phase(worker: &Worker) -> &str {
    worker.pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

async fn candidate<'a>(
    node: &Shared,
    worker: &'a Worker,
    used: &[ContainerStats],
    signal: Signal,
) -> Candidate<'a> {
    let pod: &Pod = &worker.pod;
    let written = if signal.is_of_disk() { reclaim::written(node, pod).await } else { None };
    let containers = statuses(pod).filter_map(|status| {
        let id = bare_id(status.container_id.as_deref()?);
        let used = used.iter().find(|one| one.id == id)?;
        Some(ContainerUse {
            disk: written.as_ref().and_then(|disk| disk.containers.get(&status.name)).map(|disk| disk.bytes),
            name: status.name.clone(),
            memory: used.memory_working_set,
            processes: used.pids,
        })
    });
    let disk = written.as_ref().filter(|_| counts(node, signal)).map_or(DiskUse::default(), Used::total);
    Candidate { pod, containers: containers.collect(), disk }
}

/// On a file system of their own the images are alone: nothing that a Pod writes is there.
fn counts(node: &Shared, signal: Signal) -> bool {
    let of_images = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
    !(of_images && observe::has_image_fs(&node.config))
}

/// Waits until what the Pod had is free: its processes, its volumes, its logs.
async fn ended(node: &Shared, uid: &str) {
    loop {
        let freed = node.freed.notified();
        if node.workers().get(uid).is_none_or(|worker| worker.cleared) {
            return;
        }
        freed.await;
    }
}

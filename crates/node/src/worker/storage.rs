//! Measuring what a Pod has written on the disk, if it has a limit there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{Files, Message, PodWorker, lock};
use crate::container::config::log_directory;
use crate::eviction::measure;
use crate::pod::event::Event;
use crate::pod::state::Cause;
use crate::pod::storage::{self, Used};
use crate::shared::Shared;
use crate::threads::Threads;
use crate::volumes::{self, PodDirectory};

/// Pause between two looks: who writes too much is gone within ten seconds, as upstream.
const EVERY: Duration = Duration::from_secs(5);
/// A tree that takes long to walk is walked more seldom, so that a Pod of a million files costs its node no more
/// than this part of a processor.
const PART: u32 = 20;
/// Upstream's grace of those who have exceeded a limit of their own.
const GRACE_SECONDS: i64 = 1;

impl PodWorker {
    /// Watches the disk for as long as the Pod may write. Limits of storage never change.
    pub(super) fn watch_storage(&mut self) {
        if !storage::is_limited(&self.state.pod) {
            return;
        }
        let measure = Measure {
            node: Arc::clone(&self.node),
            pod: Arc::clone(&self.state.pod),
            files: Arc::clone(&self.files),
            directory: self.directory.clone(),
            threads: self.threads.clone(),
        };
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            if let Some(message) = measure.excess().await {
                let grace_period_seconds = Some(GRACE_SECONDS);
                let event = Event::Evicted { cause: Cause::Evicted, message, grace_period_seconds };
                // A closed inbox means that the Pod is gone.
                let _ = outbox.send(Message::Event(event)).await;
            }
        });
    }
}

struct Measure {
    node: Arc<Shared>,
    pod: Arc<Pod>,
    files: Arc<Files>,
    directory: PodDirectory,
    threads: Threads,
}

impl Measure {
    /// Looks time and again until the Pod has written too much; `None`: it is over.
    async fn excess(&self) -> Option<String> {
        let mut pause = EVERY;
        loop {
            tokio::time::sleep(pause).await;
            if self.is_over() {
                return None;
            }
            let begun = Instant::now();
            match self.used().await {
                Ok(used) => {
                    if let Some(message) = storage::excess(&self.pod, &used) {
                        return Some(message);
                    }
                }
                Err(error) => {
                    let pod = crate::pod::spec::full_name(&self.pod);
                    tracing::warn!(%pod, error, "what a Pod has written cannot be measured");
                }
            }
            pause = EVERY.max(begun.elapsed() * PART);
        }
    }

    fn is_over(&self) -> bool {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        self.node.workers().get(uid).is_none_or(|worker| worker.terminated)
    }

    async fn used(&self) -> Result<Used, String> {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let written = self.node.runtime.written(uid).await.map_err(|err| err.to_string())?;
        let logs = log_directory(&self.node.config.logs_directory, &self.pod);
        let logs: Vec<(String, PathBuf)> = storage::containers(&self.pod)
            .map(|container| (container.name.clone(), logs.join(&container.name)))
            .collect();
        let plans = lock(&self.files.plans).clone();
        let volumes: Vec<(String, PathBuf)> = storage::volumes(&self.pod)
            .filter_map(|volume| plans.get(&volume.name))
            .map(|plan| (plan.name.clone(), volumes::path_of(&self.directory, plan)))
            .collect();
        self.threads.run(move || measure(written, &logs, &volumes)).await
    }
}

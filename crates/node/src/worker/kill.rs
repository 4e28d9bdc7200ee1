//! Stopping and removing: containers, sandbox, files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus, Error, Runtime};

use super::{Message, PodWorker};
use crate::container::config::log_directory;
use crate::hooks;
use crate::pod::event::{Event, Exit, PreStop, Record};
use crate::pod::spec::field_path;
use crate::pod::stop::MINIMUM_GRACE;
use crate::shared::Shared;
use crate::termination;
use crate::volumes;

impl PodWorker {
    /// Asks the runtime how a container ended.
    pub(super) fn look_at(&mut self, id: String) {
        let mine = self.state.containers.iter().find(|one| one.phase.run().is_some_and(|run| run.id == id));
        let Some(container) = mine else { return };
        let (node, name) = (Arc::clone(&self.node), container.name.clone());
        let Some(reader) = self.message_reader(&name) else { return };
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            if let Some(exit) = exit_of(&node, &id, reader).await {
                let _ = outbox.send(Message::Event(Event::ContainerExited { container: name, exit })).await;
            }
        });
    }

    /// Knows where the container leaves its message.
    pub(super) fn message_reader(&self, container: &str) -> Option<termination::Reader> {
        let spec = self.state.spec_of(container)?;
        Some(termination::Reader {
            directory: self.directory.clone(),
            container: container.into(),
            from_logs: spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        })
    }

    pub(super) fn kill_container(&mut self, container: String, id: String, grace: Duration, hook: PreStop) {
        let (Some(target), Some(reader)) =
            (self.target(&container, id.clone()), self.message_reader(&container))
        else {
            return;
        };
        let (node, outbox, pod) = (Arc::clone(&self.node), self.outbox.clone(), Arc::clone(&self.state.pod));
        let handler = target.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let about = self
            .state
            .containers
            .iter()
            .find(|one| one.name == container)
            .map(|one| field_path(one.role, &one.name));
        let key = id.clone();
        let task = async move {
            let begun = Instant::now();
            let mut stop_grace = grace;
            if let (Some(handler), PreStop::Run) = (handler, hook) {
                let ran = tokio::time::timeout(grace, hooks::run(&target, &handler)).await;
                match ran {
                    Ok(Ok(report)) if report.fell_back_to_http => {
                        let text =
                            "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded";
                        let record = Record {
                            field_path: about,
                            ..Record::pod_warning("LifecycleHTTPFallback", text.into())
                        };
                        node.record(&pod, &record);
                    }
                    Ok(Ok(_)) | Err(_) => {}
                    Ok(Err(_)) => {
                        let failed = Event::PreStopFailed { container: container.clone() };
                        let _ = outbox.send(Message::Event(failed)).await;
                    }
                }
                // A late hook leaves two seconds for the signal: upstream's one-time extension.
                let floor = Duration::try_from(MINIMUM_GRACE).unwrap_or_default();
                stop_grace = grace.saturating_sub(begun.elapsed()).max(floor);
            }
            let event = match node.runtime.stop_container(&id, stop_grace).await {
                Ok(()) | Err(Error::NotFound { .. } | Error::NotRunning { .. }) => {
                    match exit_of(&node, &id, reader).await {
                        Some(exit) => Event::ContainerExited { container, exit },
                        None => {
                            Event::KillFailed { container, id, message: "the container still runs".into() }
                        }
                    }
                }
                Err(err) => Event::KillFailed { container, id, message: err.to_string() },
            };
            let _ = outbox.send(Message::Event(event)).await;
        };
        let handle = self.tasks.spawn(task);
        if let Some(longer) = self.kills.insert(key, handle) {
            longer.abort();
        }
    }

    pub(super) fn remove_container(&mut self, id: String) {
        let runtime = Arc::clone(&self.node.runtime);
        self.tasks.spawn(async move {
            if let Err(error) = runtime.remove_container(&id).await {
                tracing::warn!(%id, %error, "an ended container could not be removed; it goes with its Pod");
            }
        });
    }

    pub(super) fn stop_sandbox(&mut self, id: String) {
        let runtime = Arc::clone(&self.node.runtime);
        self.spawn(async move { Event::SandboxStopped(gone_is_fine(runtime.stop_sandbox(&id).await)) });
    }

    /// Removes all that is left on the node: sandboxes with their containers, files, logs.
    pub(super) fn remove_pod(&mut self) {
        let (runtime, mounts) = (Arc::clone(&self.node.runtime), Arc::clone(&self.node.mounts));
        let (ids, directory) = (self.sandboxes.clone(), self.directory.clone());
        let logs = log_directory(&self.node.config.logs_directory, &self.state.pod);
        let links = self.node.config.log_links_directory.clone();
        self.spawn(async move {
            let removed = async {
                remove_sandboxes(&*runtime, &ids).await?;
                let files = move || {
                    volumes::remove_directory(&*mounts, &directory)?;
                    remove_logs(&logs, links.as_deref())
                };
                tokio::task::spawn_blocking(files).await.map_err(|err| err.to_string())?
            };
            let result = removed.await;
            if let Err(error) = &result {
                tracing::warn!(%error, "what a Pod left behind could not be removed; trying again");
            }
            Event::Removed(result)
        });
    }
}

async fn remove_sandboxes(runtime: &dyn Runtime, ids: &[String]) -> Result<(), String> {
    for id in ids {
        gone_is_fine(runtime.stop_sandbox(id).await)?;
        gone_is_fine(runtime.remove_sandbox(id).await)?;
    }
    Ok(())
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), String> {
    match result {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(err) => Err(err.to_string()),
    }
}

/// Removes the Pod's log directory and the links into it.
pub(crate) fn remove_logs(directory: &Path, links: Option<&Path>) -> Result<(), String> {
    if let Some(entries) = links.and_then(|links| std::fs::read_dir(links).ok()) {
        for entry in entries.flatten() {
            let leads_here =
                std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(directory));
            if leads_here {
                // The next removal of a Pod finds a link that is left dangling.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    match std::fs::remove_dir_all(directory) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("failed to remove {}: {err}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// How the container ended; `None`: it still runs, or nobody can tell now.
pub(super) async fn exit_of(node: &Shared, id: &str, reader: termination::Reader) -> Option<Exit> {
    match node.runtime.container_status(id).await {
        Ok(status) if matches!(status.state, ContainerState::Exited | ContainerState::Unknown) => {
            let read = tokio::task::spawn_blocking(move || reader.exit(&status));
            read.await.ok()
        }
        Ok(_) => None,
        Err(Error::NotFound { .. }) => Some(vanished(id)),
        Err(error) => {
            tracing::warn!(%id, %error, "the runtime does not say how a container ended");
            None
        }
    }
}

/// The runtime has forgotten it: upstream writes 137.
fn vanished(id: &str) -> Exit {
    Exit {
        id: id.into(),
        code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
        started_at: None,
        finished_at: Timestamp::now(),
    }
}

/// The exit in a runtime's status, with the message that was found for it.
pub(crate) fn exit(status: &ContainerStatus, message: String) -> Exit {
    let fallback = match (status.oom_killed, status.exit_code) {
        (true, _) => "OOMKilled",
        (false, 0) => "Completed",
        (false, _) => "Error",
    };
    let unknown = status.state == ContainerState::Unknown;
    Exit {
        id: status.id.clone(),
        code: if unknown { 137 } else { status.exit_code },
        reason: match (unknown, status.reason.is_empty()) {
            (true, _) => "ContainerStatusUnknown".into(),
            (false, true) => fallback.into(),
            (false, false) => status.reason.clone(),
        },
        message,
        started_at: status.started_at,
        finished_at: status.finished_at.unwrap_or_else(Timestamp::now),
    }
}

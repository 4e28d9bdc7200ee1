//! Stopping and removing: containers, sandbox, files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus, Error, Runtime};

use super::{Message, PodWorker};
use crate::container::config::log_directory;
use crate::hooks;
use crate::pod::event::{Event, Exit, HookReport};
use crate::shared::Shared;
use crate::termination::Reader;
use crate::threads::Threads;
use crate::volumes;

impl PodWorker {
    /// Asks the runtime how a container ended, and which it was: it may not be known yet.
    pub(super) fn look_at(&mut self, id: String) {
        let (node, threads, outbox) = (Arc::clone(&self.node), self.threads.clone(), self.outbox.clone());
        let known = self.state.containers.iter().find(|one| one.phase.run().is_some_and(|run| run.id == id));
        let known = known.map(|one| one.name.clone());
        let readers: Vec<Reader> =
            self.state.containers.iter().filter_map(|one| self.message_reader(&one.name)).collect();
        self.tasks.spawn(async move {
            let name = match node.runtime.container_status(&id).await {
                Ok(status) => Some(status.name),
                Err(_) => known,
            };
            let Some(reader) = readers.into_iter().find(|one| Some(&one.container) == name.as_ref()) else {
                return;
            };
            let container = reader.container.clone();
            if let Some(exit) = exit_of(&node, &threads, &id, reader).await {
                let _ = outbox.send(Message::Event(Event::ContainerExited { container, exit })).await;
            }
        });
    }

    /// Knows where the container leaves its message.
    pub(super) fn message_reader(&self, container: &str) -> Option<Reader> {
        let spec = self.state.spec_of(container)?;
        Some(Reader {
            directory: self.directory.clone(),
            container: container.into(),
            from_logs: spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        })
    }

    pub(super) fn run_pre_stop(&mut self, container: String, id: String) {
        let done = |result| Event::PreStopDone { container: container.clone(), id: id.clone(), result };
        let target = self.target(&container, id.clone());
        let hook = target.as_ref().and_then(|target| target.container.lifecycle.as_ref()?.pre_stop.clone());
        let lost = done(Err("the task that ran the hook panicked".into()));
        let nothing = done(Ok(HookReport::default()));
        let (name, key) = (container.clone(), container.clone());
        let handle = self.spawn(lost, async move {
            // An image that was changed, or a container that was taken from the spec, has no hook.
            let (Some(target), Some(hook)) = (target, hook) else { return nothing };
            let result = hooks::run(&target, &hook).await;
            Event::PreStopDone { container: name, id, result }
        });
        self.hooks.insert(key, handle);
    }

    pub(super) fn terminate_container(&mut self, container: String, id: String) {
        let Some(reader) = self.message_reader(&container) else { return };
        let (node, threads) = (Arc::clone(&self.node), self.threads.clone());
        self.spawn(kill_lost(&container, &id), async move {
            match node.runtime.terminate_container(&id).await {
                Ok(()) | Err(Error::NotFound { .. } | Error::NotRunning { .. }) => {
                    // One that runs on has until its deadline; its end is an event of the runtime.
                    let exit = exit_of(&node, &threads, &id, reader).await?;
                    Some(Event::ContainerExited { container, exit })
                }
                Err(err) => Some(Event::KillFailed { container, id, message: err.to_string() }),
            }
        });
    }

    pub(super) fn kill_container(&mut self, container: String, id: String) {
        let Some(reader) = self.message_reader(&container) else { return };
        let (node, threads) = (Arc::clone(&self.node), self.threads.clone());
        self.spawn(kill_lost(&container, &id), async move {
            match node.runtime.stop_container(&id, Duration::ZERO).await {
                Ok(()) | Err(Error::NotFound { .. } | Error::NotRunning { .. }) => {
                    match exit_of(&node, &threads, &id, reader).await {
                        Some(exit) => Event::ContainerExited { container, exit },
                        None => {
                            Event::KillFailed { container, id, message: "the container still runs".into() }
                        }
                    }
                }
                Err(err) => Event::KillFailed { container, id, message: err.to_string() },
            }
        });
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
        let lost = Err("the task that stops the sandbox panicked".to_owned());
        self.spawn(Event::SandboxStopped { id: id.clone(), result: lost }, async move {
            let result = gone_is_fine(runtime.stop_sandbox(&id).await);
            Event::SandboxStopped { id, result }
        });
    }

    /// Removes all that is left on the node: sandboxes with their containers, files, logs.
    pub(super) fn remove_pod(&mut self) {
        let (runtime, mounts) = (Arc::clone(&self.node.runtime), Arc::clone(&self.node.mounts));
        let (uid, directory, threads) =
            (self.state.uid().to_owned(), self.directory.clone(), self.threads.clone());
        let logs = log_directory(&self.node.config.logs_directory, &self.state.pod);
        let links = self.node.config.log_links_directory.clone();
        let lost = Event::Removed(Err("the task that removes the Pod panicked".into()));
        self.spawn(lost, async move {
            let removed = async {
                // First what runs, then the files: nothing may write into a directory that is being removed.
                remove_sandboxes(&*runtime, &uid).await?;
                let files = move || {
                    volumes::remove_directory(&*mounts, &directory)?;
                    remove_logs(&logs, links.as_deref())
                };
                threads.run(files).await?
            };
            let result = removed.await;
            if let Err(error) = &result {
                tracing::warn!(%error, "what a Pod left behind could not be removed; trying again");
            }
            Event::Removed(result)
        });
    }
}

fn kill_lost(container: &str, id: &str) -> Event {
    let message = "the task that stops it panicked".to_owned();
    Event::KillFailed { container: container.into(), id: id.into(), message }
}

/// Whatever the runtime has of the Pod, known to its worker or not.
pub(crate) async fn remove_sandboxes(runtime: &dyn Runtime, uid: &str) -> Result<(), String> {
    // By what the runtime has, not by what the worker remembers: it may have been begun after a crash.
    for one in runtime.snapshot(Some(uid)).await.map_err(|err| err.to_string())? {
        gone_is_fine(runtime.stop_sandbox(&one.sandbox.id).await)?;
        gone_is_fine(runtime.remove_sandbox(&one.sandbox.id).await)?;
    }
    Ok(())
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), String> {
    match result {
        // Somebody else, or an earlier try, has done it.
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
    sys::beneath::remove_tree(directory)
        .map_err(|err| format!("failed to remove {}: {err}", directory.display()))
}

/// How the container ended; `None`: it still runs, or nobody can tell now.
pub(super) async fn exit_of(node: &Shared, threads: &Threads, id: &str, reader: Reader) -> Option<Exit> {
    match node.runtime.container_status(id).await {
        Ok(status) if matches!(status.state, ContainerState::Exited | ContainerState::Unknown) => {
            let bare = exit(&status, status.message.clone());
            let read = threads.run(move || reader.exit(&status)).await;
            // That it ended counts more than what it had to say.
            Some(read.unwrap_or_else(|error| {
                tracing::warn!(%id, %error, "a termination message cannot be read");
                bare
            }))
        }
        Ok(_) => None,
        // It has ended, or the status would wait for it for ever; how, nobody can tell any more.
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

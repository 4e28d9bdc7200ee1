//! The worker of one Pod: events in, [`step`](crate::pod::step::step), actions out.
//!
//! Nothing awaits inside a transition. Actions run as tasks of the worker's own
//! `JoinSet`; each sends what came of it back into the inbox.

mod images;
mod kill;
mod start;
mod status;
mod tokens;
mod volumes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::pod::event::{Action, Event};
use crate::pod::probe::ProbeKind;
use crate::pod::spec;
use crate::pod::state::{PodState, until};
use crate::pod::step::{step, wakes_at};
use crate::probing::{self, Target};
use crate::shared::Shared;
use crate::volumes::{Plans, PodDirectory};
use status::Writer;

/// What a worker is told. Its senders wait when it has 64 of them unread: it reads them
/// without ever awaiting anything else, so that this does not last.
pub(crate) const INBOX: usize = 64;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// For the state machine.
    Event(Event),
    /// A process of the Pod has ended: the runtime knows how.
    Exited {
        /// Container id.
        id: String,
    },
    /// Events were lost: look at all containers.
    LookAgain,
    /// A ConfigMap or Secret that the Pod shows has changed.
    SourceChanged,
    /// A status patch has been answered.
    StatusWritten(Result<(), client::Error>),
    /// Try the status again.
    StatusRetry,
    /// Tokens are due for renewal.
    RenewTokens,
}

/// One Pod.
pub(crate) struct PodWorker {
    node: Arc<Shared>,
    state: PodState,
    inbox: mpsc::Receiver<Message>,
    outbox: mpsc::Sender<Message>,
    tasks: JoinSet<()>,
    probes: HashMap<(String, ProbeKind), AbortHandle>,
    pulls: HashMap<String, AbortHandle>,
    kills: HashMap<String, AbortHandle>,
    writer: Writer,
    /// Sandboxes ever made for the Pod, to be removed with it.
    sandboxes: Vec<String>,
    files: Arc<Files>,
    directory: PodDirectory,
}

pub(crate) use kill::{exit, remove_logs};

/// What mounts have produced and starts need.
pub(crate) struct Files {
    plans: Mutex<Plans>,
    held: Mutex<volumes::Held>,
    tokens: Mutex<tokens::Tokens>,
    /// Held by whoever writes into the volumes or unmounts them: one at a time. True when they
    /// have been released: a refresh that comes later must not write into what is gone.
    released: Arc<tokio::sync::Mutex<bool>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl PodWorker {
    /// A worker for `state`; the first events wait in its inbox.
    pub(crate) fn new(
        node: Arc<Shared>,
        state: PodState,
        sandboxes: Vec<String>,
        (outbox, inbox): (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    ) -> Self {
        let directory = PodDirectory::new(&node.config.pods_directory, state.uid());
        let held = Mutex::new(volumes::Held::new(outbox.clone()));
        let released = Arc::default();
        let files = Arc::new(Files { plans: Mutex::default(), held, tokens: Mutex::default(), released });
        let writer = Writer::new(state.pod.status.clone().unwrap_or_default());
        Self {
            node,
            state,
            inbox,
            outbox,
            tasks: JoinSet::new(),
            probes: HashMap::new(),
            pulls: HashMap::new(),
            kills: HashMap::new(),
            writer,
            sandboxes,
            files,
            directory,
        }
    }

    /// Runs until nothing of the Pod is left.
    pub(crate) async fn run(mut self) {
        self.resume();
        while !self.state.is_gone() {
            let now = Timestamp::now();
            let wake = wakes_at(&self.state, now).map(|at| until(now, at));
            tokio::select! {
                // Cancel-safe: a message is taken or stays. The worker holds a sender: never `None`.
                message = self.inbox.recv() => {
                    let Some(message) = message else { break };
                    self.take(message);
                    // Everything that is already there makes one status together.
                    while let Ok(message) = self.inbox.try_recv() {
                        self.take(message);
                    }
                }
                // Cancel-safe: computed anew in each round.
                () = sleep(wake) => self.apply(Event::Tick),
                // Cancel-safe: the set keeps what has not been joined.
                Some(done) = self.tasks.join_next() => self.joined(done),
            }
            self.publish();
        }
    }

    fn joined(&mut self, done: Result<(), tokio::task::JoinError>) {
        if let Err(error) = done
            && error.is_panic()
        {
            tracing::error!(pod = %spec::full_name(&self.state.pod), %error, "a task of the Pod panicked");
        }
    }

    /// Probes of containers that were running already when the node started.
    fn resume(&mut self) {
        let mut actions = Vec::new();
        for container in &self.state.containers {
            if let crate::pod::state::Phase::Running(run) = &container.phase {
                let Some(spec) = self.state.spec_of(&container.name) else { continue };
                let kinds = match container.probes.started || spec.startup_probe.is_none() {
                    true => vec![ProbeKind::Liveness, ProbeKind::Readiness],
                    false => vec![ProbeKind::Startup],
                };
                actions.extend(kinds.into_iter().filter(|kind| kind.of(&spec).is_some()).map(|kind| {
                    Action::StartProbe {
                        container: container.name.clone(),
                        id: run.id.clone(),
                        kind,
                        started_at: run.started_at,
                    }
                }));
            }
        }
        actions.into_iter().for_each(|action| self.perform(action));
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                let shown_differently =
                    matches!(&event, Event::PodChanged(new) if shows_differently(&self.state.pod, new));
                self.apply(event);
                if shown_differently {
                    self.refresh_files();
                }
            }
            Message::Exited { id } => self.look_at(id),
            Message::LookAgain => {
                let ids: Vec<String> = self
                    .state
                    .containers
                    .iter()
                    .filter_map(|one| one.phase.run())
                    .map(|run| run.id.clone())
                    .collect();
                ids.into_iter().for_each(|id| self.look_at(id));
            }
            Message::SourceChanged => {
                self.refresh_files();
                self.apply(Event::SourcesChanged);
            }
            Message::RenewTokens => self.refresh_files(),
            Message::StatusWritten(result) => self.status_written(result),
            Message::StatusRetry => self.writer.retry(),
        }
    }

    /// One transition.
    fn apply(&mut self, event: Event) {
        tracing::trace!(pod = %spec::full_name(&self.state.pod), ?event, "event");
        if let Event::SandboxReady { id, .. } = &event
            && !self.sandboxes.contains(id)
        {
            self.sandboxes.push(id.clone());
        }
        let empty = PodState::admitted(Arc::clone(&self.state.pod), Timestamp::UNIX_EPOCH);
        let state = std::mem::replace(&mut self.state, empty);
        let (state, actions) = step(state, event, Timestamp::now());
        self.state = state;
        actions.into_iter().for_each(|action| self.perform(action));
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::MountVolumes => self.mount_volumes(),
            Action::UnmountVolumes => self.unmount_volumes(),
            Action::RunSandbox { attempt } => self.run_sandbox(attempt),
            Action::StopSandbox { id } => self.stop_sandbox(id),
            Action::EnsureImage { container } => self.ensure_image(container),
            Action::CancelImage { container } => {
                if let Some(pull) = self.pulls.remove(&container) {
                    pull.abort();
                }
            }
            Action::StartContainer { container, attempt, sandbox, image } => {
                self.start_container(container, attempt, sandbox, image);
            }
            Action::RunPostStart { container, id } => self.run_post_start(container, id),
            Action::KillContainer { container, id, grace, hook } => {
                self.kill_container(container, id, grace, hook)
            }
            Action::RemoveContainer { id } => self.remove_container(id),
            Action::StartProbe { container, id, kind, started_at } => {
                self.start_probe(container, id, kind, started_at)
            }
            Action::StopProbe { container, kind } => {
                if let Some(probe) = self.probes.remove(&(container, kind)) {
                    probe.abort();
                }
            }
            Action::WithdrawEndpoints { at_most } => self.withdraw_endpoints(at_most),
            Action::RemovePod => self.remove_pod(),
            Action::DeleteObject => self.writer.delete_when_written(),
            Action::Record(record) => self.node.record(&self.state.pod, &record),
        }
    }

    /// Runs a task of the worker; what it makes goes into the inbox.
    fn spawn<F>(&mut self, task: F) -> AbortHandle
    where
        F: Future<Output = Event> + Send + 'static,
    {
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            // A closed inbox means that the Pod is gone: nobody needs the answer.
            let _ = outbox.send(Message::Event(task.await)).await;
        })
    }

    /// What a probe or hook of this container is aimed at.
    fn target(&self, container: &str, id: String) -> Option<Target> {
        let spec = self.state.spec_of(container)?;
        let facts = self.node.facts(&self.state.pod, self.state.sandbox.ips());
        Some(Target {
            runtime: Arc::clone(&self.node.runtime),
            id,
            pod_ip: facts.pod_ips.first().copied(),
            container: spec,
        })
    }

    fn start_probe(&mut self, container: String, id: String, kind: ProbeKind, started_at: Timestamp) {
        let Some(target) = self.target(&container, id.clone()) else { return };
        let Some(probe) = kind.of(&target.container).cloned() else { return };
        let (outbox, name) = (self.outbox.clone(), container.clone());
        let tell = move |outcome| {
            let event = Event::Probed { container: name.clone(), id: id.clone(), kind, outcome };
            let outbox = outbox.clone();
            async move { outbox.send(Message::Event(event)).await.is_ok() }
        };
        let handle = self.tasks.spawn(probing::run(target, probe, started_at, Timestamp::now(), tell));
        if let Some(old) = self.probes.insert((container, kind), handle) {
            old.abort();
        }
    }

    fn withdraw_endpoints(&mut self, at_most: std::time::Duration) {
        let Some(endpoints) = self.node.config.endpoints.clone() else {
            let outbox = self.outbox.clone();
            self.tasks
                .spawn(async move { drop(outbox.send(Message::Event(Event::EndpointsWithdrawn)).await) });
            return;
        };
        let meta = &self.state.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let withdrawn =
            endpoints.withdrawn(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid), at_most);
        self.spawn(async move {
            withdrawn.await;
            Event::EndpointsWithdrawn
        });
    }

    /// Tells the others what the Pod is like now.
    fn show(&self, status: &PodStatus) {
        let mut pod = Pod::clone(&self.state.pod);
        pod.status = Some(status.clone());
        let sandbox = match &self.state.sandbox {
            crate::pod::state::Sandbox::Ready { id, .. } => Some(id.clone()),
            _ => None,
        };
        if let Some(worker) = self.node.workers().get_mut(self.state.uid()) {
            worker.pod = Arc::new(pod);
            worker.terminated = self.state.is_terminated();
            worker.sandbox = sandbox;
        }
    }
}

/// Whether files made of the Pod itself (the downward API) may differ: not for a new status,
/// of which each start brings several.
fn shows_differently(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || old.spec != new.spec
}

async fn sleep(wake: Option<std::time::Duration>) {
    match wake {
        Some(wake) => tokio::time::sleep(wake).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_status_writes_no_files_anew_and_a_new_label_does() {
        let mut old = Pod::default();
        old.metadata.labels = Some([("a".to_owned(), "1".to_owned())].into());
        let mut new = old.clone();
        new.status = Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() });
        new.metadata.resource_version = Some("7".into());
        assert!(!shows_differently(&old, &new));
        new.metadata.labels = Some([("a".to_owned(), "2".to_owned())].into());
        assert!(shows_differently(&old, &new));
    }
}

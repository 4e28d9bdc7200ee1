//! The worker of one Pod: events in, [`step`](crate::pod::step::step), actions out.
//!
//! Nothing awaits inside a transition. Actions run as tasks of the worker's own
//! `JoinSet`; each sends what came of it back into the inbox, also when it panics: then that it
//! has failed, and the runtime is asked what there is.

pub(crate) mod claims;
mod images;
mod kill;
mod observe;
mod resize;
mod start;
mod status;
mod storage;
mod tokens;
mod volumes;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::clock;
use crate::eviction::clear_evicted;
use crate::pod::clock::Now;
use crate::pod::event::{Action, Event};
use crate::pod::observe::Because;
use crate::pod::probe::ProbeKind;
use crate::pod::spec;
use crate::pod::state::{PodState, Progress};
use crate::pod::step::{step, wakes_after};
use crate::pod::timeline::{self, Marks};
use crate::probing::{self, Target};
use crate::shared::Shared;
use crate::threads::Threads;
use crate::volumes::{Plans, PodDirectory};
use status::Writer;

pub(crate) use observe::Snapshot;
pub(crate) use resize::kept as kept_allocation;

/// What a worker is told. Its senders wait when it has 64 of them unread: it reads them
/// without ever awaiting anything else, so that this does not last.
pub(crate) const INBOX: usize = 64;
/// Longest sleep while something is waited for: timers stand still while the machine is suspended,
/// and facts of the wall clock come nearer when it is put forward.
const SLEEP_AT_MOST: Duration = Duration::from_secs(60);
/// Pause before the runtime is asked after a task has panicked: the question may panic too.
const TASK_LOST_PAUSE: Duration = Duration::from_secs(1);

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
    /// Ask the runtime what it has of the Pod.
    LookAgain(Because),
    /// The runtime was asked for all Pods.
    Seen(Snapshot),
    /// A ConfigMap or Secret that the Pod shows has changed.
    SourceChanged,
    /// Another Pod shows this one in the API.
    Mirrored(Arc<Pod>),
    /// A status patch has been answered.
    StatusWritten(Result<(), client::Error>),
    /// The task that wrote a status patch has panicked.
    StatusLost,
    /// Try the status again.
    StatusRetry,
    /// The files of volumes are written anew, or could not be.
    FilesRefreshed,
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
    hooks: HashMap<String, AbortHandle>,
    writer: Writer,
    files: Arc<Files>,
    refresh: Refresh,
    directory: PodDirectory,
    threads: Threads,
    /// When the last step was.
    stepped: (Now, Instant),
}

/// Writing the files of volumes anew: one at a time, changes meanwhile are one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    Idle,
    Underway,
    Again,
}

pub(crate) use kill::{exit, remove_logs, remove_sandboxes};

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
        (outbox, inbox): (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    ) -> Self {
        let directory = PodDirectory::new(&node.config.pods_directory, state.uid());
        let held = Mutex::new(volumes::Held::new(outbox.clone()));
        let released = Arc::default();
        let files = Arc::new(Files { plans: Mutex::default(), held, tokens: Mutex::default(), released });
        let writer = Writer::new(&state.pod);
        Self {
            node,
            state,
            inbox,
            outbox,
            tasks: JoinSet::new(),
            probes: HashMap::new(),
            pulls: HashMap::new(),
            hooks: HashMap::new(),
            writer,
            files,
            refresh: Refresh::Idle,
            directory,
            threads: Threads::default(),
            stepped: (clock::now(), Instant::now()),
        }
    }

    /// Runs until nothing of the Pod is left. The runtime is asked first, after `pause`.
    pub(crate) async fn run(mut self, pause: Duration) {
        self.began();
        self.observe(Because::TakenUp, pause);
        self.watch_storage();
        while !self.state.is_gone() {
            let wake = self.wakes_after();
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
                () = sleep(wake) => self.wake(),
                // Cancel-safe: the set keeps what has not been joined.
                Some(done) = self.tasks.join_next() => self.joined(done),
            }
            self.publish();
        }
    }

    /// The first line of the timeline: with the Pod the node has what others decided of it.
    fn began(&self) {
        let pod = &self.state.pod;
        let told = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let (what, cause) = match (told, spec::is_static(pod)) {
            (true, _) => ("TakenUp", "the node's agent has begun anew".to_owned()),
            (false, true) => ("Seen", "in a file of the node".to_owned()),
            (false, false) => ("Scheduled", format!("to node {}", self.node.config.node_name)),
        };
        let (at, container, took_ms) = (clock::now().time, String::new(), None);
        let entry = timeline::Entry { at, what: what.into(), container, cause, took_ms };
        self.node.timelines.note(pod, entry);
    }

    /// How long to sleep. Counted from the last step: what fell due since then is due now.
    fn wakes_after(&self) -> Option<Duration> {
        let (stepped, at) = self.stepped;
        let machine = wakes_after(&self.state, stepped).map(|wait| wait.saturating_sub(at.elapsed()));
        let first = machine.into_iter().chain(self.tokens_due_after()).min();
        first.map(|wait| wait.min(SLEEP_AT_MOST))
    }

    fn tokens_due_after(&self) -> Option<Duration> {
        let present = self.state.volumes == Progress::Present;
        lock(&self.files.tokens).due_after(clock::now()).filter(|_| present)
    }

    fn wake(&mut self) {
        if self.tokens_due_after().is_some_and(|wait| wait.is_zero()) {
            lock(&self.files.tokens).begin_renewal(clock::now());
            self.refresh_files();
        }
        self.apply(Event::Tick);
    }

    /// Tasks whose failure is an event have caught it themselves; of others nothing is known.
    fn joined(&mut self, done: Result<(), tokio::task::JoinError>) {
        if let Err(error) = done
            && error.is_panic()
        {
            tracing::error!(pod = %spec::full_name(&self.state.pod), %error, "a task of the Pod panicked");
            self.observe(Because::TaskLost, TASK_LOST_PAUSE);
        }
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
            Message::LookAgain(because) => self.observe(because, Duration::ZERO),
            Message::Seen(snapshot) => self.seen(snapshot),
            Message::SourceChanged => {
                self.refresh_files();
                self.apply(Event::SourcesChanged);
            }
            Message::FilesRefreshed => self.files_refreshed(),
            Message::Mirrored(mirror) => self.writer.show_by(&mirror),
            Message::StatusWritten(result) => self.status_written(result),
            Message::StatusLost => self.status_lost(),
            Message::StatusRetry => self.writer.retry(),
        }
    }

    /// One transition.
    fn apply(&mut self, event: Event) {
        tracing::trace!(pod = %spec::full_name(&self.state.pod), ?event, "event");
        self.stepped = (clock::now(), Instant::now());
        let now = self.stepped.0;
        let (said, before) = (timeline::of(&event, &self.state, now.time), Marks::of(&self.state));
        let empty = PodState::admitted(Arc::clone(&self.state.pod), now.time);
        let state = std::mem::replace(&mut self.state, empty);
        let (state, actions) = step(state, event, now);
        self.state = state;
        let changed = Marks::of(&self.state).since(&before, &self.state, now.time);
        said.into_iter().chain(changed).for_each(|entry| self.node.timelines.note(&self.state.pod, entry));
        actions.into_iter().for_each(|action| self.perform(action));
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::MountVolumes => self.mount_volumes(),
            Action::UnmountVolumes => self.unmount_volumes(),
            Action::RunSandbox { attempt } => self.run_sandbox(attempt),
            Action::StopSandbox { id } => self.stop_sandbox(id),
            Action::EnsureImage { container, reference } => self.ensure_image(container, reference),
            Action::CancelImage { container } => {
                if let Some(pull) = self.pulls.remove(&container) {
                    pull.abort();
                }
            }
            Action::StartContainer { container, attempt, sandbox, image } => {
                self.start_container(container, attempt, sandbox, image);
            }
            Action::RunPostStart { container, id } => self.run_post_start(container, id),
            Action::RunPreStop { container, id } => self.run_pre_stop(container, id),
            Action::CancelPreStop { container } => {
                if let Some(hook) = self.hooks.remove(&container) {
                    hook.abort();
                }
            }
            Action::TerminateContainer { container, id } => self.terminate_container(container, id),
            Action::KillContainer { container, id } => self.kill_container(container, id),
            Action::RemoveContainer { id } => self.remove_container(id),
            Action::RemoveContents => {
                let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.state.pod));
                self.tasks.spawn(async move { clear_evicted(&node, &pod).await });
            }
            Action::StartProbe { container, id, kind, delay } => self.start_probe(container, id, kind, delay),
            Action::StopProbe { container, kind } => {
                if let Some(probe) = self.probes.remove(&(container, kind)) {
                    probe.abort();
                }
            }
            Action::WithdrawEndpoints { at_most } => self.withdraw_endpoints(at_most),
            Action::AskResize => self.ask_resize(),
            Action::KeepAllocation { allocation } => self.keep_allocation(allocation),
            Action::ResizePod { sandbox, steps } => self.resize_pod(sandbox, steps),
            Action::RemovePod => self.remove_pod(),
            Action::DeleteObject => self.writer.delete_when_written(),
            Action::Record(record) => self.node.record(&self.state.pod, &record),
            Action::Report { because, found } => {
                let pod = spec::full_name(&self.state.pod);
                tracing::warn!(%pod, ?because, found, "an observation showed what no event had told");
            }
        }
    }

    /// Runs a task of the worker; what it makes goes into the inbox. Should it panic, `lost` goes there
    /// instead, and the runtime is asked what there is: an answer always comes.
    fn spawn<F>(&mut self, lost: Event, task: F) -> AbortHandle
    where
        F: Future<Output: Into<Option<Event>> + Send> + Send + 'static,
    {
        let (outbox, pod) = (self.outbox.clone(), Arc::clone(&self.state.pod));
        self.tasks.spawn(async move {
            let done = AssertUnwindSafe(task).catch_unwind().await;
            let panicked = done.is_err();
            let event = done.map_or(Some(lost), Into::into);
            // A closed inbox means that the Pod is gone: nobody needs the answer.
            if let Some(event) = event {
                let _ = outbox.send(Message::Event(event)).await;
            }
            if panicked {
                tracing::error!(pod = %spec::full_name(&pod), "a task of the Pod panicked; it is tried again");
                let _ = outbox.send(Message::LookAgain(Because::TaskLost)).await;
            }
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

    fn start_probe(&mut self, container: String, id: String, kind: ProbeKind, delay: Duration) {
        let Some(target) = self.target(&container, id.clone()) else { return };
        let Some(probe) = kind.of(&target.container).cloned() else { return };
        let (outbox, name) = (self.outbox.clone(), container.clone());
        let lost = Event::ProbeLost { container: container.clone(), id: id.clone(), kind };
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.state.pod));
        let tell = move |outcome| {
            node.probes.add(&pod, &name, kind, &outcome);
            let event = Event::Probed { container: name.clone(), id: id.clone(), kind, outcome };
            let outbox = outbox.clone();
            async move { outbox.send(Message::Event(event)).await.is_ok() }
        };
        let run = probing::run(target, probe, delay, tell);
        let handle = self.spawn(lost, async move {
            run.await;
            None
        });
        if let Some(old) = self.probes.insert((container, kind), handle) {
            old.abort();
        }
    }

    fn withdraw_endpoints(&mut self, at_most: Duration) {
        let endpoints = self.node.config.endpoints.clone();
        let withdrawn = endpoints.map(|endpoints| endpoints.withdrawn(&self.state.pod, at_most));
        self.spawn(Event::EndpointsWithdrawn, async move {
            if let Some(withdrawn) = withdrawn {
                withdrawn.await;
            }
            Event::EndpointsWithdrawn
        });
    }

    /// Tells the others what the Pod is like now.
    fn show(&mut self, status: &PodStatus) {
        let mut pod = Pod::clone(&self.state.pod);
        pod.status = Some(status.clone());
        let sandbox = match &self.state.sandbox {
            crate::pod::state::Sandbox::Ready { id, .. } => Some(id.clone()),
            _ => None,
        };
        let mut frees = false;
        if let Some(worker) = self.node.workers().get_mut(self.state.uid()) {
            let took_room = worker.takes_room();
            worker.pod = Arc::new(pod);
            worker.terminated = self.state.is_terminated();
            worker.sandbox = sandbox;
            frees = took_room && !worker.takes_room();
        }
        if frees {
            self.node.freed.notify_waiters();
        }
        if frees && self.node.workers().values().any(|worker| worker.wish.is_some()) {
            self.decide_resizes();
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

async fn sleep(wake: Option<Duration>) {
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

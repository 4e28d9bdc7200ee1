//! Asking the runtime what it has of the Pod.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use runtime::{ContainerState, ContainerStatus, SandboxSnapshot};

use super::{Message, PodWorker};
use crate::clock;
use crate::pod::clock::Steady;
use crate::pod::event::{Event, ImageRef};
use crate::pod::observe::{Because, Instance, Observed, SeenSandbox};
use crate::pod::spec;
use crate::pod::state::Run;
use crate::shared::Shared;
use crate::termination::Reader;
use crate::threads::Threads;
use crate::volumes::PodDirectory;
use crate::worker::exit;

/// Pause after the runtime did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What the runtime has of the Pod, as the node's audit found it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) because: Because,
    pub(crate) asked_at: Steady,
    pub(crate) sandboxes: Vec<SandboxSnapshot>,
}

impl PodWorker {
    /// Asks, after a pause, until there is an answer: to take no answer for "nothing is there" would
    /// start everything a second time.
    pub(super) fn observe(&mut self, because: Because, pause: Duration) {
        let (node, uid) = (Arc::clone(&self.node), self.state.uid().to_owned());
        let (outbox, looker) = (self.outbox.clone(), self.looker());
        self.tasks.spawn(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let (asked_at, sandboxes) = ask(&node, &uid).await;
            let seen = looker.look(Snapshot { because, asked_at, sandboxes }).await;
            // A closed inbox means that the Pod is gone.
            let _ = outbox.send(Message::Event(Event::Observed(seen))).await;
        });
    }

    /// Takes what somebody else has asked for.
    pub(super) fn seen(&mut self, snapshot: Snapshot) {
        let (outbox, looker) = (self.outbox.clone(), self.looker());
        self.tasks.spawn(async move {
            let seen = looker.look(snapshot).await;
            let _ = outbox.send(Message::Event(Event::Observed(seen))).await;
        });
    }

    fn looker(&self) -> Looker {
        let containers = &self.state.containers;
        let exits = containers.iter().flat_map(|one| one.exited.iter().chain(&one.previous));
        let readers = spec::containers(&self.state.pod).map(|(_, container)| {
            let from_logs = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
            let directory = self.directory.clone();
            (container.name.clone(), Reader { directory, container: container.name, from_logs })
        });
        Looker {
            directory: self.directory.clone(),
            threads: self.threads.clone(),
            known: exits.map(|exit| exit.id.clone()).collect(),
            readers: readers.collect(),
        }
    }
}

async fn ask(node: &Shared, uid: &str) -> (Steady, Vec<SandboxSnapshot>) {
    loop {
        let asked_at = clock::now().steady;
        match node.runtime.snapshot(Some(uid)).await {
            Ok(sandboxes) => return (asked_at, sandboxes),
            Err(error) => {
                tracing::warn!(%uid, %error, "the runtime does not say what it has of a Pod; asking again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Makes an observation of what the runtime has said.
struct Looker {
    directory: PodDirectory,
    threads: Threads,
    /// Containers whose end the machine knows: their messages are not read again.
    known: BTreeSet<String>,
    readers: BTreeMap<String, Reader>,
}

impl Looker {
    async fn look(self, snapshot: Snapshot) -> Observed {
        let Snapshot { because, asked_at, sandboxes } = snapshot;
        let news = sandboxes.iter().flat_map(|one| &one.containers);
        let news = news.filter(|one| one.state != ContainerState::Running && !self.known.contains(&one.id));
        let sandboxes = if news.count() == 0 {
            sandboxes.into_iter().map(|one| self.sandbox(one)).collect()
        } else {
            let spare = sandboxes.clone();
            let threads = self.threads.clone();
            let this = Arc::new(self);
            let looker = Arc::clone(&this);
            let read = move || sandboxes.into_iter().map(|one| looker.sandbox(one)).collect();
            threads.run(read).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "termination messages cannot be read");
                spare.into_iter().map(|one| this.sandbox_without_messages(one)).collect()
            })
        };
        Observed { because, asked_at, sandboxes }
    }

    fn sandbox(&self, snapshot: SandboxSnapshot) -> SeenSandbox {
        seen(snapshot, |status| match self.readers.get(&status.name) {
            Some(reader) if !self.known.contains(&status.id) => reader.exit(status),
            _ => exit(status, status.message.clone()),
        })
    }

    fn sandbox_without_messages(&self, snapshot: SandboxSnapshot) -> SeenSandbox {
        tracing::debug!(directory = %self.directory.root().display(), "exits are known without their messages");
        seen(snapshot, |status| exit(status, status.message.clone()))
    }
}

fn seen(
    snapshot: SandboxSnapshot,
    exit_of: impl Fn(&ContainerStatus) -> crate::pod::event::Exit,
) -> SeenSandbox {
    let SandboxSnapshot { sandbox, containers } = snapshot;
    let instances = containers.into_iter().filter_map(|status| {
        let started_at = status.started_at.unwrap_or(status.created_at);
        let state = match status.state {
            // One that was never started is made again.
            ContainerState::Created => return None,
            ContainerState::Running => Ok(Run { id: status.id.clone(), started_at, user: None }),
            ContainerState::Exited | ContainerState::Unknown => Err(exit_of(&status)),
        };
        let (id, image_id) = (status.image_id.clone(), status.image_id.clone());
        let image = ImageRef { id, name: status.image.clone(), image_id };
        let resources = status.resources;
        Some(Instance { name: status.name, attempt: status.attempt, image, resources, state })
    });
    SeenSandbox {
        attempt: sandbox.pod.attempt,
        id: sandbox.id,
        ready: sandbox.ready,
        ips: sandbox.ips,
        resources: sandbox.resources,
        instances: instances.collect(),
    }
}

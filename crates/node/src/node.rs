//! Starting the node, and handing what happens to the workers.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use client::events::Recorder;
use client::{Change, Client, ListOptions, Reflector};
use futures_util::future::join;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use runtime::{ContainerState, ContainerStatus, Runtime, SandboxStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::container::config::log_directory;
use crate::container::dns::{self, NodeDns};
use crate::kubelet::Kubelet;
use crate::pod::admit;
use crate::pod::event::{Event, ImageRef};
use crate::pod::state::{Instance, Observed, PodState, Run};
use crate::shared::{Shared, Worker};
use crate::sources::Watches;
use crate::termination::Reader;
use crate::volumes::{self, HostMounts, Mounts, PodDirectory};
use crate::worker::{INBOX, Message, PodWorker, remove_logs};
use crate::{Config, object};

/// A running node. Dropping it ends its tasks; the Pods go on.
pub struct Node {
    shared: Arc<Shared>,
    ready: watch::Receiver<bool>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.shared.config.node_name).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts the node's tasks. Call it inside a tokio runtime; it returns at once.
    pub fn start(client: Client, runtime: Arc<dyn Runtime>, config: Config) -> Self {
        Self::start_with(client, runtime, config, Arc::new(HostMounts))
    }

    /// The same with mounts of the caller's choice.
    pub fn start_with(
        client: Client,
        runtime: Arc<dyn Runtime>,
        config: Config,
        mounts: Arc<dyn Mounts>,
    ) -> Self {
        let (client, shutdown, mut tasks) =
            (client.named("kubelet"), CancellationToken::new(), JoinSet::new());
        let name = config.node_name.clone();
        let named = ListOptions { field_selector: format!("metadata.name={name}"), ..ListOptions::default() };
        let bound = ListOptions { field_selector: format!("spec.nodeName={name}"), ..ListOptions::default() };
        let services =
            Reflector::spawn(client.clone(), "", ListOptions::default(), &mut tasks, shutdown.clone());
        let nodes = Reflector::spawn(client.clone(), "", named, &mut tasks, shutdown.clone());
        let pods = Reflector::spawn(client.clone(), "", bound, &mut tasks, shutdown.clone());
        let recorder = Recorder::spawn(client.clone(), "kubelet", &name, &mut tasks, shutdown.clone());
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let dns = NodeDns {
            host: dns::parse(&resolv),
            cluster: config.cluster_dns,
            domain: config.cluster_domain.clone(),
        };
        let shared = Arc::new(Shared {
            watches: Watches::new(client.clone()),
            own_node: object::build(&config, Timestamp::now()),
            workers: Mutex::default(),
            client,
            runtime,
            config,
            mounts,
            services,
            recorder,
            nodes,
            dns,
        });
        let (announce, ready) = watch::channel(false);
        let until = |task| until_shutdown(shutdown.clone(), task);
        tasks.spawn(until(Box::pin(object::keep_node(Arc::clone(&shared), announce))));
        tasks.spawn(until(Box::pin(object::keep_lease(Arc::clone(&shared), ready.clone()))));
        let dispatcher =
            Dispatcher { shared: Arc::clone(&shared), pods, workers: JoinSet::new(), names: HashMap::new() };
        tasks.spawn(until(Box::pin(dispatcher.run())));
        Self { shared, ready, shutdown, tasks }
    }

    /// Answers logs, exec, attach and port-forward.
    pub fn handler(&self) -> Arc<dyn wire::Handler> {
        Arc::new(Kubelet::new(Arc::clone(&self.shared)))
    }

    /// Turns true when the Node object says Ready.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Waits until a part of the node has ended, which it does when it was told to or by a fault that
    /// the rest cannot make good. Cancel-safe.
    pub async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Err(err)) => tracing::error!(%err, "a part of the node failed"),
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }

    /// Ends all tasks. The Pods go on; the next start adopts them.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn until_shutdown(shutdown: CancellationToken, task: Task) {
    // Cancel-safe: what a dropped task leaves half done is seen again at the next start.
    shutdown.run_until_cancelled(task).await;
}

/// Owns the workers.
struct Dispatcher {
    shared: Arc<Shared>,
    pods: Reflector<Pod>,
    workers: JoinSet<()>,
    names: HashMap<tokio::task::Id, String>,
}

/// What runs already, by Pod UID.
#[derive(Default)]
struct Found {
    sandboxes: HashMap<String, Vec<SandboxStatus>>,
    containers: HashMap<String, Vec<ContainerStatus>>,
}

impl Dispatcher {
    async fn run(mut self) {
        let mut events = self.shared.runtime.events();
        // What runs is asked for after the events are subscribed to: no exit falls between.
        let (mut found, ()) = join(self.look(), self.pods.ready()).await;
        let mut changes = self.pods.subscribe();
        self.remove_orphans(&found);
        loop {
            tokio::select! {
                // Facts before wishes: exits before changes of the spec.
                biased;
                // Cancel-safe: an event is taken or stays.
                Some(event) = events.recv() => self.route(event).await,
                // Cancel-safe: the set keeps what has not been joined.
                Some(ended) = self.workers.join_next_with_id() => self.ended(ended),
                // Cancel-safe: a change is taken or stays.
                change = changes.next() => match change {
                    Some(change) => self.changed(change, &mut found).await,
                    None => return,
                },
            }
        }
    }

    async fn look(&self) -> Found {
        let runtime = &self.shared.runtime;
        let (sandboxes, containers) = join(runtime.sandboxes(), runtime.containers()).await;
        let mut found = Found::default();
        for sandbox in told(sandboxes, "sandboxes") {
            found.sandboxes.entry(sandbox.pod.uid.clone()).or_default().push(sandbox);
        }
        for container in told(containers, "containers") {
            found.containers.entry(container.pod.uid.clone()).or_default().push(container);
        }
        found
    }

    async fn route(&self, event: runtime::Event) {
        let (uid, message) = match event {
            runtime::Event::ContainerExited { pod_uid, container_id } => {
                (pod_uid, Message::Exited { id: container_id })
            }
            runtime::Event::SandboxDied { pod_uid, sandbox_id } => {
                (pod_uid, Message::Event(Event::SandboxDied { id: sandbox_id }))
            }
            runtime::Event::Overflow => {
                let inboxes: Vec<_> =
                    self.shared.workers().values().map(|worker| worker.inbox.clone()).collect();
                for inbox in inboxes {
                    let _ = inbox.send(Message::LookAgain).await;
                }
                return;
            }
        };
        self.send(&uid, message).await;
    }

    /// Gives a message to a worker; false: there is none.
    async fn send(&self, uid: &str, message: Message) -> bool {
        let inbox = self.shared.workers().get(uid).map(|worker| worker.inbox.clone());
        match inbox {
            Some(inbox) => inbox.send(message).await.is_ok(),
            None => false,
        }
    }

    async fn changed(&mut self, change: Change<Pod>, found: &mut Found) {
        let pod = Arc::clone(change.object());
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match change {
            Change::Deleted(_) => {
                let by_force = pod.metadata.deletion_timestamp.is_some();
                let grace_period_seconds = pod.metadata.deletion_grace_period_seconds.filter(|_| by_force);
                self.send(&uid, Message::Event(Event::PodRemoved { grace_period_seconds })).await;
            }
            Change::Added(_) | Change::Modified { .. } => {
                self.replaced(&change).await;
                if !self.send(&uid, Message::Event(Event::PodChanged(Arc::clone(&pod)))).await {
                    self.adopt(pod, &uid, found).await;
                }
            }
        }
    }

    /// A name that got a new UID: the old Pod is gone though nobody said so.
    async fn replaced(&self, change: &Change<Pod>) {
        if let Change::Modified { old, new } = change
            && old.metadata.uid != new.metadata.uid
        {
            let uid = old.metadata.uid.clone().unwrap_or_default();
            self.send(&uid, Message::Event(Event::PodRemoved { grace_period_seconds: Some(0) })).await;
        }
    }

    /// Begins a worker for a Pod, with whatever of it runs already.
    async fn adopt(&mut self, pod: Arc<Pod>, uid: &str, found: &mut Found) {
        let sandboxes = found.sandboxes.remove(uid).unwrap_or_default();
        let containers = found.containers.remove(uid).unwrap_or_default();
        let fresh = sandboxes.is_empty() && pod.metadata.deletion_timestamp.is_none() && is_open(&pod);
        let refusal = if fresh { self.admit(&pod).await.err() } else { None };
        let observed = self.observed(uid, &sandboxes, containers);
        let state = PodState::adopted(Arc::clone(&pod), observed, Timestamp::now());
        let (outbox, inbox) = mpsc::channel(INBOX);
        let first = match refusal {
            Some(refusal) => Event::Refused { reason: refusal.reason, message: refusal.message },
            None => Event::PodChanged(Arc::clone(&pod)),
        };
        // The inbox is empty and has room for one.
        let _ = outbox.send(Message::Event(first)).await;
        let worker = Worker { inbox: outbox.clone(), pod, terminated: false, sandbox: None };
        self.shared.workers().insert(uid.into(), worker);
        let ids = sandboxes.into_iter().map(|sandbox| sandbox.id).collect();
        let worker = PodWorker::new(Arc::clone(&self.shared), state, ids, (outbox, inbox));
        let task = self.workers.spawn(worker.run());
        self.names.insert(task.id(), uid.into());
    }

    /// As the kubelet's predicate handler: what it knows of its Node may be older than what the scheduler
    /// knew, so a Node whose labels do not fit is asked for once more before the Pod is refused for good.
    async fn admit(&self, pod: &Pod) -> Result<(), admit::Refusal> {
        let Err(refusal) = self.admit_on(pod, &self.shared.node()) else { return Ok(()) };
        if refusal.reason != "NodeAffinity" {
            return Err(refusal);
        }
        match self.shared.client.get::<NodeObject>("", &self.shared.config.node_name).await {
            Ok(node) => self.admit_on(pod, &node),
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the Node");
                Err(refusal)
            }
        }
    }

    fn admit_on(&self, pod: &Pod, node: &NodeObject) -> Result<(), admit::Refusal> {
        let workers = self.shared.workers();
        let others: Vec<&Pod> = workers
            .values()
            .filter(|worker| !worker.terminated && is_open(&worker.pod))
            .map(|worker| &*worker.pod)
            .collect();
        admit::admit(pod, node, &others, &self.shared.config.allowed_sysctls)
    }

    fn observed(&self, uid: &str, sandboxes: &[SandboxStatus], containers: Vec<ContainerStatus>) -> Observed {
        let ready =
            sandboxes.iter().filter(|sandbox| sandbox.ready).max_by_key(|sandbox| sandbox.pod.attempt);
        let last = sandboxes.iter().map(|sandbox| sandbox.pod.attempt).max();
        let directory = PodDirectory::new(&self.shared.config.pods_directory, uid);
        let instances = containers.into_iter().filter_map(|status| {
            let lost = status.state == ContainerState::Running
                && ready.is_none_or(|ready| ready.id != status.sandbox_id);
            instance(&directory, status, lost)
        });
        Observed {
            sandbox: ready.map(|sandbox| (sandbox.pod.attempt, sandbox.id.clone(), sandbox.ips.clone())),
            next_sandbox: last.map_or(0, |attempt| attempt + 1),
            instances: instances.collect(),
        }
    }

    /// A worker has ended; one that panicked is begun anew from what can be observed.
    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.names.remove(&id) else { return };
        self.shared.workers().remove(&uid);
        if let Err(error) = ended {
            tracing::error!(%uid, %error, "the worker of a Pod has failed; the Pod is taken up again at its next change");
        }
    }

    /// Takes down what no Pod of the API owns.
    fn remove_orphans(&mut self, found: &Found) {
        let known: BTreeSet<String> =
            self.pods.list().iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        let directories =
            std::fs::read_dir(&self.shared.config.pods_directory).into_iter().flatten().flatten();
        let mut orphans: BTreeSet<String> =
            directories.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        orphans.extend(found.sandboxes.keys().cloned());
        for uid in orphans.difference(&known) {
            let sandboxes = found.sandboxes.get(uid).cloned().unwrap_or_default();
            self.workers.spawn(remove_orphan(Arc::clone(&self.shared), uid.clone(), sandboxes));
        }
    }
}

fn told<T>(answer: Result<Vec<T>, runtime::Error>, what: &str) -> Vec<T> {
    answer.unwrap_or_else(|error| {
        tracing::error!(%error, "the runtime does not tell its {what}");
        Vec::new()
    })
}

/// Whether the Pod is not over according to the API.
fn is_open(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// One container as the state machine sees it; one that was never started is made again.
fn instance(directory: &PodDirectory, status: ContainerStatus, lost: bool) -> Option<Instance> {
    let image = ImageRef {
        id: status.image_id.clone(),
        name: status.image.clone(),
        image_id: status.image_id.clone(),
    };
    let started_at = status.started_at.unwrap_or(status.created_at);
    let run = Run { id: status.id.clone(), started_at, user: None };
    let state = match status.state {
        ContainerState::Created => return None,
        ContainerState::Running if lost => Err(crate::pod::step::lost(&run, Timestamp::now())),
        ContainerState::Running => Ok(run),
        ContainerState::Exited | ContainerState::Unknown => {
            // Whether logs stand in for the message was decided when it ended; the API remembers.
            let reader =
                Reader { directory: directory.clone(), container: status.name.clone(), from_logs: false };
            Err(reader.exit(&status))
        }
    };
    Some(Instance { name: status.name, attempt: status.attempt, image, state })
}

async fn remove_orphan(shared: Arc<Shared>, uid: String, sandboxes: Vec<SandboxStatus>) {
    tracing::info!(%uid, "removing a Pod that the API does not know");
    let mut logs = Vec::new();
    for sandbox in sandboxes {
        let stopped = shared.runtime.stop_sandbox(&sandbox.id).await;
        if let Err(error) = stopped.and(shared.runtime.remove_sandbox(&sandbox.id).await) {
            tracing::warn!(%uid, %error, "an orphaned sandbox could not be removed; it is tried again at the next start");
            return;
        }
        let mut pod = Pod::default();
        pod.metadata.name = Some(sandbox.pod.name);
        pod.metadata.namespace = Some(sandbox.pod.namespace);
        pod.metadata.uid = Some(sandbox.pod.uid);
        logs.push(log_directory(&shared.config.logs_directory, &pod));
    }
    let files = move || {
        let directory = PodDirectory::new(&shared.config.pods_directory, &uid);
        let links = shared.config.log_links_directory.as_deref();
        logs.iter().try_for_each(|logs| remove_logs(logs, links))?;
        volumes::remove_directory(&*shared.mounts, &directory)
    };
    match tokio::task::spawn_blocking(files).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "files of an orphaned Pod could not be removed"),
        Err(error) => tracing::warn!(%error, "files of an orphaned Pod could not be removed"),
    }
}

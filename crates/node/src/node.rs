//! Starting the node, and handing what happens to the workers.

mod orphans;
mod statics;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::events::Recorder;
use client::{Change, Changes, Client, Informer, Informers, Part, Retry, index};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use runtime::{Runtime, SandboxSnapshot};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::container::dns::{self, NodeDns};
use crate::kubelet::Kubelet;
use crate::manifests::{Wanted, mirror};
use crate::pod::admit;
use crate::pod::clock::Steady;
use crate::pod::event::Event;
use crate::pod::observe::Because;
use crate::pod::spec::{self, is_critical};
use crate::pod::state::PodState;
use crate::probing::counts::Counts;
use crate::shared::{Shared, Worker, is_open};
use crate::volumes::{HostMounts, Mounts, PodDirectory};
use crate::worker::claims::Holders;
use crate::worker::{INBOX, Message, PodWorker, Snapshot, kept_allocation};
use crate::{Config, clock, eviction, host, manifests, object, timeline};
use statics::{Orphan, Statics};

/// How often all that the runtime has is compared with what is believed. Events tell everything at
/// once; this finds what no event told, and says so.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// How often Pods that wait for room for another size are looked at when nothing was freed (upstream's).
const RESIZE_EVERY: Duration = Duration::from_secs(180);
/// So long the API is waited for before Pods of the node's own files begin without it.
const STATICS_WAIT: Duration = Duration::from_secs(2);
/// Pause after the runtime did not answer, and before a worker that has failed is begun anew.
const PAUSE: Duration = Duration::from_secs(1);

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
    pub fn start(client: Client, informers: Informers, runtime: Arc<dyn Runtime>, config: Config) -> Self {
        Self::start_with(client, informers, runtime, config, Arc::new(HostMounts))
    }

    /// The same with mounts of the caller's choice.
    pub fn start_with(
        client: Client,
        informers: Informers,
        runtime: Arc<dyn Runtime>,
        config: Config,
        mounts: Arc<dyn Mounts>,
    ) -> Self {
        let (client, shutdown, mut tasks) =
            (client.named("kubelet"), CancellationToken::new(), JoinSet::new());
        let name = config.node_name.clone();
        let pods = informers.part(Part::field(index::PODS_BY_NODE, &name));
        let recorder = Recorder::spawn(client.clone(), "kubelet", &name, &mut tasks, shutdown.clone());
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let dns = NodeDns {
            host: dns::parse(&resolv),
            cluster: config.cluster_dns,
            domain: config.cluster_domain.clone(),
        };
        let (watch, pressures) = eviction::Watch::begin(&config);
        let (timelines, lines) = timeline::channel();
        let shared = Arc::new(Shared {
            own_node: object::build(&config, &pressures, Timestamp::now()),
            pressures: Mutex::new(pressures),
            pressed: Notify::new(),
            workers: Mutex::default(),
            freed: Notify::new(),
            probes: Counts::default(),
            claims: Holders::default(),
            statics: Notify::new(),
            timelines,
            client,
            runtime,
            config,
            mounts,
            services: informers.of(),
            recorder,
            nodes: informers.part(Part::object("", &name)),
            informers,
            dns,
        });
        let (announce, ready) = watch::channel(false);
        let until = |task| until_shutdown(shutdown.clone(), task);
        tasks.spawn(until(Box::pin(object::keep_node(Arc::clone(&shared), announce))));
        tasks.spawn(until(Box::pin(object::keep_lease(Arc::clone(&shared), ready.clone()))));
        tasks.spawn(until(Box::pin(eviction::keep(Arc::clone(&shared), watch))));
        tasks.spawn(until(Box::pin(eviction::collect_for_ever(Arc::clone(&shared)))));
        tasks.spawn(until(Box::pin(timeline::keep(Arc::clone(&shared), lines))));
        let (tell, wanted) = watch::channel(None);
        tasks.spawn(until(Box::pin(manifests::keep(Arc::clone(&shared), tell))));
        let mirrors = mirror::keep(Arc::clone(&shared), pods.clone(), wanted.clone());
        tasks.spawn(until(Box::pin(mirrors)));
        let dispatcher = Dispatcher::new(Arc::clone(&shared), pods, wanted);
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
    pods: Informer<Pod>,
    workers: JoinSet<()>,
    /// Whose worker a task is.
    names: HashMap<tokio::task::Id, String>,
    /// Which orphan a task removes.
    orphans: HashMap<tokio::task::Id, Orphan>,
    /// Questions under way: nothing is awaited between two events.
    asked: JoinSet<Answer>,
    /// Pods whose admission waits for the newest Node, and why it was refused with the known one.
    pending: HashMap<String, (Arc<Pod>, admit::Refusal)>,
    /// Pods that had sandboxes when the node started and have no worker yet.
    found: BTreeSet<String>,
    /// What those sandboxes are, until the API says whose they are.
    unclaimed: Option<Vec<SandboxSnapshot>>,
    statics: Statics,
}

/// What the dispatcher turns to.
enum Next {
    Event(runtime::Event),
    Ended(Result<(tokio::task::Id, ()), JoinError>),
    Answer(Result<Answer, JoinError>),
    Change(Option<Change<Pod>>),
    Synced,
    Statics,
    Audit,
    Resizes,
}

/// What came of a question.
enum Answer {
    /// Those who had to go for a Pod have gone.
    Room {
        /// The Pod.
        uid: String,
    },
    /// The Node, for a Pod that waits for its admission.
    Node { uid: String, node: Result<Box<NodeObject>, client::Error> },
    /// All that the runtime has.
    Audit { asked_at: Steady, sandboxes: Result<Vec<SandboxSnapshot>, runtime::Error> },
    /// Who waited for another size has been told.
    Resizes,
}

impl Dispatcher {
    fn new(shared: Arc<Shared>, pods: Informer<Pod>, wanted: watch::Receiver<Wanted>) -> Self {
        Self {
            shared,
            pods,
            workers: JoinSet::new(),
            names: HashMap::new(),
            orphans: HashMap::new(),
            asked: JoinSet::new(),
            pending: HashMap::new(),
            found: BTreeSet::new(),
            unclaimed: None,
            statics: Statics::new(wanted),
        }
    }

    async fn run(mut self) {
        // Taken before anything is looked at: what ends in between is then told twice rather than never.
        let mut events = self.shared.runtime.events();
        let found = self.look().await;
        self.found = found.iter().map(|one| one.sandbox.pod.uid.clone()).collect();
        self.unclaimed = Some(found);
        // Before the first event: a Pod that is unknown because nobody has listed it yet would look like one that
        // was deleted while we were away. But those of the node's own files need no API, and do not wait for
        // one that is away; a little, for it knows how they were.
        let mut changes = match timeout(STATICS_WAIT, self.pods.synced()).await {
            Ok(()) => Some(self.synced()),
            Err(_) => None,
        };
        let every = |period| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut audits, mut resizes) = (every(AUDIT_EVERY), every(RESIZE_EVERY));
        loop {
            let next = tokio::select! {
                // Facts before wishes: exits before changes of the spec.
                biased;
                // Cancel-safe: an event is taken or stays.
                Some(event) = events.recv() => Next::Event(event),
                // Cancel-safe: the set keeps what has not been joined.
                Some(ended) = self.workers.join_next_with_id() => Next::Ended(ended),
                // Cancel-safe: the set keeps what has not been joined.
                Some(answer) = self.asked.join_next() => Next::Answer(answer),
                // Cancel-safe: nothing is taken.
                () = self.pods.synced(), if changes.is_none() => Next::Synced,
                // Cancel-safe: a change is taken or stays.
                change = next(&mut changes) => Next::Change(change),
                // Cancel-safe: what has been told last stays.
                () = self.statics.changed() => Next::Statics,
                // Cancel-safe: a tick is taken or stays.
                _ = audits.tick() => Next::Audit,
                // Cancel-safe: a tick is taken or stays.
                _ = resizes.tick() => Next::Resizes,
            };
            let pulse = self.shared.config.pulses.dispatcher.clone();
            pulse.begin(Instant::now().into_std());
            match next {
                Next::Event(event) => self.route(event).await,
                Next::Ended(ended) => self.ended(ended).await,
                Next::Answer(answer) => self.answered(answer).await,
                Next::Change(Some(change)) => self.changed(change).await,
                Next::Change(None) => return,
                Next::Synced => changes = Some(self.synced()),
                Next::Statics => self.settle_statics().await,
                Next::Audit => self.audit(),
                Next::Resizes => self.decide_resizes(),
            }
            pulse.rest();
        }
    }

    /// All Pods of the API are known.
    fn synced(&mut self) -> Changes<Pod> {
        self.claim();
        // After it, so that the first of the changes are all Pods there are, each known to run or not.
        self.pods.subscribe()
    }

    /// Whether a Pod that is unknown is nobody's.
    fn knows_all(&self) -> bool {
        self.pods.is_synced() && self.statics.are_known()
    }

    /// Takes down, once, what was found at the beginning and is nobody's.
    fn claim(&mut self) {
        if self.knows_all()
            && let Some(found) = self.unclaimed.take()
        {
            let directories = self.directories();
            self.remove_orphans(found, &directories);
        }
    }

    /// All that the runtime has; asked for until there is an answer.
    async fn look(&self) -> Vec<SandboxSnapshot> {
        let pulse = &self.shared.config.pulses.runtime;
        loop {
            pulse.begin(Instant::now().into_std());
            match self.shared.runtime.snapshot(None).await {
                Ok(found) => {
                    pulse.rest();
                    return found;
                }
                Err(error) => {
                    pulse.failed(error.to_string(), Instant::now().into_std());
                    tracing::error!(%error, "the runtime does not say what it has; asking again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Something may have become free, or the Node larger.
    fn decide_resizes(&mut self) {
        if self.shared.workers().values().any(|worker| worker.wish.is_some()) {
            let shared = Arc::clone(&self.shared);
            self.asked.spawn(async move {
                shared.decide_resizes().await;
                Answer::Resizes
            });
        }
    }

    fn audit(&mut self) {
        self.shared.config.pulses.runtime.begin(Instant::now().into_std());
        let runtime = Arc::clone(&self.shared.runtime);
        self.asked.spawn(async move {
            let asked_at = clock::now().steady;
            Answer::Audit { asked_at, sandboxes: runtime.snapshot(None).await }
        });
    }

    async fn answered(&mut self, answer: Result<Answer, JoinError>) {
        let runtime = &self.shared.config.pulses.runtime;
        match answer {
            Ok(Answer::Resizes) => {}
            Ok(Answer::Room { uid }) => {
                let node = Box::new(NodeObject::clone(&self.shared.node()));
                self.node_answered(&uid, Ok(node)).await;
            }
            Ok(Answer::Node { uid, node }) => self.node_answered(&uid, node).await,
            Ok(Answer::Audit { asked_at, sandboxes: Ok(sandboxes) }) => {
                runtime.rest();
                self.hand_out(asked_at, sandboxes).await
            }
            Ok(Answer::Audit { sandboxes: Err(error), .. }) => {
                runtime.failed(error.to_string(), Instant::now().into_std());
                tracing::warn!(%error, "the runtime does not say what it has; the next audit asks again");
            }
            Err(error) => tracing::error!(%error, "a question of the node has failed"),
        }
    }

    /// Gives each worker what the audit found of its Pod. What belongs to nobody is removed.
    async fn hand_out(&mut self, asked_at: Steady, sandboxes: Vec<SandboxSnapshot>) {
        let mut by_pod: HashMap<String, Vec<SandboxSnapshot>> = HashMap::new();
        for one in sandboxes {
            by_pod.entry(one.sandbox.pod.uid.clone()).or_default().push(one);
        }
        // Also those of which nothing was found: that is news, too.
        let uids: Vec<String> = self.shared.workers().keys().cloned().collect();
        for uid in uids {
            let sandboxes = by_pod.remove(&uid).unwrap_or_default();
            let snapshot = Snapshot { because: Because::Audit, asked_at, sandboxes };
            self.send(&uid, Message::Seen(snapshot)).await;
        }
        if self.knows_all() {
            self.remove_orphans(by_pod.into_values().flatten().collect(), &[]);
        }
    }

    async fn route(&self, event: runtime::Event) {
        let (uid, message) = match event {
            runtime::Event::ContainerExited { pod_uid, container_id } => {
                (pod_uid, Message::Exited { id: container_id })
            }
            runtime::Event::SandboxDied { pod_uid, sandbox_id } => {
                (pod_uid, Message::Event(Event::SandboxDied { id: sandbox_id }))
            }
            runtime::Event::Repaired { what } => return self.repaired(&what),
            runtime::Event::Overflow => {
                // Which events were lost nobody knows, so everybody looks for themselves.
                let inboxes: Vec<_> =
                    self.shared.workers().values().map(|worker| worker.inbox.clone()).collect();
                for inbox in inboxes {
                    let _ = inbox.send(Message::LookAgain(Because::EventsLost)).await;
                }
                return;
            }
        };
        self.send(&uid, message).await;
    }

    fn repaired(&self, what: &str) {
        object::warn(&self.shared, "NetworkRepaired", format!("Put back what others had taken away: {what}"));
    }

    /// Gives a message to a worker; false: there is none.
    async fn send(&self, uid: &str, message: Message) -> bool {
        let inbox = self.shared.workers().get(uid).map(|worker| worker.inbox.clone());
        match inbox {
            Some(inbox) => inbox.send(message).await.is_ok(),
            None => false,
        }
    }

    async fn changed(&mut self, change: Change<Pod>) {
        if mirror::is_mirror(change.object()) {
            return;
        }
        let pod = spec::of_api(Arc::clone(change.object()));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match change {
            // It was never admitted: nothing of it is here.
            Change::Deleted(_) if self.pending.remove(&uid).is_some() => {}
            Change::Deleted(_) => {
                self.send(&uid, Message::Event(removed(&pod))).await;
            }
            Change::Added(_) | Change::Modified { .. } => {
                if !self.send(&uid, Message::Event(Event::PodChanged(Arc::clone(&pod)))).await {
                    self.take_up(pod, &uid).await;
                }
            }
        }
    }

    /// Begins a worker for a Pod of which nothing is known yet, if the node admits it. What it knows of its
    /// Node may be older than what the scheduler knew, so a Node whose labels do not fit is asked for
    /// once more before the Pod is refused for good, as the kubelet's predicate handler does.
    async fn take_up(&mut self, pod: Arc<Pod>, uid: &str) {
        if let Some((pending, _)) = self.pending.get_mut(uid) {
            *pending = pod;
            return;
        }
        let new = !self.found.remove(uid) && is_new(&pod);
        match if new { self.admit_on(&pod, &self.shared.node()) } else { Ok(()) } {
            Ok(()) => self.begin(uid, Arc::clone(&pod), Event::PodChanged(pod), Duration::ZERO).await,
            Err(refusal) if self.preempt(&pod, &refusal) => {
                self.pending.insert(uid.into(), (pod, refusal));
            }
            Err(refusal) if refusal.retry() == Retry::Now => {
                self.pending.insert(uid.into(), (pod, refusal));
                self.ask_for_node(uid.into());
            }
            Err(refusal) => self.refuse(uid, pod, refusal).await,
        }
    }

    /// Sends Pods away for a critical one that finds no room; it is looked at again when they have ended. False:
    /// it is not critical, or they would not be enough.
    fn preempt(&mut self, pod: &Arc<Pod>, refusal: &admit::Refusal) -> bool {
        if !matches!(refusal.reason, admit::Reason::OutOf(_)) || !is_critical(pod) {
            return false;
        }
        let workers: Vec<Worker> =
            self.shared.workers().values().filter(|worker| worker.takes_room()).cloned().collect();
        let others: Vec<&Pod> = workers.iter().map(|worker| &*worker.allocated).collect();
        let Some(victims) = admit::victims(pod, &self.shared.node(), &others) else { return false };
        let gone: Vec<String> = victims.iter().filter_map(|victim| victim.metadata.uid.clone()).collect();
        let (shared, uid) = (Arc::clone(&self.shared), pod.metadata.uid.clone().unwrap_or_default());
        tracing::warn!(pod = %crate::pod::spec::full_name(pod), victims = gone.len(), "Pods go for a critical one");
        self.asked.spawn(async move {
            let sent = gone.iter().map(|uid| shared.send_away(uid));
            futures_util::future::join_all(sent).await;
            Answer::Room { uid }
        });
        true
    }

    fn ask_for_node(&mut self, uid: String) {
        let (client, name) = (self.shared.client.clone(), self.shared.config.node_name.clone());
        self.asked.spawn(async move {
            let node = client.get::<NodeObject>("", &name).await.map(Box::new);
            Answer::Node { uid, node }
        });
    }

    async fn node_answered(&mut self, uid: &str, node: Result<Box<NodeObject>, client::Error>) {
        let Some((pod, refusal)) = self.pending.remove(uid) else { return };
        let admitted = match node {
            // It may have been deleted, or have ended, in the meantime.
            _ if !is_new(&pod) => Ok(()),
            Ok(node) => self.admit_on(&pod, &node),
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the Node");
                Err(refusal)
            }
        };
        match admitted {
            Ok(()) => self.begin(uid, Arc::clone(&pod), Event::PodChanged(pod), Duration::ZERO).await,
            Err(refusal) => self.refuse(uid, pod, refusal).await,
        }
    }

    async fn refuse(&mut self, uid: &str, pod: Arc<Pod>, refusal: admit::Refusal) {
        let event = Event::Refused { reason: refusal.reason.word(), message: refusal.message };
        self.begin(uid, pod, event, Duration::ZERO).await;
    }

    /// Begins a worker. It asks the runtime what there is of the Pod only when events already come to it:
    /// no exit falls between.
    async fn begin(&mut self, uid: &str, pod: Arc<Pod>, first: Event, pause: Duration) {
        let directory = PodDirectory::new(&self.shared.config.pods_directory, uid);
        let state = PodState::admitted(Arc::clone(&pod), clock::now().time)
            .granted(kept_allocation(&directory.allocation()));
        let (outbox, inbox) = mpsc::channel(INBOX);
        // The inbox is empty and has room for one.
        let _ = outbox.send(Message::Event(first)).await;
        let allocated = Arc::clone(&state.pod);
        let inbox_of = outbox.clone();
        self.shared.workers().insert(uid.into(), Worker::new(inbox_of, pod, allocated));
        let worker = PodWorker::new(Arc::clone(&self.shared), state, (outbox, inbox));
        let task = self.workers.spawn(worker.run(pause));
        self.names.insert(task.id(), uid.into());
    }

    fn admit_on(&self, pod: &Pod, node: &NodeObject) -> Result<(), admit::Refusal> {
        let workers = self.shared.workers();
        let others: Vec<&Pod> =
            workers.values().filter(|worker| worker.takes_room()).map(|worker| &*worker.allocated).collect();
        let mut host = host::look(&self.shared.config, pod);
        host.pressures = self.shared.pressures();
        admit::admit(pod, node, &others, &host)
    }

    /// A worker has ended; one that panicked is begun anew from what can be observed.
    async fn ended(&mut self, ended: Result<(tokio::task::Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        if let Some(uid) = self.names.remove(&id) {
            let worker = self.shared.workers().remove(&uid);
            self.shared.probes.forget(&uid);
            self.shared.freed.notify_waiters();
            self.decide_resizes();
            if worker.as_ref().is_some_and(|worker| spec::is_static(&worker.pod)) {
                // Nothing is left for its mirror to show.
                self.shared.statics.notify_one();
            }
            match (ended, worker) {
                (Err(error), Some(worker)) => self.begin_anew(&uid, worker, &error).await,
                _ => self.statics.gone(&uid),
            }
        }
        self.orphans.remove(&id);
        // One may have waited for the end of another of its name.
        self.settle_statics().await;
    }

    async fn begin_anew(&mut self, uid: &str, worker: Worker, error: &JoinError) {
        let meta = &worker.pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        tracing::error!(%uid, namespace, name, %error, "the worker of a Pod has failed; the Pod is taken up anew");
        let known = self.pods.get(namespace.unwrap_or_default(), name.unwrap_or_default());
        let known = known.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)).map(spec::of_api);
        match self.statics.begun(uid).map(|pod| self.as_shown(&pod)).or(known) {
            Some(pod) => self.begin(uid, Arc::clone(&pod), Event::PodChanged(pod), PAUSE).await,
            None => self.begin(uid, Arc::clone(&worker.pod), removed(&worker.pod), PAUSE).await,
        }
    }
}

/// The next change; while nobody listens there is none.
async fn next(changes: &mut Option<Changes<Pod>>) -> Option<Change<Pod>> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// The event of a Pod that the API has forgotten.
fn removed(pod: &Pod) -> Event {
    let by_force = pod.metadata.deletion_timestamp.is_some();
    let grace_period_seconds = pod.metadata.deletion_grace_period_seconds.filter(|_| by_force);
    Event::PodRemoved { grace_period_seconds }
}

/// Whether a Pod that was not here before is to be admitted: it is neither over nor on its way out.
fn is_new(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && is_open(pod)
}

//! The loop around the decisions.

use std::sync::Arc;
use std::time::Duration;

use client::events::{EventType, Recorder, reference};
use client::{Change, Changes, Client, DeleteOptions, Error, Informer, Informers, Patch, PatchKind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::counted;
use crate::hints::Relief;
use crate::pending::Pending;
use crate::request::requests_of;
use crate::snapshot::{Snapshot, is_finished};
use crate::volumes::Lookup;
use crate::workloads::Workloads;
use crate::{Budget, Failure, Placement, PodInfo, Preemption, Volumes, place, preempt};

/// The scheduler that Pods mean when they name none.
const NAME: &str = "default-scheduler";
/// How long a Pod waits for its volumes once a node is chosen.
const VOLUME_TIMEOUT: Duration = Duration::from_secs(600);

/// Schedules until `shutdown`.
pub async fn run(client: Client, informers: Informers, shutdown: CancellationToken) {
    let client = client.named("kube-scheduler");
    let mut tasks = JoinSet::new();
    let listers = Listers::new(&informers);
    let recorder = Recorder::spawn(client.clone(), NAME, "", &mut tasks, shutdown.clone());
    let schedule = async {
        if shutdown.run_until_cancelled(listers.synced()).await.is_some() {
            Scheduler::new(client, listers.clone(), recorder).run(&shutdown).await;
        }
    };
    client::tasks::beside(&mut tasks, schedule).await;
    client::tasks::finish(tasks).await;
}

/// What decisions are made from.
#[derive(Clone)]
struct Listers {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    namespaces: Informer<Namespace>,
    budgets: Informer<PodDisruptionBudget>,
    workloads: Workloads,
}

impl Listers {
    fn new(informers: &Informers) -> Self {
        Self {
            pods: informers.of(),
            nodes: informers.of(),
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            namespaces: informers.of(),
            budgets: informers.of(),
            workloads: Workloads::new(informers),
        }
    }

    /// Placing before all Pods are known would count nodes as emptier than they are.
    async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.namespaces.synced().await;
        self.budgets.synced().await;
        self.workloads.synced().await;
    }
}

impl Lookup for Listers {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(namespace, name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }

    fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.list()
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }
}

enum Event {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Namespace(Change<Namespace>),
    Storage,
    Bound(Bound),
    Tick,
    Shutdown,
}

/// How a binding ended.
struct Bound {
    pod: Arc<PodInfo>,
    node: String,
    result: Result<(), String>,
}

struct Subscriptions {
    pods: Changes<Pod>,
    nodes: Changes<Node>,
    claims: Changes<PersistentVolumeClaim>,
    volumes: Changes<PersistentVolume>,
    classes: Changes<StorageClass>,
    namespaces: Changes<Namespace>,
}

struct Scheduler {
    client: Client,
    listers: Listers,
    recorder: Recorder,
    snapshot: Snapshot,
    /// Pods without a node.
    pending: Pending,
    bindings: JoinSet<Bound>,
    /// Writes whose result changes nothing here: conditions, evictions.
    writes: JoinSet<()>,
    began: Instant,
    rotation: usize,
}

impl Scheduler {
    fn new(client: Client, listers: Listers, recorder: Recorder) -> Self {
        Self {
            client,
            listers,
            recorder,
            snapshot: Snapshot::default(),
            pending: Pending::default(),
            bindings: JoinSet::new(),
            writes: JoinSet::new(),
            began: Instant::now(),
            rotation: 0,
        }
    }

    async fn run(mut self, shutdown: &CancellationToken) {
        let mut changes = Subscriptions {
            pods: self.listers.pods.subscribe(),
            nodes: self.listers.nodes.subscribe(),
            claims: self.listers.claims.subscribe(),
            volumes: self.listers.volumes.subscribe(),
            classes: self.listers.classes.subscribe(),
            namespaces: self.listers.namespaces.subscribe(),
        };
        loop {
            // Nodes first: a Pod that arrives together with its node must see it.
            while let Some(change) = changes.namespaces.try_next() {
                self.namespace_changed(&change);
            }
            while let Some(change) = changes.nodes.try_next() {
                self.node_changed(change);
            }
            while let Some(change) = changes.pods.try_next() {
                self.pod_changed(change);
            }
            self.pending.queue.tick(self.began.elapsed());
            self.place_all();
            match self.next(&mut changes, shutdown).await {
                Event::Shutdown => break,
                Event::Tick => {}
                Event::Pod(change) => self.pod_changed(change),
                Event::Node(change) => self.node_changed(change),
                Event::Namespace(change) => self.namespace_changed(&change),
                Event::Storage => self.relieve(Relief::Storage),
                Event::Bound(bound) => self.bound(bound),
            }
        }
        // What was decided is still carried out; nobody waits for volumes.
        self.writes.detach_all();
        self.bindings.shutdown().await;
    }

    async fn next(&mut self, changes: &mut Subscriptions, shutdown: &CancellationToken) -> Event {
        let tick = self.pending.queue.next_tick().map(|at| self.began + at);
        // Every arm is cancel-safe: channels and sets keep what was not taken.
        tokio::select! {
            () = shutdown.cancelled() => Event::Shutdown,
            change = changes.pods.next() => change.map_or(Event::Shutdown, Event::Pod),
            change = changes.nodes.next() => change.map_or(Event::Shutdown, Event::Node),
            change = changes.namespaces.next() => change.map_or(Event::Shutdown, Event::Namespace),
            change = changes.claims.next() => change.map_or(Event::Shutdown, |_| Event::Storage),
            change = changes.volumes.next() => change.map_or(Event::Shutdown, |_| Event::Storage),
            change = changes.classes.next() => change.map_or(Event::Shutdown, |_| Event::Storage),
            Some(bound) = self.bindings.join_next() => bound.map_or(Event::Tick, Event::Bound),
            Some(_) = self.writes.join_next() => Event::Tick,
            () = async { sleep_until(tick.unwrap_or_else(Instant::now)).await }, if tick.is_some() => Event::Tick,
        }
    }

    fn relieve(&mut self, relief: Relief<'_>) {
        self.pending.relieve(relief, &self.snapshot.namespaces, self.began.elapsed());
    }

    fn node_changed(&mut self, change: Change<Node>) {
        match change {
            Change::Added(node) | Change::Modified { new: node, .. } => {
                if let Some(index) = self.snapshot.set_node(node) {
                    let node = Relief::Node(&self.snapshot.nodes[index]);
                    self.pending.relieve(node, &self.snapshot.namespaces, self.began.elapsed());
                }
            }
            Change::Deleted(node) => {
                self.snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                self.relieve(Relief::NodeGone);
            }
        }
    }

    /// The Pod is counted on no node any more; whom that may help is tried again.
    fn uncount(&mut self, uid: &str) {
        if let Some((pod, node)) = self.snapshot.remove_pod(uid) {
            let node = node.and_then(|index| self.snapshot.nodes.get(index));
            let gone = Relief::PodGone(&pod, node);
            self.pending.relieve(gone, &self.snapshot.namespaces, self.began.elapsed());
        }
    }

    fn namespace_changed(&mut self, change: &Change<Namespace>) {
        let meta = &change.object().metadata;
        let name = meta.name.clone().unwrap_or_default();
        let known = match change {
            Change::Deleted(_) => self.snapshot.namespaces.remove(&name),
            Change::Added(_) | Change::Modified { .. } => {
                self.snapshot.namespaces.insert(name, meta.labels.clone().unwrap_or_default())
            }
        };
        if known.unwrap_or_default() != meta.labels.clone().unwrap_or_default() {
            self.relieve(Relief::Relabelled);
        }
    }

    fn pod_changed(&mut self, change: Change<Pod>) {
        let (pod, gone) = match &change {
            Change::Added(pod) => (pod, false),
            Change::Deleted(pod) => (pod, true),
            Change::Modified { new, .. } => (new, false),
        };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if gone || is_finished(pod) {
            self.settled(pod);
        } else if !node.is_empty() {
            self.pending.settled(uid_of(pod));
            self.snapshot.add_pod(&node, Arc::new(PodInfo::new(pod.clone())));
            self.placed(&change);
        } else if is_ours(pod) {
            // Our own condition came back: no reason to try again.
            let changed = match &change {
                Change::Modified { old, new } => {
                    old.spec != new.spec || old.metadata.labels != new.metadata.labels
                }
                Change::Added(_) | Change::Deleted(_) => true,
            };
            let pod = Arc::new(PodInfo::new(pod.clone()));
            if let (Change::Added(_), Some(node)) = (&change, pod.nominated_node()) {
                // A scheduler before this one has made room for it there.
                self.snapshot.set_nominated(pod.uid(), Some((node, pod.clone())));
            }
            self.pending.wants_node(pod, changed);
        } else {
            self.pending.forget(uid_of(pod));
        }
    }

    /// What a Pod that has a node means to those that have none.
    fn placed(&mut self, change: &Change<Pod>) {
        let on_node = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        match change {
            Change::Modified { old, new } if on_node(old) => {
                let leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
                if old.metadata.labels != new.metadata.labels || leaving(old) != leaving(new) {
                    self.relieve(Relief::Relabelled);
                }
                if requests_of(old).exceeds(&requests_of(new)) {
                    // Resized: what it gives back is as free as what a Pod leaves that goes.
                    let index = self.snapshot.index_of(uid_of(new));
                    let before = PodInfo::new(old.clone());
                    let gone =
                        Relief::PodGone(&before, index.and_then(|index| self.snapshot.nodes.get(index)));
                    self.pending.relieve(gone, &self.snapshot.namespaces, self.began.elapsed());
                }
            }
            Change::Added(pod) | Change::Modified { new: pod, .. } => {
                self.relieve(Relief::PodCame(&PodInfo::new(pod.clone())));
            }
            Change::Deleted(_) => {}
        }
    }

    /// The Pod holds nothing of any node.
    fn settled(&mut self, pod: &Pod) {
        let uid = uid_of(pod);
        self.pending.settled(uid);
        self.uncount(uid);
    }

    fn place_all(&mut self) {
        while let Some(pod) = self.pending.next() {
            self.place_one(pod);
        }
    }

    fn place_one(&mut self, pod: Arc<PodInfo>) {
        let (namespace, name) = names(&pod.pod);
        let volumes = Volumes::of(name, namespace, pod.spec(), &self.listers);
        let alike = self.listers.workloads.alike(&pod);
        self.rotation = self.rotation.wrapping_add(1);
        let began = Instant::now();
        let placed = place(&pod, &volumes, self.snapshot.cluster(alike.as_ref()), self.rotation);
        count(&placed, began.elapsed());
        match placed {
            Placement::Node(index) => {
                let node = self.snapshot.nodes[index].name().to_owned();
                // Counted before the server knows, so that the next Pod sees it.
                self.snapshot.add_pod(&node, pod.clone());
                self.pending.assume(pod.uid());
                let claims = volumes.waiting;
                self.bindings.spawn(bind(
                    self.client.clone(),
                    self.listers.claims.clone(),
                    pod,
                    node,
                    claims,
                ));
            }
            Placement::Unschedulable(failure) => self.unschedulable(&pod, &volumes, failure),
        }
    }

    fn unschedulable(&mut self, pod: &Arc<PodInfo>, volumes: &Volumes, mut failure: Failure) {
        let mut nominated = None;
        if failure.nodes > 0 {
            counted::PREEMPTIONS.at(&[]).inc();
            let budgets: Vec<Budget> =
                self.listers.budgets.list().iter().filter_map(|budget| Budget::of(budget)).collect();
            match preempt(pod, volumes, self.snapshot.cluster(None), &budgets, &failure) {
                Preemption::NotEligible(text) => failure.preemption = Some(text.to_owned()),
                Preemption::Impossible(text) => {
                    failure.preemption = Some(text);
                    self.snapshot.set_nominated(pod.uid(), None);
                    nominated = Some(None);
                }
                Preemption::Evict { node, victims } => {
                    let node = self.snapshot.nodes[node].name().to_owned();
                    self.nominate(pod, &node);
                    self.evict(pod, &node, victims);
                    nominated = Some(Some(node));
                }
            }
        }
        let message = failure.message();
        self.recorder.event(&reference(&*pod.pod), EventType::Warning, "FailedScheduling", message.clone());
        self.report(&pod.pod, message, nominated);
        self.pending.failed(pod.uid(), &failure, self.began.elapsed());
    }

    /// Keeps the room for the Pod. Those less important that waited for it look elsewhere.
    fn nominate(&mut self, pod: &Arc<PodInfo>, node: &str) {
        for other in self.snapshot.nominated_below(node, pod.priority) {
            self.snapshot.set_nominated(other.uid(), None);
            let body = json!({"status": {"nominatedNodeName": null}});
            self.patch_status(&other.pod, body, "clear the nominated node");
        }
        self.snapshot.set_nominated(pod.uid(), Some((node, pod.clone())));
    }

    fn patch_status(&mut self, pod: &Arc<Pod>, body: serde_json::Value, what: &'static str) {
        let (client, pod) = (self.client.clone(), pod.clone());
        self.writes.spawn(async move {
            let (namespace, name) = names(&pod);
            log(client.patch::<Pod>(namespace, name, &Patch::status(PatchKind::Strategic, body)).await, what);
        });
    }

    /// `nominated`: the node that is kept for the Pod from now on, or that none is.
    fn report(&mut self, pod: &Arc<Pod>, message: String, nominated: Option<Option<String>>) {
        let kept = pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
        let nominated = nominated.filter(|node| *node != kept);
        let known = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let known = known.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
        let same = known.is_some_and(|c| c.status == "False" && c.message.as_ref() == Some(&message));
        if same && nominated.is_none() {
            return;
        }
        let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message),
            observed_generation: pod.metadata.generation,
            last_transition_time: since.or(Some(Time(Timestamp::now()))),
            last_probe_time: None,
        };
        let mut body = json!({"status": {"conditions": [condition]}});
        if let Some(node) = nominated {
            body["status"]["nominatedNodeName"] = json!(node);
        }
        self.patch_status(pod, body, "set the PodScheduled condition");
    }

    fn evict(&mut self, pod: &Arc<PodInfo>, node: &str, victims: Vec<Arc<PodInfo>>) {
        let staying = victims.into_iter().filter(|v| v.pod.metadata.deletion_timestamp.is_none());
        for victim in staying {
            let message = format!("Preempted by pod {} on node {node}", pod.uid());
            self.recorder.event(&reference(&*victim.pod), EventType::Normal, "Preempted", message);
            self.writes.spawn(evict(self.client.clone(), victim));
        }
    }

    fn bound(&mut self, bound: Bound) {
        let (namespace, name) = names(&bound.pod.pod);
        let about = reference(&*bound.pod.pod);
        match bound.result {
            // The watch takes it out of the queue: it may still bring what is older.
            Ok(()) => {
                let message = format!("Successfully assigned {namespace}/{name} to {}", bound.node);
                self.recorder.event(&about, EventType::Normal, "Scheduled", message);
            }
            Err(message) => {
                let failure = self.pending.bind_failed(bound.pod.uid(), self.began.elapsed());
                if failure.uncount {
                    self.uncount(bound.pod.uid());
                }
                if failure.again {
                    self.recorder.event(&about, EventType::Warning, "FailedScheduling", message);
                }
            }
        }
    }
}

/// No node, not being deleted, ready to be placed, and meant for us.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let named = spec.scheduler_name.as_deref().is_none_or(|name| name == NAME);
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let placed = spec.node_name.as_ref().is_some_and(|node| !node.is_empty());
    named && !gated && !placed && pod.metadata.deletion_timestamp.is_none()
}

fn names(pod: &Pod) -> (&str, &str) {
    (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

fn count(placed: &Placement, took: Duration) {
    let result = match placed {
        Placement::Node(_) => "scheduled",
        Placement::Unschedulable(_) => "unschedulable",
    };
    let labels = [result, counted::PROFILE];
    counted::ATTEMPTS.at(&labels).inc();
    counted::DURATION.observe(&labels, took);
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

async fn bind(
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    pod: Arc<PodInfo>,
    node: String,
    waiting: Vec<String>,
) -> Bound {
    let result = async {
        if !waiting.is_empty() {
            bind_volumes(&client, &claims, &pod.pod, &node, &waiting).await?;
        }
        bind_pod(&client, &pod.pod, &node).await.map_err(|error| error.to_string())
    };
    let result = result.await;
    Bound { pod, node, result }
}

async fn bind_pod(client: &Client, pod: &Pod, node: &str) -> Result<(), Error> {
    let (namespace, name) = names(pod);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            // The server refuses when the name belongs to another Pod by now.
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    client.create_subresource::<Pod, _>(namespace, name, "binding", &binding).await
}

/// Tells the provisioner which node was chosen, and waits for the claims.
async fn bind_volumes(
    client: &Client,
    claims: &Informer<PersistentVolumeClaim>,
    pod: &Pod,
    node: &str,
    waiting: &[String],
) -> Result<(), String> {
    let (namespace, _) = names(pod);
    let mut changes = claims.subscribe();
    for claim in waiting {
        let body = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
        let patch = Patch::new(PatchKind::Merge, body);
        let patched = client.patch::<PersistentVolumeClaim>(namespace, claim, &patch).await;
        patched.map_err(|error| error.to_string())?;
    }
    let is_bound = |claim: &String| {
        let claim = claims.get(namespace, claim);
        claim.and_then(|claim| claim.status.as_ref()?.phase.clone()).is_some_and(|phase| phase == "Bound")
    };
    let all_bound = async {
        while !waiting.iter().all(is_bound) {
            if changes.next().await.is_none() {
                return;
            }
        }
    };
    timeout(VOLUME_TIMEOUT, all_bound)
        .await
        .map_err(|_| "binding volumes: context deadline exceeded".to_owned())
}

async fn evict(client: Client, victim: Arc<PodInfo>) {
    let (namespace, name) = names(&victim.pod);
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("PreemptionByScheduler".into()),
        message: Some(format!("{NAME}: preempting to accommodate a higher priority pod")),
        observed_generation: victim.pod.metadata.generation,
        last_transition_time: Some(Time(Timestamp::now())),
        last_probe_time: None,
    };
    let patch = Patch::status(PatchKind::Strategic, json!({"status": {"conditions": [condition]}}));
    log(client.patch::<Pod>(namespace, name, &patch).await, "set the DisruptionTarget condition");
    let options = DeleteOptions::of_uid(victim.uid());
    log(client.delete::<Pod>(namespace, name, &options).await, "delete a preempted Pod");
}

/// A Pod that is gone needs no condition; anything else is worth a line.
fn log<T>(result: Result<T, Error>, what: &str) {
    if let Err(error) = result
        && !error.is_not_found()
    {
        tracing::warn!(%error, "failed to {what}");
    }
}

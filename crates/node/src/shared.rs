//! What all tasks of a node have in common.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use client::events::{EventType, Recorder, container_reference, reference};
use client::{Client, Informer, Informers};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::Runtime;
use tokio::sync::{Notify, mpsc};

use crate::Config;
use crate::container::dns::NodeDns;
use crate::container::fields::Facts;
use crate::eviction::threshold::Pressure;
use crate::pod::event::{Event, Record};
use crate::pod::state::Cause;
use crate::probing::counts::Counts;
use crate::timeline::Timelines;
use crate::volumes::Mounts;
use crate::worker::Message;
use crate::worker::claims::Holders;

/// One per node.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) config: Config,
    pub(crate) mounts: Arc<dyn Mounts>,
    /// ConfigMaps and Secrets are asked of it one by one, as Pods name them.
    pub(crate) informers: Informers,
    pub(crate) services: Informer<Service>,
    pub(crate) recorder: Recorder,
    /// The Node object as this node makes it; the API's copy wins where there is one.
    pub(crate) own_node: Node,
    pub(crate) nodes: Informer<Node>,
    pub(crate) dns: NodeDns,
    pub(crate) workers: Mutex<HashMap<String, Worker>>,
    /// Told when nothing of a Pod runs any more.
    pub(crate) freed: Notify,
    pub(crate) probes: Counts,
    pub(crate) claims: Holders,
    /// What the node is short of.
    pub(crate) pressures: Mutex<BTreeSet<Pressure>>,
    /// Told when that has changed.
    pub(crate) pressed: Notify,
    /// Where workers leave what happened.
    pub(crate) timelines: Timelines,
    /// Told when a static Pod has begun or gone.
    pub(crate) statics: Notify,
}

/// A worker seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) inbox: mpsc::Sender<Message>,
    /// The Pod with the newest status the node has made.
    pub(crate) pod: Arc<Pod>,
    /// The Pod with the resources that are set apart for it: what others cannot have.
    pub(crate) allocated: Arc<Pod>,
    /// Another size that it waits for.
    pub(crate) wish: Option<Wish>,
    /// Nothing of it runs any more.
    pub(crate) terminated: bool,
    /// It was evicted, and what it had is gone.
    pub(crate) cleared: bool,
    /// Its sandbox, for port-forward.
    pub(crate) sandbox: Option<String>,
    /// UID of what shows it in the API, where that is another Pod.
    pub(crate) mirror: Option<String>,
}

/// A Pod that wishes another size.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// As the API has it.
    pub(crate) pod: Arc<Pod>,
    /// Since when.
    pub(crate) since: Instant,
}

impl Worker {
    /// A worker of which nothing is known but its Pod.
    pub(crate) fn new(inbox: mpsc::Sender<Message>, pod: Arc<Pod>, allocated: Arc<Pod>) -> Self {
        Self {
            inbox,
            pod,
            allocated,
            wish: None,
            terminated: false,
            cleared: false,
            sandbox: None,
            mirror: None,
        }
    }

    /// Whether it takes room that another could have.
    pub(crate) fn takes_room(&self) -> bool {
        !self.terminated && is_open(&self.pod)
    }
}

/// Whether the Pod is not over according to the API.
pub(crate) fn is_open(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

impl Shared {
    pub(crate) fn workers(&self) -> MutexGuard<'_, HashMap<String, Worker>> {
        self.workers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn pressures(&self) -> BTreeSet<Pressure> {
        self.pressures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(crate) fn set_pressures(&self, new: BTreeSet<Pressure>) {
        let mut known = self.pressures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *known != new {
            *known = new;
            self.pressed.notify_one();
        }
    }

    /// The Pod of this name, the one that is not being replaced if there are two.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Worker> {
        let workers = self.workers();
        let named = |worker: &&Worker| {
            let meta = &worker.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        };
        workers
            .values()
            .filter(named)
            .min_by_key(|worker| (worker.terminated, worker.pod.metadata.deletion_timestamp.is_some()))
            .cloned()
    }

    /// Ends a Pod that has to make room, and waits until nothing of it runs.
    pub(crate) async fn send_away(&self, uid: &str) {
        let Some(inbox) = self.workers().get(uid).map(|worker| worker.inbox.clone()) else { return };
        let message = "Preempted in order to admit critical pod".to_owned();
        let event = Event::Evicted { cause: Cause::Preempted, message, grace_period_seconds: None };
        if inbox.send(Message::Event(event)).await.is_err() {
            return;
        }
        loop {
            let freed = self.freed.notified();
            if self.workers().get(uid).is_none_or(|worker| !worker.takes_room()) {
                return;
            }
            freed.await;
        }
    }

    /// The Node as the API has it, or as we made it.
    pub(crate) fn node(&self) -> Arc<Node> {
        self.nodes.get("", &self.config.node_name).unwrap_or_else(|| Arc::new(self.own_node.clone()))
    }

    pub(crate) fn allocatable(&self) -> BTreeMap<String, Quantity> {
        self.own_node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default()
    }

    /// Bytes of memory of the node.
    pub(crate) fn memory(&self) -> i64 {
        let capacity = self.own_node.status.as_ref().and_then(|status| status.capacity.as_ref());
        let memory = capacity.and_then(|capacity| capacity.get("memory"));
        memory
            .and_then(|memory| memory.0.parse::<api::quantity::Quantity>().ok())
            .map_or(0, |memory| memory.value())
    }

    /// What containers may be told of their Pod.
    pub(crate) fn facts(&self, pod: &Pod, sandbox_ips: &[IpAddr]) -> Facts {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let pod_ips = if host_network { self.config.node_ips.clone() } else { sandbox_ips.to_vec() };
        Facts { pod_ips, host_ips: self.config.node_ips.clone(), allocatable: self.allocatable() }
    }

    /// Writes an Event about the Pod or one of its containers.
    pub(crate) fn record(&self, pod: &Pod, record: &Record) {
        let about = reference(pod);
        let about = match record.field_path.as_deref().and_then(split_field_path) {
            Some((field, container)) => container_reference(&about, field, container),
            None => about,
        };
        let kind = if record.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(&about, kind, record.reason(), record.message.clone());
    }
}

/// `spec.containers{name}` in its two names.
fn split_field_path(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("spec.")?.strip_suffix('}')?.split_once('{')
}

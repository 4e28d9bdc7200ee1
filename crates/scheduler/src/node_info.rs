//! A node and what runs on it, as the decisions need it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};

use crate::chosen::Signature;
use crate::request::{HostPort, Resources, host_ports, requests_for_scoring, requests_of};
use crate::score::with_tag;
use crate::terms::{Constraint, Terms};

/// A Pod with what it asks for, computed once.
#[derive(Debug)]
pub struct PodInfo {
    /// The Pod.
    pub pod: Arc<Pod>,
    /// What it needs.
    pub requests: Resources,
    /// What it counts for when nodes are scored.
    pub scored: Resources,
    /// The ports of the node it wants.
    pub host_ports: Vec<HostPort>,
    /// spec.priority.
    pub priority: i32,
    pub(crate) terms: Terms,
    pub(crate) spread: Vec<Constraint>,
    pub(crate) signature: Signature,
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl PodInfo {
    /// Reads what the Pod asks for.
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        Self {
            requests: requests_of(&pod),
            scored: requests_for_scoring(spec),
            host_ports: host_ports(spec),
            priority: spec.priority.unwrap_or_default(),
            terms: Terms::of(spec, pod.metadata.namespace.as_deref().unwrap_or_default()),
            spread: Constraint::all_of(spec),
            signature: Signature::of(pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)),
            pod,
        }
    }

    /// The Pod's spec.
    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    /// The Pod's namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The Pod's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
    }

    /// The node where others were evicted for the Pod.
    pub(crate) fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref()
    }

    /// The Pod's UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// A node, what it has, and what is taken.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// What Pods may use together.
    pub allocatable: Resources,
    /// The images it has, by each of their names, with their sizes.
    pub(crate) images: HashMap<String, i64>,
    /// How many Pods may run.
    pub pods_max: i64,
    /// What the Pods on it asked for.
    pub requested: Resources,
    /// The same, as scores count it.
    pub scored: Resources,
    /// The Pods on it, those being bound included.
    pub pods: Vec<Arc<PodInfo>>,
    /// Pods that preempted others here and wait for the room.
    pub nominated: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    /// A node without Pods.
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self {
            node: node.clone(),
            allocatable: Resources::default(),
            images: HashMap::new(),
            pods_max: 0,
            requested: Resources::default(),
            scored: Resources::default(),
            pods: Vec::new(),
            nominated: Vec::new(),
        };
        info.set_node(node);
        info
    }

    /// Takes a new state of the node; its Pods stay.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::from_list).unwrap_or_default();
        let pods = allocatable.and_then(|list| list.get("pods"));
        self.pods_max =
            pods.and_then(|text| text.0.parse::<api::quantity::Quantity>().ok()).map_or(0, |q| q.value());
        let images = |node: &Node| node.status.as_ref().and_then(|status| status.images.clone());
        // A heartbeat mostly lists the same.
        if self.images.is_empty() || images(&self.node) != images(&node) {
            let named = |image: k8s_openapi::api::core::v1::ContainerImage| {
                let size = image.size_bytes.unwrap_or_default();
                image.names.into_iter().flatten().map(move |name| (with_tag(&name), size))
            };
            self.images = images(&node).into_iter().flatten().flat_map(named).collect();
        }
        self.node = node;
    }

    /// Counts a Pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.pods.push(pod);
    }

    /// Counts a Pod no longer.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let position = self.pods.iter().position(|pod| pod.uid() == uid)?;
        let pod = self.pods.swap_remove(position);
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        Some(pod)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// A label of the node.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.node.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The node's taints.
    pub(crate) fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }
}

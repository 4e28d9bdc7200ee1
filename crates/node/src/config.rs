//! What a node must be told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use client::Pulse;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;

use crate::eviction::ImageCollection;
use crate::eviction::threshold::Eviction;

/// Settings of a node.
#[derive(Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Host name; label `kubernetes.io/hostname` and address of type Hostname.
    pub hostname: String,
    /// Addresses of the node, the primary first.
    pub node_ips: Vec<IpAddr>,
    /// `<data-dir>/pods`: a directory per Pod UID.
    pub pods_directory: PathBuf,
    /// `/var/log/pods`, or `<data-dir>/logs/pods`.
    pub logs_directory: PathBuf,
    /// `/var/log/containers`; `None`: no links are made.
    pub log_links_directory: Option<PathBuf>,
    /// Directory of the manifests of static Pods; `None`: there are none.
    pub manifests_directory: Option<PathBuf>,
    /// Where the timelines of Pods are kept.
    pub timelines_directory: PathBuf,
    /// Directory of seccomp profiles named by `localhostProfile`.
    pub seccomp_directory: PathBuf,
    /// A container that names no profile has the runtime's; otherwise none (upstream's `seccompDefault`).
    pub seccomp_default: bool,
    /// `nodeInfo.kubeletVersion`, e.g. `v1.36.2`.
    pub kubelet_version: String,
    /// `nodeInfo.containerRuntimeVersion`, e.g. `monopod://0.1.0`.
    pub runtime_version: String,
    /// Where others reach the kubelet API.
    pub kubelet_port: u16,
    /// Cluster DNS server; `None`: ClusterFirst falls back to the node's resolv.conf.
    pub cluster_dns: Option<IpAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Where containers find the API server: the `kubernetes` Service, or the address itself.
    pub api_server: SocketAddr,
    /// `<data-dir>/images`: where the images are, as far as their file system matters.
    pub images_directory: PathBuf,
    /// Resources that no Pod can have, by name.
    pub reserved: BTreeMap<String, Quantity>,
    /// When Pods are evicted.
    pub eviction: Eviction,
    /// When images that nobody uses are removed.
    pub images: ImageCollection,
    /// Pods at most.
    pub max_pods: u32,
    /// First user of the node that is one of a Pod's with `hostUsers: false`, where there is no user `kubelet` with
    /// ranges of its own (upstream: 65536).
    pub default_users: u32,
    /// Extra sysctls Pods may set; a trailing `*` matches a prefix.
    pub allowed_sysctls: Vec<String>,
    /// Labels put on the Node besides the usual ones.
    pub labels: Vec<(String, String)>,
    /// Taints the Node registers with: key, value, effect.
    pub taints: Vec<(String, String, String)>,
    /// CIDR of the node's Pods; written to `spec.podCIDR`.
    pub pod_cidr: Option<String>,
    /// Asked before the containers of a Pod that goes away are told; `None`: nobody confirms.
    pub endpoints: Option<Arc<dyn ConfirmEndpoints>>,
    /// Asked before a container of a Pod is started; `None`: there are no network policies.
    pub policies: Option<Arc<dyn ConfirmPolicies>>,
    /// Asked at each look at the node: why Pods cannot be run here, as far as whoever built the node
    /// knows more than the node (its store, its proxy). `None`: nobody knows more.
    pub not_ready: Option<Arc<dyn NotReady>>,
    /// Kept by the node, for those who tell others how it is.
    pub pulses: Pulses,
}

/// Of the two things that the node cannot do without.
#[derive(Clone, Debug, Default)]
pub struct Pulses {
    /// The loop that gives each Pod its worker and each worker its events.
    pub dispatcher: Pulse,
    /// Whether the runtime answers what it has.
    pub runtime: Pulse,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("node_name", &self.node_name)
            .field("node_ips", &self.node_ips)
            .finish_non_exhaustive()
    }
}

/// Knows reasons why a node is not ready.
pub trait NotReady: Send + Sync + 'static {
    /// The reasons that hold now, one clause each. Answers at once.
    fn reasons(&self) -> Vec<String>;
}

/// Knows when the proxies have stopped sending new connections to a Pod.
pub trait ConfirmEndpoints: Send + Sync + 'static {
    /// Called once when a Pod whose programs run begins to terminate. Returns when all proxies have
    /// programmed a state without the Pod, or do not come to it, at the latest after `at_most`.
    fn withdrawn(&self, pod: &Pod, at_most: Duration) -> BoxFuture<'static, ()>;
}

/// Knows when the network policies that select a Pod hold for its addresses.
pub trait ConfirmPolicies: Send + Sync + 'static {
    /// Called before each start of a container of a Pod with addresses of its own: nothing in it may be
    /// reached, or reach out, before. Returns at once when there is nothing to wait for, and after
    /// `at_most` with the reason.
    fn admitted(
        &self,
        pod: Arc<Pod>,
        addresses: Vec<IpAddr>,
        at_most: Duration,
    ) -> BoxFuture<'static, Result<(), String>>;
}

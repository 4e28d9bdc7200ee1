//! What every controller gets, and how all of them are started.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::kinds::Kinds;
use client::events::{EventType, Recorder, reference};
use client::{Client, ListOptions, Object, Reflector};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota,
    Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::census::{self, Census};
use crate::work::{self, Keys, Next};
use crate::{
    disruption, endpoint_slice, garbage_collector, namespace, node_lifecycle, pod_gc, resource_quota,
    service_account, taint_eviction, volume,
};

/// What the controllers cannot read from the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// The authority's certificate, for `kube-root-ca.crt`.
    pub authority_pem: String,
    /// Where volumes of the class `standard` are made, on every node.
    pub volumes_dir: PathBuf,
    /// Removes such a volume with all below it, whatever its users have put there; one that is gone
    /// is fine. Blocks as long as the disk takes. It makes system calls, which are not known here.
    pub remove_tree: fn(&Path) -> Result<(), String>,
}

/// Runs all controllers until `shutdown`, on the kinds that the server says it serves.
pub async fn run(
    client: Client,
    kinds: watch::Receiver<Arc<Kinds>>,
    config: Config,
    shutdown: CancellationToken,
) {
    let api = client.named("kube-controller-manager");
    let mut tasks = JoinSet::new();
    let caches = Caches::spawn(&api, &mut tasks, &shutdown);
    let ready = shutdown.run_until_cancelled(caches.ready());
    if client::tasks::beside(&mut tasks, ready).await.is_some() {
        let context = Arc::new(Context { client: api, kinds, config, caches, shutdown });
        namespace::spawn(&context, &mut tasks);
        service_account::spawn(&context, &mut tasks);
        node_lifecycle::spawn(&context, &mut tasks);
        taint_eviction::spawn(&context, &mut tasks);
        volume::spawn(&context, &mut tasks);
        endpoint_slice::spawn(&context, &mut tasks);
        pod_gc::spawn(&context, &mut tasks);
        disruption::spawn(&context, &mut tasks);
        let (mut census, (missing, ready)) = (Census::default(), census::readiness());
        garbage_collector::spawn(&context, &mut census, ready, &mut tasks);
        resource_quota::spawn(&context, &mut census, &mut tasks);
        census.start(&context.client, context.kinds.clone(), missing, &mut tasks, &context.shutdown);
    }
    client::tasks::finish(tasks).await;
}

pub(crate) struct Context {
    pub(crate) client: Client,
    /// What is served.
    pub(crate) kinds: watch::Receiver<Arc<Kinds>>,
    pub(crate) config: Config,
    pub(crate) caches: Caches,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    /// A recorder for events of one controller.
    pub(crate) fn recorder(&self, component: &str, tasks: &mut JoinSet<()>) -> Recorder {
        Recorder::spawn(self.client.clone(), component, "", tasks, self.shutdown.clone())
    }

    /// Starts the loop of one controller; keys go into what is returned.
    pub(crate) fn controller<F, R>(&self, name: &'static str, tasks: &mut JoinSet<()>, act: F) -> Keys
    where
        F: Fn(String) -> R + Send + 'static,
        R: Future<Output = Result<Next, client::Error>> + Send + 'static,
    {
        let (keys, received) = mpsc::unbounded_channel();
        tasks.spawn(work::reconcile(name, received, self.shutdown.clone(), act));
        keys
    }

    /// Sends the keys that changes of one kind concern.
    pub(crate) fn feed<K: Object>(
        &self,
        cache: &Reflector<K>,
        keys: &Keys,
        tasks: &mut JoinSet<()>,
        concerned: impl Fn(&client::Change<K>) -> Vec<String> + Send + 'static,
    ) {
        work::feed(cache.subscribe(), keys.clone(), tasks, self.shutdown.clone(), concerned);
    }
}

/// The kinds that controllers read, mirrored once.
pub(crate) struct Caches {
    pub(crate) namespaces: Reflector<Namespace>,
    pub(crate) service_accounts: Reflector<ServiceAccount>,
    pub(crate) root_certificates: Reflector<ConfigMap>,
    pub(crate) nodes: Reflector<Node>,
    pub(crate) leases: Reflector<Lease>,
    pub(crate) pods: Reflector<Pod>,
    pub(crate) claims: Reflector<PersistentVolumeClaim>,
    pub(crate) volumes: Reflector<PersistentVolume>,
    pub(crate) classes: Reflector<StorageClass>,
    pub(crate) services: Reflector<Service>,
    pub(crate) endpoints: Reflector<Endpoints>,
    pub(crate) slices: Reflector<EndpointSlice>,
    pub(crate) quotas: Reflector<ResourceQuota>,
    pub(crate) budgets: Reflector<PodDisruptionBudget>,
}

impl Caches {
    fn spawn(client: &Client, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) -> Self {
        let named = |name: &str| ListOptions {
            field_selector: format!("metadata.name={name}"),
            ..Default::default()
        };
        Self {
            namespaces: mirror(client, "", ListOptions::default(), tasks, shutdown),
            service_accounts: mirror(client, "", named("default"), tasks, shutdown),
            root_certificates: mirror(client, "", named("kube-root-ca.crt"), tasks, shutdown),
            nodes: mirror(client, "", ListOptions::default(), tasks, shutdown),
            leases: mirror(client, "kube-node-lease", ListOptions::default(), tasks, shutdown),
            pods: mirror(client, "", ListOptions::default(), tasks, shutdown),
            claims: mirror(client, "", ListOptions::default(), tasks, shutdown),
            volumes: mirror(client, "", ListOptions::default(), tasks, shutdown),
            classes: mirror(client, "", ListOptions::default(), tasks, shutdown),
            services: mirror(client, "", ListOptions::default(), tasks, shutdown),
            endpoints: mirror(client, "", ListOptions::default(), tasks, shutdown),
            slices: mirror(client, "", ListOptions::default(), tasks, shutdown),
            quotas: mirror(client, "", ListOptions::default(), tasks, shutdown),
            budgets: mirror(client, "", ListOptions::default(), tasks, shutdown),
        }
    }

    /// Nobody acts on half of what there is.
    async fn ready(&self) {
        self.namespaces.ready().await;
        self.service_accounts.ready().await;
        self.root_certificates.ready().await;
        self.nodes.ready().await;
        self.leases.ready().await;
        self.pods.ready().await;
        self.claims.ready().await;
        self.volumes.ready().await;
        self.classes.ready().await;
        self.services.ready().await;
        self.endpoints.ready().await;
        self.slices.ready().await;
        self.quotas.ready().await;
        self.budgets.ready().await;
    }
}

fn mirror<K: Object>(
    client: &Client,
    namespace: &str,
    which: ListOptions,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Reflector<K> {
    Reflector::spawn(client.clone(), namespace, which, tasks, shutdown.clone())
}

/// The namespace and name of a key.
pub(crate) fn split(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// The key of an object.
pub(crate) fn key_of<K: Object>(object: &K) -> String {
    let metadata = object.metadata();
    client::key(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

/// Records an event about an object.
pub(crate) fn say<K: Object>(
    recorder: &Recorder,
    object: &K,
    kind: EventType,
    reason: &str,
    message: String,
) {
    recorder.event(&reference(object), kind, reason, message);
}

/// An object that is gone already is as good as deleted or changed.
pub(crate) fn unless_gone<T>(result: Result<T, client::Error>) -> Result<(), client::Error> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

//! The runtime as a whole: what it knows, and the interface of it.

mod host_ports;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::container::{self, Container, stats};
use crate::events::Events;
use crate::image::ImageStore;
use crate::interface::{
    AttachOptions, ContainerConfig, ContainerStatus, Credentials, Error, Event, ExecOptions, ExecOutput,
    Image, PodIdentity, Resources, Runtime, SandboxConfig, SandboxSnapshot, SandboxStatus, SandboxUpdate,
    Streams,
};
use crate::layout::{Layout, make_private};
use crate::link::Link;
use crate::network::bridge::Bridge;
use crate::network::ports::{HostPorts, Table};
use crate::network::{Addresses, traffic};
use crate::sandbox::branches::{Allocatable, Branches};
use crate::sandbox::{self, Sandbox};
use crate::threads::on_own_thread;
use crate::usage::{
    Collected, Collection, ContainerStats, DiskUse, Measured, MemoryUse, PodsMemory, Traffic,
};

/// The runtime of this node. Dropping it leaves every Pod running; the next one adopts them.
#[derive(Debug)]
pub struct Native {
    inner: Arc<Inner>,
    /// Ends the tasks that listen to shims.
    _listening: DropGuard,
}

type SharedPull = Shared<BoxFuture<'static, Result<Image, Error>>>;
type KnownPull = WeakShared<BoxFuture<'static, Result<Image, Error>>>;

/// What the parts of the runtime share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) store: Arc<ImageStore>,
    pub(crate) hierarchy: sys::cgroup::Hierarchy,
    pub(crate) branches: Branches,
    pub(crate) addresses: Addresses,
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) events: Arc<Events>,
    /// What shims are started from.
    pub(crate) executable: shim::client::Executable,
    sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    /// Held while the tables are programmed: the last one to program must have seen all. With how many
    /// transactions of our own have not been heard of yet.
    pub(crate) ports: tokio::sync::Mutex<usize>,
    /// All of the instance is being removed, the table too.
    pub(crate) closed: AtomicBool,
    host_ports: Mutex<BTreeMap<String, HostPorts>>,
    /// By reference and fingerprint of the logins. Those who wait for a pull hold it.
    pulls: Mutex<HashMap<(String, Vec<String>), KnownPull>>,
    pull_turns: Arc<Semaphore>,
    pub(crate) image_volumes: Mutex<Vec<String>>,
    making: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Native {
    /// Opens the runtime of a data directory: sets the network up and adopts what runs.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let inner = tokio::task::spawn_blocking(move || Inner::prepare(config))
            .await
            .map_err(|e| Error::host("failed to open the runtime", e))??;
        let inner = Arc::new(inner);
        let native = Native { _listening: inner.stop.clone().drop_guard(), inner };
        native.inner.watch_table();
        sandbox::adopt::adopt_all(&native.inner).await?;
        native.inner.program_ports().await?;
        native.inner.watch_network();
        Ok(native)
    }

    /// Whether anything of this instance is on the host: links, cgroups, Pods. Looks only; [`Native::open`]
    /// would make a bridge to find out.
    pub fn has_traces(config: &Config) -> Result<bool, Error> {
        let layout = Layout::new(&config.data_dir, &config.instance);
        let links = sys::netlink::Link::open().and_then(|links| links.list());
        let links = links.map_err(|e| Error::host("failed to list links", e))?;
        let prefix = layout.veth_prefix();
        let link = links.iter().any(|link| link.name == layout.bridge() || link.name.starts_with(&prefix));
        let hierarchy =
            sys::cgroup::Hierarchy::detect().map_err(|e| Error::host("failed to find cgroups", e))?;
        let cgroup = hierarchy.group(&layout.cgroup_root()).exists();
        Ok(link || cgroup || !layout.sandboxes_on_disk().is_empty())
    }

    /// The images, for those who want more than the interface has.
    pub fn images(&self) -> Arc<ImageStore> {
        self.inner.store.clone()
    }

    /// Removes everything this instance has made, images and files of others excepted, and
    /// names what it removed.
    pub async fn shutdown_all(&self) -> Result<Vec<String>, Error> {
        let inner = &self.inner;
        let mut removed = Vec::new();
        let sandboxes = inner.all();
        let ends = sandboxes.iter().map(|sandbox| sandbox::remove::remove(inner, sandbox));
        for (sandbox, result) in sandboxes.iter().zip(futures_util::future::join_all(ends).await) {
            result?;
            let PodIdentity { namespace, name, .. } = &sandbox.record.config.pod;
            removed.push(format!("pod {namespace}/{name}"));
        }
        // Held until all is gone: who hears that the table was deleted must not put it back.
        let _turn = inner.ports.lock().await;
        inner.closed.store(true, Ordering::Release);
        let owner = inner.clone();
        let rest = tokio::task::spawn_blocking(move || owner.remove_shared());
        removed.extend(rest.await.map_err(|e| Error::host("failed to remove the network", e))??);
        Ok(removed)
    }
}

impl Inner {
    fn prepare(config: Config) -> Result<Self, Error> {
        let layout = Layout::new(&config.data_dir, &config.instance);
        make_private(&layout.pods())?;
        make_private(&layout.state())?;
        let store = Arc::new(ImageStore::open(&config.data_dir)?);
        let hierarchy =
            sys::cgroup::Hierarchy::detect().map_err(|e| Error::host("failed to find cgroups", e))?;
        let branches =
            Branches::make(&hierarchy, &layout, Allocatable::of_this_host().without(config.reserved))?;
        let shims = hierarchy.group(&layout.shim_cgroup());
        shims.create(&Default::default()).map_err(|e| Error::host("failed to make a cgroup", e))?;
        let executable = shim::client::Executable::guarded(&config.executable)
            .map_err(|e| Error::host("failed to guard the program's file against containers", e))?;
        let bridge = Arc::new(Bridge::new(Table::of(&config, &layout), Path::new("/run")));
        bridge.ensure()?;
        config.service_cidr.map_or(Ok(()), |services| bridge.route_services(services))?;
        let tasks = TaskTracker::new();
        Ok(Inner {
            addresses: Addresses::new(config.pod_cidr),
            events: Arc::new(Events::new(tasks.clone())),
            executable,
            sandboxes: RwLock::default(),
            ports: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            host_ports: Mutex::default(),
            pulls: Mutex::default(),
            pull_turns: Arc::new(Semaphore::new(config.pulls_at_once)),
            image_volumes: Mutex::default(),
            making: Mutex::default(),
            stop: CancellationToken::new(),
            layout,
            store,
            hierarchy,
            branches,
            bridge,
            tasks,
            config,
        })
    }

    fn remove_shared(&self) -> Result<Vec<String>, Error> {
        // The kernel removes a dead namespace's links when it comes to it; `down` leaves nothing.
        self.remove_links(&[]);
        let mut removed = self.bridge.remove();
        let root = self.layout.cgroup_root();
        let group = self.hierarchy.group(&root);
        if group.exists() {
            group.remove().map_err(|e| Error::host("failed to remove a cgroup", e))?;
            removed.push(format!("cgroup {root}"));
        }
        Ok(removed)
    }

    /// Removes our veth ends on the node but those in `keep`.
    pub(crate) fn remove_links(&self, keep: &[String]) {
        let Ok(links) = sys::netlink::Link::open() else { return };
        let prefix = self.layout.veth_prefix();
        for link in links.list().unwrap_or_default() {
            let stale = link.name.starts_with(&prefix) && !keep.contains(&link.name);
            if let Some(Err(error)) = stale.then(|| links.remove(&link.name)) {
                tracing::warn!(%error, "cannot remove a link");
            }
        }
    }

    pub(crate) fn pod_cgroup(&self, config: &SandboxConfig) -> String {
        self.layout.pod_cgroup(&config.pod, config.qos)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn add(&self, sandbox: Arc<Sandbox>) {
        let mut all = self.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(sandbox.id().to_owned(), sandbox);
    }

    pub(crate) fn forget(&self, id: &str) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn sandbox_of(&self, pod: &PodIdentity) -> Option<Arc<Sandbox>> {
        let all = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        let same = |s: &&Arc<Sandbox>| {
            let known = &s.record.config.pod;
            known.uid == pod.uid && known.attempt == pod.attempt
        };
        all.values().find(same).cloned()
    }

    /// Sandboxes of the same Pod that do not run.
    pub(crate) fn dead_sandboxes_of(&self, pod: &PodIdentity) -> Vec<Arc<Sandbox>> {
        self.all().into_iter().filter(|s| s.pod_uid() == pod.uid && !s.is_ready()).collect()
    }

    /// Whether another sandbox of the same Pod runs.
    pub(crate) fn has_other_sandbox(&self, sandbox: &Sandbox) -> bool {
        let other = |s: &Arc<Sandbox>| s.pod_uid() == sandbox.pod_uid() && s.id() != sandbox.id();
        self.all().iter().any(|s| other(s) && s.is_ready())
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let all = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        all.get(id).cloned().ok_or_else(|| Error::NotFound { what: "sandbox", id: id.to_owned() })
    }

    /// A container and its sandbox.
    pub(crate) fn container(&self, id: &str) -> Result<(Arc<Sandbox>, Arc<Container>), Error> {
        let all = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        let found = all.values().find_map(|s| Some((s.clone(), s.container(id)?)));
        found.ok_or_else(|| Error::NotFound { what: "container", id: id.to_owned() })
    }

    /// Holds on to a shim until it is gone, then reaps it if it is a child of ours.
    pub(crate) fn listen(&self, sandbox: Arc<Sandbox>, started: Option<Arc<Link>>, child: Option<Child>) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                // Cancel-safe because nothing is read after: the shim keeps its state for the next daemon.
                () = stop.cancelled() => return,
                () = sandbox::hold::hold(&sandbox, started) => {}
            }
            if let Some(mut child) = child {
                // It has ended, or is ending; a thread waits for the last microseconds.
                let reaped = tokio::task::spawn_blocking(move || child.wait()).await;
                if let Ok(Err(error)) = reaped {
                    tracing::warn!(%error, "cannot reap a shim");
                }
            }
        });
    }

    /// Makes something of a Pod, one thing at a time and to its end, also when whoever asked has
    /// left: who asks again finds what was made, and never makes it twice.
    async fn make<T: Send + 'static>(
        self: &Arc<Self>,
        pod_uid: &str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = self.turn_of(pod_uid);
        let task = self.tasks.spawn(async move {
            let _turn = turn.lock().await;
            work.await
        });
        task.await.map_err(|e| Error::host("failed to finish", e))?
    }

    fn turn_of(&self, pod_uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = making.get(pod_uid).and_then(Weak::upgrade) {
            return turn;
        }
        making.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        making.insert(pod_uid.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// Pulls, sharing the download with whoever pulls the same with the same logins: others have to show
    /// theirs to the registry. It ends when the last of them has lost interest.
    fn pull(self: &Arc<Self>, reference: &str, credentials: Vec<Credentials>) -> SharedPull {
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (reference.to_owned(), crate::image::fingerprint(&credentials));
        if let Some(under_way) = pulls.get(&key).and_then(WeakShared::upgrade) {
            return under_way;
        }
        pulls.retain(|_, pull| pull.upgrade().is_some());
        let (inner, asked) = (self.clone(), key.clone());
        let pull = async move {
            let _turn = inner.pull_turns.acquire().await;
            let store = inner.store.clone();
            let result = store.pull_for_pod(&asked.0, &inner.config.registries, credentials).await;
            inner.pulls.lock().unwrap_or_else(PoisonError::into_inner).remove(&asked);
            result.map_err(Error::from)
        };
        let shared = pull.boxed().shared();
        pulls.extend(shared.downgrade().map(|pull| (key, pull)));
        shared
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::host("failed to finish", e))?
}

impl Runtime for Native {
    fn run_sandbox(&self, config: SandboxConfig) -> BoxFuture<'_, Result<SandboxStatus, Error>> {
        let inner = self.inner.clone();
        async move {
            let (uid, owner) = (config.pod.uid.clone(), inner.clone());
            inner.make(&uid, async move { sandbox::run::run(&owner, config).await }).await
        }
        .boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.inner.sandbox(id) {
                Ok(sandbox) => sandbox::remove::stop(&self.inner, &sandbox).await,
                Err(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.inner.sandbox(id) {
                Ok(sandbox) => sandbox::remove::remove(&self.inner, &sandbox).await,
                Err(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, Error>> {
        async move { Ok(self.inner.all().iter().map(|sandbox| sandbox.status()).collect()) }.boxed()
    }

    fn snapshot<'a>(
        &'a self,
        pod_uid: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<SandboxSnapshot>, Error>> {
        let all = self.inner.all().into_iter();
        let asked = all.filter(|sandbox| pod_uid.is_none_or(|uid| sandbox.pod_uid() == uid));
        let snapshot = asked.map(|one| {
            // First the sandbox: one that is not ready any more has told how its containers ended.
            let sandbox = one.status();
            let containers = one.containers().iter().map(|container| container.status()).collect();
            SandboxSnapshot { sandbox, containers }
        });
        futures_util::future::ready(Ok(snapshot.collect())).boxed()
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a str,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<String, Error>> {
        async move {
            let (sandbox, owner) = (self.inner.sandbox(sandbox)?, self.inner.clone());
            let uid = sandbox.pod_uid().to_owned();
            let create = async move { container::create::create(&owner, &sandbox, config).await };
            self.inner.make(&uid, create).await
        }
        .boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let (sandbox, container) = self.inner.container(id)?;
            let uid = sandbox.pod_uid().to_owned();
            let start = async move { container::create::start(&sandbox, &container).await };
            self.inner.make(&uid, start).await
        }
        .boxed()
    }

    fn terminate_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.inner.container(id) {
                Ok((sandbox, container)) => container::stop::terminate(&sandbox, &container).await,
                Err(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.inner.container(id) {
                Ok((sandbox, container)) => container::stop::stop(&sandbox, &container, grace).await,
                Err(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            match self.inner.container(id) {
                Ok((sandbox, container)) => {
                    container::delete::delete(&self.inner, &sandbox, &container).await
                }
                Err(_) => Ok(()),
            }
        }
        .boxed()
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, Error>> {
        async move {
            let all = self.inner.all();
            Ok(all.iter().flat_map(|s| s.containers()).map(|c| c.status()).collect())
        }
        .boxed()
    }

    fn container_status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus, Error>> {
        async move { Ok(self.inner.container(id)?.1.status()) }.boxed()
    }

    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecOutput, Error>> {
        async move {
            let (sandbox, container) = self.inner.container(id)?;
            container::exec::exec_sync(&sandbox, &container, command, timeout).await
        }
        .boxed()
    }

    fn exec<'a>(&'a self, id: &'a str, options: ExecOptions) -> BoxFuture<'a, Result<Streams, Error>> {
        async move {
            let (sandbox, container) = self.inner.container(id)?;
            container::exec::exec(&sandbox, &container, options).await
        }
        .boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, options: AttachOptions) -> BoxFuture<'a, Result<Streams, Error>> {
        async move {
            let (sandbox, container) = self.inner.container(id)?;
            container::exec::attach(&sandbox, &container, options).await
        }
        .boxed()
    }

    fn port_forward<'a>(
        &'a self,
        sandbox: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<tokio::net::TcpStream, Error>> {
        async move { sandbox::forward::forward(&*self.inner.sandbox(sandbox)?, port).await }.boxed()
    }

    fn events(&self) -> mpsc::Receiver<Event> {
        self.inner.events.subscribe()
    }

    fn image_status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, Error>> {
        // One `stat` and a look into memory: not worth a thread.
        async move { Ok(self.inner.store.find(reference)?) }.boxed()
    }

    fn may_use_image<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a [Credentials],
    ) -> BoxFuture<'a, Result<bool, Error>> {
        async move { Ok(self.inner.store.may_use(reference, credentials)?) }.boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, Error>> {
        async move { Ok(self.inner.store.list()?) }.boxed()
    }

    fn pull_image<'a>(
        &'a self,
        reference: &'a str,
        credentials: Vec<Credentials>,
    ) -> BoxFuture<'a, Result<Image, Error>> {
        self.inner.pull(reference, credentials).boxed()
    }

    fn remove_image<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let (store, reference) = (self.inner.store.clone(), reference.to_owned());
        blocking(move || match store.remove(&reference) {
            Ok(_) | Err(crate::image::ImageError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        })
        .boxed()
    }

    fn mount_image<'a>(
        &'a self,
        image: &'a str,
        pod_uid: &'a str,
        target: &'a Path,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (inner, target) = (self.inner.clone(), target.to_owned());
        let (image, uid) = (image.to_owned(), pod_uid.to_owned());
        blocking(move || sandbox::image_volume::mount(&inner, &uid, &image, &target)).boxed()
    }

    fn update_sandbox<'a>(&'a self, id: &'a str, update: SandboxUpdate) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let (sandbox, inner) = (self.inner.sandbox(id)?, self.inner.clone());
            let uid = sandbox.pod_uid().to_owned();
            let work = blocking(move || sandbox::update::sandbox(&inner, &sandbox, &update));
            self.inner.make(&uid, work).await
        }
        .boxed()
    }

    fn update_container<'a>(&'a self, id: &'a str, limits: Resources) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let ((sandbox, container), inner) = (self.inner.container(id)?, self.inner.clone());
            let work = blocking(move || sandbox::update::container(&inner, &container, &limits));
            self.inner.make(sandbox.pod_uid(), work).await
        }
        .boxed()
    }

    fn memory_use<'a>(&'a self, sandbox: &'a str) -> BoxFuture<'a, Result<MemoryUse, Error>> {
        async move {
            let (sandbox, inner) = (self.inner.sandbox(sandbox)?, self.inner.clone());
            blocking(move || Ok(sandbox::update::memory_use(&inner, &sandbox))).await
        }
        .boxed()
    }

    fn pods_memory(&self) -> BoxFuture<'_, Result<Option<PodsMemory>, Error>> {
        let inner = self.inner.clone();
        blocking(move || Ok(Some(inner.branches.memory()))).boxed()
    }

    fn collect_images(&self, wanted: Collection) -> BoxFuture<'_, Result<Collected, Error>> {
        let store = self.inner.store.clone();
        blocking(move || Ok(store.collect(wanted, jiff::Timestamp::now())?)).boxed()
    }

    fn written<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, Result<BTreeMap<String, DiskUse>, Error>> {
        let mine = self.inner.all().into_iter().filter(move |sandbox| sandbox.pod_uid() == pod_uid);
        let running: Vec<_> = mine.flat_map(|one| one.containers()).filter(|one| one.is_running()).collect();
        let sized = |one: &Arc<Container>| (one.record.config.name.clone(), stats::layer(one));
        on_own_thread((), move || running.iter().map(sized).collect()).boxed()
    }

    fn stats(&self, measured: Measured) -> BoxFuture<'_, Result<Vec<ContainerStats>, Error>> {
        let inner = self.inner.clone();
        blocking(move || Ok(stats::of_all(&inner, measured))).boxed()
    }

    fn traffic(&self) -> BoxFuture<'_, Result<Vec<Traffic>, Error>> {
        let inner = self.inner.clone();
        blocking(move || Ok(traffic(&inner))).boxed()
    }
}
